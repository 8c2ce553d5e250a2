"""The deadline of a call."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dspex.errors import CallTimeoutError, InputError
from dspex.protection import NEVER, Deadline
from test_protection_tools import Clock


def test_a_deadline_counts_down_and_stays_at_zero() -> None:
    clock = Clock()
    deadline = Deadline(2.0, clock)
    assert (deadline.left(), deadline.expired) == (2.0, False)
    clock.sleep(1.5)
    assert (deadline.left(), deadline.expired) == (0.5, False)
    clock.sleep(0.5)
    assert (deadline.left(), deadline.expired) == (0.0, True)
    clock.sleep(9)
    assert (deadline.left(), deadline.expired) == (0.0, True)


def test_without_seconds_there_is_no_limit() -> None:
    for never in (NEVER, Deadline.after(None), Deadline.after(math.inf)):
        assert (never.left(), never.expired, never.seconds) == (None, False, None)
        assert repr(never) == "Deadline(never)"


def test_it_uses_the_monotonic_clock() -> None:
    left = Deadline.after(60).left()
    assert left is not None
    assert 59 < left <= 60
    assert repr(Deadline.after(60)) == "Deadline(60 s left)"


@pytest.mark.parametrize("seconds", [0, 0.0, -1, -math.inf])
def test_zero_and_less_has_passed_already(seconds: float) -> None:
    deadline = Deadline.after(seconds)
    assert (deadline.expired, deadline.left()) == (True, 0.0)


@pytest.mark.parametrize("seconds", ["1", True, [1], math.nan])
def test_what_is_no_number_of_seconds_is_refused(seconds: Any) -> None:
    with pytest.raises(InputError) as caught:
        Deadline.after(seconds)
    assert caught.value.field == "timeout"


def test_its_error_says_what_and_how_long() -> None:
    error = Deadline.after(2.5).error("intents", "the batch")
    assert isinstance(error, CallTimeoutError)
    assert str(error).startswith(
        "[timeout] the batch was not over by the deadline of 2.5 s (program 'intents')"
    )
    assert error.retryable
    assert "the call was not over" in str(NEVER.error())


def test_it_does_not_change() -> None:
    for name in ("seconds", "_at", "other"):
        with pytest.raises(AttributeError):
            setattr(NEVER, name, 1.0)
