"""From the scores of classes to probabilities."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def sigmoid(scores: Array) -> Array:
    """Return 1 / (1 + exp(-score)), which is 0 or 1 for scores of any size without a warning."""
    with np.errstate(over="ignore"):
        probability: Array = 1 / (1 + np.exp(-scores))
    return probability


def from_scores(scores: Array) -> Array:
    """Return rows x classes probabilities: of one column the sigmoid for the second class, of more the softmax."""
    if scores.shape[1] == 1:
        second = sigmoid(scores)
        return np.hstack([1 - second, second])
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares
