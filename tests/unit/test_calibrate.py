"""Calibration against a brute-force search, and against data whose probabilities are known."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.calibrate import expected_calibration_error, fit_logistic, reliability
from shortlist.errors import BadInput


def drawn(temperature: float, shift: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    logits = random.normal(2.0, 3.0, n)
    chance = 1 / (1 + np.exp(-(logits - shift) / temperature))
    return logits, (random.random(n) < chance).astype(int)


@pytest.mark.parametrize(("temperature", "shift"), [(1.0, 0.0), (2.5, 4.0), (0.5, -1.0)])
def test_the_curve_that_made_the_data_is_found(temperature: float, shift: float) -> None:
    found = fit_logistic(*drawn(temperature, shift))
    assert found[0] == pytest.approx(temperature, rel=0.08)
    assert found[1] == pytest.approx(shift, abs=0.15)


def test_no_point_of_a_grid_has_a_smaller_log_loss() -> None:
    logits, relevant = drawn(1.7, 3.0, 400)

    def loss(temperature: float, shift: float) -> float:
        positives, negatives = relevant.sum(), (1 - relevant).sum()
        target = np.where(relevant, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        p = 1 / (1 + np.exp(-(logits - shift) / temperature))
        return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).sum())

    best = loss(*fit_logistic(logits, relevant))
    grid = [(t, s) for t in np.linspace(0.5, 4, 60) for s in np.linspace(0, 6, 60)]
    assert best <= min(loss(t, s) for t, s in grid) + 1e-9


def test_separable_and_huge_logits_give_finite_numbers() -> None:
    temperature, shift = fit_logistic([-1e4, -9e3, 9e3, 1e4], [0, 0, 1, 1])
    assert np.isfinite([temperature, shift]).all()
    assert temperature > 0


def test_calibrated_data_have_a_small_error_and_others_a_large_one() -> None:
    logits, relevant = drawn(2.0, 1.0)
    p = 1 / (1 + np.exp(-(logits - 1.0) / 2.0))
    raw = 1 / (1 + np.exp(-logits))
    assert expected_calibration_error(reliability(p, relevant)) < 0.015
    assert expected_calibration_error(reliability(raw, relevant)) > 0.05


def test_the_diagram_by_hand() -> None:
    diagram = reliability([0.05, 0.15, 0.95, 1.0], [0, 1, 1, 1], bins=10)
    assert [(b.count, b.relevant) for b in diagram] == [(1, 0.0), (1, 1.0), (2, 1.0)]
    assert expected_calibration_error(diagram) == pytest.approx((0.05 + 0.85 + 0.05) / 4)


@pytest.mark.parametrize(
    ("logits", "relevant", "message"),
    [
        ([], [], "at least one"),
        ([1.0, np.nan], [0, 1], "finite"),
        ([1.0], [1, 0], "as many"),
        ([1.0, 2.0], [1, 1], "some of each"),
        ([2.0, 1.0, 0.0, 3.0], [0, 1, 1, 0], "nothing to calibrate"),
    ],
)
def test_bad_input_is_refused(logits: list[float], relevant: list[int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fit_logistic(logits, relevant)


def test_logits_are_not_taken_for_probabilities() -> None:
    with pytest.raises(BadInput, match="logits"):
        reliability([-2.0, 3.0], [0, 1])
