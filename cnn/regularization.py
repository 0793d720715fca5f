"""Dropout and weight decay.

Exported from book/15-regularization.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .network import Layer
from .shapes import check_array, check_generator, check_number, shapes

__all__ = ["dropout", "dropout_backward", "Dropout"]


# --- Dropout ---
@shapes("x (...) float")
def dropout(
    x: np.ndarray, p: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Switch entries off at random, amplify the others; return y and the factors r.

    Implements {eq}`eq:dropout`.
    """
    check_number("p", p, end=1)
    check_generator(rng)
    # float32 is fine enough for a yes or no, whatever the dtype of x
    r = (rng.random(x.shape, dtype=np.float32) >= p).astype(x.dtype)
    r /= 1 - p
    return r * x, r


@shapes("r (...) float, dy (...) float")
def dropout_backward(dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Multiply the gradient by the same factors as the input.

    Implements {eq}`eq:dropout-backward`.
    """
    return r * dy


# --- Two modes ---
class Dropout(Layer):
    """Switch units off at random in training; do nothing at inference.

    Parameters
    ----------
    p : float
        The probability of a unit to be switched off, as in PyTorch: at least 0, below 1.
    rng : np.random.Generator
        Draws what is switched off, anew for each image of each batch.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator) -> None:
        super().__init__()
        check_number("p", p, end=1)
        check_generator(rng)
        self.p, self.rng = float(p), rng

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return y in training, ``x`` itself at inference."""
        y, r = dropout(x, self.p, self.rng) if self.training else (x, None)
        self._seen, self._r = x, r
        return y

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Multiply ``dy`` by the factors of the latest ``forward``, if there were any."""
        x = self._recall()
        if self._r is not None:
            return dropout_backward(dy, self._r)
        check_array("dy", dy, x.shape, "the shape of x", "float")
        return dy

    def __repr__(self) -> str:
        return f"Dropout(p={self.p})"
