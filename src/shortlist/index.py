"""The index: what is searchable, and who wrote it. The first stage of a search lives here: BM25, dense, or both fused."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from shortlist.analyze import analyzer as named_analyzer
from shortlist.errors import BadInput, ModelMismatch
from shortlist.filters import Where
from shortlist.filters import checked as checked_filter
from shortlist.fuse import Fusion, fuse_ranked, fuse_stages
from shortlist.quantize import checked_vectors, shortened
from shortlist.ranked import Ranked
from shortlist.stores.care import Report, backup, check
from shortlist.stores.columns import Field
from shortlist.stores.embedded import EmbeddedStore, Snapshot
from shortlist.stores.truth import Effort, Row
from shortlist.stores.vectors import MODES, Layout
from shortlist.text import SAMPLES, clean, detect_language, detect_languages
from shortlist.types import FloatArray, Hit, Json, Passage, Ranking, checked_k

if TYPE_CHECKING:
    from shortlist.encoder import Encoder

First = Literal["hybrid", "bm25", "dense"]
VectorMode = Literal["float32", "int8", "binary-rescored", "binary"]

DEFAULT_RESCORE = 20
_BATCH_PASSAGES = 2000
_BATCH_CHARACTERS = 16_000_000
_STRICT_JSON = json.JSONEncoder(allow_nan=False)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOGETHER = 32  # searches that share a pass through the vectors
_FUSED_DEPTH = 1000  # a passage that both stages place low still beats one that a single stage places high


@dataclass(frozen=True, slots=True)
class Added:
    """What an `add` or an `upsert` did.

    count      passages that are new
    truncated  how many of those that were stored are too long for the encoder and were cut for it
    replaced   passages that took the place of another one with their id
    unchanged  passages that the index held already, word for word: nothing was done
    """

    count: int
    truncated: int
    replaced: int = 0
    unchanged: int = 0

    def __add__(self, other: Added) -> Added:
        return Added(*(getattr(self, name) + getattr(other, name) for name in ("count", "truncated", "replaced", "unchanged")))


class Index:
    """Passages, their terms and their vectors in one directory.

    Any number of processes may read while one writes. A search sees everything that was committed before it began.
    """

    def __init__(self, store: EmbeddedStore, encoder: Encoder | None) -> None:
        self._store = store
        self._encoder = encoder

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        encoder: Encoder | None = None,
        analyzer: str = "auto/2",
        vectors: VectorMode = "int8",
        dims: int | None = None,
        rescore_multiplier: int = DEFAULT_RESCORE,
        k1: float = 0.9,
        b: float = 0.4,
        title_weight: int = 2,
    ) -> Index:
        """Make an empty index and open it for writing; without an encoder it does BM25 only.

        vectors  how they are kept: "float32", "int8" (int8 with float16), "binary-rescored" (bits with int8) or "binary" (bits
                 alone); docs/vectors.md has the sizes and what each costs in quality
        dims     cut vectors to their first numbers, for an encoder whose card allows this length (`matryoshka`)
        rescore_multiplier  of "binary-rescored": times as many rows as wanted are found by their bits and scored again

        k1 and b are BM25's (k1 >= 0, 0 <= b <= 1); to BM25 a passage is its text and `title_weight` times its title (1 to 100).
        Raises BadInput for values out of range, an unknown analyzer, and a path at which there is something already.
        """
        _check_modes(encoder, vectors, dims, rescore_multiplier)
        if not 0 <= k1 < 1000 or not 0 <= b <= 1:
            raise BadInput(f"k1={k1}, b={b}: expected 0 <= k1 < 1000 and 0 <= b <= 1 (usual: 0.9 and 0.4, or 1.2 and 0.75).")
        if not isinstance(title_weight, int) or not 1 <= title_weight <= 100:
            raise BadInput(f"title_weight={title_weight!r}: expected a whole number from 1 to 100 (usual: 1 to 3).")
        manifest = {
            "analyzer": named_analyzer(analyzer).name,
            "encoder": None if encoder is None else _identity(encoder),
            "vectors": None if encoder is None else vectors,
            "k1": float(k1),
            "b": float(b),
            **({} if encoder is None else _layout(encoder, vectors, dims or encoder.dims, rescore_multiplier)),
            "title_weight": title_weight,
        }
        if encoder is not None:
            manifest["spread"] = round(_spread(encoder, Layout.of(manifest)), 6)
        return cls(EmbeddedStore.create(Path(path), manifest), encoder)

    @classmethod
    def open(cls, path: str | Path, *, encoder: Encoder | None = None, write: bool = False) -> Index:
        """Open an index, for reading unless `write`.

        Without `encoder` the index loads its own, by the name in its manifest, when it first needs it. Opening for writing
        completes what a crash left half done and rebuilds derived files that are damaged.
        Raises BadInput (no such path), IndexFormatError (not an index, damaged, or of a newer format), IndexLocked (another
        process writes), ModelMismatch (the encoder is not the one that wrote the index).
        """
        store = EmbeddedStore(Path(path), write=write)
        try:
            if encoder is not None:
                _refuse_other_encoder(store, encoder)
            return cls(store, encoder)
        except BaseException:
            store.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._store.snapshot())

    def close(self) -> None:
        """Close the files and, if it was held, give back the right to write."""
        self._store.close()

    @property
    def path(self) -> Path:
        """The directory."""
        return self._store.path

    @property
    def manifest(self) -> dict[str, Any]:
        """What was decided at creation: format, index (its id), analyzer, encoder {name, fingerprint, dims}, vectors, k1, b."""
        return self._store.manifest

    @property
    def offline(self) -> Effort:
        """Seconds spent once, when passages were added: `analyze_s` on terms and `encode_s` on vectors."""
        return self._store.effort()

    @property
    def committed_at(self) -> float:
        """When the state that a search sees was published, in seconds since 1970."""
        return self._store.committed_at()

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages in which the passages were analysed, sorted; "" stands for those of an unknown one."""
        return self._store.snapshot().languages

    def language_counts(self) -> dict[str, int]:
        """Language -> how many passages were analysed in it; the most frequent first."""
        return dict(sorted(self._store.language_counts().items(), key=lambda item: (-item[1], item[0])))

    def fields(self, most: int = 50) -> dict[str, Field]:
        """What there is to filter by: field -> kinds, bounds, and, if at most `most` differ, its values with their counts."""
        return self._store.snapshot().fields(most)

    @property
    def encoder(self) -> Encoder:
        """The encoder that wrote the index, loaded at the first use. Raises BadInput if it was created without one."""
        if self._encoder is None:
            wanted = self.manifest["encoder"]
            if wanted is None:
                raise BadInput(
                    f"{self.path} was created without an encoder, so it holds no vectors. "
                    'Search with first="bm25", or build the index again with encoder=.'
                )
            from shortlist.encoder import Encoder

            encoder = Encoder.load(wanted["address"])
            _refuse_other_encoder(self._store, encoder)
            self._encoder = encoder
        return self._encoder

    # --- writing

    def add(self, passages: Iterable[Passage], *, progress: Callable[[int, int | None], None] | None = None) -> Added:
        """Add passages, read from the iterable as they are needed; durable when it returns.

        They are committed in batches of 2,000 (fewer if they are long); `progress(done, total or None)` is called as passages
        are encoded and after each commit. A batch is stored as a whole or not at all: an interruption or an error costs the
        batch in flight, never a committed one. A single passage costs a commit of its own, tens of milliseconds: add many at
        a time.

        Raises BadInput (nothing of that batch is stored) for what is no Passage, an id that is empty or already known, text
        that is no str or holds lone surrogates, and metadata that JSON cannot hold. NUL and other control characters become
        spaces.
        """
        return self._store_all(passages, self._add_batch, progress)

    def upsert(self, passages: Iterable[Passage], *, progress: Callable[[int, int | None], None] | None = None) -> Added:
        """Add passages, and replace those whose ids the index holds; durable when it returns.

        One that is there already with the same text, title, lang and metadata is neither encoded nor written again, so that a
        nightly pass over all files costs what has changed. Passages count one after the other: of several with one id the last
        one stays. All else, errors too, is as with `add`; readers see of a replaced passage the old one or the new one.
        """
        return self._store_all(passages, self._upsert_batch, progress)

    def _store_all(
        self,
        passages: Iterable[Passage],
        store: Callable[[Sequence[Passage], Callable[[int, int | None], None]], Added],
        progress: Callable[[int, int | None], None] | None,
    ) -> Added:
        if isinstance(passages, Passage):
            raise BadInput("expected an iterable of passages; a single one goes into a list: [passage].")
        self._store.refuse_reader()
        total = len(passages) if isinstance(passages, Sized) else None
        say = progress or (lambda done, total: None)
        added, done = Added(0, 0), 0
        try:
            for batch in _batches(passages):
                added += store(batch, partial(_say_further, say, done, total))
                done += len(batch)
                say(done, total)
        except BadInput as error:
            if done:
                raise BadInput(f"{error} The {done} passages of the batches before it are stored.") from error
            raise
        return added

    def _add_batch(self, batch: Sequence[Passage], progress: Callable[[int, int | None], None]) -> Added:
        self._refuse_known(batch)
        return Added(len(batch), self._append(batch, progress))

    def _upsert_batch(self, batch: Sequence[Passage], progress: Callable[[int, int | None], None]) -> Added:
        held = self._store.snapshot().get([passage.id for passage in batch])
        changed: dict[str, Passage] = {}
        new = 0
        unchanged = 0
        for passage in batch:
            old = changed.get(passage.id) or held.get(passage.id)
            if old is not None and _same(old, passage):
                unchanged += 1
                continue
            new += old is None
            changed[passage.id] = passage
        truncated = self._append(list(changed.values()), progress, replacing=True) if changed else 0
        return Added(new, truncated, len(batch) - new - unchanged, unchanged)

    def _append(self, batch: Sequence[Passage], progress: Callable[[int, int | None], None], *, replacing: bool = False) -> int:
        """Store a batch of checked passages; returns how many were cut for the encoder."""
        contents = [passage.content for passage in batch]
        truncated = 0
        timings: dict[str, float] = {}
        langs = self._languages_of(batch, contents)
        rows = [Row(passage, lang) for passage, lang in zip(batch, langs, strict=True)]
        if self._store.dims:
            with _Clock([timings], "encode"):
                vectors, cut = self.encoder.encode_counted(contents, kind="passage", progress=progress)
            truncated = int((cut > 0).sum())
            stored = self._store.layout.stored(self._fitted(vectors, len(batch)))
            rows = [replace(row, vector=vector) for row, vector in zip(rows, stored, strict=True)]
        with _Clock([timings], "analyze"):
            postings = self._store.postings(rows)
        effort = Effort(timings["analyze"] / 1000, timings.get("encode", 0.0) / 1000)
        self._store.append(rows, postings, effort, replacing=replacing)
        return truncated

    def _languages_of(self, batch: Sequence[Passage], contents: Sequence[str]) -> list[str]:
        """Given languages as they are; the others detected, in the company of the batch and of what the index holds."""
        company = Counter(self._store.language_counts())
        company.update(passage.lang for passage in batch if passage.lang)
        unknown = [content for passage, content in zip(batch, contents, strict=True) if not passage.lang]
        found = iter(detect_languages(unknown, company))
        return [passage.lang or next(found) for passage in batch]

    def _refuse_known(self, batch: Sequence[Passage]) -> None:
        seen: set[str] = set()
        for passage in batch:
            if passage.id in seen:
                raise BadInput(f"the id {passage.id!r} occurs twice; ids must differ. Nothing of the batch is stored.")
            seen.add(passage.id)
        known = self._store.known(list(seen))
        if known:
            raise BadInput(
                f"the id {min(known)!r} is in the index already ({len(known)} such in this batch). Nothing of the batch is "
                "stored; upsert() replaces passages (shortlist index --update), add() only adds."
            )

    def delete(self, ids: Iterable[str] | None = None, *, where: Where | None = None) -> int:
        """Delete passages by id, or those that fit a filter (`search`), all or none; returns how many. Durable when it returns.

        Deleted passages have no influence on the scores of others. Raises BadInput naming an id that is not in the index, for
        both ids and a filter or neither, and for a filter that cannot be used.
        """
        if (ids is None) == (where is None):
            raise BadInput("delete() takes ids or where=, one of the two.")
        if where is not None:
            return self._store.delete_where(checked_filter(where))
        if isinstance(ids, str):
            raise BadInput(f"delete() takes a collection of ids; for a single one write delete([{ids!r}]).")
        wanted = list(dict.fromkeys(ids or ()))
        for name in wanted:
            _checked_id(name)
        if wanted:
            self._store.delete(wanted)
        return len(wanted)

    def compact(self) -> int:
        """Write the index anew without deleted passages and give their space back; returns how many they were.

        A writer starts this by itself, in the background, when one in five passages is deleted (and a thousand). Readers go
        on meanwhile. It needs the space of a second copy for a while; after a crash the index is the old one or the new one.
        """
        return self._store.compact()

    def check(self) -> Report:
        """Read everything and say what is wrong; changes nothing. `stores.care` has what is looked at, and `repair`."""
        return check(self.path)

    def backup(self, target: str | Path) -> None:
        """Copy the index to a path where nothing is yet, while it is searched and written; the copy is verified and durable.

        Raises BadInput if there is something at `target`, IndexFormatError if the passages of this index are damaged.
        """
        backup(self.path, Path(target))

    # --- reading

    def get(self, id: str) -> Passage:  # noqa: A002
        """The passage with this id. Raises BadInput if there is none."""
        found = self._store.snapshot().get([_checked_id(id)])
        if id not in found:
            raise BadInput(f"no passage with the id {id!r} is in the index.")
        return found[id]

    def passages(self, where: Where | None = None) -> Iterator[Passage]:
        """All passages as of now, or those that fit a filter (`search`), in the order in which they came."""
        return self._store.snapshot().passages(_checked_where(where))

    def count(self, where: Where | None = None) -> int:
        """How many passages there are now, or how many fit a filter (`search`)."""
        return len(self) if where is None else len(self._store.snapshot().slots(checked_filter(where)))

    def sizes(self) -> dict[str, int]:
        """Bytes on disk of each part.

        "passages" holds texts, metadata and float16 vectors, "terms" BM25's lists, "columns" what filters read, "vectors" the
        int8 rows.
        """
        return self._store.sizes()

    @property
    def deleted(self) -> int:
        """How many deleted passages still take up space, until a compaction."""
        snapshot = self._store.snapshot()
        return snapshot.published.point.slots - len(snapshot)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        first: First | None = None,
        fusion: Fusion | None = None,
        weights: Mapping[str, float] | None = None,
        where: Where | None = None,
    ) -> Ranking:
        """The k best passages, best first, ties by id.

        first    "bm25", "dense", or "hybrid": both, fused from the best max(1000, k) of each. The default is "hybrid", and
                 "bm25" for an index without vectors
        fusion   "auto" (z-scores, the vectors count as much as they tell passages apart for this query), "sum" (of z-scores)
                 or "rrf" (reciprocal ranks, k = 60); `fuse.fuse_stages` says more. The default is what `keep_fusion` has
                 stored, and "auto"
        weights  of "bm25" and "dense" in the fusion; if not given, what was stored for this fusion, or 0.5 and 1, by ranks 1
                 and 1 (ADR 11). The ranking says which ones it was made with
        where    a filter: {"lang": "zh", "year": {"gte": 2020}} or "lang=zh and year>=2020"; the forms are in
                 `shortlist.filters`. Both stages rank the passages that fit and no others, by the scores they have anyway

        timings  milliseconds: analyze_ms, bm25_ms, encode_ms, dense_ms, fuse_ms, total_ms, those that apply; load_ms when this
                 search had to load the encoder. Hits carry their passage, and the score and rank of each stage.
        Raises BadInput for an empty query, k < 1, unknown words, a dense search in an index without vectors, and a filter
        that is malformed, names a field that no passage has, or compares a field with a value of another type.
        """
        (ranking,) = self.search_many([query], k, first=first, fusion=fusion, weights=weights, where=where)
        return ranking

    def search_many(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        first: First | None = None,
        fusion: Fusion | None = None,
        weights: Mapping[str, float] | None = None,
        where: Where | None = None,
    ) -> Iterator[Ranking]:
        """`search` of every query, faster: 32 at a time are encoded together and share one pass through the vectors.

        A ranking is what `search` gives, to the last bit. Of the time of what is done together (encode_ms, dense_ms) each has
        an equal share. Queries are read as they are needed; those of a batch see the same state of the index. Raises as
        `search` does, before anything of a batch is searched.
        """
        checked_k(k)
        first = first or ("hybrid" if self._store.dims else "bm25")
        if first not in ("hybrid", "bm25", "dense"):
            raise BadInput(f'first={first!r}: expected "hybrid", "bm25" or "dense".')
        checked = _checked_where(where)
        ahead = iter(queries)
        while batch := [_checked_query(query) for query in islice(ahead, _TOGETHER)]:
            yield from self._together(batch, k, first, partial(self._fused, fusion, weights), checked)

    def _together(
        self,
        queries: Sequence[str],
        k: int,
        first: First,
        fuse: Callable[[Mapping[str, Ranked]], tuple[Ranked, dict[str, float]]],
        where: Mapping[str, Any] | None,
    ) -> Iterator[Ranking]:
        """The searches of one batch."""
        began = perf_counter()
        depth = max(_FUSED_DEPTH, k) if first == "hybrid" else k
        snapshot = self._store.snapshot()
        searches = [_Search(query, snapshot, where) for query in queries]
        if first != "dense":
            for search in searches:
                search.bm25(self._store, depth)
        if first != "bm25":
            vectors = self._encoded(searches)
            with _Clock([search.timings for search in searches], "dense_ms"):
                found = snapshot.dense_many(vectors, depth, where)
            for search, ranked in zip(searches, found, strict=True):
                search.lists["dense"] = ranked
        spent_ms = (perf_counter() - began) * 1000
        rest_ms = spent_ms - sum(ms for search in searches for ms in search.timings.values())
        for search in searches:
            search.spent_ms = sum(search.timings.values()) + rest_ms / len(searches)
        for search in searches:
            yield search.ranking(k, fuse if first == "hybrid" else None)

    def _fused(
        self, fusion: Fusion | None, weights: Mapping[str, float] | None, lists: Mapping[str, Ranked]
    ) -> tuple[Ranked, dict[str, float]]:
        name, stored = self.fusion(fusion)
        spread = self.spread if name == "auto" else 0.0  # an older index computes it: only if it counts
        return fuse_ranked(lists, name, stored if weights is None else weights, spread)

    def highlights(self, query: str, passages: Iterable[Passage]) -> list[dict[str, list[tuple[int, int]]]]:
        """Where each of the passages meets the query: {"title": [(start, stop), …], "text": […]}, in characters, ascending.

        A place is marked for a word that shares a term with the query. Terms that tell little of a passage in its language,
        such as "the", do not count (`stores.postings.light`): the index knows which these are, in any language.
        """
        snapshot, analyzer = self._store.snapshot(), self._store.analyzer
        words = analyzer.query_forms(query, snapshot.languages)
        wanted = {form for word in words for form in word}
        light: dict[str, frozenset[str]] = {}
        found = []
        for passage in passages:
            lang = passage.lang or detect_language(passage.content)
            if lang not in light:
                light[lang] = snapshot.light(words, lang)
            parts = {"title": passage.title, "text": passage.text}
            found.append({name: analyzer.matches(text, wanted, lang, light[lang]) for name, text in parts.items()})
        return found

    def fusion(self, fusion: Fusion | None = None) -> tuple[str, dict[str, float]]:
        """The fusion that a search without one uses, or `fusion`, and its weights where some were stored."""
        stored = self.manifest.get("search", {})
        name = fusion or stored.get("fusion", "auto")
        return name, dict(stored.get("weights", {})) if name == stored.get("fusion") else {}

    def keep_fusion(self, fusion: Fusion, weights: Mapping[str, float], **facts: Json) -> None:
        """Store what searches in this index use from now on, with facts about where it comes from (see `tune`).

        Readers that have the index open go on as before. Raises BadInput for an unknown fusion, for weights that are not those
        of "bm25" and "dense", and if the index is open for reading. Weights of rerankers that were stored are forgotten: they
        were learnt on top of another first stage.
        """
        fuse_stages({"bm25": [], "dense": []}, fusion, weights)
        if self.manifest.get("rerank"):  # first: a crash in between leaves no weight that belongs to another fusion
            self._store.keep("rerank", {})
        self._store.keep("search", {"fusion": fusion, "weights": dict(weights), **facts})

    def kept_weight(self, reranker: str, otherwise: float) -> float:
        """The weight of the reranker of this name that was stored, or `otherwise`."""
        stored = self.manifest.get("rerank", {}).get(reranker)
        return otherwise if stored is None else float(stored["weight"])

    def keep_weight(self, reranker: str, weight: float, **facts: Json) -> None:
        """Store the weight of a reranker for searches in this index, with facts about where it comes from (see `tune`).

        Raises BadInput for a weight that is not within 0..1, and if the index is open for reading.
        """
        if not 0 <= weight <= 1:
            raise BadInput(f"weight={weight} of the reranker is out of range. Expected 0 (first stage alone) to 1.")
        self._store.keep("rerank", {**self.manifest.get("rerank", {}), reranker: {"weight": weight, **facts}})

    @cached_property
    def spread(self) -> float:
        """How much more alike a text is to itself than to others, to this index's encoder: the unit of `fusion="auto"`.

        Written at the creation; for an index of an older version it is computed at the first hybrid search.
        """
        stated = self.manifest.get("spread")
        return float(stated) if stated is not None else _spread(self.encoder, self._store.layout)

    def _encoded(self, searches: Sequence[_Search]) -> FloatArray:
        """float32[n, dims], the queries' vectors."""
        timings = [search.timings for search in searches]
        encoder = self._encoder
        if encoder is None:
            with _Clock(timings, "load_ms"):
                encoder = self.encoder
        with _Clock(timings, "encode_ms"):
            vectors, cut = encoder.encode_counted([search.query for search in searches], kind="query")
            fitted = self._fitted(vectors, len(searches))
        for search, tokens in zip(searches, cut.tolist(), strict=True):
            if tokens:
                search.notes.append(f"the query was cut for the encoder: its last {tokens} tokens were not read")
        return fitted

    def _fitted(self, vectors: FloatArray, count: int) -> FloatArray:
        """Vectors of the encoder, checked, of this index's length."""
        return shortened(checked_vectors(vectors, count, self.manifest["encoder"]["dims"]), self._store.dims)


