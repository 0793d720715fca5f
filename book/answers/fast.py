"""What the exercises of chapters 23 to 30 ask for: the answers are here. Try first.

For each function: one that is right, as plain as possible; the calls to try; mistakes, in words.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from exercises import Case, Rng, Task, after

# --- 23 Bands ---


def correlate(x, w):
    """Add up pixel by pixel."""
    (H, W), (f_h, f_w) = x.shape, w.shape
    z = np.zeros((H - f_h + 1, W - f_w + 1), np.result_type(x, w))
    for i, j, a, c in np.ndindex(*z.shape, f_h, f_w):
        z[i, j] += x[i + a, j + c] * w[a, c]
    return z


def correlate_cases(rng: Rng) -> Iterator[Case]:
    """Yield x and w."""
    sizes = (
        (1, 1, 1, 1),
        (3, 3, 3, 3),
        (5, 5, 3, 3),
        (4, 7, 2, 4),
        (6, 9, 1, 5),
        (8, 6, 8, 1),
    )
    for H, W, f_h, f_w in (*sizes, (9, 4, 5, 2)):
        kind = "a square filter" if f_h == f_w > 1 else "other filters"
        kind = "one pixel" if H == 1 else "one window" if (f_h, f_w) == (H, W) else kind
        x, w = rng.integers(-9, 10, (H, W)), rng.integers(-9, 10, (f_h, f_w))
        yield kind, x, w
        yield "floating-point numbers", rng.standard_normal((H, W)), w.astype(float)
    x = rng.integers(-9, 10, (7, 12))[::-1, ::2]
    yield "not in order in memory", x, rng.integers(-9, 10, (2, 3)).T
    yield "float32", *(rng.standard_normal((n, n)).astype(np.float32) for n in (5, 2))


def strips(x, w, tap: Callable):
    """Sum over the taps, each with the number of w that ``tap`` names."""
    (H, W), (f_h, f_w) = x.shape, w.shape
    z = np.zeros((H - f_h + 1, W - f_w + 1), np.result_type(x, w))
    for a, c in np.ndindex(f_h, f_w):
        z += x[a : a + H - f_h + 1, c : c + W - f_w + 1] * tap(a, c)
    return z


CORRELATE = {
    "the filter is turned": lambda x, w: correlate(x, w[::-1, ::-1]),
    "the result is transposed: (w_out, h_out)": lambda x, w: correlate(x, w).T,
    "the filter is read column by column": lambda x, w: correlate(
        x, w.T.reshape(w.shape)
    ),
    "one row of output is missing": lambda x, w: correlate(x, w)[:-1],
    "one column of output is missing": lambda x, w: correlate(x, w)[:, :-1],
    "the filter's rows are in the opposite order": lambda x, w: correlate(x, w[::-1]),
    "the filter's columns are in the opposite order": lambda x, w: correlate(
        x, w[:, ::-1]
    ),
    "only the filter's first row is used": lambda x, w: strips(
        x, w, lambda a, c: w[a, c] * (a == 0)
    ),
    "the result is one long row": lambda x, w: correlate(x, w).ravel(),
    "the result has axes for channels and images too": lambda x, w: correlate(x, w)[
        None, None
    ],
}


# --- 24 Compiled loops ---


def offsets(C, f_h, f_w, R, Q, s, d, N):
    """Ask NumPy where in X the pixel of a tap lies."""
    taps = product(range(C), range(f_h), range(f_w))
    places = ((mu, d * a, d * c % s, d * c // s, 0) for mu, a, c in taps)
    return [int(np.ravel_multi_index(k, (C, R, s, Q, N))) for k in places]


def offset_cases(rng: Rng) -> Iterator[Case]:
    """Yield sizes that a layer may have."""
    yield "one of each", 1, 1, 1, 1, 1, 1, 1, 1
    for s, d in product((1, 2, 3), (1, 2, 3)):
        for C, f_h, f_w, N in ((1, 2, 3, 1), (2, 3, 2, 4), (3, 1, 4, 2)):
            R, Q = d * (f_h - 1) + 1 + s, d * (f_w - 1) // s + 4
            kind = (
                "stride and dilation"
                if s > 1 < d
                else "dilation"
                if d > 1
                else "stride"
            )
            yield "no stride" if s == d == 1 else kind, C, f_h, f_w, R, Q, s, d, N


def offsets_by(offset: Callable, order: tuple[int, int, int] = (0, 1, 2)) -> Callable:
    """Return a function with another offset, or another order of the loops."""

    def found(C, f_h, f_w, R, Q, s, d, N):
        loops = product(*(range((C, f_h, f_w)[k]) for k in order))
        taps = ([k[order.index(axis)] for axis in range(3)] for k in loops)
        return [offset(mu, d * a, d * c, R, Q, s, N) for mu, a, c in taps]

    return found


def right_offset(mu, h, w, R, Q, s, N):
    """Return the offset, the dilation already in h and w."""
    return (((mu * R + h) * s + w % s) * Q + w // s) * N


OFFSETS = {
    "the dilation is forgotten": lambda C, f_h, f_w, R, Q, s, d, N: offsets(
        C, f_h, f_w, R, Q, s, 1, N
    ),
    "N is missing": lambda *args: offsets(*args[:-1], 1),
    "the columns are not sorted by their phase": offsets_by(
        lambda mu, h, w, R, Q, s, N: ((mu * R + h) * s * Q + w) * N
    ),
    "phase and column are exchanged": offsets_by(
        lambda mu, h, w, R, Q, s, N: (((mu * R + h) * s + w // s) * Q + w % s) * N
    ),
    "a and c are exchanged in the order of the taps": offsets_by(
        right_offset, (0, 2, 1)
    ),
    "the channels come last in the order of the taps": offsets_by(
        right_offset, (1, 2, 0)
    ),
    "R and Q are exchanged": lambda C, f_h, f_w, R, Q, s, d, N: offsets_by(
        right_offset
    )(C, f_h, f_w, Q, R, s, d, N),
    "s is missing: a row has s parts, of Q columns each": offsets_by(
        lambda mu, h, w, R, Q, s, N: ((mu * R + h + w % s) * Q + w // s) * N
    ),
    "the phase is missing": offsets_by(
        lambda mu, h, w, R, Q, s, N: ((mu * R + h) * s * Q + w // s) * N
    ),
}


# --- 25 Compiled gradients ---


def row_gradient(dz, w, H, s):
    """Follow every product to the pixel in it."""
    dx = np.zeros(H, np.result_type(dz, w))
    for i, a in np.ndindex(len(dz), len(w)):
        dx[s * i + a] += w[a] * dz[i]
    return dx


def row_gradient_cases(rng: Rng) -> Iterator[Case]:
    """Yield dz, w, H, s."""
    for f, s in product((1, 2, 3, 5), (1, 2, 3, 4)):
        for H in sorted({f, f + 1, f + s, 13}):
            w, dz = rng.integers(-9, 10, f), rng.integers(-9, 10, (H - f) // s + 1)
            kind = "a remainder" if (H - f) % s else "nothing left over"
            yield "a stride longer than the filter" if s > f else kind, dz, w, H, s
    yield "floating-point numbers", *rng.standard_normal((2, 3)), 8, 2
    dz, w = rng.standard_normal((2, 4)).astype(np.float32)
    yield "float32", dz, w, 11, 2


def placed(dz, w, H, s, start: int = 0):
    """Put each output's blame where its window begins, ``start`` pixels later."""
    dx = np.zeros(H, np.result_type(dz, w))
    for i, a in np.ndindex(len(dz), len(w)):
        if 0 <= s * i + a + start < H:
            dx[s * i + a + start] += w[a] * dz[i]
    return dx


