"""What a pool is told: defaults, what is refused and how it says so, and limits that the system sets."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import dspex
from dspex import Pool
from dspex.errors import ConfigError, InputError, ResourceError
from dspex.pool import PoolSettings, close_default_pool, default_pool
from test_pool_tools import clean_run, linux, simple, texts

TEXT = texts(1)[0]


def test_by_default_there_is_a_worker_for_each_cpu_of_the_process() -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with Pool() as pool:
        assert pool.size == pool.max_size == pool.workers == cpus
        assert pool.settings == PoolSettings()
        assert pool.stats().capacity == 1024
        assert not pool.closed


def test_settings_are_given_whole_or_as_keywords() -> None:
    with Pool(PoolSettings(size=1, max_size=3)) as pool:
        assert (pool.size, pool.max_size) == (1, 3)
    with pytest.raises(ConfigError, match="not both") as caught:
        Pool(PoolSettings(size=1), capacity=3)
    assert caught.value.field == "capacity"


@pytest.mark.parametrize("settings", [4, {"size": 2}, "2"])
def test_settings_that_are_no_settings_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigError):
        Pool(settings)


WHOLE = ["size", "max_size", "capacity", "max_batch"]
SECONDS = ["spin", "idle_timeout", "window", "session_ttl"]
BAD: list[tuple[str, Any]] = [
    *((name, value) for name in WHOLE for value in (0, -1, True, False, "4", 2.0, math.nan, [1])),
    *((name, value) for name in SECONDS for value in (-1e-9, -1, True, "1", None, math.nan, math.inf)),
    ("size", 257),
    ("max_size", 257),
    ("capacity", (1 << 28) + 1),
    ("capacity", 1 << 80),
    ("capacity", None),
    ("max_batch", 257),
    ("max_batch", None),
    ("spin", 1.001),
    ("idle_timeout", 1.001e6),
    ("window", 501e-6),
    ("session_ttl", 1.001e9),
    ("policy", "wait"),
    ("policy", None),
    ("policy", 3),
    ("policy", ["block"]),
    ("pin", 1),
    ("pin", "yes"),
    ("pin", None),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value!r}" for name, value in BAD])
def test_a_setting_out_of_range_or_of_the_wrong_type_is_named(name: str, value: Any) -> None:
    given = {"size": 1} | {name: value}
    for make in (Pool, PoolSettings):
        with pytest.raises(ConfigError) as caught:
            make(**given)
        assert caught.value.field == name
        assert not caught.value.retryable


LIMITS: list[dict[str, Any]] = [
    {"size": 256, "capacity": 1},
    {"size": 1, "max_size": 256},
    {"max_batch": 1, "window": 500e-6},
    {"max_batch": 256, "window": 0},
    {"spin": 0, "idle_timeout": 0, "session_ttl": 0},
    {"spin": 1, "idle_timeout": 1e6, "session_ttl": 1e9},
]


@pytest.mark.parametrize("settings", LIMITS, ids=str)
def test_limits_themselves_are_allowed(settings: dict[str, Any]) -> None:
    with Pool(**settings) as pool:
        assert pool.call(simple(), TEXT) == simple().predict(TEXT)


def test_the_nearest_name_is_proposed() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'capacities'.*Did you mean 'capacity'") as caught:
        Pool(size=1, capacities=3)
    assert caught.value.field == "capacities"
    with pytest.raises(ConfigError, match=r"unknown policy 'rejects'.*Did you mean 'reject'"):
        Pool(size=1, policy="rejects")


def test_fewer_workers_at_most_than_always_is_refused() -> None:
    with pytest.raises(ConfigError, match="below size") as caught:
        Pool(size=3, max_size=2)
    assert caught.value.field == "max_size"
    with Pool(size=1) as pool:
        for size, most, field in (
            (0, None, "size"),
            (True, None, "size"),
            (300, 300, "size"),
            (2, 1, "max_size"),
        ):
            with pytest.raises(ConfigError) as caught:
                pool.resize(size, most)
            assert caught.value.field == field
        assert (pool.size, pool.max_size, pool.workers) == (1, 1, 1)


def test_settings_cannot_be_changed_behind_the_pools_back() -> None:
    settings = PoolSettings(size=1)
    with pytest.raises(AttributeError):
        settings.size = 2  # type: ignore[misc]


@linux
@pytest.mark.parametrize("settings", ["capacity=1 << 28", "size=256"])
def test_memory_that_cannot_be_had_is_an_error(settings: str) -> None:
    """Under a limit of the address space: the queue's 4 GiB, and the stacks of 256 threads, do not fit."""
    out = clean_run(f"""
import os, resource
import dspex
from dspex.errors import ResourceError
from test_pool_tools import TASKS, simple, texts
dspex.Pool(size=1).close()
simple()
before = len(list(TASKS.iterdir()))
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), resource.RLIM_INFINITY))
try:
    dspex.Pool({settings})
except ResourceError as error:
    print(error.retryable, error.message)
print(len(list(TASKS.iterdir())) - before)
with dspex.Pool(size=2) as pool:
    print(pool.call(simple(), texts(1)[0]) == simple().predict(texts(1)[0]))
""")
    first, left_behind, works = out.splitlines()
    assert first.startswith("False the pool could not be made: ")
    assert (left_behind, works) == ("0", "True")


