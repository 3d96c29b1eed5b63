"""`tune`: what suits an index, learnt from judged queries: the fusion of BM25 and vectors, the weight of a reranker."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput
from shortlist.fuse import FUSION_WEIGHTS, Fusion, fuse_stages
from shortlist.index import First, Index
from shortlist.pipeline import CANDIDATES, both_stages, rerank
from shortlist.ranked import Scored
from shortlist.reranker import Reranker
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
"""Fusions that are tried; the first is the default, which stands where nothing is better."""
WEIGHTS = tuple(tenth / 10 for tenth in range(11))
"""Weights of a reranker that are tried, beside that of its card."""

Progress = Callable[[int, int | None], None]
C = TypeVar("C")


@dataclass(frozen=True)
class Learnt(Generic[C]):
    """What was chosen, and what it is worth: nDCG@10 over `questions` judged queries, by cross-validation.

    before, after  of the default, and of what is learnt without the query that is being asked
    interval       of after - before, 95% bootstrap over queries
    """

    choice: C
    questions: int
    before: float
    after: float
    interval: tuple[float, float]

    @property
    def better(self) -> bool:
        """Whether the gain is beyond noise."""
        return self.interval[0] > 0


def learn_fusion(index: Index, queries: Mapping[str, str], qrels: Qrels, *, progress: Progress | None = None) -> Learnt[Choice]:
    """The best of CHOICES for the judged queries, and its worth on queries that it was not chosen with (five folds).

    A choice is the one with the highest mean nDCG@10; of equals the first. Nothing is stored: that is `Index.keep_fusion`.
    Raises BadInput for an index without vectors and for fewer than ten judged queries with a relevant passage.
    """
    if not index.manifest["vectors"]:
        raise BadInput(f"{index.path} holds no vectors, so there is nothing to fuse. Build it with an encoder.")

    def rankings(query: str) -> list[list[Scored]]:
        stages = stage_lists(index, query)
        return [fuse_stages(stages, fusion, weights, index.spread)[0] for fusion, weights in CHOICES]

    return _learnt(CHOICES, rankings, queries, qrels, progress)


def learn_weight(
    index: Index,
    reranker: Reranker,
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    candidates: int = CANDIDATES,
    progress: Progress | None = None,
) -> Learnt[float]:
    """The weight of a reranker against this index's first stage, 0 (no say) to 1 (alone), as `learn_fusion` learns.

    The default is the weight of its card. Nothing is stored: that is `Index.keep_weight`.
    Raises BadInput for fewer than ten judged queries with a relevant passage.
    """
    weights = (reranker.card.fusion_weight, *(w for w in WEIGHTS if w != reranker.card.fusion_weight))

    def rankings(query: str) -> list[list[Scored]]:
        ranking = index.search(query, k=candidates)
        first = {hit.id: hit.score for hit in ranking}
        logits = {hit.id: hit.scores["rerank"] for hit in rerank(ranking, [(reranker, candidates)])}
        return [both_stages(first, logits, weight) for weight in weights]

    return _learnt(weights, rankings, queries, qrels, progress)


def _learnt(
    choices: Sequence[C],
    rankings: Callable[[str], Sequence[Sequence[Scored]]],
    queries: Mapping[str, str],
    qrels: Qrels,
    progress: Progress | None,
) -> Learnt[C]:
    """The best of the choices, the first of which is the default; `rankings` gives a query's ranking under each of them."""
    asked = [query_id for query_id in sorted(qrels) if query_id in queries and any(v > 0 for v in qrels[query_id].values())]
    if len(asked) < 2 * _FOLDS:
        raise BadInput(f"{len(asked)} judged queries with a relevant passage; expected at least {2 * _FOLDS} to learn from.")
    table = np.empty((len(asked), len(choices)))
    for row, query_id in enumerate(asked):
        found = rankings(queries[query_id])
        table[row] = [ndcg([name for name, _ in ranking[:K]], qrels[query_id]) for ranking in found]
        if progress is not None:
            progress(row + 1, len(asked))
    before, after = table[:, 0], _cross_validated(table)
    interval = bootstrap_interval(after - before, _SAMPLES, np.random.default_rng(0))
    return Learnt(choices[_best(table)], len(asked), float(before.mean()), float(after.mean()), interval)


def stage_lists(index: Index, query: str) -> dict[str, list[Scored]]:
    """The DEPTH best of "bm25" and of "dense" for a query: what a fusion is made of."""
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


def ndcg(ranked: Sequence[str], judged: Mapping[str, int]) -> float:
    """nDCG@10 as `measures.evaluate` has it; here without an extra, for tens of thousands of short lists."""
    ideal = sorted((value for value in judged.values() if value > 0), reverse=True)[:K]
    gains = [max(judged.get(name, 0), 0) for name in ranked]
    discounted = [sum(gain / math.log2(place + 2) for place, gain in enumerate(some)) for some in (gains, ideal)]
    return discounted[0] / discounted[1]
