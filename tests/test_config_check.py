"""``dspex config check``: says what will happen, and what is wrong, and shows no secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dspex.cli.main import main

FULL = """
lm = "fast"

[lms.fast]
model = "openai/small"
api_key = "env:SOME_KEY"
api_base = "https://user:s3cret@host/v1"
fallbacks = ["strong"]
options = {extra_headers = {key = "s3cret"}}
limits = {requests_per_minute = 300, burst = 5, tokens_per_minute = 9000, concurrency = 16}
retry.attempts = 1
breaker.enabled = false

[lms.strong]
model = "openai/large"
api_key = "s3cret"

[lms.idle]
model = "openai/idle"

[dspy]
timeout = 20
budget = {usd = 50, tokens = 1000}
cache.size = 10
single_flight = true

[dspy_pool]
size = 1
max_size = 4
max_calls = 100
max_memory_mib = 1024

[native_pool]
size = 1
policy = "reject"

[routing]
threshold = 0.8
prefer = "quality"
dspy_pool = true
native_pool = true
hedge_after_ms = 300
latency_budget_ms = 800
max_cost = 0.01
fallback = false

[[routing.rules]]
name = "hard ones"
when = {tag = "hard", kind = "predict", signature = "text -> *"}
use = "dspy"

[[routing.rules]]
when = {operation = "batch", signature = "native"}
use = "native"

[[routing.rules]]
use = "native_pool"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOME_KEY", raising=False)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["config", "check", *options]) == 0
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], text: str = "") -> Any:
    Path("dspex.toml").write_text(text, encoding="utf-8")
    return json.loads(check(capsys, "--json"))


def test_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    shown = check(capsys)
    assert "everything has its default" in shown
    assert "DSPy programs use the LM of dspy.settings" in shown
    assert "other than the defaults" not in shown
    assert "unless dspy.settings has one, every" in shown


def test_everything_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dspex.toml").write_text(FULL, encoding="utf-8")
    monkeypatch.setenv("DSPEX_ROUTING__THRESHOLD", "0.7")
    shown = " ".join(check(capsys).split())
    for part in (
        "environment DSPEX_ROUTING__THRESHOLD",
        "dspex.toml",
        "fast (default) openai/small at https://host/v1; key: from SOME_KEY, which is not set",
        "tries 1, none is repeated",
        "300 requests a minute, 5 at a time, 9000 tokens a minute, 16 under way at once; waits up to 30 s",
        "breaker none",
        "then asks strong",
        "strong openai/large; key: given",
        "tries 3, with pauses of up to 0.5 s, doubling to 20 s; a Retry-After of up to 60 s is waited for",
        "opens when 50% of at least 10 requests failed within 30 s; after 5 s 1 probe",
        "then asks no other",
        "idle openai/idle; key: the provider's own variable",
        "deadline 20 s, with all tries",
        "answers 10 for 300 s; equal inputs at once are asked once",
        "budget 1,000 tokens and $50 of each program within 86400 s",
        "native 1 thread; reject when 1024 calls wait",
        "dspy 1 process, up to 4 when busy; 1024 calls may wait, up to 60 s; replaced after 100 calls or",
        "rule hard ones calls with kind 'predict' and tag 'hard' and a signature like 'text -> *' -> dspy",
        "rule 1 calls with operation batch and a signature that is native -> native",
        "rule 2 every call -> native_pool",
        "programs with a fitted native side -> dspy_pool; the others -> dspy_pool",
        "below 0.7 confidence is asked of dspy_pool",
        "none: where DSPy cannot be asked, the call fails",
        "800 ms for a call",
        "at most $0.01 a call",
        "not answered after 300 ms",
        "routing.threshold 0.7, by default 0.9; from DSPEX_ROUTING__THRESHOLD",
        "dspy.budget.usd 50.0, by default null; from dspex.toml",
        'lms.fast.options ["extra_headers"], by default []',
        "The variable SOME_KEY for the key of LM 'fast' is not set",
        "Asked only by programs that name them: idle",
    ):  # fmt: skip
        assert part in shown, part
    assert "s3cret" not in shown


