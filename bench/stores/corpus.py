"""What bench/index.py indexes and asks: passages, vectors, questions, and the right answers, made once and kept.

Passages are those of the English collections cut to 300 characters, then recombinations of one to three sentences of one
neighbourhood of a collection. Vectors are made, not encoded: clusters of very different sizes in a space whose directions
matter ever less, as they do in embeddings. Nothing here uses shortlist but for cutting sentences.
"""

from __future__ import annotations

import gzip
import json
import math
import pickle
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from shortlist.text import sentences, split_passages

COLLECTIONS = "squad-sent scifact npl tydi-en cacm cisi med pubmedqa qed-nq mlqa-en novel-eval xquad-en adi".split()
DIMS, K, QUESTIONS = 384, 100, 1000
SPARE = 64  # passages beyond the indexed ones, to be added one by one
CHECKED = 200  # questions whose ten best are compared with the formula
_PART = 20_000
_WORD = re.compile(r"[^\W_]+")

Words = Callable[[str], list[str]]


def words(text: str) -> list[str]:
    """What every engine's plain tokenizer makes of English text: runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


class Corpus:
    """The files of one size in a folder. `make` writes what is missing."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def make(self, data: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "passages.jsonl").exists():
            _write_passages(self.folder, data, self.count + SPARE)
        if not (self.folder / "vectors.npy").exists():
            _write_vectors(self.folder, self.count + SPARE)
        if not (self.folder / "nearest.npy").exists():
            np.save(self.folder / "nearest.npy", _nearest(self.vectors[: self.count], self.asked_vectors))

    def passages(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str, int]]:
        """(number, text, tag) of the passages start..stop-1, without `stop` all that are indexed at first."""
        stop = self.count if stop is None else stop
        with (self.folder / "passages.jsonl").open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                if number >= stop:
                    return
                if number >= start:
                    yield number, json.loads(line)["text"], number % 100

    @property
    def vectors(self) -> np.ndarray:
        """float32[count + SPARE, 384], memory-mapped."""
        return np.load(self.folder / "vectors.npy", mmap_mode="r")

    @property
    def asked(self) -> list[str]:
        return json.loads((self.folder / "questions.json").read_text())

    @property
    def asked_vectors(self) -> np.ndarray:
        return np.load(self.folder / "asked.npy")

    @property
    def nearest(self) -> np.ndarray:
        """int64[questions, 100], the right answers to the vectors."""
        return np.load(self.folder / "nearest.npy")

    def vector_blocks(self, rows: int = _PART) -> Iterator[tuple[int, np.ndarray]]:
        """(first, float32[n, 384]) of the indexed vectors."""
        vectors = self.vectors
        for start in range(0, self.count, rows):
            yield start, np.ascontiguousarray(vectors[start : min(start + rows, self.count)])


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _texts(data: Path, count: int) -> Iterator[str]:
    groups: list[list[str]] = []
    made = 0
    for name in COLLECTIONS:
        groups.append([])
        for row in _rows(data / name / "corpus.jsonl.gz"):
            text = f"{row.get('title', '')}\n{row['text']}".strip()
            groups[-1] += sentences(text, "en")
            for piece in split_passages(text, 300, "en"):
                if made < count:
                    yield piece
                made += 1
    rng = random.Random(7)
    sizes = [len(group) for group in groups]
    for _ in range(made, count):
        (group,) = rng.choices(groups, sizes)
        place = rng.randrange(len(group))
        yield " ".join(rng.choices(group[max(0, place - 50) : place + 50], k=rng.randint(1, 3)))


def _write_passages(folder: Path, data: Path, count: int) -> None:
    frequency: Counter[str] = Counter()
    draft = folder / "passages.new"
    with draft.open("w", encoding="utf-8") as out:
        for number, text in enumerate(_texts(data, count)):
            frequency.update(set(words(text)))
            row = {"id": f"p{number}", "text": text, "tag": number % 100}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    found = _questions(data, {word for word, times in frequency.items() if times > count / 50})
    (folder / "questions.json").write_text(json.dumps(found))
    draft.rename(folder / "passages.jsonl")


def _questions(data: Path, frequent: set[str]) -> list[str]:
    """Half of them two to four keywords (in less than 2% of the passages), half five to eight running words."""
    texts = [row["text"] for name in COLLECTIONS for row in _rows(data / name / "queries.jsonl.gz")]
    rng = random.Random(11)
    found: list[str] = []
    while len(found) < QUESTIONS:
        asked = words(rng.choice(texts))
        if len(found) % 2:
            keywords = [word for word in asked if word not in frequent]
            if len(keywords) >= 2:
                found.append(" ".join(rng.sample(keywords, min(len(keywords), rng.randint(2, 4)))))
        elif len(asked) >= 8:
            start = rng.randrange(len(asked) - 7)
            found.append(" ".join(asked[start : start + rng.randint(5, 8)]))
    return found


