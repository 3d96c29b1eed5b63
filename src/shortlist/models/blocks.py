"""4-bit numbers in blocks of 32 with one float16 scale each, in ggml's Q4_0 arrangement.

Number j of a block is scale * ((byte[j] & 15) - 8) for j < 16, and scale * ((byte[j - 16] >> 4) - 8) for the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 32
LARGEST_SCALE = 8192
"""Eight times more would not fit float16."""


def to_blocks(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """float32[rows, columns], columns a multiple of 32 -> uint8[rows, columns / 2] and scales float16[rows, columns / 32].

    The number of largest magnitude in a block becomes -8 exactly, so what was in blocks before comes back unchanged.
    """
    blocks = weights.reshape(-1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scales = (largest / -8).astype(np.float16)
    divisors = np.where(scales == 0, np.float32(1), scales.astype(np.float32))
    codes = np.clip(np.rint(blocks / divisors) + 8, 0, 15).astype(np.uint8)
    packed = codes[:, :16] | codes[:, 16:] << 4
    return packed.reshape(len(weights), -1), scales.reshape(len(weights), -1)


def from_blocks(packed: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    """uint8[..., columns / 2] and float16[..., columns / 32] -> float16[..., columns], each product rounded once."""
    pairs, factors = packed.reshape(-1, BLOCK // 2), scales.reshape(-1, 1).astype(np.float32)
    out = np.empty((len(pairs), BLOCK), np.float16)
    out[:, :16] = factors * ((pairs & 15).astype(np.float32) - 8)
    out[:, 16:] = factors * ((pairs >> 4).astype(np.float32) - 8)
    return out.reshape(*packed.shape[:-1], -1)
