"""Cross-correlation.

Exported from book/10-correlation.ipynb: edit the chapter and run `make export`.
"""

import functools
from typing import NamedTuple

import numpy as np

from .shapes import check_array, check_integer, shapes

__all__ = [
    "output_size", "Padding", "Geometry", "padding_sides", "geometry", "pad",
    "conv2d_loops", "padded_size", "windows",
]  # fmt: skip


# --- How many windows fit ---
def output_size(H: int, f: int, s: int = 1, d: int = 1, p: int = 0) -> tuple[int, int]:
    """Count the windows that fit along one axis, and the pixels left over after them.

    Implements {eq}`eq:output-size` and {eq}`eq:remainder`.

    Parameters
    ----------
    H : int
        The input's pixels along the axis.
    f, s, d : int
        The filter's taps, the stride and the dilation.
    p : int
        The padding, both sides together.

    Returns
    -------
    h_out : int
        The output's size along the axis, at least 1.
    r : int
        The remainder: trailing pixels of the padded input that no window reads.
    """
    given = (("H", H), ("f", f), ("s", s), ("d", d))
    H, f, s, d = (check_integer(name, value, 1) for name, value in given)
    p = check_integer("p", p, 0)
    room = H + p - d * (f - 1) - 1
    if room < 0:
        raise ValueError(
            f"a filter of size {f} with dilation {d} spans {d * (f - 1) + 1} pixels, but the "
            f"input has {H} and the padding {p}: pad more, or take a smaller filter"
        )
    return room // s + 1, room % s


# --- Two axes, four sides ---
Padding = int | tuple[int, int] | tuple[int, int, int, int]


class Geometry(NamedTuple):
    """The ten integers that say where a filter goes."""

    s: int
    d: int
    top: int
    bottom: int
    left: int
    right: int
    h_out: int
    w_out: int
    r_h: int
    r_w: int


def padding_sides(padding: Padding | tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) for p, (rows, columns) or all four."""
    given = padding if isinstance(padding, tuple | list) else (padding,)
    if len(given) not in (1, 2, 4):
        raise ValueError(
            f"padding is {padding!r}; expected p, (rows, columns) or (top, bottom, left, right)"
        )
    sides = [check_integer("padding", p, 0) for p in given]
    if len(sides) == 4:
        top, bottom, left, right = sides
        return top, bottom, left, right
    rows, columns = sides[0], sides[-1]
    return rows, rows, columns, columns


def geometry(
    size: tuple[int, int], filter_size: tuple[int, int], stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> Geometry:  # fmt: skip
    """Work out where a filter goes on an image, along both axes."""
    if len(size) != 2 or len(filter_size) != 2:
        raise ValueError(
            f"size is {size} and filter_size is {filter_size}; expected (rows, columns)"
        )
    sides = padding if isinstance(padding, tuple | list) else (padding,)
    numbers = (*size, *filter_size, stride, dilation, *sides)
    plain = {*map(type, numbers)} == {int}  # 1 == 1.0 == True, but only 1 is meant
    return (_remembered if plain else _geometry)(*numbers)


def _geometry(
    H: int, W: int, f_h: int, f_w: int, s: int, d: int, *sides: int
) -> Geometry:
    """Check the numbers, and compute what ``geometry`` returns."""
    s, d = check_integer("stride", s, 1), check_integer("dilation", d, 1)
    top, bottom, left, right = padding_sides(sides)
    h_out, r_h = output_size(H, f_h, s, d, top + bottom)
    w_out, r_w = output_size(W, f_w, s, d, left + right)
    return Geometry(s, d, top, bottom, left, right, h_out, w_out, r_h, r_w)


_remembered = functools.lru_cache(256)(_geometry)


# --- The equation ---
@shapes("x (N, C, H, W)")
def pad(x: np.ndarray, g: Geometry) -> np.ndarray:
    """Return x̄, the images in a frame of zeros; x itself where the frame is empty.

    Implements {eq}`eq:pad`.
    """
    if not any((g.top, g.bottom, g.left, g.right)):
        return x
    N, C, H, W = x.shape
    xbar = np.zeros((N, C, g.top + H + g.bottom, g.left + W + g.right), x.dtype)
    xbar[:, :, g.top : g.top + H, g.left : g.left + W] = x
    return xbar


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d_loops(
    x: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> np.ndarray:  # fmt: skip
    """Cross-correlate one number at a time: z, shape (N, C_out, h_out, w_out).

    Implements {eq}`eq:conv-forward`.
    """
    C_out, C_in, f_h, f_w = W.shape
    g = geometry(x.shape[2:], (f_h, f_w), stride, padding, dilation)
    s, d, xbar = g.s, g.d, pad(x, g)
    z = np.empty((len(x), C_out, g.h_out, g.w_out), x.dtype)
    for n, nu, i, j in np.ndindex(z.shape):
        z[n, nu, i, j] = b[nu]
        for mu, a, c in np.ndindex(C_in, f_h, f_w):
            pixel = xbar[n, mu, s * i + d * a, s * j + d * c]
            z[n, nu, i, j] += pixel * W[nu, mu, a, c]
    return z


# --- All windows at once ---
def padded_size(f_h: int, f_w: int, g: Geometry) -> tuple[int, int]:
    """Return the rows and columns of x̄: all that the windows span, and the remainder."""
    rows = g.s * (g.h_out - 1) + g.d * (f_h - 1) + 1 + g.r_h
    columns = g.s * (g.w_out - 1) + g.d * (f_w - 1) + 1 + g.r_w
    return rows, columns


def windows(xbar: np.ndarray, f_h: int, f_w: int, g: Geometry) -> np.ndarray:
    """View x̄ as its windows, shape (N, C, f_h, f_w, h_out, w_out); nothing is copied.

    Implements {eq}`eq:windows`.
    """
    size = padded_size(f_h, f_w, g)
    check_array("xbar", xbar, ("N", "C", *size), f"for a {f_h} × {f_w} filter and {g}")
    image, channel, row, column = xbar.strides  # bytes from each to the next
    return np.lib.stride_tricks.as_strided(
        xbar,
        (*xbar.shape[:2], f_h, f_w, g.h_out, g.w_out),
        (image, channel, g.d * row, g.d * column, g.s * row, g.s * column),
        writeable=False,
    )
