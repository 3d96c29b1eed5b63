"""What a model folder says about its model: one frozen value, read by a table of layouts.

| file that decides    | layout                | what it states                                                        |
|----------------------|-----------------------|-----------------------------------------------------------------------|
| `modules.json`       | sentence-transformers | pooling, normalisation, prompts, longest input                        |
| `config.json`        | plain transformers    | encoder, or reranker when the architecture is *ForSequenceClassification |
| `card.json` (beside) | ours                  | name, licence, source, checksums, ...; its fields go before the others |

Nothing is guessed in silence. A plain transformers encoder does not say how its token states become one vector: then the
rule of sentence-transformers holds (mean over all tokens, not normalised, no prompts), and `notes` says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeGuard

from shortlist.errors import ModelError, ModelNotFound
from shortlist.models.files import SHARDS, WEIGHTS, read_json, read_json_value

_TEMPERATURES: Final = (0.01, 100)
_LARGEST: Final = 1e30  # number of a vector or a score
_MODULE_FOLDER: Final = re.compile(r"[\w.-]{0,100}", re.ASCII)
_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class ModelCard:
    """One model's facts. `pooling` is "mean", "cls" or, for a reranker, "score"; `max_tokens` counts special tokens too.

    prompts        what is put before a text: {"query": "query: ", "passage": "passage: "}
    table          name of the model whose token table and tokenizer are used; "" when the folder has its own
    sha256         {file: hex}, of the folder as it was published
    canonical      {text: first 5 numbers of its vector}; for a reranker {query + "\\n" + passage: [logit]}
    fusion_weight  weight of the reranker's score against the first stage's, 1 = the reranker alone
    segments       a reranker's tokens from the passage on are of segment 1, those before of 0, whatever its tokenizer says
    window         a reranker reads this many tokens of a longer passage, those that share most with the query; 0 = all that fit
    matryoshka     lengths to which a vector may be cut (and made of length 1 again), as it was trained for that
    temperature    probability of relevance = sigmoid(logit / temperature); 0 = not calibrated
    notes          what the folder leaves open and which rule was applied
    """

    name: str
    kind: str
    pooling: str
    dims: int
    layers: int
    max_tokens: int
    prompts: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    normalize: bool = False
    lowercase: bool = False
    labels: int = 0
    languages: tuple[str, ...] = ()
    licence: str = ""
    training_data: str = ""
    source: str = ""
    table: str = ""
    table_fingerprint: str = ""
    fusion_weight: float = 1.0
    segments: bool = False
    window: int = 0
    temperature: float = 0.0
    matryoshka: tuple[int, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    canonical: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: _EMPTY)
    notes: tuple[str, ...] = ()

    def prompt(self, kind: str) -> str:
        """What is put before a text of this kind ("query", "passage"); "" when the model knows no such kind."""
        return self.prompts.get(kind, "")


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder.

    Raises ModelNotFound if the folder holds no model (the message says what is missing), ModelError if it asks for
    something that is not supported (a pooling, a module) or contradicts itself.
    """
    check_folder(folder)
    config = read_json(folder / "config.json")
    stated = next(read for marker, read in LAYOUTS if (folder / marker).is_file())(folder, config)
    own = read_json(folder / "card.json") if (folder / "card.json").is_file() else {}
    known = {f.name for f in fields(ModelCard)}
    values = {"name": folder.resolve().name} | stated | {k: v for k, v in own.items() if k in known}
    return _checked(ModelCard(**{k: _frozen(v) for k, v in values.items()}), folder)


def check_folder(folder: Path) -> None:
    """Raises ModelNotFound, naming what is missing, if the folder holds no model."""
    if not folder.is_dir():
        raise ModelNotFound(
            f"{folder}: no such folder. Give the path of a model folder, or a name that `shortlist models` lists."
        )
    table = (folder / "card.json").is_file() and read_json(folder / "card.json").get("table")
    needed = {"config.json": ["config.json"], WEIGHTS: [WEIGHTS, SHARDS]}
    if not table:
        needed["tokenizer.json"] = ["tokenizer.json"]
    missing = [name for name, files in needed.items() if not any((folder / f).is_file() for f in files)]
    if missing:
        raise ModelNotFound(
            f"{folder} is not a model folder: {', '.join(missing)} missing. Expected config.json, tokenizer.json and weights "
            f"in safetensors form, as sentence-transformers and transformers save them."
        )


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, dict):
        return MappingProxyType({k: _frozen(v) for k, v in value.items()})
    return value


