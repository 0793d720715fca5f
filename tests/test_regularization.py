"""Dropout, batch normalisation and weight decay are PyTorch's, in both modes and when resumed."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from test_layers import (
    FLOOR,
    LAYOUTS,
    TOLERANCE,
    Arrays,
    assert_close,
    nn,
    runs,
)
from test_training import assert_same, assert_same_history, made_up, record_of

from cnn.batchnorm import (
    BatchNorm1d,
    BatchNorm2d,
    batch_norm,
    batch_norm_backward,
    moments,
)
from cnn.checkpoint import fit
from cnn.conv import Conv2d
from cnn.files import save_arrays
from cnn.gradcheck import complex_step_gradient, relative_error
from cnn.network import Flatten, Layer, Linear, ReLU, Sequential
from cnn.optimizers import SGD, Adam, AdamW, ExponentialDecay, Optimizer
from cnn.regularization import Dropout, dropout, dropout_backward
from cnn.training import History, evaluate, train_step


def rng(seed: int = 0) -> np.random.Generator:
    """Return a fresh generator."""
    return np.random.default_rng(seed)


# --- Dropout ---


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@given(
    p=st.floats(0, 0.95),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 999),
)
@runs(60)
def test_dropout_is_a_multiplication(
    dtype: type, p: float, shape: list[int], seed: int
) -> None:
    """A factor that differs on the way back, or another dtype, would train another network."""
    x, dy = rng(1).standard_normal((2, *shape)).astype(dtype)
    x, dy = np.asarray(x), np.asarray(dy)
    y, r = dropout(x, p, rng(seed))
    dx = dropout_backward(dy, r)
    assert y.dtype == r.dtype == dx.dtype == dtype
    assert set(np.unique(r)) <= {dtype(0), dtype(1) / dtype(1 - p)}
    tx = torch.tensor(x, requires_grad=True)
    ty = torch.tensor(r) * tx
    ty.backward(torch.tensor(dy))
    np.testing.assert_array_equal(y, ty.detach())
    np.testing.assert_array_equal(dx, tx.grad)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_the_share_p_and_keeps_the_mean(p: float) -> None:
    """p the probability to keep, as in other books, would drop the wrong share."""
    y, r = dropout(np.ones((1000, 200)), p, rng())
    error = 5 * np.sqrt(p * (1 - p) / y.size)
    assert abs(np.mean(r == 0) - p) <= error
    assert abs(y.mean() - 1) <= error / (1 - p)
    assert np.mean(nn.Dropout(p)(torch.ones(1000, 200)).numpy() == 0) == pytest.approx(
        p, abs=2 * error
    )


def test_dropout_draws_the_same_in_both_precisions() -> None:
    """A float64 run and a float32 run of one seed must be comparable."""
    x = np.ones((50, 50))
    _, wide = dropout(x, 0.3, rng(5))
    _, narrow = dropout(x.astype(np.float32), 0.3, rng(5))
    np.testing.assert_array_equal(wide == 0, narrow == 0)


def test_dropout_drops_anew_each_time_and_for_each_image() -> None:
    """One mask for the whole batch, or for the whole run, would remove units for good."""
    layer, x = Dropout(0.5, rng=rng()), np.ones((3, 100))
    first, second = layer(x), layer(x)
    assert (first != second).any()
    assert (first[0] != first[1]).any()


# --- Batch normalisation ---


@st.composite
def batches_of(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    """Draw a shape with at least two values a channel, and a seed."""
    C = draw(st.integers(1, 4))
    places = draw(st.sampled_from([(), (1, 1), (1, 3), (2, 2), (4, 3)]))
    least = 1 if np.prod(places) > 1 else 2
    return (draw(st.integers(least, 6)), C, *places), draw(st.integers(0, 999))


def draw_batch(shape: tuple[int, ...], seed: int, dtype: type) -> Arrays:
    """Return x with channels of different size and place, gamma, beta and dy."""
    random, C = rng(seed), shape[1]
    per_channel = (-1, *(1,) * (len(shape) - 2))
    x = random.standard_normal(shape)
    x *= 10 ** random.uniform(-0.5, 1, C).reshape(per_channel)
    x += 3 * random.standard_normal(C).reshape(per_channel)
    arrays = x, random.standard_normal(C), random.standard_normal(C)
    return tuple(a.astype(dtype) for a in (*arrays, random.standard_normal(shape)))


def autograd(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, dy: np.ndarray, eps: float
) -> Arrays:
    """Return y, dx, dgamma and dbeta, computed by PyTorch in float64."""
    inputs = [
        torch.tensor(a, dtype=torch.float64, requires_grad=True)
        for a in (x, gamma, beta)
    ]
    y = nn.functional.batch_norm(
        inputs[0], None, None, *inputs[1:], training=True, eps=eps
    )
    y.backward(torch.tensor(dy, dtype=torch.float64))
    return (y.detach().numpy(), *(a.grad.numpy() for a in inputs))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@given(case=batches_of(), eps=st.sampled_from([1e-5, 1e-3, 0.1]))
@runs(150)
def test_batch_norm_equals_autograd(
    dtype: type, case: tuple[tuple[int, ...], int], eps: float
) -> None:
    """A road forgotten, the wrong axes, or the unbiased variance, would differ."""
    x, gamma, beta, dy = draw_batch(*case, dtype)
    result = (
        batch_norm(x, gamma, beta, eps),
        *batch_norm_backward(dy, x, gamma, eps),
    )
    expected = autograd(x, gamma, beta, dy, eps)
    # dx is a difference of terms of the size of dy / σ, and may cancel to nothing
    size = np.abs(gamma).max() * np.abs(dy).max() / np.sqrt(x.var() + eps)
    floors = {"dx": 10 * size + FLOOR[dtype]}
    for what, a, e in zip(
        ("y", "dx", "dgamma", "dbeta"), result, expected, strict=True
    ):
        assert a.dtype == dtype, what
        floor = floors.get(what, max(1.0, FLOOR[dtype]))
        assert_close(a, e, 2 * TOLERANCE[dtype], what, floor)


def test_batch_norm_to_the_last_digits() -> None:
    """The complex step knows no rounding: what it finds, the formula must give."""
    x, gamma, beta, dy = draw_batch((4, 2, 2, 2), 0, np.float64)

    def cost(a: np.ndarray) -> complex:
        return np.sum(dy * batch_norm(a, gamma.astype(a.dtype), beta.astype(a.dtype)))

    dx, _, _ = batch_norm_backward(dy, x, gamma)
    assert relative_error(dx, complex_step_gradient(cost, x)) < 1e-13


def test_the_gradient_leaves_out_what_the_layer_is_blind_to() -> None:
    """Without the mean's road dx has a sum, without the variance's it stretches."""
    x, gamma, _, dy = draw_batch((5, 3, 2, 2), 1, np.float64)
    dx, _, _ = batch_norm_backward(dy, x, gamma, eps=1e-12)
    axes, size = (0, 2, 3), np.abs(dx).max()
    assert np.abs(dx.sum(axis=axes)).max() < 1e-12 * size
    assert np.abs((dx * x).sum(axis=axes)).max() < 1e-9 * size * np.abs(x).max()


BATCH_NORMS: dict[str, tuple[type, type, tuple[int, ...]]] = {
    "BatchNorm1d": (BatchNorm1d, nn.BatchNorm1d, ()),
    "BatchNorm2d": (BatchNorm2d, nn.BatchNorm2d, (3, 2)),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize(("eps", "momentum"), [(1e-5, 0.1), (1e-2, 0.7), (1e-5, 1.0)])
def test_batch_norm_layers_equal_their_twins(
    name: str, dtype: type, eps: float, momentum: float
) -> None:
    """Training, use and training again: outputs, gradients and running moments."""
    ours, theirs, places = BATCH_NORMS[name]
    layer, twin = ours(4, eps, momentum, dtype=dtype), theirs(4, eps, momentum).double()
    random, tol = rng(), TOLERANCE[dtype]
    for theta in layer.params.values():
        theta[...] = random.standard_normal(4)
    twin.load_state_dict({k: torch.tensor(a).double() for k, a in layer.params.items()},
                         strict=False)  # fmt: skip
    for step in range(9):
        training = step not in (4, 5, 8)
        layer.train(training)
        twin.train(training)
        N = int(random.integers(2, 6)) if training else 1
        x, dy = (2 + 3 * random.standard_normal((2, N, 4, *places))).astype(dtype)
        tx = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        ty = twin(tx)
        twin.zero_grad()
        ty.backward(torch.tensor(dy, dtype=torch.float64))
        floor = 30.0  # a batch of two may cancel to nothing beside terms of this size
        assert_close(layer.forward(x), ty.detach(), tol, "y", floor)
        assert_close(layer.backward(dy), tx.grad, tol, "dx", floor)
        for k, p in twin.named_parameters():
            assert_close(layer.grads[k], p.grad, tol, k, floor)
        for k, b in twin.named_buffers():
            assert_close(layer.buffers[k], b, tol, k, 1.0)
        held = [*layer.params.values(), *layer.grads.values()]
        held += [layer.buffers["running_mean"], layer.buffers["running_var"]]
        assert {a.dtype for a in held} == {np.dtype(dtype)}
    assert layer.buffers["num_batches_tracked"] == 6
    assert layer.buffers["num_batches_tracked"].dtype == np.int64


def both_nets(dtype: type = np.float32) -> tuple[Sequential, torch.nn.Module]:
    """Return a network with all of the chapter's layers, and PyTorch's twin."""
    to = {"rng": rng(), "dtype": dtype}
    net = Sequential(
        Conv2d(1, 2, 3, **to), BatchNorm2d(2, dtype=dtype), ReLU(), Flatten(),
        Sequential(Linear(32, 6, **to), BatchNorm1d(6, dtype=dtype), ReLU()),
        Dropout(0.4, rng=rng(1)), Linear(6, 3, **to),
    )  # fmt: skip
    twin = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(),
        nn.Sequential(nn.Linear(32, 6), nn.BatchNorm1d(6), nn.ReLU()),
        nn.Dropout(0.4), nn.Linear(6, 3),
    )  # fmt: skip
    return net, twin.double() if dtype == np.float64 else twin


def test_weights_and_buffers_move_both_ways() -> None:
    """A name, shape or dtype of ours that PyTorch does not know would need a translation."""
    net, twin = both_nets()
    data = made_up()
    fit(net, SGD(net.params, 0.1), data, epochs=2, rng=rng(), batch_size=5)
    state = net.state_dict()
    twin.load_state_dict({k: torch.from_numpy(a) for k, a in state.items()})
    x = data.x_test
    with torch.no_grad():
        z = twin.eval()(torch.tensor(x)).numpy()
        assert_close(net.eval()(x), z, 1e-5)
        twin.train()(torch.tensor(x))
    theirs = {k: t.numpy() for k, t in twin.state_dict().items()}
    assert theirs.keys() == state.keys()
    net.load_state_dict(theirs)
    assert_same(net.state_dict(), theirs)
    assert net[1].buffers["num_batches_tracked"] == 11


def test_training_equals_pytorchs() -> None:
    """Twelve steps with batch normalisation, weight decay and AdamW, dropout's share left out."""
    net, twin = both_nets(np.float64)
    net[5].p = twin[5].p = 0.0
    twin.load_state_dict({k: torch.tensor(a) for k, a in net.state_dict().items()})
    optimizer = AdamW(net.params, 0.01, weight_decay=0.3)
    twins = torch.optim.AdamW(twin.parameters(), 0.01, weight_decay=0.3)
    random = rng(2)
    for _ in range(12):
        x, y = random.standard_normal((5, 1, 6, 6)), random.integers(0, 3, 5)
        twins.zero_grad()
        J = nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        J.backward()
        twins.step()
        assert train_step(net, optimizer, x, y) == pytest.approx(J.item(), rel=1e-9)
    for k, t in twin.state_dict().items():
        # a bias under a batch normalisation has a gradient of rounding errors, which Adam enlarges
        tol = 0.3 if k in ("0.bias", "4.0.bias") else 1e-8
        np.testing.assert_allclose(net.state_dict()[k], t, rtol=0, atol=tol, err_msg=k)


