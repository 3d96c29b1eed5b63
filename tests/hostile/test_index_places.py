"""A full disk, a file system for reading only, a folder of somebody else, two writers, and indexes of older formats."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

import durability
from index_tools import HashEncoder, passages
from shortlist.errors import IndexLocked, ShortlistError
from shortlist.index import Index
from shortlist.types import Passage

ENCODER = durability.ENCODER


@contextlib.contextmanager
def mounted(folder: Path, *options: str):
    """A small file system in memory, or none where this process may not mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs needs the rights of root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(tmp_path):
    with mounted(tmp_path / "small", "-o", "size=2m") as disk:
        path, stored = disk / "a.idx", 0
        with Index.create(path, encoder=ENCODER) as index:
            with pytest.raises(ShortlistError, match=r"stays readable.*Free some space"):  # noqa: PT012
                while True:
                    index.add(passages(100, seed=stored, prefix=f"{stored}-"))
                    stored += 1
            with Index.open(path, encoder=ENCODER) as reader:
                assert len(durability.held(reader, 5)) in (100 * stored, 100 * stored + 100)
        with Index.open(path, encoder=ENCODER) as reader:
            assert len(reader) in (100 * stored, 100 * stored + 100)
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        with Index.open(path, encoder=ENCODER, write=True) as index:
            assert len(durability.held(index, 5)) in (100 * stored, 100 * stored + 100)
            assert index.check().sound
            index.add(passages(100, prefix="more-"))
    assert stored > 2


def test_no_index_is_begun_on_a_full_disk(tmp_path):
    with mounted(tmp_path / "small", "-o", "size=64k") as disk:
        with pytest.raises(ShortlistError, match="Free some space"):
            Index.create(disk / "deep" / "a.idx")
        assert list((disk / "deep").iterdir()) == []


def test_a_file_system_for_reading_only(tmp_path):
    with mounted(tmp_path / "disk", "-o", "size=8m") as disk:
        with Index.create(disk / "a.idx", encoder=ENCODER) as index:
            index.add(passages(20))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with Index.open(disk / "a.idx", encoder=ENCODER) as reader:
            assert len(durability.held(reader)) == 20
            assert reader.check().sound
            reader.backup(tmp_path / "backup.idx")
        with pytest.raises(ShortlistError, match=r"read-only file system.*open the index for reading"):
            Index.open(disk / "a.idx", write=True)
        with pytest.raises(ShortlistError, match="read-only file system"):
            Index.create(disk / "b.idx")
    with Index.open(tmp_path / "backup.idx", encoder=ENCODER) as copy:
        assert len(durability.held(copy)) == 20


NOBODY = """
import os, sys
sys.path[:0] = sys.argv[2].split(":")
import durability
from shortlist.index import Index
from shortlist.errors import ShortlistError
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
with Index.open(sys.argv[1], encoder=durability.ENCODER) as reader:
    print(len(durability.held(reader)))
for refused in (lambda: Index.open(sys.argv[1], write=True), lambda: Index.create(sys.argv[1] + "/../b.idx")):
    try:
        refused()
    except ShortlistError as error:
        print(error)
"""


def test_a_folder_of_somebody_else():
    """Root may write everywhere: under it the test gives its rights up first."""
    folder = Path(tempfile.mkdtemp(prefix="shortlist-test-", dir="/tmp"))
    path = folder / "a.idx"
    try:
        with Index.create(path, encoder=ENCODER) as index:
            index.add(passages(20))
        for one in (path, *path.rglob("*"), folder):
            one.chmod(0o555 if one.is_dir() else 0o444)
        words = [sys.executable, "-c", NOBODY, path, os.pathsep.join(sys.path)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode and "PermissionError" in done.stderr and "site-packages" in done.stderr:
            pytest.skip("another user may not read the packages of this one")
        assert done.returncode == 0, done.stderr
        count, opened, created = done.stdout.splitlines()
        assert count == "20"
        assert "permission denied" in opened
        assert "the right to write" in opened
        assert "permission denied" in created
    finally:
        for one in (folder, path):
            one.chmod(0o755)
        shutil.rmtree(folder)


HOLDER = """
import sys
sys.path[:0] = sys.argv[2].split(":")
from shortlist.index import Index
with Index.open(sys.argv[1], write=True):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_two_writers(tmp_path):
    Index.create(tmp_path / "a.idx").close()
    words = [sys.executable, "-c", HOLDER, tmp_path / "a.idx", os.pathsep.join(sys.path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(IndexLocked, match=f"process {holder.pid} on {socket.gethostname()}"):
            Index.open(tmp_path / "a.idx", write=True)
        assert Index.open(tmp_path / "a.idx").check().sound  # reading goes on
        holder.stdin.close()
    Index.open(tmp_path / "a.idx", write=True).close()


# --- older formats: older-formats.tar.xz was written by the version before seals, with passages(40), upserts and deletions


@pytest.fixture(params=[1, 2])
def older(request, tmp_path):
    with tarfile.open(Path(__file__).with_name("older-formats.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    expected = {one.id: one for one in [*passages(40), *passages(10, seed=5), *passages(6, seed=2, prefix="q")]}
    del expected["p3"], expected["q1"]
    return tmp_path / f"format-{request.param}", expected


def test_an_index_of_an_older_format_is_read_and_written_as_it_is(older):
    path, expected = older
    with Index.open(path, encoder=HashEncoder(dims=16)) as reader:
        assert durability.held(reader) == expected
        assert set(reader.search("the river", where={"id": {"in": ["p1", "p2"]}}, first="dense").ids) == {"p1", "p2"}
    with Index.open(path, encoder=HashEncoder(dims=16), write=True) as writer:
        assert durability.held(writer) == expected
        new = [Passage("new", "a new river", "", "en"), Passage("p1", "another text", "", "en")]
        assert (writer.upsert(new).count, writer.delete(["p2"])) == (1, 1)
        expected |= {one.id: one for one in new}
        del expected["p2"]
        assert durability.held(writer) == expected
        report = writer.check()
        assert report.sound
        assert "no seals" in report.notes[0]
    with Index.open(path, encoder=HashEncoder(dims=16)) as reader:
        assert durability.held(reader) == expected
        assert reader.manifest["format"] == int(path.name[-1])


def test_a_compaction_brings_an_older_format_up_to_date(older):
    path, expected = older
    with Index.open(path, encoder=HashEncoder(dims=16)) as reader:
        with Index.open(path, encoder=HashEncoder(dims=16), write=True) as writer:
            writer.compact()
            assert writer.manifest["format"] == 3
            assert writer.check().notes == ()
            assert durability.held(writer) == expected
        assert durability.held(reader) == expected
