"""Pooling computes what PyTorch computes: the number, the winner, the blame, for every geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st
from test_layers import (
    LAYOUTS,
    TOLERANCE,
    Arrays,
    Twins,
    assert_close,
    assert_twins,
    runs,
)

from cnn.conv import Conv2d
from cnn.network import Flatten, Linear, ReLU, Sequential
from cnn.pooling import (
    AvgPool2d,
    GlobalAvgPool2d,
    MaxPool2d,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    pool_geometry,
    window_counts,
)

F = torch.nn.functional


class Case(NamedTuple):
    """The sizes of a pooling, and the seed of its numbers."""

    shape: tuple[int, int, int, int]
    f: tuple[int, int]
    s: int
    p: tuple[int, ...]
    ceil: bool
    seed: int

    @property
    def where(self) -> dict[str, object]:
        """The keyword arguments that say where the window goes."""
        p = {"padding": self.p, "ceil_mode": self.ceil}
        return {"kernel_size": self.f, "stride": self.s, **p}

    @property
    def out(self) -> tuple[int, ...]:
        """The output's shape."""
        g = pool_geometry(self.shape[2:], **self.where)[2]
        return (*self.shape[:2], g.h_out, g.w_out)

    def arrays(self, most: int = 0) -> Arrays:
        """Return x and dy: whole numbers, x up to ``most`` in size, or normal ones for 0."""
        rng = np.random.default_rng(self.seed)
        if most:
            x = rng.integers(-most, most + 1, self.shape)
            return x, rng.integers(-9, 10, self.out)
        return rng.standard_normal(self.shape), rng.standard_normal(self.out)


def exists(case: Case) -> bool:
    """Whether PyTorch knows this pooling, and a window fits."""
    x = torch.zeros(case.shape)
    try:
        F.max_pool2d(x, case.f, case.s, case.p, 1, case.ceil)
    except RuntimeError:
        return False
    return True


