"""Looking after an index: verify it, restore what can be derived and say what cannot, copy it while it is used."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import IndexFormatError
from shortlist.stores.columns import ColumnSegment
from shortlist.stores.durable import WriterLock, explained, sync_folder
from shortlist.stores.embedded import (
    EmbeddedStore,
    Published,
    Snapshot,
    Source,
    drafted,
    home_of,
    make_empty,
    opened,
    refuse_foreign,
    remove_all_but,
    take_place,
)
from shortlist.stores.postings import Segment
from shortlist.stores.truth import FORMAT, Point
from shortlist.types import ByteArray

_PAGE = 2000  # passages that are looked at together


@dataclass(frozen=True)
class Report:
    """What a check has found; sentences that name files and say what is wrong.

    passages  live ones that are whole
    truth     faults of passages.sqlite, from which all else is made: what they cost cannot be derived
    lost      passages among that cost: their ids, or "slot N" where even the id cannot be read
    derived   faults of files that can be made again; looked for only where the truth has none
    notes     what is no fault
    """

    path: Path
    passages: int
    truth: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.truth or self.lost or self.derived)


@dataclass
class _Survey:
    """The truth, read from end to end however damaged it is. `whole` are the live slots that can be read."""

    whole: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Damage inside is a fault, not the end."""
        try:
            yield
        except IndexFormatError as error:
            self.faults.append(str(error))


def check(path: Path) -> Report:
    """Read all of an index and say what is wrong with it; changes nothing, and others may search and write meanwhile.

    The truth: SQLite's own integrity check, the seal of every row, that no row is missing, that counts and deletions agree. Of
    the derived files: their checksums, and that they hold what the truth gives, for which every text is analysed again.
    Raises BadInput (no such path) and IndexFormatError where not even the manifest can be read.
    """
    with explained(path), _reading(path) as source:
        return _check(path, source)[0]


def _check(path: Path, source: Source) -> tuple[Report, _Survey]:
    survey = _survey(source)
    derived = [] if survey.faults or survey.lost else _derived_faults(path)
    notes = []
    if not source.truth.sealed:
        notes.append(
            f"the index is of format {source.truth.manifest['format']}, whose rows have no seals: a bit that flips inside a "
            "text is not noticed. `shortlist index compact` writes it anew with seals."
        )
    found = (survey.faults, survey.lost, derived, notes)
    return Report(path, len(survey.whole), *map(tuple, found)), survey


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Source]:
    """The truth of an index, also where the index as a whole cannot be opened."""
    refuse_foreign(path)
    source = opened(path, False)
    try:
        yield source
    finally:
        source.truth.close()


def repair(path: Path) -> Report:
    """Restore what can be restored, and say what had been wrong; the report is that of a `check` before.

    Damaged derived files are made again. If the truth is damaged, the passages that are whole move into a new copy, as in a
    compaction; what is lost is in the report, and the damaged database stays beside the copy as passages.damaged-N.sqlite.
    Raises IndexLocked while another process writes, and IndexFormatError where not even the manifest can be read.
    """
    refuse_foreign(path)
    with explained(path), WriterLock(path / "lock"), _reading(path) as source:
        report, survey = _check(path, source)
        if report.truth or report.lost:
            _rescue(path, source, survey)
        elif report.derived:
            _drop_derived(source.home)
    if not report.sound:
        EmbeddedStore(path, write=True).close()
    return report


def backup(path: Path, target: Path) -> None:
    """Copy an index, as of some moment during the call, to a path where nothing is yet; others may search and write meanwhile.

    The copy is an index like any other, verified, and durable when this returns. Raises IndexFormatError if passages.sqlite is
    damaged (nothing is left at `target` then), and BadInput if there is something at `target`.
    """
    with explained(path), _reading(path) as source, drafted(target) as draft:
        _copy_derived(source.home, draft)
        source.truth.backup(draft / "passages.sqlite")
        with _reading(draft) as copy:
            survey = _survey(copy)
        if survey.faults or survey.lost:
            raise IndexFormatError(
                f"{path}: no backup was made, because it would be damaged ({len(survey.faults)} faults). `shortlist index "
                "check` names them, and with --repair keeps what is whole."
            )
        EmbeddedStore(draft, write=True).close()  # verifies the derived files and brings them up to the truth
        (draft / "lock").unlink()
        _sync_all(draft)


# --- the truth


