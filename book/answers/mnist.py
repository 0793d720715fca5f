"""What the exercises of chapters 18 to 22 ask for: the answers are here. Try first.

For each function: one that is right, as plain as possible; the calls to try; mistakes, in words.
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from exercises import Case, Rng, Task

from answers.convolution import SAME, conv_arrays, correlation, same, turned

# --- 18 Two architectures ---


def same_padding(H, f, s):
    """Do the same without dilation."""
    return same(H, f, s, 1)


def same_padding_cases(rng: Rng) -> Iterator[Case]:
    """Yield H, f, s."""
    for H, f, s in product((1, 2, 5, 12, 13, 28), (1, 2, 3, 4, 5), (1, 2, 3, 6)):
        kind = "a stride longer than the filter" if s > f else "ordinary sizes"
        yield "one row in the filter" if f == 1 else kind, H, f, s


def undilated(mistake: Callable) -> Callable:
    """Return a mistake of ``same`` for dilation 1."""
    return lambda H, f, s: mistake(H, f, s, 1)


SAME_PADDING = {
    words.replace("after", "below").replace("before", "above"): undilated(mistake)
    for words, mistake in SAME.items()
    if "dilation" not in words and "begin" not in words
}


# --- 19 Training on MNIST ---


def error_of_the_rest(P, y, share):
    """Take out the least certain image, again and again."""
    left = list(range(len(P)))
    for _ in range(round(share * len(P))):
        left.remove(min(left, key=lambda n: max(P[n])))
    return sum(int(np.argmax(P[n])) != y[n] for n in left) / len(left)


def rest_cases(rng: Rng) -> Iterator[Case]:
    """Yield probabilities, labels and shares that are whole numbers of images."""
    for N, share in ((10, 0.1), (10, 0.5), (20, 0.25), (4, 0.75), (100, 0.02)):
        yield "a part declined", *answers(rng, N, 4), share
    yield "nobody declined", *answers(rng, 8, 3), 0.0
    yield "nobody declined", *answers(rng, 1, 3), 0.0
    yield "a share just below in float64: 0.29 · 100", *answers(rng, 100, 3), 0.29
    P, y = answers(rng, 10, 3)
    yield "all right", P.copy(), P.argmax(axis=1), 0.2
    yield "all wrong", P, (P.argmax(axis=1) + 1) % 3, 0.2


def answers(rng: Rng, N: int, K: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, and labels that agree with many of them."""
    P = rng.dirichlet(np.full(K, 0.7), N)
    return P, np.where(rng.random(N) < 0.6, P.argmax(axis=1), rng.integers(0, K, N))


def rest_by(
    keep: Callable = lambda order, n: order[n:],
    certainty: Callable = lambda P, y: P.max(axis=1),
    count: Callable = round,
) -> Callable:
    """Return a function that keeps, orders or counts in its own way."""

    def error(P, y, share):
        order = np.argsort(certainty(P, y), kind="stable")
        kept = keep(order, count(share * len(P)))
        return float(np.mean(P[kept].argmax(axis=1) != y[kept]))

    return error


REST = {
    "the most certain are declined, not the least": rest_by(
        lambda order, n: order[: len(order) - n]
    ),
    "these are the errors of the declined": rest_by(lambda order, n: order[:n]),
    "this is the share that is read right": lambda P, y, share: (
        1 - error_of_the_rest(P, y, share)
    ),
    "the errors are divided by all images, not by those that are left": (
        lambda P, y, share: (
            error_of_the_rest(P, y, share) * (1 - round(share * len(P)) / len(P))
        )
    ),
    "certainty is taken from the label's probability: nobody knows it": rest_by(
        certainty=lambda P, y: P[np.arange(len(P)), y]
    ),
    "nobody is left where nobody is declined: [:-0] is empty": rest_by(
        lambda order, n: order[::-1][:-n]
    ),
    "the count is cut off, not rounded: 0.29 · 100 is 28.999…": rest_by(count=int),
    "the share is that of the images to keep": lambda P, y, share: rest_by(
        lambda order, n: order[len(order) - n :]
    )(P, y, share),
    "nobody is declined": lambda P, y, share: error_of_the_rest(P, y, 0),
    "the first images are declined, whatever their probability": rest_by(
        certainty=lambda P, y: np.arange(len(P))
    ),
    "these are the errors in number, not their share": lambda P, y, share: round(
        error_of_the_rest(P, y, share) * (len(P) - round(share * len(P)))
    ),
}


