"""The native core."""

from typing import Any

import numpy as np
import numpy.typing as npt

# --- first stage: bind_search.cpp

def scan_int8(
    rows: npt.NDArray[np.uint8],
    dims: int,
    stride: int,
    query: npt.NDArray[np.int8],
    dead: npt.NDArray[np.uint8],
    k: int,
    threads: int = 1,
    level: str = "",
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]: ...
def top_k(
    scores: npt.NDArray[np.float32], dead: npt.NDArray[np.uint8], k: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]: ...
def add_postings(
    slots: npt.NDArray[np.uint32],
    tf: npt.NDArray[np.unsignedinteger[Any]],
    weight: float,
    norms: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
) -> None: ...
def live_postings(slots: npt.NDArray[np.uint32], dead: npt.NDArray[np.uint8]) -> int: ...
def find_terms(offsets: npt.NDArray[np.uint64], bytes: npt.NDArray[np.uint8], wanted: list[bytes]) -> list[int]: ...  # noqa: A002
def merge_terms(
    parts: list[tuple[Any, ...]],
) -> tuple[
    npt.NDArray[np.uint64], npt.NDArray[np.uint8], npt.NDArray[np.uint64], npt.NDArray[np.uint32], npt.NDArray[np.uint32]
]: ...
