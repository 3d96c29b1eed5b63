"""A network and its tokenizer as a GGUF file in llama.cpp's layout of BERT, and such a file as a network again.

Names of keys and tensors, and what the tokenizers "bert" and "t5" mean, are those of llama.cpp's converter (facts of
github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py and src/models/bert.cpp).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from shortlist.errors import MissingExtra, ModelError
from shortlist.models.card import ModelCard
from shortlist.models.files import read_json
from shortlist.models.network import HEADS, MAXSIM, TABLE, Network
from shortlist.train.forward import as_float32, float_tensors
from shortlist.types import FloatArray

# Precision -> types of the token table, of the layers' matrices and, as gguf names it, of the file. The layers of a reranker
# may not stand 4 bits (those of shortlist-rerank-L-4 do not), and it is the table that is large.
PRECISIONS = {
    "f16": ("f16", "f16", "MOSTLY_F16"),
    "f32": ("f32", "f32", "ALL_F32"),
    "q8_0": ("q8_0", "q8_0", "MOSTLY_Q8_0"),
    "q4_0": ("q4_0", "q4_0", "MOSTLY_Q4_0"),
    "q4_0-table": ("q4_0", "q8_0", "MOSTLY_Q4_0"),
}
_PLAIN = {"f16": np.float16, "f32": np.float32}
_BLOCK = 32  # numbers that share a scale in q8_0 and q4_0
_OUTSIDE = {
    TABLE: "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_HEAD = ("cls", "cls.output")


def write_gguf(path: Path, network: Network, card: ModelCard, tokenizer_folder: Path, precision: str) -> None:
    """Writes the file. `precision` is one of PRECISIONS; rows that are not whole blocks become float16, as does the head's
    matrix unless all is float32; everything else is float32.

    Raises ModelError for a tokenizer that is neither WordPiece nor Unigram, MissingExtra without the package gguf.
    """
    gguf = _gguf()
    writer = gguf.GGUFWriter(str(path), "bert")
    _add_facts(gguf, writer, network, card, precision)
    _add_tokenizer(gguf, writer, network, tokenizer_folder)
    names = _names(network.layers, network.head)
    tensors = float_tensors(network)
    positions = "embeddings.position_embeddings.weight"
    tensors[positions] = tensors[positions][network.first_position :]
    table, layers, _ = PRECISIONS[precision]
    _add_tensor(gguf, writer, names[TABLE], as_float32(network.table, network.table_scale), table)
    for name, tensor in tensors.items():
        _add_tensor(gguf, writer, names[name], tensor, _type_of(name, layers))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path) -> Network:
    """The network in the file, its numbers as float32: sizes from its keys, weights from its tensors.

    `pad_id` and `family` are those of a network whose positions start at 0, as the file's do. The activation is not in the
    format; it is taken to be the exact GELU. Raises ModelError if a tensor is missing.
    """
    gguf = _gguf()
    reader = gguf.GGUFReader(str(path))
    stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    layers, head = int(_value(reader, "bert.block_count")), "bert" if "cls.weight" in stored else ""
    names = _names(layers, head)
    missing = [theirs for name, theirs in names.items() if theirs not in stored and name not in MAXSIM]
    if missing:
        raise ModelError(f"{path}: tensor {missing[0]} is missing. Export the model again.")
    tensors = {name: stored[theirs] for name, theirs in names.items() if theirs in stored}
    table = tensors.pop(TABLE)
    return Network(
        family="bert",
        hidden_size=int(_value(reader, "bert.embedding_length")),
        layers=layers,
        heads=int(_value(reader, "bert.attention.head_count")),
        intermediate_size=int(_value(reader, "bert.feed_forward_length")),
        vocab_size=len(table),
        max_positions=int(_value(reader, "bert.context_length")),
        type_vocab_size=int(_value(reader, "tokenizer.ggml.token_type_count")),
        pad_id=0,
        layer_norm_eps=float(_value(reader, "bert.attention.layer_norm_epsilon")),
        activation="gelu",
        table=table,
        table_scale=None,
        tensors=tensors,
        head=head,
        labels=len(tensors["classifier.weight"]) if head else 0,
        maxsim=MAXSIM[0] in tensors,
    )


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "gguf", "a GGUF file") from error
    return gguf


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise ModelError(f"the GGUF file has no key {key}. Export the model again.")
    return field.contents()


def _names(layers: int, head: str) -> dict[str, str]:
    """Name in a BertModel -> name in the file, for every tensor that a network may have."""
    modules = {ours: theirs for ours, theirs in _OUTSIDE.items() if not ours.endswith("weight")}
    for layer in range(layers):
        modules |= {f"encoder.layer.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in _LAYER.items()}
    modules |= dict(zip(HEADS[head], _HEAD, strict=True)) if head else {}
    names = {ours: theirs for ours, theirs in _OUTSIDE.items() if ours.endswith("weight")}
    names |= {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in modules.items() for part in ("weight", "bias")}
    return names | {name: f"shortlist.{name}" for name in MAXSIM}


def _type_of(name: str, layers: str) -> str:
    if name.startswith("encoder.") and ".LayerNorm." not in name and name.endswith(".weight"):
        return layers
    dense = name in {f"{dense}.weight" for dense, _ in HEADS.values()}
    return "f16" if dense and layers != "f32" else "f32"


def _add_tensor(gguf: Any, writer: Any, name: str, numbers: FloatArray, kind: str) -> None:
    if kind not in _PLAIN and numbers.shape[-1] % _BLOCK:
        kind = "f16"
    if kind in _PLAIN:
        writer.add_tensor(name, numbers.astype(_PLAIN[kind]))
        return
    quantized = gguf.GGMLQuantizationType[kind.upper()]
    writer.add_tensor(name, gguf.quants.quantize(numbers, quantized), raw_dtype=quantized)


def _add_facts(gguf: Any, writer: Any, network: Network, card: ModelCard, precision: str) -> None:
    writer.add_name(card.name)
    if card.licence:
        writer.add_license(card.licence)
    writer.add_file_type(gguf.LlamaFileType[PRECISIONS[precision][2]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(network.max_positions)
    writer.add_embedding_length(network.hidden_size)
    writer.add_feed_forward_length(network.intermediate_size)
    writer.add_block_count(network.layers)
    writer.add_head_count(network.heads)
    writer.add_layer_norm_eps(network.layer_norm_eps)
    writer.add_causal_attention(False)
    pooling = {"mean": "MEAN", "cls": "CLS", "score": "RANK"}[card.pooling]
    writer.add_pooling_type(gguf.PoolingType[pooling])
    if network.head:
        writer.add_classifier_output_labels([f"LABEL_{i}" for i in range(network.labels)])


def _add_tokenizer(gguf: Any, writer: Any, network: Network, folder: Path) -> None:
    content = read_json(folder / "tokenizer.json")
    kind = content["model"].get("type")
    if kind == "WordPiece":
        _add_wordpiece(gguf, writer, content, network.vocab_size)
    elif kind == "Unigram":
        _add_unigram(gguf, writer, content, network.vocab_size)
    else:
        raise ModelError(f"{folder}: the tokenizer's model is {kind}; a GGUF file is written for WordPiece and Unigram only.")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(network.type_vocab_size)
    _add_special(writer, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), content, network.pad_id)


def _add_wordpiece(gguf: Any, writer: Any, content: Mapping[str, Any], size: int) -> None:
    """Pieces that begin a word carry the mark of a space there, the others lose their "##"."""
    special = {t["id"]: t["content"] for t in content["added_tokens"] if t["special"]}
    pieces, types = _unused(gguf, size)
    for piece, i in content["model"]["vocab"].items():
        pieces[i] = piece[2:] if piece.startswith("##") else f"▁{piece}"
        types[i] = gguf.TokenType.NORMAL
    for i, piece in special.items():
        pieces[i], types[i] = piece, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("bert")
    writer.add_token_list(pieces)
    writer.add_token_types(types)


def _add_unigram(gguf: Any, writer: Any, content: Mapping[str, Any], size: int) -> None:
    """Pieces with the logarithms of their probabilities, and the table of the normaliser where it has one."""
    special = {t["id"] for t in content["added_tokens"] if t["special"]}
    pieces, types = _unused(gguf, size)
    scores = [-10_000.0] * size
    for i, (piece, score) in enumerate(content["model"]["vocab"]):
        pieces[i], scores[i] = piece, score
        types[i] = gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
    for token in content["added_tokens"]:
        pieces[token["id"]], scores[token["id"]] = token["content"], 0.0
        types[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    types[content["model"]["unk_id"]] = gguf.TokenType.UNKNOWN
    writer.add_tokenizer_model("t5")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    charsmap = _charsmap(content.get("normalizer") or {})
    if charsmap:
        writer.add_precompiled_charsmap(charsmap)


def _unused(gguf: Any, size: int) -> tuple[list[str], list[int]]:
    """Rows of the table that no token has are named as llama.cpp names them."""
    return [f"[PAD{i}]" for i in range(size)], [int(gguf.TokenType.UNUSED)] * size


def _charsmap(normalizer: Mapping[str, Any]) -> bytes:
    steps = normalizer.get("normalizers", [normalizer])
    return next((b64decode(s["precompiled_charsmap"]) for s in steps if s.get("type") == "Precompiled"), b"")


def _add_special(writer: Any, backend: tokenizers.Tokenizer, content: Mapping[str, Any], pad_id: int) -> None:
    """What stands around a text and between two, learnt from the encoding of one letter."""
    backend.no_padding()
    single, pair = backend.encode("a"), backend.encode("a", "a")
    first, last = single.ids[0], single.ids[-1]
    between = sum(owner is None for owner in pair.sequence_ids) - sum(owner is None for owner in single.sequence_ids)
    writer.add_bos_token_id(first)
    writer.add_eos_token_id(last)
    writer.add_sep_token_id(last)
    writer.add_add_bos_token(single.sequence_ids[0] is None)
    writer.add_add_eos_token(single.sequence_ids[-1] is None)
    writer.add_add_sep_token(between == 2)
    found = {t["content"]: t["id"] for t in content["added_tokens"]}
    writer.add_pad_token_id(next((found[p] for p in ("<pad>", "[PAD]") if p in found), pad_id))
    for add, names in ((writer.add_unk_token_id, ("<unk>", "[UNK]")), (writer.add_mask_token_id, ("<mask>", "[MASK]"))):
        token = next((found[name] for name in names if name in found), None)
        if token is not None:
            add(token)
