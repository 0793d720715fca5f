"""Cross-correlation.

Exported from book/10-correlation.ipynb: edit the chapter and run `make export`.
"""

import functools
from typing import NamedTuple

import numpy as np

from .shapes import check_array, check_integer, check_same_dtype, shapes

__all__ = [
    "output_size",
    "Padding",
    "Geometry",
    "geometry",
    "padded_size",
    "padding_sides",
    "pad",
    "conv2d_loops",
    "check_conv",
    "windows",
]


# --- How many windows fit ---


def output_size(H: int, f: int, s: int = 1, d: int = 1, p: int = 0) -> tuple[int, int]:
    """Count the windows that fit along one axis, and the pixels left over behind them.

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
    h : int
        The output's size along the axis, at least 1.
    r : int
        The remainder: trailing pixels of the padded input that no window reads.

    Raises
    ------
    TypeError
        An argument is no integer.
    ValueError
        An argument is too small, or not one window fits.
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
    """The integers of a convolution's index equations.

    Attributes
    ----------
    s, d : int
        Stride and dilation.
    top, bottom, left, right : int
        Rows and columns of padding.
    h_out, w_out : int
        The output's rows and columns.
    r_h, r_w : int
        The remainder: trailing rows and columns of the padded input that no window reads.
    """

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


def geometry(
    size: tuple[int, int],
    filter_size: tuple[int, int],
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> Geometry:
    """Work out where a filter goes on an image, along both axes.

    Parameters
    ----------
    size, filter_size : tuple of int
        The image's (H, W) and the filter's (f_h, f_w).
    stride, dilation : int
        One number each, for rows and columns alike.
    padding : int or tuple of int
        One number for all sides, (rows, columns), or (top, bottom, left, right).

    Returns
    -------
    Geometry
        All the integers, named.

    Raises
    ------
    TypeError
        A stride, dilation or padding is no integer.
    ValueError
        One of them is too small, there are not 1, 2 or 4 paddings, or not one window fits.
    """
    stride = check_integer("stride", stride, 1)
    dilation = check_integer("dilation", dilation, 1)
    for name, two in (("size", size), ("filter_size", filter_size)):
        if len(two) != 2:
            raise ValueError(f"{name} is {tuple(two)}; expected (rows, columns)")
    sides = padding_sides(padding)
    return _geometry(tuple(size), tuple(filter_size), stride, sides, dilation)


@functools.lru_cache(256)  # training asks for the same few again and again
def _geometry(
    size: tuple[int, int],
    f: tuple[int, int],
    s: int,
    sides: tuple[int, int, int, int],
    d: int,
) -> Geometry:
    """Compute what ``geometry`` returns."""
    top, bottom, left, right = sides
    h_out, r_h = output_size(size[0], f[0], s, d, top + bottom)
    w_out, r_w = output_size(size[1], f[1], s, d, left + right)
    return Geometry(s, d, top, bottom, left, right, h_out, w_out, r_h, r_w)


def padded_size(f_h: int, f_w: int, g: Geometry) -> tuple[int, int]:
    """Return the rows and columns of x̄: all that the windows span, and the remainder.

    Parameters
    ----------
    f_h, f_w : int
        The filter's rows and columns.
    g : Geometry
        What ``geometry`` returned for this filter.

    Returns
    -------
    tuple of int
        The rows and columns, (top + H + bottom, left + W + right).
    """
    rows = g.s * (g.h_out - 1) + g.d * (f_h - 1) + 1 + g.r_h
    columns = g.s * (g.w_out - 1) + g.d * (f_w - 1) + 1 + g.r_w
    return rows, columns


def padding_sides(padding: Padding) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) for any way to write a padding.

    Parameters
    ----------
    padding : int or tuple of int
        One number for all sides, (rows, columns), or (top, bottom, left, right).

    Returns
    -------
    tuple of int
        The four sides.

    Raises
    ------
    TypeError
        A side is no integer.
    ValueError
        There are not 1, 2 or 4 numbers, or one is negative.
    """
    sides = tuple(padding) if isinstance(padding, tuple | list) else (padding,)
    if len(sides) not in (1, 2, 4):
        raise ValueError(
            f"padding is {padding!r}; expected p, (rows, columns) or (top, bottom, left, right)"
        )
    sides = tuple([check_integer("padding", p, 0) for p in sides])
    if len(sides) == 4:
        return sides
    rows, columns = sides[0], sides[-1]
    return rows, rows, columns, columns


# --- The equation ---


