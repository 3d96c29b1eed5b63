"""Mine: for judged questions, the candidates of our own first stage, as groups to learn from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from shortlist.data import read_collection
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.index import Index
from shortlist.models.files import appearing
from shortlist.train.groups import FILES
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
    target = out / collection.name
    if (target / "groups.jsonl").exists():
        with (target / "groups.jsonl").open(encoding="utf-8") as file:
            return sum(1 for _ in file)
    relevant = {q: [i for i, grade in judged.items() if grade > 0] for q, judged in data.qrels.items()}
    chosen = sorted((q for q, ids in relevant.items() if ids), key=_hash)[:queries]
    if not chosen:
        raise BadInput(f"{collection}: no question of the split {split!r} has a relevant passage.")
    rows: list[dict[str, object]] = []
    texts: dict[str, str] = {}
    with _opened(indexes / f"{collection.name}.idx", data.passages, encoder) as index:
        for done, query_id in enumerate(chosen, 1):
            row, passages = _row(index, encoder, data.queries[query_id], relevant[query_id], depth)
            rows.append({"query": query_id, "candidates": row})
            texts.update(passages)
            if progress is not None:
                progress(done, len(chosen))
    _write(target, {q: data.queries[q] for q in chosen}, texts, rows)
    return len(rows)


def _row(
    index: Index, encoder: Encoder, query: str, relevant: list[str], depth: int
) -> tuple[list[list[object]], dict[str, str]]:
    """The candidates of one question as they are written, and their texts."""
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
        dense |= dict(
            zip([p.id for p in unknown], (encoder.encode([p.content for p in unknown]) @ vector).tolist(), strict=True)
        )
    first = [*z.tolist(), *[float(z.min())] * len(missing)]
    rows: list[list[object]] = [
        [p.id, round(value, 4), int(p.id in relevant), round(dense[p.id], 4)] for p, value in zip(passages, first, strict=True)
    ]
    return rows, {p.id: p.content for p in passages}


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


def _write(
    target: Path, queries: Mapping[str, str], passages: Mapping[str, str], groups: Iterable[Mapping[str, object]]
) -> None:
    """The three files; the folder gets its name when all of them are whole."""
    texts: list[Iterable[Mapping[str, object]]] = [
        [{"_id": i, "text": text} for i, text in source.items()] for source in (queries, passages)
    ]
    with appearing(target) as part:
        for name, rows in zip(FILES, [*texts, groups], strict=True):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (part / name).write_text(lines, encoding="utf-8")


def _hash(query_id: str) -> str:
    return hashlib.md5(query_id.encode(), usedforsecurity=False).hexdigest()
