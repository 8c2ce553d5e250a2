"""Tries and their pauses, in threads and on event loops alike: most tests run both."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.protection import Chain
from test_protection_tools import BAD, BUSY, Failure, Lab, a_guard, classify, told


@pytest.fixture(params=["run", "arun"])
def lab(request: pytest.FixtureRequest) -> Lab:
    return Lab(request.param)


def test_the_first_answer_costs_nothing_more(lab: Lab) -> None:
    chain = Chain([lab.link()], classify=classify, rng=pytest.fail, sleep=pytest.fail, asleep=pytest.fail)
    assert lab.run(chain, fast=["answer"]) == "answer"
    assert lab.guards["fast"].stats()["succeeded"] == 1


def test_attempts(lab: Lab) -> None:
    for attempts in (1, 2, 5):
        lab.asked.clear()
        chain = lab.chain(lab.link(attempts=attempts))
        errors = [Failure(message=str(i)) for i in range(9)]
        with pytest.raises(Failure) as caught:
            lab.run(chain, fast=list(errors))
        assert caught.value is errors[attempts - 1]
        assert len(lab.asked) == attempts
        assert lab.run(chain, fast=[*errors[: attempts - 1], "answer"]) == "answer"


def test_backoff_doubles_and_max_backoff_ends_that(lab: Lab) -> None:
    chain = lab.chain(lab.link(attempts=7, backoff=0.3, max_backoff=2.0))
    lab.run(chain, fast=[Failure()] * 6 + ["answer"])
    assert lab.pauses == pytest.approx([0.3, 0.6, 1.2, 2.0, 2.0, 2.0])


@given(share=st.floats(0, 1, exclude_max=True), attempts=st.integers(2, 9))
def test_pauses_have_full_jitter(share: float, attempts: int) -> None:
    lab = Lab("run")
    lab.random = share
    chain = lab.chain(lab.link(attempts=attempts))
    lab.run(chain, fast=[Failure()] * (attempts - 1) + ["answer"])
    longest = [min(20.0, 0.5 * 2**n) for n in range(attempts - 1)]
    assert lab.pauses == [pytest.approx(share * each) for each in longest if share * each > 0]


def test_very_many_tries_do_not_overflow(lab: Lab) -> None:
    chain = lab.chain(lab.link(attempts=3000, guard=a_guard()))
    assert lab.run(chain, fast=[Failure()] * 2999 + ["answer"]) == "answer"
    assert max(lab.pauses) == 20.0
    chain = lab.chain(lab.link(attempts=3, backoff=0, guard=a_guard()))
    lab.pauses.clear()
    assert lab.run(chain, fast=[Failure(), Failure(), "answer"]) == "answer"
    assert lab.pauses == []


def test_retry_after_is_waited_for_with_the_jitter_on_top(lab: Lab) -> None:
    chain = lab.chain(lab.link(backoff=1.0))
    lab.random = 0.25
    lab.run(chain, fast=[Failure(BUSY._replace(retry_after=7.0)), "answer"])
    assert lab.pauses == [7.25]


def test_max_retry_after(lab: Lab) -> None:
    late = Failure(BUSY._replace(retry_after=8.0))
    with pytest.raises(Failure):
        lab.run(lab.chain(lab.link(max_retry_after=7.9)), fast=[late])
    assert lab.run(lab.chain(lab.link(max_retry_after=8)), fast=[late, "answer"]) == "answer"
    chain = lab.chain(lab.link(max_retry_after=7.9), lab.link("backup"))
    assert lab.run(chain, fast=[late], backup=["other"]) == "other"


@pytest.mark.parametrize("seconds", [math.nan, math.inf])
def test_a_retry_after_that_is_no_time_ends_the_tries(lab: Lab, seconds: float) -> None:
    with pytest.raises(Failure):
        lab.run(lab.chain(lab.link(max_retry_after=1e9)), fast=[Failure(BUSY._replace(retry_after=seconds))])
    lab.run(lab.chain(lab.link()), fast=[Failure(BUSY._replace(retry_after=-5.0)), "answer"])
    assert lab.pauses == [0.5]


def test_a_pause_has_to_fit_into_the_deadline(lab: Lab) -> None:
    chain = lab.chain(lab.link(attempts=9, backoff=1.0))
    with pytest.raises(Failure):
        lab.run(chain, lab.deadline(3.0), fast=[Failure()] * 9)
    assert lab.pauses == [1.0]  # 2 s more would be just too late
    chain = lab.chain(lab.link(attempts=9, backoff=1.0), lab.link("backup"))
    assert lab.run(chain, lab.deadline(3.0), fast=[Failure()] * 9, backup=["other"]) == "other"


def test_only_what_can_succeed_is_tried_again(lab: Lab) -> None:
    chain = lab.chain(lab.link(), lab.link("backup"))
    with pytest.raises(Failure) as caught:
        lab.run(chain, fast=[Failure(BAD)])
    assert lab.asked == ["fast"]
    assert told(caught.value) == ""  # nothing to add: one LM, one try
