"""Compiled loops.

Exported from book/24-compiled-loops.ipynb: edit the chapter and run `make export`.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from .correlation import Geometry, Padding, geometry
from .shapes import shapes

__all__ = ["conv2d_compiled"]


# --- The loops, compiled ---
if find_spec("numba"):
    from numba import get_num_threads, njit, prange

    get_num_threads()  # start the threads: a loop from the cache takes them for granted
else:
    prange = range

    def njit(**options: object) -> Callable[[Callable], Callable]:
        """Leave a function as it is: without Numba it runs as Python, right but slow."""
        return lambda function: function


# contract: a product and a sum may become one instruction; reassoc: sums may be regrouped
_parallel = njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})


# --- A tap is an offset ---
@_parallel
def _lay_out(X: np.ndarray, x: np.ndarray, top: int, left: int) -> None:
    """Fill X, (C, rows, s, columns, N), from x, (C, H, W, N), with zeros around it.

    Implements {eq}`eq:kernel-layout`.
    """
    C, H, W, N = x.shape
    _, rows, s, columns, _ = X.shape
    for r in prange(C * rows):
        mu, h = r // rows, r % rows - top
        for p in range(s):
            for q in range(columns):
                w, row = s * q + p - left, X[mu, h + top, p, q]
                if 0 <= h < H and 0 <= w < W:
                    pixels = x[mu, h, w]
                    for n in range(N):
                        row[n] = pixels[n]
                else:
                    for n in range(N):
                        row[n] = 0


# --- Weights stay in registers ---
_inner = njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


@_inner
def _add_1x1(z, x, w):
    """Add one tap to one row: z[t] += w · x[t]."""
    for t in range(len(z)):
        z[t] += w * x[t]


@_inner
def _add_1x4(z, x0, x1, x2, x3, w):
    """Add four taps to one row."""
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    for t in range(len(z)):
        z[t] += w0 * x0[t] + w1 * x1[t] + w2 * x2[t] + w3 * x3[t]


@_inner
def _add_4x4(z0, z1, z2, z3, x0, x1, x2, x3, w):
    """Add four taps to four rows, those of four output channels."""
    a0, a1, a2, a3 = w[0, 0], w[0, 1], w[0, 2], w[0, 3]
    b0, b1, b2, b3 = w[1, 0], w[1, 1], w[1, 2], w[1, 3]
    c0, c1, c2, c3 = w[2, 0], w[2, 1], w[2, 2], w[2, 3]
    d0, d1, d2, d3 = w[3, 0], w[3, 1], w[3, 2], w[3, 3]
    for t in range(len(z0)):
        u0, u1, u2, u3 = x0[t], x1[t], x2[t], x3[t]
        z0[t] += a0 * u0 + a1 * u1 + a2 * u2 + a3 * u3
        z1[t] += b0 * u0 + b1 * u1 + b2 * u2 + b3 * u3
        z2[t] += c0 * u0 + c1 * u1 + c2 * u2 + c3 * u3
        z3[t] += d0 * u0 + d1 * u1 + d2 * u2 + d3 * u3


@_inner
def _add_taps(z, nu, i, t, end, x, offset, w):
    """Add all taps to z[ν:, i, t:end], a row for each row of the weights w."""
    K, T = len(offset), end - t
    for k in range(0, K - 3, 4):
        x0, x1 = x[offset[k] :][:T], x[offset[k + 1] :][:T]
        x2, x3 = x[offset[k + 2] :][:T], x[offset[k + 3] :][:T]
        if len(w) == 4:
            z0, z1 = z[nu, i, t:end], z[nu + 1, i, t:end]
            z2, z3 = z[nu + 2, i, t:end], z[nu + 3, i, t:end]
            _add_4x4(z0, z1, z2, z3, x0, x1, x2, x3, w[:, k : k + 4])
        else:
            for m in range(len(w)):
                _add_1x4(z[nu + m, i, t:end], x0, x1, x2, x3, w[m, k : k + 4])
    for k in range(K - K % 4, K):
        for m in range(len(w)):
            _add_1x1(z[nu + m, i, t:end], x[offset[k] :][:T], w[m, k])


_LONG = 2048  # numbers: a row that is longer is cut into pieces of half of this


@_inner
def _piece(T):
    """Return how many numbers of a row of T belong to one task."""
    return T if T <= _LONG else _LONG // 2


@_parallel
def _sum_taps(
    z: np.ndarray, X: np.ndarray, start: np.ndarray, offset: np.ndarray,
    W: np.ndarray, b: np.ndarray,
) -> None:  # fmt: skip
    """Fill z[ν, i, t] = b[ν] + Σ_k W[ν, k] · X[start[i] + offset[k] + t].

    Implements {eq}`eq:kernel-sum`.
    """
    C_out, h_out, T = z.shape
    length, fours = _piece(T), (C_out + 3) // 4
    pieces = (T + length - 1) // length
    for task in prange(h_out * pieces * fours):
        i, t = task // fours // pieces, task // fours % pieces * length
        nu, end = 4 * (task % fours), min(t + length, T)
        w = W[nu : nu + 4]
        for m in range(len(w)):
            z[nu + m, i, t:end] = b[nu + m]
        _add_taps(z, nu, i, t, end, X[start[i] + t :], offset, w)


# --- The forward pass ---
def _plain(a: np.ndarray) -> np.ndarray:
    """Return the array itself if it is C-contiguous and writeable, else a copy that is."""
    return a if a.flags.carray else a.copy()


def _by_pixel(x: np.ndarray) -> np.ndarray:
    """View images (N, C, H, W), in either of the two orders in memory, as (C, H, W, N)."""
    y = x.transpose(1, 2, 3, 0)
    return y if y.flags.carray or x.flags.carray else x.copy().transpose(1, 2, 3, 0)


class _Layout(NamedTuple):
    """Where a convolution's numbers lie in X: its sizes, and the two lists of integers."""

    g: Geometry
    rows: int
    columns: int
    start: np.ndarray
    offset: np.ndarray


