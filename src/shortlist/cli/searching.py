"""`search` and `compare`: answers, and the three strategies side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shortlist.cli.show import complain, example, out, print_json, ranking_json, ranking_table, timing_line
from shortlist.fuse import FUSIONS
from shortlist.index import Index
from shortlist.pipeline import CANDIDATES, FIRST_STAGES, FirstStage, Pipeline, Stage
from shortlist.reranker import FAMILY, Reranker
from shortlist.types import Ranking


def add_verbs(verbs: Any) -> None:
    """Register `search` and `compare`."""
    search = verbs.add_parser(
        "search",
        help="answer a query from an index",
        description="The k best passages for a query: the first stage picks candidates, the reranker puts the best first.",
        **example(
            "shortlist search my.idx '柏林有多少人口?' -k 5 --candidates 32 --first hybrid\n"
            "  shortlist search my.idx '柏林有多少人口?' --cascade L-2:100,L-6:20 --max-ms 50"
        ),
    )
    add_stage_arguments(search)
    search.add_argument("--json", action="store_true", help="one JSON line a query")
    search.set_defaults(verb=run_search)
    compare = verbs.add_parser(
        "compare",
        help="embedding-only, reranker-only and two-stage side by side",
        description="Three labelled tables of the same query and a timing summary, the offline work apart.",
        **example("shortlist compare my.idx 'who wrote the first program?' -k 5 --candidates 32"),
    )
    add_stage_arguments(compare)
    compare.add_argument("--json", action="store_true", help="one JSON line a strategy")
    compare.set_defaults(verb=run_compare)


def add_stage_arguments(
    parser: argparse.ArgumentParser, queries: str = "query", k: int = 5, rerank: str = FAMILY.default
) -> None:
    """The arguments of both stages, the same for every verb that searches."""
    parser.add_argument("index", type=Path, metavar="IDX")
    parser.add_argument(queries, metavar=queries.upper(), nargs="+" if queries == "query" else None)
    parser.add_argument("-k", type=int, default=k, help="passages to return (default: %(default)s)")
    parser.add_argument("--candidates", type=int, metavar="N", help=f"passages to rerank (default: {CANDIDATES})")
    parser.add_argument(
        "--first", choices=FIRST_STAGES, help="first stage; none reranks everything (default: hybrid, bm25 without vectors)"
    )
    parser.add_argument("--fusion", choices=FUSIONS, help="of BM25 and vectors (default: what `tune` has stored, or auto)")
    parser.add_argument(
        "--filter", metavar="FILTER", help="rank only passages that fit, such as 'lang=zh and (year>=2020 or tag in [a, b])'"
    )
    add_reranker_arguments(parser, rerank, "a size, a name, a folder, or none")


def add_reranker_arguments(parser: argparse.ArgumentParser, rerank: str, kinds: str) -> None:
    """The arguments of the second stage; `kinds` says what the reranker may be."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--rerank", default=rerank, metavar="SIZE", help=f"reranker: {kinds} (default: %(default)s)")
    choice.add_argument(
        "--cascade",
        type=_cascade,
        metavar="SIZE:N,…",
        help="several rerankers, each reads the best N of the order so far, the last decides: L-2:100,L-6:20",
    )
    parser.add_argument(
        "--max-ms",
        type=float,
        metavar="MS",
        help="time of the second stage; what is not read by then stays behind, in the first stage's order (default: no limit)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads of the reranker (default: all that it may use)")


def _cascade(text: str) -> list[tuple[str, int]]:
    """`L-2:100,L-6:20` as pairs; argparse makes a usage error of the ValueError."""
    pairs = [part.rpartition(":") for part in text.split(",")]
    if not all(name and number.isdecimal() for name, _, number in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no cascade. Expected SIZE:N with commas between, such as L-2:100,L-6:20."
        )
    return [(name, int(number)) for name, _, number in pairs]


def open_pipeline(args: argparse.Namespace) -> Pipeline:
    """The pipeline that the stage arguments name."""
    index = Index.open(args.index)
    if args.cascade:
        return Pipeline(index, cascade=load_cascade(args), fusion=args.fusion)
    reranker = None if args.rerank == "none" else load_reranker(args)
    return Pipeline(index, reranker, fusion=args.fusion)


def load_reranker(args: argparse.Namespace) -> Reranker:
    """The reranker that `--rerank` names."""
    return Reranker.load(args.rerank, threads=args.threads)


def load_cascade(args: argparse.Namespace) -> list[Stage]:
    """The rerankers that `--cascade` names, each with how many passages it reads."""
    return [(Reranker.load(name, threads=args.threads), number) for name, number in args.cascade]


def second_stage(args: argparse.Namespace) -> str:
    """Who reads, in one word: `L-6`, `L-2:100,L-6:20`, `none`."""
    if args.cascade:
        return ",".join(f"{Path(name).name}:{number}" for name, number in args.cascade)
    return Path(args.rerank).name


def run_search(args: argparse.Namespace) -> int:
    """Print the ranking of every query."""
    search = open_pipeline(args)
    for query in args.query:
        ranking = search(query, k=args.k, candidates=args.candidates, first=args.first, max_ms=args.max_ms, where=args.filter)
        if args.json:
            print_json(ranking_json(ranking, args.k))
            continue
        out().print(ranking_table(query, ranking, args.k, search.index), f"{timing_line(ranking.timings)}\n")
        for note in ranking.notes:
            complain(note)
    return 0


def run_compare(args: argparse.Namespace) -> int:
    """Print the three strategies' tables and the timing summary."""
    search = open_pipeline(args)
    for query in args.query:
        strategies = _strategies(search, query, args)
        if args.json:
            for name, ranking in strategies.items():
                print_json({"strategy": name, **ranking_json(ranking, args.k)})
        else:
            _print_comparison(query, strategies, search.index, args.k)
    return 0


def _strategies(search: Pipeline, query: str, args: argparse.Namespace) -> dict[str, Ranking]:
    first: FirstStage = "hybrid" if args.first in (None, "none") else args.first
    reads = second_stage(args) if args.cascade else f"N={CANDIDATES if args.candidates is None else args.candidates}"
    search.index.search(query, k=1, first="dense")  # opens the encoder, so that no strategy pays for that
    return {
        "Embedding-only retrieval": search.index.search(query, k=args.k, first="dense", where=args.filter),
        "Reranker-only retrieval": search(query, k=args.k, first="none", where=args.filter),
        f"Two-stage retrieval ({first}, {reads}, K={args.k})": search(
            query, k=args.k, candidates=args.candidates, first=first, max_ms=args.max_ms, where=args.filter
        ),
    }


def _print_comparison(query: str, strategies: dict[str, Ranking], index: Index, k: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = out()
    console.rule(escape(query))
    for name, ranking in strategies.items():
        console.print(ranking_table(f"Top {k} passages: {name}", ranking, k, index))
    table = Table(title="Timing summary, one query online", title_justify="left", title_style="bold")
    table.add_column("method")
    table.add_column("time (ms)", justify="right")
    table.add_column("stages")
    for name, ranking in strategies.items():
        table.add_row(
            name,
            f"{ranking.timings['total_ms']:.1f}",
            timing_line({s: t for s, t in ranking.timings.items() if s != "total_ms"}),
        )
    console.print(table)
    for name, ranking in strategies.items():
        for note in ranking.notes:
            complain(f"{name}: {note}")
    offline = index.offline
    console.print(
        f"Offline, done once: {len(index):,} passages, {offline.encode_s:.1f} s to encode and {offline.analyze_s:.1f} s "
        "to analyze. Not counted above.\n"
    )
