"""A linear classifier.

Exported from book/02-linear-classifier.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .shapes import check_labels, shapes

__all__ = [
    "softmax", "log_sum_exp", "cross_entropy", "check_scores", "cross_entropy_backward",
    "cross_entropy_and_gradient", "error_rate",
]  # fmt: skip


# --- From scores to probabilities ---
@shapes("z (N, K) float")
def softmax(z: np.ndarray) -> np.ndarray:
    """Turn scores into probabilities: each row is positive and sums to one.

    Implements {eq}`eq:softmax`.

    Parameters
    ----------
    z : np.ndarray
        The scores, shape (N, K).

    Returns
    -------
    np.ndarray
        P, shape (N, K), dtype as ``z``.
    """
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# --- The price of being wrong ---
@shapes("z (N, K) float")
def log_sum_exp(z: np.ndarray) -> np.ndarray:
    """Compute log(Σ exp(z)) of each row, without overflow.

    Implements {eq}`eq:log-sum-exp`.
    """
    m = z.max(axis=1)
    return m + np.log(np.exp(z - m[:, np.newaxis]).sum(axis=1))


@shapes("z (N, K) float, y (N) integer")
def cross_entropy(z: np.ndarray, y: np.ndarray) -> np.floating:
    """Compute the cost J: the mean negative log-probability of the right class.

    Implements {eq}`eq:ce`.

    Parameters
    ----------
    z, y : np.ndarray
        The scores, shape (N, K), and the labels, shape (N,), integers from 0 to K - 1.

    Returns
    -------
    np.floating
        J, a number of the dtype of ``z``.

    Raises
    ------
    FloatingPointError
        A score is NaN or infinite; the message names the first one.
    """
    check_scores(z, y)
    N = len(z)
    return (log_sum_exp(z) - z[np.arange(N), y]).sum() / N


def check_scores(z: np.ndarray, y: np.ndarray) -> None:
    """Raise unless all scores are finite, and all labels are classes."""
    check_labels(y, *z.shape)
    if not np.isfinite(z).all():
        wrong = np.argwhere(~np.isfinite(z))
        n, k = wrong[0]
        found = f"z[{n}, {k}] is {z[n, k]} ({len(wrong)} of {z.size} not finite)"
        raise FloatingPointError(
            f"{found}: look for NaN in the input, or lower the learning rate"
        )


# --- The gradient ---
@shapes("z (N, K) float, y (N) integer")
def cross_entropy_backward(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute dz = (P - Y) / N, the gradient with respect to the scores.

    Implements {eq}`eq:ce-grad`.

    Parameters
    ----------
    z, y : np.ndarray
        The scores, shape (N, K), and the labels, shape (N,), integers from 0 to K - 1.

    Returns
    -------
    np.ndarray
        dz, shape (N, K), dtype as ``z``.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As for ``cross_entropy``.
    """
    check_scores(z, y)
    N = len(z)
    dz = softmax(z)
    dz[np.arange(N), y] -= 1
    dz /= N
    return dz


@shapes("z (N, K) float, y (N) integer")
def cross_entropy_and_gradient(
    z: np.ndarray, y: np.ndarray
) -> tuple[np.floating, np.ndarray]:
    """Compute J, {eq}`eq:ce`, and its gradient dz, {eq}`eq:ce-grad`, for a training step."""
    return cross_entropy(z, y), cross_entropy_backward(z, y)


# --- Downhill ---
@shapes("z (N, K) float, y (N) integer")
def error_rate(z: np.ndarray, y: np.ndarray) -> float:
    """Compute the share of the images whose largest score is not their label's.

    Implements {eq}`eq:error-rate`.

    Parameters
    ----------
    z, y : np.ndarray
        The scores, shape (N, K), and the labels, shape (N,), integers from 0 to K - 1.

    Returns
    -------
    float
        From 0 (all right) to 1 (all wrong). Where scores tie, the first class counts.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As for ``cross_entropy``.
    """
    check_scores(z, y)
    return float(np.mean(z.argmax(axis=1) != y))
