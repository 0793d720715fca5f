"""Activations.

Exported from book/05-activations.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .shapes import shapes

__all__ = [
    "relu", "relu_backward", "sigmoid", "sigmoid_backward", "tanh", "tanh_backward",
]  # fmt: skip


# --- ReLU ---
@shapes("z (...) float")
def relu(z: np.ndarray) -> np.ndarray:
    """Let the positive entries pass and set the others to zero.

    Implements {eq}`eq:relu`.
    """
    return np.maximum(z, 0)


@shapes("q (...) float, dq (...) float")
def relu_backward(dq: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Let the gradient pass where the output q of ``relu`` is positive.

    Implements {eq}`eq:relu-backward`.
    """
    return dq * (q > 0)


# --- Sigmoid ---
@shapes("z (...) float")
def sigmoid(z: np.ndarray) -> np.ndarray:
    """Squeeze each entry between 0 and 1, without overflow.

    Implements {eq}`eq:sigmoid`, in the form {eq}`def:sigmoid-stable`.
    """
    # not -abs(z), which would drop the imaginary part that the complex step needs
    e = np.exp(np.minimum(z, -z))
    return np.where(z >= 0, 1, e) / (1 + e)


@shapes("q (...) float, dq (...) float")
def sigmoid_backward(dq: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Multiply the gradient by the sigmoid's derivative, q (1 - q).

    Implements {eq}`eq:sigmoid-backward`.
    """
    return dq * q * (1 - q)


# --- Tanh ---
@shapes("z (...) float")
def tanh(z: np.ndarray) -> np.ndarray:
    """Squeeze each entry between -1 and 1.

    Implements {eq}`eq:tanh`.
    """
    return np.tanh(z)


@shapes("q (...) float, dq (...) float")
def tanh_backward(dq: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Multiply the gradient by the hyperbolic tangent's derivative, 1 - q².

    Implements {eq}`eq:tanh-backward`.
    """
    return dq * (1 - q * q)
