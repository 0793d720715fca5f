"""Checking a gradient.

Exported from book/03-gradient-check.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable

import numpy as np

from .shapes import check_array

__all__ = [
    "numerical_gradient",
    "complex_step_gradient",
    "relative_error",
    "check_gradient",
]


# --- Two differences ---


def numerical_gradient(
    f: Callable[[np.ndarray], float], theta: np.ndarray, h: float = 6e-6
) -> np.ndarray:
    """Estimate the gradient of ``f`` by central differences, one entry of ``theta`` at a time.

    Implements {eq}`eq:central`.

    Parameters
    ----------
    f : callable
        A cost: takes an array like ``theta`` and returns a number.
    theta : np.ndarray
        Where to differentiate: float64, any shape. It is not changed.
    h : float
        The step. The default is the cube root of float64's machine precision.

    Returns
    -------
    np.ndarray
        The estimate of ∂f/∂θ, shape and dtype as ``theta``.

    Raises
    ------
    TypeError
        ``theta`` is not an array of float64.
    ValueError
        ``theta`` is empty, or ``h`` is not positive.

    Notes
    -----
    ``f`` is called twice for each entry of ``theta``.
    """
    _check_theta(theta, h)
    theta = theta.copy()
    dtheta = np.empty_like(theta)
    for k in np.ndindex(theta.shape):
        value = theta[k]
        theta[k] = value + h
        above = f(theta)
        theta[k] = value - h
        below = f(theta)
        theta[k] = value
        dtheta[k] = (above - below) / (2 * h)
    return dtheta


def _check_theta(theta: np.ndarray, h: float) -> None:
    """Raise unless ``theta`` is a float64 array, none of its sizes zero, and ``h`` positive."""
    check_array("theta", theta, np.shape(theta), kind="real float")
    if theta.dtype != np.float64:
        raise TypeError(
            f"theta has dtype {theta.dtype}; expected float64, because a difference of float32 "
            "numbers is mostly rounding: convert with .astype(np.float64)"
        )
    if not h > 0:
        raise ValueError(f"h is {h}; expected a positive step")


# --- A step off the real line ---


def complex_step_gradient(
    f: Callable[[np.ndarray], complex], theta: np.ndarray, h: float = 1e-30
) -> np.ndarray:
    """Compute the gradient of ``f`` to full precision from the imaginary part of f(θ + ih).

    Implements {eq}`eq:complex-step`.

    Parameters
    ----------
    f : callable
        A cost: takes a complex array like ``theta`` and returns a complex number. All its
        steps must be analytic: no ``abs``, no conjugate, no real buffer in between.
    theta : np.ndarray
        Where to differentiate: float64, any shape.
    h : float
        The step; anything whose square vanishes beside 1.

    Returns
    -------
    np.ndarray
        The gradient ∂f/∂θ, shape and dtype as ``theta``.

    Raises
    ------
    TypeError
        ``theta`` is not an array of float64, or ``f`` has lost the imaginary part.
    ValueError
        ``theta`` is empty, or ``h`` is not positive.
    """
    _check_theta(theta, h)
    dtheta = np.empty_like(theta)
    for k in np.ndindex(theta.shape):
        step = theta.astype(complex)
        step[k] += 1j * h
        value = f(step)
        if not np.iscomplexobj(value):
            raise TypeError(
                f"f returned a real {type(value).__name__} for a complex theta: somewhere it drops "
                "the imaginary part (abs, float(), a real buffer)"
            )
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

    Raises
    ------
    ValueError
        The shapes differ, or the arrays are empty.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"a has shape {np.shape(a)}, b has shape {np.shape(b)}; expected equal"
        )
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
    theta : np.ndarray
        Where to differentiate: float64, any shape.
    dtheta : np.ndarray
        The gradient to check, shape as ``theta``.
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
    TypeError
        ``theta`` is not an array of float64, or ``dtheta`` no array of numbers.
    ValueError
        The shapes differ, or both gradients are zero, so that their agreement proves nothing.

    Examples
    --------
    >>> theta = np.array([1.0, 2.0, 3.0])
    >>> check_gradient(lambda theta: np.sum(theta**2), theta, 2 * theta) < 1e-9
    True
    """
    check_array("theta", theta, np.shape(theta), kind="real float")
    check_array("dtheta", dtheta, np.shape(theta), "the shape of theta")
    estimate = numerical_gradient(f, theta)
    if not estimate.any() and not dtheta.any():
        raise ValueError(
            "both gradients are zero everywhere: choose a point where f changes"
        )
    error = relative_error(dtheta, estimate)
    if not error <= tol:
        k = np.unravel_index(np.argmax(np.abs(dtheta - estimate)), theta.shape)
        raise AssertionError(
            f"the relative error is {error:.1e}, above {tol:.0e}: at {[int(i) for i in k]} the "
            f"formula gives {dtheta[k]:.6g}, the central difference {estimate[k]:.6g}"
        )
    return error
