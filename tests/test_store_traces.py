"""Traces in the store: values come back as they were, are kept once, counted, redacted and dropped."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from dspex import Signature
from dspex.distill.store import Event, State, Store, VersionRecord
from dspex.distill.trace import Answer, Trace
from dspex.errors import ConfigError, InputError, ModelFileError, ProgramError, SignatureError

SIGNATURE = Signature.of("text -> label: Literal['a', 'b'], note: str")


class Colour(Enum):
    RED = "red"
    BLUE = 2


def trace(text: str, label: str = "a", **more: Any) -> Trace:
    return Trace({"text": text}, Answer({"label": label, "note": "n"}), **more)


def stored(store: Store) -> list[Trace]:
    return [replace(each, id=None) for each in store.traces()]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "home", SIGNATURE) as opened:
        yield opened


# --- values


ALL_KINDS = Signature.of(
    {
        "inputs": {
            "text": "str", "n": "int", "x": "float", "flag": "bool", "v": np.ndarray, "w": "list[float]",
            "day": "datetime.date",
        },
        "outputs": {
            "label": ["a", "b", "ü"], "colour": Colour, "level": [1, 2, 3], "yes": "bool", "score": "float",
            "tags": list[Literal["x", "y"]], "names": "list[str]", "note": "str",
            "maybe": "Literal['q', None]",
        },
    }
)  # fmt: skip
INPUTS = {
    "text": "äh \ud800", "n": 2**80, "x": -0.0, "flag": True, "v": np.array([0.1, 1e-300]), "w": [0.1, 2.0],
    "day": datetime.date(2024, 2, 29),
}  # fmt: skip
OUTPUTS = {
    "label": "ü", "colour": Colour.BLUE, "level": 2, "yes": False, "score": 1 / 3, "tags": ["y", "x"],
    "names": ["one", "two"], "note": "free\ntext", "maybe": None,
}  # fmt: skip


def test_every_kind_of_value_comes_back_as_it_was(tmp_path: Path) -> None:
    with Store.open(tmp_path, ALL_KINDS) as store:
        store.add([Trace(INPUTS, Answer(OUTPUTS, usd=0.25, tokens=7, seconds=0.5), at=1.5, source="x")])
    with Store.open(tmp_path, ALL_KINDS) as store:
        (found,) = store.traces()
    assert found.answer == Answer(OUTPUTS, None, 0.25, 7, 0.5)
    assert {**found.inputs, "v": None} == {**INPUTS, "v": None}
    assert np.array_equal(found.inputs["v"], INPUTS["v"])
    assert str(found.inputs["x"]) == "-0.0"
    assert (found.at, found.source, found.role, found.count, found.id) == (1.5, "x", "fit", 1, 1)


def test_without_the_signature_an_enum_is_its_values(tmp_path: Path) -> None:
    signature = Signature.of({"inputs": {"text": "str"}, "outputs": {"colour": Colour}})
    with Store.open(tmp_path, signature) as store:
        store.add([Trace({"text": "x"}, Answer({"colour": Colour.RED}, {"colour": {Colour.RED: 1.0}}))])
    with Store.open(tmp_path) as store:
        (found,) = store.traces()
        assert found.answer.outputs == {"colour": "red"}
        assert found.answer.soft == {"colour": {"red": 1.0}}
    with Store.open(tmp_path, signature) as store:
        (found,) = store.traces()
    assert found.answer == Answer({"colour": Colour.RED}, {"colour": {Colour.RED: 1.0}})


def test_soft_labels_and_further_outputs_are_kept(store: Store) -> None:
    soft = {"label": {"a": 0.25, "b": 0.75}}
    answer = Answer({"note": "n", "label": "b", "reasoning": "because", "steps": [1, {"k": None}]}, soft)
    store.add([Trace({"text": "x"}, answer, extra={"lm": "m"})])
    (found,) = store.traces()
    assert found.answer == answer
    assert found.extra == {"lm": "m"}


def test_soft_labels_of_every_kind(tmp_path: Path) -> None:
    signature = Signature.of(
        {"inputs": {"t": "str"}, "outputs": {"yes": "bool", "tags": list[Literal["x", "y"]], "open": "str"}}
    )
    soft = {"yes": {True: 0.9, False: 0.1}, "tags": {"x": 0.5, "y": 0.7}, "open": {"new": 1.0}}
    with Store.open(tmp_path, signature) as store:
        store.add([Trace({"t": "x"}, Answer({}, soft))])
        (found,) = store.traces()
    assert found.answer.soft == soft
    assert found.answer.outputs == {}


@pytest.mark.parametrize(
    ("inputs", "answer", "field"),
    [
        ({"text": 3}, Answer({"label": "a"}), "text"),
        ({}, Answer({"label": "a"}), "text"),
        ({"text": "x", "more": "y"}, Answer({"label": "a"}), "more"),
        ({"text": "x"}, Answer({"label": "c"}), "label"),
        ({"text": "x"}, Answer({}), None),
        ({"text": "x"}, Answer({"reasoning": "r"}), None),
        ({"text": "x"}, Answer({"label": "a", "more": {1, 2}}), "more"),
        ({"text": "x"}, Answer({"label": "a"}, {"label": {"a": 1.5}}), "label"),
        ({"text": "x"}, Answer({"label": "a"}, {"labl": {"a": 1.0}}), "labl"),
        ({"text": "x"}, Answer({"label": "a"}, {"label": {"z": 1.0}}), "label"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_stored(
    store: Store, inputs: Any, answer: Answer, field: str | None
) -> None:
    with pytest.raises(InputError) as caught:
        store.add([trace("good"), Trace(inputs, answer)])
    assert caught.value.field == field
    assert store.counts()["rows"] == 0


@pytest.mark.parametrize(
    "wrong", [{"role": "test"}, {"count": 0}, {"role": "calibrate", "count": 2}, {"extra": {1: {2}}}]
)
def test_a_trace_that_makes_no_sense_is_refused(store: Store, wrong: Any) -> None:
    with pytest.raises(InputError):
        store.add([trace("x", **wrong)])


# --- de-duplication, answers


def test_equal_rows_to_fit_on_are_one_row(store: Store) -> None:
    one = Trace({"text": "x"}, Answer({"label": "a"}, usd=0.5, tokens=3), at=5.0)
    assert store.add([one, one, trace("y")]) == [1, 1, 2]
    assert store.add([replace(one, at=4.0, count=3)]) == [1]
    first = next(store.traces())
    assert (first.count, first.answer.usd, first.answer.tokens, first.at) == (5, 1.5, 9, 5.0)
    counts = store.counts()
    assert (counts["rows"], counts["answers"], counts["usd"], counts["tokens"]) == (2, 6, 1.5, 9)


def test_another_answer_is_another_row(store: Store) -> None:
    assert store.add([trace("x"), trace("x", "b")]) == [1, 2]


def test_rows_that_certify_are_kept_each(store: Store) -> None:
    certifies = trace("x", role="calibrate")
    assert store.add([certifies, trace("x"), certifies, trace("x")]) == [1, 2, 3, 2]


def test_deduplication_can_be_off(tmp_path: Path) -> None:
    with Store.open(tmp_path, SIGNATURE, {"deduplicate": False}) as store:
        assert store.add([trace("x"), trace("x")]) == [1, 2]


def test_the_newest_answer_to_equal_inputs_is_found(store: Store) -> None:
    store.add([trace("x"), trace("x", "b", role="calibrate"), trace("y")])
    assert store.has_answer({"text": "x"}) == Answer({"label": "b", "note": "n"})
    assert store.has_answer({"text": "z"}) is None


def test_an_import_does_not_store_a_call_again(store: Store) -> None:
    rows = [
        trace("x", at=3.0),
        trace("x", at=1.0),
        trace("y", role="calibrate"),
        trace("y", role="calibrate"),
    ]
    store.add(rows)
    last = store.counts()["last"]
    before = stored(store)
    assert store.add(rows, known_upto=last) == [1, 1, 2, 2]
    assert stored(store) == before
    assert store.add([trace("y", at=1e10)], known_upto=last) == [4]


def test_what_certified_elsewhere_is_a_row_to_fit_on(store: Store) -> None:
    store.add([trace("x", role="calibrate", used_by=7)])
    (found,) = store.traces()
    assert (found.role, found.used_by) == ("fit", None)


# --- reading


def test_rows_are_chosen_by_role_age_and_use(store: Store) -> None:
    store.add([trace(str(n), role="calibrate" if n % 2 else "fit") for n in range(2500)])
    certify(store, 1, [2, 4, 6])
    assert [each.id for each in store.traces("calibrate", fresh=False)] == [2, 4, 6]
    fresh = [each.id for each in store.traces("calibrate", fresh=True)]
    assert fresh == [n for n in range(2, 2501, 2) if n > 6]
    assert [each.id for each in store.traces("fit", newest=2)] == [2497, 2499]
    assert [each.id for each in store.traces(newest=3000)] == list(range(1, 2501))
    assert [each.id for each in store.traces(since=2498)] == [2499, 2500]
    assert store.counts() == {
        "rows": 2500, "fit": 1250, "calibrate": 1250, "fresh": 1247, "answers": 2500, "usd": 0.0, "tokens": 0,
        "pruned": 0, "redacted": 0, "last": 2500, "by_source": {"given": 2500},
    }  # fmt: skip


def test_an_unknown_role_is_an_error(store: Store) -> None:
    with pytest.raises(InputError, match="calibrat"):
        list(store.traces("calibrat"))  # type: ignore[arg-type]


def certify(store: Store, number: int, rows: list[int]) -> None:
    store.version_path(number).write_bytes(b"model")
    store.add_version(VersionRecord(number, 1.0, f"{number:06}.dspex", "ready"), rows)


def test_threads_share_a_store(store: Store) -> None:
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for n in range(60):
                store.add([trace(f"{name} {n}", role="calibrate")])
                assert store.has_answer({"text": f"{name} {n}"})
                assert sum(1 for _ in store.traces(newest=20)) <= 20
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.counts()["rows"] == 360


# --- redaction


def hide(inputs: dict[str, Any]) -> dict[str, Any] | None:
    if "secret" in inputs["text"]:
        return None
    return {"text": inputs["text"].replace("4711", "****")}


def test_redaction_comes_before_anything_is_written(tmp_path: Path) -> None:
    with Store.open(tmp_path, SIGNATURE, redact=hide) as store:
        assert store.add([trace("card 4711"), trace("a secret"), trace("card 4711")]) == [1, None, 1]
        assert store.has_answer({"text": "card 4711"}) is not None
        assert store.has_answer({"text": "a secret"}) is None
        assert [each.inputs for each in store.traces()] == [{"text": "card ****"}]
        assert store.counts()["redacted"] == 1
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert b"card ****" in written
    assert b"4711" not in written
    assert b"secret" not in written


# --- retention


def aged(tmp_path: Path, settings: dict[str, Any], now: Callable[[], float]) -> Store:
    return Store.open(tmp_path, SIGNATURE, settings, clock=now)


def test_the_oldest_go_first(tmp_path: Path) -> None:
    with aged(tmp_path, {"max_rows": 10}, lambda: 100.0) as store:
        store.add([trace(str(n), at=50.0 - n) for n in range(13)])
        assert store.prune() == 3
        assert sorted(each.at for each in store.traces()) == [50.0 - n for n in reversed(range(10))]
        assert store.counts()["pruned"] == 3
        assert store.prune() == 0


def test_what_certifies_a_version_in_use_goes_last(tmp_path: Path) -> None:
    with aged(tmp_path, {"max_rows": 3}, lambda: 100.0) as store:
        store.add([trace(str(n), role="calibrate", at=1.0 + n) for n in range(8)])
        certify(store, 1, [1, 2])
        certify(store, 2, [3])
        certify(store, 3, [4, 5])
        store.move(0, State("live", 3, 2), Event(1.0, "promoted", "rule"))
        store.prune()
        assert [each.id for each in store.traces()] == [3, 4, 5]
    with aged(tmp_path, {"max_rows": 1}, lambda: 100.0) as store:
        store.prune()
        assert [each.id for each in store.traces()] == [5]
        assert store.next_version() == 4


def test_age_goes_before_everything(tmp_path: Path) -> None:
    with aged(tmp_path, {"max_age": 10.0}, lambda: 100.0) as store:
        store.add([trace("old", role="calibrate", at=89.0), trace("new", at=91.0)])
        certify(store, 1, [1])
        store.move(0, State("live", 1), Event(1.0, "promoted", "rule"))
        assert store.prune() == 1
        assert [each.inputs["text"] for each in store.traces()] == ["new"]


def test_adding_keeps_to_the_limit_by_itself(tmp_path: Path) -> None:
    with aged(tmp_path, {"max_rows": 100}, lambda: 1.0) as store:
        for start in range(0, 1000, 10):
            store.add([trace(str(start + n)) for n in range(10)])
            assert store.counts()["rows"] < 100 + 64 + 10
            assert store.counts()["last"] == store.counts()["rows"] + store.counts()["pruned"]
        store.add([trace(f"many {n}") for n in range(3000)])
        assert store.counts()["rows"] == 100


def test_what_was_spent_stays(tmp_path: Path) -> None:
    with aged(tmp_path, {"max_rows": 1}, lambda: 1.0) as store:
        store.add([Trace({"text": str(n)}, Answer({"label": "a"}, usd=1.0, tokens=2)) for n in range(3)])
        store.prune()
        counts = store.counts()
        assert (counts["rows"], counts["usd"], counts["tokens"], counts["by_source"]) == (
            1,
            3.0,
            6,
            {"given": 1},
        )
        store.check()


# --- opening


def test_a_home_belongs_to_one_signature(tmp_path: Path) -> None:
    Store.open(tmp_path, SIGNATURE).close()
    with pytest.raises(SignatureError, match="'label'") as caught:
        Store.open(tmp_path, Signature.of("text -> label: Literal['a', 'c'], note: str"))
    assert caught.value.field == "label"
    with pytest.raises(SignatureError, match="'more'"):
        Store.open(tmp_path, Signature.of("text, more -> label: Literal['a', 'b'], note: str"))
    with pytest.raises(SignatureError, match="instructions"):
        Store.open(tmp_path, Signature(SIGNATURE.fields.values(), instructions="Otherwise."))
    renamed = Signature(SIGNATURE.fields.values(), instructions=SIGNATURE.instructions, name="Other")
    Store.open(tmp_path, renamed).close()
    Store.open(tmp_path, SIGNATURE.with_classes("note", ["p", "q"])).close()


def test_learned_classes_do_not_bind_the_teacher(tmp_path: Path) -> None:
    learned = Signature.of("text -> label: str").with_classes("label", ["a"])
    with Store.open(tmp_path, learned) as store:
        store.add([Trace({"text": "x"}, Answer({"label": "new"}))])
        assert store.signature.outputs["label"].classes is None


def test_homes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="no store"):
        Store.open(tmp_path / "none")
    with pytest.raises(ModelFileError, match="no store"):
        Store.open(tmp_path / "none", SIGNATURE, create=False)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a directory"):
        Store.open(tmp_path / "file", SIGNATURE)
    with pytest.raises(ConfigError, match="max_row"):
        Store.open(tmp_path / "none", SIGNATURE, {"max_row": 3})


def test_a_home_of_no_place_goes_with_its_store() -> None:
    with Store.open(None, SIGNATURE) as store:
        home = store.home
        store.add([trace("x")])
        store.version_path(1).write_bytes(b"x")
        assert store.counts()["rows"] == 1
    assert not home.exists()
    with pytest.raises(ProgramError, match="closed"):
        store.counts()
    store.close()
