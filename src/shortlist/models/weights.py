"""Safetensors files as memory-mapped arrays, strictly checked.

The format: 8 bytes with the header's length (little endian), a JSON header that gives each tensor's type, shape and byte
range, then the bytes of all tensors without gaps. Nothing in it is executed, and nothing is read before the header has been
checked against the file's size.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from shortlist.errors import ModelError, ModelNotFound
from shortlist.models.files import SHARDS, WEIGHTS, read_json

Array: TypeAlias = npt.NDArray[Any]

# Three times what the largest network that this engine runs needs. Parsing takes up to thirty times the bytes.
_MAX_HEADER_BYTES = 10_000_000
_MAX_ELEMENTS = 2**40  # of a tensor without bytes, too: numpy cannot shape what is larger
# numpy has no bfloat16: its bits travel as uint16.
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "<i1", "U8": "|u1"}
_OTHER_TYPE_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


def type_name(array: Array) -> str:
    """The format's name of an array's type: "F16" for float16."""
    return next(name for name, code in _TYPES.items() if np.dtype(code) == array.dtype)


def read_folder(folder: Path) -> dict[str, Array]:
    """All tensors of a folder's model.safetensors, or of the shards that model.safetensors.index.json lists."""
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    if (folder / SHARDS).is_file():
        return _read_shards(folder)
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is not a folder. Give the folder that holds config.json and {WEIGHTS}.")
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    advice = f" {pickled[0]} is a pickle, which is never opened: save the model as safetensors." if pickled else ""
    raise ModelNotFound(f"{folder} holds no {WEIGHTS} and no {SHARDS}.{advice}")


def _read_shards(folder: Path) -> dict[str, Array]:
    places = read_json(folder / SHARDS).get("weight_map")
    if not isinstance(places, dict):
        raise ModelError(f"{folder / SHARDS}: weight_map is missing.")
    shards: dict[str, dict[str, Array]] = {}
    tensors: dict[str, Array] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise ModelError(
                f"{folder / SHARDS}: tensor {name!r} is placed in {file!r}; expected the name of a file in the folder."
            )
        if file not in shards:
            shards[file] = read_safetensors(folder / file)
        if name not in shards[file]:
            raise ModelError(f"{folder / file} does not hold tensor {name!r}, which {SHARDS} places there.")
        tensors[name] = shards[file][name]
    return tensors


def read_safetensors(path: Path) -> dict[str, Array]:
    """The tensors of one safetensors file as read-only views of the mapped file; bfloat16 as uint16 bits.

    Tensors of types that no network uses (for example the int64 position ids of old files) are left out.
    Raises ModelNotFound without a file and ModelError when header and file do not fit together.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = _header_length(path, file.read(8), size)
            header = file.read(header_bytes)
    except FileNotFoundError:
        raise ModelNotFound(f"there is no file {path}.") from None
    entries = _entries(path, header)
    _check_layout(path, entries, size - 8 - header_bytes)
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + header_bytes
    return {
        name: mapped[start + entry.begin : start + entry.end].view(_TYPES[entry.type]).reshape(entry.shape)
        for name, entry in entries.items()
        if entry.type in _TYPES
    }


def mapped_place(array: Array) -> tuple[str, int]:
    """(file, byte) where a view of a mapped file begins; ("", 0) for an array that lies in memory."""
    whole = _whole(array)
    if whole is None or whole.filename is None:
        return "", 0
    return str(whole.filename), array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]


def leave_mapped(array: Array) -> None:
    """Takes the mapped file that a view belongs to out of this process's memory; what is touched again comes back."""
    whole = _whole(array)
    if whole is not None and isinstance(whole.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        whole.base.madvise(mmap.MADV_DONTNEED)


def _whole(array: Array) -> np.memmap[Any, Any] | None:
    """The map of the whole file that `read_safetensors` made."""
    whole: Any = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return whole if isinstance(whole, np.memmap) and not whole.flags.writeable else None


@dataclass(frozen=True)
class _Entry:
    type: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _header_length(path: Path, prefix: bytes, size: int) -> int:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length < 2 or length > size - 8:
        raise ModelError(f"{path} is truncated or not a safetensors file: {size} bytes, a header of {length} bytes announced.")
    if length > _MAX_HEADER_BYTES:
        raise ModelError(f"{path}: the header has {length} bytes; at most {_MAX_HEADER_BYTES} are read.")
    return length


def _entries(path: Path, header: bytes) -> dict[str, _Entry]:
    try:
        values = json.loads(header.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: the header is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: the header is not a JSON object.")
    values.pop("__metadata__", None)
    return {name: _entry(path, name, value) for name, value in values.items()}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(path: Path, name: str, value: Any) -> _Entry:
    try:
        kind, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ModelError(f"{path}: tensor {name!r} lacks a usable dtype, shape or data_offsets.") from None
    if not all(map(_is_count, (*shape, begin, end))) or len(shape) > 8:
        raise ModelError(f"{path}: tensor {name!r} has shape {shape} at {begin}..{end}; expected whole numbers from 0 on.")
    if not isinstance(kind, str) or (kind not in _TYPES and kind not in _OTHER_TYPE_BYTES):
        raise ModelError(f"{path}: tensor {name!r} is of the unknown type {kind!r}.")
    if math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
        raise ModelError(f"{path}: tensor {name!r} has the absurd shape {shape!s:.80}.")
    item = np.dtype(_TYPES[kind]).itemsize if kind in _TYPES else _OTHER_TYPE_BYTES[kind]
    if end - begin != math.prod(shape) * item:
        raise ModelError(f"{path}: tensor {name!r} ({kind}, shape {list(shape)}) does not fit its {end - begin} bytes.")
    return _Entry(kind, shape, begin, end)


def _check_layout(path: Path, entries: Mapping[str, _Entry], size: int) -> None:
    """The tensors cover the data without gaps and overlaps, as the format demands."""
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            raise ModelError(f"{path}: tensor {name!r} begins at byte {entry.begin}; the one before it ends at {reached}.")
        reached = entry.end
    if reached != size:
        raise ModelError(f"{path} is truncated or damaged: its tensors need {reached} bytes, it has {size}.")
