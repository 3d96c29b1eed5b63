"""`encode`, `rerank` and `models`: the two kinds of model on their own, and where they come from."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

from shortlist import models, pipeline
from shortlist.cli.searching import add_reranker_arguments, load_cascade, load_reranker
from shortlist.cli.show import complain, example, out, print_json, progress, working
from shortlist.data import read_passages
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, ModelError, ModelNotFound
from shortlist.models import Available, ModelCard
from shortlist.models.files import read_json
from shortlist.models.network import MAXSIM
from shortlist.models.packing import BITS, pack
from shortlist.models.registry import find, table_folder
from shortlist.models.weights import read_folder, type_name
from shortlist.quantize import PRECISIONS, quantize_embeddings
from shortlist.reranker import FAMILY, Reranker
from shortlist.tokens import Tokenizer
from shortlist.types import Hit, Passage, Ranking


def add_verbs(verbs: Any) -> None:
    """Register `encode`, `rerank` and `models`."""
    encode = verbs.add_parser(
        "encode",
        help="texts to vectors",
        description="One vector a text: JSON lines on stdout, or a .npy file (one row a text).",
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
    encode.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the vectors that are written, in the words and bytes of sentence-transformers (default: %(default)s)",
    )
    encode.add_argument(
        "--calibration",
        type=Path,
        metavar="NPY",
        help="int8 and uint8: float vectors that give the ranges (default: the input's)",
    )
    encode.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    encode.set_defaults(verb=run_encode)

    rerank = verbs.add_parser(
        "rerank",
        help="order passages by a cross-encoder",
        description="Score every passage against the query with a reranker, best first. A cascade and a time limit take the "
        "input as best first already; what the last reranker does not read stays behind the others, without a score.",
        **example("shortlist rerank 'who wrote it?' passages.jsonl    or    ls *.txt | shortlist rerank 'invoices' - --json"),
    )
    rerank.add_argument("query", metavar="QUERY")
    rerank.add_argument("input", help="file of passages, or - for one passage a line on stdin")
    add_reranker_arguments(rerank, FAMILY.default, "a size, a name or a folder")
    rerank.add_argument("--json", action="store_true", help="one JSON line a passage")
    rerank.add_argument(
        "--show-batch", action="store_true", help="show what the network reads: ids, mask and segments, with their shapes"
    )
    rerank.add_argument("--picture", type=Path, metavar="PNG", help="write the picture of the batch to this file")
    rerank.set_defaults(verb=run_rerank)

    parser = verbs.add_parser(
        "models",
        help="list, show, fetch, verify and pack models",
        description="Models on this machine and in the registry. Nothing is downloaded except by `fetch`; `pack` writes a copy "
        "with smaller weights.",
        **example(
            "shortlist models show shortlist-rerank    or    shortlist models fetch shortlist-embed\n"
            "  shortlist models pack shortlist-embed -o small-embed --bits 4"
        ),
    )
    parser.add_argument("action", choices=("list", "show", "fetch", "verify", "pack"), nargs="?", default="list")
    parser.add_argument("names", nargs="*", metavar="NAME", help="registry name, folder, or ORG/NAME on the hub")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="pack: the new folder")
    parser.add_argument("--bits", type=int, choices=BITS, default=8, help="pack: of a weight (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="list and show: one JSON line a model")
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
    calibration = None if args.calibration is None else np.load(args.calibration, allow_pickle=False)
    written = quantize_embeddings(vectors, args.precision, calibration_embeddings=calibration)
    if args.output is not None:
        with args.output.open("wb") as file:
            np.save(file, written)
        complain(f"{len(written):,} x {written.shape[1]} {written.dtype} written to {args.output}")
        return 0
    for passage, vector in zip(passages, written.tolist(), strict=True):
        print_json({"id": passage.id, "vector": [round(x, 6) for x in vector]})
    return 0


def run_rerank(args: argparse.Namespace) -> int:
    """Score the passages and print them best first."""
    passages = _texts(args.input)
    stages = load_cascade(args) if args.cascade else [(load_reranker(args), max(1, len(passages)))]
    reranker = stages[-1][0]
    if args.show_batch or args.picture is not None:
        _show_batch(args, reranker, [p.content for p in passages])
    ranking = pipeline.rerank(_as_given(args.query, passages), stages, weight=1.0, max_ms=args.max_ms)
    scored = [(passages[int(hit.id.rpartition("\n")[2])], hit.scores.get("rerank")) for hit in ranking]
    if args.json:
        for passage, score in scored:
            chance = None if score is None else float(reranker.probability(score))
            print_json({"id": passage.id, "score": score, "probability": chance, "text": passage.content})
    else:
        table = Table(title=args.query, title_justify="left", show_lines=True)
        table.add_column("score", justify="right")
        table.add_column("passage", overflow="fold")
        for passage, score in scored:
            table.add_row("–" if score is None else f"{score:.3f}", passage.content[:220])
        out().print(table)
    for note in ranking.notes:
        complain(note)
    return 0


def _show_batch(args: argparse.Namespace, reranker: Reranker, texts: list[str]) -> None:
    inputs = reranker.prepare_batch([args.query] * len(texts), texts)
    picture = inputs.plot(args.picture, color=sys.stdout.isatty())
    if args.show_batch:
        sys.stdout.write(f"{picture}\n")
    if args.picture is not None:
        complain(f"picture of the batch written to {args.picture}")


def _as_given(query: str, passages: list[Passage]) -> Ranking:
    """The passages in the order of the input. Ids get their line, since a file may hold one twice; ties still break by id."""
    hits = []
    for line, passage in enumerate(passages):
        name = f"{passage.id}\n{line:09d}"
        hits.append(Hit(name, -float(line), replace(passage, id=name)))
    return Ranking(query, tuple(hits))


def run_models(args: argparse.Namespace) -> int:
    """List, show, fetch, verify or pack."""
    if args.action == "list":
        return _list_models(args)
    if not args.names:
        raise BadInput(f"`shortlist models {args.action}` needs the name of a model. `shortlist models` lists them.")
    if args.action == "show":
        return _show_models(args)
    if args.json:
        raise BadInput(f"`shortlist models {args.action}` has no --json; `list` and `show` have it. Leave it away.")
    if args.action == "pack":
        return _pack_model(args)
    problems = 0
    for name in args.names:
        if args.action == "fetch":
            with working(f"fetching {name}") as say:
                path = models.fetch(name, progress=say)
                if (path / "tokenizer.json").is_file():
                    say("preparing the tokenizer")
                    Tokenizer.load(path)  # compiles it, so that the first use need not
            complain(f"{name} is in {path}")
            continue
        found = models.verify(name) or _wrong_results(name)
        problems += len(found)
        for problem in found:
            complain(f"{name}: {problem}")
        if not found:
            complain(f"{name}: files, checksums and canonical results are right")
    return 1 if problems else 0


def _pack_model(args: argparse.Namespace) -> int:
    """Write the packed copy and say what became smaller."""
    if len(args.names) != 1 or args.output is None:
        raise BadInput("`shortlist models pack` takes one model and a new folder: shortlist models pack NAME -o DIR.")
    source = models.resolve(args.names[0])
    with working(f"packing {args.names[0]}"):
        pack(source, args.output, bits=args.bits)
    before, after = (sum(f.stat().st_size for f in d.rglob("*.safetensors")) for d in (source, args.output))
    complain(f"{args.output}: weights of {_in_millions(after)} MB, were {_in_millions(before)} MB")
    return 0


def _list_models(args: argparse.Namespace) -> int:
    """One row a model; NAMEs choose some, a family's name all of its sizes."""
    lines = models.available()
    for name in args.names:
        if all(name not in (line.name, line.family) for line in lines):
            raise BadInput(f"{name}: `shortlist models list` has no such line. Known: {', '.join(x.name for x in lines)}.")
    lines = [line for line in lines if not args.names or line.name in args.names or line.family in args.names]
    if args.json:
        for line in lines:
            print_json(_line_facts(line))
        return 0
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("name", "kind"):
        table.add_column(title, no_wrap=True)
    for title, justify in _COLUMNS:
        table.add_column(title, justify=justify, overflow="fold")
    for line in lines:
        table.add_row(*_cells(line))
    console = out()
    console.print(table)
    console.print(
        "* what the family's name alone means. Body and table in millions of parameters, in brackets another model's table."
    )
    for line in lines:
        if line.problem:
            complain(f"{line.name}: {line.problem}")
    return 0


