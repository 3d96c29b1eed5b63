"""One engine in a process of its own; it does what the lines of JSON on its standard input say, and answers with lines.

    python -m peers.worker ENGINE BODY WORK THREADS      in bench/

    {"do": "load", "kind": "encoder"}                              -> {}
    {"do": "encode", "set": "passages", "count": 64, "setting": [1024, 2]}   -> {"s": seconds, "network_s": seconds or null}
    {"do": "network", "set": "passages", "count": 64}              -> {"s": seconds}        (ours only)
    {"do": "ask", "set": "questions", "count": 40}                 -> {"s": [seconds of each]}
    {"do": "rerank", "set": "passages", "count": 32, "setting": …} -> {"s": seconds, …}
    {"do": "memory"}                                               -> {"mb": peak resident set of this process}

With "save": PATH the rows of encode and rerank are written there as .npy. An error is answered by {"error": …}.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from peers.engines import ENGINES, Engine, Setting
from peers.texts import Texts


class Worker:
    def __init__(self, engine: str, folder: Path, threads: int, texts: Texts) -> None:
        self._entry, self._folder, self._threads, self._texts = ENGINES[engine], folder, threads, texts
        self._model: Engine | None = None

    def load(self, job: dict[str, Any]) -> dict[str, Any]:
        self._model = None  # the one before goes first
        self._model = self._entry.load(self._folder, job["kind"], self._threads)
        return {}

    def encode(self, job: dict[str, Any]) -> dict[str, Any]:
        texts = self._set(job)
        return self._timed(job, lambda setting: self._loaded.encode(texts, setting))

    def network(self, job: dict[str, Any]) -> dict[str, Any]:
        return {"s": self._loaded.network(tuple(self._set(job)))}  # type: ignore[attr-defined]

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        seconds = []
        for question in self._set(job):
            start = time.perf_counter()
            self._loaded.encode([question], Setting())
            seconds.append(time.perf_counter() - start)
        return {"s": seconds}

    def rerank(self, job: dict[str, Any]) -> dict[str, Any]:
        query, passages = self._texts.questions[0], self._set(job)
        return self._timed(job, lambda setting: self._loaded.score(query, passages, setting))

    def memory(self, _job: dict[str, Any]) -> dict[str, Any]:
        return {"mb": _peak_mb()}

    @property
    def _loaded(self) -> Engine:
        if self._model is None:
            raise RuntimeError('no model: send {"do": "load"} first.')
        return self._model

    def _set(self, job: dict[str, Any]) -> list[str]:
        """The first texts of a set, from its beginning again where it has fewer."""
        texts = getattr(self._texts, job["set"])
        return [texts[i % len(texts)] for i in range(job["count"])]

    def _timed(self, job: dict[str, Any], run: Any) -> dict[str, Any]:
        start = time.perf_counter()
        result = run(Setting(*job["setting"]))
        seconds = time.perf_counter() - start
        if "save" in job:
            np.save(job["save"], result.rows)
        return {"s": seconds, "network_s": result.network_s}


def _peak_mb() -> float:
    """Peak resident memory of this process. Not getrusage's: that one counts what the parent had before the start."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _die_with_parent() -> None:
    """A stopped process does not see that its input has ended; Linux can end it with its parent (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> None:
    engine, body, work, threads = sys.argv[1:]
    _die_with_parent()
    if hasattr(os, "sched_setaffinity"):  # one thread is one core, whatever helpers an engine starts
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    warnings.filterwarnings("ignore")
    worker = Worker(engine, Path(work) / body, int(threads), Texts.load(Path(work) / "texts.json"))
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = getattr(worker, job["do"])(job)
        except Exception as error:  # the report names it, the other engines go on
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
