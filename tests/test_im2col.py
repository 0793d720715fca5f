"""Columns and bands compute what PyTorch's autograd computes, in memory that is used again."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from test_layers import (
    REGIMES,
    Arrays,
    Case,
    assert_close,
    autograd,
    cases,
    draw_case,
    runs,
)

from cnn.correlation import conv2d_loops, geometry
from cnn.correlation_grad import conv2d_loops_backward, crop
from cnn.bands import choose, conv2d_bands, conv2d_bands_backward
from cnn.im2col import col2im, conv2d_im2col, conv2d_im2col_backward, im2col

module = sys.modules["cnn.im2col"]  # where a function of the same name does not hide it
RESULTS = ("z", "dx", "dW", "db")


def ways(case: Case) -> dict[str, tuple[Callable, Callable]]:
    """Return every way to compute the case: the two, and bands with each possible m."""
    w_out = geometry(case.size, case.f, **case.where).w_out
    pairs = {
        "im2col": (conv2d_im2col, conv2d_im2col_backward),
        "bands": (conv2d_bands, conv2d_bands_backward),
    }
    for m in range(1, w_out + 1):
        if w_out % m == 0:
            pairs[f"bands, m = {m}"] = (
                partial(conv2d_bands, m=m),
                partial(conv2d_bands_backward, m=m),
            )
    return pairs


def results(pair: tuple[Callable, Callable], case: Case, arrays: Arrays) -> Arrays:
    """Return z, dx, dW and db."""
    x, W, b, dz = arrays
    forward, backward = pair
    return forward(x, W, b, **case.where), *backward(dz, x, W, **case.where)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what is handed out with NaN, or with the largest integer: it must never be read."""

    def filled(shape: tuple[int, ...], dtype: type) -> np.ndarray:
        dtype = np.dtype(dtype)
        return np.full(
            shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).max, dtype
        )

    monkeypatch.setattr(module, "empty", filled)


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
    for name, pair in ways(case).items():
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
    for name, pair in ways(case).items():
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
    for pair in ways(case).values():
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
        for pair in ways(case).values():
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
    given = tuple((9 * a).astype(dtype) for a in BIG.arrays())
    dressed = tuple(DRESSED[dress](a) for a in given)
    for name, pair in ways(BIG).items():
        for what, a, e in zip(
            RESULTS, results(pair, BIG, dressed), results(pair, BIG, given), strict=True
        ):
            assert a.tobytes() == e.tobytes(), f"{name}: {what}"
        for a, e in zip(dressed, given, strict=True):
            assert a.tobytes() == e.tobytes(), f"{name} changed its input"


def test_the_same_call_gives_the_same_bits() -> None:
    """Whatever lay in the memory before, and wherever it is."""
    arrays = tuple(a.astype(np.float32) for a in BIG.arrays())
    for pair in ways(BIG).values():
        first = [a.tobytes() for a in results(pair, BIG, arrays)]
        for size in (2**17, 2**18, 2**20):
            empty((size,), np.float32)[...] = np.nan
        assert [a.tobytes() for a in results(pair, BIG, arrays)] == first


def test_a_result_is_never_overwritten() -> None:
    """Each result of each call must outlive all the calls after it."""
    case = BIG._replace(N=100)
    for pair in ways(case).values():
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
    for _, backward in ways(BIG).values():
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
        for pair in list(ways(case).values())[:3]:
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


# --- Memory that is used again ---

SHAPE = (300, 400)


def address(a: np.ndarray) -> int:
    """Return where an array begins."""
    return a.__array_interface__["data"][0]


