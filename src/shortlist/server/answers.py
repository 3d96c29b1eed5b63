"""A ranking as the JSON that /v1/search gives: hits with their stages, matched words, and the sentence that decided."""

from __future__ import annotations

from typing import Any

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
    for hit, shown in zip(ranking, hits, strict=True):
        assert hit.passage is not None
        if highlights:
            shown["highlights"] = _highlights(served, ranking.query, hit.passage)
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


def passage_json(passage: Passage) -> dict[str, Any]:
    """A passage as it came in."""
    return {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "lang": passage.lang,
        "meta": dict(passage.meta),
    }


def _hit(hit: Hit) -> dict[str, Any]:
    assert hit.passage is not None
    return {**passage_json(hit.passage), "score": hit.score, "scores": dict(hit.scores), "ranks": dict(hit.ranks)}


def _highlights(served: ServedIndex, query: str, passage: Passage) -> dict[str, list[tuple[int, int]]]:
    """Character ranges of title and text whose words share a term with the query."""
    wanted = served.analyzer.query_terms(query, served.index.languages)
    lang = passage.lang or detect_language(passage.content)
    return {part: served.analyzer.matches(getattr(passage, part), wanted, lang) for part in ("title", "text")}


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
