"""Measures of a run against judgements, per query first; the comparison of two runs; miniMiracle's printed form.

The measures themselves are computed by ir-measures and pytrec_eval, the field's reference implementations.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput, MissingExtra
from shortlist.types import Qrels, Run

ALIASES = {
    "ndcg": "nDCG",
    "map": "AP",
    "ap": "AP",
    "mrr": "RR",
    "rr": "RR",
    "recall": "R",
    "r": "R",
    "precision": "P",
    "p": "P",
}
NEEDS_CUTOFF = ("R", "P")
EXAMPLES = "nDCG@10, RR@10, AP@100, R@100, P@10, AP"

# The dictionaries of miniMiracle's model cards, in the order in which the card prints them.
CARD = {
    "NDCG": ("nDCG", (1, 3, 5, 10, 100, 1000)),
    "MAP": ("AP", (1, 3, 5, 10, 100, 1000)),
    "Recall": ("R", (10, 50, 100, 200, 500, 1000)),
    "P": ("P", (1, 3, 5, 10, 100, 1000)),
    "MRR": ("RR", (10, 100, 1000)),
}


@dataclass(frozen=True)
class Evaluation:
    """Values of a run: `per_query` is measure -> query id -> value; the queries are those of the judgements, in order."""

    per_query: Mapping[str, Mapping[str, float]]

    @property
    def mean(self) -> dict[str, float]:
        """Measure -> mean over all judged queries."""
        return {measure: float(np.mean(list(values.values()))) for measure, values in self.per_query.items()}


@dataclass(frozen=True)
class Comparison:
    """Run a against run b on one measure, query by query.

    difference       mean of a minus mean of b
    interval         (low, high), 95% percentile bootstrap interval of the difference
    p_value          two-sided, paired randomisation test: chance of a difference this large if a and b were alike
    wins ties losses queries on which a is better, equal, worse
    """

    measure: str
    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    wins: int
    ties: int
    losses: int


def parse_measure(name: str) -> str:
    """The measure's name as ir-measures writes it: "ndcg@10" -> "nDCG@10", "Recall@100" -> "R@100", "MRR" -> "RR".

    Known in any case: nDCG (NDCG), AP (MAP), RR (MRR), R (Recall), P (Precision), each with a cut-off `@k` (R and P need
    one). A minimum judgement may be given in ir-measures' manner: "P(rel=2)@5".

    Raises BadInput: unknown measure, cut-off below 1 or missing.
    """
    found = re.fullmatch(r"\s*([A-Za-z]+)(\(rel=[1-9]\d*\))?(?:@(\d+))?\s*", name)
    base = ALIASES.get(found[1].lower()) if found else None
    if found is None or base is None:
        raise BadInput(f"unknown measure {name!r}; expected one like {EXAMPLES} (also NDCG, MAP, MRR, Recall).")
    level, cutoff = found[2] or "", found[3]
    if level and base == "nDCG":
        raise BadInput(f"measure {name!r}: nDCG uses graded judgements, so it takes no rel. Leave {level} out.")
    if cutoff is None and base in NEEDS_CUTOFF:
        raise BadInput(f"measure {name!r} has no cut-off. Write for example {base}@10.")
    if cutoff is not None and int(cutoff) < 1:
        raise BadInput(f"measure {name!r}: expected a cut-off of at least 1.")
    return f"{base}{level}" + (f"@{int(cutoff)}" if cutoff else "")


def evaluate(run: Run, qrels: Qrels, measures: Sequence[str] = ("nDCG@10", "R@100")) -> Evaluation:
    """Each measure for every judged query.

    A judged query that the run lacks counts 0 (as trec_eval -c does), so does one without a relevant passage; queries of
    the run that nobody judged are left out. The order of passages is `Run.ranked`: score descending, ties by passage id.
    nDCG takes the judgement as gain, without exponent, and the logarithm to base 2 (Järvelin and Kekäläinen 2002).

    Raises BadInput: unknown measure, no measure, no judgement, no judged query in the run, a score that is NaN.
    MissingExtra: [eval].
    """
    names = list(dict.fromkeys(parse_measure(m) for m in measures))
    if not names:
        raise BadInput(f"no measure given; expected at least one like {EXAMPLES}.")
    if not qrels:
        raise BadInput("the judgements are empty; expected at least one judged query.")
    if not any(query_id in run for query_id in qrels):
        raise BadInput(
            f"no judged query is in the run: the run has {_some(run)}, the judgements have {_some(qrels)}. "
            "Check that both belong to the same collection and split."
        )
    library = _library()
    parsed = {library.parse_measure(name): name for name in names}
    values = {name: dict.fromkeys(qrels, 0.0) for name in names}
    evaluator = library.evaluator(list(parsed), {q: dict(judged) for q, judged in qrels.items()})
    for metric in evaluator.iter_calc(_by_place(run, qrels)):
        values[parsed[metric.measure]][metric.query_id] = float(metric.value)
    return Evaluation(values)


def _by_place(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    """Judged queries of the run with scores n, n-1 … 1: no ties are left that evaluators would break in their own ways."""
    placed = {}
    for query_id in qrels:
        hits = run.ranked(query_id)
        for passage_id, score in hits:
            if math.isnan(score):
                raise BadInput(f"query {query_id!r}, passage {passage_id!r}: the score is NaN, which has no place in an order.")
        placed[query_id] = {passage_id: float(len(hits) - place) for place, (passage_id, _) in enumerate(hits)}
    return placed


def _some(ids: Iterable[str], shown: int = 3) -> str:
    listed = list(ids)
    return f"{len(listed)} queries ({', '.join(listed[:shown])}{', …' if len(listed) > shown else ''})" if listed else "none"


def _library() -> Any:
    for package in ("pytrec_eval", "ir_measures"):
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            names = {"pytrec_eval": "pytrec_eval-terrier", "ir_measures": "ir-measures"}
            raise MissingExtra(names[package], "eval", "evaluate") from error
    return module


def card_measures(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    """The figures of a miniMiracle model card: {"NDCG": {"NDCG@1": 0.43511, …}, "MAP": …, "Recall": …, "P": …, "MRR": …}.

    Means over all judged queries, rounded to five decimals, in the card's order. Errors: see `evaluate`.
    """
    names = [f"{measure}@{k}" for measure, cutoffs in CARD.values() for k in cutoffs]
    mean = evaluate(run, qrels, names).mean
    return {
        label: {f"{label}@{k}": round(mean[f"{measure}@{k}"], 5) for k in cutoffs} for label, (measure, cutoffs) in CARD.items()
    }


def format_card(card: Mapping[str, Mapping[str, float]]) -> str:
    """One line a dictionary, exactly as miniMiracle's cards print them."""
    return "\n".join(str(dict(group)) for group in card.values())


