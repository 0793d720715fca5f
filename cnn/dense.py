"""The dense layer.

Exported from book/04-dense.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .data import check_array, check_same_dtype

__all__ = ["linear", "check_linear", "linear_backward"]


# --- Forward ---


def linear(q: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the dense layer z = q Wᵀ + b.

    Implements {eq}`eq:dense-forward`.

    Parameters
    ----------
    q : np.ndarray
        The inputs, shape (N, M_in).
    W : np.ndarray
        The weights, shape (M_out, M_in), dtype as ``q``.
    b : np.ndarray
        The bias, shape (M_out,), dtype as ``q``.

    Returns
    -------
    np.ndarray
        The outputs z, shape (N, M_out), dtype as ``q``.

    Raises
    ------
    TypeError
        An argument is no array of numbers, or their dtypes differ.
    ValueError
        The shapes do not fit, or one of them holds a zero.
    """
    check_linear(q, W)
    check_array("b", b, (len(W),), f"because W has shape {W.shape}")
    check_same_dtype(q=q, W=W, b=b)
    return q @ W.T + b


def check_linear(q: np.ndarray, W: np.ndarray) -> None:
    """Raise unless inputs and weights fit together.

    Parameters
    ----------
    q : np.ndarray
        The inputs, shape (N, M_in).
    W : np.ndarray
        The weights, shape (M_out, M_in).

    Raises
    ------
    TypeError
        An argument is no array of numbers.
    ValueError
        The shapes do not fit; the message names both.
    """
    check_array("W", W, ("M_out", "M_in"))
    check_array("q", q, ("N", W.shape[1]), f"because W has shape {W.shape}")


# --- As matrices ---


def linear_backward(
    dz: np.ndarray, q: np.ndarray, W: np.ndarray, input_gradient: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Turn the gradient by a dense layer's output into those by its input and parameters.

    Implements {eq}`eq:dense-dq`, {eq}`eq:dense-dW` and {eq}`eq:dense-db`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient of the cost by the output, shape (N, M_out).
    q, W : np.ndarray
        What ``linear`` was given: shapes (N, M_in) and (M_out, M_in), dtype as ``dz``.
    input_gradient : bool
        Whether to compute ``dq``.

    Returns
    -------
    dq : np.ndarray or None
        Shape (N, M_in); None where ``input_gradient`` is false.
    dW : np.ndarray
        Shape (M_out, M_in).
    db : np.ndarray
        Shape (M_out,).

    Raises
    ------
    TypeError
        An argument is no array of numbers, or their dtypes differ.
    ValueError
        The shapes do not fit, or one of them holds a zero.
    """
    check_linear(q, W)
    expected = (len(q), len(W))
    check_array("dz", dz, expected, f"because q has shape {q.shape} and W {W.shape}")
    check_same_dtype(dz=dz, q=q, W=W)
    dq = dz @ W if input_gradient else None
    dW = dz.T @ q
    db = dz.sum(axis=0)
    return dq, dW, db
