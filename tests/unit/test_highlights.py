"""Which words of a passage are marked for a query: those that carry weight, told from the index alone, in any language."""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from shortlist.cli.show import ranking_table
from shortlist.data import read_passages, read_queries
from shortlist.index import Index
from shortlist.stores.postings import light
from shortlist.types import Passage

ROOT = Path(__file__).parents[2]
POLYGLOT = ROOT / "examples" / "polyglot"
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
PASSAGES = list(read_passages(POLYGLOT))
QUERIES = [json.loads(line)["text"] for line in (POLYGLOT / "queries.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def polyglot(tmp_path_factory):
    with Index.create(tmp_path_factory.mktemp("highlights") / "polyglot.idx") as index:
        index.add(PASSAGES)
        yield index


def naive_light(analyzer, passages, words):
    """The rule as a loop over the passages of a language."""
    terms = [analyzer.terms(one.content, one.lang) for one in passages]
    total = len(terms)
    holding = [sum(form in own for form in word for own in map(set, terms)) for word in words]
    weight = [math.log(1 + (total - min(n, total) + 0.5) / (min(n, total) + 0.5)) for n in holding]
    small = {i for i in range(len(words)) if holding[i] > total / 10 and weight[i] < max(weight) / 2}
    telling = {form for i, word in enumerate(words) if i not in small for form in word}
    return {form for i in small for form in words[i]} - telling


def check(index, passages):
    snapshot, analyzer = index._store.snapshot(), index._store.analyzer
    found = set()
    for lang in {one.lang for one in passages}:
        own = [one for one in passages if one.lang == lang]
        for query in QUERIES[::6]:
            words = analyzer.query_forms(query, snapshot.languages)
            assert snapshot.light(words, lang) == naive_light(analyzer, own, words)
            found |= snapshot.light(words, lang)
    assert len(found) > 30


def test_light_terms_are_those_of_a_count_over_all_passages(polyglot):
    check(polyglot, PASSAGES)


def test_what_is_deleted_does_not_count(tmp_path):
    gone = {one.id for one in PASSAGES[::4]}
    with Index.create(tmp_path / "a.idx") as index:
        for start in range(0, len(PASSAGES), 100):  # several segments
            index.add(PASSAGES[start : start + 100])
        index.delete(sorted(gone))
        check(index, [one for one in PASSAGES if one.id not in gone])


def test_a_language_that_the_index_has_not_is_judged_by_all_passages(polyglot):
    words = [("the",), ("earth",)]
    assert polyglot._store.snapshot().light(words, "xx") == naive_light(polyglot._store.analyzer, PASSAGES, words)


@pytest.mark.parametrize(
    ("counts", "passages", "expected"),
    [
        ({"the": 90, "river": 3}, 100, {"the"}),
        ({"the": 90, "a": 85, "of": 88}, 100, set()),  # a query of nothing else
        ({"the": 90, "a": 60}, 100, {"the"}),
        ({"the": 90}, 100, set()),  # alone
        ({"the": 90, "unknown": 0}, 100, {"the"}),  # what is nowhere would tell most
        ({"river": 11, "unique": 1}, 100, set()),
        ({"river": 10, "unique": 1}, 100, set()),  # not more than one in ten
        ({"river": 40, "unique": 1}, 100, {"river"}),
        ({}, 100, set()),
        ({"x": 0}, 0, set()),
    ],
)
def test_the_rule(counts, passages, expected):
    assert light([(word,) for word in counts], counts, passages) == expected


def test_forms_of_a_word_count_as_one():
    """And a form that another word has too, which tells something, is not light."""
    counts = {"run": 8, "running": 7, "runn": 0, "rare": 1, "the": 90}
    assert light([("run", "running"), ("rare",)], counts, 100) == {"run", "running"}
    assert light([("the", "run"), ("run", "runn"), ("rare",)], counts, 100) == {"the"}


def marked(index, query, passage):
    (places,) = index.highlights(query, [passage])
    return {name: [getattr(passage, name)[a:b] for a, b in ranges] for name, ranges in places.items()}


@pytest.mark.parametrize(
    ("query", "name", "expected", "never"),
    [
        ("Which mountain is farthest from the centre of the Earth?", "en-01", {"Earth"}, {"the", "is", "of"}),
        ("Who was the first person to walk on the Moon?", "en-04", {"walked", "Moon"}, {"the", "on"}),
        ("Welcher Fluss ist der längste in Europa?", "de-11", {"lang"}, {"der"}),
        ("¿Qué montaña queda más lejos del núcleo terrestre?", "es-02", set(), {"del", "más", "la"}),  # the others are nowhere
        ("ما هو أطول نهر في العالم؟", "ar-17", {"العالم"}, {"في"}),
    ],
)
def test_small_words_of_real_text_are_not_marked(polyglot, query, name, expected, never):
    passage = polyglot.get(name)
    shown = {word for words in marked(polyglot, query, passage).values() for word in words}
    assert expected <= shown
    assert never.isdisjoint(word.lower() for word in shown)
    assert any(f" {word} " in passage.text for word in never)


def test_a_query_of_small_words_alone_marks_them(polyglot):
    assert "the" in marked(polyglot, "the", polyglot.get("en-01"))["text"]


def test_without_a_language_it_is_detected(polyglot):
    passage = replace(polyglot.get("en-04"), lang="")
    assert marked(polyglot, "the Moon", passage) == marked(polyglot, "the Moon", polyglot.get("en-04"))


def test_the_table_of_a_search_underlines_the_same_words(tmp_path):
    with Index.create(tmp_path / "a.idx") as index:
        index.add([Passage(f"p{i}", f"the town number{i} of [bold]stone\\", "The title", "en") for i in range(30)])
        table = ranking_table("x", index.search("the number7 of stone", 1), 1, index)
    text = io.StringIO()
    Console(file=text, force_terminal=True, color_system="standard", width=140).print(table)
    assert "\x1b[4mnumber7\x1b[0m of [bold]stone\\" in text.getvalue()
    assert text.getvalue().count("\x1b[4m") == 1


@pytest.mark.data
@pytest.mark.parametrize(
    ("collection", "lang", "small"),
    [("mlqa-en", "en", "the of in is to and was a for by"), ("mlqa-de", "de", "der die und in von mit den das zu im")],
)
def test_collections_of_real_text(tmp_path, collection, lang, small):
    if not (DATA / collection).is_dir():
        pytest.skip(f"{DATA / collection} is not here")
    with Index.create(tmp_path / "a.idx") as index:
        index.add(replace(one, lang=lang) for one in read_passages(DATA / collection))
        queries = list(read_queries(DATA / collection).values())[::25]
        found = [
            {word.lower() for hit in index.search(query, 3) for word in marked(index, query, hit.passage)["text"]}
            for query in queries
        ]
    assert not set(small.split()) & set().union(*found)
    assert sum(map(bool, found)) > 0.95 * len(queries)
