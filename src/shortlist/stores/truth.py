"""passages.sqlite: the passages, their vectors, deletions and the manifest. What it holds is the index; all else follows.

Rows are only ever added, and a deletion adds the generation (number of the commit) that made it, so a reader that knows its
generation sees the same passages however far a writer has gone on.

SQLite does not notice a bit that flips inside a value. So, from format 3 on, rows carry seals: a CRC-32 that starts from the
row's number and goes over its values. What is read is compared with its seal, and the numbers of rows are asked for one by
one, so that neither a changed value nor a missing row passes for an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import weakref
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput, IndexFormatError, ShortlistError
from shortlist.stores.durable import SAFE, sync_folder
from shortlist.types import ByteArray, Json, Passage

FORMAT = 3
"""The newest format, that of every new index. 1 and 2 have no seals; 2 has other vectors than whole ones in float16."""

_SEALED = 3
_SCHEMA = """
PRAGMA application_id = 1397247059;
CREATE TABLE manifest (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID; -- the row "seal" is over all others
CREATE TABLE state (
    generation INTEGER NOT NULL, slots INTEGER NOT NULL, analyze_s REAL NOT NULL, encode_s REAL NOT NULL, seal INTEGER);
CREATE TABLE languages (lang TEXT PRIMARY KEY, live INTEGER NOT NULL) WITHOUT ROWID; -- under the seal of `state`
CREATE TABLE passages (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL, id_seal INTEGER NOT NULL, text TEXT NOT NULL, title TEXT NOT NULL,
    lang TEXT NOT NULL, analysed_as TEXT NOT NULL, meta TEXT NOT NULL, seal INTEGER NOT NULL,
    deleted INTEGER NOT NULL, UNIQUE (id, deleted)); -- `deleted` keeps live ids apart; what is deleted stands in `deletions`
CREATE TABLE deletions (generation INTEGER PRIMARY KEY, slots BLOB NOT NULL, seal INTEGER NOT NULL); -- u32, little-endian
CREATE TABLE vectors (slot INTEGER PRIMARY KEY, half BLOB NOT NULL, seal INTEGER NOT NULL); -- in the mode's form
"""
_COMPARISONS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
RESTORE = (
    "Restore the index from a backup (`shortlist index backup` makes one), or run `shortlist index check --repair`, which "
    "keeps what is whole and names what is lost."
)


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


@dataclass(frozen=True)
class State:
    """Where the committed index stands.

    effort     what all passages ever added have cost
    languages  how many live passages were analysed in each language, by its tag; "" for those of an unknown one
    """

    point: Point = START
    effort: Effort = NO_EFFORT
    languages: Mapping[str, int] = field(default_factory=dict)

    @property
    def live(self) -> int:
        """How many passages are not deleted."""
        return sum(self.languages.values())

    @property
    def seal(self) -> int:
        """The checksum of all of it."""
        numbers = [self.point.generation, self.point.slots, self.effort.analyze_s, self.effort.encode_s]
        return zlib.crc32(json.dumps([*numbers, sorted(self.languages.items())]).encode())


@dataclass(frozen=True, slots=True)
class Row:
    """A passage as it is stored: `analysed_as` is the language of its terms, `vector` its stored form or None."""

    passage: Passage
    analysed_as: str
    vector: npt.NDArray[Any] | None = None


class Truth:
    """One connection to passages.sqlite. Safe to use from several threads.

    Every method raises IndexFormatError if the database is damaged or foreign, and ShortlistError if the disk is full or fails.
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
        self.sealed: bool = self.manifest["format"] >= _SEALED
        weakref.finalize(self, self._db.close)  # after a compaction the last snapshot of the old files lets go of them

    @staticmethod
    def create(path: Path, manifest: Mapping[str, Any]) -> None:
        """Make an empty database with this manifest."""
        with _explained(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA page_size = 8192")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript("BEGIN;" + _SCHEMA)
            db.execute("INSERT INTO state VALUES (0, 0, 0, 0, ?)", [State().seal])
            rows = [(key, json.dumps(value)) for key, value in manifest.items()]
            db.executemany("INSERT INTO manifest VALUES (?, ?)", rows)
            _seal_manifest(db)
            db.execute("COMMIT")
        sync_folder(path.parent)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def backup(self, path: Path) -> None:
        """Copy the database as of now, while others write, to a file that is not there yet."""
        with self._lock, _explained(path), contextlib.closing(sqlite3.connect(path)) as copy:
            self._db.backup(copy)

    def complaints(self) -> list[str]:
        """What SQLite finds wrong with the structure of the whole file."""
        return [text for (text,) in self._rows("PRAGMA integrity_check") if text != "ok"]

    # --- where the index stands

    def state(self) -> State:
        """Where the committed index stands."""
        return self._state(checked=self.sealed)

    def point(self) -> Point:
        """How far it has come."""
        return self.state().point

    def _state(self, *, checked: bool) -> State:
        """One statement, hence one moment, whatever a writer does meanwhile."""
        found = self._rows(
            f"SELECT generation, slots, analyze_s, encode_s, {'seal' if self.sealed else 'NULL'}, "
            "(SELECT json_group_array(json_array(lang, live)) FROM (SELECT lang, live FROM languages ORDER BY lang)) FROM state"
        )
        with self._as_stored():
            ((generation, slots, analyze_s, encode_s, seal, languages),) = found
            state = State(Point(generation, slots), Effort(analyze_s, encode_s), dict(json.loads(languages)))
            if checked and state.seal != seal:
                raise ValueError("the row of `state` does not fit its seal")
        return state

    def tombstones(self, after: int, upto: int) -> npt.NDArray[np.int64]:
        """Slots deleted by the commits after+1..upto."""
        if not self.sealed:
            sql = "SELECT slot FROM passages WHERE deleted > ? AND deleted <= ? AND deleted > 0"
            return np.array([slot for (slot,) in self._rows(sql, (after, upto))], dtype=np.int64)
        rows = self._rows(
            "SELECT generation, slots, seal FROM deletions WHERE generation > ? AND generation <= ?", (after, upto)
        )
        with self._as_stored():
            for generation, slots, seal in rows:
                if zlib.crc32(slots, generation) != seal:
                    raise ValueError(f"the deletions of commit {generation} do not fit their seal")
            return np.frombuffer(b"".join(slots for _, slots, _ in rows), dtype="<u4").astype(np.int64)

    # --- writing

    def append(self, rows: Sequence[Row], effort: Effort = NO_EFFORT, *, replaced: Sequence[int] = ()) -> Point:
        """Commit passages under the next slots, all or none; returns where the index stands after it.

        The live passages in the slots `replaced` are marked deleted by the same commit.
        """
        with self._transaction() as before:
            languages = Counter(row.analysed_as for row in rows)
            languages.subtract(self._mark(before.point, replaced))
            slots = range(before.point.slots, before.point.slots + len(rows))
            self._insert("passages", ((slot, *self._stored(slot, row)) for slot, row in zip(slots, rows, strict=True)))
            blobs = ((slot, row.vector.tobytes()) for slot, row in zip(slots, rows, strict=True) if row.vector is not None)
            self._insert("vectors", ((slot, blob, *self._seals(zlib.crc32(blob, slot))) for slot, blob in blobs))
            return self._advance(before, languages, slots.stop, effort)

    def delete(self, slots: Sequence[int]) -> Point:
        """Mark the live passages of these slots deleted, all or none."""
        with self._transaction() as before:
            languages: Counter[str] = Counter()
            languages.subtract(self._mark(before.point, slots))
            return self._advance(before, languages, before.point.slots)

    def _stored(self, slot: int, row: Row) -> tuple[Any, ...]:
        """The columns of a passage behind its slot."""
        passage = row.passage
        values = (passage.id, passage.text, passage.title, passage.lang, row.analysed_as, json.dumps(dict(passage.meta)))
        if not self.sealed:
            return *values, 0
        return passage.id, _seal_of(slot, passage.id), *values[1:], _seal_of(slot, *values), 0

    def _seals(self, seal: int) -> tuple[int, ...]:
        return (seal,) if self.sealed else ()

    def _insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        if all_rows := list(rows):
            self._db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(all_rows[0]))})", all_rows)

    def keep(self, key: str, value: Json) -> None:
        """Commit an entry of the manifest, in the place of the one with this key if there is one."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?)", (key, json.dumps(value)))
            if self.sealed:
                _seal_manifest(self._db)
        self.manifest[key] = value

    def _mark(self, before: Point, slots: Sequence[int]) -> Counter[str]:
        """Note a deletion; returns in which languages the passages were analysed."""
        if not slots:
            return Counter()
        languages = Counter(row.analysed_as for row in self.rows(slots))
        generation = before.generation + 1
        self._db.executemany("UPDATE passages SET deleted = ? WHERE slot = ?", [(generation, slot) for slot in slots])
        if self.sealed:
            blob = np.array(slots, dtype="<u4").tobytes()
            self._insert("deletions", [(generation, blob, zlib.crc32(blob, generation))])
        return languages

    def _advance(self, before: State, languages: Counter[str], slots: int, effort: Effort = NO_EFFORT) -> Point:
        """The end of every commit: the next state, and its seal."""
        self._db.executemany(
            "INSERT INTO languages VALUES (?, ?) ON CONFLICT (lang) DO UPDATE SET live = live + excluded.live",
            languages.items(),
        )
        spent = (before.effort.analyze_s + effort.analyze_s, before.effort.encode_s + effort.encode_s)
        self._db.execute(
            "UPDATE state SET generation = ?, slots = ?, analyze_s = ?, encode_s = ?",
            (before.point.generation + 1, slots, *spent),
        )
        state = self._state(checked=False)
        if self.sealed:
            self._db.execute("UPDATE state SET seal = ?", [state.seal])
        return state.point

    # --- reading

    def find(self, ids: Iterable[str]) -> list[int]:
        """Slots of passages, deleted ones too, with these ids, by an index without seals: it may lack some, or add others."""
        sql = "SELECT p.slot FROM json_each(?) AS wanted CROSS JOIN passages AS p ON p.id = wanted.value"
        return [slot for (slot,) in self._rows(sql, [json.dumps(list(ids))])]

    def matching(self, condition: Mapping[str, Any]) -> list[int]:
        """Slots of the passages, deleted ones too, whose ids fit a checked condition of a filter; for formats without seals."""
        if "in" in condition:
            test, values = "id IN (SELECT value FROM json_each(?))", [json.dumps(condition["in"])]
        else:
            test = " AND ".join(f"id {_COMPARISONS[name]} ?" for name in condition)
            values = list(condition.values())
        return [slot for (slot,) in self._rows(f"SELECT slot FROM passages WHERE {test}", values)]

    def rows(self, slots: Sequence[int]) -> list[Row]:
        """The passages of these slots, deleted ones too, in the same order; without their vectors."""
        found = self._of("passages", slots, "id", "text", "title", "lang", "analysed_as", "meta", "seal")
        with self._as_stored():
            return [self._row(slot, *row) for slot, row in zip(slots, found, strict=True)]

    def _row(self, slot: int, *values: Any) -> Row:
        *fields, seal = values
        if self.sealed and _seal_of(slot, *fields) != seal:
            raise ValueError(f"the passage in slot {slot} does not fit its seal")
        name, text, title, lang, analysed_as, meta = fields
        return Row(Passage(id=name, text=text, title=title, lang=lang, meta=json.loads(meta)), analysed_as)

    def ids(self, slots: Sequence[int]) -> list[str]:
        """The ids of these slots, in the same order."""
        found = self._of("passages", slots, "id", "id_seal")
        with self._as_stored():
            if self.sealed:
                for slot, (name, seal) in zip(slots, found, strict=True):
                    if zlib.crc32(name.encode(), slot) != seal:
                        raise ValueError(f"the id in slot {slot} does not fit its seal")
            return [name for name, _ in found]

    def vectors(self, slots: Sequence[int], size: int) -> ByteArray:
        """uint8[n, size], the stored vectors of these slots in the same order."""
        found = self._of("vectors", slots, "half", "seal")
        with self._as_stored():
            for slot, (blob, seal) in zip(slots, found, strict=True):
                if len(blob) != size or (self.sealed and zlib.crc32(blob, slot) != seal):
                    raise ValueError(f"the vector in slot {slot} is not of {size} bytes or does not fit its seal")
            return np.frombuffer(b"".join([blob for blob, _ in found]), dtype=np.uint8).reshape(len(found), size)

    def deleted_by(self, slots: Sequence[int]) -> list[int]:
        """The commits that deleted the passages of these slots, by their rows, which no seal covers; 0 for live ones."""
        return [generation for (generation,) in self._of("passages", slots, "deleted")]

    def last_slot(self) -> int:
        """The highest slot that has a passage, -1 if there is none."""
        ((slot,),) = self._rows("SELECT coalesce(max(slot), -1) FROM passages")
        return int(slot)

    def _of(self, table: str, slots: Sequence[int], *columns: str) -> list[Any]:
        """The rows of these slots, in the same order, all of them. Formats without seals have NULL for one."""
        names = ", ".join(f"t.{name}" if self.sealed or not name.endswith("seal") else "NULL" for name in columns)
        sql = f"SELECT {names} FROM json_each(?) AS wanted CROSS JOIN {table} AS t ON t.slot = wanted.value ORDER BY wanted.key"
        found = self._rows(sql, [json.dumps(list(slots))])
        if len(found) != len(slots):
            raise self._damaged(f"it holds {len(found)} of {len(slots)} {table}")
        return found

    def _rows(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        with self._lock, _explained(self._path):
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[State]:
        with self._lock, _explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self.state()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    with contextlib.suppress(sqlite3.DatabaseError):  # the first error is the one to hear of
                        self._db.execute("ROLLBACK")
                raise

    def _read_manifest(self) -> dict[str, Any]:
        with self._as_stored():
            texts = dict(self._db.execute("SELECT key, value FROM manifest"))
            manifest = {key: json.loads(value) for key, value in texts.items()}
            fits = manifest.get("seal") == _manifest_seal(texts)
        sealed, version = manifest.pop("seal", None) is not None, manifest.get("format")
        if type(version) is not int:
            raise IndexFormatError(f"{self._path}: no format version in the manifest; this is not an index of shortlist.")
        if version > FORMAT:
            raise IndexFormatError(
                f"{self._path}: written in format {version}, this version of shortlist reads up to {FORMAT}. Upgrade shortlist."
            )
        if (sealed or version >= _SEALED) and not fits:
            raise self._damaged("the manifest does not fit its seal")
        return manifest

    @contextlib.contextmanager
    def _as_stored(self) -> Iterator[None]:
        """Values of another type or content than were written are damage."""
        try:
            yield
        except (ValueError, TypeError, AttributeError) as error:  # json.JSONDecodeError and UnicodeError are ValueErrors
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> IndexFormatError:
        return IndexFormatError(f"{self._path}: {what}: the database is damaged. {RESTORE}")


def _seal_of(slot: int, *texts: str) -> int:
    """The checksum of a row of texts."""
    return zlib.crc32("\0".join(texts).encode(), slot)


def _manifest_seal(texts: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(sorted((key, text) for key, text in texts.items() if key != "seal")).encode())


def _seal_manifest(db: sqlite3.Connection) -> None:
    """Renew the seal of the manifest, at the end of whatever changes one of its rows."""
    seal = _manifest_seal(dict(db.execute("SELECT key, value FROM manifest")))
    db.execute("INSERT OR REPLACE INTO manifest VALUES ('seal', ?)", [str(seal)])


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


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        if "passages.id" not in str(error):
            raise IndexFormatError(f"{path}: {error}. The database is damaged. {RESTORE}") from error
        raise BadInput(f"{path}: {error}: an id is in the index already. Nothing of the batch is stored.") from error
    except sqlite3.ProgrammingError as error:
        raise BadInput(f"{path}: {error}. Open the index again.") from error
    except sqlite3.DatabaseError as error:
        code = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise ShortlistError(f"{path}: {error}. {SAFE} Free some space first.") from error
        if code == sqlite3.SQLITE_IOERR:
            raise ShortlistError(
                f"{path}: {error} while writing or reading. {SAFE} Look whether the disk is full or fails (the system's log); "
                "then run `shortlist index check`."
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PERM):
            raise ShortlistError(f"{path}: {error}. Check the rights of the folder and who else uses it.") from error
        raise IndexFormatError(f"{path}: {error}. The database is damaged or not one of shortlist. {RESTORE}") from error
    except UnicodeDecodeError as error:  # of a name in SQLite's own message
        raise IndexFormatError(f"{path}: {error}. The database is damaged. {RESTORE}") from error
