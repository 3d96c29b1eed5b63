"""Figures that are kept with the code, and measured again.

A condition is a system over questions of one split of a collection. EXPECTED.tsv, a table that people read and git compares,
has its figures and how far from them counts as the same; PUBLISHED.tsv has what others measured on the same data.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

from shortlist import measures
from shortlist.data import Collection, read_collection, read_manifest, read_miracl, read_run, write_run
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.index import Index
from shortlist.models.files import replace_file
from shortlist.mteb_adapter import C_MTEB_RETRIEVAL
from shortlist.pipeline import FirstStage, Pipeline
from shortlist.provenance import differing, run_manifest
from shortlist.reranker import Reranker
from shortlist.types import Qrels, Run

MEASURES = ("nDCG@10", "R@100")
SYSTEMS: Mapping[str, FirstStage] = MappingProxyType(
    {"bm25": "bm25", "dense": "dense", "hybrid": "hybrid", "two-stage": "hybrid"}
)
"""System -> its first stage; two-stage also has the reranker read that stage's best 32."""
MIRACL_LANGUAGES = tuple("ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh".split())
ENCODER, RERANKER = "shortlist-embed", "shortlist-rerank-L-6"

_COLUMNS = ("collection", "split", "language", "questions", "system", "models", *MEASURES, "tolerance")
_PUBLISHED_COLUMNS = ("collection", "split", "system", "beside", *MEASURES, "source")
_DEPTH = 100
_ONE_PLACE = 1 - 1 / math.log2(3)  # what nDCG loses when a question's only answer falls from the first place to the second

Progress = Callable[[int, int | None], None]
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Condition:
    """What is run, and what is expected of it.

    questions  at most so many judged questions, evenly spaced in the order of their ids; 0 = all
    models     names of encoder and reranker with " + " between; "" for BM25
    expected   measure -> value; empty where none was recorded
    tolerance  largest difference from a value that counts as the same
    """

    collection: str
    split: str
    language: str
    questions: int
    system: str
    models: str
    expected: Figures = field(default_factory=lambda: MappingProxyType({}), compare=False)
    tolerance: float = field(default=0.0, compare=False)

    @property
    def command(self) -> str:
        """What measures it again."""
        return f"shortlist reproduce {self.collection} --systems {self.system}"


@dataclass(frozen=True)
class Published:
    """A figure of others on the same data; `beside` is our system that is most like theirs, "" if none is."""

    collection: str
    split: str
    system: str
    beside: str
    values: Figures
    source: str


@dataclass(frozen=True)
class Outcome:
    """What a condition gave, over how many questions."""

    condition: Condition
    found: Figures
    questions: int

    @property
    def within(self) -> bool | None:
        """Whether all expected values were met; None if there are none."""
        expected = self.condition.expected
        if not expected:
            return None
        return all(abs(self.found[name] - value) <= self.condition.tolerance + 5e-5 for name, value in expected.items())

    @property
    def recorded(self) -> Condition:
        """The condition with what was found as expected, to four decimals."""
        values = {name: round(value, 4) for name, value in self.found.items()}
        return replace(self.condition, expected=values, tolerance=tolerance(self.condition.system, self.questions))


def tolerance(system: str, questions: int) -> float:
    """How much a figure may differ on another machine.

    BM25 adds up the same numbers everywhere: 0.0005. Vectors and scores differ in their last bits between instruction sets, so
    that near ties may turn round: as much as two questions whose only answer falls from the first place to the second.
    """
    return 0.0005 if system == "bm25" else round(max(0.002, 2 * _ONE_PLACE / questions), 4)


# --- tables -----------------------------------------------------------------------------------------------------------


def read_expected(path: Path) -> list[Condition]:
    """The conditions of a table; a row without values has none expected. Raises BadInput for a row that cannot be read."""
    return [
        Condition(
            row["collection"],
            row["split"],
            row["language"],
            int(_number(row["questions"], where)),
            _known_system(row["system"], where),
            row["models"],
            _figures(row, where),
            _number(row["tolerance"] or "0", where),
        )
        for where, row in _table(path, _COLUMNS)
    ]


