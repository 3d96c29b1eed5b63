"""`run` and `eval`: TREC runs over many queries, and their measures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from shortlist import measures
from shortlist.cli.searching import add_stage_arguments, open_pipeline, second_stage
from shortlist.cli.show import complain, example, out, print_json, progress
from shortlist.data import read_qrels, read_queries, read_run, write_run
from shortlist.errors import BadInput

DEFAULT_MEASURES = ("nDCG@10", "AP@100", "R@100", "P@10", "RR@10")


def add_verbs(verbs: Any) -> None:
    """Register `run` and `eval`."""
    run = verbs.add_parser(
        "run",
        help="search many queries and write a TREC run",
        description="Search every query. Only the candidates are reranked; those below keep the first stage's order.",
        **example("shortlist run my.idx queries.jsonl --first hybrid --rerank L-6 --candidates 32 -k 100 -o out.trec"),
    )
    add_stage_arguments(run, queries="queries", k=100)
    run.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="the run file to write")
    run.add_argument("--qrels", type=Path, help="search only the queries that this file judges")
    run.add_argument(
        "--weight", type=float, help="of every reranker against the first stage, 0..1 (default: the reranker's card)"
    )
    run.set_defaults(verb=run_queries)
    evaluate = verbs.add_parser(
        "eval",
        help="nDCG, MAP, Recall, P and MRR of runs",
        description="Measures of TREC runs against judgements (TREC or BEIR TSV). Words with an @ are measures.",
        **example("shortlist eval qrels/test.tsv bm25.trec hybrid.trec nDCG@10 R@100"),
    )
    evaluate.add_argument("qrels", type=Path, metavar="QRELS")
    evaluate.add_argument("words", nargs="+", metavar="RUN|MEASURE", help="run files, and measures such as nDCG@10")
    form = evaluate.add_mutually_exclusive_group()
    form.add_argument(
        "--dict", action="store_true", help="all of NDCG, MAP, Recall, P and MRR as dictionaries with five decimals"
    )
    form.add_argument("--json", action="store_true", help="one JSON line a run")
    evaluate.set_defaults(verb=run_eval)


def run_queries(args: argparse.Namespace) -> int:
    """Search all queries and write the run."""
    queries = read_queries(Path(args.queries))
    if args.qrels is not None:
        judged = read_qrels(args.qrels)
        queries = {query_id: text for query_id, text in queries.items() if query_id in judged}
    if not queries:
        raise BadInput(f"{args.queries} holds no query to search. Expected at least one that the judgements know.")
    search = open_pipeline(args)
    name = f"{args.first or 'default'}-{second_stage(args)}".replace(" ", "_")
    with progress(f"searching {args.index.name}", "queries") as report:
        run = search.run(
            queries,
            k=args.k,
            candidates=args.candidates,
            first=args.first,
            weight=args.weight,
            max_ms=args.max_ms,
            where=args.filter,
            name=name,
            progress=report,
        )
    write_run(run, args.output)
    complain(f"{len(run):,} queries searched; run written to {args.output}")
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """Print the measures of every run."""
    names = [word for word in args.words if "@" in word and not Path(word).exists()]
    files = [Path(word) for word in args.words if word not in names]
    if not files:
        raise BadInput("no run file was named. Expected: shortlist eval QRELS RUN… [MEASURE…]")
    qrels = read_qrels(args.qrels)
    runs = {str(file): read_run(file) for file in files}
    if args.dict:
        for file, run in runs.items():
            out().print(f"{file}\n{measures.format_card(measures.card_measures(run, qrels))}", markup=False, soft_wrap=True)
        return 0
    chosen = names or list(DEFAULT_MEASURES)
    means = {file: measures.evaluate(run, qrels, chosen).mean for file, run in runs.items()}
    if args.json:
        for file, mean in means.items():
            print_json({"run": file, "queries": len(qrels), **mean})
        return 0
    table = Table(title=f"{args.qrels}: mean over {len(qrels):,} judged queries", title_justify="left")
    table.add_column("run")
    for measure in next(iter(means.values())):
        table.add_column(measure, justify="right")
    for file, mean in means.items():
        table.add_row(file, *(f"{value:.4f}" for value in mean.values()))
    out().print(table)
    return 0
