"""Tune an encoder for a language: light contrastive training of its layers, then averaging with the start.

In the manner of miniMiracle, as far as its card tells: a multilingual BERT with XLM-R's vocabulary, no pretraining of its
own, little data. The steps:

1. Each group gives a question, one relevant passage and a few that the first stage mistakes for it (`train.groups`).
2. The loss is softmax cross entropy of the relevant passage's cosine against those of all other passages of the batch,
   times a scale (InfoNCE; van den Oord et al., 2018), in-batch negatives as in DPR (Karpukhin et al., EMNLP 2020). A batch
   comes from one collection, so that its negatives are of the same kind, and no passage occurs in it twice. Gradients may be
   cached, so that memory does not grow with the batch (GradCache; Gao et al., RepL4NLP 2021). The trainer is
   sentence-transformers'.
3. The token table stays frozen: rerankers share it, and it is 80% of the weights.
4. The weights are averaged with the start's, against forgetting (WiSE-FT; Wortsman et al., CVPR 2022).

Beside OUT lies OUT.work with checkpoints, the tuned weights before averaging and the log. Called again with the same
settings, a run that was stopped goes on from its last checkpoint; one that is finished is only averaged again, so other
values of `average` cost seconds. Delete OUT.work when it is no longer wanted.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import shortlist
from shortlist import models
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, MissingExtra, ModelError
from shortlist.models.card import ModelCard, read_card
from shortlist.models.files import WEIGHTS, appearing, checksums, read_json, sha256, write_json
from shortlist.models.network import TABLE
from shortlist.train.groups import FILES, Group, Groups, read_groups, sampled_candidates

Progress = Callable[[int, int | None], None]
TUNED, LOG, IDENTITY = "tuned.safetensors", "log.jsonl", "identity.json"
PACKAGES = ("torch", "transformers", "sentence_transformers", "datasets", "accelerate")


@dataclass(frozen=True)
class EncoderSettings:
    """How to tune. The values here are those of the published recipe.

    batch       questions a step; every passage of a batch is a negative for the other questions
    negatives   mined passages beside the relevant one
    margin      a candidate whose dense score is more than this above the relevant one's is no negative: it may be relevant
    scale       of the cosines in the softmax, 1 / temperature
    rate        highest learning rate; it rises over the first `warmup` (share of all steps) and falls linearly to 0
    steps       of the optimizer; None is `epochs` times through the groups
    max_tokens  a passage is cut to this many in training; the tuned model reads as many as before
    average     weight of the tuned model in what is written, 1 - average that of the start
    chunk       tokens of one forward pass: bounds the memory, at a third more work; None is the whole batch at once
    save_steps  steps between checkpoints; a multiple of log_steps, or the first loss after a resume is a mean of fewer steps
    bf16        None: where the processor is faster with it (a GPU that can, a CPU with avx512_bf16 or amx_bf16)
    """

    batch: int = 16
    negatives: int = 1
    margin: float = 0.02
    scale: float = 50.0
    rate: float = 2e-5
    warmup: float = 0.1
    epochs: float = 1.0
    steps: int | None = None
    max_tokens: int = 256
    average: float = 0.5
    chunk: int | None = None
    save_steps: int = 15
    log_steps: int = 5
    seed: int = 13
    bf16: bool | None = None


def tune_encoder(
    groups: Path, start: str | Path, out: Path, settings: EncoderSettings | None = None, progress: Progress | None = None
) -> Path:
    """Tune the encoder `start` (a name or a folder) on the groups of a folder; writes the model folder `out` and returns it.

    `out` gets what `start` has (tokenizer, pooling, prompts, token table bit by bit), the averaged weights in float32,
    card.json, log.jsonl (step, loss, rate, pairs, seconds a line) and manifest.json (settings, sha256 of the groups,
    versions, device, pairs seen, seconds). `progress(step, steps)` is called after each step.

    Raises BadInput: `out` exists, settings out of range, collections too small for a batch, or `out`.work belongs to other
    settings or groups. ModelError: `start` is no encoder with float weights and a table of its own. MissingExtra.
    """
    settings = _checked(settings or EncoderSettings())
    if out.exists():
        raise BadInput(f"{out} exists already. Choose another folder, or move it away.")
    source = models.resolve(start)
    card, weights = _start(source)
    texts = read_groups(groups)
    files = {f"{name}/{file}": sha256(groups / name / file) for name in _sources(texts) for file in FILES}
    work = out.with_name(f"{out.name}.work")
    _claim(work, settings, files, models.fingerprint(source))
    if not (work / TUNED).is_file():
        _train(source, card, texts, work, settings, progress)
    with appearing(out) as folder:
        _write(folder, source, weights, work, settings)
        write_json(folder / "manifest.json", _manifest(work, card, settings, files))
        write_json(folder / "card.json", _card(folder, card, out.name, texts))
    return out


def _checked(settings: EncoderSettings) -> EncoderSettings:
    wrong = {
        "batch": settings.batch < 2,
        "negatives": settings.negatives < 0,
        "scale": not settings.scale > 0,
        "rate": not settings.rate > 0,
        "warmup": not 0 <= settings.warmup <= 1,
        "epochs": not settings.epochs > 0,
        "steps": settings.steps is not None and settings.steps < 1,
        "max_tokens": settings.max_tokens < 8,
        "average": not 0 <= settings.average <= 1,
        "chunk": settings.chunk is not None and settings.chunk < settings.max_tokens,
        "save_steps": settings.save_steps < 1,
        "log_steps": settings.log_steps < 1,
    }
    for name, bad in wrong.items():
        if bad:
            raise BadInput(
                f"{name}={getattr(settings, name)!r} is out of range: at least 2 questions a batch, warmup and average from 0 "
                "to 1, at least 8 max_tokens, chunk no smaller than these, and the others above 0 (negatives: 0 or more)."
            )
    return settings


def _start(source: Path) -> tuple[ModelCard, dict[str, Any]]:
    """Card and tensors (torch, by their names in the file) of the model that is tuned."""
    card = read_card(source)
    if card.kind != "encoder" or card.table or not (source / WEIGHTS).is_file():
        raise ModelError(
            f"{source} cannot be tuned: expected an encoder with its own token table in one {WEIGHTS}. shortlist-embed is one."
        )
    weights: dict[str, Any] = _library("safetensors.torch").load_file(source / WEIGHTS)
    rounded = [name for name, tensor in weights.items() if _body_name(name) and not tensor.is_floating_point()]
    if rounded:
        raise ModelError(f"{source}: {rounded[0]} is not of a float type. Tune the float model, not its int8 form.")
    return card, weights


def _library(name: str) -> Any:
    """An optional package, silent and offline."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or name, "train", "train an encoder") from error


