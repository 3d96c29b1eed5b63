"""Calibration: from raw logits to probabilities that mean something, and how far they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Pairs whose probability lies in one interval: how many, their mean probability, the share that was relevant."""

    count: int
    probability: float
    relevant: float


def fit_logistic(logits: npt.ArrayLike, relevant: npt.ArrayLike) -> tuple[float, float]:
    """(temperature, shift): probability = sigmoid((logit - shift) / temperature) with the least log loss.

    Platt, Probabilistic outputs for support vector machines, 1999, with his smoothed targets; Newton's method. A
    temperature alone (Guo et al., ICML 2017) would not do: a listwise loss leaves the level of the logits open.
    Raises BadInput unless some pairs are relevant and some are not, and if higher logits do not go with relevance.
    """
    x, y = _pairs(logits, relevant)
    positives, negatives = float(y.sum()), float(len(y) - y.sum())
    target = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = float(x.mean()), float(x.std()) or 1.0
    design = np.column_stack([(x - centre) / spread, np.ones_like(x)])
    weights = np.array([1.0, np.log(positives / negatives)])
    for _ in range(100):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - target)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    if weights[0] <= 0:
        raise BadInput("relevant pairs do not have higher logits than the others: there is nothing to calibrate.")
    temperature = spread / float(weights[0])
    return temperature, centre - float(weights[1]) * temperature


def reliability(probabilities: npt.ArrayLike, relevant: npt.ArrayLike, bins: int = 15) -> list[Bin]:
    """Bins of equal width over 0..1 that hold at least one pair: the reliability diagram (DeGroot and Fienberg, 1983)."""
    p, y = _pairs(probabilities, relevant)
    if p.min() < 0 or p.max() > 1:
        raise BadInput(f"probabilities from {p.min():.3g} to {p.max():.3g}: expected 0 to 1. Are these logits?")
    place = np.minimum((p * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(p[inside].mean()), float(y[inside].mean()))
        for inside in (place == number for number in range(bins))
        if inside.any()
    ]


def expected_calibration_error(diagram: Sequence[Bin]) -> float:
    """Mean distance of probability and share of relevant ones, weighted by the bins' counts (Naeini et al., AAAI 2015)."""
    total = sum(b.count for b in diagram)
    return sum(b.count * abs(b.probability - b.relevant) for b in diagram) / total


def _pairs(values: npt.ArrayLike, relevant: npt.ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(values, np.float64).ravel(), np.asarray(relevant, np.float64).ravel()
    if x.shape != y.shape or not len(x) or not np.isfinite(x).all():
        raise BadInput(f"{len(x)} scores and {len(y)} judgements: expected as many of both, at least one, and all finite.")
    if set(np.unique(y)) != {0.0, 1.0}:
        raise BadInput("expected judgements 0 and 1, and some of each.")
    return x, y


def _sigmoid(x: Floats) -> Floats:
    out: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return out
