"""The worker pool's own tests, in C++ (tests/native), under the sanitizers and without them.

Nothing is installed: a C++20 compiler is all that is needed ($CXX, or the first of c++, g++, clang++).
DSPEX_STRESS=20 multiplies the counts by 20, for a longer look; DSPEX_SEED=7 changes the random stalls.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "native"
SOURCES = Path(__file__).parents[1] / "src" / "_native"
COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
STRESS = float(os.environ.get("DSPEX_STRESS", "1"))

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look into /proc"),
]

THREAD = ["-O1", "-g", "-fsanitize=thread"]
# A thread's forced end binds a null reference where it passes a catch clause for it: GCC's own doing.
BUT_NULL = ["-fno-sanitize-recover=undefined", "-fno-sanitize=null"]
VARIANTS = {
    "thread": THREAD,
    "address": ["-O1", "-g", "-fsanitize=address,undefined", *BUT_NULL],
    "no_futex": [*THREAD, "-DDSPEX_NO_FUTEX"],
    "plain": ["-O2"],  # at full speed processors reorder more
}
PROGRAMS = {
    "queue_test": ["thread", "address", "plain"],
    "parts_test": ["thread", "address", "no_futex"],
    "pool_test": ["thread", "address", "no_futex", "plain"],
    "crew_test": ["thread", "address"],
}
# The allocator of AddressSanitizer may be locked by another thread when a child is forked, for good.
UNFIT = {("address", "a_forked_child_has_no_workers")}
LINKED = {"crew_test": ["-Wl,--wrap=pthread_create"]}


@dataclass(frozen=True)
class Case:
    """One test of one program in one variant."""

    variant: str
    program: str
    name: str


def cases() -> Iterator[Case]:
    for program, variants in PROGRAMS.items():
        names = re.findall(r"^TEST\((\w+)\)", (HERE / f"{program}.cpp").read_text(), re.MULTILINE)
        assert names
        for variant in variants:
            yield from (Case(variant, program, name) for name in names if (variant, name) not in UNFIT)


class Builder:
    """Compiles each source once a variant, and links what is asked for."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder = folder
        self.workers = ThreadPoolExecutor(jobs)
        self.objects: dict[tuple[str, Path], Future[Path]] = {}
        self.programs: dict[tuple[str, str], Path] = {}

    def compile(self, *arguments: str | Path) -> None:
        command = [str(COMPILER), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr

    def start(self, variant: str, program: str) -> list[Future[Path]]:
        sources = [*sorted((SOURCES / "pool").glob("*.cpp")), HERE / f"{program}.cpp"]
        for source in sources:
            if (variant, source) not in self.objects:
                self.objects[variant, source] = self.workers.submit(self.object, variant, source)
        return [self.objects[variant, source] for source in sources]

    def object(self, variant: str, source: Path) -> Path:
        target = self.folder / f"{variant}-{source.stem}.o"
        flags = ["-std=c++20", "-Wall", "-Wextra", "-pthread", f"-I{SOURCES}", *VARIANTS[variant]]
        self.compile(*flags, "-c", source, "-o", target)
        return target

    def program(self, variant: str, program: str) -> Path:
        if (variant, program) not in self.programs:
            objects = [future.result() for future in self.start(variant, program)]
            target = self.folder / f"{variant}-{program}"
            self.compile("-pthread", *VARIANTS[variant], *LINKED.get(program, []), *objects, "-o", target)
            self.programs[variant, program] = target
        return self.programs[variant, program]


@pytest.fixture(scope="session")
def builder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Compiles first all that this session asks for, on all cores, so that tests have them to themselves."""
    builder = Builder(tmp_path_factory.mktemp("native"), os.cpu_count() or 1)
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    for case in [callspec.params.get("case") for callspec in asked if callspec is not None]:
        if isinstance(case, Case):
            builder.start(case.variant, case.program)
    wait(builder.objects.values())
    yield builder
    builder.workers.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: f"{case.variant}-{case.program}-{case.name}")
def test_native(builder: Builder, case: Case) -> None:
    program = builder.program(case.variant, case.program)
    options = {
        "TSAN_OPTIONS": "halt_on_error=1",
        "ASAN_OPTIONS": "detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    timeout = 120 * max(1.0, STRESS)
    command = [program, case.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=os.environ | options)
    assert done.returncode == 0, done.stdout + done.stderr[-8000:]
