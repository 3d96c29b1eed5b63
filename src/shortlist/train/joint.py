"""The network that a reranker is trained as: the first layers of an encoder over its frozen token table, with score heads.

A head reads the states of one layer: `classifier(tanh(pooler(first token)))` plus, if wanted, late interaction over the
jointly encoded states (MaxSim; Khattab and Zaharia, SIGIR 2020):

    gain * sum_i w_i max_j cos(h_i, h_j) / sum_i w_i,   w_i = softplus(weight . h_i + bias)

with i over the tokens of segment 0 (question) and j over those of segment 1 (passage). One network may have heads at several
depths ("exits"): trained together, each becomes a reranker of its own size (BranchyNet, Teerapittayanon et al., ICPR 2016;
self-distillation between exits as in FastBERT, Liu et al., ACL 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer

from shortlist.errors import BadInput, ModelError
from shortlist.models.card import read_card
from shortlist.models.files import WEIGHTS, read_json, write_json
from shortlist.models.network import TABLE, read_network
from shortlist.models.registry import table_folder
from shortlist.models.weights import Array
from shortlist.types import Tokens

START_GAIN = 20.0  # cosines of e5 states lie within 0.1 of each other: this makes their differences count at once


@dataclass(frozen=True)
class Batch:
    """Padded pairs. ids, segments int64[n, longest]; mask bool[n, longest], True for a token."""

    ids: Tensor
    segments: Tensor
    mask: Tensor

    @classmethod
    def of(cls, tokens: Tokens, rows: Sequence[int]) -> Batch:
        """The named sequences of a ragged batch. Padding is id 0, which the mask hides."""
        lengths = tokens.lengths[list(rows)]
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids, segments = np.zeros(mask.shape, np.int64), np.zeros(mask.shape, np.int64)
        places = np.concatenate([np.arange(tokens.offsets[r], tokens.offsets[r + 1]) for r in rows])
        ids[mask], segments[mask] = tokens.ids[places], tokens.segments[places]
        return cls(torch.from_numpy(ids), torch.from_numpy(segments), torch.from_numpy(mask))


class Head(nn.Module):
    """Score of a pair from the states of one layer: float[n]."""

    def __init__(self, hidden: int, maxsim: bool) -> None:
        super().__init__()
        self.pooler, self.classifier = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)
        nn.init.eye_(self.pooler.weight)
        nn.init.zeros_(self.pooler.bias)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        self.maxsim = nn.Linear(hidden, 1) if maxsim else None
        if self.maxsim is not None:
            nn.init.zeros_(self.maxsim.weight)
            nn.init.zeros_(self.maxsim.bias)
            self.scale = nn.Parameter(torch.ones(1))

    @property
    def gain(self) -> Tensor:
        """float[1]. Learnt as a multiple of its start, so that it moves as fast as weights of size one."""
        return START_GAIN * self.scale

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        states = states.float()
        score: Tensor = self.classifier(torch.tanh(self.pooler(states[:, 0]))).squeeze(-1)
        return score if self.maxsim is None else score + self.gain * self._interaction(self.maxsim, states, batch)

    def _interaction(self, maxsim: nn.Linear, states: Tensor, batch: Batch) -> Tensor:
        asked = (batch.segments == 0) & batch.mask
        longest = int(asked.sum(1).max())
        unit = nn.functional.normalize(states, dim=-1)
        cosines = unit[:, :longest] @ unit.transpose(1, 2)
        best = cosines.masked_fill(~((batch.segments == 1) & batch.mask)[:, None], -1e4).amax(-1)
        weights = nn.functional.softplus(maxsim(states[:, :longest]).squeeze(-1)) * asked[:, :longest]
        return (weights * best).sum(1) / weights.sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """By the names that a reranker's folder has."""
        parts = {"bert.pooler.dense": self.pooler, "classifier": self.classifier}
        if self.maxsim is not None:
            parts["maxsim"] = self.maxsim
        named = {f"{name}.{part}": getattr(layer, part) for name, layer in parts.items() for part in ("weight", "bias")}
        return named | ({} if self.maxsim is None else {"maxsim.gain": self.gain})


