"""The checks that the book teaches, ready to be run on any copy of a module of ``cnn``.

A check is a function of a module that returns nothing where all is well, and raises where
something is wrong. What it compares with is never the module itself: numbers worked out on
paper, literal loops, differences, PyTorch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from cnn.correlation import conv2d_loops
from cnn.correlation_grad import conv2d_loops_backward
from cnn.gradcheck import check_gradient
from cnn.im2col import conv2d_im2col
from cnn.network import Flatten, Sequential

Arrays = tuple[np.ndarray, ...]
Check = Callable[[ModuleType], None]

CHECKS = {
    "shapes": "it runs, and all gradients have the right shape",
    "cost falls": "some steps of gradient descent lower the cost",
    "by hand": "an example worked out on paper, to six digits",
    "loops, tame": "the literal loops, exactly, on a tame case",
    "loops, nasty": "the literal loops, exactly, on a nasty case",
    "adjoint": "⟨A x, y⟩ = ⟨x, Aᵀ y⟩, exactly",
    "differences, tame": "central differences on the tame case",
    "differences, nasty": "central differences on the nasty case",
    "PyTorch": "PyTorch's numbers on the nasty case, to ten digits",
    "invariance": "what should change nothing changes nothing",
    "statistics": "means and variances of many random numbers",
}


class Case(NamedTuple):
    """What to try a function on.

    Attributes
    ----------
    shapes : tuple of tuple of int
        The shapes of the arrays to draw.
    options : mapping
        The arguments that are no arrays to differentiate by: a stride, labels.
    fixed : mapping of int to np.ndarray
        Arrays that are given, by position, instead of drawn.
    """

    shapes: tuple[tuple[int, ...], ...]
    options: Mapping[str, object] = {}
    fixed: Mapping[int, np.ndarray] = {}

    def draw(self, whole: bool = False) -> list[np.ndarray]:
        """Return whole numbers, or normally distributed ones: the same in each call."""
        rng = np.random.default_rng(1)
        drawn = [
            rng.integers(-9, 10, shape) if whole else rng.standard_normal(shape)
            for shape in self.shapes
        ]
        for i, a in self.fixed.items():
            drawn[i] = a.astype(drawn[i].dtype)
        return drawn


class Paper(NamedTuple):
    """An example worked out on paper: arrays, options, dz, and then z and the gradients."""

    arrays: tuple
    dz: object
    results: tuple
    options: Mapping[str, object] = {}


class Pair(NamedTuple):
    """A forward function, its backward function, and what is known about them.

    Attributes
    ----------
    forward : callable
        Takes a module, the arrays and the options; returns z.
    backward : callable
        Takes a module, dz, the arrays and the options; returns a gradient for each array.
    nasty, tame : Case
        A case that forgives little, and one that forgives much.
    paper : Paper
        An example by hand.
    twin : callable
        The forward function in PyTorch, of tensors and the options.
    loops : callable
        The literal loops: take dz, the arrays and the options; return z and the gradients.
    linear : bool
        Whether z is linear in the first array, but for a constant.
    alone : bool
        Whether the images of a batch do not touch one another.
    """

    forward: Callable[..., np.ndarray]
    backward: Callable[..., Arrays]
    nasty: Case
    tame: Case | None = None
    paper: Paper | None = None
    twin: Callable[..., torch.Tensor] | None = None
    loops: Callable[..., Arrays] | None = None
    linear: bool = False
    alone: bool = True

    def run(
        self,
        m: ModuleType,
        arrays: list[np.ndarray],
        options: Mapping[str, object],
        blame: Callable[[np.ndarray], np.ndarray],
    ) -> Arrays:
        """Go forward, and back with ``blame`` of z for dz; return z and the gradients."""
        z = self.forward(m, *arrays, **options)
        return z, *self.backward(m, blame(z), *arrays, **options)

    def checks(self, **others: Check) -> dict[str, Check]:
        """Return the checks that make sense for this pair, and others, by name."""
        tame, nasty = self.tame, self.nasty
        known = {
            "shapes": (shapes_fit, True),
            "cost falls": (cost_falls, True),
            "by hand": (equals_paper, self.paper),
            "loops, tame": (partial(equals_loops, case=tame), self.loops and tame),
            "loops, nasty": (partial(equals_loops, case=nasty), self.loops),
            "adjoint": (is_adjoint, self.linear),
            "differences, tame": (partial(equals_differences, case=tame, c=one), tame),
            "differences, nasty": (
                partial(equals_differences, case=nasty, c=uneven),
                True,
            ),
            "PyTorch": (equals_pytorch, self.twin),
            "invariance": (images_do_not_touch, self.alone),
        }
        fitting = {name: check for name, (check, fits) in known.items() if fits}
        return {name: partial(check, self) for name, check in fitting.items()} | others


# --- The checks of a pair ---


def one(z: np.ndarray) -> np.ndarray:
    """Return the same weight for all outputs."""
    return np.ones_like(z)


def uneven(z: np.ndarray) -> np.ndarray:
    """Return a weight of its own for each output, of either sign."""
    return np.cos(np.arange(z.size)).reshape(z.shape)


def whole(z: np.ndarray) -> np.ndarray:
    """Return a whole number for each output."""
    return np.arange(z.size).reshape(z.shape) % 19 - 9


def equal(results: Arrays, expected: tuple, tol: float) -> None:
    """Raise an AssertionError unless the shapes are equal and the numbers close."""
    for a, e in zip(results, expected, strict=True):
        assert np.shape(a) == np.shape(e), f"shape {np.shape(a)}, not {np.shape(e)}"
        scale = max(1, np.max(np.abs(e)))
        assert np.all(np.abs(np.subtract(a, e)) <= tol * scale), "the numbers differ"


def shapes_fit(p: Pair, m: ModuleType) -> None:
    """Look at nothing but the gradients' shapes."""
    arrays = p.nasty.draw()
    _, *gradients = p.run(m, arrays, p.nasty.options, one)
    assert [np.shape(da) for da in gradients] == [a.shape for a in arrays]


