"""What the exercises of chapters 13 and 14 ask for: the answers are here. Try first.

For each function: one that is right, as plain as possible; the calls to try; mistakes, in words.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from exercises import Case, Rng, Task, after

from answers.convolution import conv_arrays, correlation, turned

# --- 13 The convolutional layer ---


def four(padding) -> tuple[int, ...]:
    """Return padding as (top, bottom, left, right)."""
    if isinstance(padding, int):
        return (padding,) * 4
    return tuple(np.repeat(padding, 4 // len(padding)).tolist())


def by_correlations_backward(dz, x, W, stride, padding, dilation, input_gradient):
    """Follow every product of the forward sum to the two numbers in it."""
    top, bottom, left, right = four(padding)
    xbar = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    dxbar, dW = np.zeros_like(xbar), np.zeros_like(W)
    for nu, mu, a, c, i, j in np.ndindex(*W.shape, *dz.shape[2:]):
        h, w = stride * i + dilation * a, stride * j + dilation * c
        dxbar[:, mu, h, w] += W[nu, mu, a, c] * dz[:, nu, i, j]
        dW[nu, mu, a, c] += (dz[:, nu, i, j] * xbar[:, mu, h, w]).sum()
    H, width = x.shape[2:]
    dx = dxbar[:, :, top : top + H, left : left + width]
    return dx if input_gradient else None, dW, dz.sum(axis=(0, 2, 3))


def fifth_cases(rng: Rng) -> Iterator[Case]:
    """Yield dz, x, W, stride, padding, dilation, input_gradient."""
    settings = (
        ("stride 1", 5, 1, 0, 1), ("padding", 4, 1, 1, 1), ("a stride", 5, 2, 0, 1),
        ("a remainder", 6, 2, 0, 1), ("a remainder", 6, 3, 1, 1), ("dilation", 7, 1, 0, 2),
        ("all of it", 8, 2, 2, 3), ("padding by side", 6, 2, (1, 0, 2, 1), 1),
        ("padding by axis", 6, 1, (0, 2), 1),
    )  # fmt: skip
    for kind, H, s, p, d in settings:
        for wanted in (True, False)[: 1 + (s == 2)]:
            x, W, b = conv_arrays(rng, 2, 2, H, H + 1, 3, 3, 2)
            shape = correlation(x, W, b, s, four(p), d).shape
            dz = rng.integers(-9, 10, shape).astype(float)
            yield kind if wanted else "without dx", dz, x, W, s, p, d, wanted
    x, W, _ = conv_arrays(rng, 1, 1, 1, 1, 1, 1, 1)
    yield "one of each", np.array([[[[2.0]]]]), x, W, 1, 0, 1, True


def fifth_with(change: Callable) -> Callable:
    """Return the three gradients with a change of them."""
    right = by_correlations_backward
    return lambda *args: change(*right(*args), *args)


def dx_with(dz, x, W, stride, padding, dilation, wanted):
    """Return dx alone."""
    args = stride, padding, dilation, wanted
    return by_correlations_backward(dz, x, W, *args)[0]


def dW_kept(dz, x, W, s, p, d):
    """Correlate x̄, its last r rows and columns included, with dz, spread by s; thin out by d."""
    top, bottom, left, right = four(p)
    xbar = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    spread = np.zeros((*dz.shape[:2], *(s * (n - 1) + 1 for n in dz.shape[2:])))
    spread[:, :, ::s, ::s] = dz
    swapped = xbar.swapaxes(0, 1), spread.swapaxes(0, 1), np.zeros(dz.shape[1])
    return correlation(*swapped).swapaxes(0, 1)[:, :, ::d, ::d]


FIFTH = {
    "dx is computed though nobody asks for it": lambda *args: by_correlations_backward(
        *args[:-1], True
    ),
    "the filter is not turned": fifth_with(
        lambda dx, dW, db, dz, x, W, *rest: (dx_with(dz, x, turned(W), *rest), dW, db)
    ),
    "dW is turned": fifth_with(lambda dx, dW, db, *_: (dx, turned(dW), db)),
    "db is the mean over the images, not the sum": fifth_with(
        lambda dx, dW, db, dz, *_: (dx, dW, db / len(dz))
    ),
    "dW is the mean over the images, not the sum": fifth_with(
        lambda dx, dW, db, dz, *_: (dx, dW / len(dz), db)
    ),
    "dx and dW are in each other's place": fifth_with(
        lambda dx, dW, db, *_: (dW, dx, db)
    ),
    "the three are never computed without dx: None in their place": fifth_with(
        lambda dx, dW, db, *_: None if dx is None else (dx, dW, db)
    ),
    "without dx there are two results, not three": fifth_with(
        lambda dx, dW, db, *_: (dW, db) if dx is None else (dx, dW, db)
    ),
    "you kept the r trailing rows of x̄: dW is too large": fifth_with(
        lambda dx, dW, db, dz, x, W, s, p, d, wanted: (
            dx,
            dW_kept(dz, x, W, s, p, d),
            db,
        )
    ),
}


def grouped(x, W, b, groups):
    """Compute filter by filter, each with the channels of its group."""
    C, C_out = W.shape[1], len(W)
    z = []
    for nu in range(C_out):
        first = nu // (C_out // groups) * C
        channels = x[:, first : first + C]
        z.append(correlation(channels, W[nu : nu + 1], b[nu : nu + 1]))
    return np.concatenate(z, axis=1)


def grouped_cases(rng: Rng) -> Iterator[Case]:
    """Yield x, W, b, groups."""
    sizes = (
        (1, 2, 1),
        (2, 1, 2),
        (2, 3, 2),
        (3, 2, 1),
        (4, 1, 1),
        (2, 2, 2),
        (3, 3, 2),
    )
    for groups, C, filters in sizes:
        kind = "one group" if groups == 1 else f"{groups} groups"
        kind = "a channel for each filter" if C == filters == 1 else kind
        _, W, b = conv_arrays(rng, 1, C, 1, 1, groups * filters, 3, 2)
        x = rng.integers(-9, 10, (2, groups * C, 5, 4)).astype(float)
        yield kind, x, W, b, groups
    yield "float32", *(a.astype(np.float32) for a in (x, W, b)), groups


def grouped_by(channels: Callable) -> Callable:
    """Return a function in which filter ν of group g of the groups sees other channels."""

    def z(x, W, b, groups):
        C, size = W.shape[1], len(W) // groups
        parts = []
        for nu in range(len(W)):
            seen = [channels(k, nu // size, nu % size, C, groups) for k in range(C)]
            part = slice(nu, nu + 1)
            parts.append(correlation(x[:, np.mod(seen, x.shape[1])], W[part], b[part]))
        return np.concatenate(parts, axis=1)

    return z


GROUPED = {
    "all filters see the first group's channels": grouped_by(lambda k, g, n, C, G: k),
    "the channels are dealt in turn, not cut into blocks": grouped_by(
        lambda k, g, n, C, G: k * G + g
    ),
    "the groups see each other's channels, in the opposite order": grouped_by(
        lambda k, g, n, C, G: (G - 1 - g) * C + k
    ),
    "the bias is missing": lambda x, W, b, groups: grouped(x, W, 0 * b, groups),
    "the filter is turned": lambda x, W, b, groups: grouped(x, turned(W), b, groups),
    "the groups are added, not put side by side": lambda x, W, b, groups: sum(
        np.split(grouped(x, W, b, groups), groups, axis=1)
    ),
    "only the first group is returned": after(
        grouped, lambda z, x, W, b, groups: z[:, : len(W) // groups]
    ),
}


# --- 14 Pooling ---


def soft(x, beta):
    """Compute window by window, with a sum that does not round."""
    m, y = x.shape[1], []
    for row in x.tolist():
        top = max(row)
        total = math.fsum(math.exp(beta * (score - top)) for score in row)
        y.append(top + math.log(total / m) / beta)
    return np.array(y)


def soft_shares(x, beta):
    """Compute window by window."""
    e = [[math.exp(beta * (score - max(row))) for score in row] for row in x.tolist()]
    return np.array([[score / math.fsum(row) for score in row] for row in e])


def soft_cases(rng: Rng) -> Iterator[Case]:
    """Yield x and β."""
    for shape in ((1, 4), (6, 4), (3, 9), (4, 4)):
        for beta in (0.5, 1.0, 3.0):
            yield "ordinary numbers", rng.standard_normal(shape), beta
    yield "windows of one number", rng.standard_normal((3, 1)), 2.0
    yield "ties", rng.integers(0, 3, (6, 4)).astype(float), 2.0
    yield "a large β", rng.standard_normal((3, 4)), 1e4
    yield "a small β", rng.standard_normal((3, 4)), 0.01
    yield "large numbers", 1e4 * rng.standard_normal((3, 4)), 1.5


SOFT = {
    "1/m is missing in the mean": after(
        soft, lambda y, x, beta: y + np.log(x.shape[1]) / beta
    ),
    "1/β is missing": after(soft, lambda y, x, beta: y * beta),
    "β is missing in the exponent": lambda x, beta: soft(x, 1.0) / beta,
    "β is missing altogether": lambda x, beta: soft(x, 1.0),
    "exp overflows: the largest number is not subtracted before": lambda x, beta: (
        np.log(np.mean(np.exp(beta * x), axis=1)) / beta
    ),
    "the windows are taken down the columns": lambda x, beta: soft(x.T, beta),
    "it is the maximum": lambda x, beta: x.max(axis=1),
    "it is the mean": lambda x, beta: x.mean(axis=1),
}
SHARES = {
    "β is missing in the exponent": lambda x, beta: soft_shares(x, 1.0),
    "the shares are multiplied by β": after(soft_shares, lambda p, x, beta: p * beta),
    "the shares are divided by β": after(soft_shares, lambda p, x, beta: p / beta),
    "the largest takes all": lambda x, beta: np.eye(x.shape[1])[x.argmax(axis=1)],
    "each share is 1/m": lambda x, beta: np.full(x.shape, 1 / x.shape[1]),
    "the shares of a column have sum one, not those of a row": lambda x, beta: (
        soft_shares(x.T, beta).T.copy()
    ),
    "exp overflows: the largest number is not subtracted before": lambda x, beta: (
        np.exp(beta * x) / np.exp(beta * x).sum(axis=1, keepdims=True)
    ),
    "the shares have the mean one, not the sum": after(
        soft_shares, lambda p, x, beta: p * x.shape[1]
    ),
}


EXERCISES = {
    "ex-conv-fifth": (Task(by_correlations_backward, fifth_cases, FIFTH),),
    "ex-conv-groups": (Task(grouped, grouped_cases, GROUPED),),
    "ex-pool-soft": (
        Task(soft, soft_cases, SOFT),
        Task(soft_shares, soft_cases, SHARES),
    ),
}
