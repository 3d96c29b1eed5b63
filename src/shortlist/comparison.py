"""Runs beside each other: is one better, on which queries and which kinds of them, and which passages decided."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from shortlist.errors import BadInput
from shortlist.measures import Evaluation, evaluate, parse_measure
from shortlist.significance import Differences, bootstrap_interval, holm, randomisation_test, t_test
from shortlist.text import detect_language
from shortlist.types import Qrels, Run

# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LETTER = re.compile(r"\w")


@dataclass(frozen=True)
class Comparison:
    """Run a against run b on one measure, query by query.

    difference       mean of a minus mean of b
    interval         (low, high), 95% percentile bootstrap interval of the difference
    p_value          two-sided, paired randomisation test: chance of a difference this large if a and b were alike
    t_p_value        the same of Student's paired t test; not a number for a single query
    holm_p_value     `p_value` corrected for all comparisons that were made together; `p_value` itself if it was one
    wins ties losses queries on which a is better, equal, worse
    """

    a: str
    b: str
    measure: str
    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    t_p_value: float
    holm_p_value: float
    wins: int
    ties: int
    losses: int


def compare(
    run_a: Run, run_b: Run, qrels: Qrels, measure: str = "nDCG@10", *, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """Is the difference between two runs more than chance?

    `significance` has the tests. A judged query that a run lacks counts 0. The same seed gives the same figures.

    Raises BadInput: see `evaluate`; samples below 1.
    """
    (found,) = compare_all({"a": run_a, "b": run_b}, qrels, measure, samples=samples, seed=seed)
    return replace(found, a=run_a.name, b=run_b.name)


def compare_all(
    runs: Mapping[str, Run],
    qrels: Qrels,
    measure: str = "nDCG@10",
    *,
    baseline: str | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """Every run against the one named `baseline`, or every pair; p-values also corrected for their number (Holm).

    Raises BadInput: see `evaluate`; samples below 1, fewer than two runs, a baseline that is none of them.
    """
    if samples < 1:
        raise BadInput(f"samples={samples}: expected at least 1; 10,000 give a p-value good to about 0.01.")
    if len(runs) < 2:
        raise BadInput(f"{len(runs)} run to compare; expected at least two.")
    if baseline is not None and baseline not in runs:
        raise BadInput(f"the baseline {baseline!r} is none of the runs; expected one of {', '.join(runs)}.")
    name = parse_measure(measure)
    values = {run: np.array(list(evaluate(runs[run], qrels, [name]).per_query[name].values())) for run in runs}
    pairs = list(combinations(runs, 2)) if baseline is None else [(run, baseline) for run in runs if run != baseline]
    found = [_compared(a, b, name, values[a], values[b], samples, seed) for a, b in pairs]
    corrected = holm([comparison.p_value for comparison in found])
    return [replace(comparison, holm_p_value=p) for comparison, p in zip(found, corrected, strict=True)]


def _compared(a: str, b: str, measure: str, of_a: Differences, of_b: Differences, samples: int, seed: int) -> Comparison:
    random = np.random.default_rng(seed)
    difference = of_a - of_b
    interval = bootstrap_interval(difference, samples, random)
    p_value = randomisation_test(difference, samples, random)
    return Comparison(
        a=a,
        b=b,
        measure=measure,
        mean_a=float(of_a.mean()),
        mean_b=float(of_b.mean()),
        difference=float(difference.mean()),
        interval=interval,
        p_value=p_value,
        t_p_value=t_test(difference),
        holm_p_value=p_value,
        wins=int((difference > 0).sum()),
        ties=int((difference == 0).sum()),
        losses=int((difference < 0).sum()),
    )


# --- single queries ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """A passage in both runs: its judgement (None: nobody judged it) and its place from 1 (None: not found)."""

    id: str
    judgement: int | None
    place_a: int | None
    place_b: int | None


@dataclass(frozen=True)
class Decision:
    """A query on which two runs differ, and the passages that made the difference, the weightiest first."""

    query_id: str
    value_a: float
    value_b: float
    passages: tuple[Placed, ...]


def decisions(
    run_a: Run, run_b: Run, qrels: Qrels, measure: str = "nDCG@10", *, top: int = 5
) -> tuple[list[Decision], list[Decision]]:
    """The `top` queries that a wins by most, and the `top` that it loses by most, the greatest difference first.

    Each with the two relevant passages whose places differ most (in reciprocal rank), and what the worse run put first instead
    if that is not relevant.
    """
    name = parse_measure(measure)
    of_a, of_b = (evaluate(run, qrels, [name]).per_query[name] for run in (run_a, run_b))
    order = sorted(qrels, key=lambda query_id: (-(of_a[query_id] - of_b[query_id]), query_id))
    found = [Decision(q, of_a[q], of_b[q], _deciding(q, run_a, run_b, qrels, of_a[q] > of_b[q])) for q in order]
    return [d for d in found[:top] if d.value_a > d.value_b], [d for d in found[::-1][:top] if d.value_a < d.value_b]


def _deciding(query_id: str, run_a: Run, run_b: Run, qrels: Qrels, a_wins: bool) -> tuple[Placed, ...]:
    places_a, places_b = (
        {passage_id: place for place, (passage_id, _) in enumerate(run.ranked(query_id), 1)} for run in (run_a, run_b)
    )
    judged = qrels[query_id]

    def placed(passage_id: str) -> Placed:
        return Placed(passage_id, judged.get(passage_id), places_a.get(passage_id), places_b.get(passage_id))

    relevant = [placed(passage_id) for passage_id, judgement in judged.items() if judgement > 0]
    moved = sorted((p for p in relevant if p.place_a != p.place_b), key=lambda p: (-_shift(p), p.id))[:2]
    worse = list(places_b if a_wins else places_a)[:1]
    return (*moved, *(placed(passage_id) for passage_id in worse if judged.get(passage_id, 0) <= 0))


def _shift(passage: Placed) -> float:
    of_a, of_b = (0.0 if place is None else 1 / place for place in (passage.place_a, passage.place_b))
    return abs(of_a - of_b)


# --- kinds of queries -------------------------------------------------------------------------------------------------


def length_group(text: str) -> str:
    """How long a query is: "3–4 words", or "9–16 characters" where most letters belong to a script without spaces."""
    letters = len(_LETTER.findall(text))
    unspaced = 2 * len(_UNSPACED.findall(text)) > letters
    count, unit = (letters, "characters") if unspaced else (len(text.split()), "words")
    low = 1
    while count > 2 * low:
        low *= 2
    return f"1–2 {unit}" if count <= 2 else f"{low + 1}–{2 * low} {unit}"


def language_group(text: str) -> str:
    """The language a query is written in, as far as its words tell."""
    return detect_language(text) or "unknown"


def breakdown(evaluation: Evaluation, groups: Mapping[str, str]) -> dict[str, tuple[int, dict[str, float]]]:
    """Group -> how many of the judged queries belong to it, and the mean of each measure over them.

    `groups` is query id -> group; queries without one are "unknown". Groups are sorted by name, numbers in names by size.
    """
    members: dict[str, list[str]] = {}
    for query_id in next(iter(evaluation.per_query.values())):
        members.setdefault(groups.get(query_id, "unknown"), []).append(query_id)
    return {
        group: (len(ids), {name: float(np.mean([of[i] for i in ids])) for name, of in evaluation.per_query.items()})
        for group, ids in sorted(members.items(), key=lambda item: _natural(item[0]))
    }


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
