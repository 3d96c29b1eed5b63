"""Reading a model folder: layouts, prefixes, shards, shared tables, and config that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference_network import random_folder, write_safetensors
from shortlist.errors import ModelError, ModelNotFound
from shortlist.models.network import MAXSIM, TABLE, read_network
from shortlist.models.weights import read_safetensors


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(values)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def test_plain_bert(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path))
    assert (network.family, network.hidden_size, network.layers, network.heads) == ("bert", 40, 2, 5)
    assert (network.intermediate_size, network.vocab_size, network.max_positions, network.type_vocab_size) == (72, 101, 90, 2)
    assert (network.first_position, network.activation, network.head, network.labels) == (0, "gelu", "", 0)
    assert network.table.shape == (101, 40)
    assert TABLE not in network.tensors


def test_arrays_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path))
    for array in (network.table, *network.tensors.values()):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_roberta_positions_start_after_the_padding_id(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path, family="xlm-roberta", positions=90))
    assert (network.family, network.pad_id, network.first_position, network.max_positions) == ("xlm-roberta", 1, 2, 88)


@pytest.mark.parametrize(
    ("family", "prefix", "head"), [("bert", "bert.", "bert"), ("roberta", "roberta.", "roberta"), ("bert", "", "")]
)
def test_prefixes_and_heads(family: str, prefix: str, head: str, tmp_path: Path) -> None:
    plain = read_network(random_folder(tmp_path / "plain", family=family, head=head, labels=3))
    prefixed = read_network(random_folder(tmp_path / "prefixed", family=family, head=head, labels=3, prefix=prefix))
    assert prefixed.head == head
    assert prefixed.labels == (3 if head else 0)
    assert prefixed.tensors.keys() == plain.tensors.keys()
    for name, array in plain.tensors.items():
        np.testing.assert_array_equal(prefixed.tensors[name], array)


def test_maxsim_head(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path, head="bert", prefix="bert.", maxsim=True))
    assert network.maxsim
    assert [network.tensors[name].shape for name in MAXSIM] == [(1, 40), (1,), (1,)]
    assert not read_network(random_folder(tmp_path, head="bert")).maxsim


@pytest.mark.parametrize("name", MAXSIM)
def test_half_a_maxsim_head_is_refused(name: str, tmp_path: Path) -> None:
    random_folder(tmp_path, head="bert", maxsim=True)
    tensors = {n: np.array(a) for n, a in read_safetensors(tmp_path / "model.safetensors").items()}
    write_safetensors(tmp_path / "model.safetensors", {n: a for n, a in tensors.items() if n != name})
    with pytest.raises(ModelError, match=f"no tensor {name}: a MaxSim head is .* Save all three, or none"):
        read_network(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {**tensors, name: np.ones((2, 40), np.float32)})
    with pytest.raises(ModelError, match=rf"tensor {name} has shape \[2, 40\]"):
        read_network(tmp_path)


def test_a_maxsim_head_needs_one_score_to_add_to(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="MaxSim head and 3 labels"):
        read_network(random_folder(tmp_path / "three", head="bert", labels=3, maxsim=True))
    with pytest.raises(ModelError, match="MaxSim head and 0 labels"):
        read_network(random_folder(tmp_path / "none", maxsim=True))


def test_old_names_of_the_layer_norm(tmp_path: Path) -> None:
    tensors = read_safetensors(random_folder(tmp_path) / "model.safetensors")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): np.array(a)
        for n, a in tensors.items()
    }
    assert old.keys() != tensors.keys()
    write_safetensors(tmp_path / "model.safetensors", old)
    np.testing.assert_array_equal(read_network(tmp_path).tensors["embeddings.LayerNorm.bias"], old["embeddings.LayerNorm.beta"])


def test_shards(tmp_path: Path) -> None:
    whole = read_network(random_folder(tmp_path))
    tensors = {name: np.array(a) for name, a in read_safetensors(tmp_path / "model.safetensors").items()}
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        write_safetensors(tmp_path / file, {name: tensors[name] for name in held})
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = read_network(tmp_path)
    np.testing.assert_array_equal(sharded.table, whole.table)
    for name, array in whole.tensors.items():
        np.testing.assert_array_equal(sharded.tensors[name], array)


def test_a_shared_table(tmp_path: Path) -> None:
    table = read_network(random_folder(tmp_path / "whole")).table
    body = random_folder(tmp_path / "body")
    tensors = {name: np.array(a) for name, a in read_safetensors(body / "model.safetensors").items() if name != TABLE}
    write_safetensors(body / "model.safetensors", tensors)
    with pytest.raises(ModelError, match="no other folder was given"):
        read_network(body)
    np.testing.assert_array_equal(read_network(body, tmp_path / "whole").table, table)
    random_folder(tmp_path / "other", vocabulary=55)
    with pytest.raises(ModelError, match=r"shape \[55, 40\], config.json asks for \[101, 40\]"):
        read_network(body, tmp_path / "other")


def test_int8_tensors_bring_their_scales(tmp_path: Path) -> None:
    random_folder(tmp_path)
    tensors = {name: np.array(a) for name, a in read_safetensors(tmp_path / "model.safetensors").items()}
    name = "encoder.layer.0.output.dense.weight"
    tensors[name] = np.ones(tensors[name].shape, np.int8)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ModelError, match=r"output.dense.weight needs .*_scale as F32\[40\]"):
        read_network(tmp_path)
    tensors[f"{name}_scale"] = np.full((40, 1), 0.5, np.float32)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    assert read_network(tmp_path).tensors[f"{name}_scale"].shape == (40,)
    tensors[f"{name}_scale"][7] = np.nan
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ModelError, match="NaN"):
        read_network(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"model_type": "absent"}, "model_type is None"),
        ({"model_type": ["bert"]}, "model_type is"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; this engine knows gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_size": "absent"}, "hidden_size is None"),
        ({"hidden_size": 41}, "hidden_size=41 is not a multiple of num_attention_heads=5"),
        ({"hidden_size": 10**9}, "expected a whole number from 1 to 16384"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 3}, "no tensor encoder.layer.2"),
        ({"intermediate_size": 71}, r"shape \[72, 40\], config.json asks for \[71, 40\]"),
        ({"vocab_size": 100}, r"config.json asks for \[100, 40\]"),
        ({"type_vocab_size": 1}, "token_type_embeddings"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
        ({"pad_token_id": 101}, "pad_token_id is 101"),
        ({"model_type": "roberta", "pad_token_id": 95}, "leaves none after pad_token_id=95"),
    ],
)
def test_config_that_does_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    change_config(random_folder(tmp_path), **changes)
    with pytest.raises(ModelError, match=message):
        read_network(tmp_path)


def test_defaults_of_config(tmp_path: Path) -> None:
    change_config(
        random_folder(tmp_path), hidden_act="absent", pad_token_id=None, type_vocab_size="absent", layer_norm_eps="absent"
    )
    network = read_network(tmp_path)
    assert (network.activation, network.pad_id, network.type_vocab_size, network.layer_norm_eps) == ("gelu", 0, 2, 1e-12)


def test_fewer_layers_than_stored(tmp_path: Path) -> None:
    change_config(random_folder(tmp_path), num_hidden_layers=1)
    assert read_network(tmp_path).layers == 1


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        read_network(tmp_path)
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        read_network(tmp_path / "nowhere")
    random_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFound, match=r"holds no model\.safetensors"):
        read_network(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelNotFound, match=r"pytorch_model\.bin is a pickle, which is never opened"):
        read_network(tmp_path)
