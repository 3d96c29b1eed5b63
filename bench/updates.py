"""What opening, changing and filtering a large index costs: one passage added, replaced, deleted, the first search after it.

    python bench/updates.py [--passages 1000000] [--dims 384] [--folder FOLDER]

Texts are drawn from a Zipf vocabulary and vectors at random, by an encoder that does nothing else: the figures are times, not
quality. Metadata: a url and a number for every passage, a field that fits 1 % and one that fits 50 %. Prints Markdown: medians
in milliseconds, of the clock (with what the disk takes to make a commit durable) and of the processor, and writes it to
bench/results/updates.md. --few prints at which share of passages gathering rows becomes slower than scanning all.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np

import shortlist
from shortlist.filters import checked
from shortlist.index import Index
from shortlist.stores.embedded import Snapshot
from shortlist.types import Passage

ROUNDS = 9
RESULTS = Path(__file__).parent / "results" / "updates.md"


class RandomEncoder:
    """Random unit vectors."""

    name = address = "random"
    fingerprint = "0" * 64

    def __init__(self, dims: int) -> None:
        self.dims, self._rng = dims, np.random.default_rng(0)

    def encode_counted(self, texts: Sequence[str], *, kind: str = "", progress: Any = None) -> tuple[Any, Any]:
        vectors = self._rng.standard_normal((len(texts), self.dims), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.zeros(len(texts), np.int32)


def passages(count: int, prefix: str = "p") -> Iterator[Passage]:
    rng = np.random.default_rng(1)
    for number in range(count):
        words = rng.zipf(1.3, 40) % 200_000
        meta = {"url": f"https://example.org/{prefix}/{number:09d}", "n": number, "c": number % 100, "half": number % 2}
        yield Passage(f"{prefix}{number}", " ".join(f"w{word}" for word in words), lang="en", meta=meta)


class Times(NamedTuple):
    """Milliseconds of the clock and of the processor."""

    wall: float
    cpu: float


def milliseconds(work: Callable[[], object]) -> Times:
    wall, cpu = perf_counter(), process_time()
    work()
    return Times((perf_counter() - wall) * 1000, (process_time() - cpu) * 1000)


def middle(times: Sequence[Times]) -> Times:
    """The medians."""
    return Times(*map(statistics.median, zip(*times, strict=True)))


def median(work: Callable[[], object]) -> Times:
    return middle([milliseconds(work) for _ in range(ROUNDS)])


def each(work: Callable[[list[Passage]], object], some: Sequence[Passage]) -> Times:
    """The median over passages, one at a time."""
    return middle([milliseconds(partial(work, [one])) for one in some])


def _open(folder: Path, encoder: Any, write: bool) -> None:
    Index.open(folder, encoder=encoder, write=write).close()


def openings(folder: Path, encoder: Any) -> dict[str, Times]:
    """Milliseconds until an index is open, and of a reader's first searches."""
    found = {
        f"open for {what}": middle([milliseconds(partial(_open, folder, encoder, write)) for _ in range(3)])
        for what, write in (("reading", False), ("writing", True))
    }
    for first in ("bm25", "dense"):
        with Index.open(folder, encoder=encoder) as index:
            found[f"first {first} search after opening"] = milliseconds(partial(index.search, "w900 w90000", first=first))
    return found


def changes(index: Index) -> dict[str, Times]:
    """Milliseconds of each change of one passage, and of the first search of each kind after one."""
    fresh = list(passages(10 * ROUNDS, "new"))
    found = {"add one": each(index.add, fresh[:ROUNDS])}
    moved = [replace(one, text=one.text + " more") for one in fresh[:ROUNDS]]
    found["upsert one"] = each(index.upsert, moved)
    found["upsert one, unchanged"] = each(index.upsert, moved)
    found["delete one"] = each(lambda some: index.delete([some[0].id]), moved)
    for place, first in enumerate(("bm25", "dense"), 1):
        search = partial(index.search, "w900 w90000", first=first)
        times = []
        for number in range(ROUNDS):
            index.add([fresh[ROUNDS * place + number]])
            times.append(milliseconds(search))
        found[f"first {first} search after an add"] = middle(times)
        found[f"{first} search"] = median(search)
    return found


