"""Bad input gets a clear error and loses nothing."""

from __future__ import annotations

import pytest

from index_tools import HashEncoder, passages
from shortlist.errors import BadInput
from shortlist.index import Added, Index
from shortlist.types import Passage


@pytest.fixture
def index(tmp_path):
    with Index.create(tmp_path / "a.idx", encoder=HashEncoder()) as index:
        index.add(passages(10))
        yield index


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("text", "expected a Passage"),
        (None, "expected a Passage"),
        ({"id": "x", "text": "y"}, "expected a Passage"),
        (Passage("", "x"), "not empty"),
        (Passage(7, "x"), "not empty"),
        (Passage("a\0b", "x"), "control characters"),
        (Passage("a\ud800", "x"), "surrogate"),
        (Passage("x", None), "expected a str"),
        (Passage("x", b"bytes"), "expected a str"),
        (Passage("x", 3.5), "expected a str"),
        (Passage("x", "lone \udfff surrogate"), "surrogate"),
        (Passage("x", "y", title=5), "expected a str"),
        (Passage("x", "y", title="\ud800"), "surrogate"),
        (Passage("x", "y", lang=None), "expected a str"),
        (Passage("x", "y", meta={"a": float("nan")}), "metadata"),
        (Passage("x", "y", meta={"a": {1, 2}}), "metadata"),
        (Passage("x", "y", meta={"a": (1, 2)}), "metadata"),
        (Passage("x", "y", meta={1: 2}), "metadata"),
        (Passage("x", "y", meta=None), "metadata"),
        (Passage("p3", "again"), "'p3' is in the index already"),
        (Passage("new", "twice"), "'new' occurs twice"),
    ],
)
def test_a_bad_passage_is_refused_and_nothing_of_its_batch_is_stored(index, bad, message):
    with pytest.raises(BadInput, match=message):
        index.add([Passage("new", "good"), bad, Passage("newer", "good too")])
    assert len(index) == 10
    assert list(index.passages()) == passages(10)
    assert index.add([Passage("new", "good")]) == Added(1, 0)
    assert index.search("good", k=1).ids == ["new"]


def test_batches_before_a_bad_one_stay(index):
    made = passages(2100, seed=3, prefix="q")
    with pytest.raises(BadInput, match=r"'q7'.*2000 passages of the batches before it are stored"):
        index.add([*made, Passage("q7", "again")])
    assert len(index) == 2010


def test_a_failing_iterable_costs_the_batch_in_flight(index):
    def stream():
        yield from passages(2100, seed=3, prefix="q")
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        index.add(stream())
    assert len(index) == 2010


def test_nul_becomes_a_space(index):
    index.add([Passage("nul", "left\0right", lang="en")])
    assert index.get("nul").text == "left right"
    assert index.search("right", k=1, first="bm25").ids == ["nul"]


def test_a_passage_of_ten_megabytes(index):
    text = "needle " + "haystack straw " * 700_000
    assert len(text) > 10_000_000
    assert index.add([Passage("big", text, lang="en"), Passage("small", "a needle", lang="en")]) == Added(2, 1)
    assert index.get("big").text == text
    assert set(index.search("needle", first="bm25").ids) == {"big", "small"}


def test_empty_texts_are_kept(index):
    index.add([Passage("none", ""), Passage("blank", "  \n ")])
    assert index.get("none").text == ""
    assert len(index.search("river")) > 0


@pytest.mark.parametrize("query", ["", "   ", "\n\t", "\0", None, 5, b"x", "\ud800"])
def test_a_query_that_says_nothing_is_refused(index, query):
    with pytest.raises(BadInput):
        index.search(query)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(index, k):
    with pytest.raises(BadInput):
        index.search("river", k=k)


def test_a_single_passage_or_text_instead_of_an_iterable(index):
    with pytest.raises(BadInput, match="iterable"):
        index.add(Passage("x", "y"))
    with pytest.raises(BadInput, match="expected a Passage"):
        index.add("text")


def test_ids_of_any_script_and_with_quotes(index):
    names = ["键", "a b", "x'y\"z", "🦆", "%s", "é", "e\u0301", "A" * 5000]
    index.add([Passage(name, f"text of {i}", lang="en") for i, name in enumerate(names)])
    for i, name in enumerate(names):
        assert index.get(name).text == f"text of {i}"
    index.delete(names)
    assert len(index) == 10
