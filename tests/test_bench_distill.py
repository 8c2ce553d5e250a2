"""The benchmarks of distillation: what they compute, in their short forms."""

from __future__ import annotations

import json
import random
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
pytest.importorskip("benchmarks.distill", reason="a checkout holds the benchmarks")

from benchmarks.datasets import load as load_set
from benchmarks.distill import streaming, targets, tasks
from benchmarks.distill.__main__ import PARTS, run
from benchmarks.distill.load import measured
from benchmarks.distill.oos import area
from benchmarks.distill.plan import Plan
from benchmarks.distill.tables import Table, cell, markdown
from benchmarks.peers import tracer_peer
from benchmarks.sections import Target

WORDS = {"pay": "bill invoice euro pay", "fly": "plane airport ticket fly", "eat": "pizza lunch table eat"}
MACHINE = {"processor": "none", "cores": 2, "python": "3"}


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of three classes under DSPEX_DATA; its name."""
    drawn = random.Random(0)
    folder = tmp_path / "toys"
    folder.mkdir()
    for split, count in (("train", 900), ("dev", 300)):
        rows = []
        for _ in range(count):
            label = drawn.choice(list(WORDS))
            told = label if drawn.random() < 0.97 else drawn.choice(list(WORDS))
            text = " ".join(drawn.choices([*WORDS[told].split(), "the", "a", "please", "now"], k=6))
            rows.append({"text": text, "label": label})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("DSPEX_DATA", str(tmp_path))
    tasks.load.cache_clear()
    tasks.confusions.cache_clear()
    targets.lesson.cache_clear()
    return "toys"


def test_every_part_is_there() -> None:
    for part in PARTS:
        assert callable(run(part, Plan()).__next__)


@pytest.mark.parametrize("noise", ["random", "confusable"])
def test_a_teacher_errs_as_often_as_it_should(toys: str, noise: tasks.Noise) -> None:
    data = load_set(toys)
    rows = data.train * 5
    said = tasks.Teacher(data, 0.1, noise, seed=1).answers(rows)
    wrong = np.mean([a["label"] != b["label"] for a, b in zip(rows, said, strict=True)])
    assert wrong == pytest.approx(0.1, abs=0.02)
    assert tasks.Teacher(data).answers(data.dev) == data.dev


def test_a_coin_for_each_row_splits_them(toys: str) -> None:
    data = load_set(toys)
    fit_rows, calibrate_rows = tasks.split(data.train, 0.2, 0)
    assert len(fit_rows) + len(calibrate_rows) == len(data.train)
    assert len(calibrate_rows) == pytest.approx(180, abs=40)
    assert (fit_rows, calibrate_rows) == tasks.split(data.train, 0.2, 0)
    assert (fit_rows, calibrate_rows) != tasks.split(data.train, 0.2, 1)


def test_the_area_under_the_curve() -> None:
    inside, outside = np.array([3.0, 2.0, 1.0]), np.array([2.0, 0.0])
    by_pairs = np.mean([(a > b) + (a == b) / 2 for a in inside for b in outside])
    assert area(inside, outside) == pytest.approx(by_pairs)


def test_tables_show_medians_ranges_and_what_was_missed() -> None:
    assert cell([0.5, 0.7, 0.6]) == "0.600 (0.500 to 0.700)"
    assert cell([0.5, None]) == "0.500"
    assert cell(8005) == "8,005"
    table = Table("one", ("case", "figure"), note="On `dev`.")
    table.add("this", 0.5)
    table.targets += [Target("enough", [0.5], 0.4, unit=""), Target.at_most("little", [0.5], 0.4)]
    text = markdown([table], MACHINE)
    assert "| this | 0.500 |" in text
    assert "| enough | 0.500 | ≥ 0.4 | met |" in text
    assert "| little | 0.500 | ≤ 0.4 | **missed** |" in text


def test_an_open_loop_counts_the_wait_of_a_late_call() -> None:
    pauses = iter([0.02] + [0.0] * 19)

    def call(row: object) -> None:
        import time

        time.sleep(next(pauses))

    found = measured(call, [{}], rate=1000, seconds=0.02)
    assert found["call, p50 µs"] < 5000
    assert found["due to answered, p50 µs"] > 5000  # the calls that were due meanwhile waited


def test_tracer_is_left_out_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSPEX_TRACER_PYTHON", raising=False)
    assert tracer_peer.interpreter() is None
    assert list(run("tracer", Plan(tracer=None, cache=Path("unused")))) == []


def test_tracer_runs_in_its_own_interpreter_and_keeps_embeddings(tmp_path: Path) -> None:
    other = _interpreter(
        tmp_path, "np.save(sys.argv[-1], np.zeros((2, 3), dtype=np.float32)); print('{\"texts\": 2}')"
    )
    tracer = tracer_peer.Tracer(other, tmp_path / "cache")
    made = tracer.embedded(["a", "b"])
    assert np.load(made).shape == (2, 3)
    begun = made.stat().st_mtime_ns
    assert tracer.embedded(["a", "b"]) == made
    assert made.stat().st_mtime_ns == begun
    assert tracer.embedded(["a", "c"]) != made


def test_a_tracer_that_fails_says_why(tmp_path: Path) -> None:
    tracer = tracer_peer.Tracer(_interpreter(tmp_path, "sys.exit('no torch here')"), tmp_path)
    with pytest.raises(RuntimeError, match="no torch here"):
        tracer.embedded(["a"])


def _interpreter(folder: Path, does: str) -> Path:
    """Something that is called as the interpreter of TRACER is."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport sys\nimport numpy as np\n{does}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_targets_of_a_set(toys: str) -> None:
    first, second = run("targets", Plan(seeds=1, sets=(toys,), quick=True))
    assert (first.title, second.title) == (
        "toys, guaranteed agreement 0.95",
        "toys, guaranteed agreement 0.9",
    )
    for table in (first, second):
        assert [line[0] for line in table.lines] == ["gold, split", "gold, cross"]
    by_name = dict(zip(second.columns, second.lines[0], strict=True))
    assert by_name["certified seeds"] == "1 of 1"
    assert by_name["coverage"][0] > 0.8
    assert by_name["agreement"][0] > 0.9
    assert by_name["rows certifying"][0] == pytest.approx(180, abs=40)
    crossed = dict(zip(second.columns, second.lines[1], strict=True))
    assert crossed["rows certifying"] == [900]  # each of them, by a model that has not seen it


def test_a_stream_begins_with_the_teacher_and_ends_with_native_answers(
    toys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SET", toys)
    settings = {"guarantee": {"agreement": 0.9}, "lifecycle": {"shadow_checks": 20, "canary_checks": 5}}
    first, last = streaming.stream((100, 900), 0.1, seed=0, **settings)
    assert (first.asked, first.stage, first.found) == (100, "teacher", None)
    assert last.version is not None
    assert last.found is not None
    assert last.found.coverage > 0.8
    assert last.asked < 900
    assert last.sent > last.sent_wrong
