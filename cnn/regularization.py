"""Dropout and weight decay.

Exported from book/15-regularization.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from .network import Layer
from .optimizers import Adam, check_share
from .shapes import shapes

__all__ = ["dropout", "dropout_backward", "Dropout", "AdamW"]


# --- Dropout ---


@shapes("x (...) float")
def dropout(
    x: np.ndarray, p: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Switch entries off at random, amplify the others; return y and the factors r.

    Implements {eq}`eq:dropout`.
    """
    check_share("p", p)
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

    Raises
    ------
    TypeError, ValueError
        ``rng`` is no generator; ``p`` is out of range.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator) -> None:
        super().__init__()
        check_share("p", p)
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"rng is {rng!r:.60}; expected a generator, np.random.default_rng(seed)"
            )
        self.p, self.rng = float(p), rng

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return y in training, ``x`` itself at inference."""
        y, r = dropout(x, self.p, self.rng) if self.training else (x, None)
        self._seen, self._r = x, r
        return y

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Multiply ``dy`` by the factors of the latest ``forward``, if there were any."""
        self._recall()
        return dy if self._r is None else dropout_backward(dy, self._r)

    def __repr__(self) -> str:
        return f"Dropout(p={self.p})"


# --- Adam is different ---


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights shrink by themselves, whatever the gradient.

    Implements {eq}`eq:decay-decoupled`.

    Parameters
    ----------
    params : mapping of str to np.ndarray
        The parameters by name; they are changed in place.
    lr : float or callable
        The learning rate γ, or a schedule: a function of the step, counted from 0.
    betas, eps : tuple of float, float
        As for ``Adam``.
    weight_decay : float
        λ: every step begins by taking the share γλ away from each parameter.

    Raises
    ------
    TypeError, ValueError
        As for ``Adam``.
    """

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        lr: float | Callable[[int], float] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def decay(self, theta: np.ndarray, g: np.ndarray, gamma: float) -> np.ndarray:
        """Shrink the parameter in place, and return its gradient as it is."""
        theta *= 1 - gamma * self.weight_decay
        return g