ROW = {
    "the filter is turned": lambda dz, w, H, s: row_gradient(dz, w[::-1], H, s),
    "the r trailing pixels are missing": lambda dz, w, H, s: row_gradient(
        dz, w, s * (len(dz) - 1) + len(w), s
    ),
    "only the first class of pixels gets its blame": after(
        row_gradient,
        lambda dx, dz, w, H, s: np.where(np.arange(H) % s, 0, dx).astype(dx.dtype),
    ),
    "the stride is forgotten": lambda dz, w, H, s: placed(dz, w, H, 1),
    "the outputs are in the opposite order": lambda dz, w, H, s: row_gradient(
        dz[::-1], w, H, s
    ),
    "everything lies one pixel too far on": lambda dz, w, H, s: placed(dz, w, H, s, 1),
    "everything lies r pixels too far on: the remainder is at the end": (
        lambda dz, w, H, s: placed(dz, w, H, s, (H - len(w)) % s)
    ),
    "a pixel keeps only the last tap's blame: = in place of +=": lambda dz, w, H, s: (
        last_only(dz, w, H, s)
    ),
    "the classes are put one after the other, not interleaved": after(
        row_gradient,
        lambda dx, dz, w, H, s: np.concatenate([dx[rho::s] for rho in range(s)]),
    ),
}


