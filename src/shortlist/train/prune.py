"""A model for fewer languages: the vocabulary trimmed to what a sample of text needs, tokenizer and token table together.

Most of a small multilingual model is its token table: of the 118 million weights of multilingual-e5-small 96 million are, one
row for each of 250,037 pieces, and a text in one or two languages touches a tenth of them. Rows that go take nothing from a
text whose pieces stay: a Unigram tokenizer takes the best-scored segmentation and a WordPiece tokenizer the longest piece
first, and either choice stands when others that lost are gone. Such a text has the same vector as before, to the bit if the
table's type stays. Any other text is split into smaller pieces, down to single characters, and loses a little; how much is
measured on texts of the sample that had no say.

Trimming a multilingual model's vocabulary by counting pieces: Abdaoui et al., Load What You Need: Smaller Versions of
Multilingual BERT, SustaiNLP 2020.
"""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from shortlist import models
from shortlist.engines.native import NativeEngine
from shortlist.errors import BadInput, ModelError
from shortlist.models import ModelCard
from shortlist.models.body import quantized
from shortlist.models.files import WEIGHTS, appearing, checksums, read_json, read_json_value, write_json
from shortlist.models.network import TABLE, Network, read_network
from shortlist.models.registry import table_folder
from shortlist.models.weights import Array, read_folder
from shortlist.quantize import HALF_MAX
from shortlist.text import detect_language
from shortlist.tokens import Tokenizer, checked_texts
from shortlist.types import FloatArray, IntArray, Tokens

Progress: TypeAlias = Callable[[int, int | None], None]
Ids: TypeAlias = npt.NDArray[np.int64]

TABLE_TYPES = ("float16", "int8", "float32")
HOLD_BACK = 10  # every tenth text has no say and measures the loss,
HELD_PER_LANGUAGE = 100  # as long as its language has no more than so many

_WHOLE = 1 << 30  # every token of a text counts, not only those that the model reads
_BATCH_TEXTS = 256
_MAIN_SCRIPT = 1e-3  # share of a sample's letters from which on a script is one of the sample's, not a stray name
_MAIN_LANGUAGE = 1e-2  # the same for languages and texts
_COMMON_SCRIPTS = frozenset({"LATIN", "COMBINING", "MODIFIER"})
_MASKED_LANGUAGE_HEADS = ("cls.", "lm_head.")  # of pretraining: one row a piece, and no part of an encoder or reranker
_MODEL_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "LICENSE")
_TOKENIZER_FILES = ("special_tokens_map.json",)


class Loss(NamedTuple):
    """What held-back texts lose: `tokens` in all, the share of them `tokens_changed` that is split differently now, and the
    cosine of the vectors before and after (of a reranker: of the state that its score is made from), int8 engine."""

    texts: int
    tokens: int
    tokens_changed: float
    mean_cosine: float
    min_cosine: float


@dataclass(frozen=True)
class Pruned:
    """What `prune` made. Sizes are bytes of all weights and tokenizer.json; the loss is that of all held-back texts.

    texts        texts that had a say
    languages    tags of the languages found in at least a hundredth of the sample, the most frequent first
    by_language  the loss for each language of the held-back texts ("und": not told)
    """

    folder: Path
    pieces_before: int
    pieces_after: int
    size_before: int
    size_after: int
    texts: int
    languages: tuple[str, ...]
    tokens: int
    tokens_changed: float
    mean_cosine: float
    min_cosine: float
    by_language: Mapping[str, Loss]


