"""The README.md of a released model folder, made from data alone, and its two pictures.

What was not measured is said to be so; nothing in the text is written by hand for one model. The data:

    evaluation  what the model was found to be worth (see `write_readme`)
    manifest    what the training wrote down (`manifest.json` of `tune_reranker`)
    forms       what `export` returned for each form: form, size_bytes, checks and, where it is not the first, precision
    data        {"collections": {name: {"name", "licence", "kind", "languages"}}} of what may be trained on; kind is
                "questions", "titles" or "translations"
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from shortlist.errors import BadInput, MissingExtra
from shortlist.measures import format_card
from shortlist.models.card import ModelCard, read_card
from shortlist.models.files import read_json
from shortlist.models.network import MAXSIM
from shortlist.models.registry import parameters
from shortlist.models.weights import read_folder

Facts = Mapping[str, Any]
Row = Sequence[str]
RELIABILITY, LEARNING = "reliability.svg", "learning.png"
NOT_MEASURED = "Not measured."
_NONE = "–"
_STAGES = ("bm25", "dense", "hybrid")


@dataclass(frozen=True)
class Anchor:
    """A figure that somebody published: nDCG@10 of a system on a collection of ours, over all of its questions."""

    collection: str
    system: str
    value: float
    source: str


_PYSERINI = "Pyserini's MIRACL table at commit 0a0be2960d33"
_MTEB = "MTEB results, MIRACLRetrieval, embeddings-benchmark/results at f4cc6c8b3"
_BGE = "BGE-M3 paper (arXiv:2402.03216), table 1"
ANCHORS: Final = (
    Anchor("miracl-yo dev", "BM25 over word pieces", 0.4059, _PYSERINI),
    Anchor("miracl-yo dev", "mDPR, trained on MS MARCO", 0.4439, _PYSERINI),
    Anchor("miracl-yo dev", "mDPR, tuned on many sets", 0.5983, _PYSERINI),
    Anchor("miracl-yo dev", "hybrid of BM25 and mDPR", 0.6114, _PYSERINI),
    Anchor("miracl-yo dev", "BM25 over XLM-R's tokens", 0.561, _BGE),
    Anchor("miracl-yo dev", "BGE-M3, dense (568 M parameters)", 0.818, _BGE),
    Anchor("miracl-yo dev", "all-MiniLM-L6-v2 (23 M parameters)", 0.381, _MTEB),
    Anchor("miracl-yo dev", "multilingual-e5-small (118 M parameters)", 0.453, _MTEB),
    Anchor("miracl-yo dev", "granite-embedding-107m-multilingual", 0.647, _MTEB),
    Anchor("miracl-yo dev", "multilingual-e5-base (278 M parameters)", 0.706, _MTEB),
    Anchor("scifact test", "BM25, Lucene with title and text as fields", 0.665, "BEIR (Thakur et al., NeurIPS 2021)"),
    Anchor("scifact test", "BM25, Anserini over one field", 0.679, "Anserini's BEIR table"),
)


def write_readme(
    folder: Path,
    evaluation: Facts,
    manifest: Facts,
    forms: Sequence[Facts],
    data: Facts | None = None,
    *,
    recipe: str = "",
) -> Path:
    """Writes README.md into a model folder and returns its path; any part of the data may be missing.

    `evaluation` has "date", "versions", "kernels", "protocol" {"candidates", "window", "queries", "first", "weight"};
    "rows", one a collection: "collection", "split", "language", "queries", "trained" ("train split", "pseudo-questions", "no"),
    "domain" ("in", "out"), nDCG@10 as "bm25", "dense", "hybrid", "best_first", "two_stage", "alone", "untrained", and
    "difference" of two_stage to best_first with its 95% interval "low", "high"; "detailed" {collection: `card_measures`};
    "sizes" {size: {"mean_two_stage", "ms_32_1", "ms_32_2", "ms_100_1", "ms_100_2"}}, milliseconds for 32 or 100 pairs on 1 or
    2 threads; "others" {system: {"scifact test": nDCG@10}};
    "beside" {system: (collections, its mean, two-stage's mean)} over the questions that both were measured on;
    "calibration" {"temperature", "shift", "ece_before", "ece_after",
    "pairs", "bins": [[count, probability, relevant]], "held_back": [collection]}.
    `recipe` is the script that makes the model again. Pictures are shown that lie in the folder as reliability.svg and
    learning.png: draw them first. The same data gives the same bytes.

    Raises ModelNotFound and ModelError if the folder holds no model, BadInput for a row without its names.
    """
    for row in evaluation.get("rows", ()):
        if missing := [name for name in ("collection", "split") if name not in row]:
            raise BadInput(f"a row of the evaluation lacks {', '.join(missing)}: {json.dumps(row)[:200]}. Name its collection.")
    model = _Model.read(folder)
    sections: Sequence[tuple[str, list[str]]] = (
        ("How it is built", [_architecture(model)]),
        ("How to use it", _usage(model)),
        ("What it is worth", _worth(evaluation)),
        ("By language", _by_language(evaluation)),
        ("All measures of some collections", _detailed(evaluation)),
        ("Beside others", _beside(evaluation, model)),
        ("Calibration", _calibration(evaluation, folder)),
        ("Time", _time(evaluation, model)),
        ("Forms", [_forms(forms, model)]),
        ("Training", _training(manifest, data or {}, folder)),
        ("How to make it again", _again(manifest, recipe)),
        ("Limits and bias", [_limits(evaluation, manifest, data or {}, model)]),
    )
    parts = [_front_matter(model.card), f"# {model.card.name}", _summary(evaluation, model)]
    for title, body in sections:
        parts += [f"## {title}", *body]
    path = folder / "README.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")
    return path


def training_sentence(manifest: Facts, data: Facts) -> str:
    """What a card's `training_data` says: each collection with its licence and the questions taken from it."""
    return "; ".join(f"{name} ({licence}): {count:,} questions" for _, name, licence, count in _collections(manifest, data))


@dataclass(frozen=True)
class _Model:
    card: ModelCard
    config: Facts
    body: int
    table: int
    weights_bytes: int
    int8: bool
    maxsim: bool

    @classmethod
    def read(cls, folder: Path) -> _Model:
        tensors = read_folder(folder)
        return cls(
            read_card(folder),
            read_json(folder / "config.json"),
            *parameters(folder),
            weights_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
            int8=any(array.dtype == np.int8 for array in tensors.values()),
            maxsim=MAXSIM[0] in tensors,
        )

    @property
    def size(self) -> str:
        """The size in a family's name: "L-4" of "shortlist-rerank-L-4"."""
        found = self.card.name.rpartition("-L-")
        return f"L-{found[2]}" if found[1] else ""


# ---------------------------------------------------------------------------------------------- markdown


def _table(header: Row, rows: Sequence[Row]) -> str:
    """A Markdown table; a cell's own bars are escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    if any(len(row) != len(header) for row in cells):
        raise ValueError(f"a table with the columns {', '.join(header)} has a row of another length")
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]])


def _number(value: Any, digits: int = 4) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e8 else f"{size / 1e6:,.0f} MB"


def _mean(rows: Sequence[Facts], name: str) -> float | None:
    """The mean over all rows; None if one lacks the value, as means over different collections cannot be compared."""
    values = [row.get(name) for row in rows]
    return None if not values or None in values else float(np.mean([float(v) for v in values if v is not None]))


def _difference(value: Any, low: Any, high: Any) -> str:
    """`+0.0120 (+0.0010 to +0.0230)`, bold where the interval leaves zero out."""
    if value is None:
        return _NONE
    if low is None or high is None:
        return f"{value:+.4f}"
    mark = "**" if low > 0 or high < 0 else ""
    return f"{mark}{value:+.4f}{mark} ({low:+.4f} to {high:+.4f})"


def _name_of(row: Facts) -> str:
    return f"{row['collection']} {row['split']}"


def _join(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else "".join(words)


# ---------------------------------------------------------------------------------------------- the model


def _front_matter(card: ModelCard) -> str:
    task = "text-ranking" if card.kind == "reranker" else "sentence-similarity"
    # YAML reads a bare no as false; it is the code of Norwegian.
    languages = [f'"{code}"' if code in ("no", "on", "y", "yes") else code for code in card.languages]
    lines = [f"license: {card.licence.lower()}"] if card.licence else []
    lines += [f"pipeline_tag: {task}", "library_name: shortlist"]
    lines += [f"language: [{', '.join(languages)}]"] if languages else []
    return "\n".join(["---", *lines, "---"])


def _summary(evaluation: Facts, model: _Model) -> str:
    card = model.card
    kind = "cross-encoder" if card.kind == "reranker" else "text encoder"
    does = (
        "it reads a question and a passage together and gives one score"
        if card.kind == "reranker"
        else f"it turns a text into a vector of {card.dims} numbers"
    )
    tongues = "multilingual " if len(card.languages) > 1 else ""
    shared = f" over the token table of `{card.table}`" if card.table else ""
    what = f"A {tongues}{kind} of {card.layers} layers{shared}: {does}. It runs on an ordinary CPU."
    rows = evaluation.get("rows", ())
    means = [_mean(rows, name) for name in ("two_stage", "best_first", "difference")]
    if None in means:
        return f"{what} What it is worth was not measured."
    better, worse = _signs(rows)
    return (
        f"{what} Over {len(rows)} collections two-stage search with it has a mean nDCG@10 of {_number(means[0])}; the best "
        f"first stage of each collection has {_number(means[1])}, a difference of {means[2]:+.4f}. The gain is more than "
        f"chance on {better} collections, the loss on {worse}."
    )


def _signs(rows: Sequence[Facts]) -> tuple[int, int]:
    """Collections whose interval lies above zero, and below."""
    return sum((r.get("low") or 0) > 0 for r in rows), sum((r.get("high") or 0) < 0 for r in rows)


def _architecture(model: _Model) -> str:
    card, config = model.card, model.config
    int8 = f"int8 {_megabytes(model.weights_bytes)} (this folder)" if model.int8 else f"int8 about {_megabytes(model.body)}"
    table = f"that of `{card.table}`, frozen and shared" if card.table else "its own"
    rows = [
        ("layers, dims, heads", f"{card.layers}, {card.dims}, {config.get('num_attention_heads', _NONE)}"),
        ("vocabulary", f"{config.get('vocab_size', 0):,} pieces; token table: {table}"),
        ("parameters", f"{model.body:,} of its own, {model.table:,} in the token table"),
        ("size without the table", f"{int8}, float16 {_megabytes(2 * model.body)}, float32 {_megabytes(4 * model.body)}"),
        ("input", _input_form(model)),
        ("longest input", f"{card.max_tokens} tokens, special ones included"),
        ("licence", card.licence or "not stated"),
    ]
    if card.kind == "reranker":
        head = "first token (pooler, tanh, linear)" + (" + MaxSim over the states of both texts" if model.maxsim else "")
        rows.insert(1, ("head", head))
        rows.insert(-1, ("weight beside the first stage", f"{card.fusion_weight:g} (1 = the reranker alone)"))
        rows.insert(-1, ("temperature", f"{card.temperature:g}" if card.temperature else "not calibrated"))
    else:
        rows.insert(1, ("vector", f"{card.pooling} of the tokens' states{', normalised' if card.normalize else ''}"))
    return _table(("", ""), rows)


def _input_form(model: _Model) -> str:
    card = model.card
    if card.kind == "encoder":
        prompts = [f"`{prompt}` before a {kind}" for kind, prompt in card.prompts.items() if prompt]
        return _join(prompts) if prompts else "the text as it is"
    xlmr = model.config.get("pad_token_id") == 1
    form = "`<s> question </s></s> passage </s>`" if xlmr else "question and passage, joined as the tokenizer does"
    segments = "; segment 1 from the passage on, 0 before it" if card.segments else ""
    window = f"; of a passage of more than {card.window} tokens the {card.window} that share most with the question"
    return form + segments + (window if card.window else "; only the passage is cut")


def _usage(model: _Model) -> list[str]:
    card = model.card
    fetch = f"shortlist models fetch {card.table}   # once: the token table\n" if card.table else ""
    if card.kind == "encoder":
        python = (
            f"import shortlist as sl\n\nencoder = sl.Encoder.load({json.dumps(card.name)})\n"
            'question = encoder.encode(["How many people live in Berlin?"], kind="query")\n'
            'passages = encoder.encode(["Berlin has 3.7 million inhabitants.", "Berlin has many museums."], kind="passage")\n'
            "print(question @ passages.T)"
        )
        shell = f"{fetch}shortlist index passages.jsonl -o my.idx --model {card.name}"
        return [f"```python\n{python}\n```", f"```sh\n{shell}\n```"]
    python = (
        f"import shortlist as sl\n\nreranker = sl.Reranker.load({json.dumps(card.name)})\n"
        'passages = ["Berlin has 3.7 million inhabitants.", "Berlin has many museums."]\n'
        'scores = reranker.score("How many people live in Berlin?", passages)\nprint(scores, reranker.probability(scores))'
    )
    shell = (
        f"{fetch}shortlist rerank 'How many people live in Berlin?' passages.jsonl --rerank {card.name}\n"
        f"shortlist search my.idx 'How many people live in Berlin?' --rerank {card.name}   # fused with the first stage"
    )
    return [f"```python\n{python}\n```", f"```sh\n{shell}\n```"]


# ---------------------------------------------------------------------------------------------- evaluation


def _worth(evaluation: Facts) -> list[str]:
    rows = evaluation.get("rows", ())
    if not rows:
        return [NOT_MEASURED]
    parts = [_protocol(evaluation)]
    for domain, title in (("in", "In the domains of its training"), ("out", "Outside of them")):
        chosen = [row for row in rows if row.get("domain") == domain]
        parts += [f"### {title}", _worth_table(chosen) if chosen else NOT_MEASURED]
    others = [row for row in rows if row.get("domain") not in ("in", "out")]
    return [*parts, "### Domain not stated", _worth_table(others)] if others else parts


def _protocol(evaluation: Facts) -> str:
    facts = evaluation.get("protocol", {})
    size = f"at most {facts['queries']} questions a collection, " if "queries" in facts else ""
    stages = (
        f"{facts.get('candidates', _NONE)} candidates of {facts.get('first', _NONE)}, weight of the reranker "
        f"{facts.get('weight', _NONE)}, window of {facts.get('window', _NONE)} tokens"
    )
    made = [str(evaluation[name]) for name in ("date", "kernels") if name in evaluation]
    made += [f"{name} {version}" for name, version in evaluation.get("versions", {}).items()]
    by = f" ({', '.join(made)})" if made else ""
    return (
        f"nDCG@10, {size}{stages}{by}. *Best first* is the best of BM25, the encoder and their hybrid on that collection, "
        "chosen with the answers known: a strict rival. *Alone* is the reranker's own order of the candidates. The difference "
        "is that of two-stage search to the best first stage, with the 95% bootstrap interval over questions; bold where that "
        "leaves zero out."
    )


def _worth_table(rows: Sequence[Facts]) -> str:
    names = (*_STAGES, "best_first", "two_stage", "alone")
    header = ("collection", "seen in training", "questions", "BM25", "encoder", "hybrid", "best first", "two-stage", "alone")
    lines = [
        (
            *(_name_of(row), str(row.get("trained", _NONE)), str(row.get("queries", _NONE))),
            *(_number(row.get(name)) for name in names),
            _difference(row.get("difference"), row.get("low"), row.get("high")),
        )
        for row in rows
    ]
    better, worse = _signs(rows)
    total = _mean(rows, "difference")
    note = _NONE if total is None else f"{total:+.4f}; {better} better, {worse} worse"
    last = ("mean", "", "", *(_number(_mean(rows, name)) for name in names), note)
    return _table((*header, "difference"), [*lines, last])


def _by_language(evaluation: Facts) -> list[str]:
    groups: dict[str, list[Facts]] = {}
    for row in evaluation.get("rows", ()):
        groups.setdefault(str(row.get("language", "not stated")), []).append(row)
    if not groups:
        return [NOT_MEASURED]
    header = ("language", "collections", "questions", "best first", "two-stage", "difference")
    lines = [
        (
            *(language, str(len(rows)), str(sum(int(row.get("queries") or 0) for row in rows))),
            *(_number(_mean(rows, name)) for name in ("best_first", "two_stage")),
            _difference(_mean(rows, "difference"), *_joint_interval(rows)),
        )
        for language, rows in sorted(groups.items())
    ]
    return [
        "Means over a language's collections. The interval of a mean takes those of the collections as normal and independent.",
        _table(header, lines),
    ]


def _joint_interval(rows: Sequence[Facts]) -> tuple[float, float] | tuple[None, None]:
    """The interval of the mean difference of independent collections: half widths add in squares."""
    mean, lows, highs = _mean(rows, "difference"), _mean(rows, "low"), _mean(rows, "high")
    if mean is None or lows is None or highs is None:
        return None, None
    if len(rows) == 1:
        return lows, highs
    half = math.sqrt(sum(((row["high"] - row["low"]) / 2) ** 2 for row in rows)) / len(rows)
    return mean - half, mean + half


def _detailed(evaluation: Facts) -> list[str]:
    found = evaluation.get("detailed", {})
    if not found:
        return [NOT_MEASURED]
    parts = ["Two-stage search, in the dictionaries that retrieval cards print."]
    for name, figures in found.items():
        parts += [f"### {name}", f"```python\n{format_card(figures)}\n```"]
    return parts


def _beside(evaluation: Facts, model: _Model) -> list[str]:
    rows = evaluation.get("rows", ())
    if not rows:
        return [NOT_MEASURED]
    header = ("system", "collections", "mean nDCG@10", "two-stage with this model, on the same")
    return [
        _table(header, [_system(name, values, rows) for name, values in _systems(evaluation, model).items()]),
        *_published(rows),
    ]


def _systems(evaluation: Facts, model: _Model) -> dict[str, Any]:
    """System -> nDCG@10 by collection, its mean over all of them, or (collections, its mean, ours); None if not measured."""
    rows = evaluation.get("rows", ())

    def column(name: str) -> dict[str, float] | None:
        return {_name_of(row): row[name] for row in rows if row.get(name) is not None} or None

    sizes = {size: facts.get("mean_two_stage") for size, facts in evaluation.get("sizes", {}).items() if size != model.size}
    found: dict[str, Any] = {
        "BM25": column("bm25"),
        "multilingual-e5-small (`shortlist-embed`, 4-bit weights) alone": column("dense"),
        "hybrid of both": column("hybrid"),
        "the same network before training (MaxSim alone), two-stage": column("untrained"),
        "this model alone, without the first stage's score": column("alone"),
        **{f"two-stage with size {size}": value for size, value in sizes.items() if value is not None},
        "all-MiniLM-L6-v2 (`shortlist-embed-en`) alone": None,
    }
    found |= {name: dict(values) for name, values in evaluation.get("others", {}).items()}
    return found | {name: tuple(values) for name, values in evaluation.get("beside", {}).items()}


def _system(name: str, values: Any, rows: Sequence[Facts]) -> Row:
    if values is None:
        return name, _NONE, "not measured", _NONE
    if isinstance(values, tuple):
        return name, str(values[0]), _number(values[1]), _number(values[2])
    if not isinstance(values, dict):
        return name, str(len(rows)), _number(values), _number(_mean(rows, "two_stage"))
    same = [row for row in rows if _name_of(row) in values]
    mean = float(np.mean([values[_name_of(row)] for row in same])) if same else None
    return name, str(len(same)), _number(mean), _number(_mean(same, "two_stage"))


def _published(rows: Sequence[Facts]) -> list[str]:
    """The table of published figures for the collections that were measured, ours below each."""
    lines: list[Row] = []
    for row in rows:
        name = _name_of(row)
        theirs = [(name, a.system, _number(a.value), a.source) for a in ANCHORS if a.collection == name]
        ours = (("BM25", "bm25"), ("hybrid", "hybrid"), ("two-stage with this model", "two_stage"))
        here = [(name, f"**{label}**", _number(row[k]), "this evaluation") for label, k in ours if row.get(k) is not None]
        lines += theirs + here if theirs else []
    if not lines:
        return ["No figure that others published fits these collections."]
    note = "Published figures, over all questions of a collection (ours may be over a sample, see above):"
    return [note, _table(("collection", "system", "nDCG@10", "source"), lines)]


def _calibration(evaluation: Facts, folder: Path) -> list[str]:
    facts = evaluation.get("calibration")
    if not facts:
        return [NOT_MEASURED]
    shift = f" - {facts['shift']:.3f}" if facts.get("shift") else ""
    logit = f"(logit{shift})" if shift else "logit"
    held = f" of {_join(list(facts['held_back']))}" if facts.get("held_back") else ""
    text = (
        f"probability = sigmoid({logit} / {_number(facts.get('temperature'), 3)}). Expected calibration error on "
        f"{facts.get('pairs', 0):,} pairs{held}, held back from the fit: {_number(facts.get('ece_before'))} before, "
        f"{_number(facts.get('ece_after'))} after.{_falling(facts.get('bins', ()))}"
    )
    if (folder / RELIABILITY).is_file():
        return [text, f"![Reliability: share of relevant pairs against the stated probability]({RELIABILITY})"]
    bins = [(str(int(count)), _number(p, 3), _number(share, 3)) for count, p, share in facts.get("bins", ())]
    return [text, _table(("pairs", "probability", "share that was relevant"), bins)] if bins else [text]


def _falling(bins: Sequence[Sequence[float]]) -> str:
    """A warning where the share of relevant pairs falls clearly above some probability, or nothing."""
    best = max(bins, key=lambda b: b[2], default=None)
    if best is None or bins[-1][2] > 0.8 * best[2]:
        return ""
    return (
        f" **Above {best[1]:.1f} the share of relevant pairs falls again**: scores of different questions are not on one "
        "scale. Compare probabilities of one question's passages, and take a low one as a sign that nothing fits; do not "
        "trust a high one."
    )


def _time(evaluation: Facts, model: _Model) -> list[str]:
    sizes = evaluation.get("sizes", {})
    names = ("ms_32_1", "ms_32_2", "ms_100_1", "ms_100_2")
    if not any(name in facts for facts in sizes.values() for name in names):
        return [NOT_MEASURED]
    header = ("size", *(f"{pairs} pairs, {threads}" for pairs in (32, 100) for threads in ("1 thread", "2 threads")))
    rows = [
        (f"**{size}**" if size == model.size else size, *(_number(facts.get(name), 1) for name in names))
        for size, facts in sizes.items()
    ]
    kernels = f", kernels {evaluation['kernels']}" if "kernels" in evaluation else ""
    return [f"Milliseconds to score a question's candidates{kernels}.", _table(header, rows)]


# ---------------------------------------------------------------------------------------------- forms and training

# Variant, form of `export`, precision; the form "" is the folder itself.
_VARIANTS: Final = (
    ("fp32", "standard", "float32"),
    ("fp16", "standard", "float16"),
    ("int8", "", "int8"),
    ("4-bit (GGUF Q4_0)", "gguf", "q4_0"),
    ("ONNX", "onnx", "float32"),
    ("ONNX, table in fp16", "onnx", "float16"),
    ("ONNX int8", "onnx-int8", "int8"),
    ("GGUF fp32", "gguf", "f32"),
    ("GGUF fp16", "gguf", "f16"),
    ("GGUF 8-bit (Q8_0)", "gguf", "q8_0"),
)
_FIRST_PRECISION: Final = {"standard": "float32", "onnx": "float32", "onnx-int8": "int8", "gguf": "f16"}


def _forms(forms: Sequence[Facts], model: _Model) -> str:
    made = {(f["form"], f.get("precision") or _FIRST_PRECISION.get(f["form"], "")): f for f in forms}
    rows: list[Row] = []
    for variant, form, precision in _VARIANTS:
        facts = made.pop((form, precision), None)
        if not form:
            whole = _megabytes(model.weights_bytes) + (" without the table" if model.card.table else "")
            rows.append((variant, whole, "this folder", _NONE) if model.int8 else (variant, _NONE, "made when loaded", _NONE))
        else:
            rows.append(_form_row(variant, facts))
    rows += [_form_row(f"{form} {precision}".strip(), facts) for (form, precision), facts in made.items()]
    return _table(("variant", "size", "status", "compared with our engine in float32"), rows)


def _form_row(variant: str, facts: Facts | None) -> Row:
    if facts is None:
        return variant, _NONE, "not made", _NONE
    checks = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in facts.get("checks", {}).items())
    return variant, _megabytes(facts["size_bytes"]), "made and checked" if checks else "made", checks or "not measured"


def _collections(manifest: Facts, data: Facts) -> list[tuple[str, str, str, int]]:
    """(key, name, licence, questions) of what was trained on."""
    known = data.get("collections", {})
    found = []
    for name, count in sorted(manifest.get("groups", {}).items()):
        facts = _of(name, known)
        found.append((name, str(facts.get("name", name)), str(facts.get("licence", "licence not recorded")), int(count)))
    return found


def _of(name: str, known: Facts) -> Facts:
    """A collection's facts; one that was made in several parts, name-1, name-2, has those of its name."""
    facts: Facts = known.get(name) or known.get(name.rstrip("0123456789").rstrip("-"), {})
    return facts


def _training(manifest: Facts, data: Facts, folder: Path) -> list[str]:
    if not manifest:
        return ["Not recorded."]
    rows = _collections(manifest, data)
    parts = [_method(manifest.get("settings", {}), str(manifest.get("start", "")))]
    if "before" in manifest:
        parts.append("It goes on from an earlier training by the same method, whose questions may be among these.")
    if rows:
        total = ("**all**", "", "", f"{sum(count for *_, count in rows):,}")
        lines = [(key, name, licence, f"{count:,}") for key, name, licence, count in rows]
        parts.append(_table(("collection", "name", "licence", "questions"), [*lines, total]))
    parts.append(_table(("", ""), _course(manifest)))
    if (folder / LEARNING).is_file():
        parts.append(f"![Loss and share of questions whose relevant passage comes first, against pairs seen]({LEARNING})")
    return parts


def _method(settings: Facts, start: str) -> str:
    """Data, negatives and losses in words."""
    begin = f"It starts from `{start}`. " if start else ""
    if "negatives" not in settings:
        return f"{begin}Each question comes with the passages that our own first stage finds for it."
    inner, taught, first = (settings.get(name, 0) for name in ("inner", "taught", "first_weight"))
    losses = [
        "listwise softmax cross entropy of the relevant passage against the others, once for the score alone and once for"
    ]
    losses[0] += f" score + {first:g} x the first stage's z-score" if first else " the same"
    if inner and len(settings.get("exits", ())) > 1:
        losses.append(f"cross entropy with the deepest exit's softmax, weight {inner:g}")
    if pointwise := settings.get("pointwise", 0):
        losses.append(f"cross entropy of each pair by itself, weight {pointwise:g}")
    if taught:
        losses.append(f"a teacher's margins and order, weight {taught:g}")
    return (
        f"{begin}Each question comes with its relevant passage and {settings['negatives']} of the candidates that our own "
        f"hybrid search finds; those that the encoder scores more than {settings.get('margin', 0):g} above the relevant one "
        f"may be relevant too and are left out. {_balance(settings.get('balance', 1))}Losses: {'; '.join(losses)}."
    )


def _balance(exponent: float) -> str:
    """How often collections are drawn, unless every group is drawn alike."""
    return "" if exponent == 1 else f"Collections are drawn in proportion to their size to the power of {exponent:g}. "


def _course(manifest: Facts) -> list[Row]:
    """What the training took, and its settings."""
    before = manifest.get("before", {})
    rows: list[Row] = [
        (label, _with_earlier(manifest[name], before.get(name)))
        for name, label in (("steps", "steps"), ("drawn", "questions"), ("pairs", "pairs seen"), ("training_s", "seconds"))
        if name in manifest
    ]
    rows += [("device", str(manifest["device"]))] if "device" in manifest else []
    if versions := manifest.get("versions"):
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    settings = ", ".join(f"{name} {_setting(value)}" for name, value in manifest.get("settings", {}).items())
    return [*rows, ("settings", settings)] if settings else rows


def _with_earlier(count: int, earlier: int | None) -> str:
    """A count of this training, and that of the one it goes on from."""
    return f"{count:,}" if earlier is None else f"{count:,}, after {earlier:,} in the training before"


def _setting(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _again(manifest: Facts, recipe: str) -> list[str]:
    script = recipe or str(manifest.get("recipe", ""))
    if not script:
        return ["Not recorded."]
    seed = manifest.get("settings", {}).get("seed")
    same = f" The seed is {seed}." if seed is not None else ""
    return [
        f"```sh\nSHORTLIST_DATA=folder/of/collections sh {script}\n```",
        f"In the repository of shortlist, with torch installed.{same} Other versions or another device round otherwise: expect "
        "the same figures within their intervals, not the same bytes.",
    ]


# ---------------------------------------------------------------------------------------------- limits


def _limits(evaluation: Facts, manifest: Facts, data: Facts, model: _Model) -> str:
    points = [*_weak_points(evaluation), *_languages(manifest, data, model.card)]
    if model.card.window:
        points.append(
            f"Of a long passage {model.card.window} tokens are read: an answer that shares no words with the question may be "
            "missed."
        )
    if model.card.kind == "reranker":
        points.append("It can only reorder what the first stage found.")
    points += [
        "Most collections here are small, and made from encyclopedias, news and abstracts: figures on other text may differ. "
        "Measure on your own questions.",
        "Like any model that learnt from text it may carry the biases of its data: it may prefer passages about some people, "
        "places or views for reasons that have nothing to do with the question, and do worse for some dialects and spellings. "
        "It measures whether a passage fits a question, not whether it is true. Do not let it decide about people.",
    ]
    return "\n".join(f"- {point}" for point in points)


def _weak_points(evaluation: Facts) -> list[str]:
    """Where it loses."""
    rows = evaluation.get("rows", ())
    worse = [_name_of(row) for row in rows if (row.get("high") or 0) < 0]
    points = [f"Two-stage search is worse than the best first stage, by more than chance, on {_join(worse)}."] if worse else []
    alone, first = _mean(rows, "alone"), _mean(rows, "best_first")
    if alone is not None and first is not None and alone < first:
        points.append(
            f"Alone it is worse than the best first stage (mean {_number(alone)} against {_number(first)}): use it fused."
        )
    return points


def _languages(manifest: Facts, data: Facts, card: ModelCard) -> list[str]:
    """Languages with questions of their own in training, with translated text only, and without any."""
    known = data.get("collections", {})
    spoken: dict[str, set[str]] = {"questions": set(), "other": set()}
    for name in manifest.get("groups", {}):
        facts = _of(name, known)
        spoken["questions" if facts.get("kind") == "questions" else "other"].update(facts.get("languages", ()))
    if not spoken["questions"] and not spoken["other"]:
        return []
    asked, seen = spoken["questions"], spoken["other"] - spoken["questions"]
    silent = [code for code in card.languages if code not in asked | seen]
    points = [f"Languages with questions in training: {', '.join(sorted(asked)) or 'none'}."]
    if seen:
        points.append(f"Languages with titles or translated sentences only: {', '.join(sorted(seen))}.")
    if silent:
        points.append(
            f"Languages without any training text: {', '.join(silent)}. It carries over to them only as far as the token "
            "table and the layers that it started from do."
        )
    return points


# ---------------------------------------------------------------------------------------------- pictures


def reliability_picture(bins: Sequence[Sequence[float]], path: Path) -> Path:
    """Draws (pairs, mean probability, share that was relevant) of each bin; the format is that of the path's ending.

    Areas of the dots are the bins' shares of the pairs. The same bins give the same bytes. Raises BadInput without a bin,
    MissingExtra without matplotlib.
    """
    if not bins:
        raise BadInput("there are no bins: expected at least one (pairs, probability, share). Use calibrate.reliability.")
    count, stated, found = np.array(bins, np.float64).T

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="perfect")
        axis.plot(stated, found, color="C0", linewidth=1)
        axis.scatter(stated, found, s=12 + 240 * count / count.sum(), color="C0", alpha=0.7, label="held-back pairs")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="stated probability", ylabel="share that was relevant")
        axis.set_aspect("equal")
        axis.legend(loc="upper left", frameon=False)

    return _drawn(path, (4.2, 4.2), "a reliability picture", draw)


def learning_picture(log: Sequence[Facts], path: Path) -> Path:
    """Draws a training's log (`read_log`): loss, top-1 of each exit and, as points, nDCG@10 of the watched groups.

    The same log gives the same bytes. Raises BadInput for a log without a loss, MissingExtra without matplotlib.
    """
    steps = _thinned([line for line in log if "loss" in line])
    watched = [line for line in log if "watched" in line]
    if not steps:
        raise BadInput("the log has no line with a loss: expected lines of log.jsonl as `read_log` gives them.")
    exits = [name.removeprefix("top1 ") for name in steps[0] if name.startswith("top1 ")]
    colors = {name: f"C{place}" for place, name in enumerate(exits)}

    def draw(figure: Any) -> None:
        panels = np.atleast_1d(figure.subplots(3 if watched else 2, 1, sharex=True))
        pairs = [line["pairs"] for line in steps]
        panels[0].plot(pairs, [line["loss"] for line in steps], color="0.3", linewidth=1)
        panels[0].set_ylabel("loss")
        for name in exits:
            panels[1].plot(pairs, [line[f"top1 {name}"] for line in steps], color=colors[name], linewidth=1, label=name)
        panels[1].set_ylabel("top-1 in training")
        panels[1].legend(loc="lower right", frameon=False, ncols=4)
        if watched:
            _draw_watched(panels[2], watched, colors)
        panels[-1].set_xlabel("pairs seen")

    return _drawn(path, (6.4, 6.6 if watched else 4.6), "a learning curve", draw)


def _thinned(lines: Sequence[Facts], most: int = 100) -> list[Facts]:
    """Means of neighbouring lines, at most `most` of them: a long training is no larger picture."""
    size = -(-len(lines) // most) or 1
    blocks = [lines[i : i + size] for i in range(0, len(lines), size)]
    return [{name: float(np.mean([line[name] for line in block])) for name in block[0]} for block in blocks]


def _draw_watched(axis: Any, lines: Sequence[Facts], colors: Mapping[str, str]) -> None:
    """nDCG@10, mean of the watched collections, of each exit's fused order; the first stage as a line."""
    pairs = [line["pairs"] for line in lines]

    def means(name: str) -> list[float]:
        return [float(np.mean([values[name] for values in line["watched"].values()])) for line in lines]

    for name, color in colors.items():
        axis.plot(pairs, means(name), "o", color=color, markersize=4, label=name)
    axis.axhline(means("first")[0], color="0.6", linewidth=1, linestyle="--", label="first stage")
    axis.set_ylabel("nDCG@10, watched")
    axis.legend(loc="lower right", frameon=False, ncols=5)


def _drawn(path: Path, inches: tuple[float, float], what: str, draw: Callable[[Any], None]) -> Path:
    """A figure without dates, version names and random ids in the file; a PNG in 64 colours, a quarter of the size."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", what) from error
    with matplotlib.rc_context({"svg.hashsalt": "shortlist", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        if path.suffix.lower() != ".png":
            figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix.lower() == ".svg" else None)
            return path
        drawn = BytesIO()
        figure.savefig(drawn, dpi=90, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    return path
