"""Pooling.

Exported from book/14-pooling.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Iterable
from itertools import repeat

import numpy as np

from .correlation import (
    Geometry,
    Padding,
    geometry,
    pad,
    padded_size,
    padding_sides,
    windows,
)
from .correlation_grad import crop
from .network import Layer
from .shapes import check_array, check_integer, check_same_dtype

__all__ = [
    "pool_geometry",
    "max_pool2d",
    "max_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "window_counts",
    "MaxPool2d",
    "AvgPool2d",
    "GlobalAvgPool2d",
]


# --- Windows that stick out ---


def pool_geometry(
    size: tuple[int, int],
    kernel_size: int | tuple[int, int],
    stride: int | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> tuple[int, int, Geometry]:
    """Work out where a pooling window goes on an image.

    Implements {eq}`eq:pool-ceil`.

    Parameters
    ----------
    size : tuple of int
        The image's (H, W).
    kernel_size : int or tuple of int
        The window's size: f for f × f, or (f_h, f_w).
    stride : int, optional
        The step between windows, for rows and columns alike; by default the size of the
        window, which must then be square.
    padding : int or tuple of int
        One number for all sides, (rows, columns), or (top, bottom, left, right): each less
        than the window's size, so that no window lies in the padding alone.
    ceil_mode : bool
        Whether one more window may stick out at the end, if it starts inside the image or the
        padding before it.

    Returns
    -------
    f_h, f_w : int
        The window's rows and columns.
    g : Geometry
        Where it goes. In ceil mode ``bottom`` and ``right`` include what sticks out.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        A number is too small, the padding too large, or not one window fits.
    """
    f, s, (top, bottom, left, right) = _window(kernel_size, stride, padding, ceil_mode)
    if len(size) != 2:
        raise ValueError(f"size is {tuple(size)}; expected (rows, columns)")
    size = tuple(check_integer("size", pixels, 1) for pixels in size)
    if ceil_mode:
        bottom += _overhang(size[0], f[0], s, top, bottom)
        right += _overhang(size[1], f[1], s, left, right)
    return *f, geometry(size, f, s, (top, bottom, left, right))


def _overhang(H: int, f: int, s: int, before: int, after: int) -> int:
    """Return k, the rows by which the last window sticks out in ceil mode."""
    p = before + after
    k = (f - H - p) % s
    return k if after + k < f else 0


def _window(
    kernel_size: int | tuple[int, int],
    stride: int | None,
    padding: Padding,
    ceil_mode: bool,
) -> tuple[tuple[int, int], int, tuple[int, int, int, int]]:
    """Check what can be checked without an image; return (f_h, f_w), s and the paddings."""
    pair = isinstance(kernel_size, tuple | list)
    f = tuple(kernel_size) if pair else (kernel_size, kernel_size)
    if len(f) != 2:
        raise ValueError(
            f"kernel_size is {kernel_size!r}; expected f or (rows, columns)"
        )
    f = tuple(check_integer("kernel_size", rows, 1) for rows in f)
    if stride is None and f[0] != f[1]:
        raise ValueError(
            f"kernel_size is {f}, which is not square, and there is one stride for rows and "
            "columns alike: say which, stride=..."
        )
    s = f[0] if stride is None else check_integer("stride", stride, 1)
    _check_bool("ceil_mode", ceil_mode)
    top, bottom, left, right = padding_sides(padding)
    if max(top, bottom) >= f[0] or max(left, right) >= f[1]:
        raise ValueError(
            f"padding is {padding!r} and kernel_size {f}: a window could lie in the padding "
            "alone; expected less padding on each side than the window is long"
        )
    return f, s, (top, bottom, left, right)


def _check_bool(name: str, value: bool) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value!r}; expected True or False")


# --- The largest ---


def max_pool2d(
    x: np.ndarray,
    kernel_size: int | tuple[int, int],
    stride: int | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the largest number of each window, and its place in the window.

    Implements {eq}`eq:pool-max` and {eq}`eq:pool-winner`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C, H, W).
    kernel_size, stride, padding, ceil_mode
        As in ``pool_geometry``. The padding never wins.

    Returns
    -------
    y : np.ndarray
        The maxima, shape (N, C, h_out, w_out), dtype as ``x``; NaN where a window holds NaN.
    winners : np.ndarray
        Where in its window each of them was, shape as ``y``: the place (a, c) has the number
        a·f_w + c. Among equals it is the first.

    Raises
    ------
    TypeError
        An argument has the wrong type; complex numbers have no maximum.
    ValueError
        ``x`` does not have four axes, or as in ``pool_geometry``.
    """
    check_array("x", x, ("N", "C", "H", "W"), kind="real")
    f_h, f_w, g = pool_geometry(x.shape[2:], kernel_size, stride, padding, ceil_mode)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    V = windows(_surround(x, lowest, g), f_h, f_w, g)
    y = np.full_like(V[:, :, 0, 0], lowest)
    winners = np.full_like(y, _first_inside(f_w, g), dtype=np.intp)
    for number, (a, c) in enumerate(np.ndindex(f_h, f_w)):
        v = V[:, :, a, c]
        takes_over = (v > y) | (v != v)  # only NaN differs from itself
        np.copyto(winners, number, where=takes_over)
        np.maximum(y, v, out=y)
    return y, winners