def _write_vectors(folder: Path, count: int) -> None:
    """Each is a cluster's centre and something of its own, seen through a spectrum that falls; the questions are made alike."""
    rng = np.random.default_rng(5)
    spectrum = (np.arange(1, DIMS + 1) ** -0.5).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((DIMS, DIMS)))[0].astype(np.float32)
    clusters = max(100, count // 50)
    centres = rng.standard_normal((clusters, DIMS), dtype=np.float32)
    weight = 1 / np.arange(10, clusters + 10)

    def some(number: int) -> np.ndarray:
        near = centres[rng.choice(clusters, number, p=weight / weight.sum())]
        made = ((near + 0.8 * rng.standard_normal((number, DIMS), dtype=np.float32)) * spectrum) @ turn
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    np.save(folder / "asked.npy", some(QUESTIONS))
    draft = folder / "vectors.new.npy"
    out = np.lib.format.open_memmap(draft, mode="w+", dtype=np.float32, shape=(count, DIMS))
    for start in range(0, count, _PART):
        out[start : start + _PART] = some(min(_PART, count - start))
    out.flush()
    draft.rename(folder / "vectors.npy")


def _nearest(vectors: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """int64[n, 100], the numbers of the vectors with the largest inner products, by brute force in float32, best first."""
    best = np.full((len(asked), K), -np.inf, np.float32)
    numbers = np.zeros((len(asked), K), np.int64)
    for start in range(0, len(vectors), _PART):
        scores = np.concatenate([best, asked @ vectors[start : start + _PART].T], axis=1)
        together = np.concatenate(
            [numbers, np.broadcast_to(np.arange(start, start + scores.shape[1] - K), (len(asked), scores.shape[1] - K))], axis=1
        )
        kept = np.argpartition(-scores, K, axis=1)[:, :K]
        best, numbers = np.take_along_axis(scores, kept, 1), np.take_along_axis(together, kept, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(numbers, order, 1)


class Formula:
    """BM25 by the formula, in float64 over every posting of the questions' words: the judge of an engine's ranking."""

    def __init__(self, corpus: Corpus, name: str, of: Words) -> None:
        """`name` says how texts are cut into words, which `of` does; what that gives is kept."""
        self._words, self._asked = of, corpus.asked[:CHECKED]
        path = corpus.folder / f"judge-{name}.pickle"
        if not path.exists():
            path.write_bytes(pickle.dumps(_postings(corpus, self._asked, of)))
        self._lengths, self._lists = pickle.loads(path.read_bytes())

    def scores(self, text: str, k1: float, b: float) -> np.ndarray:
        """float64[count]."""
        scores = np.zeros(len(self._lengths))
        for word, repeats in Counter(self._words(text)).items():
            at, tf = self._lists[word]
            idf = math.log1p((len(scores) - len(at) + 0.5) / (len(at) + 0.5))
            norm = k1 * (1 - b + b * self._lengths[at] / self._lengths.mean())
            scores[at] += repeats * idf * tf / (tf + norm)
        return scores

    def agreement(self, found: Sequence[Sequence[int]], k1: float, b: float, depth: int = 10) -> float:
        """Of the first `depth` answers to each question the share that belongs there; of equal scores any will do."""
        shares = []
        for text, numbers in zip(self._asked, found, strict=False):
            scores = self.scores(text, k1, b)
            most = min(depth, int(np.count_nonzero(scores)))
            if most:
                least = np.partition(scores, -most)[-most] * (1 - 1e-6)
                shares.append(sum(bool(scores[number] >= least) for number in numbers[:most]) / most)
        return float(np.mean(shares))


def _postings(corpus: Corpus, asked: Sequence[str], of: Words) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Words of each passage, and for each word asked for the passages that hold it and how often."""
    lists: dict[str, tuple[list[int], list[int]]] = {word: ([], []) for text in asked for word in of(text)}
    lengths = np.zeros(corpus.count)
    for number, text, _ in corpus.passages():
        found = of(text)
        lengths[number] = len(found)
        for word, times in Counter(word for word in found if word in lists).items():
            lists[word][0].append(number)
            lists[word][1].append(times)
    return lengths, {word: (np.array(at, np.int64), np.array(tf, np.float64)) for word, (at, tf) in lists.items()}
