"""Our engine beside its peers, each at its best, in one run: bulk encoding, one question, reranking, memory.

    python bench/encoder.py [--quick] [--tune] [--threads 1 2] [--bodies L-6 L-12] [--work build/bench-encoder]

`make bench-encoder` makes the environment (bench/requirements-encoder.txt) and runs it. The first run prepares the peers'
files and tries their settings (about eight minutes); both are kept in the work folder. --tune tries the settings again.
Writes bench/results/encoder.md and encoder.json (--quick: into the work folder). Needs the fetched models, a C++ compiler for
the peak, and an otherwise idle machine; SHORTLIST_DATA for real passages, else those of examples/polyglot.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from peers.bodies import BODIES, Body
from peers.engines import ENGINES, OURS, REFERENCE, Setting
from peers.rates import pair_agreement
from peers.report import NAMES, page
from peers.texts import LONGEST, Texts, choose
from shortlist import models
from shortlist.engines import native
from shortlist.models.files import read_json, write_json
from shortlist.tokens import Tokenizer

HERE = Path(__file__).parent
LIMIT_S = 300  # one job of one engine
RERANKED = (32, 100)
TRIED_ON = "L-6"  # settings depend on the shapes of a layer, which the bodies share


@dataclass(frozen=True)
class Plan:
    """How much is measured: texts of each set, questions, rounds."""

    counts: dict[str, int]
    questions: int
    rounds: int


FULL = Plan({"passages": 256, "long": 24, "chinese": 32}, 100, 4)
QUICK = Plan({"passages": 48, "long": 8, "chinese": 12}, 20, 3)


# ---------------------------------------------------------------------------------------------- engines as processes


class Failed(Exception):
    """What an engine answered instead of a result."""


class Process:
    """A worker; stopped (SIGSTOP) while it has nothing to do, so that threads that spin take nothing from the others."""

    def __init__(self, engine: str, body: str, work: Path, threads: int) -> None:
        command = [sys.executable, "-m", "peers.worker", engine, body, str(work), str(threads)]
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        environment = os.environ | dict.fromkeys(limits, str(threads)) | offline
        log = (work / "log.txt").open("a")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=HERE, env=environment, stdin=pipe, stdout=pipe, stderr=log, text=True)
        log.close()

    def do(self, what: str, **job: Any) -> dict[str, Any]:
        """The answer. Raises Failed for an error, a dead process, or after LIMIT_S."""
        process = self._process
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        try:
            process.send_signal(signal.SIGCONT)
            process.stdin.write(json.dumps({"do": what, **job}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
        except OSError:
            line = ""
        finally:
            timer.cancel()
        answer = json.loads(line) if line else {"error": f"the process ended (more than {LIMIT_S} s, or not enough memory)"}
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Field:
    """All engines that take part in one run; one that fails is named in `failed` and out."""

    def __init__(self, processes: dict[str, Process]) -> None:
        self.running = processes
        self.failed: dict[str, str] = {}

    def do(self, what: str, turn: int = 0, among: tuple[str, ...] | None = None, **jobs: Any) -> Iterator[tuple[str, Any]]:
        """Engine and answer, one after the other, beginning with another engine every turn; a job may depend on the engine."""
        names = [name for name in self.running if among is None or name in among]
        first = turn % len(names) if names else 0
        for name in names[first:] + names[:first]:
            job = {key: value(name) if callable(value) else value for key, value in jobs.items()}
            try:
                yield name, self.running[name].do(what, **job)
            except Failed as error:
                self.failed[name] = str(error)
                self.running.pop(name).end()


@contextmanager
def field(body: str, work: Path, threads: int, engines: list[str]) -> Iterator[Field]:
    started = Field({name: Process(name, body, work, threads) for name in engines})
    try:
        yield started
    finally:
        for process in started.running.values():
            process.end()


def taking(kind: str, engines: list[str]) -> tuple[str, ...]:
    return tuple(name for name in engines if kind in ENGINES[name].files)


# ---------------------------------------------------------------------------------------------- before the rounds


def prepare(work: Path, bodies: list[Body]) -> dict[str, str]:
    """Texts, the peers' files and the program that measures the peak. Engine -> why it cannot take part."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = models.resolve(BODIES[TRIED_ON].source) / "tokenizer.json"
    choose(tokenizer, *(FULL.counts[name] for name in ("passages", "long", "chinese"))).save(work / "texts.json")
    missing = {name: "not installed" for name, entry in ENGINES.items() if not entry.installed}
    for body in bodies:
        subprocess.run([sys.executable, "-m", "peers.bodies", body.name, str(work)], cwd=HERE, check=True)
        failed = read_json(work / body.name / "made.json")["failed"]
        for name, entry in ENGINES.items():
            for file in set(entry.files.values()) & set(failed):
                missing.setdefault(name, f"{file} was not made: {failed[file]}")
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    source, program = HERE / "native_peak.cpp", work / "native_peak"
    subprocess.run([compiler, "-O2", "-std=c++17", "-pthread", str(source), "-o", str(program)], check=True)
    return missing


