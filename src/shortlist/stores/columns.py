"""Column segments: immutable files with the values of the fields of a run of slots, for filters.

A segment is a file of sections.py with the magic "SLFIELD1". It is an inverted list: the terms of filters.py, one a value that
occurs, and for each the slots that have it. Many values or few, one a passage or several: they cost what they hold, and a
condition is a contiguous run of slots.

    offsets u64[terms + 1]    term i is bytes[offsets[i]:offsets[i + 1]]
    bytes   the terms, ascending
    starts  u64[terms + 1]    term i belongs to slots[starts[i]:starts[i + 1]]
    slots   u32[values]       relative to `first`, ascending within a term
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist import _native
from shortlist.errors import BadInput
from shortlist.filters import KINDS, OWN_FIELDS, Interval, Mask, field_of, intervals, kind_of, span, term, value_of, values_of
from shortlist.stores.durable import damage_of
from shortlist.stores.sections import Sections, write_sections
from shortlist.types import ByteArray

_MAGIC = b"SLFIELD1"

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Field:
    """What passages have in a field, for those who want to filter by it.

    kinds     which of "s" (strings), "n" (numbers), "b" (true and false) occur
    values    (value, how many live passages have it), the most frequent first; none if more occur than were asked for
    complete  whether `values` are all that there are
    bounds    least and greatest number, those of deleted passages included until a compaction; None without numbers
    """

    kinds: tuple[str, ...]
    values: tuple[tuple[Value, int], ...]
    complete: bool
    bounds: tuple[int | float, int | float] | None


@dataclass(frozen=True)
class Columns:
    """The values of `count` slots as arrays: see the sections of the file."""

    count: int
    offsets: npt.NDArray[np.uint64]
    bytes: ByteArray
    starts: npt.NDArray[np.uint64]
    slots: npt.NDArray[np.uint32]


def gather(passages: Sequence[Collection[bytes]]) -> Columns:
    """The columns of passages given as the terms of their values; slot i is passages[i]."""
    _, offsets, data, starts, slots, _ = _native.invert_terms(passages)
    return Columns(len(passages), offsets, data, starts, slots)


def write_columns(path: Path, index: str, first: int, columns: Columns) -> None:
    """Write a segment file durably. `index` is the id of the index it belongs to, `first` its first slot."""
    arrays = {
        "offsets": columns.offsets.astype("<u8", copy=False),
        "bytes": columns.bytes,
        "starts": columns.starts.astype("<u8", copy=False),
        "slots": columns.slots.astype("<u4", copy=False),
    }
    write_sections(path, _MAGIC, index, first, columns.count, arrays)


class ColumnSegment:
    """A segment file, memory-mapped; as a sequence it is its terms. Only what a filter touches is verified and read.

    Raises IndexFormatError on opening or reading if the file is missing, torn, damaged or another index's.
    """

    def __init__(self, path: Path, index: str) -> None:
        self.path = path
        self._file = Sections(path, _MAGIC, index)
        self.first, self.count = self._file.first, self._file.count
        try:
            self._terms = self._file.bytes_of("offsets") // 8 - 1
            self._values = self._file.bytes_of("slots") // 4
            fits = self._terms >= 0 and self._file.bytes_of("starts") == self._file.bytes_of("offsets")
        except (KeyError, TypeError) as error:
            raise self._file.damaged(error) from error
        if not fits:
            raise self._file.damaged("sections that do not fit together")

    def __len__(self) -> int:
        return self._terms

    def __getitem__(self, place: int) -> bytes:
        start, stop = self._file.part("offsets", "<u8", place, place + 2).tolist()
        if not start <= stop <= self._file.bytes_of("bytes"):
            raise self._file.damaged("a term leads outside the file")
        return bytes(self._file.part("bytes", "u1", start, stop))

    def slots(self, interval: Interval) -> npt.NDArray[np.uint32]:
        """Slots relative to `first` that have a value with a term in the interval; those with several stand there often."""
        low = bisect_left(self, interval[0])
        if low == len(self) or self[low] >= interval[1]:
            return np.zeros(0, dtype=np.uint32)
        single = low + 1 == len(self) or self[low + 1] >= interval[1]
        return self.slots_at(low, low + 1 if single else bisect_left(self, interval[1], low + 2))

    def find(self, terms: list[bytes]) -> list[int]:
        """Where the terms stand, -1 for those that no slot has."""
        try:
            return _native.find_terms(self._file.whole("offsets", "<u8"), self._file.whole("bytes", "u1"), terms)
        except RuntimeError as error:
            raise self._file.damaged(error) from error

    def slots_at(self, low: int, high: int) -> npt.NDArray[np.uint32]:
        """Slots relative to `first` of the terms low..high-1."""
        start, stop = (int(self._file.part("starts", "<u8", place, place + 1)[0]) for place in (low, high))
        if not start <= stop <= self._values:
            raise self._file.damaged("a value leads outside the file")
        return self._file.part("slots", "<u4", start, stop)

    def value(self, field: str, slot: int) -> str | None:
        """The string that a slot, relative to `first`, has in a field; long ones as far as they are kept."""
        low, high = (bisect_left(self, end) for end in span(field, "s"))
        if not len(found := np.flatnonzero(self.slots_at(low, high) == slot)):
            return None
        starts = self._file.part("starts", "<u8", low, high + 1)
        place = low + int(np.searchsorted(starts, starts[0] + np.uint64(found[0]), "right")) - 1
        return self[place][len(term(field, "")) :].decode(errors="replace")

    def holds(self, interval: Interval) -> bool:
        """Whether any value has a term in the interval."""
        place = bisect_left(self, interval[0])
        return place < len(self) and self[place] < interval[1]

    def places(self, interval: Interval) -> range:
        """Where the terms in the interval stand."""
        low = bisect_left(self, interval[0])
        return range(low, bisect_left(self, interval[1], low))

    def fields(self) -> Iterator[str]:
        """The fields that have a value here."""
        place = 0
        while place < len(self):
            field = field_of(self[place])
            yield field
            place = bisect_left(self, span(field)[1])

    def part(self, shift: int) -> tuple[Any, ...]:
        """The verified arrays as the native merge wants them, which asks for frequencies too."""
        slots = self._file.whole("slots", "<u4")
        offsets, starts = self._file.whole("offsets", "<u8"), self._file.whole("starts", "<u8")
        return (offsets, self._file.whole("bytes", "u1"), starts, slots, np.ones(len(slots), np.uint8), shift)

    def verify(self) -> None:
        """Check the whole file, also what was sound before. Raises IndexFormatError."""
        self._file.verify()


def merge_columns(segments: Sequence[ColumnSegment]) -> Columns:
    """Adjacent segments as one. Raises IndexFormatError if one of them is damaged."""
    first = segments[0].first
    with damage_of(segments[0].path.parent):
        offsets, data, starts, slots, _ = _native.merge_terms([one.part(one.first - first) for one in segments])
    return Columns(sum(one.count for one in segments), offsets, data, starts, slots)


def keep_columns(segment: ColumnSegment, kept: ByteArray) -> Columns:
    """The values of the slots with 1 in uint8[count], numbered from 0 on: what `gather` gives of their terms.

    Raises IndexFormatError if the segment is damaged.
    """
    with damage_of(segment.path):
        offsets, data, starts, slots, _ = _native.keep_terms(segment.part(0), kept)
    return Columns(int(np.count_nonzero(kept)), offsets, data, starts, slots)


def slots_with(segments: Sequence[ColumnSegment], field: str, values: Sequence[str]) -> list[int]:
    """The slots that have one of these values in a field."""
    terms = sorted(term(field, value) for value in values)  # neighbours are found in the same places of memory
    return [
        one.first + slot
        for one in segments
        for place in one.find(terms)
        if place >= 0
        for slot in one.slots_at(place, place + 1).tolist()
    ]


def fitting(segments: Sequence[ColumnSegment], field: str, condition: Mapping[str, Any]) -> Mask:
    """bool[slots] of a checked condition on any field but the id.

    Raises BadInput if no passage has the field, and if none has a value of the kind that the condition compares with.
    """
    mask = np.zeros(sum(one.count for one in segments), dtype=bool)
    for interval in intervals(field, condition):
        found = [one.slots(interval) for one in segments]
        if not any(map(len, found)):
            _check(segments, field, condition)
        for one, slots in zip(segments, found, strict=True):
            mask[one.first : one.first + one.count][slots] = True
    return mask


def summaries(segments: Sequence[ColumnSegment], dead: ByteArray, most: int) -> dict[str, Field]:
    """Field -> what the passages have in it, with the values of fields that have at most `most`. `dead`: uint8[slots].

    Without the ids, which are all different.
    """
    names = sorted({name for one in segments for name in one.fields()} - {"id"})
    found = ((name, _summary(segments, name, dead, most)) for name in names)
    return {name: field for name, field in found if field.values or not field.complete}


def _summary(segments: Sequence[ColumnSegment], name: str, dead: ByteArray, most: int) -> Field:
    kinds = tuple(kind for kind in KINDS if any(one.holds(span(name, kind)) for one in segments))
    counts: Counter[bytes] = Counter()
    for one in segments:
        places = one.places(span(name))
        if len(places) > most:
            return Field(kinds, (), False, _bounds(segments, name))
        live = dead[one.first : one.first + one.count] == 0
        for held_term in map(one.__getitem__, places):
            counts[held_term] += int(np.count_nonzero(live[one.slots((held_term, held_term + b"\0"))]))
    held = [(value_of(term), count) for term, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count]
    shown = tuple((value, count) for value, count in held if value is not None) if len(held) <= most else ()
    return Field(kinds, shown, len(shown) == len(held), _bounds(segments, name))


def _bounds(segments: Sequence[ColumnSegment], name: str) -> tuple[int | float, int | float] | None:
    terms = [one[place] for one in segments if (found := one.places(span(name, "n"))) for place in (found[0], found[-1])]
    low, high = (value_of(term) for term in (min(terms), max(terms))) if terms else (None, None)
    return (low, high) if isinstance(low, int | float) and isinstance(high, int | float) else None


def _check(segments: Sequence[ColumnSegment], field: str, condition: Mapping[str, Any]) -> None:
    def holds(kind: str = "") -> bool:
        return any(one.holds(span(field, kind)) for one in segments)

    wrong = next((value for value in values_of(condition) if not holds(kind_of(value))), None)
    if wrong is None:
        return
    held = [name for kind, name in KINDS.items() if holds(kind)]
    if held:
        raise BadInput(
            f"the filter compares the field {field!r} with {wrong!r}, but the field holds {' and '.join(held)}, not "
            f'{KINDS[kind_of(wrong)]}. (In a filter written as text 2020 is a number, "2020" in quotes a string.)'
        )
    if field not in OWN_FIELDS:
        known = sorted({*OWN_FIELDS, *(name for one in segments for name in one.fields())})
        raise BadInput(f"no passage has a field {field!r}. The fields are {_listed(known)}.")


def _listed(names: Sequence[str], most: int = 30) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
