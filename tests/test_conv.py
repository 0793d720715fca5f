"""All ways to compute a convolution agree, wherever its filter goes and its numbers lie."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from test_layers import (
    FLOOR,
    LAYOUTS,
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

from cnn import backend
from cnn.activations import relu, relu_backward
from cnn.backend import FAST, SMALL, use
from cnn.conv import IMPLEMENTATIONS, Conv2d, conv2d, conv2d_backward
from cnn.correlation import geometry, pad, windows
from cnn.correlation_grad import (
    conv2d_correlation_backward,
    conv2d_matrix,
    spread,
)
from cnn.dense import linear, linear_backward
from cnn.kernels_step import TWINS
from cnn.losses import cross_entropy_and_gradient, cross_entropy_backward
from cnn.network import Flatten, Linear, ReLU, Sequential, rows
from cnn.optimizers import Adam, adam_update

rows_compiled, adam_compiled = TWINS[rows], TWINS[adam_update]
linear_compiled, linear_compiled_backward = TWINS[linear], TWINS[linear_backward]
relu_compiled, relu_compiled_backward = TWINS[relu], TWINS[relu_backward]
cross_entropy_compiled = TWINS[cross_entropy_and_gradient]

needs_numba = pytest.mark.skipif(not FAST, reason="Numba is not installed")
if FAST:
    import numba


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine, thousands of small loops would spend their time waiting for a core."""
    if FAST:
        numba.set_num_threads(1)
    yield
    if FAST:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


# --- The ways ---


def by_matrix(
    x: np.ndarray, W: np.ndarray, b: np.ndarray, s: int, p: tuple[int, ...], d: int
) -> np.ndarray:
    """Multiply with the convolution's matrix."""
    g = geometry(x.shape[2:], W.shape[2:], s, p, d)
    z = x.reshape(len(x), -1) @ conv2d_matrix(W, x.shape[2:], s, p, d).T
    return z.reshape(len(x), len(W), g.h_out, g.w_out) + b[:, None, None]


def by_matrix_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, s: int, p: tuple[int, ...], d: int
) -> Arrays:
    """Multiply with its transpose; a weight collects from all its places in the matrix."""
    rows, size = dz.reshape(len(x), -1), x.shape[2:]
    number = conv2d_matrix(np.arange(1, W.size + 1).reshape(W.shape), size, s, p, d)
    dA, dW = rows.T @ x.reshape(len(x), -1), np.zeros(W.size + 1, W.dtype)
    np.add.at(dW, number[number > 0], dA[number > 0])
    dx = (rows @ conv2d_matrix(W, size, s, p, d)).reshape(x.shape)
    return dx, dW[1:].reshape(W.shape), dz.sum(axis=(0, 2, 3))


def by_windows(
    x: np.ndarray, W: np.ndarray, b: np.ndarray, s: int, p: tuple[int, ...], d: int
) -> np.ndarray:
    """Sum over a view of all windows."""
    f = W.shape[2:]
    g = geometry(x.shape[2:], f, s, p, d)
    z = np.einsum("nmacij,vmac->nvij", windows(pad(x, g), *f, g), W)
    return z + b[:, None, None]


WAYS: dict[str, tuple[Callable, Callable]] = {
    "auto": (conv2d, conv2d_backward),
    "numpy": (
        lambda *args: conv2d(*args, implementation="numpy"),
        lambda *args: conv2d_backward(*args, implementation="numpy"),
    ),
    **{k: pair for k, pair in IMPLEMENTATIONS.items() if FAST or k != "compiled"},
    "matrix": (by_matrix, by_matrix_backward),
    "correlation": (by_windows, conv2d_correlation_backward),
}
# the loops are right and slow, the matrix is large
SLOW = {"loops", "matrix"}
WHAT = ("z", "dx", "dW", "db")


def compute(
    name: str,
    case: Case,
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    dz: np.ndarray,
) -> Arrays:
    """Return z, dx, dW and db, computed in one of the ways."""
    forward, backward = WAYS[name]
    where = (case.s, case.p, case.d)
    return (forward(x, W, b, *where), *backward(dz, x, W, *where))


