"""Measures against the formulas written as naive loops, against trec_eval's own expected output, against published scores."""

import ast
import math
import os
import random
import re
import sys
from pathlib import Path
from statistics import mean

import pytest

from shortlist.data import read_qrels, read_run, write_run
from shortlist.errors import BadInput, MissingExtra
from shortlist.measures import CARD, card_measures, evaluate, format_card, only_judged, parse_measure
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


def test_unjudged_passages_missing_and_empty_queries(library):
    run = Run({"q1": {"a": 3.0, "new": 2.0, "b": 1.0}, "empty": {}, "nobody asked": {"a": 1.0}})
    qrels = Qrels({"q1": {"a": 0, "b": 1, "c": 1}, "empty": {"a": 1}, "absent": {"a": 1}, "hopeless": {"a": 0}})
    result = evaluate(run, qrels, ["Judged@2", "Judged@10", "RR", "P@2"])
    assert result.missing == ("empty", "absent", "hopeless")
    assert result.per_query["Judged@2"] == {"q1": 1 / 2, "empty": 0.0, "absent": 0.0, "hopeless": 0.0}
    assert result.per_query["Judged@10"]["q1"] == pytest.approx(2 / 3)  # of the three that were found
    assert result.per_query["RR"] == {"q1": 1 / 3, "empty": 0.0, "absent": 0.0, "hopeless": 0.0}
    assert result.mean["RR"] == pytest.approx(1 / 12)
    condensed = only_judged(run, qrels)
    assert condensed == {"q1": {"a": 3.0, "b": 1.0}, "empty": {}, "nobody asked": {}}
    assert evaluate(condensed, qrels, ["RR"]).per_query["RR"]["q1"] == 1 / 2


def test_a_run_that_found_nothing_at_all(library):
    with pytest.raises(BadInput, match="no judged query is in the run: the run has none"):
        evaluate(Run(), Qrels({"q": {"a": 1}}))
    result = evaluate(Run({"q": {}}), Qrels({"q": {"a": 1}}), ["nDCG@10"])
    assert (result.mean, result.missing) == ({"nDCG@10": 0.0}, ("q",))


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
        ("judged@10", "Judged@10"),
        ("bpref(rel=2)", "Bpref(rel=2)"),
        ("compat(p=0.95)", "Compat(p=0.95)"),
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
        ("Judged(rel=2)@10", "Judged takes no rel"),
        ("AP(p=0.5)", "AP takes no p"),
        ("P(rel=0)@5", "at least 1 as rel"),
        ("P(rel=1.5)@5", "at least 1 as rel"),
        ("Compat(p=1)", "a p between 0 and 1"),
        ("P@1.5", "cut-off of at least 1"),
        ("Bpref@10", "Bpref takes no cut-off. Leave @10 out"),
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


# --- the reference implementations' own cases -------------------------------------------------------------------------

