"""What the exercises of chapters 1 to 3 ask for: the answers are here. Try first.

For each function: one that is right, as plain as possible; the calls to try; mistakes, in words.
"""

import math
import struct
from collections.abc import Callable, Iterator

import numpy as np
from exercises import Case, Rng, Task, after

# --- 1 Handwritten digits ---


def idx_bytes(a):
    """Pack the header and the numbers one by one."""
    header = struct.pack(f">HBB{a.ndim}I", 0, 8, a.ndim, *a.shape)
    return header + bytes(int(a[k]) for k in np.ndindex(a.shape))


def idx_cases(rng: Rng) -> Iterator[Case]:
    """Yield arrays of bytes."""
    for shape in ((1,), (7,), (2, 3), (5, 4, 3), (2, 1, 3, 2)):
        yield f"{len(shape)} axes", rng.integers(0, 256, shape, np.uint8)
    yield "more than 255 along an axis", rng.integers(0, 256, (300,), np.uint8)
    yield "more than 255 along an axis", rng.integers(0, 256, (2, 259), np.uint8)
    yield "not in order in memory", rng.integers(0, 256, (3, 2), np.uint8).T
    yield "not in order in memory", rng.integers(0, 256, (3, 8), np.uint8)[::-1, ::2]


def idx_with(sizes: str = ">u4", code: int = 8, order: str = "C") -> Callable:
    """Return a function that writes the header, or the numbers, in another way."""
    return lambda a: (
        bytes([0, 0, code, a.ndim])
        + np.array(a.shape).astype(sizes).tobytes()
        + a.tobytes(order)
    )


IDX = {
    "the sizes have their least significant byte first": idx_with("<u4"),
    "each size has one byte, not four": idx_with("u1"),
    "each size has two bytes, not four": idx_with(">u2"),
    "each size has eight bytes, not four": idx_with(">u8"),
    "the 8, which says that bytes follow, is missing": idx_with(code=0),
    "the numbers are in the order of memory, not of their indices": idx_with(order="A"),
    "the header is missing": lambda a: a.tobytes(),
    "the sizes are in the opposite order": lambda a: (
        bytes([0, 0, 8, a.ndim])
        + np.array(a.shape[::-1], ">u4").tobytes()
        + a.tobytes()
    ),
}


# --- 2 A linear classifier ---


def tempered(z, y, T):
    """Compute image by image, class by class."""
    N, K = z.shape
    J, dz = 0.0, np.zeros_like(z)
    for n in range(N):
        scores = [float(score) / T for score in z[n]]
        e = [math.exp(score - max(scores)) for score in scores]
        J += (max(scores) + math.log(sum(e)) - scores[y[n]]) / N
        for k in range(K):
            dz[n, k] = (e[k] / sum(e) - (k == y[n])) / (N * T)
    return z.dtype.type(J), dz


def tempered_cases(rng: Rng) -> Iterator[Case]:
    """Yield scores, labels, temperatures."""
    for N, K in ((1, 2), (3, 4), (5, 10), (4, 1)):
        for T in (0.1, 1.0, 7.0):
            z, y = rng.standard_normal((N, K)), rng.integers(0, K, N)
            yield "ordinary scores", z, y, T
    yield "scores that tie", np.zeros((3, 5)), np.array([0, 4, 4]), 2.0
    z = 1000 * rng.standard_normal((4, 3))
    yield "scores in the thousands", z, np.array([0, 1, 2, 2]), 0.5
    z = rng.standard_normal((3, 4)).astype(np.float32)
    yield "float32", z, np.array([0, 3, 1]), 3.0


def tempered_with(change: Callable) -> Callable:
    """Return ``tempered`` with a change of cost and gradient."""
    return after(tempered, lambda answer, *args: change(*answer, *args))


def tempered_bare(z, y, T):
    """Take the softmax without subtracting the largest score."""
    N, e = np.arange(len(z)), np.exp(z / T)
    P = e / e.sum(axis=1, keepdims=True)
    J = -np.log(P[N, y]).mean()
    P[N, y] -= 1
    return J, P / (len(z) * T)


