"""The embedded store: an index in one directory.

    passages.sqlite   the truth (truth.py); its transaction is the commit
    vectors.i8 .b1    derived: rows of int8 and of bits for the scan (vectors.py)
    terms/seg-*       derived: posting segments (postings.py), merged geometrically
    columns/seg-*     derived: the values that filters look at (columns.py), merged likewise
    published         derived: how far the derived files reach; replaced as a whole, last of all
    lock              the writer's flock, with its pid and host

A commit goes through these in this order, each step durable before the next. A crash in between leaves derived files behind
the truth; the next opening for writing brings them up to it, and rebuilds what is missing, torn or foreign, by the same code.
Readers see what is published: one snapshot answers every first stage of a search.

A compaction writes the same files, without what was deleted, into a folder of the directory. The rename that names it
`compacted-<n>` is its commit: the newest such folder, if there is one, is the index (`home_of`), and the files before it go.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.analyze import Analyzer, analyzer
from shortlist.errors import BadInput, IndexFormatError, ShortlistError
from shortlist.filters import Mask, evaluate, terms_of, values_of
from shortlist.ranked import Ranked
from shortlist.stores.columns import (
    Columns,
    ColumnSegment,
    Field,
    fitting,
    gather,
    keep_columns,
    merge_columns,
    slots_with,
    summaries,
    write_columns,
)
from shortlist.stores.durable import REBUILD, WriterLock, explained, make_folders, replace_file, sync_folder
from shortlist.stores.postings import Bm25, Forms, Postings, Segment, invert, keep, light, merge, write_segment
from shortlist.stores.truth import FORMAT, NO_EFFORT, RESTORE, START, Effort, Point, Row, Truth
from shortlist.stores.vectors import Layout, Vectors, append_rows, candidates
from shortlist.text import clean
from shortlist.types import ByteArray, FloatArray, Json, Passage

_FANOUT = 4  # so many segments of one size class are merged into one
_MERGE_NOW = 4096  # slots; a merge that gives more is left to the background, so that adding one passage stays cheap
_REPLAY = 2000  # passages a step when derived files are brought up to the truth
_DEAD_SHARE, _DEAD_LEAST = 0.2, 1000  # of the slots are deleted: the background compacts
_FILTERS = 8  # whose slots a snapshot keeps
_FEW = 10  # a filter that leaves one slot in so many, or fewer, has its vectors gathered instead of scanning all

_log = logging.getLogger("shortlist")


@dataclass(frozen=True)
class Published:
    """How far the derived files reach: the content of the file `published`."""

    index: str
    point: Point = START
    languages: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()  # file names in terms/, in slot order
    columns: tuple[str, ...] = ()  # likewise in columns/; an index older than filters has none until it is written to
    rows: int = 0  # vectors
    sums: tuple[int, ...] = ()  # checksums of the blocks of vectors.i8
    bit_sums: tuple[int, ...] = ()  # and of vectors.b1
    live: int = -1  # passages that are not deleted; -1 where an older version has published

    def to_bytes(self) -> bytes:
        """One line of JSON and one with its CRC-32."""
        fields = {**vars(self), "point": [self.point.generation, self.point.slots], "format": 1}
        if not self.bit_sums:
            del fields["bit_sums"]  # as format 1 has it
        line = json.dumps(fields).encode()
        return b"%s\n%08x\n" % (line, zlib.crc32(line))

    @staticmethod
    def read(path: Path) -> Published:
        """Raises IndexFormatError if the file is missing or damaged."""
        try:
            line, _, check = path.read_bytes().partition(b"\n")
        except FileNotFoundError as error:
            raise IndexFormatError(f"{path}: the file is missing. {REBUILD}") from error
        if check != b"%08x\n" % zlib.crc32(line):
            raise IndexFormatError(f"{path}: the file is damaged (checksum). {REBUILD}")
        try:
            fields = json.loads(line)
            lists = {name: tuple(fields[name]) for name in ("languages", "segments", "sums")}
            for name in ("columns", "bit_sums"):
                lists[name] = tuple(fields.get(name, ()))
            return Published(
                index=fields["index"], point=Point(*fields["point"]), rows=fields["rows"], live=fields.get("live", -1), **lists
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IndexFormatError(f"{path}: of another format ({error}). {REBUILD}") from error


@dataclass(frozen=True)
class Layer:
    """A kind of derived file of which each describes a run of slots.

    open, write  the file
    merge, keep  its content out of files of adjacent runs, or out of some slots of one file
    make         its content out of rows
    """

    folder: str
    open: Callable[[Path, str], Any]
    write: Callable[[Path, str, int, Any], None]
    merge: Callable[[Any], Any]
    keep: Callable[[Any, ByteArray], Any]
    make: Callable[[Source, Sequence[Row]], Any]


@dataclass(frozen=True)
class Derived:
    """The opened files of one published state; `columns` is None while they do not cover all slots."""

    segments: list[Segment]
    columns: list[ColumnSegment] | None
    vectors: Vectors | None


@dataclass(frozen=True)
class Source:
    """Where an index stands: its folder (`home_of`) and the truth in there, and what derived files are made of."""

    home: Path
    truth: Truth

    @cached_property
    def layout(self) -> Layout:
        """How vectors are kept."""
        return Layout.of(self.truth.manifest)

    @cached_property
    def analyzer(self) -> Analyzer:
        """The analyzer that wrote the index."""
        return analyzer(self.truth.manifest["analyzer"])

    def fields(self, row: Row) -> set[bytes]:
        """What the columns hold of a passage. In formats without seals its id is left to SQLite, as older versions know it."""
        passage = row.passage
        return terms_of(row.analysed_as, passage.title, passage.meta, passage.id if self.truth.sealed else "")

    def postings(self, rows: Sequence[Row]) -> Postings:
        """The terms of rows: those of their content, and of titles until these count as often as the index was made to."""
        more = self.truth.manifest.get("title_weight", 1) - 1
        inversion = self.analyzer.inversion()
        for row in rows:
            self.analyzer.count(row.passage.content, row.analysed_as, inversion)
            if more and row.passage.title:
                self.analyzer.count(row.passage.title, row.analysed_as, inversion, more)
            inversion.end()
        return Postings(*inversion.arrays())

    def columns(self, rows: Sequence[Row]) -> Columns:
        """The fields of rows as a file of their own has them."""
        return gather([self.fields(row) for row in rows])

    def vectors(self, slots: Sequence[int]) -> ByteArray:
        """The stored vectors of these slots."""
        return self.truth.vectors(slots, self.layout.size(self.layout.form))

    def rows(self, slots: Sequence[int]) -> list[Row]:
        """The passages of these slots with their vectors, as they were appended."""
        rows = self.truth.rows(slots)
        if not self.layout.dims:
            return rows
        return [replace(row, vector=vector) for row, vector in zip(rows, self.vectors(slots), strict=True)]


_TERMS = Layer("terms", Segment, write_segment, merge, keep, Source.postings)
_COLUMNS = Layer("columns", ColumnSegment, write_columns, merge_columns, keep_columns, Source.columns)


class Snapshot:
    """The index at one point: what is added or deleted later does not show. Safe to use from several threads."""

    def __init__(self, truth: Truth, published: Published, files: Derived, dead: ByteArray):
        self.truth, self.published, self.files, self.dead = truth, published, files, dead
        self.live = len(dead) - int(np.count_nonzero(dead))
        self._kept: OrderedDict[str, tuple[ByteArray, int]] = OrderedDict()  # filter -> what `_hidden` gave
        self._keeping = threading.Lock()

    def __len__(self) -> int:
        return self.live

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages in which the passages were analysed, "" for those of an unknown one."""
        return self.published.languages

    def bm25(self, query: Sequence[str | Forms], k: int, where: Mapping[str, Any] | None = None) -> Ranked:
        """The k best passages that hold a term, best first, ties by id. `postings.Bm25` has the formula.

        query   a list of terms, or of the forms that one word has in several languages (`Analyzer.query_forms`)
        where   a filter as `filters.checked` gives it. It says what may be returned and changes no score: N, df and average
                length stay those of all live passages
        """
        hidden = None if where is None else self._hidden(where)[0]
        slots, scores = self._terms.best(query, k, hidden)
        return Ranked(slots, scores, self.truth.ids, k)

    def dense(self, vector: FloatArray, k: int, where: Mapping[str, Any] | None = None) -> Ranked:
        """The k passages of largest inner product with float32[dims], best first, ties by id.

        A scan of every row, or of those that the filter leaves, finds candidates(k), which are scored again with the stored
        vectors; the modes are at `stores.vectors`. Raises BadInput if the index holds no vectors.
        """
        return self.dense_many(vector[None, :], k, where)[0]

    def dense_many(self, vectors: FloatArray, k: int, where: Mapping[str, Any] | None = None) -> list[Ranked]:
        """`dense` of float32[n, dims], one list a query; all share one pass through the rows."""
        rows = self.files.vectors
        if rows is None:
            raise BadInput("this index holds no vectors: it was created without an encoder.")
        hidden, shown = self._hidden(where)
        if shown * _FEW < len(hidden):
            found = rows.scan_some(vectors, np.flatnonzero(hidden == 0), candidates(k))
        else:
            found = rows.scan_many(vectors, hidden, candidates(k))
        lists = []
        for vector, (slots, _) in zip(vectors, found, strict=True):
            slots = np.sort(slots)  # neighbours on disk together
            stored = self.truth.vectors(slots.tolist(), rows.layout.size(rows.layout.form))
            lists.append(Ranked(slots, rows.layout.scores(stored, vector), self.truth.ids, k))
        return lists

    def light(self, query: Sequence[Forms], lang: str) -> frozenset[str]:
        """Those of a query's terms that tell little of a passage in this language; `query` is as for `bm25`, in forms.

        The rule is `postings.light`, over the live passages in it; over all if there are none, or no columns to tell them by.
        """
        terms = {form for word in query for form in word}
        if self.files.columns is not None:
            others, passages = self._hidden({"lang": {"eq": lang}})
            if passages:
                return light(query, self._terms.frequencies(terms, others), passages)
        return light(query, self._terms.frequencies(terms), self.live)

    def get(self, ids: Sequence[str]) -> dict[str, Passage]:
        """The passages of these ids, without those that are not in the index."""
        found = self._read(self.truth.find(ids), ids)
        missing = [name for name in ids if name not in found]
        return found | self._read(self.slots_of(missing), missing) if missing and self.truth.sealed else found

    def at(self, slots: Sequence[int]) -> list[Passage]:
        """The passages of these slots, in the same order. Raises IndexFormatError if one is missing or damaged."""
        return [row.passage for row in self.truth.rows(slots)]

    def _read(self, slots: Sequence[int], ids: Sequence[str]) -> dict[str, Passage]:
        """The live passages in these slots that have one of the ids."""
        wanted = set(ids)
        passages = (row.passage for row in self.truth.rows(self._living(slots)))
        return {passage.id: passage for passage in passages if passage.id in wanted}

    def _living(self, slots: Sequence[int]) -> list[int]:
        return [slot for slot in slots if slot < len(self.dead) and not self.dead[slot]]

    def slots_of(self, ids: Sequence[str]) -> list[int]:
        """The slots of those of `ids` that live here, in no order. They are certain, and so is the absence of others."""
        if not self.truth.sealed:
            return self._living(self.truth.find(ids))
        return self._living(slots_with(self._columns, "id", list(dict.fromkeys(ids))))

    def passages(self, where: Mapping[str, Any] | None = None, page: int = 1000) -> Iterator[Passage]:
        """All passages, or those that fit a filter, in the order in which they came; `page` are read at a time."""
        slots = self.slots(where)
        for start in range(0, len(slots), page):
            yield from self.at(slots[start : start + page].tolist())

    def slots(self, where: Mapping[str, Any] | None = None) -> npt.NDArray[np.int64]:
        """The slots of the live passages, or of those of them that fit a filter, ascending."""
        return np.flatnonzero(self._hidden(where)[0] == 0)

    def fields(self, most: int) -> dict[str, Field]:
        """Field -> what the live passages have in it; `columns.summaries`. Empty for an index that knew no filters."""
        return summaries(self.files.columns or (), self.dead, most)

    def _hidden(self, where: Mapping[str, Any] | None) -> tuple[ByteArray, int]:
        """uint8[slots], 1 for what is deleted or does not fit the filter, and how many are 0."""
        if where is None:
            return self.dead, self.live
        key = json.dumps(where)
        with self._keeping:
            if key not in self._kept:
                hidden = (self.dead != 0) | ~evaluate(where, self._fitting)
                self._kept[key] = hidden.view(np.uint8), len(hidden) - int(np.count_nonzero(hidden))
            self._kept.move_to_end(key)
            while len(self._kept) > _FILTERS:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _fitting(self, field: str, condition: Mapping[str, Any]) -> Mask:
        if field == "id":
            _check_ids(condition)
            if not self.truth.sealed:
                return self._matching(condition)
        return fitting(self._columns, field, condition)

    @property
    def _columns(self) -> list[ColumnSegment]:
        if self.files.columns is None:
            raise BadInput(
                "this index was last written by a version of shortlist that knew no filters. Open it for writing once, "
                "Index.open(path, write=True), and what they need is added."
            )
        return self.files.columns

    def _matching(self, condition: Mapping[str, Any]) -> Mask:
        """The slots whose ids fit, where the columns have no ids."""
        mask = np.zeros(len(self.dead), dtype=bool)
        slots = np.array(self.truth.matching(condition), dtype=np.int64)
        mask[slots[slots < len(mask)]] = True
        return mask

    @cached_property
    def _terms(self) -> Bm25:
        return Bm25(self.files.segments, self.dead, self.truth.manifest["k1"], self.truth.manifest["b"])


