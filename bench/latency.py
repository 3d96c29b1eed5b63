"""Time of a search on a real index: warm, stage by stage, and from a cold process.

    python bench/latency.py INDEX QUERIES [--rounds 5]

For example the index of miracl-yo that `bench/rerank.py` leaves behind. Writes bench/results/latency.md.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np

import shortlist as sl
from shortlist.data import read_queries
from shortlist.engines import native
from shortlist.latency import measure_latency

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    queries = list(islice(read_queries(args.queries).values(), 100))
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
            f"passages, {len(queries)} queries x {args.rounds} rounds after a warm-up. Milliseconds, p50 / p99. "
            "Made by `python bench/latency.py`.",
            "",
            f"| first stage | {' | '.join(s.removesuffix('_ms') for s in STAGES)} |",
            "|" + " --- |" * (len(STAGES) + 1),
        ]
        for name, (search, first) in systems.items():
            times = measure_latency(partial(search, first=first), queries, rounds=args.rounds).stages  # type: ignore[arg-type]
            cells = (f"{times[s][50]:.2f} / {times[s][99]:.2f}" if s in times else "" for s in STAGES)
            lines.append(f"| {name} | {' | '.join(cells)} |")
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
