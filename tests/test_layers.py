"""Every layer computes what PyTorch's autograd computes: forward, backward, in either precision.

The ways to compute a convolution are held against each other in ``test_conv.py``.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from copy import deepcopy
from types import FrameType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from cnn.activations import (
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    tanh,
    tanh_backward,
)
from cnn.backend import SMALL, use
from cnn.conv import Conv2d
from cnn.dense import linear, linear_backward
from cnn.losses import (
    cross_entropy,
    cross_entropy_backward,
    error_rate,
    log_sum_exp,
    softmax,
)
from cnn.models import deep_cnn, simple_cnn
from cnn.network import Flatten, Layer, Linear, ReLU, Sequential, Sigmoid, Tanh
from cnn.optimizers import SGD, Adam
from cnn.training import evaluate, train_step

TOLERANCE = {np.float64: 1e-10, np.float32: 1e-4}
# beside which size an error is small, at the least: a sum of numbers of size 1 may cancel
FLOOR = {np.float64: 0.0, np.float32: 1.0}
Strategy = st.SearchStrategy[int]
Arrays = tuple[np.ndarray, ...]


def runs(examples: int) -> settings:
    """Return settings for so many cases, the same ones every time."""
    return settings(max_examples=examples, derandomize=True, deadline=None)


def assert_close(
    actual: np.ndarray,
    expected: np.ndarray,
    tol: float,
    what: str = "",
    floor: float = 0.0,
) -> None:
    """Compare shapes, and the largest difference with the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    error, largest = np.abs(actual - expected).max(), np.abs(expected).max()
    assert error <= tol * max(largest, floor), (
        f"{what}: off by {error:.1e} of {largest:.1e}"
    )


# --- Convolutions to try ---


class Case(NamedTuple):
    """The sizes of a convolution, and the seed of its numbers."""

    N: int
    C_in: int
    C_out: int
    size: tuple[int, int]
    f: tuple[int, int]
    s: int
    d: int
    p: tuple[int, int, int, int]
    seed: int

    @property
    def remainder(self) -> int:
        """The trailing rows and columns, together, that no window reads."""
        frame = (self.p[0] + self.p[1], self.p[2] + self.p[3])
        sizes = zip(self.size, self.f, frame, strict=True)
        return sum((n + p - self.d * (f - 1) - 1) % self.s for n, f, p in sizes)

    @property
    def where(self) -> dict[str, object]:
        """The keyword arguments that say where the filter goes."""
        return {"stride": self.s, "padding": self.p, "dilation": self.d}

    def arrays(self, whole: bool = False) -> Arrays:
        """Return x, W, b and dz: whole numbers, or normally distributed ones."""
        rng = np.random.default_rng(self.seed)
        frame = (self.p[0] + self.p[1], self.p[2] + self.p[3])
        out = [
            (n + p - self.d * (f - 1) - 1) // self.s + 1
            for n, f, p in zip(self.size, self.f, frame, strict=True)
        ]
        shapes = (
            (self.N, self.C_in, *self.size),
            (self.C_out, self.C_in, *self.f),
            (self.C_out,),
            (self.N, self.C_out, *out),
        )
        draw = (
            (lambda shape: rng.integers(-9, 10, shape))
            if whole
            else rng.standard_normal
        )
        return tuple(draw(shape) for shape in shapes)


RANGES: dict[str, Strategy] = {
    "f": st.integers(1, 5),
    "s": st.integers(1, 4),
    "d": st.integers(1, 3),
    "p": st.integers(0, 3),
    "slack": st.integers(0, 6),
}


@st.composite
def cases(draw: st.DrawFn, most: int = 3, **limits: Strategy) -> Case:
    """Draw a case; the input's size comes last, so that at least one window fits."""
    ranges = RANGES | limits
    f, d = (draw(ranges["f"]), draw(ranges["f"])), draw(ranges["d"])
    top, bottom, left, right = (draw(ranges["p"]) for _ in range(4))
    size = tuple(
        max(1, d * (f - 1) + 1 - p) + draw(ranges["slack"])
        for f, p in zip(f, (top + bottom, left + right), strict=True)
    )
    N, C_in, C_out = (draw(st.integers(1, most)) for _ in range(3))
    s, seed = draw(ranges["s"]), draw(st.integers(0, 999))
    return Case(N, C_in, C_out, size, f, s, d, (top, bottom, left, right), seed)


