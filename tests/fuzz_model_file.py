"""Fuzz the model file's reader: mutate valid files and see that each is refused with ModelFileError or loads.

    python tests/fuzz_model_file.py --mutations 100000 --seed 0

A third of the mutations damage the bytes as an accident would, and none of these may load. The rest edit the
header or the data and then recompute length, padding and checksums, so that every check behind the checksum
has to hold on its own (`model_file_tools.py`). Whatever loads is used: each array is read in full, or the
ModelFile is given to a hook (`--use package.module:function`; it may raise DspexError). What loads must also
be acceptable to the safetensors library, if that is installed.

Every mutation depends on the seed and its number alone: `--only NUMBER` repeats one. The file of a mutation
that broke something is kept (`--keep DIRECTORY`), also when the process dies of it. Exit status 0: nothing
broke.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dspex import _modelfile_header as header
from dspex import modelfile
from dspex.errors import DspexError, ModelFileError
from model_file_tools import DAMAGES, EDITS, sample_files

try:
    import safetensors

    deserialize: Callable[[bytes], Any] | None = safetensors.deserialize
except ImportError:
    deserialize = None

Use = Callable[[modelfile.ModelFile], object]


@dataclass
class Tally:
    """What came of the mutations. `unchanged` ones gave the very file they began with, which must load."""

    mutations: int = 0
    rejected: int = 0
    accepted: int = 0
    unchanged: int = 0
    compared: int = 0
    broken: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


def read_in_full(model: modelfile.ModelFile) -> None:
    """The default hook: every array is aligned, read-only, finite, and its every byte can be read."""
    json.dumps(model.meta)
    for name, array in model.arrays.items():
        if array.ctypes.data % header.ALIGNMENT or array.flags.writeable or not array.flags.c_contiguous:
            raise AssertionError(f"{name} is not an aligned read-only view")
        if not np.isfinite(array).all():
            raise AssertionError(f"{name} is not finite")


@dataclass(frozen=True)
class Mutant:
    """A mutated file, and whether it must load or must not (None: it may)."""

    kind: str
    content: bytes
    must_load: bool | None


def mutate(files: Sequence[bytes], seed: int, number: int) -> Mutant:
    rng = random.Random(f"{seed}/{number}")
    original = rng.choices(files, weights=range(2 * len(files), 0, -2))[0]
    mutation = rng.choice(DAMAGES + EDITS)
    content = mutation(original, rng)
    must_load = True if content == original else False if mutation in DAMAGES else None
    return Mutant(mutation.__name__, content, must_load)


def try_mutant(path: Path, mutant: Mutant, use: Use, tally: Tally) -> None:
    """Read one mutated file and count what came of it; whatever is not allowed is raised."""
    path.unlink(missing_ok=True)  # never write into a file that an earlier model may still have mapped
    path.write_bytes(mutant.content)
    try:
        model = modelfile.read_model(path)
    except ModelFileError as error:
        tally.rejected += 1
        tally.reasons[
            re.sub(r"'.*'|\d+", "_", error.message.removeprefix(f"cannot load {str(path)!r}: "))
        ] += 1
        if mutant.must_load or not error.hint:
            raise AssertionError("refused a valid file, or gave no hint") from error
        return
    tally.accepted += 1
    if mutant.must_load is False:
        raise AssertionError("loaded a damaged file")
    with suppress(DspexError):  # a hook may refuse what the file holds
        use(model)
    if deserialize is not None:
        tally.compared += 1
        deserialize(mutant.content)


def fuzz(
    mutations: int, seed: int, use: Use = read_in_full, keep: Path | None = None, only: int | None = None
) -> Tally:
    """Try `mutations` files, or the one numbered `only`; see the tally for what came of them."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary:
        directory = keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        # A hook's module may bring files of its own kind, which reach deeper than the reader.
        own = getattr(sys.modules.get(use.__module__), "program_files", list)
        files = sample_files(directory) + own()
        path = directory / "mutated.dspex"
        for number in range(mutations) if only is None else (only,):
            mutant = mutate(files, seed, number)
            tally.mutations += 1
            tally.unchanged += mutant.must_load is True
            try:
                try_mutant(path, mutant, use, tally)
            except Exception:
                tally.broken.append(
                    f"--seed {seed} --only {number} ({mutant.kind})\n{traceback.format_exc()}"
                )
                if keep is not None:
                    path.rename(directory / f"broken-{seed}-{number}.dspex")
        path.unlink(missing_ok=True)
    return tally


def _hook(text: str) -> Use:
    module, _, function = text.partition(":")
    hook: Use = getattr(importlib.import_module(module), function)
    return hook


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutations", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat one mutation")
    parser.add_argument("--use", type=_hook, default=read_in_full, metavar="MODULE:FUNCTION")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep the files that broke something")
    parser.add_argument("--reasons", action="store_true", help="list why files were refused")
    options = parser.parse_args(arguments)

    open_files, start = _open_files(), time.perf_counter()
    tally = fuzz(options.mutations, options.seed, options.use, options.keep, options.only)
    seconds = time.perf_counter() - start
    if _open_files() > open_files:
        tally.broken.append(f"{_open_files() - open_files} file descriptors leaked\n")

    print(*tally.broken[:5], sep="\n", end="\n" if tally.broken else "")
    if options.reasons:
        print(*(f"{count:8} {reason}" for reason, count in tally.reasons.most_common()), sep="\n")
    print(
        f"mutations {tally.mutations}, rejected {tally.rejected}, accepted {tally.accepted} "
        f"(unchanged {tally.unchanged}, safetensors agrees on {tally.compared}), "
        f"broken {len(tally.broken)}, seconds {seconds:.1f}"
    )
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
