"""The second stage under a time budget, and as a cascade: nDCG@10, time and overrun on real collections.

    python bench/cascade.py measure WORK NAME:SPLIT INDEX [STEP …]    one collection, to WORK/NAME-SPLIT.json
    python bench/cascade.py report WORK                               bench/results/cascade.md

Indexes are those that `bench/rerank.py` leaves behind. Candidates come from hybrid search. Without a budget a result depends on
nothing but the models, so nDCG@10 is computed from logits that are kept, each computed once; times are those of searches that
compute, a part of the queries, all systems in turn for each. Under a budget nDCG@10, time and overrun are of the same searches.
The steps are budgets, times and quality; by default all three.

One thread computes and the clock is the processor time of that thread, so that what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import shortlist as sl
from shortlist import compare, measures, pipeline, reranker
from shortlist.data import read_collection
from shortlist.engines import native
from shortlist.pipeline import Stage, rerank
from shortlist.types import FloatArray, IntArray, Qrels, Ranking, Run

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
SYSTEMS = {
    "L-6:32": [("L-6", 32)],
    "L-6:100": [("L-6", 100)],
    "L-2:100": [("L-2", 100)],
    "L-2:100, L-6:20": [("L-2", 100), ("L-6", 20)],
    "L-2:100, L-6:32": [("L-2", 100), ("L-6", 32)],
    "L-4:100, L-6:20": [("L-4", 100), ("L-6", 20)],
}
BUDGETS = (5, 10, 20, 50)
TIMED = 30


class Remembering(sl.Reranker):
    """A reranker that computes each logit once."""

    def __init__(self, reranker: sl.Reranker) -> None:
        super().__init__(reranker.folder, reranker.card, reranker._tokenizer, reranker._engine)
        self._known: dict[tuple[str, str], tuple[float, int]] = {}

    def score_counted(self, query: str, passages: Sequence[str]) -> tuple[FloatArray, IntArray]:
        new = [p for p in dict.fromkeys(passages) if (query, p) not in self._known]
        scores, cut = super().score_counted(query, new)
        self._known |= {(query, p): (float(s), int(c)) for p, s, c in zip(new, scores, cut, strict=True)}
        found = [self._known[query, p] for p in passages]
        return np.array([s for s, _ in found], np.float32), np.array([c for _, c in found], np.int32)


def as_run(rankings: dict[str, Ranking]) -> Run:
    return Run({q: {hit.id: hit.score for hit in ranking} for q, ranking in rankings.items()})


def ndcg(run: Run, qrels: Qrels) -> float:
    return round(measures.evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"], 4)


def second_ms(ranking: Ranking) -> float:
    return sum(ms for name, ms in ranking.timings.items() if name.startswith("rerank"))


def spread(values: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 2) for p in (50, 90, 99)} | {"most": round(max(values), 2)}


def quality(first: dict[str, Ranking], qrels: Qrels, models: dict[str, sl.Reranker]) -> dict[str, Any]:
    """nDCG@10 of every system without a budget, and its difference from L-6:32 with the interval."""
    remembering = {name: Remembering(model) for name, model in models.items()}
    runs = {
        name: as_run({q: rerank(ranking, stages(system, remembering)) for q, ranking in first.items()})
        for name, system in SYSTEMS.items()
    }
    out: dict[str, Any] = {}
    for name, run in {"hybrid alone": as_run(first), **runs}.items():
        change = compare(run, runs["L-6:32"], qrels, samples=2000)
        interval = [round(x, 4) for x in change.interval]
        out[name] = {"ndcg": ndcg(run, qrels), "difference": round(change.difference, 4), "interval": interval}
    return out


def times(first: dict[str, Ranking], qrels: Qrels, models: dict[str, sl.Reranker]) -> dict[str, Any]:
    """Milliseconds of every system's second stage without a budget, over some of the queries."""
    found: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for ranking in list(first.values())[:: max(1, len(first) // TIMED)][:TIMED]:
        for name, system in SYSTEMS.items():
            found[name].append(second_ms(rerank(ranking, stages(system, models))))
    return {name: {"ms": spread(values)} for name, values in found.items()}


def stages(system: list[tuple[str, int]], models: dict[str, Any]) -> list[Stage]:
    return [(models[name], number) for name, number in system]


def budgets(first: dict[str, Ranking], qrels: Qrels, models: dict[str, sl.Reranker]) -> dict[str, Any]:
    """nDCG@10, milliseconds, overrun and how many the last reranker read, of searches under each budget."""
    out = {}
    for name in ("L-6:100", "L-2:100, L-6:20"):
        for budget in BUDGETS:
            found = {q: rerank(ranking, stages(SYSTEMS[name], models), max_ms=budget) for q, ranking in first.items()}
            out[f"{name} within {budget} ms"] = {
                "ndcg": ndcg(as_run(found), qrels),
                "ms": spread([second_ms(r) for r in found.values()]),
                "over": spread([second_ms(r) - budget for r in found.values()]),
                "read": round(float(np.mean([r.scored["rerank"] for r in found.values()])), 1),
            }
    return out


STEPS = {"budgets": budgets, "times": times, "quality": quality}


def measure(spec: str, index_path: Path, work: Path, queries: int, steps: Sequence[str]) -> None:
    name, split = spec.split(":")
    data = read_collection(DATA / name, split)
    chosen = sorted(data.qrels)
    chosen = [chosen[i * len(chosen) // queries] for i in range(queries)] if len(chosen) > queries else chosen
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pipeline.perf_counter = reranker.perf_counter = time.thread_time
    models = {size: sl.Reranker.load(size, threads=1) for size in ("L-2", "L-4", "L-6")}
    with sl.Index.open(index_path) as index:
        first = {q: index.search(data.queries[q], k=100) for q in chosen}
        passages = len(index)
    for model in models.values():  # so that no system pays for the first touch of the table
        rerank(first[chosen[0]], [(model, 100)])
    gc.collect()
    gc.freeze()  # Python's collector would walk the thousands of hits that are kept here, 25 ms each time
    qrels = Qrels({q: data.qrels[q] for q in chosen})
    path = work / f"{name}-{split}.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"systems": {}}
    facts |= {"collection": spec, "queries": len(chosen), "passages": passages}
    for step in steps:
        for system, row in STEPS[step](first, qrels, models).items():
            facts["systems"][system] = facts["systems"].get(system, {}) | row
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def report(work: Path) -> None:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(work.glob("*.json"))]
    lines = [
        "# The second stage under a time budget and as a cascade",
        "",
        f"{datetime.date.today()}, shortlist {sl.__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"kernels {native.chosen_instruction_set()}. Made by `python bench/cascade.py`. First stage hybrid. Milliseconds are "
        "of the second stage alone, processor time of its one thread. L-2:100, L-6:20 is a cascade: L-2 reads 100, L-6 the "
        "best 20 of that order. Overrun is what a search took beyond its budget; below zero it took less.",
    ]
    for facts in found:
        lines += ["", f"## {facts['collection']}: {facts['queries']} queries, {facts['passages']:,} passages", ""]
        lines += ["| second stage | nDCG@10 | against L-6:32 | p50 ms | p99 ms |", "| --- | --- | --- | --- | --- |"]
        lines += [_plain(name, row) for name, row in facts["systems"].items() if "over" not in row]
        lines += ["", "| budget | nDCG@10 | read by the last | p50 ms | overrun p50 | p99 | most |", "|" + " --- |" * 7]
        lines += [_budgeted(name, row) for name, row in facts["systems"].items() if "over" in row]
    page = "\n".join(lines) + "\n"
    print(page)
    (ROOT / "bench" / "results" / "cascade.md").write_text(page, encoding="utf-8")


def _plain(name: str, row: dict[str, Any]) -> str:
    low, high = row["interval"]
    change = "" if name == "L-6:32" else f"{100 * row['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    ms = f"{row['ms']['p50']:.0f} | {row['ms']['p99']:.0f}" if "ms" in row else "0 | 0"
    return f"| {name} | {row['ndcg']:.4f} | {change} | {ms} |"


def _budgeted(name: str, row: dict[str, Any]) -> str:
    over = " | ".join(f"{row['over'][p]:+.1f}" for p in ("p50", "p99", "most"))
    return f"| {name} | {row['ndcg']:.4f} | {row['read']:.0f} | {row['ms']['p50']:.1f} | {over} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("measure")
    one.add_argument("work", type=Path)
    one.add_argument("collection", metavar="NAME:SPLIT")
    one.add_argument("index", type=Path)
    one.add_argument("steps", nargs="*", metavar="STEP")
    one.add_argument("--queries", type=int, default=200)
    verbs.add_parser("report").add_argument("work", type=Path)
    args = parser.parse_args()
    if args.verb == "report":
        report(args.work)
    else:
        measure(args.collection, args.index, args.work, args.queries, args.steps or list(STEPS))


if __name__ == "__main__":
    main()
