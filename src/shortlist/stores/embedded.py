"""The embedded store: an index in one directory.

    passages.sqlite   the truth (truth.py); its transaction is the commit
    vectors.i8        derived: int8 rows for the scan (vectors.py)
    terms/seg-*       derived: posting segments (postings.py), merged geometrically
    published         derived: how far the derived files reach; replaced as a whole, last of all
    lock              the writer's flock, with its pid and host

A commit goes through these in this order, each step durable before the next. A crash in between leaves derived files behind
the truth; the next opening for writing brings them up to it, and rebuilds what is missing, torn or foreign, by the same code.
Readers see what is published: one snapshot answers every first stage of a search.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shortlist import _native
from shortlist.analyze import Analyzer, analyzer
from shortlist.errors import BadInput, IndexFormatError
from shortlist.quantize import HalfArray
from shortlist.stores.durable import REBUILD, WriterLock, disk_full_explained, replace_file, sync_folder
from shortlist.stores.postings import Segment, bm25, invert, merge, write_segment
from shortlist.stores.truth import FORMAT, NO_EFFORT, START, Effort, Point, Row, Truth
from shortlist.stores.vectors import Vectors, append_rows, candidates, rows_of, stride
from shortlist.types import ByteArray, FloatArray, Passage

_FANOUT = 4  # so many segments of one size class are merged into one
_REPLAY = 2000  # passages a step when derived files are brought up to the truth

Scored = tuple[str, float]


@dataclass(frozen=True)
class Published:
    """How far the derived files reach: the content of the file `published`."""

    index: str
    point: Point = START
    languages: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()  # file names, in slot order
    rows: int = 0  # vectors
    sums: tuple[int, ...] = ()  # checksums of the vectors' blocks

    def to_bytes(self) -> bytes:
        """One line of JSON and one with its CRC-32."""
        fields = {**vars(self), "point": [self.point.generation, self.point.slots], "format": FORMAT}
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
            return Published(index=fields["index"], point=Point(*fields["point"]), rows=fields["rows"], **lists)
        except (ValueError, KeyError, TypeError) as error:
            raise IndexFormatError(f"{path}: of another format ({error}). {REBUILD}") from error


class Snapshot:
    """The index at one point: what is added or deleted later does not show. Safe to use from several threads."""

    def __init__(self, truth: Truth, published: Published, segments: list[Segment], vectors: Vectors | None, dead: ByteArray):
        self._truth, self.published = truth, published
        self.segments, self.vectors, self.dead = segments, vectors, dead
        self.live = len(dead) - int(np.count_nonzero(dead))

    def __len__(self) -> int:
        return self.live

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages in which the passages were analysed, "" for those of an unknown one."""
        return self.published.languages

    def bm25(self, terms: Sequence[str], k: int) -> list[Scored]:
        """(id, score) of the k best passages that hold a term, best first, ties by id; the formula is at `postings.bm25`."""
        scores = bm25(self.segments, terms, self.dead, self._norms, self.live)
        slots, best = _native.top_k(scores, self.dead, k)
        return _ordered(self._truth.ids(slots), best, k)

    def dense(self, vector: FloatArray, k: int) -> list[Scored]:
        """(id, score) of the k passages of largest inner product with float32[dims], best first, ties by id.

        An exact scan of the int8 rows finds candidates(k), which are scored again with the float16 vectors. Raises
        BadInput if the index holds no vectors.
        """
        if self.vectors is None:
            raise BadInput("this index holds no vectors: it was created without an encoder.")
        slots, _ = self.vectors.scan(vector, self.dead, candidates(k))
        halves = self._truth.halves(slots.tolist(), self.vectors.dims)
        scores: FloatArray = (halves.astype(np.float32) * vector).sum(axis=1)
        return _ordered(self._truth.ids(slots), scores, k)

    def get(self, ids: Sequence[str]) -> dict[str, Passage]:
        """The passages of these ids, without those that are not in the index."""
        return self._truth.get(ids, self.published.point)

    def passages(self) -> Iterator[Passage]:
        """All passages, in the order in which they came."""
        return self._truth.passages(self.published.point)

    @cached_property
    def _norms(self) -> FloatArray:
        """float32[slots], k1 * (1 - b + b * len / avglen)."""
        k1, b = self._truth.manifest["k1"], self._truth.manifest["b"]
        lengths = np.concatenate([np.zeros(0, np.uint32), *(one.lengths for one in self.segments)])
        total = int(lengths[self.dead == 0].sum(dtype=np.int64))
        average = total / self.live if total else 1.0
        norms: FloatArray = (k1 * (1 - b + b * lengths / average)).astype(np.float32)
        return norms


def _ordered(ids: list[str], scores: FloatArray, k: int) -> list[Scored]:
    return sorted(zip(ids, scores.tolist(), strict=True), key=lambda hit: (-hit[1], hit[0]))[:k]


