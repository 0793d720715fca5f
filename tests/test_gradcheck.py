"""The judge: right gradients pass, wrong ones don't, and the message says where."""

from __future__ import annotations

import numpy as np
import pytest

from cnn.gradcheck import (
    check_gradient,
    complex_step_gradient,
    numerical_gradient,
    relative_error,
)

RNG = np.random.default_rng(0)


def squares(theta: np.ndarray) -> np.floating:
    """Return a cost that is different in every entry."""
    return np.sum(np.arange(1, theta.size + 1).reshape(theta.shape) * theta**2)


def slopes(theta: np.ndarray) -> np.ndarray:
    """Return its gradient."""
    return 2 * np.arange(1, theta.size + 1).reshape(theta.shape) * theta


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 1, 3, 2)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    """Indices in the wrong order would exchange entries."""
    theta = RNG.standard_normal(shape)
    before = theta.copy()
    assert check_gradient(squares, theta, slopes(theta)) < 1e-9
    exact = complex_step_gradient(squares, theta)
    assert np.allclose(exact, slopes(theta), rtol=1e-14, atol=0)
    assert exact.dtype == np.float64
    assert np.array_equal(theta, before), "theta is not changed"


def test_any_memory_layout() -> None:
    """A transposed parameter is a view, and must not be read in another order."""
    theta = RNG.standard_normal((3, 4)).T
    assert check_gradient(squares, theta, slopes(theta)) < 1e-9


@pytest.mark.parametrize("k", list(np.ndindex(2, 3)))
def test_one_wrong_entry_is_found(k: tuple[int, int]) -> None:
    """One of many is enough, and the message gives its place and both numbers."""
    theta = RNG.standard_normal((2, 3)) + 2
    dtheta = slopes(theta)
    dtheta[k] += 0.01
    with pytest.raises(AssertionError) as caught:
        check_gradient(squares, theta, dtheta)
    message = str(caught.value)
    assert f"at {list(k)} the formula gives {dtheta[k]:.6g}" in message
    assert "above 1e-07" in message
    assert check_gradient(squares, theta, dtheta, tol=0.1) > 1e-7


@pytest.mark.parametrize("wrong", [-1, 2, 0.5, 1 + 1e-5, 0, np.nan, np.inf])
def test_wrong_factors_are_found(wrong: float) -> None:
    """The sign, a factor, nothing at all, or no number."""
    theta = RNG.standard_normal(4)
    with pytest.raises(AssertionError), np.errstate(invalid="ignore"):
        check_gradient(squares, theta, wrong * slopes(theta))


def test_each_call_gets_its_own_array() -> None:
    """A cost that keeps its argument must not see it change afterwards."""
    kept: list[np.ndarray] = []
    theta = RNG.standard_normal(3)
    numerical_gradient(lambda t: kept.append(t) or 0.0, theta, h=0.5)
    moves = [np.abs(t - theta).max() for t in kept]
    assert np.allclose(moves, 0.5)


def test_an_agreement_of_zeros_is_none() -> None:
    """Zero beside zero says nothing about the formula."""
    with pytest.raises(ValueError, match="choose a point where f changes"):
        check_gradient(lambda theta: 1.0, np.ones(3), np.zeros(3))


def test_the_relative_error() -> None:
    """Beside the largest entry of both, from 0 to 2; NaN is never small."""
    a = np.array([1.0, -4.0])
    assert relative_error(a, a) == 0
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(a, -a) == 2
    assert relative_error(a, np.array([1.0, -5.0])) == 0.2
    assert relative_error(np.array([1.0, -5.0]), a) == 0.2
    assert np.isnan(relative_error(a, np.array([np.nan, 0])))


def test_float32_is_refused_with_the_remedy() -> None:
    """With our step, a float32 difference is rounding."""
    with pytest.raises(TypeError, match=r"float32; expected float64.*astype"):
        numerical_gradient(squares, np.ones(2, np.float32))
