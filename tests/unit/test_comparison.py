"""Comparisons judged by scipy, by the count of all sign changes, and by cases small enough for a pencil."""

import math

import numpy as np
import pytest

from shortlist.comparison import Placed, breakdown, compare, compare_all, decisions, language_group, length_group
from shortlist.errors import BadInput
from shortlist.measures import evaluate
from shortlist.significance import bootstrap_interval, holm, randomisation_test, t_test
from shortlist.types import Qrels, Run


@pytest.fixture
def library() -> None:
    for module in ("ir_measures", "pytrec_eval"):
        pytest.importorskip(module, reason="needs shortlist[eval]")


def two_runs(places_a: list[int], places_b: list[int]) -> tuple[Run, Run, Qrels]:
    """Runs that put the one relevant passage of query i at the given places."""

    def ranked(places: list[int]) -> Run:
        hits = [{"gold" if n == place else f"x{n}": -float(n) for n in range(1, 9)} for place in places]
        return Run({f"q{i}": scores for i, scores in enumerate(hits)})

    return ranked(places_a), ranked(places_b), Qrels({f"q{i}": {"gold": 1} for i in range(len(places_a))})


def test_comparison_counts_and_means(library):
    result = compare(*two_runs([1, 1, 2, 4], [2, 1, 1, 8]), "MRR@10")
    assert (result.measure, result.wins, result.ties, result.losses) == ("RR@10", 2, 1, 1)
    assert result.mean_a == pytest.approx((1 + 1 + 1 / 2 + 1 / 4) / 4)
    assert result.mean_b == pytest.approx((1 / 2 + 1 + 1 + 1 / 8) / 4)
    assert result.difference == pytest.approx(result.mean_a - result.mean_b)
    assert result.interval[0] <= result.difference <= result.interval[1]


def test_the_randomisation_test_approaches_the_count_of_all_sign_changes(library):
    a, b = [1, 1, 1, 2, 1, 3, 1, 1], [2, 1, 4, 1, 8, 2, 2, 3]
    differences = [1 / x - 1 / y for x, y in zip(a, b, strict=True)]
    observed = abs(sum(differences))
    as_large = 0
    for signs in range(2 ** len(a)):
        total = sum(d if signs >> i & 1 else -d for i, d in enumerate(differences))
        as_large += abs(total) >= observed - 1e-12
    exact = as_large / 2 ** len(a)
    assert compare(*two_runs(a, b), "RR").p_value == pytest.approx(exact, abs=0.015)


def test_equal_runs_and_clear_winners(library):
    places = [1, 2, 3, 4, 5] * 4
    same = compare(*two_runs(places, places), "nDCG@10")
    assert (same.difference, same.p_value, same.interval, same.ties) == (0.0, 1.0, (0.0, 0.0), 20)
    better = compare(*two_runs([1] * 20, places), "nDCG@10")
    assert better.p_value < 0.001
    assert better.interval[0] > 0


def test_a_tiny_sample_proves_nothing(library):
    assert compare(*two_runs([1, 1], [8, 8]), "RR").p_value == pytest.approx(0.5, abs=0.03)  # 2 of 4 sign changes


def test_the_same_seed_gives_the_same_figures(library):
    runs = two_runs([1, 2, 3, 1], [2, 1, 5, 5])
    assert compare(*runs, seed=7) == compare(*runs, seed=7)
    assert compare(*runs, seed=7).interval != compare(*two_runs([1, 2, 3, 1], [2, 1, 5, 6]), seed=7).interval
    with pytest.raises(BadInput, match="samples=0"):
        compare(*runs, samples=0)


# --- the tests themselves ---------------------------------------------------------------------------------------------


def differences(seed: int, n: int) -> np.ndarray:
    """Rounded, so that ties and zeros occur as in measures."""
    return np.random.default_rng(seed).normal(0.05, 0.3, n).round(1)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 30, 31, 300, 301, 7000])
def test_t_test_equals_scipys(n):
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        difference = differences(seed, n)
        if np.ptp(difference):
            expected = stats.ttest_rel(difference, np.zeros(n)).pvalue
            assert t_test(difference) == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_t_test_at_its_edges():
    assert t_test(np.zeros(5)) == 1.0
    assert t_test(np.ones(5)) == 0.0
    assert math.isnan(t_test(np.ones(1)))
    assert t_test(np.array([1e6, 1e6 + 1])) < 1e-6


def test_randomisation_and_bootstrap_agree_with_scipys():
    stats = pytest.importorskip("scipy.stats")
    difference = differences(3, 40)
    ours = randomisation_test(difference, 20_000, np.random.default_rng(1))
    theirs = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(2)
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.02)  # four standard deviations of both
    low, high = bootstrap_interval(difference, 20_000, np.random.default_rng(1))
    expected = stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_blocks_do_not_change_what_is_drawn_for(monkeypatch):
    difference = differences(5, 50)
    whole = randomisation_test(difference, 2000, np.random.default_rng(0))
    monkeypatch.setattr("shortlist.significance._BLOCK", 333)
    assert randomisation_test(difference, 2000, np.random.default_rng(0)) == pytest.approx(whole, abs=0.04)


