"""Both stages in one call: the index picks candidates, the reranker puts the best first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Literal, TypeAlias, get_args

from shortlist import fuse
from shortlist.errors import BadInput
from shortlist.filters import Where
from shortlist.fuse import Fusion
from shortlist.index import Index
from shortlist.ranked import Scored
from shortlist.reranker import FAMILY, Reranker
from shortlist.types import Hit, Passage, Ranking, Run, checked_k

FirstStage: TypeAlias = Literal["bm25", "dense", "hybrid", "none"]
FIRST_STAGES: tuple[FirstStage, ...] = get_args(FirstStage)
Stage: TypeAlias = tuple[Reranker, int]
"""A reranker, and how many passages it reads."""

CANDIDATES = 32


class Pipeline:
    """Two-stage search over one index.

    The order of the result is a weighted sum of both stages, each as a z-score over the candidates. The weight of the
    second stage was tuned on judged queries: on the index's own where `tune` has stored one, else on those of the reranker's
    card. Weight 1 lets the reranker decide alone. Without a reranker the first stage's order stands.

    With a cascade several rerankers read one after the other, each the best of the order so far: a small one thins many
    candidates, a larger one decides among the few that are left. See `rerank`.

        search = Pipeline(index, cascade=[("L-2", 100), ("L-6", 20)])
        search("How many people live in Berlin?", max_ms=50)
    """

    def __init__(
        self,
        index: Index,
        reranker: Reranker | None = None,
        *,
        cascade: Sequence[tuple[Reranker | str | os.PathLike[str], int]] | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        """`fusion` of BM25 and vectors is that of `Index.search`.

        cascade   takes the place of `reranker`: (reranker, how many passages it reads), the last one decides. A name is
                  loaded by `Reranker.load`

        Raises BadInput for a cascade beside a reranker, an empty one, one whose numbers are below 1 or grow, and one in which
        two rerankers before the last have the same name.
        """
        if reranker is not None and cascade is not None:
            raise BadInput("both a reranker and a cascade were given, but a cascade's last reranker decides. Give one of them.")
        self.index = index
        self.cascade = tuple((m if isinstance(m, Reranker) else Reranker.load(m), reads) for m, reads in cascade or ())
        if cascade is not None:
            _stage_names(self.cascade)
        self.reranker = self.cascade[-1][0] if self.cascade else reranker
        self.fusion = fusion

    def __call__(
        self,
        query: str,
        *,
        k: int = 5,
        candidates: int | None = None,
        first: FirstStage | None = None,
        weight: float | None = None,
        max_ms: float | None = None,
        where: Where | None = None,
    ) -> Ranking:
        """The `k` best of `candidates` passages for `query`.

        candidates  that the reranker reads; 32 if not given. A cascade has its own numbers
        first       "bm25", "dense", "hybrid", or "none": the reranker (of a cascade the last) reads every passage of the
                    index. The default is hybrid, and BM25 for an index without vectors
        weight      of the reranker against the first stage, 0..1; None takes what `weight_of` says
        max_ms      milliseconds that the second stage may take; what is not read by then stays where the first stage put it,
                    behind all that was. `rerank` says more
        where       a filter, as `Index.search` takes it: only passages that fit are ranked, in every stage

        The ranking's timings are milliseconds: those of the first stage, `rerank_ms`, and `total_ms`; `scored` says how many
        passages were read. Without max_ms the result depends on nothing but the index, the models and these arguments.

        Raises BadInput for an unknown first stage, an empty query, k < 1 or k > candidates, candidates beside a cascade, a
        negative max_ms, and max_ms without a first stage.
        """
        reads = self._stages(candidates)[0][1] if self.reranker is not None and first != "none" else None
        checked_k(k, reads)
        (ranking,) = self._search(
            [query], candidates=candidates, depth=k, first=first, weight=weight, max_ms=max_ms, where=where
        )
        return replace(ranking, hits=ranking.hits[:k])

    def run(
        self,
        queries: Mapping[str, str],
        *,
        k: int = 100,
        candidates: int | None = None,
        first: FirstStage | None = None,
        weight: float | None = None,
        max_ms: float | None = None,
        where: Where | None = None,
        name: str = "shortlist",
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Run:
        """The `k` best passages of every query, for evaluation; the arguments are those of a search.

        Only the first `candidates` are reranked; those below keep the first stage's order behind them, so that
        recall at 100 is that of the first stage. First stages run in batches (`Index.search_many`), which changes no result.
        The run keeps the time of each query, of what a batch does together its share. `progress(done, total)` is called after
        each.
        """
        run = Run(name=name)
        rankings = self._search(
            queries.values(), candidates=candidates, depth=k, first=first, weight=weight, max_ms=max_ms, where=where
        )
        for done, (query_id, ranking) in enumerate(zip(queries, rankings, strict=True), 1):
            run[query_id] = {hit.id: hit.score for hit in ranking.hits[:k]}
            run.timings[query_id] = ranking.timings
            if progress is not None:
                progress(done, len(queries))
        return run

    def _search(
        self,
        queries: Iterable[str],
        *,
        candidates: int | None,
        depth: int,
        first: FirstStage | None,
        weight: float | None,
        max_ms: float | None,
        where: Where | None,
    ) -> Iterator[Ranking]:
        """Of each query the first stage to the greater of `candidates` and `depth`, the top `candidates` reranked."""
        if first is not None and first not in FIRST_STAGES:
            raise BadInput(f"first={first!r} is not a first stage. Expected one of {', '.join(FIRST_STAGES)}.")
        if weight is not None:
            _check_weight(weight)
        _check_time(max_ms)
        if first == "none":
            if self.reranker is None:
                raise BadInput("first='none' reads every passage with the reranker, but no reranker was given. Give one.")
            if max_ms is not None:
                raise BadInput(
                    f"max_ms={max_ms:g} with first='none': without a first stage there is no order in which passages could be "
                    f"left out. Choose a first stage, or leave max_ms away."
                )
            yield from (self._rerank_all(query, self.reranker, where) for query in queries)
            return
        stages = self._stages(candidates)
        depth = max([checked_k(depth), *(reads for _, reads in stages)])
        weights = [self.weight_of(reranker) if weight is None else weight for reranker, _ in stages]
        for ranking in self.index.search_many(queries, k=depth, first=first, fusion=self.fusion, where=where):
            yield rerank(ranking, stages, weight=weights, max_ms=max_ms) if stages else ranking

    def weight_of(self, reranker: Reranker) -> float:
        """The weight of a reranker where none is given: what `tune` has stored in the index for it, or that of its card."""
        return self.index.kept_weight(reranker.name, reranker.card.fusion_weight)

    def _stages(self, candidates: int | None) -> tuple[Stage, ...]:
        """The second stage of one search; empty without a reranker."""
        if self.cascade and candidates is not None:
            raise BadInput(
                f"candidates={candidates} beside a cascade, whose own numbers say how many passages each reranker reads. "
                f"Leave candidates away, or change the cascade."
            )
        if self.cascade or self.reranker is None:
            return self.cascade
        return ((self.reranker, CANDIDATES if candidates is None else checked_k(candidates)),)

    def _rerank_all(self, query: str, reranker: Reranker, where: Where | None) -> Ranking:
        start = perf_counter()
        passages = list(self.index.passages(where))
        scored, cut = _scored(reranker, query, passages)
        by_id = {p.id: p for p in passages}
        hits = [Hit(i, s, by_id[i], {"rerank": s}, {"rerank": rank}) for rank, (i, s) in enumerate(_descending(scored), 1)]
        timings = _with_time({}, "rerank", start)
        return Ranking(query, tuple(hits), timings, _cut_note(cut), {"rerank": len(scored)})


def rerank(
    ranking: Ranking,
    cascade: Sequence[Stage],
    *,
    weight: float | Sequence[float] | None = None,
    max_ms: float | None = None,
) -> Ranking:
    """A first stage's ranking, put in a better order by one reranker or several, one after the other.

    Each reads the best passages of the order so far, as many as stand beside it. Those that it read are ordered by the
    weighted sum of its logits and of the first stage's scores, each as z-scores over them, with the weight of its card;
    `weight`, if given, is that of every reranker, or one for each (1: the rerankers decide alone). Those that it did not
    read stay behind, in the order that they had. A logit and no logit cannot be compared: a z-score says where a passage
    stands among those that were read, and the first stage, which chose what is read first, expected less of the rest.

    max_ms is the time for all of this, in milliseconds. Each reranker begins with the best passage and reads as far as its
    share of the time left allows: of a cascade of two, the first has half of it, the second what the first has left over.
    `Reranker.score_within` says by how little it is overrun, and that a few passages are read unless max_ms is 0. What is said
    above then holds for those that were read, and a note says how many they are. With max_ms=0 the first stage's order stands.

    Hits carry the logit and the place that each reranker gave: `rerank` of the last, `rerank:NAME` of those before, for example
    "rerank:L-2". So do `scored`, and the timings with `_ms`.

    Raises BadInput for a cascade that is empty, has numbers below 1 or that grow, or has two rerankers of one name before
    the last; if a hit has no passage or an id stands twice; for a weight that is not within 0..1, for weights that are
    fewer or more than the rerankers, and for a negative max_ms.
    """
    shares = _shares(cascade, weight)
    _check_time(max_ms)
    first = {hit.id: hit.score for hit in ranking}
    if len(first) != len(ranking):
        raise BadInput(
            f"{len(ranking)} hits have {len(first)} ids: each passage can have one place only. Give each an id of its own."
        )
    start, notes, cut = perf_counter(), list(ranking.notes), set[str]()
    stages = zip(_stage_names(cascade), cascade, shares, strict=True)
    for place, (stage, (reranker, candidates), share) in enumerate(stages):
        began = perf_counter()
        head = [_passage(hit) for hit in ranking.hits[:candidates]]
        allowed_ms = None if max_ms is None else (max_ms - 1000 * (began - start)) / (len(cascade) - place)
        logits, shortened = _scored(reranker, ranking.query, head, allowed_ms)
        cut |= shortened
        if len(logits) < len(head):
            notes.append(f"{stage}: {len(logits)} of {len(head)} candidates scored within {max_ms:g} ms")
        ranking = replace(
            ranking,
            hits=_reordered(ranking.hits, stage, first, logits, share),
            timings=_with_time(ranking.timings, stage, began),
            scored={**ranking.scored, stage: len(logits)},
        )
    return replace(ranking, notes=(*notes, *_cut_note(cut)))


def _reordered(
    hits: Sequence[Hit], stage: str, first: Mapping[str, float], logits: Mapping[str, float], share: float
) -> tuple[Hit, ...]:
    """The hits that have logits by the weighted sum of `first` and logits, the others behind them in the order they had."""
    if not logits:
        return tuple(hits)
    by_id = {hit.id: hit for hit in hits}
    fused = both_stages(first, logits, share)
    places = {passage_id: place for place, (passage_id, _) in enumerate(_descending(logits), 1)}
    head = [_with_stage(by_id[i], score, stage, logits[i], places[i]) for i, score in fused]
    floor = fused[-1][1]
    rest = (hit for hit in hits if hit.id not in logits)
    return (*head, *(replace(hit, score=floor - place) for place, hit in enumerate(rest, 1)))


def both_stages(first: Mapping[str, float], logits: Mapping[str, float], weight: float) -> list[Scored]:
    """The passages that have logits by weight * z(logit) + (1 - weight) * z(first stage's score), best first, ties by id."""
    return fuse.weighted_sum([[(i, first[i]) for i in logits], list(logits.items())], weights=[1 - weight, weight])


def _shares(cascade: Sequence[Stage], weight: float | Sequence[float] | None) -> list[float]:
    """The weight of each reranker. Raises BadInput as `rerank` does."""
    if weight is None:
        return [reranker.card.fusion_weight for reranker, _ in cascade]
    shares = list(weight) if isinstance(weight, Sequence) else [weight] * len(cascade)
    if len(shares) != len(cascade):
        raise BadInput(f"{len(shares)} weights for {len(cascade)} rerankers. Expected one weight, or one for each reranker.")
    for share in shares:
        _check_weight(share)
    return shares


def _scored(
    reranker: Reranker, query: str, passages: Sequence[Passage], max_ms: float | None = None
) -> tuple[dict[str, float], set[str]]:
    """Passage id -> logit of those that `max_ms` was enough for, and the ids of those longer than the reranker reads."""
    texts = [p.content for p in passages]
    scores, cut = reranker.score_counted(query, texts) if max_ms is None else reranker.score_within(query, texts, max_ms)
    read = passages[: len(scores)]
    return {p.id: float(s) for p, s in zip(read, scores, strict=True)}, {p.id for p, c in zip(read, cut, strict=True) if c}


def _stage_names(cascade: Sequence[Stage]) -> list[str]:
    """`rerank` for the last, `rerank:NAME` for those before; our own models by their size. Raises BadInput as `rerank` does."""
    numbers = [reads for _, reads in cascade]
    if not numbers or min(numbers) < 1 or numbers != sorted(numbers, reverse=True):
        raise BadInput(
            f"the cascade reads {numbers} passages. Expected at least one reranker, each with a number above 0 and none with "
            f'more than the one before, such as [("L-2", 100), ("L-6", 20)].'
        )
    names = [f"rerank:{reranker.name.removeprefix(f'{FAMILY.name}-')}" for reranker, _ in cascade[:-1]]
    if len(set(names)) != len(names):
        raise BadInput(f"the cascade has the stages {', '.join(names)} before the last: one name stands twice. Leave one away.")
    return [*names, "rerank"]


def _check_weight(weight: float) -> None:
    if not 0 <= weight <= 1:
        raise BadInput(f"weight={weight} of the reranker is out of range. Expected 0 (first stage alone) to 1.")


def _check_time(max_ms: float | None) -> None:
    if max_ms is not None and not max_ms >= 0:
        raise BadInput(f"max_ms={max_ms}: expected milliseconds, 0 (first stage alone) or more, or None for no limit.")


def _passage(hit: Hit) -> Passage:
    if hit.passage is None:
        raise BadInput(f"hit {hit.id!r} has no passage, so that there is nothing to read. Give a ranking with passages.")
    return hit.passage


def _descending(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def _with_stage(hit: Hit, score: float, stage: str, stage_score: float, rank: int) -> Hit:
    return replace(hit, score=score, scores={**hit.scores, stage: stage_score}, ranks={**hit.ranks, stage: rank})


def _with_time(timings: Mapping[str, float], stage: str, began: float) -> dict[str, float]:
    """The timings with the milliseconds since `began` for `stage`, and added to the total."""
    ms = 1000 * (perf_counter() - began)
    total_ms = timings.get("total_ms", 0.0) + ms
    return {**{name: t for name, t in timings.items() if name != "total_ms"}, f"{stage}_ms": ms, "total_ms": total_ms}


def _cut_note(cut: set[str]) -> tuple[str, ...]:
    return (f"{len(cut)} of the reranked passages were cut to the reranker's length",) if cut else ()
