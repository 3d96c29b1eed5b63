"""Fusion: several rankings of the same passages into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from shortlist.errors import BadInput
from shortlist.ranked import Ranked, Scored, Scores, Slots

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
_RRF_K = 60


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
    names, numbered = _numbered([[name for name, _ in found] for found in stages.values()])
    lists = {
        stage: Ranked(slots, [score for _, score in found], lambda slots: [names[slot] for slot in slots])
        for slots, (stage, found) in zip(numbered, stages.items(), strict=True)
    }
    fused, used = fuse_ranked(lists, fusion, weights, spread)
    return fused.scored(), used


def fuse_ranked(
    stages: Mapping[str, Ranked], fusion: str, weights: Mapping[str, float], spread: float = 0.0
) -> tuple[Ranked, dict[str, float]]:
    """`fuse_stages` of lists of slots: the same numbers, and the same errors."""
    if fusion not in FUSIONS:
        raise BadInput(f'fusion={fusion!r}: expected "auto", "sum" or "rrf".')
    if not set(weights) <= set(stages):
        raise BadInput(f"weights={dict(weights)}: expected weights of {' and '.join(stages)}.")
    used = {name: float({**FUSION_WEIGHTS[fusion], **weights}[name]) for name in stages}
    dense = stages["dense"]
    if fusion == "auto" and spread > 0:
        used["dense"] *= float(np.std(dense.scores) if len(dense) else 0.0) / (USUAL_SPREAD * spread)
    shares = _checked_weights(list(used.values()), len(stages))
    if fusion == "rrf":
        slots, scores = _reciprocal([found.first(len(found))[0] for found in stages.values()], _RRF_K, shares)
    else:
        slots, scores = _weighted([_filled(found, dense) for found in stages.values()], shares, "zscore")
    return Ranked(slots, scores, dense.ids), used


def _filled(found: Ranked, others: Ranked) -> tuple[Slots, Scores]:
    """A list of fewer than ten filled up with passages that it lacks, which score 0.

    A z-score needs others to stand out from: without them the one passage that holds a rare word would get nothing for it.
    """
    if len(found) >= _LEAST:
        return found.slots, found.scores
    best, _ = others.first(_LEAST)
    missing = best[~np.isin(best, found.slots)][: _LEAST - len(found)]
    return np.concatenate([found.slots, missing]), np.concatenate([found.scores, np.zeros(len(missing))])


def rrf(rankings: Sequence[Sequence[str]], k: float = _RRF_K, weights: Sequence[float] | None = None) -> list[Scored]:
    """Reciprocal rank fusion: score(id) = sum over rankings of weight / (k + rank), rank from 1, best first.

    An id that a ranking lacks gets nothing from it; ties break by id. Raises BadInput for k <= -1, for an id that
    stands twice in one ranking and for weights that do not fit. (Cormack, Clarke and Büttcher, SIGIR 2009; k = 60.)
    """
    if not k > -1:
        raise BadInput(f"k={k}: reciprocal rank fusion divides by k + rank, so k must be above -1 (usually 60).")
    shares = _checked_weights(weights, len(rankings))
    names, lists = _numbered(rankings)
    return _named(names, *_reciprocal(lists, k, shares))


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
    shares = _checked_weights(weights, len(lists))
    names, numbered = _numbered([[name for name, _ in ranking] for ranking in lists])
    scores = [np.array([score for _, score in ranking], dtype=np.float64) for ranking in lists]
    return _named(names, *_weighted(list(zip(numbered, scores, strict=True)), shares, normalise))


def _reciprocal(lists: Sequence[Slots], k: float, weights: Sequence[float]) -> tuple[Slots, Scores]:
    """`rrf` of slots, best first."""
    return _added(
        [(slots, weight / (k + np.arange(1.0, len(slots) + 1)), 0.0) for slots, weight in zip(lists, weights, strict=True)]
    )


def _weighted(lists: Sequence[tuple[Slots, Scores]], weights: Sequence[float], normalise: str) -> tuple[Slots, Scores]:
    """`weighted_sum` of slots and their scores."""
    parts = []
    for (slots, found), weight in zip(lists, weights, strict=True):
        if len(slots):
            scores = _normalised(found, normalise)
            lowest = float(scores.min()) if normalise == "zscore" else 0.0
            parts.append((slots, weight * scores, weight * lowest))
    return _added(parts)


def _added(parts: Sequence[tuple[Slots, Scores, float]]) -> tuple[Slots, Scores]:
    """All slots of the parts and the sums of their scores, one part after the other; what a part lacks has its third number."""
    slots, places = np.unique(np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)]), return_inverse=True)
    total, start = np.zeros(len(slots)), 0
    for own, scores, otherwise in parts:
        column = np.full(len(slots), otherwise)
        column[places[start : start + len(own)]] = scores
        total += column
        start += len(own)
    return slots, total


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


def _numbered(lists: Sequence[Sequence[str]]) -> tuple[list[str], list[Slots]]:
    """All names in order, and the lists as the places of their names in it. Raises BadInput for a name twice in one list."""
    for names in lists:
        if len(set(names)) != len(names):
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise BadInput(f"id {twice!r} stands twice in one ranking; each passage can have one rank only.")
    known = sorted({name for names in lists for name in names})
    places = {name: place for place, name in enumerate(known)}
    return known, [np.array([places[name] for name in names], dtype=np.int64) for names in lists]


def _named(names: Sequence[str], slots: Slots, scores: Scores) -> list[Scored]:
    """(name, score) of slots that number names in order, best first, ties by name."""
    order = np.lexsort((slots, -scores))
    return [(names[slot], score) for slot, score in zip(slots[order].tolist(), scores[order].tolist(), strict=True)]
