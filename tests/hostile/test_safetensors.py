"""Damaged and malicious safetensors files: a ModelError each, no crash, no allocation that the file does not pay for."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file as reference_load

from reference_network import NAMES, random_folder, write_safetensors
from shortlist.engines.native import PRECISIONS, NativeEngine, available_instruction_sets
from shortlist.errors import ModelError, ModelNotFound
from shortlist.models.network import read_network
from shortlist.models.weights import read_safetensors
from shortlist.types import Tokens


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
    "a huge shape times zero": ({"a": entry(shape=[2**62, 0], offsets=[0, 0])}, b""),
    "two large sizes times zero": ({"a": entry(shape=[2**31, 2**31, 0], offsets=[0, 0])}, b""),
    "a size beyond any integer type": ({"a": entry(shape=[10**300, 0], offsets=[0, 0])}, b""),
    "a size of ten thousand digits": (b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,8]}}', bytes(8)),
    "offsets beyond any integer type": ({"a": entry(offsets=[0, 2**80])}, bytes(8)),
    "sizes that are not numbers": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[Infinity,8]}}', bytes(8)),
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
    with pytest.raises(ModelError, match="at most 10000000"):
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


def test_headers_cost_no_more_than_they_hold(tmp_path: Path) -> None:
    """Whatever sizes a header announces, little is allocated before it is refused."""
    for case, (header, data) in HOSTILE.items():
        path = write(tmp_path / "model.safetensors", header, data)
        tracemalloc.start()
        with pytest.raises(ModelError):
            read_safetensors(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000, case


def small_folder(folder: Path, **changes: Any) -> Path:
    shape = {"hidden": 8, "heads": 2, "layers": 1, "intermediate": 8, "vocabulary": 9, "positions": 5}
    return random_folder(folder, **shape, **changes) / "model.safetensors"


def tensors_of(path: Path) -> dict[str, Any]:
    return {name: np.array(array) for name, array in read_safetensors(path).items()}


def test_truncated_models_are_refused(tmp_path: Path) -> None:
    """At every byte of the header's length, around the ends of the header and of every tensor, and in between."""
    path = small_folder(tmp_path)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    ends = [start, *(start + e["data_offsets"][1] for e in header.values())]
    cuts = {*range(9), *range(0, len(content), 97), *(end + step for end in ends for step in (-1, 0, 1))}
    for cut in sorted(c for c in cuts if c < len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(ModelError):
            read_network(tmp_path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ModelError):
        read_network(tmp_path)


def results_or_error(folder: Path) -> np.ndarray | None:
    """What the engine gives for every token of the vocabulary and every position; None when it refuses the model."""
    try:
        network = read_network(folder)
        vocabulary, positions = network.vocab_size, network.max_positions
        ids = np.arange(vocabulary * positions, dtype=np.int32) % vocabulary
        offsets = np.arange(0, len(ids) + 1, positions, dtype=np.int32)
        return NativeEngine(network, threads=1).run(Tokens(ids, np.zeros(len(ids), np.uint8), offsets), "mean")
    except ModelError:
        return None


@given(position=st.floats(0, 1), bit=st.integers(0, 7), only_header=st.booleans())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_gives_numbers_or_a_model_error(position: float, bit: int, only_header: bool, tmp_path: Path) -> None:
    path = small_folder(tmp_path)
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little") if only_header else len(content)
    content[int(position * (end - 1))] ^= 1 << bit
    path.write_bytes(content)
    results = results_or_error(tmp_path)
    assert results is None or np.isfinite(results).all()


ODD = st.one_of(
    st.integers(-2, 20),
    st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e300, True, None, "4", [], {}]),
)


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_headers_that_are_read_are_read_as_the_reference_reads_them(data: st.DataObject, tmp_path: Path) -> None:
    """Types, shapes and offsets changed at random: a ModelError, or what the safetensors library gives."""
    names = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    header, size = {}, 0
    for name in names:
        kind = data.draw(st.sampled_from(["F32", "F16", "I8"]))
        shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
        stop = size + math.prod(shape) * {"F32": 4, "F16": 2, "I8": 1}[kind]
        header[name], size = entry(kind, shape, [size, stop]), stop
    if data.draw(st.booleans()):
        damaged = header[data.draw(st.sampled_from(names))]
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        kinds = st.sampled_from(["F32", "F16", "I8", "F64", "I64", "U8", "BOOL", "Q4", "", "f32"])
        damaged[field] = data.draw(kinds if field == "dtype" else st.lists(ODD, max_size=4))
    content = bytes(range(size)) if data.draw(st.booleans()) else bytes(data.draw(st.integers(0, 60)))
    path = write(tmp_path / "model.safetensors", header, content)
    try:
        found = read_safetensors(path)
    except ModelError:
        return
    read = {*NAMES, "uint8"}  # weights in 4-bit blocks are bytes
    expected = {name: tensor for name, tensor in reference_load(path).items() if tensor.dtype.name in read}
    assert found.keys() == {name for name in expected if expected[name].dtype != np.int64}
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        assert (array.shape, array.tobytes()) == (expected[name].shape, expected[name].tobytes())


