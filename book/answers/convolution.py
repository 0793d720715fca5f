"""What the exercises of chapters 10 to 12 ask for: the answers are here. Try first.

For each function: one that is right, as plain as possible; the calls to try; mistakes, in words.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from exercises import Case, Rng, Task

# --- 10 Cross-correlation ---


def same(H, f, s, d):
    """Add zeros, one after and one before in turn, until there are enough windows."""
    before = after = 0
    while (before + H + after - d * (f - 1) - 1) // s + 1 < math.ceil(H / s):
        before, after = (before + 1, after) if before < after else (before, after + 1)
    return before, after


def same_cases(rng: Rng) -> Iterator[Case]:
    """Yield H, f, s, d."""
    for H, f, s, d in product(
        (1, 2, 5, 12, 13, 28), (1, 2, 3, 5), (1, 2, 3, 6), (1, 2, 3)
    ):
        small = f == 1 and "one tap" or s > f and "a stride longer than the filter"
        yield small or ("dilation" if d > 1 else "ordinary sizes"), H, f, s, d


def same_by(outputs: Callable, total: Callable, halves: Callable) -> Callable:
    """Return a function with formulas of its own for the outputs, the zeros, the halves."""
    return lambda H, f, s, d: halves(total(H, f, s, d, outputs(H, s)))


def ceil(H, s):
    """Return H/s, rounded up."""
    return -(-H // s)


def zeros(H, f, s, d, n):
    """Return how many zeros n outputs need."""
    return max(0, s * (n - 1) + d * (f - 1) + 1 - H)


def after_larger(p):
    """Return the two halves, an odd one after."""
    return p // 2, p - p // 2


SAME = {
    "an odd zero is put before, not after": same_by(
        ceil, zeros, lambda p: (p - p // 2, p // 2)
    ),
    "the number of zeros becomes negative": same_by(
        ceil, lambda H, f, s, d, n: s * (n - 1) + d * (f - 1) + 1 - H, after_larger
    ),
    "the dilation is forgotten": same_by(
        ceil, lambda H, f, s, d, n: zeros(H, f, s, 1, n), after_larger
    ),
    "H/s is rounded down, not up": same_by(lambda H, s: H // s, zeros, after_larger),
    "the stride is forgotten: these are the zeros for s = 1": same_by(
        ceil, lambda H, f, s, d, n: d * (f - 1), after_larger
    ),
    "both sides get the same number, the larger half": same_by(
        ceil, zeros, lambda p: (p - p // 2, p - p // 2)
    ),
    "both sides get the same number, the smaller half": same_by(
        ceil, zeros, lambda p: (p // 2, p // 2)
    ),
    "all zeros are put after": same_by(ceil, zeros, lambda p: (0, p)),
    "there is one zero too many": same_by(
        ceil,
        lambda H, f, s, d, n: max(0, s * (n - 1) + d * (f - 1) + 2 - H),
        after_larger,
    ),
    "the last window is taken to begin at s·h_out, not one stride before": same_by(
        ceil, lambda H, f, s, d, n: zeros(H, f, s, d, n + 1), after_larger
    ),
}


def row_windows(x, f, s, d):
    """Copy number by number, which the exercise forbids."""
    outputs = (len(x) - d * (f - 1) - 1) // s + 1
    return np.array([[x[s * i + d * a] for i in range(outputs)] for a in range(f)])


def row_cases(rng: Rng) -> Iterator[Case]:
    """Yield rows out of the middle of longer ones, filters, strides, dilations."""
    for step, f, s, d in product((1, 2, 3), (1, 2, 4), (1, 2, 5), (1, 3)):
        long = rng.integers(-99, 100, 400)
        span = d * (f - 1) + 1
        kind = (
            "a row of its own" if step == 1 else f"every {step}. pixel of a longer row"
        )
        for n in (span, span + 7):
            yield kind, long.copy()[150 : 150 + step * n : step], f, s, d
    yield "a row read backwards", long[200:150:-1], 3, 2, 2
    yield "float32", long.astype(np.float32)[150:160], 3, 1, 2


def is_view(answer, x, *rest) -> str:
    """Say so where an answer does not lie in the row's own memory."""
    shares = isinstance(answer, np.ndarray) and np.shares_memory(answer, x)
    return "" if shares else "gives a copy, expected a view of x"


