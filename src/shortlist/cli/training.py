"""`train`: mine, tune, distill, prune, export. Each goes on where it was stopped."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from shortlist.cli.show import complain, example, print_json, progress
from shortlist.data import read_passages
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, MissingExtra
from shortlist.models.files import read_json
from shortlist.reranker import Reranker

Settings = TypeVar("Settings")


def add_verbs(verbs: Any) -> None:
    """Register `train` and its five verbs."""
    train = verbs.add_parser(
        "train",
        help="make models: mine, tune, distill, prune, export",
        description="Make a model of your own. Stop a verb and start it again: it goes on where it was.",
        **example(
            "shortlist train mine data/mine -o groups\n  shortlist train tune groups -o tuned --kind reranker --set exits=2,4,6"
        ),
    )
    steps = train.add_subparsers(title="steps", metavar="STEP", required=True)
    _add_mine(steps)
    _add_tune(steps)
    _add_distill(steps)
    _add_prune(steps)
    _add_export(steps)


def _add_mine(steps: Any) -> None:
    mine = steps.add_parser(
        "mine",
        help="questions with the candidates of our own first stage",
        description="Groups to learn from: judged questions, each with the best passages of hybrid search.",
        **example("shortlist train mine data/scifact data/mine:train:2000 -o groups"),
    )
    mine.add_argument("collections", nargs="+", metavar="FOLDER[:SPLIT[:QUESTIONS]]", help="BEIR folder (default split: train)")
    mine.add_argument("-o", "--output", type=Path, required=True, metavar="GROUPS", help="folder for the groups")
    mine.add_argument("--encoder", default="shortlist-embed", help="encoder of the first stage (default: %(default)s)")
    mine.add_argument("--depth", type=int, default=32, help="candidates a question (default: %(default)s)")
    mine.add_argument("--indexes", type=Path, help="where indexes lie and are made (default: GROUPS.indexes)")
    mine.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    mine.set_defaults(verb=run_mine)


def _add_tune(steps: Any) -> None:
    tune = steps.add_parser(
        "tune",
        help="train a reranker or an encoder on groups",
        description="Train over the frozen token table. A reranker with several exits becomes one model for each depth.",
        **example("shortlist train tune groups -o tuned --kind reranker --set exits=2,4,6 --set rate=1e-4"),
    )
    _common(tune)
    tune.add_argument("--kind", choices=("reranker", "encoder"), default="reranker", help="(default: %(default)s)")
    tune.set_defaults(verb=run_tune)


def _add_distill(steps: Any) -> None:
    distill = steps.add_parser(
        "distill",
        help="train a smaller reranker on a teacher's scores",
        description="The teacher scores every candidate of the groups, then the student learns its margins and its order.",
        **example("shortlist train distill groups -o small --teacher tuned/L-12 --set exits=2"),
    )
    _common(distill)
    distill.add_argument("--teacher", required=True, metavar="MODEL", help="reranker: a folder or a name")
    distill.set_defaults(verb=run_distill)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("groups", type=Path, metavar="GROUPS", help="folder that `train mine` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--start", default="shortlist-embed", help="model to begin with (default: %(default)s)")
    parser.add_argument(
        "--lower", type=Path, nargs="+", default=[], metavar="RERANKER", help="rerankers to go on from: layers and heads"
    )
    parser.add_argument("--watch", type=Path, metavar="GROUPS", help="groups of development splits to look at on the way")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="a setting of the recipe (repeatable)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: those of torch)")


def _add_prune(steps: Any) -> None:
    prune = steps.add_parser(
        "prune",
        help="trim the vocabulary to what a text needs",
        description="Tokenizer and token table together; reports what is lost.",
        **example("shortlist train prune shortlist-embed corpus.zh.jsonl corpus.en.jsonl -o embed-zh-en"),
    )
    prune.add_argument("model", help="a folder or a name")
    prune.add_argument("texts", nargs="+", help="passages of the languages that stay: files or folders")
    prune.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    prune.add_argument("--min-count", type=int, default=1, help="keep pieces seen this often (default: %(default)s)")
    prune.add_argument(
        "--whole-script",
        action="append",
        default=[],
        metavar="SCRIPT",
        help="keep every piece of a script: CJK, TELUGU (repeatable)",
    )
    prune.add_argument("--table", choices=("float32", "float16", "int8"), default="float16", help="(default: %(default)s)")
    prune.set_defaults(verb=run_prune)


def _add_export(steps: Any) -> None:
    export = steps.add_parser(
        "export",
        help="write a model in another form, and check it",
        description="body: what ships with this package (int8, shared table), its score tuned on judged groups. standard: "
        "safetensors with the table inside. onnx, onnx-int8, gguf. Each is compared with our engine.",
        **example(
            "shortlist train export tuned/L-4 -o my-rerank-L-4 --to body --judged dev\n"
            "  shortlist train export my-rerank-L-4 -o my-rerank.onnx --to onnx"
        ),
    )
    export.add_argument("model", help="a folder or a name")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    export.add_argument("--to", required=True, choices=("body", "standard", "onnx", "onnx-int8", "gguf"))
    export.add_argument("--precision", default="", help="float16, q8_0 …: what the form allows; a wrong word lists them")
    export.add_argument(
        "--judged", type=Path, nargs="+", metavar="GROUPS", help="body: groups that were not trained on, to tune the score"
    )
    export.add_argument("--card", type=Path, metavar="JSON", help="body: fields for card.json (licence, window …)")
    export.set_defaults(verb=run_export)


def run_mine(args: argparse.Namespace) -> int:
    """Mine every collection that is not there yet."""
    from shortlist.train.mine import mine

    encoder = Encoder.load(args.encoder, threads=args.threads)
    indexes = args.indexes or args.output.with_suffix(".indexes")
    for spec in args.collections:
        folder, _, rest = spec.partition(":")
        split, _, limit = rest.partition(":")
        if limit and not limit.isdigit():
            raise BadInput(f"{spec}: {limit!r} is no number of questions. Write FOLDER:SPLIT:QUESTIONS.")
        with progress(f"mining {Path(folder).name}", "questions") as report:
            count = mine(
                Path(folder),
                args.output,
                split=split or "train",
                queries=int(limit) if limit else None,
                depth=args.depth,
                encoder=encoder,
                indexes=indexes,
                progress=report,
            )
        complain(f"{Path(folder).name}: {count:,} groups in {args.output}")
    return 0


def run_tune(args: argparse.Namespace) -> int:
    """Train a reranker or an encoder."""
    if args.kind == "encoder":
        if args.lower or args.watch is not None:
            raise BadInput("--lower and --watch are for rerankers. Leave them out, or train with --kind reranker.")
        training = _workshop("encoder")
        _use_threads(args.threads)
        settings = _settings(training.EncoderSettings, args.settings)
        with progress("tuning", "steps") as report:
            out = training.tune_encoder(args.groups, args.start, args.output, settings, progress=report)
        complain(f"the encoder is in {out}")
        return 0
    return _tune_reranker(args, args.groups)


def run_distill(args: argparse.Namespace) -> int:
    """Ask the teacher, then train the student."""
    teaching = _workshop("distill")
    with progress("asking the teacher", "groups") as report:
        taught = teaching.ask_teacher(args.groups, args.teacher, args.output / "taught", progress=report)
    if not any(s.startswith("taught=") for s in args.settings):
        args.settings.append("taught=1.0")
    return _tune_reranker(args, taught)


def _tune_reranker(args: argparse.Namespace, folder: Path) -> int:
    training, groups = _workshop("rerank"), _workshop("groups")
    _use_threads(args.threads)
    with progress("tuning", "steps") as report:
        made = training.tune_reranker(
            groups.read_groups(folder),
            args.start,
            args.output,
            _settings(training.RerankerSettings, args.settings),
            lower=args.lower,
            watched=None if args.watch is None else groups.read_groups(args.watch),
            progress=report,
        )
    for depth, out in made.items():
        complain(f"L-{depth} is in {out}")
    return 0


def run_prune(args: argparse.Namespace) -> int:
    """Trim and print what it cost."""
    texts = (passage.content for path in args.texts for passage in read_passages(path))
    with progress("pruning", "texts") as report:
        pruned = _workshop("prune").prune(
            args.model,
            args.output,
            texts,
            min_count=args.min_count,
            whole_scripts=args.whole_script,
            table=args.table,
            progress=report,
        )
    print_json({f.name: _plain(getattr(pruned, f.name)) for f in fields(pruned)})
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write the form and print its checks."""
    if args.to == "body":
        return _export_body(args)
    exported = _workshop("export").export(args.model, args.output, args.to, precision=args.precision)
    print_json({f.name: _plain(getattr(exported, f.name)) for f in fields(exported)})
    return 0


