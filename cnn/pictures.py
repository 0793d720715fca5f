"""Lines are long, straight, and thin.

Exported from book/33-pictures.ipynb: edit the chapter and run `make export`.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .decoding import read_picture
from .handwriting import as_mnist, check_picture, ink_on_ground, resize

__all__ = ["SLOPE", "GAP", "NEAR", "find_digit", "read_digit"]


# --- Lines are long, straight, and thin ---
def _slanted(shape: tuple[int, ...], slope: float) -> np.ndarray:
    """Return for each pixel of slanted rows which row of the picture it is in, (H, W)."""
    H, W = shape
    rise = np.rint(slope * (np.arange(W) - W / 2)).astype(int)
    return np.asarray(np.clip(np.arange(H)[:, np.newaxis] + rise, 0, H - 1))


def _stripes(a: np.ndarray) -> np.ndarray:
    """Return how far each row stands out from those around it, in 16 segments, (H, 16)."""
    H, k = len(a), a.shape[1] // 16
    padded = np.pad(a, ((1, 1), (0, 0)), mode="edge")
    a = (padded[:-2] + a + padded[2:]) / 3  # a thin line may wander by a pixel
    medians = np.median(a[:, : 16 * k].reshape(H, 16, k), axis=2)
    n = max(1, H // 25)
    padded = np.pad(medians, ((n, n), (0, 0)), mode="edge")
    around = np.median(sliding_window_view(padded, 2 * n + 1, axis=0), axis=2)
    return np.asarray(medians - around)


def _steepest(a: np.ndarray, slopes: Iterable[float]) -> float:
    """Return the slope at which the rows stand out most."""

    def stands_out(slope: float) -> float:
        rows = np.take_along_axis(a, _slanted(a.shape, slope), axis=0)
        return float(np.sum(_stripes(rows).mean(axis=1) ** 2))

    return max(slopes, key=stands_out)


SLOPE = 0.1


def _without_lines(grey: np.ndarray) -> np.ndarray:
    """Paint over the lines that cross a picture, from left to right or top to bottom."""
    return _without_rows(_without_rows(grey).T).T


def _without_rows(grey: np.ndarray) -> np.ndarray:
    if min(grey.shape) < 32:
        return grey
    slope = _steepest(_smaller(grey, 160), np.linspace(-SLOPE, SLOPE, 21))
    slope = _steepest(grey, slope + np.linspace(-0.008, 0.008, 5))
    rows = _slanted(grey.shape, slope)
    a = np.take_along_axis(grey, rows, axis=0)
    out = _stripes(a)
    ends = [0, 1, -2, -1]
    dark, bright = (
        np.minimum(np.sort(s)[:, 10], s[:, ends].min(axis=1)) for s in (-out, out)
    )
    wide = np.ones(3 + 2 * (len(a) // 400))  # a line's edges are soft
    lines = np.convolve(np.maximum(dark, bright) > 0.01, wide, "same") > 0
    painted = grey.copy()
    np.put_along_axis(painted, rows, _painted(a, lines), axis=0)
    return painted


def _painted(a: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Replace the rows that are lines by mixtures of the next ones that aren't."""
    paper = np.flatnonzero(~lines)
    if not paper.size:
        return a
    i = np.flatnonzero(lines)
    after = np.searchsorted(paper, i)
    above = paper[np.maximum(after - 1, 0)]
    below = paper[np.minimum(after, len(paper) - 1)]
    part = np.clip((i - above) / np.maximum(below - above, 1), 0, 1)[:, np.newaxis]
    a = a.copy()
    a[i] = (1 - part) * a[above] + part * a[below]
    return a


def _smaller(a: np.ndarray, side: int) -> np.ndarray:
    """Return an image reduced to at most ``side`` pixels a side."""
    factor = min(1, side / max(a.shape))
    H, W = (max(1, round(factor * n)) for n in a.shape)
    return resize(a, (H, W))


