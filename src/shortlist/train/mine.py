"""Mine: for judged questions, the candidates of our own first stage, as groups to learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from shortlist.data import read_collection
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.index import Index
from shortlist.models.files import appearing
from shortlist.train.groups import Candidate, Group, Groups, write_groups
from shortlist.types import Hit, Passage

Progress = Callable[[int, int | None], None]
DEPTH = 32


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
    groups: list[Group] = []
    texts: dict[str, str] = {}
    with _opened(indexes / f"{collection.name}.idx", data.passages, encoder) as index:
        for done, query_id in enumerate(chosen, 1):
            candidates, passages = _candidates(index, encoder, data.queries[query_id], relevant[query_id], depth)
            name = collection.name
            groups.append(
                Group(name, f"{name}/{query_id}", tuple(replace(c, passage=f"{name}/{c.passage}") for c in candidates))
            )
            texts.update((f"{name}/{i}", text) for i, text in passages.items())
            if progress is not None:
                progress(done, len(chosen))
    write_groups(Groups(tuple(groups), {f"{collection.name}/{q}": data.queries[q] for q in chosen}, texts), out)
    return len(groups)


def _candidates(
    index: Index, encoder: Encoder, query: str, relevant: list[str], depth: int
) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates of one question, and their texts by id."""
    hits = index.search(query, k=depth, first="hybrid").hits
    found = {hit.id for hit in hits}
    missing = [index.get(i) for i in relevant if i not in found]
    scores = np.array([hit.score for hit in hits])
    z = (scores - scores.mean()) / (scores.std() or 1.0)
    vector = encoder.encode([query], kind="query")[0]
    passages = [*(_passage(hit) for hit in hits), *missing]
    dense = {hit.id: hit.scores["dense"] for hit in hits if "dense" in hit.scores}
    unknown = [p for p in passages if p.id not in dense]
    if unknown:
        cosines = encoder.encode([p.content for p in unknown]) @ vector
        dense |= dict(zip([p.id for p in unknown], cosines.tolist(), strict=True))
    first = [*z.tolist(), *[float(z.min())] * len(missing)]
    candidates = [
        Candidate(p.id, round(value, 4), p.id in relevant, round(dense[p.id], 4))
        for p, value in zip(passages, first, strict=True)
    ]
    return candidates, {p.id: p.content for p in passages}


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
