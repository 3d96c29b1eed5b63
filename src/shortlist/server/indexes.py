"""What is served: the models, each behind an engine that requests share, and the indexes, which may be written too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from shortlist.encoder import Encoder
from shortlist.engines import Engine
from shortlist.errors import BadInput, ModelNotFound
from shortlist.index import Added, Index, named_paths
from shortlist.pipeline import CANDIDATES, Pipeline
from shortlist.reranker import Reranker
from shortlist.server.metrics import Metrics
from shortlist.server.work import Batching, Limits
from shortlist.stores.columns import Field
from shortlist.types import Json, Passage, Ranking

T = TypeVar("T")

_VALUES = 50  # of a field; of one with more only the bounds are told
_TYPES = {"s": "string", "n": "number", "b": "boolean"}
Where = Mapping[str, Json]


class UnknownName(BadInput):
    """No index or model of this name is served."""


@dataclass(frozen=True)
class Question:
    """A search as it was asked; `strategy` "" is the default: two-stage where there is a reranker, else the first stage."""

    query: str
    k: int
    strategy: str = ""
    first: str | None = None
    candidates: int | None = None
    where: Where | None = None
    max_ms: float | None = None


class ServedIndex:
    """One index: a reader that sees each commit, and a writer that is there only while somebody writes."""

    def __init__(self, name: str, path: Path, encoder: Encoder | None, reranker: Reranker | None, idle_s: float) -> None:
        self.name, self.path, self.reranker = name, path, reranker
        self.index = Index.open(path, encoder=encoder)
        self._encoder, self._idle_s = encoder, idle_s
        self._pipeline = Pipeline(self.index, reranker)
        self._writing = threading.Lock()
        self._writer: Index | None = None
        self._written = 0.0
        self._fields: tuple[float, dict[str, Any]] = (0.0, {})

    def strategy(self, question: Question) -> str:
        """The strategy that a question means. Raises BadInput for one that needs a model which is not here."""
        has_vectors = self.index.manifest["encoder"] is not None
        strategy = question.strategy or ("two-stage" if self.reranker else "hybrid" if has_vectors else "bm25")
        if strategy in ("two-stage", "rerank") and self.reranker is None:
            raise BadInput(f"strategy={strategy!r} needs a reranker, and this server has none. Use hybrid, dense or bm25.")
        return strategy

    def search(self, question: Question) -> Ranking:
        """The ranking. Raises BadInput as `Pipeline` and `Index.search` do."""
        strategy = self.strategy(question)
        if strategy not in ("two-stage", "rerank"):
            return self.index.search(question.query, question.k, first=strategy, where=question.where)  # type: ignore[arg-type]
        if strategy == "rerank":
            return self._pipeline(question.query, k=question.k, first="none", where=question.where)
        return self._pipeline(
            question.query,
            k=question.k,
            candidates=question.candidates or max(CANDIDATES, question.k),
            first=question.first,  # type: ignore[arg-type]
            max_ms=question.max_ms,
            where=question.where,
        )

    def pairs(self, question: Question) -> int:
        """How many passages the reranker is going to read."""
        strategy = self.strategy(question)
        if strategy == "rerank":
            return self.index.count(question.where)
        return question.candidates or max(CANDIDATES, question.k) if strategy == "two-stage" else 0

    def get(self, ids: Sequence[str]) -> tuple[list[Passage], list[str]]:
        """The passages of these ids, and the ids that are not in the index."""
        found: list[Passage] = []
        missing: list[str] = []
        for name in dict.fromkeys(ids):
            try:
                found.append(self.index.get(name))
            except BadInput:
                missing.append(name)
        return found, missing

    # --- writing

    def add(self, passages: Sequence[Passage], *, replace: bool) -> Added:
        """Store passages; with `replace` those with a known id take the place of the old ones. Durable when it returns."""
        if replace:
            return self._write(lambda index: index.upsert(passages))
        return self._write(lambda index: index.add(passages))

    def delete(self, ids: Sequence[str] | None, where: Where | None) -> int:
        """Delete passages by id or by a filter; returns how many. Durable when it returns."""
        if ids is not None:
            return self._write(lambda index: index.delete(ids))
        return self._write(lambda index: index.delete(where=where))

    def _write(self, work: Callable[[Index], T]) -> T:
        """`work(index)` with the right to write. Raises IndexLocked, saying who, if another process has it."""
        with self._writing:
            if self._writer is None:
                self._writer = Index.open(self.path, encoder=self._encoder, write=True)
            try:
                return work(self._writer)
            finally:
                self._written = monotonic()

    def hand_back(self, *, now: bool = False) -> None:
        """Give the right to write back if nobody has written for a while, or in any case."""
        if self._writing.acquire(blocking=now):
            try:
                if self._writer is not None and (now or monotonic() - self._written > self._idle_s):
                    self._writer.close()
                    self._writer = None
            finally:
                self._writing.release()

    def close(self) -> None:
        """Give back the right to write and close the files."""
        self.hand_back(now=True)
        self.index.close()

    # --- describing

    def describe(self) -> dict[str, Any]:
        """What there is to know before a search, as JSON."""
        manifest = self.index.manifest
        published = self.index.committed_at
        encoder = manifest["encoder"]
        firsts = ["hybrid", "dense", "bm25"] if encoder else ["bm25"]
        return {
            "object": "index",
            "name": self.name,
            "passages": len(self.index),
            "languages": self.index.language_counts(),
            "analyzer": manifest["analyzer"],
            "encoder": encoder and {"name": encoder["name"], "dims": encoder["dims"], "vectors": manifest["vectors"]},
            "reranker": self.reranker and self.reranker.name,
            "strategies": [*(["two-stage", "rerank"] if self.reranker else []), *firsts],
            "fields": self._fields_at(published),
            "bytes": self.index.sizes(),
            "last_commit": datetime.fromtimestamp(published, UTC).isoformat(timespec="seconds"),
        }

    def _fields_at(self, published: float) -> dict[str, Any]:
        """What there is to filter by, as of the last commit."""
        if self._fields[0] != published:
            self._fields = published, {name: _field(one) for name, one in self.index.fields(_VALUES).items() if name != "title"}
        return self._fields[1]


def _field(field: Field) -> dict[str, Any]:
    return {
        "types": [_TYPES[kind] for kind in field.kinds],
        "values": [{"value": value, "passages": count} for value, count in field.values],
        "complete": field.complete,
        "range": field.bounds,
    }


class Shelf:
    """All that one server serves. Safe to use from several threads."""

    def __init__(
        self,
        paths: Sequence[str],
        *,
        model: str | None = None,
        rerank: str | None = None,
        threads: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Open everything. `paths` are indexes, PATH or NAME=PATH; `model` is an encoder beside those of the indexes.

        Raises BadInput for a name that cannot stand in an address or stands twice, and whatever opening raises.
        """
        self.limits, self.metrics = limits or Limits(), Metrics()
        self._threads = threads
        self.encoders: dict[str, Encoder] = {}
        self.reranker: Reranker | None = None
        self.indexes: dict[str, ServedIndex] = {}
        try:
            if model is not None:
                self._encoder(model)
            if rerank is not None:
                reranker = Reranker.load(rerank, threads=threads)
                self.reranker = reranker.with_engine(self._shared(reranker.name))
                self.metrics.model(reranker.card, reranker.max_tokens)
            for name, path in named_paths(paths).items():
                self.indexes[name] = ServedIndex(name, path, self._encoder_of(path), self.reranker, self.limits.writer_idle_s)
        except BaseException:
            self.close()
            raise

    def index(self, name: str | None) -> ServedIndex:
        """The index of this name; None means the only one. Raises UnknownName listing those that there are."""
        if name is None and len(self.indexes) == 1:
            return next(iter(self.indexes.values()))
        if name not in self.indexes:
            known = ", ".join(self.indexes) or "none"
            raise UnknownName(f"index {name!r:.80} is not served here. Give one of: {known}.")
        return self.indexes[name]

    def encoder(self, name: str | None) -> Encoder:
        """The encoder of this name; None or "" means the first. Raises UnknownName."""
        if not name and self.encoders:
            return next(iter(self.encoders.values()))
        if name not in self.encoders:
            raise _unknown_model(name, self.encoders, "encoder", "--model")
        return self.encoders[name]

    def needed_reranker(self, name: str | None) -> Reranker:
        """The reranker, which must have this name if one is given. Raises UnknownName."""
        if self.reranker is None or (name and name != self.reranker.name):
            raise _unknown_model(name, [self.reranker.name] if self.reranker else [], "reranker", "--rerank")
        return self.reranker

    def hand_back(self) -> None:
        """Give back every right to write that nobody has used for a while."""
        for one in self.indexes.values():
            one.hand_back()

    def close(self) -> None:
        """Close all indexes."""
        for one in self.indexes.values():
            one.close()

    def _shared(self, model: str) -> Callable[[Engine], Engine]:
        return partial(Batching, model=model, metrics=self.metrics, batch_tokens=self.limits.batch_tokens)

    def _encoder(self, name: str) -> Encoder:
        encoder = Encoder.load(name, threads=self._threads)
        known = self.encoders.get(encoder.name)
        if known is not None:
            if known.fingerprint != encoder.fingerprint:
                raise BadInput(f"two different encoders have the name {encoder.name!r}. Serve them apart.")
            return known
        self.encoders[encoder.name] = encoder.with_engine(self._shared(encoder.name))
        self.metrics.model(encoder.card, encoder.max_tokens)
        return self.encoders[encoder.name]

    def _encoder_of(self, path: Path) -> Encoder | None:
        """The encoder that wrote the index at `path`."""
        index = Index.open(path)
        wanted = index.manifest["encoder"]
        index.close()
        if wanted is None:
            return None
        for encoder in self.encoders.values():
            if encoder.fingerprint == wanted["fingerprint"]:
                return encoder
        try:
            return self._encoder(wanted["address"])
        except ModelNotFound as error:
            raise ModelNotFound(f"index {path} needs its encoder {wanted['name']}. {error}") from error


def _unknown_model(name: str | None, known: Mapping[str, object] | Sequence[str], kind: str, option: str) -> UnknownName:
    if not known:
        return UnknownName(f"no {kind} is served here. Start the server with {option}.")
    return UnknownName(f"{kind} {name!r:.80} is not served here. Use one of: {', '.join(known)}.")
