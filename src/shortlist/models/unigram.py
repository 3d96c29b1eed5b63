"""The tokenizer.json of a Unigram model (XLM-RoBERTa's kind), compiled once into a file that is mapped instead of parsed.

The file lies in the cache folder under the sha256 of the tokenizer.json that it was made from: a changed tokenizer.json has
another file, equal ones share theirs. It carries a checksum; one that is damaged or of another version is made again. It may be
removed at any time.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shortlist import _native
from shortlist.models.files import replace_file
from shortlist.models.registry import home
from shortlist.types import ByteArray

if TYPE_CHECKING:
    import tokenizers

_MODEL = {"type": "Unigram", "byte_fallback": False}
_COLLAPSE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
_MARK = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_SPLIT = {"type": "WhitespaceSplit"}


@dataclass(frozen=True)
class Compiled:
    """A Unigram model and the note that was compiled into its file."""

    model: _native.Unigram
    note: Mapping[str, Any]


def open_compiled(digest: str) -> Compiled | None:
    """What was compiled from the tokenizer.json with this sha256, mapped; None if there is nothing that can be used."""
    try:
        compiled = _opened(np.asarray(np.memmap(_place(digest), np.uint8, "r")))
    except (OSError, ValueError):
        return None
    return compiled if compiled.note.get("source") == digest else None


def compile_tokenizer(library: tokenizers.Tokenizer, source: str, note: Mapping[str, Any]) -> tuple[Compiled, ByteArray] | None:
    """What the library read from the tokenizer.json with sha256 `source`, compiled in memory; and the file's bytes for `keep`.

    The scores are the library's own: it reads decimals less exactly than Python, and a last bit may decide between equals.
    None if the tokenizer is not of exactly the form that the native one reads, or if the cache folder cannot be written: to
    compile at every start would be slower than to parse.
    """
    unigram = type(library.model).__name__ == "Unigram"
    parts = _parts(json.loads(library.to_str())) if unigram and _can_keep() else None
    if parts is None:
        return None
    try:
        made = _native.compile_unigram(
            parts.pieces,
            np.array(parts.scores, np.float64),
            parts.unknown,
            parts.charsmap,
            split_spaces=parts.split_spaces,
            collapse_spaces=parts.collapse_spaces,
            note=json.dumps({**note, "source": source}).encode(),
        )
        file = np.frombuffer(made, np.uint8)
        return _opened(file), file
    except ValueError:  # a piece that occurs twice, for example: rare enough to leave to the library
        return None


def keep(compiled: Compiled, file: ByteArray) -> None:
    """Write a compiled file where `open_compiled` finds it. On a full disk starts stay slow, and nothing else."""
    with suppress(OSError):
        replace_file(_place(compiled.note["source"]), file.data)


def _opened(file: ByteArray) -> Compiled:
    model = _native.Unigram(file)
    return Compiled(model, json.loads(model.note))


def _place(digest: str) -> Path:
    return _folder() / f"{digest}.unigram"


def _folder() -> Path:
    return home() / "tokenizers"


def _can_keep() -> bool:
    try:
        _folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(_folder(), os.W_OK)


@dataclass(frozen=True)
class _Parts:
    pieces: list[str]
    scores: list[float]
    unknown: int
    charsmap: bytes
    split_spaces: bool
    collapse_spaces: bool


def _parts(content: dict[str, Any]) -> _Parts | None:
    """The parts of a tokenizer.json as the library writes it; None unless every field is one that is known."""
    model, vocabulary = content["model"], content["model"]["vocab"]
    if {k: v for k, v in model.items() if k not in ("vocab", "unk_id")} != _MODEL or model["unk_id"] is None:
        return None
    plain = all(
        token["special"] and token["id"] < len(vocabulary) and vocabulary[token["id"]][0] == token["content"]
        for token in content["added_tokens"]
    )
    first, *further = _steps(content["normalizer"], "normalizers")
    before = _steps(content["pre_tokenizer"], "pretokenizers")
    known = further in ([], [_COLLAPSE]) and before in ([_MARK], [_SPLIT, _MARK])
    if not plain or not known or first.get("type") != "Precompiled":
        return None
    charsmap = base64.b64decode(first["precompiled_charsmap"])
    pieces, scores = zip(*vocabulary, strict=True)
    return _Parts(list(pieces), list(scores), model["unk_id"], charsmap, len(before) == 2, bool(further))


def _steps(step: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    """A step, or those of a sequence; one that nobody knows where there is none."""
    if step is None:
        return [{}]
    return step[parts] or [{}] if step["type"] == "Sequence" else [step]
