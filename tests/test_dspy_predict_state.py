"""The native side of a predictor goes through DSPy's saving and loading, with every check of a model file."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import zlib
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspex
from dspex.dspy import NativeDecisions, Predict, route
from dspex.dspy.native_side import packed, unpacked
from dspex.errors import ModelFileError
from dspy_embed_tools import TASK, Engine, lm_of, program

SURE, UNSURE = "I lost my card", "something else entirely"


@pytest.fixture(scope="module")
def native() -> dspex.Program:
    return program(id="cards")


class Desk(dspy.Module):
    def __init__(self, sort: Any) -> None:
        super().__init__()
        self.sort = sort
        self.reply = dspy.Predict("label -> answer")

    def forward(self, text: str) -> Any:
        return self.sort(text=text)


def sure(desk: Any) -> bool:
    with dspy.context(lm=None):
        return route(desk(text=SURE)) == "native"


def saved(native: dspex.Program | None, path: Path, **settings: Any) -> dict[str, Any]:
    Desk(Predict(TASK, native, **settings)).save(path)
    return json.loads(path.read_text()) if path.suffix == ".json" else {}


def test_json_holds_everything(native: dspex.Program, tmp_path: Path) -> None:
    path = tmp_path / "desk.json"
    saved(native, path, threshold=0.8, fallback=True, native_mode="only")
    desk = Desk(Predict(TASK))
    desk.load(path)
    assert sure(desk)
    assert desk.sort.native.info() == native.info()
    assert (desk.sort.threshold, desk.sort.fallback, desk.sort.native_mode) == (0.8, True, "only")
    assert list(tmp_path.iterdir()) == [path]


def test_the_model_is_stored_compressed(native: dspex.Program, tmp_path: Path) -> None:
    native.save(tmp_path / "cards.dspex")
    stored = packed(native)
    assert stored["bytes"] == (tmp_path / "cards.dspex").stat().st_size
    assert len(stored["zlib"]) < 0.75 * stored["bytes"]
    assert unpacked(stored).predict({"text": UNSURE}) == native.predict({"text": UNSURE})


def test_pickled_state(native: dspex.Program, tmp_path: Path) -> None:
    saved(native, tmp_path / "desk.pkl")
    desk = Desk(Predict(TASK))
    desk.load(tmp_path / "desk.pkl", allow_pickle=True)
    assert sure(desk)


def test_whole_programs(native: dspex.Program, tmp_path: Path) -> None:
    Desk(Predict(TASK, native, threshold=0.8)).save(tmp_path / "desk", save_program=True)
    desk = dspy.load(str(tmp_path / "desk"), allow_pickle=True)
    assert sure(desk)
    assert desk.sort.threshold == 0.8
    assert desk.sort.native.info() == native.info()


def test_pickles(native: dspex.Program) -> None:
    side = Predict(TASK, native)._side
    assert pickle.loads(pickle.dumps(side)).program.predict({"text": SURE}).label == "card_lost"


def test_a_state_without_native_side_takes_it_away(native: dspex.Program, tmp_path: Path) -> None:
    saved(None, tmp_path / "desk.json")
    desk = Desk(Predict(TASK, native))
    desk.load(tmp_path / "desk.json")
    assert desk.sort.native is None


def test_a_plain_state_says_nothing_of_it(native: dspex.Program, tmp_path: Path) -> None:
    plain = Desk(dspy.Predict(TASK))
    plain.sort.demos = [dspy.Example(text="x", label="hours")]
    plain.save(tmp_path / "desk.json")
    desk = Desk(Predict(TASK, native))
    desk.load(tmp_path / "desk.json")
    assert sure(desk)
    assert len(desk.sort.demos) == 1


def test_a_plain_predictor_ignores_it(native: dspex.Program, tmp_path: Path) -> None:
    saved(native, tmp_path / "desk.json")
    desk = Desk(dspy.Predict(TASK))
    desk.load(tmp_path / "desk.json")
    with dspy.context(lm=lm_of(Engine({"label": "hours"}))):
        assert desk(text=SURE).label == "hours"


def test_code_with_other_fields(
    native: dspex.Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(native, tmp_path / "desk.json")
    desk = Desk(Predict("text -> label: Literal['refund', 'card_lost', 'hours', 'other']"))
    with caplog.at_level(logging.WARNING, "dspex.dspy"):
        desk.load(tmp_path / "desk.json")
    assert "stands aside" in caplog.text
    assert "another signature" in desk.sort.native_obstacle


def _flipped(stored: dict[str, Any]) -> None:
    data = bytearray(zlib.decompress(base64.b64decode(stored["model"]["zlib"])))
    data[-9] ^= 1
    stored["model"]["zlib"] = base64.b64encode(zlib.compress(bytes(data))).decode()


def _set(*path: str, to: Any) -> Any:
    def change(stored: Any) -> None:
        for key in path[:-1]:
            stored = stored[key]
        stored[path[-1]] = to

    return change


def _bomb(stored: dict[str, Any]) -> None:
    stored["model"] = {"bytes": 100, "zlib": base64.b64encode(zlib.compress(bytes(1 << 24))).decode()}


DAMAGE = {
    "checksum": (_flipped, "does not match its checksum"),
    "format": (_set("format", to=2), "format 2, not 1"),
    "threshold": (_set("threshold", to=7), "threshold is 7"),
    "mode": (_set("native_mode", to="x"), "unknown mode 'x'"),
    "missing": (lambda stored: stored.pop("fallback"), "'fallback'"),
    "model": (_set("model", to="x"), "damaged"),
    "base64": (_set("model", "zlib", to="*"), "damaged"),
    "not zlib": (_set("model", "zlib", to="eHh4eA=="), "damaged"),
    "size": (_set("model", "bytes", to=10), "not of the size"),
    "negative size": (_set("model", "bytes", to=-1), "not of the size"),
    "bomb": (_bomb, "not of the size"),
    "type": (_set("model", "bytes", to="10"), "wrong types"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_states_change_nothing(native: dspex.Program, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    state = saved(native, tmp_path / "desk.json")
    state["sort"]["demos"] = [{"text": "x", "label": "hours"}]
    damage(state["sort"]["native"])
    (tmp_path / "bad.json").write_text(json.dumps(state))
    desk = Desk(Predict(TASK, native))
    with pytest.raises(ModelFileError, match=message):
        desk.load(tmp_path / "bad.json")
    assert desk.sort.demos == []
    assert sure(desk)


def test_a_bound_decision_client_is_in_the_state(native: dspex.Program, tmp_path: Path) -> None:
    desk = Desk(Predict(TASK, native))
    desk.sort.lm = NativeDecisions(native)
    desk.save(tmp_path / "desk.json")
    other = Desk(Predict(TASK))
    with pytest.raises(ValueError, match="Refusing to import"):
        other.load(tmp_path / "desk.json")
    other.load(tmp_path / "desk.json", allow_unsafe_lm_state=True)
    assert other.sort.lm.program.info() == native.info()