VIEWS: dict[str, Callable[[np.ndarray], object]] = {
    "itself": lambda a: a,
    "slice": lambda a: a[10:20, ::3],
    "reshaped": lambda a: a.reshape(2, -1).reshape(600, 200),
    "transposed": lambda a: a.T[5:][::-1],
    "one row": lambda a: a[7],
    "strided": lambda a: np.lib.stride_tricks.as_strided(a[1:], (3, 3), (8, 4)),
    "of another dtype": lambda a: a.view(np.int32)[3:],
    "asarray": lambda a: np.asarray(a)[...],
    "broadcast": lambda a: np.broadcast_to(a, (2, *SHAPE)),
    "iterator": lambda a: a.flat,
    "memoryview": lambda a: memoryview(a)[5:],
    "subclass": lambda a: a.view(np.matrix)[2:],
    "torch": lambda a: torch.from_numpy(a)[3:].T,
    "frombuffer": lambda a: np.frombuffer(a, np.float32)[9:],
    "in a cycle": lambda a: (box := [a[5:]], box.append(box))[0],
}


@pytest.mark.parametrize("view", VIEWS)
def test_memory_that_somebody_sees_is_not_handed_out(view: str) -> None:
    """A view alone must keep the block; when it is gone, the block must come back."""
    a = empty(SHAPE, np.float32)
    a[...] = 7
    start = address(a)
    held = VIEWS[view](a)
    del a
    gc.collect()
    others = [empty(SHAPE, np.float32) for _ in range(5)]
    assert start not in map(address, others)
    del held
    gc.collect()
    more = [empty(SHAPE, np.float32) for _ in range(50)]
    assert start in map(address, more)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "c16", "i1", "u8", "?", "O"])
def test_any_shape_and_dtype(dtype: str) -> None:
    """As np.empty, but aligned where it is large."""
    for shape in ((), 0, 5, (0, 7), (3, 0), 70_001, (1, 99_999), (np.int64(300), 301)):
        a = empty(shape, dtype)
        assert a.shape == np.empty(shape).shape
        assert a.dtype == np.dtype(dtype)
        assert a.flags.c_contiguous
        assert a.flags.writeable
        a[...] = 1
        assert (a == 1).all()
        if a.nbytes >= 2**16 and dtype != "O":
            assert address(a) % 64 == 0


def test_what_is_kept_is_bounded() -> None:
    """A pool that never forgets would be a leak; one array too large must not empty it."""
    pool = module._Pool(2**20)

    def make(size: int) -> np.ndarray:
        return pool.empty((size,), np.dtype(np.uint8), size)

    held = [make(200_000) for _ in range(3)]  # blocks of a quarter each
    assert pool.held() == 3 * 2**18
    del held[:2]
    assert pool.held() == 3 * 2**18  # two of them idle
    again = make(200_000)
    assert pool.held() == 3 * 2**18
    make(2**20)  # a block of twice the limit: not kept, and nothing is dropped for it
    assert pool.held() == 3 * 2**18
    large = make(400_000)  # there is room only in place of what lies idle
    assert pool.held() == 2**20
    del large
    crowd = [make(200_000) for _ in range(5)]
    assert pool.held() == 2**20
    for number, a in enumerate([*held, again, *crowd]):
        a[...] = number
    for number, a in enumerate([*held, again, *crowd]):
        assert (a == number).all()


