"""Vectors in fewer bits: pure functions on arrays."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput
from shortlist.types import ByteArray, FloatArray

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


def to_bits(vectors: FloatArray, centre: FloatArray) -> tuple[ByteArray, FloatArray, FloatArray]:
    """One bit a number, and two numbers a vector that make inner products with float queries good estimates.

    A bit is set where vector > centre; with s the signs, `offsets + factors * (s @ (query - centre))` estimates
    `(vector - centre) @ query`: the part along the centre is exact, and the factor makes the product of a vector with itself
    right (the estimator of RaBitQ, arXiv:2405.12497, without its rotation, which gains nothing on embeddings). Embeddings lie
    in a narrow cone, where signs without a centre say next to nothing.

    vectors  float32[n, dims]; centre float32[dims]
    returns  uint8[n, ceil(dims / 8)], first number in the highest bit; float32[n] factors; float32[n] offsets
    """
    around = vectors - centre
    sizes = np.abs(around).sum(axis=1, dtype=np.float64)
    squares = (around.astype(np.float64) ** 2).sum(axis=1)
    factors = np.divide(squares, sizes, out=np.zeros_like(squares), where=sizes > 0).astype(np.float32)
    offsets = (around.astype(np.float64) * centre).sum(axis=1).astype(np.float32)
    return np.packbits(around > 0, axis=1), factors, offsets


def signs_of(bits: ByteArray, dims: int) -> FloatArray:
    """uint8[n, at least dims / 8] -> float32[n, dims]: 1 where a bit is set, else -1."""
    signs: FloatArray = np.unpackbits(bits, axis=1, count=dims).astype(np.float32) * 2 - 1
    return signs


def from_bits(bits: ByteArray, factors: FloatArray, centre: FloatArray) -> FloatArray:
    """float32[n, dims], the vectors of which `to_bits` has the signs, as far as they are known."""
    vectors: FloatArray = centre + factors[:, None] * signs_of(bits, len(centre))
    return vectors


def small_query(queries: FloatArray) -> tuple[Int8Array, FloatArray]:
    """Whole numbers from -7 to 7 with one step a row, so that `steps[:, None] * rows` approximates float32[n, dims].

    returns  int8[n, dims] and float32[n]
    """
    steps = (np.abs(queries).max(axis=1, initial=0.0) / 7).astype(np.float32)
    divisors = np.where(steps > 0, steps, np.float32(1.0))
    return np.clip(np.rint(queries / divisors[:, None]), -7, 7).astype(np.int8), steps


PRECISIONS: Final = ("float32", "int8", "uint8", "binary", "ubinary")
"""The words of `quantize_embeddings`."""


def quantize_embeddings(
    embeddings: npt.ArrayLike,
    precision: str,
    ranges: npt.ArrayLike | None = None,
    calibration_embeddings: npt.ArrayLike | None = None,
) -> npt.NDArray[np.generic]:
    """Embeddings in fewer bits, with the words and the bytes of sentence_transformers.quantization.quantize_embeddings.

    float32  as they are
    uint8    the range of each dimension in 256 steps, counted from its lower end; what lies outside is clipped to 0 or 255
    int8     the same minus 128
    ubinary  one bit a number, set where it is above zero, the first in the highest bit: uint8[n, ceil(dims / 8)]
    binary   the same bytes minus 128, as int8

    ranges                  [2, dims], least and largest number of each dimension, for int8 and uint8
    calibration_embeddings  [m, dims], where the ranges are taken from if not given; without either, from `embeddings`

    Raises BadInput for another precision, an array that is not float[n, dims], NaN and infinite numbers, ranges of another
    shape, and a single embedding without ranges.
    """
    if precision not in PRECISIONS:
        raise BadInput(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}.")
    array = _embeddings(embeddings, "embeddings")
    if precision == "float32":
        return array.astype(np.float32)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(array > 0, axis=1)
        return bits if precision == "ubinary" else (bits ^ 0x80).view(np.int8)
    if ranges is None:
        limits = _ranges(
            array if calibration_embeddings is None else _embeddings(calibration_embeddings, "calibration_embeddings")
        )
    else:
        limits = np.asarray(ranges, dtype=np.float32)
    if limits.shape != (2, array.shape[1]) or not (limits[0] <= limits[1]).all():
        raise BadInput(
            f"ranges have the shape {limits.shape}; expected (2, {array.shape[1]}): least and largest, in this order."
        )
    steps = (limits[1] - limits[0]) / 255
    places: FloatArray = np.clip(np.floor((array - limits[0]) / np.where(steps == 0, 1, steps)), 0, 255)
    return places.astype(np.uint8) if precision == "uint8" else (places - 128).astype(np.int8)


def _ranges(embeddings: FloatArray) -> FloatArray:
    if len(embeddings) < 2:
        raise BadInput(
            f"the range of each dimension cannot be told from {len(embeddings)} embedding(s): give ranges= or "
            "calibration_embeddings=."
        )
    limits: FloatArray = np.stack([embeddings.min(axis=0), embeddings.max(axis=0)]).astype(np.float32)
    return limits


def _embeddings(values: npt.ArrayLike, name: str) -> FloatArray:
    array: FloatArray = np.asarray(values)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise BadInput(f"{name} are {array.dtype}{list(array.shape)}; expected floating-point numbers [n, dims].")
    if not np.isfinite(array).all():
        raise BadInput(f"{name} hold NaN or infinite values; they have no place in a range. Check the encoder that made them.")
    return array


def shortened(vectors: FloatArray, dims: int) -> FloatArray:
    """The first `dims` numbers of each vector, of length 1 again (Matryoshka truncation, arXiv:2205.13147)."""
    if dims == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dims]
    short: FloatArray = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return short


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