def prune(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    texts: Iterable[str],
    *,
    min_count: int = 1,
    whole_scripts: Collection[str] = (),
    extra_characters: str = "",
    table: str = "float16",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Writes the folder `out`: the model with only those pieces that `texts` need. It appears all at once.

    model             an encoder or reranker with a Unigram or WordPiece tokenizer, as `Encoder.load` takes it. A reranker that
                      shares its token table gets its own.
    texts             passages (and queries) of the kind that the model will read, ten at least; read once, in batches. Every
                      tenth, up to 100 for each language, is held back and measures the loss.
    min_count         a piece stays that the tokenizer used at least so often
    whole_scripts     scripts of which every piece stays, used or not, by the first word of their characters' Unicode names:
                      "CJK" (17,134 pieces of XLM-R), "TELUGU" (3,226). For a script that few languages share it costs little.
    extra_characters  characters that stay besides
    table             type of the token table that is written: "float16", "int8" (one scale a row) or "float32"; the other
                      weights stay as they are
    progress          called with texts read, and texts in all where that is known

    Always kept: special tokens, in their order; the pieces of the card's prompts; single characters that are a digit, mark of
    punctuation or symbol, a Latin letter, or a letter of a script that the sample is written in; whatever a text held.

    Raises BadInput for an existing `out`, a sample that is no iterable of well-formed str or too small, and bad options;
    ModelNotFound, ModelError for a model that cannot be read or whose tokenizer is of another kind.
    """
    _check_options(min_count, table)
    target = Path(out)
    if target.exists():
        raise BadInput(f"{target} exists already. Remove it, or choose another folder.")
    source = _Source.read(model)
    whole = _checked_scripts(whole_scripts, source)
    sample = _read_sample(source, texts, progress)
    kept = _kept(source, sample, min_count, whole, extra_characters)
    with appearing(target) as folder:
        small = _write_model(source, kept, table, folder)
        losses = _measured(source, small, kept, sample.held, threads)
        result = _result(target, source, small, sample, kept, losses)
        how = {"min_count": min_count, "whole_scripts": sorted(whole), "table": table}
        (folder / "README.md").write_text(_readme(source, result, how), encoding="utf-8", newline="\n")
        write_json(folder / "card.json", _card(source, small, kept, folder, result, how))
        models.read_card(folder)
    return result


def _check_options(min_count: int, table: str) -> None:
    if min_count < 1:
        raise BadInput(f"min_count={min_count}: expected at least 1, which keeps every piece that the sample uses.")
    if table not in TABLE_TYPES:
        raise BadInput(f"table={table!r}: expected one of {', '.join(TABLE_TYPES)}.")


# --- the model that is trimmed ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A model folder, the folder of its token table, and what they hold."""

    folder: Path
    shared: Path
    card: ModelCard
    network: Network
    tokenizer: Tokenizer
    layout: dict[str, Any]  # tokenizer.json

    @classmethod
    def read(cls, model: str | os.PathLike[str]) -> _Source:
        folder = models.resolve(model)
        card = models.read_card(folder)
        shared = table_folder(folder, card)
        tokenizer, layout = Tokenizer.load(shared), read_json(shared / "tokenizer.json")
        source = cls(folder, shared, card, read_network(folder, shared), tokenizer, layout)
        source.check()
        return source

    def check(self) -> None:
        kind = self.layout["model"].get("type")
        if kind not in ("Unigram", "WordPiece"):
            raise ModelError(
                f"{self.shared}: a tokenizer of type {kind}; vocabularies of Unigram (XLM-R) and WordPiece (BERT) tokenizers "
                f"can be trimmed. Use the model as it is."
            )
        rows = self.network.vocab_size
        if len(self.pieces) > rows:
            raise ModelError(
                f"{self.folder}: the tokenizer knows {len(self.pieces)} pieces, the token table has {rows} rows. They do not "
                f"belong together: fetch or save the model again."
            )

    @property
    def unigram(self) -> bool:
        return bool(self.layout["model"]["type"] == "Unigram")

    @property
    def marker(self) -> str:
        """What a piece has before its characters at a word's beginning (Unigram) or inside of a word (WordPiece)."""
        return "▁" if self.unigram else str(self.layout["model"].get("continuing_subword_prefix", "##"))

    @cached_property
    def pieces(self) -> list[str]:
        """Every piece by its id; "" where an id has none."""
        vocab = self.layout["model"]["vocab"]
        named = {i: piece for i, (piece, _) in enumerate(vocab)} if self.unigram else {i: piece for piece, i in vocab.items()}
        named |= {token["id"]: token["content"] for token in self.layout["added_tokens"]}
        return [named.get(i, "") for i in range(max(named) + 1)]

    def characters(self, piece: str) -> str:
        """A piece without its marker; the marker alone is itself."""
        return piece.removeprefix(self.marker) or piece

    def encode(self, texts: Sequence[str], max_tokens: int = _WHOLE) -> Tokens:
        """Tokens of passages as the model reads them: lower case and prompt as the card says."""
        prompt = self.card.prompt("passage")
        prepared = [prompt + (text.lower() if self.card.lowercase else text) for text in texts]
        return self.tokenizer.encode(prepared, max_tokens)[0]


# --- what stays -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """What the texts need: `counts` int64[pieces], and the held-back texts as (language, text)."""

    texts: int
    counts: Ids
    languages: Counter[str]
    held: list[tuple[str, str]]


def _read_sample(source: _Source, texts: Iterable[str], progress: Progress | None) -> _Sample:
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise BadInput(f"texts: got {type(texts).__name__}, expected an iterable of str. Put the texts into a list.")
    total = len(texts) if isinstance(texts, Sized) else None
    counts = np.zeros(len(source.pieces), np.int64)
    languages: Counter[str] = Counter()
    held: list[tuple[str, str]] = []
    per_language: Counter[str] = Counter()
    read = used = written = 0
    for batch in _batches(texts):
        checked_texts(batch, f"texts[{read}:]")
        read += len(batch)
        having_a_say = []
        for text in filter(str.strip, batch):
            written += 1
            if written % HOLD_BACK == 0:
                lang = detect_language(text) or "und"
                languages[lang] += 1
                if per_language[lang] < HELD_PER_LANGUAGE:
                    per_language[lang] += 1
                    held.append((lang, text))
                    continue
            having_a_say.append(text)
        counts += np.bincount(source.encode(having_a_say).ids, minlength=len(counts))
        used += len(having_a_say)
        if progress is not None:
            progress(read, total)
    if not held:
        raise BadInput(
            f"texts: {written} texts that are not blank; expected at least {HOLD_BACK}, as every tenth measures the loss. "
            f"Give more, or cut long ones into passages."
        )
    return _Sample(used, counts, languages, held)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH_TEXTS)):
        yield batch