def tune(work: Path, threads: int, engines: list[str]) -> dict[str, dict[str, Setting]]:
    """The fastest setting of each engine for passages, long ones and reranking: every one is tried, best of two."""
    found: dict[str, dict[str, Setting]] = {name: {} for name in engines}
    with field(TRIED_ON, work, threads, engines) as started:
        for kind, what, tests in (
            ("encoder", "encode", {"passages": ("passages", 48), "long": ("long", 8)}),
            ("reranker", "rerank", {"rerank": ("passages", 48)}),
        ):
            among = taking(kind, engines)
            list(started.do("load", among=among, kind=kind))
            for name in among:
                for test, (texts, count) in tests.items():
                    times = {}
                    for setting in ENGINES[name].settings(threads):
                        job = {"set": texts, "count": count, "setting": setting}
                        tries = [s for _ in range(3) for _, s in started.do(what, among=(name,), **job)]
                        times[setting] = min((t["s"] for t in tries[1:]), default=float("inf"))
                    found[name][test] = min(times, key=times.__getitem__)
    return found


def settings_of(work: Path, threads: list[int], engines: list[str], again: bool) -> dict[str, dict[str, Setting]]:
    """`engine/threads` -> test -> setting, from the work folder, or tried now."""
    path = work / "settings.json"
    known = {} if again or not path.is_file() else read_json(path)
    for count in threads:
        new = [name for name in engines if f"{name}/{count}" not in known and ENGINES[name].settings(count)]
        if new:
            say(f"trying settings with {count} threads: {', '.join(new)}")
            known |= {f"{name}/{count}": found for name, found in tune(work, count, new).items()}
            write_json(path, known)
    return known


# ---------------------------------------------------------------------------------------------- one run


