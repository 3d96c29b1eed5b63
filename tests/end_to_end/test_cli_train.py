"""`shortlist train` as a user meets it: from judged questions to a reranker that searches, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from index_tools import passages
from shortlist.cli import main
from shortlist.cli.training import _settings
from shortlist.errors import BadInput
from shortlist.reranker import Reranker
from shortlist.train.encoder import EncoderSettings
from shortlist.train.groups import read_groups


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty passages, twenty-four questions made of words of one passage each."""
    folder = tmp_path_factory.mktemp("data") / "towns"
    (folder / "qrels").mkdir(parents=True)
    corpus = passages(80)
    rows = [{"_id": p.id, "text": p.text} for p in corpus]
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    queries = [{"_id": f"q{n}", "text": " ".join(corpus[n].text.split()[:4])} for n in range(24)]
    (folder / "queries.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in queries), encoding="utf-8")
    for split, numbers in (("train", range(16)), ("dev", range(16, 24))):
        lines = "\n".join(f"q{n}\tp{n}\t1" for n in numbers)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}\n", encoding="utf-8")
    return folder


def test_mining_by_command(collection: Path, tiny_encoder_folder: Path, tmp_path: Path) -> None:
    words = ["train", "mine", str(collection), "-o", str(tmp_path / "g"), "--encoder", str(tiny_encoder_folder), "--depth", "6"]
    assert main(words) == 0
    assert main(words) == 0  # nothing to do any more
    found = read_groups(tmp_path / "g")
    assert len(found) == 16
    assert all(6 <= len(g.candidates) <= 7 for g in found.groups)


def test_pruning_by_command(tiny_encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"_id": str(i), "text": f"river {i} and city"}) for i in range(40)), encoding="utf-8")
    assert main(["train", "prune", str(tiny_encoder_folder), str(texts), "-o", str(tmp_path / "small")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pieces_after"] < report["pieces_before"]
    assert set(report["by_language"]["en"]) >= {"tokens_changed", "min_cosine"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rate=fast"], "not what this setting takes"),
        (["speed=1"], "expected NAME=VALUE with one of"),
        (["rate"], "expected NAME=VALUE"),
        (["bf16=maybe"], "not what this setting takes"),
    ],
)
def test_wrong_settings_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _settings(EncoderSettings, words)


def test_settings_take_the_type_of_their_field() -> None:
    found = _settings(EncoderSettings, ["rate=1e-4", "steps=none", "bf16=true", "batch=4"])
    assert (found.rate, found.steps, found.bf16, found.batch) == (1e-4, None, True, 4)


def test_a_body_needs_judged_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "export", "anything", "-o", "out", "--to", "body"]) == 1
    assert "--judged" in capsys.readouterr().err


def test_what_an_encoder_does_not_take_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tune", "groups", "-o", "out", "--kind", "encoder", "--watch", "dev"]) == 1
    assert "--watch are for rerankers" in capsys.readouterr().err


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_from_judged_questions_to_a_search(
    collection: Path, tiny_encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str | Path) -> str:
        assert main([str(w) for w in words]) == 0
        return capsys.readouterr().out

    def mine(spec: str, out: str) -> None:
        run("train", "mine", spec, "-o", tmp_path / out, "--encoder", tiny_encoder_folder, "--indexes", tmp_path / "indexes")

    mine(str(collection), "groups")
    mine(f"{collection}:dev", "dev")
    out = tmp_path / "tuned"
    recipe = ("--set", "exits=1,2", "--set", "epochs=8", "--set", "rate=2e-3", "--set", "windows=16", "--threads", "1")
    run("train", "tune", tmp_path / "groups", "-o", out, "--start", tiny_encoder_folder, "--watch", tmp_path / "dev", *recipe)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["groups"] == {"towns": 13}, "three of sixteen are put aside"
    assert any("watched" in line for line in map(json.loads, (out / "log.jsonl").read_text(encoding="utf-8").splitlines()))
    fields = tmp_path / "fields.json"
    fields.write_text(json.dumps({"licence": "MIT", "window": 16}), encoding="utf-8")
    body = tmp_path / "ours-L-2"
    printed = run("train", "export", out / "L-2", "-o", body, "--to", "body", "--judged", tmp_path / "dev", "--card", fields)
    learnt = json.loads(printed)
    card = Reranker.load(body).card
    assert (card.licence, card.window, card.fusion_weight) == ("MIT", 16, learnt["weight"])
    assert Reranker.load(body).verify() == []
    found = json.loads(run("search", tmp_path / "indexes" / "towns.idx", "the river", "--rerank", body, "--json"))
    assert found["hits"]
    assert all("rerank" in hit["scores"] for hit in found["hits"])
    small = tmp_path / "small"
    student = ("--teacher", out / "L-2", "--start", tiny_encoder_folder, "--set", "exits=1", *recipe[2:])
    run("train", "distill", tmp_path / "groups", "-o", small, *student)
    assert Reranker.load(small / "L-1").card.layers == 1
