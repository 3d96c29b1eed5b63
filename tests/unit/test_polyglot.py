"""The multilingual collection written for the project: sound in form, and hard enough that a search can fail on it."""

import json
import math
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from shortlist.data import read_collection

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "polyglot"
SCRIPTS = {
    "zh": "CJK",
    "hi": "DEVANAGARI",
    "te": "TELUGU",
    "ta": "TAMIL",
    "ar": "ARABIC",
    "ja": "CJK|HIRAGANA|KATAKANA",
    "ko": "HANGUL",
    "th": "THAI",
    "ru": "CYRILLIC",
    **dict.fromkeys(("es", "de", "en", "fr", "sw", "pt"), "LATIN"),
}
UNSPACED = ("zh", "ja", "th")
README_ORDER = ["zh", "hi", "te", "ta", "es", "ar", "de", "en", "fr", "ja", "ko", "th", "sw", "ru", "pt"]
COLLECTION = read_collection(FOLDER)
PASSAGES = {p.id: p for p in COLLECTION.passages()}
QUERIES = [json.loads(line) for line in (FOLDER / "queries.jsonl").read_text(encoding="utf-8").splitlines()]


def terms(text: str, lang: str) -> list[str]:
    """Words in lower case; pairs of characters where the script has no spaces."""
    words = re.sub(r"[^\w\u0900-\u0dff\u0e00-\u0e7f]", " ", text.lower()).split()
    return [w[i : i + 2] for w in words for i in range(max(1, len(w) - 1))] if lang in UNSPACED else words


def relevant(query_id: str) -> set[str]:
    return {passage for passage, judgement in COLLECTION.qrels[query_id].items() if judgement > 0}


@pytest.mark.parametrize("lang", SCRIPTS)
def test_each_language_has_enough(lang):
    assert sum(p.lang == lang for p in PASSAGES.values()) >= 16
    assert sum(q["lang"] == lang and not q["_id"].startswith("x-") for q in QUERIES) >= 6


def test_ids():
    lines = (FOLDER / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(PASSAGES) == len(lines)
    assert all(re.fullmatch(rf"{p.lang}-\d\d", p.id) for p in PASSAGES.values())
    assert all(re.fullmatch(rf"({q['lang']}|x)-q\d+", q["_id"]) for q in QUERIES)
    assert {p.lang for p in PASSAGES.values()} == set(SCRIPTS)


def test_every_question_is_judged_with_a_near_miss():
    assert {q["_id"] for q in QUERIES} == set(COLLECTION.qrels)
    for query_id, judged in COLLECTION.qrels.items():
        assert set(judged) <= set(PASSAGES), query_id
        assert set(judged.values()) == {0, 1}, query_id
        assert 1 <= len(relevant(query_id)) <= 2, query_id


def test_cross_lingual_questions_leave_their_language():
    crossing = [q for q in QUERIES if q["_id"].startswith("x-")]
    assert len(crossing) >= 10
    assert all(PASSAGES[p].lang != q["lang"] for q in crossing for p in relevant(q["_id"]))
    rest = [q for q in QUERIES if q not in crossing]
    assert all(PASSAGES[p].lang == q["lang"] for q in rest for p in COLLECTION.qrels[q["_id"]])


@pytest.mark.parametrize("lang", SCRIPTS)
def test_texts_are_in_their_script(lang):
    texts = [p.content for p in PASSAGES.values() if p.lang == lang] + [q["text"] for q in QUERIES if q["lang"] == lang]
    for text in texts:
        assert unicodedata.is_normalized("NFC", text), text
        letters = [unicodedata.name(c) for c in text if c.isalpha()]
        assert sum(bool(re.match(SCRIPTS[lang], name)) for name in letters) >= 0.95 * len(letters), text
        assert lang != "ja" or any(name.startswith(("HIRAGANA", "KATAKANA")) for name in letters), text
    assert max(Counter(texts).values()) == 1


def test_passages_have_two_sentences_or_more():
    ends = {"th": " "}  # Thai ends a sentence with a space
    for passage in PASSAGES.values():
        pieces = [s for s in re.split(ends.get(passage.lang, r"(?<!St)[.。！？।?!؟]"), passage.text) if s.strip()]
        assert len(pieces) >= 2, passage.id
        assert passage.title, passage.id


def test_no_question_repeats_its_passage():
    for query in QUERIES:
        asked = terms(query["text"], query["lang"])
        length = 7 if query["lang"] in UNSPACED else 4
        for passage_id in relevant(query["_id"]):
            told = terms(PASSAGES[passage_id].content, query["lang"])
            runs = {tuple(told[i : i + length]) for i in range(len(told) - length + 1)}
            copied = [run for i in range(len(asked) - length + 1) if (run := tuple(asked[i : i + length])) in runs]
            assert not copied, (query["_id"], copied)


def bm25_terms(text: str, lang: str) -> list[str]:
    singles = [c for c in text if c.isalnum()] if lang in UNSPACED else []
    return terms(text, lang) + singles


def bm25_ndcg(k1: float = 0.9, b: float = 0.4) -> dict[str, list[float]]:
    """Group of questions (zh … x, all) -> nDCG@10 of each; one relevant passage a question, so the ideal gain is 1."""
    bags = {p.id: Counter(bm25_terms(p.content, p.lang)) for p in PASSAGES.values()}
    lengths = {passage_id: sum(bag.values()) for passage_id, bag in bags.items()}
    mean_length = sum(lengths.values()) / len(lengths)
    frequency = Counter(term for bag in bags.values() for term in bag)
    values: dict[str, list[float]] = {}
    for query in QUERIES:
        scores = dict.fromkeys(bags, 0.0)
        for term in bm25_terms(query["text"], query["lang"]):
            idf = math.log(1 + (len(bags) - frequency[term] + 0.5) / (frequency[term] + 0.5))
            for passage_id, bag in bags.items():
                if bag[term]:
                    norm = k1 * (1 - b + b * lengths[passage_id] / mean_length)
                    scores[passage_id] += idf * bag[term] * (k1 + 1) / (bag[term] + norm)
        found = sorted((p for p in scores if scores[p]), key=lambda p: (-scores[p], p))[:10]
        value = sum(1 / math.log2(place + 1) for place, p in enumerate(found, 1) if p in relevant(query["_id"]))
        for group in ("all", query["_id"].split("-")[0]):
            values.setdefault(group, []).append(value)
    return values


def test_it_can_fail_exactly_as_the_readme_says():
    values = bm25_ndcg()
    measured = [f"{sum(v) / len(v):.2f}" for v in (values[g] for g in ("all", *README_ORDER, "x"))]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith("| BM25"))
    assert [cell.strip() for cell in row.strip("|").split("|")[1:]] == measured
    assert float(measured[0]) < 0.6
    assert all(float(cell) < 0.9 for cell in measured)


def test_the_readme_names_licence_and_counts():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in readme
    assert f"{len(PASSAGES)} passages" in readme
    assert f"{len(QUERIES)} questions" in readme
