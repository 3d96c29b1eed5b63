"""A model folder's network as named arrays: config.json and safetensors files, checked and memory-mapped.

The safetensors format: 8 bytes with the header's length (little endian), a JSON header that gives each tensor's type,
shape and byte range, then the bytes of all tensors without gaps. Nothing in it is executed, and nothing is read before
the header has been checked against the file's size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from shortlist.errors import ModelError, ModelNotFound

Array: TypeAlias = npt.NDArray[Any]

TABLE = "embeddings.word_embeddings.weight"
_WEIGHTS = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format's reference implementation
_MAX_SIZES = {
    "hidden_size": 16_384,
    "layers": 1_024,
    "heads": 1_024,
    "intermediate_size": 65_536,  # an int8 dot product of this length just fits int32
    "vocab_size": 2**24,
    "max_position_embeddings": 2**20,
    "type_vocab_size": 256,
}
# numpy has no bfloat16: its bits travel as uint16.
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "<i1"}
_OTHER_TYPE_BYTES = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_FAMILIES = {"bert": "bert", "xlm-roberta": "xlm-roberta", "roberta": "xlm-roberta", "camembert": "xlm-roberta"}
_ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class Network:
    """One frozen BERT or XLM-RoBERTa network; nothing is computed yet.

    family          "bert", or "xlm-roberta" where positions start at pad_id + 1
    max_positions   tokens that a sequence may have
    activation      "gelu" (exact) or "gelu_tanh"
    table           [vocab_size, hidden_size] float32, float16, uint16 (bfloat16 bits) or int8, memory-mapped
    table_scale     float32[vocab_size] for an int8 table, else None
    tensors         the other arrays by their name in a BertModel, types as in the table; an int8 weight "x" is
                    accompanied by "x_scale", float32 for each row
    head            "" (none), "bert" (pooler.dense, tanh, classifier), "roberta" (classifier.dense, tanh, classifier.out_proj)
    labels          outputs of the head, 0 without one
    """

    family: str
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    type_vocab_size: int
    pad_id: int
    layer_norm_eps: float
    activation: str
    table: Array
    table_scale: Array | None
    tensors: Mapping[str, Array]
    head: str
    labels: int

    @property
    def first_position(self) -> int:
        """Row of the position table that a sequence's first token takes."""
        return self.pad_id + 1 if self.family == "xlm-roberta" else 0


HEADS = {"bert": ("pooler.dense", "classifier"), "roberta": ("classifier.dense", "classifier.out_proj")}


def read_network(folder: Path, table_folder: Path | None = None) -> Network:
    """The network of a model folder in the usual layout (config.json, model.safetensors or its shards).

    Tensor names may carry the prefix "bert." or "roberta.". A folder without word embeddings takes them from
    `table_folder`: several bodies may share one table.

    Raises ModelNotFound when a file is missing and ModelError when config or tensors cannot be used.
    """
    config = _Config(folder)
    tensors = _named(read_folder(folder))
    if TABLE not in tensors and table_folder is not None:
        shared = _named(read_folder(table_folder))
        tensors.update({name: shared[name] for name in (TABLE, f"{TABLE}_scale") if name in shared})
    if TABLE not in tensors:
        raise ModelError(f"{folder} has no tensor {TABLE} and no other folder was given for it. Give the folder that holds the table.")
    head, labels = _head(tensors)
    wanted = config.shapes() | _head_shapes(head, config.hidden_size, labels)
    used = _checked(folder, tensors, wanted)
    return Network(
        family=config.family,
        hidden_size=config.hidden_size,
        layers=config.layers,
        heads=config.heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        type_vocab_size=config.type_vocab_size,
        pad_id=config.pad_id,
        layer_norm_eps=config.layer_norm_eps,
        activation=config.activation,
        table=used.pop(TABLE),
        table_scale=used.pop(f"{TABLE}_scale", None),
        tensors=used,
        head=head,
        labels=labels,
    )


