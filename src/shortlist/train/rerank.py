"""Tune: a reranker's body and heads on groups; several sizes at once when it has several exits.

Losses, averaged over the exits:

- listwise: softmax cross entropy of the relevant candidate against the others (ListNet with one relevant passage; Cao et al.,
  ICML 2007), once for the score alone and once for score + `first_weight` * first stage's z-score. The second is what a search
  ranks by, so the network learns what the first stage does not know (boosting on the residual);
- from the deepest exit to the others: cross entropy with its softmax (self-distillation; Liu et al., ACL 2020);
- pointwise: cross entropy of each pair's sigmoid, so that a logit means the same whatever else is in the list (a listwise loss
  only sees differences);
- from a teacher, where the groups carry its scores: MarginMSE (Hofstätter et al., 2020) plus listwise cross entropy.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shortlist.errors import BadInput
from shortlist.models.card import read_card
from shortlist.models.files import read_json, write_json
from shortlist.models.fingerprint import table_fingerprint
from shortlist.models.registry import address, resolve, table_folder
from shortlist.tokens import Tokenizer
from shortlist.train.groups import Candidate, Group, Groups, first_of_each, sampled_candidates, write_groups
from shortlist.train.joint import Batch, JointReader, save_reranker, start_reader
from shortlist.train.release import ndcg
from shortlist.types import Tokens

Progress = Callable[[int, int | None], None]
MAX_TOKENS = 512
NO_CANDIDATE = -1e4
WATCHED = 15  # groups of each collection that are looked at on the way
UNSEEN, UNSEEN_PART = 40, 5  # of each collection so many groups are put aside, but no more than one in so many


@dataclass(frozen=True)
class RerankerSettings:
    """What decides the result of a training.

    exits         depths that become rerankers of their own
    maxsim        a head with late interaction beside the first token
    windows       passage tokens that are read; each step draws one, so that a passage is met at several lengths
    negatives     candidates beside the relevant one, `margin` see `sampled_candidates`
    batch         groups a step
    rate          learning rate of the body, the heads learn `head_rate` times as fast; warm-up over `warmup` of all steps,
                  then constant, linear to nothing over the last `decay`
    first_weight  weight of the first stage's z-score in the fused loss
    inner         weight of the self-distillation between exits
    taught        weight of the teacher's part, where there is one
    pointwise     weight of the cross entropy of each pair by itself, which ties the level of the logits to relevance
    balance       how far the collections' sizes decide how often they are drawn: a share of size ** balance each. 1 draws every
                  group alike, 0 every collection; between them small ones are repeated so that large ones do not drown them
                  (as in multilingual pretraining: Conneau and Lample, NeurIPS 2019)
    frozen        number of lowest layers that stay as they are, the embeddings included
    """

    exits: tuple[int, ...] = (4,)
    maxsim: bool = True
    windows: tuple[int, ...] = (96, 96, 96, 160)
    negatives: int = 5
    margin: float = 0.02
    batch: int = 8
    epochs: float = 1.0
    rate: float = 1e-4
    head_rate: float = 5.0
    warmup: float = 0.04
    decay: float = 0.3
    first_weight: float = 1.0
    inner: float = 0.5
    taught: float = 0.0
    pointwise: float = 0.0
    balance: float = 1.0
    frozen: int = 0
    seed: int = 13


def tune_reranker(
    groups: Groups,
    start: str | Path,
    out: Path,
    settings: RerankerSettings,
    *,
    lower: Sequence[Path] = (),
    watched: Groups | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    save_every: int = 200,
    watch_every: int = 1000,
    stop_after: int | None = None,
) -> dict[int, Path]:
    """Train and write one folder a depth, `out/L-4` and so on; returns them.

    `start` is an encoder (a name or folder) or a reranker's folder; `lower` see `start_reader`. Goes on from
    `out/checkpoint.safetensors` if it is there and was made with the same settings; the result is the same as without the
    interruption. `out/log.jsonl` has a line every 20 steps, and one for each look at the `watched` groups (nDCG@10 of the
    fused order, per collection). `facts` go into the cards. A few groups of each collection are put aside into
    `out/unseen`: judged questions for tuning the score that the network does not know. `stop_after` ends this call after so
    many steps, as a kill would (the checkpoint stays).

    Raises BadInput if the checkpoint belongs to other settings or other groups, or if there is nothing to learn from.
    """
    folder = resolve(start)
    card = read_card(folder)
    torch.manual_seed(settings.seed)
    model = start_reader(folder, settings.exits, maxsim=settings.maxsim, lower=lower)
    freeze(model, settings.frozen)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    training = _Training(model, Tokenizer.load(table_folder(folder, card)), groups, settings, out)
    training.resume()
    if not training.step:
        training.level()
    began, steps = time.perf_counter(), training.steps
    end = steps if stop_after is None else min(steps, training.step + stop_after)
    while training.step < end:
        training.advance()
        if training.step % save_every == 0 or training.step == end:
            training.save()
        if watched is not None and (training.step % watch_every == 0 or training.step == steps):
            training.log({"watched": watch(model, training.tokenizer, first_of_each(watched, WATCHED), settings)})
        if progress is not None:
            progress(training.step, steps)
    if training.step < steps:
        return {}
    write_groups(training.unseen, out / "unseen")
    write_json(out / "manifest.json", _manifest(training, folder, time.perf_counter() - began) | _before(lower))
    shared = {"table": card.table or address(folder, card), "table_fingerprint": table_fingerprint(table_folder(folder, card))}
    known = {"segments": True, "max_tokens": MAX_TOKENS, **shared, **(facts or {})}
    return {
        depth: save_reranker(model, depth, out / f"L-{depth}", {"name": f"{out.name}-L-{depth}", **known})
        for depth in settings.exits
    }


def freeze(model: JointReader, layers: int) -> None:
    """Keep the embeddings and the lowest `layers` layers as they are; with 0 everything learns."""
    if layers:
        model.body.embeddings.requires_grad_(False)
    for layer in model.body.encoder.layer[:layers]:
        layer.requires_grad_(False)


class _Training:
    """The state of one run: what a checkpoint holds, and one step."""

    def __init__(self, model: JointReader, tokenizer: Tokenizer, groups: Groups, settings: RerankerSettings, out: Path) -> None:
        self.model, self.tokenizer, self.groups, self.settings, self.out = model, tokenizer, groups, settings, out
        aside, self._usable = parted([g for g in groups.groups if len(g.candidates) > len(g.relevant)])
        if not self._usable:
            raise BadInput("no group has a candidate that is not relevant: there is nothing to tell apart.")
        self.unseen = Groups(aside, groups.queries, groups.passages)
        self.steps = max(1, int(settings.epochs * len(self._usable)) // settings.batch)
        self._order = drawn(self._usable, self.steps * settings.batch, settings.balance, settings.seed)
        self.step, self.pairs, self.seconds = 0, 0, 0.0
        heads = [p for p in model.heads.parameters() if p.requires_grad]
        body = [p for p in model.body.parameters() if p.requires_grad]
        self._rates = (settings.rate, settings.rate * settings.head_rate)
        self.optimizer = torch.optim.AdamW([{"params": body}, {"params": heads}], weight_decay=0.01, fused=True)
        self._recent: list[dict[str, float]] = []
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)

    def _rate(self, step: int) -> float:
        """Part of the learning rate at a step (warm-up, constant, decay)."""
        done = step / self.steps
        return min(1.0, (step + 1) / max(1.0, self.settings.warmup * self.steps), max(0.0, (1 - done) / self.settings.decay))

    def _scored(self) -> tuple[dict[int, Tensor], list[list[Candidate]]]:
        """The scores of this step's groups, and the candidates that were drawn for them."""
        draw = random.Random(f"{self.settings.seed} {self.step}")
        start = self.step * self.settings.batch
        groups = [self._usable[i] for i in self._order[start : start + self.settings.batch]]
        lists = [sampled_candidates(g, self.settings.negatives, self.settings.margin, draw) for g in groups]
        window = draw.choice(self.settings.windows)
        return score_lists(self.model, self.tokenizer, self.groups, groups, lists, window), lists

    @torch.no_grad()
    def level(self) -> None:
        """Start every head's bias where its mean score over the first step's pairs is the log odds of a relevant one.

        The cosines of an untrained head put all its logits some twenty above that, which a bias never walks in a training: the
        pointwise loss would shrink the cosines instead.
        """
        scores, lists = self._scored()
        pairs = sum(map(len, lists))
        odds = math.log(len(lists) / max(1, pairs - len(lists)))
        for depth, found in scores.items():
            self.model.heads[str(depth)].classifier.bias += odds - found[found > NO_CANDIDATE].mean()  # type: ignore[union-attr, operator]

    def advance(self) -> None:
        """One step of the optimizer."""
        began = time.perf_counter()
        scores, lists = self._scored()
        loss, facts = losses(scores, lists, self.settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for part, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            part["lr"] = rate * self._rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.pairs += sum(map(len, lists))
        self.seconds += time.perf_counter() - began
        self._recent.append(facts)
        if self.step % 20 == 0 or self.step == self.steps:
            self.log({name: round(float(np.mean([f[name] for f in self._recent])), 4) for name in facts})
            self._recent.clear()

    def log(self, facts: Mapping[str, Any]) -> None:
        """A line of the log."""
        line = {"step": self.step, "pairs": self.pairs, "seconds": round(self.seconds, 1), **facts}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def identity(self) -> str:
        """What a checkpoint must agree with: settings and groups."""
        digest = hashlib.sha256(json.dumps(asdict(self.settings), sort_keys=True).encode())
        for group in self._usable:
            digest.update(f"{group.query} {len(group.candidates)}\n".encode())
        return digest.hexdigest()

    def save(self) -> None:
        """Write the checkpoint beside the old one, then put it in its place."""
        from safetensors.torch import save_file

        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for number, name in enumerate(_ordered(self.model, names)):
            if number in moments:
                tensors |= {f"{key}.{name}": moments[number][key] for key in ("exp_avg", "exp_avg_sq")}
        facts = {"identity": self.identity, "step": self.step, "pairs": self.pairs, "seconds": self.seconds}
        part = self.out / "checkpoint.part"
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, {"state": json.dumps(facts)})
        part.replace(self.out / "checkpoint.safetensors")

    def resume(self) -> None:
        """From the checkpoint, if there is one; the log is cut back to it."""
        from safetensors import safe_open

        path = self.out / "checkpoint.safetensors"
        if not path.exists():
            (self.out / "log.jsonl").unlink(missing_ok=True)
            return
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        if facts["identity"] != self.identity:
            raise BadInput(f"{path} was made with other settings or groups. Give another output folder, or remove it.")
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        self.step, self.pairs, self.seconds = facts["step"], facts["pairs"], facts["seconds"]
        state = self.optimizer.state_dict()
        names = _ordered(self.model, [n for n, p in self.model.named_parameters() if p.requires_grad])
        state["state"] = {
            number: {"step": torch.tensor(float(self.step)), **{k: tensors[f"{k}.{name}"] for k in ("exp_avg", "exp_avg_sq")}}
            for number, name in enumerate(names)
            if f"exp_avg.{name}" in tensors
        }
        self.optimizer.load_state_dict(state)
        self._keep_log()

    def _keep_log(self) -> None:
        path = self.out / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def parted(groups: Sequence[Group]) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """Those to put aside, the first of each collection, and the others; a collection of few groups keeps them."""
    sizes, seen = Counter(g.source for g in groups), Counter[str]()
    aside: list[Group] = []
    rest: list[Group] = []
    for group in groups:
        seen[group.source] += 1
        most = min(UNSEEN, sizes[group.source] // UNSEEN_PART)
        (aside if seen[group.source] <= most else rest).append(group)
    return tuple(aside), tuple(rest)


def drawn(groups: Sequence[Group], count: int, balance: float, seed: int) -> list[int]:
    """The places of the `count` groups that a training meets, in its order; `balance` see `RerankerSettings`.

    Within a collection no group comes again before all others have come as often.
    """
    random = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group.source, []).append(place)
    shares = np.array([len(own) ** balance for own in places.values()])
    ends = np.round(count * np.cumsum(shares) / shares.sum()).astype(int)
    out: list[int] = []
    for own, end in zip(places.values(), ends.tolist(), strict=True):
        wanted = end - len(out)
        rounds = [random.permutation(own) for _ in range(-(-wanted // len(own)))]
        out += np.concatenate([np.zeros(0, int), *rounds])[:wanted].tolist()
    return [out[i] for i in random.permutation(count)]


def _ordered(model: JointReader, names: Sequence[str]) -> list[str]:
    """Trained parameters in the optimizer's order: the body's, then the heads'."""
    return [n for n in names if n.startswith("body.")] + [n for n in names if n.startswith("heads.")]


def score_lists(
    model: JointReader,
    tokenizer: Tokenizer,
    texts: Groups,
    groups: Sequence[Group],
    lists: Sequence[Sequence[Candidate]],
    window: int,
) -> dict[int, Tensor]:
    """Depth -> float[groups, longest list]; places without a candidate have NO_CANDIDATE."""
    queries = [texts.queries[g.query] for g, candidates in zip(groups, lists, strict=True) for _ in candidates]
    passages = [texts.passages[c.passage] for candidates in lists for c in candidates]
    tokens, _ = tokenizer.encode_pairs(queries, passages, MAX_TOKENS, segments=True, window=window)
    flat = _forward(model, tokens)
    widest = max(map(len, lists))
    rows = np.repeat(np.arange(len(lists)), [len(c) for c in lists])
    columns = np.concatenate([np.arange(len(c)) for c in lists])
    shaped = {}
    for depth, scores in flat.items():
        shaped[depth] = scores.new_full((len(lists), widest), NO_CANDIDATE)
        shaped[depth][torch.from_numpy(rows), torch.from_numpy(columns)] = scores
    return shaped


def _forward(model: JointReader, tokens: Tokens, padded: int = 6144) -> dict[int, Tensor]:
    """Depth -> float[pairs]: pairs of like length together, about `padded` tokens at a time, so that little is padding."""
    order = np.argsort(tokens.lengths, kind="stable")
    parts: list[list[int]] = [[]]
    for row in reversed(order.tolist()):
        if parts[-1] and (len(parts[-1]) + 1) * int(tokens.lengths[parts[-1][0]]) > padded:
            parts.append([])
        parts[-1].append(row)
    device = next(model.parameters()).device.type
    places = torch.from_numpy(np.argsort(np.concatenate(parts), kind="stable"))
    dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
    scored = [model(Batch.of(tokens, part), dtype) for part in parts]
    return {depth: torch.cat([s[depth] for s in scored]).cpu()[places] for depth in model.exits}


def has_bfloat16(device: str) -> bool:
    """True where bfloat16 is faster than float32: on a GPU, and on a CPU with instructions for it (2.5x measured)."""
    return device == "cuda" or bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def losses(
    scores: Mapping[int, Tensor], lists: Sequence[Sequence[Candidate]], settings: RerankerSettings
) -> tuple[Tensor, dict[str, float]]:
    """The loss and, for the log, its value and the share of groups whose relevant candidate (the first) comes first."""
    widest = max(map(len, lists))
    first = torch.tensor([[c.first for c in candidates] + [0.0] * (widest - len(candidates)) for candidates in lists])
    target = torch.zeros(len(lists), dtype=torch.long)
    deepest = max(scores)
    total, facts = torch.zeros(()), {}
    for depth, found in scores.items():
        fused = found + settings.first_weight * first
        loss = 0.5 * functional.cross_entropy(found, target) + 0.5 * functional.cross_entropy(fused, target)
        if depth != deepest and settings.inner:
            loss = loss + settings.inner * functional.cross_entropy(found, scores[deepest].detach().softmax(-1))
        if settings.pointwise:
            loss = loss + settings.pointwise * _pointwise(found)
        if settings.taught:
            loss = loss + settings.taught * _taught(found, lists, widest)
        total = total + loss / len(scores)
        facts[f"top1 L-{depth}"] = float((found.argmax(-1) == 0).float().mean())
        facts[f"fused L-{depth}"] = float((fused.argmax(-1) == 0).float().mean())
    return total, {"loss": float(total.detach()), **facts}


def _pointwise(found: Tensor) -> Tensor:
    """Mean over the pairs of the cross entropy of sigmoid(logit); the relevant candidate is the first."""
    there = found > NO_CANDIDATE
    relevant = torch.zeros_like(found)
    relevant[:, 0] = 1.0
    return functional.binary_cross_entropy_with_logits(found[there], relevant[there])


def _taught(found: Tensor, lists: Sequence[Sequence[Candidate]], widest: int) -> Tensor:
    """Margins to the relevant candidate as the teacher sees them, and the teacher's softmax."""
    rows = [[c.teacher for c in candidates] + [None] * (widest - len(candidates)) for candidates in lists]
    there = torch.tensor([[value is not None for value in row] for row in rows])
    teacher = torch.tensor([[value or 0.0 for value in row] for row in rows])
    margins = (found[:, :1] - found) - (teacher[:, :1] - teacher)
    squares = (margins.square() * there).sum() / there.sum()
    return 0.1 * squares + functional.cross_entropy(found, teacher.masked_fill(~there, NO_CANDIDATE).softmax(-1))


@torch.no_grad()
def watch(
    model: JointReader, tokenizer: Tokenizer, groups: Groups, settings: RerankerSettings, window: int = 128
) -> dict[str, dict[str, float]]:
    """Collection -> {"first": nDCG@10 of the first stage, "L-4": of the fused order, …}, over all candidates of each group.

    One relevant passage counts like another (gain 1); the ideal is over the group's relevant candidates.
    """
    model.eval()
    values: dict[str, dict[str, list[float]]] = {}
    for group in groups.groups:
        lists = [group.candidates]
        scores = score_lists(model, tokenizer, groups, [group], lists, window)
        first = np.array([c.first for c in group.candidates])
        relevant = np.array([c.relevant for c in group.candidates])
        found = values.setdefault(group.source, {})
        found.setdefault("first", []).append(ndcg(relevant[np.argsort(-first, kind="stable")]))
        for depth, row in scores.items():
            fused = row[0].float().numpy() + settings.first_weight * first
            found.setdefault(f"L-{depth}", []).append(ndcg(relevant[np.argsort(-fused, kind="stable")]))
    model.train()
    return {name: {k: round(float(np.mean(v)), 4) for k, v in found.items()} for name, found in values.items()}


def _manifest(training: _Training, start: Path, seconds: float) -> dict[str, Any]:
    import transformers

    sources: dict[str, int] = {}
    for group in training._usable:
        sources[group.source] = sources.get(group.source, 0) + 1
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return {
        "settings": asdict(training.settings),
        "start": start.name,
        "groups": sources,
        "drawn": len(set(training._order)),
        "identity": training.identity,
        "steps": training.steps,
        "pairs": training.pairs,
        "training_s": round(training.seconds),
        "last_call_s": round(seconds),
        "device": f"{device}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()},
    }


def _before(lower: Sequence[Path]) -> dict[str, Any]:
    """The manifest of the training that is gone on with, where the rerankers of `lower` still lie beside it."""
    manifests = [path.parent / "manifest.json" for path in lower]
    return next(({"before": read_json(path)} for path in manifests if path.is_file()), {})


def read_log(out: Path) -> list[dict[str, Any]]:
    """The lines of a training's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