def cost_falls(p: Pair, m: ModuleType) -> None:
    """Fit arbitrary numbers by gradient descent, with the parameters if there are any."""
    arrays, costs = p.nasty.draw(), []
    trained = arrays[1:] or arrays
    for _ in range(50):
        z, *gradients = p.run(
            m, arrays, p.nasty.options, lambda z: (z - uneven(z)) / z.size
        )
        costs.append(np.sum((z - uneven(z)) ** 2))
        for a, da in zip(trained, gradients[-len(trained) :], strict=True):
            a -= 0.1 * da
    assert costs[-1] < 0.9 * costs[0]


def equals_paper(p: Pair, m: ModuleType) -> None:
    """Compare with numbers worked out on paper."""
    arrays = [np.array(a, float) for a in p.paper.arrays]
    dz = np.array(p.paper.dz, float)
    equal(p.run(m, arrays, p.paper.options, lambda z: dz), p.paper.results, 1e-6)


def equals_loops(p: Pair, m: ModuleType, case: Case) -> None:
    """Compare with the literal loops on whole numbers: not one may differ."""
    arrays = case.draw(whole=True)
    z, *gradients = p.run(m, arrays, case.options, whole)
    equal((z, *gradients), p.loops(whole(z), *arrays, **case.options), 0)


def is_adjoint(p: Pair, m: ModuleType) -> None:
    """Ask the two functions whether they belong together."""
    x, *rest = p.nasty.draw(whole=True)
    z, dx, *_ = p.run(m, [x, *rest], p.nasty.options, whole)
    constant = p.forward(m, 0 * x, *rest, **p.nasty.options)
    assert np.sum((z - constant) * whole(z)) == np.sum(x * dx)