# Our measures under trec_eval's names.
TREC_NAMES = {
    "map": "AP",
    "recip_rank": "RR",
    "ndcg": "nDCG",
    "Rprec": "Rprec",
    "bpref": "Bpref",
    "infAP": "infAP",
    "set_P": "SetP",
    "set_recall": "SetR",
    "set_F": "SetF",
    "set_map": "SetAP",
    "map_cut_{k}": "AP@{k}",
    "ndcg_cut_{k}": "nDCG@{k}",
    "recall_{k}": "R@{k}",
    "P_{k}": "P@{k}",
    "success_{k}": "Success@{k}",
}
CUTOFFS = (1, 2, 3, 5, 7, 10, 15, 20, 23, 30, 100, 200, 500, 1000, 2000)
OURS = {trec.format(k=k): ours.format(k=k) for trec, ours in TREC_NAMES.items() for k in CUTOFFS}
# Measures that we do not name: trec_eval itself, through pytrec_eval, reads our runs and judgements, order and ties included.
THEIRS = re.compile(
    r"num_(q|ret|rel|rel_ret|nonrel_judged_ret)|gm_(map|bpref)|G|binG|Rndcg|ndcg_rel|Rprec_mult_[.0-9]+|utility"
    r"|relative_P_\d+|set_relative_P"
)
# Precision at a recall, by a formula here: trec_eval 10 rounds the number of relevant passages that a recall needs,
# pytrec_eval's older one rounds it up. That is why we name no such measure.
INTERPOLATED = re.compile(r"iprec_at_recall_(\d\.\d\d)|11pt_avg")
# Words and strings, a gain table, other points of measures that we have, and RBP, which pytrec_eval's trec_eval has not yet.
LEFT_OUT = re.compile(r"runid|relstring(_\d+)?|rbp(_resid)?|ndcg_1=.*|11pt_avg_.*|utility_.*|Rprec_mult_(5.00|0.35)")
reference = [pytest.mark.data, pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference-metrics; see SHORTLIST_DATA")]


def expected_output(name: str) -> dict[tuple[str, str], str]:
    """(query or "all", trec_eval's name) -> the printed value, but for what is left out."""
    rows = [line.split() for line in (REFERENCE / "trec_eval" / name).read_text().splitlines()]
    return {(row[1], row[0]): row[2] for row in rows if not LEFT_OUT.fullmatch(row[0])}


def trec(name: str) -> Path:
    folder = REFERENCE / "trec_eval"
    return next(p for p in (folder / name, folder / f"{name}.gz") if p.is_file())


def trec_eval_itself(run: Run, qrels: Qrels, level: int) -> dict[tuple[str, str], float]:
    """All that pytrec_eval computes, of the run's order as we hand it over, missing queries as empty ones."""
    library = pytest.importorskip("pytrec_eval")
    placed = {q: {p: -float(n) for n, (p, _) in enumerate(run.ranked(q))} for q in qrels}
    per_query = library.RelevanceEvaluator(dict(qrels), library.supported_measures, relevance_level=level).evaluate(placed)
    found = {(q, name): value for q, values in per_query.items() for name, value in values.items()}
    for name in {name for _, name in found}:
        found["all", name] = library.compute_aggregated_measure(name, [v for (_, n), v in found.items() if n == name])
    return found


class TestTrecEval:
    """Every line that trec_eval prints for its own test inputs, to the last digit.

    Left out are its tests of preference judgements (out.test.prefs, .qrels_prefs, .qrels_jg) and z-scores (.aqZ), which have no
    place in the evaluation of rankings.
    """

    pytestmark = reference

    @pytest.mark.parametrize(
        ("qrels", "run", "output", "lines", "everything_judged"),
        [
            ("qrels.test", "results.test", "out.test", 29, False),
            ("qrels.test.with-comments", "results.test", "out.test", 29, False),
            ("qrels.comment.test", "results.comment.test", "out.comment.test", 29, False),
            ("qrels.comment.test", "results.test", None, 0, False),
            ("qrels.test", "results.test", "out.test.a", 96, False),
            ("qrels.test", "results.test", "out.test.aq", 375, False),
            ("qrels.test", "results.trunc", "out.test.aqc", 375, True),
            ("qrels.test", "results.test", "out.test.meas_params", 68, False),
        ],
    )
    def test_equals_the_printed_output(self, library, qrels, run, output, lines, everything_judged):
        judged, found = read_qrels(trec(qrels)), read_run(trec(run))
        if output is None:  # nothing in common: we refuse what trec_eval prints as zeros
            with pytest.raises(BadInput, match="no judged query"):
                evaluate(found, judged)
            return
        if not everything_judged:  # without -c trec_eval averages over the queries that are in both files
            judged = Qrels({q: docs for q, docs in judged.items() if q in found})
        self.check(output, found, judged, lines)

    def test_cut_at_100(self, library):
        judged, found = read_qrels(trec("qrels.test")), read_run(trec("results.trunc"))
        cut = Run({q: dict(found.ranked(q)[:100]) for q in found})  # trec_eval -M100
        assert evaluate(cut, judged, ["AP"]).missing == ("302",)
        self.check("out.test.aqcM", cut, judged, 375)

    def test_relevant_from_judgement_2(self, library):
        self.check("out.test.aql", read_run(trec("results.test")), read_qrels(trec("qrels.rel_level")), 375, level=2)

    def test_only_what_was_judged(self, library):
        """trec_eval -J has no printed output in its tests; pytrec_eval's own -J is the judge."""
        judged, found = read_qrels(trec("qrels.test")), read_run(trec("results.test"))
        judged = Qrels({q: docs for q, docs in judged.items() if q in found})
        condensed = only_judged(found, judged)
        assert 0 < sum(map(len, condensed.values())) < sum(map(len, found.values()))
        evaluator = pytest.importorskip("pytrec_eval").RelevanceEvaluator(
            dict(judged), {"map", "P.10"}, judged_docs_only_flag=True
        )
        placed = {q: {p: -float(n) for n, (p, _) in enumerate(found.ranked(q))} for q in found}
        ours = evaluate(condensed, judged, ["AP", "P@10"]).per_query
        for query, values in evaluator.evaluate(placed).items():
            assert (ours["AP"][query], ours["P@10"][query]) == (values["map"], values["P_10"])

    def check(self, output: str, run: Run, judged: Qrels, lines: int, level: int = 1) -> None:
        expected = expected_output(output)
        assert len(expected) == lines
        ours = {name: at_level(OURS[name], level) for _, name in expected if name in OURS}
        result = evaluate(run, judged, sorted(set(ours.values())))
        pooled = Qrels({q: {p: g for p, g in docs.items() if g >= 0} for q, docs in judged.items()})  # -1: not in the pool
        known = evaluate(run, pooled, ["Judged@5", "Judged@10", "Judged@20"])
        theirs = trec_eval_itself(run, judged, level)
        for (query, name), printed in expected.items():
            if name in ours:
                value = result.mean[ours[name]] if query == "all" else result.per_query[ours[name]][query]
            elif name.startswith("unj_"):
                per_query = {q: 1 - share if run.get(q) else 0.0 for q, share in known.per_query[f"Judged@{name[4:]}"].items()}
                value = sum(per_query.values()) / len(per_query) if query == "all" else per_query[query]
            elif at := INTERPOLATED.fullmatch(name):
                recalls = [float(at[1])] if at[1] else [tenth / 10 for tenth in range(11)]
                queries = list(judged) if query == "all" else [query]
                value = mean(interpolated(run, judged, q, recall, level) for q in queries for recall in recalls)
            else:
                assert THEIRS.fullmatch(name), name
                value = theirs[query, name]
            assert (f"{value:.4f}" if "." in printed else f"{value:.0f}") == printed, (query, name)


def interpolated(run: Run, qrels: Qrels, query: str, recall: float, level: int) -> float:
    """The best precision at any place from which on at least that recall is reached."""
    relevant = {p for p, judgement in qrels[query].items() if judgement >= level}
    needed = max(1, int(recall * len(relevant) + 0.5))
    places = [place for place, (p, _) in enumerate(run.ranked(query), 1) if p in relevant]
    return max((found / place for found, place in enumerate(places, 1) if found >= needed), default=0.0)


def at_level(name: str, level: int) -> str:
    """The measure with relevance from that judgement on; nDCG takes none."""
    base, at, cutoff = name.partition("@")
    return name if level == 1 or base == "nDCG" else f"{base}(rel={level}){at}{cutoff}"


class TestPublishedRuns:
    pytestmark = reference

    def test_cacm(self, library):
        run, qrels = read_run(REFERENCE / "runs/cacm-bm25.run.txt"), read_qrels(REFERENCE / "runs/qrels.cacm.txt")
        mean = evaluate(run, qrels, ["P@30", "AP"]).mean
        assert (round(mean["P@30"], 4), round(mean["AP"], 4)) == (0.1942, 0.2744)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            (
                "bm25",
                {
                    "RR@10": 0.15906651549508694,
                    "Success@50": 0.5619,
                    "Success@1000": 0.8476,
                    "R@50": 0.5460,
                    "R@1000": 0.8429,
                },
            ),
            ("monobert", {"RR@10": 0.4026795162509449, "P@1": 0.2762}),
            ("monot5", {"RR@10": 0.39044217687074834, "P@1": 0.2667}),
        ],
    )
    def test_msmarco(self, library, name, expected):
        run = read_run(REFERENCE / f"runs/msmarco-small.{name}.run.tsv.gz")
        mean = evaluate(run, read_qrels(REFERENCE / "runs/msmarco-small.qrels.tsv"), list(expected)).mean
        for measure, value in expected.items():
            assert mean[measure] == pytest.approx(value, abs=1e-14 if measure == "RR@10" else 5e-5)

    def test_compat(self, library):
        run, qrels = (
            read(REFERENCE / f"runs/ir_measures.compat.{end}") for read, end in ((read_run, "run"), (read_qrels, "qrels"))
        )
        values = evaluate(run, qrels, ["Compat(p=0.95)"]).per_query["Compat(p=0.95)"]
        assert values == {"31_1": 0.51779512165509, "31_2": 0.018400100569017922}

    def test_the_card_of_a_real_run_agrees_with_single_measures(self, library):
        run, qrels = read_run(trec("results.test")), read_qrels(trec("qrels.test"))
        card = card_measures(run, qrels)
        mean = evaluate(run, qrels, ["AP@1000", "nDCG@10", "RR"]).mean
        assert card["MAP"]["MAP@1000"] == round(mean["AP@1000"], 5)
        assert card["NDCG"]["NDCG@10"] == round(mean["nDCG@10"], 5)
        assert card["MRR"]["MRR@1000"] == round(mean["RR"], 5)