def pad(x: np.ndarray, g: Geometry) -> np.ndarray:
    """Return x̄, the images with rows and columns of zeros around them.

    Implements {eq}`eq:pad`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C, H, W).
    g : Geometry
        How many zeros go where.

    Returns
    -------
    np.ndarray
        Shape (N, C, top + H + bottom, left + W + right), dtype as ``x``; ``x`` itself where
        there is nothing to add.

    Raises
    ------
    TypeError
        ``x`` is no array of numbers.
    ValueError
        ``x`` does not have four axes, or is empty.
    """
    check_array("x", x, ("N", "C", "H", "W"))
    if not any((g.top, g.bottom, g.left, g.right)):
        return x
    N, C, H, W = x.shape
    xbar = np.zeros((N, C, g.top + H + g.bottom, g.left + W + g.right), x.dtype)
    xbar[:, :, g.top : g.top + H, g.left : g.left + W] = x
    return xbar


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d_loops(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> np.ndarray:
    """Cross-correlate one number at a time, as the equation says.

    Implements {eq}`eq:conv-forward`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C_in, H, W).
    W : np.ndarray
        The filters, shape (C_out, C_in, f_h, f_w), dtype as ``x``.
    b : np.ndarray
        The bias, shape (C_out,), dtype as ``x``.
    stride, dilation : int
        The steps between windows and between the taps of one window.
    padding : int or tuple of int
        Zeros around the image, as in ``geometry``.

    Returns
    -------
    np.ndarray
        The output z, shape (N, C_out, h_out, w_out), dtype as ``x``.

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, or the filter is larger than the padded image.
    """
    (N, _, *size), (C_out, C_in, f_h, f_w) = x.shape, W.shape
    g = geometry(size, (f_h, f_w), stride, padding, dilation)
    s, d, xbar = g.s, g.d, pad(x, g)
    z = np.empty((N, C_out, g.h_out, g.w_out), x.dtype)
    for n, nu, i, j in np.ndindex(z.shape):
        z[n, nu, i, j] = b[nu]
        for mu, a, c in np.ndindex(C_in, f_h, f_w):
            z[n, nu, i, j] += (
                xbar[n, mu, s * i + d * a, s * j + d * c] * W[nu, mu, a, c]
            )
    return z


def check_conv(x: np.ndarray, W: np.ndarray, *b: np.ndarray) -> None:
    """Raise unless images, filters and bias (where given) fit together, in shape and dtype.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C_in, H, W).
    W : np.ndarray
        The filters, shape (C_out, C_in, f_h, f_w).
    *b : np.ndarray
        The bias, shape (C_out,), where one is needed.

    Raises
    ------
    TypeError
        An argument is no array of numbers, or their dtypes differ.
    ValueError
        The shapes do not fit; the message names both.
    """
    check_array("W", W, ("C_out", "C_in", "f_h", "f_w"))
    check_array("x", x, ("N", W.shape[1], "H", "W"), f"because W has shape {W.shape}")
    check_same_dtype(x=x, W=W)
    for bias in b:
        check_array("b", bias, (W.shape[0],), f"because W has shape {W.shape}")
        check_same_dtype(W=W, b=bias)


# --- All windows at once ---


def windows(xbar: np.ndarray, f_h: int, f_w: int, g: Geometry) -> np.ndarray:
    """View the padded images as all their windows at once; nothing is copied.

    Implements {eq}`eq:windows`.

    Parameters
    ----------
    xbar : np.ndarray
        What ``pad`` returned, shape (N, C, top + H + bottom, left + W + right).
    f_h, f_w : int
        The filter's rows and columns.
    g : Geometry
        What ``geometry`` returned for this image and this filter.

    Returns
    -------
    np.ndarray
        V, shape (N, C, f_h, f_w, h_out, w_out), a read-only view of ``xbar``.

    Raises
    ------
    TypeError
        ``xbar`` is no array of numbers.
    ValueError
        ``xbar`` has not the size that ``g`` was made for: a view would read foreign memory.
    """
    size = padded_size(f_h, f_w, g)
    check_array("xbar", xbar, ("N", "C", *size), f"for a {f_h} × {f_w} filter and {g}")
    n, mu, h, w = xbar.strides
    return np.lib.stride_tricks.as_strided(
        xbar,
        (*xbar.shape[:2], f_h, f_w, g.h_out, g.w_out),
        (n, mu, g.d * h, g.d * w, g.s * h, g.s * w),
        writeable=False,
    )
