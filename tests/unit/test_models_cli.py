"""`shortlist models list` and `show`: parameters against the formula, sizes that are missing, damaged folders, JSON."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import shortlist as sl
import tiny_models
from shortlist import models
from shortlist.cli import main
from shortlist.errors import ModelNotFound
from shortlist.models import catalogue, fingerprint, registry
from shortlist.models.body import write_body

SIZES = ("L-2", "L-3", "L-9")


@pytest.fixture
def family(monkeypatch, tmp_path, tiny_encoder_folder) -> Path:
    """`shortlist-embed` is the tiny encoder; of the family's three sizes two are installed, L-2 in the form that ships."""
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "shipped_folders", lambda: [tmp_path / "shipped"])
    monkeypatch.setattr(registry, "FAMILIES", (replace(catalogue.FAMILIES[0], sizes=SIZES, default="L-3"),))
    source = tiny_models.write_reranker(tmp_path / "trained", layers=2)
    default = tiny_models.write_reranker(tmp_path / "shipped" / "shortlist-rerank-L-3", layers=3)
    (default / "card.json").write_text('{"name": "shortlist-rerank-L-3"}')
    table = shutil.copytree(source, tmp_path / "home" / "shortlist-embed")
    (table / "card.json").write_text('{"name": "shortlist-embed", "languages": ["en", "de"]}')
    facts = {"name": "shortlist-rerank-L-2", "kind": "reranker", "table": "shortlist-embed", "licence": "MIT"}
    more = {"fusion_weight": 0.4, "temperature": 2.5, "window": 96, "languages": ["en", "de", "zh"], "training_data": "a set"}
    write_body(source, tmp_path / "shipped" / "shortlist-rerank-L-2", {**facts, **more})
    return tmp_path


def body_numbers(layers: int, head: bool = True) -> int:
    """Weights of a tiny BERT without its token table, by the formula."""
    h, f = tiny_models.HIDDEN, tiny_models.FFN
    embeddings = (tiny_models.POSITIONS + 2 + 2) * h
    layer = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h
    return embeddings + layers * layer + (h * h + h + h + 1 if head else 0)


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def listed(capsys, *words: str) -> dict[str, dict]:
    assert main(["models", "list", *words, "--json"]) == 0
    return {line["name"]: line for line in json_lines(capsys.readouterr().out)}


def test_list_counts_parameters_and_marks_the_default(family, capsys):
    lines = listed(capsys)
    table = tiny_models.bert_tokenizer().get_vocab_size() * tiny_models.HIDDEN
    small, default, missing = (lines[f"shortlist-rerank-{size}"] for size in SIZES)
    assert (small["layers"], small["dims"], small["here"], small["default"]) == (2, 64, True, False)
    assert (small["body_parameters"], small["table_parameters"]) == (body_numbers(2), table)  # int8 scales are none
    assert (small["table"], small["languages"], small["licence"]) == ("shortlist-embed", 3, "MIT")
    assert small["size_bytes"] == sum(p.stat().st_size for p in Path(small["path"]).rglob("*"))
    assert default["default"] is True
    assert default["body_parameters"] == body_numbers(3)
    assert default["table"] == ""
    assert (missing["here"], missing["path"], missing["layers"], missing["body_parameters"]) == (False, None, None, None)
    assert lines["shortlist-embed"]["languages"] == 2
    other = lines["shortlist-embed-en"]
    assert (other["here"], other["layers"], other["languages"]) == (False, None, 1)


def test_list_prints_a_table_and_is_the_default(family, capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert main(["models", "list"]) == 0
    assert capsys.readouterr().out == printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip().startswith("shortlist")}
    table = f"{tiny_models.bert_tokenizer().get_vocab_size() * tiny_models.HIDDEN / 1e6:.1f}"
    assert rows["shortlist-rerank-L-3"][1:8] == ["reranker", "L-3", "*", "3", "64", f"{body_numbers(3) / 1e6:.1f}", table]
    assert f"({table})" in rows["shortlist-rerank-L-2"]  # another model's table
    assert rows["shortlist-rerank-L-9"][1:] == ["reranker", "L-9", "not", "installed"]
    assert rows["shortlist-embed-en"][-1] == "no"


def test_list_chooses_by_name_or_family(family, capsys):
    assert set(listed(capsys, "shortlist-rerank")) == {f"shortlist-rerank-{size}" for size in SIZES}
    assert set(listed(capsys, "shortlist-embed", "shortlist-rerank-L-2")) == {"shortlist-embed", "shortlist-rerank-L-2"}
    assert main(["models", "list", "nonsense"]) == 1
    assert "nonsense" in capsys.readouterr().err


def test_a_damaged_model_is_a_line_with_its_problem(family, capsys):
    (family / "shipped" / "shortlist-rerank-L-3" / "model.safetensors").write_bytes(b"torn")
    assert main(["models"]) == 0
    shown = capsys.readouterr()
    assert "damaged" in next(line for line in shown.out.splitlines() if "L-3" in line)
    assert "shortlist-rerank-L-3: " in shown.err
    assert main(["models", "show", "shortlist-rerank"]) == 1
    assert "truncated" in " ".join(capsys.readouterr().err.split())
    assert main(["models", "show", "shortlist-rerank-L-2"]) == 0
    assert "L-3 (default): damaged" in capsys.readouterr().out