def filters(index: Index) -> dict[str, Times]:
    """Milliseconds of a filter's slots, on a snapshot that has not seen it, and of searches with it."""
    count = len(index)
    shares = {
        "1 %": {"c": 7},
        "50 %": {"half": 1},
        "50 % by a range of distinct numbers": {"n": {"lt": count // 2}},
        "1 % by a range of urls": {"url": {"lt": f"https://example.org/p/{count // 100:09d}"}},
        "99 %": {"not": {"c": 7}},
    }
    found = {}
    for name, where in shares.items():
        index.search("w900", first="bm25", where=where)  # verifies what it reads
        found[f"slots, {name}"] = middle([_slots_ms(index, where) for _ in range(ROUNDS)])
        for first in ("bm25", "dense"):
            found[f"{first}, {name}"] = median(partial(index.search, "w900 w90000", first=first, where=where))
    return found


def _slots_ms(index: Index, where: Any) -> Times:
    snapshot = index._store.snapshot()
    fresh = Snapshot(snapshot.truth, snapshot.published, snapshot.files, snapshot.dead)
    return milliseconds(partial(fresh.slots, checked(where)))


def border(index: Index) -> None:
    """Print the time of a scan with a mask beside that of gathering, by the share of slots that a filter leaves."""
    snapshot = index._store.snapshot()
    vectors, count = snapshot.files.vectors, len(snapshot.dead)
    rng = np.random.default_rng(2)
    query = rng.standard_normal(vectors.layout.dims).astype(np.float32)
    for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
        shown = rng.random(count) < share
        hidden, slots = (~shown).view(np.uint8), np.flatnonzero(shown)
        scan = min(milliseconds(partial(vectors.scan, query, hidden, 225)).wall for _ in range(5))
        some = min(milliseconds(partial(vectors.scan_some, query[None, :], slots, 225)).wall for _ in range(5))
        print(f"| {share:.0%} | {scan:.2f} | {some:.2f} |")


def heading(index: Index, note: str) -> str:
    sizes = ", ".join(f"{part} {size / 1e6:,.0f} MB" for part, size in index.sizes().items())
    return (
        "# Changes and filters in a large index\n\n"
        f"{datetime.date.today()}, shortlist {shortlist.__version__}, Python {platform.python_version()}, "
        f"numpy {np.__version__}, {os.cpu_count()} cores{note and f', {note}'}. {len(index):,} passages of 40 words, vectors "
        f"of {index.manifest['encoder']['dims']} numbers in int8, {len(index._store._published.segments)} segments; on disk: "
        f"{sizes}. Medians of {ROUNDS}, of openings 3; first searches after opening and compaction once. Made by "
        "`python bench/updates.py`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--folder", type=Path, help="keep the index here, and use it if it is there")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--note", default="", help="what else there is to say about the machine, for the page")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp()) / "updates.idx"
    encoder: Any = RandomEncoder(args.dims)
    try:
        if not folder.exists():
            with Index.create(folder, encoder=encoder) as index:
                print(f"built in {milliseconds(lambda: index.add(passages(args.passages))).wall / 1000:.0f} s")
        if args.few:
            with Index.open(folder, encoder=encoder) as index:
                border(index)
            return
        found = openings(folder, encoder)
        with Index.open(folder, encoder=encoder, write=True) as index:
            head = heading(index, args.note)
            for first in ("bm25", "dense"):
                index.search("w900", first=first)
            found |= {**changes(index), **filters(index)}
            index.delete(where={"url": {"gte": "https://example.org/new/", "lt": "https://example.org/new0"}})
            if args.folder is None:
                count = index.delete(where={"c": {"lt": 10}})
                found[f"compaction with {count:,} of {args.passages:,} deleted"] = milliseconds(index.compact)
        rows = [f"| {name} | {times.wall:.2f} | {times.cpu:.2f} |" for name, times in found.items()]
        page = "\n".join([head, "", "| what | clock, ms | processor, ms |", "| --- | ---: | ---: |", *rows]) + "\n"
        print(page)
        RESULTS.write_text(page, encoding="utf-8")
    finally:
        if args.folder is None:
            shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
