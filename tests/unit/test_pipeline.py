"""Two-stage search: what is reranked, in which order it comes back, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

import tiny_models
from index_tools import HashEncoder, passages
from shortlist import Hit, Index, Passage, Pipeline, Ranking, Reranker, fuse
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, ModelNotFound
from shortlist.pipeline import rerank


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with Index.create(tmp_path_factory.mktemp("pipeline") / "p.idx", encoder=HashEncoder()) as index:
        index.add(passages(60))
        yield index


@pytest.fixture(scope="module")
def reranker(tiny_reranker_folder):
    reranker = Reranker.load(tiny_reranker_folder)
    reranker.card = replace(reranker.card, fusion_weight=0.3)
    return reranker


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    small = Reranker.load(tiny_models.write_reranker(tmp_path_factory.mktemp("models") / "small", seed=5, layers=1))
    small.card = replace(small.card, fusion_weight=0.4)
    return small


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


def test_each_reranker_of_a_cascade_may_have_a_weight_of_its_own(index, reranker, small):
    ranking = index.search(QUERY, k=30)
    stages = [(small, 30), (reranker, 10)]
    found = rerank(ranking, stages, weight=[0.0, 1.0])
    first = by_hand(ranking.ids, {hit.id: hit.score for hit in ranking}, small, 30, 0.0)[0]
    assert found.ids[:10] == by_hand(first, {hit.id: hit.score for hit in ranking}, reranker, 10, 1.0)[0][:10]
    assert rerank(ranking, stages, weight=[0.4, 0.3]).ids == rerank(ranking, stages).ids
    with pytest.raises(BadInput, match="1 weights for 2 rerankers"):
        rerank(ranking, stages, weight=[0.5])
    with pytest.raises(BadInput, match="out of range"):
        rerank(ranking, stages, weight=[0.5, 1.5])


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


def by_hand(order, first, reranker, count, weight):
    """(ids, scores) after one reranker: the first `count` ids of `order` by the weighted sum, the rest as they were."""
    texts = {p.id: p.content for p in passages(60)}
    head = order[:count]
    logits = [float(s) for s in reranker.score(QUERY, [texts[i] for i in head])]
    pairs = [[(i, first[i]) for i in head], list(zip(head, logits, strict=True))]
    fused = fuse.weighted_sum(pairs, [1 - weight, weight])
    return [i for i, _ in fused] + order[count:], [s for _, s in fused]


@pytest.mark.parametrize("max_ms", [None, 1e9])
def test_without_a_limit_the_ranking_is_the_sum_to_the_last_bit(index, reranker, max_ms):
    candidates = index.search(QUERY, k=32)
    ids, scores = by_hand(candidates.ids, {h.id: h.score for h in candidates}, reranker, 32, reranker.card.fusion_weight)
    found = Pipeline(index, reranker)(QUERY, k=32, max_ms=max_ms)
    assert found.ids == ids
    assert [hit.score for hit in found] == scores
    assert found.scored == {"rerank": 32}
    assert found.notes == ()


def test_what_time_does_not_allow_stays_behind(index, reranker, clock):
    candidates = index.search(QUERY, k=40)
    found = Pipeline(index, reranker)(QUERY, k=32, candidates=32, max_ms=30)
    read = found.scored["rerank"]
    assert 2 < read < 32
    first = {h.id: h.score for h in candidates}
    ids, scores = by_hand(candidates.ids[:32], first, reranker, read, reranker.card.fusion_weight)
    assert found.ids == ids
    assert [hit.score for hit in found[:read]] == scores
    assert sorted((hit.score for hit in found), reverse=True) == [hit.score for hit in found]
    assert ["rerank" in hit.scores for hit in found] == [True] * read + [False] * (32 - read)
    assert found.notes == (f"rerank: {read} of 32 candidates scored within 30 ms",)
    assert found.timings["rerank_ms"] <= 30
    run = Pipeline(index, reranker).run({"q": QUERY}, k=40, max_ms=30)
    assert [name for name, _ in run.ranked("q")] == ids + candidates.ids[32:]


def test_no_time_leaves_the_first_stage(index, reranker, small):
    candidates = index.search(QUERY, k=32)
    for search in (Pipeline(index, reranker), Pipeline(index, cascade=[(small, 32), (reranker, 5)])):
        found = search(QUERY, k=32, max_ms=0)
        assert [(h.id, h.score, h.scores) for h in found] == [(h.id, h.score, h.scores) for h in candidates]
        assert set(found.scored.values()) == {0}
        assert "rerank: 0 of" in found.notes[-1]


@pytest.mark.parametrize("weight", [None, 1.0])
def test_a_cascade_is_its_stages_by_hand(index, reranker, small, weight):
    candidates = index.search(QUERY, k=40)
    first = {h.id: h.score for h in candidates}
    order, _ = by_hand(candidates.ids, first, small, 30, 0.4 if weight is None else weight)
    ids, scores = by_hand(order, first, reranker, 8, reranker.card.fusion_weight if weight is None else weight)
    search = Pipeline(index, cascade=[(small, 30), (reranker, 8)])
    found = search(QUERY, k=30, weight=weight)
    assert found.ids == ids[:30]
    assert [hit.score for hit in found[:8]] == scores
    assert sorted((hit.score for hit in found), reverse=True) == [hit.score for hit in found]
    assert found.scored == {"rerank:small": 30, "rerank": 8}
    assert all({"rerank:small", "rerank"} <= set(hit.ranks) for hit in found[:8])
    assert all("rerank:small" in hit.scores and "rerank" not in hit.scores for hit in found[8:])
    assert {"rerank:small_ms", "rerank_ms"} <= set(found.timings)
    run = search.run({"q": QUERY}, k=40, weight=weight)
    assert [name for name, _ in run.ranked("q")] == ids


def test_the_best_reranker_of_a_cascade_gets_its_share_of_the_time(index, reranker, small, clock):
    found = Pipeline(index, cascade=[(small, 50), (reranker, 50)])(QUERY, k=20, max_ms=80)
    assert 0 < found.timings["rerank:small_ms"] <= 40
    assert 40 < found.timings["rerank:small_ms"] + found.timings["rerank_ms"] <= 80
    assert 2 < found.scored["rerank"] < 50
    assert [note.split(":")[:2] for note in found.notes] == [
        ["rerank", "small"],
        ["rerank", f" {found.scored['rerank']} of 50 candidates scored within 80 ms"],
    ]


def test_the_last_of_a_cascade_reads_everything_without_a_first_stage(index, reranker, small):
    found = Pipeline(index, cascade=[(small, 30), (reranker, 8)])(QUERY, k=60, first="none")
    assert found.ids == Pipeline(index, reranker)(QUERY, k=60, first="none").ids
    assert found.scored == {"rerank": 60}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([], "reads \\[\\]"),
        ([20, 30], "\\[20, 30\\]"),
        ([20, 0], "\\[20, 0\\]"),
        ([30, 20, 10], "small, rerank:small before the last"),
    ],
)
def test_a_cascade_that_makes_no_sense(index, small, numbers, message):
    with pytest.raises(BadInput, match=message):
        Pipeline(index, cascade=[(small, number) for number in numbers])
    with pytest.raises(BadInput, match=message):
        rerank(index.search(QUERY), [(small, number) for number in numbers])


def test_a_cascade_takes_names_and_no_second_way_to_say_the_same(index, reranker, small):
    with pytest.raises(ModelNotFound, match="models fetch shortlist-embed"):
        Pipeline(index, cascade=[("L-2", 30), (reranker, 8)])
    with pytest.raises(BadInput, match="Give one of them"):
        Pipeline(index, small, cascade=[(reranker, 8)])
    with pytest.raises(BadInput, match="candidates=32 beside a cascade"):
        Pipeline(index, cascade=[(reranker, 8)])(QUERY, candidates=32)
    with pytest.raises(BadInput, match="k=9 but candidates=8"):
        Pipeline(index, cascade=[(reranker, 8)])(QUERY, k=9)


def test_a_ranking_from_elsewhere_must_have_passages_and_ids(reranker):
    passage = Passage("a", "river")
    with pytest.raises(BadInput, match="'a' has no passage"):
        rerank(Ranking("river", (Hit("a", 1.0),)), [(reranker, 5)])
    with pytest.raises(BadInput, match="2 hits have 1 ids"):
        rerank(Ranking("river", (Hit("a", 1.0, passage), Hit("a", 0.5, passage))), [(reranker, 5)])


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
        ({"max_ms": -1}, "max_ms=-1"),
        ({"max_ms": float("nan")}, "max_ms=nan"),
        ({"max_ms": 20, "first": "none"}, "max_ms=20 with first='none'"),
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


@pytest.mark.parametrize("first", ["bm25", "dense", "hybrid"])
def test_many_queries_find_what_each_finds_alone(first, reranker, tiny_encoder_folder, tmp_path):
    texts = [passage.text for passage in passages(70, seed=3)]  # more than two batches, of every length
    queries = {str(number): text for number, text in enumerate(texts)}
    where = "not n<9"
    with Index.create(tmp_path / "a.idx", encoder=Encoder.load(tiny_encoder_folder)) as index:
        index.add([*passages(150), *(replace(one, id=f"again-{one.id}") for one in passages(40))])
        index.delete(["p3", "again-p7"])
        for told, alone in zip(
            index.search_many(texts, 30, first=first, where=where),
            (index.search(text, 30, first=first, where=where) for text in texts),
            strict=True,
        ):
            assert (told.query, told.hits, told.notes, told.weights) == (alone.query, alone.hits, alone.notes, alone.weights)
            assert told.timings.keys() == alone.timings.keys()
            assert told.timings["total_ms"] >= 0.999 * sum(ms for name, ms in told.timings.items() if name != "total_ms")
        search = Pipeline(index, reranker)
        run = search.run(queries, k=8, candidates=8, first=first, where=where)
        assert list(run) == list(queries)
        for name, text in queries.items():
            alone = search(text, k=8, candidates=8, first=first, where=where)
            assert list(run[name].items()) == [(hit.id, hit.score) for hit in alone]
