"""nDCG@10 of exact BM25 (Lucene's formula, k1 = 0.9, b = 0.4) for analyzers over the shared collections.

    SHORTLIST_DATA=../shared/data python bench/analyzers.py                        # every collection, both analyzers
    python bench/analyzers.py --collections tydi-ko:dev,scifact:test --analyzers auto/1

Languages are those of the collections; `--detect` has them detected per passage instead and analyses queries for all
languages found in the passages, as an index does. At most `--queries` queries a split, evenly spaced.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from shortlist.analyze import analyzer
from shortlist.text import detect_language

COLLECTIONS = {
    "scifact:test": "en", "scifact:train": "en", "tydi-en:dev": "en", "cmrc2018:test": "zh", "dureader-demo:dev": "zh",
    "drcd-dev:dev": "zh", "xquad-zh:test": "zh", "jaquad:dev": "ja", "iapp-thai:dev": "th",
    "tydi-ko:train": "ko", "tydi-ko:dev": "ko",
    "tydi-ar:dev": "ar", "mlqa-ar:dev": "ar", "xquad-ar:test": "ar", "tydi-fi:dev": "fi", "tydi-ru:dev": "ru",
    "tydi-te:dev": "te", "tydi-bn:dev": "bn", "mlqa-hi:dev": "hi", "tydi-sw:dev": "sw", "tydi-id:dev": "id",
    "facqa:dev": "id", "xquad-es:test": "es", "mlqa-es:dev": "es", "xquad-de:test": "de", "mlqa-de:dev": "de",
    "xquad-el:test": "el", "xquad-tr:test": "tr", "xquad-vi:test": "vi", "mlqa-vi:dev": "vi", "xquad-ro:test": "ro",
    "piaf:test": "fr", "squad-it-dev:test": "it", "faquad:dev": "pt", "norquad:dev": "no", "heq:dev": "he", "pquad:dev": "fa",
    "kazqad-rc:dev": "kk", "amqa:dev": "am", "miracl-yo:dev": "yo",
}  # fmt: skip

Terms = Callable[[str], Sequence[str]]


def rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


class Collection:
    def __init__(self, folder: Path, split: str, most_queries: int) -> None:
        self.ids, self.texts = [], []
        for row in rows(folder / "corpus.jsonl.gz"):
            self.ids.append(row["_id"])
            self.texts.append(f"{row.get('title', '')}\n{row['text']}".strip())
        self.qrels: dict[str, dict[str, int]] = {}
        for line in (folder / "qrels" / f"{split}.tsv").read_text("utf-8").splitlines()[1:]:
            query, passage, grade = line.split("\t")
            self.qrels.setdefault(query, {})[passage] = int(grade)
        judged = [row for row in rows(folder / "queries.jsonl.gz") if row["_id"] in self.qrels]
        take = np.linspace(0, len(judged) - 1, min(most_queries, len(judged))).round().astype(int)
        self.queries = {judged[i]["_id"]: judged[i]["text"] for i in take}


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
        df = np.bincount(term, minlength=len(self.vocabulary))
        idf = np.log(1 + (len(length) - df + 0.5) / (df + 0.5))
        times = np.array(tf, dtype=np.float64)[order]
        norm = k1 * (1 - b + b * length / length.mean())
        self.weight = idf[np.array(term)[order]] * times / (times + norm[self.doc])
        self.starts = np.concatenate([[0], np.cumsum(df)])
        self.size = len(length)

    def scores(self, terms: Iterable[str]) -> np.ndarray:
        scores = np.zeros(self.size)
        for word in terms:
            number = self.vocabulary.get(word)
            if number is not None:
                part = slice(self.starts[number], self.starts[number + 1])
                scores[self.doc[part]] += self.weight[part]
        return scores


def ndcg(collection: Collection, passage_terms: Terms, query_terms: Terms, k: int = 10) -> float:
    """Mean nDCG@k; ties go to the passage whose id comes first."""
    bm25 = Bm25(passage_terms(text) for text in collection.texts)
    names = np.array(collection.ids)
    values = []
    for query, text in collection.queries.items():
        scores = bm25.scores(query_terms(text))
        best = np.flatnonzero(scores >= np.partition(scores, -k)[-k]) if len(scores) > k else np.arange(len(scores))
        best = best[np.lexsort((names[best], -scores[best]))][:k]
        gains = [max(collection.qrels[query].get(names[i], 0), 0) if scores[i] > 0 else 0 for i in best]
        ideal = sorted((g for g in collection.qrels[query].values() if g > 0), reverse=True)[:k]
        discount = 1 / np.log2(np.arange(2, k + 2))
        values.append(np.dot(gains, discount[: len(gains)]) / max(np.dot(ideal, discount[: len(ideal)]), 1e-12))
    return float(np.mean(values))


def measure(collection: Collection, name: str, lang: str, detect: bool) -> float:
    analysis = analyzer(name)
    if not detect:
        return ndcg(collection, lambda text: analysis.terms(text, lang), lambda text: analysis.query_terms(text, [lang]))
    langs = {text: detect_language(text) for text in collection.texts}
    found = sorted(set(langs.values()))
    return ndcg(collection, lambda text: analysis.terms(text, langs[text]), lambda text: analysis.query_terms(text, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--analyzers", default="plain/1,auto/1")
    parser.add_argument("--collections", default=",".join(COLLECTIONS))
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--detect", action="store_true")
    options = parser.parse_args()
    data = Path(os.environ.get("SHORTLIST_DATA", "../shared/data"))
    names = options.analyzers.split(",")
    print(f"{datetime.date.today()}, numpy {np.__version__}, PyStemmer {version('PyStemmer')}, queries <= {options.queries}"
          f"{', languages detected' if options.detect else ''}\n")  # fmt: skip
    print(f"| collection | lang | queries | {' | '.join(names)} | MB/s {names[-1]} |")
    print(f"| --- | --- | ---: |{' ---: |' * (len(names) + 1)}")
    for key in options.collections.split(","):
        folder, split = key.split(":")
        lang = COLLECTIONS[key]
        collection = Collection(data / folder, split, options.queries)
        values = [f"{measure(collection, name, lang, options.detect):.4f}" for name in names]
        rate = speed(collection, names[-1], lang)
        print(f"| {key} | {lang} | {len(collection.queries)} | {' | '.join(values)} | {rate:.1f} |", flush=True)


def speed(collection: Collection, name: str, lang: str) -> float:
    """Megabytes of UTF-8 a second on one core, stemming caches warm from one pass over the first half."""
    analysis = analyzer(name)
    texts = collection.texts[:2000]
    for text in texts[: len(texts) // 2]:
        analysis.terms(text, lang)
    began = time.process_time()
    for text in texts:
        analysis.terms(text, lang)
    return sum(len(text.encode()) for text in texts) / 1e6 / max(time.process_time() - began, 1e-9)


if __name__ == "__main__":
    main()
