"""Programs of the hybrid adapter come, get an LM, are described, and go."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dspex.adapters import registry
from dspex.adapters.hybrid import HybridAdapter
from dspex.adapters.mock import MockAdapter
from dspex.adapters.native import NativeAdapter
from dspex.errors import ConfigError, DspexError, InputError, ProgramError, SignatureError
from dspex.spec import ProgramSpec
from hybrid_tools import LM, ROW, SPEC, SURE, UNSURE, FakeDspy, fitted, hybrid, no_lm_error

OPEN = {"id": "open", "signature": "question -> answer"}
IMPORT_PATH = "package.module:Thing"


# Creating


@pytest.mark.parametrize(
    ("spec", "error", "field", "words"),
    [
        ({"signature": "text -> label"}, SignatureError, "label", "'label' is free text"),
        (
            {"signature": "text -> d: dict[str, int]", "examples": [{"text": "a", "d": {}}]},
            SignatureError,
            "d",
            "configure_lm",
        ),
        ({"signature": "image: list[list[int]] -> ok: bool"}, SignatureError, "image", "no LM is configured"),
        ({"signature": "text -> ok: bool"}, ProgramError, None, "unfitted, and no LM is configured"),
    ],
)
def test_what_is_neither_native_nor_has_an_lm(
    spec: dict[str, Any], error: type[DspexError], field: str | None, words: str
) -> None:
    adapter = hybrid(lm=False)
    with pytest.raises(error, match=words) as caught:
        adapter.create_program({**spec, "id": "p"})
    assert (caught.value.field, caught.value.program) == (field, "p")
    assert "lms" in (caught.value.hint or "")
    assert adapter.list_programs() == []
    with pytest.raises(error):
        adapter.create_program(spec)


def test_the_same_with_an_lm_runs_on_dspy() -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy("b")))
    adapter.create_program(OPEN)
    result = adapter.execute_program("open", {"question": "why?"})
    assert (str(result.route), result.answer) == ("dspy", "b")
    assert "'answer' is free text" in result.route.reason
    assert list(dspy.specs) == ["open"]  # made at once, not at the first call


def test_kinds_that_only_dspy_runs_need_no_lm_at_first() -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy()), lm=False)
    for kind in ("chain_of_thought", "react", "program_of_thought"):
        adapter.create_program({**SPEC, "id": kind, "kind": kind, "examples": None})
    adapter.create_program({"id": "module", "module": IMPORT_PATH})
    adapter.create_program({"id": "state", "signature": "a -> b", "state": "x.json"})
    assert len(dspy.specs) == 5
    assert adapter.execute_program("react", UNSURE).route.reason == "kind 'react' runs on DSPy"
    with pytest.raises(ProgramError, match="cannot run kind 'embed'"):
        adapter.create_program({**SPEC, "kind": "embed"})


def test_fitted_programs_are_of_no_dspy_kind(tmp_path: Path) -> None:
    adapter = hybrid()
    fitted().save(tmp_path / "p.dspex")
    for source in ({"path": str(tmp_path / "p.dspex")}, {"program": fitted()}):
        with pytest.raises(ProgramError, match="cannot run kind 'react'"):
            adapter.create_program({"kind": "react", **source})
    with pytest.raises(SignatureError, match="signature"):
        adapter.create_program({"module": IMPORT_PATH, "examples": SPEC["examples"]})


def test_every_source_of_a_native_side(tmp_path: Path) -> None:
    fitted().save(tmp_path / "p.dspex")
    adapter = hybrid(dspy=(dspy := FakeDspy()))
    for name, source in {
        "examples": SPEC,
        "path": {"path": str(tmp_path / "p.dspex")},
        "program": {"program": fitted()},
    }.items():
        adapter.create_program({**source, "id": name})
        assert adapter.execute_program(name, SURE).label == "refund"
        assert adapter.execute_program(name, UNSURE).route == "dspy"
        assert dspy.specs[name].signature == fitted().signature


def test_what_dspy_is_told_of_a_program_with_a_native_side() -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy()))
    extras: dict[str, Any] = {"dspy": {"timeout": 3}, "lm": "fast", "tags": ["t"], "init": {"n": 2}}
    adapter.create_program(
        {**SPEC, **extras, "module": IMPORT_PATH, "options": {"c": 3.0}, "kind": "classify"}
    )
    told = dspy.specs["p"]
    assert (told.examples, told.program, told.path, told.options) == (None, None, None, {})
    assert (told.module, told.kind, told.lm, told.dspy, told.init) == (
        IMPORT_PATH, None, "fast", {"timeout": 3}, {"n": 2},
    )  # fmt: skip
    learned = {"signature": "text -> label", "examples": SPEC["examples"]}
    adapter.create_program({**learned, "id": "q"})
    signature = dspy.specs["q"].signature
    assert signature is not None
    assert signature.outputs["label"].classes == ("card_lost", "limit", "refund")  # one type on every route


def test_a_dspy_side_that_cannot_be_made_leaves_nothing() -> None:
    class Refusing(FakeDspy):
        def create_program(self, spec: Any) -> str:
            raise ConfigError("no such module")

    native = NativeAdapter()
    adapter = HybridAdapter(LM, backends={"dspy": Refusing(), "native": native})
    with pytest.raises(ConfigError, match="no such module") as caught:
        adapter.create_program(SPEC)
    assert caught.value.program == "p"
    assert (adapter.list_programs(), native.list_programs()) == ([], [])


def test_backends_that_are_none() -> None:
    with pytest.raises(ConfigError, match="'dspy'"):
        HybridAdapter(backends={"dspi": FakeDspy()})
    wrong: list[tuple[str, Any]] = [("native", MockAdapter()), ("dspy", object())]
    for name, adapter in wrong:
        with pytest.raises(ConfigError, match="cannot serve as backend"):
            HybridAdapter(LM, backends={name: adapter}).create_program(SPEC)


def test_backends_are_made_by_the_registry() -> None:
    made = []

    def factory(config: Any) -> FakeDspy:
        made.append(config)
        return FakeDspy()

    registry.register("dspy", factory, replace=True)
    try:
        with HybridAdapter({**LM, "native_pool": {"size": 1}, "routing": {"native_pool": True}}) as adapter:
            adapter.create_program(SPEC)
            assert adapter.execute_program("p", UNSURE).route == "dspy"
            assert adapter.get_stats()["backends"]["native_pool"]["pool"]["workers"]
    finally:
        registry.unregister("dspy")
    assert [list(config.lms) for config in made] == [["test"]]


# LMs


def test_an_lm_that_is_configured_later() -> None:
    dspy, pool = FakeDspy(), FakeDspy(name="dspy_pool")
    adapter = hybrid(dspy=dspy, dspy_pool=pool, lm=False)
    adapter.create_program(SPEC)
    assert adapter.execute_program("p", UNSURE).route == "native"
    lm = {"model": "test/none"}
    adapter.configure_lm(lm)
    assert dspy.specs == {}  # made when it is needed
    assert [adapter.execute_program("p", inputs).route for inputs in (UNSURE, SURE)] == ["dspy", "native"]
    assert dspy.lms == [lm]
    adapter.configure_lm({"model": "test/other"})
    pool.configure_lm({"model": "test/pool"})  # stays: adapters that were given are told at once, and once
    adapter.execute_program("p", UNSURE, {"backend": "dspy_pool"})
    for given, own in ((dspy, []), (pool, ["test/pool"])):
        assert [each["model"] for each in given.lms] == ["test/none", "test/other", *own]
    adapter.create_program(OPEN)
    assert adapter.get_stats()["routing"]["routes"] == {"native": 2, "dspy": 1, "dspy_pool": 1}
    for bad in ({"model": "x/y", "temprature": 1}, {"model": ""}, {}):
        with pytest.raises(ConfigError):
            adapter.configure_lm(bad)


@pytest.mark.parametrize("own", ["fast", {"model": "test/own"}])
def test_an_lm_of_the_programs_own(own: Any) -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy()), lm=False)
    adapter.create_program({**SPEC, "lm": own})
    assert dspy.specs["p"].lm == own
    assert adapter.execute_program("p", UNSURE).route == "dspy"
    assert adapter.get_program_info("p")["program"]["lm"] == "the program has an LM of its own"


def test_several_lms_of_which_none_is_the_default() -> None:
    adapter = HybridAdapter({"lms": {"a": {"model": "x/a"}, "b": {"model": "x/b"}}})
    adapter.create_program(SPEC)
    assert adapter.execute_program("p", UNSURE).route == "native"


def test_the_lm_of_the_users_dspy_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("dspy")
    module.settings = types.SimpleNamespace(lm=None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dspy", module)
    adapter = hybrid(lm=False)
    with pytest.raises(SignatureError):
        adapter.create_program(OPEN)
    module.settings.lm = object()  # type: ignore[attr-defined]
    adapter.create_program(OPEN)
    adapter.create_program(SPEC)
    assert adapter.execute_program("p", UNSURE).route == "dspy"


def test_a_module_without_an_lm_falls_back() -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy()), lm=False)
    adapter.create_program({**SPEC, "module": IMPORT_PATH})
    dspy.refusal = no_lm_error()
    route = adapter.execute_program("p", UNSURE).route
    assert (str(route), route.degraded) == ("native", True)
    assert "no language model is configured" in route.reason


def test_a_native_program_imports_neither_dspy_nor_the_configuration() -> None:
    code = """
