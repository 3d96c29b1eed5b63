"""Release: the weight, the temperature and the level that judged groups ask for, and that they end up in the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny_models
from shortlist.errors import BadInput
from shortlist.models.fingerprint import table_fingerprint
from shortlist.reranker import Reranker, probability
from shortlist.train.groups import Candidate, Group, Groups
from shortlist.train.release import cautious_weight, ndcg, release, score_groups, tune_scores


def drawn_groups(count: int, first: float, second: float) -> tuple[list[Group], list[np.ndarray]]:
    """Groups of 10 with one relevant passage, whose first-stage score and logit are raised by so much over noise of 1."""
    random = np.random.default_rng(1)
    groups, logits = [], []
    for number in range(count):
        relevant = np.arange(10) == random.integers(10)
        scores = random.normal(size=10) + first * relevant
        z = (scores - scores.mean()) / scores.std()
        source = "even" if number % 2 else "odd"
        candidates = tuple(Candidate(f"p{i}", float(z[i]), bool(relevant[i]), 0.5) for i in range(10))
        groups.append(Group(source, f"q{number}", candidates))
        logits.append(5.0 + 2.0 * (random.normal(size=10) + second * relevant))
    return groups, logits


def test_the_better_stage_gets_the_weight() -> None:
    equal = tune_scores(*drawn_groups(400, 2.0, 2.0))
    assert 0.1 < equal.weight < 0.8
    assert tune_scores(*drawn_groups(400, 3.0, 0.3)).weight < equal.weight
    assert tune_scores(*drawn_groups(400, 0.3, 3.0)).weight > equal.weight


def test_the_weight_is_the_smallest_with_three_fifths_of_the_best_worth() -> None:
    tuned = tune_scores(*drawn_groups(400, 2.0, 2.0))
    means = {w: np.mean(list(values.values())) for w, values in tuned.by_weight.items()}
    first = tuned.by_weight[0.0]
    worth = {}
    for weight, values in tuned.by_weight.items():
        gains = [values[name] - first[name] for name in first]
        worth[weight] = sum(g if g > 0 else 3 * g for g in gains) / len(gains)
    assert worth[tuned.weight] >= 0.6 * max(worth.values())
    assert all(worth[w] < 0.6 * max(worth.values()) for w in worth if w < tuned.weight)
    assert tuned.weight < max(worth, key=worth.__getitem__)
    assert means[tuned.weight] > max(means[0.0], means[1.0]) + 0.02


def test_losses_count_three_times_and_a_harmful_reranker_gets_no_weight() -> None:
    first = {"a": 0.5, "b": 0.5}
    assert cautious_weight({0.0: first, 0.5: {"a": 0.7, "b": 0.45}, 1.0: {"a": 0.7, "b": 0.4}}) == 0.5
    assert cautious_weight({0.0: first, 0.5: {"a": 0.52, "b": 0.49}}) == 0.0


def test_calibration_is_learnt_on_one_half_and_holds_on_the_other() -> None:
    tuned = tune_scores(*drawn_groups(600, 1.0, 2.0))
    assert tuned.ece_before > 0.3  # all logits are around 5
    assert tuned.ece_after < 0.03
    # Two normal distributions of width 2 whose means are 4 apart: log odds rise by 1 a logit, so the temperature is 1.
    assert tuned.temperature == pytest.approx(1.0, rel=0.15)


def test_too_few_groups_are_refused() -> None:
    groups, logits = drawn_groups(3, 1.0, 1.0)
    with pytest.raises(BadInput, match="3 judged groups"):
        tune_scores(groups, logits)


@pytest.mark.parametrize(("relevant", "expected"), [([1, 0, 0], 1.0), ([0, 1, 0], 1 / np.log2(3)), ([0, 0, 0, 1] * 4, None)])
def test_ndcg_is_that_of_the_reference(relevant: list[int], expected: float | None) -> None:
    pytrec = pytest.importorskip("pytrec_eval")
    run = {"q": {f"p{i}": float(-i) for i in range(len(relevant))}}
    judged = {"q": {f"p{i}": r for i, r in enumerate(relevant)}}
    reference = pytrec.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(run)["q"]["ndcg_cut_10"]
    assert ndcg(np.array(relevant, bool)) == pytest.approx(reference)
    assert expected is None or reference == pytest.approx(expected)


def test_a_released_model_is_level_calibrated_and_complete(tmp_path: Path) -> None:
    table = tiny_models.write_maxsim_reranker(tmp_path / "table")
    shared = {"table": str(table), "table_fingerprint": table_fingerprint(table)}
    trained = tiny_models.write_maxsim_reranker(tmp_path / "trained", window=12, **shared)
    groups, logits = drawn_groups(40, 1.0, 2.0)
    tuned = tune_scores(groups, logits)
    out = release(trained, tmp_path / "ours-L-2", {"licence": "MIT", "training_data": "made up"}, tuned)
    before, after = Reranker.load(trained, precision="float32"), Reranker.load(out, precision="float32")
    card = after.card
    assert (card.name, card.licence, card.window, card.segments) == ("ours-L-2", "MIT", 12, True)
    assert (card.fusion_weight, card.temperature) == (tuned.weight, tuned.temperature)
    query, texts = "a b", ["b a c", "x y z", "a"]
    # int8 weights move the scores of so small a network by some hundredths
    np.testing.assert_allclose(after.score(query, texts), before.score(query, texts) - tuned.shift, atol=0.2)
    assert after.verify() == []
    assert len(card.canonical) == 3


def test_groups_are_scored_as_the_reranker_scores(tmp_path: Path) -> None:
    reranker = Reranker.load(tiny_models.write_maxsim_reranker(tmp_path / "m"))
    group = Group("s", "q", (Candidate("a", 1.0, True, 0.5), Candidate("b", 0.0, False, 0.5)))
    groups = Groups((group,), {"q": "x y"}, {"a": "y x", "b": "z"})
    found = score_groups(reranker, groups)
    np.testing.assert_array_equal(found[0], reranker.score("x y", ["y x", "z"]))
    assert probability(found[0]).max() <= 1