REGIMES: dict[str, tuple[dict[str, Strategy], Callable[[Case], bool]]] = {
    "any": ({}, lambda case: True),
    "remainder": ({"s": st.integers(2, 5)}, lambda case: case.remainder > 0),
    "one by one": ({"f": st.just(1)}, lambda case: case.f == (1, 1)),
    "even filter": (
        {"f": st.sampled_from([2, 4])},
        lambda case: case.f[0] % 2 == case.f[1] % 2 == 0,
    ),
    "filter as large as the image": (
        {"d": st.just(1), "p": st.just(0), "slack": st.just(0)},
        lambda case: case.f == case.size,
    ),
    "stride above the filter": (
        {"f": st.integers(1, 3), "s": st.integers(4, 7)},
        lambda case: case.s > max(case.f),
    ),
    "windows inside the padding": (
        {"f": st.integers(1, 2), "p": st.integers(3, 6)},
        lambda case: case.p[0] > case.d * (case.f[0] - 1),
    ),
    "unequal padding": (
        {},
        lambda case: case.p[0] != case.p[1] and case.p[2] != case.p[3],
    ),
    "dilation": (
        {"f": st.integers(2, 4), "d": st.integers(2, 4)},
        lambda case: case.d > 1,
    ),
    "one image": ({}, lambda case: case.N == 1),
    "one channel": ({}, lambda case: case.C_in == 1),
}


def draw_case(data: st.DataObject, regime: str, **limits: object) -> Case:
    """Draw a case of the regime."""
    strategies, holds = REGIMES[regime]
    return data.draw(cases(**strategies, **limits).filter(holds))


def autograd(
    case: Case, x: np.ndarray, W: np.ndarray, b: np.ndarray, dz: np.ndarray
) -> Arrays:
    """Return z, dx, dW and db, computed by PyTorch."""
    top, bottom, left, right = case.p
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, W, b)]
    padded = torch.nn.functional.pad(inputs[0], (left, right, top, bottom))
    z = torch.nn.functional.conv2d(padded, *inputs[1:], stride=case.s, dilation=case.d)
    z.backward(torch.tensor(dz))
    return (z.detach().numpy(), *(a.grad.numpy() for a in inputs))


# --- The layers ---

nn = torch.nn
Twins = tuple[Layer, torch.nn.Module, tuple[int, ...]]
LAYERS: dict[str, Callable[..., Twins]] = {
    "Linear": lambda a, b, c, **to: (Linear(a, b, **to), nn.Linear(a, b), (a,)),
    "ReLU": lambda a, b, c, **to: (ReLU(), nn.ReLU(), (a, b, c)),
    "Sigmoid": lambda a, b, c, **to: (Sigmoid(), nn.Sigmoid(), (a, b)),
    "Tanh": lambda a, b, c, **to: (Tanh(), nn.Tanh(), (a,)),
    "Flatten": lambda a, b, c, **to: (Flatten(), nn.Flatten(), (a, b, c)),
    "Conv2d": lambda a, b, c, **to: (
        Conv2d(a, b, (c, 2), stride=b, padding=(c, 1), dilation=2, **to),
        nn.Conv2d(a, b, (c, 2), stride=b, padding=(c, 1), dilation=2),
        (a, 2 * c + 3, 7),
    ),
    "Sequential": lambda a, b, c, **to: (
        Sequential(
            Conv2d(a, b, 3, padding=1, **to), Tanh(), Conv2d(b, 2, c, stride=2, **to), ReLU(),
            Flatten(), Linear(8, c, **to), Sigmoid(), Linear(c, a, **to),
        ),
        nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1), nn.Tanh(), nn.Conv2d(b, 2, c, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(8, c), nn.Sigmoid(), nn.Linear(c, a),
        ),
        (a, c + 3, c + 2),
    ),
}  # fmt: skip


