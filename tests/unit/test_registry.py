from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shortlist import models
from shortlist.errors import BadInput, ChecksumError, ModelNotFound
from shortlist.models import catalogue, fingerprint, registry
from shortlist.models.files import appearing, checksums


@pytest.fixture
def home(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def fetched(home, monkeypatch, tiny_encoder_folder) -> Path:
    """The tiny encoder in the place and form of the fetched `shortlist-embed`, its fingerprint in the catalogue."""
    folder = shutil.copytree(tiny_encoder_folder, home / "shortlist-embed")
    (folder / "card.json").write_text(json.dumps({"name": "shortlist-embed", "sha256": checksums(folder)}))
    entry = replace(catalogue.ENTRIES[0], fingerprint=fingerprint(folder))
    monkeypatch.setattr(registry, "ENTRIES", (entry, *catalogue.ENTRIES[1:]))
    return folder


def shipped(root: Path, name: str, source: Path) -> Path:
    folder = shutil.copytree(source, root / name)
    (folder / "card.json").write_text(json.dumps({"name": name}))
    return folder


@pytest.mark.parametrize("name", ["shortlist-embed", "e5-small", "multilingual-e5-small"])
def test_not_fetched_names_the_command(home, name):
    with pytest.raises(ModelNotFound, match="shortlist models fetch shortlist-embed"):
        models.resolve(name)
    with pytest.raises(ModelNotFound, match="shortlist models fetch some/model"):
        models.resolve("some/model")
    assert not home.exists()


@pytest.mark.parametrize("name", ["shortlist-embed", "e5-small", "multilingual-e5-small"])
def test_fetched_by_any_name(fetched, name):
    assert models.resolve(name) == fetched
    assert models.fetch(name) == fetched
    assert next(a for a in models.available() if a.name == "shortlist-embed").path == fetched


def test_a_folder(tiny_encoder_folder, tmp_path, monkeypatch, fetched):
    assert models.resolve(tiny_encoder_folder) == tiny_encoder_folder
    assert models.resolve(str(tiny_encoder_folder)) == tiny_encoder_folder
    with pytest.raises(ModelNotFound, match="not a model folder: config"):
        models.resolve(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shortlist-embed").mkdir()
    assert models.resolve("shortlist-embed") == fetched  # our names go first
    with pytest.raises(ModelNotFound, match="not a model folder"):
        models.resolve("./shortlist-embed")


def test_unknown_names(home):
    with pytest.raises(ModelNotFound, match="Known names: shortlist-embed, shortlist-embed-en, shortlist-rerank"):
        models.resolve("shortlist-embde")
    with pytest.raises(ModelNotFound, match="no such folder"):
        models.resolve("/no/such/folder")
    with pytest.raises(ModelNotFound, match="Known names"):
        models.fetch("shortlist-embde")
    with pytest.raises(BadInput, match="empty"):
        models.resolve("")


def test_sizes_of_a_family(tmp_path, monkeypatch, tiny_reranker_folder):
    monkeypatch.setattr(registry, "shipped_folders", lambda: [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ModelNotFound, match="not in this installation"):
        models.resolve("shortlist-rerank")
    folder = shipped(tmp_path / "b", "shortlist-rerank-L-6", tiny_reranker_folder)
    smaller = shipped(tmp_path / "b", "shortlist-rerank-L-4", tiny_reranker_folder)
    assert models.resolve("shortlist-rerank") == folder
    assert models.resolve("shortlist-rerank", size="L-4") == smaller
    assert models.resolve("shortlist-rerank-L-4") == smaller
    assert models.fetch("shortlist-rerank") == folder
    with pytest.raises(ModelNotFound, match=r"no size 'L-99'\. Sizes: L-2, L-4, L-6"):
        models.resolve("shortlist-rerank", size="L-99")
    with pytest.raises(ModelNotFound, match="has no sizes"):
        models.resolve("shortlist-embed", size="L-4")


def test_verify_finds_what_is_wrong(fetched):
    assert models.verify("e5-small") == []
    (fetched / "config.json").write_text((fetched / "config.json").read_text() + " ")
    (fetched / "sentence_bert_config.json").unlink()
    problems = models.verify("e5-small")
    assert len(problems) == 2
    assert any("config.json: sha256" in p for p in problems)
    assert any("sentence_bert_config.json: missing" in p for p in problems)


def test_verify_compares_the_published_fingerprint(fetched, monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", (replace(catalogue.ENTRIES[0], fingerprint="0" * 64),))
    assert "published 000000000000" in models.verify("shortlist-embed")[0]


def test_verify_says_when_nothing_can_be_compared(tiny_encoder_folder):
    assert "no checksums" in models.verify(tiny_encoder_folder)[0]


def test_home_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path))
    assert models.home() == tmp_path
    monkeypatch.delenv("SHORTLIST_HOME")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert models.home() == tmp_path / "cache" / "shortlist"
    monkeypatch.setattr("sys.platform", "darwin")
    assert models.home().parts[-3:] == ("Library", "Caches", "shortlist")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"

    def fail_halfway() -> None:
        with appearing(target) as folder:
            (folder / "config.json").write_text("{}")
            raise ChecksumError("bad")

    with pytest.raises(ChecksumError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []
    with appearing(target) as folder:
        (folder / "config.json").write_text("1")
        assert not target.exists()
    assert (target / "config.json").read_text() == "1"
    with appearing(target) as folder:  # somebody else was faster
        (folder / "config.json").write_text("2")
    assert (target / "config.json").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_catalogue_is_sound():
    names = [n for e in catalogue.ENTRIES for n in (e.name, *e.aliases)] + [f.name for f in catalogue.FAMILIES]
    assert len(names) == len(set(names))
    for entry in catalogue.ENTRIES:
        assert len(entry.fingerprint) == 64
        assert entry.canonical
        for wheel in entry.wheels:
            assert "==" in wheel.requirement
            assert all(len(digest) == 64 and size > 0 for digest, size in wheel.members.values())
    assert all(f.default in f.sizes for f in catalogue.FAMILIES)
