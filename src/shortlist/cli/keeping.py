"""`index info`, `index delete`, `index compact`: verbs that look after an index. Each has a function that registers it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shortlist.cli.show import example, out, print_json
from shortlist.index import Index


def add_verbs(verbs: Any) -> None:
    """Register all of them."""
    for add in (_add_info, _add_delete, _add_compact):
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