_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("size", "left"),
    ("layers", "right"),
    ("dims", "right"),
    ("body M", "right"),
    ("table M", "right"),
    ("MB", "right"),
    ("langs", "right"),
    ("licence", "left"),
    ("here", "left"),
)


def _cells(line: Available) -> list[str]:
    """A model as a row of the table; empty where its folder is needed and not here."""
    size = f"{line.size} *" if line.default else line.size
    table = _in_millions(line.table_parameters)
    return [
        *(line.name, line.kind, size),
        *(str(n or "") for n in (line.layers, line.dims)),
        *(_in_millions(line.body_parameters), f"({table})" if line.table else table),
        *(_in_millions(line.size_bytes), str(len(line.languages) or "")),
        *(line.licence, _presence(line)),
    ]


def _line_facts(line: Available) -> dict[str, Any]:
    """A model as a JSON object; null where its folder is needed and not here."""
    numbers = ("layers", "dims", "body_parameters", "table_parameters", "size_bytes", "download_bytes")
    texts = ("name", "kind", "family", "size", "default", "about", "licence", "table", "problem")
    return {
        **{name: getattr(line, name) for name in texts},
        **{name: getattr(line, name) or None for name in numbers},
        "languages": len(line.languages) or None,
        "here": line.fetched,
        "path": None if line.path is None else str(line.path),
    }


def _presence(line: Available) -> str:
    if line.fetched:
        return "damaged" if line.problem else "yes"
    return "not installed" if line.family else "no"


def _in_millions(count: int) -> str:
    return f"{count / 1e6:.1f}" if count else ""


