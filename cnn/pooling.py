"""Pooling.

Exported from book/14-pooling.ipynb: edit the chapter and run `make export`.
"""

from typing import Any

import numpy as np

from .conv import Kernel, filter_size
from .correlation import Geometry, Padding, geometry, pad, padding_sides, windows
from .correlation_grad import crop
from .im2col import col2im
from .network import Layer
from .shapes import check_array, check_integer, shapes

__all__ = [
    "pool_geometry", "max_pool2d", "max_pool2d_backward", "window_counts", "avg_pool2d",
    "avg_pool2d_backward", "global_avg_pool2d", "global_avg_pool2d_backward",
    "MaxPool2d", "AvgPool2d", "GlobalAvgPool2d",
]  # fmt: skip


# --- Windows that stick out ---
def pool_geometry(
    size: tuple[int, int], kernel_size: Kernel, stride: int | None = None,
    padding: Padding = 0, ceil_mode: bool = False,
) -> tuple[int, int, Geometry]:  # fmt: skip
    """Return f_h, f_w and where this window goes on an image of (H, W).

    Implements {eq}`eq:pool-ceil`. In ceil mode ``bottom`` and ``right`` include what sticks out.
    """
    f, s, (top, bottom, left, right) = _window(kernel_size, stride, padding, ceil_mode)
    if ceil_mode:
        bottom += _overhang(size[0], f[0], s, top, bottom)
        right += _overhang(size[-1], f[1], s, left, right)
    return *f, geometry(size, f, s, (top, bottom, left, right))


def _overhang(H: int, f: int, s: int, before: int, after: int) -> int:
    """Return u, the rows by which the last window sticks out in ceil mode."""
    p = before + after
    u = (f - H - p) % s
    return u if after + u < f else 0


