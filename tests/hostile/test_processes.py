"""Encoding among threads, processes and signals: real processes, the same bits everywhere, nothing that hangs or spins."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference_network import random_folder, random_tokens
from shortlist.encoder import Encoder
from shortlist.engines import native
from shortlist.engines.native import NativeEngine
from shortlist.errors import BadInput
from shortlist.models.network import read_network
from shortlist.reranker import Reranker

TEXTS = [f"柏林 {i} has {'museums and ' * (i % 23)}people" for i in range(60)]
PATIENCE_S = 120  # long past what a slow machine needs: only a deadlock gets there
ANSWER: dict[str, Any] = {}


def parallel(work: Callable[[int], object], count: int) -> list[Any]:
    """What `work(0)` to `work(count - 1)` give, each called on a Python thread of its own, all at once."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def run(i: int) -> None:
        start.wait(PATIENCE_S)
        try:
            results[i] = work(i)
        except Exception as error:  # so that it is seen by the test and not by the thread's hook
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "deadlock"
    return results


def test_one_encoder_and_one_reranker_for_eight_threads(tiny_encoder_folder: Path, tiny_reranker_folder: Path) -> None:
    encoder, reranker = Encoder.load(tiny_encoder_folder, threads=2), Reranker.load(tiny_reranker_folder, threads=2)
    parts = [TEXTS[i:] + TEXTS[:i] for i in range(8)]
    vectors = [encoder.encode(part) for part in parts]
    scores = [reranker.score("柏林?", part) for part in parts]
    for i, (found_vectors, found_scores) in enumerate(
        parallel(lambda i: (encoder.encode(parts[i]), reranker.score("柏林?", parts[i])), 8)
    ):
        np.testing.assert_array_equal(found_vectors, vectors[i])
        np.testing.assert_array_equal(found_scores, scores[i])


# --- fork and spawn


def encode_in_child(folder: str | None, answers: Any) -> None:
    """In a forked child with the parent's encoder, in a spawned one with its own."""
    encoder = ANSWER["encoder"] if folder is None else Encoder.load(folder, threads=2)
    answers.put(encoder.encode(TEXTS))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # a process with threads forks: that is the test
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_compute_what_the_parent_computes(method: str, tiny_encoder_folder: Path) -> None:
    """The parent has used all its threads before; both go on working afterwards, at the same time."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    ANSWER["encoder"] = encoder = Encoder.load(tiny_encoder_folder, threads=3)
    expected = encoder.encode(TEXTS)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    folder = None if method == "fork" else str(tiny_encoder_folder)
    children = [context.Process(target=encode_in_child, args=(folder, answers), daemon=True) for _ in range(2)]
    for child in children:
        child.start()
    try:
        np.testing.assert_array_equal(encoder.encode(TEXTS), expected)
        for _ in children:
            np.testing.assert_array_equal(answers.get(timeout=PATIENCE_S), expected)
        for child in children:
            child.join(PATIENCE_S)
            assert child.exitcode == 0
    finally:
        for child in children:
            child.kill()


# --- signals

BULK = """
import sys, time
from shortlist.encoder import Encoder
from shortlist.reranker import Reranker

if sys.argv[2] == "encode":
    work = Encoder.load(sys.argv[1], threads=2).encode
else:
    model = Reranker.load(sys.argv[1], threads=2)
    work = lambda texts: model.score("x", texts)
texts = ["柏林 has museums and " * 50] * 5000
before, start = work(texts[:3]), time.monotonic()
work(texts[:16])
print(256 / 16 * (time.monotonic() - start), flush=True)
try:
    work(texts)
    print("finished", flush=True)
except KeyboardInterrupt:
    print("interrupted, as good as before:", (work(texts[:3]) == before).all(), flush=True)
"""


@pytest.fixture(scope="module")
def slow_folder(tmp_path_factory: pytest.TempPathFactory, tiny_reranker_folder: Path) -> Path:
    """A network with a score head that needs seconds for one internal batch, so that a signal finds it at work."""
    folder = tmp_path_factory.mktemp("slow") / "model"
    shape = {"hidden": 256, "heads": 4, "layers": 4, "intermediate": 1536, "vocabulary": 25_000, "positions": 512}
    random_folder(folder, **shape, head="bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_reranker_folder / name).read_bytes())
    return folder


@contextmanager
def bulk_work(folder: Path, verb: str) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """A process that has been at thousands of texts for a moment, and the seconds that one internal batch of them takes."""
    card = {"kind": "reranker", "pooling": "score", "labels": 1} if verb == "score" else {}
    (folder / "card.json").write_text(json.dumps(card))
    process = subprocess.Popen([sys.executable, "-c", BULK, str(folder), verb], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        batch_s = float(process.stdout.readline())
        time.sleep(0.1 * batch_s)
        yield process, batch_s
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("verb", ["encode", "score"])
def test_an_interrupt_ends_bulk_work_within_a_batch(verb: str, slow_folder: Path) -> None:
    with bulk_work(slow_folder, verb) as (process, batch_s):
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted, as good as before: True\n"
        assert time.monotonic() - start < 0.5 * batch_s
        assert process.wait(PATIENCE_S) == 0


def test_termination_ends_bulk_work_at_once(slow_folder: Path) -> None:
    with bulk_work(slow_folder, "encode") as (process, batch_s):
        start = time.monotonic()
        process.terminate()
        assert process.wait(PATIENCE_S) == -signal.SIGTERM
        assert time.monotonic() - start < 0.5 * batch_s


# --- processor time


def test_an_idle_engine_uses_no_processor(tiny_encoder_folder: Path) -> None:
    """In a process of its own: between calls no thread of the engine spins or even lives."""
    script = """
