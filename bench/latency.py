"""Time of a search on a real index: warm, stage by stage, of many queries together, and from a cold process.

    python bench/latency.py INDEX QUERIES [--rounds 5]

For example the index of miracl-yo that `bench/rerank.py` leaves behind. Writes bench/results/latency.md.
"""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from unittest import mock

import numpy as np

import shortlist as sl
from shortlist import index as index_module
from shortlist.analyze import Analyzer
from shortlist.data import read_queries
from shortlist.engines import native
from shortlist.latency import measure_latency
from shortlist.stores.postings import Bm25
from shortlist.stores.truth import Truth
from shortlist.stores.vectors import Layout, Vectors

ROOT = Path(__file__).parents[1]
STAGES = ("analyze_ms", "bm25_ms", "encode_ms", "dense_ms", "fuse_ms", "rerank_ms", "total_ms")


def cold(index: Path, query: str, rerank: str, rounds: int) -> list[float]:
    """Seconds from starting a process to its answer."""
    command = [sys.executable, "-m", "shortlist", "search", str(index), query, "--rerank", rerank, "--json"]
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(perf_counter() - start)
    return seconds


def parts(index: sl.Index, queries: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds of the processor for each step of a hybrid search, the least mean of the rounds."""
    steps = {
        (Analyzer, "query_forms"): "terms of the query",
        (Bm25, "best"): "BM25",
        (sl.Encoder, "encode_counted"): "vector of the query",
        (Vectors, "scan_many"): "scan of the int8 rows",
        (Truth, "vectors"): "read and verify the stored vectors of what it finds",
        (Layout, "scores"): "score these",
        (index_module, "fuse_ranked"): "fuse",
        (Truth, "ids"): "ids of equal scores",
        (Truth, "rows"): "read and verify the passages returned",
    }
    clock: dict[str, float] = {}
    with ExitStack() as stack:
        for (owner, name), step in steps.items():
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), step, clock)))
        means = []
        for _ in range(rounds):
            clock.clear()
            start = process_time()
            for query in queries:
                index.search(query, first="hybrid")
            clock["all else"] = process_time() - start - sum(clock.values())
            means.append({step: 1000 * clock.get(step, 0.0) / len(queries) for step in (*steps.values(), "all else")})
    return min(means, key=lambda one: sum(one.values()))


def timed(call: Callable[..., Any], step: str, clock: dict[str, float]) -> Callable[..., Any]:
    """`call`, whose processor time without that of the steps within it is added to clock[step]."""

    @wraps(call)
    def timing(*args: Any, **kwargs: Any) -> Any:
        within, start = sum(clock.values()), process_time()
        try:
            return call(*args, **kwargs)
        finally:
            clock[step] = clock.get(step, 0.0) + process_time() - start - (sum(clock.values()) - within)

    return timing


def together(index: sl.Index, queries: list[str], rounds: int) -> list[str]:
    """Rows of a table: queries a second and processor time, one search after the other and as a run, the best of the rounds."""
    search, named = sl.Pipeline(index), {str(number): query for number, query in enumerate(queries)}
    lines = []
    for first in ("bm25", "dense", "hybrid"):
        ways = (
            lambda first=first: [search(query, k=100, first=first) for query in queries],
            lambda first=first: search.run(named, k=100, first=first),
        )
        best = [[math.inf, math.inf] for _ in ways]
        for _ in range(rounds):
            for way, least in zip(ways, best, strict=True):
                wall, cpu = perf_counter(), process_time()
                way()
                least[:] = min(least[0], perf_counter() - wall), min(least[1], process_time() - cpu)
        cells = (f"{len(queries) / wall:.0f} | {1000 * cpu / len(queries):.2f}" for wall, cpu in best)
        lines.append(f"| {first} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--note", default="", help="what else there is to say about the machine, for the page")
    args = parser.parse_args()
    asked = list(islice(read_queries(args.queries).values(), 320))
    queries = asked[:100]
    with sl.Index.open(args.index) as index:
        systems = {
            "bm25": (sl.Pipeline(index), "bm25"),
            "dense": (sl.Pipeline(index), "dense"),
            "hybrid": (sl.Pipeline(index), "hybrid"),
            "two-stage, N = 32": (sl.Pipeline(index, sl.Reranker.load("shortlist-rerank")), "hybrid"),
        }
        lines = [
            "# Time of a search",
            "",
            f"{datetime.date.today()}, shortlist {sl.__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
            f"kernels {native.chosen_instruction_set()}, {native.available_cpus()} cores. {args.index.name}: {len(index):,} "
            f"passages, {len(queries)} queries x {args.rounds} rounds after a warm-up{args.note and f'; {args.note}'}. "
            "Milliseconds, p50 / p99. Made by `python bench/latency.py`.",
            "",
            f"| first stage | {' | '.join(s.removesuffix('_ms') for s in STAGES)} |",
            "|" + " --- |" * (len(STAGES) + 1),
        ]
        for name, (search, first) in systems.items():
            times = measure_latency(partial(search, first=first), queries, rounds=args.rounds).stages  # type: ignore[arg-type]
            cells = (f"{times[s][50]:.2f} / {times[s][99]:.2f}" if s in times else "" for s in STAGES)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        found = parts(index, queries, args.rounds)
        lines += [
            "",
            "Where the processor time of a hybrid search goes, milliseconds; `all else` is Python between the steps, orders of "
            "scores, and what the clocks themselves take.",
            "",
            "| step | ms |",
            "| --- | ---: |",
            *(f"| {step} | {ms:.2f} |" for step, ms in {**found, "together": sum(found.values())}.items()),
            "",
            f"{len(asked)} queries to depth 100, without a reranker, one after the other and as a run, which encodes and scans "
            "32 together.",
            "",
            "| first stage | one by one, queries/s | processor ms | run, queries/s | processor ms |",
            "| --- | ---: | ---: | ---: | ---: |",
            *together(index, asked, args.rounds),
        ]
    lines.append("")
    for rerank in ("none", "L-6"):
        seconds = cold(args.index, queries[0], rerank, args.rounds)
        lines.append(
            f"From a cold process, hybrid, reranker {rerank}: {statistics.median(seconds):.2f} s median of {args.rounds} "
            f"({min(seconds):.2f} to {max(seconds):.2f})."
        )
    page = "\n".join(lines) + "\n"
    print(page)
    (ROOT / "bench" / "results" / "latency.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
