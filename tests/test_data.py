"""Reading rows: every format, every type of cell, and every way in which a file can be wrong."""

from __future__ import annotations

import enum
import io
import json
import sys
from types import SimpleNamespace

import pytest

from dspex import demo
from dspex.data import class_finder, iter_rows, read_rows
from dspex.errors import ConfigError, InputError
from dspex.signature import Signature


class Team(enum.Enum):
    SALES = "sales"
    HELP = "help desk"


PLAIN = Signature.of("text -> label")
TYPED = Signature.of(
    {
        "inputs": {"text": "str", "age": "int", "weight": "float", "new": "bool", "vec": "list[float]"},
        "outputs": {
            "label": ["a", "b"],
            "level": "Literal[1, 2]",
            "flag": "Literal[True, None]",
            "tags": "list[Literal['x', 'y', 'z']]",
            "team": Team,
            "free": "list[str]",
        },
    }
)
HEADER = "text,age,weight,new,vec,label,level,flag,tags,team,free\n"


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def failure(path, signature=PLAIN, **options):
    with pytest.raises(InputError) as caught:
        read_rows(path, signature, **options)
    return caught.value


# What can be read


def test_jsonl_keeps_the_fields_of_the_signature(tmp_path):
    path = put(tmp_path, "d.jsonl", '{"id": 1, "label": "a", "text": "één"}\n\n  \n{"text": "b", "label": 2}')
    assert read_rows(path, PLAIN) == [{"text": "één", "label": "a"}, {"text": "b", "label": 2}]
    assert read_rows(path, PLAIN, outputs=False) == [{"text": "één"}, {"text": "b"}]
    assert read_rows(path)[0] == {"id": 1, "label": "a", "text": "één"}


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
def test_a_byte_order_mark_and_windows_line_ends_are_not_data(tmp_path, name):
    body = {"d.jsonl": '{"text": "x", "label": "a"}\r\n', "d.csv": "text,label\r\nx,a\r\n"}[name]
    path = put(tmp_path, name, b"\xef\xbb\xbf" + body.encode())
    assert read_rows(path, PLAIN) == [{"text": "x", "label": "a"}]


def test_csv_cells_become_values_of_their_fields(tmp_path):
    rows = (
        '"a ""b"", c\nd",-3,1.5e3,Yes,"[1, 2.5]",a,2,true,x|z,sales,"[""p|q"", ""r""]"\n'
        ",+7,2,0,[],b,1,None,,HELP,p | q\n"
    )
    path = put(tmp_path, "d.csv", HEADER + rows)
    first, second = read_rows(path, TYPED)
    assert first == {
        "text": 'a "b", c\nd', "age": -3, "weight": 1500.0, "new": True, "vec": [1.0, 2.5], "label": "a",
        "level": 2, "flag": True, "tags": ["x", "z"], "team": Team.SALES, "free": ["p|q", "r"],
    }  # fmt: skip
    assert second == {
        "text": "", "age": 7, "weight": 2.0, "new": False, "vec": [], "label": "b",
        "level": 1, "flag": None, "tags": [], "team": Team.HELP, "free": ["p", "q"],
    }  # fmt: skip


def test_tsv_columns_in_any_order(tmp_path):
    path = put(tmp_path, "d.tsv", "label\tx\ttext\na\t1\thello, you\n\n")
    assert read_rows(path, PLAIN) == [{"text": "hello, you", "label": "a"}]


def test_csv_without_a_signature_is_text(tmp_path):
    assert read_rows(put(tmp_path, "d.csv", "a,b\n1,true\n")) == [{"a": "1", "b": "true"}]


def test_long_cells(tmp_path):
    path = put(tmp_path, "d.csv", "text,label\n" + "x" * 1_000_000 + ",a\n")
    assert len(read_rows(path, PLAIN)[0]["text"]) == 1_000_000


