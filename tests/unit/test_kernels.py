"""The kernels' own test in C++ (tests/native): every instruction set that runs here against the portable kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shortlist.engines.native import available_instruction_sets

ROOT = Path(__file__).parents[2]
BEST_FIRST = ["amx", "avx512vnni", "avxvnni", "avx2", "neon", "portable"]


def test_instruction_sets_are_listed_best_first() -> None:
    available = available_instruction_sets()
    assert available == [name for name in BEST_FIRST if name in available]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")), reason="no C++ compiler"
)
def test_kernels_agree_with_the_portable_ones() -> None:
    """Compiled in a few seconds the first time; after that only what changed. `make native-test` adds ARM by emulation."""
    build = ROOT / "build" / "native-test"
    for command in (
        ["cmake", "-S", ROOT / "tests" / "native", "-B", build, "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", build, "--parallel", "2"],
        [build / "kernels_test"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = [line.split(":")[0] for line in done.stdout.splitlines()]
    available = available_instruction_sets()
    plain_tiles = ["amx in plain loops"] * ("avx512vnni" in available)  # unless the assembler is older than AMX
    assert tested in (available + plain_tiles, available)
