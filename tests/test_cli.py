"""The command line as a user types it, run inside the test for speed; see also test_cli_process.py."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest

import dspex
from dspex import demo
from dspex.cli import main as main_module
from dspex.cli.main import main
from dspex.errors import InputError

TEXT = "I locked the bike but my ride is still running"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data files, and programs fitted on them through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    train, held_out = demo.split()
    write(folder / "train.jsonl", train)
    write(folder / "dev.jsonl", held_out)
    with_subject = [
        {"subject": row["label"].split("_")[0], "text": row["text"], "label": row["label"],
         "urgent": row["label"] == "accident", "length": len(row["text"]) / 10}
        for row in train[:300]
    ]  # fmt: skip
    write(folder / "many.jsonl", with_subject)
    tags = [{"text": row["text"], "tags": row["label"].split("_")[:2]} for row in train[:300]]
    write(folder / "tags.jsonl", tags)
    fits = {
        "one": ("train.jsonl", "text -> label"),
        "many": ("many.jsonl", "subject, text -> label, urgent: bool, length: float"),
        "tags": ("tags.jsonl", "text -> tags: list[str]"),
    }
    for name, (data, signature) in fits.items():
        out = str(folder / f"{name}.dspex")
        assert main(["fit", str(folder / data), "-s", signature, "-o", out, "--threads", "1"]) == 0
    return folder


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Runs a command inside the folder; gives the code and what it printed."""
    monkeypatch.chdir(folder)

    def run(*argv, stdin=b""):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        capsys.readouterr()
        code = main(list(argv))
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, json=lambda: json.loads(out))

    return run


