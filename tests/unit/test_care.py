"""check, --repair and backup: what is damaged is found and named, what can be restored is, and copies are whole."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import uuid
from dataclasses import replace

import pytest

from durability import held
from index_tools import HashEncoder, passages
from shortlist import cli
from shortlist.errors import BadInput, IndexFormatError, IndexLocked
from shortlist.index import Index
from shortlist.stores.care import backup, check, repair

ENCODER = HashEncoder(dims=20)


@pytest.fixture(params=["int8", "binary-rescored", None])
def path(tmp_path, request):
    encoder = {"encoder": ENCODER, "vectors": request.param} if request.param else {}
    with Index.create(tmp_path / "a.idx", **encoder) as index:
        index.add(passages(120))
        index.upsert(passages(10, seed=7))
        index.add(passages(30, seed=1, prefix="q"))
        index.delete(["p100", "q3"])
    return tmp_path / "a.idx"


def everything(path):
    with Index.open(path) as index:
        return {one.id: one for one in index.passages()}


def change(path, sql, *values):
    """Change the database behind the index's back."""
    db = sqlite3.connect(path / "passages.sqlite")
    db.execute(sql, values)
    db.commit()
    db.close()


def test_a_sound_index_is_sound(path):
    report = check(path)
    assert (report.sound, report.passages, report.notes) == (True, 148, ())
    assert not repair(path).truth
    assert sorted(p.name for p in path.iterdir() if "sqlite-" not in p.name)[:2] == ["columns", "lock"]


TRUTH = {
    "a text": ("UPDATE passages SET text = text || 'x' WHERE id = 'p17'", {"p17"}),
    "an id": ("UPDATE passages SET id = 'someone' WHERE id = 'p17'", {"p17"}),
    "metadata": ("UPDATE passages SET meta = '{}' WHERE id = 'p17'", {"p17"}),
    "a missing row": ("DELETE FROM passages WHERE id = 'p17'", {"p17"}),
    "several": ("UPDATE passages SET title = 'x' WHERE id IN ('p17', 'q5') AND deleted = 0", {"p17", "q5"}),
    "a deleted one": ("UPDATE passages SET text = 'x' WHERE id = 'q3'", set()),
    "the state": ("UPDATE state SET slots = 40", set()),
    "a count": ("UPDATE languages SET live = live + 1 WHERE lang = 'de'", set()),
    "a deletion that is lost": ("DELETE FROM deletions WHERE generation = 4", set()),
    "a deletion that is changed": ("UPDATE deletions SET slots = x'05000000' WHERE generation = 4", set()),
    "a mark": ("UPDATE passages SET deleted = 1 WHERE id = 'p19'", set()),
}


@pytest.mark.parametrize("what", TRUTH)
def test_damage_to_the_truth_is_named_and_the_rest_is_kept(path, what, tmp_path):
    sql, lost = TRUTH[what]
    expected = everything(path)
    change(path, sql)
    report = check(path)
    assert report.truth
    assert set(report.lost) == lost
    with pytest.raises(IndexFormatError, match="no backup was made"):
        backup(path, tmp_path / "b.idx")
    assert not (tmp_path / "b.idx").exists()
    assert repair(path) == report
    assert check(path).sound
    assert everything(path) == {name: one for name, one in expected.items() if name not in lost}
    assert (path / "passages.damaged-1.sqlite").exists()


@pytest.mark.parametrize("path", ["int8"], indirect=True)
def test_a_damaged_vector_costs_its_passage(path):
    change(path, "UPDATE vectors SET half = zeroblob(length(half)) WHERE slot = 17")
    assert check(path).lost == ("p17",)
    repair(path)
    with Index.open(path, encoder=ENCODER) as index:
        assert len(held(index)) == 147


@pytest.mark.parametrize("path", ["int8"], indirect=True)
def test_pages_that_sqlite_cannot_read(path):
    expected, file = everything(path), path / "passages.sqlite"
    content = bytearray(file.read_bytes())
    at = content.index(expected["p60"].text.encode()) // 8192 * 8192
    content[at : at + 100] = b"\x99" * 100
    file.write_bytes(content)
    report = repair(path)
    assert "p60" in report.lost  # named by the columns
    assert check(path).sound
    assert everything(path) == {name: one for name, one in expected.items() if name not in report.lost}


