from __future__ import annotations

import json
import shutil

import pytest

from shortlist.errors import ModelError, ModelNotFound
from shortlist.models import fingerprint, read_card


@pytest.fixture
def folder(tiny_encoder_folder, tmp_path):
    return shutil.copytree(tiny_encoder_folder, tmp_path / "model")


def change(path, **values):
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_sentence_transformers_layout(tiny_encoder_folder):
    card = read_card(tiny_encoder_folder)
    assert (card.kind, card.pooling, card.normalize, card.max_tokens) == ("encoder", "mean", True, 128)
    assert (card.dims, card.layers) == (64, 2)
    assert card.prompt("query") == "query: "
    assert card.prompt("passage") == "passage: "
    assert card.prompt("") == ""
    assert card.notes == ()


def test_pooling_is_read_in_both_spellings(folder):
    path = folder / "1_Pooling" / "config.json"
    change(path, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    assert read_card(folder).pooling == "cls"
    path.write_text(json.dumps({"embedding_dimension": 64, "pooling_mode": "cls", "include_prompt": True}))
    assert read_card(folder).pooling == "cls"


UNSUPPORTED = [
    {},
    {"pooling_mode": "max"},
    {"pooling_mode": ["cls", "mean"]},
    {"pooling_mode": "mean", "include_prompt": False},
    {"pooling_mode_max_tokens": True},
    {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
]


@pytest.mark.parametrize("settings", UNSUPPORTED)
def test_pooling_that_is_not_supported_is_refused(folder, settings):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="this pooling is not supported"):
        read_card(folder)


def test_modules_that_are_not_supported_are_refused(folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="asks for Dense"):
        read_card(folder)


def test_prompts_by_other_names(folder):
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": {"query": "Q: ", "document": "D: "}}))
    assert dict(read_card(folder).prompts) == {"query": "Q: ", "passage": "D: "}
    path.write_text(json.dumps({"prompts": {"all": "X: "}, "default_prompt_name": "all"}))
    assert dict(read_card(folder).prompts) == {"query": "X: ", "passage": "X: "}
    path.unlink()
    card = read_card(folder)
    assert not any(card.prompts.values())
    assert "prompts are not stated" in card.notes[0]


def test_plain_encoder_says_what_was_assumed(folder):
    (folder / "modules.json").unlink()
    card = read_card(folder)
    assert (card.pooling, card.normalize, card.max_tokens) == ("mean", False, 512)
    assert "not stated" in card.notes[0]


def test_reranker(tiny_reranker_folder, tiny_xlmr_reranker_folder):
    for path in (tiny_reranker_folder, tiny_xlmr_reranker_folder):
        card = read_card(path)
        assert (card.kind, card.pooling, card.labels, card.max_tokens) == ("reranker", "score", 1, 512)


def test_own_card_goes_before_the_other_files(folder):
    (folder / "card.json").write_text(
        json.dumps({"name": "mine", "licence": "MIT", "max_tokens": 64, "languages": ["zh"], "x": 1})
    )
    card = read_card(folder)
    assert (card.name, card.licence, card.max_tokens, card.languages, card.pooling) == ("mine", "MIT", 64, ("zh",), "mean")


def test_a_card_cannot_be_changed(tiny_encoder_folder):
    card = read_card(tiny_encoder_folder)
    with pytest.raises(TypeError):
        card.prompts["query"] = "other"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_missing_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelNotFound, match=name.replace(".", r"\.")):
        read_card(folder)


