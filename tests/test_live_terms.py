"""What is guaranteed is what was asked for: terms that a home keeps, and versions that guarantee less."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dspex.distill import lifecycle
from dspex.distill.guarded import Guarded
from dspex.distill.live import LiveProgram
from dspex.distill.rules import Evidence, next_move
from dspex.distill.settings import DistillSettings, GuaranteeSettings, LifecycleSettings
from dspex.distill.store import Event, State, Store, VersionRecord
from dspex.distill.task import learned_signature
from dspex.distill.terms import A_FUNCTION, kept_settings, terms_of, weaker
from dspex.errors import ConfigError, InputError, ProgramError
from dspex.program import load
from live_tools import CLASSES, Planted, add_version, certificate, home, rows, serve, settings, stage_of
from live_tools import program as fitted

STRICT = {"guarantee": {"agreement": 0.99}}


def by_length(inputs: Mapping[str, Any]) -> str:
    """A slice whose names are those of classes."""
    return CLASSES[len(inputs["text"]) % 3]


def of(**terms: Any) -> GuaranteeSettings:
    return GuaranteeSettings.of(terms)


def record(**terms: Any) -> VersionRecord:
    return VersionRecord(1, 0.0, "000001.dspex", "ready", figures={"terms": terms_of(of(**terms))})


@pytest.mark.parametrize(
    ("has", "wanted", "why"),
    [
        ({}, {}, None),
        ({"agreement": 0.9}, {}, "agreement"),
        ({"agreement": 0.99}, {}, None),
        ({"delta": 0.1}, {}, "delta"),
        ({"delta": 0.01}, {}, None),
        ({}, {"per_class": True}, "each class"),
        ({"per_class": True}, {}, None),
        ({"slices": "a:b"}, {}, "slices"),
        ({"slices": "a:b"}, {"slices": "a:c"}, "slices"),
        ({"slices": "a:b"}, {"slices": "a:b"}, None),
        ({}, {"costs": "a:b"}, "costs"),
        ({"costs": "a:b"}, {}, "costs"),
        ({"tolerance": {"x": 2.0}}, {"tolerance": {"x": 1.0}}, "tolerance"),
        ({"tolerance": {"x": 2.0}}, {}, "tolerance"),
        ({"tolerance": {"x": 1.0}}, {"tolerance": {"x": 2.0}}, None),
        ({"method": "cross", "novelty": 0.0, "min_coverage": 0.5}, {}, None),
    ],
)
def test_what_is_weaker(has: dict[str, Any], wanted: dict[str, Any], why: str | None) -> None:
    found = weaker(record(**has), of(**wanted))
    assert found is None if why is None else why in (found or "")


def test_without_terms_the_certificate_tells_the_agreement() -> None:
    old = VersionRecord(1, 0.0, "x", "ready", certificate=certificate(agreement=0.9).to_dict())
    assert "0.9" in (weaker(old, of()) or "")
    assert weaker(old, of(agreement=0.9)) is None


# What a home keeps


def test_a_home_keeps_its_guarantee(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        assert (store.guarantee(), store.learned_outputs()) == (None, None)
        terms = terms_of(of(agreement=0.9), ("costs",))
        assert store.keep_guarantee(terms, ("label",))
        assert not store.keep_guarantee(terms, ("label",))
        assert [event.kind for event in store.events()] == ["guarantee kept"]
    with home(tmp_path) as store:
        assert store.guarantee() == terms
        assert terms["costs"] == A_FUNCTION
        assert store.learned_outputs() == ("label",)
        with pytest.raises(InputError, match="lable"):
            store.keep_guarantee({}, ("lable",))


def test_settings_that_say_nothing_are_the_homes(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        assert kept_settings(store, None) == DistillSettings()
        with LiveProgram(store, None, settings() | {"guarantee": {"agreement": 0.9, "delta": 0.1}}):
            pass
        with LiveProgram(store, None) as live:
            assert (live.settings.guarantee.agreement, live.settings.guarantee.delta) == (0.9, 0.1)
        with LiveProgram(store, None, STRICT) as live:  # what is said is kept, what is not stays
            assert (live.settings.guarantee.agreement, live.settings.guarantee.delta) == (0.99, 0.1)
        kept = store.guarantee()
        assert kept is not None
        assert (kept["agreement"], kept["delta"]) == (0.99, 0.1)
        assert [event.kind for event in store.events()].count("guarantee kept") == 2


def test_a_function_that_nobody_can_import_is_refused(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        store.keep_guarantee(terms_of(of(), ("slices",)), ("label",))
        with pytest.raises(ConfigError, match="cannot be imported by a name"):
            LiveProgram(store, None)


def test_the_outputs_that_were_left_out_are_not_tried(tmp_path: Path) -> None:
    with Store.open(tmp_path, "text -> label: Literal['a', 'b'], mood: bool") as store:
        assert list(learned_signature(store).outputs) == ["label", "mood"]
        store.keep_guarantee(terms_of(of()), ("label",))
        assert list(learned_signature(store).outputs) == ["label"]


# Slices


def test_slices_are_never_taken_for_classes(tmp_path: Path) -> None:
    given = certificate(threshold=None, thresholds=dict.fromkeys(CLASSES, 0.0))
    whole = Guarded(fitted(), given, by_length)
    path = tmp_path / "sliced.dspex"
    whole.to_save().save(path)
    call = {"text": "an apple here"}
    without = Guarded(load(path), given)
    assert not without.stands(without.program.predict(call), call)
    assert (without.by, without.to_save().certificate["by"]) == ("slice", "slice")  # type: ignore[index]
    again = Guarded(load(path), given, by_length)
    assert again.stands(again.program.predict(call), call)
    Guarded(fitted(), given).to_save().save(path)
    by_class = Guarded(load(path), given, by_length)
    assert by_class.group(by_class.program.predict(call), call) == "apple"


# A version that guarantees less


def test_it_goes_back_to_shadow_and_answers_nothing(tmp_path: Path) -> None:
    teacher = Planted()
    with home(tmp_path) as store:
        add_version(store)
        lifecycle.promote(store, "user:test", "go", "live")
        with LiveProgram(store, teacher, settings() | STRICT, seed=1) as live:
            assert stage_of(store) == ("shadow", 1)
            event = store.events(limit=1)[0]
            assert (event.kind, event.by) == ("withdrawn", "rule")
            assert "0.99 is wanted" in event.reason
            serve(live, rows(150, hard=0.0))
            assert len(teacher.asked) == 150
            assert stage_of(store) == ("shadow", 1), "it must not move on again"
            assert live.status()["usage"]["compared"] >= 100
            for move in (live.promote, lambda why: live.adopt(1, why)):
                with pytest.raises(ProgramError):
                    move("all the same")


def test_one_that_another_process_puts_in_service_is_withdrawn_too(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        add_version(store)
        with LiveProgram(store, Planted(), STRICT | settings(), seed=1) as live:
            state = store.state()
            move = store.version(1)
            watch = {"served": 1, "checks": 0, "errors": 0, "upto": 0}
            store.move(
                state.revision,
                State("live", move.number, since=1.0, reason="by another", watch=watch),
                Event(1.0, "adopted", "user:another"),
            )
            live._keeper.refresh()
            assert live.predict({"text": "an apple here"}).route == "dspy"
            assert live.flush()
            assert stage_of(store) == ("shadow", 1)


def test_it_is_not_adopted_and_an_older_strict_one_is(tmp_path: Path) -> None:
    with home(tmp_path) as store:
        store.keep_guarantee(terms_of(of(agreement=0.99)), ("label",))
        add_version(store)
        assert lifecycle.newer_version(store, store.state()) is None
        with pytest.raises(ProgramError, match="nothing to promote"):
            lifecycle.promote(store, "user:test", "go")
        with pytest.raises(ProgramError, match="guarantees less"):
            lifecycle.adopt(store, 1, "user:test", "go")
        add_version(store, agreement=0.995)
        add_version(store)
        found = lifecycle.newer_version(store, store.state())
        assert found is not None
        assert found.number == 2


def test_the_rules_withdraw_before_all_but_a_breach() -> None:
    rules, state = LifecycleSettings(automatic=False), State("live", 1, held=True)
    move = next_move(state, Evidence(weaker="too little", newer=2), rules)
    assert move is not None
    assert (move.kind, move.stage, move.version) == ("withdraw", "shadow", 1)
    breach = next_move(state, Evidence(weaker="too little", alarm="it shows"), rules)
    assert breach is not None
    assert breach.kind == "breach"
    shadow = State("shadow", 1)
    assert next_move(shadow, Evidence(checks=9999, weaker="too little"), LifecycleSettings()) is None
    newer = next_move(shadow, Evidence(weaker="too little", newer=2), LifecycleSettings())
    assert newer is not None
    assert newer.kind == "adopt"
