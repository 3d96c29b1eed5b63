"""`eval` and `mteb`: measures of runs, whether they differ, on which queries and why; tasks of other benchmarks."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from shortlist import comparison, measures, provenance
from shortlist.cli.show import complain, example, excerpt, out, print_json, shortened
from shortlist.comparison import Comparison, Decision
from shortlist.data import read_manifest, read_qrels, read_queries, read_run
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.measures import Evaluation
from shortlist.pipeline import CANDIDATES
from shortlist.report import find_passages
from shortlist.reranker import Reranker
from shortlist.types import Passage, Qrels, Run

DEFAULT_MEASURES = ("nDCG@10", "AP@100", "R@100", "P@10", "RR@10", "Judged@10")
GROUPS: Mapping[str, Callable[[str], str]] = {"length": comparison.length_group, "language": comparison.language_group}


def add_verbs(verbs: Any) -> None:
    """Register `eval` and `mteb`."""
    parser = verbs.add_parser(
        "eval",
        help="nDCG, MAP, Recall, P and MRR of runs, and whether they differ",
        description="Measures of runs against judgements (TREC, BEIR TSV, SQuAD, ir_datasets:NAME). Words with an @ are "
        "measures; several runs are compared by the first of them.",
        **example(
            "shortlist eval qrels/test.tsv bm25.trec hybrid.trec nDCG@10 R@100 --baseline bm25.trec\n"
            "  shortlist eval qrels/test.tsv bm25.trec hybrid.trec --queries queries.jsonl --by language --wins my.idx"
        ),
    )
    parser.add_argument("qrels", metavar="QRELS")
    parser.add_argument("words", nargs="+", metavar="RUN|MEASURE", help="run files, and measures such as nDCG@10")
    parser.add_argument("--baseline", metavar="RUN", help="compare every run with this one (default: every pair)")
    parser.add_argument(
        "--judged-only", action="store_true", help="leave out passages that nobody judged, as trec_eval -J does"
    )
    parser.add_argument("--queries", metavar="FILE", help="texts of the queries, for --by and --wins")
    parser.add_argument(
        "--by", metavar="GROUPS", help="means per query length, per language, or per group of a TSV: query, group"
    )
    parser.add_argument("--wins", metavar="CORPUS", help="index or passages: show the queries that two runs differ on most")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--dict", action="store_true", help="all of NDCG, MAP, Recall, P and MRR as dictionaries with five decimals"
    )
    form.add_argument("--json", action="store_true", help="a JSON line for each run, comparison, group and decisive query")
    parser.set_defaults(verb=run_eval)
    tasks = verbs.add_parser(
        "mteb",
        help="run tasks of MTEB and C-MTEB on the pipeline",
        description="Retrieval and reranking tasks of mteb, which downloads their data. c-mteb-retrieval stands for the eight "
        "retrieval tasks of C-MTEB.",
        **example("shortlist mteb c-mteb-retrieval --rerank L-6 --candidates 32 -o results/"),
    )
    tasks.add_argument("tasks", nargs="+", metavar="TASK", help="mteb's names, or c-mteb-retrieval")
    tasks.add_argument("--model", default="shortlist-embed", help="encoder, or none (default: %(default)s)")
    tasks.add_argument("--rerank", default="none", metavar="SIZE", help="reranker, or none (default: %(default)s)")
    tasks.add_argument(
        "--first", choices=("bm25", "dense", "hybrid"), help="first stage (default: hybrid, bm25 without encoder)"
    )
    tasks.add_argument("--candidates", type=int, default=CANDIDATES, help="passages to rerank (default: %(default)s)")
    tasks.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="results in mteb's own form")
    tasks.set_defaults(verb=run_mteb)


def run_eval(args: argparse.Namespace) -> int:
    """Print the measures of every run, and what sets the runs apart."""
    names = [word for word in args.words if "@" in word and not Path(word).exists()]
    files = [word for word in args.words if word not in names]
    if not files:
        raise BadInput("no run file was named. Expected: shortlist eval QRELS RUN… [MEASURE…]")
    qrels, runs = read_qrels(args.qrels), {file: read_run(file) for file in files}
    if args.judged_only:
        runs = {file: measures.only_judged(run, qrels) for file, run in runs.items()}
    _warn(runs, qrels)
    if args.dict:
        for file, run in runs.items():
            out().print(f"{file}\n{measures.format_card(measures.card_measures(run, qrels))}", markup=False, soft_wrap=True)
        return 0
    chosen = names or list(DEFAULT_MEASURES)
    results = {file: measures.evaluate(run, qrels, chosen) for file, run in runs.items()}
    compared = comparison.compare_all(runs, qrels, chosen[0], baseline=args.baseline) if len(runs) > 1 else []
    groups = _groups(args) if args.by else {}
    if args.json:
        _print_json(results, compared, groups)
    else:
        _print_tables(args.qrels, results, compared, groups)
    if args.wins:
        _print_wins(args, runs, qrels, chosen[0])
    return 0


def _warn(runs: Mapping[str, Run], qrels: Qrels) -> None:
    """On stderr: judged queries that a run lacks, and runs over different passages or queries."""
    for file, run in runs.items():
        missing = [query_id for query_id in qrels if not run.get(query_id)]
        if missing:
            some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            complain(f"{file}: {len(missing)} of {len(qrels)} judged queries are not in the run and count 0: {some}")
    for line in provenance.disagreements({file: read_manifest(file) for file in runs}):
        complain(line)


def _groups(args: argparse.Namespace) -> dict[str, str]:
    """Query id -> group."""
    if args.by not in GROUPS:
        return read_queries(args.by)  # a TSV of query and group has the form of one of query and text
    return {query_id: GROUPS[args.by](text) for query_id, text in _texts(args).items()}


def _texts(args: argparse.Namespace) -> dict[str, str]:
    if args.queries is None:
        raise BadInput("the texts of the queries are needed. Name their file with --queries.")
    return read_queries(args.queries)


def _print_json(results: Mapping[str, Evaluation], compared: list[Comparison], groups: Mapping[str, str]) -> None:
    for file, result in results.items():
        queries = len(next(iter(result.per_query.values())))
        print_json(
            {"run": file, "queries": queries, **result.mean, "missing": list(result.missing), "manifest": read_manifest(file)}
        )
    for found in compared:
        print_json(
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in vars(found).items()}
        )
    for file, result in results.items() if groups else ():
        for group, (queries, means) in comparison.breakdown(result, groups).items():
            print_json({"run": file, "group": group, "queries": queries, **means})


def _print_tables(qrels: str, results: Mapping[str, Evaluation], compared: list[Comparison], groups: Mapping[str, str]) -> None:
    queries = len(next(iter(next(iter(results.values())).per_query.values())))
    table = _table(f"{qrels}: mean over {queries:,} judged queries", "run", *next(iter(results.values())).per_query)
    for file, result in results.items():
        table.add_row(escape(file), *(f"{value:.4f}" for value in result.mean.values()))
    out().print(table)
    for file in results:
        manifest = read_manifest(file)
        if manifest is not None:
            out().print(f"{file}: {provenance.summary(manifest)}", markup=False, soft_wrap=True)
    if compared:
        out().print(_comparison_table(compared))
    if groups:
        out().print(_group_table(results, groups))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _comparison_table(compared: list[Comparison]) -> Table:
    columns = ("difference", "95% interval", "randomisation p", "t test p", "p after Holm", "wins/ties/losses")
    table = _table(f"{compared[0].measure}: one run against another", "runs", *columns)
    for found in compared:
        table.add_row(
            escape(f"{found.a} − {found.b}"),
            f"{found.difference:+.4f}",
            f"{found.interval[0]:+.4f} … {found.interval[1]:+.4f}",
            *(f"{p:.4f}" for p in (found.p_value, found.t_p_value, found.holm_p_value)),
            f"{found.wins}/{found.ties}/{found.losses}",
        )
    return table


def _group_table(results: Mapping[str, Evaluation], groups: Mapping[str, str]) -> Table:
    measure = next(iter(next(iter(results.values())).per_query))
    found = {file: comparison.breakdown(result, groups) for file, result in results.items()}
    table = _table(f"{measure} by kind of query", "queries", "number", *map(escape, results))
    for group, (queries, _) in next(iter(found.values())).items():
        table.add_row(escape(group), str(queries), *(f"{found[file][group][1][measure]:.4f}" for file in results))
    return table


def _print_wins(args: argparse.Namespace, runs: Mapping[str, Run], qrels: Qrels, measure: str) -> None:
    """Of the last run against the baseline or the first: the queries it wins and loses by most, with texts."""
    base = args.baseline or next(iter(runs))
    other = next((file for file in reversed(list(runs)) if file != base), None)
    if other is None:
        raise BadInput("--wins compares two runs, and one was named. Name another.")
    queries = _texts(args)
    wins, losses = comparison.decisions(runs[other], runs[base], qrels, measure)
    passages = find_passages(args.wins, {placed.id for decision in (*wins, *losses) for placed in decision.passages})
    for title, found in ((f"{other} wins", wins), (f"{other} loses", losses)):
        if args.json:
            _print_decisions(other, base, found, queries, passages)
            continue
        out().print(_decision_table(f"{title} against {base}", measure, found, queries, passages))


def _print_decisions(
    a: str, b: str, found: list[Decision], queries: Mapping[str, str], passages: Mapping[str, Passage]
) -> None:
    for decision in found:
        texts = [
            {**asdict(placed), "text": passages[placed.id].content} for placed in decision.passages if placed.id in passages
        ]
        print_json({"a": a, "b": b, **asdict(decision), "query": queries.get(decision.query_id), "passages": texts})


def _decision_table(
    title: str, measure: str, found: list[Decision], queries: Mapping[str, str], passages: Mapping[str, Passage]
) -> Table:
    table = Table(title=escape(title), title_justify="left", show_lines=True, expand=True)
    table.add_column("query", ratio=1)
    table.add_column(measure, justify="right")
    table.add_column("passages that decide (place in one, place in the other)", ratio=2, overflow="fold")
    for decision in found:
        texts = [
            f"[bold]{'relevant' if (p.judgement or 0) > 0 else 'not judged' if p.judgement is None else 'not relevant'}[/bold] "
            f"{p.place_a or '–'}, {p.place_b or '–'}: {_shown(p.id, passages)}"
            for p in decision.passages
        ]
        query = f"[dim]{escape(decision.query_id)}[/dim] {escape(queries.get(decision.query_id, ''))}"
        table.add_row(query, f"{decision.value_a:.3f}\n{decision.value_b:.3f}", "\n".join(texts))
    return table


def _shown(name: str, passages: Mapping[str, Passage]) -> str:
    return excerpt(shortened(passages[name])) if name in passages else escape(name)


def run_mteb(args: argparse.Namespace) -> int:
    """Print a JSON line a task; results stay in the folder."""
    from shortlist.mteb_adapter import C_MTEB_RETRIEVAL, MtebSearch, run_tasks

    names = [name for word in args.tasks for name in (C_MTEB_RETRIEVAL if word == "c-mteb-retrieval" else (word,))]
    encoder = None if args.model == "none" else Encoder.load(args.model)
    reranker = None if args.rerank == "none" else Reranker.load(args.rerank)
    search = MtebSearch(encoder, reranker, first=args.first, candidates=args.candidates)
    for task, means in run_tasks(names, search, args.output).items():
        print_json({"task": task, **means})
    return 0