def failure(result):
    """The one line that a failed command prints."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("dspex: ")
    assert result.err.count("\n") == 1
    return result.err


# fit


def test_fit_says_what_it_did(run, folder):
    result = run("fit", "train.jsonl", "-s", "text -> label", "-o", "again.dspex", "--threads", "1")
    assert result.code == 0
    assert "label (12 classes)" in result.out
    assert "again.dspex" in result.out
    assert (folder / "again.dspex").stat().st_size > 1000


def test_fit_as_json(run, folder):
    rows = len((folder / "train.jsonl").read_text().splitlines())
    result = run("fit", "train.jsonl", "-s", "text -> label", "-o", "again.dspex", "--seed", "3", "--json")
    facts = result.json()
    assert facts["n"] == rows
    assert facts["seconds"] > 0
    assert facts["file_bytes"] == (folder / "again.dspex").stat().st_size
    assert facts["program"]


def test_fit_takes_a_signature_as_json_or_from_a_file(run, folder):
    classes = sorted({row["label"] for row in demo.load()})
    mapping = json.dumps({"inputs": {"text": "str"}, "outputs": {"label": classes}})
    (folder / "signature.json").write_text(mapping)
    for signature in (mapping, "@signature.json"):
        assert run("fit", "train.jsonl", "-s", signature, "-o", "json.dspex").code == 0
        assert list(dspex.load(folder / "json.dspex").signature.outputs["label"].classes) == classes


def test_fit_reads_csv_and_standard_input(run, folder):
    rows = demo.load()[:240]
    lines = ['"' + row["text"].replace('"', '""') + f'",{row["label"]}' for row in rows]
    (folder / "small.csv").write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    assert run("fit", "small.csv", "-s", "text -> label", "-o", "csv.dspex").code == 0
    stream = (folder / "train.jsonl").read_bytes()
    assert run("fit", "-", "-s", "text -> label", "-o", "stdin.dspex", stdin=stream).code == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit", "train.jsonl", "-o", "x.dspex"], "-s/--signature"),
        (["fit", "train.jsonl", "-s", "text -> label"], "-o/--output"),
        (["fit", "train.jsonl", "-s", "text - label", "-o", "x.dspex"], "[signature]"),
        (["fit", "train.jsonl", "-s", "{bad", "-o", "x.dspex"], "not valid JSON"),
        (["fit", "train.jsonl", "-s", "@none.json", "-o", "x.dspex"], "none.json cannot be read"),
        (["fit", "none.jsonl", "-s", "text -> label", "-o", "x.dspex"], "No such file"),
        (["fit", "train.jsonl", "-s", "txt -> label", "-o", "x.dspex"], "Did you mean 'text'?"),
        (["fit", "train.jsonl", "-s", "text -> label", "-o", "no/x.dspex"], "no directory"),
        (["fit", "train.jsonl", "-s", "text -> label", "-o", "."], "is a directory"),
        (["fit", "train.jsonl", "-s", "text -> label", "-o", "x.dspex", "--set", "seed=1"], "Use --seed"),
        (["fit", "train.jsonl", "-s", "text -> label", "-o", "x.dspex", "--set", "a"], "OPTION=VALUE"),
        (["fit", "train.jsonl", "-s", "text -> label", "-o", "x.dspex", "--set", "no_such=1"], "no_such"),
        (["fit", "train.jsonl", "-s", "text -> label", "-o", "x.dspex", "--seed", "x"], "--seed"),
        (["fit", "train.jsonl", "-s", "text -> label", "-o", "x.dspex", "--sed", "1"], "--sed"),
    ],
)
def test_fit_refuses(run, folder, argv, message):
    assert message in failure(run(*argv))
    assert not (folder / "x.dspex").exists()


def test_fit_hands_options_on(run, monkeypatch):
    seen = {}

    def fit(signature, rows, **options):
        seen.update(options)
        raise InputError("enough")

    monkeypatch.setattr(dspex, "fit", fit)
    pairs = ["--set", "a=1", "--set", "b=word", "--set", "c=[1, true]", "--set", 'd="1"']
    run("fit", "train.jsonl", "-s", "text -> label", "-o", "x.dspex", "--seed", "7", "--threads", "2", *pairs)
    expected = {"seed": 7, "threads": 2, "a": 1, "b": "word", "c": [1, True], "d": "1"}
    assert {key: seen[key] for key in expected} == expected


# eval


def test_eval_of_classes(run):
    result = run("eval", "one.dspex", "dev.jsonl", "--json")
    figures = result.json()
    assert figures["n"] == len(demo.split()[1])
    assert 0.75 < figures["accuracy"] <= 1
    assert 0.75 < figures["macro_f1"] <= 1
    assert 0 <= figures["ece"] < 0.2
    coverage = figures["coverage"]
    assert list(coverage) == ["0.95", "0.98", "0.99"]
    assert 1 >= coverage["0.95"] >= coverage["0.98"] >= coverage["0.99"] >= 0
    assert len(figures["classes"]) == 12
    assert sum(score["support"] for score in figures["classes"]) == figures["n"]
    assert figures["outputs"]["label"]["accuracy"] == figures["accuracy"]


def test_eval_figures_are_those_of_the_answers(run, folder):
    figures = run("eval", "one.dspex", "dev.jsonl", "--json").json()
    program = dspex.load(folder / "one.dspex")
    rows = demo.split()[1]
    right = [program(text=row["text"]).label == row["label"] for row in rows]
    assert figures["accuracy"] == pytest.approx(sum(right) / len(right))


def test_eval_as_text(run):
    result = run("eval", "one.dspex", "dev.jsonl")
    assert result.code == 0
    for part in ("accuracy", "macro-F1", "calibration error", "coverage at 98 %", "precision", "end_ride"):
        assert part in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_eval_of_several_outputs(run):
    figures = run("eval", "many.dspex", "many.jsonl", "--json").json()
    assert set(figures) == {"n", "outputs"}
    outputs = figures["outputs"]
    assert outputs["urgent"]["accuracy"] > 0.9
    assert {"macro_f1", "ece", "coverage"} <= set(outputs["urgent"])
    assert set(outputs["length"]) == {"mae"}
    assert outputs["length"]["mae"] < 3
    text = run("eval", "many.dspex", "many.jsonl").out
    assert "output urgent" in text
    assert "mean absolute error" in text


def test_eval_of_several_labels(run):
    figures = run("eval", "tags.dspex", "tags.jsonl", "--json").json()
    assert figures["micro_f1"] > 0.5
    assert figures["ece"] < 0.3
    assert "micro-F1" in run("eval", "tags.dspex", "tags.jsonl").out


def test_eval_names_classes_that_the_program_never_saw(run, folder):
    write(
        folder / "new.jsonl", [{"text": TEXT, "label": "end_ride"}, {"text": "hello there", "label": "hello"}]
    )
    figures = run("eval", "one.dspex", "new.jsonl", "--json").json()
    assert figures["unknown_labels"] == ["hello"]
    assert figures["accuracy"] <= 0.5
    assert "not in the program  hello" in run("eval", "one.dspex", "new.jsonl").out


@pytest.mark.parametrize(
    ("program", "row", "message"),
    [
        ("one", {"text": TEXT}, "'label' is missing"),
        ("one", {"text": TEXT, "label": 3}, "cannot be a class"),
        ("many", {"urgent": "yes"}, "'yes' is not a bool"),
        ("many", {"length": True}, "not a finite number"),
        ("tags", {"text": TEXT, "tags": "a"}, "not a list of labels"),
        ("tags", {"text": TEXT, "tags": [["a"]]}, "cannot be a class"),
    ],
)
def test_eval_refuses_wrong_answers_of_the_wrong_type(run, folder, program, row, message):
    whole = {"subject": "s", "text": TEXT, "label": "end_ride", "urgent": False, "length": 1.0}
    rows = [whole, whole | row] if program == "many" else [row]
    write(folder / "bad.jsonl", rows)
    line = failure(run("eval", f"{program}.dspex", "bad.jsonl"))
    assert message in line
    assert f"row {len(rows) - 1}" in line


# predict


def test_predict_texts_as_arguments(run):
    result = run("predict", "one.dspex", TEXT, "where is\tmy refund?")
    first, second = (line.split("\t") for line in result.out.splitlines())
    assert first[0] == "end_ride"
    assert 0 < float(first[1]) <= 1
    assert first[2] == TEXT
    assert second[0] == "refund_status"
    assert second[2] == "where is my refund?"


def test_predict_as_json(run):
    answer = run("predict", "one.dspex", TEXT, "--json").json()
    assert "end_ride" in json.dumps(answer)
    assert answer["inputs"] == {"text": TEXT}
    assert 0 < answer["confidence"] <= 1
    assert "probabilities" not in answer
    answer = run("predict", "one.dspex", TEXT, "--json", "--probabilities").json()
    shares = answer["probabilities"]["label"]
    assert len(shares) == 12
    assert max(shares, key=shares.get) == answer["outputs"]["label"] == "end_ride"
    assert shares["end_ride"] == answer["confidence"]


@pytest.mark.parametrize(
    "stream",
    [
        b"\xef\xbb\xbfwhere is my refund?\r\n\r\n  \nI forgot my password",
        b'{"text": "where is my refund?", "x": 1}\n\n{"text": "I forgot my password"}\n',
    ],
)
def test_predict_lines_of_standard_input(run, stream):
    result = run("predict", "one.dspex", stdin=stream)
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert [line[0] for line in lines] == ["refund_status", "account_access"]
    assert [line[2] for line in lines] == ["where is my refund?", "I forgot my password"]


def test_predict_takes_json_as_text_when_told_to(run):
    result = run("predict", "one.dspex", "--lines", "text", stdin=b'{"text": "x"}\n')
    assert result.out.rstrip("\n").endswith('\t{"text": "x"}')


def test_predict_with_several_inputs(run):
    ways = [
        run("predict", "many.dspex", "--field", "subject=end", "--field", f"text={TEXT}"),
        run("predict", "many.dspex", "--field", "subject=end", TEXT),
        run("predict", "many.dspex", "--field", "subject=end", stdin=TEXT.encode()),
        run("predict", "many.dspex", stdin=json.dumps({"text": TEXT, "subject": "end"}).encode()),
    ]
    assert len({way.out for way in ways}) == 1
    parts = ways[0].out.split("\t")
    assert parts[0].startswith("label=")
    assert parts[1] == "urgent=false"
    assert parts[2].startswith("length=")


@pytest.mark.parametrize(
    ("argv", "stdin", "message"),
    [
        (["many.dspex", TEXT], b"", "a text is left for the inputs subject, text"),
        (["many.dspex"], b"only text\n", "a text is left for the inputs subject, text"),
        (["many.dspex", "--field", "subjet=x", TEXT], b"", "Did you mean 'subject'?"),
        (["many.dspex", "--field", "subject", TEXT], b"", "NAME=VALUE"),
        (["one.dspex", "--field", "text=x", "more"], b"", "--field gives them all"),
        (["one.dspex", "--lines", "json"], b"[1]\n", "standard input line 1"),
        (["one.dspex", "--lines", "json"], b'{"txt": "x"}', "'text' is missing"),
        (["one.dspex"], b"caf\xe9\n", "not UTF-8"),
        (["none.dspex", TEXT], b"", "none.dspex"),
    ],
)
def test_predict_refuses(run, argv, stdin, message):
    assert message in failure(run("predict", *argv, stdin=stdin))


def test_predict_answers_up_to_a_bad_line(run):
    result = run("predict", "one.dspex", stdin=b'{"text": "where is my refund?"}\n{"text": 1\n')
    assert result.code == 2
    assert result.out.startswith("refund_status")
    assert "standard input line 2" in result.err
    assert "row 1" in result.err


# info, bench, demo


def test_info(run):
    facts = run("info", "one.dspex", "--json").json()
    assert facts["file"] == "one.dspex"
    assert facts["file_bytes"] > 1000
    text = run("info", "one.dspex").out
    assert "text -> label" in text
    assert "12: " in text
    assert max(map(len, text.splitlines())) <= 80


def test_bench(run):
    figures = run("bench", "one.dspex", "dev.jsonl", "--calls", "300", "--json").json()
    assert figures["n"] == figures["distinct"] == len(demo.split()[1])
    assert 300 <= figures["calls"] < 300 + figures["n"]
    assert 0 < figures["p50_us"] <= figures["p99_us"]
    assert figures["rows_per_s"] > 1000
    assert 0 < figures["clock_us"] < 50
    text = run("bench", "one.dspex", "dev.jsonl", "--calls", "1").out
    assert "p50" in text
    assert "rows/s" in text


def test_bench_counts_each_text_once(run, folder):
    write(folder / "same.jsonl", [{"text": TEXT}, {"text": TEXT}, {"text": "other words"}])
    figures = run("bench", "one.dspex", "same.jsonl", "--calls", "10", "--json").json()
    assert (figures["n"], figures["distinct"]) == (3, 2)
    assert "--calls" in failure(run("bench", "one.dspex", "same.jsonl", "--calls", "0"))


def test_demo(run):
    result = run("demo", "--threads", "1")
    assert result.code == 0
    assert "\x1b" not in result.out
    for part in ("held out: every fifth", "accuracy", "calibration", "Does it know", "rows/s", "dspex fit"):
        assert part in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_demo_as_json(run):
    figures = run("demo", "--json").json()
    keys = {"accuracy", "macro_f1", "ece", "n", "p50_us", "p99_us", "rows_per_s", "coverage", "train_n"}
    assert keys <= set(figures)
    assert figures["train_n"] + figures["n"] == len(demo.load())
    assert sum(band["n"] for band in figures["bands"]) == figures["n"]
    held_out = {row["text"]: row["label"] for row in demo.split()[1]}
    assert len(figures["examples"]) >= 3
    for example in figures["examples"]:
        assert example["expected"] == held_out[example["text"]]
        assert ("wrong" in example["why"] or "mistake" in example["why"]) == (
            example["label"] != example["expected"]
        )


def test_demo_wants_a_signature_for_its_data(run):
    assert "has a text and a label" in failure(run("demo", "-s", "a -> b"))


# The command itself


@pytest.mark.parametrize(("argv", "message"), [([], "COMMAND"), (["fti"], "'fti'"), (["info"], "FILE")])
def test_wrong_usage_is_one_line(run, argv, message):
    assert message in failure(run(*argv))


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"dspex {dspex.__version__}\n"


def test_interruption(run, monkeypatch):
    def fit(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(dspex, "fit", fit)
    result = run("fit", "train.jsonl", "-s", "text -> label", "-o", "x.dspex")
    assert (result.code, result.out) == (130, "")


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch):
    from dspex.cli.output import bold

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert bold("x") == "x"
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    assert bold("x") == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert bold("x") == "x"


def test_every_command_takes_json_and_explains_itself(capsys):
    for name in main_module._COMMANDS:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert "--json" in capsys.readouterr().out