import sys
from dspex.adapters.hybrid import HybridAdapter
from dspex.testing import CASES
case = CASES[0]
adapter = HybridAdapter()
adapter.create_program({"id": "p", "signature": case.signature, "examples": case.examples})
adapter.execute_program("p", case.rows()[0])
adapter.execute_batch("p", case.rows())
adapter.explain("p", case.rows()[0])
adapter.get_stats(), adapter.get_program_info("p"), adapter.health_check()
heavy = {"dspy", "litellm", "dspex.config", "pydantic", "dspex.adapters.dspy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Telling


def test_info_and_stats() -> None:
    adapter = hybrid()
    adapter.create_program({**SPEC, "tags": ["a"]})
    adapter.create_program(OPEN)
    for inputs in (SURE, UNSURE):
        adapter.execute_program("p", inputs)
    with pytest.raises(InputError):
        adapter.execute_program("p", {})
    info = adapter.get_program_info("p")
    json.dumps(info)
    assert (info["adapter"], info["backend"], info["kind"], info["tags"]) == (
        "hybrid",
        "native",
        "classify",
        ["a"],
    )
    assert (info["program"]["threshold"], info["program"]["lm"]) == (0.9, "an LM is configured")
    assert info["program"]["native"]["weight_rows"] > 0
    assert (info["calls"], info["routing"]["routes"], info["routing"]["coverage"]) == (
        3,
        {"native": 1, "dspy": 1},
        0.5,
    )
    other = adapter.get_program_info("open")
    assert (other["backend"], other["program"]["native"], other["routing"]["coverage"]) == (
        "dspy",
        None,
        None,
    )
    adapter.delete_program("p")
    stats = adapter.get_stats()
    json.dumps(stats)
    assert (stats["calls"], stats["routing"]["routes"]) == (3, {"native": 1, "dspy": 1})
    assert set(stats["backends"]) == {"native", "dspy"}
    capabilities = adapter.get_test_capabilities()
    assert (capabilities["deterministic"], capabilities["needs_examples"]) == (False, False)


def test_a_modules_signature_is_asked_of_dspy() -> None:
    class Telling(FakeDspy):
        def get_program_info(self, program_id: str) -> dict[str, Any]:
            return {"id": program_id, "adapter": "dspy", "signature": "a -> b"}

    adapter = hybrid(dspy=Telling())
    adapter.create_program({"id": "m", "module": IMPORT_PATH})
    info = adapter.get_program_info("m")
    assert (info["signature"], info["kind"], info["backend"]) == ("a -> b", "module", "dspy")


def test_health_is_that_of_the_backends() -> None:
    class Sick(FakeDspy):
        def list_programs(self) -> list[str]:
            raise LookupError("gone")

    adapter = hybrid()
    adapter.create_program(SPEC)
    health = adapter.health_check()
    assert health
    assert "native: " in health.reason
    assert "dspy: " in health.reason
    sick = hybrid(dspy=Sick())
    sick.create_program(SPEC)
    health = sick.health_check()
    assert not health
    assert health.reason == "dspy: gone"


# Going


def test_deleting_frees_the_id_everywhere() -> None:
    dspy, native = FakeDspy(), NativeAdapter()
    adapter = HybridAdapter(LM, backends={"dspy": dspy, "native": native})
    for _ in range(2):
        adapter.create_program(SPEC)
        assert (list(dspy.specs), native.list_programs()) == (["p"], ["p"])
        adapter.delete_program("p")
        assert (list(dspy.specs), native.list_programs()) == ([], [])
    with pytest.raises(ProgramError):
        adapter.delete_program("p")


def test_a_program_that_lost_its_dspy_side_can_be_deleted() -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy()))
    adapter.create_program(SPEC)
    dspy.delete_program("p")
    with pytest.raises(ProgramError):
        adapter.execute_program("p", UNSURE)
    adapter.delete_program("p")
    adapter.create_program(SPEC)