def test_line_breaks_that_are_only_unicode_do_not_end_a_row(tmp_path):
    path = put(tmp_path, "d.jsonl", json.dumps({"text": "a\u2028b\x85c", "label": "x"}, ensure_ascii=False))
    assert read_rows(path, PLAIN)[0]["text"] == "a\u2028b\x85c"


def test_classes_that_were_learned_do_not_limit_a_file(tmp_path):
    learned = PLAIN.with_classes("label", ["a", "b"])
    assert read_rows(put(tmp_path, "d.csv", "text,label\nx,c\n"), learned)[0]["label"] == "c"


def test_standard_input_is_jsonl(monkeypatch):
    data = io.BytesIO(b'{"text": "x", "label": "a"}\n')
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data))
    assert read_rows("-", PLAIN) == [{"text": "x", "label": "a"}]


def test_format_overrides_the_ending(tmp_path):
    path = put(tmp_path, "d.txt", "text,label\nx,a\n")
    assert read_rows(path, PLAIN, format="csv") == [{"text": "x", "label": "a"}]


def test_rows_come_one_at_a_time(tmp_path):
    rows = iter_rows(put(tmp_path, "d.jsonl", '{"text": "x", "label": "a"}\nbroken'), PLAIN)
    assert next(rows)["text"] == "x"
    with pytest.raises(InputError):
        next(rows)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    table = pyarrow.table({"label": ["a", "b"], "text": ["x", None], "id": [1, 2], "tags": [["p"], []]})
    parquet.write_table(table, path)
    assert read_rows(path, PLAIN) == [{"text": "x", "label": "a"}, {"text": None, "label": "b"}]
    assert read_rows(path)[1]["tags"] == []
    error = failure(path, Signature.of("text -> lable"))
    assert error.field == "lable"
    assert "'label'" in error.hint
    assert "cannot be read as Parquet" in failure(put(tmp_path, "x.parquet", b"PAR1 nonsense")).message


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"dspex\[parquet\]"):
        read_rows(put(tmp_path, "d.parquet", b""), PLAIN)


def test_class_finder():
    team, level = class_finder(TYPED.outputs["team"]), class_finder(TYPED.outputs["level"])
    assert [team(v) for v in ("sales", "HELP", Team.HELP, "x")] == [Team.SALES, Team.HELP, Team.HELP, "x"]
    assert [level(v) for v in (1, "2", 3, [1])] == [1, 2, 3, [1]]
    assert level(True) is True
    assert level(1.0) == 1.0


# What cannot


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 1}", "line 3: not valid JSON at character 2"),
        ('["x", "a"]', "line 3: a row must be a JSON object, not a list"),
        ("null", "not null"),
        ("3", "not a number"),
        ('{"text": "x", "text": "y", "label": "a"}', "the key 'text' occurs twice"),
        ('{"text": "x"}', "line 3: 'label' is missing"),
        ("[" * 200_000, "line 3"),
    ],
)
def test_bad_jsonl_says_line_and_row(tmp_path, line, message):
    error = failure(put(tmp_path, "d.jsonl", '{"text": "x", "label": "a"}\n\n' + line + "\n"))
    assert message in error.message
    assert error.row == 1


def test_misspelt_columns_are_recognised(tmp_path):
    error = failure(put(tmp_path, "d.jsonl", '{"text": "x", "lable": "a"}'))
    assert (error.field, error.hint) == ("label", "Did you mean 'lable'?")
    error = failure(put(tmp_path, "d.csv", "txt,label\nx,a\n"))
    assert (error.field, error.row, error.hint) == ("text", None, "Did you mean 'txt'?")
    assert "';'" in failure(put(tmp_path, "s.csv", "text;label\nx;a\n")).hint


