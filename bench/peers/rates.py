"""The arithmetic of the comparison: rates, ratios by round with their spread, who is the best peer, tables. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What several rounds gave: the median, the least and the greatest."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Raises ValueError without values."""
    found = sorted(values)
    if not found:
        raise ValueError("no rounds: expected at least one value.")
    return Spread(statistics.median(found), found[0], found[-1])


def speedups(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times as fast we are, round by round: their seconds over ours. Raises ValueError if rounds are missing."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds of ours, {len(theirs)} of theirs: only rounds of one run are compared.")
    return [b / a for a, b in zip(ours, theirs, strict=True)]


def fastest(seconds: Mapping[str, Sequence[float]]) -> str:
    """The name with the least median; the earlier one of equals, "" without any."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]), default="")


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that `percent` of all do not exceed (nearest rank). Raises ValueError without values."""
    if not values:
        raise ValueError("no values: expected at least one.")
    rank = max(1, math.ceil(percent / 100 * len(values)))
    return sorted(values)[rank - 1]


def linear_operations(tokens: int, layers: int, hidden: int, intermediate: int) -> int:
    """Operations of the layers' matrices for so many tokens, a multiply and an add as two.

    Query, key, value and output: 4 * hidden ** 2 products; the two of the feed-forward part: 2 * hidden * intermediate.
    Attention's own products, norms, GELU, pooling and head are not counted, so a share of the peak is a lower bound.
    """
    return 2 * tokens * layers * (4 * hidden**2 + 2 * hidden * intermediate)


def lengths_around(count: int, mean: float = 76.0, deviation: float = 33.0, low: int = 20, high: int = 200) -> list[int]:
    """`count` lengths in tokens, ascending: the quantiles of a log-normal distribution, cut at low and high.

    The defaults are those of MS MARCO's passages in WordPiece tokens.
    """
    variance = math.log(1 + (deviation / mean) ** 2)
    normal = statistics.NormalDist(math.log(mean) - variance / 2, math.sqrt(variance))
    exact = (math.exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count))
    return [min(high, max(low, round(x))) for x in exact]


def pair_agreement(expected: Sequence[float], found: Sequence[float]) -> float:
    """The share of all pairs that both put in the same order; of pairs equal in `expected` none count. 1 without pairs."""
    same = total = 0
    for i in range(len(expected)):
        for j in range(i):
            if expected[i] != expected[j]:
                total += 1
                same += (expected[i] > expected[j]) == (found[i] > found[j]) and found[i] != found[j]
    return same / total if total else 1.0


def cell(values: Spread, digits: int = 2) -> str:
    """`1.50 (1.40..1.62)`."""
    return f"{values.median:.{digits}f} ({values.low:.{digits}f}..{values.high:.{digits}f})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; all columns but the first are set to the right. Raises ValueError for a ragged row."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells under {len(header)} headings: {row}.")
        lines.append("| " + " | ".join(row) + " |")
    return lines
