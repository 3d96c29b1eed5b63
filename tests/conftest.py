"""Fixtures that every suite may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tiny_models

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


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The shared collections: SHORTLIST_DATA, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("SHORTLIST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the retrieval collections are not here; set SHORTLIST_DATA to their folder")
    return folder
