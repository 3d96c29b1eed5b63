"""A ranking as the JSON that /v1/search gives: hits with their stages, matched words, and the sentence that decided."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from shortlist.analyze import Analyzer
from shortlist.reranker import Reranker
from shortlist.server.indexes import Question, ServedIndex
from shortlist.text import detect_language, sentence_spans
from shortlist.types import Hit, Passage, Ranking

_SENTENCES = 64  # of one passage, scored for the explanation


def answer(served: ServedIndex, question: Question, *, highlights: bool, explain: bool) -> dict[str, Any]:
    """Search, and describe what was found."""
    ranking = served.search(question)
    hits = [_hit(hit) for hit in ranking]
    reranker = served.reranker if ranking.scored else None
    wanted = served.analyzer.query_terms(ranking.query, served.index.languages) if highlights else []
    for hit, shown in zip(ranking, hits, strict=True):
        assert hit.passage is not None
        if highlights:
            shown["highlights"] = _highlights(served.analyzer, wanted, hit.passage)
        if explain and served.reranker is not None:
            shown["explain"] = _deciding(served.reranker, ranking.query, hit.passage)
    for shown, cut in zip(hits, _tokens_cut(reranker, ranking), strict=True):
        shown["tokens_cut"] = cut
    return {
        "object": "search",
        "index": served.name,
        "query": ranking.query,
        "strategy": served.strategy(question),
        "hits": hits,
        "timings": {name: round(ms, 3) for name, ms in ranking.timings.items()},
        "scored": dict(ranking.scored),
        "notes": list(ranking.notes),
        "truncated": any(hit["tokens_cut"] for hit in hits) or any(" was cut " in note for note in ranking.notes),
    }


def _hit(hit: Hit) -> dict[str, Any]:
    assert hit.passage is not None
    return {**hit.passage.as_json(), "score": hit.score, "scores": dict(hit.scores), "ranks": dict(hit.ranks)}


def _highlights(analyzer: Analyzer, wanted: Collection[str], passage: Passage) -> dict[str, list[tuple[int, int]]]:
    """Character ranges of title and text whose words have one of the wanted terms."""
    lang = passage.lang or detect_language(passage.content)
    return {part: analyzer.matches(getattr(passage, part), wanted, lang) for part in ("title", "text")}


def _deciding(reranker: Reranker, query: str, passage: Passage) -> dict[str, Any] | None:
    """The sentence of the text that the reranker likes best when it reads it alone: its range, logit and probability."""
    spans = sentence_spans(passage.text, passage.lang)[:_SENTENCES]
    if not spans:
        return None
    scores = reranker.score(query, [passage.text[start:stop] for start, stop in spans])
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