@st.composite
def cases(draw: st.DrawFn, sides: int = 2) -> Case:
    """Draw a case; with two sides, one that PyTorch has as well."""
    f = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    most = [n // 2 if sides == 2 else n - 1 for n in f for _ in range(sides // 2)]
    p = tuple(draw(st.integers(0, n)) for n in most)
    shape = tuple(draw(st.integers(1, n)) for n in (2, 3, 9, 9))
    s, ceil, seed = (
        draw(st.integers(1, 6)),
        draw(st.booleans()),
        draw(st.integers(0, 99)),
    )
    return Case(shape, f, s, p, ceil, seed)


def torch_pool(
    pool: Callable[..., torch.Tensor], x: np.ndarray, dy: np.ndarray
) -> Arrays:
    """Return whatever a pooling of PyTorch returns for x, and the gradient by x."""
    tx = torch.tensor(x, requires_grad=True)
    y, *rest = pool(tx)
    y.backward(torch.tensor(dy))
    return (y.detach().numpy(), *(a.numpy() for a in rest), tx.grad.numpy())


def places(winners: np.ndarray, case: Case) -> np.ndarray:
    """Turn places in the window to PyTorch's indices: places in the image, row after row."""
    _, f_w, g = pool_geometry(case.shape[2:], **case.where)
    i, j = np.mgrid[: g.h_out, : g.w_out]
    h = g.s * i + winners // f_w - g.top
    return h * case.shape[3] + g.s * j + winners % f_w - g.left


# --- Against PyTorch ---


@given(case=cases())
@runs(150)
def test_the_same_windows_exist(case: Case) -> None:
    """A window too many or too few, or one in the padding alone, would be another pooling."""
    x = np.zeros(case.shape)
    if not exists(case):
        with pytest.raises(ValueError, match="spans"):
            max_pool2d(x, **case.where)
    else:
        y = F.max_pool2d(torch.tensor(x), case.f, case.s, case.p, 1, case.ceil)
        assert case.out == tuple(y.shape)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@given(case=cases())
@runs(150)
def test_max_pooling_equals_autograd(dtype: type, case: Case) -> None:
    """With so few numbers there are ties in nearly every window: another winner would show."""
    assume(exists(case))
    x, dy = (a.astype(dtype) for a in case.arrays(most=2))
    y, winners = max_pool2d(x, **case.where)
    dx = max_pool2d_backward(dy, x, winners, **case.where)
    result = y, places(winners, case), dx

    def pool(tx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.max_pool2d(
            tx, case.f, case.s, case.p, 1, case.ceil, return_indices=True
        )

    for a, e in zip(result, torch_pool(pool, x, dy), strict=True):
        np.testing.assert_array_equal(a, e)
    assert y.dtype == dx.dtype == dtype


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@given(case=cases())
@runs(150)
def test_average_pooling_equals_autograd(
    dtype: type, include: bool, case: Case
) -> None:
    """Another divisor at an edge, in a corner or where a window sticks out would differ."""
    assume(exists(case))
    x, dy = case.arrays()
    where = case.where | {"count_include_pad": include}

    def pool(tx: torch.Tensor) -> tuple[torch.Tensor]:
        return (F.avg_pool2d(tx, case.f, case.s, case.p, case.ceil, include),)

    expected = torch_pool(pool, x, dy)
    x, dy = x.astype(dtype), dy.astype(dtype)
    result = avg_pool2d(x, **where), avg_pool2d_backward(dy, x, **where)
    for a, e in zip(result, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, e, TOLERANCE[dtype], floor=1.0)


@given(case=cases(), count=st.integers(1, 20))
@runs(60)
def test_what_is_not_finite_is_passed_on(case: Case, count: int) -> None:
    """A NaN that disappears hides the mistake that made it; -inf must not lose to the padding."""
    assume(exists(case))
    x, dy = case.arrays()
    at = np.random.default_rng(case.seed + 1).integers(0, x.size, count)
    for value in (np.nan, -np.inf, np.inf):
        x.flat[at] = value
        y, winners = max_pool2d(x, **case.where)
        expected = F.max_pool2d(
            torch.tensor(x), case.f, case.s, case.p, 1, case.ceil, return_indices=True
        )
        for a, e in zip((y, places(winners, case)), expected, strict=True):
            np.testing.assert_array_equal(a, e)
        dx = max_pool2d_backward(dy, x, winners, **case.where)
        assert_close(dx.sum(axis=(2, 3)), dy.sum(axis=(2, 3)), 1e-10, floor=1.0)
        y = avg_pool2d(x, **case.where)
        expected = F.avg_pool2d(torch.tensor(x), case.f, case.s, case.p, case.ceil)
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int8, np.uint8])
def test_the_lowest_number_beats_the_padding(dtype: type) -> None:
    """A window of nothing but the lowest number must have its winner in the image."""
    lowest = -np.inf if dtype == np.float64 else np.iinfo(dtype).min
    x = np.full((1, 1, 4, 5), lowest, dtype)
    case = Case(x.shape, (3, 3), 2, (1, 2, 2, 1), True, 0)
    y, winners = max_pool2d(x, **case.where)
    assert (y == lowest).all()
    assert y.dtype == dtype
    _, _, g = pool_geometry(x.shape[2:], **case.where)
    first = [
        max(0, 2 * i - 1) * 5 + max(0, 2 * j - 2)
        for i, j in np.ndindex(winners.shape[2:])
    ]
    np.testing.assert_array_equal(places(winners, case).ravel(), first)
    dx = max_pool2d_backward(np.ones_like(y), x, winners, **case.where)
    assert dx.sum() == y.size


# --- Against the definition, where PyTorch has no such padding ---


def by_definition(case: Case, x: np.ndarray, dy: np.ndarray, include: bool) -> Arrays:
    """Return maxima, winners' places and gradient, then means and gradient, pixel by pixel."""
    *_, H, W = x.shape
    top, bottom, left, right = case.p
    m_top, m_bottom, m_left, m_right = case.p if include else (0, 0, 0, 0)
    y, where, mean = np.zeros(dy.shape), np.zeros(dy.shape, int), np.zeros(dy.shape)
    dx_max, dx_mean = np.zeros(x.shape), np.zeros(x.shape)
    for n, mu, i, j in np.ndindex(dy.shape):
        rows = range(case.s * i - top, case.s * i - top + case.f[0])
        columns = range(case.s * j - left, case.s * j - left + case.f[1])
        inside = [(h, w) for h in rows for w in columns if 0 <= h < H and 0 <= w < W]
        h, w = max(inside, key=lambda hw: x[n, mu, *hw])  # the first of several
        y[n, mu, i, j], where[n, mu, i, j] = x[n, mu, h, w], h * W + w
        dx_max[n, mu, h, w] += dy[n, mu, i, j]
        counted = sum(-m_top <= h < H + m_bottom for h in rows)
        counted *= sum(-m_left <= w < W + m_right for w in columns)
        mean[n, mu, i, j] = sum(x[n, mu, h, w] for h, w in inside) / counted
        for h, w in inside:
            dx_mean[n, mu, h, w] += dy[n, mu, i, j] / counted
    return y, where, dx_max, mean, dx_mean


