"""Learning the fusion of an index, and the weight of a reranker, from judged queries."""

import json
import random
import shutil
from pathlib import Path

import pytest

from index_tools import HashEncoder
from shortlist import Passage, Pipeline, Reranker, measures
from shortlist.cli import main
from shortlist.errors import BadInput
from shortlist.fuse import FUSION_WEIGHTS, fuse_stages
from shortlist.index import Index
from shortlist.tune import CHOICES, WEIGHTS, learn_fusion, learn_weight, ndcg
from shortlist.types import Qrels, Run

ENCODER = HashEncoder(dims=256)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Words mislead: each query's words stand in a long passage about other things, and in the relevant one with an ending."""
    rng = random.Random(5)

    def words(count):
        return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(count)]

    asked = [words(3) for _ in range(40)]
    right = [Passage(f"r{n}", f"common {' '.join(f'{word}xq' for word in some)}") for n, some in enumerate(asked)]
    wrong = [Passage(f"w{n}", f"common {' '.join(some)} {' '.join(words(12))}") for n, some in enumerate(asked)]
    others = [Passage(f"o{n}", f"common {' '.join(words(5))}") for n in range(300)]
    path = tmp_path_factory.mktemp("tune") / "t.idx"
    with Index.create(path, encoder=ENCODER) as index:
        index.add([*right, *wrong, *others])
    queries = {f"q{n}": f"common {' '.join(some)}" for n, some in enumerate(asked)}
    return path, queries, Qrels({f"q{n}": {f"r{n}": 1} for n in range(len(asked))})


def test_what_is_learnt_is_the_best_of_all_choices_and_its_worth_is_held_out(made):
    path, queries, qrels = made
    with Index.open(path, encoder=ENCODER) as index:
        learnt = learn_fusion(index, queries, qrels)
        values = []
        for fusion, weights in CHOICES:
            run = Run(
                {
                    q: {h.id: h.score for h in index.search(text, k=10, fusion=fusion, weights=weights)}
                    for q, text in queries.items()
                }
            )
            values.append(measures.evaluate(run, qrels, ["nDCG@10"]).per_query["nDCG@10"])
    means = [sum(some.values()) / len(some) for some in values]
    best = max(range(len(CHOICES)), key=lambda i: (round(means[i], 9), -i))
    assert learnt.choice == CHOICES[best]
    assert learnt.before == pytest.approx(means[0])
    assert learnt.questions == len(queries)
    asked = sorted(queries)
    held_out = []
    for place, query_id in enumerate(asked):
        others = [q for at, q in enumerate(asked) if at % 5 != place % 5]
        sums = [sum(some[q] for q in others) for some in values]
        chosen = max(range(len(CHOICES)), key=lambda i: (round(sums[i], 6), -i))
        held_out.append(values[chosen][query_id])
    assert learnt.after == pytest.approx(sum(held_out) / len(held_out))
    assert learnt.interval[0] <= learnt.after - learnt.before <= learnt.interval[1]


def test_the_verb_stores_a_gain_and_searches_use_it(made, tmp_path, capsys, monkeypatch):
    path, queries, qrels = made
    monkeypatch.setattr("shortlist.encoder.Encoder.load", lambda address: ENCODER)
    assert main(["tune", str(path), *written(queries, qrels, tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    with Index.open(path, encoder=ENCODER) as index:
        if said["stored"]:
            assert said["interval"][0] > 0
            assert index.fusion() == (said["fusion"], said["weights"])
        else:
            assert index.fusion() == ("auto", {})
    assert said["stored"], said


def test_the_weight_of_a_reranker_is_the_best_of_all_that_were_tried(made, tiny_reranker_folder):
    path, queries, qrels = made
    reranker = Reranker.load(tiny_reranker_folder)
    weights = [reranker.card.fusion_weight, *(w for w in WEIGHTS if w != reranker.card.fusion_weight)]
    with Index.open(path, encoder=ENCODER) as index:
        learnt = learn_weight(index, reranker, queries, qrels)
        search, values = Pipeline(index, reranker), []
        for weight in weights:
            run = search.run(queries, k=10, candidates=32, weight=weight)
            values.append(measures.evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"])
    best = max(range(len(weights)), key=lambda i: (round(values[i], 9), -i))
    assert learnt.choice == weights[best]
    assert learnt.before == pytest.approx(values[0])


def test_a_reranker_that_knows_nothing_loses_its_say_until_the_fusion_changes(
    made, tmp_path, tiny_reranker_folder, capsys, monkeypatch
):
    path, queries, qrels = copied(made, tmp_path)
    monkeypatch.setattr("shortlist.encoder.Encoder.load", lambda address: ENCODER)
    arguments = written(queries, qrels, tmp_path)
    assert main(["tune", str(path), *arguments, "--rerank", str(tiny_reranker_folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["rerank"]
    assert said["stored"], said
    reranker = Reranker.load(tiny_reranker_folder)
    assert said["weight"] < reranker.card.fusion_weight  # its weights are random, and its card lets it decide alone
    with Index.open(path, encoder=ENCODER, write=True) as index:
        search = Pipeline(index, reranker)
        assert search.weight_of(reranker) == said["weight"]
        query = queries["q0"]
        assert search(query, candidates=20).ids == search(query, candidates=20, weight=said["weight"]).ids
        index.keep_fusion("rrf", {})
        assert search.weight_of(reranker) == reranker.card.fusion_weight
        with pytest.raises(BadInput, match="out of range"):
            index.keep_weight(reranker.name, 1.5)


def copied(made, tmp_path):
    path, queries, qrels = made
    return Path(shutil.copytree(path, tmp_path / "copy.idx")), queries, qrels


def written(queries, qrels, folder):
    """The arguments of the verb: files with queries and judgements."""
    (folder / "q.jsonl").write_text("".join(json.dumps({"_id": q, "text": t}) + "\n" for q, t in queries.items()))
    lines = [f"{q}\t{p}\t1\n" for q, judged in qrels.items() for p in judged]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return str(folder / "q.jsonl"), str(folder / "qrels.tsv")


def test_too_few_queries_and_no_vectors(made, tmp_path):
    path, queries, qrels = made
    with Index.open(path, encoder=ENCODER) as index, pytest.raises(BadInput, match="9 judged"):
        learn_fusion(index, queries, Qrels(dict(list(qrels.items())[:9])))
    with Index.create(tmp_path / "plain.idx") as index, pytest.raises(BadInput, match="no vectors"):
        learn_fusion(index, queries, qrels)


def testndcg_is_that_of_the_measures():
    rng = random.Random(1)
    for _ in range(50):
        judged = {f"p{n}": rng.choice([0, 0, 1, 2, 3]) for n in range(20)}
        judged["p0"] = 1
        ranked = rng.sample(sorted(judged) + [f"u{n}" for n in range(10)], 10)
        run = Run({"q": {name: -float(place) for place, name in enumerate(ranked)}})
        expected = measures.evaluate(run, Qrels({"q": judged}), ["nDCG@10"]).mean["nDCG@10"]
        assert ndcg(ranked, judged) == pytest.approx(expected)


def test_the_default_comes_first_and_wins_ties():
    assert CHOICES[0] == ("auto", FUSION_WEIGHTS["auto"])
    assert fuse_stages({"bm25": [], "dense": []}, *CHOICES[0], 1.0) == ([], {"bm25": 0.5, "dense": 0.0})
