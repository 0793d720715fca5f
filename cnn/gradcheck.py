"""Checking a gradient.

Exported from book/03-gradient-check.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable

import numpy as np

from .shapes import check_array, check_number

__all__ = [
    "numerical_gradient", "complex_step_gradient", "relative_error", "check_gradient",
]  # fmt: skip


# --- Two differences ---
def numerical_gradient(
    f: Callable[[np.ndarray], float], theta: np.ndarray, h: float = 6e-6
) -> np.ndarray:
    """Estimate the gradient of ``f`` by central differences, entry by entry.

    Implements {eq}`eq:central`.

    Parameters
    ----------
    f : callable
        A cost: takes an array like ``theta`` and returns a number. It is called twice an entry.
    theta : np.ndarray
        Where to differentiate: float64, any shape.
    h : float
        The step; by default the cube root of float64's machine precision.

    Returns
    -------
    np.ndarray
        The estimate of ∂f/∂θ, shape and dtype as ``theta``.
    """
    _check_theta(theta, h)
    f, dtheta = _cost(f), np.empty_like(theta)
    for k in np.ndindex(theta.shape):
        e = np.zeros_like(theta)
        e[k] = 1
        dtheta[k] = (f(theta + h * e) - f(theta - h * e)) / (2 * h)
    return dtheta


def _check_theta(theta: np.ndarray, h: float = 1) -> None:
    """Raise unless ``theta`` is a float64 array, none of its sizes zero, and ``h`` positive."""
    check_array("theta", theta, ("...",), kind="real float")
    if theta.dtype != np.float64:
        reason = "a float32 difference is mostly rounding: use .astype(np.float64)"
        raise TypeError(f"theta has dtype {theta.dtype}; expected float64, {reason}")
    check_number("h", h)
    if not h > 0:
        raise ValueError(f"h is {h}; expected a positive step")


def _cost(f: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], float]:
    """Return ``f``, which must be a function of an array and give one number."""
    if not callable(f):
        raise TypeError(f"f is {f!r:.60}; expected a function of theta")

    def cost(theta: np.ndarray) -> float:
        J = f(theta)
        if np.ndim(J) or np.asarray(J).dtype.kind not in "fiu":
            what = f"of shape {np.shape(J)}" if np.ndim(J) else f"{J!r:.60}"
            raise TypeError(f"f(theta) is {what}; expected one real number, the cost")
        return J

    return cost


# --- A step off the real line ---
def complex_step_gradient(
    f: Callable[[np.ndarray], complex], theta: np.ndarray, h: float = 1e-30
) -> np.ndarray:
    """Compute the gradient of ``f`` to full precision from f(θ + ih).

    Implements {eq}`eq:complex-step`. All steps of ``f`` must be analytic.
    """
    _check_theta(theta, h)
    dtheta = np.empty_like(theta)
    for k in np.ndindex(theta.shape):
        e = np.zeros_like(theta)
        e[k] = 1
        value = f(theta + 1j * h * e)
        if not np.iscomplexobj(value):
            lost = "abs, float() or a real buffer dropped the imaginary part"
            raise TypeError(f"f(theta + ih) is a {type(value).__name__}: {lost}")
        dtheta[k] = value.imag / h
    return dtheta


# --- The verdict ---
def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two arrays, beside their largest entry.

    Implements {eq}`eq:rel-error`.

    Parameters
    ----------
    a, b : np.ndarray
        Two arrays of numbers of the same shape.

    Returns
    -------
    float
        0 where they are equal, at most 2 where they are not; NaN where one holds a NaN.
    """
    if np.shape(a) != np.shape(b):
        shapes = f"a has shape {np.shape(a)}, b has shape {np.shape(b)}"
        raise ValueError(f"{shapes}; expected equal")
    if np.size(a) == 0:
        raise ValueError(f"the arrays are empty: their shape is {np.shape(a)}")
    largest = np.max(np.maximum(np.abs(a), np.abs(b)))
    return float(np.max(np.abs(np.subtract(a, b))) / largest) if largest else 0.0


def check_gradient(
    f: Callable[[np.ndarray], float],
    theta: np.ndarray,
    dtheta: np.ndarray,
    tol: float = 1e-7,
) -> float:
    """Compare a gradient with the central differences of ``f`` at ``theta``.

    Parameters
    ----------
    f : callable
        A cost: takes an array like ``theta`` and returns a number.
    theta, dtheta : np.ndarray
        Where to differentiate, float64, any shape; and the gradient to check, of that shape.
    tol : float
        The largest relative error to accept.

    Returns
    -------
    float
        The relative error, {eq}`eq:rel-error`.

    Raises
    ------
    AssertionError
        The error exceeds ``tol``, or is NaN; the message names the worst entry.
    """
    _check_theta(theta)
    check_array("dtheta", dtheta, np.shape(theta), "the shape of theta")
    estimate = numerical_gradient(f, theta)
    if not estimate.any() and not dtheta.any():
        raise ValueError("both gradients are zero: choose a point where f changes")
    error = relative_error(dtheta, estimate)
    if not error <= tol:
        k = np.unravel_index(np.argmax(np.abs(dtheta - estimate)), theta.shape)
        where = f"at {[int(i) for i in k]} the formula gives {dtheta[k]:.6g}"
        found = f"{where}, the central difference {estimate[k]:.6g}"
        raise AssertionError(
            f"the relative error is {error:.1e}, above {tol:.0e}: {found}"
        )
    return error