def equals_differences(
    p: Pair, m: ModuleType, case: Case, c: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Compare all gradients with central differences of the cost Σ c z² / 2."""
    arrays = case.draw()

    def cost(i: int, a: np.ndarray) -> float:
        z = p.forward(m, *arrays[:i], a, *arrays[i + 1 :], **case.options)
        return np.sum(c(z) * z**2) / 2

    _, *gradients = p.run(m, arrays, case.options, lambda z: c(z) * z)
    for i, da in enumerate(gradients):
        check_gradient(partial(cost, i), arrays[i], da)


def equals_pytorch(p: Pair, m: ModuleType) -> None:
    """Compare output and gradients with PyTorch's."""
    arrays = p.nasty.draw()
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    z = p.twin(*tensors, **p.nasty.options)
    z.backward(torch.tensor(uneven(z.detach().numpy())))
    expected = z.detach().numpy(), *(t.grad.numpy() for t in tensors)
    equal(p.run(m, arrays, p.nasty.options, uneven), expected, 1e-10)


def images_do_not_touch(p: Pair, m: ModuleType) -> None:
    """Compare a batch with its images one by one, whose parameters' gradients add up."""
    x, *rest = p.nasty.draw()
    z, dx, *gradients = p.run(m, [x, *rest], p.nasty.options, uneven)
    dz = uneven(z)
    parts = [
        p.run(m, [x[n : n + 1], *rest], p.nasty.options, lambda z, n=n: dz[n : n + 1])
        for n in range(len(x))
    ]
    zs, dxs, *others = zip(*parts, strict=True)
    together = np.concatenate(zs), np.concatenate(dxs), *map(sum, others)
    equal((z, dx, *gradients), together, 1e-10)


# --- Cross-entropy and activations ---


def large_scores_and_copies(m: ModuleType) -> None:
    """A constant added to all scores changes nothing; neither does every image twice."""
    (z,), y = ENTROPY.nasty.draw(), ENTROPY.nasty.options["y"]
    J, dz = m.cross_entropy(z, y), m.cross_entropy_backward(z, y)
    z, y = np.concatenate([z, z]) + 1000, np.concatenate([y, y])
    twice = m.cross_entropy(z, y), m.cross_entropy_backward(z, y)
    equal(twice, (J, np.concatenate([dz, dz]) / 2), 1e-9)


ENTROPY = Pair(
    forward=lambda m, z, y: m.cross_entropy(z, y),
    backward=lambda m, dJ, z, y: (dJ * m.cross_entropy_backward(z, y),),
    tame=Case(((1, 3),), {"y": np.array([1])}),
    nasty=Case(((4, 3),), {"y": np.array([0, 2, 1, 2])}),
    paper=Paper(
        ([[0, np.log(3)]],), 1, (np.log(4 / 3), [[1 / 4, -1 / 4]]), {"y": np.array([1])}
    ),
    twin=lambda z, y: F.cross_entropy(z, torch.tensor(y)),
)
RELU = Pair(
    forward=lambda m, z: m.relu(z),
    backward=lambda m, dq, z: (m.relu_backward(dq, m.relu(z)),),
    tame=Case(((1, 6),)),
    nasty=Case(((4, 5),)),
    paper=Paper(([[-1, 2]],), [[3, 4]], ([[0, 2]], [[0, 4]])),
    twin=torch.relu,
)


# --- Linear layers ---


def dense_loops(dz: np.ndarray, q: np.ndarray, W: np.ndarray, b: np.ndarray) -> Arrays:
    """Return a dense layer's output and gradients, one number at a time."""
    z, dq, dW, db = 0 * dz + b, 0 * q, 0 * W, 0 * b
    for n, nu in np.ndindex(dz.shape):
        db[nu] += dz[n, nu]
        for mu in range(q.shape[1]):
            z[n, nu] += q[n, mu] * W[nu, mu]
            dq[n, mu] += dz[n, nu] * W[nu, mu]
            dW[nu, mu] += dz[n, nu] * q[n, mu]
    return z, dq, dW, db


DENSE = Pair(
    forward=lambda m, q, W, b: m.linear(q, W, b),
    backward=lambda m, dz, q, W, b: m.linear_backward(dz, q, W),
    tame=Case(((1, 3), (3, 3), (3,))),
    nasty=Case(((5, 4), (3, 4), (3,))),
    paper=Paper(([[1, 2]], [[3, 4]], [5]), [[2]], ([[16]], [[6, 8]], [[2, 4]], [2])),
    twin=F.linear,
    loops=dense_loops,
    linear=True,
)


def flatten_backward(m: ModuleType, dz: np.ndarray, x: np.ndarray) -> Arrays:
    """Send dz back through a layer that has just seen x."""
    layer = m.Flatten()
    layer.forward(x)
    return (layer.backward(dz),)


FLATTEN = Pair(
    forward=lambda m, x: m.Flatten().forward(x),
    backward=flatten_backward,
    tame=Case(((1, 2, 3, 3),)),
    nasty=Case(((3, 2, 3, 4),)),
    paper=Paper(
        ([[[[1, 2], [3, 4]]]],), [[5, 6, 7, 8]], ([[1, 2, 3, 4]], [[[[5, 6], [7, 8]]]])
    ),
    twin=lambda x: torch.flatten(x, 1),
    linear=True,
)


# --- Convolutions ---


def conv_loops(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, b: np.ndarray, **where: object
) -> Arrays:
    """Return a convolution's output and gradients, one number at a time."""
    gradients = conv2d_loops_backward(dz, x, W, **where)
    return conv2d_loops(x, W, b, **where), *gradients


def conv_twin(
    x: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor,
    stride: int,
    padding: tuple[int, int, int, int],
    dilation: int,
) -> torch.Tensor:
    """Compute a convolution in PyTorch, which names the padding's sides in its own order."""
    top, bottom, left, right = padding
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, W, b, stride, dilation=dilation)