def _kept(source: _Source, sample: _Sample, min_count: int, whole: frozenset[str], extra: str) -> Ids:
    """Ids of the pieces that stay, ascending: the place of an id is its new id."""
    stays = sample.counts >= min_count
    stays[_fixed(source)] = True
    scripts = _COMMON_SCRIPTS | _main_scripts(source, sample.counts)
    extra_characters = frozenset(extra)
    for i in np.flatnonzero(~stays):
        characters = source.characters(source.pieces[i])
        if len(characters) == 1:
            stays[i] = characters in extra_characters or _is_common(characters) or _script(characters) in scripts
        if whole and not stays[i]:
            found = _scripts(characters)
            stays[i] = bool(found) and found <= whole
    return np.flatnonzero(stays)


def _fixed(source: _Source) -> list[int]:
    """Ids that stay whatever the sample says."""
    layout, config = source.layout, read_json(source.folder / "config.json")
    fixed = {token["id"] for token in layout["added_tokens"]}
    fixed |= {value for key, value in config.items() if _is_token_id(key, value)}
    fixed |= set(range(source.network.pad_id))  # an XLM-R network counts positions from the id of <pad>: it may not move
    prompts = [prompt for prompt in source.card.prompts.values() if prompt]
    for tokens in (source.tokenizer.encode(["a", *prompts], _WHOLE), source.tokenizer.encode_pairs("a", ["a"], _WHOLE)):
        fixed |= set(tokens[0].ids.tolist())  # the template's tokens
    if source.unigram:
        scores = [score for _, score in layout["model"]["vocab"]]
        fixed.add(int(np.argmin(scores)))  # an unknown character's score is derived from the lowest one
        fixed |= {layout["model"]["unk_id"]} - {None}
        if layout["model"].get("byte_fallback"):
            fixed |= {i for i, piece in enumerate(source.pieces) if len(piece) == 6 and piece.startswith("<0x")}
    return sorted(i for i in fixed if i < len(source.pieces))


def _is_token_id(key: str, value: Any) -> bool:
    return key.endswith("_token_id") and isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _main_scripts(source: _Source, counts: Ids) -> frozenset[str]:
    """Scripts that the sample is written in; a stray foreign name does not bring in its whole alphabet."""
    letters: Counter[str] = Counter()
    for i in np.flatnonzero(counts):
        for script in filter(None, map(_script, source.characters(source.pieces[i]))):
            letters[script] += int(counts[i])
    return frozenset(script for script, count in letters.items() if count >= _MAIN_SCRIPT * letters.total())


def _is_common(character: str) -> bool:
    """True for digits, punctuation and symbols, which no language owns."""
    return unicodedata.category(character)[0] in "NPSZ"


@cache
def _script(character: str) -> str:
    """A letter's script, which is the first word of its name: "LATIN", "CJK", "TELUGU"; "" for what is no letter."""
    return "" if _is_common(character) else unicodedata.name(character, "").partition(" ")[0].partition("-")[0]


