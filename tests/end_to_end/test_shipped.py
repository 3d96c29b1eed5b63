"""The real models end to end: what ships loads, agrees with its card, and finds answers in many languages."""

import pytest

import shortlist as sl
from shortlist import cli, models
from shortlist.data import read_collection
from shortlist.errors import ModelNotFound
from shortlist.measures import evaluate
from shortlist.models.catalogue import FAMILIES

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def polyglot(request):
    return read_collection(request.config.rootpath / "examples" / "polyglot", "test")


@pytest.fixture(scope="module")
def index(request, tmp_path_factory):
    try:
        encoder = sl.Encoder.load("shortlist-embed")
    except ModelNotFound as error:
        pytest.skip(str(error))
    with sl.Index.create(tmp_path_factory.mktemp("shipped") / "polyglot.idx", encoder=encoder) as index:
        index.add(sl.read_passages(request.config.rootpath / "examples" / "polyglot"))
        yield index


def ndcg(run, qrels):
    return evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"]


def test_two_stages_stay_close_to_the_best_single_one(index, polyglot):
    search = sl.Pipeline(index, sl.Reranker.load("shortlist-rerank"))
    first = {name: ndcg(sl.Pipeline(index).run(polyglot.queries, first=name), polyglot.qrels) for name in ("bm25", "dense")}
    both = ndcg(search.run(polyglot.queries, candidates=32), polyglot.qrels)
    assert first["bm25"] > 0.4
    assert first["dense"] > 0.7
    assert both > max(first.values()) - 0.03


def test_a_cascade_by_the_names_of_sizes(index, polyglot):
    search = sl.Pipeline(index, cascade=[("L-2", 50), ("L-6", 10)])
    found = search(next(iter(polyglot.queries.values())), max_ms=60_000)
    assert found.scored == {"rerank:L-2": 50, "rerank": 10}
    both = ndcg(search.run(polyglot.queries), polyglot.qrels)
    assert both > ndcg(sl.Pipeline(index).run(polyglot.queries, first="hybrid"), polyglot.qrels) - 0.03


def test_the_models_here_are_those_that_were_published(index):
    rerankers = [f"{family.name}-{size}" for family in FAMILIES for size in family.sizes]
    for name in ("shortlist-embed", *rerankers):
        assert models.verify(name) == []
    assert cli.main(["models", "verify", "shortlist-embed", *rerankers]) == 0
    assert index.encoder.verify() == []
    assert all(sl.Reranker.load(name).verify() == [] for name in rerankers)


@pytest.mark.parametrize("size", ["L-2", "L-4", "L-6"])
def test_a_reranker_tells_an_answer_from_a_near_miss(index, size):
    reranker = sl.Reranker.load("shortlist-rerank", size=size)
    scores = reranker.score(
        "How many people live in Berlin?",
        ["Berlin had a population of 3,520,031 registered inhabitants.", "Bananas are rich in potassium."],
    )
    assert scores[0] > scores[1] + 1
    assert reranker.probability(scores)[0] > reranker.probability(scores)[1]