def row_by(shape: Callable, strides: Callable) -> Callable:
    """Return a view with another shape or other strides."""

    def view(x, f, s, d):
        n = (len(x) - d * (f - 1) - 1) // s + 1
        shape_, strides_ = shape(f, n), strides(x.strides[0], s, d, x.itemsize)
        return np.lib.stride_tricks.as_strided(x, shape_, strides_, writeable=False)

    return view


ROW = {
    "it is a copy, not a view": row_windows,
    "the step is the size of a number, not the row's own": row_by(
        lambda f, n: (f, n), lambda step, s, d, size: (d * size, s * size)
    ),
    "stride and dilation are exchanged": row_by(
        lambda f, n: (f, n), lambda step, s, d, size: (s * step, d * step)
    ),
    "taps and windows are exchanged: the shape is (h_out, f)": row_by(
        lambda f, n: (n, f), lambda step, s, d, size: (s * step, d * step)
    ),
    "there is one window too many": row_by(
        lambda f, n: (f, n + 1), lambda step, s, d, size: (d * step, s * step)
    ),
    "the dilation is forgotten": row_by(
        lambda f, n: (f, n), lambda step, s, d, size: (step, s * step)
    ),
    "the stride is forgotten": row_by(
        lambda f, n: (f, n), lambda step, s, d, size: (d * step, step)
    ),
}


# --- 11 The gradient of a convolution ---


def unread(H, f, s, d):
    """Let every window mark what it reads."""
    read, start = set(), 0
    while start + d * (f - 1) < H:
        read |= {start + d * a for a in range(f)}
        start += s
    return [h for h in range(H) if h not in read]


def unread_cases(rng: Rng) -> Iterator[Case]:
    """Yield H, f, s, d, such that there is a window."""
    for f, s, d in product((1, 2, 3), (1, 2, 3, 5), (1, 2, 3)):
        span = d * (f - 1) + 1
        for H in sorted({span, span + s - 1, span + s, span + 2 * s + 1, 14}):
            if span <= H:
                r = (H - span) % s
                kind = (
                    "dilation" if d > 1 else "a remainder" if r else "nothing left over"
                )
                yield kind, H, f, s, d


def unread_by(outputs: Callable, keep: Callable = lambda h, read: h not in read):
    """Return a function with another number of windows, or another choice of pixels."""

    def pixels(H, f, s, d):
        n = outputs(H, d * (f - 1) + 1, s)
        read = {s * i + d * a for i in range(n) for a in range(f)}
        return [h for h in range(H) if keep(h, read)]

    return pixels


def fitting(H, span, s):
    """Return how many windows fit."""
    return (H - span) // s + 1


UNREAD = {
    "windows that no longer fit count too, and read some of the r trailing pixels": (
        unread_by(lambda H, span, s: H)
    ),
    "the dilation is forgotten": lambda H, f, s, d: unread(H, f, s, 1),
    "the dilation is forgotten where the taps read, not where windows are counted": (
        lambda H, f, s, d: [
            h
            for h in range(H)
            if not any(
                0 <= h - s * i < f for i in range(fitting(H, d * (f - 1) + 1, s))
            )
        ]
    ),
    "the last window is left out": unread_by(
        lambda H, span, s: fitting(H, span, s) - 1
    ),
    "there is one window too many": unread_by(
        lambda H, span, s: fitting(H, span, s) + 1
    ),
    "these are the pixels that are read": unread_by(fitting, lambda h, read: h in read),
    "only the r trailing pixels are listed": lambda H, f, s, d: list(
        range(H - (H - d * (f - 1) - 1) % s, H)
    ),
    "the r trailing pixels are left out": lambda H, f, s, d: [
        h for h in unread(H, f, s, d) if h < H - (H - d * (f - 1) - 1) % s
    ],
    "the holes between the taps count as read": lambda H, f, s, d: unread(
        H, d * (f - 1) + 1, s, 1
    ),
    "they are counted, not listed": lambda H, f, s, d: len(unread(H, f, s, d)),
}


