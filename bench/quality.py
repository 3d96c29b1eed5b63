"""nDCG@10 of every stage on real collections, through the command line as a user would type it.

    python bench/quality.py [COLLECTION[:SPLIT[:QUERIES]] …] [--work DIR] [--candidates 32]

Needs SHORTLIST_DATA (a folder of collections in BEIR layout) and the fetched models. For each collection: `shortlist index`,
then `shortlist run` for bm25, dense, both fused (by rank, and by the default) and two-stage, then `shortlist eval`. Indexes
stay in DIR for the next time. Writes bench/results/quality.md with versions and date. Where a collection has more queries than
QUERIES, an evenly spaced sample is run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import shortlist
from shortlist.data import read_qrels
from shortlist.engines import native

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
DEFAULT = (
    "scifact:test cmrc2018:dev:1000 cmrc2018:test dureader-demo:dev miracl-yo:dev tydi-ko:dev xquad-ar:test xquad-es:test"
).split()
MEASURES = ("nDCG@10", "R@100")
STAGES = {
    "bm25": ("--first", "bm25", "--rerank", "none"),
    "dense": ("--first", "dense", "--rerank", "none"),
    "rrf": ("--first", "hybrid", "--fusion", "rrf", "--rerank", "none"),
    "hybrid": ("--first", "hybrid", "--rerank", "none"),
    "two-stage": ("--first", "hybrid", "--rerank", "L-4"),
}


def command(*words: str | Path) -> str:
    """Run one shortlist command and return what it prints."""
    done = subprocess.run([sys.executable, "-m", "shortlist", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"shortlist {' '.join(map(str, words))}\n{done.stderr}")
    return done.stdout


def sampled_qrels(folder: Path, split: str, limit: int, work: Path) -> tuple[Path, int]:
    """A qrels file of at most `limit` evenly spaced queries, and how many it judges."""
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
    ids = sorted(qrels)
    kept = ids if limit >= len(ids) else [ids[i * len(ids) // limit] for i in range(limit)]
    path = work / f"{folder.name}-{split}.qrels"
    path.write_text("".join(f"{q} 0 {d} {s}\n" for q in kept for d, s in sorted(qrels[q].items())), encoding="utf-8")
    return path, len(kept)


def measured(name: str, split: str, limit: int, work: Path, candidates: int) -> dict[str, object]:
    """One row: the measures of every stage on one collection."""
    folder = DATA / name
    index = work / f"{name}.idx"
    if not index.exists():
        command("index", folder, "-o", index)
    qrels, queries = sampled_qrels(folder, split, limit, work)
    row: dict[str, object] = {"collection": f"{name} {split}", "queries": queries}
    for stage, words in STAGES.items():
        out = work / f"{name}-{split}-{stage}.trec"
        query_file = next(p for p in (folder / "queries.jsonl.gz", folder / "queries.jsonl") if p.exists())
        command("run", index, query_file, "--qrels", qrels, "-k", "100", "--candidates", candidates, *words, "-o", out)
        row[stage] = json.loads(command("eval", qrels, out, *MEASURES, "--json"))
    print(row["collection"], *(f"{stage} {row[stage]['nDCG@10']:.4f}" for stage in STAGES), flush=True)  # type: ignore[index]
    return row


def report(rows: list[dict], candidates: int) -> str:
    """The Markdown table with what made it."""
    head = f"| collection | queries | {' | '.join(STAGES)} | bm25 R@100 | dense R@100 | hybrid R@100 |"
    lines = [
        "# Quality of each stage",
        "",
        f"nDCG@10, {datetime.date.today()}, shortlist {shortlist.__version__}, Python {platform.python_version()}, "
        f"kernels {native.chosen_instruction_set()}; encoder shortlist-embed in int8. rrf fuses BM25 and vectors by "
        f"rank (k = 60, equal weights), hybrid is the default fusion (weighted sum of z-scores), "
        f"two-stage reranks {candidates} candidates of hybrid with shortlist-rerank L-4. Made by `python bench/quality.py`.",
        "",
        head,
        "|" + " --- |" * (head.count("|") - 1),
    ]
    for row in rows:
        ndcg = " | ".join(f"{row[s]['nDCG@10']:.4f}" for s in STAGES)
        recall = " | ".join(f"{row[s]['R@100']:.4f}" for s in ("bm25", "dense", "hybrid"))
        lines.append(f"| {row['collection']} | {row['queries']} | {ndcg} | {recall} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="*", default=DEFAULT)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "shortlist-quality")
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "bench" / "results" / "quality.md")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for spec in args.collections:
        name, split, limit = (*spec.split(":"), "", "")[:3]
        rows.append(measured(name, split or "test", int(limit or 10**9), args.work, args.candidates))
        args.output.write_text(report(rows, args.candidates), encoding="utf-8")


if __name__ == "__main__":
    main()
