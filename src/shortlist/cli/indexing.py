"""`index`: build an index from files, or say what one holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shortlist.cli.show import complain, example, out, progress
from shortlist.data import read_passages
from shortlist.encoder import Encoder
from shortlist.index import Index
from shortlist.types import Passage


def add_verbs(verbs: Any) -> None:
    """Register `index`."""
    parser = verbs.add_parser(
        "index",
        help="build an index from files",
        description="Index passages from JSON lines, TSV, text, Markdown, folders of these or BEIR folders.",
        **example("shortlist index docs/ -o my.idx --lang de"),
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="file or folder to read")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="IDX", help="the index; passages are added if it exists"
    )
    parser.add_argument("--lang", default="", help="language of all passages (zh, hi, …); detected per passage by default")
    parser.add_argument("--model", default="shortlist-embed", help="encoder, or none for BM25 alone (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    parser.set_defaults(verb=build)


def build(args: argparse.Namespace) -> int:
    """Create the index or open it, and add every passage of the inputs."""
    encoder = None if args.model == "none" else Encoder.load(args.model, threads=args.threads)
    exists = args.output.exists()
    with (
        Index.open(args.output, encoder=encoder, write=True) if exists else Index.create(args.output, encoder=encoder) as index
    ):
        with progress(f"indexing {args.output.name}", "passages") as report:
            added = index.add(_passages(args.inputs, args.lang), progress=report)
        total = len(index)
    if added.truncated:
        complain(
            f"{added.truncated} passages are longer than the encoder reads: their vectors cover the beginning, BM25 all of it"
        )
    out().print(f"{args.output}: {added.count:,} passages added, {total:,} in all")
    return 0


def _passages(inputs: list[Path], lang: str) -> Iterator[Passage]:
    for path in inputs:
        yield from read_passages(path, lang=lang)
