"""`index`: build an index from files, or say what one holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shortlist.cli.show import complain, example, out, progress
from shortlist.data import read_passages
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
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
    parser.add_argument("--model", help="encoder, or none for BM25 alone (default: shortlist-embed, or what the index has)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    parser.set_defaults(verb=build)


def build(args: argparse.Namespace) -> int:
    """Create the index or open it, and add every passage of the inputs."""
    expected = _counted(args.inputs, args.lang)
    with _opened(args) as index:
        with progress(f"indexing {args.output.name}", "passages") as report:
            added = index.add(_passages(args.inputs, args.lang), progress=lambda done, _: report(done, expected))
        total = len(index)
    if added.truncated:
        complain(
            f"{added.truncated} passages are longer than the encoder reads: their vectors cover the beginning, BM25 all of it"
        )
    out().print(f"{args.output}: {added.count:,} passages added, {total:,} in all")
    return 0


def _counted(inputs: list[Path], lang: str) -> int:
    """How many passages there are. Reading all of it first refuses a malformed line before any work is done."""
    count = sum(1 for _ in _passages(inputs, lang))
    if count == 0:
        raise BadInput(f"{', '.join(map(str, inputs))}: no passage in there. Expected at least one.")
    return count


def _opened(args: argparse.Namespace) -> Index:
    """The index to write to. One that exists is opened with its own encoder, unless another is named."""
    model = args.model or ("" if args.output.exists() else "shortlist-embed")
    encoder = Encoder.load(model, threads=args.threads) if model not in ("", "none") else None
    if args.output.exists():
        return Index.open(args.output, encoder=encoder, write=True)
    return Index.create(args.output, encoder=encoder)


def _passages(inputs: list[Path], lang: str) -> Iterator[Passage]:
    for path in inputs:
        yield from read_passages(path, lang=lang)