BLUR = np.outer([1, 2, 1], [1, 2, 1]).reshape(1, 1, 3, 3)
LOOPS = Pair(
    forward=lambda m, x, W, b, **o: m.conv2d_loops(x, W, b, **o),
    backward=lambda m, dz, x, W, b, **o: conv2d_loops_backward(dz, x, W, **o),
    # one of everything, a filter that is itself when turned, the same padding on all sides
    tame=Case(((1, 1, 5, 5), (1, 1, 3, 3), (1,)), {"padding": 1}, {1: BLUR}),
    # no two sizes alike; windows overlap; two rows and a column remain
    nasty=Case(
        ((2, 2, 12, 6), (3, 2, 4, 2), (3,)),
        {"stride": 3, "padding": (1, 2, 0, 1), "dilation": 2},
    ),
    # the row of eight pixels that the chapter begins with
    paper=Paper(
        ([[[[0, 1, 2, 3, 4, 5, 6, 7]]]], [[[[1, 2, 3]]]], [0.5]),
        [[[[1, 10, 100]]]],
        (
            [[[[8.5, 20.5, 32.5]]]],
            [[[[1, 2, 13, 20, 130, 200, 300, 0]]]],
            [[[[420, 531, 642]]]],
            [111],
        ),
        {"stride": 2},
    ),
    twin=conv_twin,
    linear=True,
)
CORRELATION = LOOPS._replace(
    forward=lambda m, x, W, b, **o: conv2d_im2col(x, W, b, **o),
    backward=lambda m, dz, x, W, b, **o: m.conv2d_correlation_backward(dz, x, W, **o),
    loops=conv_loops,
)
IM2COL = CORRELATION._replace(
    forward=lambda m, x, W, b, **o: m.conv2d_im2col(x, W, b, **o),
    backward=lambda m, dz, x, W, b, **o: m.conv2d_im2col_backward(dz, x, W, **o),
)
BANDS = CORRELATION._replace(
    forward=lambda m, x, W, b, **o: m.conv2d_bands(x, W, b, **o),
    backward=lambda m, dz, x, W, b, **o: m.conv2d_bands_backward(dz, x, W, **o),
)


