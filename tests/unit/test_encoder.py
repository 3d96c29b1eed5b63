from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from shortlist.encoder import Encoder
from shortlist.errors import BadInput, ModelError, ModelNotFound

TEXTS = ["柏林有多少人口？", "Berlin", "", "नमस्ते", "a longer text about nothing in particular " * 20]


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder) -> Encoder:
    return Encoder.load(tiny_encoder_folder, threads=2)


def test_shape_and_length(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 64) == (len(TEXTS), encoder.dims)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert encoder.encode([]).shape == (0, 64)
    assert encoder.encode(()).dtype == np.float32


def test_kind_is_the_prompt(encoder):
    for kind in ("query", "passage"):
        np.testing.assert_array_equal(
            encoder.encode(TEXTS, kind=kind), encoder.encode([f"{kind}: {t}" for t in TEXTS], kind="")
        )
    assert (encoder.encode(TEXTS, kind="query") != encoder.encode(TEXTS, kind="passage")).any()
    with pytest.raises(BadInput, match="kind='document'"):
        encoder.encode(TEXTS, kind="document")


def test_a_vector_does_not_depend_on_its_company(encoder, tiny_encoder_folder):
    together = encoder.encode(TEXTS * 200)
    assert (together[: len(TEXTS)] == together[-len(TEXTS) :]).all()
    for i, text in enumerate(TEXTS):
        assert (encoder.encode([text])[0] == together[i]).all()
    assert (Encoder.load(tiny_encoder_folder, threads=1).encode(TEXTS) == together[: len(TEXTS)]).all()


def test_what_is_cut_is_counted(encoder):
    _, cut = encoder.encode_counted(TEXTS)
    assert (cut[:4] == 0).all()
    assert cut[4] > 0


def test_progress(encoder):
    seen: list[tuple[int, int | None]] = []
    encoder.encode(["x"] * 600, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (600, 600)
    assert len(seen) > 1
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_normalisation_comes_from_the_folder(tiny_encoder_folder, tmp_path):
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "raw")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    raw, normal = Encoder.load(folder).encode(TEXTS), Encoder.load(tiny_encoder_folder).encode(TEXTS)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.01).any()
    np.testing.assert_allclose(raw / lengths, normal, atol=1e-6)


def test_pooling_comes_from_the_folder(tiny_encoder_folder, tmp_path):
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "cls")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    cls, mean = Encoder.load(folder), Encoder.load(tiny_encoder_folder)
    assert np.abs(cls.encode(TEXTS) - mean.encode(TEXTS)).max() > 0.01
    assert cls.fingerprint != mean.fingerprint


def test_lower_case_comes_from_the_folder(tiny_encoder_folder, tmp_path):
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "lower")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": true}')
    assert Encoder.load(folder).card.lowercase
    assert not Encoder.load(tiny_encoder_folder).card.lowercase


def test_float32_agrees_with_int8(encoder, tiny_encoder_folder):
    exact = Encoder.load(tiny_encoder_folder, precision="float32").encode(TEXTS)
    assert (exact * encoder.encode(TEXTS)).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("texts", ["one text", [1], ["a", None], b"a", [["a"]], None])
def test_bad_input(encoder, texts):
    with pytest.raises(BadInput):
        encoder.encode(texts)


def test_lone_surrogates_are_named(encoder):
    with pytest.raises(BadInput, match=r"texts\[300\] holds a lone surrogate"):
        encoder.encode(["fine"] * 300 + ["a\udfffb"])


def test_verify_notices_another_model(tiny_encoder_folder, tmp_path):
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "model")
    first = Encoder.load(folder).encode(["柏林"], kind="")[0, :5].tolist()
    (folder / "card.json").write_text(json.dumps({"canonical": {"柏林": first}}))
    assert Encoder.load(folder).verify() == []
    (folder / "card.json").write_text(json.dumps({"canonical": {"柏林": [-x for x in first]}}))
    assert "published" in Encoder.load(folder).verify()[0]


def test_load_refuses_what_is_no_encoder(tiny_reranker_folder, tmp_path):
    with pytest.raises(ModelError, match=r"Reranker\.load"):
        Encoder.load(tiny_reranker_folder)
    with pytest.raises(ModelNotFound, match="not a model folder"):
        Encoder.load(tmp_path)
    with pytest.raises(ModelNotFound, match="shortlist models fetch shortlist-embed"):
        Encoder.load("shortlist-embed")


def test_repr_names_what_matters(encoder):
    assert "tiny-encoder" in repr(encoder)
    assert "64 dims" in repr(encoder)
