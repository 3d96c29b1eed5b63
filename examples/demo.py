"""The main job on real text: what `make demo` runs, each step a command that you can type yourself.

Two corpora: some 3,500 passages of Python's own documentation, and `examples/polyglot`, a small collection in fifteen
languages with questions and judgements. Everything is written to `.demo/`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from time import perf_counter

from rich.console import Console

import python_docs
from shortlist import cli

ROOT = Path(__file__).parents[1]
WORK = Path(".demo")  # everything below is relative to the root, so that the commands can be copied
POLYGLOT = Path("examples/polyglot")

PYTHON_QUESTION = "How do I run a command and capture what it prints?"
QUESTIONS = {
    "polyglot.idx": [
        "古人挖了哪条水道，使船能从湖南的江划到广西的江？",
        "लोहे का पुराना खंभा खराब क्यों नहीं हुआ?",
        "¿Qué montaña queda más lejos del núcleo terrestre?",
    ],
    "python.idx": ["What happens to a file when the with block ends?", PYTHON_QUESTION],
}


def shortlist(*words: str | Path) -> None:
    """Show a command as one would type it, and run it."""
    line = ["shortlist", *map(str, words)]
    Console().print(f"\n[bold cyan]$ {shlex.join(line)}[/bold cyan]", soft_wrap=True)
    if cli.main(line[1:]) != 0:
        sys.exit(f"this step failed: {shlex.join(line)}")


def build_corpora() -> None:
    """Both indexes, made anew."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    count = python_docs.main(WORK / "python.jsonl")
    Console().print(f"{count:,} passages cut from the documentation that Python carries")
    shortlist("index", POLYGLOT, "-o", WORK / "polyglot.idx")
    shortlist("index", WORK / "python.jsonl", "-o", WORK / "python.idx", "--lang", "en")


def measure() -> None:
    """nDCG@10 of each stage on the judged collection."""
    runs = []
    for first, rerank in (("bm25", "none"), ("dense", "none"), ("hybrid", "none"), ("hybrid", "L-6")):
        runs.append(WORK / f"{first}-{rerank}.trec")
        shortlist(
            "run", WORK / "polyglot.idx", POLYGLOT / "queries.jsonl", "--first", first, "--rerank", rerank, "-o", runs[-1]
        )
    shortlist("eval", POLYGLOT / "qrels" / "test.tsv", *runs)


def main() -> None:
    """From nothing to ranked answers."""
    start = perf_counter()
    os.chdir(ROOT)
    shortlist("models", "fetch", "shortlist-embed")
    build_corpora()
    for index, questions in QUESTIONS.items():
        shortlist("search", WORK / index, *questions, "-k", "3")
    shortlist("compare", WORK / "python.idx", PYTHON_QUESTION, "-k", "5", "--candidates", "32")
    measure()
    Console().print(f"\nDone in {perf_counter() - start:.0f} s. The indexes stay in {WORK}/. Ask them in the browser:")
    served = [str(WORK / name) for name in QUESTIONS]
    Console().print(f"\n  [bold]{shlex.join(['.venv/bin/shortlist', 'serve', '--open', *served])}[/bold]", soft_wrap=True)


if __name__ == "__main__":
    main()