def test_derived_files_are_compared_with_the_truth_and_made_again(path, monkeypatch):
    """Not only their checksums: here those fit, but the files are of passages with other texts."""
    expected, other = everything(path), path.with_name("other.idx")
    with Index.open(path) as index:
        manifest = index.manifest
    monkeypatch.setattr("shortlist.stores.embedded.uuid.uuid4", lambda: uuid.UUID(hex=manifest["index"]))
    encoder = {"encoder": ENCODER, "vectors": manifest["vectors"]} if manifest["encoder"] else {}
    with Index.create(other, **encoder) as index:
        index.add([replace(one, text=f"{one.text} river", meta={"n": 7}) for one in passages(120)])
        index.upsert(passages(10, seed=7))
        index.add(passages(30, seed=1, prefix="q"))
        index.delete(["p100", "q3"])
    shutil.copy(path / "passages.sqlite", other / "passages.sqlite")
    report = check(other)
    assert not report.truth
    assert {name for name in ("terms", "columns", "vectors") if any(f"/{name}" in fault for fault in report.derived)} == (
        {"terms", "columns", "vectors"} if encoder else {"terms", "columns"}
    )
    repair(other)
    assert check(other).sound
    assert everything(other) == expected


def test_commits_that_a_lost_log_has_taken_are_not_written_over(path, tmp_path):
    left = tmp_path / "left.idx"
    with Index.open(path, write=True) as index:
        index.delete(["q4"])
        shutil.copytree(path, left)
    for ending in ("-wal", "-shm"):
        (left / f"passages.sqlite{ending}").unlink()
    for write in (False, True):
        with pytest.raises(IndexFormatError, match=r"commit 5 was published.*check --repair"):
            Index.open(left, write=write)
    report = repair(left)
    assert "commits 5 to 5 are missing" in report.truth[0]
    assert check(left).sound


@pytest.mark.parametrize("path", ["int8"], indirect=True)
def test_a_backup_is_of_one_moment_while_others_write(path, tmp_path):
    done = threading.Event()

    def write():
        with Index.open(path, encoder=ENCODER, write=True) as index:
            for number in range(200):
                index.add(passages(3, seed=number, prefix=f"w{number}-"))
                if done.is_set() and number > 4:
                    break

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            backup(path, tmp_path / f"b{number}.idx")
    finally:
        done.set()
        writer.join()
    sizes = []
    for number in range(3):
        assert check(tmp_path / f"b{number}.idx").sound
        with Index.open(tmp_path / f"b{number}.idx", encoder=ENCODER, write=True) as copy:
            sizes.append(len(held(copy, 5)))
            copy.add(passages(1, prefix="new"))
    assert sizes == sorted(sizes)
    assert all((size - 148) % 3 == 0 for size in sizes)


def test_no_backup_over_something_and_no_repair_beside_a_writer(path, tmp_path):
    (tmp_path / "there").write_text("something")
    with pytest.raises(BadInput, match="exists already"):
        backup(path, tmp_path / "there")
    with Index.open(path, write=True) as index:
        with pytest.raises(IndexLocked, match=f"process {os.getpid()}"):
            repair(path)
        assert index.check().sound
        index.backup(tmp_path / "deep" / "b.idx")
    assert check(tmp_path / "deep" / "b.idx").sound
    with pytest.raises(BadInput, match="no such index"):
        check(tmp_path / "nothing")


def test_the_command_line(path, tmp_path, capsys):
    def run(*words):
        return cli.main(["index", *map(str, words)]), capsys.readouterr().out

    assert run("check", path) == (0, f"{path}: 148 passages, all sound\n")
    assert run("backup", path, tmp_path / "b.idx")[0] == 0
    change(path, "UPDATE passages SET text = 'x' WHERE id = 'p17'")
    status, printed = run("check", path, "--json")
    assert status == 1
    assert json.loads(printed)["lost"] == ["p17"]
    status, printed = run("check", path, "--repair")
    assert status == 0
    assert "lost     p17" in printed
    assert "147 passages, all sound" in printed.replace("\n", " ")
    assert run("check", path)[0] == 0
