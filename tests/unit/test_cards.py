"""The generated model card: every section, numbers in their places, tables in form, missing parts said; the two pictures."""

from __future__ import annotations

import builtins
import json
import math
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import shortlist as sl
import tiny_models
from shortlist.errors import BadInput, MissingExtra
from shortlist.measures import CARD
from shortlist.models.body import write_body
from shortlist.train import cards

SECTIONS = [
    *("How it is built", "How to use it", "What it is worth", "By language", "All measures of some collections"),
    *("Beside others", "Calibration", "Time", "Forms", "Training", "How to make it again", "Limits and bias"),
]
DATA = Path(__file__).parents[2] / "bench" / "train" / "data.json"


def row(name: str, language: str, domain: str, trained: str, two_stage: float, best: float, half: float) -> dict:
    difference = two_stage - best
    collection, split = name.split()
    return {
        "collection": collection,
        "split": split,
        "language": language,
        "queries": 150,
        "trained": trained,
        "domain": domain,
        "bm25": best - 0.2,
        "dense": best - 0.1,
        "hybrid": best,
        "best_first": best,
        "two_stage": two_stage,
        "alone": best - 0.03,
        "untrained": best - 0.01,
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
    }


ROWS = [
    row("tydi-ko dev", "ko", "in", "train split", 0.91, 0.88, 0.01),
    row("scifact test", "en", "in", "train split", 0.72, 0.71, 0.03),
    row("miracl-yo dev", "yo", "out", "no", 0.75, 0.71, 0.02),
    row("cisi test", "en", "out", "pseudo-questions", 0.40, 0.45, 0.04),
]
EVALUATION = {
    "date": "2026-11-24",
    "versions": {"shortlist": "0.2.0"},
    "kernels": "portable",
    "protocol": {"candidates": 32, "window": 128, "queries": 150, "first": "hybrid", "weight": 0.4},
    "rows": ROWS,
    "detailed": {"tydi-ko dev": {label: {f"{label}@{k}": 0.43511 for k in ks} for label, (_, ks) in CARD.items()}},
    "sizes": {
        "L-2": {"mean_two_stage": 0.6321, "ms_32_1": 12.34, "ms_32_2": 7.1, "ms_100_1": 40.0, "ms_100_2": 21.0},
        "L-6": {"mean_two_stage": 0.7012, "ms_32_1": 33.0},
    },
    "others": {"all-MiniLM-L6-v2 (`shortlist-embed-en`) alone": {"scifact test": 0.6432}},
    "calibration": {
        "temperature": 2.5,
        "ece_before": 0.21,
        "ece_after": 0.031,
        "pairs": 4800,
        "bins": [[3000, 0.03, 0.02], [900, 0.1, 0.12], [300, 0.6, 0.66]],
        "held_back": ["heq dev", "pquad dev"],
    },
}
MANIFEST = {
    "settings": {
        "exits": [2, 4],
        "negatives": 4,
        "margin": 0.02,
        "first_weight": 1.0,
        "inner": 0.5,
        "taught": 0.25,
        "seed": 13,
    },
    "start": "shortlist-embed",
    "groups": {"tydi-ko": 1598, "ntrex-1": 1997, "unknown": 5},
    "steps": 2011,
    "pairs": 99000,
    "training_s": 3900,
    "device": "arm64 CPU, 2 threads",
    "versions": {"torch": "2.13.0"},
}
FORMS = [
    {"form": "onnx", "size_bytes": 412_000_000, "checks": {"rank_agreement": 0.997, "max_score_difference": 0.0012}},
    {"form": "gguf", "precision": "q4_0", "size_bytes": 60_400_000, "checks": {}},
    {"form": "tflite", "size_bytes": 1_000_000, "checks": {}},
]


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A tiny reranker in the form that ships: int8, the token table in another model."""
    root = tmp_path_factory.mktemp("cards")
    source = tiny_models.write_maxsim_reranker(root / "trained")
    folder = root / "tiny-rerank-L-2"
    facts = {"name": folder.name, "kind": "reranker", "pooling": "score", "table": str(source), "licence": "MIT"}
    more = {"languages": ["ko", "en", "no", "xx"], "fusion_weight": 0.4, "temperature": 2.5, "window": 96, "segments": True}
    write_body(source, folder, {**facts, **more})
    return folder


@pytest.fixture
def folder(released, tmp_path) -> Path:
    return shutil.copytree(released, tmp_path / released.name)


@pytest.fixture
def card(folder) -> dict[str, str]:
    """Title of a section -> its text, of the card with all data."""
    data = json.loads(DATA.read_text())
    return sections(cards.write_readme(folder, EVALUATION, MANIFEST, FORMS, data, recipe="bench/train/x.sh").read_text())


def sections(text: str) -> dict[str, str]:
    first, *others = re.split(r"^## ", text, flags=re.MULTILINE)
    return {"": first} | {title: body for title, _, body in (part.partition("\n") for part in others)}


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells, the line of dashes left out."""
    found = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    return [[_cells(line) for line in part.splitlines() if set(line) - set("|- ")] for part in found]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def cells(text: str, start: str) -> list[str]:
    return next(row for table in tables(text) for row in table if row[0] == start)


