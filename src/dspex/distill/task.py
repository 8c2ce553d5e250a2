"""What of a home's signature is learned."""

from __future__ import annotations

from collections.abc import Iterable

from dspex.distill.store import Store
from dspex.program import load
from dspex.signature import Signature

__all__ = ["learned_signature", "with_outputs"]


def with_outputs(signature: Signature, outputs: Iterable[str]) -> Signature:
    """The signature with these of its outputs only."""
    kept = set(outputs)
    fields = [f for f in signature.fields.values() if f.role == "input" or f.name in kept]
    return Signature(fields, instructions=signature.instructions, name=signature.name)


def learned_signature(store: Store) -> Signature:
    """The home's signature with the outputs that its newest certified version learned.

    Where there is none, with those that the home keeps as learned, or else all. Which outputs are left to the
    teacher is decided when a program is compiled.

    Raises:
        ModelFileError: the version's file is missing or damaged.
    """
    for record in reversed(store.versions()):
        if record.status == "ready":
            return with_outputs(store.signature, load(store.version_file(record.number)).signature.outputs)
    kept = store.learned_outputs()
    return with_outputs(store.signature, kept) if kept else store.signature
