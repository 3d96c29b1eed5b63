"""A network as an ONNX graph: written node by node from our named arrays, run by onnxruntime to check it.

    inputs   input_ids, attention_mask, token_type_ids   int64[batch, sequence], padding on the right
    outputs  an encoder: last_hidden_state float32[batch, sequence, hidden], sentence_embedding float32[batch, hidden]
             a reranker: logits float32[batch, labels]

In the int8 graph the linear layers compute as our own engine does: weights int8 with a scale for each output, inputs rounded
to -127..127 steps with a scale for each token, sums int32. A result therefore depends neither on padding nor on its
neighbours, as it would with one scale a batch (DynamicQuantizeLinear, what onnxruntime's quantize_dynamic writes).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.errors import MissingExtra
from shortlist.models.body import quantized
from shortlist.models.network import HEADS, Network
from shortlist.models.weights import Array
from shortlist.train.forward import as_float32, float_tensors
from shortlist.types import FloatArray

# Opset 17 is the first with LayerNormalization; onnxruntime reads it since 1.12 (2022).
_OPSET, _IR_VERSION = 17, 8
# A protobuf file ends at 2 GiB; what comes near it keeps its weights in a file beside it.
_LARGEST_FILE = 2_000_000_000
_MASKED = np.float32(-1e9)
# Steps are unsigned around this one: onnxruntime 1.32 multiplies uint8 by int8 14 times as fast as int8 by int8.
_MIDDLE = np.array(128, np.uint8)
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write_onnx(path: Path, network: Network, pooling: str, *, normalize: bool, table: str, int8: bool) -> None:
    """The graph as a file, with `model.onnx_data` beside it where it is larger than a protobuf file may be.

    pooling    "cls", "mean" or "score"; `normalize` divides a vector by its length
    table      type of the token table in the file: "float32", "float16" or "int8" (a scale for each row)
    int8       linear layers of the body in int8

    Raises MissingExtra without the package onnx.
    """
    onnx = _onnx()
    graph = _Graph(onnx, network, int8)
    states = graph.states(table, pooling)
    if pooling == "score":
        outputs: dict[str, tuple[str, list[str | int]]] = {"logits": (graph.score(states), ["batch", network.labels])}
    else:
        outputs = {
            "last_hidden_state": (states, ["batch", "sequence", network.hidden_size]),
            "sentence_embedding": (graph.pooled(states, pooling, normalize), ["batch", network.hidden_size]),
        }
    model = graph.model(outputs)
    large = graph.size_bytes > _LARGEST_FILE
    onnx.save_model(model, str(path), save_as_external_data=large, location=f"{path.name}_data")
    onnx.checker.check_model(str(path))


def session(path: Path) -> Any:
    """An onnxruntime session of one thread. Raises MissingExtra without onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", "checking an ONNX file") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "onnx", "writing an ONNX file") from error
    return onnx


