"""A ranking as the JSON that /v1/search gives: hits with their stages, matched words, and the sentence that decided."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from shortlist.reranker import Reranker
from shortlist.server.indexes import Question, ServedIndex
from shortlist.text import sentence_spans
from shortlist.types import FloatArray, Hit, Ranking

_SENTENCES = 64  # of one passage, scored for the explanation


def answer(served: ServedIndex, question: Question, *, highlights: bool, explain: bool) -> dict[str, Any]:
    """Search, and describe what was found."""
    ranking = served.search(question)
    reranker, timings = served.reranker if ranking.scored else None, dict(ranking.timings)
    hits = [_hit(hit, reranker) for hit in ranking]
    if highlights:
        marks = served.index.highlights(ranking.query, [hit.passage for hit in ranking if hit.passage is not None])
        for shown, marked in zip(hits, marks, strict=True):
            shown["highlights"] = marked
    if explain and served.reranker is not None:
        began = perf_counter()
        for shown, sentence in zip(hits, _deciding(served.reranker, ranking), strict=True):
            shown["explain"] = sentence
        timings["explain_ms"] = 1000 * (perf_counter() - began)
    for shown, cut in zip(hits, _tokens_cut(reranker, ranking), strict=True):
        shown["tokens_cut"] = cut
    return {
        "object": "search",
        "index": served.name,
        "query": ranking.query,
        "strategy": served.strategy(question),
        "hits": hits,
        "timings": {name: round(ms, 3) for name, ms in timings.items()},
        "scored": dict(ranking.scored),
        "weights": dict(ranking.weights),
        "notes": list(ranking.notes),
        "truncated": any(hit["tokens_cut"] for hit in hits) or any(" was cut " in note for note in ranking.notes),
    }


def _hit(hit: Hit, reranker: Reranker | None) -> dict[str, Any]:
    assert hit.passage is not None
    logit = hit.scores.get("rerank")
    return {
        **hit.passage.as_json(),
        "score": hit.score,
        "probability": None if reranker is None or logit is None else float(reranker.probability(logit)),
        "scores": dict(hit.scores),
        "ranks": dict(hit.ranks),
    }


def _deciding(reranker: Reranker, ranking: Ranking) -> list[dict[str, Any] | None]:
    """Of each text the sentence that the reranker likes best when it reads it alone: its range, logit and probability.

    The sentences of all hits are one ragged batch. None for a text without a sentence.
    """
    passages = [hit.passage for hit in ranking if hit.passage is not None]
    spans = [sentence_spans(passage.text, passage.lang)[:_SENTENCES] for passage in passages]
    texts = [passage.text[start:stop] for passage, own in zip(passages, spans, strict=True) for start, stop in own]
    scores = reranker.score(ranking.query, texts)
    parts = np.split(scores, np.cumsum([len(own) for own in spans])[:-1]) if spans else []
    return [_best_of(reranker, own, part) for own, part in zip(spans, parts, strict=True)]


def _best_of(reranker: Reranker, spans: Sequence[tuple[int, int]], scores: FloatArray) -> dict[str, Any] | None:
    if not spans:
        return None
    best = int(scores.argmax())
    return {
        "sentence": spans[best],
        "score": float(scores[best]),
        "probability": float(reranker.probability(scores[best])),
    }


def _tokens_cut(reranker: Reranker | None, ranking: Ranking) -> list[int]:
    """Tokens of each hit that the reranker has not read, because they did not fit or lay outside of its window."""
    if reranker is None or not len(ranking):
        return [0] * len(ranking)
    contents = [hit.passage.content for hit in ranking if hit.passage is not None]
    return [int(cut) for cut in reranker.tokens_cut(ranking.query, contents)]
