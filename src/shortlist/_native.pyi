from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# networks (bind_network.cpp)

def instruction_sets() -> list[str]: ...

class Network:
    def __init__(
        self,
        *,
        hidden: int,
        layers: int,
        heads: int,
        intermediate: int,
        vocabulary: int,
        positions: int,
        first_position: int,
        token_types: int,
        labels: int,
        eps: float,
        tanh_gelu: bool,
        int8: bool,
        maxsim: bool,
        instruction_set: str,
        tensors: Mapping[str, npt.NDArray[Any]],
        table_file: str,
        table_place: int,
    ) -> None: ...
    def run(
        self,
        ids: npt.NDArray[np.int32],
        segments: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int32],
        pooling: str,
        threads: int,
        out: npt.NDArray[np.float32],
    ) -> None: ...

# first stage (bind_search.cpp)

def scan_int8(
    rows: npt.NDArray[np.uint8],
    dims: int,
    stride: int,
    queries: npt.NDArray[np.int8],
    dead: npt.NDArray[np.uint8],
    k: int,
    threads: int = 1,
    level: str = "",
) -> list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]]: ...
def scan_bits(
    rows: npt.NDArray[np.uint8],
    dims: int,
    stride: int,
    queries: npt.NDArray[np.int8],
    steps: npt.NDArray[np.float32],
    dead: npt.NDArray[np.uint8],
    k: int,
    threads: int = 1,
    level: str = "",
) -> list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]]: ...
def score_int8(
    rows: npt.NDArray[np.uint8],
    dims: int,
    stride: int,
    query: npt.NDArray[np.int8],
    slots: npt.NDArray[np.uint32],
    level: str = "",
) -> npt.NDArray[np.float32]: ...
def map_file(file: int, size: int) -> npt.NDArray[np.uint8]: ...
def half_dots(rows: npt.NDArray[np.uint16], query: npt.NDArray[np.float32], level: str = "") -> npt.NDArray[np.float32]: ...
def best_bm25(
    segments: list[tuple[int, npt.NDArray[np.uint32], list[tuple[Any, ...]]]],
    base: float,
    slope: float,
    hidden: npt.NDArray[np.uint8] | None,
    k: int,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]: ...
def block_bounds(
    slots: npt.NDArray[np.uint32], tf: npt.NDArray[np.unsignedinteger[Any]], lengths: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint8]: ...
def count_common(slots: npt.NDArray[np.uint32], others: npt.NDArray[np.uint32]) -> int: ...
def find_terms(offsets: npt.NDArray[np.uint64], bytes: npt.NDArray[np.uint8], wanted: list[bytes]) -> list[int]: ...  # noqa: A002
def merge_terms(
    parts: list[tuple[Any, ...]],
) -> tuple[
    npt.NDArray[np.uint64], npt.NDArray[np.uint8], npt.NDArray[np.uint64], npt.NDArray[np.uint32], npt.NDArray[np.uint32]
]: ...
def keep_terms(
    part: tuple[Any, ...], kept: npt.NDArray[np.uint8]
) -> tuple[
    npt.NDArray[np.uint64], npt.NDArray[np.uint8], npt.NDArray[np.uint64], npt.NDArray[np.uint32], npt.NDArray[np.uint32]
]: ...

# words of texts (bind_text.cpp)

def ordinary(text: str) -> bool: ...

_Inverted: TypeAlias = tuple[
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint8],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint32],
]

_Analyse: TypeAlias = Callable[[str, str], tuple[str, ...]]

class Lexicon:
    def __init__(self, words: int, longest: int) -> None: ...

class Inversion:
    def __init__(self, lexicon: Lexicon) -> None: ...
    def add_text(self, folded: str, analyse: _Analyse, lang: str, times: int = 1) -> None: ...
    def add_words(self, words: list[str], analyse: _Analyse, lang: str, times: int = 1) -> None: ...
    def end(self) -> None: ...
    def arrays(self) -> _Inverted: ...

def invert_terms(texts: Iterable[Iterable[str | bytes]]) -> _Inverted: ...

class Ballot:
    def __init__(
        self,
        languages: int,
        words: dict[str, list[int]],
        endings: dict[str, list[int]],
        letters: dict[str, list[int]],
        ending: float,
        letter: float,
    ) -> None: ...
    def votes(self, sample: str, found: list[str]) -> list[float]: ...

# Unigram tokenizer (bind_unigram.cpp)

def compile_unigram(
    pieces: list[str],
    scores: npt.NDArray[np.float64],
    unknown: int,
    charsmap: bytes,
    *,
    split_spaces: bool,
    collapse_spaces: bool,
    note: bytes,
) -> bytes: ...

class Unigram:
    def __init__(self, file: npt.NDArray[np.uint8]) -> None: ...
    def set_control(self, ids: list[int], strings: list[str]) -> None: ...
    def encode(self, texts: list[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]: ...
    def normalized(self, text: str) -> str: ...
    def find(self, piece: str) -> int: ...
    def piece(self, id: int) -> str: ...  # noqa: A002
    @property
    def note(self) -> bytes: ...
    @property
    def size(self) -> int: ...
