"""passages.sqlite: the passages, their vectors, tombstones and the manifest. What it holds is the index; all else follows.

Rows are only ever added, and marked deleted by the generation (number of the commit) that deleted them, so a reader that
knows its generation sees the same passages however far a writer has gone on.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput, IndexFormatError, ShortlistError
from shortlist.stores.durable import SAFE_AFTER_FULL_DISK, sync_folder
from shortlist.types import ByteArray, Json, Passage

FORMAT = 2
"""The newest format. An index that readers of format 1 understand says so: float16 vectors of the encoder's length, or none."""

_SCHEMA = """
PRAGMA application_id = 1397247059;
CREATE TABLE manifest (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state (
    generation INTEGER NOT NULL, slots INTEGER NOT NULL, analyze_s REAL NOT NULL, encode_s REAL NOT NULL);
INSERT INTO state VALUES (0, 0, 0, 0);
CREATE TABLE passages (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL, text TEXT NOT NULL, title TEXT NOT NULL, lang TEXT NOT NULL,
    analysed_as TEXT NOT NULL, meta TEXT NOT NULL, deleted INTEGER NOT NULL DEFAULT 0, UNIQUE (id, deleted));
CREATE INDEX tombstones ON passages (deleted) WHERE deleted > 0;
CREATE TABLE vectors (slot INTEGER PRIMARY KEY, half BLOB NOT NULL); -- in the mode's form, float16 in format 1
CREATE TABLE languages (lang TEXT PRIMARY KEY, live INTEGER NOT NULL) WITHOUT ROWID;
"""
_COMPARISONS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_LIVE = "slot < :slots AND (deleted = 0 OR deleted > :generation)"


@dataclass(frozen=True)
class Point:
    """A moment in the index's life: so many commits, so many slots given out."""

    generation: int
    slots: int


START = Point(0, 0)


@dataclass(frozen=True)
class Effort:
    """Seconds of the work that is done once for every passage: `analyze_s` to terms, `encode_s` to vectors."""

    analyze_s: float = 0.0
    encode_s: float = 0.0


NO_EFFORT = Effort()


@dataclass(frozen=True, slots=True)
class Row:
    """A passage on its way in: `analysed_as` is the language that its terms were made for, `vector` its stored form or None."""

    passage: Passage
    analysed_as: str
    vector: npt.NDArray[Any] | None = None