@pytest.mark.parametrize("moment", [1, 2])
def test_an_interrupt_does_no_harm(
    moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come between any two steps; what it leaves behind must not stop the next call."""
    pool, calls = module._Pool(2**20), []

    def number(loan: object) -> int:
        calls.append(loan)
        if len(calls) == moment:
            raise KeyboardInterrupt
        return id(loan)

    def make() -> np.ndarray:
        return pool.empty((200_000,), np.dtype(np.uint8), 200_000)

    make()  # and let it die: one block lies idle
    monkeypatch.setattr(module, "id", number, raising=False)
    with pytest.raises(KeyboardInterrupt):
        make()
    monkeypatch.undo()
    held = [make() for _ in range(6)]
    for value, a in enumerate(held):
        a[...] = value
    assert all((a == value).all() for value, a in enumerate(held))
    assert pool.held() == 2**20


class _WhenCollected:
    """In a cycle, so that it ends when Python collects garbage: it then makes an array."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        empty(SHAPE, np.float32)[...] = 7


def test_an_array_may_die_while_another_is_made() -> None:
    """Python may collect garbage at any moment, also in the middle of ``empty``."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            _WhenCollected()
            a = empty(SHAPE, np.float32)
            a[...] = 3
            b = empty(SHAPE, np.float32)
            b[...] = 5
            assert (a == 3).all()
            del a, b
    finally:
        gc.set_threshold(*before)


def test_it_ends_in_silence() -> None:
    """Arrays that are alive when Python ends must not complain that the pool has gone."""
    code = (
        "import numpy as np; from cnn.im2col import empty\n"
        "kept = [empty((300, n), np.float32) for n in range(300, 310)]\n"
        "cycle = [kept[3][5:]]; cycle.append(cycle)\n"
        "del kept[:2]\n"
        "class Late:\n    a = empty((500, 500), float)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["im2col", "bands"])
def test_a_step_allocates_nothing_large(name: str) -> None:
    """New memory for each batch would be paid for by page faults."""
    case = Case(100, 4, 8, (28, 28), (5, 5), 2, 1, (2, 2, 2, 2), 0)
    arrays = tuple(a.astype(np.float32) for a in case.arrays())
    pair = ways(case)[name]
    for _ in range(2):
        results(pair, case, arrays)
    tracemalloc.start()
    try:
        results(pair, case, arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < arrays[0].nbytes / 5


# --- What it costs ---


def test_the_counts_are_right() -> None:
    """Operations as the equation has them; numbers as the arrays have them."""
    g = geometry((28, 28), (5, 5), 2, 2)
    products, operations, moved = cost("im2col", 32, (8, 4, 5, 5), g)[0]
    columns = 14 * 14 + 12  # rounded up to a multiple of sixteen
    assert products == 32
    assert operations == 32 * 8 * 100 * columns
    xbar, V, z = 32 * 4 * 32 * 32, 32 * 100 * 196, 32 * 8 * 196
    assert moved == xbar + V + z

    for m, k in ((1, 5), (2, 7), (7, 17), (14, 31)):
        products, operations, moved = module._bands_cost(32, (8, 4, 5, 5), g, m)
        assert products == 14 * 14 // m
        assert operations == 32 * 8 * 196 * 4 * 5 * k
        blocks = 14 // m * 32 * k * 4 * 32 if m < 14 else 0
        assert moved == 32 * 4 * 32 * 32 + blocks + 32 * 8 * 196


@pytest.mark.parametrize("way", ["im2col", "bands"])
def test_the_first_layer_costs_less(way: str) -> None:
    """Without dx the backward pass must be the cheaper one, and the forward pass as before."""
    g = geometry((14, 14), (3, 3), 1, 1)
    whole, part = (cost(way, 10, (8, 4, 3, 3), g, dx) for dx in (True, False))
    np.testing.assert_array_equal(whole[0], part[0])
    assert (whole[1] > part[1]).all()


def test_the_choice() -> None:
    """Many small images: bands. One image, or nothing to copy: im2col."""
    g = geometry((28, 28), (5, 5), 2, 2)
    assert choose(100, (8, 4, 5, 5), g) == "bands"
    assert choose(100, (8, 4, 5, 5), g, input_gradient=False) == "bands"
    assert choose(1, (8, 4, 5, 5), g) == "im2col"
    assert choose(100, (32, 16, 1, 1), geometry((14, 14), (1, 1))) == "im2col"


@given(case=cases())
@runs(60)
def test_every_layer_has_a_choice(case: Case) -> None:
    """The counts must be positive, and m must divide the outputs."""
    g = geometry(case.size, case.f, **case.where)
    shape = (case.C_out, case.C_in, *case.f)
    assert choose(case.N, shape, g) in ("im2col", "bands")
    for way in ("im2col", "bands"):
        assert (cost(way, case.N, shape, g) > 0).all()
    m, pixels = module._cheapest(case.N, shape, g)
    assert g.w_out % m == 0
    assert pixels % g.s == 0