def test_a_deleted_program_makes_no_side_any_more() -> None:
    adapter = hybrid(dspy=(dspy := FakeDspy()), lm=False)
    adapter.create_program(SPEC)
    held = adapter._store.items["p"]
    adapter.delete_program("p")
    with pytest.raises(ProgramError):
        held.runner.call(UNSURE, {"backend": "dspy"})  # type: ignore[attr-defined]
    assert dspy.specs == {}


def test_given_backends_stay_open_and_made_ones_do_not() -> None:
    dspy = FakeDspy()
    adapter = HybridAdapter(LM, backends={"dspy": dspy})
    adapter.create_program(SPEC)
    native = adapter._backends.native()
    adapter.close()
    adapter.close()
    assert (native.closed, dspy.closed, dspy.specs) == (True, False, {})
    with pytest.raises(ProgramError, match="closed"):
        adapter.create_program(SPEC)


def test_one_dspy_side_for_many_first_calls() -> None:
    made = []

    class Slow(FakeDspy):
        def create_program(self, spec: Any) -> str:
            made.append(ProgramSpec.of(spec).id)
            threading.Event().wait(0.02)
            return super().create_program(spec)

    adapter = hybrid(dspy=Slow(), lm=False)
    adapter.create_program(SPEC)
    adapter.configure_lm({"model": "test/none"})
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: str(adapter.execute_program("p", UNSURE).route), range(16)))
    assert (set(found), made) == ({"dspy"}, ["p"])


def test_counts_are_whole_under_threads() -> None:
    adapter = hybrid()
    adapter.create_program(SPEC)
    rows = [SURE, UNSURE, ROW] * 40

    def work(number: int) -> None:
        for inputs in rows:
            adapter.execute_program("p", inputs)
            adapter.get_stats()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    stats = adapter.get_stats()
    assert stats["calls"] == 480
    assert stats["routing"]["routes"] == {"native": 320, "dspy": 160}
