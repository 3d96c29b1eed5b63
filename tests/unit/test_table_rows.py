"""Rows of the token table: frequent ones through the mapping, rare ones from the file, the same numbers either way."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reference_network import int8_steps, random_folder, write_safetensors
from shortlist.engines.native import NativeEngine
from shortlist.errors import ModelError
from shortlist.models.network import TABLE, Network, read_network
from shortlist.models.weights import leave_mapped, mapped_place, read_safetensors
from shortlist.types import Tokens

VOCABULARY = 16_384 + 700  # more rows than are kept mapped (kMappedRows in weights.h)


def large_table(folder: Path, kind: str, hidden: int) -> Network:
    path = random_folder(folder, hidden=hidden, heads=1, layers=1, intermediate=4, vocabulary=997) / "model.safetensors"
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 997', f'"vocab_size": {VOCABULARY}'))
    tensors = {name: np.array(array) for name, array in read_safetensors(path).items()}
    table = np.resize(tensors.pop(TABLE), (VOCABULARY, hidden))
    if kind == "int8":
        scale = np.abs(table).max(1) / np.float32(127)
        tensors[TABLE], tensors[f"{TABLE}_scale"] = np.round(int8_steps(table) / scale[:, None]).astype(np.int8), scale
    elif kind == "bfloat16":
        tensors[TABLE] = (table.view(np.uint32) >> 16).astype(np.uint16)
    else:
        tensors[TABLE] = table.astype(kind)
    write_safetensors(path, tensors)
    return read_network(folder)


def every_row(network: Network) -> Tokens:
    ids = np.arange(VOCABULARY - 1500, VOCABULARY, dtype=np.int32)
    return Tokens(ids, np.zeros(len(ids), np.uint8), np.arange(len(ids) + 1, dtype=np.int32))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("hidden", [7, 600])  # less and more than is read from the file at once
def test_rows_from_the_file_are_those_of_the_array(kind: str, hidden: int, tmp_path: Path) -> None:
    network = large_table(tmp_path, kind, hidden)
    in_memory = replace(network, table=np.array(network.table))
    assert mapped_place(network.table)[0] == str(tmp_path / "model.safetensors")
    assert mapped_place(in_memory.table) == ("", 0)
    results = [NativeEngine(n, precision="float32", threads=2).run(every_row(n), "none") for n in (network, in_memory)]
    np.testing.assert_array_equal(*results)


def test_places_are_bytes_of_the_file(tmp_path: Path) -> None:
    path = random_folder(tmp_path) / "model.safetensors"
    for name, array in read_safetensors(path).items():
        file, place = mapped_place(array)
        assert path.read_bytes()[place : place + array.nbytes] == array.tobytes(), name
        assert Path(file) == path


def test_a_table_that_is_replaced_or_cut_while_in_use(tmp_path: Path) -> None:
    """Another file in its place does not matter; a file that was cut short is an error, not a crash."""
    network = large_table(tmp_path, "float16", 16)
    engine, tokens = NativeEngine(network, threads=2), every_row(network)
    before = engine.run(tokens, "mean")
    path = tmp_path / "model.safetensors"
    path.rename(tmp_path / "old")
    path.write_bytes(b"something else")
    np.testing.assert_array_equal(engine.run(tokens, "mean"), before)
    os.truncate(tmp_path / "old", (tmp_path / "old").stat().st_size // 2)
    rare = np.full(3, VOCABULARY - 1, np.int32)
    with pytest.raises(ModelError, match="file was cut"):
        engine.run(Tokens(rare, np.zeros(3, np.uint8), np.array([0, 3], np.int32)), "mean")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_engines_close_their_files(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path))
    before = open_files()
    engines = [NativeEngine(network, threads=1) for _ in range(5)]
    assert open_files() == before + 5
    del engines
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="this system does not tell mappings apart")
def test_a_loaded_network_leaves_its_file(tmp_path: Path) -> None:
    """Once its weights are packed, no page of the file stays in the process."""
    network = read_network(random_folder(tmp_path, hidden=512, heads=8, layers=2, intermediate=1024))
    assert resident_kb(tmp_path) == 0
    NativeEngine(network, threads=1)
    assert resident_kb(tmp_path) == 0
    network.table.sum()
    assert resident_kb(tmp_path) > 0
    leave_mapped(network.table)
    assert resident_kb(tmp_path) == 0


def resident_kb(folder: Path) -> int:
    """Of the files in a folder, what is resident in this process."""
    sizes, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            sizes += int(line.split()[1])
    return sizes
