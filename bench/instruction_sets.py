"""What each instruction set of this processor is worth: encoding, one query, the index scan, and how near the vectors are.

    python bench/instruction_sets.py [--passages 60] [--rounds 5]

Encodes passages of scifact with shortlist-embed in int8 on one thread, and scans 400,000 random rows of 384 dims. Gives CPU
time, the least of the rounds, in which the instruction sets take turns; the portable kernels encode once. Needs
SHORTLIST_DATA and the fetched `shortlist-embed`. Prints and writes bench/results/instruction-sets.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

import shortlist
from shortlist import _native
from shortlist.data import read_passages
from shortlist.encoder import Encoder
from shortlist.engines.native import available_instruction_sets
from shortlist.stores.vectors import rows_of, stride

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
QUERY = "0-dimensional biomaterials show inductive properties."
ROWS, DIMS = 400_000, 384


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def encoder_on(level: str) -> Encoder:
    os.environ["SHORTLIST_ISA"] = level
    return Encoder.load("shortlist-embed", threads=1)


def encoding_times(encoders: dict[str, Encoder], texts: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Least seconds for the passages and for one query."""
    times: dict[str, list[tuple[float, float]]] = {level: [] for level in encoders}
    for turn in range(rounds):
        for level, encoder in encoders.items():
            if turn and level == "portable":
                continue
            query = min(seconds(lambda encoder=encoder: encoder.encode([QUERY], kind="query")) for _ in range(9))
            passages = seconds(lambda encoder=encoder: encoder.encode(texts, kind="passage"))
            times[level].append((passages, query))
    return {level: (min(p for p, _ in found), min(q for _, q in found)) for level, found in times.items()}


def scan_times(levels: list[str], rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    rows = rows_of(rng.standard_normal((ROWS, DIMS), np.float32)).reshape(-1)
    query, dead = rng.integers(-127, 128, (1, DIMS)).astype(np.int8), np.zeros(ROWS, np.uint8)
    least = dict.fromkeys(levels, np.inf)
    for _ in range(rounds):
        for level in levels:
            once = seconds(lambda level=level: _native.scan_int8(rows, DIMS, stride(DIMS), query, dead, 100, 1, level))
            least[level] = min(least[level], once)
    return least


def report(levels: list[str], texts: list[str], rounds: int) -> str:
    encoders = {level: encoder_on(level) for level in levels}
    encoding, scans = encoding_times(encoders, texts, rounds), scan_times(levels, rounds)
    some = texts[:6]
    vectors = {level: encoder.encode(some, kind="passage") for level, encoder in encoders.items()}
    exact = Encoder.load("shortlist-embed", threads=1, precision="float32").encode(some, kind="passage")
    lines = []
    for level in levels:
        passages, query = encoding[level]
        cells = [
            f"{len(texts) / passages:.1f}",
            f"{encoding[levels[0]][0] / passages:.2f}",
            f"{1000 * query:.2f}",
            f"{1000 * scans[level]:.1f}",
            f"{(vectors[level] * vectors[levels[0]]).sum(1).min():.4f}",
            f"{(vectors[level] * exact).sum(1).min():.4f}",
        ]
        lines.append(f"| {level} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    levels = available_instruction_sets()
    texts = [p.content for p in islice(read_passages(DATA / "scifact"), args.passages)]
    text = f"""# What each instruction set is worth

{datetime.date.today()}, shortlist {shortlist.__version__}, Python {platform.python_version()}, numpy {np.__version__}.
One thread of a processor that has them all; one that has only the lower ones may behave otherwise. shortlist-embed in int8,
{len(texts)} passages of scifact; a scan of {ROWS:,} rows of {DIMS} dims. CPU time, least of {args.rounds} rounds. Cosines:
least of six passages. Made by `python bench/instruction_sets.py`.

| SHORTLIST_ISA | passages/s | of the first | query, ms | scan, ms | cosine to the first | to float32 |
| --- | --- | --- | --- | --- | --- | --- |
{report(levels, texts, args.rounds)}
"""
    (ROOT / "bench" / "results" / "instruction-sets.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
