"""Vectors on disk: the form in which the truth keeps them, and the derived files that are scanned whole.

| mode              | truth                  | scanned     | scored again with |
|-------------------|------------------------|-------------|-------------------|
| `float32`         | float32                | vectors.i8  | float32           |
| `int8`            | float16                | vectors.i8  | float16           |
| `binary-rescored` | int8                   | vectors.b1  | vectors.i8        |
| `binary`          | 1 bit a number         | vectors.b1  | the whole query   |

A derived file has one row a slot and is append-only. A row of `vectors.i8` is a float32 scale (little-endian), int8[dims], and
zero bytes up to a multiple of four; one of `vectors.b1` two float32 (`quantize.to_bits`), dims bits, and zeros likewise. The
files have no header: what they must hold, and one CRC-32 a block, stand in the file `published`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shortlist import _native
from shortlist.engines.native import available_cpus
from shortlist.errors import IndexFormatError
from shortlist.quantize import from_bits, signs_of, small_query, to_bits, to_half, to_int8
from shortlist.stores.durable import CheckedMap, block_sums
from shortlist.types import ByteArray, FloatArray

BLOCK = 1 << 20
_SCORED_BYTES = 1 << 16  # of float32 at a time: larger arrays are new memory at every search, and cost more than their sums
_ROOM_BYTES = 16 << 20  # of addresses, for rows to come
_PARALLEL_BYTES = 64 << 20  # below this (4 ms of one thread) waiting for a second one costs more than it saves

Found = tuple[npt.NDArray[np.uint32], FloatArray]

MODES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "float32": ("f32", ("i8",)),
    "int8": ("f16", ("i8",)),
    "binary-rescored": ("i8", ("b1", "i8")),
    "binary": ("b1", ("b1",)),
}
"""Mode -> the form in the truth, and those of the derived files, the one that is scanned first."""


def stride(dims: int) -> int:
    """Bytes of one row of vectors.i8."""
    return 4 + dims + (-dims % 4)


def bit_stride(dims: int) -> int:
    """Bytes of one row of vectors.b1."""
    return 8 + (dims + 31) // 32 * 4


def candidates(k: int) -> int:
    """How many rows a scan finds for the k best: in int8, recall@100 is above 0.999 of the exact result then."""
    return k + k // 4 + 100


def rows_of(vectors: FloatArray) -> ByteArray:
    """float32[n, dims] -> uint8[n, stride(dims)], the rows as they stand in vectors.i8."""
    values, scales = to_int8(vectors)
    count, dims = vectors.shape
    rows = np.zeros((count, stride(dims)), dtype=np.uint8)
    rows[:, :4] = _as_bytes(scales)
    rows[:, 4 : 4 + dims] = values.view(np.uint8)
    return rows


def bit_rows_of(vectors: FloatArray, centre: FloatArray) -> ByteArray:
    """float32[n, dims] -> uint8[n, bit_stride(dims)], the rows as they stand in vectors.b1."""
    bits, factors, offsets = to_bits(vectors, centre)
    rows = np.zeros((len(vectors), bit_stride(vectors.shape[1])), dtype=np.uint8)
    rows[:, :4], rows[:, 4:8] = _as_bytes(factors), _as_bytes(offsets)
    rows[:, 8 : 8 + bits.shape[1]] = bits
    return rows


def _as_bytes(numbers: FloatArray) -> ByteArray:
    """float32[n] -> uint8[n, 4], little-endian."""
    return numbers.astype("<f4")[:, None].view(np.uint8)


def _floats(rows: ByteArray, start: int) -> FloatArray:
    """The float32 of each row that begins at byte `start`."""
    numbers: FloatArray = np.ascontiguousarray(rows[:, start : start + 4]).view("<f4")[:, 0]
    return numbers


@dataclass(frozen=True)
class Layout:
    """How one index keeps its vectors, as decided when it was created.

    dims                numbers of a vector
    centre              float32[dims], subtracted before the signs are taken; empty for modes without bits
    rescore_multiplier  of "binary-rescored": times as many rows as wanted are found by their bits and scored again in int8
    """

    mode: str
    dims: int
    centre: FloatArray
    rescore_multiplier: int = 1

    @staticmethod
    def of(manifest: Mapping[str, Any]) -> Layout:
        """The layout that a manifest states. Raises IndexFormatError if this version does not know it."""
        mode, encoder = manifest.get("vectors") or "int8", manifest["encoder"]
        dims = manifest.get("dims", encoder["dims"]) if encoder else 0
        centre = np.array(manifest.get("centre", []), dtype=np.float32)
        if mode not in MODES or ("b1" in MODES[mode][1] and len(centre) != dims):
            raise IndexFormatError(
                f"vectors={mode!r}, centre of {len(centre)} numbers for {dims}: not of this version's modes."
            )
        return Layout(mode, dims, centre, manifest.get("rescore_multiplier", 1))

    @property
    def form(self) -> str:
        """The form in the truth."""
        return MODES[self.mode][0]

    @property
    def files(self) -> tuple[str, ...]:
        """The forms of the derived files."""
        return MODES[self.mode][1]

    def size(self, form: str) -> int:
        """Bytes of one vector in a form."""
        return {"f32": 4 * self.dims, "f16": 2 * self.dims, "i8": stride(self.dims), "b1": bit_stride(self.dims)}[form]

    def stored(self, vectors: FloatArray) -> ByteArray:
        """float32[n, dims] -> uint8[n, size(form)] for the truth. Raises BadInput for numbers that float16 cannot hold."""
        return self._written(vectors, self.form)

    def rows(self, stored: ByteArray, form: str) -> ByteArray:
        """Rows of a derived file, always made from what is stored, so that a rebuild gives the same bytes."""
        return stored if form == self.form else self._written(self.vectors(stored), form)

    def vectors(self, stored: ByteArray) -> FloatArray:
        """uint8[n, size(form)] -> float32[n, dims], the vectors as far as the truth remembers them."""
        if self.form == "i8":
            values: FloatArray = stored[:, 4 : 4 + self.dims].view(np.int8) * _floats(stored, 0)[:, None]
            return values
        if self.form == "b1":
            return from_bits(stored[:, 8:], _floats(stored, 0), self.centre)
        return np.ascontiguousarray(stored).view("<f4" if self.form == "f32" else "<f2").astype(np.float32)

    def scores(self, stored: ByteArray, query: FloatArray) -> FloatArray:
        """float32[n], inner products of the stored vectors with float32[dims]; estimates where only bits are stored."""
        if self.form == "f16":
            return _native.half_dots(np.ascontiguousarray(stored).view("<u2"), np.ascontiguousarray(query))
        few = max(1, _SCORED_BYTES // (4 * self.dims))
        parts = [self._scores(stored[start : start + few], query) for start in range(0, len(stored), few)]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _scores(self, stored: ByteArray, query: FloatArray) -> FloatArray:
        if self.form == "b1":
            signs = (signs_of(stored[:, 8:], self.dims) * (query - self.centre)).sum(axis=1)
            estimates: FloatArray = _floats(stored, 4) + _floats(stored, 0) * signs + float(query @ self.centre)
            return estimates
        products: FloatArray = (self.vectors(stored) * query).sum(axis=1)
        return products

    def _written(self, vectors: FloatArray, form: str) -> ByteArray:
        if form == "i8":
            return rows_of(vectors)
        if form == "b1":
            return bit_rows_of(vectors, self.centre)
        numbers = vectors.astype("<f4") if form == "f32" else to_half(vectors).astype("<f2")
        return np.ascontiguousarray(numbers).view(np.uint8)


def append_rows(path: Path, size: int, sums: list[int], rows: ByteArray) -> list[int]:
    """Write rows after the first `size` bytes, durably, over whatever a crash left there; returns the new checksums."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(rows.data)
        file.flush()
        os.fsync(file.fileno())
    return block_sums(rows.data, BLOCK, sums, size)