def test_it_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Path("dspex.toml").write_text(FULL, encoding="utf-8")
    shown = check(capsys).splitlines()
    assert [line for line in shown if len(line) > 80 and "dspex.toml" not in line] == []  # but for its path


def test_json_has_defaults_filled_in_and_no_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret")
    found = facts(capsys, FULL)
    assert "s3cret" not in json.dumps(found)
    assert found["sources"] == [{"kind": "file", "from": [str(folder / "dspex.toml")]}]
    assert found["lm"] == "fast"
    assert found["lms"]["fast"]["api_key"] == "from SOME_KEY"
    assert found["lms"]["fast"]["options"] == ["extra_headers"]
    assert found["dspy_pool"]["max_size"] == 4
    assert found["native_pool"]["capacity"] == 1024
    assert [rule["use"] for rule in found["routing"]["rules"]] == ["dspy", "native", "native_pool"]
    changed = {each["setting"]: (each["value"], each["default"]) for each in found["changed"]}
    assert changed["native_pool.policy"] == ("reject", "block")
    assert changed["dspy.cache.size"] == (10, 0)
    assert changed["routing.threshold"] == (0.8, 0.9)
    assert "lms.fast.model" not in changed
    assert found["warnings"] == ["Asked only by programs that name them: idle"]


def test_a_backend_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    Path("dspex.toml").write_text("[routing]\nbackend = 'dspy'", encoding="utf-8")
    assert "every program runs on dspy; nothing else is looked at" in " ".join(check(capsys).split())


def test_no_gate(capsys: pytest.CaptureFixture[str]) -> None:
    assert facts(capsys, "[routing]\nthreshold = 'none'")["routing"]["gate"].startswith("none")


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[lms.a]\nmodel = 'x'\n[lms.b]\nmodel = 'y'", "several LMs and no default"),
        ("[routing]\nhedge_after_ms = 5", "hedge_after_ms does nothing"),
        ("[lms.a]\nmodel = 'x'\napi_key = 'env:SOME_KEY'", "SOME_KEY for the key of LM 'a' is not set"),
    ],
)
def test_what_is_probably_not_meant(capsys: pytest.CaptureFixture[str], text: str, warning: str) -> None:
    assert any(warning in each for each in facts(capsys, text)["warnings"])


@pytest.mark.parametrize(
    "text",
    ["dspy_pool = true", "native_pool = true", "backend = 'dspy_pool'", "rules = [{use = 'native_pool'}]"],
)
def test_a_hedge_over_a_pool_is_meant(capsys: pytest.CaptureFixture[str], text: str) -> None:
    found = facts(capsys, f"[routing]\nhedge_after_ms = 5\n{text}")
    assert not any("hedge" in each for each in found["warnings"])


def test_a_table_that_is_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pyproject.toml").write_text("[tool.dspex.routing]\nthreshold = 0.1", encoding="utf-8")
    assert not any("is not read" in each for each in json.loads(check(capsys, "--json"))["warnings"])
    assert any("[tool.dspex] of pyproject.toml is not read" in each for each in facts(capsys)["warnings"])


def test_a_file_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.toml").write_text("[routing]\nthreshold = 0.1", encoding="utf-8")
    assert "other.toml" in check(capsys, "--config", "other.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[routing]\ntreshold = 0.8", "unknown setting 'treshold', in dspex.toml"),
        ("[routing", "dspex.toml is not TOML"),
        ("[[routing.rules]]\nuse = 'native'\nwhen.kind = 'react'", "rule 0 can never match"),
        (
            "[[routing.rules]]\nuse = 'dspy'\n[[routing.rules]]\nuse = 'native'",
            "rule 0 and rule 1 contradict",
        ),
    ],
)
def test_errors_end_it(capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    Path("dspex.toml").write_text(text, encoding="utf-8")
    assert main(["config", "check"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: action"),
        (["chek"], "invalid choice: 'chek'"),
        (["check", "--config", "absent.toml"], "there is no file 'absent.toml'"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["config", *arguments]) == 2
    assert message in capsys.readouterr().err