def test_json_over_several_lines_gets_a_hint(tmp_path):
    error = failure(put(tmp_path, "d.json", '[\n  {"text": "x"}\n]'))
    assert "each row on one line" in error.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [("d.jsonl", ""), ("d.jsonl", "\n\n"), ("d.csv", ""), ("d.csv", "text,label\n"), ("d.tsv", "\n")],
)
def test_empty_files(tmp_path, name, content):
    assert "holds no" in failure(put(tmp_path, name, content)).message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x,a\n\ny,a,b\n", "line 4: 3 cells where the header has 2 columns"),
        ("x,a\ny\n", "line 3: 1 cells"),
        ('x,a\n"never closed,a\n', "broken record from line 3"),
        ('"x"y,a\n', "broken record from line 2"),
        ("x,a\ny,\n", "line 3: the cell is empty"),
    ],
)
def test_ragged_and_broken_csv(tmp_path, body, message):
    assert message in failure(put(tmp_path, "d.csv", "text,label\n" + body)).message


def test_a_column_twice(tmp_path):
    assert "occurs twice" in failure(put(tmp_path, "d.csv", "text,label,text\nx,a,y\n")).message


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("age", "1.5", "'1.5' is not a whole number"),
        ("age", "1_0", "not a whole number"),
        ("age", "-+1", "not a whole number"),
        ("age", "", "the cell is empty"),
        ("weight", "nan", "not a finite number"),
        ("weight", "1_0", "not a finite number"),
        ("weight", "a lot", "not a finite number"),
        ("new", "maybe", "not a bool"),
        ("vec", "1 2", "JSON list of numbers"),
        ("vec", '"[1, ""2""]"', "JSON list of numbers"),
        ("label", "aa", "'aa' is not one of the 2 classes. Did you mean 'a'?"),
        ("level", "3", "is not one of the 2 classes"),
        ("tags", "x|w", "'w' is not one of the 3 classes"),
        ("tags", "x||y", "the cell is empty"),
        ("tags", "[x", "not a JSON list of labels"),
        ("team", "SALE", "Did you mean"),
    ],
)
def test_cells_that_do_not_fit_their_field(tmp_path, column, cell, message):
    cells = ["t", "1", "1", "1", "[1]", "a", "1", "true", "x", "sales", "p"]
    good = dict(zip(HEADER.strip().split(","), cells, strict=True))
    rows = [",".join(good.values()), ",".join((good | {column: cell}).values())]
    error = failure(put(tmp_path, "d.csv", HEADER + "\n".join(rows)), TYPED)
    assert message in error.message
    assert (error.field, error.row) == (column, 1)
    assert "line 3" in error.message


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
def test_files_that_are_not_utf8(tmp_path, name):
    good = {"d.jsonl": '{"text": "é", "label": "a"}\n', "d.csv": "text,label\né,a\n"}[name]
    assert "(0xe9) is not UTF-8" in failure(put(tmp_path, name, good.encode("latin-1"))).message
    assert "UTF-16" in failure(put(tmp_path, name, good.encode("utf-16"))).message


def test_files_that_are_not_there(tmp_path):
    assert "No such file" in failure(tmp_path / "none.jsonl").message
    (tmp_path / "folder.csv").mkdir()
    assert "directory" in failure(tmp_path / "folder.csv").message


def test_unknown_formats(tmp_path):
    with pytest.raises(ConfigError, match=r"'.xlsx'.*Known endings: .jsonl"):
        read_rows(tmp_path / "d.xlsx", PLAIN)
    with pytest.raises(ConfigError, match=r"unknown data format 'cvs'.*'csv'"):
        read_rows(tmp_path / "d.csv", PLAIN, format="cvs")


# The example set


def test_demo_set_is_what_it_says():
    rows = demo.load()
    train, held_out = demo.split()
    labels = [row["label"] for row in rows]
    assert len(rows) >= 660
    assert len(set(labels)) == 12
    assert min(labels.count(label) for label in set(labels)) >= 55
    assert len({row["text"].casefold() for row in rows}) == len(rows)
    assert all(set(row) == {"text", "label"} and row["text"].strip() for row in rows)
    assert len(set(labels[:40])) > 6, "classes are mixed"
    assert len(train) + len(held_out) == len(rows)
    assert {row["label"] for row in held_out} == set(labels)
    assert 0.19 < len(held_out) / len(rows) < 0.21
    assert demo.split() == (train, held_out)