TEMPERED = {
    "1/T is missing in the gradient": tempered_with(lambda J, dz, z, y, T: (J, dz * T)),
    "1/N is missing in the gradient": tempered_with(
        lambda J, dz, z, y, T: (J, dz * len(z))
    ),
    "1/N is missing in the cost": tempered_with(
        lambda J, dz, z, y, T: (J * len(z), dz)
    ),
    "1/N is missing in both": tempered_with(
        lambda J, dz, z, y, T: (J * len(z), dz * len(z))
    ),
    "the scores are multiplied by T, not divided": lambda z, y, T: tempered(
        z, y, 1 / T
    ),
    "the gradient is multiplied by T, not divided": tempered_with(
        lambda J, dz, z, y, T: (J, dz * T * T)
    ),
    "the gradient is that of temperature 1": tempered_with(
        lambda J, dz, z, y, T: (J, tempered(z, y, 1)[1])
    ),
    "the largest score is not subtracted before exp": tempered_bare,
}


# --- 3 Checking a gradient ---


class Bent:
    """A function of many numbers, the sum of one of each, with a kink at ``at`` or none."""

    def __init__(self, name: str, f: Callable, at: float = math.nan):
        self.__name__, self.f, self.at = name, f, at

    def __call__(self, theta: np.ndarray) -> float:
        """Return the sum."""
        return float(np.sum(self.f(theta)))


def kinks(f, theta, h=6e-6, limit=1e-3):
    """Look into f, which the exercise forbids."""
    return [k for k in np.ndindex(theta.shape) if abs(theta[k] - f.at) < h]


def kink_cases(rng: Rng) -> Iterator[Case]:
    """Yield functions with a kink, up or down, and without."""
    bent = [
        Bent("sum of max(θ, 0)", lambda t: np.maximum(t, 0), 0),
        Bent("sum of |θ - 1|", lambda t: np.abs(t - 1), 1),
        Bent("sum of -|θ|", lambda t: -np.abs(t), 0),
        Bent("sum of min(3θ, θ)", lambda t: np.minimum(3 * t, t), 0),
        Bent("sum of max(θ, 0)²", lambda t: np.maximum(t, 0) ** 2),
        Bent("sum of sin θ", np.sin),
    ]
    for f in bent:
        at = 0 if math.isnan(f.at) else f.at
        for shape in ((1,), (6,), (2, 3), (2, 1, 2)):
            theta = rng.standard_normal(shape) + at
            theta.flat[-1] = at + 2e-6
            yield "a kink" if f.at == f.at else "no kink", f, theta
        theta = at + np.array([[1e-6, -1e-6, 0.5], [1e-5, -2e-5, -1e-6]])
        yield "a kink just within the step", f, theta
        theta = at + np.array([0.05, 0.2, -0.05, 3])
        if f.at == f.at:
            yield "another h and limit", f, theta, 0.1, 0.2


def kinks_by(test: Callable, index: Callable = lambda k, shape: k) -> Callable:
    """Return a detector that compares f to the right, here and to the left in its own way."""

    def found(f, theta, h=6e-6, limit=1e-3):
        ks, here = [], f(theta)
        for k in np.ndindex(theta.shape):
            e = np.zeros_like(theta)
            e[k] = h
            if test(f(theta + e) - here, here - f(theta - e), h, limit):
                ks.append(index(k, theta.shape))
        return ks

    return found


def kinks_in_place(f, theta, h=6e-6, limit=1e-3):
    """Step, and don't step back."""
    found = []
    for k in np.ndindex(theta.shape):
        here = f(theta)
        theta[k] += h
        right = (f(theta) - here) / h
        theta[k] -= 2 * h
        if abs(right - (here - f(theta)) / h) > limit:
            found.append(k)
    return found


KINKS = {
    "only kinks that bend upwards are found: abs is missing": kinks_by(
        lambda right, left, h, limit: right - left > h * limit
    ),
    "only kinks that bend downwards are found: abs is missing": kinks_by(
        lambda right, left, h, limit: left - right > h * limit
    ),
    "the differences are not divided by h": kinks_by(
        lambda right, left, h, limit: abs(right - left) > limit
    ),
    "the indices are counted through, not one for each axis": kinks_by(
        lambda right, left, h, limit: abs(right - left) > h * limit,
        lambda k, shape: int(np.ravel_multi_index(k, shape)),
    ),
    "what is listed is where there is no kink": kinks_by(
        lambda right, left, h, limit: abs(right - left) <= h * limit
    ),
    "h and limit are always those of the first line": lambda f, theta, *own: kinks_by(
        lambda right, left, h, limit: abs(right - left) > h * limit
    )(f, theta),
    "θ is not put back after a step": kinks_in_place,
}