def test_every_section_is_there_with_and_without_data(folder, card):
    assert list(card)[1:] == SECTIONS
    bare = sections(cards.write_readme(folder, {}, {}, []).read_text())
    assert list(bare)[1:] == SECTIONS
    for title in (
        "What it is worth",
        "By language",
        "All measures of some collections",
        "Beside others",
        "Calibration",
        "Time",
    ):
        assert bare[title].strip() == "Not measured."
    for title in ("Training", "How to make it again"):
        assert bare[title].strip() == "Not recorded."
    assert "was not measured" in bare[""]
    made = [row for row in tables(bare["Forms"])[0][1:] if row[2] != "not made"]
    assert [row[0] for row in made] == ["int8"]


def test_tables_are_well_formed(folder, card):
    found = [table for text in card.values() for table in tables(text)]
    assert len(found) >= 11
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}
    text = (folder / "README.md").read_text()
    for before, dashes in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        if re.fullmatch(r"\|( --- \|)+", dashes):
            assert len(_cells(before)) == dashes.count("---")


def test_front_matter(card):
    front = card[""].split("---")[1].strip().splitlines()
    assert front == [
        *("license: mit", "pipeline_tag: text-ranking", "library_name: shortlist"),
        'language: [ko, en, "no", xx]',  # a bare no is false in YAML
    ]


def test_architecture_counts(folder, card):
    table = dict(tables(card["How it is built"])[0])
    h, f = tiny_models.HIDDEN, tiny_models.FFN
    embeddings = (tiny_models.POSITIONS + 2 + 2) * h
    layers = tiny_models.LAYERS * (4 * (h * h + h) + 2 * h * f + f + h + 4 * h)
    own = embeddings + layers + (h * h + h + h + 1) + (h + 2)
    vocabulary = tiny_models.xlmr_tokenizer().get_vocab_size()
    assert table["parameters"] == f"{own:,} of its own, {vocabulary * h:,} in the token table"
    assert table["layers, dims, heads"] == "2, 64, 4"
    assert f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB (this folder)" in table["size without the table"]
    assert f"float32 {4 * own / 1e6:.1f} MB" in table["size without the table"]
    assert "MaxSim" in table["head"]
    assert "segment 1 from the passage on" in table["input"]
    assert "the 96 that share most" in table["input"]
    assert (table["temperature"], table["longest input"][:10]) == ("2.5", "512 tokens")


