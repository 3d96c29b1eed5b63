"""A model folder's network as named arrays: config.json and weights, checked against each other, nothing copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shortlist.errors import ModelError
from shortlist.models.blocks import BLOCK, LARGEST_SCALE, from_blocks
from shortlist.models.files import read_json
from shortlist.models.weights import Array, read_folder

TABLE = "embeddings.word_embeddings.weight"
_MAX_SIZES = {
    "hidden_size": 16_384,
    "layers": 1_024,
    "heads": 1_024,
    "intermediate_size": 65_536,  # an int8 dot product of this length just fits int32
    "vocab_size": 2**24,
    "max_position_embeddings": 2**20,
    "type_vocab_size": 256,
}
_FAMILIES = {"bert": "bert", "xlm-roberta": "xlm-roberta", "roberta": "xlm-roberta", "camembert": "xlm-roberta"}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
}


@dataclass(frozen=True)
class Network:
    """One frozen BERT or XLM-RoBERTa network; nothing is computed yet.

    family          "bert", or "xlm-roberta" where positions start at pad_id + 1
    max_positions   tokens that a sequence may have
    activation      "gelu" (exact) or "gelu_tanh"
    table           [vocab_size, hidden_size] float32, float16, uint16 (bfloat16 bits) or int8, memory-mapped
    table_scale     float32[vocab_size] for an int8 table, else None
    tensors         the other arrays by their name in a BertModel, types as in the table; an int8 weight "x" is
                    accompanied by "x_scale", float32 for each row; weights in 4-bit blocks have become float16
    head            "" (none), "bert" (pooler.dense, tanh, classifier), "roberta" (classifier.dense, tanh, classifier.out_proj)
    labels          outputs of the head, 0 without one
    maxsim          the head has a MaxSim part: tensors maxsim.weight [1, hidden_size], maxsim.bias [1], maxsim.gain [1]
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
    maxsim: bool = False

    @property
    def first_position(self) -> int:
        """Row of the position table that a sequence's first token takes."""
        return self.pad_id + 1 if self.family == "xlm-roberta" else 0


MAXSIM = ("maxsim.weight", "maxsim.bias", "maxsim.gain")
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
        raise ModelError(
            f"{folder} has no tensor {TABLE} and no other folder was given for it. Give the folder that holds the table."
        )
    head, labels = _head(tensors)
    maxsim = _has_maxsim(folder, tensors, labels)
    wanted = config.shapes() | _head_shapes(head, config.hidden_size, labels)
    if maxsim:
        wanted |= dict(zip(MAXSIM, ((1, config.hidden_size), (1,), (1,)), strict=True))
    used = _checked(folder, _unpacked(folder, tensors, wanted), wanted)
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
        maxsim=maxsim,
    )


class _Config:
    """The numbers of config.json, each checked."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "config.json"
        self._values = read_json(self._path)
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
            raise ModelError(
                f"{self._path}: pad_token_id is {value!r}; expected a token id below vocab_size={self.vocab_size}."
            )
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
            raise ModelError(
                f"{self._path}: hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.heads}."
            )
        if self.max_positions < 1:
            raise ModelError(
                f"{self._path}: max_position_embeddings={self.position_rows} leaves none after pad_token_id={self.pad_id}."
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


def _has_maxsim(folder: Path, tensors: Mapping[str, Array], labels: int) -> bool:
    """Whether the head has a MaxSim part. Raises ModelError for half of one, or for one without a single score to add to."""
    missing = [name for name in MAXSIM if name not in tensors]
    if len(missing) == len(MAXSIM):
        return False
    if missing:
        raise ModelError(
            f"{folder} has no tensor {' and no '.join(missing)}: a MaxSim head is {', '.join(MAXSIM)}. Save all three, or none."
        )
    if labels != 1:
        raise ModelError(f"{folder} has a MaxSim head and {labels} labels; expected a score head with one label.")
    return True


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


def _unpacked(folder: Path, tensors: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """The tensors with those in 4-bit blocks (uint8, float16 scales) as float16."""
    plain = dict(tensors)
    for name, shape in shapes.items():
        packed, scales = tensors.get(name), tensors.get(f"{name}_scale")
        if packed is None or packed.dtype != np.uint8:
            continue
        rows, columns = shape if len(shape) == 2 else (0, 0)
        fits = columns % BLOCK == 0 and packed.shape == (rows, columns // 2) and name != TABLE
        if not fits or scales is None or scales.dtype != np.float16 or scales.shape != (rows, columns // BLOCK):
            raise ModelError(
                f"{folder}: the 4-bit tensor {name} needs U8[{rows}, {columns // 2}] and "
                f"{name}_scale as F16[{rows}, {columns // BLOCK}]."
            )
        if not (np.abs(scales) < LARGEST_SCALE).all():  # NaN and infinity fail too
            raise ModelError(f"{folder}: {name}_scale holds numbers that are no sensible scales.")
        plain[name] = from_blocks(packed, scales)
    return plain


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
