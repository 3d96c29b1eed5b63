"""Damaged derived files: the right answer, or IndexFormatError that says what to do; opening for writing heals them."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from index_tools import HashEncoder, passages
from shortlist.errors import IndexFormatError, ShortlistError
from shortlist.index import Index

ENCODER = HashEncoder(dims=20)
QUERIES = ("the river museum", "北京大学 häuser")


def answers(index):
    rankings = [index.search(query, k=15, first=first) for query in QUERIES for first in ("bm25", "dense")]
    rankings.append(index.search(QUERIES[0], k=15, first="bm25", where="lang in [en, zh] and not n<20"))
    return [[(hit.id, hit.score, hit.passage) for hit in ranking] for ranking in rankings], list(index.passages())


@pytest.fixture(scope="module", params=["int8", "binary-rescored"])
def sound(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.idx"
    with Index.create(path, encoder=ENCODER, vectors=request.param) as index:
        for number, size in enumerate((120, 30, 2)):
            index.add(passages(size, seed=number, prefix=f"{number}-"))
        index.delete(["0-5", "1-7"])
        return path, answers(index)


def damages(content: bytes):
    yield "missing", None
    lengths = {0, 1, 7, 16, 64, 4096, len(content) // 2, len(content) - 1}
    for length in sorted(length for length in lengths if length < len(content)):
        yield f"cut to {length}", content[:length]
    for at in {0, 9, 30, len(content) // 3, len(content) // 2, len(content) - 1}:
        yield f"bit flipped at {at}", content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :]
    yield "zeros", bytes(len(content))
    yield "grown", content + b"tail of a torn write"


def derived(path: Path):
    folders = [*sorted((path / "terms").iterdir()), *sorted((path / "columns").iterdir())]
    return [path / "published", *sorted(path.glob("vectors.*")), *folders]


def cases(path: Path):
    for file in derived(path):
        for what, content in damages(file.read_bytes()):
            yield file.relative_to(path), what, content


def read(path):
    """A reader's answers, or the advice in the error that it gets."""
    try:
        with Index.open(path, encoder=ENCODER) as reader:
            return answers(reader)
    except IndexFormatError as error:
        return "write=True" if "write=True" in str(error) else str(error)


def test_readers_are_never_fooled_and_writers_heal(sound, tmp_path):
    original, expected = sound
    for number, (name, what, content) in enumerate(cases(original)):
        path = tmp_path / str(number)
        shutil.copytree(original, path)
        (path / name).unlink()
        if content is not None:
            (path / name).write_bytes(content)
        assert read(path) in (expected, "write=True"), (name, what)
        with Index.open(path, encoder=ENCODER, write=True) as writer:
            assert answers(writer) == expected, (name, what)


def test_without_any_derived_file_everything_is_rebuilt(sound, tmp_path):
    original, expected = sound
    path = tmp_path / "a.idx"
    shutil.copytree(original, path)
    for file in derived(path):
        file.unlink()
    (path / "terms").rmdir()
    (path / "columns").rmdir()
    encoded = ENCODER.encoded
    with Index.open(path, encoder=ENCODER, write=True):
        assert ENCODER.encoded == encoded
    with Index.open(path, encoder=ENCODER) as index:
        assert answers(index) == expected


