"""Two bodies in the forms that the engines read, made once into a work folder and kept.

    python -m peers.bodies BODY WORK      in bench/; BODY is a name of BODIES

    WORK/BODY/encoder                  a folder that transformers, sentence-transformers and shortlist load
    WORK/BODY/reranker                 the same body under a random head: a BertForSequenceClassification with one label
    WORK/BODY/encoder.onnx             mean of the states (reranker.onnx: logits), exported by torch
    WORK/BODY/encoder-int8.onnx        fused by onnxruntime's transformer optimiser, dynamic int8, a scale for each output
    WORK/BODY/encoder-openvino.xml     int8 by NNCF's post-training quantisation of a transformer, 300 samples
    WORK/BODY/ctranslate2              int8, states and pooled output: both kinds of model
    WORK/BODY/made.json                what could not be made, and why

A random head ranks nothing, but it costs what a trained one costs and its scores show whether two engines compute the same.
"""

from __future__ import annotations

import logging
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from peers.texts import LONGEST, Texts
from shortlist import models
from shortlist.models.card import read_card
from shortlist.models.files import read_json, write_json
from shortlist.models.network import TABLE, Network, read_network
from shortlist.train.forward import as_float32, float_tensors

KINDS = ("encoder", "reranker")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = {"encoder": "sentence_embedding", "reranker": "logits"}
SAMPLES = 300


@dataclass(frozen=True)
class Body:
    """A network and the texts it is measured with; `source` is a name that `shortlist models` lists."""

    name: str
    source: str
    sets: tuple[str, ...]
    questions: str


BODIES = {
    "L-6": Body("L-6", "shortlist-embed-en", ("passages", "long"), "questions"),
    "L-12": Body("L-12", "shortlist-embed", ("passages", "chinese"), "chinese_questions"),
}


def make(body: Body, work: Path) -> dict[str, str]:
    """Makes what is not there yet. What went wrong: file -> reason."""
    folder, texts = work / body.name, Texts.load(work / "texts.json")
    folder.mkdir(parents=True, exist_ok=True)
    source = models.resolve(body.source)
    samples = (texts.calibration[::2] if body.name == "L-6" else texts.calibration)[:SAMPLES]
    steps: list[tuple[str, Callable[[Path], None]]] = []
    for kind in KINDS:
        steps += [
            (kind, partial(_write_folder, source=source, kind=kind)),
            (f"{kind}.onnx", partial(_export_onnx, folder=folder / kind, kind=kind)),
            (f"{kind}-int8.onnx", partial(_quantise_onnx, exported=folder / f"{kind}.onnx", folder=folder / kind)),
            (f"{kind}-openvino.xml", partial(_quantise_openvino, folder=folder, kind=kind, samples=samples)),
        ]
    steps.append(("ctranslate2", partial(_convert_ctranslate2, folder=folder / "reranker")))
    return _made(folder, steps)


