"""An encoder against the one it was tuned from: nDCG@10 of dense search, with the difference's interval.

    python bench/train/encoder_eval.py START TUNED [TUNED …] [--splits COLLECTION:SPLIT …] [--queries 1000] [--work DIR]

START and TUNED are names or folders of models. Reads collections in BEIR layout under SHORTLIST_DATA. Vectors are those of our
engine in int8, kept as float32 and compared exactly (no index in between); passages' vectors stay in DIR for the next time.
Where a split has more than QUERIES queries an evenly spaced sample is taken. Prints a Markdown table a model: interval is the
95% bootstrap interval over queries of the difference, p that of the paired randomisation test (`shortlist.compare`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

import shortlist as sl
from shortlist.data import Collection, read_collection

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
DEPTH = 100
DEFAULT = (
    "cmrc2018:dev cmrc2018:test mlqa-zh:dev dureader-demo:dev xquad-zh:test tydi-ko:dev xquad-es:test mlqa-hi:dev tydi-te:dev "
    "tydi-bn:dev"
).split()


def vectors(encoder: sl.Encoder, path: Path, texts: list[str], kind: str) -> np.ndarray:
    """float32[n, dims], from `path` if they are there."""
    if not path.exists():
        np.save(path, encoder.encode(texts, kind=kind))
    found = np.load(path)
    return found if len(found) == len(texts) else encoder.encode(texts, kind=kind)


def dense_run(encoder: sl.Encoder, collection: Collection, ids: list[str], name: str, work: Path) -> sl.Run:
    """The best DEPTH passages of each query."""
    passages = list(collection.passages())
    prefix = f"{encoder.fingerprint[:12]}-{name.split(':')[0]}"
    matrix = vectors(encoder, work / f"{prefix}.npy", [p.content for p in passages], "passage")
    scores = encoder.encode([collection.queries[q] for q in ids], kind="query") @ matrix.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return sl.Run({q: {passages[j].id: float(scores[i, j]) for j in best[i]} for i, q in enumerate(ids)})


def row(start: sl.Encoder, tuned: sl.Encoder, spec: str, limit: int, work: Path) -> str:
    """One line of the table."""
    name, split = spec.split(":")
    collection = read_collection(DATA / name, split)
    every = sorted(collection.qrels)
    ids = every if len(every) <= limit else [every[i * len(every) // limit] for i in range(limit)]
    qrels = sl.Qrels({q: collection.qrels[q] for q in ids})
    before, after = (dense_run(encoder, collection, ids, name, work) for encoder in (start, tuned))
    c = sl.compare(after, before, qrels)
    low, high = c.interval
    counts = f"{c.wins}/{c.ties}/{c.losses}"
    numbers = f"{c.mean_b:.4f} | {c.mean_a:.4f} | {c.difference:+.4f} | {low:+.4f} to {high:+.4f} | {c.p_value:.4f}"
    return f"| {name} {split} | {len(ids)} | {numbers} | {counts} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start")
    parser.add_argument("tuned", nargs="+")
    parser.add_argument("--splits", nargs="+", default=DEFAULT)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "shortlist-encoder-eval")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    start = sl.Encoder.load(args.start, threads=args.threads)
    for name in args.tuned:
        tuned = sl.Encoder.load(name, threads=args.threads)
        print(f"\n{tuned.name} against {start.name}, nDCG@10 of dense search\n")
        print("| collection | queries | before | after | difference | 95% interval | p | better/equal/worse |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for spec in args.splits:
            print(row(start, tuned, spec, args.queries, args.work), flush=True)


if __name__ == "__main__":
    main()
