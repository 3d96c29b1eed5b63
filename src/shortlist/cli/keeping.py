"""`index info`, `delete`, `compact`, `check`, `backup`: the verbs that look after an index."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shortlist.cli.show import example, out, print_json
from shortlist.index import Index
from shortlist.stores import care


def add_verbs(verbs: Any) -> None:
    """Register all of them."""
    for add in (_add_info, _add_delete, _add_compact, _add_check, _add_backup):
        add(verbs)


def _verb(verbs: Any, name: str, text: str, description: str, shown: str) -> argparse.ArgumentParser:
    """The parser of `index NAME`, which takes an index first."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        f"index {name}", help=text, description=description, **example(f"shortlist index {name} {shown}")
    )
    parser.add_argument("index", type=Path, metavar="IDX")
    return parser


# --- info


def _add_info(verbs: Any) -> None:
    parser = _verb(
        verbs, "info", "what an index holds", "Passages, languages, encoder, and the size on disk part by part.", "my.idx"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.set_defaults(verb=run_info)


def run_info(args: argparse.Namespace) -> int:
    """Print what the index holds."""
    with Index.open(args.index) as index:
        manifest = index.manifest
        encoder = manifest["encoder"]
        about = {
            "passages": len(index),
            "deleted": index.deleted,
            "languages": [lang for lang in index.languages if lang],
            "encoder": encoder and f"{encoder['name']} ({encoder['dims']} dims)",
            "analyzer": manifest["analyzer"],
            "format": manifest["format"],
            "bytes": index.sizes(),
        }
    if args.json:
        print_json(about)
        return 0
    for name, value in about.items():
        if name != "bytes":
            out().print(f"{name:10} {', '.join(value) if isinstance(value, list) else value}", markup=False)
    for part, size in about["bytes"].items():
        out().print(f"{part:10} {size / 1e6:,.1f} MB on disk")
    return 0


# --- delete


def _add_delete(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "delete",
        "delete passages by id or by a filter",
        "Delete the passages with these ids, or all that fit a filter. Their space is given back by a compaction.",
        "my.idx --filter 'lang=zh and year<2020'",
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="id of a passage")
    parser.add_argument("--filter", metavar="FILTER", help="delete every passage that fits")
    parser.set_defaults(verb=run_delete)


def run_delete(args: argparse.Namespace) -> int:
    """Delete and say how many."""
    with Index.open(args.index, write=True) as index:
        count = index.delete(args.ids or None, where=args.filter)
        out().print(f"{args.index}: {count:,} passages deleted, {len(index):,} left")
    return 0


# --- compact


def _add_compact(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "compact",
        "give back the space of deleted passages",
        "Write the index anew without deleted passages. Searches go on meanwhile; it needs the space of a second copy.",
        "my.idx",
    )
    parser.set_defaults(verb=run_compact)


def run_compact(args: argparse.Namespace) -> int:
    """Compact and say by how much the index has shrunk."""
    with Index.open(args.index, write=True) as index:
        before = sum(index.sizes().values())
        count = index.compact()
        after = sum(index.sizes().values())
    out().print(f"{args.index}: {count:,} deleted passages removed, {before / 1e6:,.1f} MB are now {after / 1e6:,.1f} MB")
    return 0


# --- check


def _add_check(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "check",
        "verify an index, and repair it",
        "Read everything, compare checksums, and compare what is derived from the passages with what they give. Exit status 1 "
        "if something is wrong. Searches and writes may go on meanwhile; a repair refuses other writers.",
        "my.idx",
    )
    parser.add_argument(
        "--repair", action="store_true", help="restore what can be derived, and name the passages that are lost"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.set_defaults(verb=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Print what is wrong, and after a repair what has become of it."""
    report = care.repair(args.index) if args.repair else care.check(args.index)
    after = care.check(args.index) if args.repair and not report.sound else report
    if args.json:
        found = {name: getattr(report, name) for name in ("truth", "lost", "derived", "notes")}
        print_json({"sound": after.sound, "passages": after.passages, **found})
        return 0 if after.sound else 1
    for text in (*report.truth, *report.derived):
        out().print(f"damaged  {text}", markup=False)
    for name in report.lost:
        out().print(f"lost     {name}", markup=False)
    for text in report.notes:
        out().print(f"note     {text}", markup=False)
    out().print(f"{args.index}: {_verdict(report, after)}", markup=False)
    return 0 if after.sound else 1


def _verdict(report: care.Report, after: care.Report) -> str:
    if report.sound:
        return f"{report.passages:,} passages, all sound"
    if after is report:
        return f"{report.passages:,} passages are whole. `shortlist index check --repair` restores what can be restored"
    lost = f"{len(report.lost):,} passages are lost; add them again" if report.lost else "nothing is lost"
    return f"repaired: {after.passages:,} passages, all sound; {lost}" if after.sound else "the repair has not healed it"


# --- backup


def _add_backup(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "backup",
        "copy an index while it is used",
        "Write a verified copy, as of one moment, to a path where nothing is yet. The copy is an index like any other.",
        "my.idx backup.idx",
    )
    parser.add_argument("target", type=Path, metavar="TARGET")
    parser.set_defaults(verb=run_backup)


def run_backup(args: argparse.Namespace) -> int:
    """Copy and say what the copy holds."""
    care.backup(args.index, args.target)
    with Index.open(args.target) as copy:
        size = sum(copy.sizes().values())
        out().print(f"{args.target}: {len(copy):,} passages, {size / 1e6:,.1f} MB, verified", markup=False)
    return 0
