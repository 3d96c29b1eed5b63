"""Our index beside other stores that run in the process: build, size, opening, search, recall, memory, changes, kill -9.

    make bench-index                        a million passages and vectors, all engines, into results/index.md; two hours
    make bench-index SIZE=20000             a few minutes
    python bench/index.py --passages 200000 --engines "shortlist; tantivy" --again

Every engine has the same passages, vectors and questions (stores/corpus.py), its own settings (stores/engines.py) and a process
of its own for every step, at most --cap seconds and six gigabytes for each. What is measured stands in results/index.json; a
run goes on where the last one stopped, --again measures the named engines anew. Data and what the engines write lie in --work
(at a million some 2 GB, and 4 GB for the engine at work), which is removed but for the corpus.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stores import growth
from stores.corpus import Corpus, Formula, words
from stores.engines import ENGINES
from stores.page import page

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MOST_MB = 6000
ASKING_S = 90  # for the questions of one kind


class Failed(Exception):
    """What an engine said, or what ended it."""


def versions(names: tuple[str, ...]) -> str:
    """`name version, …`; raises Failed for one that is not installed."""
    try:
        return ", ".join(f"{name} {version(name)}" for name in names)
    except PackageNotFoundError as error:
        raise Failed(f"{error.name} is not installed") from error


class Runner:
    """Steps of one engine as processes."""

    def __init__(self, engine: str, corpus: Corpus, folder: Path, cap_s: float) -> None:
        self._engine, self._corpus, self._folder, self._cap_s = engine, corpus, folder, cap_s

    def start(self, step: str, out: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        arguments = [self._engine, step, self._folder, self._corpus.folder, self._corpus.count, time.time(), ASKING_S]
        command = [sys.executable, "-m", "stores.worker", *map(str, arguments)]
        log = (self._folder.parent / "log.txt").open("a")
        return subprocess.Popen(command, cwd=HERE, stdout=out, stderr=log, text=True)

    def do(self, step: str) -> dict[str, Any]:
        """The answer. Raises Failed for an error, a dead process, more than the cap, or too much memory."""
        answers = self._folder.parent / "answer.json"
        with answers.open("w") as out:  # a pipe would fill up
            process = self.start(step, out)
        ended = time.monotonic() + self._cap_s
        while process.poll() is None:
            own = growth.own_mb(process.pid)
            if time.monotonic() > ended or own > MOST_MB:
                process.kill()
                process.wait()
                raise Failed(f"{step}: " + (f"{own:.0f} MB of memory" if own > MOST_MB else f"not done in {self._cap_s:.0f} s"))
            time.sleep(0.05)
        lines = answers.read_text().strip().splitlines()
        if not lines:
            raise Failed(f"{step}: the process ended with status {process.returncode}")
        answer = json.loads(lines[-1])
        if "error" in answer:
            raise Failed(f"{step}: {answer['error']}")
        return answer

    def killed(self) -> None:
        """A process that adds a passage and dies by SIGKILL as soon as it says that the call has returned."""
        process = self.start("doomed")
        said = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        if said != "{}\n":
            raise Failed(f"kill: {said.strip()[:200]}")


def measured(engine: str, corpus: Corpus, work: Path, cap_s: float) -> dict[str, Any]:
    """Everything about one engine; `failed` says what ended it, if anything did."""
    kind = ENGINES[engine]
    folder = work / f"run-{os.getpid()}" / "engine"
    folder.mkdir(parents=True)
    run = Runner(engine, corpus, folder, cap_s)
    entry: dict[str, Any] = {"date": str(datetime.date.today()), "about": kind.about, "load": round(os.getloadavg()[0], 1)}
    try:
        entry["versions"] = versions(kind.packages)
        entry["build"] = run.do("build")
        entry["disk_mb"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        entry["first_ms"] = sorted(run.do("first")["ms"] for _ in range(3))[1]
        entry["ask"] = run.do("ask")
        if kind.add is not None:
            entry["change"] = run.do("change")
            run.killed()
            entry["survived"] = run.do("survived")["survived"]
    except Failed as error:
        entry["failed"] = str(error)
    shutil.rmtree(folder.parent)
    found = entry.get("ask", {}).pop("found", None)
    if found and kind.bm25:
        entry["ask"]["exact"] = judge(engine, corpus).agreement(found, *kind.bm25)
    return entry


def judge(engine: str, corpus: Corpus) -> Formula:
    """The formula over the terms that the engine works with."""
    if not engine.startswith("shortlist"):
        return Formula(corpus, "plain", words)
    from shortlist.analyze import analyzer

    terms = analyzer("auto/2").terms
    return Formula(corpus, "auto2", lambda text: terms(text, "en"))


def known() -> dict[str, Any]:
    """{passages: {engine: what was measured}}."""
    path = RESULTS / "index.json"
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, default=Path("build/bench-index"))
    parser.add_argument("--engines", help="names with semicolons between them; all by default, with our own growth at the end")
    parser.add_argument("--cap", type=float, default=600, help="seconds for a step of an engine")
    parser.add_argument("--again", action="store_true", help="measure even what results/index.json has")
    args = parser.parse_args()
    data = Path(os.environ.get("SHORTLIST_DATA", HERE.parent.parent / "shared" / "data"))
    args.work = args.work.resolve()  # its engines run in another folder
    corpus = Corpus(args.work / f"corpus-{args.passages}", args.passages)
    corpus.make(data)
    chosen = [name.strip() for name in args.engines.split(";")] if args.engines else [*ENGINES, growth.NAME]
    for name in chosen:
        if name in known().get(str(args.passages), {}) and not args.again:
            continue
        print(f"{datetime.datetime.now():%H:%M:%S} {name}", file=sys.stderr, flush=True)
        found = growth.measured(corpus, args.work) if name == growth.NAME else measured(name, corpus, args.work, args.cap)
        figures = known()
        figures.setdefault(str(args.passages), {})[name] = found
        (RESULTS / "index.json").write_text(json.dumps(figures, indent=1) + "\n")
        (RESULTS / "index.md").write_text(page(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
