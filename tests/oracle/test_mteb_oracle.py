"""mteb's own evaluation of a real task object over a small collection, against our measures of the same searches."""

from __future__ import annotations

import os

import numpy as np
import pytest

from shortlist.cli import main
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.index import Index
from shortlist.measures import evaluate
from shortlist.mteb_adapter import C_MTEB_RETRIEVAL, MtebEncoder, MtebSearch, run_tasks
from shortlist.pipeline import Pipeline
from shortlist.reranker import Reranker
from shortlist.types import Passage, Qrels, Run

os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

WORDS = "berlin paris tokyo museum river people capital city bridge 柏林 人口 首都".split()
MEASURES = {
    "ndcg_at_10": "nDCG@10",
    "ndcg_at_1": "nDCG@1",
    "map_at_100": "AP@100",
    "recall_at_10": "R@10",
    "precision_at_5": "P@5",
    "mrr_at_10": "RR@10",
}


@pytest.fixture(scope="module")
def mteb():
    return pytest.importorskip("mteb", reason="needs the extra `mteb`")


@pytest.fixture(scope="module")
def collection() -> tuple[list[Passage], dict[str, str], Qrels]:
    """60 passages and 12 queries of random words, with graded judgements."""
    draw = np.random.default_rng(4)
    texts = [" ".join(draw.choice(WORDS, 9)) for _ in range(60)]
    passages = [Passage(f"d{n}", text, f"title {WORDS[n % 12]}" if n % 2 else "") for n, text in enumerate(texts)]
    queries = {f"q{n}": " ".join(draw.choice(WORDS, 3)) for n in range(12)}
    qrels = Qrels(
        {q: {f"d{n}": int(draw.integers(0, 3)) for n in draw.choice(60, 8, replace=False)} | {"d1": 1} for q in queries}
    )
    return passages, queries, qrels


def task(mteb, collection, top_ranked=None):
    """A retrieval task of mteb's own class, its data set in place of a download."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    passages, queries, qrels = collection

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="ShortlistLocal",
            description="A few sentences.",
            dataset={"path": "none", "revision": "none"},
            type="Retrieval",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *args, **kwargs) -> None:
            rows = [{"id": p.id, "title": p.title, "text": p.text} for p in passages]
            split = {
                "corpus": Dataset.from_list(rows),
                "queries": Dataset.from_list([{"id": q, "text": text} for q, text in queries.items()]),
                "relevant_docs": {q: dict(judged) for q, judged in qrels.items()},
                "top_ranked": top_ranked,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return Local()


def scores(mteb, model, local) -> dict[str, float]:
    result = mteb.evaluate(model, local, cache=None, show_progress_bar=False)
    (found,) = result.task_results[0].scores["test"]
    return found


def agree(found: dict[str, float], run: Run, qrels: Qrels) -> None:
    mean = evaluate(run, qrels, list(MEASURES.values())).mean
    assert 0.05 < mean["nDCG@10"] < 0.95
    for theirs, ours in MEASURES.items():
        assert found[theirs] == pytest.approx(mean[ours], abs=1e-5), theirs


@pytest.fixture(scope="module")
def models(tiny_encoder_folder, tiny_reranker_folder) -> tuple[Encoder, Reranker]:
    return Encoder.load(tiny_encoder_folder), Reranker.load(tiny_reranker_folder)


@pytest.mark.parametrize("stages", ["bm25", "dense", "hybrid", "two stages"])
def test_the_pipeline(mteb, collection, models, tmp_path, stages):
    passages, queries, qrels = collection
    encoder, reranker = models
    model = MtebSearch(
        None if stages == "bm25" else encoder,
        reranker if stages == "two stages" else None,
        first=None if stages in ("bm25", "two stages") else stages,
        candidates=20,
    )
    assert isinstance(model, mteb.SearchProtocol)
    found = scores(mteb, model, task(mteb, collection))
    with Index.create(tmp_path / "own.idx", encoder=model.encoder) as index:
        index.add(passages)
        search = Pipeline(index, model.reranker)
        run = search.run(
            queries, k=60, candidates=20 if model.reranker else None, first=None if stages == "two stages" else stages
        )
    agree(found, run, qrels)
    model.close()


def test_the_encoder(mteb, collection, models):
    passages, queries, qrels = collection
    encoder, _ = models
    model = MtebEncoder(encoder)
    assert isinstance(model, mteb.EncoderProtocol)
    found = scores(mteb, model, task(mteb, collection))
    vectors = encoder.encode([f"{p.title} {p.text}".strip() for p in passages], kind="passage")  # as mteb joins them
    asked = encoder.encode(list(queries.values()), kind="query")
    agree(
        found,
        Run(
            {
                q: dict(zip([p.id for p in passages], map(float, vectors @ row), strict=True))
                for q, row in zip(queries, asked, strict=True)
            }
        ),
        qrels,
    )
    assert np.allclose(model.similarity(asked, asked[:2]).diagonal(), model.similarity_pairwise(asked[:2], asked[:2]))
    assert model.mteb_model_meta.embed_dim == encoder.dims


def test_reranking_tasks_put_only_the_given_passages_in_order(mteb, collection, models):
    _, queries, _ = collection
    given = {q: [f"d{n}" for n in range(i, i + 15)] for i, q in enumerate(queries)}
    encoder, reranker = models
    for model in (MtebSearch(encoder, reranker), MtebSearch(None)):
        found = scores(mteb, model, task(mteb, collection, given))
        assert 0 <= found["ndcg_at_10"] <= 1
        results = model.search([{"id": q, "text": text} for q, text in queries.items()], top_k=15, top_ranked=given)
        assert {q: set(hits) for q, hits in results.items()} == {q: set(ids) for q, ids in given.items()}


def test_tasks_by_name_leave_their_results(mteb, collection, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="no such task"):
        run_tasks(["NoSuchRetrieval"], MtebSearch(None), tmp_path)
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [task(mteb, collection) for _ in tasks])  # no download
    found = run_tasks(["ShortlistLocal"], MtebSearch(None), tmp_path)
    assert found["ShortlistLocal"]["main_score"] == found["ShortlistLocal"]["ndcg_at_10"]
    assert [f.name for f in tmp_path.rglob("ShortlistLocal.json")] == ["ShortlistLocal.json"]
    assert main(["mteb", "ShortlistLocal", "--model", "none", "-o", str(tmp_path)]) == 0


def test_what_cannot_be_searched(collection):
    passages, _, _ = collection
    model = MtebSearch(None)
    with pytest.raises(BadInput, match="before index"):
        model.search([{"id": "q", "text": "x"}], top_k=3)
    model.index([{"id": p.id, "text": p.text} for p in passages])
    with pytest.raises(BadInput, match="is a list; expected one text"):
        model.search([{"id": "q", "text": ["a", "conversation"]}], top_k=3)


def test_the_tasks_of_c_mteb_are_known(mteb):
    tasks = mteb.get_tasks(tasks=list(C_MTEB_RETRIEVAL))
    assert {t.metadata.name for t in tasks} == set(C_MTEB_RETRIEVAL)
    assert {t.metadata.type for t in tasks} == {"Retrieval"}
    assert {t.metadata.name for t in mteb.get_benchmark("MTEB(cmn, v1)").tasks if t.metadata.type == "Retrieval"} == set(
        C_MTEB_RETRIEVAL
    )
