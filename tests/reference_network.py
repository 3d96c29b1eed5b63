"""A BERT-family forward pass in plain numpy, the judge of the engine, and tiny random networks to run through both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.models.network import HEADS, TABLE, Network
from shortlist.types import FloatArray, Tokens

Array = npt.NDArray[Any]
NAMES = {"float32": "F32", "float16": "F16", "int8": "I8", "int64": "I64", "uint16": "BF16"}
erf = np.vectorize(math.erf, otypes=[np.float64])


def write_safetensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """The format by hand: 8 bytes of header length, JSON, bytes. uint16 arrays are bfloat16 bits."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def random_folder(
    folder: Path,
    *,
    family: str = "bert",
    hidden: int = 40,
    layers: int = 2,
    heads: int = 5,
    intermediate: int = 72,
    vocabulary: int = 101,
    positions: int = 90,
    types: int = 2,
    head: str = "",
    labels: int = 1,
    activation: str = "gelu",
    prefix: str = "",
    maxsim: bool = False,
    seed: int = 0,
) -> Path:
    """A model folder of random float32 weights, large enough that every part of the network matters."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int, size: float = 1.0) -> Array:
        return (rng.standard_normal(shape) * size / math.sqrt(shape[-1])).astype(np.float32)

    def vector(n: int, around: float = 0.0) -> Array:
        return (around + 0.2 * rng.standard_normal(n)).astype(np.float32)

    tensors = {
        TABLE: matrix(vocabulary, hidden, size=3),
        "embeddings.position_embeddings.weight": matrix(positions, hidden, size=2),
        "embeddings.token_type_embeddings.weight": matrix(types, hidden, size=2),
        "embeddings.LayerNorm.weight": vector(hidden, 1),
        "embeddings.LayerNorm.bias": vector(hidden),
    }
    for layer in range(layers):
        place = f"encoder.layer.{layer}."
        for name, outputs, inputs in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", intermediate, hidden),
            ("output.dense", hidden, intermediate),
        ):
            tensors[f"{place}{name}.weight"], tensors[f"{place}{name}.bias"] = (
                matrix(outputs, inputs, size=1.5),
                vector(outputs),
            )
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{place}{norm}.weight"], tensors[f"{place}{norm}.bias"] = vector(hidden, 1), vector(hidden)
    tensors = {prefix + name: array for name, array in tensors.items()}
    if head:
        dense, output = HEADS[head]
        dense = prefix + dense if head == "bert" else dense
        tensors |= {f"{dense}.weight": matrix(hidden, hidden), f"{dense}.bias": vector(hidden)}
        tensors |= {f"{output}.weight": matrix(labels, hidden), f"{output}.bias": vector(labels)}
    if maxsim:
        tensors |= {"maxsim.weight": matrix(1, hidden), "maxsim.bias": vector(1), "maxsim.gain": vector(1, around=2)}
    config = {
        "model_type": family,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": 1e-5,
        "hidden_act": activation,
        "pad_token_id": 0 if family == "bert" else 1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def random_tokens(network: Network, lengths: Sequence[int], seed: int = 0) -> Tokens:
    """Random ids and segments (0s, then 1s) in sequences of the given lengths."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    segments = [np.arange(n) >= rng.integers(1, n + 1) for n in lengths]
    return Tokens(
        rng.integers(0, network.vocab_size, offsets[-1]).astype(np.int32),
        np.concatenate([*segments, np.zeros(0, bool)]).astype(np.uint8) % network.type_vocab_size,
        offsets,
    )


