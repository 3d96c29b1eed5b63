"""A BERT-family forward pass in numpy: it reads the weights of files that nothing else here runs, to check them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from shortlist.models.network import HEADS, Network
from shortlist.models.weights import Array
from shortlist.types import FloatArray, Tokens


def as_float32(array: Array, scale: Array | None = None) -> FloatArray:
    """The numbers that a stored array stands for: int8 rows times their scales, bfloat16 bits, float16 or float32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    numbers = np.ascontiguousarray(array, np.float32)
    return numbers if scale is None else numbers * np.asarray(scale, np.float32)[:, None]


def float_tensors(network: Network) -> dict[str, FloatArray]:
    """Every tensor but the token table as float32, by its name in a BertModel; scales are multiplied in."""
    return {
        name: as_float32(array, network.tensors.get(f"{name}_scale"))
        for name, array in network.tensors.items()
        if not name.endswith("_scale")
    }


def run(network: Network, tokens: Tokens, pooling: str) -> FloatArray:
    """What `NativeEngine.run` gives for "cls", "mean" and "score", in float32 and slowly: one sequence at a time."""
    plain = replace(network, tensors=float_tensors(network))
    rows = []
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        segments = tokens.segments[start:stop]
        states = _states(plain, tokens.ids[start:stop], segments)
        rows.append(_score(plain, states, segments) if pooling == "score" else _pooled(states, pooling))
    return np.array(rows, np.float32)


def _states(net: Network, ids: Array, segments: Array) -> FloatArray:
    """float32[tokens, hidden_size]: the last layer's state of every token."""
    first = net.first_position
    x = as_float32(net.table[ids], None if net.table_scale is None else net.table_scale[ids])
    x = x + net.tensors["embeddings.position_embeddings.weight"][first : first + len(ids)]
    x = x + net.tensors["embeddings.token_type_embeddings.weight"][segments if net.type_vocab_size > 1 else 0]
    x = _norm(net, "embeddings.LayerNorm", x)
    for layer in range(net.layers):
        place = f"encoder.layer.{layer}"
        x = _norm(net, f"{place}.attention.output.LayerNorm", x + _attention(net, f"{place}.attention", x))
        middle = _gelu(_linear(net, f"{place}.intermediate.dense", x), net.activation)
        x = _norm(net, f"{place}.output.LayerNorm", x + _linear(net, f"{place}.output.dense", middle))
    return x


def _pooled(states: FloatArray, pooling: str) -> FloatArray:
    return np.asarray(states[0] if pooling == "cls" else states.mean(0), np.float32)


def _score(net: Network, states: FloatArray, segments: Array) -> FloatArray:
    """float32[labels]: the head on the first token, and the MaxSim part where the network has one."""
    dense, output = HEADS[net.head]
    score = _linear(net, output, np.tanh(_linear(net, dense, states[0])))
    return score + _maxsim(net, states, segments) if net.maxsim else score


def _maxsim(net: Network, states: FloatArray, segments: Array) -> FloatArray:
    """The weighted mean over question tokens of the best cosine with a passage token, times the gain; 0 without passage.

    Late interaction (ColBERT; Khattab & Zaharia, SIGIR 2020) over states that were encoded together.
    """
    if not np.isin([0, 1], segments).all():
        return np.zeros(1, np.float32)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    best = (unit[segments == 0] @ unit[segments == 1].T).max(1)
    weights = np.logaddexp(0, _linear(net, "maxsim", states[segments == 0])[:, 0])
    return np.asarray(net.tensors["maxsim.gain"] * (weights @ best) / weights.sum(), np.float32)


def _linear(net: Network, name: str, x: FloatArray) -> FloatArray:
    return np.asarray(x @ net.tensors[f"{name}.weight"].T + net.tensors[f"{name}.bias"], np.float32)


def _norm(net: Network, name: str, x: FloatArray) -> FloatArray:
    centred = x - x.mean(1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + net.layer_norm_eps)
    return np.asarray(scaled * net.tensors[f"{name}.weight"] + net.tensors[f"{name}.bias"], np.float32)


def _attention(net: Network, place: str, x: FloatArray) -> FloatArray:
    size = net.hidden_size // net.heads
    query, key, value = (
        _linear(net, f"{place}.self.{name}", x).reshape(len(x), net.heads, size).swapaxes(0, 1)
        for name in ("query", "key", "value")
    )
    scores = query @ key.swapaxes(1, 2) / math.sqrt(size)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    context = (weights / weights.sum(-1, keepdims=True)) @ value
    return _linear(net, f"{place}.output.dense", context.swapaxes(0, 1).reshape(len(x), -1))


def _gelu(x: FloatArray, activation: str) -> FloatArray:
    if activation == "gelu_tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), np.float32)
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))), np.float32)


def _erf(x: FloatArray) -> npt.NDArray[np.floating]:
    """The error function to 1.5e-7: Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.copysign(1 - series * np.exp(-(x**2)), x)
