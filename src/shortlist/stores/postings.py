"""Posting segments: immutable files with the terms of a run of slots, and BM25 over several of them.

A segment is a file of sections.py with the magic "SLTERMS1":

    lengths u32[count]        terms of each slot, with repeats
    offsets u64[terms + 1]    term i is bytes[offsets[i]:offsets[i + 1]]
    bytes   UTF-8 of the terms, ascending
    starts  u64[terms + 1]    postings of term i are starts[i]:starts[i + 1]
    slots   u32[postings]     relative to `first`, ascending within a term
    tf      u8|u16|u32[postings], as wide as the segment's largest needs
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist import _native
from shortlist.errors import IndexFormatError
from shortlist.stores.durable import REBUILD
from shortlist.stores.sections import Sections, write_sections
from shortlist.types import ByteArray, FloatArray

_MAGIC = b"SLTERMS1"
_WIDTHS = {1: "<u1", 2: "<u2", 4: "<u4"}


@dataclass(frozen=True)
class Postings:
    """Inverted lists of `count` slots as arrays: see the sections of the file."""

    lengths: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint64]
    bytes: ByteArray
    starts: npt.NDArray[np.uint64]
    slots: npt.NDArray[np.uint32]
    tf: npt.NDArray[np.unsignedinteger[Any]]


def invert(texts: Sequence[Sequence[str]]) -> Postings:
    """The inverted lists of texts given as terms; slot i is texts[i]."""
    numbers: dict[str, int] = {}
    flat = np.array([numbers.setdefault(term, len(numbers)) for terms in texts for term in terms], dtype=np.uint64)
    lengths = np.array([len(terms) for terms in texts], dtype=np.uint32)
    words = [term.encode() for term in numbers]
    order = sorted(range(len(words)), key=words.__getitem__)
    place = np.empty(len(words), dtype=np.uint64)
    place[order] = np.arange(len(words), dtype=np.uint64)
    slots = np.repeat(np.arange(len(texts), dtype=np.uint64), lengths)
    keys, tf = np.unique((place[flat] << np.uint64(32)) | slots, return_counts=True)
    starts = np.searchsorted(keys, np.arange(len(words) + 1, dtype=np.uint64) << np.uint64(32))
    return Postings(
        lengths=lengths,
        offsets=np.cumsum([0, *(len(words[i]) for i in order)], dtype=np.uint64),
        bytes=np.frombuffer(b"".join(words[i] for i in order), dtype=np.uint8),
        starts=starts.astype(np.uint64),
        slots=(keys & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        tf=tf.astype(np.uint32),
    )


def write_segment(path: Path, index: str, first: int, postings: Postings) -> None:
    """Write a segment file durably. `index` is the id of the index it belongs to, `first` its first slot."""
    largest = int(postings.tf.max(initial=0))
    width = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
    arrays = {
        "lengths": postings.lengths.astype("<u4", copy=False),
        "offsets": postings.offsets.astype("<u8", copy=False),
        "bytes": postings.bytes,
        "starts": postings.starts.astype("<u8", copy=False),
        "slots": postings.slots.astype("<u4", copy=False),
        "tf": postings.tf.astype(_WIDTHS[width], copy=False),
    }
    write_sections(path, _MAGIC, index, first, len(postings.lengths), arrays)


class Segment:
    """A segment file, memory-mapped. The dictionary is verified at once, each posting list before its first use.

    Raises IndexFormatError on opening or reading if the file is missing, torn, damaged or another index's.
    """

    def __init__(self, path: Path, index: str) -> None:
        self.path = path
        self._file = Sections(path, _MAGIC, index)
        self.first, self.count = self._file.first, self._file.count
        try:
            self._open()
        except (KeyError, TypeError, ValueError) as error:  # a header that is whole but says nonsense
            raise self._file.damaged(error) from error

    def _open(self) -> None:
        self.lengths: npt.NDArray[np.uint32] = self._file.whole("lengths", "<u4")
        self._offsets: npt.NDArray[np.uint64] = self._file.whole("offsets", "<u8")
        self._bytes: ByteArray = self._file.whole("bytes", "u1")
        self._starts: npt.NDArray[np.uint64] = self._file.whole("starts", "<u8")
        self._postings = self._file.bytes_of("slots") // 4
        self._width = self._file.bytes_of("tf") // self._postings if self._postings else 1
        if len(self.lengths) != self.count or self._width not in _WIDTHS:
            raise self._file.damaged("sections that do not fit together")

    @cached_property
    def total(self) -> int:
        """Terms of all slots together, deleted ones too."""
        return int(self.lengths.sum(dtype=np.int64))

    def find(self, terms: list[bytes]) -> list[int]:
        """Places of the terms in the dictionary, -1 for those that are not in it."""
        try:
            return _native.find_terms(self._offsets, self._bytes, terms)
        except RuntimeError as error:
            raise self._file.damaged(error) from error

    def postings(self, place: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.unsignedinteger[Any]]]:
        """(slots relative to `first`, tf) of the term at this place."""
        start, stop = int(self._starts[place]), int(self._starts[place + 1])
        if not start <= stop <= self._postings:
            raise IndexFormatError(f"{self.path}: a posting list leads outside the file. {REBUILD}")
        return self._file.part("slots", "<u4", start, stop), self._file.part("tf", _WIDTHS[self._width], start, stop)

    def verify(self) -> None:
        """Check the whole file. Raises IndexFormatError."""
        self._file.part("slots", "<u4", 0, self._postings)
        self._file.part("tf", _WIDTHS[self._width], 0, self._postings)

    def part(self, shift: int) -> tuple[Any, ...]:
        """The verified arrays as the native merge wants them."""
        slots = self._file.part("slots", "<u4", 0, self._postings)
        tf = self._file.part("tf", _WIDTHS[self._width], 0, self._postings)
        return (self._offsets, self._bytes, self._starts, slots, tf, shift)


def merge(segments: Sequence[Segment]) -> Postings:
    """The postings of adjacent segments as one. Raises IndexFormatError if one of them is damaged."""
    first = segments[0].first
    try:
        offsets, data, starts, slots, tf = _native.merge_terms([one.part(one.first - first) for one in segments])
    except (RuntimeError, ValueError) as error:
        raise IndexFormatError(f"{segments[0].path.parent}: {error}. {REBUILD}") from error
    return Postings(np.concatenate([one.lengths for one in segments]), offsets, data, starts, slots, tf)


def bm25(segments: Sequence[Segment], terms: Sequence[str], dead: ByteArray, norms: FloatArray, live: int) -> FloatArray:
    """float32[slots], the BM25 score of every slot (those of dead slots mean nothing).

    score(d, q) = sum over terms t of q: log(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * len / avglen)),
    as in Lucene since version 8 (no factor k1 + 1); a term that stands n times in the query counts n times.
    N, df and avglen are those of the live passages: deleted ones have no influence.

    dead   uint8[slots], 1 where deleted         norms  float32[slots], k1 * (1 - b + b * len / avglen)
    live   N, the number of passages not deleted
    """
    counts = Counter(terms)
    words = [term.encode() for term in counts]
    found = [(one, one.find(words)) for one in segments]
    scores = np.zeros(len(dead), dtype=np.float32)
    any_dead = live < len(dead)
    for number, times in enumerate(counts.values()):
        lists = [(one, *one.postings(places[number])) for one, places in found if places[number] >= 0]
        if not lists:
            continue
        frequency = sum(_live_count(one, slots, dead) if any_dead else len(slots) for one, slots, _ in lists)
        weight = times * math.log1p((live - frequency + 0.5) / (frequency + 0.5))
        for one, slots, tf in lists:
            span = slice(one.first, one.first + one.count)
            _native.add_postings(slots, tf, weight, norms[span], scores[span])
    return scores


def _live_count(segment: Segment, slots: npt.NDArray[np.uint32], dead: ByteArray) -> int:
    return _native.live_postings(slots, dead[segment.first : segment.first + segment.count])
