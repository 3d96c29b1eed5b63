"""Reranker: a query and passages to scores, both texts read together; and the padded view of a batch, for people."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shortlist import models
from shortlist.engines import Engine
from shortlist.engines.native import NativeEngine
from shortlist.errors import BadInput, MissingExtra, ModelError, ModelMismatch
from shortlist.models import ModelCard
from shortlist.models.catalogue import FAMILIES
from shortlist.models.fingerprint import table_fingerprint
from shortlist.models.network import read_network
from shortlist.models.registry import table_folder
from shortlist.tokens import CHUNK_TEXTS, Tokenizer, checked_texts, chunks
from shortlist.types import FloatArray, IntArray, Tokens

FAMILY = next(family for family in FAMILIES if family.kind == "reranker")

# How far a canonical logit may be from the published one. The published ones are float32; int8 was seen to move a logit of
# shortlist-rerank L-2, L-4 and L-6 by 0.10 to 0.13 on average and by 0.43 at most (64 pairs, standard deviation 3.4 to 3.9).
TOLERANCE = 0.75


class Reranker:
    """A cross-encoder with one score. `load` makes one; an instance may be used by several threads at once."""

    def __init__(self, folder: Path, card: ModelCard, tokenizer: Tokenizer, engine: Engine) -> None:
        self.folder, self.card = folder, card
        self._tokenizer, self._engine = tokenizer, engine

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        size: str = "",
        threads: int | None = None,
        precision: str = "int8",
        download: bool = False,
        revision: str | None = None,
        window: int | None = None,
    ) -> Reranker:
        """From a name that `shortlist models` lists, a size of our own family ("L-4"), a folder, or a hub model `owner/name`.

        A size may also be given apart, as `size`. It goes before a folder of that name: write `./L-4` for the folder.

        `window` takes the place of the card's: of a passage with more tokens only that many are read, those that share most
        with the query; 0 = as many as fit.

        Raises ModelNotFound (the message says what to run), ModelError if the folder holds no reranker with one score,
        ModelMismatch if the model whose token table it shares is not the one that it was trained with, BadInput for a
        negative window.
        """
        if window is not None and window < 0:
            raise BadInput(f"window={window}: expected a number of tokens, 0 for whole passages, or None for the card's.")
        if name_or_path in FAMILY.sizes:
            name_or_path = f"{FAMILY.name}-{name_or_path}"
        folder = models.resolve(name_or_path, size=size, download=download, revision=revision)
        card = models.read_card(folder)
        if card.kind != "reranker":
            raise ModelError(f"{card.name} is an {card.kind}, not a reranker. Load it with Encoder.load.")
        if card.labels != 1:
            raise ModelError(
                f"{card.name} has {card.labels} labels; a reranker has one score. Choose a cross-encoder with one label."
            )
        if card.table and download:
            models.resolve(card.table, download=True)
        shared = table_folder(folder, card)
        if card.table and table_fingerprint(shared) != card.table_fingerprint:
            raise ModelMismatch(
                f"{card.name} was trained over the token table of {card.table} ({card.table_fingerprint[:12]}), but {shared} "
                f"holds another. Remove that folder and run: shortlist models fetch {card.table}"
            )
        engine = NativeEngine(read_network(folder, shared), precision=precision, threads=threads)
        if engine.labels != 1:
            raise ModelError(
                f"{card.name}: config.json or card.json states one label, the weights hold a score head with {engine.labels} "
                f"(0 = none). Save the model again."
            )
        card = card if window is None else replace(card, window=window)
        return cls(folder, card, Tokenizer.load(shared), engine)

    def with_engine(self, wrap: Callable[[Engine], Engine]) -> Self:
        """The same model, its network run by `wrap(engine)`."""
        return type(self)(self.folder, self.card, self._tokenizer, wrap(self._engine))

    @property
    def address(self) -> str:
        """What `load` takes to get this model again: its name if that leads here, else the folder's full path."""
        return models.address(self.folder, self.card)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def max_tokens(self) -> int:
        """Longest pair in tokens, special tokens included; of a longer one the passage is cut."""
        return min(self.card.max_tokens, self._engine.max_tokens)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides a score."""
        return models.fingerprint(self.folder, table_folder(self.folder, self.card), self.card)

    def score(self, query: str, passages: Sequence[str]) -> FloatArray:
        """float32[n], one raw logit a passage, higher is better. See `score_counted`."""
        return self.score_counted(query, passages)[0]

    def score_counted(self, query: str, passages: Sequence[str]) -> tuple[FloatArray, IntArray]:
        """The logits float32[n], and int32[n]: tokens of each pair that were not read (0 = all were).

        They are left out because they did not fit, or because they lie outside of the window.

        A score does not depend on the other passages of the call. Raises BadInput for an empty query, or if the query is no
        str or the passages are not a list of well-formed str.
        """
        checked_query(query)
        checked_texts(passages, "passages")
        scores, cut = np.empty(len(passages), np.float32), np.zeros(len(passages), np.int32)
        for part in chunks(passages):
            tokens, cut[part.start : part.stop] = self._tokenize(query, passages[part.start : part.stop])
            scores[part.start : part.stop] = self._engine.run(tokens, "score")[:, 0]
        return scores, cut

    def score_within(self, query: str, passages: Sequence[str], max_ms: float) -> tuple[FloatArray, IntArray]:
        """`score_counted` of as many passages, from the first on, as `max_ms` milliseconds allow: two arrays of that length.

        The clock is looked at between sub-batches; one that has begun is finished. The first has a passage for each thread and
        is read whatever it takes, unless max_ms is 0 or less. Each further one has the passages that half of the time left is
        good for at the speed of the one before, and of those only as many as fit into the time left by their tokens. So the
        time is overrun by what the first sub-batch takes where max_ms is less than that, else by the error of the last guess.

        A score is that of `score_counted` to the last bit; how many there are depends on the machine and what else it does.
        """
        deadline = perf_counter() + max_ms / 1000
        checked_query(query)
        checked_texts(passages, "passages")
        scores, cut = np.empty(len(passages), np.float32), np.zeros(len(passages), np.int32)
        done, count, pace = 0, self._engine.threads, 0.0
        while done < len(passages) and (began := perf_counter()) < deadline:
            part = next(chunks(passages[done : done + count]))
            tokens, left_out = self._tokenize(query, passages[done : done + len(part)])
            work = _work(tokens.lengths, self._engine.threads)
            fit = int(np.searchsorted(work * pace, deadline - perf_counter(), side="right")) if done else len(part)
            if not fit:
                break
            scores[done : done + fit] = self._engine.run(tokens.take(0, fit), "score")[:, 0]
            cut[done : done + fit] = left_out[:fit]
            done += fit
            if fit < len(part):
                break
            pace = (perf_counter() - began) / float(work[-1])
            count = self._count(tokens, pace, (deadline - perf_counter()) / 2)
        return scores[:done], cut[:done]

    def _count(self, tokens: Tokens, pace: float, seconds: float) -> int:
        """How many passages like those of `tokens` take that long; whole rounds of the threads, and at least one."""
        threads = self._engine.threads
        round_s = pace * float(tokens.lengths.mean())
        return threads * max(1, int(min(seconds / round_s, CHUNK_TEXTS)))

    def tokens_cut(self, query: str, passages: Sequence[str]) -> IntArray:
        """int32[n], the tokens of each pair that a score would not read; nothing is scored."""
        return self._tokenize(checked_query(query), passages)[1]

    def probability(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Logits as probabilities of relevance, float64: with the card's temperature if it has one, else the plain sigmoid."""
        return probability(scores, self.card.temperature or 1.0)

    def prepare_batch(self, queries: str | Sequence[str], passages: Sequence[str]) -> Inputs:
        """The pairs (one query for all passages, or one for each) as padded arrays: what foreign runtimes read."""
        tokens, _ = self._tokenize(queries, passages)
        return padded(tokens, self._tokenizer)

    def verify(self) -> list[str]:
        """What is wrong with the scores of the card's canonical pairs, a line each; an empty list is good news."""
        problems = []
        for pair, (published, *_) in self.card.canonical.items():
            query, _, passage = pair.partition("\n")
            found = float(self.score(query, [passage])[0])
            if abs(found - published) > TOLERANCE:
                problems.append(f"{self.name}: {pair!r} gives {found:.4f}, published {published:.4f}")
        return problems

    def _tokenize(self, queries: str | Sequence[str], passages: Sequence[str]) -> tuple[Tokens, IntArray]:
        return self._tokenizer.encode_pairs(
            queries, passages, self.max_tokens, segments=self.card.segments, window=self.card.window
        )

    def __repr__(self) -> str:
        return f"<Reranker {self.name}: {self.card.layers} layers, {self.max_tokens} tokens, {self._engine.instruction_set}>"


