"""Fixtures that every suite may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tiny_models
from shortlist.types import FloatArray, Tokens

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_home(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tests never read or write the user's fetched models, except those marked `weights`."""
    if request.node.get_closest_marker("weights") is None:
        monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path_factory.getbasetemp() / "shortlist-home"))


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder of a tiny random BERT: 64 dims, 2 layers, mean pooling, prompts, 128 tokens."""
    return tiny_models.write_encoder(tmp_path_factory.mktemp("models") / "tiny-encoder")


@pytest.fixture(scope="session")
def tiny_reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder of a tiny random BertForSequenceClassification with one label."""
    return tiny_models.write_reranker(tmp_path_factory.mktemp("models") / "tiny-reranker")


@pytest.fixture(scope="session")
def tiny_xlmr_reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder of a tiny random XLMRobertaForSequenceClassification with one label."""
    return tiny_models.write_xlmr_reranker(tmp_path_factory.mktemp("models") / "tiny-xlmr-reranker")


class Clock:
    """A clock that stands still except while a network runs: each token costs its thread `token_ms` milliseconds."""

    def __init__(self, token_ms: float) -> None:
        self.token_ms, self.now, self.batches = token_ms, 0.0, []

    def __call__(self) -> float:
        return self.now

    def pass_for(self, lengths: list[int], threads: int) -> None:
        """The time of one batch, whose longest sequence no other thread can help with."""
        self.batches.append(len(lengths))
        self.now += self.token_ms * max(max(lengths), sum(lengths) / threads) / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the second stage's time budget; the real networks run under it."""
    from shortlist import pipeline, reranker
    from shortlist.engines.native import NativeEngine

    clock, run = Clock(token_ms=0.1), NativeEngine.run

    def timed(engine: NativeEngine, tokens: Tokens, pooling: str) -> FloatArray:
        clock.pass_for(tokens.lengths.tolist(), engine.threads)
        return run(engine, tokens, pooling)

    monkeypatch.setattr(NativeEngine, "run", timed)
    monkeypatch.setattr(reranker, "perf_counter", clock)
    monkeypatch.setattr(pipeline, "perf_counter", clock)
    return clock


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The shared collections: SHORTLIST_DATA, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("SHORTLIST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the retrieval collections are not here; set SHORTLIST_DATA to their folder")
    return folder
