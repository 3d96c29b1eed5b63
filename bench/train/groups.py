"""Training groups for a reranker: a question, its passage, and passages that our own first stages mistake for it.

    python bench/train/groups.py OUT.jsonl [COLLECTION:QUESTIONS …]

Reads the train splits under SHORTLIST_DATA. Negatives come from the top of the encoder's and of BM25's rankings, some near
the top and some deeper. A passage that the encoder scores more than MARGIN above the relevant one is left out: with one
judged passage a question it may well be relevant too. One JSON object a line: `set`, `query`, `passages` (the relevant one
first, then NEGATIVES others).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import shortlist as sl
from shortlist.data import read_collection

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
NEGATIVES, MARGIN, DEPTH = 7, 0.02, 40
# Questions of each collection; the rules of use of every collection allow training on its train split.
DEFAULT = (
    "cmrc2018:2600 squad-sent:2000 tydi-en:2000 jaquad:1600 tydi-ko:1598 tydi-sw:800 iapp-thai:900 scifact:800 arcd:691 "
    "facqa:700 faquad:600 cmrc2017-user:400 pubmedqa:400 afriqa:400 amqa:200 dureader-demo:95"
)


def chosen(ids: list[str], count: int) -> list[str]:
    """`count` of the ids, by a hash of each: the same ones on every run."""
    return sorted(ids, key=lambda i: hashlib.md5(i.encode()).hexdigest())[:count]


def negatives(index: sl.Index, query: str, relevant: list[sl.Passage], draw: random.Random) -> list[sl.Passage]:
    """Up to NEGATIVES: two of the encoder's best six, two of its best 25, two of BM25's best 12, the rest from both."""
    question = index.encoder.encode([query], kind="query")[0]
    best = float((index.encoder.encode([p.content for p in relevant]) @ question).max())
    known = {p.content for p in relevant}
    dense = [h for h in index.search(query, k=DEPTH, first="dense") if h.score < best + MARGIN]
    scores = {h.id: h.score for h in dense}
    lexical = [h for h in index.search(query, k=DEPTH, first="bm25") if scores.get(h.id, -1.0) < best + MARGIN]
    pools = [[h.passage for h in hits if h.passage is not None and h.passage.content not in known] for hits in (dense, lexical)]
    found: list[sl.Passage] = []
    for pool, count in ((pools[0][:6], 2), (pools[0][:25], 2), (pools[1][:12], 2), (pools[1] + pools[0], NEGATIVES)):
        rest = list({p.id: p for p in pool if p.id not in {f.id for f in found}}.values())
        found += draw.sample(rest, min(count, NEGATIVES - len(found), len(rest)))
    return found


def groups(name: str, count: int, work: Path, draw: random.Random) -> Iterator[dict[str, object]]:
    """The groups of one collection's train split."""
    collection = read_collection(DATA / name, "train")
    with sl.Index.create(work / f"{name}.idx", encoder=sl.Encoder.load("shortlist-embed")) as index:
        index.add(sl.read_passages(DATA / name))
        for query_id in chosen(list(collection.qrels), count):
            ids = [i for i, judgement in sorted(collection.qrels[query_id].items()) if judgement > 0]
            query = collection.queries[query_id]
            relevant = [index.get(i) for i in ids]
            wrong = negatives(index, query, relevant, draw)
            if len(wrong) == NEGATIVES:
                passages = [draw.choice(relevant), *wrong]
                yield {"set": name, "query": query, "passages": [p.content for p in passages]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("collections", nargs="*", default=DEFAULT.split())
    args = parser.parse_args()
    draw = random.Random(13)
    part = args.output.with_suffix(".part")
    with tempfile.TemporaryDirectory() as work, part.open("w", encoding="utf-8") as file:
        for spec in args.collections:
            name, _, count = spec.partition(":")
            lines = [json.dumps(g, ensure_ascii=False) for g in groups(name, int(count or 10**9), Path(work), draw)]
            file.write("".join(line + "\n" for line in lines))
            print(f"{name}: {len(lines):,} groups, {np.mean([len(line) for line in lines]):.0f} characters each", flush=True)
    part.rename(args.output)


if __name__ == "__main__":
    main()