def numbers(array: Array, scale: Array | None = None) -> npt.NDArray[np.float64]:
    """A stored array as float64: bfloat16 bits and scaled int8 rows become the numbers they stand for."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if scale is not None:
        return array.astype(np.float64) * scale[:, None]
    return array.astype(np.float64)


def int8_steps(x: Array) -> Array:
    """Each row rounded to multiples of its largest magnitude / 127."""
    scale = np.abs(x).max(1, keepdims=True) / 127
    return np.round(x / scale) * scale


def largest_steps(x: Array, limit: int, axis: tuple[int, ...]) -> Array:
    """x rounded to multiples of its largest magnitude / limit, over these axes together."""
    scale = np.abs(x).max(axis, keepdims=True) / limit
    return np.round(x / scale) * scale


def weight_steps(weights: Array) -> Array:
    """Rows of softmax weights, the largest 1, rounded to multiples of 1 / min(500000 / their sum, 32767)."""
    unit = np.minimum(500000 / weights.sum(-1, keepdims=True), 32767)
    return np.round(weights * unit)


class ReferenceNetwork:
    """The formulas of BERT (Devlin et al. 2019), one sequence at a time, in float64.

    With int8, the body's linear layers see weights rounded per output and inputs rounded per row to -127..127 steps, and
    attention sees queries, keys and values rounded to 4,095 steps and softmax weights to 15 bits.
    """

    def __init__(self, network: Network, *, int8: bool = False) -> None:
        self.network = network
        self.int8 = int8

    def tensor(self, name: str) -> npt.NDArray[np.float64]:
        return numbers(self.network.tensors[name], self.network.tensors.get(f"{name}_scale"))

    def linear(self, name: str, x: Array) -> Array:
        weight = self.tensor(f"{name}.weight")
        if self.int8 and name.startswith("encoder."):
            x, weight = int8_steps(x), int8_steps(weight)
        return x @ weight.T + self.tensor(f"{name}.bias")

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + self.network.layer_norm_eps)
        return scaled * self.tensor(f"{name}.weight") + self.tensor(f"{name}.bias")

    def gelu(self, x: Array) -> Array:
        if self.network.activation == "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))

    def attention(self, place: str, x: Array) -> Array:
        size = self.network.hidden_size // self.network.heads
        query, key, value = (
            self.linear(f"{place}attention.self.{name}", x).reshape(len(x), -1, size).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        if self.int8:
            query = largest_steps(query, 4095, axis=(2,))
            key, value = (largest_steps(x, 4095, axis=(1, 2)) for x in (key, value))
        scores = query @ key.swapaxes(1, 2) / math.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        if self.int8:
            weights = weight_steps(weights)
        context = (weights / weights.sum(-1, keepdims=True)) @ value
        return self.linear(f"{place}attention.output.dense", context.swapaxes(0, 1).reshape(len(x), -1))

    def states(self, ids: Array, segments: Array) -> Array:
        net = self.network
        first = net.pad_id + 1 if net.family == "xlm-roberta" else 0
        x = numbers(net.table[ids], None if net.table_scale is None else net.table_scale[ids])
        x = x + self.tensor("embeddings.position_embeddings.weight")[first : first + len(ids)]
        x = x + self.tensor("embeddings.token_type_embeddings.weight")[segments]
        x = self.norm("embeddings.LayerNorm", x)
        for layer in range(net.layers):
            place = f"encoder.layer.{layer}."
            x = self.norm(f"{place}attention.output.LayerNorm", x + self.attention(place, x))
            middle = self.gelu(self.linear(f"{place}intermediate.dense", x))
            x = self.norm(f"{place}output.LayerNorm", x + self.linear(f"{place}output.dense", middle))
        return x

    def score(self, states: Array, segments: Array) -> Array:
        dense, output = HEADS[self.network.head]
        first = self.linear(output, np.tanh(self.linear(dense, states[:1])))
        return first + self.maxsim(states, segments) if self.network.maxsim else first

    def maxsim(self, states: Array, segments: Array) -> float:
        """For each row of segment 0 the best cosine with a row of segment 1, weighted; 0 without rows of either."""
        weight, bias, gain = (self.tensor(f"maxsim.{part}").reshape(-1) for part in ("weight", "bias", "gain"))
        unit = states / np.sqrt((states**2).sum(1, keepdims=True))
        total = weights = 0.0
        for i in np.flatnonzero(segments == 0):
            best = -math.inf
            for j in np.flatnonzero(segments == 1):
                best = max(best, unit[i] @ unit[j])
            of_row = math.log1p(math.exp(states[i] @ weight + bias[0]))
            total, weights = total + of_row * best, weights + of_row
        return gain[0] * total / weights if np.isin([0, 1], segments).all() else 0.0

    def run(self, tokens: Tokens, pooling: str) -> FloatArray:
        rows = []
        for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            states = self.states(tokens.ids[a:b], tokens.segments[a:b])
            rows.append(self.pool(states, pooling, tokens.segments[a:b]))
        return np.concatenate(rows).astype(np.float32)

    def pool(self, states: Array, pooling: str, segments: Array) -> Array:
        if pooling == "none":
            return states
        if pooling == "mean":
            return states.mean(0, keepdims=True)
        return self.score(states, segments) if pooling == "score" else states[:1]


def cosines(a: Array, b: Array) -> Array:
    """Cosine of each row of a with the same row of b."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
