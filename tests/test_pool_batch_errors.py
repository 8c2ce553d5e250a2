"""Batches of rows that do not fit: the first error, or each in its row's place; hostile rows.

DSPEX_STRESS=20 multiplies the counts by 20.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections import UserDict
from collections.abc import Iterator
from typing import Any

import pytest

from dspex import Pool, Program
from dspex.errors import InputError
from test_pool_tools import mixed_rows, of_all_kinds, scaled, simple, texts

N = 5000
TEXT_FAULTS: dict[str, Any] = {
    "the wrong type": {"text": 3},
    "None": {"text": None},
    "bytes": {"text": b"refund"},
    "a missing field": {},
    "an unknown field": {"text": "refund", "more": 1},
    "an empty text": {"text": ""},
    "blanks": {"text": " \t\n"},
    "no letter": {"text": "\u200d"},
    "no mapping": ["text", "refund"],
    "no row": None,
}
MIXED_FAULTS: dict[str, Any] = {
    "no finite number": {"amount": float("nan")},
    "a number for a bool": {"vip": 1},
    "a float for an int": {"items": 1.5},
    "too short a vector": {"place": [1.0]},
    "no number in a vector": {"place": [1.0, "x", 2.0]},
    "too large an int": {"items": 10**400},
}
PLACES = [0, 1, 2, 5, 19, 20, 21, 63, 64, 127, 128, 500, 1023, 1024, 1249, 1250, 2048, 4095, 4096, 4998, 4999]


@pytest.fixture(scope="module", name="pool")
def _pool() -> Iterator[Pool]:
    with Pool(size=3) as pool:
        yield pool


def error_of(program: Program, row: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        program.predict(row)
    return caught.value


def assert_same_error(ours: Any, theirs: InputError, row: int) -> None:
    assert type(ours) is InputError
    assert (ours.message, ours.field, ours.hint, ours.program) == (
        theirs.message,
        theirs.field,
        theirs.hint,
        theirs.program,
    )
    assert ours.row == row


# --- on_error="raise"


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_the_error_of_the_first_bad_row_is_raised_with_its_row(pool: Pool, fault: str) -> None:
    expected = error_of(simple(), TEXT_FAULTS[fault])
    for at in PLACES:
        rows: list[Any] = texts(N)
        rows[at] = TEXT_FAULTS[fault]
        with pytest.raises(InputError) as caught:
            pool.batch(simple(), rows)
        assert_same_error(caught.value, expected, at)


@pytest.mark.parametrize("second", ["the wrong type", "an empty text"])
@pytest.mark.parametrize("first", ["the wrong type", "an empty text"])
def test_of_two_bad_rows_the_first_counts_however_it_is_found_out(
    pool: Pool, first: str, second: str
) -> None:
    """A wrong type is seen while rows are read, a text without a token only when it is answered."""
    expected = error_of(simple(), TEXT_FAULTS[first])
    for at, later in itertools.pairwise([0, 1, 20, 22, 100, 101, 600, 1250, 1251, 3000, 4096, 4999]):
        rows: list[Any] = texts(N)
        rows[at], rows[later] = TEXT_FAULTS[first], TEXT_FAULTS[second]
        with pytest.raises(InputError) as caught:
            pool.batch(simple(), rows)
        assert_same_error(caught.value, expected, at)


@pytest.mark.parametrize("fault", MIXED_FAULTS)
def test_inputs_of_every_kind_are_checked(pool: Pool, fault: str) -> None:
    program = of_all_kinds()
    good = mixed_rows(2000)
    bad = good[0] | MIXED_FAULTS[fault]
    expected = error_of(program, bad)
    for at in (0, 21, 400, 1999):
        rows = [*good[:at], bad, *good[at + 1 :]]
        with pytest.raises(InputError) as caught:
            pool.batch(program, rows)
        assert_same_error(caught.value, expected, at)
        outcome = pool.batch(program, rows, on_error="collect")
        assert_same_error(outcome[at], expected, at)
        assert [each for i, each in enumerate(outcome) if i != at] == [
            program.predict(row) for i, row in enumerate(good) if i != at
        ]


# --- on_error="collect"


def test_errors_are_collected_in_their_rows_places(pool: Pool) -> None:
    """Seldom and often, anywhere, at the borders of chunks and segments too."""
    good = texts(N)
    truth = [simple().predict(row) for row in good]
    expected = {name: error_of(simple(), row) for name, row in TEXT_FAULTS.items()}
    rng = random.Random(11)
    for share in (0.0005, 0.01, 0.3, 0.9, 1.0):
        for _ in range(scaled(3)):
            faults = {i: rng.choice(list(TEXT_FAULTS)) for i in range(N) if rng.random() < share}
            faults |= {i: rng.choice(list(TEXT_FAULTS)) for i in rng.sample(PLACES, 3)}
            rows = [TEXT_FAULTS[faults[i]] if i in faults else row for i, row in enumerate(good)]
            outcome = pool.batch(simple(), rows, on_error="collect")
            assert len(outcome) == N
            for i, each in enumerate(outcome):
                if i in faults:
                    assert_same_error(each, expected[faults[i]], i)
                else:
                    assert each == truth[i]


def test_each_place_alone(pool: Pool) -> None:
    good = texts(N)
    truth = [simple().predict(row) for row in good]
    for at in PLACES:
        for fault in ("a missing field", "blanks"):
            rows: list[Any] = [*good[:at], TEXT_FAULTS[fault], *good[at + 1 :]]
            outcome = pool.batch(simple(), rows, on_error="collect")
            assert [i for i, each in enumerate(outcome) if isinstance(each, InputError)] == [at]
            assert outcome[at + 1 :] == truth[at + 1 :]


def test_short_batches_collect_as_well(pool: Pool) -> None:
    for count in range(12):
        for at in range(count):
            rows: list[Any] = texts(count)
            rows[at] = {"text": ""}
            outcome = pool.batch(simple(), rows, on_error="collect")
            assert [isinstance(each, InputError) for each in outcome] == [i == at for i in range(count)]
            assert outcome[at].row == at


def test_only_errors_of_inputs_are_collected(pool: Pool) -> None:
    class Broken(UserDict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise RuntimeError("a row's own fault")

    for at in (0, 5, 30, 4000):
        rows: list[Any] = texts(N)
        rows[at] = Broken(text="refund")
        for on_error in ("raise", "collect"):
            with pytest.raises(RuntimeError, match="a row's own fault"):
                pool.batch(simple(), rows, on_error=on_error)  # type: ignore[arg-type]
    assert pool.batch(simple(), texts(100)) == [simple().predict(row) for row in texts(100)]


# --- hostile rows


@pytest.fixture
def _quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Spiteful(UserDict[str, Any]):
    """A row that changes the others while it is read."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__(text="refund")
        self.rows = rows
        self.done = False

    def __getitem__(self, name: str) -> Any:
        for row in self.rows[-50:]:
            row.clear()
        del self.rows[:]
        self.done = True
        return super().__getitem__(name)


