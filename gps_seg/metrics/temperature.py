"""Temperature scaling: one number that makes probabilities honest without moving the mask. Numpy and SciPy only.

p' = sigmoid(logit(p) / T), with T the minimiser of the mean negative log-likelihood. T > 1 tells an overconfident model to be
less sure. The order of pixels does not change, so with the threshold moved along (:func:`rescale`) the mask stays the same.
SciPy takes half a second to load, for which nobody waits who only reads a calibration.

Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gps_seg.errors import DataError

Float = NDArray[np.float64]
Values = TypeVar("Values", float, NDArray[np.float32], NDArray[np.float64])
SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1: float32 knows no logit beyond
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> float:
    """The temperature that makes targets likeliest.

    Args:
        probabilities: any shape, in 0..1, as the model gave them.
        targets: the same shape.

    Returns:
        T between 0.05 and 20.

    Raises:
        DataError: no pixels, or targets of one class only, for which no temperature is best.
    """
    from scipy.optimize import minimize_scalar

    if probabilities.shape != targets.shape:
        raise DataError(f"expected as many targets as probabilities, got {targets.shape} and {probabilities.shape}")
    if not targets.any() or targets.all():
        raise DataError("a temperature needs pixels of both classes, polyp and background; give images with polyps")
    logits = _logits(probabilities)
    best = minimize_scalar(lambda log: _mean_nll(logits / np.exp(log), targets), method="bounded",
                           bounds=(np.log(LOWEST), np.log(HIGHEST)), options={"xatol": 1e-4})
    return float(np.exp(best.x))


def rescale(probability: Values, temperature: float) -> Values:
    """Probabilities, or a threshold, on the calibrated scale; keeps type and shape."""
    from scipy.special import expit

    scaled = expit(_logits(probability) / temperature)
    return scaled.astype(probability.dtype) if isinstance(probability, np.ndarray) else float(scaled)


def negative_log_likelihood(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> float:
    """Mean over all pixels, in nats."""
    return _mean_nll(_logits(probabilities), targets)


def _logits(probabilities: NDArray[np.floating] | float) -> Float:
    from scipy.special import logit

    return logit(np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1 - SMALLEST))


def _mean_nll(logits: Float, targets: NDArray[np.bool_]) -> float:
    return float(np.mean(np.logaddexp(0, np.where(targets, -logits, logits))))