import resource, sys, threading, time
from pathlib import Path
from shortlist.encoder import Encoder
encoder = Encoder.load(sys.argv[1], threads=8)
encoder.encode(["a b c " * 30] * 600)
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
before = cpu()
time.sleep(0.5)
print(cpu() - before)
"""
    found = subprocess.run(
        [sys.executable, "-c", script, str(tiny_encoder_folder)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert float(found.stdout) < 0.02


def test_the_engine_leaves_no_threads(tmp_path: Path) -> None:
    engine = NativeEngine(read_network(random_folder(tmp_path)), threads=5)
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("this system does not list threads")
    network = read_network(tmp_path)
    before = {task.name for task in tasks.iterdir()}
    engine.run(random_tokens(network, [50] * 200), "mean")
    assert {task.name for task in tasks.iterdir()} <= before


CPU = """
import resource, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from reference_network import random_tokens
from shortlist.engines.native import NativeEngine
from shortlist.models.network import read_network
network = read_network(__import__("pathlib").Path(sys.argv[2]))
engine, tokens = NativeEngine(network, threads=2), random_tokens(network, [100] * 150)
engine.run(tokens.take(0, 8), "mean")
print("ready", flush=True)
sys.stdin.readline()
before = resource.getrusage(resource.RUSAGE_SELF)
engine.run(tokens, "mean")
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, flush=True)
"""


def cpu_of(count: int, folder: Path) -> list[float]:
    """Processor seconds of the same work in each of `count` processes at once."""
    tests = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-c", CPU, tests, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return [float(process.communicate(timeout=PATIENCE_S)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_two_processes_on_the_same_processors_cost_twice_one(slow_folder: Path) -> None:
    """Threads that wait for a processor must not spin: the work costs what it costs, however many want to run. Caches and
    hyper-threads are shared, hence the margin; spinning costs a multiple."""
    (slow_folder / "card.json").write_text("{}")
    alone = min(cpu_of(1, slow_folder)[0] for _ in range(2))
    assert sum(cpu_of(2, slow_folder)) < 2 * 1.6 * alone


# --- how many threads


@pytest.mark.parametrize("threads", [0, -1, 4097, 2**31, 2**70])
def test_numbers_of_threads_that_make_no_sense(threads: int, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"threads={threads}; expected 1 to 4096"):
        NativeEngine(read_network(random_folder(tmp_path)), threads=threads)


def test_more_threads_than_the_system_gives(tmp_path: Path) -> None:
    """The work is done by those that it gives: with none beside the caller's, by the caller's, in engine and scan."""
    script = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from reference_network import random_tokens
from shortlist import _native
from shortlist.engines.native import NativeEngine
from shortlist.models.network import read_network
network = read_network(Path(sys.argv[2]))
tokens = random_tokens(network, [50] * 200)
rows = np.random.default_rng(0).integers(0, 256, (400_000, 20), np.uint8)
rows[:, :4] = np.ones(400_000, "<f4")[:, None].view(np.uint8)
query, dead = np.arange(16, dtype=np.int8), np.zeros(400_000, np.uint8)
def results():
    states = NativeEngine(network, threads=4096).run(tokens, "mean")
    return states, *_native.scan_int8(rows.reshape(-1), 16, 20, query[None], dead, 10, 64)[0]
many = results()
one = NativeEngine(network, threads=1).run(tokens, "mean")
resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + (6 << 20),) * 2)
few = results()
print(all((a == b).all() for a, b in zip(many, few)), (one == few[0]).all())
"""
    tests = str(Path(__file__).resolve().parents[1])
    found = subprocess.run(
        [sys.executable, "-c", script, tests, str(random_folder(tmp_path))],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert found.stdout == "True True\n", found.stderr


QUOTAS: list[tuple[str, dict[str, str], float | None]] = [
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n", "cpu.max": "max 100000\n"}, 4.0),
    ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
    ("0::/a/b\n", {"c/cpu.max": "100000 100000\n"}, None),
    ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2.0),
    ("0::/../a\n", {"../a/cpu.max": "100000 100000\n"}, None),
    ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
    ("0::/a\n", {"a/cpu.max": "inf 100000\n"}, None),
    ("0::/a\n", {"a/cpu.max": "0 0\n"}, None),
    ("4:cpu,cpuacct:/d\n1:name=systemd:/d\n", {"cpu/d/cpu.cfs_quota_us": "250000", "cpu/d/cpu.cfs_period_us": "100000"}, 2.5),
    ("4:cpu:/d/e\n0::/\n", {"cpu/d/cpu.cfs_quota_us": "100000", "cpu/d/cpu.cfs_period_us": "100000"}, 1.0),
    ("4:cpu:/d\n", {"cpu/d/cpu.cfs_quota_us": "-1", "cpu/d/cpu.cfs_period_us": "100000"}, None),
    ("5:cpuset:/d\n", {"cpu/d/cpu.cfs_quota_us": "100000", "cpu/d/cpu.cfs_period_us": "100000"}, None),
    ("nonsense\n::\n", {"cpu.max": "100000 100000\n"}, 1.0),
    ("", {}, None),
]


@pytest.mark.parametrize(("membership", "files", "expected"), QUOTAS)
def test_quotas_of_nested_groups(membership: str, files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert native._cgroup_quota(root, membership) == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.2, 1), (1.4, 1), (1.5, 2), (2.5, 3), (7.6, 8), (40.0, 8)])
def test_quotas_become_threads(quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_cgroup_quota", lambda root, membership: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert native.available_cpus() == expected
