"""Models in fewer bits: the blocks themselves, and packed folders that run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

import tiny_models
from shortlist import models
from shortlist.cli import main
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, ModelError
from shortlist.models.blocks import from_blocks, to_blocks
from shortlist.models.packing import pack
from shortlist.models.registry import parameters
from shortlist.reranker import Reranker

TEXTS = ["Berlin hat viele Einwohner.", "柏林有多少人口", "how many people live there?", "النهر في المدينة"]
MATRIX = "encoder.layer.1.intermediate.dense.weight"
finite = st.floats(-100, 100, width=32)


def naive_block(values: list[float]) -> list[float]:
    """One block by the book: scale = (largest in magnitude) / -8, numbers rounded to -8..7 of it."""
    scale = np.float16(max(values, key=abs) / -8)
    if scale == 0:
        return [0.0] * len(values)
    return [float(np.float16(np.float32(scale) * np.float32(min(7, max(-8, round(v / np.float32(scale))))))) for v in values]


@given(hnp.arrays(np.float32, (3, 64), elements=finite))
def test_blocks_round_to_the_nearest_step(weights):
    packed, scales = to_blocks(weights)
    assert (packed.shape, packed.dtype, scales.shape, scales.dtype) == ((3, 32), np.uint8, (3, 2), np.float16)
    found = from_blocks(packed, scales).astype(np.float32)
    expected = [[x for at in (0, 32) for x in naive_block(row[at : at + 32].tolist())] for row in weights]
    # a number that lies between two steps may go either way
    step = np.repeat(np.abs(scales.astype(np.float32)), 32, axis=1)
    assert (np.abs(found - np.array(expected)) <= step * 1.001).all()
    assert (np.abs(found - weights) <= step * 1.01 + 1e-6).all()  # the end of the scale without a -8 costs a whole step


@given(hnp.arrays(np.float32, (2, 32), elements=finite))
def test_what_was_in_blocks_comes_back_unchanged(weights):
    once = from_blocks(*to_blocks(weights))
    np.testing.assert_array_equal(from_blocks(*to_blocks(once.astype(np.float32))), once)


@pytest.mark.oracle
def test_the_arrangement_is_ggmls():
    quants = pytest.importorskip("gguf.quants")
    weights = np.random.default_rng(3).normal(size=(8, 64)).astype(np.float32)
    packed, scales = to_blocks(weights)
    theirs = quants.quantize(weights, quants.GGMLQuantizationType.Q4_0).reshape(8, 2, 18)
    np.testing.assert_array_equal(theirs[:, :, 2:].reshape(8, 32), packed)
    np.testing.assert_array_equal(theirs[:, :, :2].copy().view(np.float16)[:, :, 0], scales)


@pytest.mark.parametrize(("bits", "least"), [(8, 0.9995), (4, 0.98)])
def test_a_packed_encoder_gives_nearly_the_same_vectors(tiny_encoder_folder, tmp_path, bits, least):
    pack(tiny_encoder_folder, tmp_path / "small", bits=bits)
    source, small = Encoder.load(tiny_encoder_folder), Encoder.load(tmp_path / "small")
    vectors = source.encode(TEXTS), small.encode(TEXTS)
    assert (np.sum(vectors[0] * vectors[1], axis=1) > least).all()
    assert not np.array_equal(*vectors)
    assert small.fingerprint != source.fingerprint
    assert models.verify(tmp_path / "small") == []
    assert parameters(tmp_path / "small") == parameters(tiny_encoder_folder)
    sizes = [sum(f.stat().st_size for f in d.glob("*.safetensors")) for d in (tiny_encoder_folder, tmp_path / "small")]
    assert sizes[1] < sizes[0] * 0.6


def test_what_becomes_of_each_tensor(tiny_encoder_folder, tmp_path):
    pack(tiny_encoder_folder, tmp_path / "small", bits=4)
    source, tensors = (load_file(d / "model.safetensors") for d in (tiny_encoder_folder, tmp_path / "small"))
    table = "embeddings.word_embeddings.weight"
    assert tensors[table].dtype == np.int8
    np.testing.assert_allclose(
        tensors[table] * tensors[f"{table}_scale"][:, None], source[table], atol=np.abs(source[table]).max() / 250
    )
    assert tensors[MATRIX].dtype == np.uint8
    np.testing.assert_array_equal(
        from_blocks(tensors[MATRIX], tensors[f"{MATRIX}_scale"]), from_blocks(*to_blocks(source[MATRIX].astype(np.float32)))
    )
    assert tensors["embeddings.LayerNorm.weight"].dtype == np.float32


def test_a_packed_reranker_keeps_its_head_and_shares_its_table(tmp_path):
    source = tiny_models.write_maxsim_reranker(tmp_path / "source")
    pack(source, tmp_path / "small", bits=4)
    passages = ["Berlin has 3.5 million people", "museums of Berlin", "柏林"]
    expected, found = (Reranker.load(f).score("people in Berlin", passages) for f in (source, tmp_path / "small"))
    np.testing.assert_allclose(found, expected, atol=0.5)
    assert Reranker.load(tmp_path / "small").card.window == Reranker.load(source).card.window


def test_refusals(tiny_encoder_folder, tmp_path):
    with pytest.raises(BadInput, match="bits=3"):
        pack(tiny_encoder_folder, tmp_path / "small", bits=3)
    pack(tiny_encoder_folder, tmp_path / "small", bits=4)
    with pytest.raises(BadInput, match="exists already"):
        pack(tiny_encoder_folder, tmp_path / "small", bits=4)
    with pytest.raises(BadInput, match="already"):
        pack(tmp_path / "small", tmp_path / "again", bits=8)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"{MATRIX}_scale", lambda scale: scale[:, :1]),
        (f"{MATRIX}_scale", lambda scale: scale.astype(np.float32)),
        (f"{MATRIX}_scale", lambda scale: np.full_like(scale, np.nan)),
        (MATRIX, lambda packed: packed[:, :-1]),
    ],
)
def test_damaged_blocks_are_an_error(tiny_encoder_folder, tmp_path, name, change):
    folder = pack(tiny_encoder_folder, tmp_path / "small", bits=4)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=MATRIX.replace(".", r"\.")):
        Encoder.load(folder)


def test_the_verb(tiny_encoder_folder, tmp_path, capsys):
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "source")
    assert main(["models", "pack", str(folder), "-o", str(tmp_path / "small"), "--bits", "4"]) == 0
    assert "MB, were" in capsys.readouterr().err
    card = json.loads((tmp_path / "small" / "card.json").read_text())
    assert card["name"] == "small"
    assert card["source"].endswith("packed into 4 bits")
    assert main(["models", "pack", str(folder)]) == 1
