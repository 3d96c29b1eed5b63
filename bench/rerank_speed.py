"""Time to score 32 and 100 candidates with each size, on real questions and passages.

    python bench/rerank_speed.py [MODEL …] [--rounds 9] [-o bench/results/rerank_speed.json]

The pairs are the hybrid candidates of questions of scifact (long passages, read through the window), cut to the numbers needed.
All models and thread counts take turns within a round, so that a busy machine hurts them alike; the median of the rounds is
given. Needs SHORTLIST_DATA, the fetched encoder, and an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path

import shortlist
from shortlist.data import read_collection
from shortlist.engines import native

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
SIZES = ("shortlist-rerank-L-2", "shortlist-rerank-L-4", "shortlist-rerank-L-6")


def pairs(count: int) -> tuple[str, list[str]]:
    """A claim, and passages of its collection: the relevant one first, then others in their order."""
    data = read_collection(DATA / "scifact", "test")
    query_id = sorted(data.qrels)[0]
    texts = [p.content for p, _ in zip(data.passages(), range(count), strict=False)]
    return data.queries[query_id], texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "bench" / "results" / "rerank_speed.json")
    args = parser.parse_args()
    query, texts = pairs(100)
    settings = [(m, window, threads) for m in args.models for window in (None, 0) for threads in (1, 2)]
    loaded = {s: shortlist.Reranker.load(s[0], window=s[1], threads=s[2]) for s in settings}
    times: dict[tuple, list[float]] = {}
    for _ in range(args.rounds):
        for setting, reranker in loaded.items():
            for count in (32, 100):
                start = time.perf_counter()
                reranker.score(query, texts[:count])
                times.setdefault((*setting, count), []).append(1000 * (time.perf_counter() - start))
    out: dict[str, dict[str, float]] = {}
    for (model, window, threads, count), found in times.items():
        key = f"ms_{count}_{threads}" + ("" if window is None else "_whole")
        out.setdefault(model, {})[key] = round(statistics.median(found), 1)
    report = {
        "date": str(datetime.date.today()),
        "versions": {"shortlist": shortlist.__version__, "python": platform.python_version()},
        "kernels": native.chosen_instruction_set(),
        "rounds": args.rounds,
        "models": out,
    }
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for model, row in out.items():
        print(model, *(f"{name} {ms}" for name, ms in row.items()))


if __name__ == "__main__":
    main()
