"""Both stages in one call: the index picks candidates, the reranker puts the best first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Literal, TypeAlias, get_args

from shortlist import fuse
from shortlist.errors import BadInput
from shortlist.index import Fusion, Index
from shortlist.reranker import Reranker
from shortlist.types import Hit, Passage, Ranking, Run, checked_k

FirstStage: TypeAlias = Literal["bm25", "dense", "hybrid", "none"]
FIRST_STAGES: tuple[FirstStage, ...] = get_args(FirstStage)


class Pipeline:
    """Two-stage search over one index.

    The order of the result is a weighted sum of both stages, each as a z-score over the candidates: the weight of the
    second stage comes from the reranker's card, where it was tuned on judged queries. Weight 1 lets the reranker decide
    alone. Without a reranker the first stage's order stands.
    """

    def __init__(self, index: Index, reranker: Reranker | None = None, *, fusion: Fusion = "sum") -> None:
        """`fusion` of BM25 and vectors is that of `Index.search`."""
        self.index = index
        self.reranker = reranker
        self.fusion: Fusion = fusion

    def __call__(
        self, query: str, *, k: int = 5, candidates: int = 32, first: FirstStage | None = None, weight: float | None = None
    ) -> Ranking:
        """The `k` best of `candidates` passages for `query`.

        first    "bm25", "dense", "hybrid", or "none": the reranker reads every passage of the index. The default is hybrid,
                 and BM25 for an index without vectors
        weight   of the reranker against the first stage, 0..1; None takes the reranker's card

        The ranking's timings are milliseconds: those of the first stage, `rerank_ms`, and `total_ms`.
        Raises BadInput for an unknown first stage, an empty query, k < 1 or k > candidates.
        """
        checked_k(k, candidates if self.reranker is not None and first != "none" else None)
        ranking = self._search(query, candidates=candidates, depth=k, first=first, weight=weight)
        return replace(ranking, hits=ranking.hits[:k])

    def run(
        self,
        queries: Mapping[str, str],
        *,
        k: int = 100,
        candidates: int = 32,
        first: FirstStage | None = None,
        weight: float | None = None,
        name: str = "shortlist",
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Run:
        """The `k` best passages of every query, for evaluation.

        Only the first `candidates` are reranked; those below keep the first stage's order behind them, so that
        recall at 100 is that of the first stage. `progress(done, total)` is called after each query.
        """
        run = Run(name=name)
        for done, (query_id, query) in enumerate(queries.items(), 1):
            hits = self._search(query, candidates=candidates, depth=k, first=first, weight=weight).hits
            run[query_id] = {hit.id: hit.score for hit in hits[:k]}
            if progress is not None:
                progress(done, len(queries))
        return run

    def _search(self, query: str, *, candidates: int, depth: int, first: FirstStage | None, weight: float | None) -> Ranking:
        """First stage to the greater of `candidates` and `depth`, the top `candidates` reranked."""
        if first is not None and first not in FIRST_STAGES:
            raise BadInput(f"first={first!r} is not a first stage. Expected one of {', '.join(FIRST_STAGES)}.")
        if weight is not None and not 0 <= weight <= 1:
            raise BadInput(f"weight={weight} of the reranker is out of range. Expected 0 (first stage alone) to 1.")
        if self.reranker is None:
            if first == "none":
                raise BadInput("first='none' reads every passage with the reranker, but no reranker was given. Give one.")
            return self.index.search(query, k=checked_k(depth), first=first, fusion=self.fusion)
        if first == "none":
            return self._rerank_all(query, self.reranker)
        ranking = self.index.search(query, k=max(checked_k(candidates), depth), first=first, fusion=self.fusion)
        return self._rerank(ranking, self.reranker, candidates, weight)

    def _rerank(self, ranking: Ranking, reranker: Reranker, candidates: int, weight: float | None) -> Ranking:
        start = perf_counter()
        head, tail = ranking.hits[:candidates], ranking.hits[candidates:]
        scored, cut = _scored(reranker, ranking.query, [hit.passage for hit in head if hit.passage is not None])
        first = [(hit.id, hit.score) for hit in head]
        share = reranker.card.fusion_weight if weight is None else weight
        fused = fuse.weighted_sum([first, list(scored.items())], weights=[1 - share, share])
        by_id = {hit.id: hit for hit in head}
        places = {passage_id: place for place, (passage_id, _) in enumerate(_descending(scored), 1)}
        hits = [_with_stage(by_id[i], score, "rerank", scored[i], places[i]) for i, score in fused]
        floor = min((hit.score for hit in hits), default=0.0)
        hits += [replace(hit, score=floor - place) for place, hit in enumerate(tail, 1)]
        return _finished(ranking, hits, cut, rerank_ms=1000 * (perf_counter() - start))

    def _rerank_all(self, query: str, reranker: Reranker) -> Ranking:
        start = perf_counter()
        passages = list(self.index.passages())
        scored, cut = _scored(reranker, query, passages)
        by_id = {p.id: p for p in passages}
        hits = [Hit(i, s, by_id[i], {"rerank": s}, {"rerank": rank}) for rank, (i, s) in enumerate(_descending(scored), 1)]
        return _finished(Ranking(query, ()), hits, cut, rerank_ms=1000 * (perf_counter() - start))


def _scored(reranker: Reranker, query: str, passages: Sequence[Passage]) -> tuple[dict[str, float], int]:
    """Passage id -> logit, and how many passages were longer than the reranker reads."""
    scores, cut = reranker.score_counted(query, [p.content for p in passages])
    return {p.id: float(s) for p, s in zip(passages, scores, strict=True)}, int((cut > 0).sum())


def _descending(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def _with_stage(hit: Hit, score: float, stage: str, stage_score: float, rank: int) -> Hit:
    return replace(hit, score=score, scores={**hit.scores, stage: stage_score}, ranks={**hit.ranks, stage: rank})


def _finished(ranking: Ranking, hits: Sequence[Hit], cut: int, rerank_ms: float) -> Ranking:
    note = f"{cut} of the reranked passages were cut to the reranker's length"
    timings = dict(ranking.timings)
    total_ms = timings.pop("total_ms", 0.0) + rerank_ms
    return replace(
        ranking,
        hits=tuple(hits),
        timings={**timings, "rerank_ms": rerank_ms, "total_ms": total_ms},
        notes=(*ranking.notes, note) if cut else ranking.notes,
    )