def _surround(x: np.ndarray, value: float, g: Geometry) -> np.ndarray:
    """Return x̄ with ``value`` around the image, in the memory order of ``x``."""
    N, C, H, W = x.shape
    shape = (N, C, g.top + H + g.bottom, g.left + W + g.right)
    if shape == x.shape:
        return x
    xbar = np.full_like(x, value, shape=shape)
    xbar[:, :, g.top : g.top + H, g.left : g.left + W] = x
    return xbar


def _first_inside(f_w: int, g: Geometry) -> np.ndarray:
    """Return the number of each window's first place in the image, shape (h_out, w_out)."""
    a = np.maximum(0, g.top - g.s * np.arange(g.h_out))
    c = np.maximum(0, g.left - g.s * np.arange(g.w_out))
    return a[:, np.newaxis] * f_w + c


# --- Who won takes the blame ---


def max_pool2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    winners: np.ndarray,
    kernel_size: int | tuple[int, int],
    stride: int | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> np.ndarray:
    """Hand each window's blame to the pixel that won it.

    Implements {eq}`eq:pool-max-dx`.

    Parameters
    ----------
    dy : np.ndarray
        The gradient of the cost by the output, shape (N, C, h_out, w_out).
    x : np.ndarray
        What ``max_pool2d`` was given, shape (N, C, H, W), dtype as ``dy``.
    winners : np.ndarray
        What ``max_pool2d`` returned beside the output, shape as ``dy``.
    kernel_size, stride, padding, ceil_mode
        What ``max_pool2d`` was given.

    Returns
    -------
    np.ndarray
        The gradient by the input, shape and dtype as ``x``.

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, or ``winners`` holds a number that is no place of the window.
    """
    where = (kernel_size, stride, padding, ceil_mode)
    f_h, f_w, g = _check_backward(dy, x, where, kind="real")
    check_array("winners", winners, dy.shape, "the shape of dy", kind="integer")
    if winners.min() < 0 or winners.max() >= f_h * f_w:
        raise ValueError(
            f"winners holds numbers from {winners.min()} to {winners.max()}; expected places "
            f"from 0 to {f_h * f_w - 1}, as max_pool2d returns them for this kernel_size"
        )
    blame = (np.where(winners == number, dy, 0) for number in range(f_h * f_w))
    return _add_back(blame, x, f_h, f_w, g)


