"""The vocabulary: texts (`Passage`), arrays (`Tokens`) and rankings (`Hit`, `Ranking`, `Run`, `Qrels`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Passage:
    """The unit of retrieval. `lang` is a BCP 47 primary tag ("zh") or "" when unknown; `meta` is JSON."""

    id: str
    text: str
    title: str = ""
    lang: str = ""
    meta: Mapping[str, Json] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """Title and text as one string: what is analysed, encoded and reranked."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    def as_json(self) -> dict[str, Json]:
        """Its fields by name, for a JSON object."""
        return {"id": self.id, "title": self.title, "text": self.text, "lang": self.lang, "meta": dict(self.meta)}


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage of a ranking.

    `score` is the one that ordered the ranking (higher is better); `scores` holds what each stage said of it, for
    example {"bm25": 12.1, "dense": 0.87, "hybrid": 0.031, "rerank": 2.4}; `ranks` the place (from 1) it had in each.
    """

    id: str
    score: float
    passage: Passage | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking(Sequence[Hit]):
    """Hits, best first, with the time of each stage in milliseconds and what was cut or left out (`notes`).

    `scored` is how many passages each reranker read, by the name of its stage: {"rerank": 32}. Under a time budget that may be
    fewer than it was given. `weights` are those of the stages where two were fused: {"bm25": 0.5, "dense": 1.2}.
    """

    query: str
    hits: tuple[Hit, ...]
    timings: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    scored: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    @property
    def ids(self) -> list[str]:
        """Passage ids, best first."""
        return [hit.id for hit in self.hits]

    def __str__(self) -> str:
        lines = [f"{rank:3d}  {hit.score:9.4f}  {hit.id}  {_preview(hit)}" for rank, hit in enumerate(self.hits, 1)]
        return "\n".join([self.query, *lines])

    def _repr_html_(self) -> str:
        """The ranking as a table, for notebooks."""
        from html import escape

        stages = [stage for stage in ("bm25", "dense", "rerank") if any(stage in hit.ranks for hit in self.hits)]
        head = "".join(f"<th>{name}</th>" for name in ("#", "score", *(f"{stage} place" for stage in stages)))
        rows = [f'<tr>{head}<th style="text-align:left">passage</th></tr>']
        for place, hit in enumerate(self.hits, 1):
            cells = [str(place), f"{hit.score:.3f}", *(str(hit.ranks.get(stage, "–")) for stage in stages)]
            text = f'<td dir="auto" style="text-align:start">{escape(_preview(hit, 300))}</td>'
            rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}{text}</tr>")
        spent = " · ".join(f"{stage.removesuffix('_ms')} {ms:.1f} ms" for stage, ms in self.timings.items())
        notes = "".join(f"<br>{escape(note)}" for note in self.notes)
        return f"<b dir='auto'>{escape(self.query)}</b><table>{''.join(rows)}</table><small>{spent}{notes}</small>"


def _preview(hit: Hit, width: int = 90) -> str:
    text = "" if hit.passage is None else " ".join(hit.passage.content.split())
    return text if len(text) <= width else text[: width - 1] + "…"


@dataclass(frozen=True, slots=True)
class Tokens:
    """A ragged batch of token sequences, never padded: the only batch form in this code.

    ids       int32[total]   token ids of all sequences, one after the other
    segments  uint8[total]   0 for the first text of a pair, 1 for the second
    offsets   int32[n + 1]   sequence i is ids[offsets[i]:offsets[i + 1]]
    """

    ids: IntArray
    segments: ByteArray
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[IntArray]:
        return (self.ids[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True))

    @property
    def lengths(self) -> IntArray:
        """int32[n], tokens of each sequence."""
        return np.diff(self.offsets).astype(np.int32)

    def take(self, start: int, stop: int) -> Tokens:
        """Sequences start..stop-1 as a batch of their own (views of ids and segments)."""
        a, b = int(self.offsets[start]), int(self.offsets[stop])
        return Tokens(self.ids[a:b], self.segments[a:b], (self.offsets[start : stop + 1] - a).astype(np.int32))


class Run(dict[str, dict[str, float]]):
    """Query id -> passage id -> score, as a TREC run; `name` is the run's tag.

    `timings` has the milliseconds of each stage of a query, by its id; it is empty for a run that was read from a file.
    The order of a query's passages is score descending, ties by passage id: `ranked` gives it.
    """

    def __init__(self, scores: Mapping[str, Mapping[str, float]] | None = None, name: str = "shortlist") -> None:
        super().__init__({q: dict(hits) for q, hits in (scores or {}).items()})
        self.name = name
        self.timings: dict[str, Mapping[str, float]] = {}

    def ranked(self, query_id: str) -> list[tuple[str, float]]:
        """(passage id, score) of one query, best first."""
        return sorted(self.get(query_id, {}).items(), key=lambda hit: (-hit[1], hit[0]))


class Qrels(dict[str, dict[str, int]]):
    """Query id -> passage id -> judgement; a judgement above 0 is relevant, 0 was judged not relevant."""

    def __init__(self, judgements: Mapping[str, Mapping[str, int]] | None = None) -> None:
        super().__init__({q: dict(docs) for q, docs in (judgements or {}).items()})


def checked_k(k: int, candidates: int | None = None) -> int:
    """`k` itself. Raises BadInput if k < 1 or more results are asked for than candidates are read."""
    if k < 1:
        raise BadInput(f"k={k}: expected at least 1 result. Give k >= 1.")
    if candidates is not None and k > candidates:
        raise BadInput(
            f"k={k} but candidates={candidates}: the second stage cannot return more than it reads. "
            f"Raise candidates to at least {k}."
        )
    return k
