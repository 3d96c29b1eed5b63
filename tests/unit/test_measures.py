"""Measures against the formulas written as naive loops, against trec_eval's own expected output, against published scores."""

import ast
import gzip
import math
import os
import random
import sys
from pathlib import Path

import pytest

from shortlist.data import read_qrels, read_run, write_run
from shortlist.errors import BadInput, MissingExtra
from shortlist.measures import CARD, card_measures, compare, evaluate, format_card, parse_measure
from shortlist.types import Qrels, Run

SHARED = Path(os.environ.get("SHORTLIST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
REFERENCE = SHARED / "reference-metrics"


@pytest.fixture
def library() -> None:
    for module in ("ir_measures", "pytrec_eval"):
        pytest.importorskip(module, reason="needs shortlist[eval]")


# --- the formulas, one loop each --------------------------------------------------------------------------------------


def ndcg(ranked: list[str], judged: dict[str, int], k: int) -> float:
    gained = 0.0
    for place, passage in enumerate(ranked[:k], 1):
        gained += max(judged.get(passage, 0), 0) / math.log2(place + 1)
    best = 0.0
    for place, gain in enumerate(sorted((g for g in judged.values() if g > 0), reverse=True)[:k], 1):
        best += gain / math.log2(place + 1)
    return gained / best if best else 0.0


def average_precision(ranked: list[str], judged: dict[str, int], k: int) -> float:
    relevant = {p for p, g in judged.items() if g > 0}
    found, total = 0, 0.0
    for place, passage in enumerate(ranked[:k], 1):
        if passage in relevant:
            found += 1
            total += found / place
    return total / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: list[str], judged: dict[str, int], k: int) -> float:
    for place, passage in enumerate(ranked[:k], 1):
        if judged.get(passage, 0) > 0:
            return 1 / place
    return 0.0


def recall(ranked: list[str], judged: dict[str, int], k: int) -> float:
    relevant = {p for p, g in judged.items() if g > 0}
    return len(relevant & set(ranked[:k])) / len(relevant) if relevant else 0.0


def precision(ranked: list[str], judged: dict[str, int], k: int) -> float:
    return sum(judged.get(p, 0) > 0 for p in ranked[:k]) / k


NAIVE = {"nDCG": ndcg, "AP": average_precision, "RR": reciprocal_rank, "R": recall, "P": precision}


def random_case(seed: int) -> tuple[Run, Qrels]:
    """Graded judgements, tied scores, queries without result or without relevant passage, unjudged passages."""
    dice = random.Random(seed)
    run, qrels = Run(), Qrels()
    for n in range(12):
        passages = [f"d{i}" for i in range(dice.randint(1, 30))]
        qrels[f"q{n}"] = {p: dice.choice([0, 0, 1, 2, 3]) for p in dice.sample(passages, dice.randint(1, len(passages)))}
        found = dice.sample(passages, dice.randint(0, len(passages)))
        if found:
            run[f"q{n}"] = {p: float(dice.randint(0, 5)) for p in found}
    run["unjudged"] = {"d1": 1.0}
    qrels["absent"] = {"d1": 1}
    return run, qrels


# --- tests ------------------------------------------------------------------------------------------------------------


def test_a_case_small_enough_for_a_pencil(library):
    run = Run({"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {"x": 1.0}})
    qrels = Qrels({"q1": {"b": 1, "c": 2, "z": 1, "a": 0}, "q2": {"x": 1}, "q3": {"y": 1}})
    result = evaluate(run, qrels, ["nDCG@3", "RR@10", "AP@100", "R@2", "P@2"])
    gained = 1 / math.log2(3) + 2 / math.log2(4)
    best = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    expected = {
        "nDCG@3": {"q1": gained / best, "q2": 1.0, "q3": 0.0},
        "RR@10": {"q1": 1 / 2, "q2": 1.0, "q3": 0.0},
        "AP@100": {"q1": (1 / 2 + 2 / 3) / 3, "q2": 1.0, "q3": 0.0},
        "R@2": {"q1": 1 / 3, "q2": 1.0, "q3": 0.0},
        "P@2": {"q1": 1 / 2, "q2": 1 / 2, "q3": 0.0},
    }
    assert list(result.per_query) == list(expected)
    for measure, values in expected.items():
        assert result.per_query[measure] == pytest.approx(values, abs=1e-12)
        assert result.mean[measure] == pytest.approx(sum(values.values()) / 3)


@pytest.mark.parametrize("seed", range(8))
def test_every_measure_equals_its_formula(library, seed):
    run, qrels = random_case(seed)
    names = [f"{base}@{k}" for base in NAIVE for k in (1, 3, 10, 100)]
    result = evaluate(run, qrels, names)
    for name in names:
        base, k = name.split("@")
        for query, judged in qrels.items():
            ranked = [p for p, _ in run.ranked(query)]
            assert result.per_query[name][query] == pytest.approx(NAIVE[base](ranked, judged, int(k)), abs=1e-9), (name, query)


def test_ties_are_broken_by_id_in_memory_and_through_a_file(library, tmp_path):
    run = Run({"q": {"b": 1.0, "a": 1.0, "c": 1.0 + 1e-12}})
    qrels = Qrels({"q": {"a": 1}})
    assert evaluate(run, qrels, ["RR"]).mean == {"RR": 1 / 2}  # c, a, b
    write_run(run, tmp_path / "r")
    assert evaluate(read_run(tmp_path / "r"), qrels, ["RR"]).mean == {"RR": 1 / 2}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("nDCG@10", "nDCG@10"),
        ("NDCG@10", "nDCG@10"),
        (" ndcg@10 ", "nDCG@10"),
        ("MAP", "AP"),
        ("map@100", "AP@100"),
        ("MRR@10", "RR@10"),
        ("Recall@100", "R@100"),
        ("r@100", "R@100"),
        ("Precision@5", "P@5"),
        ("p(rel=2)@5", "P(rel=2)@5"),
    ],
)
def test_names(given, name):
    assert parse_measure(given) == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("foo@10", "unknown measure 'foo@10'; expected one like nDCG@10"),
        ("", "unknown measure ''"),
        ("nDCG@ten", "unknown measure"),
        ("nDCG@-1", "unknown measure"),
        ("nDCG@0", "cut-off of at least 1"),
        ("Recall", "has no cut-off. Write for example R@10"),
        ("nDCG(rel=2)@10", "takes no rel"),
        ("__import__('os')", "unknown measure"),
    ],
)
def test_names_that_are_none(given, message):
    with pytest.raises(BadInput) as caught:
        parse_measure(given)
    assert message in str(caught.value)


