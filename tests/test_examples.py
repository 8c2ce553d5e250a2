"""The README, the documentation and the examples do what they say.

The Python blocks of a page run in order and share a namespace. A comment behind or below a statement is
checked: ``# -> text`` is the repr of its value, ``# raises Name: text`` its error; ``...`` is anything.
The shell lines that begin with ``dspex`` run too, beside two files of examples.
"""

from __future__ import annotations

import ast
import dataclasses
import doctest
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex import demo
from dspex.cli.main import main
from dspex.learning.options import FitOptions

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"#\s*(->|raises)\s+(.*)$")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#]+)[^)]*\)")


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks of a language, each moved down to the line that it has on the page."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in FENCE.finditer(text) if match[1] == language]
    return ["\n" * text[: match.start(2)].count("\n") + match[2] for match in found]


def with_blocks(language: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if blocks(page, language)]
    assert pages, "a checkout holds the documentation"
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


def promise(lines: list[str], statement: ast.stmt) -> tuple[str, str] | None:
    """What the comment behind the statement, or alone on the next line, says will come of it."""
    end = statement.end_lineno or statement.lineno
    for line in (lines[end - 1], *(text for text in lines[end : end + 1] if text.startswith("#"))):
        if found := COMMENT.search(line):
            return found[1], found[2]
    return None


def same(want: str, got: str) -> bool:
    return doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS)


def run(statement: ast.stmt, where: str, namespace: dict[str, Any], promised: tuple[str, str] | None) -> None:
    if promised is None:
        exec(compile(ast.Module([statement], []), where, "exec"), namespace)
        return
    assert isinstance(statement, ast.Expr), f"{where}:{statement.lineno}: only an expression has a value"
    code = compile(ast.Expression(statement.value), where, "eval")
    kind, want = promised
    try:
        got = repr(eval(code, namespace))
    except Exception as error:
        if kind != "raises":
            raise
        got = f"{type(error).__name__}: {error}"
    else:
        assert kind == "->", f"{where}:{statement.lineno}: nothing was raised: {got}"
    assert same(want, got), f"{where}:{statement.lineno}: {got}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the example set as files."""
    for name, rows in zip(("train", "unseen"), demo.split(), strict=True):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # importing DSPy warns, depending on its version
@with_blocks("python")
def test_python_blocks(page: Path, folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        for statement in ast.parse(block).body:
            run(statement, page.name, namespace, promise(block.splitlines(), statement))


@with_blocks("sh")
def test_commands(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        if line.startswith("dspex "):
            assert main(shlex.split(line, comments=True)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []


def test_every_option_of_fit_is_explained() -> None:
    text = (ROOT / "docs" / "native-engine.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", text, re.MULTILINE))))
    assert {field.name for field in dataclasses.fields(FitOptions)} - rows == set()


def test_every_error_is_explained() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert [name for name in dspex.errors.__all__ if name != "nearest" and f"`{name}`" not in text] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


CHECKED = """
from typing import Any, assert_type

import dspex

program = dspex.fit("text -> label", [], seed=1, c=2.0)
assert_type(program, dspex.Program)
answer = program(text="")
assert_type(answer, dspex.Result)
assert_type(answer.confidence, float | None)
assert_type(answer.route, dspex.Route)
assert_type(answer.route.reason, str)
assert_type(answer["label"], Any)
assert_type(answer.probabilities("label"), dict[Any, float])
assert_type(dict(answer), dict[str, Any])
assert_type(program.batch([{"text": ""}]), list[dspex.Result])
assert_type(dspex.load("x"), dspex.Program)
assert_type(dspex.execute_program(dspex.create_program({}), {}), dspex.Result)
dspex.no_such_name  # type: ignore[attr-defined]
answer.confidence + 1  # type: ignore[operator]
program.predict("text")  # type: ignore[arg-type]
"""


def test_what_users_write_is_typed(tmp_path: Path) -> None:
    """Strictly, against the installed package: its stubs and its py.typed have to be there."""
    pytest.importorskip("mypy")
    (tmp_path / "checked.py").write_text(CHECKED, encoding="utf-8")
    env = {**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    if ROOT in Path(dspex.__file__).parents:  # installed editable: mypy does not follow its import hook
        env["MYPYPATH"] = str(ROOT / "src")
    files = [str(tmp_path / "checked.py"), *map(str, EXAMPLES)]
    settings = tmp_path / "mypy.ini"  # as of a user's project: DSPy has no types
    settings.write_text("[mypy]\nstrict = true\n[mypy-dspy.*]\nignore_missing_imports = true\n")
    command = [sys.executable, "-m", "mypy", f"--config-file={settings}", *files]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