class EmbeddedStore:
    """An index directory, open for reading or, by one process at a time, for writing."""

    def __init__(self, path: Path, *, write: bool = False) -> None:
        """Open. Raises BadInput (no such path), IndexFormatError (no index, damaged, newer), IndexLocked (write)."""
        _refuse_foreign(path)
        self.path = path
        self._lock = WriterLock(path / "lock") if write else None
        self._writing = threading.Lock()  # between the threads of this process
        self._current: tuple[object, Snapshot] | None = None  # the newest snapshot, and the state of `published` it is of
        try:
            self._truth = Truth(path / "passages.sqlite", write=write)
            try:
                if write:
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
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise BadInput(f"{path} exists already and is not an empty folder. Give another path, or remove it first.")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.new-{os.getpid()}")
        try:
            (draft / "terms").mkdir(parents=True)
            with disk_full_explained(path):
                index = uuid.uuid4().hex
                Truth.create(draft / "passages.sqlite", {**manifest, "format": FORMAT, "index": index})
                replace_file(draft / "published", [Published(index).to_bytes()])
            draft.rename(path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return EmbeddedStore(path, write=True)

    @property
    def manifest(self) -> dict[str, Any]:
        """What was decided when the index was created: format, analyzer, encoder, k1, b."""
        return dict(self._truth.manifest)

    @cached_property
    def analyzer(self) -> Analyzer:
        """The analyzer that wrote the index."""
        return analyzer(self._truth.manifest["analyzer"])

    @property
    def dims(self) -> int:
        """Length of the vectors, 0 for an index without."""
        encoder = self._truth.manifest["encoder"]
        return int(encoder["dims"]) if encoder else 0

    def close(self) -> None:
        """Close the files and give back the right to write."""
        self._truth.close()
        self._current = None
        self._release()

    def snapshot(self) -> Snapshot:
        """The newest published state. Cheap when nothing was published since the last call."""
        path, current = self.path / "published", self._current
        while True:
            mark = _identity(path)
            if current is not None and mark == current[0]:
                return current[1]
            published = Published.read(path)
            try:
                snapshot = self._load(published, current[1] if current else None)
            except IndexFormatError:
                if _identity(path) == mark:
                    raise
                continue  # a writer has just replaced the files of that state: take the new one
            self._current = mark, snapshot
            return snapshot

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that the index holds, as the writer sees it."""
        return self._truth.known(ids)

    def refuse_reader(self) -> None:
        """Raises BadInput if the index is not open for writing."""
        if self._lock is None:
            raise BadInput(f"{self.path} is not open for writing. Open it with Index.open(path, write=True) to change it.")

    def effort(self) -> Effort:
        """What all passages ever added have cost."""
        return self._truth.effort()

    def append(self, rows: Sequence[Row], terms: Sequence[Sequence[str]], effort: Effort = NO_EFFORT) -> None:
        """Commit passages with ids that the index does not hold, all or none; durable when it returns.

        terms   the analysed content, one list a passage
        effort  what it took to make these rows and terms
        """
        self.refuse_reader()
        with self._writing, disk_full_explained(self.path):
            self._catch_up()
            point = self._truth.append(rows, effort)
            state = self._extend_terms(self._published, point.slots, terms)
            state = self._extend_vectors(state, point.slots, [row.half for row in rows if row.half is not None])
            self._publish(replace(state, point=point))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete passages, all or none; durable when it returns. Raises BadInput naming an id that is not in the index."""
        self.refuse_reader()
        with self._writing, disk_full_explained(self.path):
            self._catch_up()
            self._publish(replace(self._published, point=self._truth.delete(ids)))

    # --- bringing the derived files up to the truth

    def _recover(self) -> Published:
        index = self._truth.manifest["index"]
        published = Published(index)
        with contextlib.suppress(IndexFormatError):
            published = Published.read(self.path / "published")
        now = self._truth.point()
        if published.index != index or published.point.generation > now.generation or published.point.slots > now.slots:
            published = Published(index)
        published = self._keep_sound(published)
        (self.path / "terms").mkdir(exist_ok=True)
        self._published = published
        with disk_full_explained(self.path):
            self._catch_up()
            self._sweep()
        return self._published

    def _keep_sound(self, published: Published) -> Published:
        """What remains of the published state when damaged files are left out."""
        sound = published
        try:
            for segment in self._open_segments(published, {}):
                segment.verify()
        except IndexFormatError:
            sound = replace(sound, segments=(), point=START)
        try:
            if self.dims:
                self._open_vectors(published).verify()
        except IndexFormatError:
            (self.path / "vectors.i8").unlink(missing_ok=True)  # readers keep the file that they have mapped
            sound = replace(sound, rows=0, sums=(), point=START)
        return sound

    def _catch_up(self) -> None:
        point = self._truth.point()
        if point == self._published.point and (self.path / "published").exists():
            return
        while (covered := _covered(self._published)) < point.slots:
            stop = min(covered + _REPLAY, point.slots)
            terms = [self.analyzer.terms(content, lang) for content, lang in self._truth.contents(covered, stop)]
            self._published = self._extend_terms(self._published, stop, terms)
        while self.dims and self._published.rows < point.slots:
            stop = min(self._published.rows + _REPLAY, point.slots)
            halves = self._truth.halves(range(self._published.rows, stop), self.dims)
            self._published = self._extend_vectors(self._published, stop, halves)
        self._publish(replace(self._published, point=point))

    def _extend_terms(self, state: Published, stop: int, terms: Sequence[Sequence[str]]) -> Published:
        start = _covered(state)
        if start == stop:
            return state
        name = _segment_name(start, stop)
        write_segment(self.path / "terms" / name, state.index, start, invert(terms))
        names = [*state.segments, name]
        while group := _mergeable(names):
            whole = _segment_name(_span(names[-group])[0], stop)
            segments = [Segment(self.path / "terms" / one, state.index) for one in names[-group:]]
            write_segment(self.path / "terms" / whole, state.index, segments[0].first, merge(segments))
            names[-group:] = [whole]
        return replace(state, segments=tuple(names))

    def _extend_vectors(self, state: Published, stop: int, halves: Sequence[HalfArray] | HalfArray) -> Published:
        if not self.dims or state.rows == stop:
            return state
        size = state.rows * stride(self.dims)
        rows = rows_of(np.asarray(halves, dtype=np.float32))  # of the stored float16, so that a rebuild gives the same bytes
        sums = append_rows(self.path / "vectors.i8", size, list(state.sums), rows)
        if state.rows == 0:
            sync_folder(self.path)
        return replace(state, rows=stop, sums=tuple(sums))

    def _publish(self, state: Published) -> None:
        state = replace(state, languages=tuple(self._truth.languages()))
        replace_file(self.path / "published", [state.to_bytes()])
        self._published = state
        self._sweep()

    def _sweep(self) -> None:
        """Remove segments that were merged, and what crashes left behind; readers keep the files that they have mapped."""
        for file in (self.path / "terms").iterdir():
            if file.name not in self._published.segments:
                file.unlink()

    # --- opening the derived files

    def _load(self, published: Published, old: Snapshot | None) -> Snapshot:
        if published.index != self._truth.manifest["index"]:
            raise IndexFormatError(f"{self.path}: `published` belongs to another index. {REBUILD}")
        now = self._truth.point()
        if published.point.generation > now.generation or published.point.slots > now.slots:
            raise IndexFormatError(f"{self.path}: the derived files are newer than passages.sqlite. {REBUILD}")
        known = {one.path.name: one for one in old.segments} if old else {}
        segments = self._open_segments(published, known)
        vectors = self._open_vectors(published) if self.dims else None
        if vectors and old and old.vectors:
            vectors.trust(old.vectors)
        dead = np.zeros(published.point.slots, dtype=np.uint8)
        since = 0
        if old is not None and len(old.dead) <= len(dead):
            dead[: len(old.dead)] = old.dead
            since = old.published.point.generation
        dead[self._truth.tombstones(since, published.point.generation)] = 1
        return Snapshot(self._truth, published, segments, vectors, dead)

    def _open_segments(self, published: Published, known: Mapping[str, Segment]) -> list[Segment]:
        folder = self.path / "terms"
        segments = [known.get(name) or Segment(folder / name, published.index) for name in published.segments]
        ends = [0, *(one.first + one.count for one in segments)]
        if [one.first for one in segments] != ends[:-1] or ends[-1] != published.point.slots:
            raise IndexFormatError(f"{folder}: the segments do not cover the passages 0 to {published.point.slots}. {REBUILD}")
        return segments

    def _open_vectors(self, published: Published) -> Vectors:
        if published.rows != published.point.slots:
            raise IndexFormatError(f"{self.path}: {published.rows} vectors for {published.point.slots} passages. {REBUILD}")
        if not published.rows:
            return Vectors(self.path / "published", 0, self.dims, [])
        return Vectors(self.path / "vectors.i8", published.rows, self.dims, list(published.sums))

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _identity(path: Path) -> object:
    """Changes whenever the file is replaced; None while there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        raise BadInput(f"{path}: no such index. Create one with Index.create or `shortlist index`.")
    if not (path / "passages.sqlite").is_file():
        raise IndexFormatError(f"{path} is not an index: it holds no passages.sqlite. Give the folder that Index.create made.")


def _segment_name(start: int, stop: int) -> str:
    return f"seg-{start:012d}-{stop:012d}"


def _span(name: str) -> tuple[int, int]:
    _, start, stop = name.split("-")
    return int(start), int(stop)


def _covered(published: Published) -> int:
    return _span(published.segments[-1])[1] if published.segments else 0


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
