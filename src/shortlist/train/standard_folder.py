"""A model as the folder that transformers and sentence-transformers load: nothing shared, no scales, standard names."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import tokenizers
from safetensors.numpy import save_file
from tokenizers.processors import TemplateProcessing

from shortlist.models.card import ModelCard
from shortlist.models.files import WEIGHTS, checksums, read_json, write_json
from shortlist.models.network import MAXSIM, TABLE, Network
from shortlist.train.forward import as_float32, float_tensors


def write_weights(draft: Path, network: Network, precision: str) -> None:
    """model.safetensors: every tensor, the token table too, in "float32" or "float16"."""
    tensors = float_tensors(network) | {TABLE: as_float32(network.table, network.table_scale)}
    save_file({_full(n, network.head): t.astype(precision) for n, t in tensors.items()}, draft / WEIGHTS, {"format": "pt"})
    (draft / WEIGHTS).chmod(0o644)


def write_settings(draft: Path, folder: Path, shared: Path, card: ModelCard) -> None:
    """config.json, the tokenizer's files from `shared` and, for an encoder, what sentence-transformers asks for."""
    write_json(draft / "config.json", read_json(folder / "config.json"))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (shared / name).is_file():
            shutil.copyfile(shared / name, draft / name)
    if (folder / "LICENSE").is_file():
        shutil.copyfile(folder / "LICENSE", draft / "LICENSE")
    if card.segments:
        _write_segments(draft)
    if card.kind == "encoder":
        _write_modules(draft, card)


def write_card(draft: Path, card: ModelCard) -> None:
    """card.json of the folder that lies there: the same facts, but no shared table."""
    stated = {f.name: _plain(getattr(card, f.name)) for f in fields(ModelCard)}
    write_json(draft / "card.json", stated | {"table": "", "table_fingerprint": "", "sha256": checksums(draft)})


def _full(name: str, head: str) -> str:
    """The name in a ...ForSequenceClassification, whose body has the prefix "bert." or "roberta."; a plain model has none."""
    return name if not head or name.startswith("classifier.") or name in MAXSIM else f"{head}.{name}"


def _plain(value: Any) -> Any:
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _write_segments(draft: Path) -> None:
    """The tokenizer marks a pair's second text, and what follows it, as segment 1: so the model was trained."""
    path, settings = draft / "tokenizer.json", draft / "tokenizer_config.json"
    backend = tokenizers.Tokenizer.from_file(str(path))
    single, pair = _template(backend.encode("a")), _template(backend.encode("a", "a"))
    special = {piece.rpartition(":")[0] for piece in (*single, *pair)} - {"$A", "$B"}
    ids = [(token, backend.token_to_id(token)) for token in sorted(special)]
    backend.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    backend.save(str(path))
    stated = read_json(settings) if settings.is_file() else {}
    # The classes of single models build a template of their own; this one keeps that of tokenizer.json.
    stated["tokenizer_class"] = "PreTrainedTokenizerFast"
    padding = next((token for token in ("<pad>", "[PAD]") if backend.token_to_id(token) is not None), None)
    stated.setdefault("pad_token", padding)
    stated["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    write_json(settings, stated)


def _template(encoding: tokenizers.Encoding) -> list[str]:
    """Pieces of a template, "<s>:0" or "$B:1", from the encoding of one-letter texts."""
    pieces: list[str] = []
    for token, owner in zip(encoding.tokens, encoding.sequence_ids, strict=True):
        segment = int("$B:1" in pieces)
        piece = f"{token}:{segment}" if owner is None else ("$A:0", "$B:1")[owner]
        if owner is None or piece not in pieces:
            pieces.append(piece)
    return pieces


def _write_modules(draft: Path, card: ModelCard) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if card.normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write_json(draft / "modules.json", modules)
    modes = {f"pooling_mode_{k}": k.startswith(card.pooling) for k in ("cls_token", "mean_tokens", "max_tokens")}
    write_json(draft / "1_Pooling" / "config.json", {"word_embedding_dimension": card.dims} | modes)
    write_json(draft / "config_sentence_transformers.json", {"prompts": dict(card.prompts), "similarity_fn_name": "cosine"})
    settings = {"max_seq_length": card.max_tokens, "do_lower_case": card.lowercase}
    write_json(draft / "sentence_bert_config.json", settings)