def _export_body(args: argparse.Namespace) -> int:
    if args.judged is None:
        raise BadInput("--to body tunes the score first: give groups that were not trained on with --judged GROUPS.")
    releasing, reading = _workshop("release"), _workshop("groups")
    groups = reading.joined([reading.read_groups(folder) for folder in args.judged])
    stated = {} if args.card is None else read_json(args.card)
    reranker = Reranker.load(args.model, window=stated.get("window"))
    with progress("scoring judged groups", "groups") as report:
        logits = releasing.score_groups(reranker, groups, report)
    tuned = releasing.tune_scores(groups.groups, logits)
    out = releasing.release(reranker.folder, args.output, stated, tuned)
    learnt = {name: getattr(tuned, name) for name in ("weight", "temperature", "shift", "ece_before", "ece_after", "pairs")}
    print_json({"path": str(out), **learnt, "by_weight": tuned.by_weight, "bins": [list(astuple(b)) for b in tuned.bins]})
    return 0


def _use_threads(threads: int | None) -> None:
    if not threads:
        return
    try:
        importlib.import_module("torch").set_num_threads(threads)
    except ModuleNotFoundError as error:
        raise MissingExtra("torch", "train", "training") from error


def _workshop(name: str) -> Any:
    """A module of `train`, which only this verb needs."""
    try:
        return importlib.import_module(f"shortlist.train.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("torch", "transformers"):
            raise MissingExtra(error.name, "train", "training") from error
        raise


def _settings(kind: type[Settings], words: list[str]) -> Settings:
    """The recipe's settings with `name=value` words put in. Raises BadInput for an unknown name or a value of another type."""
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in types:
            raise BadInput(f"--set {word}: expected NAME=VALUE with one of {', '.join(types)}.")
        values[name] = _value(word, text, str(types[name]))
    return kind(**values)


def _value(word: str, text: str, kind: str) -> Any:
    try:
        if "tuple" in kind:
            return tuple(int(part) for part in text.split(","))
        if "bool" in kind:
            return {"true": True, "false": False}[text.lower()]
        if "None" in kind and text.lower() == "none":
            return None
        return float(text) if "float" in kind else int(text)
    except (KeyError, ValueError) as error:
        raise BadInput(f"--set {word}: {text!r} is not what this setting takes ({kind}).") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "items"):
        return {name: part._asdict() if hasattr(part, "_asdict") else part for name, part in value.items()}
    return value
