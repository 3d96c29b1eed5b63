"""`tune`: the fusion that suits an index and the weight of a reranker, from judged queries."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shortlist.cli.show import example, out, print_json, progress
from shortlist.data import read_qrels, read_queries
from shortlist.index import Index
from shortlist.reranker import FAMILY, Reranker
from shortlist.tune import Learnt, learn_fusion, learn_weight
from shortlist.types import Json, Qrels


def add_verbs(verbs: Any) -> None:
    """Register `tune`."""
    parser = verbs.add_parser(
        "tune",
        help="learn from judged queries how BM25, vectors and a reranker are best fused",
        description="Tries fusions and weights on judged queries, measures by cross-validation what is learnt, and stores it "
        "in the index if the gain is beyond noise: searches use it from then on. Fifty queries are a good start.",
        **example("shortlist tune my.idx queries.jsonl qrels/train.tsv --rerank"),
    )
    parser.add_argument("index", type=Path, metavar="IDX")
    parser.add_argument("queries", metavar="QUERIES")
    parser.add_argument("qrels", metavar="QRELS")
    parser.add_argument(
        "--rerank",
        nargs="?",
        const=FAMILY.default,
        metavar="SIZE",
        help=f"then learn the weight of this reranker too: a size, a name or a folder ({FAMILY.default} if none is named)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.set_defaults(verb=run_tune)


def run_tune(args: argparse.Namespace) -> int:
    """Learn, store what is worth it, and say which."""
    queries, qrels = read_queries(args.queries), read_qrels(args.qrels)
    reranker = None if args.rerank is None else Reranker.load(args.rerank)
    said: dict[str, Any] = {}
    with Index.open(args.index, write=True) as index:
        if index.manifest["vectors"] or reranker is None:
            said |= _tune_fusion(index, queries, qrels, args.json)
        if reranker is not None:
            said["rerank"] = _tune_weight(index, reranker, queries, qrels, args.json)
    if args.json:
        print_json(said)
    return 0


def _tune_fusion(index: Index, queries: dict[str, str], qrels: Qrels, quiet: bool) -> dict[str, Any]:
    with progress(f"tuning {index.path.name}", "queries") as report:
        learnt = learn_fusion(index, queries, qrels, progress=report)
    fusion, weights = learnt.choice
    if learnt.better:
        index.keep_fusion(fusion, weights, **_facts(learnt))
    if not quiet:
        _print(learnt, f"{fusion}, " + ", ".join(f"{name} {weight:g}" for name, weight in weights.items()))
    return {"fusion": fusion, "weights": dict(weights), **_worth(learnt)}


def _tune_weight(index: Index, reranker: Reranker, queries: dict[str, str], qrels: Qrels, quiet: bool) -> dict[str, Any]:
    with progress(f"tuning {reranker.name}", "queries") as report:
        learnt = learn_weight(index, reranker, queries, qrels, progress=report)
    if learnt.better:
        index.keep_weight(reranker.name, learnt.choice, **_facts(learnt))
    if not quiet:
        _print(learnt, f"{reranker.name} with weight {learnt.choice:g}")
    return {"name": reranker.name, "weight": learnt.choice, **_worth(learnt)}


def _facts(learnt: Learnt[Any]) -> dict[str, Json]:
    """Where a stored choice comes from."""
    return {"questions": learnt.questions, "before": round(learnt.before, 4), "after": round(learnt.after, 4)}


def _worth(learnt: Learnt[Any]) -> dict[str, Any]:
    return {"stored": learnt.better, **_facts(learnt), "interval": [round(edge, 4) for edge in learnt.interval]}


def _print(learnt: Learnt[Any], choice: str) -> None:
    low, high = learnt.interval
    out().print(
        f"nDCG@10 of {learnt.questions} queries, cross-validated: {learnt.before:.4f} by default, {learnt.after:.4f} learnt "
        f"({100 * (learnt.after - learnt.before):+.2f} points, 95% interval {100 * low:+.2f} to {100 * high:+.2f})",
        markup=False,
    )
    result = f"stored: {choice}" if learnt.better else "nothing was stored: the gain is not beyond noise"
    out().print(result, markup=False)