# --- Training ---


def he_variance(m: ModuleType) -> None:
    """He's weights have the variance 2 / fan_in."""
    W = np.empty((400, 300))
    m.kaiming_normal_(W, np.random.default_rng(0))
    assert abs(W.var() / (2 / 300) - 1) < 0.02


def steps(
    name: str, m: ModuleType, gradients: np.ndarray, lr: float = 0.1
) -> np.ndarray:
    """Return where an optimiser goes from (1, 1, 1)."""
    theta = np.ones(3)
    optimizer = getattr(m, name)({"theta": theta}, lr)
    for g in gradients:
        optimizer.step({"theta": g})
    return theta


def first_step(name: str, decayed: float, m: ModuleType) -> None:
    """Adam's first step is γ, whatever the gradient's size, from where the decay has led."""
    theta = steps(name, m, np.array([[0.5, -4.0, 100.0]]))
    equal((theta,), (decayed + np.array([-0.1, 0.1, -0.1]),), 1e-6)


def goes_down(name: str, m: ModuleType) -> None:
    """An optimiser goes down a bowl."""
    theta = np.array([3.0, -2.0])
    optimizer = getattr(m, name)({"theta": theta}, 0.1)
    for _ in range(20):
        optimizer.step({"theta": theta.copy()})
    assert np.sum(theta**2) < 0.9 * 13


def scale_does_not_matter(name: str, m: ModuleType) -> None:
    """Gradients a thousand times as large make the same steps."""
    gradients = np.random.default_rng(0).standard_normal((10, 3))
    equal((steps(name, m, 1000 * gradients),), (steps(name, m, gradients),), 1e-6)


def steps_pytorch(name: str, m: ModuleType) -> None:
    """Ten steps are PyTorch's."""
    gradients = np.random.default_rng(0).standard_normal((10, 3))
    twin = torch.ones(3, dtype=torch.float64)
    optimizer = getattr(torch.optim, name)([twin], 0.1)
    for g in gradients:
        twin.grad = torch.tensor(g)
        optimizer.step()
    equal((steps(name, m, gradients),), (twin.numpy(),), 1e-10)


def optimizer_checks(name: str, decayed: float) -> dict[str, Check]:
    """Return the checks of an optimiser; ``decayed`` is what a step's decay makes of 1."""
    return {
        "cost falls": partial(goes_down, name),
        "by hand": partial(first_step, name, decayed),
        "PyTorch": partial(steps_pytorch, name),
        "invariance": partial(scale_does_not_matter, name),
    }


def mean_cost(m: ModuleType, N: int, batch_size: int) -> tuple[float, float]:
    """Return what the module says of N images, most of them right, in such batches."""
    z, y = np.tile([0, np.log(3)], (N, 1)), np.ones(N, int)
    y[-1] = 0
    return m.evaluate(Sequential(Flatten()), z, y, batch_size)


def mean_cost_on_paper(m: ModuleType) -> None:
    """Three of four images are right: two batches of two."""
    expected = (3 * np.log(4 / 3) + np.log(4)) / 4, 1 / 4
    equal(mean_cost(m, 4, 2), expected, 1e-6)


def mean_cost_in_one(m: ModuleType) -> None:
    """Seven images in batches of three cost what they cost at once."""
    equal(mean_cost(m, 7, 3), mean_cost(m, 7, 7), 1e-12)


# --- Pooling and regularisation ---