@functools.lru_cache(256, typed=True)
def _layout(
    x_shape: tuple[int, ...], W_shape: tuple[int, ...], stride: int, padding: Padding,
    dilation: int,
) -> _Layout:  # fmt: skip
    """Return the layout for images and filters of these shapes."""
    (N, C, H, width), (_, _, f_h, f_w) = x_shape, W_shape
    g = geometry((H, width), (f_h, f_w), stride, padding, dilation)
    rows = g.s * (g.h_out - 1) + g.d * (f_h - 1) + 1
    columns = g.w_out + g.d * (f_w - 1) // g.s
    mu, a, c = np.ogrid[:C, :f_h, :f_w]
    row, p, q = mu * rows + g.d * a, g.d * c % g.s, g.d * c // g.s
    offset = ((row * g.s + p) * columns + q) * N
    start = np.arange(g.h_out) * (g.s * g.s * columns * N)
    return _Layout(g, rows, columns, start, offset.ravel())


_DTYPES = {np.dtype(kind) for kind in (np.float32, np.float64, np.int64)}
_REFUSED = (
    "dtype is {}; the compiled loops take float32, float64 and int64: convert with astype, "
    "or choose another implementation"
)


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d_compiled(
    x: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> np.ndarray:  # fmt: skip
    """Cross-correlate with compiled loops, the batch innermost in memory."""
    if x.dtype not in _DTYPES:
        raise TypeError(_REFUSED.format(x.dtype))
    g, rows, columns, start, offset = _layout(
        x.shape, W.shape, stride, padding, dilation
    )
    X = np.empty((x.shape[1], rows, g.s, columns, len(x)), x.dtype)
    z = np.empty((len(W), g.h_out, g.w_out, len(x)), x.dtype)
    _convolve(z, X, _by_pixel(x), g.top, g.left, start, offset, W.copy(), b.copy())
    return z.transpose(3, 0, 1, 2)


@_inner
def _convolve(z, X, x, top, left, start, offset, W, b):
    """Lay out x, and add up its taps."""
    C_out, h_out, w_out, N = z.shape
    _lay_out(X, x, top, left)
    rows, filters = z.reshape(C_out, h_out, w_out * N), W.reshape(C_out, len(offset))
    _sum_taps(rows, X.reshape(X.size), start, offset, filters, b)