def _survey(source: Source) -> _Survey:
    survey, truth = _Survey(), source.truth
    with survey.noting():
        survey.faults += [f"{source.home / 'passages.sqlite'}: {text}" for text in truth.complaints()]
    published = None
    with contextlib.suppress(IndexFormatError, FileNotFoundError):
        published = Published.read(source.home / "published")
    if published is not None and published.index != truth.manifest["index"]:
        published = None
    state = None
    with survey.noting():
        state = truth.state()
    point = state.point if state else Point(1 << 62, published.point.slots if published else truth.last_slot() + 1)
    names = _names(source, published)
    dead = _deleted(source, point, point.slots - state.live if state else -1, survey)
    languages: Counter[str] = Counter()
    for start in range(0, point.slots, _PAGE):
        whole, broken = _sifted(source.rows, range(start, min(start + _PAGE, point.slots)))
        living = [slot for slot in whole if slot not in dead]
        survey.whole += living
        languages.update(row.analysed_as for row in truth.rows(living))
        for slot in broken:
            survey.faults.append(f"{source.home / 'passages.sqlite'}: the row of slot {slot} is damaged")
            if slot not in dead:
                survey.lost.append(names(slot))
    _compare_counts(source, survey, dict(state.languages) if state else None, languages)
    if published is not None and state and published.point.generation > point.generation:
        survey.faults.append(
            f"{source.home}: the commits {point.generation + 1} to {published.point.generation} are missing from "
            "passages.sqlite; what they deleted is back"
        )
        survey.lost += [names(slot) for slot in range(point.slots, published.point.slots)]
    return survey


def _compare_counts(source: Source, survey: _Survey, stated: dict[str, int] | None, counted: Counter[str]) -> None:
    """Counts that do not agree mean something only where all passages could be counted."""
    if survey.faults or stated is None:
        return
    if {lang: count for lang, count in stated.items() if count} != dict(counted):
        survey.faults.append(f"{source.home / 'passages.sqlite'}: {counted.total()} live passages, the counts say {stated}")


def _deleted(source: Source, point: Point, count: int, survey: _Survey) -> set[int]:
    """The deleted slots, `count` of them. Where their sealed records are not all there, the marks of the rows stand in."""
    truth = source.truth
    records: set[int] | None = None
    with survey.noting():
        records = set(truth.tombstones(0, point.generation).tolist())
    marks: set[int] = set()
    for start in range(0, point.slots, _PAGE):
        whole, _ = _sifted(truth.deleted_by, range(start, min(start + _PAGE, point.slots)))
        marks.update(slot for slot, by in zip(whole, truth.deleted_by(whole), strict=True) if 0 < by <= point.generation)
        if records is not None and (other := sorted({slot for slot in whole if (slot in records) != (slot in marks)})):
            survey.faults.append(f"{source.home / 'passages.sqlite'}: slot {other[0]} is marked otherwise than it was deleted")
    return records if records is not None and len(records) == count else marks | (records or set())