def _body_name(name: str) -> str:
    """A tensor's name in transformers' BertModel; "" for the token table and for what is no weight of the body."""
    plain = name.removeprefix("bert.").removeprefix("roberta.")
    plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return plain if plain != TABLE and plain.endswith((".weight", ".bias")) and not plain.startswith("pooler.") else ""


def _sources(groups: Groups) -> list[str]:
    return sorted({group.source for group in groups.groups})


def _claim(work: Path, settings: EncoderSettings, files: Mapping[str, str], start: str) -> None:
    """Note in `work` what it was made for. Raises BadInput if that was something else."""
    free = ("average", "save_steps", "log_steps")  # these do not change the tuned weights
    fixed = {k: v for k, v in asdict(settings).items() if k not in free}
    identity = {"settings": fixed, "groups": dict(files), "start": start}
    if not (work / IDENTITY).is_file():
        write_json(work / IDENTITY, identity)
    known = read_json(work / IDENTITY)
    changed = sorted({k for k in identity if known.get(k) != identity[k]} - {"settings"})
    changed += sorted(k for k in fixed if known["settings"].get(k) != fixed[k])
    if changed:
        raise BadInput(f"{work} belongs to a run with other {', '.join(changed)}. Remove it, or write to another folder.")


# --- training


def _train(
    source: Path, card: ModelCard, groups: Groups, work: Path, settings: EncoderSettings, progress: Progress | None
) -> None:
    """Train and write `work`/tuned.safetensors: the body's tensors, float32."""
    torch, st, transformers, data = map(_library, ("torch", "sentence_transformers", "transformers", "datasets"))
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows = _rows(groups, card, settings)
    transformers.set_seed(settings.seed)
    model = _model(st, source, settings)
    trainer = st.SentenceTransformerTrainer(
        model=model,
        args=_arguments(torch, st, work, settings),
        train_dataset=data.DatasetDict({name: data.Dataset.from_list(part) for name, part in rows.items()}),
        loss=_loss(model, settings),
        callbacks=[_recorder(transformers, work / LOG, settings, progress)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=_library("transformers.trainer_utils").get_last_checkpoint(str(work)))
    if trainer.state.global_step < trainer.state.max_steps:
        raise BadInput(
            f"batch={settings.batch}, negatives={settings.negatives}: training ended after {trainer.state.global_step} of "
            f"{trainer.state.max_steps} steps, as the groups hold too few different passages for batches without one twice. "
            "Make one of the two smaller, or mine more groups."
        )
    tuned = {name: tensor for name, tensor in model[0].auto_model.state_dict().items() if _body_name(name)}
    part = work / f"{TUNED}.part"
    _library("safetensors.torch").save_file({k: v.float().cpu().contiguous() for k, v in tuned.items()}, part)
    part.rename(work / TUNED)


def _model(st: Any, source: Path, settings: EncoderSettings) -> Any:
    """The start in float32 without dropout (training is short), its token table frozen."""
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    quiet = st.SentenceTransformerModelCardData(local_files_only=True, generate_widget_examples=False)
    model = st.SentenceTransformer(
        str(source),
        model_kwargs={"dtype": "float32"},
        config_kwargs=no_dropout,
        local_files_only=True,
        model_card_data=quiet,
    )
    model.max_seq_length = min(settings.max_tokens, model.max_seq_length or settings.max_tokens)
    model[0].auto_model.embeddings.word_embeddings.requires_grad_(False)
    return model


def _arguments(torch: Any, st: Any, work: Path, settings: EncoderSettings) -> Any:
    return st.SentenceTransformerTrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=settings.batch,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        learning_rate=settings.rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup,
        weight_decay=0.01,
        bf16=_fast_bf16(torch) if settings.bf16 is None else settings.bf16,
        batch_sampler="no_duplicates",
        multi_dataset_batch_sampler="proportional",
        dataloader_drop_last=True,
        logging_steps=settings.log_steps,
        save_steps=settings.save_steps,
        save_total_limit=2,
        seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )


