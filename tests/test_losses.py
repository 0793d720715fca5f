"""The cost: no score is too large for it, and what is wrong is reported with its place."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from cnn.losses import (
    cross_entropy,
    cross_entropy_and_gradient,
    cross_entropy_backward,
    error_rate,
    log_sum_exp,
    softmax,
)

Y = np.array([0, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1.0, 80.0, 1e4, 1e30])
def test_no_score_is_too_large(dtype: type, size: float) -> None:
    """Without the shift, infinity over infinity; in float32 from a score of 89 on."""
    z = (size * np.array([[1, 0, -1], [-1, 0, 1]])).astype(dtype)
    with np.errstate(all="raise", under="ignore"):
        P, J, dz = softmax(z), cross_entropy(z, Y), cross_entropy_backward(z, Y)
    assert P.dtype == dz.dtype == J.dtype == dtype
    assert np.allclose(P.sum(axis=1), 1)
    assert np.allclose(dz.sum(axis=1), 0, atol=1e-6)
    assert 0 <= J <= math.log(3) + 1e-6


@pytest.mark.parametrize("deficit", [100.0, 2000.0, 1e8])
def test_a_bold_mistake_costs_its_deficit(deficit: float) -> None:
    """A number added inside the logarithm would put a ceiling on the price."""
    assert cross_entropy(np.array([[0.0, deficit]]), np.array([0])) == deficit


def test_the_soft_maximum_is_between_its_bounds() -> None:
    """At least the largest score, at most log K more."""
    z = np.random.default_rng(0).standard_normal((20, 7))
    assert (log_sum_exp(z) > z.max(axis=1)).all()
    assert (log_sum_exp(z) < z.max(axis=1) + math.log(7)).all()
    assert log_sum_exp(np.zeros((1, 7)))[0] == pytest.approx(math.log(7), rel=1e-15)


def test_both_together_are_both() -> None:
    """The pair is a name, not another computation: the same bits."""
    z = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    J, dz = cross_entropy_and_gradient(z, Y)
    assert cross_entropy(z, Y) == J
    assert np.array_equal(dz, cross_entropy_backward(z, Y))


def test_ties_go_to_the_first_class() -> None:
    """A network that says nothing must not be called right."""
    assert error_rate(np.zeros((2, 3)), Y) == 0.5
    assert error_rate(np.eye(3)[Y], Y) == 0
    assert error_rate(-np.eye(3)[Y], Y) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("f", [cross_entropy, cross_entropy_backward, error_rate])
def test_the_first_broken_score_is_named(f: Callable, bad: float) -> None:
    """In the mean it would be NaN, and nobody could say whose."""
    z = np.zeros((2, 3))
    z[1, 0] = z[1, 2] = bad
    with pytest.raises(FloatingPointError) as caught:
        f(z, Y)
    assert f"z[1, 0] is {bad} (2 of 6 not finite)" in str(caught.value)
    assert "learning rate" in str(caught.value)


def test_arguments_stay_as_they_are() -> None:
    """A training step uses its scores again."""
    z, y = np.ones((2, 3)), Y.copy()
    for f in (cross_entropy, cross_entropy_backward, error_rate):
        f(z, y)
    assert (z == 1).all()
    assert (y == Y).all()