def assert_agree(
    names: set[str] | dict[str, object],
    case: Case,
    dtype: type,
    expected: Arrays | None = None,
) -> None:
    """Compare the named ways with what is expected, by default what PyTorch computes."""
    arrays = case.arrays()
    expected = autograd(case, *arrays) if expected is None else expected
    arrays = tuple(a.astype(dtype) for a in arrays)
    for name in names:
        result = compute(name, case, *arrays)
        for what, a, e in zip(WHAT, result, expected, strict=True):
            assert a.dtype == dtype, f"{name}: {what} is {a.dtype}"
            what = f"{name}: {what} of {case}"
            assert_close(a, e, TOLERANCE[dtype], what, FLOOR[dtype])


# --- Against PyTorch, and against each other ---


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("regime", REGIMES)
@given(data=st.data())
@runs(25)
def test_every_way_equals_autograd(
    regime: str, dtype: type, data: st.DataObject
) -> None:
    """A wrong index, rotation, crop or remainder would differ, and a hidden float64 show."""
    assert_agree(WAYS.keys() - {"loops"}, draw_case(data, regime), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@given(case=cases(slack=st.integers(0, 2), most=2))
@runs(25)
def test_the_literal_loops_equal_autograd(dtype: type, case: Case) -> None:
    """The reference itself could be wrong, and everything measured by it."""
    assert_agree({"loops"}, case, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@given(case=cases(f=st.integers(1, 3), slack=st.integers(0, 2), most=11))
@runs(40)
def test_many_channels_equal_autograd(dtype: type, case: Case) -> None:
    """A program that takes four channels at a time may lose the fifth, or the ninth image."""
    assert_agree(WAYS.keys() - SLOW, case, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("N", [301, 512, 1100, 2500])
def test_a_large_batch_equals_autograd(N: int, s: int, dtype: type) -> None:
    """A long row is cut into pieces: the seam between them, and the last one, are suspect.

    With 512 images rows lie a multiple of 2 048 bytes apart. From
    1 025 on a piece of dx is a single pixel; with 2 500 that is more than a piece of z.
    """
    size = (9, 12) if N < 1000 else (4, 5)
    case = Case(N, 2, 5, size, (3, 2), s, 1, (1, 0, 2, 1), 0)
    assert case.N * case.size[1] * case.C_in >= 2048
    assert_agree(WAYS.keys() - SLOW, case, dtype)


@pytest.mark.parametrize("regime", REGIMES)
@given(data=st.data())
@runs(20)
def test_every_way_is_exact_on_whole_numbers(regime: str, data: st.DataObject) -> None:
    """A way that is right only up to rounding would be caught out."""
    case = draw_case(data, regime, most=2)
    arrays = case.arrays(whole=True)
    expected = compute("loops", case, *arrays)
    for name in WAYS.keys() - {"loops"}:
        result = compute(name, case, *arrays)
        for what, a, e in zip(WHAT, result, expected, strict=True):
            np.testing.assert_array_equal(a, e, err_msg=f"{name}: {what}")


@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS.keys() & WAYS))
def test_the_gradient_by_the_input_can_be_spared(name: str) -> None:
    """Without dx the other two gradients must stay what they are."""
    x, W, _, dz = Case(2, 3, 4, (7, 6), (3, 2), 2, 1, (1, 0, 2, 1), 0).arrays()
    where = {"stride": 2, "padding": (1, 0, 2, 1), "implementation": name}
    _, *expected = conv2d_backward(dz, x, W, **where)
    dx, *gradients = conv2d_backward(dz, x, W, **where, input_gradient=False)
    assert dx is None
    for a, e in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(a, e)


# --- Memory order, and bits ---

# like the layouts, but of four axes: the orders in which the implementations leave their results
ORDERS = LAYOUTS | {
    "batch innermost": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0),
    "rows outermost": lambda a: (
        np.moveaxis(np.moveaxis(a, -2, 0).copy(), 0, -2) if a.ndim > 1 else a
    ),
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape),
}