def _scripts(characters: str) -> set[str]:
    return set(map(_script, characters)) - {""}


def _checked_scripts(scripts: Collection[str], source: _Source) -> frozenset[str]:
    """The scripts in upper case. Raises BadInput for one in which the model has no piece."""
    if isinstance(scripts, str):
        raise BadInput(f"whole_scripts={scripts!r}: expected a list of names. Put it into a list.")
    wanted = frozenset(script.upper() for script in scripts)
    known = Counter(script for piece in source.pieces for script in _scripts(source.characters(piece))) if wanted else {}
    missing = sorted(wanted - known.keys())
    if missing:
        common = ", ".join(script for script, _ in Counter(known).most_common(12))
        raise BadInput(f"whole_scripts: {source.card.name} has no piece in {', '.join(missing)}. It has pieces in {common}, …")
    return wanted


# --- the trimmed model ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Small:
    """The trimmed model: network, tokenizer, and bytes of weights and tokenizer.json."""

    network: Network
    tokenizer: Tokenizer
    size: int


def _write_model(source: _Source, kept: Ids, table: str, folder: Path) -> _Small:
    """Every file that a standard loader reads; README and card come later."""
    from safetensors.numpy import save_file

    new_id = {int(old): new for new, old in enumerate(kept)}
    rows, scale = _rows(source.network, kept, table)
    tensors = _body(source) | {_table_name(source): rows}
    if scale is not None:
        tensors[f"{_table_name(source)}_scale"] = scale
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    write_json(folder / "tokenizer.json", _tokenizer_layout(source, kept, new_id), indent=None)
    write_json(folder / "tokenizer_config.json", _tokenizer_config(source, new_id))
    write_json(folder / "config.json", _config(source, new_id))
    _copy_files(source, folder)
    size = sum(tensor.nbytes for tensor in tensors.values()) + (folder / "tokenizer.json").stat().st_size
    network = replace(source.network, table=rows, table_scale=scale, vocab_size=len(kept))
    return _Small(network, Tokenizer.load(folder), size)


def _rows(network: Network, kept: Ids, table: str) -> tuple[Array, FloatArray | None]:
    """The table's rows of the pieces that stay, in the wanted type, with their scales if that is int8."""
    rows = np.array(network.table[kept])
    scale = None if network.table_scale is None else np.array(network.table_scale[kept])
    if table == "int8":
        return (rows, scale) if scale is not None else quantized(_as_float32(rows))
    if scale is not None:
        rows = _as_float32(rows) * scale[:, None]
    wanted = np.dtype(table)
    if rows.dtype != wanted:
        rows = _as_float32(rows)
        largest = float(np.abs(rows).max())
        if wanted == np.float16 and largest > HALF_MAX:
            raise BadInput(f"table='float16' holds numbers to 65504, the token table goes to {largest:.4g}. Use 'float32'.")
    return rows.astype(wanted), None


def _as_float32(array: Array) -> FloatArray:
    """float32 of any type of `read_folder`; bfloat16 bits travel as uint16 and are the upper half of a float32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _body(source: _Source) -> dict[str, Array]:
    """All tensors of the folder but the table and the heads of pretraining; bfloat16 as float32, which numpy can write."""
    return {
        name: _as_float32(array) if array.dtype == np.uint16 else np.ascontiguousarray(array)
        for name, array in read_folder(source.folder).items()
        if not name.endswith((TABLE, f"{TABLE}_scale")) and not name.startswith(_MASKED_LANGUAGE_HEADS)
    }


def _table_name(source: _Source) -> str:
    """The table's name, with the prefix that its neighbours in the folder have."""
    neighbour = "embeddings.position_embeddings.weight"
    name = next(name for name in read_folder(source.folder) if name.endswith(neighbour))
    return name.removesuffix(neighbour) + TABLE


def _tokenizer_layout(source: _Source, kept: Ids, new_id: Mapping[int, int]) -> dict[str, Any]:
    """tokenizer.json with the pieces that stay, under their new ids."""
    layout = dict(source.layout)
    model = dict(layout["model"])
    if source.unigram:
        vocab = model["vocab"]
        model["vocab"] = [vocab[i] for i in kept if i < len(vocab)]
        model["unk_id"] = new_id.get(model["unk_id"])
    else:
        named = {i: piece for piece, i in model["vocab"].items()}
        model["vocab"] = {named[int(i)]: new_id[int(i)] for i in kept if int(i) in named}
    added = [token | {"id": new_id[token["id"]]} for token in layout["added_tokens"]]
    layout |= {"model": model, "added_tokens": added}
    if layout.get("padding"):
        layout["padding"] = layout["padding"] | {"pad_id": new_id.get(layout["padding"].get("pad_id"), 0)}
    if layout.get("post_processor"):
        layout["post_processor"] = _post_processor(layout["post_processor"], new_id)
    return layout


