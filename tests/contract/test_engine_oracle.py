"""The engine against transformers on torch: tiny random models of both families, and the real e5-small."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference_network import cosines, random_tokens
from shortlist import models
from shortlist.engines.native import NativeEngine
from shortlist.errors import ModelNotFound
from shortlist.models.network import Network, read_network
from shortlist.types import Tokens

pytestmark = pytest.mark.oracle
LENGTHS = [1, 2, 5, 16, 31, 48, 70]
SIZES: dict[str, Any] = {
    "hidden_size": 60,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 130,
    "vocab_size": 199,
    "initializer_range": 0.2,
}


def saved_model(kind: str, folder: Path, **more: Any) -> Any:
    """A random model of transformers, saved as it saves them."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(5)
    torch.set_num_threads(1)  # its threads wait for each other; beside other work that takes many times longer
    if kind.startswith("Bert"):
        config = transformers.BertConfig(**SIZES, max_position_embeddings=80, **more)
    else:
        config = transformers.XLMRobertaConfig(**SIZES, max_position_embeddings=82, type_vocab_size=1, pad_token_id=1, **more)
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():  # biases and norms start as zeros and ones: make them matter
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def without_padding_id(network: Network, tokens: Tokens) -> Tokens:
    """RoBERTa of transformers takes the padding id inside a text for padding and counts no position there."""
    return Tokens(np.where(tokens.ids == network.pad_id, 7, tokens.ids).astype(np.int32), tokens.segments, tokens.offsets)


def each_sequence(model: Any, tokens: Tokens) -> list[Any]:
    """The model's output for each sequence by itself, so that no padding takes part."""
    import torch

    outputs = []
    with torch.no_grad():
        for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            ids, segments = (torch.from_numpy(x[a:b].astype(np.int64))[None] for x in (tokens.ids, tokens.segments))
            outputs.append(model(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=segments))
    return outputs


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("kind", ["BertModel", "XLMRobertaModel"])
def test_encoders(kind: str, activation: str, tmp_path: Path) -> None:
    model = saved_model(kind, tmp_path, hidden_act=activation)
    network = read_network(tmp_path)
    tokens = without_padding_id(network, random_tokens(network, LENGTHS))
    expected = [output.last_hidden_state[0].numpy() for output in each_sequence(model, tokens)]
    engine = NativeEngine(network, precision="float32")
    np.testing.assert_allclose(engine.run(tokens, "none"), np.concatenate(expected), rtol=1e-4, atol=1e-5)
    for pooling, pooled in {"cls": [e[0] for e in expected], "mean": [e.mean(0) for e in expected]}.items():
        assert cosines(engine.run(tokens, pooling), np.stack(pooled)).min() > 0.999999
        assert cosines(NativeEngine(network).run(tokens, pooling), np.stack(pooled)).min() > 0.998


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "XLMRobertaForSequenceClassification"])
def test_cross_encoders(kind: str, labels: int, tmp_path: Path) -> None:
    model = saved_model(kind, tmp_path, num_labels=labels)
    network = read_network(tmp_path)
    assert (network.head, network.labels) == ("bert" if kind.startswith("Bert") else "roberta", labels)
    tokens = without_padding_id(network, random_tokens(network, LENGTHS))
    expected = np.concatenate([output.logits.numpy() for output in each_sequence(model, tokens)])
    scores = NativeEngine(network, precision="float32").run(tokens, "score")
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    # Random weights of this size turn small input errors into large ones; trained ones do not.
    assert np.abs(NativeEngine(network).run(tokens, "score") - expected).mean() < 0.1 * np.abs(expected).max()


def parallel_texts(folder: Path, languages: str, count: int) -> list[str]:
    texts = []
    for language in languages.split():
        with gzip.open(folder / "parallel-ntrex" / f"{language}.txt.gz", "rt", encoding="utf-8") as lines:
            texts += [line.strip() for _, line in zip(range(count), lines, strict=False)]
    return texts


@pytest.mark.weights
@pytest.mark.data
def test_multilingual_e5_small(data_folder: Path) -> None:
    """Mean-pooled vectors of 504 texts in 12 languages."""
    try:
        folder = models.resolve("shortlist-embed")
    except ModelNotFound as error:
        pytest.skip(str(error))
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    texts = parallel_texts(data_folder, "en de es fr ar zh-Hans ja ko hi ta th ru", 42)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [np.array(e.ids, np.int32) for e in tokenizer.encode_batch([f"passage: {text}" for text in texts])]
    offsets = np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int32)
    tokens = Tokens(np.concatenate(ids), np.zeros(offsets[-1], np.uint8), offsets)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    expected = np.stack([output.last_hidden_state[0].mean(0).numpy() for output in each_sequence(model, tokens)])
    network = read_network(folder)
    for precision, least in {"float32": 0.9999, "int8": 0.995}.items():
        found = cosines(NativeEngine(network, precision=precision, threads=2).run(tokens, "mean"), expected)
        assert found.min() >= least
