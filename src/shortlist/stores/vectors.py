"""vectors.i8: one row a slot, append-only, scanned whole.

A row is a float32 scale (little-endian), int8[dims], and zero bytes up to a multiple of four. The file has no header: what it
must hold, and one CRC-32 a block, stand in the file `published`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shortlist import _native
from shortlist.engines.native import available_cpus
from shortlist.quantize import to_int8
from shortlist.stores.durable import CheckedMap, block_sums
from shortlist.types import ByteArray, FloatArray

BLOCK = 1 << 20
_PARALLEL_BYTES = 64 << 20  # below this (4 ms of one thread) waiting for a second one costs more than it saves


def stride(dims: int) -> int:
    """Bytes of one row."""
    return 4 + dims + (-dims % 4)


def candidates(k: int) -> int:
    """How many rows the int8 scan finds for the k best of the float16 vectors: recall@100 above 0.999 of the exact result."""
    return k + k // 4 + 100


def rows_of(vectors: FloatArray) -> ByteArray:
    """float32[n, dims] -> uint8[n, stride(dims)], the rows as they stand in the file."""
    values, scales = to_int8(vectors)
    count, dims = vectors.shape
    rows = np.zeros((count, stride(dims)), dtype=np.uint8)
    rows[:, :4] = scales.astype("<f4")[:, None].view(np.uint8)
    rows[:, 4 : 4 + dims] = values.view(np.uint8)
    return rows


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
    """The first `count` rows of the file, memory-mapped. Raises IndexFormatError if the file is missing, short or damaged."""

    def __init__(self, path: Path, count: int, dims: int, sums: list[int]) -> None:
        self.count, self.dims = count, dims
        self._map = CheckedMap(path, 0, count * stride(dims), BLOCK, sums)

    def trust(self, other: Vectors) -> None:
        """Take over what an earlier view of the same file has verified."""
        self._map.trust(other._map)

    def verify(self) -> None:
        """Check the whole file."""
        self._all()

    def scan(self, query: FloatArray, dead: ByteArray, k: int) -> tuple[npt.NDArray[np.uint32], FloatArray]:
        """The k rows of largest int8 inner product with float32[dims], and all that tie with the last; dead ones left out.

        Returns slots uint32[m] and approximate scores float32[m], best first.
        """
        values, scales = to_int8(query[None, :])
        data = self._all()
        threads = 1 if data.nbytes < _PARALLEL_BYTES else min(4, available_cpus())
        slots, scores = _native.scan_int8(data, self.dims, stride(self.dims), values[0], dead, k, threads)
        return slots, scores * scales[0]

    def scan_some(self, query: FloatArray, slots: npt.NDArray[np.int64], k: int) -> tuple[npt.NDArray[np.uint32], FloatArray]:
        """`scan` over the rows of these slots (ascending) alone, which are gathered: for slots far fewer than rows."""
        values, scales = to_int8(query[None, :])
        rows = self._all().reshape(self.count, stride(self.dims))[slots].reshape(-1)
        places, scores = _native.scan_int8(rows, self.dims, stride(self.dims), values[0], np.zeros(len(slots), np.uint8), k)
        return slots[places].astype(np.uint32), scores * scales[0]

    def _all(self) -> ByteArray:
        return self._map[0 : self.count * stride(self.dims)]
