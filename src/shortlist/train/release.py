"""Release: a trained reranker as the folder that ships, its score made useful first.

On judged groups of development splits (never on a test split) three numbers are learnt and put into the model:

- the level of the logits: a listwise loss leaves it open, so it is taken off the classifier's bias;
- the temperature, so that sigmoid(logit / temperature) is the share of relevant pairs (Platt, 1999); it is fitted on every
  other group and checked on the rest;
- the weight against the first stage: the smallest that brings three fifths of what the best one brings. A weight's worth is the
  mean gain in nDCG@10 of the fused order over the first stage alone, every collection counting alike and losses counting three
  times: a second stage that harms is worse than none. The best weight itself was seen to suit the kinds of text that were tuned
  on and to harm on others, and so was, twice, one that brings four fifths: on text unlike that the curve falls earlier.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.calibrate import Bin, expected_calibration_error, fit_logistic, reliability
from shortlist.errors import BadInput
from shortlist.fuse import weighted_sum
from shortlist.models.body import write_body
from shortlist.models.card import read_card
from shortlist.models.files import WEIGHTS
from shortlist.reranker import Reranker, probability
from shortlist.train.groups import Group, Groups

Progress = Callable[[int, int | None], None]
LOSSES, ENOUGH = 3.0, 0.6
FUSION_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
KEPT = ("kind", "pooling", "dims", "layers", "labels", "max_tokens", "segments", "window", "table", "source")
# Pairs whose logits are published in the card, so that an installation can be checked.
PAIRS = (
    ("How many people live in Berlin?", "Berlin had a population of 3,520,031 registered inhabitants."),
    ("How many people live in Berlin?", "Berlin is well known for its museums."),
    ("柏林有多少人口？", "柏林是德国首都，有三百五十二万居民。"),
)


@dataclass(frozen=True)
class Tuned:
    """What was learnt. `by_weight` is weight -> collection -> nDCG@10 of the fused order; weight 0 is the first stage alone.

    ECE (expected calibration error) of the held-back pairs, `before` with a plain sigmoid; `bins` is their diagram after.
    """

    weight: float
    temperature: float
    shift: float
    by_weight: Mapping[float, Mapping[str, float]]
    ece_before: float
    ece_after: float
    bins: tuple[Bin, ...]
    pairs: int


def score_groups(reranker: Reranker, groups: Groups, progress: Progress | None = None) -> list[npt.NDArray[np.float64]]:
    """The logits of each group's candidates, float64[candidates]."""
    found = []
    for done, group in enumerate(groups.groups, 1):
        texts = [groups.passages[c.passage] for c in group.candidates]
        found.append(reranker.score(groups.queries[group.query], texts).astype(np.float64))
        if progress is not None:
            progress(done, len(groups))
    return found


def tune_scores(groups: Sequence[Group], logits: Sequence[npt.NDArray[np.float64]]) -> Tuned:
    """Weight, temperature and level from the logits of judged groups.

    Raises BadInput for fewer than four groups, and if the logits do not go with relevance.
    """
    relevant = [np.array([c.relevant for c in g.candidates]) for g in groups]
    fitted, held = slice(0, None, 2), slice(1, None, 2)
    if len(groups) < 4:
        raise BadInput(f"{len(groups)} judged groups: expected at least 4, better some hundreds, to tune scores on.")
    temperature, shift = fit_logistic(np.concatenate(logits[fitted]), np.concatenate(relevant[fitted]))
    x, y = np.concatenate(logits[held]), np.concatenate(relevant[held])
    after = reliability(probability((x - shift) / temperature), y)
    by_weight = {w: _means(groups, logits, relevant, w) for w in FUSION_WEIGHTS}
    return Tuned(
        weight=cautious_weight(by_weight),
        temperature=round(temperature, 4),
        shift=round(shift, 4),
        by_weight=by_weight,
        ece_before=expected_calibration_error(reliability(probability(x), y)),
        ece_after=expected_calibration_error(after),
        bins=tuple(after),
        pairs=len(x),
    )


def release(trained: Path, out: Path, fields: Mapping[str, Any], tuned: Tuned) -> Path:
    """Writes `out`: int8 body, card with `fields`, weight, temperature and canonical logits. Returns `out`."""
    from safetensors.numpy import load_file, save_file

    stated = read_card(trained)
    known = {
        **{name: getattr(stated, name) for name in KEPT},
        "name": out.name,
        **fields,
        "fusion_weight": tuned.weight,
        "temperature": tuned.temperature,
    }
    with tempfile.TemporaryDirectory() as work:
        levelled = Path(work) / "levelled"
        shutil.copytree(trained, levelled)
        tensors = load_file(levelled / WEIGHTS)
        tensors["classifier.bias"] = tensors["classifier.bias"] - np.float32(tuned.shift)
        save_file(tensors, levelled / WEIGHTS, {"format": "pt"})
        write_body(levelled, out, known)
        reference = Reranker.load(out, precision="float32")
        canonical = {f"{query}\n{passage}": [round(float(reference.score(query, [passage])[0]), 4)] for query, passage in PAIRS}
        write_body(levelled, out, {**known, "canonical": canonical})
    return out


def cautious_weight(by_weight: Mapping[float, Mapping[str, float]]) -> float:
    """The smallest weight with at least ENOUGH of the best one's worth; see the module's text.

    by_weight  weight -> collection -> nDCG@10 of the fused order; weight 0 is the first stage alone
    """
    worth = {weight: _worth(means, by_weight[0.0]) for weight, means in by_weight.items()}
    return min(weight for weight in worth if worth[weight] >= ENOUGH * max(worth.values()) - 1e-9)


def _worth(means: Mapping[str, float], first: Mapping[str, float]) -> float:
    """Mean gain over the first stage, losses counted LOSSES times."""
    gains = np.array([means[name] - first[name] for name in first])
    return float(np.mean(np.where(gains < 0, LOSSES * gains, gains)))


def _means(
    groups: Sequence[Group],
    logits: Sequence[npt.NDArray[np.float64]],
    relevant: Sequence[npt.NDArray[np.bool_]],
    weight: float,
) -> dict[str, float]:
    """Collection -> nDCG@10 of the fused order."""
    values: dict[str, list[float]] = {}
    for group, scores, right in zip(groups, logits, relevant, strict=True):
        first = [(str(i), c.first) for i, c in enumerate(group.candidates)]
        second = [(str(i), float(s)) for i, s in enumerate(scores)]
        order = [int(i) for i, _ in weighted_sum([first, second], [1 - weight, weight])]
        values.setdefault(group.source, []).append(ndcg(right[order]))
    return {name: float(np.mean(v)) for name, v in values.items()}


def ndcg(relevant: npt.NDArray[np.bool_], k: int = 10) -> float:
    """nDCG@k of a ranking whose passages are relevant (gain 1) or not; the ideal has all of them in front."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    found = float((relevant[:k] * discounts[: len(relevant[:k])]).sum())
    return found / float(discounts[: min(k, int(relevant.sum()))].sum())