def _post_processor(processor: dict[str, Any], new_id: Mapping[int, int]) -> dict[str, Any]:
    """The post-processor with new ids; a sequence of them one by one."""
    processor = dict(processor)
    if "processors" in processor:
        processor["processors"] = [_post_processor(part, new_id) for part in processor["processors"]]
    if isinstance(processor.get("special_tokens"), dict):
        processor["special_tokens"] = {
            name: token | {"ids": [new_id[i] for i in token["ids"]]} for name, token in processor["special_tokens"].items()
        }
    for key in ("sep", "cls"):  # of BERT's and RoBERTa's own processors
        if key in processor:
            token, old = processor[key]
            processor[key] = [token, new_id[old]]
    return processor


def _tokenizer_config(source: _Source, new_id: Mapping[int, int]) -> dict[str, Any]:
    path = source.shared / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        settings["added_tokens_decoder"] = {str(new_id[int(i)]): t for i, t in decoder.items() if int(i) in new_id}
    return settings


def _config(source: _Source, new_id: Mapping[int, int]) -> dict[str, Any]:
    config = read_json(source.folder / "config.json")
    ids = {key: new_id[value] for key, value in config.items() if _is_token_id(key, value) and value in new_id}
    return config | ids | {"vocab_size": len(new_id)}


def _copy_files(source: _Source, folder: Path) -> None:
    """What says how the model is used, unchanged: pooling, prompts, licence."""
    named = [(source.folder, name) for name in _MODEL_FILES] + [(source.shared, name) for name in _TOKENIZER_FILES]
    if (source.folder / "modules.json").is_file():
        paths = [str(module.get("path", "")) for module in read_json_value(source.folder / "modules.json")]
        named += [(source.folder, f"{path}/config.json") for path in paths if path]
    for root, name in named:
        if (root / name).is_file() and (root / name).resolve().is_relative_to(root.resolve()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)


# --- what it lost -----------------------------------------------------------------------------------------------------


def _measured(
    source: _Source, small: _Small, kept: Ids, held: Sequence[tuple[str, str]], threads: int | None
) -> dict[str, Loss]:
    """{language: loss} of the held-back texts, and "" for all of them."""
    texts = [text for _, text in held]
    longest = min(source.card.max_tokens, source.network.max_positions)
    before = source.encode(texts, longest)
    after = replace(source, tokenizer=small.tokenizer).encode(texts, longest)
    tokens = np.diff(before.offsets)
    changed = np.array([_changed(a, kept[b]) for a, b in zip(_sequences(before), _sequences(after), strict=True)])
    pooling = source.card.pooling if source.card.kind == "encoder" else "cls"
    a, b = (
        NativeEngine(network, threads=threads).run(batch, pooling).astype(np.float64)
        for network, batch in ((source.network, before), (small.network, after))
    )
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.minimum((a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny), 1.0)
    langs = np.array([lang for lang, _ in held])
    parts = {"": np.ones(len(held), bool)} | {lang: langs == lang for lang in sorted(set(langs.tolist()))}
    return {lang: _loss(tokens[part], changed[part], cosines[part]) for lang, part in parts.items()}


def _sequences(tokens: Tokens) -> Iterator[IntArray]:
    return (tokens.ids[start:stop] for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True))


def _changed(before: IntArray, after: Ids) -> int:
    """How many of the tokens before have no counterpart after (in old ids)."""
    if np.array_equal(before, after):
        return 0
    blocks = SequenceMatcher(None, before.tolist(), after.tolist(), autojunk=False).get_matching_blocks()
    return len(before) - sum(block.size for block in blocks)


def _loss(tokens: npt.NDArray[Any], changed: npt.NDArray[Any], cosines: npt.NDArray[np.float64]) -> Loss:
    total = int(tokens.sum())
    return Loss(len(tokens), total, int(changed.sum()) / total, float(cosines.mean()), float(cosines.min()))


