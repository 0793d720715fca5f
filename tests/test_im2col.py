"""Columns and bands compute what PyTorch's autograd computes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, strategies as st
from test_layers import (
    REGIMES,
    TOLERANCE,
    Arrays,
    Case,
    assert_close,
    autograd,
    cases,
    draw_case,
    runs,
)

from cnn.bands import choose, conv2d_bands, conv2d_bands_backward
from cnn.correlation import conv2d_loops, geometry
from cnn.correlation_grad import conv2d_loops_backward, crop
from cnn.im2col import col2im, conv2d_im2col, conv2d_im2col_backward, im2col

RESULTS = ("z", "dx", "dW", "db")


WAYS: dict[str, tuple[Callable, Callable]] = {
    "im2col": (conv2d_im2col, conv2d_im2col_backward),
    "bands": (conv2d_bands, conv2d_bands_backward),
}


def results(pair: tuple[Callable, Callable], case: Case, arrays: Arrays) -> Arrays:
    """Return z, dx, dW and db."""
    x, W, b, dz = arrays
    forward, backward = pair
    return forward(x, W, b, **case.where), *backward(dz, x, W, **case.where)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what ``np.empty`` hands out with NaN, or the largest integer: it must never be read."""

    def filled(shape: tuple[int, ...], dtype: type = float, **how: str) -> np.ndarray:
        dtype = np.dtype(dtype)
        most = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
        return np.full(shape, most, dtype, **how)

    monkeypatch.setattr(np, "empty", filled)


# --- The two ways ---


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("regime", REGIMES)
@given(data=st.data())
@runs(60)
def test_both_equal_autograd(regime: str, data: st.DataObject) -> None:
    """A wrong index, phase, crop or remainder would differ; what was never written is NaN."""
    case = draw_case(data, regime)
    arrays = case.arrays()
    expected = autograd(case, *arrays)
    for name, pair in WAYS.items():
        for what, a, e in zip(
            RESULTS, results(pair, case, arrays), expected, strict=True
        ):
            assert_close(a, e, 1e-10, f"{name}: {what}")


@given(case=cases())
@runs(60)
def test_single_precision_stays_single(case: Case) -> None:
    """A hidden float64, or a sum that loses digits, would show in dtype or value."""
    arrays = case.arrays()
    expected = autograd(case, *arrays)
    single = tuple(a.astype(np.float32) for a in arrays)
    for name, pair in WAYS.items():
        for what, a, e in zip(
            RESULTS, results(pair, case, single), expected, strict=True
        ):
            assert a.dtype == np.float32, f"{name}: {what}"
            assert_close(a, e, 1e-4, f"{name}: {what}", floor=1.0)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("regime", REGIMES)
@given(data=st.data())
@runs(15)
def test_both_are_exact_on_whole_numbers(regime: str, data: st.DataObject) -> None:
    """An implementation that is right only up to rounding would be caught out."""
    case = draw_case(data, regime, most=2)
    arrays = x, W, b, dz = case.arrays(whole=True)
    z, gradients = (
        conv2d_loops(x, W, b, **case.where),
        conv2d_loops_backward(dz, x, W, **case.where),
    )
    for pair in WAYS.values():
        for a, e in zip(results(pair, case, arrays), (z, *gradients), strict=True):
            np.testing.assert_array_equal(a, e)


def test_what_lies_outside_every_window() -> None:
    """Padding larger than the image, or no window on it at all, leaves blame of zero."""
    for size, f, s, p in (
        ((1, 1), 1, 7, 6),
        ((10, 9), 1, 30, 6),
        ((2, 2), 1, 3, 1),
        ((3, 4), 2, 9, 8),
    ):
        case = Case(2, 1, 2, size, (f, f), s, 1, (p, p, p, p), 0)
        arrays = x, W, b, dz = case.arrays(whole=True)
        expected = (
            conv2d_loops(x, W, b, **case.where),
            *conv2d_loops_backward(dz, x, W, **case.where),
        )
        for pair in WAYS.values():
            for a, e in zip(results(pair, case, arrays), expected, strict=True):
                np.testing.assert_array_equal(a, e)


def read_only(a: np.ndarray) -> np.ndarray:
    """Return a copy that is protected against writing."""
    a = a.copy()
    a.flags.writeable = False
    return a