def _add_back(
    blame: Iterable[np.ndarray], x: np.ndarray, f_h: int, f_w: int, g: Geometry
) -> np.ndarray:
    """Add each place's ``blame``, in reading order, to the pixels read there; return dx."""
    dxbar = np.zeros_like(x, shape=(*x.shape[:2], *padded_size(f_h, f_w, g)))
    for (a, c), part in zip(np.ndindex(f_h, f_w), blame, strict=True):
        h = slice(a, a + g.s * g.h_out, g.s)
        w = slice(c, c + g.s * g.w_out, g.s)
        dxbar[:, :, h, w] += part
    return crop(dxbar, x.shape, g)


def _check_backward(
    dy: np.ndarray, x: np.ndarray, where: tuple, kinds: str
) -> tuple[int, int, Geometry]:
    """Raise unless ``dy`` has the shape of the output for ``x``; return the geometry."""
    check_array("x", x, ("N", "C", "H", "W"), kinds=kinds)
    f_h, f_w, g = pool_geometry(x.shape[2:], *where)
    expected = (*x.shape[:2], g.h_out, g.w_out)
    check_array("dy", dy, expected, f"the output's shape for x {x.shape}", kinds=kinds)
    check_same_dtype(dy=dy, x=x)
    return f_h, f_w, g


# --- The mean ---


def avg_pool2d(
    x: np.ndarray,
    kernel_size: int | tuple[int, int],
    stride: int | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Keep the mean of each window.

    Implements {eq}`eq:pool-avg`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C, H, W), floating-point numbers.
    kernel_size, stride, padding, ceil_mode
        As in ``pool_geometry``. The padding is zeros.
    count_include_pad : bool
        Whether the padding counts among the pixels to divide by. What sticks out in ceil mode
        never does.

    Returns
    -------
    np.ndarray
        The means, shape (N, C, h_out, w_out), dtype as ``x``.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        ``x`` does not have four axes, or as in ``pool_geometry``.
    """
    check_array("x", x, ("N", "C", "H", "W"), kind="float")
    where = (kernel_size, stride, padding, ceil_mode)
    f_h, f_w, g = pool_geometry(x.shape[2:], *where)
    counts = window_counts(x.shape[2:], *where, count_include_pad).astype(x.dtype)
    V = windows(pad(x, g), f_h, f_w, g)
    return sum(V[:, :, a, c] for a, c in np.ndindex(f_h, f_w)) / counts


def avg_pool2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    kernel_size: int | tuple[int, int],
    stride: int | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Hand each window's blame to its pixels, in equal shares.

    Implements {eq}`eq:pool-avg-dx`.

    Parameters
    ----------
    dy : np.ndarray
        The gradient of the cost by the output, shape (N, C, h_out, w_out).
    x : np.ndarray
        What ``avg_pool2d`` was given, shape (N, C, H, W), dtype as ``dy``.
    kernel_size, stride, padding, ceil_mode, count_include_pad
        What ``avg_pool2d`` was given.

    Returns
    -------
    np.ndarray
        The gradient by the input, shape and dtype as ``x``.

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, or as in ``pool_geometry``.
    """
    where = (kernel_size, stride, padding, ceil_mode)
    f_h, f_w, g = _check_backward(dy, x, where, kind="float")
    counts = window_counts(x.shape[2:], *where, count_include_pad).astype(x.dtype)
    return _add_back(repeat(dy / counts, f_h * f_w), x, f_h, f_w, g)