def test_a_single_value_is_refused_in_training_only() -> None:
    """Its variance is zero, and the unbiased one divides by zero."""
    for layer, shape in ((BatchNorm1d(3), (1, 3)), (BatchNorm2d(3), (1, 3, 1, 1))):
        x = np.ones(shape, np.float32)
        before = {k: b.copy() for k, b in layer.buffers.items()}
        with pytest.raises(ValueError, match="one number in each channel"):
            layer(x)
        assert_same(before, layer.buffers)
        layer.eval()(x)
    layer = BatchNorm2d(3)
    layer(np.ones((1, 3, 1, 2), np.float32))


def test_equal_values_are_no_division_by_zero() -> None:
    """A dead channel must give β, not NaN."""
    with np.errstate(all="raise"):
        y = batch_norm(np.full((4, 2), 7.0), np.ones(2), np.array([1.0, -1.0]))
        dx, _, _ = batch_norm_backward(y, np.full((4, 2), 7.0), np.ones(2))
    np.testing.assert_array_equal(y, [[1.0, -1.0]] * 4)
    np.testing.assert_array_equal(dx, 0)


# --- Memory layout and precision ---

NORM = draw_batch((4, 3, 2, 6), 3, np.float64)
CALLS: dict[str, tuple[Callable[..., object], Arrays]] = {
    "dropout": (lambda x: dropout(x, 0.3, rng(2)), NORM[:1]),
    "dropout_backward": (dropout_backward, (NORM[3], NORM[0])),
    "moments": (moments, NORM[:1]),
    "batch_norm": (batch_norm, NORM[:3]),
    "batch_norm_backward": (batch_norm_backward, (NORM[3], NORM[0], NORM[1])),
    "layers": (
        lambda x, dy: (
            (
                net := Sequential(
                    Dropout(0.3, rng=rng(4)), BatchNorm2d(3, dtype=np.float64)
                )
            ).forward(x),
            net.backward(dy),
            *net.grads.values(),
            *net.buffers.values(),
        ),
        (NORM[0], NORM[3]),
    ),
    "layers in use": (
        lambda x, dy: (
            (
                net := Sequential(
                    BatchNorm2d(3, dtype=np.float64), Dropout(rng=rng())
                ).eval()
            ).forward(x),
            net.backward(dy),
            *net.grads.values(),
        ),
        (NORM[0], NORM[3]),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_memory_layout_does_not_matter(name: str, layout: str) -> None:
    """Strides taken for granted give wrong numbers; a write into an input is a surprise."""
    function, args = CALLS[name]
    expected = function(*args)
    given_args = [LAYOUTS[layout](a) for a in args]
    copies = [a.copy() for a in given_args]
    results = function(*given_args)
    for a, copy in zip(given_args, copies, strict=True):
        np.testing.assert_array_equal(a, copy, err_msg="an input was changed")
    as_tuple = [r if isinstance(r, tuple) else (r,) for r in (results, expected)]
    for a, e in zip(*as_tuple, strict=True):
        assert_close(a, e, 1e-13)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_single_precision_throughout(optimizer: type[Optimizer]) -> None:
    """One float64 among the factors, and the network trains at half its speed, unnoticed."""
    net, _ = both_nets()
    opt = optimizer(net.params, lr=0.01, weight_decay=np.float64(0.1))
    x, y = rng().random((8, 1, 6, 6), np.float32), rng().integers(0, 3, 8)
    wide: set[str] = set()

    def watch(frame: FrameType, event: str, result: object) -> None:
        code = frame.f_code
        if event == "return" and "cnn" in code.co_filename.split("/")[-2:]:
            for name, a in {**frame.f_locals, "return value": result}.items():
                if isinstance(a, np.ndarray | np.floating) and a.dtype == np.float64:
                    wide.add(f"{code.co_filename}, {code.co_name}: {name}")

    def use() -> None:
        for _ in range(2):
            train_step(net, opt, x, y)
        evaluate(net, x, y, batch_size=3)

    use()  # the convolutions choose a way of computing, once, and calculate in float64 for it
    sys.setprofile(watch)
    try:
        use()
    finally:
        sys.setprofile(None)
    assert not wide
    held = [*net.params.values(), *net.grads.values()]
    for layer in net.modules():
        held += [a for a in vars(layer).values() if isinstance(a, np.ndarray)]
    assert {a.dtype for a in held} == {np.dtype(np.float32)}


# --- Two modes ---


class Skip(Layer):
    """Somebody's own layer, with another one inside: y = x + f(x)."""

    def __init__(self, inner: Layer) -> None:
        super().__init__()
        self.inner, self.params, self.buffers = inner, inner.params, inner.buffers

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Add what the inner layer makes of ``x``."""
        return x + self.inner.forward(x)

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Let the gradient take both ways."""
        dx = self.inner.backward(dy)
        self.grads = self.inner.grads
        return dx + dy


class Pair(Layer):
    """Another one, with layers in a tuple and a list."""

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.first, self.others = (layers[0],), list(layers[1:])


def test_modes_reach_every_layer() -> None:
    """A layer that was not told would drop units at test time."""
    layers = [Dropout(rng=rng()), BatchNorm1d(2), Dropout(rng=rng()), ReLU()]
    net = Sequential(
        Skip(Sequential(layers[0], layers[1])), Pair(layers[2], Skip(layers[3]))
    )
    assert {*map(id, layers)} < {id(layer) for layer in net.modules()}
    assert all(layer.training for layer in net.modules())
    assert net.eval() is net
    assert not any(layer.training for layer in net.modules())
    assert net.train() is net
    assert all(layer.training for layer in net.modules())
    net.train(False)
    assert not any(layer.training for layer in net.modules())


def test_a_layer_may_insist_on_its_mode() -> None:
    """A frozen batch normalisation overrides ``train``; the network must ask it."""

    class Frozen(BatchNorm1d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    net = Sequential(Skip(Frozen(2)), Dropout(rng=rng())).train()
    assert [layer.training for layer in net.modules()] == [True, True, False, True]


def test_threads_may_share_a_network_in_use() -> None:
    """What one thread's call remembers for a gradient must not become another one's result."""
    net = Sequential(BatchNorm1d(3), ReLU(), Dropout(rng=rng())).eval()
    wrong = []

    def ask(size: int) -> None:
        x = np.full((size, 3), size, np.float32)
        expected = x / np.sqrt(np.float32(1 + 1e-5))
        for _ in range(2000):
            y = net(x)
            if y.shape != x.shape or not np.allclose(y, expected):
                wrong.append(size)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask, args=(size,)) for size in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (Linear(4, 3, rng=rng()), np.ones((5, 7), np.float32)),
        (BatchNorm1d(4).eval(), np.ones((1, 4), np.float32)),
        (Dropout(rng=rng()), np.ones((2, 4), int)),
        (ReLU(), np.ones((2, 4), int)),
        (Flatten(), np.ones((2, 4), bool)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_refused_input_leaves_no_trace(layer: Layer, wrong: np.ndarray) -> None:
    """After an error the gradient still belongs to the latest input that was taken."""
    x = rng(1).standard_normal((2, 4)).astype(np.float32)
    dy = rng(2).standard_normal(layer(x).shape).astype(np.float32)
    expected = layer.backward(dy)
    layer.train()  # in use, batch normalisation would take a single image
    with pytest.raises((TypeError, ValueError)):
        layer(wrong)
    np.testing.assert_array_equal(layer.backward(dy), expected)


def test_evaluate_computes_as_in_use_and_puts_the_modes_back() -> None:
    """Tests that drop units, or that move the running moments, would not be tests."""
    net, _ = both_nets()
    data = made_up()
    fit(net, SGD(net.params, 0.1), data, epochs=1, rng=rng(), batch_size=5)
    modes = [k % 3 == 0 for k, _ in enumerate(net.modules())]
    for layer, mode in zip(net.modules(), modes, strict=True):
        layer.training = mode
    state, drawn = net.state_dict(), net[5].rng.bit_generator.state
    results = {
        evaluate(net, data.x_test, data.y_test, batch_size) for batch_size in (1, 3, 7)
    }
    assert max(r[0] for r in results) - min(r[0] for r in results) < 1e-6
    assert_same(state, net.state_dict())
    assert net[5].rng.bit_generator.state == drawn
    assert [layer.training for layer in net.modules()] == modes

    for y in (data.y_test + 3, data.y_test[:-1]):
        with pytest.raises(ValueError, match="expected"):
            evaluate(net, data.x_test, y)
        assert [layer.training for layer in net.modules()] == modes


def test_fit_trains_in_training_mode() -> None:
    """A network that was just used must drop units again when it is trained."""
    first, second = both_nets()[0], both_nets()[0].eval()
    for net in (first, second):
        fit(net, SGD(net.params, 0.1), made_up(), epochs=1, rng=rng(), batch_size=5)
        assert all(layer.training for layer in net.modules())
    assert_same(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_backward_belongs_to_the_latest_forward(training: bool) -> None:
    """A mode set in between must not change the gradient."""
    for layer in (Dropout(rng=rng()), BatchNorm1d(3, dtype=np.float64)):
        x, dy = rng(1).standard_normal((2, 5, 3))
        layer.train(training).forward(x)
        expected = layer.backward(dy)
        np.testing.assert_array_equal(layer.train(not training).backward(dy), expected)


# --- Weight decay ---

DECAY = ExponentialDecay(0.03, 0.001, 5)
RULES: dict[str, tuple[Callable[..., Optimizer], Callable[..., object], dict]] = {
    "SGD": (SGD, torch.optim.SGD, {}),
    "momentum": (SGD, torch.optim.SGD, {"momentum": 0.9}),
    "Adam": (Adam, torch.optim.Adam, {}),
    "Adam, other betas": (
        Adam,
        torch.optim.Adam,
        {"betas": (0.5, 0.9), "eps": 1e-3},
    ),
    "AdamW": (AdamW, torch.optim.AdamW, {}),
    "AdamW, other betas": (
        AdamW,
        torch.optim.AdamW,
        {"betas": (0.5, 0.9), "eps": 1e-3},
    ),
}


def draw(
    random: np.random.Generator, dtype: type = np.float64
) -> dict[str, np.ndarray]:
    """Return two small arrays and a large one, their entries of very different size."""
    return {
        k: (random.standard_normal(s) * 10.0 ** random.integers(-4, 2, s)).astype(dtype)
        for k, s in SHAPES.items()
    }


SHAPES = {"0.weight": (3, 2, 2, 2), "1.weight": (65, 65), "1.bias": (3,)}


@pytest.mark.parametrize("lr", [0.01, DECAY], ids=["constant", "schedule"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("name", RULES)
def test_decay_equals_pytorchs(
    name: str, weight_decay: float, lr: float | ExponentialDecay
) -> None:
    """Coupled where it should be decoupled, or without the rate γ, would drift away."""
    ours, theirs, options = RULES[name]
    random = rng()
    params = draw(random)
    twins = {k: torch.tensor(a, requires_grad=True) for k, a in params.items()}
    optimizer = ours(params, lr, weight_decay=weight_decay, **options)
    rate = 1.0 if callable(lr) else lr
    twin = theirs(twins.values(), lr=rate, weight_decay=weight_decay, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(twin, lr) if callable(lr) else None
    for _ in range(100):
        grads = draw(random)
        copies = {k: g.copy() for k, g in grads.items()}
        optimizer.step(grads)
        assert_same(grads, copies)
        for k, g in grads.items():
            twins[k].grad = torch.tensor(g)
        twin.step()
        if scheduler:
            scheduler.step()
    for k, a in params.items():
        np.testing.assert_allclose(a, twins[k].detach(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", RULES)
def test_decay_changes_what_it_should(name: str) -> None:
    """The tests above would pass with a decay that does nothing, if PyTorch's did nothing."""
    ours, _, options = RULES[name]
    ends = []
    for weight_decay in (0.0, 0.5):
        params, random = draw(rng()), rng(1)
        optimizer = ours(params, 0.01, weight_decay=weight_decay, **options)
        for _ in range(20):
            optimizer.step(draw(random))
        ends.append(params)
    assert all((ends[0][k] != ends[1][k]).any() for k in ends[0])


def test_no_decay_changes_no_bit() -> None:
    """With λ = 0 the rules must be what they were."""
    ends = []
    for make in (Adam, lambda params, lr: AdamW(params, lr, weight_decay=0)):
        params, random = draw(rng(), np.float32), rng(1)
        optimizer = make(params, 0.01)
        for _ in range(50):
            optimizer.step(draw(random, np.float32))
        ends.append(params)
    assert_same(*ends)


def test_for_gradient_descent_the_two_are_one() -> None:
    """θ - γ(g + λθ) = (1 - γλ)θ - γg; for Adam nothing like it holds."""
    ends = {}
    for name, make in {
        "SGD": lambda params: SGD(params, 0.1, weight_decay=0.3),
        "Adam": lambda params: Adam(params, 0.1, weight_decay=0.3),
        "AdamW": lambda params: AdamW(params, 0.1, weight_decay=0.3),
    }.items():
        params, random = draw(rng()), rng(1)
        optimizer = make(params)
        by_hand = {k: a.copy() for k, a in params.items()}
        for _ in range(10):
            grads = draw(random)
            optimizer.step(grads)
            for k, g in grads.items():
                by_hand[k] = (1 - 0.1 * 0.3) * by_hand[k] - 0.1 * g
        ends[name] = params
        if name == "SGD":
            for k, a in params.items():
                np.testing.assert_allclose(a, by_hand[k], rtol=1e-12, atol=1e-15)
    assert np.abs(ends["Adam"]["0.weight"] - ends["AdamW"]["0.weight"]).max() > 0.01


# --- Stopped and gone on ---

MACHINES = [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64]


class Run:
    """A network with all of the chapter's layers, as fresh as in a new process."""

    def __init__(
        self,
        shared: str = "own",
        machine: type = np.random.PCG64,
        p: float = 0.3,
        seeds: tuple[int, int] = (5, 6),
        weight_decay: float = 0.1,
    ) -> None:
        init = rng()
        self.rng = np.random.Generator(machine(3))
        first, second = (np.random.Generator(machine(s)) for s in seeds)
        if shared == "with each other":
            second = first
        elif shared == "with the order":
            first = second = self.rng
        elif shared == "one machine":  # two generators over one bit generator
            second = np.random.Generator(first.bit_generator)
        self.net = Sequential(
            Conv2d(1, 2, 3, rng=init), BatchNorm2d(2), ReLU(), Dropout(p, rng=first),
            Flatten(), Linear(32, 6, rng=init),
            Skip(Sequential(BatchNorm1d(6), ReLU(), Dropout(0.5, rng=second))),
            Linear(6, 3, rng=init),
        )  # fmt: skip
        self.optimizer = AdamW(self.net.params, 0.02, weight_decay=weight_decay)
        self.generators = [self.rng, first, second]

    def fit(self, **options: object) -> History:
        """Train for four epochs of five iterations."""
        options = {"epochs": 4, "batch_size": 5, "every": 3} | options
        return fit(self.net, self.optimizer, made_up(), rng=self.rng, **options)

    def stop_at(self, t: int) -> None:
        """Let Ctrl+C be pressed in iteration t, when its weights have just been changed."""
        step = self.optimizer.step

        def stopping(grads: dict[str, np.ndarray]) -> None:
            step(grads)
            if self.optimizer.t == t:
                raise KeyboardInterrupt

        self.optimizer.step = stopping

    def state(self) -> dict[str, np.ndarray]:
        """Return all the numbers that the run ended with."""
        return self.net.state_dict() | self.optimizer.state_dict()

    def machines(self) -> str:
        """Return the states of all generators, to be compared."""
        states = [g.bit_generator.state for g in self.generators]
        return json.dumps(states, default=lambda a: a.tolist())


SHARED = ["own", "with each other", "with the order", "one machine"]


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize(
    "stops", [[4], [5], [8], [10], [15], [19], [4, 7, 16]], ids=str
)
@pytest.mark.parametrize("every", [1, 3, 5])
def test_resume_is_exact(
    tmp_path: Path, shared: str, stops: list[int], every: int
) -> None:
    """Whoever draws from whichever generator: the same weights, moments and states, bit for bit."""
    whole = Run(shared)
    history = whole.fit(every=every)
    for t in stops:
        interrupted = Run(shared)
        interrupted.stop_at(t)
        with pytest.raises(KeyboardInterrupt):
            interrupted.fit(every=every, checkpoint=tmp_path / "c")
    again = Run(shared)
    resumed = again.fit(every=every, checkpoint=tmp_path / "c")
    assert_same(whole.state(), again.state())
    assert_same_history(history, resumed)
    assert whole.machines() == again.machines()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
@pytest.mark.parametrize("shared", ["own", "with the order"])
def test_every_generator_resumes(tmp_path: Path, machine: type, shared: str) -> None:
    """NumPy's bit generators keep their states in different forms; all must survive JSON."""
    whole, interrupted, again = (Run(shared, machine) for _ in range(3))
    whole.fit()
    interrupted.stop_at(13)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(checkpoint=tmp_path / "c")
    again.fit(checkpoint=tmp_path / "c")
    assert_same(whole.state(), again.state())


def test_watching_changes_nothing() -> None:
    """Tests in between must neither draw numbers nor move the running moments."""
    plain, watched = Run("with the order"), Run("with the order")
    plain.fit(every=1000)
    watched.fit(every=1)
    assert_same(plain.state(), watched.state())


@pytest.mark.parametrize("forgotten", ["nothing", "generators", "rng", "running"])
def test_each_part_of_the_checkpoint_is_needed(tmp_path: Path, forgotten: str) -> None:
    """What could be left out without a difference would not be tested by the tests above."""
    whole, interrupted, again = (Run("with the order") for _ in range(3))
    whole.fit()
    interrupted.stop_at(13)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(checkpoint=tmp_path / "c")
    arrays, record = record_of(tmp_path / "c")
    other = np.random.PCG64(9).state
    if forgotten == "generators":
        record["generators"] = [other] * 3
    elif forgotten == "rng":
        record["rng"] = other
    elif forgotten == "running":
        arrays["net/1.running_mean"] += 1
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    save_arrays(tmp_path / "c", arrays | {"record": text})
    again.fit(checkpoint=tmp_path / "c")
    ends = whole.state(), again.state()
    same = all(np.array_equal(a, ends[1][k]) for k, a in ends[0].items())
    assert same == (forgotten == "nothing")


WRONG: dict[str, Callable[[dict], dict]] = {
    "no generators": lambda r: {k: v for k, v in r.items() if k != "generators"},
    "null": lambda r: r | {"generators": None},
    "one too few": lambda r: r | {"generators": r["generators"][:-1]},
    "one too many": lambda r: r | {"generators": r["generators"] * 2},
    "of another kind": lambda r: (
        r | {"generators": [*r["generators"][:-1], np.random.SFC64(0).state]}
    ),
    "no state": lambda r: r | {"generators": [*r["generators"][:-1], {}]},
    "no order": lambda r: r | {"rng": 3},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_generators_are_told(
    tmp_path: Path, change: Callable[[dict], dict]
) -> None:
    """They must not be half set: network, optimiser and all generators stay as they were."""
    Run().fit(epochs=2, checkpoint=tmp_path / "c")
    arrays, record = record_of(tmp_path / "c")
    text = json.dumps(change(record), default=lambda a: a.tolist()).encode()
    save_arrays(tmp_path / "c", arrays | {"record": np.frombuffer(text, np.uint8)})
    run = Run()
    state, machines = run.state(), run.machines()
    with pytest.raises(ValueError, match=r"can't be resumed.*Delete"):
        run.fit(checkpoint=tmp_path / "c")
    assert_same(state, run.state())
    assert machines == run.machines()


OTHERS: dict[str, tuple[dict, dict]] = {
    "p": ({}, {"p": 0.4}),
    "a layer's seed": ({}, {"seeds": (5, 7)}),
    "sharing": ({}, {"shared": "with each other"}),
    "no sharing": ({"shared": "with each other"}, {"seeds": (5, 5)}),
    "sharing with the order": ({}, {"shared": "with the order"}),
    "weight decay": ({}, {"weight_decay": 0.2}),
    "machine": ({}, {"machine": np.random.SFC64}),
}


@pytest.mark.parametrize(("first", "second"), OTHERS.values(), ids=OTHERS)
def test_another_runs_checkpoint_is_refused(
    tmp_path: Path, first: dict, second: dict
) -> None:
    """Two halves of different runs make a result that nobody can repeat."""
    Run(**first).fit(epochs=2, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match=r"can't be resumed.*Delete"):
        Run(**second).fit(checkpoint=tmp_path / "c")