class JointReader(nn.Module):
    """Body and heads. The token table stays outside: rows are gathered from the mapped file, so it cannot change."""

    def __init__(self, config: Mapping[str, Any], table: Array, table_scale: Array | None, exits: Sequence[int], maxsim: bool):
        super().__init__()
        self.config, self.exits = dict(config), tuple(sorted(exits))
        self._table, self._scale = table, table_scale
        body = BertConfig(
            **{k: v for k, v in config.items() if k in BertConfig().to_dict() and k not in ("dtype", "torch_dtype")}
        )
        body.vocab_size, body.pad_token_id, body.num_hidden_layers = 1, 0, max(exits)
        body.hidden_dropout_prob = 0.0
        self.body = BertModel(body, add_pooling_layer=False)
        self.body.embeddings.word_embeddings.requires_grad_(False)
        self.heads = nn.ModuleDict({str(depth): Head(body.hidden_size, maxsim) for depth in self.exits})

    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> dict[int, Tensor]:
        """Depth -> float32[n], a score a pair. The layers compute in `dtype`; weights and heads stay in float32."""
        device = next(self.parameters()).device
        batch = Batch(batch.ids.to(device), batch.segments.to(device), batch.mask.to(device))
        states = self.body.embeddings(inputs_embeds=self._rows(batch.ids), token_type_ids=batch.segments).to(dtype)
        hidden = torch.zeros(batch.mask.shape, dtype=dtype, device=device).masked_fill(~batch.mask, -1e4)
        scores = {}
        for number, layer in enumerate(self.body.encoder.layer, 1):
            states = through(layer, states, hidden, self.body.config.num_attention_heads, dtype)  # type: ignore[arg-type]
            if number in self.exits:
                scores[number] = self.heads[str(number)](states, batch)
        return scores

    def _rows(self, ids: Tensor) -> Tensor:
        """float32[n, longest, hidden] of the token table."""
        numbers, places = np.unique(ids.cpu().numpy(), return_inverse=True)
        rows = self._table[numbers].astype(np.float32)
        if self._scale is not None:
            rows *= self._scale[numbers, None]
        return torch.from_numpy(rows).to(ids.device)[torch.from_numpy(places.reshape(ids.shape)).to(ids.device)]


