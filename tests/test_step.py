"""What a training step is made of: few calls, and no float64."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numba
import numpy as np
import pytest

from cnn import kernels, kernels_grad, kernels_step
from cnn.backend import use
from cnn.models import deep_cnn
from cnn.optimizers import Adam, adam_update
from cnn.training import train_step

N = 200


@pytest.fixture(autouse=True)
def automatic() -> Iterator[None]:
    """Begin with what users have, and leave it as it was."""
    before = use("auto")
    yield
    use(before)


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((N, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, N)


def python_calls(f: Callable[[], object]) -> Counter[str]:
    """Return how often each function is called while ``f`` runs, by name."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls[frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        f()
    finally:
        sys.setprofile(None)
    return calls


def test_a_step_is_few_python_calls() -> None:
    """Between two compiled loops the other core has nothing to do; checks stand at the door."""
    x, y = batch()
    net = deep_cnn(rng=np.random.default_rng(0))
    optimizer = Adam(net.params)
    for _ in range(2):  # the first step makes lists that the others find
        train_step(net, optimizer, x[:100], y[:100])
    calls = python_calls(lambda: train_step(net, optimizer, x[:100], y[:100]))
    checks = sum(n for name, n in calls.items() if "check" in name or name == "_door")
    assert calls["_door"] >= 20, "the doors have another name now: count them anew"
    assert checks <= 40
    assert sum(calls.values()) <= 250


LOOPS = ["_add_1x1", "_add_1x4", "_add_4x4", "_dot_4x4"]
LOOPS += ["_clip", "_clip_piece", "_gate", "_gate_piece", "_move", "_move_piece"]
LOOPS += ["_sum", "_dense", "_dense_backward", "_softmax"]


@pytest.mark.parametrize("name", LOOPS)
def test_compiled_float32_stays_float32(name: str) -> None:
    """No number is widened on its way: one double among the factors halves the speed."""
    x, y = batch()
    net = deep_cnn(rng=np.random.default_rng(0))
    train_step(net, Adam(net.params), x, y)
    modules = (kernels, kernels_grad, kernels_step)
    function = next(vars(m)[name] for m in modules if name in vars(m))
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
    pair = numba.types.UniTuple(numba.float32, 2)
    return {
        "_add_1x1": (row, row, numba.float32),
        "_add_1x4": (row,) * 5 + (weights,),
        "_add_4x4": (row,) * 8 + (block,),
        "_dot_4x4": (
            numba.types.Array(numba.float32, 2, "C"),
            numba.types.Array(numba.float32, 3, "C"),
            row,
            *(numba.types.Array(numba.int64, 1, "C"),) * 2,
            *(numba.int64,) * 2,
        ),
        "_sum": (row,),
        "_clip_piece": (row,) * 2,
        "_gate_piece": (row,) * 3,
        "_move_piece": (*(row,) * 4, *(pair,) * 2, *(numba.float32,) * 3),
    }[function.py_func.__name__]


@pytest.mark.parametrize("size", [5, 600, 4096, 3 * 4096 + 5])
def test_adams_memory_has_the_same_bits_compiled_or_not(size: int) -> None:
    """No product is fused with a sum: which one would be, a compiler decides anew each time."""
    rng = np.random.default_rng(0)
    ours, theirs = [np.zeros((3, size), np.float32) for _ in range(2)]
    for t in range(1, 30):
        g = rng.standard_normal(size).astype(np.float32)
        for way, (theta, m, v) in (
            (kernels_step.TWINS[adam_update], ours),
            (adam_update, theirs),
        ):
            way(theta, g, m, v, t, 0.01, (0.9, 0.999), 1e-8)
    np.testing.assert_array_equal(ours[1:], theirs[1:])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-6)


CALLER_FIRST = """
import numpy as np
from cnn import kernels_step
from cnn.optimizers import adam_update

for size in (300_000, 600):  # the loop for many tasks is compiled first, and calls the other
    ours, theirs = [np.zeros((3, size), np.float32) for _ in range(2)]
    for t in range(1, 5):
        g = np.random.default_rng(t).standard_normal(size).astype(np.float32)
        kernels_step.TWINS[adam_update](ours[0], g, *ours[1:], t, 0.01, (0.9, 0.999), 1e-8)
        adam_update(theirs[0], g, *theirs[1:], t, 0.01, (0.9, 0.999), 1e-8)
    assert np.array_equal(ours[1:], theirs[1:]), size
"""


def test_the_order_of_compiling_changes_no_bits(tmp_path: Path) -> None:
    """Numba hands a caller's flags down to what it has to compile for it, and caches that."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", CALLER_FIRST], env=environment, check=True)


PAGES = """
from resource import RUSAGE_SELF, getrusage
import numpy as np
import cnn

rng = np.random.default_rng(0)
net = cnn.deep_cnn(rng=rng)
adam, x, y = cnn.Adam(net.params), rng.random((100, 1, 28, 28), np.float32), np.arange(100) % 10
for t in range(30):
    if t == 20:
        before = getrusage(RUSAGE_SELF).ru_minflt
    cnn.train_step(net, adam, x, y)
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="another C library",
)
def test_a_step_finds_the_memory_of_the_last_one() -> None:
    """Else the system hands out hundreds of fresh pages for each step."""
    command = [sys.executable, "-c", PAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200