def _check_ids(condition: Mapping[str, Any]) -> None:
    for value in values_of(condition):
        if not isinstance(value, str):
            raise BadInput(f"the filter compares the field 'id' with {value!r}, but ids are strings. Put it in quotes.")
        clean(value, "an id in the filter")


class EmbeddedStore:
    """An index directory, open for reading or, by one process at a time, for writing."""

    def __init__(self, path: Path, *, write: bool = False) -> None:
        """Open. Raises BadInput (no such path), IndexFormatError (no index, damaged, newer), IndexLocked (write)."""
        with explained(path):
            refuse_foreign(path)
            self._lock = WriterLock(path / "lock") if write else None
        self.path = path
        self._writing = threading.Lock()  # between the threads of this process
        self._tidying = threading.RLock()  # one merge or compaction at a time
        self._tidier: threading.Thread | None = None
        self._tidies = True  # until that fails
        self._settled: Path | None = None  # the folder beside which nothing old is left
        self._drafts: set[str] = set()  # files that the background is writing
        self._current: tuple[object, Snapshot] | None = None  # the newest snapshot, and the state of `published` it is of
        try:
            with explained(path):
                self._source = opened(path, write)
            try:
                if write:
                    with explained(path):
                        self._published = self._recover()
                self.snapshot()
            except BaseException:
                self._truth.close()
                raise
        except BaseException:
            self._release()
            raise

    @staticmethod
    def create(path: Path, manifest: Mapping[str, Any]) -> EmbeddedStore:
        """Make an empty index, all or nothing, and open it for writing. Raises BadInput if there is something at `path`."""
        with drafted(path) as draft:
            make_empty(draft, {**manifest, "format": FORMAT, "index": uuid.uuid4().hex})
        return EmbeddedStore(path, write=True)

    @property
    def manifest(self) -> dict[str, Any]:
        """What was decided when the index was created: format, analyzer, encoder, k1, b, title_weight."""
        return dict(self._truth.manifest)

    def keep(self, key: str, value: Json) -> None:
        """Write an entry of the manifest, durably. Raises BadInput if the index is open for reading."""
        self.refuse_reader()
        with self._writing, explained(self.path):
            self._truth.keep(key, value)

    @property
    def analyzer(self) -> Analyzer:
        """The analyzer that wrote the index."""
        return self._source.analyzer

    @property
    def layout(self) -> Layout:
        """How vectors are kept."""
        return self._source.layout

    def postings(self, rows: Sequence[Row]) -> Postings:
        """The terms of rows, for `append`."""
        return self._source.postings(rows)

    @property
    def dims(self) -> int:
        """Length of the vectors, 0 for an index without."""
        return self.layout.dims

    @property
    def home(self) -> Path:
        """The folder that the files lie in: `path`, or the one that the last compaction has made in it."""
        return self._source.home

    @property
    def _truth(self) -> Truth:
        return self._source.truth

    def close(self) -> None:
        """Close the files and give back the right to write; a merge or compaction in the background is waited for."""
        if self._tidier is not None:
            self._tidier.join()
        self._truth.close()
        self._current = None
        self._release()

    def snapshot(self) -> Snapshot:
        """The newest published state. Cheap when nothing was published since the last call."""
        with explained(self.path):
            return self._newest()

    def _newest(self) -> Snapshot:
        while True:
            source, current = self._source, self._current
            path = source.home / "published"
            mark = _identity(path)
            if current is not None and mark == current[0] and current[1].truth is source.truth:
                return current[1]
            if mark is None and self._follow(source):
                continue
            try:
                snapshot = self._load(source, Published.read(path), current[1] if current else None)
            except IndexFormatError:
                if _identity(path) == mark:
                    raise
                continue  # a writer has just replaced the files of that state: take the new one
            self._current = mark, snapshot
            return snapshot

    def _follow(self, source: Source) -> bool:
        """Go where a compaction has moved the index; False if it has not moved. Snapshots of before keep their files."""
        if self._lock is not None or home_of(self.path) == source.home:
            return self._source is not source
        self._source = opened(self.path, False)
        return True

    def committed_at(self) -> float:
        """When the newest snapshot was published, in seconds since 1970."""
        self.snapshot()  # follows a compaction
        with explained(self.path):
            return (self.home / "published").stat().st_mtime

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that the index holds, as the writer sees it."""
        with self._writing, explained(self.path):
            self._catch_up()
            return set(self._truth.ids(self.snapshot().slots_of(ids)))

    def refuse_reader(self) -> None:
        """Raises BadInput if the index is not open for writing."""
        if self._lock is None:
            raise BadInput(f"{self.path} is not open for writing. Open it with Index.open(path, write=True) to change it.")

    def effort(self) -> Effort:
        """What all passages ever added have cost."""
        return self._truth.state().effort

    def language_counts(self) -> dict[str, int]:
        """How many passages were analysed in each language, as the writer sees it."""
        return dict(self._truth.state().languages)

    def sizes(self) -> dict[str, int]:
        """Bytes on disk of each part."""
        files = {"passages": "passages.sqlite*", "terms": "terms/*", "columns": "columns/*", "vectors": "vectors.*"}
        return {part: sum(map(_size, self.home.glob(name))) for part, name in files.items()}

    def append(
        self,
        rows: Sequence[Row],
        postings: Postings,
        effort: Effort = NO_EFFORT,
        *,
        replacing: bool = False,
    ) -> None:
        """Commit passages with ids that the index does not hold, all or none; durable when it returns.

        postings   their terms (`postings`)
        effort     what it took to make these rows and postings
        replacing  passages that the index holds under these ids are deleted by the same commit
        """
        self.refuse_reader()
        with self._writing, explained(self.path):
            self._catch_up()
            replaced = self.snapshot().slots_of([row.passage.id for row in rows]) if replacing else []
            point = self._truth.append(rows, effort, replaced=replaced)
            state = self._extend(_TERMS, self._published, point.slots, lambda: postings)
            state = self._extend(_COLUMNS, state, point.slots, lambda: self._source.columns(rows))
            state = self._extend_vectors(state, point.slots, [row.vector for row in rows if row.vector is not None])
            self._publish(replace(state, point=point))
            self._tidy_later()

    def delete(self, ids: Sequence[str]) -> None:
        """Delete passages, all or none; durable when it returns. Raises BadInput naming an id that is not in the index."""
        self.refuse_reader()
        with self._writing, explained(self.path):
            self._catch_up()
            slots = self.snapshot().slots_of(ids)
            if missing := set(ids) - set(self._truth.ids(slots)):
                raise BadInput(f"no passage with the id {min(missing)!r} is in the index; nothing was deleted.")
            self._publish(replace(self._published, point=self._truth.delete(slots)))
            self._tidy_later()

    def delete_where(self, where: Mapping[str, Any]) -> int:
        """Delete the passages that fit a checked filter, all or none; returns how many. Durable when it returns."""
        self.refuse_reader()
        with self._writing, explained(self.path):
            self._catch_up()
            slots = self.snapshot().slots(where).tolist()
            if slots:
                self._publish(replace(self._published, point=self._truth.delete(slots)))
                self._tidy_later()
        return len(slots)

    # --- merging and compaction

    def compact(self) -> int:
        """Write the index anew without what was deleted, and give the space back; returns how many deleted passages that were.

        Passages are copied while others are added; what was committed meanwhile is brought over at the end. Readers go on
        with the old files until their next search, and snapshots for as long as they live. What is written is of the newest
        format: an older index becomes one by it, even if nothing was deleted.
        """
        self.refuse_reader()
        with self._tidying, explained(self.path):
            with self._writing:
                self._catch_up()
            state = self._truth.state()
            dead = state.point.slots - state.live
            if dead or self.manifest["format"] < FORMAT:
                self._compact()
            while self._merge_behind():
                pass
        return dead

    def _compact(self) -> None:
        folder = self.path / "compacting"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            make_empty(folder, {**self.manifest, "format": FORMAT})
            draft = EmbeddedStore(folder, write=True)
            draft._tidies = False
            try:
                draft.append([], invert([]), self.effort())
                at = START
                while (now := self._newest()).published.point.slots - at.slots > _REPLAY:
                    self._copy_to(draft, at, now)
                    at = now.published.point
                with self._writing:
                    self._catch_up()
                    self._copy_to(draft, at, self._newest())
                    draft.close()
                    self._move_to(folder)
            finally:
                draft.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _copy_to(self, draft: EmbeddedStore, since: Point, now: Snapshot) -> None:
        """Bring a copy of what lived at the point `since` to that of `now`: rows by the truth, all else by derived files."""
        gone = self._truth.tombstones(since.generation, now.published.point.generation)
        if copied := gone[gone < since.slots].tolist():
            draft.delete(self._truth.ids(copied))
        kept = now.dead == 0
        kept[: since.slots] = False
        living = np.flatnonzero(kept).tolist()
        for start in range(0, len(living), _REPLAY):
            draft._truth.append(self._source.rows(living[start : start + _REPLAY]))
        draft._take_over(_TERMS, now.files.segments, kept)
        if self._truth.sealed:  # else the columns lack the ids
            draft._take_over(_COLUMNS, now.files.columns or (), kept)
        draft._catch_up()

    def _take_over(self, layer: Layer, files: Sequence[Any], kept: Mask) -> None:
        """Cover slots that the truth has already by what another index's files say of those that it keeps, bool[slots].

        A file that is damaged is left out, and its slots get what the passages give.
        """
        for file in files:
            mask = kept[file.first : file.first + file.count]
            if not mask.any():
                continue
            stop = _covered(_names(layer, self._published)) + int(np.count_nonzero(mask))
            try:
                file.verify()
                self._published = self._extend(layer, self._published, stop, partial(layer.keep, file, mask.view(np.uint8)))
            except IndexFormatError as error:
                _log.warning("%s Its part of the copy is made from the passages.", error)
                self._replay(layer, stop)

    def _move_to(self, folder: Path) -> None:
        """Make the closed copy in `folder` the index."""
        take_place(self.path, self.home, folder)
        self._settle()

    def _settle(self) -> None:
        """Go on where the last compaction has put the index, and remove what was before.

        Each write begins with it: should a step of it have failed, nothing is written to files that are no longer the index.
        """
        home = home_of(self.path)
        if home != self.home:
            sync_folder(self.path)
            source = Source(home, Truth(home / "passages.sqlite", write=True))
            self._published = Published.read(home / "published")
            self._source = source
        if home != self._settled:
            remove_all_but(self.path, home)
            self._settled = home

    def _tidy_later(self) -> None:
        """Start merging or compacting in the background, if there is anything to do and nobody is at it."""
        busy = self._tidier is not None and self._tidier.is_alive()
        if busy or not self._tidies or not (self._overdue() or self._wasteful()):
            return
        self._tidier = threading.Thread(target=self._tidy, name="shortlist-tidy", daemon=True)
        self._tidier.start()

    def _tidy(self) -> None:
        try:
            if self._wasteful():
                self.compact()
            while self._merge_behind():
                pass
        except (ShortlistError, OSError) as error:  # nothing is lost; the next writer tries again
            self._tidies = False
            _log.warning("%s: tidying up in the background: %s", self.path, error)

    def _overdue(self) -> tuple[Layer, tuple[str, ...]] | None:
        """Files that are to become one, and of which kind."""
        for layer in (_TERMS, _COLUMNS):
            names = _names(layer, self._published)
            for stop in range(len(names), 0, -1):
                if group := _mergeable(names[:stop]):
                    return layer, names[stop - group : stop]
        return None

    def _wasteful(self) -> bool:
        """Whether so many passages are deleted that a compaction pays."""
        slots = self._published.point.slots
        return slots - self._published.live > max(_DEAD_LEAST, _DEAD_SHARE * slots)

    def _merge_behind(self) -> bool:
        """Merge the files that are overdue while others are added, then publish the result; False if there are none."""
        with self._tidying, explained(self.path):
            with self._writing:
                self._catch_up()
                overdue = self._overdue()
            if overdue is None:
                return False
            layer, group = overdue
            whole = _joined(group)
            self._drafts.add(whole)
            try:
                self._merge(layer, group, whole)
                with self._writing:
                    self._catch_up()
                    names = _names(layer, self._published)
                    at = names.index(group[0])
                    self._publish(_with_names(self._published, layer, (*names[:at], whole, *names[at + len(group) :])))
            finally:
                self._drafts.discard(whole)
            return True

    def _merge(self, layer: Layer, group: Sequence[str], whole: str) -> None:
        folder, index = self.home / layer.folder, self._published.index
        segments = [layer.open(folder / name, index) for name in group]
        layer.write(folder / whole, index, segments[0].first, layer.merge(segments))

    # --- bringing the derived files up to the truth

    def _recover(self) -> Published:
        index = self._truth.manifest["index"]
        published = Published(index)
        with contextlib.suppress(IndexFormatError):
            published = Published.read(self.home / "published")
        if published.index != index:
            published = Published(index)
        _refuse_loss(self.home, self._truth.point(), published)
        published = self._keep_sound(published)
        for layer in (_TERMS, _COLUMNS):
            make_folders(self.home / layer.folder)
        self._published = published
        self._add_bounds()
        self._catch_up()
        self._sweep()
        return self._published

    def _keep_sound(self, published: Published) -> Published:
        """What remains of the published state when damaged files are left out."""
        sound = published
        try:
            for segment in self._open_run(self.home, _TERMS, published, {}):
                segment.verify()
        except IndexFormatError:
            sound = replace(sound, segments=(), point=START)
        try:
            for column in self._open_run(self.home, _COLUMNS, published, {}):
                column.verify()
        except IndexFormatError:
            sound = replace(sound, columns=(), point=START)
        try:
            if self.dims:
                self._open_vectors(self.home, published).verify()
        except IndexFormatError:
            for form in self.layout.files:
                (self.home / f"vectors.{form}").unlink(missing_ok=True)  # readers keep the file that they have mapped
            sound = replace(sound, rows=0, sums=(), bit_sums=(), point=START)
        return sound

    def _add_bounds(self) -> None:
        """Write segments of older versions again, with what search needs to skip postings."""
        for name in self._published.segments:
            segment = Segment(self.home / "terms" / name, self._published.index)
            if not segment.bounded:
                write_segment(segment.path, self._published.index, segment.first, merge([segment]))

    def _catch_up(self) -> None:
        self._settle()
        point = self._truth.point()
        if point == self._published.point and (self.home / "published").exists():
            return
        for layer in (_TERMS, _COLUMNS):
            self._replay(layer, point.slots)
        while self.dims and self._published.rows < point.slots:
            stop = min(self._published.rows + _REPLAY, point.slots)
            stored = self._source.vectors(range(self._published.rows, stop))
            self._published = self._extend_vectors(self._published, stop, stored)
        self._publish(replace(self._published, point=point))

    def _replay(self, layer: Layer, stop: int) -> None:
        """Cover the slots up to `stop` with what the truth's rows give."""
        while (covered := _covered(_names(layer, self._published))) < stop:
            end = min(covered + _REPLAY, stop)
            rows = self._truth.rows(range(covered, end))
            self._published = self._extend(layer, self._published, end, partial(layer.make, self._source, rows))

    def _extend(self, layer: Layer, state: Published, stop: int, content: Callable[[], Any]) -> Published:
        """Cover the slots up to `stop` with a file of `content`, and merge small files."""
        names = _names(layer, state)
        start = _covered(names)
        if start == stop:
            return state
        names = (*names, _segment_name(start, stop))
        layer.write(self.home / layer.folder / names[-1], state.index, start, content())
        while (group := _mergeable(names)) and stop - _span(names[-group])[0] <= _MERGE_NOW:
            whole = _joined(names[-group:])
            self._merge(layer, names[-group:], whole)
            names = (*names[:-group], whole)
        return _with_names(state, layer, names)

    def _extend_vectors(self, state: Published, stop: int, vectors: Sequence[npt.NDArray[Any]] | ByteArray) -> Published:
        if not self.dims or state.rows == stop:
            return state
        stored = np.stack(list(vectors)).view(np.uint8)
        sums = _sums(state)
        for form in self.layout.files:
            rows = self.layout.rows(stored, form)
            size = state.rows * self.layout.size(form)
            sums[form] = tuple(append_rows(self.home / f"vectors.{form}", size, list(sums[form]), rows))
        if state.rows == 0:
            sync_folder(self.home)
        return replace(state, rows=stop, sums=sums["i8"], bit_sums=sums["b1"])

    def _publish(self, state: Published) -> None:
        truth = self._truth.state()
        languages = tuple(sorted(lang for lang, live in truth.languages.items() if live > 0))
        state = replace(state, languages=languages, live=truth.live)
        replace_file(self.home / "published", [state.to_bytes()])
        self._published = state
        self._sweep()

    def _sweep(self) -> None:
        """Remove files that were merged, and what crashes left behind; readers keep the files that they have mapped."""
        for layer in (_TERMS, _COLUMNS):
            wanted = {*_names(layer, self._published), *self._drafts}
            for file in (self.home / layer.folder).iterdir():
                if file.name.removesuffix(".new") not in wanted:
                    file.unlink()

    # --- opening the derived files

    def _load(self, source: Source, published: Published, old: Snapshot | None) -> Snapshot:
        if published.index != source.truth.manifest["index"]:
            raise IndexFormatError(f"{source.home}: `published` belongs to another index. {REBUILD}")
        _refuse_loss(source.home, source.truth.point(), published)
        if old is not None and old.truth is not source.truth:
            old = None
        files = self._open_files(source.home, published, old.files if old else None)
        dead = np.zeros(published.point.slots, dtype=np.uint8)
        since = 0
        if old is not None and len(old.dead) <= len(dead):
            dead[: len(old.dead)] = old.dead
            since = old.published.point.generation
        gone = source.truth.tombstones(since, published.point.generation)
        dead[gone[gone < len(dead)]] = 1
        snapshot = Snapshot(source.truth, published, files, dead)
        if published.live not in (-1, len(snapshot)):
            raise IndexFormatError(
                f"{source.home}: {len(snapshot)} of {len(dead)} passages are not deleted, expected {published.live}: "
                f"passages.sqlite is damaged. {RESTORE}"
            )
        return snapshot

    def _open_files(self, home: Path, published: Published, old: Derived | None) -> Derived:
        vectors = self._open_vectors(home, published, old.vectors if old else None) if self.dims else None
        columns = None
        if _covered(published.columns) == published.point.slots:
            columns = self._open_run(home, _COLUMNS, published, _by_name(old.columns if old else None))
        return Derived(self._open_run(home, _TERMS, published, _by_name(old.segments if old else None)), columns, vectors)

    def _open_run(self, home: Path, layer: Layer, published: Published, known: Mapping[str, Any]) -> list[Any]:
        folder = home / layer.folder
        names = _names(layer, published)
        segments = [known.get(name) or layer.open(folder / name, published.index) for name in names]
        ends = [0, *(one.first + one.count for one in segments)]
        if [one.first for one in segments] != ends[:-1] or ends[-1] != published.point.slots:
            raise IndexFormatError(f"{folder}: the segments do not cover the passages 0 to {published.point.slots}. {REBUILD}")
        return segments

    def _open_vectors(self, home: Path, published: Published, before: Vectors | None = None) -> Vectors:
        if published.rows != published.point.slots:
            raise IndexFormatError(f"{home}: {published.rows} vectors for {published.point.slots} passages. {REBUILD}")
        return Vectors(home, published.rows, self.layout, _sums(published), before)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _refuse_loss(home: Path, now: Point, published: Published) -> None:
    """What was published had been committed. A truth that lacks it has lost its newest commits, which nobody may write over."""
    was = published.point
    if was.generation > now.generation or was.slots > now.slots:
        raise IndexFormatError(
            f"{home}: passages.sqlite stands at commit {now.generation}, but commit {was.generation} was published: the newest "
            f"commits are missing, because passages.sqlite-wal is damaged or is not there. {RESTORE}"
        )


