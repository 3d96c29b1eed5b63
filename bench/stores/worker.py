"""One step of one engine in a process of its own, for bench/index.py; prints one JSON line.

    python -m stores.worker ENGINE STEP FOLDER CORPUS COUNT SPAWNED LIMIT_S

SPAWNED is the time at which the process was started, in seconds since 1970; LIMIT_S bounds the questions that are asked.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stores.corpus import CHECKED, Corpus
from stores.engines import ENGINES

CHANGES, WARM = 5, 20
VICTIM = 17  # the first of the indexed passages that are deleted


def memory_mb() -> dict[str, float]:
    """Peak and present resident memory, and how much of the present is the process's own, not mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"peak": "VmHWM", "resident": "VmRSS", "own": "RssAnon"}
    return {name: round(int(lines[field].split()[0]) / 1024) for name, field in names.items()}


def milliseconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def marked(corpus: Corpus, number: int) -> tuple[int, str, int, np.ndarray]:
    """A passage beyond the indexed ones with a word that no other has."""
    ((_, text, tag),) = corpus.passages(number, number + 1)
    return number, f"{text} {mark(number)}", tag, np.array(corpus.vectors[number])


def mark(number: int) -> str:
    return f"zq{number}zq"


def found(engine: Any, corpus: Corpus, number: int) -> bool:
    """Whether a search of each kind finds a marked passage."""
    answers = []
    if "text" in engine.kinds:
        answers.append(number in engine.text(mark(number)))
    if "vector" in engine.kinds:
        answers.append(number in engine.vector(mark(number), np.array(corpus.vectors[number])))
    return all(answers)


def build(kind: Any, folder: Path, corpus: Corpus) -> dict[str, Any]:
    began, busy = time.perf_counter(), time.process_time()
    steps = kind.build(folder, corpus)
    return {"s": time.perf_counter() - began, "cpu_s": time.process_time() - busy, "steps": steps, "mb": memory_mb()["peak"]}


def first(kind: Any, folder: Path, corpus: Corpus, spawned: float) -> dict[str, Any]:
    """From the start of the process to its first answer of each kind that it has."""
    question, vector = corpus.asked[0], corpus.asked_vectors[0]
    engine = kind(folder, corpus)
    if "text" in kind.kinds:
        engine.text(question)
    if "vector" in kind.kinds:
        engine.vector(question, vector)
    return {"ms": (time.time() - spawned) * 1000}


def ask(kind: Any, folder: Path, corpus: Corpus, limit_s: float) -> dict[str, Any]:
    engine = kind(folder, corpus)
    questions, vectors, nearest = corpus.asked, corpus.asked_vectors, corpus.nearest
    asks: dict[str, Callable[[int], list[int]]] = {
        "text": lambda i: engine.text(questions[i]),
        "vector": lambda i: engine.vector(questions[i], vectors[i]),
    }
    answer: dict[str, Any] = {}
    for what in kind.kinds:
        for i in range(WARM):
            asks[what](-1 - i)
        times, lists = [], []
        began = time.perf_counter()
        for i in range(len(questions)):
            start = time.perf_counter()
            lists.append(asks[what](i))
            times.append((time.perf_counter() - start) * 1000)
            if start - began > limit_s:
                break
        p50, p99 = np.quantile(times, [0.5, 0.99])
        answer[what] = {"p50": p50, "p99": p99, "asked": len(times)}
        if what == "text":
            answer["found"] = lists[:CHECKED]
        else:
            shares = [len(set(got) & set(right.tolist())) / len(right) for got, right in zip(lists, nearest, strict=False)]
            answer["recall"] = float(np.mean(shares))
    return answer | {"memory": memory_mb()}


def change(kind: Any, folder: Path, corpus: Corpus) -> dict[str, Any]:
    if kind.add is None:
        return {}
    engine = kind(folder, corpus, write=True)
    fresh = [marked(corpus, corpus.count + i) for i in range(CHANGES)]
    added = [milliseconds(lambda one=one: engine.add(*one)) for one in fresh]
    missing = [number for number, *_ in fresh if not found(engine, corpus, number)]
    deleted = [milliseconds(lambda i=i: engine.delete(VICTIM + i)) for i in range(CHANGES)]
    back = [VICTIM + i for i in range(CHANGES) if _returned(engine, corpus, VICTIM + i)]
    engine.close()
    return {
        "add_ms": statistics.median(added),
        "delete_ms": statistics.median(deleted),
        "not_found": len(missing),
        "still_found": len(back),
        "mb": memory_mb()["peak"],
    }


def _returned(engine: Any, corpus: Corpus, number: int) -> bool:
    ((_, text, _),) = corpus.passages(number, number + 1)
    answers = []
    if "text" in engine.kinds:
        answers += engine.text(" ".join(word for word in text.lower().split()[:8] if word.isalnum()))
    if "vector" in engine.kinds:
        answers += engine.vector("a", np.array(corpus.vectors[number]))
    return number in answers


def doomed(kind: Any, folder: Path, corpus: Corpus) -> dict[str, Any]:
    """Add a passage, say so, and wait to be killed."""
    engine = kind(folder, corpus, write=True)
    passage = marked(corpus, corpus.count + CHANGES)
    engine.add(*passage)
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    time.sleep(600)
    return {}


def survived(kind: Any, folder: Path, corpus: Corpus) -> dict[str, Any]:
    return {"survived": found(kind(folder, corpus), corpus, corpus.count + CHANGES)}


def main() -> None:
    name, step, folder, corpus_folder, count, spawned, limit_s = sys.argv[1:]
    kind, corpus = ENGINES[name], Corpus(Path(corpus_folder), int(count))
    where = Path(folder)
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: build(kind, where, corpus),
        "first": lambda: first(kind, where, corpus, float(spawned)),
        "ask": lambda: ask(kind, where, corpus, float(limit_s)),
        "change": lambda: change(kind, where, corpus),
        "doomed": lambda: doomed(kind, where, corpus),
        "survived": lambda: survived(kind, where, corpus),
    }
    try:
        answer = steps[step]()
    except Exception as error:  # whatever an engine has to say is its result
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(answer), flush=True)
    os._exit(0)  # some engines hang on leaving


if __name__ == "__main__":
    main()
