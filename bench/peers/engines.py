"""Every engine behind the same two methods, each used as its own documentation says is fastest.

What is the same for all: the texts, the weights, at most 512 tokens, nothing but the processor. An engine that does not sort
texts by length gets them sorted; batch size and streams are chosen by trying them (`Setting`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from peers.texts import LONGEST

FloatArray = npt.NDArray[np.float32]


class Setting(NamedTuple):
    """batch: texts of a batch, or of a `Runtime` its tokens with padding; streams: batches at a time."""

    batch: int = 0
    streams: int = 1


class Result(NamedTuple):
    """Rows in the order of the texts; seconds of the network alone, None where the engine takes only text."""

    rows: FloatArray
    network_s: float | None = None


class Engine(Protocol):
    def encode(self, texts: Sequence[str], setting: Setting) -> Result: ...
    def score(self, query: str, passages: Sequence[str], setting: Setting) -> Result: ...


@dataclass(frozen=True)
class Entry:
    """How an engine is named, what it needs, and what it can be set to.

    packages   distributions whose versions the report gives, the first decides whether the engine is installed
    files      in the body's folder, by the kind of model
    settings   threads -> what is tried
    """

    label: str
    packages: tuple[str, ...]
    files: dict[str, str]
    settings: Callable[[int], list[Setting]]
    load: Callable[[Path, str, int], Engine]
    module: str = ""

    @property
    def installed(self) -> bool:
        return find_spec(self.module or self.packages[0].replace("-", "_")) is not None


def _batches_of_texts(_threads: int) -> list[Setting]:
    return [Setting(batch) for batch in (2, 4, 8, 16, 32)]


def _batches_of_tokens(threads: int) -> list[Setting]:
    return [Setting(*both) for both in product((256, 512, 1024, 2048, 4096), sorted({1, threads}))]


def _one_stream(_threads: int) -> list[Setting]:
    return _batches_of_tokens(1)


def _a_stream_a_thread(threads: int) -> list[Setting]:
    return [s for s in _batches_of_tokens(threads) if s.streams > 1]


# ---------------------------------------------------------------------------------------------- engines that take text


class Shortlist:
    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import shortlist

        loader = shortlist.Encoder if kind == "encoder" else shortlist.Reranker
        self._model: Any = loader.load(folder / kind, threads=threads)
        self._folder, self._threads = folder / kind, threads

    def encode(self, texts: Sequence[str], _setting: Setting) -> Result:
        return Result(self._model.encode(list(texts), kind=""))

    def score(self, query: str, passages: Sequence[str], _setting: Setting) -> Result:
        return Result(self._model.score(query, list(passages)))

    def network(self, texts: tuple[str, ...]) -> float:
        """Seconds of the network alone, over tokens made before."""
        engine, tokens = self._prepared(texts)
        start = time.perf_counter()
        engine.run(tokens, "mean")
        return time.perf_counter() - start

    @cache  # noqa: B019  (a worker has one model for life)
    def _prepared(self, texts: tuple[str, ...]) -> tuple[Any, Any]:
        from shortlist.engines.native import NativeEngine
        from shortlist.models.network import read_network
        from shortlist.tokens import Tokenizer

        engine = NativeEngine(read_network(self._folder), threads=self._threads)
        return engine, Tokenizer.load(self._folder).encode(texts, LONGEST)[0]


class SentenceTransformers:
    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import sentence_transformers
        import torch

        torch.set_num_threads(threads)
        loader = sentence_transformers.SentenceTransformer if kind == "encoder" else sentence_transformers.CrossEncoder
        self._model: Any = loader(str(folder / kind), device="cpu")
        self._raw = torch.nn.Identity()

    def encode(self, texts: Sequence[str], setting: Setting) -> Result:
        return Result(self._model.encode(list(texts), batch_size=setting.batch or 32, show_progress_bar=False))

    def score(self, query: str, passages: Sequence[str], setting: Setting) -> Result:
        pairs = [(query, passage) for passage in passages]
        options = {"batch_size": setting.batch or 32, "show_progress_bar": False, "activation_fn": self._raw}
        return Result(_in_order_of_length(pairs, lambda part: self._model.predict(part, **options)))


class FastEmbed:
    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        name = f"bench/{folder.name}"
        TextEmbedding.add_custom_model(
            model=name,
            pooling=PoolingType.DISABLED,  # the graph pools
            normalization=True,
            sources=ModelSource(hf=name),
            dim=384,
            model_file=f"../{kind}-int8.onnx",
        )
        self._model = TextEmbedding(name, specific_model_path=str(folder / kind), threads=threads, local_files_only=True)

    def encode(self, texts: Sequence[str], setting: Setting) -> Result:
        size = setting.batch or 256
        rows = _in_order_of_length(texts, lambda part: np.array(list(self._model.embed(part, batch_size=size))))
        return Result(rows)

    def score(self, query: str, passages: Sequence[str], setting: Setting) -> Result:
        raise NotImplementedError


class FlashRank:
    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import flashrank.Config
        import onnxruntime
        from flashrank import Ranker

        flashrank.Config.model_file_map[kind] = f"../{kind}-int8.onnx"
        self._ranker = Ranker(model_name=kind, cache_dir=str(folder), max_length=LONGEST, log_level="ERROR")
        # It has no way to say how many threads, so the session is opened again.
        self._ranker.session = onnxruntime.InferenceSession(str(folder / f"{kind}-int8.onnx"), _onnx_options(threads))

    def encode(self, texts: Sequence[str], setting: Setting) -> Result:
        raise NotImplementedError

    def score(self, query: str, passages: Sequence[str], setting: Setting) -> Result:
        size = setting.batch or len(passages)
        return Result(_in_order_of_length(passages, lambda part: self._score(query, part, size)))

    def _score(self, query: str, passages: Sequence[str], size: int) -> FloatArray:
        """Logits; it gives the sigmoid, and the passages in another order."""
        from flashrank import RerankRequest

        found = np.empty(len(passages))
        for start in range(0, len(passages), size):
            part = [{"id": i, "text": p} for i, p in enumerate(passages[start : start + size], start)]
            for hit in self._ranker.rerank(RerankRequest(query=query, passages=part)):
                found[hit["id"]] = hit["score"]
        return np.log(found / (1 - found)).astype(np.float32)


def _in_order_of_length(items: Sequence[Any], compute: Callable[[list[Any]], npt.ArrayLike]) -> FloatArray:
    """`compute` over the items sorted by their characters, longest first; its rows in the order of the items."""
    order = sorted(range(len(items)), key=lambda i: -sum(map(len, items[i])))
    rows = np.asarray(compute([items[i] for i in order]), np.float32)
    found = np.empty_like(rows)
    found[order] = rows
    return found


# ---------------------------------------------------------------------------------------------- runtimes that take numbers


class Batch(NamedTuple):
    """Padded arrays int64[texts, longest] in the graph's order (ids, mask, segments), and the same ids without padding."""

    arrays: tuple[npt.NDArray[np.int64], ...]
    ids: list[list[int]]
    segments: list[list[int]]