class _Graph:
    """Nodes and weights of one network; every method adds what computes its result and returns that result's name."""

    def __init__(self, onnx: Any, network: Network, int8: bool) -> None:
        self._onnx, self._net, self._int8 = onnx, network, int8
        self._tensors = float_tensors(network)
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._rounded: dict[str, tuple[str, str]] = {}
        self.size_bytes = 0

    def model(self, outputs: dict[str, tuple[str, list[str | int]]]) -> Any:
        """The whole as a ModelProto. outputs: name -> (result, shape)."""
        helper, types = self._onnx.helper, self._onnx.TensorProto
        for name, (result, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [result], [name]))
        graph = helper.make_graph(
            self._nodes,
            "shortlist",
            [helper.make_tensor_value_info(name, types.INT64, ["batch", "sequence"]) for name in _INPUTS],
            [helper.make_tensor_value_info(name, types.FLOAT, shape) for name, (_, shape) in outputs.items()],
            list(self._weights.values()),
        )
        opset = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="shortlist")

    def states(self, table: str, pooling: str) -> str:
        """[batch, sequence, hidden]; with a head that reads the first token alone, [batch, 1, hidden]."""
        net = self._net
        first_only = pooling == "score" and not net.maxsim
        x = self._norm("embeddings.LayerNorm", self._embeddings(table))
        mask = self._op("Where", self._real(), self._value(0), self._value(_MASKED))
        mask = self._op("Unsqueeze", mask, self._ints(1, 2))
        for layer in range(net.layers):
            place = f"encoder.layer.{layer}"
            rows = self._op("Slice", x, *map(self._ints, (0, 1, 1))) if first_only and layer == net.layers - 1 else x
            attended = self._attention(f"{place}.attention", rows, x, mask)
            x = self._norm(f"{place}.attention.output.LayerNorm", self._op("Add", rows, attended))
            middle = self._gelu(self._linear(f"{place}.intermediate.dense", x))
            x = self._norm(f"{place}.output.LayerNorm", self._op("Add", x, self._linear(f"{place}.output.dense", middle)))
        return x

    def pooled(self, states: str, pooling: str, normalize: bool) -> str:
        """[batch, hidden]."""
        if pooling == "cls":
            vector = self._op("Gather", states, self._weight("zero", np.array(0, np.int64)), axis=1)
        else:
            mask = self._op("Cast", "attention_mask", to=self._onnx.TensorProto.FLOAT)
            mask = self._op("Unsqueeze", mask, self._ints(2))
            total = self._op("ReduceSum", self._op("Mul", states, mask), self._ints(1), keepdims=0)
            vector = self._op("Div", total, self._op("ReduceSum", mask, self._ints(1), keepdims=0))
        return self._unit(vector) if normalize else vector

    def score(self, states: str) -> str:
        """[batch, labels]: the head on the first token, and the MaxSim part where there is one."""
        dense, output = HEADS[self._net.head]
        first = self._op("Gather", states, self._weight("zero", np.array(0, np.int64)), axis=1)
        score = self._linear(output, self._op("Tanh", self._linear(dense, first)))
        return self._op("Add", score, self._maxsim(states)) if self._net.maxsim else score

    def _maxsim(self, states: str) -> str:
        """[batch, 1]: the weighted mean over question tokens of the best cosine with a passage token, times the gain.

        0 where a row has no token of one of the two.
        """
        unit = self._unit(states)
        cosines = self._op("MatMul", unit, self._op("Transpose", unit, perm=[0, 2, 1]))
        passage = self._op("Equal", "token_type_ids", self._weight("one", np.array(1, np.int64)))
        passage = self._op("Unsqueeze", self._op("And", passage, self._real()), self._ints(1))
        best = self._op("ReduceMax", self._op("Where", passage, cosines, self._value(_MASKED)), axes=[2], keepdims=0)
        best = self._op("Where", self._op("Less", best, self._value(_MASKED / 2)), self._value(0), best)
        question = self._op("Equal", "token_type_ids", self._weight("zero", np.array(0, np.int64)))
        question = self._op("Cast", self._op("And", question, self._real()), to=self._onnx.TensorProto.FLOAT)
        weights = self._op("Softplus", self._op("Squeeze", self._linear("maxsim", states), self._ints(2)))
        weights = self._op("Mul", weights, question)
        total = self._op("ReduceSum", self._op("Mul", weights, best), self._ints(1), keepdims=1)
        weights = self._op("ReduceSum", weights, self._ints(1), keepdims=1)
        mean = self._op("Div", total, self._op("Max", weights, self._value(np.finfo(np.float32).tiny)))
        return self._op("Mul", mean, self._weight("maxsim.gain", self._tensors["maxsim.gain"]))

    def _embeddings(self, table: str) -> str:
        net, types = self._net, "embeddings.token_type_embeddings.weight"
        positions = self._tensors["embeddings.position_embeddings.weight"][net.first_position :]
        length = self._op("Slice", self._op("Shape", "input_ids"), *map(self._ints, (1, 2, 0)))
        place = self._op("Slice", self._weight("position_embeddings", positions), self._ints(0), length, self._ints(0))
        x = self._op("Add", self._rows(table), place)
        if net.type_vocab_size == 1:
            return self._op("Add", x, self._weight(types, self._tensors[types][0]))
        return self._op("Add", x, self._op("Gather", self._weight(types, self._tensors[types]), "token_type_ids"))

    def _rows(self, table: str) -> str:
        """[batch, sequence, hidden]: the tokens' rows of the table."""
        net, name = self._net, "embeddings.word_embeddings.weight"
        if table == "int8":
            rows, scale = (net.table, net.table_scale) if net.table_scale is not None else quantized(as_float32(net.table))
            found = self._op("Gather", self._weight(name, np.asarray(rows)), "input_ids")
            scales = self._op("Gather", self._weight(f"{name}_scale", np.asarray(scale)), "input_ids")
            found = self._op("Cast", found, to=self._onnx.TensorProto.FLOAT)
            return self._op("Mul", found, self._op("Unsqueeze", scales, self._ints(2)))
        numbers = as_float32(net.table, net.table_scale).astype(table, copy=False)
        found = self._op("Gather", self._weight(name, numbers), "input_ids")
        return found if table == "float32" else self._op("Cast", found, to=self._onnx.TensorProto.FLOAT)

    def _attention(self, place: str, rows: str, x: str, mask: str) -> str:
        """Attention of `rows` over `x`; both may be the same."""
        net = self._net
        size = net.hidden_size // net.heads
        split = self._ints(0, 0, net.heads, size)
        query, key, value = (
            self._op("Reshape", self._linear(f"{place}.self.{name}", source), split)
            for name, source in (("query", rows), ("key", x), ("value", x))
        )
        query, value = (self._op("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, value))
        products = self._op("MatMul", query, self._op("Transpose", key, perm=[0, 2, 3, 1]))
        scores = self._op("Add", self._op("Div", products, self._value(math.sqrt(size))), mask)
        context = self._op("MatMul", self._op("Softmax", scores, axis=-1), value)
        context = self._op("Transpose", context, perm=[0, 2, 1, 3])
        return self._linear(f"{place}.output.dense", self._op("Reshape", context, self._ints(0, 0, net.hidden_size)))

    def _linear(self, name: str, x: str) -> str:
        weights, bias = self._tensors[f"{name}.weight"], self._weight(f"{name}.bias", self._tensors[f"{name}.bias"])
        if self._int8 and name.startswith("encoder."):
            return self._op("Add", self._int8_product(f"{name}.weight", weights, x), bias)
        return self._op("Add", self._op("MatMul", x, self._weight(f"{name}.weight", weights.T)), bias)

    def _int8_product(self, name: str, weights: FloatArray, x: str) -> str:
        """Product of x and the transposed weights; an int8 weight of the source is taken as it is."""
        stored = self._net.tensors[name]
        rows, scale = (stored, self._net.tensors[f"{name}_scale"]) if stored.dtype == np.int8 else quantized(weights)
        steps, step = self._rounded.get(x) or self._round(x)
        sums = self._op("MatMulInteger", steps, self._weight(name, np.asarray(rows).T), self._weight("middle", _MIDDLE))
        sums = self._op("Cast", sums, to=self._onnx.TensorProto.FLOAT)
        return self._op("Mul", self._op("Mul", sums, step), self._weight(f"{name}_scale", np.asarray(scale)))

    def _round(self, x: str) -> tuple[str, str]:
        """(steps, step): every token's largest magnitude is 127 steps, _MIDDLE is none."""
        largest = self._op("ReduceMax", self._op("Abs", x), axes=[-1], keepdims=1)
        step = self._op("Div", self._op("Max", largest, self._value(1e-30)), self._value(127))
        steps = self._op("Add", self._op("Round", self._op("Div", x, step)), self._value(float(_MIDDLE)))
        steps = self._op("Cast", steps, to=self._onnx.TensorProto.UINT8)
        self._rounded[x] = steps, step
        return steps, step

    def _norm(self, name: str, x: str) -> str:
        scale, shift = (self._weight(f"{name}.{part}", self._tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self._op("LayerNormalization", x, scale, shift, axis=-1, epsilon=self._net.layer_norm_eps)

    def _gelu(self, x: str) -> str:
        if self._net.activation == "gelu":
            inner = self._op("Erf", self._op("Div", x, self._value(math.sqrt(2))))
        else:
            cube = self._op("Mul", self._op("Mul", x, x), x)
            inner = self._op("Add", x, self._op("Mul", cube, self._value(0.044715)))
            inner = self._op("Tanh", self._op("Mul", inner, self._value(math.sqrt(2 / math.pi))))
        return self._op("Mul", self._op("Mul", x, self._op("Add", inner, self._value(1))), self._value(0.5))

    def _unit(self, x: str) -> str:
        length = self._op("ReduceL2", x, axes=[-1], keepdims=1)
        return self._op("Div", x, self._op("Max", length, self._value(np.finfo(np.float32).tiny)))

    def _real(self) -> str:
        """bool[batch, sequence]: what is no padding."""
        return self._op("Cast", "attention_mask", to=self._onnx.TensorProto.BOOL)

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _value(self, number: float | np.floating[Any]) -> str:
        return self._weight(f"value_{float(number)!r}", np.array(number, np.float32))

    def _ints(self, *numbers: int) -> str:
        return self._weight(f"ints_{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def _weight(self, name: str, array: Array) -> str:
        if name not in self._weights:
            self._weights[name] = self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
            self.size_bytes += array.nbytes
        return name
