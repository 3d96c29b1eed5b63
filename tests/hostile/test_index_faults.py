"""Every call that fails, every moment that kills, a loss of power: what was acknowledged is there, the rest whole or not.

The short forms try a part of the moments; `make durability` tries all of them.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import durability
from durability import CHANGES, COUNT, CUT_SHORT, FAIL_FULL, FAIL_IO, KILL, READ, WRITE

TESTS = Path(durability.__file__).parent
SEED = os.environ.get("SHORTLIST_TEST_SEED", "1")


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """tests/faults.cpp, compiled."""
    if not sys.platform.startswith("linux"):
        pytest.skip("LD_PRELOAD and /proc are Linux's")
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    library = tmp_path_factory.mktemp("layer") / "faults.so"
    subprocess.run([compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", library, TESTS / "faults.cpp", "-ldl"], check=True)
    return library


@pytest.fixture
def fast(tmp_path):
    """A folder in memory where there is one: an fsync costs nothing there, and what is tried is the order of things."""
    memory = Path("/dev/shm")
    folder = memory / f"shortlist-test-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path / "fast"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def run(folder, *words, layer=None):
    """The numbers that durability.py prints."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    if layer:
        environment["LD_PRELOAD"] = str(layer)
    command = [sys.executable, TESTS / "durability.py", words[0], folder, *map(str, words[1:])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(map(int, done.stdout.split()))


WAYS = {
    "input/output error": (CHANGES, FAIL_IO),
    "cut short": (WRITE, CUT_SHORT),
    "disk full": (CHANGES, FAIL_FULL),
    "killed": (CHANGES, KILL),
    "unreadable": (READ, FAIL_IO),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_fails(layer, fast, way):
    classes, kind = WAYS[way]
    step = 131 if classes == CHANGES else 61
    calls, tried = run(fast / "0", "faults", classes, kind, 1 + int(SEED) * 7 % step, step, layer=layer)
    assert calls > 100
    assert tried > 1


def test_killed_at_random_moments(fast):
    returned, there = run(fast / "0", "kills", 12, SEED)
    assert returned > 12
    assert there <= 12


def losses(log, disk, target, every, *, skipped=None):
    """(what the process had said, whether only synced things are there, index) after a loss of power at every so many calls."""
    rng, said = random.Random(SEED), -1
    model = durability.Disk(disk)
    for number, (verb, inode, path, *rest) in enumerate(durability.records(log)):
        if verb == "mark":
            said = int(str(path))
        elif not (skipped and skipped(verb, path)):
            model.apply(verb, inode, path, *rest)
        if number % every == 0:
            for some in (None, rng):
                shutil.rmtree(target, ignore_errors=True)
                model.after_the_loss(target, some)
                yield said, some is None, target / "new" / "a.idx"


@pytest.fixture
def log(layer, fast):
    run(fast / "0", "faults", CHANGES, COUNT, 1, 1, layer=layer)
    return fast / "0" / "log"


def test_a_loss_of_power(log, fast):
    for said, _, path in losses(log, fast / "0" / "disk", fast / "after", 47):
        durability.judge(path, said)


@pytest.mark.parametrize("skipped", ["folders", "log of SQLite", "published"])
def test_the_judge_of_a_loss_of_power_can_fail(log, fast, skipped):
    """Were one kind of file not synced, it would be noticed."""
    names = {"log of SQLite": "passages.sqlite-wal", "published": "published.new"}

    def left_out(verb, path):
        return verb == "sync" and (
            path.name == names[skipped] if skipped in names else not path.suffix and "seg" not in path.name
        )

    for said, bare, path in losses(log, fast / "0" / "disk", fast / "after", 10, skipped=left_out):
        try:
            if bare and said >= 0:
                durability.judge(path, said)
        except Exception:  # whatever is wrong with such an index
            return
    pytest.fail("nothing was missed")


@pytest.mark.durability
def test_all_of_it(layer, fast):
    """Every call of a session fails, and a thousand writers are killed; two programs at a time."""
    kinds = itertools.count()
    jobs = [("kills", 500, f"{SEED}-{part}") for part in "ab"]
    steps = {"disk full": 5, "killed": 2}  # where each call takes its time, and others have tried the same moments
    jobs += [("faults", *WAYS[way], 1, steps.get(way, 1)) for way in WAYS]
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(run, fast / str(next(kinds)), *job, layer=layer if job[0] == "faults" else None) for job in jobs]
        for one in tries:
            one.result()


@pytest.mark.durability
def test_a_loss_of_power_at_every_second_call(log, fast):
    for said, _, path in losses(log, fast / "0" / "disk", fast / "after", 2):
        durability.judge(path, said)