def last_only(dz, w, H, s):
    """Assign in place of adding."""
    dx = np.zeros(H, np.result_type(dz, w))
    for i, a in np.ndindex(len(dz), len(w)):
        dx[s * i + a] = w[a] * dz[i]
    return dx


# --- 26 The whole step ---


def log_sum_exp(z):
    """Walk twice."""
    m = max(z.tolist())
    return m + math.log(math.fsum(math.exp(score - m) for score in z.tolist()))


def log_sum_exp_cases(rng: Rng) -> Iterator[Case]:
    """Yield rows of scores."""
    yield "one score", np.array([-3.5])
    for scale in (1, 30):
        for n in (2, 3, 10):
            yield "ordinary scores", scale * rng.standard_normal(n)
    yield "rising scores", np.arange(6.0)
    yield "falling scores", np.arange(6.0)[::-1]
    yield "scores that tie", np.full(5, 2.0)
    yield "scores in the thousands", 5000 + 10 * rng.standard_normal(6)
    yield "scores far below 0", -5000 + rng.standard_normal(4)
    yield "scores far apart", np.array([-4000.0, 3000.0, 2999.5, -10.0])


def walk(
    z, rescale: Callable, new: float = 1.0, end: Callable = lambda m, S: m + np.log(S)
):
    """Walk once, with another treatment of the sum when a larger score turns up."""
    m, total = z[0], np.float64(1.0)
    for score in z[1:]:
        if score > m:
            m, total = score, total * rescale(m, score) + new
        else:
            total += np.exp(score - m)
    return float(end(m, total))


def right_rescale(m, score):
    """Return what the sum is multiplied by."""
    return np.exp(m - score)


ONCE = {
    "exp overflows, or all is 0: the largest score is not subtracted": lambda z: float(
        np.log(np.sum(np.exp(z)))
    ),
    "the sum is not multiplied when a larger score turns up": lambda z: walk(
        z, lambda m, score: 1.0
    ),
    "the sum is multiplied by exp(m' - m); it must shrink": lambda z: walk(
        z, lambda m, score: np.exp(score - m)
    ),
    "the larger score itself is not added to the sum": lambda z: walk(
        z, right_rescale, 0.0
    ),
    "the sum begins anew when a larger score turns up": lambda z: walk(
        z, lambda m, score: 0.0
    ),
    "the largest score is not added back": lambda z: walk(
        z, right_rescale, end=lambda m, S: np.log(S)
    ),
    "the logarithm is missing": lambda z: walk(
        z, right_rescale, end=lambda m, S: m + S
    ),
    "it is the sum, without the logarithm": lambda z: float(np.sum(np.exp(z))),
    "the first score is subtracted, not the largest": lambda z: float(
        z[0] + np.log(np.sum(np.exp(z - z[0])))
    ),
    "it is the largest score": lambda z: float(z.max()),
    "the last score is left out": lambda z: log_sum_exp(z[:-1] if len(z) > 1 else z),
}


# --- 27 Many machines ---


def merge(n1, m1, v1, n2, m2, v2):
    """Put two values into each set that have its mean and variance; take those of all."""
    values, counts = [], []
    for n, m, v in ((n1, m1, v1), (n2, m2, v2)):
        values += [m - math.sqrt(v), m + math.sqrt(v)]
        counts += [n / 2, n / 2]
    total = sum(counts)
    mean = math.fsum(n * x for n, x in zip(counts, values, strict=True)) / total
    squares = (n * (x - mean) ** 2 for n, x in zip(counts, values, strict=True))
    return n1 + n2, mean, math.fsum(squares) / total