def _loss(model: Any, settings: EncoderSettings) -> Any:
    losses = _library("sentence_transformers.sentence_transformer.losses")
    if settings.chunk is None:
        return losses.MultipleNegativesRankingLoss(model, scale=settings.scale)
    return losses.CachedMultipleNegativesRankingLoss(model, scale=settings.scale, mini_batch_num_tokens=settings.chunk)


def _fast_bf16(torch: Any) -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _rows(groups: Groups, card: ModelCard, settings: EncoderSettings) -> dict[str, list[dict[str, str]]]:
    """Collection -> rows of texts with their prompts: query, passage, negative_1, negative_2, …

    Where a group has too few negatives, passages of other groups of its collection fill up. The same seed, the same rows.
    """
    draw = random.Random(settings.seed)
    parts: dict[str, list[Group]] = {name: [] for name in _sources(groups)}
    for group in groups.groups:
        parts[group.source].append(group)
    small = {name: len(part) for name, part in parts.items() if len(part) < settings.batch}
    if small:
        raise BadInput(
            f"batch={settings.batch} but {', '.join(f'{name} has {count} groups' for name, count in small.items())}: a batch "
            "comes from one collection. Make batch smaller, or leave that collection out."
        )
    rows = {}
    for name, part in parts.items():
        pool = sorted({candidate.passage for group in part for candidate in group.candidates})
        rows[name] = [_row(group, pool, groups, card, settings, draw) for group in part]
    return rows


