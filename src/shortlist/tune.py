"""`tune`: the fusion of BM25 and vectors that suits an index, learnt from judged queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput
from shortlist.fuse import FUSION_WEIGHTS, Fusion, Scored, fuse_stages
from shortlist.index import First, Index
from shortlist.significance import bootstrap_interval
from shortlist.types import Qrels

DEPTH = 1000
K = 10
_FOLDS = 5
_SAMPLES = 10_000
_SHARES = (0.5, 0.0, 0.1, 0.2, 0.3, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # the default first
Choice = tuple[Fusion, Mapping[str, float]]
CHOICES: tuple[Choice, ...] = (
    *((fusion, {"bm25": share, "dense": 1.0}) for fusion in ("auto", "sum") for share in _SHARES),
    ("sum", {"bm25": 1.0, "dense": 0.0}),
    ("rrf", FUSION_WEIGHTS["rrf"]),
)
"""What is tried; the first is the default, which stands where nothing is better."""


@dataclass(frozen=True)
class Learnt:
    """A fusion and what it is worth: nDCG@10 over `questions` judged queries, by cross-validation.

    before, after  of the default, and of what is learnt without the query that is being asked
    interval       of after - before, 95% bootstrap over queries
    """

    fusion: Fusion
    weights: Mapping[str, float]
    questions: int
    before: float
    after: float
    interval: tuple[float, float]

    @property
    def better(self) -> bool:
        """Whether the gain is beyond noise."""
        return self.interval[0] > 0


def learn_fusion(
    index: Index, queries: Mapping[str, str], qrels: Qrels, *, progress: Callable[[int, int | None], None] | None = None
) -> Learnt:
    """The best of CHOICES for the judged queries, and its worth on queries that it was not chosen with (five folds).

    A choice is the one with the highest mean nDCG@10; of equals the first. Nothing is stored: that is `Index.keep_fusion`.
    Raises BadInput for an index without vectors and for fewer than ten judged queries with a relevant passage.
    """
    asked = [query_id for query_id in sorted(qrels) if query_id in queries and any(v > 0 for v in qrels[query_id].values())]
    if len(asked) < 2 * _FOLDS:
        raise BadInput(f"{len(asked)} judged queries with a relevant passage; expected at least {2 * _FOLDS} to learn from.")
    if not index.manifest["vectors"]:
        raise BadInput(f"{index.path} holds no vectors, so there is nothing to fuse. Build it with an encoder.")
    table = np.empty((len(asked), len(CHOICES)))
    for row, query_id in enumerate(asked):
        stages = _stages(index, queries[query_id])
        for column, (fusion, weights) in enumerate(CHOICES):
            fused, _ = fuse_stages(stages, fusion, weights, index.spread)
            table[row, column] = _ndcg([name for name, _ in fused[:K]], qrels[query_id])
        if progress is not None:
            progress(row + 1, len(asked))
    before, after = table[:, 0], _cross_validated(table)
    fusion, weights = CHOICES[_best(table)]
    interval = bootstrap_interval(after - before, _SAMPLES, np.random.default_rng(0))
    return Learnt(fusion, dict(weights), len(asked), float(before.mean()), float(after.mean()), interval)


def _stages(index: Index, query: str) -> dict[str, list[Scored]]:
    both: tuple[First, First] = ("bm25", "dense")
    first = {stage: index.search(query, k=DEPTH, first=stage) for stage in both}
    return {stage: [(hit.id, hit.score) for hit in ranking] for stage, ranking in first.items()}


def _cross_validated(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each query's value under the choice that is best for the queries of the other folds."""
    fold = np.arange(len(table)) % _FOLDS
    chosen = np.array([_best(table[fold != number]) for number in range(_FOLDS)])
    return np.asarray(table[np.arange(len(table)), chosen[fold]])


def _best(table: npt.NDArray[np.float64]) -> int:
    means = table.mean(axis=0)
    return int(np.argmax(means > means.max() - 1e-9))


def _ndcg(ranked: Sequence[str], judged: Mapping[str, int]) -> float:
    """nDCG@10 as `measures.evaluate` has it; here without an extra, for tens of thousands of short lists."""
    ideal = sorted((value for value in judged.values() if value > 0), reverse=True)[:K]
    gains = [max(judged.get(name, 0), 0) for name in ranked]
    discounted = [sum(gain / math.log2(place + 2) for place, gain in enumerate(some)) for some in (gains, ideal)]
    return discounted[0] / discounted[1]
