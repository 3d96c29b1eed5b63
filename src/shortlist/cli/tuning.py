"""`tune`: the fusion that suits an index, from judged queries."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shortlist.cli.show import example, out, print_json, progress
from shortlist.data import read_qrels, read_queries
from shortlist.index import Index
from shortlist.tune import learn_fusion


def add_verbs(verbs: Any) -> None:
    """Register `tune`."""
    parser = verbs.add_parser(
        "tune",
        help="learn from judged queries how BM25 and vectors are best fused",
        description="Tries fusions and weights on judged queries, measures by cross-validation what is learnt, and stores it "
        "in the index if the gain is beyond noise: hybrid searches use it from then on. Fifty queries are a good start.",
        **example("shortlist tune my.idx queries.jsonl qrels/train.tsv"),
    )
    parser.add_argument("index", type=Path, metavar="IDX")
    parser.add_argument("queries", metavar="QUERIES")
    parser.add_argument("qrels", metavar="QRELS")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.set_defaults(verb=run_tune)


def run_tune(args: argparse.Namespace) -> int:
    """Learn, store if it is worth it, and say which."""
    queries, qrels = read_queries(args.queries), read_qrels(args.qrels)
    with Index.open(args.index, write=True) as index:
        with progress(f"tuning {args.index.name}", "queries") as report:
            learnt = learn_fusion(index, queries, qrels, progress=report)
        facts = {"questions": learnt.questions, "before": round(learnt.before, 4), "after": round(learnt.after, 4)}
        if learnt.better:
            index.keep_fusion(learnt.fusion, learnt.weights, **facts)
    low, high = learnt.interval
    if args.json:
        choice = {"fusion": learnt.fusion, "weights": dict(learnt.weights), "stored": learnt.better}
        print_json({**choice, **facts, "interval": [round(low, 4), round(high, 4)]})
        return 0
    out().print(
        f"nDCG@10 of {learnt.questions} queries, cross-validated: {learnt.before:.4f} by default, {learnt.after:.4f} learnt "
        f"({100 * (learnt.after - learnt.before):+.2f} points, 95% interval {100 * low:+.2f} to {100 * high:+.2f})",
        markup=False,
    )
    weights = ", ".join(f"{name} {weight:g}" for name, weight in learnt.weights.items())
    result = f"stored: {learnt.fusion}, {weights}" if learnt.better else "nothing was stored: the gain is not beyond noise"
    out().print(result, markup=False)
    return 0
