"""The arithmetic of bench/encoder.py: rates, ratios by round, batches, texts, and what the page says of them."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tiny_models

BENCH = Path(__file__).resolve().parents[2] / "bench"


def module(name: str) -> ModuleType:
    """One of bench/peers, which is no package that gets installed."""
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module(f"peers.{name}")
    finally:
        sys.path.remove(str(BENCH))


rates, engines, report, texts = map(module, ("rates", "engines", "report", "texts"))


def test_a_spread_is_median_least_and_greatest() -> None:
    assert rates.spread([3.0, 1.0, 2.0, 10.0]) == rates.Spread(2.5, 1.0, 10.0)
    with pytest.raises(ValueError, match="no rounds"):
        rates.spread([])


def test_ratios_are_taken_round_by_round() -> None:
    """A round in which the machine was slow for all has the same ratio as the others."""
    assert rates.speedups([1.0, 10.0], [3.0, 30.0]) == [3.0, 3.0]
    with pytest.raises(ValueError, match="2 rounds of ours, 1"):
        rates.speedups([1.0, 1.0], [1.0])


def test_the_fastest_has_the_least_median_not_the_least_time() -> None:
    assert rates.fastest({"lucky once": [0.1, 5.0, 5.0], "steady": [2.0, 2.0, 2.0]}) == "steady"
    assert rates.fastest({}) == ""


@pytest.mark.parametrize("percent", [1, 50, 99, 100])
def test_a_percentile_is_the_nearest_rank(percent: float) -> None:
    values = random.Random(0).choices(range(1000), k=137)
    assert rates.percentile(values, percent) == np.percentile(values, percent, method="inverted_cdf")


def test_operations_are_counted_as_the_matrices_have_numbers() -> None:
    tensors = tiny_models.network_tensors(100, seed=1)
    numbers = sum(t.size for name, t in tensors.items() if name.startswith("encoder.layer") and t.ndim == 2)
    found = rates.linear_operations(7, tiny_models.LAYERS, tiny_models.HIDDEN, tiny_models.FFN)
    assert found == 2 * 7 * numbers


def test_lengths_are_like_those_of_ms_marco() -> None:
    lengths = rates.lengths_around(256)
    assert np.mean(lengths) == pytest.approx(76, abs=1)
    assert np.std(lengths) == pytest.approx(33, abs=3)
    assert lengths == sorted(lengths)
    assert min(lengths) >= 20
    assert max(lengths) <= 200


def test_agreement_is_the_share_of_pairs_in_the_same_order() -> None:
    assert rates.pair_agreement([1, 2, 3], [10, 20, 30]) == 1
    assert rates.pair_agreement([1, 2, 3], [3, 2, 1]) == 0
    assert rates.pair_agreement([1, 2, 3], [1, 3, 2]) == pytest.approx(2 / 3)
    assert rates.pair_agreement([1, 2, 3], [0, 0, 0]) == 0, "an engine that gives one number for all agrees in nothing"
    assert rates.pair_agreement([1, 1], [1, 2]) == 1


def test_a_ragged_table_is_refused() -> None:
    assert rates.table(["a", "b"], [["x", "1"]]) == ["| a | b |", "| --- | ---: |", "| x | 1 |"]
    with pytest.raises(ValueError, match="1 cells under 2"):
        rates.table(["a", "b"], [["x"]])


@pytest.mark.parametrize("budget", [1, 64, 512, 10_000])
def test_batches_hold_every_text_once_and_keep_to_the_budget(budget: int) -> None:
    lengths = [random.Random(i).randint(1, 200) for i in range(100)]
    groups = engines.token_batches(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(100))
    assert all(len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget for group in groups)


def test_padded_batches_give_every_token_its_place() -> None:
    batch = engines._padded([[5, 6, 7], [8]], [[0, 0, 1], [0]])
    ids, mask, segments = (array.tolist() for array in batch.arrays)
    assert (ids, mask, segments) == ([[5, 6, 7], [8, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 0, 1], [0, 0, 0]])


def test_rows_come_back_in_the_order_of_the_texts() -> None:
    words = ["a", "abc", "ab", "abcd"]
    assert engines._in_order_of_length(words, lambda part: [[len(w)] for w in part]).tolist() == [[1], [3], [2], [4]]


def test_texts_have_the_wanted_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "DATA", tmp_path / "none")
    tokenizer = tiny_models.bert_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    chosen = texts.choose(tmp_path / "tokenizer.json", 20, 2, 3)
    lengths = [len(tokenizer.encode(text).ids) for text in chosen.passages]
    assert sorted(lengths) == rates.lengths_around(20)
    assert lengths != sorted(lengths), "a beginning of the list must have the mixture of the whole"
    assert [len(tokenizer.encode(text).ids) for text in chosen.long] == [512, 512]
    assert len(chosen.chinese) == 3
    assert chosen.questions
    assert chosen.chinese_questions
    chosen.save(tmp_path / "texts.json")
    assert texts.Texts.load(tmp_path / "texts.json") == chosen == texts.choose(tmp_path / "tokenizer.json", 20, 2, 3)


def timed(*seconds: float) -> dict[str, list[float | None]]:
    return {"s": [*seconds], "network_s": [None] * len(seconds)}


@pytest.fixture
def figures() -> dict:
    """Two rounds with a fast peer that is right, and a faster one that computes something else."""
    run = {
        "body": "L-6",
        "threads": 2,
        "counts": {"passages": 10},
        "tokens": {"passages": 1000},
        "pair_tokens": {"32": 2000},
        "peak_gops": [1.0, 2.0],
        "encode": {"passages": {"shortlist": timed(0.5, 1.0), "good": timed(2.0, 3.0), "wrong": timed(0.1, 0.1)}},
        "network_s": {"passages": [0.25, 0.5]},
        "ask": {"one": {"shortlist": timed(1e-3, 1e-3) | {"each_s": [[1e-3], [1e-3]]}}},
        "rerank": {"32": {"shortlist": timed(1.0, 1.0), "good": timed(3.0, 5.0)}},
        "agreement": {"encode/passages": {"good": {"mean": 0.99, "min": 0.98}, "wrong": {"mean": 0.5, "min": 0.1}}},
        "memory_mb": {"shortlist": 100.0},
        "failed": {"absent": "ImportError: no"},
    }
    return {
        "date": "2026-01-01",
        "machine": {"cpu": "a processor", "cores": 2, "kernels": "portable", "load": 0.1},
        "versions": {"Python": "3.11"},
        "rounds": 2,
        "texts": {"source": "somewhere", "counts": "10 passages"},
        "bodies": {"L-6": {"layers": 1, "hidden": 100, "intermediate": 300}},
        "missing": {"A peer": "not installed"},
        "settings": {"good/2": {"passages": [1024, 2], "rerank": [512, 1]}},
        "runs": [run],
    }


LABELS = {"shortlist": "Ours", "good": "Good", "wrong": "Wrong", "absent": "Absent"}


def test_who_computes_something_else_is_no_peer(figures: dict) -> None:
    assert list(report.peers(figures["runs"][0], "encode", "passages")) == ["good"]
    page = report.page(figures, LABELS)
    assert "| L-6 | 2 | passages of MS MARCO's lengths | Good | 3.50 (3.00..4.00) | 50% |" in page
    assert "| Wrong | 10000 (10000..10000) |  | other numbers: no peer | 0.5000 / 0.1000 |" in page


def test_the_share_of_the_peak_is_taken_round_by_round(figures: dict) -> None:
    work = 2 * 1000 * (4 * 100**2 + 2 * 100 * 300)
    shape = figures["bodies"]["L-6"]
    assert report.shares_of_peak(figures["runs"][0], shape, "passages") == pytest.approx(
        [1e-9 * work / 0.25 / 1.0, 1e-9 * work / 0.5 / 2.0]
    )


def test_the_page_names_who_was_missing_and_who_failed(figures: dict) -> None:
    page = report.page(figures, LABELS)
    assert "Not measured: A peer: not installed." in page
    assert "Absent failed: ImportError: no" in page
    assert "| Good | 2 | 1024 x 2 |  | 512 |" in page
    assert "| L-6 | 2 | rerank 32 | Good | 4.00 (3.00..5.00) |  |" in page


def test_without_a_reference_nobody_is_shut_out(figures: dict) -> None:
    figures["runs"][0]["agreement"] = {}
    assert list(report.peers(figures["runs"][0], "encode", "passages")) == ["good", "wrong"]