# --- 12 A window is a column ---


def correlation(x, W, b, s=1, sides=(0, 0, 0, 0), d=1):
    """Cross-correlate, window by window."""
    top, bottom, left, right = sides
    xbar = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    f_h, f_w = W.shape[2:]
    span_h, span_w = d * (f_h - 1) + 1, d * (f_w - 1) + 1
    rows = range(0, xbar.shape[2] - span_h + 1, s)
    columns = range(0, xbar.shape[3] - span_w + 1, s)
    z = np.zeros((len(x), len(W), len(rows), len(columns)), np.result_type(x, W, b))
    for (i, h), (j, w) in product(enumerate(rows), enumerate(columns)):
        window = xbar[:, np.newaxis, :, h : h + span_h : d, w : w + span_w : d]
        z[:, :, i, j] = (window * W).sum(axis=(2, 3, 4)) + b
    return z


def conv_arrays(rng: Rng, N, C, H, W, C_out, f_h, f_w) -> tuple[np.ndarray, ...]:
    """Return x, W, b of whole numbers in float64."""
    shapes = (N, C, H, W), (C_out, C, f_h, f_w), (C_out,)
    return tuple(rng.integers(-9, 10, shape).astype(float) for shape in shapes)


def in_pieces(x, W, b, most):
    """Take one image at a time."""
    return np.concatenate([correlation(x[n : n + 1], W, b) for n in range(len(x))])


def pieces_cases(rng: Rng) -> Iterator[Case]:
    """Yield x, W, b, most."""
    for most in (1, 2, 3, 7, 100):
        whole_ = 7 % most == 0
        kind = "whole pieces" if whole_ else "more at once than there are images"
        kind = "a piece left over" if most < 7 and not whole_ else kind
        yield kind, *conv_arrays(rng, 7, 2, 5, 4, 3, 3, 2), most
    yield "one of each", *conv_arrays(rng, 1, 1, 1, 1, 1, 1, 1), 1
    arrays = conv_arrays(rng, 5, 3, 4, 4, 2, 2, 2)
    yield "float32", *(a.astype(np.float32) for a in arrays), 2


def turned(a):
    """Turn filters by 180 degrees."""
    return a[:, :, ::-1, ::-1]


PIECES = {
    "the last piece, a smaller one, is left out": lambda x, W, b, most: correlation(
        x[: len(x) // most * most], W, b
    ),
    "the pieces are added, not put side by side": lambda x, W, b, most: sum(
        correlation(np.resize(x[n : n + most], (most, *x.shape[1:])), W, b)
        for n in range(0, len(x), most)
    ),
    "only the first piece is computed": lambda x, W, b, most: correlation(
        x[:most], W, b
    ),
    "the bias is missing": lambda x, W, b, most: correlation(x, W, 0 * b),
    "the bias is added once for each piece": lambda x, W, b, most: correlation(
        x, W, b * b.dtype.type(math.ceil(len(x) / most))
    ),
    "the filter is turned": lambda x, W, b, most: correlation(
        x, W[:, :, ::-1, ::-1], b
    ),
    "the pieces are in the opposite order": lambda x, W, b, most: np.concatenate(
        [correlation(x[n : n + most], W, b) for n in range(0, len(x), most)][::-1]
    ),
    "each image is a piece: they are put into a list, not side by side": (
        lambda x, W, b, most: [correlation(x[n : n + 1], W, b) for n in range(len(x))]
    ),
}


EXERCISES = {
    "ex-correlation-same": (Task(same, same_cases, SAME),),
    "ex-correlation-view": (Task(row_windows, row_cases, ROW, also=is_view),),
    "ex-conv-unread": (Task(unread, unread_cases, UNREAD),),
    "ex-im2col-pieces": (Task(in_pieces, pieces_cases, PIECES),),
}
