"""Fusion: several rankings of the same passages into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from shortlist.errors import BadInput

Scored: TypeAlias = tuple[str, float]
Fusion: TypeAlias = Literal["auto", "sum", "rrf"]
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)

FUSION_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "auto": {"bm25": 0.5, "dense": 1.0},
    "sum": {"bm25": 0.5, "dense": 1.0},
    "rrf": {"bm25": 1.0, "dense": 1.0},
}
"""What counts how much where nothing else is said; ADR 11 has the measurements."""

USUAL_SPREAD = 0.08
_LEAST = 10


def fuse_stages(
    stages: Mapping[str, Sequence[Scored]], fusion: str, weights: Mapping[str, float], spread: float = 0.0
) -> tuple[list[Scored], dict[str, float]]:
    """The lists of "bm25" and "dense" as one, best first, ties by id; and the weights that it was made with.

    fusion   "sum": z-scores, added with `weights`
             "auto": the same, but the vectors' weight is multiplied by how far their scores lie apart for this query,
             measured in the encoder's own unit: standard deviation of the list / (USUAL_SPREAD * spread). Where the encoder
             sees little difference between passages, words decide
             "rrf": reciprocal ranks, k = 60
    spread   of the encoder: how much more alike a text is to itself than to others; 0 makes of "auto" the "sum"

    Raises BadInput for another fusion, for weights of other stages, and as `rrf` and `weighted_sum` do.
    """
    if fusion not in FUSIONS:
        raise BadInput(f'fusion={fusion!r}: expected "auto", "sum" or "rrf".')
    if not set(weights) <= set(stages):
        raise BadInput(f"weights={dict(weights)}: expected weights of {' and '.join(stages)}.")
    used = {name: float({**FUSION_WEIGHTS[fusion], **weights}[name]) for name in stages}
    if fusion == "rrf":
        return rrf([[name for name, _ in found] for found in stages.values()], weights=list(used.values())), used
    if fusion == "auto" and spread > 0:
        used["dense"] *= float(np.std([score for _, score in stages["dense"]] or [0.0])) / (USUAL_SPREAD * spread)
    lists = [_filled(found, stages["dense"]) for found in stages.values()]
    return weighted_sum(lists, weights=list(used.values())), used


def _filled(found: Sequence[Scored], others: Sequence[Scored]) -> list[Scored]:
    """A list of fewer than ten filled up with passages that it lacks, which score 0.

    A z-score needs others to stand out from: without them the one passage that holds a rare word would get nothing for it.
    """
    names = {name for name, _ in found}
    missing = [(name, 0.0) for name, _ in others[:_LEAST] if name not in names]
    return [*found, *missing[: max(0, _LEAST - len(found))]]


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
