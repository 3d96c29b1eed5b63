"""The texts of the comparison, the same on every run: passages cut to wanted lengths, long ones, Chinese ones, questions."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from peers.rates import lengths_around
from shortlist.data import read_passages, read_queries

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
POLYGLOT = ROOT / "examples" / "polyglot"
LONGEST = 512  # tokens that the bodies read


@dataclass(frozen=True)
class Texts:
    """What is encoded and reranked.

    passages     lengths of MS MARCO's: mean 76 tokens, 20 to 200
    long         512 tokens each
    chinese      passages of Chinese Wikipedia as they are
    questions    MS MARCO's and Chinese ones
    calibration  600 others, English and Chinese in turn, for the engines that quantise with samples
    source       where they come from, in words
    """

    passages: list[str]
    long: list[str]
    chinese: list[str]
    questions: list[str]
    chinese_questions: list[str]
    calibration: list[str]
    source: str

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Texts:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def choose(tokenizer: Path, passages: int, long: int, chinese: int) -> Texts:
    """So many texts of each kind. `tokenizer` (tokenizer.json of the English body) measures their lengths."""
    backend = Tokenizer.from_file(str(tokenizer))
    backend.no_truncation()
    backend.no_padding()
    english, chinese_pool, questions, chinese_questions, source = _pools()
    return Texts(
        passages=[_beginning(backend, english, length) for length in _mixed_lengths(passages)],
        long=[_beginning(backend, english, LONGEST) for _ in range(long)],
        chinese=list(itertools.islice(chinese_pool, chinese)),
        questions=questions,
        chinese_questions=chinese_questions,
        calibration=[
            text
            for length in _mixed_lengths(300)
            for text in (_beginning(backend, english, length), next(chinese_pool)[: 3 * length])
        ],
        source=source,
    )


def _mixed_lengths(count: int) -> list[int]:
    """In an order that gives any beginning of the list the mixture of the whole."""
    lengths = lengths_around(count)
    random.Random(1).shuffle(lengths)
    return lengths


def _pools() -> tuple[Iterator[str], Iterator[str], list[str], list[str], str]:
    """English text, Chinese text (both without end), English and Chinese questions, and where they come from."""
    if (DATA / "scifact").is_dir() and (DATA / "cmrc2018").is_dir():
        english = [p.content for p in read_passages(DATA / "scifact")]
        chinese = [p.content for p in read_passages(DATA / "cmrc2018")]
        asked = list(read_queries(DATA / "msmarco-topics" / "topics.dl19-passage.txt").values())
        chinese_asked = list(itertools.islice(read_queries(DATA / "cmrc2018" / "queries.jsonl.gz").values(), len(asked)))
        return (
            _every(english),
            _every(chinese),
            asked,
            chinese_asked,
            "scifact, cmrc2018; questions of TREC DL 2019 and cmrc2018",
        )
    found = list(read_passages(POLYGLOT))
    queries = read_queries(POLYGLOT / "queries.jsonl")
    english, chinese = ([p.content for p in found if p.lang == lang] for lang in ("en", "zh"))
    asked, chinese_asked = ([q for i, q in queries.items() if i.startswith(lang)] for lang in ("en", "zh"))
    return _every(english), _every(chinese), asked, chinese_asked, "examples/polyglot"


def _every(texts: list[str]) -> Iterator[str]:
    """All texts in an order that mixes them, again and again."""
    order = list(range(len(texts)))
    random.Random(2).shuffle(order)
    return itertools.cycle([texts[i] for i in order])


def _beginning(tokenizer: Tokenizer, pool: Iterator[str], tokens: int) -> str:
    """The first tokens of the pool's next text, so that with [CLS] and [SEP] it has `tokens`; a short one is continued."""
    text = next(pool)
    while len(offsets := tokenizer.encode(text, add_special_tokens=False).offsets) < tokens - 2:
        text += " " + next(pool)
    return text[: offsets[tokens - 3][1]]