def test_what_the_card_says_to_write_runs(folder, card, monkeypatch, capsys):
    python = re.search(r"```python\n(.*?)```", card["How to use it"], re.DOTALL)[1]
    load = sl.Reranker.load
    monkeypatch.setattr(sl.Reranker, "load", lambda name: load(folder) if name == "tiny-rerank-L-2" else pytest.fail(name))
    exec(python, {})
    assert capsys.readouterr().out
    assert "--rerank tiny-rerank-L-2" in card["How to use it"]


def test_quality_is_grouped_and_averaged(card):
    worth = card["What it is worth"]
    inside, outside = tables(worth)
    assert [row[0] for row in inside[1:]] == ["tydi-ko dev", "scifact test", "mean"]
    assert [row[0] for row in outside[1:]] == ["miracl-yo dev", "cisi test", "mean"]
    assert inside[1][1:9] == ["train split", "150", "0.6800", "0.7800", "0.8800", "0.8800", "0.9100", "0.8500"]
    assert inside[1][9] == "**+0.0300** (+0.0200 to +0.0400)"
    assert inside[2][9] == "+0.0100 (-0.0200 to +0.0400)"  # zero is inside: not bold
    assert inside[3][7] == f"{(0.91 + 0.72) / 2:.4f}"
    assert inside[3][9] == "+0.0200; 1 better, 0 worse"
    assert outside[3][9] == "-0.0050; 1 better, 1 worse"
    for words in ("2026-11-24, portable, shortlist 0.2.0", "at most 150 questions", "32 candidates of hybrid"):
        assert words in worth
    assert "mean nDCG@10 of 0.6950" in card[""]
    assert "more than chance on 2 collections, the loss on 1" in card[""]


def test_interval_of_a_language_is_that_of_independent_collections(card):
    english = cells(card["By language"], "en")
    mean, half = (0.01 - 0.05) / 2, math.hypot(0.03, 0.04) / 2
    assert english[1:5] == ["2", "300", "0.5800", "0.5600"]
    assert english[5] == f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"
    draw = np.random.default_rng(0).normal([0.01, -0.05], [0.03 / 1.96, 0.04 / 1.96], (200_000, 2)).mean(1)
    assert np.quantile(draw, 0.975) == pytest.approx(mean + half, abs=5e-4)


def test_detailed_measures_are_printed_as_cards_do(card):
    code = re.search(r"```python\n(.*?)```", card["All measures of some collections"], re.DOTALL)[1]
    assert code.splitlines()[0].startswith("{'NDCG@1': 0.43511, 'NDCG@3': 0.43511,")
    assert len(code.splitlines()) == len(CARD)


def test_rivals_are_compared_on_the_same_collections(card):
    beside = card["Beside others"]
    assert cells(beside, "BM25")[1:] == ["4", f"{np.mean([r['bm25'] for r in ROWS]):.4f}", "0.6950"]
    assert cells(beside, "two-stage with size L-6")[2] == "0.7012"
    assert "two-stage with size L-2" not in beside  # the model itself
    assert cells(beside, "all-MiniLM-L6-v2 (`shortlist-embed-en`) alone")[1:] == ["1", "0.6432", "0.7200"]
    published = tables(beside)[1]
    assert ["miracl-yo dev", "BM25 over word pieces", "0.4059"] in [row[:3] for row in published]
    assert ["scifact test", "**two-stage with this model**", "0.7200"] in [row[:3] for row in published]
    assert all(row[3] for row in published)


def test_what_a_row_lacks_is_not_averaged(folder):
    rows = [{k: v for k, v in ROWS[0].items() if k not in ("untrained", "dense")}, ROWS[1]]
    card = sections(cards.write_readme(folder, {"rows": rows}, {}, []).read_text())
    inside = tables(card["What it is worth"])[0]
    assert (inside[1][4], inside[2][4], inside[3][4]) == ("–", "0.6100", "–")
    assert cells(card["Beside others"], "the same network before training (MaxSim alone), two-stage")[1:] == [
        *("1", "0.7000", "0.7200"),
    ]
    assert cells(card["Beside others"], "all-MiniLM-L6-v2 (`shortlist-embed-en`) alone")[2] == "not measured"
    assert card["Time"].strip() == "Not measured."