def write_expected(path: Path, conditions: Iterable[Condition]) -> None:
    """Write the table, which appears whole or not at all, its rows in order of collection and system."""
    order = {system: place for place, system in enumerate(SYSTEMS)}
    rows = sorted(conditions, key=lambda c: (c.collection, c.split, order[c.system], c.models, c.questions))
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(_COLUMNS)
    for c in rows:
        values = [f"{c.expected[name]:.4f}" if name in c.expected else "" for name in MEASURES]
        allowed = f"{c.tolerance:.4f}" if c.expected else ""
        table.writerow([c.collection, c.split, c.language, c.questions, c.system, c.models, *values, allowed])
    replace_file(path, text.getvalue().encode())


def read_published(path: Path) -> list[Published]:
    """The figures of others. Raises BadInput for a row that cannot be read."""
    return [
        Published(row["collection"], row["split"], row["system"], row["beside"], _figures(row, where), row["source"])
        for where, row in _table(path, _PUBLISHED_COLUMNS)
    ]


def _table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    if not path.is_file():
        raise BadInput(f"{path}: no such table. Run this in a checkout, or name the folder that holds it with --expected.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", restval="")
        if tuple(rows.fieldnames or ()) != tuple(columns):
            raise BadInput(f"{path}: expected the columns {', '.join(columns)}; found {', '.join(rows.fieldnames or ())}.")
        for row in rows:
            yield f"{path}:{rows.line_num}", row


def _figures(row: Mapping[str, str], where: str) -> Figures:
    return MappingProxyType({name: _number(row[name], where) for name in MEASURES if row[name]})


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{where}: {text!r} is no number. Correct the row.") from None


def _known_system(name: str, where: str) -> str:
    if name not in SYSTEMS:
        raise BadInput(f"{where}: {name!r} is no system. Expected one of {', '.join(SYSTEMS)}.")
    return name


# --- what to run ------------------------------------------------------------------------------------------------------


def benchmark(name: str, parts: Sequence[str]) -> list[str]:
    """The collections of a benchmark: `miracl` with languages, `cmteb` with tasks, all of them if none is named.

    Any other name is a collection by itself. Raises BadInput for an unknown language or task.
    """
    known = {"miracl": MIRACL_LANGUAGES, "cmteb": C_MTEB_RETRIEVAL}.get(name)
    if known is None:
        return [name]
    for part in parts:
        if part not in known:
            raise BadInput(f"{name} has no {part!r}. Expected of {', '.join(known)}.")
    chosen = [part for part in known if not parts or part in parts]
    return [f"miracl-{part}" for part in chosen] if name == "miracl" else chosen


def wanted(
    expected: Sequence[Condition],
    names: Sequence[str],
    systems: Sequence[str],
    models: Mapping[str, str],
    questions: int | None = None,
) -> list[Condition]:
    """The conditions of these collections (all that are expected if none is named), systems and models.

    models     system -> the models that it runs with; of the expected conditions only those with the same are taken
    questions  at most so many instead of what is expected; then no value is
    A benchmark's part of which nothing is expected is run over all its questions. Raises BadInput for a collection that
    is neither expected nor a part of a benchmark.
    """
    found: list[Condition] = []
    for name in names or dict.fromkeys(condition.collection for condition in expected):
        known = [c for c in expected if c.collection == name and c.system in systems and c.models == models[c.system]]
        if not known:
            known = [
                Condition(name, split, language, 0, system, models[system])
                for split, language in [_split_of(name, expected)]
                for system in systems
            ]
        found += known
    if questions is None:
        return found
    cut = [replace(c, questions=questions, expected=MappingProxyType({}), tolerance=0.0) for c in found]
    return list(dict.fromkeys(cut))


def _split_of(name: str, expected: Sequence[Condition]) -> tuple[str, str]:
    """The split that is reported of a collection, and its language."""
    there = next((c for c in expected if c.collection == name), None)
    if there is not None:
        return there.split, there.language
    if name in C_MTEB_RETRIEVAL:
        return "dev", "zh"
    if name.removeprefix("miracl-") in MIRACL_LANGUAGES:
        return "dev", name.removeprefix("miracl-")
    known = ", ".join(dict.fromkeys(c.collection for c in expected)) or "none"
    raise BadInput(f"nothing is expected of a collection {name!r}. Known are miracl, cmteb and: {known}.")


def open_collection(folders: Sequence[Path], name: str, split: str) -> Collection:
    """The collection in a folder of its name below one of `folders`, or one of MIRACL's languages in its published layout.

    Raises BadInput if it is not there.
    """
    for folder in folders:
        if (folder / name).is_dir():
            return read_collection(folder / name, split)
    language = name.removeprefix("miracl-")
    if language != name:
        return read_miracl(folders[0], language, split)
    raise BadInput(f"{folders[0]}: no folder {name}. Name the folder that holds the collections with --corpus.")


