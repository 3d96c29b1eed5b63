"""Compaction: killed at any moment, failing at any step, and while other processes search."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from index_tools import HashEncoder, passages
from shortlist.errors import ShortlistError
from shortlist.index import Index
from shortlist.types import Passage

ENCODER = HashEncoder(dims=20)
LEFT = [p for p in passages(300) if int(p.id[1:]) % 3]


def build(path: Path) -> None:
    with Index.create(path, encoder=ENCODER) as index:
        index.add(passages(300))
        index.delete([f"p{i}" for i in range(0, 300, 3)])


def answers(index):
    rankings = [index.search(query, k=15, first=first) for query in ("the river", "北京大学") for first in ("bm25", "dense")]
    return [[(hit.id, pytest.approx(hit.score), hit.passage) for hit in ranking] for ranking in rankings]


COMPACT = """
import sys
sys.path[:0] = sys.argv[2].split(":")
from shortlist.index import Index
with Index.open(sys.argv[1], write=True) as index:
    print("open", flush=True)
    while True:
        index.compact()
        print("done", flush=True)
        index.delete([next(index.passages()).id])
"""


def test_killed_at_any_moment_it_is_the_old_index_or_the_new_one(tmp_path):
    path, rng = tmp_path / "a.idx", random.Random(int(os.environ.get("SHORTLIST_TEST_SEED", "1")))
    build(path)
    count = len(LEFT)
    for _ in range(6):
        command = [sys.executable, "-c", COMPACT, str(path), os.pathsep.join(sys.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "open\n"
            time.sleep(rng.uniform(0, 0.3))
            writer.send_signal(signal.SIGKILL)
            done = writer.stdout.read().count("done")
        for write in (False, True):
            with Index.open(path, encoder=ENCODER, write=write) as index:
                held = [p.id for p in index.passages()]
                assert held == [p.id for p in LEFT[-len(held) :]]
                assert count - done - 1 <= len(held) <= count - max(0, done - 1)
                assert set(index.search("the river", k=1000, first="dense").ids) == set(held)
        count = len(held)
        assert not (path / "compacting").exists()


class Faults:
    """Makes the n-th fsync, rename or removal fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, call):
        def guarded(*args, **more):
            self.left -= 1
            if self.left == 0:
                raise OSError(28, "No space left on device")
            return call(*args, **more)

        return guarded


def test_a_failure_at_any_step_leaves_a_readable_state(tmp_path, monkeypatch):
    build(tmp_path / "0")
    with Index.open(tmp_path / "0", encoder=ENCODER) as index:
        expected = answers(index)
    faults, reached, step = Faults(monkeypatch), True, 0
    while reached:
        step += 1
        path = tmp_path / str(step)
        shutil.copytree(tmp_path / "0", path)
        with Index.open(path, encoder=ENCODER) as before, Index.open(path, encoder=ENCODER, write=True) as index:
            faults.left = step
            with contextlib.suppress(ShortlistError):
                index.compact()
            reached, faults.left = faults.left <= 0, -1
            for one in (before, index):
                assert answers(one) == expected, step
            index.add([Passage("new", "one more", lang="zh")])  # the same writer goes on
            for one in (before, index):
                assert one.get("new").text == "one more", step
            index.delete(["new"])
            index.add([Passage("last", "and another one", lang="zh")])
        for write in (False, True, False):
            with Index.open(path, encoder=ENCODER, write=write) as index:
                assert [p.id for p in index.passages()] == [*(p.id for p in LEFT), "last"], step
        with Index.open(path, encoder=ENCODER, write=True) as index:
            index.delete(["last"])
            index.compact()
            assert index.deleted == 0
            assert answers(index) == expected, step
    assert step > 15


READER = """
import os, sys
sys.path[:0] = sys.argv[2].split(":")
from index_tools import HashEncoder
from shortlist.index import Index
index = Index.open(sys.argv[1], encoder=HashEncoder(dims=20))
print("open", flush=True)
searches = 0
frozen = index.passages()
first = next(frozen).id
sys.stdin.read()
while searches < 5 or not os.path.exists(sys.argv[3]):
    for how in ("bm25", "dense", "hybrid"):
        for hit in index.search("the river museum", k=300, first=how):
            assert hit.passage.id == hit.id and int(hit.id[1:]) % 3, hit
    assert len(index) == 200, len(index)
    assert len(index.search("river", k=300, first="dense", where="lang=zh").ids) == int(sys.argv[4])
    searches += 1
print(1 + sum(1 for _ in frozen), searches, flush=True)
"""


def test_other_processes_search_through_compactions(tmp_path):
    path, end = tmp_path / "a.idx", tmp_path / "end"
    build(path)
    chinese = sum(p.lang == "zh" for p in LEFT)
    command = [sys.executable, "-c", READER, str(path), os.pathsep.join(sys.path), str(end), str(chinese)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with (
        subprocess.Popen(command, text=True, **pipes) as one,
        subprocess.Popen(command, text=True, **pipes) as other,
        Index.open(path, encoder=ENCODER, write=True) as index,
    ):
        readers = (one, other)
        for reader in readers:
            assert reader.stdout.readline() == "open\n"
            reader.stdin.close()
        moved = 0
        for _ in range(15):
            same = [index.get("p1")]
            index._store.append(*rows_again(index, same), replacing=True)  # leaves one passage deleted
            moved += index.compact()
        end.touch()
        for reader in readers:
            out, err = reader.stdout.read(), reader.stderr.read()
            assert out.split()[:1] == ["200"], err
    assert moved == 100 + 15


def rows_again(index: Index, same):
    from shortlist.quantize import to_half
    from shortlist.stores.truth import Row

    halves = to_half(ENCODER.encode_counted([p.content for p in same])[0])
    rows = [Row(p, p.lang, half) for p, half in zip(same, halves, strict=True)]
    return rows, index._store.postings(rows)