def window_counts(
    size: tuple[int, int],
    kernel_size: int | tuple[int, int],
    stride: int | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Count the pixels by which each window's sum is divided.

    Implements {eq}`eq:pool-count`.

    Parameters
    ----------
    size : tuple of int
        The image's (H, W).
    kernel_size, stride, padding, ceil_mode, count_include_pad
        As in ``avg_pool2d``.

    Returns
    -------
    np.ndarray
        The counts, shape (h_out, w_out), dtype int64.

    Raises
    ------
    TypeError, ValueError
        As in ``avg_pool2d``.
    """
    f_h, f_w, g = pool_geometry(size, kernel_size, stride, padding, ceil_mode)
    _check_bool("count_include_pad", count_include_pad)
    top, bottom, left, right = padding_sides(padding)
    (H, W), i, j = map(int, size), g.s * np.arange(g.h_out), g.s * np.arange(g.w_out)
    if count_include_pad:
        rows, columns = (0, top + H + bottom), (0, left + W + right)
    else:
        rows, columns = (top, top + H), (left, left + W)
    counts_i = np.minimum(i + f_h, rows[1]) - np.maximum(i, rows[0])
    counts_j = np.minimum(j + f_w, columns[1]) - np.maximum(j, columns[0])
    return np.outer(counts_i, counts_j)


# --- The layers ---


class _Pool(Layer):
    """A window that is moved over each channel by itself."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        _, s, _ = _window(kernel_size, stride, padding, ceil_mode)
        self.where = {"kernel_size": kernel_size, "stride": s, "padding": padding}
        self.where |= {"ceil_mode": ceil_mode}

    def __repr__(self) -> str:
        where = ", ".join(f"{name}={value}" for name, value in self.where.items())
        return f"{type(self).__name__}({where})"


class MaxPool2d(_Pool):
    """A layer that keeps the largest number of each window.

    Parameters
    ----------
    kernel_size : int or tuple of int
        The window's size: f for f × f, or (f_h, f_w).
    stride : int, optional
        The step between windows; by default the size of the window, which must then be square.
    padding : int or tuple of int
        Pixels around the image that never win: p, (rows, columns), or (top, bottom, left,
        right), each less than the window's size.
    ceil_mode : bool
        Whether one more window may stick out at the end.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        A number is too small, or the padding too large.

    Examples
    --------
    >>> layer = MaxPool2d(2)
    >>> layer
    MaxPool2d(kernel_size=2, stride=2, padding=0, ceil_mode=False)
    >>> layer(np.zeros((100, 8, 28, 28), np.float32)).shape
    (100, 8, 14, 14)
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return the maxima, shape (N, C, h_out, w_out); remember who won."""
        y, self._winners = max_pool2d(x, **self.where)
        self._seen = x
        return y

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Hand each window's blame to the pixel that won it."""
        x = self._recall()
        return max_pool2d_backward(dy, x, self._winners, **self.where)


class AvgPool2d(_Pool):
    """A layer that keeps the mean of each window.

    Parameters
    ----------
    kernel_size, stride, ceil_mode
        As in ``MaxPool2d``.
    padding : int or tuple of int
        Zeros around the image: p, (rows, columns), or (top, bottom, left, right), each less
        than the window's size.
    count_include_pad : bool
        Whether these zeros count among the pixels to divide by.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        A number is too small, or the padding too large.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        _check_bool("count_include_pad", count_include_pad)
        self.where["count_include_pad"] = count_include_pad

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return the means, shape (N, C, h_out, w_out)."""
        y = avg_pool2d(x, **self.where)
        self._seen = x
        return y

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Hand each window's blame to its pixels, in equal shares."""
        return avg_pool2d_backward(dy, self._recall(), **self.where)


class GlobalAvgPool2d(Layer):
    """A layer that keeps the mean of each channel, as PyTorch's ``AdaptiveAvgPool2d(1)``."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return the means, shape (N, C, 1, 1), of images of any size.

        Implements {eq}`eq:pool-global`.
        """
        check_array("x", x, ("N", "C", "H", "W"), kind="float")
        self._seen = x
        return x.mean(axis=(2, 3), keepdims=True)

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Hand each channel's blame to all its pixels, in equal shares.

        Implements {eq}`eq:pool-global-dx`.
        """
        x = self._recall()
        N, C, H, W = x.shape
        check_array("dy", dy, (N, C, 1, 1), f"because x has shape {x.shape}")
        check_same_dtype(dy=dy, x=x)
        return np.broadcast_to(dy / (H * W), x.shape).copy()
