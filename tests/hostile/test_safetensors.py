"""Damaged and malicious safetensors files: a ModelError each, no crash, no allocation that the file does not pay for."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_network import random_folder, write_safetensors
from shortlist.engines.native import NativeEngine
from shortlist.errors import ModelError, ModelNotFound
from shortlist.models.network import read_network
from shortlist.models.weights import read_safetensors


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE: dict[str, tuple[Any, bytes]] = {
    "not JSON": (b"{nonsense", b""),
    "not UTF-8": (b'{"\xff": 1}', b""),
    "a list": ([1, 2], b""),
    "a deep list": (b"[" * 100_000, b""),
    "a name twice": (
        b'{"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}',
        b"",
    ),
    "an entry that is a number": ({"a": 5}, b""),
    "an entry without dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "an unknown type": ({"a": entry("Q4")}, bytes(8)),
    "a type that is a list": ({"a": entry(["F32"])}, bytes(8)),
    "a shape that is a text": ({"a": entry(shape="ab")}, bytes(8)),
    "a negative shape": ({"a": entry(shape=[-2])}, bytes(8)),
    "two negative sizes": ({"a": entry(shape=[-1, -2])}, bytes(8)),
    "a fractional shape": ({"a": entry(shape=[2.0])}, bytes(8)),
    "a boolean shape": ({"a": entry(shape=[True, 2])}, bytes(8)),
    "a huge shape": ({"a": entry(shape=[2**40, 2**40])}, bytes(8)),
    "a huge shape times zero, off by bytes": ({"a": entry(shape=[2**62, 0])}, bytes(8)),
    "a hundred axes": ({"a": entry(shape=[1] * 99 + [2])}, bytes(8)),
    "one offset": ({"a": entry(offsets=[0])}, bytes(8)),
    "three offsets": ({"a": entry(offsets=[0, 4, 8])}, bytes(8)),
    "a negative offset": ({"a": entry(offsets=[-8, 0])}, bytes(8)),
    "offsets in reverse": ({"a": entry(offsets=[8, 0])}, bytes(8)),
    "beyond the file": ({"a": entry(offsets=[8, 16])}, bytes(8)),
    "more bytes than the shape": ({"a": entry(offsets=[0, 12])}, bytes(12)),
    "an overlap": ({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
    "the same bytes twice": ({"a": entry(), "b": entry()}, bytes(8)),
    "a gap": ({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)),
    "bytes left over": ({"a": entry()}, bytes(9)),
    "a missing byte": ({"a": entry()}, bytes(7)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(case: str, tmp_path: Path) -> None:
    header, data = HOSTILE[case]
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_safetensors(write(tmp_path / "model.safetensors", header, data))


@pytest.mark.parametrize("length", [0, 1, 3, 9, 10**6, 2**63, 2**64 - 1])
def test_wrong_header_lengths_are_refused(length: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_safetensors(write(tmp_path / "model.safetensors", {}, b"", length))


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:  # a sparse file: its size is true, its disk space is not used
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(200_000_008)
    with pytest.raises(ModelError, match="at most 100000000"):
        read_safetensors(path)


@pytest.mark.parametrize("size", range(9))
def test_tiny_files_are_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(size))
    with pytest.raises(ModelError, match="truncated"):
        read_safetensors(tmp_path / "model.safetensors")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        read_safetensors(tmp_path / "model.safetensors")


def test_odd_but_valid_files_are_read(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "empty": entry(shape=[0, 3], offsets=[0, 0]),
        "scalar": entry(shape=[], offsets=[0, 4]),
        "ids": entry("I64", [1], [4, 12]),
        "odd place": entry("F32", [1], [12, 16]),
    }
    tensors = read_safetensors(write(tmp_path / "m", header, np.array([1.5, 0, 0, 2.5], np.float32).tobytes()))
    assert tensors.keys() == {"empty", "scalar", "odd place"}
    assert (float(tensors["scalar"]), float(tensors["odd place"][0]), tensors["empty"].shape) == (1.5, 2.5, (0, 3))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.9999])
def test_truncated_models_are_refused(kept: float, tmp_path: Path) -> None:
    path = random_folder(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ModelError):
        read_network(tmp_path)


@given(position=st.floats(0, 1), byte=st.integers(0, 255), only_header=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_gives_a_model_or_a_model_error(position: float, byte: int, only_header: bool, tmp_path: Path) -> None:
    path = random_folder(tmp_path, hidden=8, heads=2, layers=1, intermediate=8, vocabulary=9, positions=5) / "model.safetensors"
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little") if only_header else len(content)
    content[int(position * (end - 1))] = byte
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        NativeEngine(read_network(tmp_path), threads=1)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 5, None])
def test_shards_stay_in_their_folder(file: Any, tmp_path: Path) -> None:
    random_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ModelError, match="expected the name of a file in the folder"):
        read_network(tmp_path)


def test_an_index_that_lies(tmp_path: Path) -> None:
    random_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_safetensors(tmp_path / "one.safetensors", {"b": np.zeros(2, np.float32)})
    index = tmp_path / "model.safetensors.index.json"
    for content, message in [
        ('{"weight_map": {"a": "one.safetensors"}}', "does not hold tensor 'a'"),
        ("{}", "weight_map"),
        ("[]", "expected a JSON object"),
    ]:
        index.write_text(content)
        with pytest.raises(ModelError, match=message):
            read_network(tmp_path)
    index.write_text('{"weight_map": {"a": "two.safetensors"}}')
    with pytest.raises(ModelNotFound, match=r"two\.safetensors"):
        read_network(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\x00"])
def test_hostile_config(text: str, tmp_path: Path) -> None:
    (random_folder(tmp_path) / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_network(tmp_path)


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    random_folder(tmp_path)
    tensors = {name: np.array(a) for name, a in read_safetensors(path).items()}
    write_safetensors(path, {**tensors, "bert.embeddings.LayerNorm.bias": np.zeros(40, np.float32)})
    with pytest.raises(ModelError, match=r"two tensors are called embeddings\.LayerNorm\.bias"):
        read_network(tmp_path)
