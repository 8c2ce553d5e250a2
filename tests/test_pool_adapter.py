"""The adapter "native_pool": options of a call, whose pool it is, health, figures, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dspex import Pool
from dspex.adapters import create
from dspex.adapters.native_pool import NativePoolAdapter
from dspex.errors import CallTimeoutError, ConfigError, InputError, PoolSaturated, ProgramError, ResourceError
from test_pool_tools import hold, let_go, on_both_loops, run, simple, still, texts

ROWS = texts(200)
TRUTH = [simple().predict(row) for row in ROWS]


@pytest.fixture
def adapter() -> Iterator[NativePoolAdapter]:
    with NativePoolAdapter(size=1, capacity=1000) as made:
        made.create_program({"id": "p", "program": simple()})
        yield made


def test_it_is_found_by_its_name_and_takes_settings_of_a_pool() -> None:
    with create("native_pool", size=2, capacity=7) as adapter:
        assert isinstance(adapter, NativePoolAdapter)
        assert (adapter.pool.size, adapter.pool.settings.capacity) == (2, 7)


@pytest.mark.parametrize("settings", [{"sizes": 1}, {"size": 0}, {"capacity": "4"}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        NativePoolAdapter(**settings)
    assert caught.value.field == next(iter(settings))


def test_a_pool_and_settings_exclude_each_other() -> None:
    with Pool(size=1) as pool:
        with pytest.raises(ConfigError, match="not both"):
            NativePoolAdapter(pool, size=1)
        with pytest.raises(ConfigError) as caught:
            NativePoolAdapter(3)  # type: ignore[arg-type]
        assert caught.value.field == "pool"


def test_results_are_the_programs_and_say_where_they_come_from(adapter: NativePoolAdapter) -> None:
    async def asynchronous() -> list[Any]:
        return [
            await adapter.aexecute_program("p", ROWS[0]),
            await adapter.aexecute_program("p", ROWS[0], {"timeout": 5}),
            await adapter.aexecute_program("p", ROWS[0], {"session": "a", "timeout": 5}),
        ]

    results = [
        adapter.execute_program("p", ROWS[0]),
        adapter.execute_program("p", ROWS[0], {}),
        adapter.execute_program("p", ROWS[0], {"timeout": 5.0}),
        adapter.execute_program("p", ROWS[0], {"session": "a"}),
        *asyncio.run(asynchronous()),
        adapter.execute_batch("p", ROWS[:1])[0],
    ]
    for result in results:
        assert result.to_dict() == TRUTH[0].to_dict()
        assert result.confidence == TRUTH[0].confidence
        assert result.route == "native_pool"
        assert "pool" in result.route.reason
    assert simple().predict(ROWS[0]).route == "native"  # the program itself stays as it was
    assert [each.to_dict() for each in adapter.execute_batch("p", ROWS)] == [each.to_dict() for each in TRUTH]
    assert adapter.get_program_info("p")["backend"] == "native_pool"


@on_both_loops
def test_deadlines_count(adapter: NativePoolAdapter, loop: str) -> None:
    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            await adapter.aexecute_program("p", ROWS[0], {"timeout": 0.01})

    held = hold(adapter.pool)
    with pytest.raises(CallTimeoutError) as caught:
        adapter.execute_program("p", ROWS[0], {"timeout": 0.01})
    assert caught.value.program == "p"
    with pytest.raises(CallTimeoutError):
        adapter.execute_program("p", ROWS[0], {"timeout": 0.01, "session": "a"})
    run(loop, main())
    assert still(held)
    assert adapter.get_stats()["errors"] == {"timeout": 3}
    let_go(held)


def test_sessions_are_those_of_the_pool(adapter: NativePoolAdapter) -> None:
    for _ in range(3):
        adapter.execute_program("p", ROWS[0], {"session": "a"})
    assert adapter.pool.session("a").calls == 3
    assert adapter.get_stats()["pool"]["sessions"]["active"] == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"time_out": 3}, ConfigError),
        ({"sessions": "a"}, ConfigError),
        ("timeout", ConfigError),
        ({"timeout": "3"}, InputError),
        ({"timeout": float("nan")}, InputError),
        ({"session": 3}, InputError),
        ({"session": ""}, InputError),
    ],
    ids=repr,
)
def test_options_are_checked(adapter: NativePoolAdapter, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        adapter.execute_program("p", ROWS[0], options)
    with pytest.raises(error) as on_a_loop:
        asyncio.run(adapter.aexecute_program("p", ROWS[0], options))
    assert str(on_a_loop.value) == str(caught.value)
    assert caught.value.program == "p"  # type: ignore[attr-defined]
    if options == {"time_out": 3}:
        assert "Did you mean 'timeout'" in str(caught.value)
    assert adapter.pool.stats().accepted == 0


def test_a_batch_takes_no_options(adapter: NativePoolAdapter) -> None:
    with pytest.raises(ConfigError):
        adapter.execute_batch("p", ROWS, {"timeout": 3})
    assert len(adapter.execute_batch("p", ROWS, {})) == len(ROWS)


def test_a_full_pool_is_an_error_of_the_adapter() -> None:
    with NativePoolAdapter(size=1, capacity=1, policy="reject") as adapter:
        adapter.create_program({"id": "p", "program": simple()})
        held = hold(adapter.pool)
        adapter.pool._probe()
        with pytest.raises(PoolSaturated) as caught:
            adapter.execute_program("p", ROWS[0])
        assert (caught.value.program, caught.value.retryable) == ("p", True)
        assert still(held)
        assert adapter.get_stats()["errors"] == {"resource": 1}
        let_go(held)


def test_health_asks_every_worker(adapter: NativePoolAdapter) -> None:
    adapter.pool.resize(3)
    health = adapter.health_check()
    assert health
    assert "3 workers" in health.reason
    assert sorted(worker.done > 0 for worker in adapter.pool.stats().by_worker) == [True] * 3


def test_a_pool_that_was_closed_underneath_is_unhealthy(adapter: NativePoolAdapter) -> None:
    adapter.pool.close()
    health = adapter.health_check()
    assert not health
    assert "closed" in health.reason
    with pytest.raises(ResourceError):
        adapter.execute_program("p", ROWS[0])


def test_figures_of_the_pool_are_among_the_figures(adapter: NativePoolAdapter) -> None:
    adapter.execute_program("p", ROWS[0])
    adapter.execute_batch("p", ROWS)
    stats = adapter.get_stats()
    assert (stats["adapter"], stats["calls"], stats["batches"]) == ("native_pool", 201, 1)
    assert stats["pool"]["accepted"] >= 1
    assert stats["pool"]["capacity"] == 1000
    assert json.loads(json.dumps(stats)) == stats


def test_its_own_pool_ends_with_it_and_a_shared_one_does_not() -> None:
    own = NativePoolAdapter(size=1)
    own.create_program({"id": "p", "program": simple()})
    hold(own.pool, 0.05)
    waiting = own.pool.submit(simple(), ROWS[0])
    own.close()
    own.close()
    assert own.pool.closed
    assert waiting.result() == TRUTH[0]  # what was accepted ended first
    with pytest.raises(ProgramError):
        own.execute_program("p", ROWS[0])
    assert not own.health_check()

    with Pool(size=1) as pool:
        adapters = [NativePoolAdapter(pool), NativePoolAdapter(pool)]
        for each in adapters:
            each.create_program({"id": "p", "program": simple()})
        adapters[0].close()
        assert not pool.closed
        assert adapters[1].execute_program("p", ROWS[0]).to_dict() == TRUTH[0].to_dict()
        adapters[1].close()
        assert pool.call(simple(), ROWS[0]) == TRUTH[0]
