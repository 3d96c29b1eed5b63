"""docs/transformers.md runs, and gives our engine's vectors; so does a random model of BGE-M3's form."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from shortlist import models
from shortlist.encoder import Encoder
from shortlist.errors import ModelNotFound

PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"
FUNCTION, USE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
TEXTS = ["柏林有多少人口？", "How many people live in Berlin?", "बर्लिन", "", "x", "a longer passage of words " * 40]
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def page(code: str = "") -> dict:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    names: dict = {}
    exec(compile(f"{FUNCTION}\n{code}", "transformers.md", "exec"), names)
    return names


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_both_poolings_give_our_vectors(tmp_path, pooling, kind):
    folder = tiny_models.write_encoder(tmp_path / "tiny", pooling=pooling)
    ours = Encoder.load(folder, precision="float32")
    theirs = page()["encode"](
        TEXTS, folder, prompt=ours.card.prompt(kind), pooling=ours.card.pooling, max_tokens=ours.max_tokens
    )
    assert ours.card.pooling == pooling
    np.testing.assert_allclose(ours.encode(TEXTS, kind=kind), theirs.numpy(), atol=2e-5)


def test_the_poolings_differ(tmp_path):
    folder = tiny_models.write_encoder(tmp_path / "tiny")
    mean, cls = (page()["encode"](TEXTS, folder, pooling=pooling).numpy() for pooling in ("mean", "cls"))
    assert (mean * cls).sum(axis=1).max() < 0.99


@pytest.mark.weights
def test_the_page_runs_and_finds_the_answers(capsys):
    try:
        models.resolve("shortlist-embed")
    except ModelNotFound as error:
        pytest.skip(str(error))
    names = page(USE)
    printed = capsys.readouterr().out.splitlines()
    assert "三百五十二万" in printed[1]
    assert len(printed) == 8
    for precision, least in (("float32", 0.9999), ("int8", 0.995)):
        ours = Encoder.load("shortlist-embed", precision=precision)
        for kind, texts in (("passage", names["corpus"]), ("query", names["queries"])):
            theirs = names[f"{'corpus' if kind == 'passage' else 'query'}_vectors"].numpy()
            assert (ours.encode(texts, kind=kind) * theirs).sum(axis=1).min() > least


def test_a_model_of_bge_m3s_form(tmp_path):
    """XLM-RoBERTa with 8,192 positions, one segment, CLS pooling, normalised, no prompts, as sentence-transformers saves it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    body, folder = tmp_path / "body", tmp_path / "bge-m3"
    tokenizer = tiny_models.xlmr_tokenizer()
    torch.manual_seed(3)
    config = transformers.XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, num_hidden_layers=4, num_attention_heads=16,
        intermediate_size=256, max_position_embeddings=8194, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.15,
    )  # fmt: skip
    transformers.XLMRobertaModel(config).save_pretrained(body)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=8192,
    ).save_pretrained(body)
    from sentence_transformers import models as modules

    transformer = modules.Transformer(str(body), max_seq_length=8192)
    pooling = modules.Pooling(64, pooling_mode="cls")
    reference = sentence_transformers.SentenceTransformer(modules=[transformer, pooling, modules.Normalize()], device="cpu")
    reference.save_pretrained(str(folder))

    ours = Encoder.load(folder, precision="float32")
    assert (ours.card.pooling, ours.card.normalize, ours.max_tokens, ours.card.layers) == ("cls", True, 8192, 4)
    assert not any(ours.card.prompts.values())
    texts = [*TEXTS, "柏林 " * 500]
    assert ours._tokenize([texts[-1], "words that do not end " * 500], "passage")[0].lengths.tolist() == [1503, 8192]
    np.testing.assert_allclose(ours.encode(texts), reference.encode(texts, batch_size=1), atol=5e-5)
    theirs = page()["encode"](TEXTS, folder, pooling="cls", max_tokens=8192).numpy()
    np.testing.assert_allclose(ours.encode(TEXTS, kind="query"), theirs, atol=5e-5)
