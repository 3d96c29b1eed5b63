"""Where runs come from: hashes, and what is said of manifests. The whole manifest is tested through the command line."""

import json

import pytest

from shortlist.data import read_manifest, write_run
from shortlist.errors import BadInput
from shortlist.provenance import corpus_hash, disagreements, queries_hash, summary
from shortlist.types import Passage, Run

PASSAGES = [Passage(f"p{n}", f"text {n}", "title", "en", {"n": n}) for n in range(50)]


def test_the_corpus_hash_depends_on_ids_and_contents_only():
    whole = corpus_hash(PASSAGES)
    assert len(whole) == 32
    assert corpus_hash(reversed(PASSAGES)) == whole
    assert corpus_hash(Passage(p.id, p.text, p.title) for p in PASSAGES) == whole  # language and meta are not searched
    assert corpus_hash(PASSAGES[1:]) != whole
    assert corpus_hash([*PASSAGES, PASSAGES[0]]) != whole
    assert corpus_hash([Passage("p0", "text 1", "title"), Passage("p1", "text 0", "title"), *PASSAGES[2:]]) != whole
    assert corpus_hash([]) == "0" * 32
    assert queries_hash({"a": "bc"}) != queries_hash({"ab": "c"})


def test_a_manifest_stays_beside_its_run(tmp_path):
    path = tmp_path / "r.trec"
    write_run(Run({"q": {"a": 1.0}}), path, {"corpus": {"hash": "x"}, "words": "柏林"})
    assert read_manifest(path) == {"corpus": {"hash": "x"}, "words": "柏林"}
    write_run(Run({"q": {"b": 1.0}}), path)  # another run: the manifest would speak of the old one
    assert read_manifest(path) is None


@pytest.mark.parametrize("content", ["not json", "[]"])
def test_a_damaged_manifest(tmp_path, content):
    (tmp_path / "r.manifest.json").write_text(content)
    with pytest.raises(BadInput, match="Write the run again, or remove this file"):
        read_manifest(tmp_path / "r")


def manifest(corpus: str, queries: str) -> dict:
    return {"corpus": {"hash": corpus}, "queries": {"hash": queries}}


def test_disagreements():
    same = manifest("c" * 32, "q" * 32)
    assert disagreements({"a": same, "b": dict(same), "old": None}) == []
    (line,) = disagreements({"a": same, "b": same, "c": manifest("d" * 32, "q" * 32)})
    assert "different corpora" in line
    assert "(a, b: cccccccc; c: dddddddd)" in line
    assert len(disagreements({"a": same, "b": manifest("x", "y")})) == 2


def test_a_summary_of_any_manifest():
    full = {
        "shortlist": "0.1.0",
        "first": "hybrid",
        "encoder": {"name": "e5", "fingerprint": "ab" * 32},
        "rerankers": [{"name": "L-6", "fingerprint": "cd" * 32, "reads": 32}],
        "corpus": {"passages": 7, "hash": "ef" * 16},
    }
    line = "hybrid · e5 (abababab) · L-6 (cdcdcdcd) reads 32 · 7 passages efefefef · shortlist 0.1.0"
    assert summary(json.loads(json.dumps(full))) == line
    assert summary({}) == "? · ? passages ? · shortlist ?"