def pool_loops(
    dy: np.ndarray,
    x: np.ndarray,
    kernel_size: int,
    stride: int,
    padding: int,
    ceil_mode: bool,
) -> Arrays:
    """Return the maxima, and the gradient: the first of equals takes all the blame."""
    f, s, p = kernel_size, stride, padding
    # a window starts in the image or before it, and only if the one before left something over
    tops, lefts = (
        [t for t in range(-p, size, s) if t - s + f < size + p] for size in x.shape[2:]
    )
    y, dx = np.zeros((*x.shape[:2], len(tops), len(lefts)), x.dtype), 0 * x
    for n, c, i, j in np.ndindex(y.shape):
        h, w = max(0, tops[i]), max(0, lefts[j])
        window = x[n, c, h : tops[i] + f, w : lefts[j] + f]
        a, b = np.unravel_index(window.argmax(), window.shape)
        y[n, c, i, j] = window[a, b]
        dx[n, c, h + a, w + b] += dy[n, c, i, j]
    return y, dx


def pool_twin(
    x: torch.Tensor, kernel_size: int, stride: int, padding: int, ceil_mode: bool
) -> torch.Tensor:
    """Compute the maxima in PyTorch."""
    return F.max_pool2d(x, kernel_size, stride, padding, 1, ceil_mode)


def pool_backward(
    m: ModuleType, dy: np.ndarray, x: np.ndarray, **where: object
) -> Arrays:
    """Hand the blame to those that win now."""
    _, winners = m.max_pool2d(x, **where)
    return (m.max_pool2d_backward(dy, x, winners, **where),)


def pooling(kernel_size: int, stride: int, padding: int) -> dict[str, object]:
    """Return where the windows go, in ceil mode."""
    return {
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "ceil_mode": True,
    }


MAX_POOLING = Pair(
    forward=lambda m, x, **where: m.max_pool2d(x, **where)[0],
    backward=pool_backward,
    nasty=Case(((2, 2, 6, 7),), pooling(4, 3, 1)),
    tame=Case(((1, 1, 5, 5),), pooling(2, 2, 0)),
    paper=Paper(
        ([[[[1, 5, 2, 8], [3, 4, 0, 1]]]],),
        [[[[10, 20]]]],
        ([[[[5, 8]]]], [[[[0, 10, 0, 20], [0, 0, 0, 0]]]]),
        pooling(2, 2, 0),
    ),
    twin=pool_twin,
    loops=pool_loops,
)


AVERAGE_POOLING = Pair(
    forward=lambda m, x, **where: m.avg_pool2d(x, **where),
    backward=lambda m, dy, x, **where: (m.avg_pool2d_backward(dy, x, **where),),
    nasty=Case(((2, 2, 3, 5),), pooling(2, 2, 0)),
    tame=Case(((1, 1, 4, 4),), pooling(2, 2, 0)),
    paper=Paper(
        ([[[[1, 5, 2, 8], [3, 7, 0, 2]]]],),
        [[[[4, 8]]]],
        ([[[[4, 3]]]], [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]),
        pooling(2, 2, 0),
    ),
    twin=F.avg_pool2d,
)


def units_do_not_matter(m: ModuleType) -> None:
    """Another unit and another zero for x change nothing, so that dx sums to zero."""
    x, gamma, beta = BATCH_NORM.nasty.draw()
    y = m.batch_norm(x, gamma, beta)
    equal((m.batch_norm(100 * x + 7, gamma, beta),), (y,), 1e-4)
    dx, *_ = m.batch_norm_backward(np.cos(x), x, gamma)
    equal((dx.sum(axis=(0, 2, 3)),), (0 * gamma,), 1e-10)


BATCH_NORM = Pair(
    forward=lambda m, x, gamma, beta: m.batch_norm(x, gamma, beta),
    backward=lambda m, dy, x, gamma, beta: m.batch_norm_backward(dy, x, gamma),
    nasty=Case(((3, 2, 2, 4), (2,), (2,))),
    paper=Paper(
        ([[100], [300]], [2], [5]), [[1], [0]], ([[3], [7]], [[0], [0]], [-1], [1]), {}
    ),
    twin=lambda x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, training=True),
    alone=False,
)


