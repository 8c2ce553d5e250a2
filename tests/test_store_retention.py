"""What is dropped is gone from the file, and audits are dropped, too."""

from __future__ import annotations

from pathlib import Path

from dspex import Signature
from dspex.distill.store import Audit, Store
from dspex.distill.trace import Answer, Trace

SIGNATURE = Signature.of("text -> label: Literal['a', 'b']")


def files(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.iterdir() if path.is_file())


def test_what_is_too_old_is_not_in_the_file_and_the_file_is_smaller(tmp_path: Path) -> None:
    with Store.open(tmp_path, SIGNATURE, {"max_age": 10.0}, clock=lambda: 5.0) as store:
        store.add([Trace({"text": f"private {n} " + "x" * 500}, Answer({"label": "a"})) for n in range(2000)])
    size = (tmp_path / "store.sqlite3").stat().st_size
    assert b"private 7 " in files(tmp_path)
    with Store.open(tmp_path, SIGNATURE, {"max_age": 10.0}, clock=lambda: 50.0) as store:
        assert store.prune() == 2000
        store.check()
    assert b"private" not in files(tmp_path)
    assert (tmp_path / "store.sqlite3").stat().st_size < size / 5


def test_audits_are_kept_as_long_as_traces(tmp_path: Path) -> None:
    audits = [Audit(float(n), 1, "live", None, {"label": "a"}, {"label": "a"}, False) for n in range(50)]
    with Store.open(tmp_path, SIGNATURE, {"max_rows": 40}, clock=lambda: 50.0) as store:
        store.add_audits(audits)
        store.prune()
        assert [audit.at for audit in store.audits()] == [float(n) for n in range(10, 50)]
    with Store.open(tmp_path, SIGNATURE, {"max_age": 5.0}, clock=lambda: 50.0) as store:
        store.prune()
        assert [audit.at for audit in store.audits()] == [45.0, 46.0, 47.0, 48.0, 49.0]
    with Store.open(tmp_path, SIGNATURE, {"max_rows": None}, clock=lambda: 1e9) as store:
        assert store.prune() == 0
        assert len(list(store.audits())) == 5