def test_derived_files_of_another_index_are_not_used(sound, tmp_path):
    original, expected = sound
    other = tmp_path / "other.idx"
    with Index.create(other, encoder=ENCODER) as index:
        for number, size in enumerate((120, 30, 2)):
            index.add(passages(size, seed=number + 50, prefix=f"{number}-"))
        index.delete(["0-5", "1-7"])
    path = tmp_path / "a.idx"
    shutil.copytree(original, path)
    for file in derived(path):
        file.unlink()
    for file in derived(other):
        shutil.copy(file, path / file.relative_to(other))
    with pytest.raises(IndexFormatError, match="another index"):
        Index.open(path, encoder=ENCODER)
    with Index.open(path, encoder=ENCODER, write=True) as index:
        assert answers(index) == expected


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000, None])
def test_a_damaged_database_is_named(sound, tmp_path, content):
    path = tmp_path / "a.idx"
    shutil.copytree(sound[0], path)
    whole = (path / "passages.sqlite").read_bytes()
    (path / "passages.sqlite").write_bytes(whole[: len(whole) // 2 + 100] if content is None else content)
    for write in (False, True):
        with (
            pytest.raises(IndexFormatError, match=r"passages\.sqlite"),
            Index.open(path, encoder=ENCODER, write=write) as index,
        ):
            answers(index)


def test_an_index_of_a_newer_format_is_refused(sound, tmp_path):
    import sqlite3

    path = tmp_path / "a.idx"
    shutil.copytree(sound[0], path)
    db = sqlite3.connect(path / "passages.sqlite")
    db.execute("UPDATE manifest SET value = '4' WHERE key = 'format'")
    db.commit()
    db.close()
    with pytest.raises(IndexFormatError, match=r"format 4.*Upgrade shortlist"):
        Index.open(path)


class Faults:
    """Makes the n-th fsync or rename fail as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        monkeypatch.setattr(os, "fsync", self._wrap(os.fsync))
        monkeypatch.setattr(Path, "replace", self._wrap(Path.replace))

    def _wrap(self, call):
        def guarded(*args):
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*args)

        return guarded


def test_a_failure_at_any_step_of_a_commit_leaves_a_readable_state(tmp_path, monkeypatch):
    with Index.create(tmp_path / "0", encoder=ENCODER) as index:
        for number in range(3):
            index.add(passages(3, seed=number, prefix=f"{number}-"))
    faults, reached, step = Faults(monkeypatch), True, 0
    while reached:
        step += 1
        path = tmp_path / str(step)
        shutil.copytree(tmp_path / "0", path)
        with Index.open(path, encoder=ENCODER, write=True) as index:
            faults.left = step
            with contextlib.suppress(ShortlistError):
                index.add(passages(3, seed=3, prefix="3-"))  # the fourth segment: this commit merges, too
                index.delete(["0-1"])
            reached, faults.left = faults.left <= 0, -1
            with Index.open(path, encoder=ENCODER) as reader:
                assert len(reader) in (9, 12, 11)
                assert len(reader.search("river", first="dense", k=50)) == len(reader)
            index.add(passages(3, seed=4, prefix="4-"))  # the same writer goes on
            expected = answers(index)
            assert len(index) in (12, 15, 14)
        with Index.open(path, encoder=ENCODER, write=True) as index:
            assert answers(index) == expected
    assert step > 8


def test_a_reader_needs_no_right_to_write(sound, tmp_path, monkeypatch):
    path, expected = tmp_path / "a.idx", sound[1]
    shutil.copytree(sound[0], path)
    for leftover in ("passages.sqlite-wal", "passages.sqlite-shm"):
        (path / leftover).unlink(missing_ok=True)
    for file in [*derived(path), path / "passages.sqlite"]:
        file.chmod(0o444)
    path.chmod(0o555)
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)  # the superuser may write everywhere
    with Index.open(path, encoder=ENCODER) as reader:
        assert answers(reader) == expected
    assert not (path / "passages.sqlite-shm").exists()
    path.chmod(0o755)


FULL = """
import resource, sys
sys.path[:0] = sys.argv[3].split(":")
from index_tools import HashEncoder, passages
from shortlist.errors import ShortlistError
from shortlist.index import Index
with Index.open(sys.argv[1], encoder=HashEncoder(dims=20), write=True) as index:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        for number in range(100):
            index.add(passages(200, seed=number, prefix=f"f{number}-"))
            print(number, flush=True)
    except ShortlistError as error:
        print("refused:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.parametrize("limit", [60_000, 200_000, 1_500_000])
def test_a_full_disk_is_explained_and_costs_no_committed_passage(sound, tmp_path, limit):
    path = tmp_path / "a.idx"
    shutil.copytree(sound[0], path)
    folders = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", FULL, str(path), str(limit), folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *stored, last = done.stdout.splitlines()
    assert last.startswith("refused:")
    assert "stays readable" in last
    for write in (False, True, False):
        with Index.open(path, encoder=ENCODER, write=write) as index:
            assert index.get("0-1").id == "0-1"
            for number in stored:
                assert index.get(f"f{number}-199").id == f"f{number}-199"
            assert (len(index) - 150) % 200 == 0
            assert len(index.search("river museum", k=100, first="dense")) == 100


# --- the truth


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """An index whose last commits are still in SQLite's log, as a killed writer leaves it, and what it answers."""
    path = tmp_path_factory.mktemp("logged") / "a.idx"
    with Index.create(path, encoder=ENCODER) as index:
        index.add(passages(60))
        index.delete(["p5"])
    with Index.open(path, encoder=ENCODER, write=True) as index:
        index.upsert(passages(20, seed=2, prefix="q"))
        index.upsert([*passages(3, seed=3), *passages(2, seed=4, prefix="r")])
        index.delete(["q7", "p9"])
        copy = tmp_path_factory.mktemp("left") / "a.idx"
        shutil.copytree(path, copy)
    (copy / "passages.sqlite-shm").unlink()
    with Index.open(shutil.copytree(copy, tmp_path_factory.mktemp("asked") / "a.idx"), encoder=ENCODER) as index:
        return copy, every_answer(index)


def every_answer(index):
    ids = [f"{prefix}{number}" for prefix in "pqr" for number in range(0, 62, 3)]
    return answers(index), index._store.snapshot().get(ids), len(index), index.languages, index.manifest, index.sizes().keys()


def truth_damages(content: bytes, flips: int, seed: str):
    """Cuts at every class of length (nothing, header, page, odd), and flips at random and at places where structure is."""
    rng = random.Random(seed)
    size = len(content)
    for length in (0, 1, 16, 99, 100, 512, 8191, 8192, 8193, size // 2, size - 8192, size - 24, size - 1):
        if 0 <= length < size:
            yield f"cut to {length}", content[:length]
    header = [page + place for page in range(0, size, 8192) for place in range(12)]
    used = [place for place in range(size) if content[place]]
    for place in {
        *rng.sample(range(100), min(flips, 100)),
        *rng.sample(header, min(flips, len(header))),
        *rng.sample(used, flips),
    }:
        bit = 1 << rng.randrange(8)
        yield f"bit {bit} of byte {place}", content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
    yield "a page of zeros", content[: size - 8192] + bytes(8192)
    yield "grown", content + bytes(8192)


def damaged_truths(flips: int, logged: Path):
    for name in ("passages.sqlite", "passages.sqlite-wal"):
        for what, content in truth_damages((logged / name).read_bytes(), flips, os.environ.get("SHORTLIST_TEST_SEED", "1")):
            yield name, what, content


def never_fooled(logged, tmp_path, flips):
    original, expected = logged
    path, refused, count = tmp_path / "a.idx", 0, 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, what, content in damaged_truths(flips, original):
        count += 1
        for write in (False, True):
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(original, path)
            (path / name).write_bytes(content)
            try:
                with Index.open(path, encoder=ENCODER, write=write) as index:
                    assert every_answer(index) == expected, (name, what, write)
            except IndexFormatError:
                refused += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000, "KB: no length is believed unseen"
    return refused, count


def test_a_damaged_truth_never_answers_wrongly(logged, tmp_path):
    refused, count = never_fooled(logged, tmp_path, 8)
    assert count / 4 < refused < 2 * count


@pytest.mark.parametrize("write", [False, True])
def test_the_shared_memory_of_sqlite_may_hold_anything(logged, tmp_path, write):
    path = tmp_path / "a.idx"
    shutil.copytree(logged[0], path)
    (path / "passages.sqlite-shm").write_bytes(random.Random(1).randbytes(32768))
    with Index.open(path, encoder=ENCODER, write=write) as index:
        assert every_answer(index) == logged[1]


@pytest.mark.durability
def test_a_truth_damaged_in_many_ways_never_answers_wrongly(logged, tmp_path):
    refused, count = never_fooled(logged, tmp_path, 250)
    assert count / 4 < refused < 2 * count