def batches() -> np.ndarray:
    """Return 1000 batches of five numbers each, of mean 3 and variance 4."""
    return 3 + 2 * np.random.default_rng(0).standard_normal((1000, 5, 1))


def running_moments(m: ModuleType) -> None:
    """The running mean and variance tend to the true ones."""
    layer = m.BatchNorm1d(1, momentum=0.01, dtype=np.float64)
    for x in batches():
        layer.forward(x)
    equal((layer.buffers["running_mean"] / 3,), ([1],), 0.1)
    equal((layer.buffers["running_var"] / 4,), ([1],), 0.1)


def running_moments_pytorch(m: ModuleType) -> None:
    """The running mean and variance are PyTorch's."""
    layer, twin = m.BatchNorm1d(1, dtype=np.float64), torch.nn.BatchNorm1d(1).double()
    for x in batches()[:10]:
        layer.forward(x)
        twin(torch.tensor(x))
    for name in ("running_mean", "running_var"):
        equal((layer.buffers[name],), (getattr(twin, name).numpy(),), 1e-10)


def batch_norm_at_inference(m: ModuleType) -> None:
    """At inference an image gets the same result in any company."""
    layer = m.BatchNorm1d(1, dtype=np.float64)
    first, second, *_ = batches()
    layer.forward(first)
    layer.eval()
    equal((layer.forward(second)[:1],), (layer.forward(second[:1]),), 1e-12)


def gradient_at_inference(m: ModuleType) -> None:
    """At inference mean and variance are constants, and the gradient must treat them so."""
    layer = m.BatchNorm1d(1, dtype=np.float64)
    first, second, *_ = batches()
    layer.forward(first)
    layer.eval()
    y = layer.forward(second)
    dx = layer.backward(uneven(y) * y)
    check_gradient(lambda x: np.sum(uneven(y) * layer.forward(x) ** 2) / 2, second, dx)


def dropout_backward(m: ModuleType, dy: np.ndarray, x: np.ndarray) -> Arrays:
    """Send dy back through what the forward pass has left."""
    _, r = m.dropout(x, 0.25, np.random.default_rng(0))
    return (m.dropout_backward(dy, r),)


def dropout_mean(m: ModuleType) -> None:
    """Dropout leaves the mean as it was."""
    y, _ = m.dropout(np.ones(100_000), 0.25, np.random.default_rng(0))
    equal((y.mean(),), (1,), 0.01)


DROPOUT = Pair(
    forward=lambda m, x: m.dropout(x, 0.25, np.random.default_rng(0))[0],
    backward=dropout_backward,
    nasty=Case(((4, 5),)),
    tame=Case(((1, 6),)),
    alone=False,
)


SUBJECTS: dict[str, dict[str, Check]] = {
    "cross-entropy": ENTROPY.checks(invariance=large_scores_and_copies),
    "ReLU": RELU.checks(),
    "dense": DENSE.checks(),
    "Flatten": FLATTEN.checks(),
    "loops": LOOPS.checks(),
    "correlation": CORRELATION.checks(),
    "im2col": IM2COL.checks(),
    "bands": BANDS.checks(),
    "max-pooling": MAX_POOLING.checks(),
    "average pooling": AVERAGE_POOLING.checks(),
    "batch norm": BATCH_NORM.checks(invariance=units_do_not_matter),
    "running moments": {
        "PyTorch": running_moments_pytorch,
        "differences, nasty": gradient_at_inference,
        "invariance": batch_norm_at_inference,
        "statistics": running_moments,
    },
    "dropout": DROPOUT.checks(statistics=dropout_mean),
    "He": {"statistics": he_variance},
    "Adam": optimizer_checks("Adam", decayed=1),
    "AdamW": optimizer_checks("AdamW", decayed=1 - 0.1 * 0.01),
    "evaluate": {"by hand": mean_cost_on_paper, "invariance": mean_cost_in_one},
}