@pytest.mark.parametrize("include", [True, False])
@given(case=cases(sides=4))
@runs(60)
def test_four_sides_of_padding(include: bool, case: Case) -> None:
    """PyTorch pads alike on both sides, half a window at most: beyond, only the definition."""
    try:
        x, dy = (a.astype(float) for a in case.arrays(most=3))
    except ValueError:  # no window fits
        return
    y, winners = max_pool2d(x, **case.where)
    averaging = case.where | {"count_include_pad": include}
    result = (
        y,
        places(winners, case),
        max_pool2d_backward(dy, x, winners, **case.where),
        avg_pool2d(x, **averaging),
        avg_pool2d_backward(dy, x, **averaging),
    )
    for a, e in zip(result, by_definition(case, x, dy, include), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


@given(case=cases(sides=4))
@runs(40)
def test_whole_numbers_stay_whole(case: Case) -> None:
    """The maximum of integers, and the blame for it, need no rounding at all."""
    try:
        x, dy = case.arrays(most=3)
    except ValueError:
        return
    results = []
    for dtype in (np.int64, np.float64):
        a, da = x.astype(dtype), dy.astype(dtype)
        y, winners = max_pool2d(a, **case.where)
        dx = max_pool2d_backward(da, a, winners, **case.where)
        assert y.dtype == dx.dtype == dtype
        results.append((y, winners, dx))
    for a, e in zip(*results, strict=True):
        np.testing.assert_array_equal(a, e)


@given(case=cases())
@runs(40)
def test_counts_are_the_divisors(case: Case) -> None:
    """On a white image, without counting the padding, every mean is one."""
    assume(exists(case))
    white = np.ones(case.shape)
    y = avg_pool2d(white, **case.where, count_include_pad=False)
    np.testing.assert_allclose(y, 1, rtol=1e-12)
    y = avg_pool2d(white, **case.where)
    real = window_counts(case.shape[2:], **case.where, count_include_pad=False)
    counts = window_counts(case.shape[2:], **case.where)
    np.testing.assert_allclose(y, np.broadcast_to(real / counts, y.shape), rtol=1e-12)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("pool", [lambda *a: max_pool2d(*a)[0], avg_pool2d])
def test_numpys_small_integers_are_integers(pool: Callable, kind: type) -> None:
    """The padding and the image's size, added in eight bits, are another number."""
    x = np.random.default_rng(0).random((1, 1, 200, 200))
    for where in ((100, 100, 40), (3, 2, 1)):
        np.testing.assert_array_equal(pool(x, *map(kind, where)), pool(x, *where))


def test_the_stride_defaults_to_the_window() -> None:
    """The convolution's default, 1, would give a far larger image."""
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 7))
    for f in (1, 2, 3):
        np.testing.assert_array_equal(max_pool2d(x, f)[0], max_pool2d(x, f, f)[0])
        np.testing.assert_array_equal(avg_pool2d(x, f), avg_pool2d(x, f, f))


# --- The layers ---