class Runtime:
    """A tokenizer, length-sorted batches of a token budget, and a function that runs them, `streams` at a time."""

    def __init__(self, folder: Path, kind: str, run: Callable[[list[Batch], int], list[FloatArray]]) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / kind / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)
        self._run = run

    def encode(self, texts: Sequence[str], setting: Setting) -> Result:
        rows, seconds = self._rows(texts, setting)
        return Result(rows / np.linalg.norm(rows, axis=1, keepdims=True), seconds)

    def score(self, query: str, passages: Sequence[str], setting: Setting) -> Result:
        rows, seconds = self._rows([(query, passage) for passage in passages], setting)
        return Result(rows[:, 0], seconds)

    def _rows(self, items: Sequence[Any], setting: Setting) -> tuple[FloatArray, float]:
        encodings = self._tokenizer.encode_batch_fast(items)
        start = time.perf_counter()
        groups = token_batches([len(e.ids) for e in encodings], setting.batch or LONGEST)
        batches = [_padded([encodings[i].ids for i in g], [encodings[i].type_ids for i in g]) for g in groups]
        parts = self._run(batches, setting.streams)
        rows = np.empty((len(items), parts[0].shape[1]), np.float32)
        for group, part in zip(groups, parts, strict=True):
            rows[group] = part
        return rows, time.perf_counter() - start


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of like length, the longest first; padded, a batch has at most `budget` tokens, or one text."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _padded(ids: list[list[int]], segments: list[list[int]]) -> Batch:
    arrays = tuple(np.zeros((len(ids), max(map(len, ids))), np.int64) for _ in range(3))
    for row, (numbers, kinds) in enumerate(zip(ids, segments, strict=True)):
        for array, values in zip(arrays, (numbers, 1, kinds), strict=True):
            array[row, : len(numbers)] = values
    return Batch(arrays, ids, segments)


def _in_streams(run: Callable[[Batch], FloatArray], batches: list[Batch], streams: int) -> list[FloatArray]:
    if streams == 1:
        return [run(batch) for batch in batches]
    return list(_pool(streams).map(run, batches))