def test_show_says_all_of_a_model(family, capsys):
    assert main(["models", "show", "shortlist-rerank-L-2", "--json"]) == 0
    facts = json_lines(capsys.readouterr().out)[0]
    folder = models.resolve("shortlist-rerank-L-2")
    vocabulary = tiny_models.bert_tokenizer().get_vocab_size()
    assert facts["network"] == {
        "architecture": "BertForSequenceClassification",
        "layers": 2,
        "dims": 64,
        "heads": 4,
        "feed_forward": 128,
        "vocabulary": vocabulary,
        "maxsim_head": False,
    }
    assert facts["reading"]["window"] == 96
    assert facts["reading"]["max_tokens"] == 512
    assert facts["parameters"]["total"] == body_numbers(2) + vocabulary * 64
    assert facts["weights"]["weights_bytes"] == (folder / "model.safetensors").stat().st_size
    assert facts["weights"]["numbers"]["I8"] == 2 * (4 * 64 * 64 + 2 * 64 * 128)
    assert facts["table"]["shared_with"] == "shortlist-embed"
    assert facts["score"] == {"labels": 1, "fusion_weight": 0.4, "temperature": 2.5}
    assert facts["fingerprint"] == fingerprint(folder, models.resolve("shortlist-embed"))
    assert [(s["size"], s["default"], s["here"]) for s in facts["family"]["sizes"]] == [
        ("L-2", False, True),
        ("L-3", True, True),
        ("L-9", False, False),
    ]
    assert (facts["licence"], facts["training_data"], facts["languages"]) == ("MIT", "a set", ["en", "de", "zh"])


def test_what_show_says_to_write_loads_the_model(family, capsys):
    for name in ("shortlist-rerank-L-2", "shortlist-rerank", str(family / "trained")):
        assert main(["models", "show", name, "--json"]) == 0
        facts = json_lines(capsys.readouterr().out)[0]
        space: dict = {}
        exec(facts["python"], space)
        assert isinstance(space["model"], sl.Reranker)
        assert str(space["model"].folder) == facts["path"]


def test_show_prints_the_same_for_people(family, capsys):
    assert main(["models", "show", "shortlist-rerank"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "layers: 3",
        "heads: 4",
        "L-3 (default): 3 layers",
        "L-9: not installed",
        "fusion weight: 1.0",
        "prompts: none",
    ):
        assert words in shown
    assert 'sl.Reranker.load("shortlist-rerank", size="L-3")' in shown


def test_show_of_an_encoder(tiny_encoder_folder, capsys):
    assert main(["models", "show", str(tiny_encoder_folder), "--json"]) == 0
    facts = json_lines(capsys.readouterr().out)[0]
    assert facts["reading"] == {
        "max_tokens": 128,
        "window": None,
        "segments": None,
        "pooling": "mean",
        "normalized": True,
        "matryoshka": None,
        "prompts": {"query": "query: ", "passage": "passage: "},
    }
    assert facts["parameters"]["body"] == body_numbers(2, head=False)
    assert facts["score"] is None
    assert main(["models", "show", str(tiny_encoder_folder)]) == 0
    assert "query 'query: ', passage 'passage: '" in capsys.readouterr().out


def test_show_of_what_is_not_here_says_how_to_get_it(family, capsys):
    assert main(["models", "show", "minilm", "shortlist-rerank-L-9", "--json"]) == 0
    fetched, shipped = json_lines(capsys.readouterr().out)
    assert fetched["get_it_by"] == "shortlist models fetch shortlist-embed-en"
    assert shipped["get_it_by"] == "installing the package again"
    assert (fetched["here"], shipped["here"]) == (False, False)
    shutil.rmtree(family / "home")
    assert main(["models", "show", "shortlist-rerank-L-2", "--json"]) == 0
    alone = json_lines(capsys.readouterr().out)[0]
    assert (alone["here"], alone["table"]["here"], alone["fingerprint"]) == (True, False, None)


def test_what_is_refused(family, capsys):
    assert main(["models", "show"]) == 1
    assert "needs the name" in capsys.readouterr().err
    assert main(["models", "show", "nonsense"]) == 1
    assert "Known names" in " ".join(capsys.readouterr().err.split())
    assert main(["models", "verify", "shortlist-rerank-L-2", "--json"]) == 1
    assert "has no --json" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ModelNotFound, match="models fetch some/model"):
        registry.find("some/model")


def test_a_fetched_hub_model_is_listed_under_its_name(family, tiny_encoder_folder, capsys):
    folder = shutil.copytree(tiny_encoder_folder, family / "home" / "some--model")
    (folder / "card.json").write_text('{"name": "some/model", "licence": "apache-2.0"}')
    line = listed(capsys)["some/model"]
    assert (line["kind"], line["layers"], line["here"], line["licence"]) == ("encoder", 2, True, "apache-2.0")
    (folder / "config.json").write_text("{")
    assert "JSON" in listed(capsys)["some/model"]["problem"]
