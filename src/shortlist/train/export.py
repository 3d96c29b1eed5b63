"""A model folder in other forms, each checked against our own engine before it appears.

    form        what is written into a new folder                                             precision, the first by default
    standard    config.json, model.safetensors with the token table inside, the tokenizer:    float32, float16
                what sentence-transformers loads (a reranker: its CrossEncoder)
    onnx        onnx/model.onnx, float32; `precision` is that of the token table in it        float32, float16
    onnx-int8   onnx/model_quantized.onnx, linear layers int8; `precision` as above           int8, float16, float32
    gguf        NAME-PRECISION.gguf in llama.cpp's layout; q4_0-table: table q4_0, layers     f16, f32, q8_0, q4_0,
                q8_0                                                                          q4_0-table

README.md in the folder says what other programs leave out; manifest.json has the source's fingerprint, versions, checksums,
what the check measured and what it allows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from shortlist import models
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, ModelError
from shortlist.models.card import ModelCard, read_card
from shortlist.models.files import appearing, checksums, write_json
from shortlist.models.network import Network, read_network
from shortlist.models.registry import table_folder
from shortlist.reranker import Inputs, Reranker, padded
from shortlist.tokens import Tokenizer
from shortlist.train import samples
from shortlist.train.forward import run
from shortlist.train.gguf_file import PRECISIONS, read_gguf, write_gguf
from shortlist.train.onnx_graph import session, write_onnx
from shortlist.train.standard_folder import write_card, write_settings, write_weights
from shortlist.types import FloatArray, Tokens

FORMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "standard": ("float32", "float16"),
        "onnx": ("float32", "float16"),
        "onnx-int8": ("int8", "float16", "float32"),
        "gguf": tuple(PRECISIONS),
    }
)
_BATCH = 8  # texts of an encoder that are checked in one padded batch


@dataclass(frozen=True)
class Tolerance:
    """What a check lets pass.

    min_cosine            of an encoder: the least cosine of a vector with ours
    score_difference      of a reranker: the largest mean difference of a score, in standard deviations of ours
    rank_agreement        of a reranker: the least share of pairs of a question's passages that keep their order
    """

    min_cosine: float
    score_difference: float
    rank_agreement: float


# Measured over the forms and precisions, of the encoders shortlist-embed and shortlist-embed-en the cosine, of
# shortlist-rerank-L-4 the difference and the agreement:
#   float32   1.000000, 1.000000   0.000001, 1.0
#   float16   1.000000, 0.999999   0.0004, 1.0
#   int8      0.9981, 0.987        0.036, 0.986       (our own engine in int8: 0.9981, 0.990)
#   q8_0      0.99996, 0.9996      0.005, 1.0
#   q4_0      1.000000, 0.902      0.86, 0.93         with q8_0 layers 1.000000, 0.996, 0.005, 1.0
# shortlist-embed's source has 4 bits itself; the other two are refused as q4_0, and rightly so.
TOLERANCES: Final[Mapping[str, Tolerance]] = MappingProxyType(
    {
        "float32": Tolerance(0.99999, 0.001, 0.98),
        "float16": Tolerance(0.999, 0.01, 0.97),
        "int8": Tolerance(0.98, 0.1, 0.93),
        "q8_0": Tolerance(0.998, 0.05, 0.95),
        "q4_0": Tolerance(0.95, 0.25, 0.85),
    }
)
_SAME: Final = MappingProxyType({"f32": "float32", "f16": "float16", "q4_0-table": "q4_0"})


@dataclass(frozen=True)
class Exported:
    """A folder that was written. `size_bytes` is that of all its files.

    checks  of an encoder min_cosine and max_difference (of a vector's number); of a reranker max_score_difference,
            mean_score_difference, score_deviation (the standard deviation of our own scores) and rank_agreement
    """

    path: Path
    form: str
    size_bytes: int
    checks: Mapping[str, float]


def export(folder: str | os.PathLike[str], out: str | os.PathLike[str], to: str, *, precision: str = "") -> Exported:
    """Writes a model (a folder, or a name that `shortlist models` lists) in the form `to`, one of FORMS, into the new `out`.

    What the written file gives for texts of twelve languages is compared with our engine in float32; only a folder that
    passes gets its name. A killed export leaves nothing under that name.

    Raises BadInput for an unknown form or precision, or if `out` exists; ModelError if the model cannot be read, or if the
    check finds more difference than TOLERANCES allows; MissingExtra without the packages that the form needs.
    """
    precision = _checked_precision(to, precision)
    target = Path(out)
    if target.exists():
        raise BadInput(f"{target} exists already. Give the name of a new folder, or remove that one first.")
    source = _Source.open(models.resolve(folder))
    tolerance = TOLERANCES["int8" if to == "onnx-int8" else _SAME.get(precision, precision)]
    with appearing(target) as draft:
        checks = _WRITERS[to](source, draft, precision)
        _refuse_if_different(f"{source.card.name} as {to} ({precision})", checks, tolerance)
        (draft / "README.md").write_text(_readme(source, to, precision, checks), encoding="utf-8", newline="\n")
        write_json(draft / "manifest.json", _manifest(source, draft, to, precision, checks, tolerance))
    size_bytes = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    return Exported(target, to, size_bytes, MappingProxyType(checks))


def _checked_precision(form: str, precision: str) -> str:
    if form not in FORMS:
        raise BadInput(f"to={form!r}; expected one of the forms {', '.join(FORMS)}.")
    if precision and precision not in FORMS[form]:
        raise BadInput(f"precision={precision!r}; the form {form} has {', '.join(FORMS[form])}.")
    return precision or FORMS[form][0]


@dataclass(frozen=True)
class _Source:
    """The model that is exported. `shared` holds the token table and the tokenizer."""

    folder: Path
    shared: Path
    card: ModelCard
    network: Network

    @classmethod
    def open(cls, folder: Path) -> _Source:
        card = read_card(folder)
        shared = table_folder(folder, card)
        return cls(folder, shared, card, read_network(folder, shared))


# ---------------------------------------------------------------------------------------------- writing


def _standard(source: _Source, draft: Path, precision: str) -> dict[str, float]:
    write_weights(draft, source.network, precision)
    write_settings(draft, source.folder, source.shared, source.card)
    write_card(draft, source.card)
    return _checks([results for _, results in _ours(source)], [results for _, results in _ours(_Source.open(draft))])


def _onnx(source: _Source, draft: Path, precision: str) -> dict[str, float]:
    return _graph(source, draft / "onnx" / "model.onnx", precision, int8=False)


def _onnx_int8(source: _Source, draft: Path, precision: str) -> dict[str, float]:
    return _graph(source, draft / "onnx" / "model_quantized.onnx", precision, int8=True)


def _graph(source: _Source, path: Path, table: str, *, int8: bool) -> dict[str, float]:
    """The hub's layout: graphs in a folder of their own beside config and tokenizer."""
    path.parent.mkdir()
    write_settings(path.parents[1], source.folder, source.shared, source.card)
    card = source.card
    write_onnx(path, source.network, card.pooling, normalize=card.normalize, table=table, int8=int8)
    opened = session(path)
    return _compared(source, lambda inputs: opened.run(None, inputs.arrays)[-1])


def _gguf(source: _Source, draft: Path, precision: str) -> dict[str, float]:
    card, path = source.card, draft / f"{source.card.name.rpartition('/')[2]}-{precision}.gguf"
    write_gguf(path, source.network, card, source.shared, precision)
    network = replace(read_gguf(path), activation=source.network.activation)

    def results(inputs: Inputs) -> FloatArray:
        rows = run(network, _ragged(inputs), card.pooling)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if card.normalize else rows

    return _compared(source, results)


_WRITERS: Final[Mapping[str, Callable[[_Source, Path, str], dict[str, float]]]] = MappingProxyType(
    {"standard": _standard, "onnx": _onnx, "onnx-int8": _onnx_int8, "gguf": _gguf}
)


# ---------------------------------------------------------------------------------------------- checking


def _compared(source: _Source, results: Callable[[Inputs], FloatArray]) -> dict[str, float]:
    """Our results for the samples against those of `results`, which takes one padded batch."""
    ours = _ours(source)
    return _checks([expected for _, expected in ours], [results(inputs) for inputs, _ in ours])


def _ours(source: _Source) -> list[tuple[Inputs, FloatArray]]:
    """The samples in padded batches, and our engine's float32 results: vectors [n, dims], or scores [n, 1] of one question."""
    card, texts = source.card, samples.texts()
    if card.kind == "reranker":
        reranker = Reranker.load(source.folder, precision="float32")
        return [(reranker.prepare_batch(q, p), reranker.score(q, p)[:, None]) for q, p in samples.groups()]
    encoder, tokenizer = Encoder.load(source.folder, precision="float32"), Tokenizer.load(source.shared)
    prepared = [card.prompt("passage") + (text.lower() if card.lowercase else text) for text in texts]
    tokens, _ = tokenizer.encode(prepared, encoder.max_tokens)
    parts = [range(i, min(i + _BATCH, len(texts))) for i in range(0, len(texts), _BATCH)]
    vectors = encoder.encode(texts, kind="passage")
    return [(padded(tokens.take(p.start, p.stop), tokenizer), vectors[p.start : p.stop]) for p in parts]


def _ragged(inputs: Inputs) -> Tokens:
    mask = inputs.attention_mask == 1
    offsets = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    return Tokens(inputs.input_ids[mask].astype(np.int32), inputs.token_type_ids[mask].astype(np.uint8), offsets)


def _checks(ours: Sequence[FloatArray], theirs: Sequence[FloatArray]) -> dict[str, float]:
    """What Exported says; arrays of one column are a question's scores, others vectors."""
    a, b = np.concatenate(ours).astype(np.float64), np.concatenate(theirs).astype(np.float64)
    differences = np.abs(a - b)
    if a.shape[1] == 1:
        return {
            "max_score_difference": float(differences.max()),
            "mean_score_difference": float(differences.mean()),
            "score_deviation": float(a.std()),
            "rank_agreement": _rank_agreement(ours, theirs),
        }
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {"min_cosine": float(cosines.min()), "max_difference": float(differences.max())}


def _rank_agreement(ours: Sequence[FloatArray], theirs: Sequence[FloatArray]) -> float:
    """Share of the pairs of one question's passages that both put in the same order."""
    same = []
    for a, b in zip(ours, theirs, strict=True):
        above = np.triu_indices(len(a), 1)
        same.append(((a - a.T)[above] > 0) == ((b - b.T)[above] > 0))
    return float(np.concatenate(same).mean())


def _refuse_if_different(what: str, checks: Mapping[str, float], allowed: Tolerance) -> None:
    """Raises ModelError; a comparison with NaN is false, and so refused."""
    if "min_cosine" in checks:
        if not checks["min_cosine"] >= allowed.min_cosine:
            raise ModelError(
                f"{what}: a vector's cosine with ours is {checks['min_cosine']:.6f}; expected at least {allowed.min_cosine}. "
                f"{_ADVICE}"
            )
        return
    deviations = checks["mean_score_difference"] / (checks["score_deviation"] or 1.0)
    if not deviations <= allowed.score_difference:
        raise ModelError(
            f"{what}: scores differ from ours by {deviations:.4f} of their standard deviation on average; expected at most "
            f"{allowed.score_difference}. {_ADVICE}"
        )
    if not checks["rank_agreement"] >= allowed.rank_agreement:
        raise ModelError(
            f"{what}: {checks['rank_agreement']:.1%} of the pairs of passages keep their order; expected at least "
            f"{allowed.rank_agreement:.0%}. {_ADVICE}"
        )


_ADVICE: Final = "Nothing was written. Choose a finer precision; if that is the finest, please report this."


# ---------------------------------------------------------------------------------------------- describing


def _manifest(
    source: _Source, draft: Path, form: str, precision: str, checks: Mapping[str, float], tolerance: Tolerance
) -> dict[str, object]:
    encoder = {"min_cosine": tolerance.min_cosine}
    allowed = encoder if "min_cosine" in checks else {k: v for k, v in asdict(tolerance).items() if k not in encoder}
    return {
        "form": form,
        "precision": precision,
        "source": source.card.name,
        "source_fingerprint": models.fingerprint(source.folder, source.shared, source.card),
        "checks": {name: round(number, 8) for name, number in checks.items()},
        "tolerances": allowed,
        "versions": {name: v for name in ("shortlist", *_PACKAGES[form]) if (v := _version(name))},
        "sha256": checksums(draft),
    }


_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "standard": ("safetensors", "tokenizers"),
        "onnx": ("onnx", "onnxruntime"),
        "onnx-int8": ("onnx", "onnxruntime"),
        "gguf": ("gguf",),
    }
)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _readme(source: _Source, form: str, precision: str, checks: Mapping[str, float]) -> str:
    card = source.card
    measured = ", ".join(f"{name} {number:.6g}" for name, number in checks.items())
    lines = [
        f"# {card.name} as {form}, {precision}",
        f"{card.kind.capitalize()}, {card.layers} layers, {card.dims} dims, at most {card.max_tokens} tokens."
        + (f" Licence: {card.licence}." if card.licence else "")
        + (f" Source: {card.source}." if card.source else ""),
        f"Written by shortlist and compared with its engine in float32: {measured}.",
        *_usage(source, form),
    ]
    return "\n\n".join(lines) + "\n"