def test_no_folder(tmp_path):
    with pytest.raises(ModelNotFound, match="no such folder"):
        read_card(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00", '{"hidden_size": "x", "num_hidden_layers": 2}', "[" * 100_000])
def test_damaged_config(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_card(folder)


def test_fingerprint_is_that_of_the_content(folder, tiny_encoder_folder):
    assert fingerprint(folder) == fingerprint(tiny_encoder_folder)
    change(folder / "config.json", torch_dtype="float16", transformers_version="9", _name_or_path="x")
    assert fingerprint(folder) == fingerprint(tiny_encoder_folder)


CHANGES = {
    "prompt": lambda f: change(f / "config_sentence_transformers.json", prompts={"query": "q: ", "passage": "passage: "}),
    "max_tokens": lambda f: change(f / "sentence_bert_config.json", max_seq_length=64),
    "pooling": lambda f: (f / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}'),
    "config": lambda f: change(f / "config.json", layer_norm_eps=1e-5),
    "tokenizer": lambda f: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text() + " "),
}


def test_segments_window_and_temperature(tiny_reranker_folder, tmp_path):
    folder = shutil.copytree(tiny_reranker_folder, tmp_path / "reranker")
    card = read_card(folder)
    assert (card.segments, card.window, card.temperature) == (False, 0, 0)
    (folder / "card.json").write_text('{"segments": true, "window": 96, "temperature": 1.7}')
    card = read_card(folder)
    assert (card.segments, card.window, card.temperature) == (True, 96, 1.7)


REFUSED = [
    ("segments", 1),
    ("segments", "yes"),
    ("segments", None),
    ("window", -1),
    ("window", 96.0),
    ("window", True),
    ("window", "96"),
    ("temperature", -1),
    ("temperature", 0.001),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("temperature", 10**400),
    ("temperature", True),
    ("temperature", "1"),
    ("temperature", [1]),
]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda v: f"{v!r:.12}")
def test_values_that_make_no_sense_are_refused(folder, name, value):
    (folder / "card.json").write_text(json.dumps({name: value}))
    with pytest.raises(ModelError, match=f"{name}=.*; expected"):
        read_card(folder)


def test_fingerprint_covers_segments_and_window_where_they_are_set(tiny_reranker_folder, tmp_path):
    """Only there: a card that does not set them has the fingerprint that it had before there were such fields."""
    folder = shutil.copytree(tiny_reranker_folder, tmp_path / "reranker")
    before = fingerprint(folder)
    found = []
    for own in ({"segments": True}, {"window": 96}, {"window": 64}, {"segments": True, "window": 96}):
        (folder / "card.json").write_text(json.dumps(own))
        found.append(fingerprint(folder))
    assert len({before, *found}) == 5
    (folder / "card.json").write_text('{"segments": false, "window": 0, "temperature": 1.5}')
    assert fingerprint(folder) == before


@pytest.mark.parametrize("what", CHANGES)
def test_fingerprint_sees_a_change(folder, tiny_encoder_folder, what):
    CHANGES[what](folder)
    assert fingerprint(folder) != fingerprint(tiny_encoder_folder)


@pytest.mark.parametrize("tensor", ["embeddings.word_embeddings.weight", "encoder.layer.1.output.LayerNorm.bias"])
def test_fingerprint_sees_other_weights(folder, tiny_encoder_folder, tensor):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors[tensor] = tensors[tensor] * 2
    save_file(tensors, folder / "model.safetensors")
    assert fingerprint(folder) != fingerprint(tiny_encoder_folder)


@pytest.mark.parametrize("cut", [0, 4, 7, 100, -1])
def test_truncated_weights(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        fingerprint(folder)


HOSTILE = [
    {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 40]}},
    {"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
    {"w": {"dtype": "F32"}},
    {"w": []},
    [],
]


@pytest.mark.parametrize("entry", HOSTILE)
def test_hostile_header(folder, entry):
    header = json.dumps(entry).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        fingerprint(folder)


def test_shards_equal_one_file(folder, tiny_encoder_folder):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({k: v for k, v in tensors.items() if files[k] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert fingerprint(folder) == fingerprint(tiny_encoder_folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../x.safetensors"}}))
    with pytest.raises(ModelError, match="expected the name of a file in the folder"):
        fingerprint(folder)
