"""What a model predicts, as linear combinations of the sample x and the prediction p."""

from __future__ import annotations

from mckean._errors import one_of

__all__ = ["PREDICTIONS", "to_data", "to_noise"]

PREDICTIONS = ("eps", "x0", "score", "v")


def to_noise(prediction: str, a: float, s: float) -> tuple[float, float]:
    """(alpha, beta) with eps = alpha x + beta p at the level (a, s)."""
    one_of(prediction, "prediction", PREDICTIONS)
    if prediction == "eps":
        return 0.0, 1.0
    if prediction == "x0":
        return 1.0 / s, -a / s
    if prediction == "score":
        return 0.0, -s
    square = a * a + s * s  # v = a eps - s x0
    return s / square, a / square


def to_data(prediction: str, a: float, s: float) -> tuple[float, float]:
    """(alpha, beta) with x0 = alpha x + beta p at the level (a, s)."""
    one_of(prediction, "prediction", PREDICTIONS)
    if prediction == "eps":
        return 1.0 / a, -s / a
    if prediction == "x0":
        return 0.0, 1.0
    if prediction == "score":
        return 1.0 / a, s * s / a
    square = a * a + s * s
    return a / square, -s / square
