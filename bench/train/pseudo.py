"""Collections that nobody judged, made from text that may be trained on: titles as questions, translations as answers.

    python bench/train/pseudo.py OUT

OUT/titles-scifact     question = an article's title, passage = its abstract without the title: matching by topic
OUT/ntrex-1, -2, -3    question = a sentence in one language, passage = its translation into another; both languages drawn
                       by a hash of the line, so that every language meets many others (NTREX-128, CC BY-SA 4.0)

BEIR layout, read from SHORTLIST_DATA. The same bytes on every run.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
from pathlib import Path

from shortlist.data import read_passages

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))


def write(folder: Path, passages: dict[str, str], queries: dict[str, str], qrels: dict[str, str]) -> None:
    """One collection in BEIR layout; `qrels` is query id -> the one relevant passage."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", passages), ("queries", queries)):
        rows = (json.dumps({"_id": i, "text": text}, ensure_ascii=False) for i, text in texts.items())
        (folder / f"{name}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    lines = "".join(f"{query}\t{passage}\t1\n" for query, passage in qrels.items())
    (folder / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}", encoding="utf-8")


def titles(name: str, out: Path) -> None:
    """Titles of a collection's passages as questions for them."""
    found = [p for p in read_passages(DATA / name) if len(p.title.split()) >= 4 and len(p.text) > 200]
    passages, queries = {p.id: p.text for p in found}, {f"t{p.id}": p.title for p in found}
    write(out / f"titles-{name}", passages, queries, {f"t{p.id}": p.id for p in found})


def translations(number: int, out: Path) -> None:
    """Each line of NTREX once, asked in one language and answered in another."""
    files = sorted((DATA / "parallel-ntrex").glob("*.txt.gz"))
    lines = [gzip.decompress(path.read_bytes()).decode("utf-8").splitlines() for path in files]
    passages, queries = {}, {}
    for line in range(len(lines[0])):
        digest = hashlib.md5(f"{number} {line}".encode()).digest()
        asked, answered = digest[0] % len(files), digest[1] % (len(files) - 1)
        answered += answered >= asked
        queries[f"q{line}"], passages[f"p{line}"] = lines[asked][line], lines[answered][line]
    write(out / f"ntrex-{number}", passages, queries, {f"q{i}": f"p{i}" for i in range(len(lines[0]))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    titles("scifact", out)
    for number in (1, 2, 3):
        translations(number, out)


if __name__ == "__main__":
    main()