def batch_last(a: np.ndarray) -> np.ndarray:
    """Return the array with its first axis innermost in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0)


DRESSED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran": np.asfortranarray,
    "reversed": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "read-only": read_only,
    "batch last": batch_last,
}
BIG = Case(30, 3, 4, (17, 15), (3, 4), 2, 1, (1, 0, 2, 1), 0)


@pytest.mark.parametrize("dress", DRESSED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, int])
def test_memory_order_changes_no_bit(dress: str, dtype: type) -> None:
    """Views must be read by their strides; what is passed in must stay what it is."""
    # the first NumPy 2 adds the products of such a view in another order
    first = np.lib.NumpyVersion(np.__version__) < "2.1.0"
    rounded = first and dress == "every second" and dtype is not int
    given = tuple((9 * a).astype(dtype) for a in BIG.arrays())
    dressed = tuple(DRESSED[dress](a) for a in given)
    for name, pair in WAYS.items():
        for what, a, e in zip(
            RESULTS, results(pair, BIG, dressed), results(pair, BIG, given), strict=True
        ):
            if rounded:
                assert_close(a, e, TOLERANCE[dtype], f"{name}: {what}")
            else:
                assert a.tobytes() == e.tobytes(), f"{name}: {what}"
        for a, e in zip(dressed, given, strict=True):
            assert a.tobytes() == e.tobytes(), f"{name} changed its input"


def test_the_same_call_gives_the_same_bits() -> None:
    """Whatever lay in the memory before, and wherever it is."""
    arrays = tuple(a.astype(np.float32) for a in BIG.arrays())
    for pair in WAYS.values():
        first = [a.tobytes() for a in results(pair, BIG, arrays)]
        for size in (2**17, 2**18, 2**20):
            np.empty(size, np.float32)[...] = np.nan
        assert [a.tobytes() for a in results(pair, BIG, arrays)] == first


def test_a_result_is_never_overwritten() -> None:
    """Each result of each call must outlive all the calls after it."""
    case = BIG._replace(N=100)
    for pair in WAYS.values():
        held, copies = [], []
        for seed in range(4):
            arrays = case._replace(seed=seed).arrays()
            held += results(pair, case, arrays)
            copies += [a.copy() for a in held[-4:]]
        for a, e in zip(held, copies, strict=True):
            np.testing.assert_array_equal(a, e)


@given(case=cases())
@runs(60)
def test_col2im_is_the_adjoint_of_im2col(case: Case) -> None:
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩: a lost or doubled path would break it."""
    g = geometry(case.size, case.f, **case.where)
    rng = np.random.default_rng(case.seed)
    x = rng.integers(-9, 10, (case.N, case.C_in, *case.size))
    y = rng.integers(-9, 10, (case.N, case.C_in, *case.f, g.h_out, g.w_out))
    Ax, ATy = im2col(x, *case.f, g), crop(col2im(y, g), x.shape, g)
    assert np.sum(Ax.reshape(y.shape) * y) == np.sum(x * ATy)


def test_first_layer_skips_its_input() -> None:
    """Without dx the other two gradients must stay what they are."""
    x, W, _, dz = BIG.arrays()
    for _, backward in WAYS.values():
        _, *expected = backward(dz, x, W, **BIG.where)
        dx, *gradients = backward(dz, x, W, **BIG.where, input_gradient=False)
        assert dx is None
        for a, e in zip(gradients, expected, strict=True):
            np.testing.assert_array_equal(a, e)


def test_threads_do_not_disturb_each_other() -> None:
    """Two threads that got the same block would overwrite each other's numbers."""
    case, wrong = BIG._replace(N=60), []

    def work(seed: int) -> None:
        arrays = case._replace(seed=seed).arrays(whole=True)
        for pair in WAYS.values():
            first = [a.tobytes() for a in results(pair, case, arrays)]
            for _ in range(5):
                if [a.tobytes() for a in results(pair, case, arrays)] != first:
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- The choice ---


def test_the_choice() -> None:
    """Many small images: bands. One image, a dilation, or nothing to copy: im2col."""
    W = np.zeros((8, 4, 5, 5))
    few, many = np.zeros((15, 4, 28, 28)), np.zeros((16, 4, 28, 28))
    assert choose(many, W, 1) == "bands"
    assert choose(few, W, 1) == "im2col"
    assert choose(many, W, 2) == "im2col"
    assert choose(many, W[:, :, :1, :1], 1) == "im2col"
    assert choose(many, W[:, :, :1], 1) == "bands"