def test_calibration_shows_the_picture_or_the_bins(folder, card):
    assert "logit / 2.500" in card["Calibration"]
    assert "4,800 pairs of heq dev and pquad dev" in card["Calibration"]
    assert "0.2100 before, 0.0310 after" in card["Calibration"]
    assert cells(card["Calibration"], "3000")[1:] == ["0.030", "0.020"]
    (folder / cards.RELIABILITY).write_text("<svg/>")
    shifted = EVALUATION | {"calibration": EVALUATION["calibration"] | {"shift": 1.25}}
    shown = sections(cards.write_readme(folder, shifted, {}, []).read_text())["Calibration"]
    assert "(reliability.svg)" in shown
    assert "sigmoid((logit - 1.250) / 2.500)" in shown
    assert not tables(shown)


def test_time_and_forms(card):
    assert cells(card["Time"], "**L-2**")[1:] == ["12.3", "7.1", "40.0", "21.0"]
    assert cells(card["Time"], "L-6")[1:] == ["33.0", "–", "–", "–"]
    forms = card["Forms"]
    assert cells(forms, "ONNX")[1:] == ["412 MB", "made and checked", "rank agreement 0.997, max score difference 0.0012"]
    assert cells(forms, "4-bit (GGUF Q4_0)")[1:] == ["60.4 MB", "made", "not measured"]
    assert cells(forms, "GGUF fp16")[2] == "not made"
    assert cells(forms, "int8")[2] == "this folder"
    assert cells(forms, "tflite")[2] == "made"  # a form that nobody foresaw is not lost


def test_training_names_data_with_licences(folder, card):
    training = card["Training"]
    assert cells(training, "tydi-ko")[1:] == ["TyDi QA GoldP, Korean", "Apache-2.0, Wikipedia text CC BY-SA 3.0", "1,598"]
    assert cells(training, "ntrex-1")[2] == "CC BY-SA 4.0"
    assert cells(training, "unknown")[2] == "licence not recorded"
    assert cells(training, "**all**")[3] == "3,600"
    assert cells(training, "pairs seen")[1] == "99,000"
    assert cells(training, "device")[1] == "arm64 CPU, 2 threads"
    for words in ("4 of the candidates", "deepest exit's softmax, weight 0.5", "a teacher's margins and order, weight 0.25"):
        assert words in training
    assert "learning.png" not in training
    (folder / cards.LEARNING).write_bytes(b"")
    assert "(learning.png)" in cards.write_readme(folder, {}, MANIFEST, []).read_text()
    assert "sh bench/train/x.sh" in card["How to make it again"]


def test_limits_name_losses_and_languages(card):
    limits = card["Limits and bias"]
    assert "worse than the best first stage, by more than chance, on cisi test." in limits
    assert "Alone it is worse" in limits
    assert "Languages with questions in training: ko." in limits
    assert re.search(r"translated sentences only: am, ar,.*\ben\b", limits)
    assert "Languages without any training text: xx." in limits


def test_the_sentence_of_a_card_names_every_collection():
    sentence = cards.training_sentence(MANIFEST, json.loads(DATA.read_text()))
    assert sentence.split("; ")[1] == "TyDi QA GoldP, Korean (Apache-2.0, Wikipedia text CC BY-SA 3.0): 1,598 questions"


def test_licences_are_recorded_for_all_that_may_be_trained_on(request):
    known = json.loads(DATA.read_text())["collections"]
    assert {"cmrc2018", "ntrex", "titles-scifact"} <= set(known)
    for name, facts in known.items():
        assert facts["name"], name
        assert facts["licence"], name
        assert facts["kind"] in ("questions", "titles", "translations")
        assert facts["languages"] == sorted(set(facts["languages"]))