def test_nothing_to_measure_is_refused(library):
    run, qrels = Run({"q1": {"a": 1.0}}), Qrels({"q1": {"a": 1}})
    with pytest.raises(BadInput, match="judgements are empty"):
        evaluate(run, Qrels())
    with pytest.raises(BadInput, match="no measure given"):
        evaluate(run, qrels, [])
    with pytest.raises(BadInput, match=r"no judged query is in the run: the run has 1 queries \(q1\).*\(q2\)"):
        evaluate(run, Qrels({"q2": {"a": 1}}))
    with pytest.raises(BadInput, match="query 'q1', passage 'b': the score is NaN"):
        evaluate(Run({"q1": {"a": 1.0, "b": math.nan}}), qrels)


def test_the_extra_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    with pytest.raises(MissingExtra, match=r"pytrec_eval-terrier.*pip install 'shortlist\[eval\]'"):
        evaluate(Run({"q": {"a": 1.0}}), Qrels({"q": {"a": 1}}))


def test_the_card_has_the_cards_keys_order_and_form(library):
    run, qrels = random_case(3)
    card = card_measures(run, qrels)
    assert [list(group) for group in card.values()] == [
        ["NDCG@1", "NDCG@3", "NDCG@5", "NDCG@10", "NDCG@100", "NDCG@1000"],
        ["MAP@1", "MAP@3", "MAP@5", "MAP@10", "MAP@100", "MAP@1000"],
        ["Recall@10", "Recall@50", "Recall@100", "Recall@200", "Recall@500", "Recall@1000"],
        ["P@1", "P@3", "P@5", "P@10", "P@100", "P@1000"],
        ["MRR@10", "MRR@100", "MRR@1000"],
    ]
    naive = [NAIVE["nDCG"]([p for p, _ in run.ranked(q)], judged, 10) for q, judged in qrels.items()]
    assert card["NDCG"]["NDCG@10"] == round(sum(naive) / len(naive), 5)


def test_the_card_is_printed_as_minimiracle_prints_it():
    # Two lines of the published card of miniMiracle_zh_v1: read and written again, they are the same.
    published = (
        "{'NDCG@1': 0.43511, 'NDCG@3': 0.42434, 'NDCG@5': 0.45298, 'NDCG@10': 0.50914, "
        "'NDCG@100': 0.5815, 'NDCG@1000': 0.59392}\n"
        "{'MRR@10': 0.55448, 'MRR@100': 0.56288, 'MRR@1000': 0.56294}"
    )
    ndcg_line, mrr_line = (ast.literal_eval(line) for line in published.splitlines())
    assert [f"NDCG@{k}" for k in CARD["NDCG"][1]] == list(ndcg_line)
    assert [f"MRR@{k}" for k in CARD["MRR"][1]] == list(mrr_line)
    assert format_card({"NDCG": ndcg_line, "MRR": mrr_line}) == published


# --- comparison -------------------------------------------------------------------------------------------------------


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


# --- the reference implementations' own cases -------------------------------------------------------------------------

