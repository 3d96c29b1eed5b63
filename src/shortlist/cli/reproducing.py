"""`reproduce`: the figures that are kept with the code, measured again."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.markup import escape
from rich.table import Table

from shortlist import models
from shortlist.cli.show import complain, example, out, print_json, working
from shortlist.errors import BadInput
from shortlist.reproduce import (
    ENCODER,
    MEASURES,
    RERANKER,
    SYSTEMS,
    Outcome,
    Published,
    Reproduction,
    benchmark,
    read_expected,
    read_published,
    wanted,
    write_expected,
)


def add_verbs(verbs: Any) -> None:
    """Register `reproduce`."""
    parser = verbs.add_parser(
        "reproduce",
        help="measure again what bench/reproduce expects",
        description="Runs systems over collections and compares nDCG@10 and R@100 with the values kept in bench/reproduce, and "
        "with what others published. Exit status 1 if one lies outside its tolerance. Names are collections, miracl (--lang) "
        "and cmteb (--task); without a name everything that has expected values is run.",
        **example(
            "shortlist reproduce scifact miracl-yo\n"
            "  shortlist reproduce miracl --lang zh --corpus DIR --indexes DIR --runs DIR\n"
            "  shortlist reproduce cmteb --task EcomRetrieval --corpus DIR"
        ),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="collections, miracl, cmteb (default: all that is expected)")
    parser.add_argument("--lang", action="append", default=[], metavar="LANG", help="of MIRACL (default: all 18)")
    parser.add_argument("--task", action="append", default=[], metavar="TASK", help="of C-MTEB (default: all eight)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="holds the collections (default: SHORTLIST_DATA)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), metavar="LIST", help="of %(default)s")
    parser.add_argument("--questions", type=int, metavar="N", help="at most N evenly spaced ones; nothing is expected then")
    parser.add_argument("--model", default=ENCODER, help="encoder (default: %(default)s)")
    parser.add_argument("--rerank", default=RERANKER, metavar="SIZE", help="reranker (default: %(default)s)")
    parser.add_argument("--indexes", type=Path, metavar="DIR", help="keep indexes there, and use those that are there")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="keep runs and their manifests there, and go on from them")
    parser.add_argument(
        "--expected", type=Path, default=Path("bench/reproduce"), metavar="DIR", help="tables (default: %(default)s)"
    )
    parser.add_argument("--record", action="store_true", help="write what is found as what is expected")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all that it may use)")
    parser.add_argument("--json", action="store_true", help="one JSON line a condition")
    parser.set_defaults(verb=run_reproduce)


def run_reproduce(args: argparse.Namespace) -> int:
    """Measure the conditions, print found beside expected, and say whether all lie within."""
    table, others = args.expected / "expected.tsv", args.expected / "published.tsv"
    expected = read_expected(table) if table.is_file() or not args.names else []
    published = read_published(others) if others.is_file() else []
    names = [part for name in args.names for part in benchmark(name, args.lang if name == "miracl" else args.task)]
    conditions = wanted(expected, names, _systems(args.systems), _models(args), args.questions)
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        indexes, runs = (_folder(folder, stack) for folder in (args.indexes, args.runs))
        say = stack.enter_context(working("reproduce"))
        work = Reproduction(
            _folders(args.corpus), indexes, runs, encoder=args.model, reranker=args.rerank, threads=args.threads
        )
        for outcome in work.outcomes(conditions, _steps(say)):
            outcomes.append(outcome)
            if args.record:
                expected = [*(c for c in expected if c != outcome.condition), outcome.recorded]
                write_expected(table, expected)
            if args.json:
                print_json(_as_json(outcome))
    if not args.json:
        _print(outcomes, published)
    outside = [outcome for outcome in outcomes if outcome.within is False]
    for outcome in outside:
        complain(f"outside: {outcome.condition.command}")
    return 1 if outside and not args.record else 0


def _systems(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise BadInput(f"no system {unknown[0]!r}. Expected of {', '.join(SYSTEMS)}, with commas between.")
    return names


def _models(args: argparse.Namespace) -> dict[str, str]:
    """System -> names of the models that it runs with."""
    encoder, reranker = (
        name if name == default else models.read_card(models.resolve(name)).name
        for name, default in ((args.model, ENCODER), (args.rerank, RERANKER))
    )
    return {"bm25": "", "dense": encoder, "hybrid": encoder, "two-stage": f"{encoder} + {reranker}"}


def _folders(corpus: Path | None) -> list[Path]:
    """Where collections are looked for: the folder named, and the checkout's examples."""
    return [corpus or Path(os.environ.get("SHORTLIST_DATA") or "../shared/data"), Path("examples")]