# --- 20 Against PyTorch ---


def conv_by_torch(x, W, b, sides, stride):
    """Do without PyTorch."""
    return correlation(x, W, b, stride, sides)


def torch_cases(rng: Rng) -> Iterator[Case]:
    """Yield x, W, b, sides, stride."""
    every = ((0, 0, 0, 0), (1, 0, 0, 2), (0, 1, 2, 0), (1, 2, 3, 4), (2, 2, 1, 1))
    for sides, stride in product(every, (1, 2)):
        kind = "padding by side" if any(sides) else "no padding"
        yield kind, *conv_arrays(rng, 2, 3, 5, 6, 2, 3, 2), sides, stride
    yield "one of each", *conv_arrays(rng, 1, 1, 1, 1, 1, 1, 1), (0, 1, 0, 0), 1
    arrays = (a.astype(np.float32) for a in conv_arrays(rng, 2, 1, 4, 4, 3, 2, 2))
    yield "float32", *arrays, (1, 0, 2, 1), 2


def sides_by(*order: int) -> Callable:
    """Return a function that takes the four sides in another order."""
    return lambda x, W, b, sides, stride: correlation(
        x, W, b, stride, [sides[k] for k in order]
    )


PAD = {
    "`pad` is given (top, bottom, left, right); it begins with the columns": sides_by(
        2, 3, 0, 1
    ),
    "top and bottom, left and right are exchanged": sides_by(1, 0, 3, 2),
    "top and bottom are exchanged": sides_by(1, 0, 2, 3),
    "left and right are exchanged": sides_by(0, 1, 3, 2),
    "all sides get the padding of the top": sides_by(0, 0, 0, 0),
    "bottom and right get the padding of top and left": sides_by(0, 0, 2, 2),
    "nothing is padded": lambda x, W, b, sides, stride: correlation(x, W, b, stride),
    "the bias is missing": lambda x, W, b, sides, stride: correlation(
        x, W, 0 * b, stride, sides
    ),
    "the stride is missing": lambda x, W, b, sides, stride: correlation(
        x, W, b, 1, sides
    ),
    "the filter is turned": lambda x, W, b, sides, stride: correlation(
        x, turned(W), b, stride, sides
    ),
}


# --- 21 What the network sees ---


def per_class(C):
    """Count class by class."""
    recall, precision = np.zeros(len(C)), np.zeros(len(C))
    for k in range(len(C)):
        if shown := sum(int(n) for n in C[k]):
            recall[k] = C[k, k] / shown
        if answered := sum(int(n) for n in C[:, k]):
            precision[k] = C[k, k] / answered
    return recall, precision


def per_class_cases(rng: Rng) -> Iterator[Case]:
    """Yield confusion matrices."""
    yield "one class", np.array([[3]])
    for K in (2, 3, 10):
        yield "many images", rng.integers(0, 50, (K, K)) + 100 * np.eye(K, dtype=int)
        yield "few images", rng.integers(0, 3, (K, K))
    C = rng.integers(1, 9, (4, 4))
    C[2] = 0
    yield "a label without images", C.copy()
    yield "a class that is never the answer", C.T.copy()
    yield "no images at all", np.zeros((3, 3), int)
    yield "all right", np.diag([3, 1, 4])


def shares(C, total):
    """Return the diagonal over something, 0 where that is 0."""
    return np.diag(C) / np.maximum(total, 1)