def through(layer: BertLayer, states: Tensor, hidden: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """One layer of BERT (Devlin et al., NAACL 2019) without dropout: `states` and the result are dtype[n, longest, hidden].

    hidden  dtype[n, longest], added to the attention to a token: 0, or a large negative number for padding

    The layer's own forward in transformers is the reference. A training with this one is a quarter faster on a CPU in bfloat16:
    query, key and value are one product, and nothing between the products is in float32.
    """
    n, longest, size = states.shape
    attention, output = layer.attention.self, layer.attention.output
    three = (attention.query, attention.key, attention.value)
    weight, bias = torch.cat([part.weight for part in three]).to(dtype), torch.cat([part.bias for part in three]).to(dtype)
    q, k, v = (
        linear(states, weight, bias)
        .view(n, longest, 3, heads, size // heads)
        .permute(2, 0, 3, 1, 4)
        .reshape(3, n * heads, longest, size // heads)
        .unbind(0)
    )
    apart = hidden[:, None, None, :].expand(n, heads, 1, longest).reshape(n * heads, 1, longest)
    shares = torch.baddbmm(apart, q, k.transpose(1, 2), alpha=(size // heads) ** -0.5).softmax(-1)
    mixed = (shares @ v).view(n, heads, longest, size // heads).transpose(1, 2).reshape(n, longest, size)
    states = _normed(output.LayerNorm, states + _cast(output.dense, mixed))
    widened = layer.intermediate.intermediate_act_fn(_cast(layer.intermediate.dense, states))
    return _normed(layer.output.LayerNorm, states + _cast(layer.output.dense, widened))


def _cast(layer: nn.Linear, states: Tensor) -> Tensor:
    return linear(states, layer.weight.to(states.dtype), layer.bias.to(states.dtype))


def _normed(norm: nn.LayerNorm, states: Tensor) -> Tensor:
    return layer_norm(states, norm.normalized_shape, norm.weight.to(states.dtype), norm.bias.to(states.dtype), norm.eps)


def start_reader(folder: Path, exits: Sequence[int], *, maxsim: bool, lower: Sequence[Path] = ()) -> JointReader:
    """An untrained reader from an encoder's first layers, or from a reranker of this project to go on with.

    The passage's segment embedding starts as a copy of the question's: the encoder was trained with segment 0 alone.
    `lower` are rerankers of one training: embeddings and layers of the deepest take the place of the lowest ones, and each
    gives its head to the exit at its depth. So a training goes on, or a deeper size grows on top of it.
    Raises BadInput for a depth that the folder does not have, ModelError for folders that do not fit together.
    """
    card = read_card(folder)
    network = read_network(folder, table_folder(folder, card))
    if not exits or min(exits) < 1 or max(exits) > network.layers:
        raise BadInput(f"exits {list(exits)}: {card.name} has layers 1 to {network.layers}.")
    config = read_json(folder / "config.json")
    config["type_vocab_size"] = 2
    model = JointReader(config, network.table, network.table_scale, exits, maxsim)
    arrays = _arrays(network.tensors)
    if card.kind == "encoder":
        types = arrays["embeddings.token_type_embeddings.weight"]
        arrays["embeddings.token_type_embeddings.weight"] = np.repeat(types[:1], 2, axis=0)
    trained = {int(read_json(path / "config.json")["num_hidden_layers"]): path for path in lower}
    heads = {depth: _arrays(read_network(path, folder).tensors) for depth, path in sorted(trained.items())}
    for named in heads.values():
        arrays |= {name: array for name, array in named.items() if name.startswith(("embeddings.", "encoder."))}
    if card.kind == "reranker":
        heads.setdefault(max(exits), arrays)
    wanted = model.body.state_dict()
    state = {k: torch.from_numpy(arrays[k].reshape(v.shape)) for k, v in wanted.items() if k in arrays}
    missing = [k for k in wanted if k not in state and k != TABLE and "position_ids" not in k and "token_type_ids" not in k]
    if missing:
        raise ModelError(f"{folder}: the network lacks {', '.join(missing[:3])}.")
    model.body.load_state_dict(state, strict=False)
    for depth in heads.keys() & set(exits):
        _load_head(model.heads[str(depth)], heads[depth])  # type: ignore[arg-type]
    return model


def _arrays(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name: _float(name, tensors) for name in tensors if not name.endswith("_scale")}


def _float(name: str, tensors: Mapping[str, Array]) -> Array:
    """float32, an int8 tensor with its scale, bfloat16 from its bits."""
    array = tensors[name]
    if array.dtype == np.int8:
        return array.astype(np.float32) * tensors[f"{name}_scale"].reshape(-1, *[1] * (array.ndim - 1))
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _load_head(head: Head, arrays: Mapping[str, Array]) -> None:
    for name, tensor in head.tensors().items():
        plain = name.removeprefix("bert.")
        if plain in arrays and plain != "maxsim.gain":
            tensor.data.copy_(torch.from_numpy(arrays[plain].reshape(tensor.shape)))
    if head.maxsim is not None and "maxsim.gain" in arrays:
        head.scale.data.copy_(torch.from_numpy(arrays["maxsim.gain"].reshape(1)) / START_GAIN)


def save_reranker(model: JointReader, depth: int, out: Path, card: Mapping[str, Any]) -> Path:
    """One exit as a reranker's folder, float32, without the token table (the card's `table` names the model that has it)."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"bert.{name}": value for name, value in model.body.state_dict().items() if _belongs(name, depth)}
    tensors |= model.heads[str(depth)].tensors()  # type: ignore[operator]
    save_file({k: v.detach().cpu().float().contiguous() for k, v in sorted(tensors.items())}, out / WEIGHTS, {"format": "pt"})
    config = {
        **model.config,
        "architectures": ["BertForSequenceClassification"],
        "num_hidden_layers": depth,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    write_json(out / "config.json", config)
    write_json(out / "card.json", {"kind": "reranker", "pooling": "score", "labels": 1, "layers": depth, **card})
    return out


def _belongs(name: str, depth: int) -> bool:
    """True for a tensor of the first `depth` layers or of the embeddings, the token table aside."""
    if name == TABLE or "position_ids" in name or "token_type_ids" in name:
        return False
    return not name.startswith("encoder.layer.") or int(name.split(".")[2]) < depth
