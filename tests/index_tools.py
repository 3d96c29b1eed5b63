"""What the suites of the index share: a small real encoder, passages, and the naive formulas that judge."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from shortlist.types import FloatArray, IntArray, Passage

_WORDS = """
en the river city mountain bridge museum library planet engine ocean forest market winter garden of and is in near
de der fluss die stadt das museum und berg brücke bücherei garten winter nicht ist im markt häuser häusern
zh 北京 大学 图书馆 河流 城市 博物馆 的 在 是 山 桥 花园 冬天 市场
ar النهر المدينة الجبل الجسر المتحف في من المكتبة الشتاء السوق
"""
WORDS = {lang: words for lang, *words in map(str.split, _WORDS.strip().splitlines())}


class HashEncoder:
    """Character trigrams, hashed to signs of `dims` sums, normalised: similar texts get similar vectors."""

    def __init__(self, dims: int = 48, name: str = "hash-trigrams", max_chars: int = 2000) -> None:
        self.name, self.address, self.dims, self.max_chars = name, name, dims, max_chars
        self.fingerprint = f"{zlib.crc32(f'{name} {dims}'.encode()):08x}" * 8
        self.encoded, self.matryoshka = 0, ()

    def encode_counted(
        self, texts: Sequence[str], *, kind: str = "", progress: Callable[[int, int | None], None] | None = None
    ) -> tuple[FloatArray, IntArray]:
        vectors = np.zeros((len(texts), self.dims), dtype=np.float32)
        for row, text in enumerate(texts):
            kept = f" {text[: self.max_chars].lower()} "
            for gram in {kept[i : i + 3] for i in range(len(kept) - 2)}:
                number = zlib.crc32(gram.encode())
                vectors[row, number % self.dims] += 1 if number & 0x10000 else -1
        self.encoded += len(texts)
        if progress is not None:
            progress(len(texts), len(texts))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        cut = np.array([max(0, len(text) - self.max_chars) for text in texts], dtype=np.int32)
        return vectors / np.where(lengths > 0, lengths, 1), cut


def passages(count: int, *, seed: int = 0, prefix: str = "p") -> list[Passage]:
    """Passages in four languages with repeated words, some titles and some metadata; the same for the same seed."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        lang = rng.choice(list(WORDS))
        text = " ".join(rng.choices(WORDS[lang], k=rng.randint(3, 30)))
        title = rng.choice(WORDS[lang]) if rng.random() < 0.3 else ""
        made.append(Passage(f"{prefix}{number}", text, title, lang, {"n": number} if number % 2 else {}))
    return made


def naive_bm25(texts: dict[str, list[str]], query: Sequence[str], k1: float, b: float) -> list[tuple[str, float]]:
    """The formula, word for word, in float64: (id, score) of all texts that hold a term, best first, ties by id."""
    average = sum(map(len, texts.values())) / max(1, len(texts))
    holding = {term: sum(term in set(terms) for terms in texts.values()) for term in set(query)}
    scores = {}
    for name, terms in texts.items():
        counts = Counter(terms)
        parts = [
            math.log(1 + (len(texts) - holding[term] + 0.5) / (holding[term] + 0.5))
            * counts[term]
            / (counts[term] + k1 * (1 - b + b * len(terms) / average))
            for term in query
            if counts[term]
        ]
        if parts:
            scores[name] = sum(parts)
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))


def assert_same_ranking(
    found: list[tuple[str, float]], expected: list[tuple[str, float]], k: int, tolerance: float = 1e-5
) -> None:
    """The scores agree place by place, and every found id has the score that the judge gives it."""
    assert len(found) == min(k, len(expected))
    assert len({name for name, _ in found}) == len(found)
    by_id = dict(expected)
    for (name, score), (_, wanted) in zip(found, expected, strict=False):
        assert math.isclose(score, wanted, rel_tol=tolerance, abs_tol=tolerance)
        assert math.isclose(score, by_id[name], rel_tol=tolerance, abs_tol=tolerance)
