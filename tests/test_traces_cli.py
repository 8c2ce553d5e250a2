"""``dspex traces import``, ``export`` and ``stats``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dspex.cli.main import main
from dspex.distill.store import Store

SIGNATURE = "text -> label: Literal['a', 'b']"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{n}", "label": "ab"[n % 2]}) + "\n" for n in range(2500)))
    return path


def facts(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert main(["traces", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main(["traces", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_in_counted_and_out_again(capsys: pytest.CaptureFixture[str], tmp_path: Path, rows: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out.jsonl"
    made = facts(capsys, "import", home, rows, "--signature", SIGNATURE, "--calibrate", "0.2", "--seed", "3")
    assert (made["read"], made["new_rows"], made["rows"], made["skipped"]) == (2500, 2500, 2500, 0)
    stats = facts(capsys, "stats", home)
    assert 400 < stats["calibrate"] == stats["fresh"] < 600
    assert (stats["rows"], stats["stage"], stats["by_source"]) == (2500, "teacher", {"jsonl": 2500})
    again = facts(capsys, "import", home, rows, "--calibrate", "0.5", "--seed", "4")
    assert (again["read"], again["new_rows"]) == (2500, 0)
    assert facts(capsys, "stats", home) == stats
    assert facts(capsys, "export", home, out) == {"file": str(out), "rows": 2500}
    again = facts(capsys, "import", home, out)
    assert again["new_rows"] == 0
    assert facts(capsys, "stats", home) == stats
    other = tmp_path / "other"
    facts(capsys, "import", other, out, "--signature", SIGNATURE)
    with Store.open(home, read_only=True) as one, Store.open(other, read_only=True) as two:
        assert list(one.traces()) == list(two.traces())


def test_text_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path, rows: Path) -> None:
    rows.write_text(rows.read_text() + '{"text": "x", "label": "c"}\n')
    home = str(tmp_path / "home")
    assert main(["traces", "import", home, str(rows), "--signature", SIGNATURE, "--skip-errors"]) == 0
    text = capsys.readouterr().out
    assert "read         2,500" in text
    assert "skipped      1" in text
    assert "'c' is not one of its" in text or "line 2501" in text
    assert main(["traces", "stats", home]) == 0
    assert "  jsonl      2,500" in capsys.readouterr().out


def test_spans(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    span = {"name": "Predict.forward", "span_id": "1", "inputs": {"text": "x"}, "outputs": {"label": "b"}}
    (tmp_path / "mlflow.json").write_text(json.dumps({"info": {"trace_id": "t"}, "data": {"spans": [span]}}))
    attributes = {"input.value": '{"text": "y"}', "output.value": '{"label": "b"}'}
    (tmp_path / "otel.json").write_text(json.dumps({**span, "trace_id": "u", "attributes": attributes}))
    for name in ("mlflow", "otel"):
        made = facts(
            capsys,
            "import",
            tmp_path / "home",
            tmp_path / f"{name}.json",
            "--format",
            name,
            "--signature",
            SIGNATURE,
        )
        assert made["new_rows"] == 1
    assert facts(capsys, "stats", tmp_path / "home")["by_source"] == {"mlflow": 1, "otel": 1}


def test_what_goes_wrong_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, rows: Path) -> None:
    home = tmp_path / "home"
    assert "no store" in refused(capsys, "stats", home)
    assert "no store" in refused(capsys, "export", home, tmp_path / "out")
    assert "no store" in refused(capsys, "import", home, rows)
    assert "a share" in refused(capsys, "import", home, rows, "--calibrate", "1.5")
    assert "invalid choice" in refused(capsys, "import", home, rows, "--format", "csv")
    assert not home.exists()
    facts(capsys, "import", home, rows, "--signature", SIGNATURE)
    assert "another signature" in refused(capsys, "import", home, rows, "--signature", "text -> label: bool")
    rows.write_text('{"text": "x", "label": "a"}\n{"text": "x", "label": 3}\n')
    assert "line 2: output 'label'" in refused(capsys, "import", home, rows)
    os.truncate(home / "store.sqlite3", 5000)
    assert "damaged" in refused(capsys, "stats", home)
