"""Mine: for judged questions, the candidates of our own first stage, as groups to learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from shortlist.data import read_collection
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.index import Index
from shortlist.models.files import appearing
from shortlist.train.groups import Candidate, Group, Groups, write_groups
from shortlist.types import FloatArray, Hit, Passage, Ranking

Progress = Callable[[int, int | None], None]
DEPTH = 32
_TOGETHER = 64


def mine(
    collection: Path,
    out: Path,
    *,
    split: str = "train",
    queries: int | None = None,
    depth: int = DEPTH,
    encoder: Encoder,
    indexes: Path,
    progress: Progress | None = None,
) -> int:
    """Write `out/NAME/`: groups of one collection's split, with the `depth` best passages of hybrid search as candidates.

    `queries` limits their number; they are chosen by a hash of the id, the same ones on every run. The collection's index
    is `indexes/NAME.idx`, made if it is not there. Returns the number of groups. What is there already is kept: a mining that
    was interrupted continues with the next collection. Where the best `depth` passages hold no relevant one it is added.

    Raises BadInput for a collection or split that cannot be read, or whose questions have no relevant passage in it.
    """
    data = read_collection(collection, split)
    written = out / collection.name / "groups.jsonl"
    if written.exists():
        with written.open(encoding="utf-8") as file:
            return sum(1 for _ in file)
    relevant = {q: [i for i, grade in judged.items() if grade > 0] for q, judged in data.qrels.items()}
    chosen = sorted((q for q, ids in relevant.items() if ids), key=_hash)[:queries]
    if not chosen:
        raise BadInput(f"{collection}: no question of the split {split!r} has a relevant passage.")
    name = collection.name
    groups: list[Group] = []
    texts: dict[str, str] = {}
    cosines = _Cosines(encoder)
    with _opened(indexes / f"{name}.idx", data.passages, encoder) as index:
        for start in range(0, len(chosen), _TOGETHER):
            part = chosen[start : start + _TOGETHER]
            questions = [data.queries[q] for q in part]
            rankings = list(index.search_many(questions, k=depth, first="hybrid"))
            found = [_passages(index, ranking, relevant[q]) for q, ranking in zip(part, rankings, strict=True)]
            for q, ranking, passages, dense in zip(part, rankings, found, cosines(questions, rankings, found), strict=True):
                groups.append(Group(name, f"{name}/{q}", _candidates(name, ranking, passages, dense, relevant[q])))
                texts.update((f"{name}/{p.id}", p.content) for p in passages)
            if progress is not None:
                progress(len(groups), len(chosen))
    write_groups(Groups(tuple(groups), {f"{name}/{q}": data.queries[q] for q in chosen}, texts), out)
    return len(groups)


def _passages(index: Index, ranking: Ranking, relevant: Iterable[str]) -> list[Passage]:
    """Those of the ranking, then the relevant ones that it lacks."""
    found = {hit.id for hit in ranking.hits}
    return [*(_passage(hit) for hit in ranking.hits), *(index.get(i) for i in relevant if i not in found)]


def _candidates(
    name: str, ranking: Ranking, passages: Sequence[Passage], dense: Sequence[float], relevant: Iterable[str]
) -> tuple[Candidate, ...]:
    """One question's; the first stage's z-score of a passage that the ranking lacks is the lowest of those it has."""
    scores = np.array([hit.score for hit in ranking.hits])
    z = (scores - scores.mean()) / (scores.std() or 1.0)
    first = [*z.tolist(), *[float(z.min())] * (len(passages) - len(z))]
    return tuple(
        Candidate(f"{name}/{p.id}", round(value, 4), p.id in relevant, round(cosine, 4))
        for p, value, cosine in zip(passages, first, dense, strict=True)
    )


class _Cosines:
    """Of questions and their passages: what the index says, else computed. A passage is encoded once for all questions."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._vectors: dict[str, FloatArray] = {}

    def __call__(
        self, questions: Sequence[str], rankings: Sequence[Ranking], passages: Sequence[Sequence[Passage]]
    ) -> list[list[float]]:
        """A list a question, a cosine a passage."""
        known = [{hit.id: hit.scores["dense"] for hit in r.hits if "dense" in hit.scores} for r in rankings]
        new = {
            p.id: p.content
            for dense, found in zip(known, passages, strict=True)
            for p in found
            if p.id not in dense and p.id not in self._vectors
        }
        self._vectors |= zip(new, self._encoder.encode(list(new.values())), strict=True)
        return [
            [dense[p.id] if p.id in dense else float(self._vectors[p.id] @ asked) for p in found]
            for dense, found, asked in zip(known, passages, self._encoder.encode(questions, kind="query"), strict=True)
        ]


def _passage(hit: Hit) -> Passage:
    if hit.passage is None:
        raise BadInput(f"the index gave no text for passage {hit.id}.")
    return hit.passage


def _opened(path: Path, passages: Callable[[], Iterable[Passage]], encoder: Encoder) -> Index:
    """The index at `path`, filled first if it is not there; a filling that was interrupted begins anew."""
    if not path.exists():
        with appearing(path) as part, Index.create(part, encoder=encoder) as index:
            index.add(passages())
    return Index.open(path, encoder=encoder)


def _hash(query_id: str) -> str:
    return hashlib.md5(query_id.encode(), usedforsecurity=False).hexdigest()
