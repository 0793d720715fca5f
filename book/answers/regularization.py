"""What the exercises of chapters 15 to 17 ask for: the answers are here. Try first.

For each function: one that is right, as plain as possible; the calls to try; mistakes, in words.
"""

import math
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
from exercises import Case, Rng, Task, after

# --- 15 Dropout and weight decay ---


def max_norm(W, c):
    """Look at each row by itself."""
    rows = []
    for row in W:
        length = math.sqrt(math.fsum(float(w) ** 2 for w in row))
        rows.append(row * W.dtype.type(c / length) if length > c else row)
    return np.array(rows)


def max_norm_cases(rng: Rng) -> Iterator[Case]:
    """Yield W and c."""
    yield "one weight", np.array([[-3.0]]), 2.0
    for shape in ((1, 4), (5, 3), (4, 4), (3, 7)):
        W = rng.standard_normal(shape)
        lengths = np.linalg.norm(W, axis=1)
        yield "all rows too long", W.copy(), float(lengths.min() / 2)
        yield "no row too long", W.copy(), float(lengths.max() * 2)
        yield "some rows too long", W.copy(), float(np.median(lengths))
    yield "a row of zeros", np.array([[0.0, 0, 0], [3, 0, 4]]), 1.0
    yield "large weights", 1e6 * rng.standard_normal((3, 4)), 3.0
    yield "float32", rng.standard_normal((3, 4)).astype(np.float32), 1.5


def lengths_of(W, **axis):
    """Return the lengths of the rows, as a column."""
    return np.sqrt((W * W).sum(keepdims=True, **(axis or {"axis": 1})))


def max_norm_in_place(W, c):
    """Scale down the rows of W itself."""
    W *= c / np.maximum(lengths_of(W), c)
    return W


CAP = {
    "shorter rows are made longer: every row has length c": lambda W, c: (
        c * W / lengths_of(W)
    ),
    "every row has length c at least: the longer ones stay": lambda W, c: (
        W * (c / np.minimum(lengths_of(W), c))
    ),
    "the columns are scaled, not the rows": lambda W, c: (
        W * (c / np.maximum(lengths_of(W, axis=0), c))
    ),
    "the length is that of the whole matrix": lambda W, c: (
        W * (c / np.maximum(lengths_of(W, axis=(0, 1)), c))
    ),
    "each weight is limited, not each row": lambda W, c: np.clip(W, -c, c),
    "the square root is missing": lambda W, c: (
        W * (c / np.maximum(lengths_of(W) ** 2, c))
    ),
    "the length is the sum of the absolute values": lambda W, c: (
        W * (c / np.maximum(np.abs(W).sum(axis=1, keepdims=True), c))
    ),
    "long rows get length one, not c": lambda W, c: np.where(
        lengths_of(W) > c, W / lengths_of(W), W
    ),
    "W itself is scaled": max_norm_in_place,
}


# --- 16 Batch normalisation ---


def fold(W, b, gamma, beta, m, v, eps):
    """Normalise what the dense layer gives for zeros, and for one input at a time."""

    def layers(q):
        z = np.array(
            [math.fsum(w * x for w, x in zip(row, q, strict=True)) for row in W]
        )
        return gamma * (z + b - m) / np.sqrt(v + eps) + beta

    units = np.eye(W.shape[1])
    return np.stack([layers(q) - layers(0 * q) for q in units], 1), layers(0 * units[0])


def fold_cases(rng: Rng) -> Iterator[Case]:
    """Yield W, b, γ, β, m, v, ε."""
    for M_out, M_in in ((1, 1), (1, 4), (4, 1), (3, 5), (4, 4)):
        b, gamma, beta, m = rng.standard_normal((4, M_out))
        W, v = rng.standard_normal((M_out, M_in)), rng.random(M_out)
        kind = "one unit or one input" if 1 in W.shape else "ordinary sizes"
        layers = W, b, gamma, beta, m, v
        yield kind, *map(np.copy, layers), 1e-5
        yield "a large ε", *map(np.copy, layers), 0.5
        yield "a variance of 0", *map(np.copy, layers[:5]), 0 * v, 0.1
        yield "a negative γ", W.copy(), b.copy(), -abs(gamma), beta, m, v, 1e-3


def fold_by(
    factor: Callable, bias: Callable = lambda f, b, beta, m: f * (b - m) + beta
):
    """Return a function with another factor, or another bias."""

    def folded(W, b, gamma, beta, m, v, eps):
        f = factor(gamma, v, eps)
        return f[:, np.newaxis] * W, bias(f, b, beta, m)

    return folded


