"""Vectors in fewer bits: pure functions on arrays."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput
from shortlist.types import FloatArray

Int8Array: TypeAlias = npt.NDArray[np.int8]
HalfArray: TypeAlias = npt.NDArray[np.float16]

HALF_MAX = float(np.finfo(np.float16).max)


def to_int8(vectors: FloatArray) -> tuple[Int8Array, FloatArray]:
    """Symmetric int8 with one scale a row, so that `scales[:, None] * rows` approximates `vectors`.

    vectors  float32[n, dims], finite
    returns  int8[n, dims] in -127..127 and float32[n] scales (0 for a row of zeros)
    """
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / 127.0).astype(np.float32)
    divisors = np.where(scales > 0, scales, np.float32(1.0))
    rows = np.clip(np.rint(vectors / divisors[:, None]), -127, 127)
    return rows.astype(np.int8), scales


def to_half(vectors: FloatArray) -> HalfArray:
    """float32[n, dims] -> float16[n, dims]. Raises BadInput for values that float16 cannot hold."""
    largest = float(np.abs(vectors).max(initial=0.0))
    if largest > HALF_MAX:
        raise BadInput(f"a vector holds the value {largest:g}, beyond float16's {HALF_MAX:g}: normalise the vectors first.")
    return vectors.astype(np.float16)


def checked_vectors(vectors: npt.ArrayLike, count: int, dims: int) -> FloatArray:
    """`vectors` as contiguous float32[count, dims]. Raises BadInput for another shape and for NaN or infinite values."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.shape != (count, dims):
        raise BadInput(f"vectors have the shape {array.shape}, expected ({count}, {dims}): one row of {dims} numbers a text.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise BadInput(f"vector {row} holds NaN or infinite values; they cannot be ranked. Check the encoder that made it.")
    return array
