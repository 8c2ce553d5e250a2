"""Programs with a certificate: it says which native answers stand, wherever the program runs."""

from __future__ import annotations

import math

import pytest

from distill_rows import TEXT, easy
from dspex.distill.making import make
from dspex.distill.settings import GuaranteeSettings
from dspex.errors import ModelFileError
from dspex.modelfile import write_model
from dspex.program import load
from dspex.result import Result, Route
from dspex.routing import Gate
from hybrid_tools import FakeDspy, hybrid

SURE, ODD = {"text": "open hours today when"}, {"text": "qqq zzz"}


def made(**settings):
    return make(TEXT, easy(400, 1), easy(400, 2), GuaranteeSettings.of({"agreement": 0.9, **settings}))


def saved(version, path):
    version.guarded.to_save().save(path)
    return str(path)


def result(label: str, score: float) -> Result:
    return Result({"label": label}, route=Route("native"), confidence=0.5, score=score)


def test_a_file_keeps_the_certificate(tmp_path):
    version = made()
    program = load(saved(version, tmp_path / "a.dspex"))
    assert program.certificate["threshold"] == version.certificate.threshold
    assert program.certificate["by"] is None
    assert program.info()["certificate"] == program.certificate
    assert program.partial_fit([{"text": "open", "label": "open"}]).certificate is None


def test_the_certificate_decides_in_place_of_the_configured_threshold(tmp_path):
    version = made()
    dspy = FakeDspy()
    adapter = hybrid({"threshold": 0.2}, dspy=dspy)
    adapter.create_program({"id": "a", "signature": TEXT, "path": saved(version, tmp_path / "a.dspex")})
    answer = adapter.execute_program("a", SURE)
    assert (str(answer.route), answer.label) == ("native", "open")
    assert "certified from" in answer.route.reason
    answer = adapter.execute_program("a", ODD)
    assert str(answer.route) == "dspy"
    assert "gate's score" in answer.route.reason


@pytest.mark.parametrize("routing", [{"threshold": 0.0}, {"certified": False, "threshold": 0.0}])
def test_a_programs_own_threshold_comes_before_its_certificate(tmp_path, routing):
    adapter = hybrid({}, dspy=FakeDspy())
    path = saved(made(), tmp_path / "a.dspex")
    adapter.create_program({"id": "a", "signature": TEXT, "path": path, "routing": routing})
    assert str(adapter.execute_program("a", ODD).route) == "native"


def test_where_nothing_is_certified_everything_is_asked(tmp_path):
    adapter = hybrid({}, dspy=FakeDspy())
    path = saved(made(agreement=0.9999), tmp_path / "a.dspex")
    adapter.create_program({"id": "a", "signature": TEXT, "path": path})
    answer = adapter.execute_program("a", SURE)
    assert str(answer.route) == "dspy"
    assert answer.route.reason.startswith("no native answer of this kind is certified")


def test_each_class_has_its_own_threshold(tmp_path):
    version = made(per_class=True)
    program = load(saved(version, tmp_path / "a.dspex"))
    assert program.certificate["by"] == "class"
    gate = Gate.of({**program.certificate, "thresholds": {"open": 0.3, "lost": None, "refund": 0.8}})
    assert gate.doubt(result("open", 0.4)) is None
    assert gate.doubt(result("lost", 1.0)) is not None
    assert gate.doubt(result("refund", 0.7)) == "gate's score 0.70 is below 0.8"
    assert gate.doubt(result("else", 1.0)) is not None
    adapter = hybrid({}, dspy=FakeDspy())
    adapter.create_program({"id": "a", "signature": TEXT, "path": str(tmp_path / "a.dspex")})
    assert str(adapter.execute_program("a", SURE).route) == "native"
    assert str(adapter.execute_batch("a", [SURE])[0].route) == "native"


def test_of_slices_nothing_stands_where_nobody_can_tell_the_slice():
    gate = Gate.of({"threshold": None, "by": "slice", "thresholds": {"a": 0.3, "b": 0.6}})
    assert gate.threshold == math.inf
    assert gate.doubt(result("open", 1.0)) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "0.5"},
        {"threshold": -1.0},
        {"threshold": True},
        {"thresholds": {"a": 0.5}},
        {"by": "class"},
        {"thresholds": [0.5], "by": "class", "threshold": None},
        {"rows": None},
        {"reason": 7},
        {"more": 1},
    ],
)
def test_a_hostile_certificate_is_refused(tmp_path, change):
    program = made().guarded.to_save()
    certificate = {**program.certificate, **change}
    meta = program._meta | {"signature": program.signature.to_dict(), "certificate": certificate}
    write_model(tmp_path / "a.dspex", program._arrays, meta)
    with pytest.raises(ModelFileError, match="certificate"):
        load(tmp_path / "a.dspex")
