"""Percentiles, throughput and cost, judged by searches whose times are known."""

from __future__ import annotations

import json
import statistics
import threading
import time

import pytest

from index_tools import passages
from shortlist.cli import main
from shortlist.errors import BadInput
from shortlist.index import Index
from shortlist.latency import cost_per_million, measure_latency, measure_throughput, percentiles
from shortlist.types import Ranking


def timed(**timings: float) -> Ranking:
    return Ranking("q", (), timings, ())


def test_warm_up_is_not_counted_and_every_query_is():
    asked = []

    def search(query: str) -> Ranking:
        asked.append(query)
        ms = 1000.0 if len(asked) <= 2 else float(len(asked))  # the first round is slow
        return timed(bm25_ms=ms / 2, total_ms=ms)

    times = measure_latency(search, ["a", "b"], rounds=2, warm_up=1)
    assert asked == ["a", "b"] * 3
    assert times.searches == 4
    assert times.stages["total_ms"][50] == statistics.median([3, 4, 5, 6])
    assert list(times.stages) == ["bm25_ms", "total_ms"]
    assert times.shares == {"bm25_ms": pytest.approx(0.5), "total_ms": pytest.approx(1.0)}


def test_a_stage_that_a_search_did_without_counts_nothing():
    answers = iter([timed(load_ms=90.0, total_ms=100.0), timed(total_ms=10.0), timed(total_ms=10.0)])
    times = measure_latency(lambda query: next(answers), ["a", "b", "c"], rounds=1, warm_up=0)
    assert times.stages["load_ms"][50] == 0
    assert times.shares["load_ms"] == pytest.approx(90 / 120)


def test_percentiles_against_the_definition():
    assert percentiles([float(n) for n in range(101)]) == {50: 50.0, 90: 90.0, 99: 99.0}


def test_clients_ask_at_once():
    inside, most, lock = 0, 0, threading.Lock()

    def search(query: str) -> Ranking:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return timed(total_ms=20.0)

    found = measure_throughput(search, ["a", "b", "c"], clients=4, seconds=0.3)
    assert most == 4
    assert found.clients == 4
    assert 20 <= found.ms[50] < 200
    assert found.per_s == pytest.approx(found.searches / found.seconds)
    assert found.searches > 4 * 3


def test_an_error_of_a_search_is_not_swallowed():
    def search(query: str) -> Ranking:
        raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        measure_throughput(search, ["a"], clients=2, seconds=0.1)


def test_cost():
    assert cost_per_million(1e6 / 3600, 2.5) == pytest.approx(2.5)  # a million in an hour
    for per_s, price in ((0, 1), (-1, 1), (1, -1), (float("nan"), 1)):
        with pytest.raises(BadInput):
            cost_per_million(per_s, price)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"warm_up": -1}])
def test_refusals(wrong):
    with pytest.raises(BadInput):
        measure_latency(lambda query: timed(total_ms=1.0), ["a"], **wrong)
    with pytest.raises(BadInput, match="no queries"):
        measure_latency(lambda query: timed(total_ms=1.0), [])
    with pytest.raises(BadInput, match="clients=0"):
        measure_throughput(lambda query: timed(total_ms=1.0), ["a"], clients=0)


def test_the_verb(tmp_path, capsys):
    with Index.create(tmp_path / "a.idx") as index:
        index.add(passages(50))
    (tmp_path / "queries.tsv").write_text("1\triver city\n2\tmuseum\n3\tthe market\n")
    words = ["bench", str(tmp_path / "a.idx"), str(tmp_path / "queries.tsv"), "--rerank", "none", "--seconds", "0.1"]
    assert main([*words, "--json", "--price", "1", "--queries", "2", "--clients", "1,3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["searches"] == 6
    assert {"bm25_ms", "total_ms"} <= set(found["stages"])
    assert [rate["clients"] for rate in found["throughput"]] == [1, 3]
    assert found["cost_per_million"] > 0
    assert main(words) == 0
    assert "queries/s" in capsys.readouterr().out
