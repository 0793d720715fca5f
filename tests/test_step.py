"""What a training step leaves behind: no float64, and no memory that the step before had, too."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Iterator

import numba
import numpy as np
import pytest

from cnn import kernels
from cnn.backend import use
from cnn.conv import conv2d, conv2d_backward
from cnn.models import deep_cnn, simple_cnn
from cnn.network import Sequential
from cnn.optimizers import Adam
from cnn.training import train_step

N = 200  # smaller layers' outputs are left to NumPy, which gets memory of that size as fast
HIDDEN = N * 200 * 4  # bytes of the smallest output of a hidden layer, float32


@pytest.fixture(autouse=True)
def automatic() -> Iterator[None]:
    """Begin with what users have, and leave it as it was."""
    before = use("auto")
    yield
    use(before)


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((N, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, N)


def peak(f: Callable[[], object]) -> int:
    """Return by how many bytes the memory in use rises during a call, after some others."""
    for _ in range(4):
        f()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    f()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most - before


@pytest.mark.parametrize("make", [simple_cnn, deep_cnn])
def test_a_step_allocates_no_array_of_the_batch(
    make: Callable[..., Sequential],
) -> None:
    """What is as large as a hidden layer's output lies in memory that is used again."""
    x, y = batch()
    net = make(rng=np.random.default_rng(0))
    optimizer = Adam(net.params)
    assert peak(lambda: train_step(net, optimizer, x, y)) < HIDDEN
    assert peak(lambda: np.empty(HIDDEN, np.uint8)) >= HIDDEN, (
        "tracemalloc would not notice"
    )


@pytest.mark.parametrize("implementation", ["im2col", "bands", "compiled"])
def test_a_convolution_allocates_no_array_of_the_batch(implementation: str) -> None:
    """Columns, bands, padded images, outputs and gradients all lie in such memory."""
    rng = np.random.default_rng(1)
    x = rng.random((500, 4, 28, 28), dtype=np.float32)
    W = rng.random((8, 4, 5, 5), dtype=np.float32)
    how = {"stride": 2, "padding": 2, "implementation": implementation}
    b = np.zeros(8, np.float32)

    def both() -> None:
        z = conv2d(x, W, b, **how)
        conv2d_backward(z, x, W, **how)

    smallest = 500 * 8 * 14 * 14 * 4
    assert peak(both) < smallest / 2


LOOPS = ["_add_1x1", "_add_1x4", "_add_4x4", "_dot_4x4"]
LOOPS += ["_relu", "_relu_piece", "_gate", "_gate_piece", "_adam", "_adam_piece"]
LOOPS += ["_sum", "_dense", "_dense_backward", "_cross_entropy"]


@pytest.mark.parametrize("name", LOOPS)
def test_compiled_float32_stays_float32(name: str) -> None:
    """No number is widened on its way: one double among the factors halves the speed."""
    x, y = batch()
    net = deep_cnn(rng=np.random.default_rng(0))
    train_step(net, Adam(net.params), x, y)
    function = getattr(kernels, name)
    signatures = [
        s
        for s in function.signatures
        if "float32" in str(s) and "complex" not in str(s)
    ]
    for signature in signatures or [_row(function)]:
        assert "float64" not in str(signature)
        # what comes from the cache on disk cannot be looked into: compile it anew
        again = numba.jit(**function.targetoptions | {"parallel": False})(
            function.py_func
        )
        again.compile(signature)
        functions = again.inspect_llvm(signature).split("\ndefine ")
        # a number that is returned to Python becomes a double there: not that one
        loops = [f for f in functions[1:] if "cpython" not in f.partition("(")[0]]
        assert any("float" in f for f in loops)
        assert not any(re.search(r"\bfpext\b", f) for f in loops), (
            f"{name}: float32 is widened to float64"
        )


def _row(function: Callable) -> tuple:
    """Return float32 types for a function that this process has not called by itself."""
    row = numba.types.Array(numba.float32, 1, "C")
    block = numba.types.Array(numba.float32, 2, "A")
    weights = numba.types.Array(numba.float32, 1, "A")
    return {
        "_add_1x1": (row, row, numba.float32),
        "_add_1x4": (row,) * 5 + (weights,),
        "_add_4x4": (row,) * 8 + (block,),
        "_dot_4x4": (
            numba.types.Array(numba.float32, 2, "C"),
            numba.types.Array(numba.float32, 3, "C"),
            row,
            *(numba.types.Array(numba.int64, 1, "C"),) * 2,
            *(numba.int64,) * 4,
        ),
        "_sum": (row,),
        "_relu_piece": (row,) * 2,
        "_gate_piece": (row,) * 3,
        "_adam_piece": (row,) * 4 + (numba.float32,) * 5,
    }[function.py_func.__name__]
