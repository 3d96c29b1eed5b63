"""Two-stage search: what is reranked, in which order it comes back, and what is refused."""

import numpy as np
import pytest

from index_tools import HashEncoder, passages
from shortlist import Index, Passage, Pipeline, Reranker
from shortlist.errors import BadInput


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with Index.create(tmp_path_factory.mktemp("pipeline") / "p.idx", encoder=HashEncoder()) as index:
        index.add(passages(60))
        yield index


@pytest.fixture(scope="module")
def reranker(tiny_reranker_folder):
    return Reranker.load(tiny_reranker_folder)


QUERY = "the river in the city"


def zscores(values):
    values = np.asarray(values, np.float64)
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize("first", ["bm25", "dense", "hybrid"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_order_is_the_weighted_sum_of_zscores(index, reranker, first, weight):
    candidates = index.search(QUERY, k=20, first=first)
    logits = reranker.score(QUERY, [hit.passage.content for hit in candidates])
    expected = (1 - weight) * zscores([hit.score for hit in candidates]) + weight * zscores(logits)
    found = Pipeline(index, reranker)(QUERY, k=20, candidates=20, first=first, weight=weight)
    assert {hit.id for hit in found} == set(candidates.ids)
    assert [hit.score for hit in found] == pytest.approx(sorted(expected, reverse=True))
    by_id = dict(zip(candidates.ids, logits, strict=True))
    assert all(hit.scores["rerank"] == pytest.approx(by_id[hit.id]) for hit in found)
    best = max(by_id, key=lambda i: (by_id[i], i))
    assert next(hit for hit in found if hit.id == best).ranks["rerank"] == 1
    if weight == 0:
        assert found.ids == candidates.ids


def test_only_the_best_candidates_are_read(index, reranker):
    search = Pipeline(index, reranker)
    first = index.search(QUERY, k=4, first="dense").ids
    assert set(search(QUERY, k=4, candidates=4, first="dense", weight=1.0).ids) == set(first)


def test_without_a_first_stage_everything_is_reranked(index, reranker):
    found = Pipeline(index, reranker)(QUERY, k=60, first="none")
    texts = {p.id: p.content for p in index.passages()}
    scores = reranker.score(QUERY, list(texts.values()))
    expected = sorted(zip(texts, scores, strict=True), key=lambda item: (-item[1], item[0]))
    assert found.ids == [name for name, _ in expected]


def test_without_a_reranker_the_first_stage_stands(index):
    assert Pipeline(index)(QUERY, k=7).ids == index.search(QUERY, k=7).ids


def test_a_run_ranks_what_the_calls_rank_and_keeps_the_tail(index, reranker):
    search = Pipeline(index, reranker)
    seen = []
    run = search.run({"q": QUERY}, k=30, candidates=5, first="dense", progress=lambda done, total: seen.append((done, total)))
    ids = [name for name, _ in run.ranked("q")]
    assert ids[:5] == search(QUERY, k=5, candidates=5, first="dense").ids
    assert ids[5:] == index.search(QUERY, k=30, first="dense").ids[5:]
    assert seen == [(1, 1)]


def test_timings_add_up(index, reranker):
    timings = Pipeline(index, reranker)(QUERY).timings
    parts = sum(ms for stage, ms in timings.items() if stage != "total_ms")
    assert timings["rerank_ms"] > 0
    assert parts <= timings["total_ms"] * 1.01


def test_cut_passages_are_reported(tmp_path, reranker):
    with Index.create(tmp_path / "long.idx") as index:
        index.add([Passage("long", "river " * 5000), Passage("short", "river")])
        assert "1 of the reranked passages were cut" in Pipeline(index, reranker)("river", k=2).notes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 50, "candidates": 20}, "Raise candidates to at least 50"),
        ({"k": 0}, "k=0"),
        ({"k": 0, "first": "none"}, "k=0"),
        ({"first": "colbert"}, "colbert"),
        ({"weight": 1.5}, "weight=1.5"),
    ],
)
def test_bad_arguments(index, reranker, arguments, message):
    with pytest.raises(BadInput, match=message):
        Pipeline(index, reranker)(QUERY, **arguments)


def test_bad_queries(index, reranker):
    for query in ("", "  \n", "\ud800"):
        with pytest.raises(BadInput):
            Pipeline(index, reranker)(query)
        with pytest.raises(BadInput):
            Pipeline(index, reranker)(query, first="none")
    with pytest.raises(BadInput, match="no reranker"):
        Pipeline(index)(QUERY, first="none")


def test_an_empty_index_gives_an_empty_ranking(tmp_path, reranker):
    with Index.create(tmp_path / "empty.idx") as index:
        assert len(Pipeline(index, reranker)("river")) == 0
        assert len(Pipeline(index, reranker)("river", first="none")) == 0
