"""Model folders whose JSON files lie: an error of ours or a model that works, whatever stands in config, modules and card."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_models
from shortlist import models
from shortlist.encoder import Encoder
from shortlist.errors import ModelError, ShortlistError
from shortlist.models.registry import find
from shortlist.reranker import Reranker
from shortlist.tokens import Tokenizer

CARD = {
    "name": "tests/model",
    "licence": "MIT",
    "languages": ["zh", "en"],
    "training_data": "none",
    "source": "tests",
    "fusion_weight": 0.5,
    "window": 20,
    "temperature": 1.5,
    "sha256": {"config.json": "0" * 64},
    "canonical": {"柏林": [0.1, 0.2], "a\nb": [1.5]},
    "notes": ["nothing"],
}
ODD = st.one_of(
    st.integers(-2, 9),
    st.sampled_from([2**31, 2**63, 10**18, -(2**70), 10**400, 0.5, -0.0, 1e300, float("inf"), float("nan")]),
    st.sampled_from(["", "x", "..", "a" * 5000, "\x00", "\ud800", "query", "柏林" * 50]),
    st.sampled_from([None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, ["x", 1], [1.5, float("nan")]]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a JSON value, its own first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def removed(value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return None
    copy = value.copy()
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = removed(value[path[0]], path[1:])
    return copy


def with_card(folder: Path, target: Path) -> tuple[Path, Tokenizer]:
    """A copy with a card, and its tokenizer: while somebody holds it, `load` does not read its vocabulary again."""
    shutil.copytree(folder, target)
    (target / "card.json").write_text(json.dumps(CARD))
    return target, Tokenizer.load(target)


@pytest.fixture(scope="module")
def encoder_folder(tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, held = with_card(tiny_encoder_folder, tmp_path_factory.mktemp("hostile") / "encoder")
    yield folder
    assert held is Tokenizer.load(folder)


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("hostile")
    folder, held = with_card(tiny_models.write_xlmr_reranker(home / "plain"), home / "reranker")
    yield folder
    assert held is Tokenizer.load(folder)


def use_encoder(folder: Path) -> None:
    encoder = Encoder.load(folder, threads=1)
    for kind in ("query", "passage", ""):
        vectors = encoder.encode(["柏林", "", "a " * 40], kind=kind)
        assert vectors.shape == (3, 64)
        assert np.isfinite(vectors).all()
    use_facts(folder, encoder)


def use_reranker(folder: Path) -> None:
    reranker = Reranker.load(folder, threads=1)
    scores = reranker.score("柏林", ["柏", "", "a " * 40])
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    use_facts(folder, reranker)


def use_facts(folder: Path, model: Encoder | Reranker) -> None:
    assert repr(model)
    assert len(model.fingerprint) == 64
    assert all(isinstance(problem, str) for problem in (*model.verify(), *models.verify(folder)))
    assert find(folder).path == folder


def damaged(data: st.DataObject, folder: Path) -> tuple[Path, bytes]:
    """One value in one of the folder's small JSON files is replaced or removed; gives the file and what it held."""
    files = sorted(path for path in folder.rglob("*.json") if path.name != "tokenizer.json")
    path = data.draw(st.sampled_from(files), label="file")
    before = path.read_bytes()
    content = json.loads(before)
    place = data.draw(st.sampled_from(list(places(content))), label="place")
    if data.draw(st.booleans(), label="remove"):
        content = removed(content, place)
    else:
        content = replaced(content, place, data.draw(ODD, label="new"))
    path.write_text(json.dumps(content))
    return path, before


SETTINGS = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data())
@SETTINGS
def test_any_value_in_an_encoders_files(data: st.DataObject, encoder_folder: Path) -> None:
    path, before = damaged(data, encoder_folder)
    try:
        use_encoder(encoder_folder)
    except ShortlistError:
        pass
    finally:
        path.write_bytes(before)


@given(data=st.data())
@SETTINGS
def test_any_value_in_a_rerankers_files(data: st.DataObject, reranker_folder: Path) -> None:
    path, before = damaged(data, reranker_folder)
    try:
        use_reranker(reranker_folder)
    except ShortlistError:
        pass
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["config.json", "modules.json", "card.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\x00" * 100, b"[" * 100_000, b"[]", b"5", b'"x"', b"NaN"])
def test_files_that_are_no_json_object(name: str, content: bytes, tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "model")
    (folder / name).write_bytes(content)
    if name == "modules.json" and content == b"[]":
        pytest.skip("a list, as it should be; what is not in it has its usual place")
    with pytest.raises(ModelError):
        Encoder.load(folder, threads=1)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_truncated_tokenizers_are_refused(kept: float, tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "model")
    content = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Encoder.load(folder, threads=1)


@pytest.mark.parametrize(("name", "value"), [("model_input_names", 5), ("pad_token", {"content": 5}), ("pad_token", [])])
def test_odd_tokenizer_settings(name: str, value: Any, tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "model")
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**stated, name: value}))
    with contextlib.suppress(ModelError):
        use_encoder(folder)


def test_what_card_and_weights_state_must_agree(tiny_encoder_folder: Path, tiny_reranker_folder: Path, tmp_path: Path) -> None:
    """Otherwise vectors would be cut, or the first of several labels would pass for the score."""
    encoder = shutil.copytree(tiny_encoder_folder, tmp_path / "encoder")
    (encoder / "card.json").write_text('{"dims": 32}')
    with pytest.raises(ModelError, match="dims=32, the network has 64"):
        Encoder.load(encoder)
    headless = shutil.copytree(tiny_encoder_folder, tmp_path / "headless")
    (headless / "card.json").write_text('{"kind": "reranker", "pooling": "score", "labels": 1}')
    with pytest.raises(ModelError, match=r"one label.*head with 0"):
        Reranker.load(headless)
