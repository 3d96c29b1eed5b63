"""A ranking of numbered passages whose ids are looked up only where they decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Scored: TypeAlias = tuple[str, float]
Slots: TypeAlias = npt.NDArray[np.int64]
Scores: TypeAlias = npt.NDArray[np.float64]


class Ranked:
    """Passages by their slots, best first, ties by id.

    An id orders equal scores and does nothing else, and most passages of a list are neither returned nor asked for their place:
    so a run of equal scores is put in order when it is first needed. Not for several threads at once.

    slots   int64[n], in the order of `scores`; equal ones in any order
    scores  float64[n], descending
    ids     gives the ids of slots
    """

    def __init__(
        self, slots: npt.ArrayLike, scores: npt.ArrayLike, ids: Callable[[list[int]], Sequence[str]], most: int | None = None
    ) -> None:
        """From all different slots, integers [n], and their scores, floats [n]; of them the `most` best if it is given."""
        unordered = np.asarray(scores, dtype=np.float64)
        order = np.argsort(-unordered, kind="stable")
        self.slots: Slots = np.asarray(slots, dtype=np.int64)[order]
        self.scores: Scores = unordered[order]
        self.ids = ids
        changes = np.flatnonzero(self.scores[1:] != self.scores[:-1]) + 1
        self._starts = np.concatenate([[0], changes, [len(order)]])  # of the runs of equal scores, and where the last one ends
        self._loose = np.diff(self._starts) > 1
        if most is not None and most < len(self):
            self._cut(most)

    def __len__(self) -> int:
        return len(self.slots)

    def first(self, k: int) -> tuple[Slots, Scores]:
        """The slots of the k best in their order, int64[min(k, n)], and their scores."""
        self._settle(np.arange(min(k, len(self))))
        return self.slots[:k], self.scores[:k]

    def places(self, slots: Slots) -> Slots:
        """int64[m], the places of these slots, from 0 on; -1 for those that are not in the list."""
        found = self._find(slots)
        self._settle(found[found >= 0])
        return self._find(slots)

    def scored(self) -> list[Scored]:
        """(id, score) of all."""
        slots, scores = self.first(len(self))
        return list(zip(self.ids(slots.tolist()), scores.tolist(), strict=True))

    def _cut(self, most: int) -> None:
        last = np.array([most - 1])
        if self.scores[most] == self.scores[most - 1]:
            self._settle(last)
        runs = int(self._runs(last)[0]) + 1
        self.slots, self.scores = self.slots[:most], self.scores[:most]
        self._starts, self._loose = np.append(self._starts[:runs], most), self._loose[:runs]

    def _find(self, slots: Slots) -> Slots:
        """Where these slots stand now, -1 for those that do not."""
        if not len(self):
            return np.full(len(slots), -1)
        order = np.argsort(self.slots)
        near = order[np.minimum(np.searchsorted(self.slots, slots, sorter=order), len(self) - 1)]
        return np.where(self.slots[near] == slots, near, -1)

    def _runs(self, places: Slots) -> Slots:
        """The numbers of the runs in which these places lie, each once."""
        return np.unique(np.searchsorted(self._starts, places, side="right") - 1)

    def _settle(self, places: Slots) -> None:
        """Put the runs of equal scores in which these places lie in the order of their ids."""
        runs = self._runs(places)
        runs = runs[self._loose[runs]]
        if not len(runs):
            return
        spans = [slice(*self._starts[run : run + 2].tolist()) for run in runs]
        ids = iter(self.ids([slot for span in spans for slot in self.slots[span].tolist()]))
        for span in spans:
            order = _sorting(next(ids) for _ in range(span.start, span.stop))
            self.slots[span], self.scores[span] = self.slots[span][order], self.scores[span][order]
        self._loose[runs] = False


def _sorting(names: Iterable[str]) -> Slots:
    """Where the names stand, in their order."""
    listed = list(names)
    return np.array(sorted(range(len(listed)), key=listed.__getitem__), dtype=np.int64)
