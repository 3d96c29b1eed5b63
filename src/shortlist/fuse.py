"""Fusion: several rankings of the same passages into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from shortlist.errors import BadInput

Scored: TypeAlias = tuple[str, float]


def rrf(rankings: Sequence[Sequence[str]], k: float = 60, weights: Sequence[float] | None = None) -> list[Scored]:
    """Reciprocal rank fusion: score(id) = sum over rankings of weight / (k + rank), rank from 1, best first.

    An id that a ranking lacks gets nothing from it; ties break by id. Raises BadInput for k <= -1, for an id that
    stands twice in one ranking and for weights that do not fit. (Cormack, Clarke and Büttcher, SIGIR 2009; k = 60.)
    """
    if not k > -1:
        raise BadInput(f"k={k}: reciprocal rank fusion divides by k + rank, so k must be above -1 (usually 60).")
    fused: dict[str, float] = {}
    for ranking, weight in zip(rankings, _checked_weights(weights, len(rankings)), strict=True):
        _refuse_repeats(ranking)
        for rank, name in enumerate(ranking, 1):
            fused[name] = fused.get(name, 0.0) + weight / (k + rank)
    return _sorted(fused)


def weighted_sum(
    lists: Sequence[Sequence[Scored]], weights: Sequence[float] | None = None, normalise: str = "zscore"
) -> list[Scored]:
    """Weighted sum of scores that were first made comparable: score(id) = sum of weight * normalised score, best first.

    normalise  "zscore": (score - mean) / standard deviation of the list; "minmax": from 0 (lowest) to 1 (highest)

    An id that a list lacks counts as its lowest score. A list whose scores are all equal counts 0 for every id
    under "zscore" and 1 under "minmax". Ties break by id. Raises BadInput for scores that are not finite, ids that stand
    twice in one list and weights that do not fit.
    """
    if normalise not in ("zscore", "minmax"):
        raise BadInput(f'normalise={normalise!r}: expected "zscore" or "minmax".')
    names = {name for ranking in lists for name, _ in ranking}
    fused = dict.fromkeys(names, 0.0)
    for ranking, weight in zip(lists, _checked_weights(weights, len(lists)), strict=True):
        if not ranking:
            continue
        _refuse_repeats([name for name, _ in ranking])
        scores = _normalised(np.array([score for _, score in ranking], dtype=np.float64), normalise)
        lowest = float(scores.min()) if normalise == "zscore" else 0.0
        known = dict(zip((name for name, _ in ranking), scores.tolist(), strict=True))
        for name in names:
            fused[name] += weight * known.get(name, lowest)
    return _sorted(fused)


def _normalised(scores: np.ndarray, how: str) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise BadInput("a score is NaN or infinite: such scores cannot be added up.")
    if how == "zscore":
        spread = float(scores.std())
        return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)
    width = float(scores.max() - scores.min())
    return (scores - scores.min()) / width if width > 0 else np.ones_like(scores)


def _checked_weights(weights: Sequence[float] | None, count: int) -> Sequence[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise BadInput(f"{len(weights)} weights for {count} rankings: give one weight a ranking.")
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights):
        raise BadInput(f"weights={list(weights)}: expected finite numbers that are not negative.")
    return weights


def _refuse_repeats(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise BadInput(f"id {twice!r} stands twice in one ranking; each passage can have one rank only.")


def _sorted(scores: dict[str, float]) -> list[Scored]:
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