class Run:
    """One body with one number of threads: `figures` is what encoder.json holds of it."""

    def __init__(self, body: Body, threads: int, plan: Plan, work: Path, settings: dict[str, Any], engines: list[str]) -> None:
        self._body, self._threads, self._plan, self._work = body, threads, plan, work
        self._settings = settings
        self._engines = [name for name in engines if ENGINES[name].settings(threads)]
        self.figures: dict[str, Any] = {
            "body": body.name,
            "threads": threads,
            "counts": {test: plan.counts[test] for test in body.sets},
            "tokens": {},
            "pair_tokens": {},
            "peak_gops": [],
            "encode": {test: {} for test in body.sets},
            "network_s": {test: [] for test in body.sets},
            "ask": {"one": {}},
            "rerank": {str(count): {} for count in RERANKED},
            "agreement": {},
            "memory_mb": {},
            "failed": {},
        }

    def measure(self) -> dict[str, Any]:
        self._count_tokens()
        with field(self._body.name, self._work, self._threads, self._engines) as started:
            self._encoding(started)
            self._reranking(started)
            self.figures["failed"] = started.failed
            if OURS in started.failed:
                raise SystemExit(f"our own engine failed: {started.failed[OURS]}. See {self._work / 'log.txt'}.")
        return self.figures

    def _count_tokens(self) -> None:
        texts = Texts.load(self._work / "texts.json")
        tokenizer = Tokenizer.load(self._work / self._body.name / "encoder")
        for test in self._body.sets:
            tokens, _ = tokenizer.encode(getattr(texts, test)[: self._plan.counts[test]], LONGEST)
            self.figures["tokens"][test] = len(tokens.ids)
        for count in RERANKED:
            pairs = [texts.passages[i % len(texts.passages)] for i in range(count)]
            tokens, _ = tokenizer.encode_pairs(texts.questions[0], pairs, LONGEST)
            self.figures["pair_tokens"][str(count)] = len(tokens.ids)

    def _encoding(self, started: Field) -> None:
        among = taking("encoder", self._engines)
        list(started.do("load", among=among, kind="encoder"))
        jobs = {test: self._job(test, test, self._plan.counts[test]) for test in self._body.sets}
        for test, job in jobs.items():
            list(started.do("encode", among=among, save=lambda name: str(self._rows(name)), **job))
            self._compare("encode", test, among)
        self.figures["memory_mb"] = {name: answer["mb"] for name, answer in started.do("memory", among=among)}
        for turn in range(self._plan.rounds):
            say(f"{self._body.name}, threads {self._threads}, encoding, round {turn + 1} of {self._plan.rounds}")
            self.figures["peak_gops"].append(peak_gops(self._work, self._threads))
            for test, job in jobs.items():
                self._add("encode", test, started.do("encode", turn, among, **job))
                alone = started.do("network", among=(OURS,), set=test, count=self._plan.counts[test])
                self.figures["network_s"][test] += [answer["s"] for _, answer in alone]
        self._asking(started, among)

    def _asking(self, started: Field, among: tuple[str, ...]) -> None:
        job = {"set": self._body.questions, "count": self._plan.questions}
        list(started.do("ask", among=among, **(job | {"count": 5})))
        for turn in range(self._plan.rounds):
            for name, answer in started.do("ask", turn, among, **job):
                found = self.figures["ask"]["one"].setdefault(name, {"s": [], "each_s": []})
                found["s"].append(float(np.median(answer["s"])))
                found["each_s"].append(answer["s"])
        self.figures["ask"] = _complete(self.figures["ask"], self._plan.rounds)

    def _reranking(self, started: Field) -> None:
        among = taking("reranker", self._engines)
        list(started.do("load", among=among, kind="reranker"))
        jobs = {str(count): self._job("rerank", "passages", count) for count in RERANKED}
        for test, job in jobs.items():
            list(started.do("rerank", among=among, save=lambda name: str(self._rows(name)), **job))
            self._compare("rerank", test, among)
        for turn in range(self._plan.rounds):
            say(f"{self._body.name}, threads {self._threads}, reranking, round {turn + 1} of {self._plan.rounds}")
            for test, job in jobs.items():
                self._add("rerank", test, started.do("rerank", turn, among, **job))
        for part in ("encode", "rerank"):
            self.figures[part] = _complete(self.figures[part], self._plan.rounds)

    def _job(self, tried: str, texts: str, count: int) -> dict[str, Any]:
        tried = "long" if tried == "chinese" else tried
        return {
            "set": texts,
            "count": count,
            "setting": lambda name: self._settings[f"{name}/{self._threads}"].get(tried, [0, 1]),
        }

    def _add(self, part: str, test: str, answers: Iterator[tuple[str, Any]]) -> None:
        for name, answer in answers:
            found = self.figures[part][test].setdefault(name, {"s": [], "network_s": []})
            found["s"].append(answer["s"])
            found["network_s"].append(answer["network_s"])

    def _rows(self, engine: str) -> Path:
        return self._work / f"rows-{engine}.npy"

    def _compare(self, part: str, test: str, among: tuple[str, ...]) -> None:
        """How far each engine's rows are from the reference's, where that one took part; the files are removed."""
        rows = {name: np.load(self._rows(name)).astype(np.float64) for name in among if self._rows(name).is_file()}
        for name in rows:
            self._rows(name).unlink()
        expected = rows.get(REFERENCE)
        if expected is not None:
            compare = cosines if part == "encode" else correlation
            self.figures["agreement"][f"{part}/{test}"] = {name: compare(expected, found) for name, found in rows.items()}