def _folder(named: Path | None, stack: ExitStack) -> Path:
    """The folder, made if need be, or one that goes when all is done."""
    if named is None:
        return Path(stack.enter_context(TemporaryDirectory(prefix="shortlist-reproduce-")))
    named.mkdir(parents=True, exist_ok=True)
    return named


def _steps(say: Any) -> Any:
    """A progress function that speaks at every step of a terminal's spinner, and once a label where there is none."""
    last = ""

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal last
        from rich.console import Console

        if Console(stderr=True).is_terminal:
            say(f"{what} {done:,}" + (f" of {total:,}" if total else ""))
        elif what != last:
            say(what)
        last = what

    return report


def _as_json(outcome: Outcome) -> dict[str, Any]:
    c = outcome.condition
    return {
        **{name: getattr(c, name) for name in ("collection", "split", "language", "system", "models", "command")},
        "questions": outcome.questions,
        "found": {name: round(value, 4) for name, value in outcome.found.items()},
        "expected": dict(c.expected),
        "tolerance": c.tolerance,
        "within": outcome.within,
    }


def _print(outcomes: Sequence[Outcome], published: Sequence[Published]) -> None:
    values = [column for name in MEASURES for column in (name, "expected", "difference")]
    table = _table("found beside expected", ["collection", "language", "system"], ["questions", *values, "tolerance", "within"])
    for outcome in outcomes:
        c = outcome.condition
        names = [escape(f"{c.collection} {c.split}"), c.language, c.system]
        table.add_row(*names, str(outcome.questions), *_cells(outcome), _verdict(outcome))
    out().print(table)
    rows = list(_beside(outcomes, published))
    if rows:
        others = _table(
            "what others published on the same data",
            ["collection", "their system", "our system", "measure"],
            ["theirs", "ours", "difference"],
        )
        for row in rows:
            others.add_row(*map(escape, row))
        out().print(others)


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in (*left, *right):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name not in left)
    return table


def _cells(outcome: Outcome) -> list[str]:
    cells = []
    for name in MEASURES:
        found, expected = outcome.found[name], outcome.condition.expected.get(name)
        cells += [
            f"{found:.4f}",
            *(("–", "–") if expected is None else (f"{expected:.4f}", f"{round(found - expected, 4) + 0.0:+.4f}")),
        ]
    return [*cells, f"{outcome.condition.tolerance:.4f}" if outcome.condition.expected else "–"]


def _verdict(outcome: Outcome) -> str:
    return {True: "yes", False: "[bold red]NO[/bold red]", None: "–"}[outcome.within]


def _beside(outcomes: Sequence[Outcome], published: Sequence[Published]) -> Iterator[tuple[str, ...]]:
    """Rows of published figures with ours beside them, of the collections that were run over all their questions."""
    whole = [outcome for outcome in outcomes if outcome.condition.questions == 0]
    ours = {(o.condition.collection, o.condition.split, o.condition.system): o.found for o in whole}
    there = {key[:2] for key in ours}
    for theirs in (row for row in published if (row.collection, row.split) in there):
        mine = ours.get((theirs.collection, theirs.split, theirs.beside))
        for name, value in theirs.values.items():
            figures = ("–", "–") if mine is None else (f"{mine[name]:.4f}", f"{mine[name] - value:+.4f}")
            yield (theirs.collection, theirs.system, "–" if mine is None else theirs.beside, name, f"{value:.4f}", *figures)
