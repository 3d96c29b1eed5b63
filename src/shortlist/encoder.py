"""Encoder: texts to vectors, with the prompts, pooling and normalisation of the model's card."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from shortlist import models
from shortlist.engines import Engine
from shortlist.engines.native import NativeEngine
from shortlist.errors import BadInput, ModelError
from shortlist.models import ModelCard
from shortlist.models.network import read_network
from shortlist.models.registry import table_folder
from shortlist.tokens import Tokenizer, checked_texts, chunks
from shortlist.types import FloatArray, IntArray, Tokens

KINDS = ("passage", "query", "")
# How far a number of a unit vector may be from the published one: several times int8's error, far less than another model's.
TOLERANCE = 0.02


class Encoder:
    """A bi-encoder. `load` makes one; an instance may be used by several threads at once."""

    def __init__(self, folder: Path, card: ModelCard, tokenizer: Tokenizer, engine: Engine) -> None:
        self.folder, self.card = folder, card
        self._tokenizer, self._engine = tokenizer, engine

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        precision: str = "int8",
        download: bool = False,
        revision: str | None = None,
    ) -> Encoder:
        """From a name that `shortlist models` lists, a folder, or a hub model `owner/name`.

        threads    default: as many as this process may use
        precision  "int8" or "float32"
        download   fetch the model if it is not here; without it nothing touches the network

        Raises ModelNotFound (the message says what to run), ModelError if the folder holds no encoder that is supported.
        """
        folder = models.resolve(name_or_path, download=download, revision=revision)
        card = models.read_card(folder)
        if card.kind != "encoder":
            raise ModelError(f"{card.name} is a {card.kind}, not an encoder. Load it with Reranker.load.")
        shared = table_folder(folder, card)
        engine = NativeEngine(read_network(folder, shared), precision=precision, threads=threads)
        if card.dims != engine.hidden_size:
            raise ModelError(
                f"{card.name}: the card states dims={card.dims}, the network has {engine.hidden_size}. Correct it."
            )
        return cls(folder, card, Tokenizer.load(shared), engine)

    def with_engine(self, wrap: Callable[[Engine], Engine]) -> Self:
        """The same model, its network run by `wrap(engine)`."""
        return type(self)(self.folder, self.card, self._tokenizer, wrap(self._engine))

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def address(self) -> str:
        """What `load` takes to get this model again: its name if that leads here, else the folder's full path."""
        return models.address(self.folder, self.card)

    @property
    def dims(self) -> int:
        """Numbers of a vector."""
        return self.card.dims

    @property
    def matryoshka(self) -> tuple[int, ...]:
        """Shorter lengths to which the card says a vector may be cut."""
        return tuple(n for n in self.card.matryoshka if n < self.dims)

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens, prompt and special tokens included; what is longer is cut."""
        return min(self.card.max_tokens, self._engine.max_tokens)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides a vector; an index remembers it."""
        return models.fingerprint(self.folder, table_folder(self.folder, self.card), self.card)

    def encode(
        self, texts: Sequence[str], *, kind: str = "passage", progress: Callable[[int, int | None], None] | None = None
    ) -> FloatArray:
        """float32[n, dims], one row a text; of length 1 if the card says so. See `encode_counted`."""
        return self.encode_counted(texts, kind=kind, progress=progress)[0]

    def encode_counted(
        self, texts: Sequence[str], *, kind: str = "passage", progress: Callable[[int, int | None], None] | None = None
    ) -> tuple[FloatArray, IntArray]:
        """The vectors float32[n, dims], and int32[n]: tokens of each text that did not fit and were cut off (0 = all read).

        `kind` ("passage", "query" or "") chooses the prompt that the card puts before a text. `progress(done, total)` is
        called as texts are done. A vector does not depend on the other texts of the call, nor on the number of threads.
        Raises BadInput for anything but a list of well-formed str, or an unknown kind.
        """
        if kind not in KINDS:
            raise BadInput(f"kind={kind!r}: expected 'passage', 'query' or '' (no prompt).")
        checked_texts(texts)
        vectors, cut = np.empty((len(texts), self.dims), np.float32), np.zeros(len(texts), np.int32)
        for part in chunks(texts):
            tokens, cut[part.start : part.stop] = self._tokenize(texts[part.start : part.stop], kind)
            vectors[part.start : part.stop] = self._normalized(self._engine.run(tokens, self.card.pooling))
            if progress is not None:
                progress(part.stop, len(texts))
        return vectors, cut

    def verify(self) -> list[str]:
        """What is wrong with the vectors of the card's canonical texts, a line each; an empty list is good news."""
        expected = self.card.canonical
        found = self.encode(list(expected), kind="")
        return [
            f"{self.name}: {text!r} gives {np.round(row[: len(numbers)], 4).tolist()}, published {list(numbers)}"
            for (text, numbers), row in zip(expected.items(), found, strict=True)
            if np.abs(row[: len(numbers)] - np.array(numbers)).max() > TOLERANCE
        ]

    def _normalized(self, vectors: FloatArray) -> FloatArray:
        """The vectors, of length 1 in place if the card says so."""
        if self.card.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return vectors

    def _tokenize(self, texts: Sequence[str], kind: str) -> tuple[Tokens, IntArray]:
        prompt = self.card.prompt(kind)
        prepared = [prompt + (text.lower() if self.card.lowercase else text) for text in texts]
        return self._tokenizer.encode(prepared, self.max_tokens)

    def __repr__(self) -> str:
        shape = f"{self.card.layers} layers, {self.dims} dims, {self.max_tokens} tokens"
        return f"<Encoder {self.name}: {shape}, {self._engine.instruction_set}>"