def _is_text(value: object) -> bool:
    """Well-formed: JSON can spell lone surrogates, which no tokenizer takes."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


def _is_mapping(value: object, of: Callable[[object], bool]) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value)) and all(map(of, value.values()))


def _is_numbers(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(_is_number(v) and abs(v) < _LARGEST for v in value)


# What a field of the card must be, for every field but kind and pooling: in words, and as a check.
_TEXT: Final = ("a text", _is_text)
_FLAG: Final = ("true or false", lambda value: isinstance(value, bool))
_SIZE: Final = ("a whole number from 1 on", lambda value: _is_whole(value) and value >= 1)
_TEXTS: Final = ("a list of texts", _is_texts)
_TEXT_BY_NAME: Final = ("an object of texts", lambda value: _is_mapping(value, _is_text))
_EXPECTED: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    **dict.fromkeys(("name", "licence", "training_data", "source", "table", "table_fingerprint"), _TEXT),
    **dict.fromkeys(("normalize", "lowercase", "segments"), _FLAG),
    **dict.fromkeys(("dims", "layers"), _SIZE),
    **dict.fromkeys(("languages", "notes"), _TEXTS),
    **dict.fromkeys(("prompts", "sha256"), _TEXT_BY_NAME),
    "max_tokens": ("a whole number from 8 on", lambda value: _is_whole(value) and value >= 8),
    "labels": ("a whole number from 0 on", lambda value: _is_whole(value) and value >= 0),
    "matryoshka": (
        "a list of whole numbers from 1 on",
        lambda value: isinstance(value, tuple) and all(_is_whole(n) and n >= 1 for n in value),
    ),
    "window": ("a whole number of tokens, or 0 for none", lambda value: _is_whole(value) and value >= 0),
    "fusion_weight": ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "temperature": (
        f"a number from {_TEMPERATURES[0]} to {_TEMPERATURES[1]}, or 0 for none",
        lambda value: _is_number(value) and (value == 0 or _TEMPERATURES[0] <= value <= _TEMPERATURES[1]),
    ),
    "canonical": ("an object of lists of numbers", lambda value: _is_mapping(value, _is_numbers)),
}


def _checked(card: ModelCard, folder: Path) -> ModelCard:
    if card.kind not in ("encoder", "reranker"):
        raise ModelError(f"{folder}: kind={card.kind!r} in card.json; expected 'encoder' or 'reranker'.")
    if card.pooling not in ("mean", "cls", "score") or (card.pooling == "score") != (card.kind == "reranker"):
        raise ModelError(f"{folder}: pooling={card.pooling!r} of a model of kind {card.kind!r} is not supported.")
    for name, (words, fits) in _EXPECTED.items():
        if not fits(value := getattr(card, name)):
            raise ModelError(f"{folder}: {name}={value!r:.80}; expected {words}. Correct its card.json or the file it is from.")
    return card


def _transformers(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What config.json and tokenizer_config.json say."""
    architectures = config.get("architectures") or [""]
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise ModelError(f"{folder / 'config.json'}: architectures={architectures!r:.80}; expected a list of names.")
    reranker = architectures[0].endswith("ForSequenceClassification")
    facts: dict[str, Any] = {
        "kind": "reranker" if reranker else "encoder",
        "pooling": "score" if reranker else "mean",
        "dims": _positive(folder, config, "hidden_size"),
        "layers": _positive(folder, config, "num_hidden_layers"),
        "max_tokens": _longest_input(folder, config),
    }
    if reranker:
        named = config.get("id2label")
        facts["labels"] = len(named) if named and isinstance(named, dict) else config.get("num_labels", 2)
    else:
        facts["notes"] = ("pooling and prompts are not stated: mean over all tokens, not normalised, no prompts",)
    return facts


