"""One number for "the same vectors": what an index remembers of the model that filled it.

It covers the network (config.json without the fields that do not change a result), the tokenizer, prompts, pooling,
normalisation, the longest input, segments and window, and the weights: every tensor but the token table in full, of the
table evenly spaced rows. A change of any weight outside of the table is always seen; a table that was replaced or rounded
otherwise is seen, as it differs nearly everywhere.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.models.card import ModelCard, read_card
from shortlist.models.files import read_json, sha256_once
from shortlist.models.weights import Array, read_folder, type_name

_TABLE_ROWS = 256
# config.json fields that are notes about how the folder came to be, or matter in training only.
_NOTES = frozenset(
    {
        *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"),
        *("attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout_prob"),
        *("gradient_checkpointing", "initializer_range"),
    }
)


def fingerprint(folder: Path, table_folder: Path | None = None, card: ModelCard | None = None) -> str:
    """Hex sha256 of all that decides a model's results.

    `table_folder` is where the token table and the tokenizer are, if not in `folder`.
    """
    card = card or read_card(folder)
    config = {k: v for k, v in read_json(folder / "config.json").items() if k not in _NOTES}
    parts: dict[str, Any] = {
        "config": config,
        "pooling": card.pooling,
        "prompts": dict(card.prompts),
        "normalize": card.normalize,
        "lowercase": card.lowercase,
        "max_tokens": card.max_tokens,
        "table": table_fingerprint(table_folder or folder),
        "weights": {name: _digest(array) for name, array in read_folder(folder).items() if not _is_table(name)},
    }
    # Named only where a card sets them: the fingerprints of models from before these fields hold.
    parts |= {name: value for name, value in (("segments", card.segments), ("window", card.window)) if value}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def table_fingerprint(folder: Path) -> str:
    """Hex sha256 of a folder's tokenizer and token table (shape, type and evenly spaced rows): what models share."""
    digest = hashlib.sha256(sha256_once(folder / "tokenizer.json").encode())
    for name, array in sorted(read_folder(folder).items()):
        if _is_table(name):
            digest.update(json.dumps([type_name(array), array.shape]).encode())
            digest.update(_sample(array).tobytes())
    return digest.hexdigest()


def _is_table(name: str) -> bool:
    return "word_embeddings.weight" in name  # and the scale beside it, if there is one


def _digest(array: Array) -> list[Any]:
    return [type_name(array), array.shape, hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()]


def _sample(table: Array) -> Array:
    """At most _TABLE_ROWS rows, evenly spaced."""
    rows = len(table)
    return table if rows <= _TABLE_ROWS else table[np.arange(_TABLE_ROWS) * rows // _TABLE_ROWS]
