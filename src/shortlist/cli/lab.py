"""`run`: a TREC run over many queries, and the manifest beside it."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from shortlist.cli.searching import add_stage_arguments, open_pipeline, second_stage
from shortlist.cli.show import complain, complain_of_skipped, example, progress
from shortlist.cli.timing import measured
from shortlist.data import Skipped, read_manifest, read_qrels, read_queries, write_run
from shortlist.errors import BadInput
from shortlist.latency import latency_of
from shortlist.provenance import differing, run_manifest
from shortlist.types import Json


def add_verbs(verbs: Any) -> None:
    """Register `run`."""
    run = verbs.add_parser(
        "run",
        help="search many queries and write a TREC run",
        description="Search every query. Only the candidates are reranked; those below keep the first stage's order. "
        "RUN.manifest.json says how the run was made, and how long its searches took.",
        **example("shortlist run my.idx queries.jsonl --first hybrid --rerank L-6 --candidates 32 -k 100 -o out.trec"),
    )
    add_stage_arguments(run, queries="queries", k=100)
    run.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="the run file to write")
    run.add_argument("--qrels", type=Path, help="search only the queries that this file judges")
    run.add_argument(
        "--weight", type=float, help="of every reranker against the first stage, 0..1 (default: the reranker's card)"
    )
    run.add_argument(
        "--resume", action="store_true", help="leave a run as it is if its manifest says that it was made in just this way"
    )
    run.add_argument("--skip-bad", action="store_true", help="leave out queries that cannot be read, and count them")
    run.set_defaults(verb=run_queries)


def run_queries(args: argparse.Namespace) -> int:
    """Search all queries and write the run."""
    skipped = Skipped() if args.skip_bad else None
    queries = read_queries(args.queries, skipped=skipped)
    complain_of_skipped(skipped)
    if args.qrels is not None:
        judged = read_qrels(args.qrels)
        queries = {query_id: text for query_id, text in queries.items() if query_id in judged}
    if not queries:
        raise BadInput(f"{args.queries} holds no query to search. Expected at least one that the judgements know.")
    search = open_pipeline(args)
    name = f"{args.first or 'default'}-{second_stage(args)}".replace(" ", "_")
    arguments = {name: getattr(args, name) for name in ("k", "candidates", "first", "weight", "max_ms")} | {
        "where": args.filter
    }
    manifest = run_manifest(search, queries, **arguments, command=shlex.join(["shortlist", *sys.argv[1:]]))
    files: dict[str, Json] = {name: _address(getattr(args, name)) for name in ("index", "queries", "qrels")}
    manifest["files"] = files | {"reranker": None if search.reranker is None else search.reranker.address}
    if args.resume and args.output.exists() and not differing(read_manifest(args.output) or {}, manifest):
        complain(f"{args.output} was made in just this way before and is left as it is")
        return 0
    search.run(dict(list(queries.items())[:1]), **arguments)  # opens what is opened once, so that no query pays for it
    with progress(f"searching {args.index.name}", "queries") as report:
        run = search.run(queries, **arguments, name=name, progress=report)
    how = f"while the run was made, {args.k} passages a query, each query's share of its batch"
    manifest["measured"] = measured(latency_of(list(run.timings.values())), search.index, how)
    write_run(run, args.output, manifest)
    complain(f"{len(run):,} queries searched; run written to {args.output}")
    return 0


def _address(source: str | Path | None) -> str | None:
    """Where a file is found from any folder; what is no file (`ir_datasets:NAME`) as it was given."""
    if source is None:
        return None
    return str(Path(source).resolve() if Path(source).exists() else source)