def sampled(ids: Sequence[str], count: int) -> list[str]:
    """At most `count` ids, evenly spaced in their order; all for 0."""
    ordered = sorted(ids)
    return ordered if not count or len(ordered) <= count else [ordered[i * len(ordered) // count] for i in range(count)]


# --- running ----------------------------------------------------------------------------------------------------------


class Reproduction:
    """Measures conditions. Indexes and runs stay in their folders, so that what was interrupted goes on.

    A run that is there is taken if its manifest is the one that it would get now: same models, index, queries and settings.
    An index that is there is taken if the same encoder wrote it.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        indexes: Path,
        runs: Path,
        *,
        encoder: str = ENCODER,
        reranker: str = RERANKER,
        threads: int | None = None,
    ) -> None:
        """`folders` are where collections are looked for; `encoder` and `reranker` what `load` takes, loaded when needed."""
        self._folders, self._indexes, self._runs = list(folders), indexes, runs
        self._names, self._threads = (encoder, reranker), threads

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of dense, hybrid and two-stage."""
        return Encoder.load(self._names[0], threads=self._threads)

    @cached_property
    def reranker(self) -> Reranker:
        """The second stage."""
        return Reranker.load(self._names[1], threads=self._threads)

    def outcomes(self, conditions: Iterable[Condition], progress: Callable[[str, int, int | None], None]) -> Iterator[Outcome]:
        """Each condition's outcome, those of a collection one after the other. `progress(what, done, total or None)`."""
        for (name, split), group in groupby(conditions, key=lambda c: (c.collection, c.split)):
            data, members = open_collection(self._folders, name, split), list(group)
            with self._index(name, data, members, progress) as index:
                for condition in members:
                    yield self._outcome(condition, data, index, progress)

    def _index(self, name: str, data: Collection, conditions: Sequence[Condition], progress: Callable[..., None]) -> Index:
        """The collection's index, built if it is not there; without vectors if no condition needs them."""
        words_only = all(c.system == "bm25" for c in conditions)
        path = self._indexes / f"{name}.idx"
        if not words_only and self._names[0] != ENCODER:
            path = self._indexes / f"{name}.{Path(self._names[0]).name}.idx"
        elif words_only and not path.exists():
            path = self._indexes / f"{name}.bm25.idx"
        encoder = None if words_only else self.encoder
        if not path.exists():
            part = path.with_suffix(".part")
            with (
                Index.open(part, encoder=encoder, write=True) if part.exists() else Index.create(part, encoder=encoder) as index
            ):
                index.upsert(data.passages(), progress=lambda done, total: progress(f"{name}: indexing", done, total))
            part.rename(path)
        return Index.open(path, encoder=encoder)

    def _outcome(self, condition: Condition, data: Collection, index: Index, progress: Callable[..., None]) -> Outcome:
        chosen = sampled(list(data.qrels), condition.questions)
        queries = {query_id: data.queries[query_id] for query_id in chosen}
        run = self._run(condition, queries, index, progress)
        found = measures.evaluate(run, Qrels({query_id: data.qrels[query_id] for query_id in chosen}), MEASURES).mean
        return Outcome(condition, found, len(chosen))

    def _run(self, condition: Condition, queries: Mapping[str, str], index: Index, progress: Callable[..., None]) -> Run:
        """The run, from its file if that is the same, else searched and written."""
        search = Pipeline(index, self.reranker if condition.system == "two-stage" else None)
        first = SYSTEMS[condition.system]
        manifest = run_manifest(search, queries, k=_DEPTH, first=first, command=condition.command)
        models = "".join(f".{Path(model).name}" for model in condition.models.split(" + ") if model)
        asked = f".{condition.questions}" if condition.questions else ""
        path = self._runs / f"{condition.collection}-{condition.split}.{condition.system}{models}{asked}.trec"
        if path.is_file() and not differing(read_manifest(path) or {}, manifest):
            return read_run(path)
        label = f"{condition.collection}: {condition.system}"
        run = search.run(
            queries, k=_DEPTH, first=first, name=condition.system, progress=lambda done, total: progress(label, done, total)
        )
        write_run(run, path, manifest)
        return run