def _row(
    group: Group, pool: Sequence[str], groups: Groups, card: ModelCard, settings: EncoderSettings, draw: random.Random
) -> dict[str, str]:
    ids = [c.passage for c in sampled_candidates(group, settings.negatives, settings.margin, draw)]
    known = {c.passage for c in group.candidates}
    strangers = [i for i in draw.sample(pool, min(len(pool), len(known) + settings.negatives)) if i not in known]
    ids += strangers[: 1 + settings.negatives - len(ids)]
    if len(ids) <= settings.negatives:
        raise BadInput(
            f"negatives={settings.negatives} but {group.source} has too few passages for the group of {group.query}. "
            "Ask for fewer, or mine this collection with a greater depth."
        )
    names = ["passage", *(f"negative_{n}" for n in range(1, settings.negatives + 1))]
    passages = {name: card.prompt("passage") + groups.passages[i] for name, i in zip(names, ids, strict=True)}
    return {"query": card.prompt("query") + groups.queries[group.query], **passages}


def _recorder(transformers: Any, path: Path, settings: EncoderSettings, progress: Progress | None) -> Any:
    """What the trainer calls: writes the log, tells the progress. Lines after the checkpoint it resumes from are dropped."""

    class Recorder(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            lines = read_log(path) if path.is_file() else []
            kept = [line for line in lines if line["step"] <= state.global_step]
            path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            self.begin = time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
            if "loss" not in logs:
                return
            line = {
                "step": state.global_step,
                "loss": round(float(logs["loss"]), 5),
                "rate": float(logs["learning_rate"]),
                "pairs": state.global_step * settings.batch,
                "seconds": round(time.monotonic() - self.begin, 1),
            }
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_log |= state.global_step == state.max_steps
            if progress is not None:
                progress(state.global_step, state.max_steps)

    return Recorder()


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl; a last line that a kill cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


# --- the model folder


def _write(folder: Path, source: Path, weights: Mapping[str, Any], work: Path, settings: EncoderSettings) -> None:
    """All files of the start but its card and description, with weights averaged in float32, and the log."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS, "card.json", "README.md"))
    files = _library("safetensors.torch")
    tuned = files.load_file(work / TUNED)
    averaged = {name: tensor.contiguous() for name, tensor in weights.items()}
    for name in weights:
        if plain := _body_name(name):
            averaged[name] = settings.average * tuned[plain] + (1 - settings.average) * weights[name].float()
    files.save_file(averaged, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    (folder / LOG).write_bytes((work / LOG).read_bytes())


def _manifest(work: Path, card: ModelCard, settings: EncoderSettings, files: Mapping[str, str]) -> dict[str, Any]:
    last = read_log(work / LOG)[-1:] or [{"pairs": 0, "seconds": 0.0}]
    torch = _library("torch")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    versions = {name: _library(name).__version__ for name in PACKAGES}
    return {
        "start": card.name,
        "settings": asdict(settings),
        "groups": dict(files),
        "pairs": last[0]["pairs"],
        "seconds": last[0]["seconds"],
        "device": gpu or f"cpu, {torch.get_num_threads()} threads",
        "bf16": _fast_bf16(torch) if settings.bf16 is None else settings.bf16,
        "versions": {"shortlist": shortlist.__version__, "python": platform.python_version(), **versions},
    }


def _card(folder: Path, card: ModelCard, name: str, groups: Groups) -> dict[str, Any]:
    """card.json of the tuned model: the start's licence and languages, its own checksums and canonical vectors."""
    counts = ", ".join(f"{source} ({sum(g.source == source for g in groups.groups):,})" for source in _sources(groups))
    texts = list(card.canonical) or ["query: shortlist", "passage: shortlist"]
    vectors = np.round(Encoder.load(folder, precision="float32").encode(texts, kind="")[:, :5], 5)
    return {
        "name": name,
        "licence": card.licence,
        "languages": list(card.languages),
        "source": f"{card.name}, tuned by shortlist train tune",
        "training_data": f"{card.training_data + '; then ' if card.training_data else ''}questions of {counts}",
        "canonical": {text: [round(float(x), 5) for x in row] for text, row in zip(texts, vectors, strict=True)},
        "sha256": checksums(folder),
    }