class _Clock:
    """Puts the milliseconds spent inside into timings[name], of several timings an equal share into each."""

    def __init__(self, timings: Sequence[dict[str, float]], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        share_ms = (perf_counter() - self._start) * 1000 / len(self._timings)
        for timings in self._timings:
            timings[self._name] = share_ms


class _Search:
    """One search in the making: the lists of its stages over one snapshot, timings and notes.

    spent_ms  what its stages took so far, with its share of what was done for several together
    """

    def __init__(self, query: str, snapshot: Snapshot, where: Mapping[str, Any] | None) -> None:
        self.query, self.snapshot, self.where = query, snapshot, where
        self.lists: dict[str, Ranked] = {}
        self.timings: dict[str, float] = {}
        self.notes: list[str] = [] if len(snapshot) else ["the index is empty"]
        self.spent_ms = 0.0

    def bm25(self, store: EmbeddedStore, depth: int) -> None:
        with _Clock([self.timings], "analyze_ms"):
            terms = store.analyzer.query_forms(self.query, self.snapshot.languages)
        with _Clock([self.timings], "bm25_ms"):
            self.lists["bm25"] = self.snapshot.bm25(terms, depth, self.where)
        if len(self.snapshot) and not len(self.lists["bm25"]):
            place = "index" if self.where is None else "passages that fit the filter"
            self.notes.append(f"no term of the query occurs in the {place}" if terms else "the query holds no term to look up")

    def ranking(self, k: int, fuse: Callable[[Mapping[str, Ranked]], tuple[Ranked, dict[str, float]]] | None) -> Ranking:
        """The k best of the only list, or of what `fuse` makes of both."""
        began = perf_counter()
        weights: dict[str, float] = {}
        if fuse is not None:
            with _Clock([self.timings], "fuse_ms"):
                self.lists["hybrid"], weights = fuse(self.lists)
        hits = self._hits(k)
        self.timings["total_ms"] = self.spent_ms + (perf_counter() - began) * 1000
        return Ranking(self.query, hits, self.timings, tuple(self.notes), weights=weights)

    def _hits(self, k: int) -> tuple[Hit, ...]:
        """The k best of the last list, with what every list says of them."""
        slots, best = next(reversed(self.lists.values())).first(k)
        scores: list[dict[str, float]] = [{} for _ in slots]
        ranks: list[dict[str, int]] = [{} for _ in slots]
        for stage, found in self.lists.items():
            for hit, place in enumerate(found.places(slots).tolist()):
                if place >= 0:
                    scores[hit][stage], ranks[hit][stage] = float(found.scores[place]), place + 1
        passages = self.snapshot.at(slots.tolist())
        return tuple(
            Hit(passage.id, score, passage, said, places)
            for passage, score, said, places in zip(passages, best.tolist(), scores, ranks, strict=True)
        )


def _say_further(say: Callable[[int, int | None], None], before: int, total: int | None, done: int, _: int | None) -> None:
    """Report `done` of a batch that began after `before` others."""
    say(before + done, total)


def _identity(encoder: Encoder) -> dict[str, Any]:
    return {"name": encoder.name, "address": encoder.address, "fingerprint": encoder.fingerprint, "dims": encoder.dims}


def _check_modes(encoder: Encoder | None, vectors: str, dims: int | None, rescore_multiplier: int) -> None:
    """Raises BadInput for a mode, a length or a multiplier that cannot be had."""
    if vectors not in MODES:
        raise BadInput(f"vectors={vectors!r}: expected one of {', '.join(MODES)}.")
    if not isinstance(rescore_multiplier, int) or rescore_multiplier < 1:
        raise BadInput(
            f"rescore_multiplier={rescore_multiplier}: expected a whole number from 1 on (usual: {DEFAULT_RESCORE})."
        )
    if dims is None:
        return
    if encoder is None:
        raise BadInput(f"dims={dims} without an encoder: there are no vectors to cut. Give encoder=, or leave dims away.")
    allowed = sorted({encoder.dims, *encoder.matryoshka})
    if dims not in allowed:
        raise BadInput(
            f"dims={dims}: {encoder.name} makes vectors of {encoder.dims} numbers, and its card allows {allowed}. A model that "
            "was not trained for it loses much by cutting; where you know better, list the length under `matryoshka` in its "
            "card.json."
        )


def _layout(encoder: Encoder, vectors: str, dims: int, rescore_multiplier: int) -> dict[str, Any]:
    """What the manifest says of vectors beyond their mode, as far as the mode has it.

    Bits are taken around the mean vector of some texts in many languages. It belongs to the encoder and not to the passages,
    so a passage has the same bits in every index and whatever comes after it.
    """
    stated: dict[str, Any] = {} if dims == encoder.dims else {"dims": dims}
    if "b1" in MODES[vectors][1]:
        samples = encoder.encode_counted(list(SAMPLES), kind="passage")[0]
        stated["centre"] = shortened(samples, dims).mean(axis=0).tolist()
    return stated | ({"rescore_multiplier": rescore_multiplier} if vectors == "binary-rescored" else {})


def _spread(encoder: Encoder, layout: Layout) -> float:
    """How much more alike a text is to itself than to others, over texts in many languages, kept as the index does."""
    stored, queries = (
        shortened(encoder.encode_counted(list(SAMPLES), kind=kind)[0], layout.dims) for kind in ("passage", "query")
    )
    rows = layout.stored(stored)
    likeness = np.array([layout.scores(rows, query) for query in queries], dtype=np.float64)
    itself = float(np.trace(likeness))
    count = len(likeness)
    return itself / count - (float(likeness.sum()) - itself) / (count * (count - 1))


def _refuse_other_encoder(store: EmbeddedStore, encoder: Encoder) -> None:
    wanted = store.manifest["encoder"]
    if wanted is None:
        raise ModelMismatch(
            f"index {store.path} was created without an encoder and holds no vectors. "
            "Open it without encoder=, or build it again with one."
        )
    if encoder.fingerprint != wanted["fingerprint"] or encoder.dims != wanted["dims"]:
        raise ModelMismatch(
            f"index {store.path} was written by encoder {wanted['name']} (sha256 {wanted['fingerprint'][:12]}…, "
            f"{wanted['dims']} dims), the query encoder is {encoder.name} ({encoder.fingerprint[:12]}…, {encoder.dims} dims). "
            "Open the index without encoder= to use its own."
        )


def _batches(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Checked passages in batches of bounded size."""
    batch: list[Passage] = []
    characters = 0
    for place, passage in enumerate(passages):
        batch.append(_checked(passage, place))
        characters += len(batch[-1].text) + len(batch[-1].title)
        if len(batch) == _BATCH_PASSAGES or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _checked_query(query: str) -> str:
    query = clean(query, "the query")
    if not query.strip():
        raise BadInput("the query is empty: give at least one word.")
    return query


def _checked_where(where: Where | None) -> dict[str, Any] | None:
    return None if where is None else checked_filter(where)


def _same(one: Passage, other: Passage) -> bool:
    """Whether nothing differs. In metadata 1 is neither true nor 1.0, though Python says that they are equal."""
    if (one.text, one.title, one.lang) != (other.text, other.title, other.lang):
        return False
    return json.dumps(dict(one.meta), sort_keys=True) == json.dumps(dict(other.meta), sort_keys=True)


def _checked(passage: Passage, place: int) -> Passage:
    if not isinstance(passage, Passage):
        raise BadInput(f"passage {place} is a {type(passage).__name__}, expected a Passage(id=, text=, title=, lang=, meta=).")
    if _plain(passage):
        return passage
    where = f"passage {_checked_id(passage.id, place)!r}"
    text, title = clean(passage.text, f"{where}, text"), clean(passage.title, f"{where}, title")
    lang = clean(passage.lang, f"{where}, lang")
    if passage.meta != {}:
        _check_metadata(passage.meta, where)
    if (text, title, lang) == (passage.text, passage.title, passage.lang):
        return passage
    return replace(passage, text=text, title=title, lang=lang)


def _plain(passage: Passage) -> bool:
    """Whether a passage is what most are and needs no further look: printable strings, and metadata that is flat."""
    for text in (passage.id, passage.text, passage.title, passage.lang):
        if type(text) is not str or not text.isprintable():
            return False
    if not passage.id or type(passage.meta) is not dict:
        return False
    for key, value in passage.meta.items():
        kind = type(value)
        if type(key) is not str or not (kind is str or kind is bool or (kind is int and abs(value) < 1 << 63)):
            return False
    return True


def _check_metadata(meta: Mapping[str, Json], where: str) -> None:
    try:
        kept = json.loads(_STRICT_JSON.encode(dict(meta)))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{where}: JSON cannot hold its metadata ({error}).") from error
    if kept != meta:
        raise BadInput(f"{where}: its metadata would come back changed from JSON; use str keys and lists in place of tuples.")


def _checked_id(name: str, place: int | None = None) -> str:
    where = "the id" if place is None else f"the id of passage {place}"
    if not isinstance(name, str) or not name:
        raise BadInput(f"{where} is {name!r}, expected a str that is not empty.")
    if clean(name, where) != name:
        raise BadInput(f"{where} is {name!r}: control characters cannot stand in an id.")
    return name


def named_paths(texts: Sequence[str]) -> dict[str, Path]:
    """Name -> path of each `NAME=PATH`, or of a path alone, whose name is that of the folder without its ending.

    Raises BadInput for a name that cannot stand in an address, and for one that stands twice.
    """
    paths: dict[str, Path] = {}
    for text in texts:
        before, equals, after = text.partition("=")
        named = bool(equals) and _NAME.fullmatch(before) is not None
        path = Path(after if named else text)
        name = before if named else path.resolve().stem
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"{name!r} cannot be the name of an index: expected at most 64 of A-Z a-z 0-9 . _ -, first a letter or digit. "
                f"Write NAME={path}"
            )
        if name in paths:
            raise BadInput(f"two indexes have the name {name!r}. Give one of them another: NAME={path}")
        paths[name] = path
    return paths
