"""Is a difference more than chance? Tests and intervals on paired differences, one number a query."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Differences = npt.NDArray[np.float64]

_BLOCK = 1 << 20  # random numbers at a time: memory stays flat, and no loop runs once a sample


def randomisation_test(difference: Differences, samples: int, random: np.random.Generator) -> float:
    """Two-sided p-value of Fisher's paired randomisation test with `samples` random sign changes of the differences.

    Smucker, Allan and Carterette (CIKM 2007) recommend it for retrieval. The observed assignment counts as one of them, so p
    is never 0 (Phipson and Smyth 2010).
    """
    observed = abs(float(difference.mean()))

    def means(rows: int) -> Differences:
        signs = 2.0 * random.integers(0, 2, (rows, len(difference)), dtype=np.int8) - 1.0
        return np.abs(signs @ difference) / len(difference)

    as_large = sum(int((block >= observed - 1e-12).sum()) for block in _blocks(means, samples, len(difference)))
    return (1 + as_large) / (1 + samples)  # 1e-12: sums in another order differ in the last bits


def bootstrap_interval(
    difference: Differences, samples: int, random: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean difference over `samples` draws of queries with replacement (Efron 1979)."""
    return stratified_interval([difference], samples, random, level)


def stratified_interval(
    groups: Sequence[Differences], samples: int, random: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """The same of the mean over groups of their means: queries are drawn within each group, and every group counts alike."""
    drawn = np.mean([_bootstrap_means(group, samples, random) for group in groups], axis=0)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def stratified_test(groups: Sequence[Differences], samples: int, random: np.random.Generator) -> float:
    """`randomisation_test` of the mean over groups of their mean differences: any query of any group may change its sign."""
    return randomisation_test(np.concatenate([group / len(group) for group in groups]), samples, random)


def _bootstrap_means(values: Differences, samples: int, random: np.random.Generator) -> Differences:
    n = len(values)
    return np.concatenate(list(_blocks(lambda rows: values[random.integers(0, n, (rows, n))].mean(axis=1), samples, n)))


def _blocks(draw: Callable[[int], Differences], samples: int, n: int) -> Iterator[Differences]:
    """`draw(rows)` for `samples` rows of `n` numbers, in blocks that memory does not notice."""
    rows = max(1, _BLOCK // n)
    return (draw(min(rows, samples - done)) for done in range(0, samples, rows))


def t_test(difference: Differences) -> float:
    """Two-sided p-value of Student's paired t test: 1 where all differences are 0, not a number for a single query.

    Good to about 1e-14 absolutely: what is smaller may come out as 0.
    """
    n = len(difference)
    if n < 2:
        return math.nan
    mean, deviation = float(difference.mean()), float(difference.std(ddof=1))
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return max(0.0, 1 - _within(abs(mean) / deviation * math.sqrt(n), n - 1))


def _within(t: float, degrees: int) -> float:
    """Probability that |T| <= t for Student's distribution, as the finite sum of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees == 1:
        return 2 * angle / math.pi
    if degrees % 2:
        steps = np.arange(2, degrees - 1, 2)  # 2/3, 2·4/(3·5), …
        terms = cosine * np.cumprod(np.concatenate(([1.0], steps / (steps + 1) * cosine**2)))
        return 2 / math.pi * (angle + sine * float(terms.sum()))
    steps = np.arange(1, degrees - 2, 2)  # 1/2, 1·3/(2·4), …
    return sine * float(np.cumprod(np.concatenate(([1.0], steps / (steps + 1) * cosine**2))).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted so that the chance of any false alarm among all of them is that of one (Holm 1979).

    The smallest counts n times, the next n - 1 times and so on; none is less than one before it, none above 1.
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = least
    return adjusted
