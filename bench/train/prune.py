"""What a trimmed vocabulary saves and loses: Chinese and English, and Telugu, out of shortlist-embed.

    python bench/train/prune.py [VARIANT …] [--work DIR] [--passages 1000] [--queries 200]

Needs SHORTLIST_DATA (collections in BEIR layout, parallel-ntrex) and the fetched model. For each variant: `prune` on a sample
of other texts than those that are searched, then nDCG@10 of vectors alone, before and after, with `shortlist.Index`. Where a
collection has more passages than `--passages`, those that are judged relevant to a query that is run are kept and evenly spaced
others; the same for both models. What was measured stays in DIR for the next time. Writes bench/results/prune.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gzip
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

import shortlist as sl
from shortlist import measures
from shortlist.data import read_collection
from shortlist.engines import native
from shortlist.train.prune import prune
from shortlist.types import Passage, Qrels, Run

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
MODEL = "shortlist-embed"
# Passages and questions of these, at most so many passages of each; none of them is searched.
CHINESE_ENGLISH = ("cmrc2017-user", "csl-title", "mlqa-zh", "drcd-dev", "dureader-demo", "qed-nq", "tydi-en", "pubmedqa")
PER_COLLECTION = 1500


class Variant(NamedTuple):
    """A sample, options of `prune`, and the collections that are searched as NAME:SPLIT."""

    about: str
    sample: str
    options: dict[str, Any]
    searched: tuple[str, ...]


ZH_EN, TE = ("cmrc2018:test", "xquad-en:test"), ("tydi-te:dev",)
VARIANTS = {
    "zh-en": Variant("what the sample uses", "zh-en", {}, ()),
    "zh-en-cjk": Variant("and all of CJK", "zh-en", {"whole_scripts": ["CJK"]}, ZH_EN),
    "zh-en-cjk-5": Variant("used 5 times, all of CJK", "zh-en", {"whole_scripts": ["CJK"], "min_count": 5}, ZH_EN),
    "zh-en-cjk-int8": Variant("all of CJK, int8 table", "zh-en", {"whole_scripts": ["CJK"], "table": "int8"}, ZH_EN),
    "te": Variant("what the sample uses", "te", {}, TE),
    "te-telugu": Variant("and all of TELUGU", "te", {"whole_scripts": ["TELUGU"]}, TE),
    "te-telugu-int8": Variant("all of TELUGU, int8 table", "te", {"whole_scripts": ["TELUGU"], "table": "int8"}, TE),
    "te-own": Variant("what the searched passages use", "tydi-te", {}, TE),
}
SAMPLES = {
    "zh-en": f"at most {PER_COLLECTION:,} passages, and as many questions, of each of {', '.join(CHINESE_ENGLISH)}",
    "te": "the Telugu sentences of parallel-ntrex",
    "tydi-te": "the passages of tydi-te, without its questions",
}


def sample(name: str) -> Iterator[str]:
    """The texts that a vocabulary is trimmed to."""
    if name == "te":
        with gzip.open(DATA / "parallel-ntrex" / "te.txt.gz", "rt", encoding="utf-8") as file:
            yield from (line.strip() for line in file)
        return
    for collection in CHINESE_ENGLISH if name == "zh-en" else (name,):
        yield from (p.content for p in spaced(list(sl.read_passages(DATA / collection)), PER_COLLECTION))
        if name == "zh-en":
            yield from spaced(list(sl.read_queries(DATA / collection).values()), PER_COLLECTION)


def spaced(items: list[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced."""
    return items if len(items) <= count else [items[i * len(items) // count] for i in range(count)]


def searched(spec: str, passages: int, queries: int) -> tuple[list[Passage], dict[str, str], Qrels]:
    """Passages, queries and judgements of one split, no more than asked for."""
    name, split = spec.split(":")
    collection = read_collection(DATA / name, split)
    ids = spaced(sorted(collection.qrels), queries)
    qrels = Qrels({q: collection.qrels[q] for q in ids})
    relevant = {passage_id for judged in qrels.values() for passage_id in judged}
    corpus = list(collection.passages())
    others = spaced([p for p in corpus if p.id not in relevant], max(0, passages - len(relevant)))
    return [p for p in corpus if p.id in relevant] + others, {q: collection.queries[q] for q in ids}, qrels


def ndcg(encoder: sl.Encoder, spec: str, args: argparse.Namespace) -> dict[str, float]:
    """nDCG@10 of vectors alone on one split, with the number of passages and queries."""
    passages, queries, qrels = searched(spec, args.passages, args.queries)
    path = args.work / "index"
    shutil.rmtree(path, ignore_errors=True)
    run = Run()
    with sl.Index.create(path, encoder=encoder) as index:
        index.add(passages)
        for query_id, text in queries.items():
            run[query_id] = {hit.id: hit.score for hit in index.search(text, k=100, first="dense").hits}
    found = measures.evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"]
    return {"nDCG@10": found, "passages": len(passages), "queries": len(queries)}


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One variant: what `prune` says, and nDCG@10 on each of its collections."""
    variant, folder = VARIANTS[name], args.work / name
    shutil.rmtree(folder, ignore_errors=True)
    result = dataclasses.asdict(
        dataclasses.replace(prune(MODEL, folder, sample(variant.sample), **variant.options), by_language={})
    )
    result["folder"] = name
    by_language = json.loads((folder / "card.json").read_text(encoding="utf-8"))["pruned"]["loss"]
    encoder = sl.Encoder.load(folder)
    return result | {"by_language": by_language, "ndcg": {spec: ndcg(encoder, spec, args) for spec in variant.searched}}


def cached(name: str, args: argparse.Namespace, measure: Any) -> Any:
    """What `measure` says, or said the last time."""
    path = args.work / f"{name}.json"
    if not path.is_file():
        value = measure()
        path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    value = json.loads(path.read_text(encoding="utf-8"))
    print(name, json.dumps(value, ensure_ascii=False)[:300], flush=True)
    return value


def report(before: dict[str, dict[str, float]], after: dict[str, dict[str, Any]]) -> str:
    """The Markdown file."""
    specs = list(before)
    lines = [
        "# Trimmed vocabularies",
        "",
        f"{datetime.date.today()}, shortlist {sl.__version__}, tokenizers {tokenizers.__version__}, Python "
        f"{platform.python_version()}, kernels {native.chosen_instruction_set()}. `shortlist.train.prune` on {MODEL} (250,037 "
        "pieces, float16 table). MB are 10^6 bytes of weights (the body in float16: 43.5 MB) and tokenizer.json. Split "
        "differently and cosine: texts of the sample that had no say, int8 engine. nDCG@10: vectors alone, in parentheses the "
        "untrimmed model; of 200 queries one whose passage falls from first to second place is 0.0018. Made by "
        "`python bench/train/prune.py`.",
        "",
        *(f"- sample `{name}`: {about}" for name, about in SAMPLES.items()),
        *(f"- {spec}: {v['passages']:,} passages, {v['queries']} queries" for spec, v in before.items()),
        "",
        f"| folder | stays | texts | pieces | MB | split differently | cosine, mean | least | {' | '.join(specs)} |",
        "|" + " --- |" * (8 + len(specs)),
    ]
    for name, row in after.items():
        scores = [_score(row["ndcg"].get(spec), before[spec]) for spec in specs]
        lines.append(
            f"| {name} | {VARIANTS[name].about} | {row['texts']:,} | {row['pieces_after']:,} | {row['size_after'] / 1e6:.1f} | "
            f"{100 * row['tokens_changed']:.2f}% | {row['mean_cosine']:.4f} | {row['min_cosine']:.4f} | {' | '.join(scores)} |"
        )
    size = next(iter(after.values()))["size_before"] / 1e6
    lines += [f"| {MODEL} | everything | | 250,037 | {size:.1f} | | | |" + " |" * len(specs), "", "By language:", ""]
    lines += ["| folder | language | texts | tokens | split differently | cosine, mean | least |", "|" + " --- |" * 7]
    lines += [
        f"| {name} | {lang} | {loss['texts']} | {loss['tokens']:,} | {100 * loss['tokens_changed']:.2f}% | "
        f"{loss['mean_cosine']:.4f} | {loss['min_cosine']:.4f} |"
        for name, row in after.items()
        for lang, loss in row["by_language"].items()
        if loss["texts"] >= 20
    ]
    return "\n".join(lines) + "\n"


def _score(found: dict[str, float] | None, before: dict[str, float]) -> str:
    return "" if found is None else f"{found['nDCG@10']:.4f} ({before['nDCG@10']:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "shortlist-prune")
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "bench" / "results" / "prune.md")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    encoder = sl.Encoder.load(MODEL)
    specs = dict.fromkeys(spec for name in args.variants for spec in VARIANTS[name].searched)
    before = {s: cached(s.replace(":", "-"), args, lambda s=s: ndcg(encoder, s, args)) for s in specs}
    after = {name: cached(name, args, lambda name=name: measured(name, args)) for name in args.variants}
    args.output.write_text(report(before, after), encoding="utf-8")


if __name__ == "__main__":
    main()