nn = torch.nn
LAYERS: dict[str, Callable[..., Twins]] = {
    "MaxPool2d": lambda f, s, **to: (
        MaxPool2d(f, s, f // 2, ceil_mode=True),
        nn.MaxPool2d(f, s, f // 2, ceil_mode=True),
        (2, 9, 8),
    ),
    "MaxPool2d by default": lambda f, s, **to: (
        MaxPool2d(f),
        nn.MaxPool2d(f),
        (s, 9, 7),
    ),
    "AvgPool2d": lambda f, s, **to: (
        AvgPool2d((f, 2), s, (f // 2, 1), True, False),
        nn.AvgPool2d((f, 2), s, (f // 2, 1), True, False),
        (2, 9, 8),
    ),
    "AvgPool2d by default": lambda f, s, **to: (
        AvgPool2d(f),
        nn.AvgPool2d(f),
        (s, 9, 7),
    ),
    "GlobalAvgPool2d": lambda f, s, **to: (
        GlobalAvgPool2d(),
        nn.AdaptiveAvgPool2d(1),
        (3, f, s),
    ),
    "a network": lambda f, s, **to: (
        Sequential(
            Conv2d(1, 3, 3, padding=1, **to), ReLU(), MaxPool2d(3, 2, 1),
            Conv2d(3, 4, 2, **to), AvgPool2d(f, 1), GlobalAvgPool2d(), Flatten(),
            Linear(4, s, **to),
        ),
        nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(3, 4, 2), nn.AvgPool2d(f, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, s),
        ),
        (1, 12, 13),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", LAYERS)
@given(N=st.integers(1, 3), f=st.integers(1, 4), s=st.integers(1, 4))
@runs(16)
def test_layers_equal_their_twins(
    name: str, dtype: type, N: int, f: int, s: int
) -> None:
    """A layer that passes an argument on to the wrong place would differ from its twin."""
    layer, twin, shape = LAYERS[name](f, s, rng=np.random.default_rng(0), dtype=dtype)
    assert_twins(layer, twin, (N, *shape), dtype)


def test_a_layer_belongs_to_its_latest_input() -> None:
    """The winners of the batch before would hand the blame to the wrong pixels."""
    rng = np.random.default_rng(0)
    layer, dy = MaxPool2d(2), rng.standard_normal((1, 1, 2, 2))
    first, second = rng.standard_normal((2, 1, 1, 4, 4))
    layer(first)
    layer(second)
    _, winners = max_pool2d(second, 2)
    np.testing.assert_array_equal(
        layer.backward(dy), max_pool2d_backward(dy, second, winners, 2)
    )


def test_a_layer_is_written_as_it_is_made() -> None:
    """A checkpoint compares these texts: another one would refuse its own network."""
    where = "kernel_size=(3, 2), stride=2, padding=(1, 0), ceil_mode=True"
    assert repr(MaxPool2d((3, 2), 2, (1, 0), True)) == f"MaxPool2d({where})"
    layer = AvgPool2d((3, 2), 2, (1, 0), True, False)
    assert repr(layer) == f"AvgPool2d({where}, count_include_pad=False)"
    assert repr(GlobalAvgPool2d()) == "GlobalAvgPool2d()"


# --- Memory layout ---


def calls() -> dict[str, tuple[Callable[..., object], Arrays]]:
    """Return every function that computes, with arguments: whole numbers, as floats."""
    case = Case((2, 3, 6, 7), (3, 2), 2, (1, 0, 1, 1), True, 0)
    x, dy = (a.astype(float) for a in case.arrays(most=3))
    _, winners = max_pool2d(x, **case.where)

    def everything(x: np.ndarray, dy: np.ndarray) -> Arrays:
        layer = GlobalAvgPool2d()
        return layer(x), layer.backward(dy)

    return {
        "max_pool2d": (lambda x: max_pool2d(x, **case.where), (x,)),
        "max_pool2d_backward": (
            lambda dy, x, winners: max_pool2d_backward(dy, x, winners, **case.where),
            (dy, x, winners),
        ),
        "avg_pool2d": (lambda x: avg_pool2d(x, **case.where), (x,)),
        "avg_pool2d_backward": (
            lambda dy, x: avg_pool2d_backward(dy, x, **case.where),
            (dy, x),
        ),
        "GlobalAvgPool2d": (everything, (x, x[:, :, :1, :1].copy())),
        "windows of one pixel": (lambda x: max_pool2d(x, 1), (x,)),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", calls())
def test_memory_layout_does_not_matter(name: str, layout: str) -> None:
    """Strides taken for granted give wrong numbers; a write into an input is a surprise."""
    function, args = calls()[name]
    expected = function(*args)
    given_args = [LAYOUTS[layout](a) for a in args]
    copies = [a.copy() for a in given_args]
    results = function(*given_args)
    for a, copy in zip(given_args, copies, strict=True):
        np.testing.assert_array_equal(a, copy, err_msg="an input was changed")
    as_tuple = [r if isinstance(r, tuple) else (r,) for r in (results, expected)]
    for a, e in zip(*as_tuple, strict=True):
        assert_close(a, e, 1e-14)
        assert not any(np.shares_memory(a, b) for b in given_args), (
            "an input was returned"
        )