def right_factor(gamma, v, eps):
    """Return γ/σ."""
    return gamma / np.sqrt(v + eps)


FOLD = {
    "ε stands outside the root": fold_by(lambda g, v, eps: g / (np.sqrt(v) + eps)),
    "ε is missing": fold_by(lambda g, v, eps: g / np.sqrt(v)),
    "the square root is missing": fold_by(lambda g, v, eps: g / (v + eps)),
    "γ is missing": fold_by(lambda g, v, eps: 1 / np.sqrt(v + eps)),
    "β is missing": fold_by(right_factor, lambda f, b, beta, m: f * (b - m)),
    "β is multiplied by γ/σ too": fold_by(
        right_factor, lambda f, b, beta, m: f * (b - m + beta)
    ),
    "m is subtracted without the factor γ/σ": fold_by(
        right_factor, lambda f, b, beta, m: f * b - m + beta
    ),
    "b is not multiplied by γ/σ": fold_by(
        right_factor, lambda f, b, beta, m: b - f * m + beta
    ),
    "b is missing": fold_by(right_factor, lambda f, b, beta, m: beta - f * m),
    "m is added, not subtracted": fold_by(
        right_factor, lambda f, b, beta, m: f * (b + m) + beta
    ),
    "only the weights are changed, not the bias": fold_by(
        right_factor, lambda f, b, beta, m: b + 0
    ),
}


# --- 17 Checks that can fail ---


def greedy(seen):
    """Take the best of those that are left, again and again."""
    chosen, known = [], set()
    while known < set().union(*seen.values()):
        gains = {name: len(sees - known) for name, sees in seen.items()}
        chosen.append(max(gains, key=gains.get))
        known |= seen[chosen[-1]]
    return chosen


def has_ties(seen) -> bool:
    """Return whether two checks are the best next one at some time."""
    known = set()
    for name in greedy(seen):
        gains = [len(sees - known) for sees in seen.values()]
        known |= seen[name]
        if gains.count(max(gains)) > 1:
            return True
    return False


def greedy_cases(rng: Rng) -> Iterator[Case]:
    """Yield dictionaries in which there is always one best check."""
    yield "one check", {"a": {1, 2}}
    yield "a check that sees nothing", {"none": set(), "all": {1, 2, 3}}
    three = {"b": {1, 2, 5, 8}, "a": {1, 2, 3, 4, 9}, "c": {3, 4, 6, 9}}
    yield "not the smallest", three
    found = 0
    while found < 25:
        everything = rng.integers(4, 14)
        seen = {}
        for name in "abcdefg"[: rng.integers(2, 8)]:
            sees = np.flatnonzero(rng.random(everything) < rng.uniform(0.1, 0.7))
            seen[name] = set(sees.tolist())
        if any(seen.values()) and not has_ties(seen):
            found += 1
            yield "random checks", seen


def smallest(seen):
    """Return the smallest choice that sees everything."""
    everything = set().union(*seen.values())
    for size in range(1, len(seen) + 1):
        for names in combinations(seen, size):
            if set().union(*(seen[name] for name in names)) == everything:
                return list(names)
    return []


def by_size(seen, least: int = 1):
    """Return all checks, the largest first, that see something new."""
    chosen, known = [], set()
    for name in sorted(seen, key=lambda name: -len(seen[name])):
        if len(seen[name] - known) >= least:
            chosen.append(name)
            known |= seen[name]
    return chosen


def greedy_in_place(seen):
    """Take out of the sets themselves what is seen."""
    chosen = []
    while any(seen.values()):
        best = max(seen, key=lambda name: len(seen[name]))
        chosen.append(best)
        known = set(seen[best])
        for sees in seen.values():
            sees -= known
    return chosen


GREEDY = {
    "the order goes by all that a check sees, not by what is left": by_size,
    "checks that see nothing new are listed too": lambda seen: by_size(seen, 0),
    "it is a smallest choice, not the greedy one": smallest,
    "it stops one check early": after(greedy, lambda names, seen: names[:-1]),
    "only the first check is taken": after(greedy, lambda names, seen: names[:1]),
    "the order is by name": after(greedy, lambda names, seen: sorted(names)),
    "the sets of `seen` are emptied": greedy_in_place,
}


EXERCISES = {
    "ex-reg-cap": (Task(max_norm, max_norm_cases, CAP),),
    "ex-reg-fold": (Task(fold, fold_cases, FOLD),),
    "ex-checks-greedy": (Task(greedy, greedy_cases, GREEDY),),
}