def merge_cases(rng: Rng) -> Iterator[Case]:
    """Yield counts, means and variances of two sets."""
    yield "the same mean", 4, 1.5, 0.25, 6, 1.5, 1.0
    yield "no variance", 3, -1.0, 0.0, 5, 2.0, 0.0
    yield "sets of one value", 1, 2.0, 0.0, 1, -4.0, 0.0
    for n1, n2 in ((5, 5), (1, 9), (30, 2), (700, 300)):
        m1, m2 = rng.standard_normal(2).tolist()
        v1, v2 = rng.random(2).tolist()
        yield "ordinary sets", n1, m1, v1, n2, m2, v2
    yield "means far from 0", 300, 1e6 + 0.25, 1.0, 700, 1e6 - 0.5, 2.0


def merged(n1, m1, v1, n2, m2, v2, mean=None, variance=None):
    """Merge with another rule for the mean or the variance."""
    n, m, v = merge(n1, m1, v1, n2, m2, v2)
    m = m if mean is None else mean
    return n, m, v if variance is None else variance(n, m)


MERGE = {
    "the sets' means count the same, whatever their sizes": lambda n1, m1, v1, n2, m2, v2: (
        merged(n1, m1, v1, n2, m2, v2, (m1 + m2) / 2)
    ),
    "the variance of the sets' means is missing": lambda n1, m1, v1, n2, m2, v2: merged(
        n1, m1, v1, n2, m2, v2, None, lambda n, m: (n1 * v1 + n2 * v2) / n
    ),
    "it is the plain mean of the variances": lambda n1, m1, v1, n2, m2, v2: merged(
        n1, m1, v1, n2, m2, v2, None, lambda n, m: (v1 + v2) / 2
    ),
    "the sum of squares is not divided by the count": lambda n1, m1, v1, n2, m2, v2: (
        merged(
            *(n1, m1, v1, n2, m2, v2, None),
            lambda n, m: n * merge(n1, m1, v1, n2, m2, v2)[2],
        )
    ),
    "it is divided by n - 1, not by n": lambda n1, m1, v1, n2, m2, v2: merged(
        *(n1, m1, v1, n2, m2, v2, None),
        lambda n, m: n / (n - 1) * merge(n1, m1, v1, n2, m2, v2)[2],
    ),
    "it is the standard deviation": lambda n1, m1, v1, n2, m2, v2: merged(
        *(n1, m1, v1, n2, m2, v2, None),
        lambda n, m: math.sqrt(merge(n1, m1, v1, n2, m2, v2)[2]),
    ),
}


# --- 28 How far it carries ---


def crossover(P, alpha, beta):
    """Draw both lines, and see where they cross."""
    L = math.ceil(math.log2(P))
    ring0, ring1 = 2 * (P - 1) * alpha, 2 * (P - 1) * beta / P
    tree0, tree1 = 2 * L * alpha, 2 * L * beta
    return (ring0 - tree0) / (tree1 - ring1)


def crossover_cases(rng: Rng) -> Iterator[Case]:
    """Yield P, alpha and beta."""
    yield "two workers", 2, 1e-6, 1e-9
    for P in (3, 4, 5, 8, 9, 64, 1000, 10_000):
        yield "ordinary numbers", P, 10 ** -rng.uniform(2, 6), 10 ** -rng.uniform(6, 10)


def crossing(P, alpha, beta, rounds=None, ring=None, share=None):
    """Return where the lines cross, with other counts of rounds or another share of the array."""
    L = math.ceil(math.log2(P)) if rounds is None else rounds
    ring = P - 1 if ring is None else ring
    share = 1 / P if share is None else share
    return alpha / beta * (ring - L) / (L - ring * share)