def assert_twins(
    layer: Layer, twin: torch.nn.Module, shape: tuple[int, ...], dtype: type
) -> None:
    """Compare a layer's output and gradients with its twin's, for the same weights."""
    rng = np.random.default_rng(1)
    twin = twin.double()
    twin.load_state_dict(
        {name: torch.tensor(a).double() for name, a in layer.params.items()}
    )
    x = rng.standard_normal(shape).astype(dtype)
    y = layer.forward(x)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx = layer.backward(dy)

    tx = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    ty = twin(tx)
    ty.backward(torch.tensor(dy, dtype=torch.float64))
    results = {"y": (y, ty.detach()), "dx": (dx, tx.grad)}
    results |= {
        name: (layer.grads[name], p.grad) for name, p in twin.named_parameters()
    }
    assert layer.grads.keys() == layer.params.keys()
    for what, (a, e) in results.items():
        assert a.dtype == dtype, what
        assert_close(a, e, TOLERANCE[dtype], what, FLOOR[dtype])
    for name, theta in layer.params.items():
        assert layer.grads[name].shape == theta.shape


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", LAYERS)
@given(N=st.integers(1, 4), sizes=st.tuples(*[st.integers(1, 5)] * 3))
@runs(20)
def test_layers_equal_their_twins(
    name: str, dtype: type, N: int, sizes: tuple[int, ...]
) -> None:
    """A layer that remembers, names or multiplies the wrong thing would differ from its twin."""
    layer, twin, shape = LAYERS[name](*sizes, rng=np.random.default_rng(0), dtype=dtype)
    assert_twins(layer, twin, (N, *shape), dtype)