def compare(
    run_a: Run, run_b: Run, qrels: Qrels, measure: str = "nDCG@10", *, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """Is the difference between two runs more than chance?

    The p-value is Fisher's paired randomisation test with `samples` random sign changes of the per-query differences,
    which Smucker, Allan and Carterette (CIKM 2007) recommend for retrieval; the observed assignment counts as one of
    them, so p is never 0 (Phipson and Smyth 2010). The interval is the percentile bootstrap over queries (Efron 1979).
    The same seed gives the same figures.

    Raises BadInput: see `evaluate`; samples below 1.
    """
    if samples < 1:
        raise BadInput(f"samples={samples}: expected at least 1; 10,000 give a p-value good to about 0.01.")
    name = parse_measure(measure)
    a, b = (np.array(list(evaluate(run, qrels, [name]).per_query[name].values())) for run in (run_a, run_b))
    difference = a - b
    random = np.random.default_rng(seed)
    return Comparison(
        measure=name,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(difference.mean()),
        interval=_bootstrap(difference, samples, random),
        p_value=_randomisation(difference, samples, random),
        wins=int((difference > 0).sum()),
        ties=int((difference == 0).sum()),
        losses=int((difference < 0).sum()),
    )


def _randomisation(difference: npt.NDArray[np.float64], samples: int, random: np.random.Generator) -> float:
    observed = abs(float(difference.mean()))
    # One sample at a time: memory stays that of one row, and 10,000 rows take a fraction of a second.
    means = [abs(float((difference * random.choice((-1.0, 1.0), len(difference))).mean())) for _ in range(samples)]
    as_large = int((np.array(means) >= observed - 1e-12).sum())  # sums in another order differ in the last bits
    return (1 + as_large) / (1 + samples)


def _bootstrap(difference: npt.NDArray[np.float64], samples: int, random: np.random.Generator) -> tuple[float, float]:
    n = len(difference)
    means = [difference[random.integers(0, n, n)].mean() for _ in range(samples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