@contextlib.contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` durably in the end, or vanishes with an error.

    Raises BadInput if there is something at `path`, and ShortlistError if the system refuses.
    """
    with explained(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise BadInput(f"{path} exists already and is not an empty folder. Give another path, or remove it first.")
        make_folders(path.parent)
        draft = path.with_name(f"{path.name}.new-{os.getpid()}")
        try:
            draft.mkdir()
            yield draft
            sync_folder(draft)
            draft.rename(path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _identity(path: Path) -> object:
    """Changes whenever the file is replaced; None while there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def home_of(path: Path) -> Path:
    """The folder that holds the files of the index at `path`: `path` itself, or what the newest compaction has made in it."""
    return max(path.glob("compacted-[0-9]*"), default=path)


def _compactions(home: Path) -> int:
    return int(home.name.partition("-")[2]) if home.name.startswith("compacted-") else 0


def make_empty(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The files of an empty index."""
    for layer in (_TERMS, _COLUMNS):
        (folder / layer.folder).mkdir()
    Truth.create(folder / "passages.sqlite", manifest)
    replace_file(folder / "published", [Published(manifest["index"]).to_bytes()])


def opened(path: Path, write: bool) -> Source:
    """The truth of the index at `path`, wherever a compaction moves it."""
    while True:
        home = home_of(path)
        try:
            return Source(home, Truth(home / "passages.sqlite", write=write))
        except ShortlistError:
            if home_of(path) == home:
                raise  # else a compaction has just moved the index


def take_place(path: Path, home: Path, folder: Path) -> None:
    """Make the complete index in `folder` the one at `path`, in place of that in `home`, which stays until `remove_all_but`."""
    (folder / "lock").unlink()
    sync_folder(folder)
    folder.rename(path / f"compacted-{_compactions(home) + 1:06d}")


def remove_all_but(path: Path, home: Path) -> None:
    """Remove what the index at `path` was before its last compaction, and drafts; whoever has the files open keeps them.

    `published` goes first: it is where readers notice.
    """
    sync_folder(path)
    for old in path.glob("compacted-[0-9]*"):
        if old != home:
            (old / "published").unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)
    if home != path:
        for name in ("published", "passages.sqlite", "passages.sqlite-wal", "passages.sqlite-shm", "vectors.i8", "vectors.b1"):
            (path / name).unlink(missing_ok=True)
        for layer in (_TERMS, _COLUMNS):
            shutil.rmtree(path / layer.folder, ignore_errors=True)
    shutil.rmtree(path / "compacting", ignore_errors=True)


def _size(file: Path) -> int:
    """Bytes of a file, 0 if a writer has just removed it."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def refuse_foreign(path: Path) -> None:
    """Raises BadInput or IndexFormatError where there is no index."""
    if not path.exists():
        raise BadInput(f"{path}: no such index. Create one with Index.create or `shortlist index`.")
    if not (home_of(path) / "passages.sqlite").is_file():
        raise IndexFormatError(f"{path} is not an index: it holds no passages.sqlite. Give the folder that Index.create made.")


def _sums(published: Published) -> dict[str, tuple[int, ...]]:
    """Checksums by the form of the vectors' file."""
    return {"i8": published.sums, "b1": published.bit_sums}


def _segment_name(start: int, stop: int) -> str:
    return f"seg-{start:012d}-{stop:012d}"


def _span(name: str) -> tuple[int, int]:
    _, start, stop = name.split("-")
    return int(start), int(stop)


def _covered(names: Sequence[str]) -> int:
    """Slots that adjacent files describe, by their names."""
    return _span(names[-1])[1] if names else 0


def _joined(names: Sequence[str]) -> str:
    return _segment_name(_span(names[0])[0], _span(names[-1])[1])


def _names(layer: Layer, published: Published) -> tuple[str, ...]:
    return published.segments if layer is _TERMS else published.columns


def _with_names(published: Published, layer: Layer, names: tuple[str, ...]) -> Published:
    return replace(published, segments=names) if layer is _TERMS else replace(published, columns=names)


def _by_name(segments: Sequence[Any] | None) -> dict[str, Any]:
    return {one.path.name: one for one in segments or ()}


def _mergeable(names: Sequence[str]) -> int:
    """How many segments at the end are to become one: _FANOUT or more of the last one's size class or below, else 0."""

    def size_class(name: str) -> int:
        start, stop = _span(name)
        return ((stop - start).bit_length() - 1) // (_FANOUT.bit_length() - 1)

    group = 0
    for name in reversed(names):
        if size_class(name) > size_class(names[-1]):
            break
        group += 1
    return group if group >= _FANOUT else 0
