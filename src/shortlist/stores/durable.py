"""Files that survive a crash: atomic replacement, fsync of file and folder, checksummed memory maps, the writer's lock.

What the system refuses becomes a ShortlistError that says what is safe and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from shortlist import _native
from shortlist.errors import IndexFormatError, IndexLocked, ShortlistError
from shortlist.types import ByteArray


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a whole file so that after a crash there is the old one or the new one, never a part."""
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def make_folders(path: Path) -> None:
    """Make a folder and the parents that are missing, each one durable; what is there already stays as it is."""
    if not path.is_dir():
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


SAFE = (
    "What was committed before stays readable; the batch in flight is there as a whole or not at all once the index has been "
    "opened for writing again."
)
_FULL = f"{SAFE} Free some space first."
_FORBIDDEN = (
    "Reading needs the right to read all files of the index; changing it needs the right to write into its folder, too."
)
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EIO: f"{SAFE} The disk or its connection fails: look into the system's log, then run `shortlist index check`.",
    errno.EROFS: "Its file system is mounted for reading only: open the index for reading, or mount it for writing.",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever the system refuses, from a full disk to a failing one, into a ShortlistError that says what is safe."""
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ShortlistError(f"{path}: {reason}{file}. {_ADVICE.get(error.errno or 0, SAFE)}") from error


@contextlib.contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """Turn what native loops refuse of a file's content into the IndexFormatError of a damaged file."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise IndexFormatError(f"{path}: {error}. {REBUILD}") from error


class CheckedMap:
    """A memory-mapped region of a file with one CRC-32 a block; a block is verified before its first use.

    `size` bytes from `start` on are mapped; `sums` holds the checksums of its blocks of `block` bytes, the last one shorter.
    Of a file that grows, `room` more are reserved, and `before`, an earlier map of it, lends its memory and its verdicts while
    they suffice: the pages of a new map would all have to be found again.
    Raises IndexFormatError if the file is shorter than promised.
    """

    def __init__(
        self, path: Path, start: int, size: int, block: int, sums: list[int], *, room: int = 0, before: CheckedMap | None = None
    ) -> None:
        if len(sums) != -(-size // block):
            raise IndexFormatError(f"{path}: {len(sums)} checksums for {size} bytes in blocks of {block}. {REBUILD}")
        self._path, self._block, self._sums = path, block, sums
        self._verified = np.zeros(len(sums), dtype=bool)
        self._mapping: _Mapping = _mapped(path, start + size, room, None if before is None else before._mapping)
        self._bytes = self._mapping.data[start : start + size]
        if before is not None and before._mapping.file == self._mapping.file:
            self._trust(before)

    def __getitem__(self, span: slice) -> ByteArray:
        """uint8[stop - start], verified. Raises IndexFormatError if a checksum does not fit."""
        first, last = span.start // self._block, -(-span.stop // self._block)
        for block in np.flatnonzero(~self._verified[first:last]) + first:
            data = self._bytes[block * self._block : (block + 1) * self._block]
            if zlib.crc32(data.data) != self._sums[block]:
                raise IndexFormatError(f"{self._path}: block {block} is damaged (checksum). {REBUILD}")
            self._verified[block] = True
        return self._bytes[span]

    def verify(self) -> None:
        """Compare every block with its checksum, also those that were sound before. Raises IndexFormatError."""
        self._verified[:] = False
        self[0 : len(self._bytes)]

    def _trust(self, other: CheckedMap) -> None:
        """Take over the verdicts of an earlier map of the same file for blocks whose checksums have not changed."""
        for block in np.flatnonzero(other._verified[: len(self._sums)]):
            self._verified[block] = self._sums[block] == other._sums[block]


REBUILD = (
    "Nothing is lost: the passages are in passages.sqlite. Open the index for writing once, "
    "Index.open(path, write=True), and the damaged file is rebuilt."
)


@dataclass(frozen=True)
class _Mapping:
    """The bytes of a file, or more, and which file that is."""

    data: ByteArray
    file: tuple[int, int]


def _mapped(path: Path, size: int, room: int, before: _Mapping | None) -> _Mapping:
    """At least `size` bytes of a file that has them."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_size < size or size < 0:
                raise IndexFormatError(f"{path}: {stat.st_size} bytes, expected at least {size}. {REBUILD}")
            identity = stat.st_dev, stat.st_ino
            if before is not None and before.file == identity and len(before.data) >= size:
                return before
            return _Mapping(_native.map_file(file.fileno(), size + room) if size else np.zeros(0, dtype=np.uint8), identity)
    except FileNotFoundError as error:
        raise IndexFormatError(f"{path}: the file is missing. {REBUILD}") from error


def block_sums(data: memoryview | bytes, block: int, sums: list[int], size: int) -> list[int]:
    """Checksums of a file that had `size` bytes and the checksums `sums`, after `data` was appended to it."""
    view = memoryview(data).cast("B")
    result, at = list(sums), 0
    while at < len(view):
        room = block - size % block
        piece = view[at : at + room]
        if room == block:
            result.append(zlib.crc32(piece))
        else:
            result[-1] = zlib.crc32(piece, result[-1])
        at, size = at + len(piece), size + len(piece)
    return result


class WriterLock:
    """The right to write, held by flock until `release` or the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        except BlockingIOError as error:
            owner = _owner(os.pread(self._handle, 4096, 0))
            os.close(self._handle)
            raise IndexLocked(
                f"{path.parent} is open for writing by {owner}; one process writes at a time. "
                "Wait until it has closed the index, or open it for reading."
            ) from error
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the right to write back."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _owner(content: bytes) -> str:
    try:
        owner = json.loads(content)
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