class Vectors:
    """The first `count` rows of the derived files, memory-mapped; sums: {form: checksums of its file's blocks}.

    `before` is an earlier view of the same files, whose memory and whose verified blocks are taken over.
    Raises IndexFormatError if a file is missing, short or damaged.
    """

    def __init__(
        self, folder: Path, count: int, layout: Layout, sums: Mapping[str, Sequence[int]], before: Vectors | None = None
    ) -> None:
        self.count, self.layout = count, layout
        known = {} if before is None else before._maps
        self._maps: dict[str, CheckedMap] = {
            form: self._mapped(folder, form, sums[form], known.get(form)) for form in layout.files if count
        }

    def _mapped(self, folder: Path, form: str, sums: Sequence[int], before: CheckedMap | None) -> CheckedMap:
        size = self.count * self.layout.size(form)
        room = _ROOM_BYTES + size // 4
        return CheckedMap(folder / f"vectors.{form}", 0, size, BLOCK, list(sums), room=room, before=before)

    def rows(self, form: str, start: int, stop: int) -> ByteArray:
        """uint8[stop - start, size(form)], the rows of these slots, verified."""
        size = self.layout.size(form)
        return self._maps[form][start * size : stop * size].reshape(stop - start, size)

    def verify(self) -> None:
        """Check the files as a whole."""
        for form in self.layout.files:
            self._all(form)

    def scan(self, query: FloatArray, dead: ByteArray, k: int) -> Found:
        """The k rows of largest inner product with float32[dims], and all that tie with the last; dead ones left out.

        Returns slots uint32[m] and approximate scores float32[m], best first; products lack the same constant where bits were
        scanned.
        """
        return self.scan_many(query[None, :], dead, k)[0]

    def scan_many(self, queries: FloatArray, dead: ByteArray, k: int) -> list[Found]:
        """`scan` of float32[n, dims], one result a query; all share the passes through memory."""
        if self.layout.files[0] == "i8":
            return self._scan_int8(self._all("i8"), queries, dead, k)
        if "i8" not in self.layout.files:
            return self._scan_bits(self._all("b1"), queries, dead, k)
        wide = self._scan_bits(self._all("b1"), queries, dead, k * self.layout.rescore_multiplier)
        return [self._score_int8(query, slots, k) for query, (slots, _) in zip(queries, wide, strict=True)]

    def scan_some(self, queries: FloatArray, slots: npt.NDArray[np.int64], k: int) -> list[Found]:
        """`scan_many` over the rows of these slots (ascending) alone, which are gathered: for slots far fewer than rows."""
        form, scan = ("i8", self._scan_int8) if "i8" in self.layout.files else ("b1", self._scan_bits)
        rows = self._all(form).reshape(self.count, self.layout.size(form))[slots].reshape(-1)
        found = scan(rows, queries, np.zeros(len(slots), np.uint8), k)
        return [(slots[places].astype(np.uint32), scores) for places, scores in found]

    def _scan_int8(self, data: ByteArray, queries: FloatArray, dead: ByteArray, k: int) -> list[Found]:
        values, scales = to_int8(queries)
        dims = self.layout.dims
        found = _native.scan_int8(data, dims, stride(dims), values, dead, k, _threads(data))
        return [(slots, scores * scale) for (slots, scores), scale in zip(found, scales, strict=True)]

    def _scan_bits(self, data: ByteArray, queries: FloatArray, dead: ByteArray, k: int) -> list[Found]:
        values, steps = small_query(queries - self.layout.centre)
        dims = self.layout.dims
        return _native.scan_bits(data, dims, bit_stride(dims), values, steps, dead, k, _threads(data))

    def _score_int8(self, query: FloatArray, slots: npt.NDArray[np.uint32], k: int) -> Found:
        """Of these slots the k best by their int8 rows, and all that tie with the last."""
        values, scales = to_int8(query[None, :])
        dims = self.layout.dims
        scores = _native.score_int8(self._all("i8"), dims, stride(dims), values[0], slots) * scales[0]
        if len(slots) > k:
            kept = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
            slots, scores = slots[kept], scores[kept]
        order = np.argsort(-scores, kind="stable")
        return slots[order], scores[order]

    def _all(self, form: str) -> ByteArray:
        if not self.count:
            return np.zeros(0, np.uint8)
        return self._maps[form][0 : self.count * self.layout.size(form)]


def _threads(data: ByteArray) -> int:
    return 1 if data.nbytes < _PARALLEL_BYTES else min(4, available_cpus())
