"""Immutable files of named arrays with checksums: the container of posting and column segments.

All numbers are little-endian:

    8 bytes  magic, one a kind of file
    u32 u32  length and CRC-32 of the JSON header that follows
    JSON     {"index", "first", "count", "block", "sums", "sections": {name: [start, bytes]}}; zero bytes up to a multiple of 64
    body     sections, each at a multiple of 64 bytes from the body's start; one CRC-32 a block of the body in "sums"

`first` and `count` say which slots the file describes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import IndexFormatError
from shortlist.stores.durable import REBUILD, CheckedMap, block_sums, replace_file

_PREAMBLE = struct.Struct("<8sII")
_ALIGN = 64
_BLOCK = 1 << 16


def write_sections(
    path: Path, magic: bytes, index: str, first: int, count: int, arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write a file durably. `index` is the id of the index it belongs to; the arrays are little-endian already."""
    body: list[bytes | memoryview] = []
    sections: dict[str, list[int]] = {}
    sums: list[int] = []
    at = 0
    for name, array in arrays.items():
        sections[name] = [at, array.nbytes]
        for piece in (np.ascontiguousarray(array).view(np.uint8).data, bytes(-array.nbytes % _ALIGN)):
            sums = block_sums(piece, _BLOCK, sums, at)
            body.append(piece)
            at += len(piece)
    fields = {"index": index, "first": first, "count": count, "block": _BLOCK, "sums": sums}
    header = json.dumps({**fields, "sections": sections}).encode()
    preamble = _PREAMBLE.pack(magic, len(header), zlib.crc32(header))
    filler = bytes(-(_PREAMBLE.size + len(header)) % _ALIGN)
    replace_file(path, [preamble, header, filler, *body])


class Sections:
    """A file of sections, memory-mapped; a block is verified before its first use.

    Raises IndexFormatError on opening or reading if the file is missing, torn, damaged or another index's.
    """

    def __init__(self, path: Path, magic: bytes, index: str) -> None:
        self.path = path
        try:
            self._open(*_read_header(path, magic), index)
        except (KeyError, TypeError, ValueError, IndexError) as error:  # a header that is whole but says nonsense
            raise self.damaged(error) from error

    def _open(self, header: dict[str, Any], start: int, index: str) -> None:
        if header["index"] != index:
            raise IndexFormatError(f"{self.path}: belongs to another index. {REBUILD}")
        self.first: int = header["first"]
        self.count: int = header["count"]
        self._sections: dict[str, list[int]] = header["sections"]
        size = max(at + length + (-length % _ALIGN) for at, length in self._sections.values())
        self._body = CheckedMap(self.path, start, size, header["block"], header["sums"])

    def holds(self, name: str) -> bool:
        """Whether there is a section of this name."""
        return name in self._sections

    def bytes_of(self, name: str) -> int:
        """How long a section is."""
        return self._sections[name][1]

    def whole(self, name: str, dtype: str) -> npt.NDArray[Any]:
        """A section as an array, verified."""
        return self.part(name, dtype, 0, self._sections[name][1] // np.dtype(dtype).itemsize)

    def part(self, name: str, dtype: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Elements start..stop-1 of a section, verified."""
        at, width = self._sections[name][0], np.dtype(dtype).itemsize
        return self._body[at + start * width : at + stop * width].view(dtype)

    def verify(self) -> None:
        """Check the whole file, also what was sound before. Raises IndexFormatError."""
        self._body.verify()

    def damaged(self, what: object) -> IndexFormatError:
        """The error that says so and how to rebuild."""
        return IndexFormatError(f"{self.path}: {what}. {REBUILD}")


def _read_header(path: Path, magic: bytes) -> tuple[dict[str, Any], int]:
    """The JSON header and where the body starts."""
    try:
        with path.open("rb") as file:
            start = file.read(_PREAMBLE.size)
            found, length, check = _PREAMBLE.unpack(start)
            text = file.read(min(length, path.stat().st_size))
    except FileNotFoundError as error:
        raise IndexFormatError(f"{path}: the file is missing. {REBUILD}") from error
    except struct.error as error:
        raise IndexFormatError(f"{path}: the file is cut off. {REBUILD}") from error
    if found != magic or len(text) != length or zlib.crc32(text) != check:
        raise IndexFormatError(f"{path}: the header is damaged or of another format. {REBUILD}")
    end = _PREAMBLE.size + length
    return json.loads(text), end + (-end % _ALIGN)
