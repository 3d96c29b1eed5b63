"""Trained models in the form in which they travel with the package: int8 bodies without a token table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ModelError, ModelMismatch
from shortlist.models.card import read_card
from shortlist.models.files import WEIGHTS, checksums, read_json, write_json
from shortlist.models.fingerprint import table_fingerprint
from shortlist.models.registry import resolve
from shortlist.models.weights import read_folder

_TABLE = "embeddings.word_embeddings.weight"
_CONFIG = (
    *("architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act", "pad_token_id"),
    *("position_embedding_type", "id2label", "label2id"),
)
_READING = ("segments", "window", "temperature")  # how the weights were trained to be read


def write_body(source: Path, target: Path, card_fields: Mapping[str, Any]) -> None:
    """Turns a trained model folder (float safetensors) into a shipped body: config.json, model.safetensors, card.json.

    Matrices of the layers become int8, one scale a row (a sibling tensor `..._scale`, float32): w = scale * q with
    scale = max |w| / 127. Position and segment embeddings and the pooler become float16; biases, norms, the classifier
    and the MaxSim part are float32. The token table is left out: `card_fields["table"]` names the fetched model whose table it
    is, and the table's fingerprint goes into the card. A source that was saved without its table is taken at its word. Where
    the source's own card states segments, window or temperature, they hold unless `card_fields` says otherwise. The same source
    gives the same bytes.

    Raises ModelMismatch if the source's table is not that model's, ModelNotFound if that model is not here, ModelError if the
    source cannot be read.
    """
    from safetensors.numpy import load_file, save_file

    own = read_card(source)
    if not (source / WEIGHTS).is_file():
        raise ModelError(f"{source}: {WEIGHTS} is missing; a sharded model is not turned into a body.")
    tensors = load_file(source / WEIGHTS)
    shared = resolve(card_fields["table"])
    config = read_json(source / "config.json")
    _check_table(tensors, config, shared, source, str(card_fields["table"]))
    target.mkdir(parents=True, exist_ok=True)
    packed = {k: v for name in sorted(tensors) if not name.endswith(_TABLE) for k, v in _packed(name, tensors[name]).items()}
    save_file(packed, target / WEIGHTS, {"format": "pt"})
    (target / WEIGHTS).chmod(0o644)
    write_json(target / "config.json", {key: config[key] for key in _CONFIG if key in config})
    write_json(
        target / "card.json",
        {
            **{name: value for name in _READING if (value := getattr(own, name))},
            **card_fields,
            "table_fingerprint": table_fingerprint(shared),
            "sha256": {name: digest for name, digest in checksums(target).items() if name in (WEIGHTS, "config.json")},
        },
    )


def _packed(name: str, tensor: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    values = tensor.astype(np.float32)
    if values.ndim == 2 and "encoder.layer." in name:
        return dict(zip((name, f"{name}_scale"), quantized(values), strict=True))
    half = values.ndim == 2 and "classifier" not in name and "maxsim" not in name
    return {name: values.astype(np.float16) if half else values}


def quantized(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """(int8[rows, columns], float32[rows]): symmetric, one scale a row; a row of zeros has scale 1."""
    largest = np.abs(weights).max(axis=1)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return np.rint(weights / scale[:, None]).clip(-127, 127).astype(np.int8), scale


def _check_table(
    mine: Mapping[str, npt.NDArray[Any]], config: Mapping[str, Any], shared: Path, source: Path, table: str
) -> None:
    """Shapes, and where the source has its table both row by row on a sample; float16 rounding is allowed for."""
    a, b = (next((v for k, v in t.items() if k.endswith(_TABLE)), None) for t in (mine, read_folder(shared)))
    shape = (config.get("vocab_size"), config.get("hidden_size")) if a is None else a.shape
    if b is None or shape != b.shape:
        raise ModelMismatch(f"{source}: its token table has not the shape of {table}'s. Train over the table of {table}.")
    rows = slice(None, None, max(1, len(b) // 4096))
    if a is not None and not np.allclose(a[rows].astype(np.float32), b[rows].astype(np.float32), rtol=2e-3, atol=1e-6):
        raise ModelMismatch(
            f"{source}: its token table is not {table}'s; it was trained too. Keep the table frozen in training."
        )