def _made(folder: Path, steps: list[tuple[str, Callable[[Path], None]]]) -> dict[str, str]:
    for stale in folder.glob("draft-*"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    failed = {}
    for name, step in steps:
        if (folder / name).exists():
            continue
        print(f"{folder.name}: {name}", file=sys.stderr, flush=True)
        draft = folder / f"draft-{name}"
        try:
            step(draft)
            _settle(draft, folder / name)
        except Exception as error:  # a peer that cannot be prepared is named in the report
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    write_json(folder / "made.json", {"failed": failed})
    return failed


def _settle(draft: Path, target: Path) -> None:
    """Gives a finished file its name; OpenVINO's weights lie beside it."""
    weights = draft.with_suffix(".bin")
    if draft.suffix == ".xml":
        weights.rename(target.with_suffix(".bin"))
    draft.rename(target)


# ---------------------------------------------------------------------------------------------- standard folders


def _write_folder(path: Path, source: Path, kind: str) -> None:
    """The body in float32, without prompts and for LONGEST tokens; a reranker's tokenizer marks the passage as segment 1."""
    path.mkdir()
    network, card = read_network(source), read_card(source)
    tensors = float_tensors(network) | {TABLE: as_float32(network.table, network.table_scale)}
    config = read_json(source / "config.json") | {"torch_dtype": "float32", "dtype": "float32"}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, path / name)
    if kind == "reranker":
        tensors = {f"bert.{name}": array for name, array in tensors.items() if not name.startswith("pooler.")} | _head(network)
        labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        config |= {"architectures": ["BertForSequenceClassification"], **labels}
        _write_segments(path)
    else:
        _write_modules(path, card.dims)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    write_json(path / "config.json", config)
    settings = read_json(path / "tokenizer_config.json")
    write_json(path / "tokenizer_config.json", settings | {"model_max_length": LONGEST})
    tokens = {k: settings[k] for k in ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")}
    write_json(path / "special_tokens_map.json", tokens)  # fastembed and FlashRank read it


def _head(network: Network) -> dict[str, Any]:
    draw, size = np.random.default_rng(5), network.hidden_size
    return {
        "bert.pooler.dense.weight": (draw.standard_normal((size, size)) / np.sqrt(size)).astype(np.float32),
        "bert.pooler.dense.bias": np.zeros(size, np.float32),
        "classifier.weight": (2 * draw.standard_normal((1, size)) / np.sqrt(size)).astype(np.float32),
        "classifier.bias": np.zeros(1, np.float32),
    }


def _write_segments(path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_file(str(path / "tokenizer.json"))
    backend.no_padding()
    first, *between, last = (token for token in backend.encode("a", "a").tokens if token.strip("▁") != "a")
    middle = " ".join(f"{token}:0" for token in between)
    special = [(token, backend.token_to_id(token)) for token in sorted({first, last, *between})]
    single = f"{first}:0 $A:0 {last}:0"
    pair = f"{first}:0 $A:0 {middle} $B:1 {last}:1"
    backend.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=special)
    backend.save(str(path / "tokenizer.json"))
    settings = read_json(path / "tokenizer_config.json")
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    write_json(
        path / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
    )


def _write_modules(path: Path, dims: int) -> None:
    kinds = ("Transformer", "Pooling", "Normalize")
    write_json(
        path / "modules.json",
        [
            {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(kinds)
        ],
    )
    (path / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": dims, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    write_json(path / "1_Pooling" / "config.json", pooling)
    write_json(path / "sentence_bert_config.json", {"max_seq_length": LONGEST, "do_lower_case": False})


# ---------------------------------------------------------------------------------------------- the peers' files


def _export_onnx(path: Path, folder: Path, kind: str) -> None:
    """By torch's tracer, from the plain ("eager") attention: the pattern that onnxruntime's optimiser joins."""
    import torch
    import transformers

    class Pooled(torch.nn.Module):
        def __init__(self, body: Any) -> None:
            super().__init__()
            self.body = body

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            out = self.body(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            if kind == "reranker":
                return out.logits
            mask = attention_mask.unsqueeze(-1).to(torch.float32)
            return (out.last_hidden_state * mask).sum(1) / mask.sum(1)

    if kind == "reranker":
        body = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder), attn_implementation="eager")
    else:
        body = transformers.AutoModel.from_pretrained(str(folder), attn_implementation="eager", add_pooling_layer=False)
    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = ids.clone()
    mask[1, 5:] = 0
    axes = {name: {0: "batch", 1: "sequence"} for name in INPUTS} | {OUTPUTS[kind]: {0: "batch"}}
    torch.onnx.export(
        Pooled(body.eval()),
        (ids, mask, torch.zeros_like(ids)),
        str(path),
        input_names=list(INPUTS),
        output_names=[OUTPUTS[kind]],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def _quantise_onnx(path: Path, exported: Path, folder: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    config, fused = read_json(folder / "config.json"), path.with_suffix(".fused")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    graph = optimize_model(str(exported), model_type="bert", num_heads=heads, hidden_size=hidden)
    found = graph.get_fused_operator_statistics()
    if found["Attention"] != config["num_hidden_layers"]:
        raise RuntimeError(f"{exported}: the optimiser joined {found['Attention']} attentions; is this torch too new for it?")
    graph.save_model_to_file(str(fused))
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # shapes are not inferred through the fused operators
    quantize_dynamic(str(fused), str(path), per_channel=True, weight_type=QuantType.QInt8, extra_options=options)
    fused.unlink()


def _quantise_openvino(path: Path, folder: Path, kind: str, samples: list[str]) -> None:
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.convert_model(str(folder / f"{kind}.onnx"))
    data = nncf.Dataset(list(_samples(folder / kind, kind, samples)))
    quantised = nncf.quantize(
        model, data, model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED, subset_size=len(samples)
    )
    openvino.save_model(quantised, str(path), compress_to_fp16=False)


def _samples(folder: Path, kind: str, texts: list[str]) -> Iterator[dict[str, Any]]:
    """A text each; of a reranker, the beginning of the one before is the question."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    backend.enable_truncation(LONGEST)
    for i, text in enumerate(texts):
        encoding = backend.encode(texts[i - 1][:40], text) if kind == "reranker" else backend.encode(text)
        columns = (encoding.ids, encoding.attention_mask, encoding.type_ids)
        yield {name: np.array([column], np.int64) for name, column in zip(INPUTS, columns, strict=True)}


def _convert_ctranslate2(path: Path, folder: Path) -> None:
    import ctranslate2

    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(path), quantization="int8")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    make(BODIES[sys.argv[1]], Path(sys.argv[2]))
