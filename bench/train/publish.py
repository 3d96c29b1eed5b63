"""Turn a trained reranker into the folder that ships: int8 body, card with a tuned fusion weight, README.

    python bench/train/publish.py TRAINED OUT [COLLECTION:SPLIT …]

TRAINED is what `bench/train/rerank.py` wrote, OUT for example models/shortlist-rerank-L-4. The fusion weight is chosen on the
named development splits (never on a test split): the one with the best mean nDCG@10 of two-stage search over hybrid, 32
candidates. The table of what was tried goes into the README.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
from pathlib import Path

import numpy as np

import shortlist as sl
from shortlist import fuse, measures
from shortlist.data import read_collection
from shortlist.models.body import write_body
from shortlist.types import Run

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
DEFAULT = "cmrc2018:dev iapp-thai:dev facqa:dev heq:dev norquad:dev pquad:dev faquad:dev".split()
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
QUERIES, CANDIDATES, DEPTH = 150, 32, 100
PAIRS = (
    ("How many people live in Berlin?", "Berlin had a population of 3,520,031 registered inhabitants."),
    ("How many people live in Berlin?", "Berlin is well known for its museums."),
    ("柏林有多少人口？", "柏林是德国首都，有三百五十二万居民。"),
)


def sampled(ids: list[str], count: int) -> list[str]:
    """At most `count` ids, evenly spaced."""
    return ids if len(ids) <= count else [ids[i * len(ids) // count] for i in range(count)]


def values(reranker: sl.Reranker, encoder: sl.Encoder, name: str, split: str, work: Path) -> list[float]:
    """nDCG@10 at every weight on one split; weight 0 is the first stage alone."""
    collection = read_collection(DATA / name, split)
    index_path = work / f"{name}.idx"
    if not index_path.exists():
        with sl.Index.create(index_path, encoder=encoder) as index:
            index.add(sl.read_passages(DATA / name))
    ids = sampled(sorted(collection.qrels), QUERIES)
    qrels = sl.Qrels({q: collection.qrels[q] for q in ids})
    runs = [Run() for _ in WEIGHTS]
    with sl.Index.open(index_path, encoder=encoder) as index:
        for query_id in ids:
            hits = index.search(collection.queries[query_id], k=DEPTH, first="hybrid").hits
            head, tail = hits[:CANDIDATES], hits[CANDIDATES:]
            logits = reranker.score(collection.queries[query_id], [h.passage.content for h in head if h.passage])
            first = [(h.id, h.score) for h in head]
            second = [(h.id, float(s)) for h, s in zip(head, logits, strict=True)]
            for run, weight in zip(runs, WEIGHTS, strict=True):
                order = [i for i, _ in fuse.weighted_sum([first, second], weights=[1 - weight, weight])]
                run[query_id] = {i: -float(place) for place, i in enumerate([*order, *(h.id for h in tail)])}
    found = [measures.evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"] for run in runs]
    print(name, split, len(ids), *(f"{w}: {v:.4f}" for w, v in zip(WEIGHTS, found, strict=True)), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("splits", nargs="*", default=DEFAULT)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "shortlist-quality")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    config = json.loads((args.trained / "config.json").read_text(encoding="utf-8"))
    encoder = sl.Encoder.load("shortlist-embed")
    fields = {
        "name": args.out.name,
        "kind": "reranker",
        "pooling": "score",
        "dims": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "labels": 1,
        "max_tokens": 512,
        "licence": "MIT",
        "source": "first layers of shortlist-embed (multilingual-e5-small, MIT), trained by bench/train/rerank.py",
        "training_data": json.loads((ROOT / "bench" / "train" / "data.json").read_text(encoding="utf-8"))["training_data"],
        "languages": list(encoder.card.languages),
        "table": "shortlist-embed",
    }
    write_body(args.trained, args.out, fields)
    reranker = sl.Reranker.load(args.out, precision="float32")
    canonical = {f"{query}\n{passage}": [round(float(reranker.score(query, [passage])[0]), 4)] for query, passage in PAIRS}
    reranker = sl.Reranker.load(args.out)
    table = {spec: values(reranker, encoder, *spec.split(":"), args.work) for spec in args.splits}
    means = np.mean(list(table.values()), axis=0)
    weight = WEIGHTS[int(np.argmax(means))]
    write_body(args.trained, args.out, {**fields, "fusion_weight": weight, "canonical": canonical})
    lines = [
        f"nDCG@10 on development splits by fusion weight, {datetime.date.today()}, at most {QUERIES} queries each, "
        f"{CANDIDATES} candidates of hybrid; weight 0 is the first stage alone.",
        "",
        f"| split | {' | '.join(map(str, WEIGHTS))} |",
        "|" + " --- |" * (len(WEIGHTS) + 1),
        *(f"| {spec} | {' | '.join(f'{v:.4f}' for v in row)} |" for spec, row in {**table, "mean": means}.items()),
        "",
        f"Chosen: {weight}.",
    ]
    (args.out / "tuning.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
