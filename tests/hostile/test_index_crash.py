"""kill -9 at random moments of a writer: every acknowledged passage is there in all three ways, none half."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

from index_tools import HashEncoder
from shortlist.index import Index

ENCODER = HashEncoder(dims=32)
ROUNDS, BATCH = 6, 25

WRITER = """
import itertools, sys
sys.path[:0] = sys.argv[4].split(":")
from index_tools import HashEncoder
from shortlist.index import Index
from shortlist.types import Passage
start, size = int(sys.argv[2]), int(sys.argv[3])
with Index.open(sys.argv[1], encoder=HashEncoder(dims=32), write=True) as index:
    print("open", flush=True)
    for number in itertools.count(start):
        index.add([Passage(f"{number}-{i}", f"word{number}x{i} common text of batch {number}", lang="en") for i in range(size)])
        print("added", number, flush=True)
        if number % 3 == 2 and number > start:
            print("deleting", f"{number - 1}-0", flush=True)
            index.delete([f"{number - 1}-0"])
            print("deleted", f"{number - 1}-0", flush=True)
"""


class Acknowledged:
    """What the killed writers had said so far."""

    def __init__(self) -> None:
        self.added: list[int] = []  # batches
        self.deleting: set[str] = set()  # ids of which a deletion was begun
        self.deleted: set[str] = set()


def run_and_kill(path, start: int, batches: int, wait: float, said: Acknowledged) -> None:
    """Let a writer acknowledge some batches, kill it a moment later, and note what it had acknowledged."""
    command = [sys.executable, "-c", WRITER, str(path), str(start), str(BATCH), os.pathsep.join(sys.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "open\n"
        read: list[str] = []
        while sum(line.startswith("added") for line in read) < batches:
            read.append(writer.stdout.readline())
            assert read[-1], "the writer has ended by itself"
        time.sleep(wait)
        writer.send_signal(signal.SIGKILL)
        rest = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]  # the last may be torn
        lines = [line.split() for line in [*read, *rest]]
    said.added += [int(what) for verb, what in lines if verb == "added"]
    said.deleting |= {what for verb, what in lines if verb == "deleting"}
    said.deleted |= {what for verb, what in lines if verb == "deleted"}


def check(index: Index, said: Acknowledged, rng: random.Random) -> None:
    held = {p.id for p in index.passages()}
    assert len(index) == len(held)
    assert {f"{n}-{i}" for n in said.added for i in range(BATCH)} - said.deleting <= held
    assert not said.deleted & held
    for batch in {name.split("-")[0] for name in held}:  # in flight: all or nothing, but for what was being deleted
        assert {f"{batch}-{i}" for i in range(BATCH)} - said.deleting <= held
    for name in rng.sample(sorted(held), min(15, len(held))):
        word = f"word{name.replace('-', 'x')}"
        assert index.get(name).id == name
        assert index.search(word, k=1, first="bm25").ids == [name]
        assert index.search(index.get(name).text, k=1, first="dense")[0].score > 0.999
    assert set(index.search("common", k=10**6, first="bm25").ids) == held
    assert set(index.search("common", k=10**6, first="dense").ids) == held


def test_no_acknowledged_passage_is_lost(tmp_path):
    rng = random.Random(int(os.environ.get("SHORTLIST_TEST_SEED", "1")))
    path = tmp_path / "a.idx"
    Index.create(path, encoder=ENCODER).close()
    said = Acknowledged()
    for number in range(ROUNDS):
        run_and_kill(path, number * 10_000, number, rng.uniform(0, 0.1), said)
        if number % 2:  # a reader before anything was replayed
            with Index.open(path, encoder=ENCODER) as reader:
                check(reader, said, rng)
        with Index.open(path, encoder=ENCODER, write=True) as writer:
            check(writer, said, rng)
    assert said.added
    assert said.deleted