@pytest.mark.parametrize(
    ("name", "order"), [("bands", (2, 3, 1, 0)), *[("compiled", (1, 2, 3, 0))] * FAST]
)
def test_results_lie_in_the_promised_order(name: str, order: tuple[int, ...]) -> None:
    """The next layer takes them without a copy only if they lie as it wants them."""
    case = Case(30, 2, 5, (9, 8), (3, 2), 2, 1, (1, 0, 2, 1), 0)
    z, dx, _, _ = compute(name, case, *(a.astype(np.float32) for a in case.arrays()))
    assert z.transpose(order).flags.c_contiguous
    assert dx.transpose(order).flags.c_contiguous


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16])
@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS.keys() & WAYS))
def test_numpys_small_integers_are_integers(name: str, kind: type) -> None:
    """In int8 a stride times a row's length is soon another number, and the loops look there."""
    case = Case(10, 1, 2, (20, 20), (3, 2), 2, 1, (1, 0, 2, 1), 0)
    arrays = case.arrays(whole=True)
    s, p, d = kind(case.s), tuple(map(kind, case.p)), kind(case.d)
    small = compute(name, case._replace(s=s, p=p, d=d), *arrays)
    expected = compute(name, case, *arrays)  # not what the small ones left in a cache
    for a, e in zip(small, expected, strict=True):
        np.testing.assert_array_equal(a, e)
    g = geometry((64, 64), (3, 3), 1, np.uint8(200))
    assert g.h_out == 462
    assert all(type(number) is int for number in g)
    assert spread(np.ones((1, 1, 100, 100)), kind(3)).shape == (1, 1, 298, 298)
    layer = Conv2d(kind(20), 2, kind(5), rng=np.random.default_rng(0))
    assert 0.9 < np.abs(layer.params["weight"]).max() * 500**0.5 <= 1