def _result(target: Path, source: _Source, small: _Small, sample: _Sample, kept: Ids, losses: Mapping[str, Loss]) -> Pruned:
    of_all = losses[""]
    network = source.network
    table = network.table.nbytes + (0 if network.table_scale is None else network.table_scale.nbytes)
    body = sum(array.nbytes for array in _body(source).values())
    enough = _MAIN_LANGUAGE * sample.languages.total()
    return Pruned(
        folder=target,
        pieces_before=network.vocab_size,
        pieces_after=len(kept),
        size_before=body + table + (source.shared / "tokenizer.json").stat().st_size,
        size_after=small.size,
        texts=sample.texts,
        languages=tuple(lang for lang, n in sample.languages.most_common() if n >= enough and lang != "und"),
        tokens=of_all.tokens,
        tokens_changed=of_all.tokens_changed,
        mean_cosine=of_all.mean_cosine,
        min_cosine=of_all.min_cosine,
        by_language=MappingProxyType({lang: loss for lang, loss in losses.items() if lang}),
    )


# --- what the folder says of itself -----------------------------------------------------------------------------------


def _card(source: _Source, small: _Small, kept: Ids, folder: Path, result: Pruned, how: Mapping[str, Any]) -> dict[str, Any]:
    """The source's card with what changed. Published results stay for texts that are split as before."""
    path = source.folder / "card.json"
    own = read_json(path) if path.is_file() else {}
    for key in ("table", "table_fingerprint"):
        own.pop(key, None)
    texts = [text for text in source.card.canonical if _same(source, small, kept, text)]
    pruned = dict(how) | {
        "from": source.card.name,
        "pieces": [result.pieces_before, result.pieces_after],
        "texts": result.texts,
        "loss": {lang: loss._asdict() for lang, loss in result.by_language.items()},
    }
    return own | {
        "name": result.folder.name,
        "source": f"{source.card.name}, vocabulary trimmed" + (f"; {source.card.source}" if source.card.source else ""),
        "languages": sorted(result.languages),
        "canonical": {text: list(source.card.canonical[text]) for text in texts},
        "pruned": pruned,
        "sha256": checksums(folder),
    }


def _same(source: _Source, small: _Small, kept: Ids, text: str) -> bool:
    """True if a canonical text (of a reranker: query, line feed, passage) has the same tokens as before."""
    parts = text.split("\n", 1) if source.card.kind == "reranker" else [text]
    read = [part.lower() if source.card.lowercase else part for part in parts]
    before, after = source.tokenizer.encode(read, _WHOLE)[0], small.tokenizer.encode(read, _WHOLE)[0]
    return np.array_equal(before.ids, kept[after.ids])


def _readme(source: _Source, result: Pruned, how: Mapping[str, Any]) -> str:
    kind = "sentence-similarity" if source.card.kind == "encoder" else "text-ranking"
    licence = f"license: {source.card.licence.lower()}\n" if source.card.licence else ""
    whole = f", and every piece of {', '.join(how['whole_scripts'])}" if how["whole_scripts"] else ""
    often = f" at least {how['min_count']} times" if how["min_count"] > 1 else ""
    reader = " Its int8 token table is read by shortlist only." if how["table"] == "int8" else ""
    lines = [
        f"---\n{licence}pipeline_tag: {kind}\n---",
        f"# {result.folder.name}",
        "",
        f"`{source.card.name}` with {result.pieces_after:,} of its {result.pieces_before:,} pieces "
        f"({result.size_after / 1e6:.1f} MB of weights and tokenizer, {result.size_before / 1e6:.1f} MB before): those that "
        f"{result.texts:,} texts (languages: {', '.join(result.languages) or 'not told'}) used{often}, single characters of "
        f"their scripts, Latin letters, digits and punctuation{whole}. "
        f"The table is {how['table']}; the other weights are unchanged.{reader}",
        "",
        "Texts whose pieces are all here have the same vectors as before (int8 table: nearly). Other words are split into "
        "smaller pieces, characters of other scripts are unknown. Measured on texts that had no say:",
        "",
        "| language | texts | tokens | split differently | cosine, mean | cosine, least |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {lang} | {loss.texts} | {loss.tokens:,} | {100 * loss.tokens_changed:.2f}% | {loss.mean_cosine:.4f} | "
            f"{loss.min_cosine:.4f} |"
            for lang, loss in result.by_language.items()
        ),
        "",
        f"Made by `shortlist.train.prune` with {json.dumps(dict(how), ensure_ascii=False)}.",
    ]
    return "\n".join(lines) + "\n"
