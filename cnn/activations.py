"""Activations.

Exported from book/05-activations.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .data import check_array, check_same_dtype

__all__ = [
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "tanh",
    "tanh_backward",
]


# --- ReLU ---


def relu(z: np.ndarray) -> np.ndarray:
    """Let the positive entries pass and set the others to zero.

    Implements {eq}`eq:relu`.

    Parameters
    ----------
    z : np.ndarray
        Pre-activations of any shape, of a floating (or complex) dtype.

    Returns
    -------
    np.ndarray
        The output q, shape and dtype as ``z``.

    Raises
    ------
    TypeError
        ``z`` is not an array of floating-point numbers.
    ValueError
        ``z`` is empty.
    """
    check_array("z", z, np.shape(z), kinds="fc")
    return np.maximum(z, 0)


def relu_backward(dq: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Let the gradient pass where the output of ``relu`` is positive.

    Implements {eq}`eq:relu-backward`.

    Parameters
    ----------
    dq : np.ndarray
        The gradient of the cost by the output, any shape.
    q : np.ndarray
        What ``relu`` returned, shape and dtype as ``dq``.

    Returns
    -------
    np.ndarray
        The gradient by the pre-activations, shape and dtype as ``dq``.

    Raises
    ------
    TypeError
        An argument is no array of floating-point numbers, or their dtypes differ.
    ValueError
        The shapes differ, or the arrays are empty.
    """
    _check_gate(dq, q)
    return dq * (q > 0)


def _check_gate(dq: np.ndarray, q: np.ndarray) -> None:
    """Raise unless ``dq`` and ``q`` are floating-point arrays of one shape and dtype."""
    check_array("q", q, np.shape(q), kinds="fc")
    check_array("dq", dq, q.shape, "the shape of q", kinds="fc")
    check_same_dtype(dq=dq, q=q)


# --- Sigmoid ---


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Squeeze each entry between 0 and 1, without overflow.

    Implements {eq}`eq:sigmoid`, in the form {eq}`def:sigmoid-stable`.

    Parameters
    ----------
    z : np.ndarray
        Pre-activations of any shape, of a floating (or complex) dtype.

    Returns
    -------
    np.ndarray
        The output q, shape and dtype as ``z``.

    Raises
    ------
    TypeError
        ``z`` is not an array of floating-point numbers.
    ValueError
        ``z`` is empty.
    """
    check_array("z", z, np.shape(z), kinds="fc")
    # not -abs(z), which would drop the imaginary part that the complex step needs
    e = np.exp(np.minimum(z, -z))
    return np.where(z >= 0, 1, e) / (1 + e)


def sigmoid_backward(dq: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Multiply the gradient by the sigmoid's derivative, q (1 - q).

    Implements {eq}`eq:sigmoid-backward`.

    Parameters
    ----------
    dq : np.ndarray
        The gradient of the cost by the output, any shape.
    q : np.ndarray
        What ``sigmoid`` returned, shape and dtype as ``dq``.

    Returns
    -------
    np.ndarray
        The gradient by the pre-activations, shape and dtype as ``dq``.

    Raises
    ------
    TypeError
        An argument is no array of floating-point numbers, or their dtypes differ.
    ValueError
        The shapes differ, or the arrays are empty.
    """
    _check_gate(dq, q)
    return dq * q * (1 - q)


# --- Tanh ---


def tanh(z: np.ndarray) -> np.ndarray:
    """Squeeze each entry between -1 and 1.

    Implements {eq}`eq:tanh`.

    Parameters
    ----------
    z : np.ndarray
        Pre-activations of any shape, of a floating (or complex) dtype.

    Returns
    -------
    np.ndarray
        The output q, shape and dtype as ``z``.

    Raises
    ------
    TypeError
        ``z`` is not an array of floating-point numbers.
    ValueError
        ``z`` is empty.
    """
    check_array("z", z, np.shape(z), kinds="fc")
    return np.tanh(z)


def tanh_backward(dq: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Multiply the gradient by the hyperbolic tangent's derivative, 1 - q².

    Implements {eq}`eq:tanh-backward`.

    Parameters
    ----------
    dq : np.ndarray
        The gradient of the cost by the output, any shape.
    q : np.ndarray
        What ``tanh`` returned, shape and dtype as ``dq``.

    Returns
    -------
    np.ndarray
        The gradient by the pre-activations, shape and dtype as ``dq``.

    Raises
    ------
    TypeError
        An argument is no array of floating-point numbers, or their dtypes differ.
    ValueError
        The shapes differ, or the arrays are empty.
    """
    _check_gate(dq, q)
    return dq * (1 - q * q)