CROSSOVER = {
    "the logarithm is not rounded up": lambda P, alpha, beta: crossing(
        P, alpha, beta, math.log2(P)
    ),
    "the logarithm is the natural one": lambda P, alpha, beta: crossing(
        P, alpha, beta, math.ceil(math.log(P))
    ),
    "the ring has P - 1 rounds, not P": lambda P, alpha, beta: crossing(
        P, alpha, beta, ring=P
    ),
    "it is upside down: α divided by β, not β by α": lambda P, alpha, beta: (
        crossover(P, alpha, beta) * (beta / alpha) ** 2
    ),
    "it is too large by the factor 2: both have it": lambda P, alpha, beta: (
        2 * crossover(P, alpha, beta)
    ),
}


# --- 29 On a graphics processor ---


def halves(a):
    """Add up round after round, number by number."""
    a, out = list(a), []
    while len(a) > 1:
        half = len(a) // 2
        a = [a[k] + a[k + half] for k in range(half)]
        out += a
    return np.array(out)


def halves_cases(rng: Rng) -> Iterator[Case]:
    """Yield rows of numbers."""
    yield "two numbers", np.array([3, -1])
    yield "two rounds", np.array([1, 2, 3, 4])
    for T in (8, 32, 64):
        yield "whole numbers", rng.integers(-9, 10, T)
        yield "floating-point numbers", rng.standard_normal(T)


def rounds_with(fold: Callable, a):
    """Add up in rounds, with another way to halve."""
    out = []
    while len(a) > 1:
        a = fold(a)
        out.append(a)
    return np.concatenate(out)


HALVES = {
    "neighbours are added, not number k + T/2": lambda a: rounds_with(
        lambda a: a[::2] + a[1::2], a
    ),
    "only the sum is returned": lambda a: halves(a)[-1:],
    "the numbers themselves are among the rounds": lambda a: np.concatenate(
        [a, halves(a)]
    ),
    "the second half is turned around": lambda a: rounds_with(
        lambda a: a[: len(a) // 2] + a[len(a) // 2 :][::-1], a
    ),
    "only the first round is there": lambda a: halves(a)[: len(a) // 2],
}


# --- 30 A step on the graphics processor ---


def whose(block, counts):
    """Write down who does each block, and look it up."""
    owners = [(task, b) for task, count in enumerate(counts) for b in range(count)]
    return owners[block]


def whose_cases(rng: Rng) -> Iterator[Case]:
    """Yield a block and the tasks' counts."""
    yield "one task", 3, [5]
    yield "a task without blocks", 2, [2, 0, 3]
    yield "the first task has none", 0, [0, 0, 2]
    for _ in range(12):
        counts = rng.integers(0, 5, 6).tolist() + [1]
        yield "ordinary counts", int(rng.integers(sum(counts))), counts
    yield "the last block", 8, [4, 2, 3]


def first_not_below(block, counts, strict):
    """Go through the tasks with another comparison."""
    for task, count in enumerate(counts):
        if block < count or (not strict and block == count):
            return task, block
        block -= count
    return len(counts) - 1, block


WHOSE = {
    "a block with the number of the count is the next task's": lambda block, counts: (
        first_not_below(block, counts, False)
    ),
    "the block keeps its number in the whole kernel": lambda block, counts: (
        whose(block, counts)[0],
        block,
    ),
    "tasks are counted from 1": lambda block, counts: (
        whose(block, counts)[0] + 1,
        whose(block, counts)[1],
    ),
    "the two are in the other order": lambda block, counts: whose(block, counts)[::-1],
    "tasks without blocks are not counted": lambda block, counts: whose(
        block, [count for count in counts if count]
    ),
}


EXERCISES = {
    "ex-bands-one": (Task(correlate, correlate_cases, CORRELATE),),
    "ex-kernel-lists": (Task(offsets, offset_cases, OFFSETS),),
    "ex-kernel-row": (Task(row_gradient, row_gradient_cases, ROW),),
    "ex-step-once": (Task(log_sum_exp, log_sum_exp_cases, ONCE),),
    "ex-parallel-merge": (Task(merge, merge_cases, MERGE),),
    "ex-scaling-crossover": (Task(crossover, crossover_cases, CROSSOVER),),
    "ex-gpu-halves": (Task(halves, halves_cases, HALVES),),
    "ex-gpustep-whose": (Task(whose, whose_cases, WHOSE),),
}