def table_1() -> torch.nn.Module:
    """Return PyTorch's twin of the first architecture."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 5), nn.ReLU(), nn.Flatten(),
        nn.Linear(1152, 200), nn.ReLU(), nn.Linear(200, 10),
    )  # fmt: skip


def table_2() -> torch.nn.Module:
    """Return PyTorch's twin of the second architecture."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 8, 5, 2, 2), nn.ReLU(),
        nn.Conv2d(8, 12, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(588, 200), nn.ReLU(), nn.Linear(200, 10),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize(("make", "twin"), [(simple_cnn, table_1), (deep_cnn, table_2)])
def test_both_architectures_equal_their_twins(
    make: Callable[..., Sequential], twin: Callable[[], torch.nn.Module], dtype: type
) -> None:
    """A layer too many, another padding or order would not be the network of the table."""
    net = make(rng=np.random.default_rng(0), dtype=dtype)
    assert_twins(net, twin(), (3, 1, 28, 28), dtype)


def test_relu_at_zero() -> None:
    """At the kink the slope is a matter of convention: PyTorch's is zero, and so is ours."""
    x = np.array([[-1.0, 0.0, -0.0, 2.0]])
    dx = relu_backward(np.ones_like(x), relu(x))
    np.testing.assert_array_equal(dx, [[0, 0, 0, 1]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("function", "twin"),
    [(sigmoid, torch.sigmoid), (tanh, torch.tanh)],
    ids=["sigmoid", "tanh"],
)
def test_activations_far_out(function: Callable, twin: Callable) -> None:
    """exp(1000) overflows: a warning, or NaN where the answer is 0 or 1."""
    x = np.array([-1e4, -750.0, -40.0, -1e-9, 0.0, 1e-9, 40.0, 750.0, 1e4])
    np.testing.assert_allclose(
        function(x), twin(torch.tensor(x)), rtol=1e-12, atol=1e-300
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@given(
    N=st.integers(1, 6),
    K=st.integers(1, 12),
    scale=st.sampled_from([1e-3, 1, 30, 1e4]),
    seed=st.integers(0, 999),
)
@runs(40)
def test_cross_entropy_equals_autograd(
    dtype: type, N: int, K: int, scale: float, seed: int
) -> None:
    """A missing 1/N, an overflow or a shifted label would differ."""
    rng = np.random.default_rng(seed)
    z = (scale * rng.standard_normal((N, K))).astype(dtype)
    y = rng.integers(0, K, N)
    tz = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    J = nn.functional.cross_entropy(tz, torch.tensor(y))
    J.backward()
    J, tol = J.detach().numpy(), TOLERANCE[dtype]
    assert abs(cross_entropy(z, y) - J) <= tol * max(J, np.abs(z).max())
    assert np.abs(cross_entropy_backward(z, y) - tz.grad.numpy()).max() <= tol / N
    assert_close(log_sum_exp(z), torch.logsumexp(tz.detach(), 1), tol)
    assert_close(softmax(z), torch.softmax(tz.detach(), 1), tol)
    assert error_rate(z, y) == np.mean(tz.detach().argmax(1).numpy() != y)


# --- Memory layout and precision ---


def misaligned(a: np.ndarray) -> np.ndarray:
    """Return a copy whose first byte lies at an odd address."""
    return np.frombuffer(b"\0" + a.tobytes(), a.dtype, offset=1).reshape(a.shape)


def read_only(a: np.ndarray) -> np.ndarray:
    """Return a copy that can't be written to."""
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran order": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "misaligned": misaligned,
    "read-only": read_only,
}


def conv_layer(x: np.ndarray, dz: np.ndarray) -> Arrays:
    """Take a convolutional, an activation and a dense layer there and back."""
    to = {"rng": np.random.default_rng(0), "dtype": np.float64}
    net = Sequential(Conv2d(3, 2, 3, **to), Tanh(), Flatten(), Linear(24, 4, **to))
    return (net.forward(x), net.backward(dz), *net.grads.values())


def calls() -> dict[str, tuple[Callable[..., object], Arrays]]:
    """Return every function that computes, with arguments: whole numbers, as floats."""
    x, _, _, dz = (
        a.astype(float)
        for a in Case(2, 3, 4, (6, 5), (3, 2), 1, 1, (0,) * 4, 0).arrays(whole=True)
    )
    q, M, z = x[:, 0, 0], x[0, :, 1], dz[:, :, 0, 0]
    y = np.array([0, 3])
    table = {
        f.__name__: (f, (q / 9,)) for f in (relu, sigmoid, tanh, log_sum_exp, softmax)
    }
    for backward in (relu_backward, sigmoid_backward, tanh_backward):
        table[backward.__name__] = (backward, (q, q / 9))
    for loss in (cross_entropy, cross_entropy_backward, error_rate):
        table[loss.__name__] = (loss, (z, y))
    return table | {
        "linear": (linear, (q, M, M[:, 0].copy())),
        "linear_backward": (linear_backward, (M[:, :3][:2], q, M)),
        "layers": (conv_layer, (x, z)),
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


@pytest.mark.parametrize("implementation", ["auto", "numpy"])
@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("make", [simple_cnn, deep_cnn])
def test_single_precision_throughout(
    make: Callable[..., Sequential],
    optimizer: type[SGD] | type[Adam],
    implementation: str,
) -> None:
    """One float64 among the factors, and the network trains at half its speed, unnoticed."""
    rng = np.random.default_rng(0)
    net = make(rng=rng)
    opt = optimizer(net.params, lr=0.01)
    x, y = rng.random((32, 1, 28, 28), np.float32), rng.integers(0, 10, 32)
    assert x.size >= SMALL  # enough for the compiled loops
    wide: set[str] = set()

    def watch(frame: FrameType, event: str, result: object) -> None:
        code = frame.f_code
        if event == "return" and "cnn" in code.co_filename.split("/")[-2:]:
            for name, a in {**frame.f_locals, "return value": result}.items():
                if isinstance(a, np.ndarray | np.floating) and a.dtype == np.float64:
                    wide.add(f"{code.co_filename}, {code.co_name}: {name}")

    before = use(implementation)
    sys.setprofile(watch)
    try:
        for _ in range(2):
            train_step(net, opt, x, y)
        evaluate(net, x, y, batch_size=3)
    finally:
        sys.setprofile(None)
        use(before)
    assert not wide
    held = [*net.params.values(), *net.grads.values()]
    held += [a for memory in opt.memory.values() for a in memory.values()]
    for layer in net:
        held += [*layer.params.values(), *layer.grads.values()]
        held += [a for a in vars(layer).values() if isinstance(a, np.ndarray)]
    assert len(held) > 4 * len(net.params)
    assert {a.dtype for a in held} == {np.dtype(np.float32)}


# --- One truth ---


def two_layers(seed: int) -> Sequential:
    """Return a network with a layer of layers inside."""
    to = {"rng": np.random.default_rng(seed), "dtype": np.float64}
    return Sequential(Linear(3, 4, **to), Sequential(Tanh(), Linear(4, 2, **to)))


def test_a_network_reads_its_layers() -> None:
    """A second table of the parameters would go on naming a layer that has been replaced."""
    net, other = two_layers(0), two_layers(1)
    net.layers[0] = other[0]
    net[1][1].params["bias"] = np.zeros(2)
    assert net.params["0.weight"] is other[0].params["weight"]
    assert net.state_dict().keys() == other.state_dict().keys()
    assert not net.state_dict()["1.1.bias"].any()
    net.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(net[1][1].params["bias"], other[1][1].params["bias"])

    net.backward(net.forward(np.ones((5, 3))))
    assert net.grads.keys() == net.params.keys()
    assert net.grads["1.1.bias"] is net[1][1].grads["bias"]
    for table in ("params", "grads", "buffers"):
        with pytest.raises(AttributeError):
            setattr(net, table, {})


def test_names_are_pytorchs() -> None:
    """A file of weights fits by its names."""
    twin = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)))
    assert [*two_layers(0).params] == [name for name, _ in twin.named_parameters()]


