"""nDCG@10 of exact BM25 (Lucene's formula, k1 = 0.9, b = 0.4) for analyzers over every judged split of the shared collections.

    SHORTLIST_DATA=../shared/data python bench/analyzers.py                        # every split, both analyzers
    python bench/analyzers.py --splits tydi-ko:dev,scifact:test --analyzers auto/2

Languages are detected per passage and queries analysed for all languages found in the passages, as an index does; with
`--given` the collection's own language is used. At most `--queries` queries a split, evenly spaced. Beside each value stands
the one of the table in SHORTLIST_DATA/README.md ("published", another sample of queries) and what is missing to it, in standard
errors of the mean over queries.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np

from shortlist.analyze import analyzer
from shortlist.text import clean, detect_languages

LANGUAGES = {
    "amqa": "am", "cmrc2017-user": "zh", "cmrc2018": "zh", "csl-title": "zh", "drcd-dev": "zh", "dureader-demo": "zh",
    "facqa": "id", "faquad": "pt", "heq": "he", "iapp-thai": "th", "jaquad": "ja", "kazqad-rc": "kk", "miracl-yo": "yo",
    "norquad": "no",
    "piaf": "fr", "pquad": "fa", "squad-es-dev": "es", "squad-it-dev": "it", "arcd": "ar", "afriqa": "", "xquad-r": "",
}  # fmt: skip
"""Language of a collection; of the others it stands at the end of the name (tydi-ko), or it is English."""

Forms = Callable[[str], Sequence[Sequence[str]]]


def rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def published(data: Path) -> dict[str, float]:
    """ "collection:split" -> BM25 nDCG@10, from the table in the data's README."""
    table = {}
    for line in (data / "README.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 11 and cells[7][:2] in ("0.", "1."):
            table[f"{cells[1]}:{cells[4]}"] = float(cells[7])
    return table


def language(folder: str) -> str:
    if folder in LANGUAGES:
        return LANGUAGES[folder]
    return folder.rpartition("-")[2] if folder.startswith(("tydi-", "mlqa-", "xquad-")) else "en"


class Collection:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids, self.texts = [], []
        for row in rows(folder / "corpus.jsonl.gz"):
            self.ids.append(row["_id"])
            self.texts.append(f"{row.get('title', '')}\n{row['text']}".strip())

    def split(self, name: str, most_queries: int) -> Split:
        qrels: dict[str, dict[str, int]] = {}
        for line in (self.folder / "qrels" / f"{name}.tsv").read_text("utf-8").splitlines()[1:]:
            query, passage, grade = line.split("\t")
            qrels.setdefault(query, {})[passage] = int(grade)
        judged = [row for row in rows(self.folder / "queries.jsonl.gz") if row["_id"] in qrels]
        take = np.linspace(0, len(judged) - 1, min(most_queries, len(judged))).round().astype(int)
        return Split({judged[i]["_id"]: judged[i]["text"] for i in take}, qrels)


@dataclass(frozen=True)
class Split:
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


class Bm25:
    """Exact BM25 over lists of terms: idf = ln(1 + (n - df + 0.5) / (df + 0.5)), tf / (tf + k1 (1 - b + b dl / avgdl))."""

    def __init__(self, passages: Iterable[Sequence[str]], k1: float = 0.9, b: float = 0.4) -> None:
        self.vocabulary: dict[str, int] = {}
        term, tf, doc, lengths = [], [], [], []
        for number, terms in enumerate(passages):
            lengths.append(len(terms))
            for word, times in Counter(terms).items():
                term.append(self.vocabulary.setdefault(word, len(self.vocabulary)))
                tf.append(times)
                doc.append(number)
        order = np.argsort(np.array(term), kind="stable")
        self.doc = np.array(doc)[order]
        length = np.array(lengths, dtype=np.float64)
        self.df = np.bincount(term, minlength=len(self.vocabulary))
        times = np.array(tf, dtype=np.float64)[order]
        norm = k1 * (1 - b + b * length / length.mean())
        self.saturation = times / (times + norm[self.doc])
        self.starts = np.concatenate([[0], np.cumsum(self.df)])
        self.size = len(length)

    def scores(self, query: Iterable[Sequence[str]]) -> np.ndarray:
        """The forms of a word (`Analyzer.query_forms`) have one df, the sum of theirs."""
        scores = np.zeros(self.size)
        for forms in query:
            numbers = [self.vocabulary[form] for form in forms if form in self.vocabulary]
            df = min(sum(self.df[number] for number in numbers), self.size)
            idf = np.log(1 + (self.size - df + 0.5) / (df + 0.5))
            for number in numbers:
                part = slice(self.starts[number], self.starts[number + 1])
                scores[self.doc[part]] += idf * self.saturation[part]
        return scores


def ndcg(bm25: Bm25, ids: Sequence[str], split: Split, query_forms: Forms, k: int = 10) -> np.ndarray:
    """nDCG@k of every query; ties go to the passage whose id comes first."""
    names = np.array(ids)
    values = []
    for query, text in split.queries.items():
        scores = bm25.scores(query_forms(text))
        best = np.flatnonzero(scores >= np.partition(scores, -k)[-k]) if len(scores) > k else np.arange(len(scores))
        best = best[np.lexsort((names[best], -scores[best]))][:k]
        gains = [max(split.qrels[query].get(names[i], 0), 0) if scores[i] > 0 else 0 for i in best]
        ideal = sorted((g for g in split.qrels[query].values() if g > 0), reverse=True)[:k]
        discount = 1 / np.log2(np.arange(2, k + 2))
        values.append(np.dot(gains, discount[: len(gains)]) / max(np.dot(ideal, discount[: len(ideal)]), 1e-12))
    return np.array(values)


def built(collection: Collection, name: str, given: str | None) -> tuple[Bm25, Forms]:
    """BM25 over the collection and the analysis of queries to it."""
    analysis = analyzer(name)
    langs = [given] * len(collection.texts) if given is not None else detected(collection.texts)
    found = sorted(set(langs))
    bm25 = Bm25(analysis.terms(text, lang) for text, lang in zip(collection.texts, langs, strict=True))
    return bm25, lambda text: analysis.query_forms(text, found)


def detected(texts: Sequence[str], batch: int = 2000) -> list[str]:
    """Languages as an index finds them that gets the texts in order."""
    langs: list[str] = []
    for start in range(0, len(texts), batch):
        langs += detect_languages(texts[start : start + batch], Counter(langs))
    return langs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--analyzers", default="plain/1,auto/2")
    parser.add_argument("--splits", default="", help="collection:split,...; every one of the table if not given")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--given", action="store_true", help="use the collection's language, do not detect it")
    options = parser.parse_args()
    data = Path(os.environ.get("SHORTLIST_DATA", "../shared/data"))
    table = published(data)
    wanted = options.splits.split(",") if options.splits else list(table)
    names = options.analyzers.split(",")
    print(f"{datetime.date.today()}, numpy {np.__version__}, PyStemmer {version('PyStemmer')}, queries <= {options.queries}, "
          f"languages {'given' if options.given else 'detected'}\n")  # fmt: skip
    print(f"| split | queries | published | {' | '.join(names)} | {names[-1]} below published | MB/s {names[-1]} |")
    print(f"| --- | ---: | ---: |{' ---: |' * (len(names) + 2)}")
    for folder, group in groupby(wanted, key=lambda key: key.split(":")[0]):
        collection = Collection(data / folder)
        lang = language(folder) if options.given else None
        indexes = [built(collection, name, lang) for name in names]
        rate = speed(collection, names[-1], language(folder))
        for key in group:
            split = collection.split(key.split(":")[1], options.queries)
            values = [ndcg(bm25, collection.ids, split, terms) for bm25, terms in indexes]
            means = " | ".join(f"{value.mean():.4f}" for value in values)
            target = table.get(key, float("nan"))
            missing = (
                f"{target - values[-1].mean():.4f} ({shortfall(target, values[-1]):.1f} s.e.)"
                if values[-1].mean() < target
                else ""
            )
            print(f"| {key} | {len(split.queries)} | {target:.4f} | {means} | {missing} | {rate:.1f} |", flush=True)


def shortfall(target: float, values: np.ndarray) -> float:
    """How many standard errors of its mean `values` is below `target`."""
    return (target - values.mean()) / max(values.std() / math.sqrt(len(values)), 1e-12)


def speed(collection: Collection, name: str, lang: str) -> float:
    """Megabytes of UTF-8 a second on one core, analysed and counted, what is known of words warm from the first half."""
    analysis = analyzer(name)
    texts = [clean(text) for text in collection.texts[:2000]]
    for text in texts[: len(texts) // 2]:
        analysis.count(text, lang, analysis.inversion())
    counts = analysis.inversion()
    began = time.process_time()
    for text in texts:
        analysis.count(text, lang, counts)
    return sum(len(text.encode()) for text in texts) / 1e6 / max(time.process_time() - began, 1e-9)


if __name__ == "__main__":
    main()