# --- after the end


async def _acall(pool: Pool) -> Any:
    return await pool.acall(simple(), TEXT)


async def _amap(pool: Pool) -> Any:
    return [each async for each in pool.amap(simple(), [TEXT])]


USES: dict[str, Callable[[Pool], Any]] = {
    "submit": lambda pool: pool.submit(simple(), TEXT),
    "submit with a timeout": lambda pool: pool.submit(simple(), TEXT, timeout=1),
    "call": lambda pool: pool.call(simple(), TEXT),
    "batch": lambda pool: pool.batch(simple(), [TEXT]),
    "a long batch": lambda pool: pool.batch(simple(), [TEXT] * 5000),
    "an empty batch": lambda pool: simple().batch([], pool=pool),
    "acall": lambda pool: asyncio.run(_acall(pool)),
    "amap": lambda pool: asyncio.run(_amap(pool)),
    "session": lambda pool: pool.session("a"),
    "resize": lambda pool: pool.resize(2),
}


@pytest.mark.parametrize("policy", ["block", "reject", "caller_runs"])
@pytest.mark.parametrize("end", ["drain", "close"])
def test_a_pool_that_has_ended_refuses_work_for_good(end: str, policy: str) -> None:
    pool = Pool(size=1, policy=policy)
    session = pool.session("before")
    assert getattr(pool, end)()
    assert pool.closed
    for use in [*USES.values(), lambda pool: session.submit(simple(), TEXT)]:
        with pytest.raises(ResourceError) as caught:
            use(pool)
        assert not caught.value.retryable
        assert not isinstance(caught.value, dspex.errors.PoolSaturated)
    assert pool.stats().accepted == pool.stats().rejected == pool.stats().caller_runs == 0
    assert pool.close()
    assert repr(pool) == "<dspex.Pool closed>"


def test_a_default_pool_that_was_closed_is_made_anew() -> None:
    first = default_pool()
    assert first is default_pool() is dspex.default_pool()
    first.close()
    second = default_pool()
    assert second is not first
    rows = texts(3000)
    assert simple().batch(rows) == [simple().predict(row) for row in rows]
    close_default_pool()
    close_default_pool()
    assert second.closed
    assert default_pool() is not second


# --- arguments of calls


@pytest.mark.parametrize("timeout", [math.nan, "1", [1.0], {}, object()], ids=repr)
def test_a_timeout_that_is_no_number_of_seconds_is_refused(timeout: Any) -> None:
    with Pool(size=1) as pool:
        done = pool._probe()
        uses: list[Callable[[], Any]] = [
            lambda: pool.submit(simple(), TEXT, timeout=timeout),
            lambda: pool.call(simple(), TEXT, timeout=timeout),
            lambda: pool.session("a").submit(simple(), TEXT, timeout=timeout),
            lambda: done.result(timeout),
            lambda: done.exception(timeout),
        ]
        for use in uses:
            with pytest.raises(InputError) as caught:
                use()
            assert caught.value.field == "timeout"

        async def on_a_loop() -> None:
            with pytest.raises(InputError) as caught:
                await pool.acall(simple(), TEXT, timeout=timeout)
            assert caught.value.field == "timeout"

        asyncio.run(on_a_loop())
        assert pool.stats().accepted == 1  # the probe: nothing else was let in
        assert pool.call(simple(), TEXT, timeout=math.inf) == simple().predict(TEXT)


@pytest.mark.parametrize("program", [None, "p", object(), 3], ids=repr)
def test_what_is_no_program_is_refused(program: Any) -> None:
    with Pool(size=1) as pool, pytest.raises(TypeError):
        pool.submit(program, TEXT)


@pytest.mark.parametrize("inputs", [{}, {"text": 3}, {"text": "a", "more": 1}, None, [TEXT]], ids=repr)
def test_inputs_that_do_not_fit_are_refused_before_they_are_queued(inputs: Any) -> None:
    with Pool(size=1) as pool:
        with pytest.raises(InputError) as of_pool:
            pool.submit(simple(), inputs)
        with pytest.raises(InputError) as of_program:
            simple().predict(inputs)
        assert str(of_pool.value) == str(of_program.value)
        assert pool.stats().accepted == 0


def test_a_pool_cannot_be_copied_or_pickled() -> None:
    with Pool(size=1) as pool:
        for each in (pool, pool._probe(), pool.session("a")):
            for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
                if attempt is copy.copy and each is not pool and not isinstance(each, dspex.pool.Future):
                    continue  # a shallow copy of a session shares all of it
                with pytest.raises(TypeError):
                    attempt(each)