@pytest.mark.data
def test_every_collection_with_a_train_split_has_its_licence(data_folder):
    known = json.loads(DATA.read_text())["collections"]
    assert {path.parents[1].name for path in data_folder.glob("*/qrels/train.tsv")} <= set(known)


def test_an_encoder_has_a_card_too(tiny_encoder_folder, tmp_path):
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "tiny")
    card = sections(cards.write_readme(folder, {}, {}, []).read_text())
    assert "pipeline_tag: sentence-similarity" in card[""]
    table = dict(tables(card["How it is built"])[0])
    assert table["vector"] == "mean of the tokens' states, normalised"
    assert table["input"] == "`query: ` before a query and `passage: ` before a passage"


def test_the_same_data_gives_the_same_bytes(folder):
    first = cards.write_readme(folder, EVALUATION, MANIFEST, FORMS).read_bytes()
    assert cards.write_readme(folder, EVALUATION, MANIFEST, FORMS).read_bytes() == first
    with pytest.raises(BadInput, match="lacks split"):
        cards.write_readme(folder, {"rows": [{"collection": "x"}]}, {}, [])


# ---------------------------------------------------------------------------------------------- pictures


def log(lines: int) -> list[dict]:
    draw = np.random.default_rng(3)
    found: list[dict] = []
    for step in range(1, lines + 1):
        facts = {f"top1 L-{n}": 0.9 - 0.3 / step + 0.02 * draw.random() for n in (2, 4, 6)}
        found.append({"step": 20 * step, "pairs": 990 * step, "seconds": 1.0, "loss": 0.5 + 1 / step, **facts})
        if step % (lines // 4) == 0:
            values = {"first": 0.7, **{f"L-{n}": 0.7 + n / 100 for n in (2, 4, 6)}}
            found.append({"step": 20 * step, "pairs": 990 * step, "seconds": 1.0, "watched": {"a": values, "b": values}})
    return found


def test_the_learning_curve_is_a_small_png(tmp_path):
    pytest.importorskip("matplotlib")
    path = cards.learning_picture(log(1000), tmp_path / "learning.png")
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-8:-4] == b"IEND"
    assert len(content) < 60_000
    unwatched = [line for line in log(20) if "loss" in line]
    assert cards.learning_picture(unwatched, tmp_path / "short.png").stat().st_size > 1000


def test_the_reliability_picture_places_its_bins(tmp_path):
    pytest.importorskip("matplotlib")
    bins = EVALUATION["calibration"]["bins"]
    path = cards.reliability_picture(bins, tmp_path / "reliability.svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    assert len(path.read_bytes()) < 60_000
    assert "date" not in path.read_text().lower()
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"stated probability", "share that was relevant", "perfect"} <= set(texts)
    assert cards.reliability_picture(bins, tmp_path / "again.svg").read_bytes() == path.read_bytes()
    moved = [[3000, 0.03, 0.5], *bins[1:]]
    assert cards.reliability_picture(moved, tmp_path / "moved.svg").read_bytes() != path.read_bytes()


def test_pictures_refuse_what_they_cannot_draw(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="no bins"):
        cards.reliability_picture([], tmp_path / "x.svg")
    with pytest.raises(BadInput, match="no line with a loss"):
        cards.learning_picture([{"watched": {}}], tmp_path / "x.png")
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"shortlist\[plot\]"):
        cards.reliability_picture([[1, 0.5, 0.5]], tmp_path / "x.svg")


def test_a_diagram_that_falls_is_not_passed_over():
    rising = [[900, 0.05, 0.01], [50, 0.4, 0.35], [50, 0.8, 0.75]]
    falling = [*rising[:2], [50, 0.8, 0.15]]
    assert cards._falling(rising) == ""
    assert "Above 0.4" in cards._falling(falling)
    assert cards._falling([]) == ""


def test_systems_measured_on_the_same_questions_stand_beside():
    assert cards._system("another", (3, 0.5, 0.6), EVALUATION["rows"]) == ("another", "3", "0.5000", "0.6000")