def _usage(source: _Source, form: str) -> list[str]:
    """What a user of the other program must know, a paragraph each."""
    card = source.card
    notes = []
    if any(card.prompts.values()):
        notes.append(f"Put {card.prompt('query')!r} before a query and {card.prompt('passage')!r} before a passage.")
    if card.segments and form != "gguf":
        notes.append("token_type_ids must be 1 for the passage's tokens and all that follow; the tokenizer here sets them so.")
    if source.network.maxsim and form == "standard":
        notes.append(
            "The tensors maxsim.weight, maxsim.bias and maxsim.gain are a part of the score that plain transformers and "
            "CrossEncoder leave out (they say that these weights are not used): their scores are those of the first token "
            "alone. shortlist computes both parts."
        )
    if card.window:
        notes.append(
            f"shortlist reads, of a passage of more than {card.window} tokens, the {card.window} that share most with the "
            "question. Other programs read it from its beginning."
        )
    return [*notes, *_FORM_NOTES[form], *(_llama_notes(source) if form == "gguf" else [])]


def _llama_notes(source: _Source) -> list[str]:
    notes = ["llama.cpp computes GELU by its tanh approximation; the check above used the exact one."]
    if source.network.maxsim:
        notes.append(
            "The score has a MaxSim part (tensors shortlist.maxsim.*), which llama.cpp does not know: it refuses the file."
        )
    if source.card.kind == "reranker" and source.network.type_vocab_size > 1:
        notes.append("llama.cpp takes token type 0 for all tokens; a model that was trained with 1 for the passage suffers.")
    return notes


_FORM_NOTES: Final[Mapping[str, list[str]]] = MappingProxyType(
    {
        "standard": [],
        "onnx": ["Padding goes on the right. The graph needs opset 17 (onnxruntime 1.12 or later)."],
        "onnx-int8": [
            "Padding goes on the right. The graph needs opset 17 (onnxruntime 1.12 or later).",
            "On x86 processors without VNNI instructions onnxruntime adds int8 products in 16 bits, which may overflow.",
        ],
        "gguf": [],
    }
)
