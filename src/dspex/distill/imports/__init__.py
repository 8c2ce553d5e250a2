"""Recorded calls of a program as traces: from JSONL, from MLflow, from OpenTelemetry."""

from __future__ import annotations

from dspex.distill.imports.jsonl import read_jsonl
from dspex.distill.imports.mlflow import read_mlflow
from dspex.distill.imports.otel import read_otel
from dspex.distill.imports.reading import Problem, Reading

__all__ = ["Problem", "Reading", "read_jsonl", "read_mlflow", "read_otel"]
