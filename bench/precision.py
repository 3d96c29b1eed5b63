"""What int8 costs: nDCG@10 of dense search and of the reranker alone, in int8 and in float32, on eight collections.

    SHORTLIST_DATA=… python bench/precision.py [-o bench/results/precision.md] [--work DIR]

Vectors are compared exactly, without an index. The reranker orders the 32 best passages of float32 dense search, by its own
score alone: the hardest case, since fusion with the first stage hides small differences. Everything computed is kept in --work.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from pathlib import Path

import numpy as np

import shortlist as sl
from shortlist.data import Collection, read_collection
from shortlist.engines import native

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
SPLITS = "cisi:test novel-eval:test tydi-ko:dev tydi-sw:dev mlqa-zh:dev mlqa-de:dev mlqa-hi:dev mlqa-ar:dev".split()
QUERIES, RERANKED, CANDIDATES = 500, 100, 32
PRECISIONS = ("float32", "int8")


def sampled(ids: list[str], count: int) -> list[str]:
    """At most `count` ids, evenly spaced."""
    return ids if len(ids) <= count else [ids[i * len(ids) // count] for i in range(count)]


def kept(path: Path, compute) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The array in `path`, computed if it is not there."""
    if not path.exists():
        part = path.with_suffix(".part.npy")
        np.save(part, compute())
        part.rename(path)
    return np.load(path)


def similarities(
    encoder: sl.Encoder, precision: str, name: str, collection: Collection, ids: list[str], work: Path
) -> np.ndarray:
    """float32[queries, passages]."""
    stem = f"{encoder.name}-{precision}-{name}"
    passages = kept(work / f"{stem}-p.npy", lambda: encoder.encode([p.content for p in collection.passages()], kind="passage"))
    queries = kept(work / f"{stem}-q.npy", lambda: encoder.encode([collection.queries[q] for q in ids], kind="query"))
    return queries @ passages.T


def dense_run(scores: np.ndarray, ids: list[str], names: list[str]) -> sl.Run:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    return sl.Run({q: {names[j]: float(scores[i, j]) for j in best[i]} for i, q in enumerate(ids)})


def reranked(
    reranker: sl.Reranker, precision: str, spec: str, collection: Collection, first: sl.Run, ids: list[str], work: Path
) -> sl.Run:
    """The first CANDIDATES of `first` in the reranker's own order."""
    content = {p.id: p.content for p in collection.passages()}
    order = {q: sorted(first[q], key=lambda i: -first[q][i])[:CANDIDATES] for q in ids}
    path = work / f"{reranker.name}-{precision}-{spec.replace(':', '-')}.npy"
    logits = kept(
        path, lambda: np.array([reranker.score(collection.queries[q], [content[i] for i in order[q]]) for q in ids], np.float32)
    )
    return sl.Run({q: dict(zip(order[q], map(float, row), strict=True)) for q, row in zip(ids, logits, strict=True)})


def line(spec: str, what: str, exact: sl.Run, rounded: sl.Run, qrels: sl.Qrels) -> tuple[str, float]:
    """A row of the table and the difference in nDCG@10."""
    c = sl.compare(rounded, exact, qrels)
    low, high = c.interval
    numbers = f"{c.mean_b:.4f} | {c.mean_a:.4f} | {c.difference:+.4f} | {low:+.4f} to {high:+.4f}"
    return f"| {spec.replace(':', ' ')} | {what} | {len(qrels)} | {numbers} | {c.wins}/{c.ties}/{c.losses} |", c.difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, default=ROOT / "bench" / "results" / "precision.md")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "shortlist-precision")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    encoders = {p: sl.Encoder.load("shortlist-embed", precision=p, threads=args.threads) for p in PRECISIONS}
    rerankers = {p: sl.Reranker.load("shortlist-rerank", precision=p, threads=args.threads) for p in PRECISIONS}
    lines, losses = [], {"dense": [], "reranker": []}
    for spec in SPLITS:
        name, split = spec.split(":")
        collection = read_collection(DATA / name, split)
        names = [p.id for p in collection.passages()]
        ids = sampled(sorted(collection.qrels), QUERIES)
        dense = {
            p: dense_run(similarities(e, p, spec.replace(":", "-"), collection, ids, args.work), ids, names)
            for p, e in encoders.items()
        }
        few = sampled(ids, RERANKED)
        second = {p: reranked(r, p, spec, collection, dense["float32"], few, args.work) for p, r in rerankers.items()}
        for what, runs, asked in (("dense", dense, ids), ("reranker", second, few)):
            text, difference = line(
                spec, what, *(runs[p] for p in PRECISIONS), sl.Qrels({q: collection.qrels[q] for q in asked})
            )
            lines.append(text)
            losses[what].append(difference)
            print(text, flush=True)
    means = ", ".join(f"{what} {100 * np.mean(d):+.2f} points (worst {100 * min(d):+.2f})" for what, d in losses.items())
    head = (
        f"# What int8 costs\n\n{datetime.date.today()}, shortlist {sl.__version__}, Python {platform.python_version()}, "
        f"kernels {native.chosen_instruction_set()}; `python bench/precision.py`. shortlist-embed and "
        f"{rerankers['int8'].name}; nDCG@10 in float32 and in int8, 95% bootstrap interval of the difference.\n\n"
        f"Mean change: {means}.\n\n"
        "| collection | stage | queries | float32 | int8 | difference | 95% interval | better/equal/worse |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    args.o.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
