"""`report`: runs of one collection or of many as a page, Markdown or LaTeX."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shortlist.cli.show import complain, example, progress
from shortlist.data import read_manifest, read_qrels, read_queries, read_run
from shortlist.data.lines import unpacked_name
from shortlist.errors import BadInput
from shortlist.report import Judged, build_report, write_report


def add_verbs(verbs: Any) -> None:
    """Register `report`."""
    report = verbs.add_parser(
        "report",
        help="runs as one page: quality beside cost, with pictures and sources",
        description="Measure and compare runs, and write what was found as a page that needs no other file (.html), as "
        "Markdown with pictures (.md) or as LaTeX (.tex). A run's file names the system, its folder the collection. Runs of "
        "`shortlist run --qrels` know their judgements, queries and index; for others they are named, once for all or as "
        "COLLECTION=FILE.",
        **example(
            "shortlist report runs/scifact/*.trec runs/mlqa-hi/*.trec --baseline hybrid -o report.html -o report.md\n"
            "  shortlist report bm25.trec other.trec --qrels qrels.tsv --queries queries.tsv --corpus my.idx -o report.html"
        ),
    )
    report.add_argument("runs", nargs="+", metavar="RUN")
    for name, what in (("qrels", "judgements"), ("queries", "texts of the queries"), ("corpus", "index or passages")):
        report.add_argument(
            f"--{name}", action="append", default=[], metavar="[NAME=]FILE", help=f"{what} (default: as the manifests say)"
        )
    report.add_argument("--baseline", metavar="SYSTEM", help="compare with this one (default: the first)")
    report.add_argument("--system", metavar="SYSTEM", help="look at this one closely: its worst queries (default: the last)")
    report.add_argument("--measure", default="nDCG@10", help="that systems are compared by (default: %(default)s)")
    report.add_argument(
        "--worst", type=int, default=3, metavar="N", help="queries of each kind shown a collection (default: %(default)s)"
    )
    report.add_argument("--title", default="Retrieval report", help="of the page (default: %(default)s)")
    report.add_argument("--note", default="", help="a sentence for the top, such as what else the machine did")
    report.add_argument(
        "-o",
        "--output",
        action="append",
        type=Path,
        required=True,
        metavar="FILE",
        help="ends in .html, .md or .tex; repeatable",
    )
    report.set_defaults(verb=run_report)


def run_report(args: argparse.Namespace) -> int:
    """Measure the runs and write the files."""
    collections = _collections(args)
    with progress("measuring", "collections") as say:
        report = build_report(
            collections,
            baseline=args.baseline,
            system=args.system,
            measure=args.measure,
            worst=args.worst,
            title=args.title,
            note=args.note,
            progress=say,
        )
    for section in report.sections:
        for line in section.warnings:
            complain(f"{section.name}: {line}")
    for path in args.output:
        complain(f"written: {', '.join(map(str, write_report(report, path)))}")
    return 0


def _collections(args: argparse.Namespace) -> list[Judged]:
    """The runs by the folder they are in, in the order in which they were named."""
    folders: dict[str, dict[str, str]] = {}
    for file in args.runs:
        systems = folders.setdefault(Path(file).resolve().parent.name, {})
        system = Path(unpacked_name(Path(file))).stem
        if system in systems:
            raise BadInput(
                f"{file} and {systems[system]} are both the system {system!r} on the same collection. A run's file names the "
                "system, its folder the collection: rename one of them."
            )
        systems[system] = file
    named = {name: _named(getattr(args, name), folders) for name in ("qrels", "queries", "corpus")}
    return [
        _judged(name, systems, {what: of.get(name, of.get("")) for what, of in named.items()})
        for name, systems in folders.items()
    ]


def _named(words: Sequence[str], collections: Mapping[str, object]) -> dict[str, str]:
    """Collection -> file of `NAME=FILE`; a word without a collection's name before the = is for all, under ""."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, file = word.partition("=")
        found |= {name: file} if equals and name in collections else {"": word}
    return found


def _judged(name: str, files: Mapping[str, str], named: Mapping[str, str | None]) -> Judged:
    manifests: dict[str, dict[str, Any]] = {system: read_manifest(file) or {} for system, file in files.items()}
    known: dict[str, str | None] = next((m["files"] for m in manifests.values() if m.get("files")), {})
    qrels = named["qrels"] or known.get("qrels")
    if qrels is None:
        raise BadInput(
            f"{name}: no manifest of its runs names judgements. Name them with --qrels {name}=FILE, or make the runs with "
            "`shortlist run --qrels`."
        )
    queries, corpus = named["queries"] or known.get("queries"), named["corpus"] or known.get("index")
    return Judged(
        name=name,
        qrels=read_qrels(qrels),
        runs={system: read_run(file) for system, file in files.items()},
        manifests=manifests,
        files={system: Path(file).name for system, file in files.items()},
        queries=read_queries(queries) if queries and (named["queries"] or _there(queries)) else {},
        corpus=corpus if corpus and (named["corpus"] or _there(corpus)) else None,
    )


def _there(address: str) -> bool:
    """Whether what a manifest names can still be read; `ir_datasets:NAME` always can."""
    return Path(address).exists() or address.startswith("ir_datasets:")