class Truth:
    """One connection to passages.sqlite. Safe to use from several threads.

    Every method raises IndexFormatError if the database is damaged or foreign, and ShortlistError if the disk is full.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self._path = path
        self._lock = threading.RLock()
        with _explained(path):
            self._db = _connect(path, write)
            try:
                self.manifest = self._read_manifest()
            except BaseException:
                self._db.close()
                raise
        weakref.finalize(self, self._db.close)  # after a compaction the last snapshot of the old files lets go of them

    @staticmethod
    def create(path: Path, manifest: Mapping[str, Any]) -> None:
        """Make an empty database with this manifest."""
        with _explained(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA page_size = 8192")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript("BEGIN;" + _SCHEMA)
            rows = [(key, json.dumps(value)) for key, value in manifest.items()]
            db.executemany("INSERT INTO manifest VALUES (?, ?)", rows)
            db.execute("COMMIT")
        sync_folder(path.parent)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def point(self) -> Point:
        """Where the committed state stands."""
        return Point(*self._rows("SELECT generation, slots FROM state")[0])

    def effort(self) -> Effort:
        """What all passages ever added have cost."""
        return Effort(*self._rows("SELECT analyze_s, encode_s FROM state")[0])

    def live(self) -> int:
        """How many passages are not deleted."""
        (count,) = self._rows("SELECT coalesce(sum(live), 0) FROM languages")[0]
        return int(count)

    def append(self, rows: Sequence[Row], effort: Effort = NO_EFFORT, *, replacing: bool = False) -> Point:
        """Commit passages under the next slots, all or none; returns where the index stands after it.

        With `replacing` live passages of the same ids are marked deleted by the same commit.
        """
        with self._transaction() as before:
            if replacing:
                self._mark(before, self._find([row.passage.id for row in rows]))
            slots = range(before.slots, before.slots + len(rows))
            self._db.executemany(
                "INSERT INTO passages (slot, id, text, title, lang, analysed_as, meta) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (slot, p.id, p.text, p.title, p.lang, row.analysed_as, json.dumps(dict(p.meta)))
                    for slot, row in zip(slots, rows, strict=True)
                    for p in (row.passage,)
                ),
            )
            vectors = ((slot, row.vector.tobytes()) for slot, row in zip(slots, rows, strict=True) if row.vector is not None)
            self._db.executemany("INSERT INTO vectors VALUES (?, ?)", vectors)
            self._count_languages((row.analysed_as for row in rows), 1)
            self._db.execute(
                "UPDATE state SET generation = generation + 1, slots = ?, analyze_s = analyze_s + ?, encode_s = encode_s + ?",
                (slots.stop, effort.analyze_s, effort.encode_s),
            )
        return Point(before.generation + 1, slots.stop)

    def delete(self, ids: Sequence[str]) -> Point:
        """Mark live passages deleted, all or none. Raises BadInput naming an id that is not in the index."""
        with self._transaction() as before:
            found = self._find(ids)
            missing = set(ids) - {name for name, _, _ in found}
            if missing:
                raise BadInput(f"no passage with the id {min(missing)!r} is in the index; nothing was deleted.")
            self._mark(before, found)
            self._db.execute("UPDATE state SET generation = generation + 1")
        return Point(before.generation + 1, before.slots)

    def delete_slots(self, slots: Sequence[int]) -> Point:
        """Mark the live passages of these slots deleted, all or none."""
        sql = (
            "SELECT p.id, p.slot, p.analysed_as FROM json_each(?) AS wanted "
            "CROSS JOIN passages AS p ON p.slot = wanted.value AND p.deleted = 0"
        )
        with self._transaction() as before:
            self._mark(before, self._rows(sql, [json.dumps(list(slots))]))
            self._db.execute("UPDATE state SET generation = generation + 1")
        return Point(before.generation + 1, before.slots)

    def _find(self, ids: Iterable[str]) -> list[tuple[str, int, str]]:
        """(id, slot, language of analysis) of those of `ids` that a live passage has."""
        sql = (
            "SELECT p.id, p.slot, p.analysed_as FROM json_each(?) AS wanted "
            "CROSS JOIN passages AS p ON p.id = wanted.value AND p.deleted = 0"
        )
        return self._rows(sql, [json.dumps(list(ids))])

    def _mark(self, before: Point, found: Sequence[tuple[str, int, str]]) -> None:
        marks = [(before.generation + 1, slot) for _, slot, _ in found]
        self._db.executemany("UPDATE passages SET deleted = ? WHERE slot = ?", marks)
        self._count_languages((lang for _, _, lang in found), -1)

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that a live passage has."""
        return {name for name, _, _ in self._find(ids)}

    def get(self, ids: Sequence[str], at: Point) -> dict[str, Passage]:
        """Passages of these ids that live at this point."""
        sql = (
            "SELECT p.id, p.text, p.title, p.lang, p.meta FROM json_each(:ids) AS wanted "
            f"CROSS JOIN passages AS p ON p.id = wanted.value WHERE p.{_LIVE}"
        )
        rows = self._rows(sql, {"ids": json.dumps(list(ids)), "slots": at.slots, "generation": at.generation})
        return {row[0]: _passage(row) for row in rows}

    def passages(self, at: Point, slots: Sequence[int] | None = None, page: int = 1000) -> Iterator[Passage]:
        """All passages that live at this point, or those of live `slots`, in the order in which they came, page by page."""
        columns = "id, text, title, lang, meta, slot"
        if slots is not None:
            sql = f"SELECT {columns} FROM passages WHERE slot IN (SELECT value FROM json_each(?)) ORDER BY slot"
            for first in range(0, len(slots), page):
                yield from map(_passage, self._rows(sql, [json.dumps(slots[first : first + page])]))
            return
        sql = f"SELECT {columns} FROM passages WHERE slot >= :start AND {_LIVE} ORDER BY slot LIMIT :page"
        start = 0
        while rows := self._rows(sql, {"start": start, "slots": at.slots, "generation": at.generation, "page": page}):
            yield from map(_passage, rows)
            start = rows[-1][5] + 1

    def contents(self, start: int, stop: int) -> list[tuple[Passage, str]]:
        """(passage, language of analysis) of slots start..stop-1, deleted ones too."""
        sql = "SELECT id, text, title, lang, meta, analysed_as FROM passages WHERE slot >= ? AND slot < ? ORDER BY slot"
        rows = [(_passage(row), row[5]) for row in self._rows(sql, (start, stop))]
        if len(rows) != stop - start:
            raise self._incomplete(f"{len(rows)} of the passages {start} to {stop - 1}")
        return rows

    def fields(self, start: int, stop: int) -> list[tuple[str, str, dict[str, Json]]]:
        """(language of analysis, title, metadata) of slots start..stop-1, deleted ones too."""
        sql = "SELECT analysed_as, title, meta FROM passages WHERE slot >= ? AND slot < ? ORDER BY slot"
        with _explained(self._path):
            rows = [(lang, title, json.loads(meta)) for lang, title, meta in self._rows(sql, (start, stop))]
        if len(rows) != stop - start:
            raise self._incomplete(f"{len(rows)} of the passages {start} to {stop - 1}")
        return rows

    def rows(self, start: int, at: Point, page: int) -> list[tuple[int, Row]]:
        """(slot, row) of the first `page` passages that live at this point, from the slot `start` on."""
        sql = (
            "SELECT id, text, title, lang, meta, slot, analysed_as, half FROM passages LEFT JOIN vectors USING (slot) "
            f"WHERE slot >= :start AND {_LIVE} ORDER BY slot LIMIT :page"
        )
        found = self._rows(sql, {"start": start, "slots": at.slots, "generation": at.generation, "page": page})
        with _explained(self._path):
            return [(row[5], Row(_passage(row), row[6], _bytes(row[7]))) for row in found]

    def gone(self, since: Point, at: Point) -> list[str]:
        """Ids of the passages that lived at the point `since` and no longer do at the point `at`."""
        sql = "SELECT id FROM passages WHERE slot < ? AND deleted > ? AND deleted <= ? AND deleted > 0"
        return [name for (name,) in self._rows(sql, (since.slots, since.generation, at.generation))]

    def slots_of(self, condition: Mapping[str, Any]) -> list[int]:
        """Slots of the passages, deleted ones too, whose ids fit a checked condition of a filter on strings."""
        if "in" in condition:
            test, values = "id IN (SELECT value FROM json_each(?))", [json.dumps(condition["in"])]
        else:
            test = " AND ".join(f"id {_COMPARISONS[name]} ?" for name in condition)
            values = list(condition.values())
        return [slot for (slot,) in self._rows(f"SELECT slot FROM passages WHERE {test}", values)]

    def ids(self, slots: npt.NDArray[np.uint32]) -> list[str]:
        """The ids of these slots, in the same order."""
        sql = "SELECT p.id FROM json_each(?) AS wanted CROSS JOIN passages AS p ON p.slot = wanted.value ORDER BY wanted.key"
        names = [name for (name,) in self._rows(sql, [json.dumps(slots.tolist())])]
        if len(names) != len(slots):
            raise self._incomplete(f"{len(names)} of {len(slots)} passages")
        return names

    def vectors(self, slots: Sequence[int], size: int) -> ByteArray:
        """uint8[n, size], the stored vectors of these slots in the same order."""
        sql = "SELECT v.half FROM json_each(?) AS wanted CROSS JOIN vectors AS v ON v.slot = wanted.value ORDER BY wanted.key"
        blobs = [blob for (blob,) in self._rows(sql, [json.dumps(list(slots))])]
        if len(blobs) != len(slots) or any(len(blob) != size for blob in blobs):
            raise self._incomplete(f"{len(blobs)} of {len(slots)} vectors of {size} bytes")
        return np.frombuffer(b"".join(blobs), dtype=np.uint8).reshape(len(slots), size)

    def tombstones(self, after: int, upto: int) -> list[int]:
        """Slots deleted by the commits after+1..upto."""
        sql = "SELECT slot FROM passages WHERE deleted > ? AND deleted <= ? AND deleted > 0"
        return [slot for (slot,) in self._rows(sql, (after, upto))]

    def languages(self) -> list[str]:
        """Languages in which live passages were analysed, "" for those of an unknown one."""
        return list(self.language_counts())

    def language_counts(self) -> dict[str, int]:
        """How many live passages were analysed in each language, by the language's tag."""
        return dict(self._rows("SELECT lang, live FROM languages WHERE live > 0 ORDER BY lang"))

    def _count_languages(self, langs: Iterable[str], step: int) -> None:
        self._db.executemany(
            "INSERT INTO languages VALUES (?, ?) ON CONFLICT (lang) DO UPDATE SET live = live + excluded.live",
            ((lang, step) for lang in langs),
        )

    def _rows(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        with self._lock, _explained(self._path):
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Point]:
        with self._lock, _explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self.point()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _read_manifest(self) -> dict[str, Any]:
        manifest = {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM manifest")}
        version = manifest.get("format")
        if not isinstance(version, int):
            raise IndexFormatError(f"{self._path}: no format version in the manifest; this is not an index of shortlist.")
        if version > FORMAT:
            raise IndexFormatError(
                f"{self._path}: written in format {version}, this version of shortlist reads up to {FORMAT}. Upgrade shortlist."
            )
        return manifest

    def _incomplete(self, what: str) -> IndexFormatError:
        return IndexFormatError(f"{self._path} holds {what}: the database is damaged. Restore the index from a backup.")


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    # In a folder that cannot be written SQLite has nowhere to put its shared memory; without a log nothing can change.
    frozen = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
    mode = "mode=rw" if write else "immutable=1" if frozen else "mode=ro"
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=30
    )
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -65536")  # at most 64 MiB: a dense search reads a thousand pages with vectors
    return db


def _passage(row: Sequence[Any]) -> Passage:
    return Passage(id=row[0], text=row[1], title=row[2], lang=row[3], meta=json.loads(row[4]))


def _bytes(blob: bytes | None) -> ByteArray | None:
    return None if blob is None else np.frombuffer(blob, dtype=np.uint8)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise BadInput(f"{path}: {error}: an id is in the index already. Nothing of the batch is stored.") from error
    except sqlite3.ProgrammingError as error:
        raise BadInput(f"{path}: {error}. Open the index again.") from error
    except sqlite3.DatabaseError as error:
        code = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise ShortlistError(f"{path}: {error} while writing or reading. {SAFE_AFTER_FULL_DISK}") from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PERM):
            raise ShortlistError(f"{path}: {error}. Check the rights of the folder and who else uses it.") from error
        raise IndexFormatError(
            f"{path}: {error}. The database is damaged or not one of shortlist; restore the index from a backup."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise IndexFormatError(f"{path}: {error}. The database is damaged; restore the index from a backup.") from error
