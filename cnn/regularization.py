"""Regularisation.

Exported from book/15-regularization.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from .network import Layer
from .optimizers import Adam
from .shapes import check_array, check_same_dtype

__all__ = ["dropout", "dropout_backward", "Dropout", "AdamW"]


# --- Dropout ---


def dropout(
    x: np.ndarray, p: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Switch entries off at random, and amplify the others so that the mean stays.

    Implements {eq}`eq:dropout`.

    Parameters
    ----------
    x : np.ndarray
        The input, any shape, of a floating dtype.
    p : float
        The probability of an entry to be switched off, at least 0 and below 1.
    rng : np.random.Generator
        Draws what is switched off.

    Returns
    -------
    y : np.ndarray
        The output, shape and dtype as ``x``.
    r : np.ndarray
        The factors, 0 or 1/(1 - p), shape and dtype as ``x``: what ``dropout_backward`` needs.

    Raises
    ------
    TypeError
        ``x`` is not an array of floating-point numbers.
    ValueError
        ``x`` is empty, or ``p`` is out of range.
    """
    check_array("x", x, np.shape(x), kind="float")
    _check_p(p)
    # float32 is fine enough for a yes or no, whatever the dtype of x
    r = (rng.random(x.shape, dtype=np.float32) >= p).astype(x.dtype)
    r /= 1 - p
    return r * x, r


def dropout_backward(dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Multiply the gradient by the same factors as the input.

    Implements {eq}`eq:dropout-backward`.

    Parameters
    ----------
    dy : np.ndarray
        The gradient of the cost by the output, any shape.
    r : np.ndarray
        The factors that ``dropout`` returned, shape and dtype as ``dy``.

    Returns
    -------
    np.ndarray
        The gradient by the input, shape and dtype as ``dy``.

    Raises
    ------
    TypeError
        An argument is no array of floating-point numbers, or their dtypes differ.
    ValueError
        The shapes differ, or the arrays are empty.
    """
    check_array("r", r, np.shape(r), kind="float")
    check_array("dy", dy, r.shape, "the shape of r", kind="float")
    check_same_dtype(dy=dy, r=r)
    return r * dy


def _check_p(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(
            f"p is {p}; expected the probability to switch an entry off, at least 0 and below 1"
        )


# --- Two modes ---


class Dropout(Layer):
    """Switch units off at random while the network is trained; do nothing when it is used.

    Parameters
    ----------
    p : float
        The probability of a unit to be switched off, as in PyTorch.
    rng : np.random.Generator
        Draws what is switched off, anew for each image of each batch.

    Raises
    ------
    TypeError
        ``rng`` is no generator.
    ValueError
        ``p`` is below 0 or not below 1.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator) -> None:
        super().__init__()
        _check_p(p)
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"rng is {rng!r:.60}; expected a generator, np.random.default_rng(seed)"
            )
        self.p, self.rng = float(p), rng
        self._r: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Switch entries off where the layer is being trained; otherwise return ``x`` itself."""
        check_array("x", x, np.shape(x), kind="float")
        self._seen, self._r = x, None
        if not self.training:
            return x
        y, self._r = dropout(x, self.p, self.rng)
        return y

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Multiply ``dy`` by the factors of the latest ``forward``, if there were any."""
        x = self._recall()
        check_array("dy", dy, x.shape, "the shape of x", kind="float")
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
    betas : tuple of float
        The decay β₁ of the gradient's average and β₂ of its square's.
    eps : float
        A small ε that keeps the division finite; it stands outside the root, as in PyTorch.
    weight_decay : float
        λ: every step begins by taking the share γλ away from each parameter.

    Raises
    ------
    ValueError
        A beta is below 0 or not below 1, or ``eps`` is negative; ``lr``, ``params`` or
        ``weight_decay`` is unfit.
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