@pytest.mark.parametrize("at", [0, 3, 100, 2000])
def test_a_row_that_changes_the_others_while_it_is_read(pool: Pool, at: int) -> None:
    """The list was copied before; a row counts as it is when its turn comes."""
    rows: list[Any] = texts(3000)
    good = [simple().predict(row) for row in rows]
    spiteful = rows[at] = Spiteful(rows)
    good[at] = simple().predict({"text": "refund"})
    outcome = simple().batch(rows, pool=pool, on_error="collect")
    assert spiteful.done
    assert outcome[:2950] == good[:2950]
    assert all(isinstance(each, InputError) for each in outcome[2950:])
    assert [each.row for each in outcome[2950:]] == [*range(2950, 3000)]


@pytest.mark.usefixtures("_quick_switches")
def test_rows_that_other_threads_change(pool: Pool) -> None:
    """Each is answered as it was at some time, whole; what was read stays alive."""
    states: list[dict[str, Any]] = [{"text": None}, {"text": "lost my card " * 20}, {}, {"text": ""}]
    possible = [simple().predict(states[1]), simple().predict({"text": "refund"})]
    rows = [{"text": "refund"} for _ in range(3000)]
    stop = threading.Event()

    def change() -> None:
        for turn in itertools.count():
            if stop.is_set():
                return
            state = states[turn % 4]
            row = rows[turn * 7 % 3000]
            row.clear()
            row.update({name: value and "".join([value]) for name, value in state.items()})

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(scaled(10)):
            outcome = simple().batch(rows, pool=pool, on_error="collect")
            assert all(isinstance(each, InputError) or each in possible for each in outcome)
            assert len(outcome) == 3000
    finally:
        stop.set()
        thread.join()


def test_rows_may_use_the_pool_while_they_are_read(pool: Pool) -> None:
    class Nested(UserDict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            assert simple().batch(rows[:300], pool=pool) == truth[:300]
            assert pool.call(simple(), rows[0]) == truth[0]
            return super().__getitem__(name)

    rows = texts(600)
    truth = [simple().predict(row) for row in rows]
    nested: list[Any] = [Nested(row) if i % 100 == 99 else row for i, row in enumerate(rows)]
    nested = [row for i, row in enumerate(nested) if i >= 300]
    assert simple().batch([*rows[:300], *nested], pool=pool) == truth


def test_a_row_may_close_the_pool_while_it_is_read() -> None:
    """The caller goes on alone."""
    rows: list[Any] = texts(3000)
    truth = [simple().predict(row) for row in rows]

    class Closing(UserDict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            own.close()
            return super().__getitem__(name)

    rows[1000] = Closing(rows[1000])
    own = Pool(size=3)
    assert simple().batch(rows, pool=own) == truth
    assert own.closed


def test_a_source_of_rows_that_fails(pool: Pool) -> None:
    def source() -> Iterator[Any]:
        yield from texts(3000)
        raise RuntimeError("no more rows")

    with pytest.raises(RuntimeError, match="no more rows"):
        pool.batch(simple(), source())