def every_tensor(tmp_path: Path) -> Iterator[tuple[str, dict[str, Any], Path]]:
    path = small_folder(tmp_path, head="bert", maxsim=True)
    for name in tensors_of(path):
        small_folder(tmp_path, head="bert", maxsim=True)
        yield name, tensors_of(path), path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_no_tensor_may_hold_nan_or_infinity(value: float, kind: Any, tmp_path: Path) -> None:
    """Wherever it is: in the last number of each tensor. The token table is read when a text touches the row."""
    for name, tensors, path in every_tensor(tmp_path):
        tensors[name] = tensors[name].astype(kind)
        tensors[name].flat[-1] = value
        write_safetensors(path, tensors)
        assert results_or_error(tmp_path) is None, name


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    for name, tensors, path in every_tensor(tmp_path):
        if name.startswith(("classifier", "pooler")):
            continue  # without its score head it is an encoder
        write_safetensors(path, {n: a for n, a in tensors.items() if n != name})
        with pytest.raises(ModelError, match=name):
            read_network(tmp_path)


def test_tensors_of_another_shape_are_named(tmp_path: Path) -> None:
    for name, tensors, path in every_tensor(tmp_path):
        array = tensors[name]
        for wrong in (np.concatenate([array, array]), array[None], array[..., :-1], array.reshape(-1)[:0]):
            write_safetensors(path, {**tensors, name: np.ascontiguousarray(wrong)})
            with pytest.raises(ModelError):
                read_network(tmp_path)


def test_tensors_of_another_type_are_refused(tmp_path: Path) -> None:
    """int64 numbers, and int8 without scales."""
    for name, tensors, path in every_tensor(tmp_path):
        if name.startswith(("classifier.weight", "pooler.weight")):
            continue
        for kind in (np.int64, np.int8):
            write_safetensors(path, {**tensors, name: tensors[name].astype(kind)})
            assert results_or_error(tmp_path) is None, (name, kind)


@pytest.mark.parametrize("level", available_instruction_sets())
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("parts", [("attention.self.query", "attention.self.key"), ("intermediate.dense",)])
def test_weights_that_overflow_are_noticed(
    parts: tuple[str, ...], precision: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite, but too large to compute with: no NaN comes out, nor numbers that were made of NaN on the way."""
    monkeypatch.setenv("SHORTLIST_ISA", level)
    path = small_folder(tmp_path)
    tensors = tensors_of(path)
    for part in parts:
        tensors[f"encoder.layer.0.{part}.bias"][:] = 3e38
    write_safetensors(path, tensors)
    engine = NativeEngine(read_network(tmp_path), precision=precision, threads=1)
    with pytest.raises(ModelError, match="gives NaN or infinity"):
        engine.run(Tokens(np.arange(5, dtype=np.int32), np.zeros(5, np.uint8), np.array([0, 5], np.int32)), "none")


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