def _complete(tests: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Without engines that failed on the way: ratios are taken round by round. In the order of ENGINES."""
    return {
        test: {name: found[name] for name in ENGINES if name in found and len(found[name]["s"]) == rounds}
        for test, found in tests.items()
    }


def cosines(expected: Any, found: Any) -> dict[str, float]:
    """Of rows [n, dims], each with its counterpart."""
    each = (expected * found).sum(1) / (np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1))
    return {"mean": float(each.mean()), "min": float(each.min())}


def correlation(expected: Any, found: Any) -> dict[str, float]:
    """Of scores [n]."""
    return {
        "correlation": float(np.corrcoef(expected, found)[0, 1]),
        "order": pair_agreement(expected.tolist(), found.tolist()),
    }


def peak_gops(work: Path, threads: int) -> float:
    """The greatest of the instructions that the processor has."""
    lines = subprocess.run([str(work / "native_peak"), str(threads)], check=True, capture_output=True, text=True).stdout
    return max(float(line.split()[1]) for line in lines.splitlines())


# ---------------------------------------------------------------------------------------------- all of it


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": native.available_cpus(),
        "kernels": native.chosen_instruction_set(),
        "load": os.getloadavg()[0],
    }


def versions(engines: list[str]) -> dict[str, str]:
    packages = dict.fromkeys(p for name in engines for p in ENGINES[name].packages)
    return {"Python": platform.python_version(), "numpy": np.__version__} | {p: version(p) for p in packages}


def shape(body: Body) -> dict[str, int]:
    config = read_json(models.resolve(body.source) / "config.json")
    names = {"layers": "num_hidden_layers", "hidden": "hidden_size", "intermediate": "intermediate_size"}
    return {ours: config[theirs] for ours, theirs in names.items()}


def counts_in_words(plan: Plan, bodies: list[Body]) -> str:
    wanted = dict.fromkeys(test for body in bodies for test in body.sets)
    return ", ".join(f"{plan.counts[test]} {NAMES[test]}" for test in wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few texts, three rounds; the page goes into the work folder")
    parser.add_argument("--tune", action="store_true", help="try the peers' settings again")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--bodies", nargs="+", choices=list(BODIES), default=list(BODIES))
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "bench-encoder")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that no stopped worker is left behind
    plan, bodies, work = QUICK if args.quick else FULL, [BODIES[name] for name in args.bodies], args.work.resolve()
    missing = prepare(work, list({body.name: body for body in [BODIES[TRIED_ON], *bodies]}.values()))
    engines = [name for name in ENGINES if name not in missing]
    settings = settings_of(work, args.threads, engines, args.tune)
    start, about = time.time(), machine()
    runs = [Run(body, t, plan, work, settings, engines).measure() for body in bodies for t in args.threads]
    say(f"measured in {time.time() - start:.0f} s")
    figures = {
        "date": str(datetime.date.today()),
        "machine": about,
        "versions": versions(engines),
        "rounds": plan.rounds,
        "texts": {"source": Texts.load(work / "texts.json").source, "counts": counts_in_words(plan, bodies)},
        "bodies": {body.name: shape(body) for body in bodies},
        "missing": {ENGINES[name].label: why for name, why in missing.items()},
        "settings": {key: found for key, found in settings.items() if int(key.split("/")[1]) in args.threads},
        "runs": runs,
    }
    out = work if args.quick else HERE / "results"
    write_json(out / "encoder.json", figures)
    text = page(figures, {name: entry.label for name, entry in ENGINES.items()})
    (out / "encoder.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