def test_a_geometry_is_remembered_and_stays_right() -> None:
    """Training asks a dozen times a step; what 1.0 or True left there would pass for 1."""
    where = ((9, 8), (3, 2), 2, (1, 0, 2, 1), 1)
    g = geometry(*where)
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(event))
    again = geometry(*where)
    sys.setprofile(None)
    assert again is g
    assert calls.count("call") <= 2
    assert geometry([9, 8], [3, 2], 2, [1, 0, 2, 1]) == g
    for wrong in (1.0, True, np.float64(1)):
        with pytest.raises(TypeError, match="dilation is"):
            geometry(*where[:-1], wrong)
    small = geometry(
        *where[:2], np.int8(2), tuple(map(np.uint8, where[3])), np.int16(1)
    )
    assert small == g
    assert all(type(number) is int for number in (*small, *geometry(*where)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", WAYS)
def test_the_order_in_memory_does_not_matter(name: str, order: str) -> None:
    """Strides taken for granted give wrong numbers; a write into an input is a surprise."""
    case = Case(3, 2, 5, (6, 5), (3, 2), 2, 1, (1, 0, 2, 1), 0)
    for dtype in (np.float64, np.float32, np.int64):
        arrays = [ORDERS[order](a.astype(dtype)) for a in case.arrays(whole=True)]
        plain = [np.array(a, order="C") for a in arrays]
        expected = compute(name, case, *plain)
        copies = [a.copy() for a in arrays]
        results = compute(name, case, *arrays)
        for a, copy in zip(arrays, copies, strict=True):
            np.testing.assert_array_equal(a, copy, err_msg="an input was changed")
        for a, e in zip(results, expected, strict=True):
            np.testing.assert_array_equal(a, e)
            assert not any(np.shares_memory(a, b) for b in arrays)


@pytest.mark.parametrize("name", WAYS)
def test_the_same_bits_twice(name: str) -> None:
    """If chance decided the order of a sum, no run could be repeated."""
    case = Case(40, 3, 5, (14, 14), (3, 3), 2, 1, (1, 0, 2, 1), 0)
    case = case._replace(N=2) if name in SLOW else case
    arrays = [a.astype(np.float32) for a in case.arrays()]
    first = compute(name, case, *arrays)
    if FAST:  # nor may it matter how many threads there are
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for _ in range(5):
        for a, e in zip(compute(name, case, *arrays), first, strict=True):
            np.testing.assert_array_equal(a, e)
    if FAST:
        numba.set_num_threads(1)


@needs_numba
def test_the_twins_give_the_same_bits_on_any_number_of_threads() -> None:
    """A sum that is cut where another core begins would depend on how many cores there are."""
    rng = np.random.default_rng(0)
    shapes = {"z": (50, 900), "q": (50, 700), "W": (900, 700), "b": (900,)}
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    z, q, W, b = arrays.values()

    def results() -> list[np.ndarray]:
        theta, m, v = W.copy(), 0 * W, W * W
        adam_compiled(theta, W, m, v, 3, 0.01, (0.9, 0.999), 1e-8)
        images = np.moveaxis(q.reshape(7, 10, 10, 50).repeat(2, 0), -1, 0)
        return [
            linear_compiled(q, W, b),
            *linear_compiled_backward(z, q, W),
            *linear_compiled_backward(z[:1], q[:1], W),
            relu_compiled(z),
            relu_compiled_backward(z, relu_compiled(z)),
            rows_compiled(images),
            *(theta, m, v),
        ]

    on_one = results()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    try:
        for _ in range(5):
            for a, e in zip(results(), on_one, strict=True):
                np.testing.assert_array_equal(a, e)
    finally:
        numba.set_num_threads(1)


@needs_numba
@pytest.mark.parametrize("shape", [(7, 3, 4, 5), (90, 8, 7, 7)])
def test_the_twin_of_rows(shape: tuple[int, ...]) -> None:
    """The dense loops take each image in one piece, wherever its pixels were before."""
    x = np.random.default_rng(0).standard_normal(shape)
    for order in ((0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 1, 0)):
        lies = np.moveaxis(x.transpose(order).copy(), range(4), order)
        q = rows_compiled(lies)
        np.testing.assert_array_equal(q, rows(lies))
        assert q.flags.c_contiguous


def network(dtype: type = np.float32) -> Sequential:
    """Return a small network with everything that has a faster twin."""
    to = {"rng": np.random.default_rng(0), "dtype": dtype}
    return Sequential(
        Conv2d(1, 4, 5, stride=2, **to), ReLU(), Conv2d(4, 6, 3, padding=1, **to), ReLU(),
        Flatten(), Linear(864, 30, **to), ReLU(), Linear(30, 10, **to),
    )  # fmt: skip


def train(implementation: str, dtype: type = np.float32) -> list[np.ndarray]:
    """Return the gradients of a first step, and the weights after three."""
    before = use(implementation)
    try:
        rng, net = np.random.default_rng(1), network(dtype)
        optimizer = Adam(net.params)
        x, y = rng.random((40, 1, 28, 28), dtype), rng.integers(0, 10, 40)
        gradients = []
        for _ in range(3):
            net.backward(cross_entropy_backward(net(x), y), input_gradient=False)
            gradients = gradients or [g.copy() for g in net.grads.values()]
            optimizer.step(net.grads)
    finally:
        use(before)
    return gradients + list(net.params.values())


@pytest.mark.parametrize(
    "name", ["auto", *sorted((WAYS.keys() & IMPLEMENTATIONS) - {"loops"})]
)
def test_training_is_repeatable(name: str) -> None:
    """Memory that is used again must not carry anything over from the first run."""
    for a, e in zip(train(name), train(name), strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
def test_a_network_does_not_see_who_computes(dtype: type) -> None:
    """A twin, or a way through the network's memory, that differs would change a gradient."""
    expected = train("im2col", dtype)
    half = len(expected) // 2
    for name in ("auto", "numpy", "bands", *["compiled"] * FAST):
        for a, e in zip(train(name, dtype)[:half], expected[:half], strict=True):
            assert_close(a, e, TOLERANCE[dtype], name)


# --- The twins ---

DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)


@DTYPES
@given(
    N=st.integers(1, 11),
    M_in=st.integers(1, 13),
    M_out=st.integers(1, 11),
    seed=st.integers(0, 99),
)
@runs(40)
def test_the_dense_twins(dtype: type, N: int, M_in: int, M_out: int, seed: int) -> None:
    """The rows and columns that are left over behind the last block of four are suspect."""
    rng = np.random.default_rng(seed)
    shapes = (N, M_in), (M_out, M_in), (M_out,), (N, M_out)
    q, W, b, dz = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    results = linear_compiled(q, W, b), *linear_compiled_backward(dz, q, W)
    expected = linear(q, W, b), *linear_backward(dz, q, W)
    for a, e in zip(results, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, e, TOLERANCE[dtype], floor=FLOOR[dtype])
    dq, *gradients = linear_compiled_backward(dz, q, W, False)
    assert dq is None
    for a, e in zip(gradients, results[2:], strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize(
    ("N", "M_in", "M_out"), [(7, 9, 5), (2, 2500, 9), (7, 2500, 9), (5, 512, 12)]
)
def test_the_dense_twins_on_whole_numbers(N: int, M_in: int, M_out: int) -> None:
    """On whole numbers a twin is equal, or wrong; also where rows are cut, or lie crowded."""
    rng = np.random.default_rng(0)
    shapes = (N, M_in), (M_out, M_in), (M_out,), (N, M_out)
    q, W, b, dz = (rng.integers(-9, 10, shape) for shape in shapes)
    results = linear_compiled(q, W, b), *linear_compiled_backward(dz, q, W)
    expected = linear(q, W, b), *linear_backward(dz, q, W)
    for a, e in zip(results, expected, strict=True):
        np.testing.assert_array_equal(a, e)


@DTYPES
@pytest.mark.parametrize("shape", [(1,), (3, 5), (5, 3, 4, 2), (3, 20_000), ()])
def test_the_twins_of_relu(shape: tuple[int, ...], dtype: type) -> None:
    """At zero, beyond a piece's end, and where a number is not finite."""
    rng = np.random.default_rng(0)
    z, dq = (rng.integers(-2, 3, shape).astype(dtype) for _ in range(2))
    if z.size > 9:
        z.flat[:5] = -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).tiny
        dq.flat[5:9], z.flat[5:9] = (np.inf, np.nan, np.inf, np.nan), (-1, -1, 1, 1)
    q = relu_compiled(z)
    np.testing.assert_array_equal(q, relu(z))
    dz = relu_compiled_backward(dq, q)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(dz, relu_backward(dq, q))
    assert q.dtype == dz.dtype == dtype


@DTYPES
@pytest.mark.parametrize("count", [1, 4095, 9000])
def test_the_twin_of_adam(count: int, dtype: type) -> None:
    """It works in place, on the same memory as the other, and takes the same steps."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, count)).astype(dtype)
    ours, theirs = start.copy(), start.copy()
    for a in (ours, theirs):
        a[2:] = np.abs(a[2:])  # m, and v, which is a square
    for t in range(1, 5):
        g = rng.standard_normal(count).astype(dtype)
        for step, a in ((adam_compiled, ours), (adam_update, theirs)):
            step(a[0], g, a[2], a[3], t, 0.01, (0.9, 0.999), 1e-8)
        for k in (0, 2, 3):
            assert_close(ours[k], theirs[k], TOLERANCE[dtype])
    assert ours.dtype == dtype
    assert not np.array_equal(ours[0], start[0])


def twin_calls() -> dict[str, tuple[Callable[..., object], Arrays]]:
    """Return every compiled twin with arguments: whole numbers, as floats."""
    x, _, _, dz = (
        a.astype(float)
        for a in Case(3, 5, 6, (4, 5), (1, 1), 1, 1, (0,) * 4, 0).arrays(whole=True)
    )
    q, W, b, blame = x[:, :, 0, 0], dz[:, :5, 0, 0], dz[0, :3, 1, 1], x[:, :3, 0, 1]
    return {
        "linear_compiled": (linear_compiled, (q, W, b)),
        "linear_compiled_backward": (linear_compiled_backward, (blame, q, W)),
        "relu_compiled": (relu_compiled, (x,)),
        "relu_compiled_backward": (relu_compiled_backward, (x[::-1], x)),
        "relu_compiled of two axes": (relu_compiled, (q,)),
        "relu_compiled_backward of two axes": (relu_compiled_backward, (q[::-1], q)),
    }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", twin_calls())
def test_the_twins_take_any_order_in_memory(name: str, order: str) -> None:
    """One of two arguments may lie otherwise than the other, and none may be written to."""
    function, args = twin_calls()[name]
    for number in range(len(args)):
        given_args = [np.array(a, order="C") for a in args]
        given_args[number] = ORDERS[order](given_args[number])
        expected = function(*(np.array(a, order="C") for a in given_args))
        copies = [a.copy() for a in given_args]
        results = function(*given_args)
        for a, copy in zip(given_args, copies, strict=True):
            np.testing.assert_array_equal(a, copy, err_msg="an input was changed")
        as_tuple = [r if isinstance(r, tuple) else (r,) for r in (results, expected)]
        for a, e in zip(*as_tuple, strict=True):
            np.testing.assert_array_equal(a, e)
            assert not any(np.shares_memory(a, b) for b in given_args)


MEMORY: dict[str, Callable[[], np.ndarray]] = {
    "Fortran order": lambda: np.empty((6, 7), order="F"),
    "every other": lambda: np.empty((6, 14))[:, ::2],
    "backwards": lambda: np.empty((6, 7))[::-1],
    "misaligned": lambda: np.frombuffer(bytearray(337), offset=1).reshape(6, 7),
}


@pytest.mark.parametrize("order", MEMORY)
@pytest.mark.parametrize("number", range(4))
def test_adam_in_any_order_in_memory(number: int, order: str) -> None:
    """What is changed in place must be the array itself, never a copy of it."""
    rng = np.random.default_rng(0)
    expected = [np.abs(rng.standard_normal((6, 7))) for _ in range(4)]
    arrays = [a.copy() for a in expected]
    arrays[number] = MEMORY[order]()
    arrays[number][...] = expected[number]
    how = (3, 0.01, (0.9, 0.999), 1e-8)
    adam_update(*expected, *how)
    adam_compiled(*arrays, *how)
    for k in (0, 2, 3):
        assert_close(arrays[k], expected[k], 1e-10)


@needs_numba
@pytest.mark.parametrize("labels", [np.int64, np.uint8])
@pytest.mark.parametrize("scale", [1, 1000], ids=["ordinary", "overflowing"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_compiled_cost_equals_pytorchs(
    dtype: type, scale: float, labels: type
) -> None:
    """Without the shift it overflows, without 1/N or the label's 1 another network is trained."""
    rng = np.random.default_rng(0)
    wide = (scale * rng.standard_normal((60, 20))).astype(dtype)
    for z in (np.ascontiguousarray(wide[:, ::2]), wide[:, ::2], wide[::-1, :10]):
        y, before = rng.integers(0, 10, len(z)).astype(labels), z.copy()
        J, dz = cross_entropy_compiled(z, y)
        scores = torch.tensor(before, requires_grad=True)
        expected = torch.nn.functional.cross_entropy(
            scores, torch.tensor(y.astype(np.int64))
        )
        expected.backward()
        np.testing.assert_array_equal(z, before)
        assert J.dtype == dz.dtype == dtype
        assert_close(np.array(J), expected.detach().numpy(), TOLERANCE[dtype])
        assert_close(dz, scores.grad.numpy(), TOLERANCE[dtype])


# --- Who is chosen ---

LARGE, FEW = (30, 1, 29, 29), (2, 1, 9, 9)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the implementations that are called, forward and backward."""
    names: list[str] = []

    def spy(name: str, function: Callable) -> Callable:
        return lambda *args: (names.append(name), function(*args))[1]

    for name, pair in IMPLEMENTATIONS.items():
        monkeypatch.setitem(IMPLEMENTATIONS, name, tuple(spy(name, f) for f in pair))
    return names


def there_and_back(
    shape: tuple[int, ...], dtype: type = np.float32, **options: object
) -> None:
    """Call the two functions that choose."""
    x, W = np.zeros(shape, dtype), np.ones((2, 1, 9, 8), dtype)
    z = conv2d(x, W, W[:, 0, 0, 0].copy(), **options)
    conv2d_backward(z, x, W, **options)


def test_sizes_mean_what_they_say() -> None:
    """The tests below stand on it."""
    assert np.prod(FEW) < SMALL <= np.prod(LARGE)


def test_auto_chooses_by_size_and_dtype(called: list[str]) -> None:
    """A compiler started for one small image, or for whole numbers, keeps everybody waiting."""
    products = {"im2col", "bands"}
    for shape, dtype in ((FEW, np.float32), (FEW, np.float16), (LARGE, int)):
        called.clear()
        there_and_back(shape, dtype)
        assert set(called) <= products
        assert len(called) == 2
    for dtype in TOLERANCE:
        called.clear()
        there_and_back(LARGE, dtype)
        assert called == ["compiled"] * 2 if FAST else set(called) <= products


def test_use_changes_what_auto_means(called: list[str]) -> None:
    """It reaches the functions and the layers, but not who has named another way."""
    before = use("bands")
    try:
        assert before == "auto"
        there_and_back(LARGE)
        assert called == ["bands"] * 2
        layer = Conv2d(1, 2, 3, rng=np.random.default_rng(0))
        layer.backward(layer(np.ones(FEW, np.float32)))
        assert called[2:] == ["bands"] * 2
        layer.implementation = "im2col"
        layer.backward(layer(np.ones(FEW, np.float32)))
        there_and_back(FEW, implementation="loops")
        assert called[4:] == ["im2col"] * 2 + ["loops"] * 2
        assert use("numpy") == "bands"
        there_and_back(LARGE)
        assert set(called[8:]) <= {"im2col", "bands"}
    finally:
        assert use(before) in ("bands", "numpy")


def test_a_new_implementation_takes_part(called: list[str]) -> None:
    """The table is the seam: one line in it is all."""
    IMPLEMENTATIONS["mine"] = IMPLEMENTATIONS["im2col"]
    try:
        there_and_back(LARGE, implementation="mine")
        layer = Conv2d(1, 2, 3, rng=np.random.default_rng(0), implementation="mine")
        layer(np.ones(FEW, np.float32))
    finally:
        del IMPLEMENTATIONS["mine"]
    assert called == ["im2col"] * 3
    with pytest.raises(ValueError, match="'mine'"):
        layer(np.ones(FEW, np.float32))


def test_a_layer_is_written_as_it_is_made() -> None:
    """A checkpoint compares these texts: another one would refuse its own network."""
    where = "stride=2, padding=(1, 0, 2, 1), dilation=3"
    layer = Conv2d(1, 4, [5, 3], 2, (1, 0, 2, 1), 3, rng=np.random.default_rng(0))
    assert repr(layer) == f"Conv2d(1, 4, kernel_size=(5, 3), {where})"
    assert layer.where == {"stride": 2, "padding": (1, 0, 2, 1), "dilation": 3}


DOORS = (rows, linear, linear_backward, relu, relu_backward, cross_entropy_and_gradient)


def plain() -> list[bool]:
    """Return of each door, and of Adam's rule, whether the function of its chapter is behind."""
    behind = [door.behind.__code__.co_name == door.__name__ for door in DOORS]
    return [*behind, Adam.rule is adam_update]


@needs_numba
def test_use_puts_the_twins_in_and_takes_them_out() -> None:
    """With "numpy" no compiled loop may be left, or a comparison of the two is void."""
    assert not any(plain())
    for name, theirs in {
        "numpy": False, "compiled": True, "im2col": False, "auto": True, "loops": False,
    }.items():  # fmt: skip
        use(name)
        assert plain() == [not theirs] * (len(DOORS) + 1), name
    use()
    assert not any(plain())


@needs_numba
def test_small_arrays_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for ``linear`` looks at its arguments before it wakes a second core."""
    woken = []
    monkeypatch.setitem(backend.twins(), linear, lambda *a: woken.append(a))
    for count, dtype in ((4, np.float32), (4, np.float16), (800, int)):
        q = np.ones((count, 100), dtype)
        np.testing.assert_array_equal(linear(q, q[:2], q[0, :2]), 101)
    assert not woken
    q = np.ones((800, 100), np.float32)
    linear(q, q[:2], q[0, :2])
    assert len(woken) == 1


def test_what_can_not_be_used_changes_nothing() -> None:
    """After an error all must be as before."""
    before = plain()
    for wrong in ("fft", "", "Compiled", None, 3, ["numpy"]):
        with pytest.raises(ValueError, match="expected one of auto, numpy, loops"):
            use(wrong)
    assert use() == "auto"
    assert plain() == before


# --- Without Numba, and with it for the first time ---

WITHOUT = """
import sys
sys.modules["numba"] = None
import numpy as np
import cnn
from cnn.backend import FAST, SMALL, use
from cnn.conv import Conv2d, conv2d, conv2d_backward
from cnn.correlation import conv2d_loops

from cnn.dense import linear
from cnn.optimizers import adam_update


def plain():
    return linear.behind.__name__ == "linear" and cnn.Adam.rule is adam_update


assert not FAST and plain()
rng = np.random.default_rng(0)
x, y = rng.random((32, 1, 28, 28), np.float32), rng.integers(0, 10, 32)
assert x.size >= SMALL
net = cnn.deep_cnn(rng=rng)
J = [cnn.train_step(net, optimizer, x, y) for optimizer in [cnn.Adam(net.params)] * 9]
assert J[-1] < J[0]

W, b = net.params["0.weight"], net.params["0.bias"]
for call in (
    lambda: use("compiled"),
    lambda: conv2d(x, W, b, implementation="compiled"),
    lambda: conv2d_backward(conv2d(x, W, b), x, W, implementation="compiled"),
    lambda: Conv2d(1, 2, 3, rng=rng, implementation="compiled")(x),
):
    try:
        call()
    except ModuleNotFoundError as err:
        assert "pip install 'cnn-from-first-principles[fast]'" in str(err), err
    else:
        raise AssertionError("no error")
assert use("numpy") == "auto" and use() == "numpy" and plain()

from cnn.kernels import conv2d_compiled

x, W, b = (rng.integers(-9, 10, shape) for shape in ((2, 2, 6, 5), (5, 2, 3, 2), 5))
where = 2, (1, 0, 2, 1), 1
assert np.array_equal(conv2d_compiled(x, W, b, *where), conv2d_loops(x, W, b, *where))
"""


def test_without_numba_everything_works_but_one() -> None:
    """NumPy is all that the package needs; what is missing is told by who asks for it."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


BROKEN = """
import warnings
import numpy as np
import cnn
from cnn.backend import use

rng = np.random.default_rng(0)
x, y = rng.random((32, 1, 28, 28), np.float32), rng.integers(0, 10, 32)
net = cnn.deep_cnn(rng=rng)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        cnn.train_step(net, cnn.Adam(net.params), x, y)
(warning,) = caught
assert "NumPy computes instead: Numba needs another NumPy" in str(warning.message)
try:
    use("compiled")
except ModuleNotFoundError as err:
    assert "can't be loaded" in str(err), err
else:
    raise AssertionError("no error")
"""


def test_a_numba_that_does_not_work_is_done_without(tmp_path: Path) -> None:
    """A new NumPy is often out before the Numba that fits it."""
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs another NumPy')")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", BROKEN], env=env, check=True)


FORKED = """
import os
import numpy as np
import cnn
from cnn.backend import use

rng = np.random.default_rng(0)
net = cnn.deep_cnn(rng=rng)
x = rng.random((32, 1, 28, 28), np.float32)
z = net(x)
child = os.fork()
if not child:
    same = np.allclose(net(x), z, atol=1e-5)
    use("auto")
    told = 0
    W, b = net.params["0.weight"], net.params["0.bias"]
    named = lambda: cnn.conv2d(x, W, b, implementation="compiled")
    for call in (lambda: use("compiled"), named):
        try:
            call()
        except ModuleNotFoundError as err:
            told += "is a fork of" in str(err)
    os._exit(0 if same and np.array_equal(net(x), net(x)) and told == 2 else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert use() == "auto"
assert np.array_equal(net(x), z)
"""


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_computes_too() -> None:
    """The threads don't come along: a compiled loop would wait for them, or end the process."""
    subprocess.run([sys.executable, "-c", FORKED], check=True)


FIRST = """
import numpy as np
from cnn import ReLU
layer = ReLU()
layer.backward(layer(np.ones(600, np.float32)))
"""


def standard_error(cache: Path, terminal: bool) -> str:
    """Return what a program writes there, when its loops are compiled into this folder."""
    pty = pytest.importorskip("pty")
    command = [sys.executable, "-c", FIRST]
    env = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    if not terminal:
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0
        assert not done.stdout
        return done.stderr
    ours, theirs = pty.openpty()
    done = subprocess.run(command, env=env, stderr=theirs, stdout=subprocess.PIPE)
    os.write(theirs, b"end")
    text = os.read(ours, 10_000).decode()
    os.close(ours), os.close(theirs)
    assert done.returncode == 0
    assert not done.stdout
    return text.removesuffix("end")


@needs_numba
def test_who_waits_at_a_terminal_is_told_why(tmp_path: Path) -> None:
    """Once, and only there: a log or a pipeline is not waiting for anything."""
    assert standard_error(tmp_path / "quiet", terminal=False) == ""
    said = standard_error(tmp_path / "loud", terminal=True)
    assert said.count("compiling") == 1
    assert said.count("\n") == 1
    assert standard_error(tmp_path / "loud", terminal=True) == ""


DOT = """
import numpy as np
from cnn.kernels_grad import _dot_taps
a, at = np.ones((1, 2), np.float32), np.zeros(1, np.int64)
_dot_taps(np.ones((1, 1), np.float32), a[0, :0], a.reshape(1, 1, 2), a[0], at, at)
"""
DENSE = """
import numpy as np
from cnn.dense import linear
from cnn.kernels_step import TWINS
TWINS[linear](*(np.ones(size, np.float32) for size in ((1, 2), (3, 2), 3)))
"""


@needs_numba
def test_what_comes_from_the_cache_finds_its_threads(tmp_path: Path) -> None:
    """The dense layer's loop is compiled where another process has left what it calls."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for program in (DOT, DENSE, DENSE):
        subprocess.run([sys.executable, "-c", program], env=env, check=True)