class _Config:
    """The numbers of config.json, each checked."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "config.json"
        self._values = _read_json(self._path)
        kind = self._values.get("model_type")
        if not isinstance(kind, str) or kind not in _FAMILIES:
            raise ModelError(f"{self._path}: model_type is {kind!r}; this engine runs {', '.join(_FAMILIES)}.")
        self.family = _FAMILIES[kind]
        self.hidden_size = self._size("hidden_size", "hidden_size")
        self.layers = self._size("layers", "num_hidden_layers")
        self.heads = self._size("heads", "num_attention_heads")
        self.intermediate_size = self._size("intermediate_size", "intermediate_size")
        self.vocab_size = self._size("vocab_size", "vocab_size")
        self.position_rows = self._size("max_position_embeddings", "max_position_embeddings")
        self.type_vocab_size = self._size("type_vocab_size", "type_vocab_size", 2)
        self.pad_id = self._pad_id()
        self.max_positions = self.position_rows - (self.pad_id + 1 if self.family == "xlm-roberta" else 0)
        self.layer_norm_eps = self._eps()
        self.activation = self._choice("hidden_act", _ACTIVATIONS, "gelu")
        self._choice("position_embedding_type", {"absolute": "absolute"}, "absolute")
        self._check_fit()

    def _size(self, limit: str, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SIZES[limit]:
            raise ModelError(f"{self._path}: {key} is {value!r}; expected a whole number from 1 to {_MAX_SIZES[limit]}.")
        return value

    def _pad_id(self) -> int:
        value = self._values.get("pad_token_id", 1 if self.family == "xlm-roberta" else 0)
        if value is None and self.family == "bert":
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < self.vocab_size:
            raise ModelError(f"{self._path}: pad_token_id is {value!r}; expected a token id below vocab_size={self.vocab_size}.")
        return value

    def _eps(self) -> float:
        value = self._values.get("layer_norm_eps", 1e-12)
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise ModelError(f"{self._path}: layer_norm_eps is {value!r}; expected a number from 0 to 1.")
        return float(value)

    def _choice(self, key: str, known: Mapping[str, str], default: str) -> str:
        value = self._values.get(key) or default
        if not isinstance(value, str) or value not in known:
            raise ModelError(f"{self._path}: {key} is {value!r}; this engine knows {', '.join(known)}.")
        return known[value]

    def _check_fit(self) -> None:
        if self.hidden_size % self.heads:
            raise ModelError(f"{self._path}: hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.heads}.")
        if self.max_positions < 1:
            raise ModelError(
                f"{self._path}: max_position_embeddings={self.position_rows} leaves no position after pad_token_id={self.pad_id}."
            )
        if self._values.get("is_decoder"):
            raise ModelError(f"{self._path}: is_decoder is true; this engine runs encoders only.")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that the body needs."""
        h, f = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {
            TABLE: (self.vocab_size, h),
            "embeddings.position_embeddings.weight": (self.position_rows, h),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, h),
            "embeddings.LayerNorm.weight": (h,),
            "embeddings.LayerNorm.bias": (h,),
        }
        dense = {
            "attention.self.query": (h, h),
            "attention.self.key": (h, h),
            "attention.self.value": (h, h),
            "attention.output.dense": (h, h),
            "intermediate.dense": (f, h),
            "output.dense": (h, f),
        }
        for layer in range(self.layers):
            for name, shape in dense.items():
                shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
                shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
            for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
                shapes[f"encoder.layer.{layer}.{norm}.weight"] = (h,)
                shapes[f"encoder.layer.{layer}.{norm}.bias"] = (h,)
        return shapes


def _head(tensors: Mapping[str, Array]) -> tuple[str, int]:
    """Kind of the score head and its number of labels; ("", 0) without one."""
    for kind, (dense, output) in HEADS.items():
        if f"{dense}.weight" in tensors and f"{output}.weight" in tensors and tensors[f"{output}.weight"].ndim == 2:
            return kind, int(tensors[f"{output}.weight"].shape[0])
    return "", 0


def _head_shapes(head: str, hidden: int, labels: int) -> dict[str, tuple[int, ...]]:
    if not head:
        return {}
    dense, output = HEADS[head]
    return {
        f"{dense}.weight": (hidden, hidden),
        f"{dense}.bias": (hidden,),
        f"{output}.weight": (labels, hidden),
        f"{output}.bias": (labels,),
    }


def _checked(folder: Path, tensors: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """The tensors that are needed, each of the right shape and type; int8 ones with their scales."""
    used: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name not in tensors:
            raise ModelError(f"{folder} has no tensor {name}: the weights do not belong to its config.json.")
        array = tensors[name]
        if array.shape != shape:
            raise ModelError(f"{folder}: tensor {name} has shape {list(array.shape)}, config.json asks for {list(shape)}.")
        if array.dtype not in (np.float32, np.float16, np.uint16, np.int8):
            raise ModelError(f"{folder}: tensor {name} is of a type that is not F32, F16, BF16 or I8.")
        used[name] = array
        if array.dtype == np.int8:
            scale = tensors.get(f"{name}_scale")
            if scale is None or scale.dtype != np.float32 or scale.shape not in ((shape[0],), (shape[0], 1)):
                raise ModelError(f"{folder}: the int8 tensor {name} needs {name}_scale as F32[{shape[0]}].")
            if name != TABLE and not np.isfinite(scale).all():
                raise ModelError(f"{folder}: {name}_scale holds NaN or infinity.")
            used[f"{name}_scale"] = scale.reshape(-1)
    return used


def _named(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Names as in a BertModel: without "bert." or "roberta.", and with today's names of the layer norm."""
    named: dict[str, Array] = {}
    for name, array in tensors.items():
        plain = name.removeprefix("bert.").removeprefix("roberta.")
        plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if plain in named:
            raise ModelError(f"two tensors are called {plain} once the prefix of {name!r} is taken off. Remove one of them.")
        named[plain] = array
    return named


def read_folder(folder: Path) -> dict[str, Array]:
    """All tensors of a folder's model.safetensors, or of the shards that model.safetensors.index.json lists."""
    if (folder / _WEIGHTS).is_file():
        return read_safetensors(folder / _WEIGHTS)
    if (folder / _SHARDS).is_file():
        return _read_shards(folder)
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is not a folder. Give the folder that holds config.json and {_WEIGHTS}.")
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    advice = f" {pickled[0]} is a pickle, which is never opened: save the model as safetensors." if pickled else ""
    raise ModelNotFound(f"{folder} holds no {_WEIGHTS} and no {_SHARDS}.{advice}")


def _read_shards(folder: Path) -> dict[str, Array]:
    places = _read_json(folder / _SHARDS).get("weight_map")
    if not isinstance(places, dict):
        raise ModelError(f"{folder / _SHARDS}: weight_map is missing.")
    shards: dict[str, dict[str, Array]] = {}
    tensors: dict[str, Array] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise ModelError(f"{folder / _SHARDS}: tensor {name!r} is placed in {file!r}; expected the name of a file in the folder.")
        if file not in shards:
            shards[file] = read_safetensors(folder / file)
        if name not in shards[file]:
            raise ModelError(f"{folder / file} does not hold tensor {name!r}, which {_SHARDS} places there.")
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound(f"there is no {path}. Give a folder that holds config.json and {_WEIGHTS}.") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is not a JSON object.")
    return values
