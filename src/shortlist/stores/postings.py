"""Posting segments: immutable files with the terms of a run of slots, and BM25 over several of them.

A segment is a file of sections.py with the magic "SLTERMS1":

    lengths u32[count]        terms of each slot, with repeats
    offsets u64[terms + 1]    term i is bytes[offsets[i]:offsets[i + 1]]
    bytes   UTF-8 of the terms, ascending
    starts  u64[terms + 1]    postings of term i are starts[i]:starts[i + 1]
    slots   u32[postings]     relative to `first`, ascending within a term
    tf      u8|u16|u32[postings], as wide as the segment's largest needs
    bounds  u16[blocks of 128 postings][4], what bounds their scores: src/native/bm25.h. Segments of older versions lack
            them; they are searched without, until a writer adds them
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist import _native
from shortlist.errors import IndexFormatError
from shortlist.stores.durable import REBUILD, damage_of
from shortlist.stores.sections import Sections, write_sections
from shortlist.types import ByteArray, FloatArray

_MAGIC = b"SLTERMS1"
_WIDTHS = {1: "<u1", 2: "<u2", 4: "<u4"}
_BOUND_POSTINGS, _BOUND_BYTES = 128, 8
_CACHED_TERMS = 10_000
_COMMON, _LIGHT = 0.1, 0.5  # see `light`

Forms = tuple[str, ...]


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
    return Postings(*_native.invert_terms(texts))


def write_segment(path: Path, index: str, first: int, postings: Postings) -> None:
    """Write a segment file durably. `index` is the id of the index it belongs to, `first` its first slot."""
    largest = int(postings.tf.max(initial=0))
    width = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
    lengths, slots = postings.lengths.astype("<u4", copy=False), postings.slots.astype("<u4", copy=False)
    tf = postings.tf.astype(_WIDTHS[width], copy=False)
    arrays = {
        "lengths": lengths,
        "offsets": postings.offsets.astype("<u8", copy=False),
        "bytes": postings.bytes,
        "starts": postings.starts.astype("<u8", copy=False),
        "slots": slots,
        "tf": tf,
        "bounds": _native.block_bounds(slots, tf, lengths),
    }
    write_sections(path, _MAGIC, index, first, len(postings.lengths), arrays)


@dataclass(frozen=True)
class PostingList:
    """What a segment knows of a term: `slots` relative to its first, the bounds of the blocks from that of slots[0] on (None if
    there are none), and `skew`, the place of slots[0] in its block."""

    slots: npt.NDArray[np.uint32]
    tf: npt.NDArray[np.unsignedinteger[Any]]
    bounds: ByteArray | None
    skew: int


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
        self.bounded = self._file.holds("bounds")
        blocks = -(-self._postings // _BOUND_POSTINGS)
        fits = not self.bounded or self._file.bytes_of("bounds") == blocks * _BOUND_BYTES
        if len(self.lengths) != self.count or self._width not in _WIDTHS or not fits:
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

    def postings(self, place: int) -> PostingList:
        """The list of the term at this place."""
        start, stop = int(self._starts[place]), int(self._starts[place + 1])
        if not start <= stop <= self._postings:
            raise IndexFormatError(f"{self.path}: a posting list leads outside the file. {REBUILD}")
        bounds = None
        if self.bounded:
            first, last = start // _BOUND_POSTINGS, -(-stop // _BOUND_POSTINGS)
            bounds = self._file.part("bounds", "u1", first * _BOUND_BYTES, last * _BOUND_BYTES)
        slots, tf = self._file.part("slots", "<u4", start, stop), self._file.part("tf", _WIDTHS[self._width], start, stop)
        return PostingList(slots, tf, bounds, start % _BOUND_POSTINGS)

    def verify(self) -> None:
        """Check the whole file, also what was sound before. Raises IndexFormatError."""
        self._file.verify()

    def part(self, shift: int) -> tuple[Any, ...]:
        """The verified arrays as the native merge wants them."""
        slots = self._file.part("slots", "<u4", 0, self._postings)
        tf = self._file.part("tf", _WIDTHS[self._width], 0, self._postings)
        return (self._offsets, self._bytes, self._starts, slots, tf, shift)


def merge(segments: Sequence[Segment]) -> Postings:
    """The postings of adjacent segments as one. Raises IndexFormatError if one of them is damaged."""
    first = segments[0].first
    with damage_of(segments[0].path.parent):
        offsets, data, starts, slots, tf = _native.merge_terms([one.part(one.first - first) for one in segments])
    return Postings(np.concatenate([one.lengths for one in segments]), offsets, data, starts, slots, tf)


def keep(segment: Segment, kept: ByteArray) -> Postings:
    """The postings of the slots with 1 in uint8[count], numbered from 0 on: what `invert` gives of their texts.

    Raises IndexFormatError if the segment is damaged.
    """
    with damage_of(segment.path):
        offsets, data, starts, slots, tf = _native.keep_terms(segment.part(0), kept)
    return Postings(segment.lengths[kept != 0], offsets, data, starts, slots, tf)


def idf(frequency: int, passages: int) -> float:
    """The weight that BM25 gives a term which `frequency` of the passages hold."""
    frequency = min(frequency, passages)
    return math.log1p((passages - frequency + 0.5) / (frequency + 0.5))


def light(query: Iterable[Forms], frequencies: Mapping[str, int], passages: int) -> frozenset[str]:
    """The terms of a query that tell little of a passage, such as "the".

    query        the forms of each word, as for `Bm25.best`
    frequencies  how many of the passages hold each form

    A word tells little if more than one passage in ten holds it, and if it has less than half the weight of the query's
    heaviest word: a query of such words alone has only them to go by. A word that no passage holds is the heaviest that can be.
    """
    held = {word: sum(frequencies[form] for form in word) for word in query}
    heaviest = max((idf(frequency, passages) for frequency in held.values()), default=0.0)
    small = {word for word, n in held.items() if n > _COMMON * passages and idf(n, passages) < _LIGHT * heaviest}
    return frozenset(chain.from_iterable(small)) - frozenset(chain.from_iterable(held.keys() - small))


def _in_sight(segment: Segment, slots: npt.NDArray[np.uint32], away: ByteArray | None) -> int:
    """How many of the slots of a posting list are 0 in `away`."""
    if away is None:
        return len(slots)
    return len(slots) - int(np.count_nonzero(away[segment.first : segment.first + segment.count][slots]))


class Bm25:
    """Adjacent segments from slot 0 on as one collection, some of whose slots are dead: BM25 of what lives.

    score(d, q) = sum over terms t of q: log(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * len / avglen)),
    as in Lucene since version 8 (no factor k1 + 1); a term that stands n times in the query counts n times.
    N, df and avglen are those of the live passages: deleted ones have no influence. Safe to use from several threads.
    """

    def __init__(self, segments: Sequence[Segment], dead: ByteArray, k1: float, b: float) -> None:
        """`dead` is uint8[slots], 1 where deleted. k1 >= 0, 0 <= b <= 1."""
        self._segments, self._dead = segments, dead
        self._any_dead = bool(dead.any())
        self._buried = [np.flatnonzero(dead[one.first : one.first + one.count]).astype(np.uint32) for one in self._with_dead()]
        self._live = len(dead) - sum(map(len, self._buried))
        lost = sum(int(one.lengths[gone].sum(dtype=np.int64)) for one, gone in zip(segments, self._buried, strict=False))
        total = sum(one.total for one in segments) - lost
        self._base, self._slope = k1 * (1 - b), k1 * b * self._live / max(total, 1)
        self._frequencies: dict[bytes, int] = {}

    def best(
        self, query: Sequence[str | Forms], k: int, hidden: ByteArray | None = None
    ) -> tuple[npt.NDArray[np.uint32], FloatArray]:
        """The k best live slots that hold a term, and all that tie with the last: (slots uint32[m], scores float32[m]).

        query   terms, or the forms that one word of the query has in the languages of the passages: of these each counts by
                its own tf, and df is the sum of theirs, as for a word that was analysed in one way
        hidden  uint8[slots]: slots with 1 are not returned, but count in N, df and avglen

        Best first, equal scores by slot. A score is the same number whatever k and `hidden` are.
        """
        weights: dict[bytes, float] = {}
        lists: dict[bytes, list[PostingList | None]] = {}
        for word, times in Counter((item,) if isinstance(item, str) else tuple(item) for item in query).items():
            forms = [form.encode() for form in word]
            lists.update(self._lists([form for form in forms if form not in lists]))
            weight = idf(sum(self._frequency(form, lists[form]) for form in forms), self._live)
            for form in forms:
                weights[form] = weights.get(form, 0.0) + times * weight
        order = sorted(weights, key=lambda term: (-weights[term], term))
        parts = [
            (
                one.first,
                one.lengths,
                [(at.slots, at.tf, weights[term], at.bounds, at.skew) for term in order if (at := lists[term][i])],
            )
            for i, one in enumerate(self._segments)
        ]
        try:
            return _native.best_bm25(parts, self._base, self._slope, self._out_of_sight(hidden), k)
        except RuntimeError as error:
            raise IndexFormatError(f"{self._segments[0].path.parent}: {error}. {REBUILD}") from error

    def frequencies(self, terms: Collection[str], hidden: ByteArray | None = None) -> dict[str, int]:
        """In how many live slots each of the terms occurs, without those that are 1 in `hidden` (uint8[slots])."""
        away = self._out_of_sight(hidden)
        return {
            term.decode(): sum(_in_sight(one, at.slots, away) for one, at in zip(self._segments, lists, strict=True) if at)
            for term, lists in self._lists([term.encode() for term in terms]).items()
        }

    def _lists(self, terms: list[bytes]) -> dict[bytes, list[PostingList | None]]:
        """Each term's list in every segment."""
        found = [one.find(terms) for one in self._segments]
        return {
            term: [
                one.postings(places[number]) if places[number] >= 0 else None
                for one, places in zip(self._segments, found, strict=True)
            ]
            for number, term in enumerate(terms)
        }

    def _frequency(self, term: bytes, lists: Sequence[PostingList | None]) -> int:
        """In how many live passages the term occurs; remembered where some are deleted, as it takes long there."""
        if not self._any_dead:
            return sum(len(one.slots) for one in lists if one)
        known = self._frequencies.get(term)
        if known is None:
            known = sum(self._live_count(number, one.slots) for number, one in enumerate(lists) if one)
            if len(self._frequencies) >= _CACHED_TERMS:
                self._frequencies.clear()
            self._frequencies[term] = known
        return known

    def _live_count(self, number: int, slots: npt.NDArray[np.uint32]) -> int:
        """How many of the slots of a posting list live, where some do not."""
        return len(slots) - _native.count_common(slots, self._buried[number])

    def _with_dead(self) -> Sequence[Segment]:
        return self._segments if self._any_dead else ()

    def _out_of_sight(self, hidden: ByteArray | None) -> ByteArray | None:
        if not self._any_dead:
            return hidden
        return self._dead if hidden is None else self._dead | hidden
