"""Runs and what judges them, as the plain data that every form of a report is written from."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from shortlist import __version__
from shortlist.comparison import Comparison, compare_all
from shortlist.data import read_passages
from shortlist.errors import BadInput, IndexFormatError, ModelError
from shortlist.index import Index
from shortlist.measures import CARD, evaluate, parse_measure
from shortlist.provenance import disagreements
from shortlist.reranker import Inputs, Reranker
from shortlist.significance import Differences, bootstrap_interval, holm, stratified_interval, stratified_test
from shortlist.types import Passage, Qrels, Run

SAMPLES = 10_000
CARD_MEASURES = tuple(f"{measure}@{k}" for measure, cutoffs in CARD.values() for k in cutoffs)
BATCH_ROWS = 6

Interval: TypeAlias = tuple[float, float]
Manifest: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    """The runs of one collection, and what judges them.

    runs       system -> its run
    manifests  system -> how the run was made; empty where that is not known
    files      system -> name of the run's file
    queries    query id -> text; empty where the texts are not known
    corpus     index or passages, for the texts of passages; None where they are not known
    """

    name: str
    qrels: Qrels
    runs: Mapping[str, Run]
    manifests: Mapping[str, Manifest]
    files: Mapping[str, str]
    queries: Mapping[str, str]
    corpus: str | None = None


@dataclass(frozen=True)
class Cost:
    """What a system takes.

    stages          stage -> (p50, p99) in milliseconds, the total last
    peak_mb         memory of the searching process at most
    searched_bytes  of the index a passage: postings, vectors, or both, as the first stage reads them
    index_bytes     of the whole index a passage
    how             how the time was taken
    """

    stages: Mapping[str, Interval]
    peak_mb: float
    searched_bytes: float
    index_bytes: float
    how: str

    @property
    def total(self) -> Interval:
        """Of a search, (p50, p99) in milliseconds."""
        return self.stages["total"]


@dataclass(frozen=True)
class Result:
    """A system on one collection: `values` are the means of the measures, `number` that of the run in the list of all runs.

    against  the comparison with the baseline; None for the baseline itself
    """

    system: str
    values: Mapping[str, float]
    interval: Interval
    against: Comparison | None
    cost: Cost | None
    kind: str
    reduced: bool
    manifest: Manifest
    file: str
    number: int


@dataclass(frozen=True)
class Shown:
    """A passage of a query that went wrong, with its place in the system's run and in the baseline's (None: not found)."""

    id: str
    text: str
    place: int | None
    base_place: int | None


@dataclass(frozen=True)
class Failure:
    """A query on which the system loses or finds nothing: its best relevant passage, and what stands first instead."""

    query_id: str
    query: str
    value: float
    base_value: float
    relevant: Shown
    instead: Shown | None


@dataclass(frozen=True)
class Section:
    """One collection. `found_nothing` is the number of questions whose value is 0 for the system that is looked at."""

    name: str
    language: str
    passages: int | None
    queries: int
    results: tuple[Result, ...]
    failures: tuple[Failure, ...]
    found_nothing: int
    depth: int
    warnings: tuple[str, ...]

    def of(self, system: str) -> Result | None:
        """The result of a system; None if it has no run here."""
        return next((result for result in self.results if result.system == system), None)


@dataclass(frozen=True)
class Mean:
    """A system over several collections, each counting alike; `gain` is over the baseline, None for itself.

    p_value  of the gain, corrected for the number of systems (Holm)
    """

    system: str
    value: float
    interval: Interval
    gain: float | None
    gain_interval: Interval | None
    p_value: float | None
    cost: Cost | None
    kind: str
    reduced: bool


@dataclass(frozen=True)
class Overview:
    """Systems over the collections on which every one of them has a run; `whole` if those are all collections."""

    collections: tuple[str, ...]
    means: tuple[Mean, ...]
    whole: bool

    @property
    def key(self) -> str:
        """For names of pictures and tables."""
        return "all" if self.whole else "shared"

    def of(self, system: str) -> Mean | None:
        """The mean of a system; None if it is not among these."""
        return next((mean for mean in self.means if mean.system == system), None)


@dataclass(frozen=True)
class Batch:
    """What the reranker of a run reads: one query with the passages that the system ranks first."""

    reranker: str
    query: str
    inputs: Inputs


@dataclass(frozen=True)
class Report:
    """Everything that a page says.

    overviews  over all collections the systems that have a run on each; and, if those are not all systems, over the collections
               on which all have one. Without either it is empty
    """

    title: str
    note: str
    made: str
    version: str
    measure: str
    baseline: str
    system: str
    systems: tuple[str, ...]
    sections: tuple[Section, ...]
    overviews: tuple[Overview, ...]
    batch: Batch | None


def build_report(
    collections: Sequence[Judged],
    *,
    baseline: str | None = None,
    system: str | None = None,
    measure: str = "nDCG@10",
    worst: int = 3,
    title: str = "Retrieval report",
    note: str = "",
    progress: Callable[[int, int | None], None] | None = None,
) -> Report:
    """Measure and compare all runs.

    baseline  the system that the others are compared with; by default the first
    system    the one whose failures, times and batch are shown; by default the last
    worst     how many queries of each kind are shown of every collection: those that `system` loses most on, and those
              for which it finds nothing

    Raises BadInput: see `evaluate`; no collection, a baseline or a system without a run.
    """
    systems = tuple(dict.fromkeys(name for each in collections for name in each.runs))
    if not systems:
        raise BadInput("there is no run to report. Name at least one.")
    base, looked_at = baseline or systems[0], system or systems[-1]
    for name in (base, looked_at):
        if name not in systems:
            raise BadInput(f"{name!r} is none of the systems; expected one of {', '.join(systems)}.")
    measure, sections, values, number = parse_measure(measure), list[Section](), dict[str, dict[str, Differences]](), 1
    for done, each in enumerate(collections, 1):
        section, values[each.name] = _section(each, base, looked_at, measure, worst, number)
        sections.append(section)
        number += len(section.results)
        if progress is not None:
            progress(done, len(collections))
    return Report(
        title=title,
        note=note,
        made=datetime.datetime.now(datetime.UTC).date().isoformat(),
        version=__version__,
        measure=measure,
        baseline=base,
        system=looked_at,
        systems=systems,
        sections=tuple(sections),
        overviews=tuple(_overviews(sections, values, systems, base)),
        batch=_batch(collections, looked_at),
    )


# --- one collection ---------------------------------------------------------------------------------------------------


def _section(
    data: Judged, baseline: str, system: str, measure: str, worst: int, number: int
) -> tuple[Section, dict[str, Differences]]:
    """The section, and system -> value of every query."""
    found = {name: evaluate(run, data.qrels, [measure, *CARD_MEASURES]) for name, run in data.runs.items()}
    values = {name: np.array(list(each.per_query[measure].values())) for name, each in found.items()}
    compares = baseline in data.runs and len(data.runs) > 1
    against = {c.a: c for c in compare_all(data.runs, data.qrels, measure, baseline=baseline)} if compares else {}
    results = tuple(
        Result(
            system=name,
            values=found[name].mean,
            interval=bootstrap_interval(values[name], SAMPLES, np.random.default_rng(0)),
            against=against.get(name),
            cost=cost_of(data.manifests[name]),
            kind=kind_of(data.manifests[name]),
            reduced=(data.manifests[name].get("index") or {}).get("vectors") in ("binary", "binary-rescored"),
            manifest=data.manifests[name],
            file=data.files[name],
            number=number + place,
        )
        for place, name in enumerate(data.runs)
    )
    known = [manifest for manifest in data.manifests.values() if manifest]
    section = Section(
        name=data.name,
        language=_language(known),
        passages=next(((manifest.get("corpus") or {}).get("passages") for manifest in known), None),
        queries=len(data.qrels),
        results=results,
        failures=tuple(_failures(data, baseline, system, values, worst)),
        found_nothing=int((values[system] == 0).sum()) if system in values else 0,
        depth=max(len(hits) for run in data.runs.values() for hits in run.values()),
        warnings=tuple(disagreements({name: manifest or None for name, manifest in data.manifests.items()})),
    )
    return section, values


def _language(manifests: Sequence[Manifest]) -> str:
    """The language of most passages; of a mixture their number."""
    counts = Counter[str](next(((m.get("index") or {}).get("languages") or {} for m in manifests), {}))
    if not counts:
        return ""
    most, number = counts.most_common(1)[0]
    return most if 2 * number > counts.total() else f"{len(counts)} languages"


def kind_of(manifest: Manifest) -> str:
    """`bm25`, `dense`, `hybrid`, `two-stage`, `cascade`, or `other` for a run whose making is not known."""
    rerankers = manifest.get("rerankers") or []
    return "cascade" if len(rerankers) > 1 else "two-stage" if rerankers else str(manifest.get("first") or "other")


def cost_of(manifest: Manifest) -> Cost | None:
    """Of a run whose manifest says how long its searches took."""
    measured = manifest.get("measured")
    if not measured:
        return None
    passages, sizes, first = max(1, manifest["corpus"]["passages"]), measured["index_bytes"], manifest["first"]
    parts = {"bm25": ("terms",), "dense": ("vectors",), "none": ("passages",)}.get(first, ("terms", "vectors"))
    return Cost(
        stages={name.removesuffix("_ms"): (each["p50"], each["p99"]) for name, each in measured["stages"].items()},
        peak_mb=measured["peak_mb"],
        searched_bytes=sum(sizes[part] for part in parts) / passages,
        index_bytes=sum(sizes.values()) / passages,
        how=f"{measured['how']}, {measured['threads']} threads, {measured['kernels']}",
    )


def _failures(data: Judged, baseline: str, system: str, values: Mapping[str, Differences], worst: int) -> Iterable[Failure]:
    """The queries that the system loses most on, then those for which it finds nothing."""
    if system not in data.runs:
        return []
    base = baseline if baseline in data.runs else system
    ids = list(data.qrels)
    lost = sorted(range(len(ids)), key=lambda i: (values[system][i] - values[base][i], ids[i]))
    chosen = [i for i in lost if values[system][i] < values[base][i]][:worst]
    chosen += [i for i in range(len(ids)) if values[system][i] == 0 and i not in chosen][:worst]
    places = [{i: _places(data.runs[name], ids[i]) for i in chosen} for name in (system, base)]
    pairs = {i: _decisive(data.qrels[ids[i]], places[0][i]) for i in chosen}
    texts = find_passages(data.corpus, {passage for pair in pairs.values() for passage in pair if passage})

    def shown(i: int, passage: str) -> Shown:
        text = texts[passage].content if passage in texts else ""
        return Shown(passage, text, places[0][i].get(passage), places[1][i].get(passage))

    return [
        Failure(
            query_id=ids[i],
            query=data.queries.get(ids[i], ""),
            value=float(values[system][i]),
            base_value=float(values[base][i]),
            relevant=shown(i, relevant),
            instead=None if instead is None else shown(i, instead),
        )
        for i, (relevant, instead) in pairs.items()
        if relevant is not None
    ]


def _places(run: Run, query_id: str) -> dict[str, int]:
    return {passage: place for place, (passage, _) in enumerate(run.ranked(query_id), 1)}


def _decisive(judged: Mapping[str, int], places: Mapping[str, int]) -> tuple[str | None, str | None]:
    """The relevant passage that stands highest, and the passage that stands first if that is not relevant."""
    relevant = [passage for passage, judgement in judged.items() if judgement > 0]
    best = min(relevant, key=lambda passage: (places.get(passage, len(places) + 1), passage), default=None)
    first = next(iter(places), None)
    return best, None if first is None or judged.get(first, 0) > 0 else first


def find_passages(source: str | None, wanted: set[str]) -> dict[str, Passage]:
    """The wanted passages of an index, or of whatever `read_passages` reads; none without a source."""
    if source is None or not wanted:
        return {}
    try:
        index = Index.open(source)
    except (BadInput, IndexFormatError):
        return {passage.id: passage for passage in read_passages(source) if passage.id in wanted}
    with index:
        return {passage.id: passage for passage in index.passages() if passage.id in wanted}


# --- all collections --------------------------------------------------------------------------------------------------


def _overviews(
    sections: Sequence[Section], values: Mapping[str, Mapping[str, Differences]], systems: Sequence[str], baseline: str
) -> Iterator[Overview]:
    everywhere = [name for name in systems if all(section.of(name) is not None for section in sections)]
    shared = [section for section in sections if len(section.results) == len(systems)]
    if everywhere:
        yield _overview(sections, values, everywhere, baseline, whole=True)
    if len(everywhere) < len(systems) and shared:
        yield _overview(shared, values, systems, baseline, whole=False)


def _overview(
    sections: Sequence[Section],
    values: Mapping[str, Mapping[str, Differences]],
    systems: Sequence[str],
    baseline: str,
    *,
    whole: bool,
) -> Overview:
    of = {name: [values[section.name][name] for section in sections] for name in systems}
    others = [name for name in systems if name != baseline and baseline in systems]
    gains = {name: [one - base for one, base in zip(of[name], of[baseline], strict=True)] for name in others}
    draw = partial(np.random.default_rng, 0)
    p_values = dict(zip(gains, holm([stratified_test(each, SAMPLES, draw()) for each in gains.values()]), strict=True))
    results = {name: [result for section in sections if (result := section.of(name)) is not None] for name in systems}
    means = (
        Mean(
            system=name,
            value=float(np.mean([each.mean() for each in of[name]])),
            interval=stratified_interval(of[name], SAMPLES, draw()),
            gain=float(np.mean([gain.mean() for gain in gains[name]])) if name in gains else None,
            gain_interval=stratified_interval(gains[name], SAMPLES, draw()) if name in gains else None,
            p_value=p_values.get(name),
            cost=_mean_cost([result.cost for result in results[name]]),
            kind=results[name][0].kind,
            reduced=results[name][0].reduced,
        )
        for name in systems
    )
    return Overview(tuple(section.name for section in sections), tuple(means), whole)


def _mean_cost(costs: Sequence[Cost | None]) -> Cost | None:
    """The mean over collections of each figure; None if one is not known."""
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    stages = dict.fromkeys(stage for cost in known for stage in cost.stages if stage != "total")

    def mean(stage: str) -> Interval:
        p50, p99 = np.mean([cost.stages.get(stage, (0.0, 0.0)) for cost in known], axis=0).tolist()
        return p50, p99

    return Cost(
        stages={stage: mean(stage) for stage in (*stages, "total")},
        peak_mb=float(np.mean([cost.peak_mb for cost in known])),
        searched_bytes=float(np.mean([cost.searched_bytes for cost in known])),
        index_bytes=float(np.mean([cost.index_bytes for cost in known])),
        how="; ".join(dict.fromkeys(cost.how for cost in known)),
    )


def _batch(collections: Sequence[Judged], system: str) -> Batch | None:
    """What the system's reranker reads for the first query whose texts are known; None without a reranker or its model."""
    for data in collections:
        manifest = data.manifests.get(system) or {}
        rerankers = manifest.get("rerankers") or []
        query_id = next((query_id for query_id in data.qrels if data.queries.get(query_id)), None)
        if not rerankers or query_id is None:
            continue
        ids = list(_places(data.runs[system], query_id))[:BATCH_ROWS]
        texts = find_passages(data.corpus, set(ids))
        try:
            reranker = Reranker.load((manifest.get("files") or {}).get("reranker") or rerankers[-1]["name"])
        except (ModelError, BadInput):
            return None
        if texts and reranker.fingerprint == rerankers[-1]["fingerprint"]:
            inputs = reranker.prepare_batch(data.queries[query_id], [texts[i].content for i in ids if i in texts])
            return Batch(reranker.name, data.queries[query_id], inputs)
    return None