def _window(
    kernel_size: Kernel, stride: int | None, padding: Padding, ceil_mode: bool
) -> tuple[tuple[int, int], int, tuple[int, int, int, int]]:
    """Check what can be checked without an image; return (f_h, f_w), s and the paddings."""
    f = filter_size(kernel_size)
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
@shapes("x (N, C, H, W) real")
def max_pool2d(
    x: np.ndarray, kernel_size: Kernel, stride: int | None = None,
    padding: Padding = 0, ceil_mode: bool = False,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return each window's largest number y, and the winners: the places where they stood.

    Implements {eq}`eq:pool-max` and {eq}`eq:pool-winner`.
    """
    f_h, f_w, g = pool_geometry(x.shape[2:], kernel_size, stride, padding, ceil_mode)
    V = windows(pad(x, g), f_h, f_w, g)
    inside = windows(pad(np.ones_like(x[:1, :1]), g), f_h, f_w, g) > 0
    y, winners = V[:, :, 0, 0], np.full((*x.shape[:2], g.h_out, g.w_out), -1)
    for number, (a, c) in enumerate(np.ndindex(f_h, f_w)):
        v = V[:, :, a, c]
        larger = (v > y) | (v != v) | (winners < 0)  # only NaN differs from itself
        takes_over = larger & inside[:, :, a, c]
        y, winners = np.where(takes_over, v, y), np.where(takes_over, number, winners)
    return y, winners


# --- The winner takes the blame ---
@shapes(
    "x (N, C, H, W) real, dy (N, C, h_out, w_out) real, "
    "winners (N, C, h_out, w_out) integer"
)
def max_pool2d_backward(
    dy: np.ndarray, x: np.ndarray, winners: np.ndarray, kernel_size: Kernel,
    stride: int | None = None, padding: Padding = 0, ceil_mode: bool = False,
) -> np.ndarray:  # fmt: skip
    """Hand each window's blame to the pixel that won it: dx, shape (N, C, H, W).

    Implements {eq}`eq:pool-max-dx`.
    """
    where = (kernel_size, stride, padding, ceil_mode)
    f_h, f_w, g = _check_blame(dy, x, *where)
    _check_winners(winners, f_h * f_w)
    places = np.arange(f_h * f_w).reshape(f_h, f_w, 1, 1)
    won = winners[:, :, np.newaxis, np.newaxis] == places
    dV = np.where(won, dy[:, :, np.newaxis, np.newaxis], 0)
    return crop(col2im(dV, g), x.shape, g)


def _check_blame(
    dy: np.ndarray, x: np.ndarray, *where: Any
) -> tuple[int, int, Geometry]:
    """Raise unless ``dy`` has the shape of the output for ``x``; return the geometry."""
    f_h, f_w, g = pool_geometry(x.shape[2:], *where)
    expected = (*x.shape[:2], g.h_out, g.w_out)
    check_array("dy", dy, expected, f"the output's shape for x {x.shape}")
    return f_h, f_w, g


def _check_winners(winners: np.ndarray, places: int) -> None:
    if winners.min() < 0 or winners.max() >= places:
        raise ValueError(
            f"winners holds numbers from {winners.min()} to {winners.max()}; expected places "
            f"from 0 to {places - 1}, as max_pool2d returns them for this kernel_size"
        )


# --- The mean ---
def window_counts(
    size: tuple[int, int], kernel_size: Kernel, stride: int | None = None,
    padding: Padding = 0, ceil_mode: bool = False, count_include_pad: bool = True,
) -> np.ndarray:  # fmt: skip
    """Count the pixels that each window's sum is divided by, shape (h_out, w_out).

    Implements {eq}`eq:pool-count`.
    """
    f_h, f_w, g = pool_geometry(size, kernel_size, stride, padding, ceil_mode)
    _check_bool("count_include_pad", count_include_pad)
    (H, W), (top, bottom, left, right) = size, padding_sides(padding)
    if count_include_pad:
        rows, columns = (0, top + H + bottom), (0, left + W + right)
    else:
        rows, columns = (top, top + H), (left, left + W)
    kappa_i = _counted(g.s * np.arange(g.h_out), f_h, *rows)
    return np.outer(kappa_i, _counted(g.s * np.arange(g.w_out), f_w, *columns))


def _counted(start: np.ndarray, f: int, h0: int, h1: int) -> np.ndarray:
    return np.minimum(start + f, h1) - np.maximum(start, h0)


@shapes("x (N, C, H, W) float")
def avg_pool2d(
    x: np.ndarray, kernel_size: Kernel, stride: int | None = None,
    padding: Padding = 0, ceil_mode: bool = False, count_include_pad: bool = True,
) -> np.ndarray:  # fmt: skip
    """Return the mean of each window, shape (N, C, h_out, w_out).

    Implements {eq}`eq:pool-avg`.
    """
    where = (kernel_size, stride, padding, ceil_mode)
    f_h, f_w, g = pool_geometry(x.shape[2:], *where)
    kappa = window_counts(x.shape[2:], *where, count_include_pad)
    V = windows(pad(x, g), f_h, f_w, g)
    return V.sum(axis=(2, 3)) / kappa.astype(x.dtype)


@shapes("x (N, C, H, W) float, dy (N, C, h_out, w_out) float")
def avg_pool2d_backward(
    dy: np.ndarray, x: np.ndarray, kernel_size: Kernel, stride: int | None = None,
    padding: Padding = 0, ceil_mode: bool = False, count_include_pad: bool = True,
) -> np.ndarray:  # fmt: skip
    """Hand each window's blame to its pixels, in equal shares: dx, shape (N, C, H, W).

    Implements {eq}`eq:pool-avg-dx`.
    """
    where = (kernel_size, stride, padding, ceil_mode)
    f_h, f_w, g = _check_blame(dy, x, *where)
    kappa = window_counts(x.shape[2:], *where, count_include_pad)
    share = (dy / kappa.astype(x.dtype))[:, :, np.newaxis, np.newaxis]
    dV = np.broadcast_to(share, (*x.shape[:2], f_h, f_w, g.h_out, g.w_out))
    return crop(col2im(dV, g), x.shape, g)


# --- All of it ---
@shapes("x (N, C, H, W) float")
def global_avg_pool2d(x: np.ndarray) -> np.ndarray:
    """Return the mean of each channel, shape (N, C, 1, 1).

    Implements {eq}`eq:pool-global`.
    """
    return x.mean(axis=(2, 3), keepdims=True)


@shapes("x (N, C, H, W) float, dy (N, C, 1, 1) float")
def global_avg_pool2d_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Hand each channel's blame to all its pixels, in equal shares.

    Implements {eq}`eq:pool-global-dx`.
    """
    return np.broadcast_to(dy / x[0, 0].size, x.shape).copy()


# --- The layers ---
class _Pool(Layer):
    """A window that is moved over each channel by itself."""

    def __init__(
        self, kernel_size: Kernel, stride: int | None = None, padding: Padding = 0,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        _, s, _ = _window(kernel_size, stride, padding, ceil_mode)
        self.where: dict[str, Any] = {"kernel_size": kernel_size, "stride": s}
        self.where |= {"padding": padding, "ceil_mode": ceil_mode}

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
    kernel_size, stride, padding, ceil_mode
        As in ``MaxPool2d``; the padding is zeros.
    count_include_pad : bool
        Whether these zeros count among the pixels to divide by.
    """

    def __init__(
        self, kernel_size: Kernel, stride: int | None = None, padding: Padding = 0,
        ceil_mode: bool = False, count_include_pad: bool = True,
    ) -> None:  # fmt: skip
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
        """Return the means, shape (N, C, 1, 1), of images of any size."""
        y = global_avg_pool2d(x)
        self._seen = x
        return y

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Hand each channel's blame to all its pixels, in equal shares."""
        return global_avg_pool2d_backward(dy, self._recall())