UNEQUAL = "more than 0.001"


class Slope(Bent):
    """A smooth function; ``off`` is what ``check_direction`` has to say to a gradient."""

    def __init__(self, name: str, f: Callable, off: float | str):
        super().__init__(name, f)
        self.off = off


def check_direction(f, theta, dtheta, rng):
    """Look at what the gradient was multiplied by: it is the same in all directions."""
    return f.off


def direction_cases(rng: Rng) -> Iterator[Case]:
    """Yield gradients that are right, and multiples of them."""
    smooth = [
        (lambda t: np.sin(t), lambda t: np.cos(t)),
        (lambda t: t**2 / 2 + t, lambda t: t + 1),
    ]
    for factor, off in ((1, 0), (2, 0.5), (0.5, 0.5), (-1, 2), (0, 1), (-3, 4 / 3)):
        for f, df in smooth:
            for shape in ((1,), (7,), (3, 4)):
                theta = rng.standard_normal(shape)
                kind = "a right gradient" if factor == 1 else "a multiple of it"
                name = f"f, with a gradient {factor} times as large"
                own = np.random.default_rng(len(theta))
                yield kind, Slope(name, f, off), theta, factor * df(theta), own
    theta = rng.standard_normal((2, 5))
    wrong = np.cos(theta)
    wrong[1, 3] += 1
    own = np.random.default_rng(5)
    yield "one entry wrong", Slope("f", np.sin, UNEQUAL), theta, wrong, own


def direction_call(function: Callable, f, theta, dtheta, rng):
    """Return the answer to four decimals, or in words where only its size is known."""
    answer = function(f, theta, dtheta, rng)
    if not isinstance(answer, int | float | np.number):
        return answer
    return UNEQUAL if f.off == UNEQUAL and answer > 1e-3 else round(float(answer), 4)


def direction_by(compare: Callable, step: float = 2, again: bool = False) -> Callable:
    """Return a check that compares the slope with the prediction in its own way."""

    def relative(f, theta, dtheta, rng, h=6e-6):
        v = rng.standard_normal(theta.shape)
        slope = (f(theta + h * v) - f(theta - h * v)) / (step * h)
        v = rng.standard_normal(theta.shape) if again else v
        return compare(slope, np.sum(dtheta * v))

    return relative


def larger(a, b):
    """Return the distance relative to the larger."""
    return abs(a - b) / max(abs(a), abs(b))


DIRECTION = {
    "the difference is divided by h, not by 2h": direction_by(larger, step=1),
    "the distance is not relative": direction_by(lambda a, b: abs(a - b)),
    "the distance has a sign: abs is missing": direction_by(
        lambda a, b: (a - b) / max(abs(a), abs(b))
    ),
    "it is relative to the prediction, not to the larger of the two": direction_by(
        lambda a, b: abs(a - b) / abs(b) if b else math.inf
    ),
    "it is relative to the slope, not to the larger of the two": direction_by(
        lambda a, b: abs(a - b) / abs(a)
    ),
    "it is relative to the sum of the two": direction_by(
        lambda a, b: abs(a - b) / (abs(a) + abs(b))
    ),
    "max is taken without abs": direction_by(lambda a, b: abs(a - b) / max(a, b)),
    "slope and prediction have directions of their own": direction_by(larger, 2, True),
}


EXERCISES = {
    "ex-digits-write": (Task(idx_bytes, idx_cases, IDX),),
    "ex-linear-temperature": (Task(tempered, tempered_cases, TEMPERED),),
    "ex-gradcheck-kink": (Task(kinks, kink_cases, KINKS),),
    "ex-gradcheck-direction": (
        Task(check_direction, direction_cases, DIRECTION, 1e-4, direction_call),
    ),
}
