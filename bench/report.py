"""The report under docs/results: twelve collections in eleven languages; first stages, rerankers, a cascade, 1-bit vectors.

    SHORTLIST_DATA=../shared/data python bench/report.py [--work build/report] [--indexes build/indexes]
    SHORTLIST_DATA=../shared/data python bench/report.py --time    the times only, again, on a machine that is quiet now

Everything is made by the verbs that anyone uses: `index`, `run --resume`, `bench --run` and `report`. What was made is kept:
an index that is there is used, and a run whose manifest fits is left as it is, so that an interrupted or repeated call costs
little. Of collections with more than 200 questions an evenly spaced sample is taken. Quality is measured on runs of 1,000
passages, time on searches for 5. NAME.idx may have been made before: `shortlist index $SHORTLIST_DATA/NAME -o NAME.idx`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from shortlist.data import read_collection, read_manifest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "docs" / "results"
COLLECTIONS = (
    "scifact:test miracl-yo:dev cmrc2018:test dureader-demo:dev jaquad:dev tydi-ko:dev iapp-thai:test mlqa-hi:dev arcd:test "
    "tydi-ru:dev tydi-fi:dev xquad-es:test"
).split()
SWEPT = ("mlqa-hi", "tydi-ko", "dureader-demo")
"""Collections on which every system is run; on the others only those of EVERYWHERE."""

EVERYWHERE = ("bm25", "dense", "hybrid", "L-2@32", "L-6@32")
SYSTEMS = {
    "bm25": "--first bm25 --rerank none",
    "dense": "--first dense --rerank none",
    "dense,binary-rescored": "--first dense --rerank none",
    "dense,binary": "--first dense --rerank none",
    "hybrid": "--rerank none",
    "hybrid,binary": "--rerank none",
    **{f"{size}@{reads}": f"--rerank {size} --candidates {reads}" for size in ("L-2", "L-4", "L-6") for reads in (8, 32, 100)},
    "bm25+L-6@32": "--first bm25 --rerank L-6 --candidates 32",
    "L-6@32,binary": "--rerank L-6 --candidates 32",
    "L-2@100+L-6@32": "--cascade L-2:100,L-6:32",
}
"""Name of a run -> arguments of `shortlist run`. What follows a comma is how the index keeps its vectors (int8 without)."""


def shortlist(*words: object) -> None:
    """One command of ours, which says on stderr what it does."""
    subprocess.run([sys.executable, "-m", "shortlist", *map(str, words)], check=True)


def sampled(name: str, split: str, folder: Path, most: int) -> None:
    """FOLDER/queries.jsonl and FOLDER/qrels.txt, unless they are there: at most so many questions, evenly spaced."""
    if (folder / "qrels.txt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = read_collection(DATA / name, split)
    ids = sorted(data.qrels)
    if len(ids) > most:
        ids = [ids[i * len(ids) // most] for i in range(most)]
    rows = [json.dumps({"_id": i, "text": data.queries[i]}, ensure_ascii=False) for i in ids]
    (folder / "queries.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    judged = [f"{i} 0 {passage} {grade}" for i in ids for passage, grade in data.qrels[i].items()]
    (folder / "qrels.txt").write_text("\n".join(judged) + "\n", encoding="utf-8")


def indexed(name: str, vectors: str, ready: Path, work: Path) -> Path:
    """The index of a collection, made unless it is there."""
    path = ready / f"{name}.idx" if vectors == "int8" else work / f"{name}.{vectors}.idx"
    if not path.exists():
        shortlist("index", DATA / name, "-o", path, "--vectors", vectors)
    return path


def timed(run: Path) -> bool:
    """Whether `bench` has put its figures into the manifest of this run."""
    measured = (read_manifest(run) or {}).get("measured")
    return isinstance(measured, dict) and str(measured["how"]).startswith("by bench")


def make(name: str, system: str, args: argparse.Namespace) -> None:
    """One run, and the time of its searches."""
    folder = args.work / name
    index = indexed(name, system.partition(",")[2] or "int8", args.indexes, args.work)
    run, searched = folder / f"{system}.trec", [index, folder / "queries.jsonl", *SYSTEMS[system].split()]
    shortlist("run", *searched, "--qrels", folder / "qrels.txt", "-k", 1000, "--resume", "-o", run)
    if args.time or not timed(run):
        shortlist("bench", *searched, "-k", 5, "--queries", args.timed, "--rounds", 1, "--seconds", 0, "--run", run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "report", help="where runs are kept")
    parser.add_argument("--indexes", type=Path, default=ROOT / "build" / "indexes", help="where NAME.idx are, or are made")
    parser.add_argument("--collections", nargs="*", default=COLLECTIONS, metavar="NAME:SPLIT")
    parser.add_argument("--questions", type=int, default=200, help="of a collection at most (default: %(default)s)")
    parser.add_argument("--time", action="store_true", help="take all times again")
    parser.add_argument("--timed", type=int, default=30, metavar="N", help="questions whose time is taken (default: 30)")
    parser.add_argument("--note", default="", help="a sentence for the top of the page, such as what else the machine did")
    args = parser.parse_args()
    args.indexes.mkdir(parents=True, exist_ok=True)
    splits = dict(spec.split(":") for spec in args.collections)
    for name, split in splits.items():
        sampled(name, split, args.work / name, args.questions)
    wanted = [(name, system) for name in splits for system in SYSTEMS if system in EVERYWHERE or name in SWEPT]
    for name, system in sorted(wanted, key=lambda one: one[1] not in EVERYWHERE):  # what every collection has comes first
        make(name, system, args)
    report([args.work / name / f"{system}.trec" for name, system in wanted], args.note)


def report(runs: list[Path], note: str) -> None:
    outputs = [word for ending in ("html", "md", "tex") for word in ("-o", RESULTS / f"report.{ending}")]
    title = ["--title", "shortlist: what is found, and what it takes"]
    shortlist("report", *runs, "--baseline", "hybrid", "--system", "L-6@32", *title, "--note", note, *outputs)


if __name__ == "__main__":
    main()
