"""Train one size of shortlist-rerank: the first layers of the encoder and a score head, over its frozen token table.

    python bench/train/rerank.py ENCODER_FOLDER groups.jsonl OUT --layers 4

ENCODER_FOLDER is a standard BERT folder (`shortlist models fetch shortlist-embed` writes one), groups.jsonl comes from
`bench/train/groups.py`: one JSON object a line with `query` and `passages`, the relevant passage first.
Resumes from the newest checkpoint in OUT. Needs torch and sentence-transformers (extra `train`).

Loss: softmax cross entropy of the relevant passage against its negatives (ListNet with one relevant passage; Cao et al.,
ICML 2007).
Windows: a passage longer than the window is cut to the window that shares the most idf weight with the question.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import ListNetLoss
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification
from transformers.trainer_utils import get_last_checkpoint

GAIN = 10.0  # ListNet's target is the softmax of the labels: 10 against 0 puts all of it on the relevant passage
WINDOWS = (96,) * 9 + (192,)  # tokens; one is drawn for each group, so that the model also meets longer text


def best_window(query_ids: set[int], ids: list[int], idf: np.ndarray, width: int) -> int:
    """Start of the window of `ids` (stride width/2) whose distinct shared ids carry the most idf; the first of equals."""
    starts = range(0, max(1, len(ids) - width // 2), width // 2)
    return max(starts, key=lambda s: (sum(idf[i] for i in set(ids[s : s + width]) & query_ids), -s))


def with_negatives(groups: list[dict], count: int, easy: bool, seed: int) -> list[dict]:
    """Groups cut to `count` negatives: some of the mined ones, or (easy) passages of other questions of the collection."""
    draw = random.Random(seed)
    pools: dict[str, list[str]] = {}
    for group in groups:
        pools.setdefault(group["set"], []).extend(group["passages"])

    def negatives(group: dict) -> list[str]:
        if not easy:
            return draw.sample(group["passages"][1:], count)
        others = draw.sample(pools[group["set"]], 2 * count)
        return [p for p in others if p != group["passages"][0]][:count]

    return [{**g, "passages": g["passages"][:1] + negatives(g)} for g in groups]


def windowed(groups: list[dict], tokenizer: Tokenizer, seed: int) -> list[dict]:
    """Groups with every passage cut to a question-focused window, and `tokens`: the length of the longest pair."""
    draw = random.Random(seed)
    texts = sorted({p for g in groups for p in g["passages"]})
    encodings = dict(zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True))
    df = np.zeros(tokenizer.get_vocab_size(), np.float32)
    for e in encodings.values():
        df[list(set(e.ids))] += 1
    idf = np.log1p((len(texts) + 1) / (df + 1))
    out = []
    for group in groups:
        width, query = draw.choice(WINDOWS), tokenizer.encode(group["query"], add_special_tokens=False).ids
        passages, longest = [], 0
        for text in group["passages"]:
            e = encodings[text]
            start = best_window(set(query), e.ids, idf, width) if len(e.ids) > width else 0
            offsets = e.offsets[start : start + width]
            passages.append(text[offsets[0][0] : offsets[-1][1]] if offsets else "")
            longest = max(longest, len(offsets))
        order = draw.sample(range(len(passages)), len(passages))  # the relevant passage must not always be the first
        out.append(
            {
                "query": group["query"],
                "docs": [passages[i] for i in order],
                "labels": [GAIN * (i == 0) for i in order],
                "tokens": longest + len(query),
            }
        )
    return out


def bucketed(groups: list[dict], batch: int, seed: int) -> list[dict]:
    """Groups in an order where every `batch` neighbours are of similar length, the batches themselves in random order."""
    draw = random.Random(seed)
    pool = draw.sample(groups, len(groups))
    batches = []
    for start in range(0, len(pool), 64 * batch):
        part = sorted(pool[start : start + 64 * batch], key=lambda g: g["tokens"])
        batches += [part[i : i + batch] for i in range(0, len(part), batch)]
    draw.shuffle(batches)
    batches.sort(key=lambda b: len(b) < batch)  # a short batch must come last, or it shifts all that follow
    return [g for b in batches for g in b]


def start_model(encoder: Path, layers: int, out: Path) -> Path:
    """Folder of the untrained reranker: the encoder's first `layers` layers, an identity pooler, a small random head."""
    model = BertForSequenceClassification.from_pretrained(encoder, num_labels=1, num_hidden_layers=layers, dtype=torch.float32)
    with torch.no_grad():
        torch.nn.init.eye_(model.bert.pooler.dense.weight)
        torch.nn.init.zeros_(model.bert.pooler.dense.bias)
        torch.nn.init.normal_(model.classifier.weight, std=0.02, generator=torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(model.classifier.bias)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((encoder / name).read_bytes())
    return out


class InOrder(torch.utils.data.BatchSampler):
    """Batches of neighbours, in the order of the data set (which `bucketed` has already shuffled)."""

    def __init__(self, dataset, batch_size, drop_last, **_):  # type: ignore[no-untyped-def]
        super().__init__(torch.utils.data.SequentialSampler(dataset), batch_size, drop_last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("groups", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--groups-used", type=int, default=11_000, help="a random sample of the groups")
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument(
        "--easy",
        type=float,
        default=0.1,
        help="share of the groups, at the start, with random negatives: mined ones teach an untrained head nothing",
    )
    parser.add_argument("--batch", type=int, default=8, help="groups a step")
    parser.add_argument("--lr", type=float, default=1.5e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    start = args.out / "start"
    if not start.exists():
        start_model(args.encoder, args.layers, start)
    groups = [json.loads(line) for line in args.groups.open(encoding="utf-8")]
    groups = random.Random(args.seed).sample(groups, min(args.groups_used, len(groups)))
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
    first = int(args.easy * len(groups)) // args.batch * args.batch
    parts = [
        with_negatives(groups, args.negatives, True, args.seed)[:first],
        with_negatives(groups, args.negatives, False, args.seed)[first:],
    ]
    groups = [g for part in parts for g in bucketed(windowed(part, tokenizer, args.seed), args.batch, args.seed)]
    data = Dataset.from_list([{k: g[k] for k in ("query", "docs", "labels")} for g in groups])

    model = CrossEncoder(str(start), max_length=320, num_labels=1)
    model.model.bert.embeddings.word_embeddings.requires_grad_(False)
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            output_dir=str(args.out),
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch,
            learning_rate=args.lr,
            warmup_steps=0.04,
            weight_decay=0.01,
            batch_sampler=InOrder,
            logging_steps=20,
            save_steps=250,
            save_total_limit=2,
            seed=args.seed,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=data,
        loss=ListNetLoss(model),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(args.out)))
    (args.out / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    model.save_pretrained(str(args.out / "final"))


if __name__ == "__main__":
    main()
