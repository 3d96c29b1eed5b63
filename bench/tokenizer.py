"""Token ids and speed of the native Unigram tokenizer against the tokenizers library, on a million lines.

    nice -n 10 python bench/tokenizer.py [--mixed 100000]

Needs SHORTLIST_DATA and the fetched `shortlist-embed`. Reads every passage and query of every collection, both parallel
corpora, and lines mixed at random from these and from hostile characters. One thread. Prints and writes
bench/results/tokenizer.md.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the library is loaded: one thread on both sides

from tokenizers import Tokenizer as Backend

import shortlist
from shortlist import models
from shortlist.tokens import _Library, _Native, _read

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
LONGEST, BATCH = 150, 5000
NATIVE = "from pathlib import Path; from shortlist.tokens import _read; _read(Path({!r})).ids(['a'])"
LIBRARY = "import tokenizers; tokenizers.Tokenizer.from_file({!r}).encode('a')"
PARSED = "import shortlist.tokens as t; t.open_compiled = t.compile_tokenizer = lambda *_: None; "
VECTOR = "from shortlist.encoder import Encoder; Encoder.load('shortlist-embed').encode(['hello'])"


def cut(text: str) -> Iterator[str]:
    """Lines of at most LONGEST characters, cut wherever that is."""
    for line in text.split("\n"):
        yield from (line[i : i + LONGEST] for i in range(0, len(line), LONGEST))


def collections() -> Iterator[str]:
    for path in sorted(DATA.glob("*/*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                yield from cut(f"{row.get('title') or ''}\n{row['text']}")


def parallel() -> Iterator[str]:
    for path in sorted([*DATA.glob("parallel-*/*.txt.gz"), *DATA.glob("parallel-*/*.tsv.gz")]):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield from cut(line.rstrip("\n"))


def mixed(count: int) -> Iterator[str]:
    """Slices of lines of all languages, joined with characters from anywhere in Unicode and with names of special tokens."""
    draw = random.Random(1)
    pool = list(islice(parallel(), 0, None, 7))
    odd = [*"▁©™ﬁ\u200d\ufe0f\u3000\0\x01\u0301\u0327\u093c", "</s>", "<mask>", "\r\n"]

    def character() -> str:
        code = draw.choice([draw.randrange(end) for end in (0x370, 0x3000, 0x20000, 0x10F800)])
        return chr(code if code < 0xD800 else code + 0x800)

    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 6)):
            line = draw.choice(pool)
            start = draw.randrange(len(line))
            parts += [line[start : start + draw.randint(1, 20)], draw.choice([draw.choice(odd), character(), " ", ""])]
        yield "".join(parts)


def compare(native: _Native, library: _Library, lines: Iterable[str]) -> tuple[int, int, int, int]:
    """(lines, characters, tokens, lines with other ids)."""
    total = characters = tokens = different = 0
    source = iter(lines)
    while batch := list(islice(source, BATCH)):
        ours, theirs = native.ids(batch), library.ids(batch)
        total, characters, tokens = total + len(batch), characters + sum(map(len, batch)), tokens + sum(map(len, theirs))
        for line, a, b in zip(batch, ours, theirs, strict=True):
            if a != b:
                different += 1
                print("different:", ascii(line), a, b)
    return total, characters, tokens, different


def speed(tokenizer: _Native | _Library, lines: list[str], rounds: int = 3) -> float:
    """Tokens a second of the processor's time, the best round."""
    best, tokens = float("inf"), 0
    for _ in range(rounds):
        start = process_time()
        tokens = sum(map(len, tokenizer.ids(lines)))
        best = min(best, process_time() - start)
    return tokens / best


def process_ms(code: str, rounds: int = 7, home: str = "") -> tuple[float, float]:
    """Milliseconds of a whole Python process, from its start to its end: the least on the clock, the least of the processor."""
    environment = {**os.environ, **({"SHORTLIST_HOME": home} if home else {})}
    clock, processor = [], []
    for _ in range(rounds):
        start = perf_counter()
        child = subprocess.Popen([sys.executable, "-c", code], env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        clock.append(perf_counter() - start)
        processor.append(usage.ru_utime + usage.ru_stime)
        if status:
            raise SystemExit(f"failed: {code}")
    return 1000 * min(clock), 1000 * min(processor)


def starts(path: str) -> list[str]:
    """Rows of the table of whole processes."""
    with tempfile.TemporaryDirectory() as empty:
        first = process_ms(NATIVE.format(path), 1, empty)
    rows = {
        "numpy alone": process_ms("import numpy"),
        "ids, tokenizers library alone": process_ms(LIBRARY.format(path)),
        "ids, native": process_ms(NATIVE.format(path)),
        "ids, native, the first time (compiles)": first,
        "vector of shortlist-embed, tokenizers library": process_ms(PARSED + VECTOR),
        "vector of shortlist-embed, native": process_ms(VECTOR),
    }
    return [f"| {name} | {clock:.0f} | {processor:.0f} |" for name, (clock, processor) in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixed", type=int, default=100_000)
    args = parser.parse_args()
    path = models.resolve("shortlist-embed") / "tokenizer.json"
    native, library = _read(path), _Library(Backend.from_file(str(path)))
    if not isinstance(native, _Native):
        raise SystemExit(f"{path} is not of the form that the native tokenizer reads")
    rows = []
    for name, lines in (("collections", collections()), ("parallel corpora", parallel()), ("mixed", mixed(args.mixed))):
        rows.append((name, *compare(native, library, lines)))
        print(rows[-1], flush=True)
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))
    sample = list(islice(parallel(), 0, None, 9))
    ours, theirs = speed(native, sample), speed(library, sample)
    table = [f"| {name} | {' | '.join(f'{n:,}' for n in numbers)} |" for name, *numbers in rows]
    page = [
        "# Native Unigram tokenizer against the tokenizers library",
        "",
        f"{datetime.date.today()}, shortlist {shortlist.__version__}, tokenizers {importlib.metadata.version('tokenizers')}, "
        f"Python {platform.python_version()}, shortlist-embed (250,002 pieces). Lines are cut at {LONGEST} characters. One "
        "thread. Made by `python bench/tokenizer.py`.",
        "",
        "| text | lines | characters | tokens | lines with other ids |",
        "| --- | --- | --- | --- | --- |",
        *table,
        "",
        f"Speed on {len(sample):,} lines in 48 languages: {ours / 1e6:.2f} million tokens a second of processor time against "
        f"{theirs / 1e6:.2f}, "
        f"{ours / theirs:.1f} times.",
        "",
        "A whole process, from the start of Python to its end, milliseconds, the least of seven (load of the machine: "
        f"{os.getloadavg()[0]:.0f}; above its {os.cpu_count()} cores only the processor's time says anything):",
        "",
        "| what it makes | clock | processor |",
        "| --- | --- | --- |",
        *starts(str(path)),
        "",
    ]
    (ROOT / "bench" / "results" / "tokenizer.md").write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    main()
