"""What the exercises of chapters 4 to 9 ask for: the answers are here. Try first.

For each function: one that is right, as plain as possible; the calls to try; mistakes, in words.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from exercises import Case, Rng, Task, after, whole

# --- 4 The dense layer ---


def bilinear_backward(dz, q, r, A):
    """Follow every product to the three numbers in it."""
    dq, dr, dA = np.zeros_like(q), np.zeros_like(r), np.zeros_like(A)
    for n, (nu, mu, k) in (
        (n, at) for n in range(len(q)) for at in np.ndindex(A.shape)
    ):
        dq[n, mu] += dz[n, nu] * A[nu, mu, k] * r[n, k]
        dr[n, k] += dz[n, nu] * A[nu, mu, k] * q[n, mu]
        dA[nu, mu, k] += dz[n, nu] * q[n, mu] * r[n, k]
    return dq, dr, dA


def bilinear_cases(rng: Rng) -> Iterator[Case]:
    """Yield dz, q, r, A."""
    sizes = ((1, 1, 1, 1), (1, 2, 3, 4), (3, 1, 2, 5), (5, 3, 4, 2), (2, 3, 3, 3))
    for N, M_out, M_in, K in sizes:
        shapes = (N, M_out), (N, M_in), (N, K), (M_out, M_in, K)
        kind = "one of each" if N == M_in == 1 else "ordinary sizes"
        yield kind, *(whole(rng, *shape) for shape in shapes)
    arrays = (whole(rng, *shape) for shape in shapes)
    yield "float32", *(a.astype(np.float32) for a in arrays)


BILINEAR = {
    "dA is the mean over the images, not the sum": after(
        bilinear_backward, lambda d, dz, *_: (d[0], d[1], d[2] / dz.dtype.type(len(dz)))
    ),
    "dq and dr are in each other's place": after(
        bilinear_backward, lambda d, *_: (d[1], d[0], d[2])
    ),
    "dA is not summed over the images": after(
        bilinear_backward,
        lambda d, dz, q, r, A: (*d[:2], np.einsum("nv,nm,nk->nvmk", dz, q, r)),
    ),
    "the axes μ and k of dA are exchanged": after(
        bilinear_backward, lambda d, *_: (*d[:2], d[2].swapaxes(1, 2))
    ),
    "dq lacks the factor r": after(
        bilinear_backward,
        lambda d, dz, q, r, A: (np.einsum("nv,vmk->nm", dz, A), *d[1:]),
    ),
    "dr lacks the factor q": after(
        bilinear_backward,
        lambda d, dz, q, r, A: (d[0], np.einsum("nv,vmk->nk", dz, A), d[2]),
    ),
}


# --- 5 Activations ---


def leaky_relu(z, a):
    """Decide number by number."""
    q = np.empty_like(z)
    for k in np.ndindex(z.shape):
        q[k] = z[k] if z[k] > 0 else a * z[k]
    return q


def leaky_relu_backward(dq, q, a):
    """Decide number by number."""
    dz = np.empty_like(dq)
    for k in np.ndindex(q.shape):
        dz[k] = dq[k] if q[k] > 0 else a * dq[k]
    return dz


def leaky_cases(rng: Rng) -> Iterator[Case]:
    """Yield z and a."""
    for shape in ((1, 1), (3, 4), (2, 3, 4), (5,)):
        for a in (0.01, 0.5):
            yield "a small leak", rng.standard_normal(shape), a
    yield "no leak, a = 0", rng.standard_normal((4, 3)), 0.0
    yield "nothing closed, a = 1", rng.standard_normal((4, 3)), 1.0
    yield "a above 1", rng.standard_normal((2, 3)), 2.0
    yield "numbers that are 0", np.array([[0.0, -0.0, 3], [-2, 0, 0]]), 0.25
    yield "large numbers", 1e9 * rng.standard_normal((2, 6)), 0.01
    yield "float32", rng.standard_normal((3, 3)).astype(np.float32), 0.01


def leaky_back_cases(rng: Rng) -> Iterator[Case]:
    """Yield dq, the q that leaky_relu gives, and a."""
    for kind, z, a in leaky_cases(rng):
        yield kind, rng.standard_normal(z.shape).astype(z.dtype), leaky_relu(z, a), a


LEAKY = {
    "there is no leak: this is ReLU": lambda z, a: np.maximum(z, 0),
    "elsewhere q is a, not a·z": lambda z, a: np.where(z > 0, z, z.dtype.type(a)),
    "the two branches are exchanged": lambda z, a: np.where(z > 0, a * z, z),
    "the larger of z and a·z is taken: right for a ≤ 1 only": lambda z, a: np.maximum(
        z, a * z
    ),
    "the slope of the leak is -a": lambda z, a: np.where(z > 0, z, -a * z),
}
LEAKY_BACK = {
    "the closed gate lets nothing pass: this is ReLU": lambda dq, q, a: dq * (q > 0),
    "the gate is open at q = 0": lambda dq, q, a: np.where(q >= 0, dq, a * dq),
    "the gate looks at dq, not at q": lambda dq, q, a: np.where(dq > 0, dq, a * dq),
    "the slope is returned, dq is missing": lambda dq, q, a: np.where(
        q > 0, 1, a
    ).astype(q.dtype),
    "the two branches are exchanged": lambda dq, q, a: np.where(q > 0, a * dq, dq),
    "the closed gate lets a pass, not a·dq": lambda dq, q, a: np.where(
        q > 0, dq, q.dtype.type(a)
    ),
    "the blame is multiplied by q": lambda dq, q, a: np.where(q > 0, dq, a * dq) * q,
}


# --- 6 Backpropagation ---


def scale_backward(dy, x, g):
    """Follow every product to the two numbers in it."""
    dx, dg = np.zeros_like(x), np.zeros_like(g)
    for n, mu in np.ndindex(x.shape):
        dx[n, mu] += dy[n, mu] * g[mu]
        dg[mu] += dy[n, mu] * x[n, mu]
    return dx, dg


def scale_cases(rng: Rng) -> Iterator[Case]:
    """Yield dy, x, g."""
    for N, M in ((1, 1), (1, 4), (4, 1), (3, 5), (4, 4)):
        kind = "one image or one input" if 1 in (N, M) else "ordinary sizes"
        yield kind, whole(rng, N, M), whole(rng, N, M), whole(rng, M)
    arrays = whole(rng, 3, 2), whole(rng, 3, 2), whole(rng, 2)
    yield "float32", *(a.astype(np.float32) for a in arrays)


SCALE = {
    "dg is not summed over the images": lambda dy, x, g: (dy * g, dy * x),
    "dg is the mean over the images, not the sum": after(
        scale_backward, lambda d, dy, *_: (d[0], d[1] / dy.dtype.type(len(dy)))
    ),
    "dx is dy·x, where g belongs": lambda dy, x, g: (dy * x, (dy * x).sum(axis=0)),
    "dx and dg are in each other's place": after(
        scale_backward, lambda d, *_: (d[1], d[0])
    ),
    "dg lacks the factor x": lambda dy, x, g: (dy * g, dy.sum(axis=0)),
    "dx lacks the factor g": lambda dy, x, g: (dy + 0, (dy * x).sum(axis=0)),
    "dg is summed over the wrong axis": lambda dy, x, g: (dy * g, (dy * x).sum(axis=1)),
}


# --- 7 Where to start ---


def rescaled(W, q):
    """Add up the squares of all outputs, one by one."""
    total = 0.0
    for n in range(len(q)):
        for row in W:
            z = sum(float(w) * float(x) for w, x in zip(row, q[n], strict=True))
            total += max(z, 0.0) ** 2
    return W / W.dtype.type(math.sqrt(total / (len(q) * len(W))))


def rescaled_cases(rng: Rng) -> Iterator[Case]:
    """Yield W and q."""
    yield "one weight", np.array([[0.5]]), np.array([[3.0]])
    for M_out, M_in, N in ((2, 3, 4), (5, 2, 3), (4, 4, 4), (1, 6, 9)):
        W, q = rng.standard_normal((M_out, M_in)), rng.standard_normal((N, M_in))
        yield "ordinary sizes", W.copy(), q.copy()
        yield "large weights", 1e4 * W, q.copy()
        yield "small weights, inputs that are positive", 1e-6 * W, abs(q) + 1
    W, q = rng.standard_normal((5, 3)), rng.random((4, 3))
    yield "float32", W.astype(np.float32), q.astype(np.float32)


def rescaled_by(size: Callable) -> Callable:
    """Return a function that divides by another size."""
    return lambda W, q: W / W.dtype.type(size(q @ W.T, W, q))


RESCALED = {
    "the square root is missing": rescaled_by(
        lambda z, W, q: np.mean(np.maximum(z, 0) ** 2)
    ),
    "it is the standard deviation: the mean is subtracted": rescaled_by(
        lambda z, W, q: np.std(np.maximum(z, 0))
    ),
    "the ReLU is missing": rescaled_by(lambda z, W, q: np.sqrt(np.mean(z**2))),
    "the weights are multiplied, not divided": rescaled_by(
        lambda z, W, q: 1 / np.sqrt(np.mean(np.maximum(z, 0) ** 2))
    ),
    "the sum of the squares is made one, not their mean": rescaled_by(
        lambda z, W, q: np.sqrt(np.sum(np.maximum(z, 0) ** 2))
    ),
    "the size of the weights is used, not that of the outputs": rescaled_by(
        lambda z, W, q: np.sqrt(np.mean(W**2))
    ),
}


# --- 8 How far to step ---


def warm_up(t, T):
    """Count the steps up to and including t."""
    return sum(step <= t for step in range(T)) / T


def warm_up_cases(rng: Rng) -> Iterator[Case]:
    """Yield t and T."""
    for T in (1, 2, 3, 10, 1000):
        for t in sorted({0, 1, T // 2, T - 1, T, 5 * T}):
            kind = "step 0" if t == 0 else "after" if t >= T else "during the warm-up"
            yield kind, t, T


WARM_UP = {
    "the first step does not move: t is counted from 0": lambda t, T: min(1, t / T),
    "it rises beyond 1": lambda t, T: (t + 1) / T,
    "1 is reached one step late": lambda t, T: min(1, (t + 1) / (T + 1)),
    "1 is reached one step early": lambda t, T: min(1, (t + 2) / T),
    "the division drops the fraction": lambda t, T: min(1, (t + 1) // T),
    "t and T are exchanged": lambda t, T: min(1, T / (t + 1)),
    "it falls from 1 instead of rising to 1": lambda t, T: max(0, 1 - t / T),
    "it is 0 after the warm-up": lambda t, T: (t + 1) / T if t < T else 0,
}


def nesterov(theta, v, g, gamma, mu):
    """Step along g + μ v, with the new v."""
    new = mu * v + g
    step = mu * new + g
    return theta - gamma * step, new


def nesterov_cases(rng: Rng) -> Iterator[Case]:
    """Yield θ, v, g, γ, μ."""
    yield "single numbers", 1.0, 0.0, 1.0, 0.5, 0.9
    for shape in ((1,), (4,), (3, 2)):
        for gamma, mu in ((0.1, 0.9), (3.0, 0.5), (0.01, 0.99)):
            yield "arrays", *rng.standard_normal((3, *shape)), gamma, mu
    yield "no momentum, μ = 0", *rng.standard_normal((3, 4)), 0.1, 0.0
    yield "at rest, v = 0", np.ones(3), np.zeros(3), np.arange(3.0), 0.1, 0.9
    arrays = rng.standard_normal((3, 5)).astype(np.float32)
    yield "float32", *arrays, 0.1, 0.9


def nesterov_by(step: Callable, velocity: Callable = lambda v, g, mu: mu * v + g):
    """Return a rule with another step or another velocity."""

    def rule(theta, v, g, gamma, mu):
        new = velocity(v, g, mu)
        return theta - gamma * step(v, new, g, mu), new

    return rule


NESTEROV = {
    "the step is along v: this is ordinary momentum": nesterov_by(
        lambda v, new, g, mu: new
    ),
    "the step is along g + v: μ is missing": nesterov_by(lambda v, new, g, mu: g + new),
    "the step is along μ v: g is missing": nesterov_by(lambda v, new, g, mu: mu * new),
    "the step goes uphill": nesterov_by(lambda v, new, g, mu: -g - mu * new),
    "the velocity lacks its μ": nesterov_by(
        lambda v, new, g, mu: g + mu * new, lambda v, g, mu: v + g
    ),
    "the velocity is an average, (1 - μ) g": nesterov_by(
        lambda v, new, g, mu: g + mu * new, lambda v, g, mu: mu * v + (1 - mu) * g
    ),
    "θ and v are in each other's place": after(nesterov, lambda d, *_: (d[1], d[0])),
    "the old v is returned": after(nesterov, lambda d, theta, v, *_: (d[0], v + 0)),
}
# --- 9 The training loop ---


def running_mean(losses, window):
    """Add up each stretch anew."""
    stretches = (losses[max(0, t + 1 - window) : t + 1] for t in range(len(losses)))
    return np.array([math.fsum(stretch) / len(stretch) for stretch in stretches])


def running_mean_cases(rng: Rng) -> Iterator[Case]:
    """Yield losses, in a list or an array, and windows."""
    yield "one loss", [2.5], 1
    yield "one loss", np.array([2.5]), 3
    for n, window in ((5, 1), (6, 2), (9, 4), (10, 10), (40, 7)):
        yield "longer than the window", rng.exponential(size=n), window
        yield "a list", rng.exponential(size=n).tolist(), window
    for n, window in ((3, 5), (4, 100)):
        yield "shorter than the window", rng.exponential(size=n), window
    yield "negative and large", 1e6 * rng.standard_normal(8), 3


def stretched(losses, first: Callable, end: Callable = lambda t: t + 1) -> np.ndarray:
    """Return the means from ``first(t)`` to ``end(t)``, not included."""
    n = len(losses)
    return np.array([np.mean(losses[max(0, first(t)) : end(t)]) for t in range(n)])


RUNNING = {
    "the first entries are divided by the window too": lambda losses, window: (
        np.array(
            [np.sum(losses[max(0, t + 1 - window) : t + 1]) for t in range(len(losses))]
        )
        / window
    ),
    "the window holds one loss too many": lambda losses, window: stretched(
        losses, lambda t: t - window
    ),
    "each entry is the mean of all until then": lambda losses, window: stretched(
        losses, lambda t: 0
    ),
    "the window is centred on t, not before it": lambda losses, window: stretched(
        losses, lambda t: t - window // 2, lambda t: t + (window + 1) // 2
    ),
    "the window begins at t, not ends there": lambda losses, window: stretched(
        losses, lambda t: t, lambda t: t + window
    ),
    "there is no entry before the window is full": lambda losses, window: (
        np.convolve(losses, np.ones(window) / window, "valid")
        if window <= len(losses)
        else np.zeros(0)
    ),
}


EXERCISES = {
    "ex-dense-bilinear": (Task(bilinear_backward, bilinear_cases, BILINEAR),),
    "ex-act-leaky": (
        Task(leaky_relu, leaky_cases, LEAKY),
        Task(leaky_relu_backward, leaky_back_cases, LEAKY_BACK),
    ),
    "ex-backprop-scale": (Task(scale_backward, scale_cases, SCALE),),
    "ex-init-rescale": (Task(rescaled, rescaled_cases, RESCALED),),
    "ex-optimizers-warmup": (Task(warm_up, warm_up_cases, WARM_UP),),
    "ex-optimizers-nesterov": (Task(nesterov, nesterov_cases, NESTEROV),),
    "ex-training-mean": (Task(running_mean, running_mean_cases, RUNNING),),
}