PER_CLASS = {
    "recall and precision are in each other's place": lambda C: per_class(C)[::-1],
    "where there is nothing to divide by, nan comes out, not 0": lambda C: (
        np.diag(C) / C.sum(axis=1), np.diag(C) / C.sum(axis=0)
    ),
    "both are recalls": lambda C: (per_class(C)[0],) * 2,
    "both are precisions": lambda C: (per_class(C)[1],) * 2,
    "both are divided by all images": lambda C: (shares(C, C.sum()),) * 2,
    "these are the shares that were wrong": lambda C: tuple(1 - a for a in per_class(C)),
    "these are the numbers of right answers, not yet divided": lambda C: (
        np.diag(C) / 1, np.diag(C) / 1
    ),
    "these are the means over the classes, not a number for each": lambda C: tuple(
        float(a.mean()) for a in per_class(C)
    ),
    "1 is added to all sums, not only to those that are 0": lambda C: (
        np.diag(C) / (C.sum(axis=1) + 1), np.diag(C) / (C.sum(axis=0) + 1)
    ),
}  # fmt: skip


# --- 22 Your own handwriting ---


def shift(x, rows, columns):
    """Carry every pixel to where it goes, if that is inside."""
    moved = np.zeros_like(x)
    H, W = x.shape[2:]
    for n, h, w in np.ndindex(len(x), H, W):
        to = h + rows[n], w + columns[n]
        if 0 <= to[0] < H and 0 <= to[1] < W:
            moved[n, :, to[0], to[1]] = x[n, :, h, w]
    return moved


def shift_cases(rng: Rng) -> Iterator[Case]:
    """Yield images and their steps."""
    for N, C, H, W in ((1, 1, 3, 4), (4, 2, 5, 3), (6, 1, 4, 4)):
        x = rng.integers(1, 9, (N, C, H, W)).astype(float)
        yield "down and right", x.copy(), *rng.integers(0, 3, (2, N))
        yield "up and left", x.copy(), *-rng.integers(0, 3, (2, N))
        yield "all directions", x.copy(), *rng.integers(-2, 3, (2, N))
    yield "no step", x.copy(), np.zeros(N, int), np.zeros(N, int)
    yield "steps out of the picture", x.copy(), *(7 * rng.integers(-1, 2, (2, N)))
    yield "one pixel", np.ones((3, 1, 1, 1)), np.array([0, 1, 0]), np.array([0, 0, -1])
    yield "float32", x.astype(np.float32), *rng.integers(-2, 3, (2, N))


def rolled(x, rows, columns):
    """Let what leaves come in again on the other side."""
    steps = zip(x, rows, columns, strict=True)
    return np.stack([np.roll(a, (r, c), (1, 2)) for a, r, c in steps])


def repeated(x, rows, columns):
    """Let the pixels at the edge come in."""
    H, W = x.shape[2:]
    h = np.clip(np.arange(H) - rows[:, None], 0, H - 1)
    w = np.clip(np.arange(W) - columns[:, None], 0, W - 1)
    parts = zip(x, h, w, strict=True)
    return np.stack([a[:, i[:, None], j] for a, i, j in parts])


def shift_in_place(x, rows, columns):
    """Write the moved images into x."""
    x[...] = shift(x.copy(), rows, columns)
    return x


SHIFT = {
    "what leaves comes in again on the other side": rolled,
    "the pixels at the edge are repeated, where zeros come in": repeated,
    "the images move up and to the left": lambda x, r, c: shift(x, -r, -c),
    "the images move up, not down": lambda x, r, c: shift(x, -r, c),
    "the images move to the left, not to the right": lambda x, r, c: shift(x, r, -c),
    "rows and columns are exchanged": lambda x, r, c: shift(x, c, r),
    "all images move like the first": lambda x, r, c: shift(
        x, 0 * r + r[0], 0 * c + c[0]
    ),
    "nothing moves": lambda x, r, c: x.copy(),
    "the images move along the rows alone": lambda x, r, c: shift(x, 0 * r, c),
    "the images move along the columns alone": lambda x, r, c: shift(x, r, 0 * c),
    "x itself is changed": shift_in_place,
}


EXERCISES = {
    "ex-ch18-same": (Task(same_padding, same_padding_cases, SAME_PADDING),),
    "ex-mnist-sure": (Task(error_of_the_rest, rest_cases, REST),),
    "ex-torch-padding": (Task(conv_by_torch, torch_cases, PAD),),
    "ex-vis-classes": (Task(per_class, per_class_cases, PER_CLASS),),
    "ex-handwriting-whole": (Task(shift, shift_cases, SHIFT),),
}
