"""`encode`, `rerank` and `models`: the two kinds of model on their own, and where they come from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from shortlist import models
from shortlist.cli.searching import load_reranker
from shortlist.cli.show import complain, example, out, print_json, progress, working
from shortlist.data import read_passages
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.reranker import Reranker, probability
from shortlist.types import Passage


def add_verbs(verbs: Any) -> None:
    """Register `encode`, `rerank` and `models`."""
    encode = verbs.add_parser(
        "encode",
        help="texts to vectors",
        description="One vector a text: JSON lines on stdout, or a .npy file (float32, one row a text).",
        **example(
            "shortlist encode passages.jsonl -o vectors.npy    or    echo 'how do I …' | shortlist encode - --kind query"
        ),
    )
    encode.add_argument("input", help="file of passages, or - for one text a line on stdin")
    encode.add_argument("-o", "--output", type=Path, metavar="NPY", help="write all vectors to this .npy file")
    encode.add_argument(
        "--kind",
        choices=("passage", "query"),
        default="passage",
        help="which prompt the model puts before (default: %(default)s)",
    )
    encode.add_argument("--model", default="shortlist-embed", help="encoder (default: %(default)s)")
    encode.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    encode.set_defaults(verb=run_encode)

    rerank = verbs.add_parser(
        "rerank",
        help="order passages by a cross-encoder",
        description="Score every passage against the query with a reranker, best first.",
        **example("shortlist rerank 'who wrote it?' passages.jsonl    or    ls *.txt | shortlist rerank 'invoices' - --json"),
    )
    rerank.add_argument("query", metavar="QUERY")
    rerank.add_argument("input", help="file of passages, or - for one passage a line on stdin")
    rerank.add_argument(
        "--rerank", default="L-4", metavar="SIZE", help="reranker: L-4, a model name or folder (default: %(default)s)"
    )
    rerank.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    rerank.add_argument("--json", action="store_true", help="one JSON line a passage")
    rerank.add_argument(
        "--show-batch", action="store_true", help="show what the network reads: ids, mask and segments, with their shapes"
    )
    rerank.add_argument("--picture", type=Path, metavar="PNG", help="write the picture of the batch to this file")
    rerank.set_defaults(verb=run_rerank)

    parser = verbs.add_parser(
        "models",
        help="list, fetch and verify models",
        description="Models on this machine and in the registry. Nothing is downloaded except by `fetch`.",
        **example("shortlist models fetch shortlist-embed"),
    )
    parser.add_argument("action", choices=("list", "fetch", "verify"), nargs="?", default="list")
    parser.add_argument("names", nargs="*", metavar="NAME", help="registry name, or ORG/NAME on the hub")
    parser.set_defaults(verb=run_models)


def _texts(source: str) -> list[Passage]:
    if source != "-":
        return list(read_passages(Path(source)))
    lines = (line.rstrip("\n") for line in sys.stdin)
    return [Passage(id=str(number), text=line) for number, line in enumerate(lines, 1) if line.strip()]


def run_encode(args: argparse.Namespace) -> int:
    """Encode the input and write vectors."""
    passages = _texts(args.input)
    encoder = Encoder.load(args.model, threads=args.threads)
    with progress("encoding", "texts") as report:
        vectors, cut = encoder.encode_counted([p.content for p in passages], kind=args.kind, progress=report)
    if truncated := int((cut > 0).sum()):
        complain(f"{truncated} texts were longer than {encoder.max_tokens} tokens and were cut")
    if args.output is not None:
        with args.output.open("wb") as file:
            np.save(file, vectors)
        complain(f"{len(vectors):,} x {encoder.dims} float32 written to {args.output}")
        return 0
    for passage, vector in zip(passages, vectors, strict=True):
        print_json({"id": passage.id, "vector": [round(float(x), 6) for x in vector]})
    return 0


def run_rerank(args: argparse.Namespace) -> int:
    """Score the passages and print them best first."""
    passages = _texts(args.input)
    reranker = load_reranker(args)
    texts = [p.content for p in passages]
    if args.show_batch or args.picture is not None:
        inputs = reranker.prepare_batch([args.query] * len(texts), texts)
        picture = inputs.plot(args.picture, color=sys.stdout.isatty())
        if args.show_batch:
            sys.stdout.write(f"{picture}\n")
        if args.picture is not None:
            complain(f"picture of the batch written to {args.picture}")
    scores = reranker.score(args.query, texts)
    chances = probability(scores)
    order = sorted(range(len(texts)), key=lambda i: (-scores[i], passages[i].id))
    if args.json:
        for i in order:
            print_json({"id": passages[i].id, "score": float(scores[i]), "probability": float(chances[i]), "text": texts[i]})
        return 0
    table = Table(title=args.query, title_justify="left", show_lines=True)
    table.add_column("score", justify="right")
    table.add_column("passage", overflow="fold")
    for i in order:
        table.add_row(f"{scores[i]:.3f}", texts[i][:220])
    out().print(table)
    return 0


def run_models(args: argparse.Namespace) -> int:
    """List, fetch or verify."""
    if args.action == "list":
        table = Table("name", "kind", "here", "size", "licence", "what it is")
        for model in models.available():
            size = f"{model.size_bytes / 1e6:.0f} MB" if model.size_bytes else ""
            table.add_row(model.name, model.kind, "yes" if model.fetched else "no", size, model.licence, model.about)
        out().print(table)
        return 0
    if not args.names:
        raise BadInput(f"`shortlist models {args.action}` needs the name of a model. `shortlist models` lists them.")
    problems = 0
    for name in args.names:
        if args.action == "fetch":
            with working(f"fetching {name}") as say:
                path = models.fetch(name, progress=say)
            complain(f"{name} is in {path}")
            continue
        found = models.verify(name) or _wrong_results(name)
        problems += len(found)
        for problem in found:
            complain(f"{name}: {problem}")
        if not found:
            complain(f"{name}: files, checksums and canonical results are right")
    return 1 if problems else 0


def _wrong_results(name: str) -> list[str]:
    """What the model computes for its card's canonical texts, where that differs from what was published."""
    kind = models.read_card(models.resolve(name)).kind
    return Encoder.load(name).verify() if kind == "encoder" else Reranker.load(name).verify()