def _sentence_transformers(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What modules.json and the files that it names say, on top of config.json."""
    facts = _transformers(folder, config)
    kinds = _modules(folder / "modules.json")
    foreign = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if foreign:
        raise ModelError(
            f"{folder}: modules.json asks for {', '.join(foreign)}; supported are Transformer, Pooling and Normalize."
        )
    if facts["kind"] == "reranker":
        return facts
    transformer = _optional(folder / kinds.get("Transformer", "") / "sentence_bert_config.json")
    prompts, notes = _prompts(folder / "config_sentence_transformers.json")
    facts |= {
        "pooling": _pooling(folder / kinds.get("Pooling", "1_Pooling") / "config.json"),
        "normalize": "Normalize" in kinds,
        "prompts": prompts,
        "lowercase": bool(transformer.get("do_lower_case", False)),
        "notes": notes,
    }
    longest = transformer.get("max_seq_length")
    if _is_whole(longest):
        facts["max_tokens"] = min(longest, facts["max_tokens"])
    return facts


# The file whose presence decides, and what reads the layout: the first that is there.
LAYOUTS: Final[tuple[tuple[str, Callable[[Path, dict[str, Any]], dict[str, Any]]], ...]] = (
    ("modules.json", _sentence_transformers),
    ("config.json", _transformers),
)


def _modules(path: Path) -> dict[str, str]:
    """{kind of module: folder of its settings} from modules.json."""
    modules = read_json_value(path)
    if not isinstance(modules, list) or not all(isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules):
        raise ModelError(f"{path}: expected a list of modules, each with its type.")
    kinds = {m["type"].rpartition(".")[2]: m.get("path", "") for m in modules}
    for kind, place in kinds.items():
        if not isinstance(place, str) or not _MODULE_FOLDER.fullmatch(place) or place.startswith(".."):
            raise ModelError(f"{path}: {kind} is placed in {place!r:.80}; expected the name of a folder beside it.")
    return kinds


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _positive(folder: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not _is_whole(value) or value < 1:
        raise ModelError(f"{folder / 'config.json'}: {key}={value!r:.80}; expected a positive number. Is it a BERT-like model?")
    return value


def _longest_input(folder: Path, config: dict[str, Any]) -> int:
    """Usable positions (RoBERTa keeps pad_token_id + 1 of them), or fewer if the tokenizer says so."""
    positions = _positive(folder, config, "max_position_embeddings")
    if "roberta" in str(config.get("model_type", "")):
        padding = config.get("pad_token_id", 1)
        if not _is_whole(padding):
            raise ModelError(f"{folder / 'config.json'}: pad_token_id={padding!r:.80}; expected a token id.")
        positions -= padding + 1
    stated = _optional(folder / "tokenizer_config.json").get("model_max_length")
    return int(min(positions, stated)) if _is_number(stated) and stated >= 1 else positions


def _pooling(path: Path) -> str:
    """The pooling, "mean" or "cls". Files before sentence-transformers 6 have a flag a mode, later ones name the mode."""
    settings = _optional(path)
    named = settings.get("pooling_mode")
    flags = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    on = [named] if named else [flags.get(k, k) for k, v in settings.items() if k.startswith("pooling_mode_") and v is True]
    if len(on) != 1 or on[0] not in ("mean", "cls") or settings.get("include_prompt", True) is False:
        raise ModelError(f"{path}: this pooling is not supported: {settings}. Supported are mean and cls, prompt included.")
    return str(on[0])


def _prompts(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Prompts of queries and passages ("passage" is also called "document"); a default prompt holds for both."""
    settings = _optional(path)
    stated, name = settings.get("prompts") or {}, settings.get("default_prompt_name") or ""
    if not isinstance(stated, dict) or not isinstance(name, str):
        raise ModelError(
            f"{path}: prompts={stated!r:.80}, default_prompt_name={name!r:.80}; expected texts by name, and a name."
        )
    default = stated.get(name, "")
    passage = stated.get("passage") or stated.get("document") or default
    prompts = {"query": stated.get("query") or default, "passage": passage}
    return prompts, () if stated else ("prompts are not stated: none are used",)