def _sifted(read: Callable[[Sequence[int]], object], slots: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those of the slots that can be read, and those that cannot."""
    try:
        read(slots)
        return list(slots), []
    except IndexFormatError:
        if len(slots) == 1:
            return [], list(slots)
    half = len(slots) // 2
    parts = [_sifted(read, slots[:half]), _sifted(read, slots[half:])]
    return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]


def _names(source: Source, published: Published | None) -> Callable[[int], str]:
    """The id of a slot that cannot be read: from the part of its row that is whole, or from the columns."""

    def name(slot: int) -> str:
        with contextlib.suppress(IndexFormatError):
            return source.truth.ids([slot])[0]
        for file in published.columns if published else ():
            with contextlib.suppress(IndexFormatError, FileNotFoundError):
                segment = ColumnSegment(source.home / "columns" / file, str(source.truth.manifest["index"]))
                if segment.first <= slot < segment.first + segment.count and (
                    found := segment.value("id", slot - segment.first)
                ):
                    return found
        return f"slot {slot}"

    return name


def _rescue(path: Path, source: Source, survey: _Survey) -> None:
    """Move what is whole into a new copy."""
    folder = path / "compacting"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    make_empty(folder, {**source.truth.manifest, "format": FORMAT})
    newest = dict(zip(_in_pages(source.truth.ids, survey.whole), survey.whole, strict=True))  # of two with one id the last
    slots = sorted(newest.values())
    with contextlib.closing(EmbeddedStore(folder, write=True)) as copy:
        for start in range(0, len(slots), _PAGE):
            rows = source.rows(slots[start : start + _PAGE])
            copy.append(rows, source.postings(rows))
    _keep_damaged(path, source.home)
    take_place(path, source.home, folder)
    remove_all_but(path, home_of(path))


def _in_pages(read: Callable[[Sequence[int]], list[str]], slots: Sequence[int]) -> list[str]:
    return [name for start in range(0, len(slots), _PAGE) for name in read(slots[start : start + _PAGE])]


def _keep_damaged(path: Path, home: Path) -> None:
    """The database under another name: somebody may want to get more out of it."""
    number = 1 + sum(1 for _ in path.glob("passages.damaged-*.sqlite"))
    for ending in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.link(home / f"passages.sqlite{ending}", path / f"passages.damaged-{number}.sqlite{ending}")
    sync_folder(path)


# --- derived files


def _derived_faults(path: Path) -> list[str]:
    faults: list[str] = []
    try:
        with contextlib.closing(EmbeddedStore(path)) as store:
            snapshot = store.snapshot()
            source = Source(store.home, snapshot.truth)
            for compare in (_terms_differ, _columns_differ, _vectors_differ):
                try:
                    faults += compare(source, snapshot)
                except IndexFormatError as error:
                    faults.append(str(error))
    except IndexFormatError as error:
        faults.append(str(error))
    return faults


def _terms_differ(source: Source, snapshot: Snapshot) -> Iterator[str]:
    for segment in snapshot.files.segments:
        segment.verify()
        total, same = 0, True
        for start, rows in _rows(source, segment):
            page = source.postings(rows)
            total += _fingerprint(page.offsets, page.bytes, page.starts, page.slots, page.tf, start)
            same &= np.array_equal(segment.lengths[start : start + len(rows)], page.lengths)
        if not same or (total - _fingerprint(*segment.part(0))) % (1 << 64):
            yield f"{segment.path}: its terms are not those of the passages"


def _columns_differ(source: Source, snapshot: Snapshot) -> Iterator[str]:
    for segment in snapshot.files.columns or ():
        segment.verify()
        total = 0
        for start, rows in _rows(source, segment):
            page = source.columns(rows)
            total += _fingerprint(page.offsets, page.bytes, page.starts, page.slots, np.ones(len(page.slots), np.uint8), start)
        if (total - _fingerprint(*segment.part(0))) % (1 << 64):
            yield f"{segment.path}: its values are not those of the passages"


def _vectors_differ(source: Source, snapshot: Snapshot) -> Iterator[str]:
    vectors = snapshot.files.vectors
    if vectors is None:
        return
    for form in source.layout.files:
        for start in range(0, vectors.count, _PAGE):
            stop = min(start + _PAGE, vectors.count)
            expected = source.layout.rows(source.vectors(range(start, stop)), form)
            if not np.array_equal(vectors.rows(form, start, stop), expected):
                yield f"{source.home / f'vectors.{form}'}: a vector of slots {start} to {stop - 1} is not its passage's"
                break


def _rows(source: Source, segment: Segment | ColumnSegment) -> Iterator[tuple[int, list[Any]]]:
    """(place in the segment, rows) of its passages, page by page."""
    for start in range(0, segment.count, _PAGE):
        stop = min(start + _PAGE, segment.count)
        yield start, source.truth.rows(range(segment.first + start, segment.first + stop))


def _fingerprint(
    offsets: npt.NDArray[np.uint64],
    data: ByteArray,
    starts: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.uint32],
    tf: npt.NDArray[np.unsignedinteger[Any]],
    shift: int,
) -> int:
    """A number of inverted lists, slots moved by `shift`; those of parts of a segment add up to the whole's, modulo 2**64."""
    words, ends = data.tobytes(), offsets.tolist()
    terms = np.array([zlib.crc32(words[start:stop]) for start, stop in pairwise(ends)], dtype=np.uint64)
    mixed = np.repeat(terms, np.diff(starts).astype(np.int64))
    for part in (slots.astype(np.uint64) + np.uint64(shift), tf.astype(np.uint64)):
        mixed = (mixed ^ part) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(31)
    return int(mixed.sum(dtype=np.uint64))


def _drop_derived(home: Path) -> None:
    """`published` is what derived files count by: without it the next writer makes all of them again."""
    for file in (home / "published", *home.glob("vectors.*")):
        file.unlink(missing_ok=True)


def _copy_derived(home: Path, target: Path) -> None:
    """What a writer removes meanwhile is made again in the copy."""
    files = [home / "published", *home.glob("vectors.*"), *home.glob("terms/seg-*"), *home.glob("columns/seg-*")]
    for folder in ("terms", "columns"):
        (target / folder).mkdir()
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(file, target / file.relative_to(home))


def _sync_all(folder: Path) -> None:
    """Make every file of a folder durable, and the names in it."""
    for root, _, names in os.walk(folder):
        for name in names:
            handle = os.open(Path(root, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(root))