def _work(lengths: IntArray, threads: int) -> npt.NDArray[np.float64]:
    """float64[n]: tokens that the busiest thread reads of the first 1, 2, … n sequences, each of which stays on one thread."""
    return np.maximum(np.maximum.accumulate(lengths), np.cumsum(lengths) / threads)


def checked_query(query: str) -> str:
    """`query` itself. Raises BadInput if it is no str or empty."""
    if not isinstance(query, str):
        raise BadInput(f"the query is {type(query).__name__}, expected str.")
    if not query.strip():
        raise BadInput("the query is empty. Give at least one word.")
    return query


def probability(scores: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """The logistic function of raw logits over a temperature, 1 / (1 + exp(-x / temperature)), float64, without overflow.

    Raises BadInput unless the temperature is above 0.
    """
    if not temperature > 0:
        raise BadInput(f"temperature={temperature}: expected a number above 0; 1 leaves the logits as they are.")
    return 0.5 * (1.0 + np.tanh(0.5 / temperature * np.asarray(scores, np.float64)))


@dataclass(frozen=True)
class Inputs:
    """A padded batch. `tokens` are the same ids as strings, row by row without padding.

    input_ids       int64[n, longest]
    attention_mask  int64[n, longest]   1 for a token, 0 for padding
    token_type_ids  int64[n, longest]   0 for the query, 1 for the passage (all 0 for models without segments)
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]
    tokens: tuple[tuple[str, ...], ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the three arrays."""
        return {name: array.shape for name, array in self.arrays.items()}

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """The three arrays by name, as foreign runtimes take them."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "token_type_ids": self.token_type_ids}

    def plot(self, path: str | os.PathLike[str] | None = None, *, color: bool = False, width: int = 96) -> str:
        """A picture in text: one row a pair, one cell a token, `width` cells at most; with `path` an image too.

        Equal ids have the same cell; padding is a dot. `color=True` paints the cells with ANSI colours. The image needs
        matplotlib (extra `plot`; MissingExtra without it) and has the format of the path's ending.
        """
        if path is not None:
            self._image(Path(path))
        cells = _ansi if color else _characters
        parts = []
        for name, array in self.arrays.items():
            parts.append(f"{name}  {array.shape[0]} x {array.shape[1]}")
            for row, mask in zip(array.tolist(), self.attention_mask.tolist(), strict=True):
                shown = cells(name, row[:width], mask[:width])
                parts.append(f"  {shown}{f' +{len(row) - width}' if len(row) > width else ''}")
        return "\n".join(parts)

    def _image(self, path: Path) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtra("matplotlib", "plot", "a picture of a batch") from error
        rows, columns = self.input_ids.shape
        figure = Figure(figsize=(max(4.0, 0.09 * columns), max(2.4, 3 * (0.5 + 0.16 * rows))), layout="constrained")
        pictures: dict[str, tuple[Any, str]] = {
            "input_ids": (np.where(self.attention_mask == 1, _hash(self.input_ids, 19) + 1, np.nan), "tab20"),
            "attention_mask": (self.attention_mask, "Greys"),
            "token_type_ids": (np.where(self.attention_mask == 1, self.token_type_ids, np.nan), "coolwarm"),
        }
        for axis, (name, (values, colors)) in zip(figure.subplots(3, 1, sharex=True), pictures.items(), strict=True):
            axis.imshow(values, cmap=colors, aspect="auto", interpolation="nearest", vmin=0)
            axis.set_title(f"{name}  {rows} x {columns}", loc="left", fontsize=9)
            axis.set_yticks(range(rows))
        axis.set_xlabel("token")
        figure.savefig(path, dpi=120)


def padded(tokens: Tokens, tokenizer: Tokenizer) -> Inputs:
    """A ragged batch as padded arrays."""
    shape = (len(tokens), int(tokens.lengths.max(initial=0)))
    mask = (np.arange(shape[1]) < tokens.lengths[:, None]).astype(np.int64)
    ids, segments = np.full(shape, tokenizer.pad_id, np.int64), np.zeros(shape, np.int64)
    ids[mask == 1], segments[mask == 1] = tokens.ids, tokens.segments
    return Inputs(ids, mask, segments, tuple(tuple(tokenizer.pieces(sequence)) for sequence in tokens))


def _hash(ids: npt.NDArray[np.int64], colors: int) -> npt.NDArray[np.int64]:
    """A colour 0..colors-1 for each id; neighbouring ids get different ones (Knuth's multiplicative hash)."""
    return (ids * 2654435761 % 2**32 * colors) >> 32


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def _characters(name: str, row: list[int], mask: list[int]) -> str:
    if name == "input_ids":
        marks = [_LETTERS[i] for i in _hash(np.array(row, np.int64), len(_LETTERS))]
    else:
        marks = [str(value) for value in row]
    return "".join(mark if keep else "." for mark, keep in zip(marks, mask, strict=True))


def _ansi(name: str, row: list[int], mask: list[int]) -> str:
    """Cells as blocks on a coloured ground: ids by hash over the 6 x 6 x 6 cube, mask white, segments blue and orange."""
    if name == "input_ids":
        grounds = [17 + int(i) for i in _hash(np.array(row, np.int64), 214)]
    else:
        grounds = [(33, 208)[min(value, 1)] if name == "token_type_ids" else 255 for value in row]
    return "".join(f"\x1b[48;5;{g}m \x1b[0m" if keep else "." for g, keep in zip(grounds, mask, strict=True))