# Our measures under trec_eval's names.
TREC_NAMES = {
    "map": "AP",
    "recip_rank": "RR",
    "map_cut_{k}": "AP@{k}",
    "ndcg_cut_{k}": "nDCG@{k}",
    "recall_{k}": "R@{k}",
    "P_{k}": "P@{k}",
}
CUTOFFS = (3, 5, 7, 10, 15, 20, 23, 30, 100, 200, 500, 1000, 2000)
OURS = {trec.format(k=k): ours.format(k=k) for trec, ours in TREC_NAMES.items() for k in CUTOFFS} | {"ndcg": "nDCG"}
reference = [pytest.mark.data, pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference-metrics; see SHORTLIST_DATA")]


def expected_output(name: str) -> dict[tuple[str, str], str]:
    """(query or "all", our measure) -> the printed value."""
    rows = [line.split() for line in (REFERENCE / "trec_eval" / name).read_text().splitlines()]
    return {(row[1], OURS[row[0]]): row[2] for row in rows if row[0] in OURS}


def trec(name: str) -> Path:
    folder = REFERENCE / "trec_eval"
    return next(p for p in (folder / name, folder / f"{name}.gz") if p.is_file())


class TestTrecEval:
    pytestmark = reference

    @pytest.mark.parametrize(
        ("qrels", "run", "output", "at_least", "everything_judged"),
        [
            ("qrels.test", "results.test", "out.test", 10, False),
            ("qrels.test.with-comments", "results.test", "out.test", 10, False),
            ("qrels.comment.test", "results.comment.test", "out.comment.test", 10, False),
            ("qrels.comment.test", "results.test", None, 0, False),
            ("qrels.test", "results.test", "out.test.a", 35, False),
            ("qrels.test", "results.test", "out.test.aq", 140, False),
            ("qrels.test", "results.trunc", "out.test.aqc", 105, True),
            ("qrels.test", "results.test", "out.test.meas_params", 30, False),
        ],
    )
    def test_equals_the_printed_output(self, library, qrels, run, output, at_least, everything_judged):
        judged, found = read_qrels(trec(qrels)), read_run(trec(run))
        if output is None:  # nothing in common: we refuse what trec_eval prints as zeros
            with pytest.raises(BadInput, match="no judged query"):
                evaluate(found, judged)
            return
        if not everything_judged:  # without -c trec_eval averages over the queries that are in both files
            judged = Qrels({q: docs for q, docs in judged.items() if q in found})
        self.check(expected_output(output), evaluate(found, judged, sorted(set(OURS.values()))), at_least)

    def test_cut_at_100(self, library):
        judged, found = read_qrels(trec("qrels.test")), read_run(trec("results.trunc"))
        cut = Run({q: dict(found.ranked(q)[:100]) for q in found})  # trec_eval -M100
        self.check(expected_output("out.test.aqcM"), evaluate(cut, judged, sorted(set(OURS.values()))), 105)

    def test_relevant_from_judgement_2(self, library):
        expected = expected_output("out.test.aql")  # trec_eval -l2; nDCG takes no level
        plain = {name: "{}(rel=2)@{}".format(*name.split("@")) if "@" in name else f"{name}(rel=2)" for name in OURS.values()}
        names = {name: name if name.startswith("nDCG") else plain[name] for name in OURS.values()}
        result = evaluate(read_run(trec("results.test")), read_qrels(trec("qrels.rel_level")), sorted(set(names.values())))
        self.check({(q, names[m]): value for (q, m), value in expected.items()}, result, 140)

    def check(self, expected, result, at_least):
        assert len(expected) >= at_least
        for (query, measure), printed in expected.items():
            value = result.mean[measure] if query == "all" else result.per_query[measure][query]
            assert f"{value:.4f}" == printed, (query, measure)


class TestPublishedRuns:
    pytestmark = reference

    def test_cacm(self, library):
        run, qrels = read_run(REFERENCE / "runs/cacm-bm25.run.txt"), read_qrels(REFERENCE / "runs/qrels.cacm.txt")
        mean = evaluate(run, qrels, ["P@30", "AP"]).mean
        assert (round(mean["P@30"], 4), round(mean["AP"], 4)) == (0.1942, 0.2744)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("bm25", {"RR@10": 0.15906651549508694, "R@50": 0.5460, "R@1000": 0.8429}),
            ("monobert", {"RR@10": 0.4026795162509449, "P@1": 0.2762}),
            ("monot5", {"RR@10": 0.39044217687074834, "P@1": 0.2667}),
        ],
    )
    def test_msmarco(self, library, name, expected):
        run = Run()
        with gzip.open(REFERENCE / f"runs/msmarco-small.{name}.run.tsv.gz", "rt") as file:
            for line in file:
                query, passage, rank = line.split()
                run.setdefault(query, {})[passage] = -float(rank)
        mean = evaluate(run, read_qrels(REFERENCE / "runs/msmarco-small.qrels.tsv"), list(expected)).mean
        for measure, value in expected.items():
            assert mean[measure] == pytest.approx(value, abs=1e-14 if measure == "RR@10" else 5e-5)

    def test_the_card_of_a_real_run_agrees_with_single_measures(self, library):
        run, qrels = read_run(trec("results.test")), read_qrels(trec("qrels.test"))
        card = card_measures(run, qrels)
        mean = evaluate(run, qrels, ["AP@1000", "nDCG@10", "RR"]).mean
        assert card["MAP"]["MAP@1000"] == round(mean["AP@1000"], 5)
        assert card["NDCG"]["NDCG@10"] == round(mean["nDCG@10"], 5)
        assert card["MRR"]["MRR@1000"] == round(mean["RR"], 5)