def _show_models(args: argparse.Namespace) -> int:
    """All that is known of each model."""
    for name in args.names:
        facts = _facts(find(name))
        if args.json:
            print_json(facts)
            continue
        table = Table(title=escape(facts["name"]), title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in facts.items():
            if label != "name" and (shown := _shown(label, value)):
                table.add_row(label.replace("_", " "), escape(shown))
        out().print(table)
    return 0


def _shown(label: str, value: Any) -> str:
    """A fact as text: the parts of an object on lines of their own, "" for what is not known."""
    if label == "prompts":
        return ", ".join(f"{kind} {prompt!r}" for kind, prompt in value.items() if prompt) or "none"
    if isinstance(value, dict):
        parts = {part: _shown(part, v) for part, v in value.items()}
        return (", " if label == "numbers" else "\n").join(
            f"{part.replace('_', ' ')}: {text}" for part, text in parts.items() if text
        )
    if isinstance(value, list):
        return "\n".join(map(_size_shown, value)) if label == "sizes" else " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)


def _size_shown(size: dict[str, Any]) -> str:
    name = f"{size['size']} (default)" if size["default"] else size["size"]
    if not size["here"] or size["problem"]:
        return f"{name}: {'damaged' if size['here'] else 'not installed'}"
    numbers, megabytes = _in_millions(size["body_parameters"]), _in_millions(size["size_bytes"])
    return f"{name}: {size['layers']} layers, {numbers} M parameters, {megabytes} MB"


def _facts(line: Available) -> dict[str, Any]:
    """One model as the JSON object that `models show` prints. Raises ModelError if its folder is damaged."""
    if line.problem:
        raise ModelError(f"{line.name}: {line.problem}")
    here = {"here": line.fetched, "path": None if line.path is None else str(line.path)}
    facts: dict[str, Any] = {"name": line.name, "kind": line.kind, "about": line.about, **here}
    if line.path is not None:
        facts |= _card_facts(line.path, line)
    else:
        facts |= {"get_it_by": _way_here(line), "licence": line.licence, "languages": list(line.languages)}
    if line.family:
        sizes = [_line_facts(other) for other in models.available() if other.family == line.family]
        facts["family"] = {"name": line.family, "sizes": sizes}
    return facts | {"python": _python(line)}


def _card_facts(folder: Path, line: Available) -> dict[str, Any]:
    card, config, weights = models.read_card(folder), read_json(folder / "config.json"), read_folder(folder)
    types: dict[str, int] = {}
    for array in weights.values():
        types[type_name(array)] = types.get(type_name(array), 0) + array.size
    encoder, found = card.kind == "encoder", _fingerprint(folder, card)
    shared = {"shared_with": card.table, "here": found is not None, "fingerprint": card.table_fingerprint}
    return {
        "network": {
            "architecture": (config.get("architectures") or [None])[0],
            "layers": card.layers,
            "dims": card.dims,
            "heads": config.get("num_attention_heads"),
            "feed_forward": config.get("intermediate_size"),
            "vocabulary": config.get("vocab_size"),
            "maxsim_head": None if encoder else MAXSIM[0] in weights,
        },
        "reading": {
            "max_tokens": card.max_tokens,
            "window": card.window or None,
            "segments": None if encoder else card.segments,
            "pooling": card.pooling,
            "normalized": card.normalize if encoder else None,
            "prompts": dict(card.prompts),
            "matryoshka": list(card.matryoshka) or None,
        },
        "parameters": {
            "body": line.body_parameters,
            "table": line.table_parameters,
            "total": line.body_parameters + line.table_parameters,
        },
        "weights": {
            "weights_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
            "folder_bytes": line.size_bytes,
            "numbers": types,
        },
        "table": shared if card.table else None,
        "score": None if encoder else _score_facts(card),
        "licence": card.licence,
        "languages": list(card.languages),
        "source": card.source,
        "training_data": card.training_data,
        "notes": list(card.notes),
        "fingerprint": found,
    }


def _score_facts(card: ModelCard) -> dict[str, Any]:
    return {"labels": card.labels, "fusion_weight": card.fusion_weight, "temperature": card.temperature or None}


def _fingerprint(folder: Path, card: ModelCard) -> str | None:
    """None while the shared token table is not here."""
    try:
        return models.fingerprint(folder, table_folder(folder, card), card)
    except ModelNotFound:
        return None


def _way_here(line: Available) -> str:
    return "installing the package again" if line.family else f"shortlist models fetch {line.name}"


def _python(line: Available) -> str:
    """The lines that load the model."""
    words = [json.dumps(line.name)]
    if line.family:
        words = [json.dumps(line.family), f"size={json.dumps(line.size)}"]
    elif line.path is not None:
        words = [json.dumps(models.address(line.path, models.read_card(line.path)))]
    kind = "Encoder" if line.kind == "encoder" else "Reranker"
    return f"import shortlist as sl\nmodel = sl.{kind}.load({', '.join(words)})"


def _wrong_results(name: str) -> list[str]:
    """What the model computes for its card's canonical texts, where that differs from what was published."""
    kind = models.read_card(models.resolve(name)).kind
    return Encoder.load(name).verify() if kind == "encoder" else Reranker.load(name).verify()