# --- Strokes are thin, shadows are wide ---
def _slide(a: np.ndarray, w: int, best: Callable[..., np.ndarray]) -> np.ndarray:
    """Return the largest (or smallest) value in the square of w pixels, odd, around each."""
    for _ in ("rows", "columns"):
        a = np.pad(a, ((w // 2, w // 2), (0, 0)), mode="edge")
        reach = 1
        while reach < w:
            step = min(reach, w - reach)
            a = best(a[:-step], a[step:])
            reach += step
        a = a.T
    return a


def _ground(grey: np.ndarray, w: int) -> np.ndarray:
    """Return the ground of a picture: what is dark and narrower than w is filled."""
    return np.asarray(_slide(_slide(grey, w, np.maximum), w, np.minimum))


def _contrast(grey: np.ndarray, w: int) -> np.ndarray:
    """Return how far each pixel is below its ground, as a part of it."""
    b = _ground(grey, w)
    return np.asarray((b - grey) / np.maximum(b, 0.25))


def _pen(grey: np.ndarray) -> float:
    """Return how much of a picture is drawn in narrow dark strokes."""
    H, W = grey.shape
    n = max(H, W) // 2
    g = np.pad(grey, n, mode="edge")
    i, j = np.indices((H, W))
    weight = 1 + np.minimum(np.minimum(i, H - 1 - i), np.minimum(j, W - 1 - j))
    count, before = 0.0, 0
    for w in (3, 5, 7, 9, 11, *range(13, 5 + 3 * max(H, W) // 10, 4)):
        dark = (_ground(g, w) - g)[n : n + H, n : n + W] > np.ptp(grey) / 4
        count += (weight[dark].sum() - before) / w**2
        before = weight[dark].sum()
    return count


def _is_dark(grey: np.ndarray, times: float = 1) -> bool:
    """Return whether dark ink explains a picture, so many times better than bright ink."""
    small = _smaller(grey, 100)
    return _pen(small) >= times * _pen(1 - small)


def _dark(grey: np.ndarray) -> np.ndarray:
    """Return a picture or its negative: the one whose ink is dark."""
    return grey if _is_dark(grey) else 1 - grey


def _flat(grey: np.ndarray, tight: bool) -> tuple[np.ndarray, int]:
    """Return a picture's contrast, with a margin all around, and the margin's width."""
    small = _smaller(grey, 100)
    w = 1 + 2 * (max(small.shape) * 9 // 40)
    # white paper around a tight crop, more of the same around any other picture
    margin: dict[str, Any] = {"constant_values": 1} if tight else {"mode": "edge"}
    for _ in range(3):
        thick = _thickest(_contrast(np.pad(small, w, **margin), w))
        w = min(w, 1 + 2 * ((3 * thick + 2) // 4))
    w = 1 + 2 * round(w * max(grey.shape) / max(small.shape) / 2)
    return _contrast(np.pad(grey, w, **margin), w), w


def _thickest(contrast: np.ndarray) -> int:
    """Return the side of the smallest square that fits into no dark stroke."""
    dark = contrast > 0.5 * np.sort(contrast, axis=None)[-5]
    w = 3
    while _slide(dark, w, np.minimum).any():
        w += 2
    return w


# --- One shape, or several? ---
def _label(mask: np.ndarray) -> np.ndarray:
    """Number the connected shapes of a mask (H, W); 0 is where it is False."""
    labels = np.where(mask, 1 + np.arange(mask.size).reshape(mask.shape), 0)
    while not np.array_equal(labels, agreed := _agree(_agree(labels).T).T):
        labels = agreed
    return labels


def _agree(labels: np.ndarray) -> np.ndarray:
    """Give each run of a row the largest number in it."""
    flat = np.pad(labels, ((0, 0), (0, 1))).ravel()  # a gap at the end of each row
    starts = np.append(0, 1 + np.flatnonzero(np.diff(flat > 0)))
    lengths = np.diff(starts, append=len(flat))
    agreed = np.repeat(np.maximum.reduceat(flat, starts), lengths)
    return agreed.reshape(len(labels), -1)[:, :-1]


class _Shape(NamedTuple):
    """A connected shape: its number, and the box around it."""

    number: int
    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> int:
        """The longer side of the box."""
        return max(self.bottom - self.top, self.right - self.left)


GAP, NEAR = 0.07, 0.3  # as parts of the height
_Found = tuple[np.ndarray, np.ndarray, list[_Shape]]  # ink, labels, shapes


def _gap(s: _Shape, t: _Shape) -> int:
    """Return the distance between two boxes, along the axis on which it is larger."""
    across = max(s.left - t.right, t.left - s.right)
    return max(across, s.top - t.bottom, t.top - s.bottom)


def _one_digit(shapes: list[_Shape], labels: np.ndarray, halves: bool) -> list[_Shape]:
    """Return the shapes that make up the only digit."""
    for frame in shapes:
        inside = _inside(shapes, frame)
        if inside and _is_frame(labels, frame):
            return _one_digit(inside, labels, halves)
    tall = max(s.bottom - s.top for s in shapes)
    digits: list[list[_Shape]] = []
    for s in shapes:
        if s.bottom - s.top >= 0.6 * tall:
            parts = [d for d in digits if any(_gap(s, t) < GAP * tall for t in d)]
            digits = [d for d in digits if d not in parts] + [sum(parts, [s])]
    if halves and len(digits) == 2 and _are_halves(*digits):
        digits = [sum(digits, [])]
    if len(digits) > 1:
        raise ValueError(
            f"more than one digit: {len(digits)} shapes of like height stand apart; "
            "cut out one of them, and give each a picture of its own"
        )
    least = 0.1 * max(s.size for s in digits[0])
    near = [s for s in shapes if any(_gap(s, t) < NEAR * tall for t in digits[0])]
    return [s for s in near if s.size >= least]


def _around(shapes: list[_Shape]) -> _Shape:
    """Return the box around shapes."""
    _, top, left, bottom, right = zip(*shapes, strict=True)
    return _Shape(0, min(top), min(left), max(bottom), max(right))


def _are_halves(one: list[_Shape], other: list[_Shape]) -> bool:
    """Return whether two shapes are broad, one above the other, and together not tall."""
    a, b, both = map(_around, (one, other, one + other))
    stacked = max(a.left, b.left) < min(a.right, b.right)
    limits = (a, 1.2), (b, 1.2), (both, 2.1)
    return stacked and all(
        s.bottom - s.top <= k * (s.right - s.left) for s, k in limits
    )


def _inside(shapes: list[_Shape], frame: _Shape) -> list[_Shape]:
    """Return the shapes inside another one's box that are large enough for a digit."""
    return [
        s
        for s in shapes
        if min(s.top - frame.top, frame.bottom - s.bottom) > 0
        and min(s.left - frame.left, frame.right - s.right) > 0
        and s.size > 0.15 * frame.size
    ]


def _is_frame(labels: np.ndarray, s: _Shape) -> bool:
    """Return whether a shape covers all four sides of its box."""
    mask = labels[s.top : s.bottom, s.left : s.right] == s.number
    k = 2 + min(mask.shape) // 20
    sides = (mask[:k].any(0), mask[-k:].any(0), mask[:, :k].any(1), mask[:, -k:].any(1))
    return all(side.mean() > 0.9 for side in sides)


# --- Free of the edge, or cropped to it ---
def find_digit(grey: np.ndarray) -> np.ndarray:
    """Find the ink of the one digit in a picture, (H, W), from 0 to 1."""
    check_picture("grey", grey)
    try:
        return _find(grey, 0.2, False)
    except ValueError:
        with suppress(ValueError):
            return _find(grey, 0.05, False)
        with suppress(ValueError):
            return _bold(grey)
        with suppress(ValueError):
            return _find(grey, 0.2, True)
        raise


def _find(grey: np.ndarray, least: float, halves: bool) -> np.ndarray:
    """Find a digit whose parts are joined by ink of at least this strength."""
    try:
        found, labels, shapes = _shapes(_dark(_without_lines(grey)), False, least)
    except ValueError:  # nothing stands free; but does anything stand out?
        _strokes(_dark(grey), tight=False)
        found, labels, shapes = _shapes(_dark(grey), True, least)
    return _kept(found, labels, _one_digit(shapes, labels, halves))


def _kept(found: np.ndarray, labels: np.ndarray, shapes: list[_Shape]) -> np.ndarray:
    """Return the ink of some of the shapes."""
    kept = np.isin(labels, [s.number for s in shapes])
    rows, columns = (
        np.arange(n) * k // n for n, k in zip(found.shape, kept.shape, strict=True)
    )
    return np.where(kept[np.ix_(rows, columns)], found, 0)


def _strokes(grey: np.ndarray, tight: bool) -> np.ndarray:
    """Return the ink of everything that a pen could have drawn."""
    contrast, w = _flat(grey, tight)
    return ink_on_ground(1 - contrast)[w:-w, w:-w]


def _bold(grey: np.ndarray) -> np.ndarray:
    """Find a digit in one shape that fills its picture, if its ink may be the other."""
    dark = 1 - _dark(grey)
    found, labels, shapes = _shapes(dark, tight=True)
    digit, *others = _one_digit(shapes, labels, False)
    sides = digit.bottom - digit.top, digit.right - digit.left
    if others or min(np.divide(sides, labels.shape)) < 0.9 or _is_dark(1 - dark, 1.5):
        raise ValueError("no shape fills the picture")
    return _kept(found, labels, [digit])


def _shapes(grey: np.ndarray, tight: bool, least: float = 0.2) -> _Found:
    """Return the ink, the numbers of its shapes on a small copy, and the shapes."""
    found = _strokes(grey, tight)
    small = _smaller(found, 200)
    labels = _label(_slide(small > least, 3, np.maximum))
    outer = labels.copy()
    outer[2:-2, 2:-2] = 0
    shapes = []
    for n in np.unique(labels[small > 0.4]):
        i, j = np.nonzero((labels == n) & (small > 0.4))
        s = _Shape(*map(int, (n, i.min(), j.min(), i.max() + 1, j.max() + 1)))
        if tight or n not in outer:
            shapes.append(s)
    if not tight and max((s.size for s in shapes), default=0) < 0.1 * max(small.shape):
        raise ValueError("nothing stands free")
    return found, labels, shapes


def read_digit(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the one digit in a picture file as an image of MNIST's form, (1, 1, 28, 28)."""
    grey = read_picture(path)
    try:
        return as_mnist(find_digit(grey))
    except ValueError as err:
        raise ValueError(f"{path}: {err}") from err
