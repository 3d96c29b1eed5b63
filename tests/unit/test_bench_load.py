"""bench/load.py calls memory flat by a rule: one that can say no."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bench_load", Path(__file__).parents[2] / "bench" / "load.py")
load = importlib.util.module_from_spec(spec)
spec.loader.exec_module(load)


@pytest.mark.parametrize(
    ("memory", "flat"),
    [
        (lambda i: 200.0, True),
        (lambda i: 100.0 + min(i, 40), True),  # what comes in the first half is not asked for
        (lambda i: 200.0 + i % 3, True),
        (lambda i: 200.0 - i / 10, True),
        (lambda i: 200.0 + i / 10, False),  # 5 MiB in the last half
        (lambda i: 200.0 + 15 * (i == 80), False),
    ],
)
def test_the_verdict(memory, flat):
    assert load.verdict([(1000 * i, memory(i)) for i in range(101)])["flat"] is flat


def test_a_straight_line_is_measured_as_it_is():
    found = load.verdict([(1000 * i, 100.0 + i / 2) for i in range(101)])
    assert (found["median_mib"], found["rise_mib"], found["highest_mib"]) == (137.5, 25.0, 150.0)
