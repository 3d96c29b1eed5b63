"""BM25 at a million passages: build, size, opening, and the time of a query beside tantivy and bm25s, in one run on one thread.

    SHORTLIST_DATA=../shared/data python bench/bm25_speed.py --work build/bm25 [--passages 1000000] [--engines tantivy,bm25s]

Passages: those of the English collections cut to 300 characters, then recombinations of one to three sentences of one
neighbourhood of a collection. Queries: 1,000 made of the collections' own, half of them two to four keywords (words in less
than 2% of the passages), half five to eight running words with stop words, all of them joined by OR. Every engine gets the
terms of `auto/2`. What is built is kept in --work and used again. The 100 best of every query are checked against the formula
summed up over every posting in float64.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import pickle
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from shortlist.analyze import analyzer
from shortlist.stores.postings import Bm25, Segment, invert, merge, write_segment
from shortlist.text import sentences, split_passages

COLLECTIONS = "squad-sent scifact npl tydi-en cacm cisi med pubmedqa qed-nq mlqa-en novel-eval xquad-en adi".split()
ANALYZER = analyzer("auto/2")
K1, B = 0.9, 0.4
CHUNK = 50_000
DEPTHS = (10, 100, 1000)

Terms = list[str]


def rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def passages(data: Path, count: int) -> Iterator[Terms]:
    """The terms of `count` passages, the same at every call."""
    groups: list[list[Terms]] = []
    made = 0
    for name in COLLECTIONS:
        groups.append([])
        for row in rows(data / name / "corpus.jsonl.gz"):
            text = f"{row.get('title', '')}\n{row['text']}".strip()
            groups[-1] += (ANALYZER.terms(sentence, "en") for sentence in sentences(text, "en"))
            for piece in split_passages(text, 300, "en"):
                if made < count:
                    yield ANALYZER.terms(piece, "en")
                made += 1
    rng = random.Random(7)
    sizes = [len(group) for group in groups]
    for _ in range(made, count):
        (group,) = rng.choices(groups, sizes)
        place = rng.randrange(len(group))
        near = group[max(0, place - 50) : place + 50]
        yield [term for sentence in rng.choices(near, k=rng.randint(1, 3)) for term in sentence]


def queries(data: Path, frequent: set[str], count: int = 1000) -> list[Terms]:
    texts = [row["text"] for name in COLLECTIONS for row in rows(data / name / "queries.jsonl.gz")]
    rng = random.Random(11)
    found: list[Terms] = []
    while len(found) < count:
        terms = ANALYZER.terms(rng.choice(texts), "en")
        if len(found) % 2:
            keywords = [term for term in terms if term not in frequent]
            if len(keywords) >= 2:
                found.append(rng.sample(keywords, min(len(keywords), rng.randint(2, 4))))
        elif len(terms) >= 8:
            start = rng.randrange(len(terms) - 7)
            found.append(terms[start : start + rng.randint(5, 8)])
    return found


def build_ours(folder: Path, data: Path, count: int) -> float:
    """Segments as a store writes them, merged into one; returns seconds of CPU without making the terms."""
    folder.mkdir(parents=True)
    spent, first, chunk, names = 0.0, 0, [], []
    for number, terms in enumerate(passages(data, count), 1):
        chunk.append(terms)
        if len(chunk) == CHUNK or number == count:
            began = time.process_time()
            names.append(folder / f"part-{first}")
            write_segment(names[-1], "bench", first, invert(chunk))
            spent += time.process_time() - began
            first, chunk = number, []
    began = time.process_time()
    write_segment(folder / "whole", "bench", 0, merge([Segment(name, "bench") for name in names]))
    for name in names:
        name.unlink()
    return spent + time.process_time() - began


def build_tantivy(folder: Path, data: Path, count: int) -> float:
    import tantivy

    folder.mkdir(parents=True)
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("terms", tokenizer_name="whitespace", index_option="freq")
    writer = tantivy.Index(schema.build(), path=str(folder)).writer(heap_size=500_000_000, num_threads=1)
    spent = 0.0
    for terms in passages(data, count):
        text = " ".join(terms)
        began = time.process_time()
        writer.add_document(tantivy.Document(terms=text))
        spent += time.process_time() - began
    began = time.process_time()
    writer.commit()
    writer.wait_merging_threads()
    return spent + time.process_time() - began


def open_tantivy(folder: Path) -> Callable[[Sequence[str], int], object]:
    import tantivy

    index = tantivy.Index.open(str(folder))
    schema, searcher = index.schema, index.searcher()

    def search(terms: Sequence[str], k: int) -> object:
        parts = [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "terms", term, "freq")) for term in terms]
        return searcher.search(tantivy.Query.boolean_query(parts), k, count=False).hits

    return search


def build_bm25s(folder: Path, data: Path, count: int) -> float:
    import bm25s

    numbers: dict[str, int] = {}
    ids = [[numbers.setdefault(term, len(numbers)) for term in terms] for terms in passages(data, count)]
    began = time.process_time()
    engine = bm25s.BM25(method="lucene", k1=K1, b=B)
    engine.index((ids, numbers), show_progress=False)
    engine.save(str(folder))
    return time.process_time() - began


def open_bm25s(folder: Path) -> Callable[[Sequence[str], int], object]:
    import bm25s

    engine = bm25s.BM25.load(str(folder), mmap=True)

    def search(terms: Sequence[str], k: int) -> object:
        return engine.retrieve([list(terms)], k=k, show_progress=False)

    return search


def exhaustive(segment: Segment, terms: Sequence[str]) -> np.ndarray:
    """float64[slots], by the formula."""
    scores = np.zeros(segment.count)
    average = segment.total / segment.count
    for term, times in Counter(terms).items():
        (place,) = segment.find([term.encode()])
        if place >= 0:
            found = segment.postings(place)
            idf = np.log1p((segment.count - len(found.slots) + 0.5) / (len(found.slots) + 0.5))
            tf = found.tf.astype(np.float64)
            scores[found.slots] += times * idf * tf / (tf + K1 * (1 - B + B * segment.lengths[found.slots] / average))
    return scores


def check(segment: Segment, engine: Bm25, asked: Sequence[Terms], k: int = 100) -> None:
    for terms in asked:
        slots, scores = engine.best(terms, k)
        exact = exhaustive(segment, terms)
        np.testing.assert_allclose(scores, exact[slots], rtol=1e-5, err_msg=" ".join(terms))
        least = np.partition(exact, -k)[-k]
        missed = set(np.flatnonzero(exact > max(least, 0) * (1 + 1e-5))) - set(slots.tolist())
        assert not missed, f"{terms}: {sorted(missed)}"


def timings(search: Callable[[Sequence[str], int], object], asked: Sequence[Terms], k: int, rounds: int) -> str:
    """p50 and p99 in milliseconds over the queries, of each the best of some rounds, and queries a second."""
    best = np.full(len(asked), np.inf)
    for _ in range(rounds):
        for number, terms in enumerate(asked):
            began = time.perf_counter()
            search(terms, k)
            best[number] = min(best[number], time.perf_counter() - began)
    return f"{np.quantile(best, 0.5) * 1e3:.2f} / {np.quantile(best, 0.99) * 1e3:.2f} ({1 / best.mean():.0f})"


def size_mb(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def engine_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def prepared(work: Path, data: Path, count: int) -> tuple[Segment, list[Terms], float, float]:
    folder = work / f"shortlist-{count}"
    spent = float("nan") if folder.exists() else build_ours(folder, data, count)
    began = time.perf_counter()
    segment = Segment(folder / "whole", "bench")
    opened = time.perf_counter() - began
    asked = work / f"queries-{count}.pickle"
    if not asked.exists():
        words = [bytes(segment._bytes[segment._offsets[i] : segment._offsets[i + 1]]) for i in range(len(segment._starts) - 1)]
        frequent = {words[i].decode() for i in np.flatnonzero(np.diff(segment._starts.astype(np.int64)) > count / 50)}
        asked.write_bytes(pickle.dumps(queries(data, frequent)))
    return segment, pickle.loads(asked.read_bytes()), spent, opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bm25"))
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--engines", default="tantivy,bm25s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checked", type=int, default=1000, help="queries compared with the formula")
    options = parser.parse_args()
    data = Path(os.environ.get("SHORTLIST_DATA", "../shared/data"))
    segment, asked, spent, opened = prepared(options.work, data, options.passages)
    searches: dict[str, Callable[[Sequence[str], int], object]] = {}
    engine = Bm25([segment], np.zeros(segment.count, np.uint8), K1, B)
    searches["shortlist"] = engine.best
    built = {"shortlist": (spent, size_mb(options.work / f"shortlist-{options.passages}"), opened)}
    for name in filter(None, options.engines.split(",")):
        if not engine_version(name):
            continue
        folder = options.work / f"{name}-{options.passages}"
        make, load = {"tantivy": (build_tantivy, open_tantivy), "bm25s": (build_bm25s, open_bm25s)}[name]
        spent = float("nan") if folder.exists() else make(folder, data, options.passages)
        began = time.perf_counter()
        searches[name] = load(folder)
        built[name] = (spent, size_mb(folder), time.perf_counter() - began)
    versions = ", ".join(f"{name} {engine_version(name)}" for name in ("numpy", "tantivy", "bm25s") if engine_version(name))
    print(f"{datetime.date.today()}, {versions}; {segment.count:,} passages, {segment.total / segment.count:.1f} terms each\n")
    columns = "build, CPU s | MB | open ms | top 10 ms p50 / p99 (QPS) | top 100 | top 1000 | keywords, top 100 | running words"
    print(f"| engine | {columns} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, search in searches.items():
        seconds, size, opening = built[name]
        cells = [timings(search, asked, k, options.rounds) for k in DEPTHS]
        cells += [timings(search, asked[kind::2], 100, options.rounds) for kind in (1, 0)]
        print(f"| {name} | {seconds:.1f} | {size:.0f} | {opening * 1e3:.0f} | {' | '.join(cells)} |", flush=True)
    for share in (0.01, 0.5):
        hidden = (np.random.default_rng(3).random(segment.count) >= share).astype(np.uint8)
        found = timings(lambda terms, k, mask=hidden: engine.best(terms, k, mask), asked, 100, options.rounds)
        print(f"\nfilter that leaves {share:.0%}, top 100: {found}")
    dead = (np.random.default_rng(4).random(segment.count) < 0.001).astype(np.uint8)
    began = time.perf_counter()
    after = Bm25([segment], dead, K1, B)
    spent = 1e3 * (time.perf_counter() - began)
    print(f"\n0.1% deleted: {spent:.2f} ms after the commit; queries for the first time: {timings(after.best, asked, 100, 1)}")
    check(segment, engine, asked[: options.checked])
    print(f"\n{min(options.checked, len(asked))} rankings checked against the formula.")


if __name__ == "__main__":
    main()