@cache
def _pool(streams: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(streams)


def _onnx_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return options


def onnxruntime_int8(folder: Path, kind: str, threads: int) -> Engine:
    import onnxruntime

    @cache
    def session(streams: int) -> Any:
        options = _onnx_options(threads // streams)
        return onnxruntime.InferenceSession(str(folder / f"{kind}-int8.onnx"), options, providers=["CPUExecutionProvider"])

    def run(batches: list[Batch], streams: int) -> list[FloatArray]:
        opened = session(streams)
        names = [node.name for node in opened.get_inputs()]
        by_name = dict(zip(("input_ids", "attention_mask", "token_type_ids"), range(3), strict=True))
        return _in_streams(lambda b: opened.run(None, {n: b.arrays[by_name[n]] for n in names})[0], batches, streams)

    return Runtime(folder, kind, run)


def openvino_int8(folder: Path, kind: str, threads: int) -> Engine:
    import openvino

    @cache
    def compiled(streams: int) -> Any:
        hint = "LATENCY" if streams == 1 else "THROUGHPUT"
        options = {
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": hint,
        }
        model = openvino.Core().compile_model(str(folder / f"{kind}-openvino.xml"), "CPU", options)
        return openvino.AsyncInferQueue(model, streams) if streams > 1 else model.create_infer_request()

    def run(batches: list[Batch], streams: int) -> list[FloatArray]:
        request = compiled(streams)
        if streams == 1:
            return [request.infer(list(b.arrays), share_inputs=True)[0].copy() for b in batches]
        found: list[Any] = [None] * len(batches)
        request.set_callback(lambda done, i: found.__setitem__(i, done.get_output_tensor(0).data.copy()))
        for i, batch in enumerate(batches):
            request.start_async(list(batch.arrays), i, share_inputs=True)
        request.wait_all()
        return found

    return Runtime(folder, kind, run)


def ctranslate2_int8(folder: Path, kind: str, threads: int) -> Engine:
    import ctranslate2
    from safetensors.numpy import load_file

    classifier = load_file(folder / "reranker" / "model.safetensors") if kind == "reranker" else {}
    weight, bias = classifier.get("classifier.weight"), classifier.get("classifier.bias")

    @cache
    def encoder(streams: int) -> Any:
        return ctranslate2.Encoder(
            str(folder / "ctranslate2"), compute_type="int8", inter_threads=streams, intra_threads=threads // streams
        )

    def run_one(opened: Any, batch: Batch) -> FloatArray:
        segments = batch.segments if kind == "reranker" else None
        out = opened.forward_batch(batch.ids, token_type_ids=segments)
        if weight is not None:
            return np.array(out.pooler_output) @ weight.T + bias
        mask = batch.arrays[1].astype(np.float32)
        states = np.array(out.last_hidden_state, copy=False)
        return np.asarray(np.matmul(mask[:, None], states)[:, 0] / mask.sum(1, keepdims=True))

    def run(batches: list[Batch], streams: int) -> list[FloatArray]:
        opened = encoder(streams)
        return _in_streams(lambda batch: run_one(opened, batch), batches, streams)

    return Runtime(folder, kind, run)


_BOTH = ("encoder", "reranker")
_ONNX = {kind: f"{kind}-int8.onnx" for kind in _BOTH}
_OPENVINO = {kind: f"{kind}-openvino.xml" for kind in _BOTH}
_PLAIN = {kind: kind for kind in _BOTH}

OURS = "shortlist"
REFERENCE = "sentence-transformers"  # float32: what the others' numbers are compared with
ENGINES = {
    OURS: Entry("shortlist, int8", ("shortlist", "tokenizers"), _PLAIN, lambda _: [Setting()], Shortlist),
    REFERENCE: Entry(
        "sentence-transformers, torch fp32",
        ("sentence-transformers", "transformers", "torch"),
        _PLAIN,
        _batches_of_texts,
        SentenceTransformers,
    ),
    "fastembed": Entry(
        "fastembed, the int8 graph of onnxruntime", ("fastembed",), {"encoder": _ONNX["encoder"]}, _batches_of_texts, FastEmbed
    ),
    "onnxruntime": Entry(
        "onnxruntime, dynamic int8, fused, per channel", ("onnxruntime",), _ONNX, _batches_of_tokens, onnxruntime_int8
    ),
    "openvino-1": Entry("OpenVINO int8 (NNCF), 1 stream", ("openvino", "nncf"), _OPENVINO, _one_stream, openvino_int8),
    "openvino-n": Entry(
        "OpenVINO int8 (NNCF), a stream a thread", ("openvino", "nncf"), _OPENVINO, _a_stream_a_thread, openvino_int8
    ),
    "ctranslate2": Entry(
        "CTranslate2 int8", ("ctranslate2",), dict.fromkeys(_BOTH, "ctranslate2"), _batches_of_tokens, ctranslate2_int8
    ),
    "flashrank": Entry(
        "FlashRank, the int8 graph of onnxruntime",
        ("FlashRank",),
        {"reranker": _ONNX["reranker"]},
        _batches_of_texts,
        FlashRank,
        module="flashrank",
    ),
}
