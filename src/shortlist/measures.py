"""Measures of a run against judgements, per query first; miniMiracle's printed form.

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

from shortlist.errors import BadInput, MissingExtra
from shortlist.types import Qrels, Run

FORMS: dict[str, tuple[str, str, str]] = {
    "ndcg": ("nDCG", "@k?", ""),
    "ap": ("AP", "@k?", "rel"),
    "rr": ("RR", "@k?", "rel"),
    "r": ("R", "@k", "rel"),
    "p": ("P", "@k", "rel"),
    "success": ("Success", "@k", "rel"),
    "judged": ("Judged", "@k", ""),
    "rprec": ("Rprec", "", "rel"),
    "bpref": ("Bpref", "", "rel"),
    "infap": ("infAP", "", "rel"),
    "setp": ("SetP", "", "rel"),
    "setr": ("SetR", "", "rel"),
    "setf": ("SetF", "", "rel"),
    "setap": ("SetAP", "", "rel"),
    "compat": ("Compat", "", "p"),
}
"""Name in lower case -> ir-measures' name, whether a cut-off must or may follow, the parameter it may have."""
ALIASES = {"map": "ap", "mrr": "rr", "recall": "r", "precision": "p"}
EXAMPLES = "nDCG@10, RR@10, AP@100, R@100, P@10, Judged@10, AP"

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
    """Values of a run: `per_query` is measure -> query id -> value; the queries are those of the judgements, in order.

    `missing` are the judged queries that the run lacks; they count 0.
    """

    per_query: Mapping[str, Mapping[str, float]]
    missing: tuple[str, ...] = ()

    @property
    def mean(self) -> dict[str, float]:
        """Measure -> mean over all judged queries."""
        return {measure: float(np.mean(list(values.values()))) for measure, values in self.per_query.items()}


def parse_measure(name: str) -> str:
    """The measure's name as ir-measures writes it: "ndcg@10" -> "nDCG@10", "Recall@100" -> "R@100", "MRR" -> "RR".

    Known in any case: nDCG, AP (MAP) and RR (MRR), with or without a cut-off `@k`; R (Recall), P (Precision), Success and
    Judged (the share of the first k that was judged), which need one; Rprec, Bpref, infAP, SetP, SetR, SetF, SetAP and
    Compat. A minimum judgement may be given in ir-measures' manner, "P(rel=2)@5"; Compat takes p, "Compat(p=0.95)".

    Raises BadInput: unknown measure or parameter, cut-off below 1, missing, or out of place.
    """
    found = re.fullmatch(r"\s*([A-Za-z]+)(?:\(([a-z]+)=([0-9.]+)\))?(?:@([0-9.]+))?\s*", name)
    lower = found[1].lower() if found else ""
    form = FORMS.get(ALIASES.get(lower, lower))
    if found is None or form is None or not _is_number(found[3]) or not _is_number(found[4]):
        raise BadInput(f"unknown measure {name!r}; expected one like {EXAMPLES} (also NDCG, MAP, MRR, Recall).")
    base, cutoff, parameter = form
    given = f"({found[2]}={found[3]})" if found[2] else ""
    if given and found[2] != parameter:
        reason = "nDCG uses graded judgements, so it" if base == "nDCG" else base
        raise BadInput(f"measure {name!r}: {reason} takes no {found[2]}. Leave {given} out.")
    if found[2] == "rel" and not (found[3].isdecimal() and int(found[3]) > 0):
        raise BadInput(f"measure {name!r}: expected a whole number of at least 1 as rel.")
    if found[2] == "p" and not 0 < float(found[3]) < 1:
        raise BadInput(f"measure {name!r}: expected a p between 0 and 1.")
    return f"{base}{given}{_checked_cutoff(name, base, cutoff, found[4])}"


def _is_number(text: str | None) -> bool:
    return text is None or re.fullmatch(r"\d+(\.\d+)?", text) is not None


def _checked_cutoff(name: str, base: str, expected: str, given: str | None) -> str:
    """`@10`, or "" for none, if the measure takes it."""
    if given is None:
        if expected == "@k":
            raise BadInput(f"measure {name!r} has no cut-off. Write for example {base}@10.")
        return ""
    if not expected:
        raise BadInput(f"measure {name!r}: {base} takes no cut-off. Leave @{given} out.")
    if not given.isdecimal() or int(given) < 1:
        raise BadInput(f"measure {name!r}: expected a cut-off of at least 1.")
    return f"@{int(given)}"


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
    return Evaluation(values, tuple(query_id for query_id in qrels if not run.get(query_id)))


def only_judged(run: Run, qrels: Qrels) -> Run:
    """The run without the passages that nobody judged, as trec_eval -J reads it.

    Where judgements have holes, the measures of these condensed lists are steadier than those that take what was not judged for
    not relevant (Sakai, SIGIR 2007). Compare with `Judged@10`: what is far below 1 says little about the run.
    """
    return Run({q: {p: score for p, score in hits.items() if p in qrels.get(q, ())} for q, hits in run.items()}, run.name)


def _by_place(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    """Judged queries of the run with scores n, n-1 … 1: no ties are left that evaluators would break in their own ways."""
    placed = {}
    for query_id in qrels:
        hits = run.ranked(query_id)
        if not hits:  # a query that found nothing counts 0 without asking
            continue
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