def test_holm():
    # Holm's step-down by hand: 4 · 0.01, 3 · 0.02, then 2 · 0.03 = 0.06 and 0.04, which may not be less than the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    for seed in range(20):  # the definition: adjusted p <= alpha just where the step-down procedure rejects at alpha
        p_values = np.random.default_rng(seed).random(7) ** 2
        for alpha in (0.05, 0.2, 0.5):
            rejected = set()
            for step, place in enumerate(np.argsort(p_values)):
                if p_values[place] > alpha / (7 - step):
                    break
                rejected.add(int(place))
            assert {i for i, p in enumerate(holm(p_values.tolist())) if p <= alpha} == rejected


# --- several runs -----------------------------------------------------------------------------------------------------


def three_runs() -> tuple[dict[str, Run], Qrels]:
    best, middle, qrels = two_runs([1] * 12, [2, 1] * 6)
    worst, _, _ = two_runs([8] * 12, [8] * 12)
    return {"best": best, "middle": middle, "worst": worst}, qrels


def test_all_pairs_or_against_a_baseline(library):
    runs, qrels = three_runs()
    found = compare_all(runs, qrels, "RR")
    assert [(c.a, c.b) for c in found] == [("best", "middle"), ("best", "worst"), ("middle", "worst")]
    assert [c.holm_p_value for c in found] == holm([c.p_value for c in found])
    assert [(c.wins, c.ties, c.losses) for c in found] == [(6, 6, 0), (12, 0, 0), (12, 0, 0)]
    against = compare_all(runs, qrels, "RR", baseline="middle")
    assert [(c.a, c.b) for c in against] == [("best", "middle"), ("worst", "middle")]
    assert against[1].difference == pytest.approx(1 / 8 - 3 / 4)
    single = compare(runs["best"], runs["middle"], qrels, "RR")
    assert (single.p_value, single.holm_p_value) == (found[0].p_value, found[0].p_value)


def test_comparisons_that_cannot_be(library):
    runs, qrels = three_runs()
    with pytest.raises(BadInput, match="baseline 'first' is none of the runs; expected one of best, middle, worst"):
        compare_all(runs, qrels, baseline="first")
    with pytest.raises(BadInput, match="1 run to compare"):
        compare_all({"a": runs["best"]}, qrels)


def test_the_passages_that_decided(library):
    qrels = Qrels({"q1": {"gold": 1, "silver": 1}, "q2": {"gold": 1}, "q3": {"gold": 1}, "q4": {"gold": 1}})
    a = Run({"q1": {"gold": 9.0, "x": 8.0, "silver": 7.0}, "q2": {"x": 2.0, "gold": 1.0}, "q3": {"gold": 1.0}})
    b = Run({"q1": {"x": 9.0, "silver": 8.0}, "q2": {"gold": 2.0, "x": 1.0}, "q3": {"gold": 1.0}, "q4": {"gold": 1.0}})
    wins, losses = decisions(a, b, qrels, "RR")
    assert [(d.query_id, d.value_a, d.value_b) for d in wins] == [("q1", 1.0, 0.5)]
    assert wins[0].passages == (Placed("gold", 1, 1, None), Placed("silver", 1, 3, 2), Placed("x", None, 2, 1))
    assert [d.query_id for d in losses] == ["q4", "q2"]  # q3 is a tie
    assert losses[0].passages == (Placed("gold", 1, None, 1),)
    assert losses[1].passages == (Placed("gold", 1, 2, 1), Placed("x", None, 1, 2))
    assert [d.query_id for d in decisions(a, b, qrels, "RR", top=1)[1]] == ["q4"]


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("", "1–2 words"),
        ("one two", "1–2 words"),
        ("who wrote it", "3–4 words"),
        ("a b c d e", "5–8 words"),
        ("서울은 어느 나라의 수도입니까?", "3–4 words"),
        ("柏林？", "1–2 characters"),
        ("柏林有多少人口？", "5–8 characters"),
        ("กรุงเทพอยู่ที่ไหน", "9–16 characters"),
        ("東京 Tokyo", "1–2 words"),
    ],
)
def test_length_groups(text, group):
    assert length_group(text) == group


def test_breakdown(library):
    run_a, _, qrels = two_runs([1, 2, 4, 8], [1, 1, 1, 1])
    groups = {"q0": "9–16 words", "q1": "3–4 words", "q2": "3–4 words"}
    found = breakdown(evaluate(run_a, qrels, ["RR"]), groups)
    assert list(found.items()) == [
        ("3–4 words", (2, {"RR": 3 / 8})),
        ("9–16 words", (1, {"RR": 1.0})),
        ("unknown", (1, {"RR": 1 / 8})),
    ]
    assert language_group("柏林有多少人口？") == "zh"
    assert language_group("1234") == "unknown"