def test_a_copied_network_is_on_its_own() -> None:
    """A copy that shared its arrays would be trained along."""
    net = two_layers(0)
    for copied in (deepcopy(net), pickle.loads(pickle.dumps(net))):
        copied.params["1.1.weight"] += 1
        assert (copied.params["1.1.weight"] != net.params["1.1.weight"]).all()
        assert copied(np.ones((2, 3))).shape == (2, 2)


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: Sequential(Tanh(), a)])
def test_a_layer_has_one_place(wrap: Callable[[Layer], Layer]) -> None:
    """A layer in two places would go back along its second input both times."""
    layer = ReLU()
    with pytest.raises(ValueError, match="only one forward pass"):
        Sequential(layer, wrap(layer))
    with pytest.raises(ValueError, match="only one forward pass"):
        Sequential(wrap(layer), layer)


def test_a_refused_input_leaves_no_trace() -> None:
    """Else a refused batch would be what the next backward pass works with."""
    for layer in (two_layers(0)[0], Flatten(), ReLU(), Tanh(), Sigmoid()):
        with pytest.raises((TypeError, ValueError)):
            layer.forward(np.ones((0, 3)))
        with pytest.raises(RuntimeError, match="forward pass before it"):
            layer.backward(np.ones((2, 3)))


def test_the_pass_ends_at_the_first_layer_that_learns() -> None:
    """The image's gradient is not computed, and none before the first parameters."""
    net = two_layers(0)
    whole = Sequential(Flatten(), ReLU(), net)
    dz = whole.forward(np.ones((5, 3, 1)))
    whole.backward(dz)
    grads = whole.grads
    net[0].grads, whole[1]._seen = {}, None  # the ReLU would now complain
    assert whole.backward(dz, input_gradient=False) is None
    for name, da in whole.grads.items():
        np.testing.assert_array_equal(da, grads[name])
    assert net[0].backward(np.ones((5, 4)), input_gradient=False) is None
    assert Sequential(Flatten(), ReLU()).backward(dz, input_gradient=False) is None


def test_no_layer_works_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer that learns must not compute a gradient that nobody wants."""
    wanted = []
    backward = Linear.backward

    def watch(self: Linear, dy: np.ndarray, *, input_gradient: bool = True) -> object:
        wanted.append(input_gradient)
        return backward(self, dy, input_gradient=input_gradient)

    monkeypatch.setattr(Linear, "backward", watch)
    net = Sequential(Sequential(Flatten(), two_layers(0)), Tanh())
    dz = net.forward(np.ones((5, 3)))
    net.backward(dz, input_gradient=False)
    net.backward(dz)
    assert wanted == [True, False, True, True]
