"""Compiled loops.

Exported from book/24-compiled-loops.ipynb: edit the chapter and run `make export`.
"""

import functools
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product

import numpy as np

from .correlation import Geometry, Padding, check_conv, geometry
from .correlation_grad import check_conv_backward
from .losses import cross_entropy, cross_entropy_backward
from .optimizers import adam_update
from .shapes import check_array, check_same_dtype

__all__ = [
    "conv2d_compiled",
    "conv2d_compiled_backward",
    "rows_compiled",
    "linear_compiled",
    "linear_compiled_backward",
    "relu_compiled",
    "relu_compiled_backward",
    "cross_entropy_compiled",
    "adam_compiled",
]


# --- The loops, compiled ---


if find_spec("numba"):
    from numba import get_num_threads, njit, prange

    get_num_threads()  # start the threads: a loop from Numba's cache may take them for granted
else:
    prange = range

    def njit(**options: object) -> Callable[[Callable], Callable]:
        """Leave a function as it is: without Numba it runs as Python, right but slow."""
        return lambda function: function


# contract: a product and a sum may become one instruction; reassoc: one sum several partial ones
_parallel = njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})


# --- A tap is an offset ---


@_parallel
def _lay_out(X: np.ndarray, x: np.ndarray, top: int, left: int) -> None:
    """Fill ``X``, (C, rows, s, columns, N), from ``x``, (C, H, W, N), with zeros around it."""
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


# --- Sums stay in registers ---


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


@_parallel
def _sum_taps(
    z: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    offset: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
) -> None:
    """Fill ``z``: z[ν, i, t] = b[ν] + Σ_k W[ν, k] · X[start[i] + offset[k] + t]."""
    C_out, h_out, T = z.shape
    most, blocks = _piece(T), (C_out + 3) // 4
    pieces = (T + most - 1) // most
    for task in prange(h_out * pieces * blocks):
        i, t = task // blocks // pieces, task // blocks % pieces * most
        nu, end = 4 * (task % blocks), min(t + most, T)
        _sum_piece(z, nu, i, t, end, X[start[i] + t :], offset, W, b)


_LONG = 2048  # numbers of a row that are not cut


@_inner
def _piece(T):
    """Return how many numbers of a row of T belong to one task."""
    return T if T <= _LONG else _LONG // 2


@_inner
def _sum_piece(z, nu, i, t, end, x, offset, W, b):
    """Fill a piece of row i of four channels, from ν on, or of those that are left."""
    C_out, h_out, T = z.shape
    count = min(4, C_out - nu)
    w = W[nu : nu + count]
    if count == 4 and _crowded(h_out * T * z.itemsize):
        beside = np.empty((4, 1, _LONG + _GAP), z.dtype)
        for m in range(4):
            beside[m, 0, : end - t] = b[nu + m]
        _add_taps(beside, 0, 0, 0, end - t, x, offset, w)
        for m in range(4):
            _copy(z[nu + m, i, t:end], beside[m, 0])
    else:
        for m in range(nu, nu + count):
            z[m, i, t:end] = b[m]
        _add_taps(z, nu, i, t, end, x, offset, w)


@_inner
def _crowded(distance):
    """Tell whether of four rows so many bytes apart some contend for a place in the cache."""
    return distance % 2048 == 0


_GAP = 272  # as many numbers lie between rows that would be crowded without


@_inner
def _copy(row, numbers):
    """Fill a row with the first of these numbers."""
    for t in range(len(row)):
        row[t] = numbers[t]


@_inner
def _add_taps(z, nu, i, t, end, x, offset, w):
    """Add all taps to a piece of row i of the channels from ν on, one for each row of w."""
    K, T = len(offset), end - t
    for k in range(0, K - 3, 4):
        x0, x1 = x[offset[k] : offset[k] + T], x[offset[k + 1] : offset[k + 1] + T]
        x2, x3 = (
            x[offset[k + 2] : offset[k + 2] + T],
            x[offset[k + 3] : offset[k + 3] + T],
        )
        if len(w) == 4:
            z0, z1 = z[nu, i, t:end], z[nu + 1, i, t:end]
            z2, z3 = z[nu + 2, i, t:end], z[nu + 3, i, t:end]
            _add_4x4(z0, z1, z2, z3, x0, x1, x2, x3, w[:, k : k + 4])
        else:
            for m in range(len(w)):
                _add_1x4(z[nu + m, i, t:end], x0, x1, x2, x3, w[m, k : k + 4])
    for k in range(K - K % 4, K):
        for m in range(len(w)):
            _add_1x1(z[nu + m, i, t:end], x[offset[k] : offset[k] + T], w[m, k])


# --- In and out ---


def _by_pixel(x: np.ndarray) -> np.ndarray:
    """Return a view (C, H, W, N) of images (N, C, H, W) that lie in either of the two orders."""
    y = x.transpose(1, 2, 3, 0)
    return y if y.flags.carray else _plain(x).transpose(1, 2, 3, 0)


def _batch_last(x: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) as a contiguous array (C, H, W, N), copied only if needed."""
    y = x.transpose(1, 2, 3, 0)
    if y.flags.carray:
        return y
    return _turned(_plain(x).reshape(len(x), -1)).reshape(y.shape)


def _batch_first(q: np.ndarray) -> np.ndarray:
    """Return rows (N, M) as a contiguous array of that shape, copied only if needed."""
    return _turned(q.T) if q.T.flags.carray and not q.flags.carray else _plain(q)


def _plain(a: np.ndarray) -> np.ndarray:
    """Return ``a`` itself if it is writeable and C-contiguous, otherwise a copy that is.

    Numba compiles anew for every kind of array: this keeps it to one.
    """
    if a.flags.carray:
        return a
    copy = np.empty(a.shape, a.dtype)
    np.copyto(copy, a)
    return copy


_ALONE = 2**15  # fewer numbers than these are not worth waking a second core


def _turned(a: np.ndarray) -> np.ndarray:
    """Return the transpose of a matrix, contiguous."""
    out = np.empty(a.shape[::-1], a.dtype)
    if a.size < _ALONE:
        np.copyto(out, a.T)
    else:
        _turn(out, a)
    return out


@_parallel
def _turn(out: np.ndarray, a: np.ndarray) -> None:
    """Fill ``out`` with the transpose of ``a``, sixteen of its columns or rows at a time."""
    R, C = a.shape
    if _crowded(R * a.itemsize):
        for block in prange((R + 15) // 16):
            u, v = a[16 * block : 16 * block + 16], out[:, 16 * block : 16 * block + 16]
            for c in range(C):
                for r in range(len(u)):
                    v[c, r] = u[r, c]
    else:
        for block in prange((C + 15) // 16):
            u, v = a[:, 16 * block : 16 * block + 16], out[16 * block : 16 * block + 16]
            for r in range(R):
                for c in range(len(v)):
                    v[c, r] = u[r, c]


def conv2d_compiled(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> np.ndarray:
    """Cross-correlate with compiled loops, the batch innermost in memory.

    Implements {eq}`eq:kernel-layout` and {eq}`eq:kernel-sum`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C_in, H, W), in any memory order; float32, float64 or int64.
    W : np.ndarray
        The filters, shape (C_out, C_in, f_h, f_w), dtype as ``x``.
    b : np.ndarray
        The bias, shape (C_out,), dtype as ``x``.
    stride, dilation : int
        The steps between windows and between the taps of one window.
    padding : int or tuple of int
        Zeros around the image: p, (rows, columns), or (top, bottom, left, right).

    Returns
    -------
    np.ndarray
        The output z, shape (N, C_out, h_out, w_out), dtype as ``x``: a view of an array in the
        order (C_out, h_out, w_out, N).

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, or the filter is larger than the padded image.
    """
    check_conv(x, W, b)
    _check_dtype(x)
    (C_out, C_in, f_h, f_w), N = W.shape, len(x)
    g = geometry(x.shape[2:], (f_h, f_w), stride, padding, dilation)
    rows, columns, start, offset = _taps(C_in, f_h, f_w, g, N)
    X = np.empty((C_in, rows, g.s, columns, N), x.dtype)
    z = np.empty((C_out, g.h_out, g.w_out, N), x.dtype)
    _convolve(z, X, _by_pixel(x), g.top, g.left, start, offset, _plain(W), _plain(b))
    return z.transpose(3, 0, 1, 2)


@_inner
def _convolve(z, X, x, top, left, start, offset, W, b):
    """Lay out x, and add up its taps."""
    C_out, h_out, w_out, N = z.shape
    _lay_out(X, x, top, left)
    rows, filters = z.reshape(C_out, h_out, w_out * N), W.reshape(C_out, len(offset))
    _sum_taps(rows, X.reshape(X.size), start, offset, filters, b)


@functools.lru_cache(256)
def _taps(
    C: int, f_h: int, f_w: int, g: Geometry, N: int
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Return rows and columns of X, the start of each row of windows, and each tap's offset."""
    rows = g.s * (g.h_out - 1) + g.d * (f_h - 1) + 1
    columns = g.w_out + g.d * (f_w - 1) // g.s
    mu, a, c = np.ogrid[:C, :f_h, :f_w]
    row, phase, column = mu * rows + g.d * a, g.d * c % g.s, g.d * c // g.s
    offset = ((row * g.s + phase) * columns + column) * N
    start = np.arange(g.h_out) * (g.s * g.s * columns * N)
    return rows, columns, start, offset.ravel()


def _check_dtype(a: np.ndarray) -> None:
    """Raise unless the loops can be compiled for this dtype."""
    if a.dtype not in _DTYPES:
        raise TypeError(
            f"dtype is {a.dtype}; the compiled loops take float32, float64 and int64: "
            "convert with astype, or choose another implementation"
        )


_DTYPES = set(map(np.dtype, (np.float32, np.float64, np.int64)))


# --- Backward: the weights ---


@_parallel
def _dot_taps(
    dW: np.ndarray,
    db: np.ndarray,
    dz: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    offset: np.ndarray,
) -> None:
    """Fill ``dW``: dW[ν, k] = Σ_i Σ_t dz[ν, i, t] · X[start[i] + offset[k] + t].

    Fill ``db``, too, unless it is empty: db[ν] = Σ_i Σ_t dz[ν, i, t].
    """
    (C_out, K), (_, h_out, T) = dW.shape, dz.shape
    halves = min(h_out, 2)  # a single row stays whole
    places = dz.reshape(C_out, h_out * T)
    second = np.empty((C_out * (halves - 1), K), dW.dtype)
    second_b = np.empty(len(db) * (halves - 1), db.dtype)
    down, across = (C_out + 3) // 4, (K + 3) // 4
    for task in prange(halves * down * across):
        half, block = task // (down * across), task % (down * across)
        # What changes slowest is split between the cores: let it be the longer side.
        if down < across:
            nu, k = 4 * (block % down), 4 * (block // down)
        else:
            nu, k = 4 * (block // across), 4 * (block % across)
        share = second if half else dW
        first, last = half * h_out * T // halves, (half + 1) * h_out * T // halves
        _dot_4x4(share, dz, X, start, offset, nu, k, first, last)
        if k + 4 >= K:  # the last task of these channels
            share_b = second_b if half else db
            for m in range(nu, min(nu + 4, len(db))):
                share_b[m] = _sum(places[m, first:last])
    for nu in range(len(second)):
        for k in range(K):
            dW[nu, k] += second[nu, k]
    for nu in range(len(second_b)):
        db[nu] += second_b[nu]


@_inner
def _sum(row):
    """Return the sum of a row."""
    total = row.dtype.type(0)
    for t in range(len(row)):
        total += row[t]
    return total


@_inner
def _dot_4x4(dW, dz, X, start, offset, nu, k, first, last):
    """Fill four rows and columns of ``dW`` from these places; at the edge some of them twice."""
    C_out, h_out, T = dz.shape
    n1, n2, n3 = min(nu + 1, C_out - 1), min(nu + 2, C_out - 1), min(nu + 3, C_out - 1)
    K = len(offset)
    k1, k2, k3 = min(k + 1, K - 1), min(k + 2, K - 1), min(k + 3, K - 1)
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = dW.dtype.type(0)
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = dW.dtype.type(0)
    for i in range(first // T, (last - 1) // T + 1):
        begin, end = max(first - i * T, 0), min(last - i * T, T)
        z0, z1 = dz[nu, i, begin:end], dz[n1, i, begin:end]
        z2, z3 = dz[n2, i, begin:end], dz[n3, i, begin:end]
        x, n = X[start[i] + begin :], end - begin
        x0, x1 = x[offset[k] : offset[k] + n], x[offset[k1] : offset[k1] + n]
        x2, x3 = x[offset[k2] : offset[k2] + n], x[offset[k3] : offset[k3] + n]
        for t in range(n):
            u0, u1, u2, u3 = x0[t], x1[t], x2[t], x3[t]
            a0 += z0[t] * u0
            a1 += z0[t] * u1
            a2 += z0[t] * u2
            a3 += z0[t] * u3
            b0 += z1[t] * u0
            b1 += z1[t] * u1
            b2 += z1[t] * u2
            b3 += z1[t] * u3
            c0 += z2[t] * u0
            c1 += z2[t] * u1
            c2 += z2[t] * u2
            c3 += z2[t] * u3
            d0 += z3[t] * u0
            d1 += z3[t] * u1
            d2 += z3[t] * u2
            d3 += z3[t] * u3
    # the last row and column first: at the edge they stand in for rows and columns beyond it
    dW[n3, k3], dW[n3, k2], dW[n3, k1], dW[n3, k] = d3, d2, d1, d0
    dW[n2, k3], dW[n2, k2], dW[n2, k1], dW[n2, k] = c3, c2, c1, c0
    dW[n1, k3], dW[n1, k2], dW[n1, k1], dW[n1, k] = b3, b2, b1, b0
    dW[nu, k3], dW[nu, k2], dW[nu, k1], dW[nu, k] = a3, a2, a1, a0


# --- Backward: the input ---


def conv2d_compiled_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Compute a convolution's gradients with compiled loops.

    Implements {eq}`eq:kernel-dot` and {eq}`eq:kernel-classes`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient of the cost by the output, shape (N, C_out, h_out, w_out), in any memory order.
    x, W : np.ndarray
        What ``conv2d_compiled`` was given, dtype as ``dz``.
    stride, padding, dilation : int or tuple of int
        What ``conv2d_compiled`` was given.
    input_gradient : bool
        Whether to compute ``dx``.

    Returns
    -------
    dx : np.ndarray or None
        Shape (N, C_in, H, W), a view of an array in the order (C_in, H, W, N); None where
        ``input_gradient`` is false.
    dW : np.ndarray
        Shape (C_out, C_in, f_h, f_w).
    db : np.ndarray
        Shape (C_out,).

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    _check_dtype(x)
    (C_out, C_in, f_h, f_w), N = W.shape, len(x)
    dz = _batch_last(dz)
    rows, columns, start, offset = _taps(C_in, f_h, f_w, g, N)
    X = np.empty((C_in, rows, g.s, columns, N), x.dtype)
    dW, db = np.empty(W.shape, W.dtype), np.empty(C_out, W.dtype)
    _blame_filters(dW, db, dz, X, _by_pixel(x), g.top, g.left, start, offset)
    dx = _input_gradient(dz, W, x.shape, g) if input_gradient else None
    return dx, dW, db


@_inner
def _blame_filters(dW, db, dz, X, x, top, left, start, offset):
    """Lay out x, and multiply it by the blame."""
    C_out, h_out, w_out, N = dz.shape
    _lay_out(X, x, top, left)
    dots, rows = dW.reshape(C_out, len(offset)), dz.reshape(C_out, h_out, w_out * N)
    _dot_taps(dots, db, rows, X.reshape(X.size), start, offset)


def _input_gradient(
    dz: np.ndarray, W: np.ndarray, shape: tuple[int, ...], g: Geometry
) -> np.ndarray:
    """Return dx, all classes of pixels in one go."""
    N, C_in, *size = shape
    (top, left), rows, columns, *lists = _classes(W.shape, tuple(size), g, N)
    D = np.empty((len(W), rows, 1, columns, N), dz.dtype)
    dx = np.empty((C_in, *size, N), dz.dtype)
    _blame_pixels(dx, D, dz, top, left, _plain(W), *lists, g.s)
    return dx.transpose(3, 0, 1, 2)


@_inner
def _blame_pixels(dx, D, dz, top, left, W, tap, offset, work, s):
    """Lay out dz, put the weights in the order of the classes, and add up."""
    _lay_out(D, dz, top, left)
    w, V = W.reshape(W.size), np.empty(tap.shape, W.dtype)
    for mu in range(tap.shape[0]):
        for k in range(tap.shape[1]):
            V[mu, k] = w[tap[mu, k]]
    _sum_classes(dx, D.reshape(D.size), offset, V, work, s)


@functools.lru_cache(256)
def _classes(
    W_shape: tuple[int, ...], size: tuple[int, int], g: Geometry, N: int
) -> tuple[tuple[int, int], int, int, np.ndarray, np.ndarray, np.ndarray]:
    """Return the zeros before dz, rows and columns with them, and what is to be added where.

    That is: for each channel of x the places in W of its taps, class after class; each tap's
    offset; and, from the top of the image to its bottom, for each row of pixels of a class its
    first and last tap, its start in D, and the row, first column and count of its pixels.
    """
    C_out, C_in, *f = W_shape
    before = tuple(g.d * (taps - 1) // g.s for taps in f)
    rows, columns = (
        zeros + max((pixels + pad - 1) // g.s + 1, out)
        for zeros, pixels, pad, out in zip(
            before, size, (g.top, g.left), (g.h_out, g.w_out), strict=True
        )
    )

    def axis(rho: int, pixels: int, pad: int, taps: int, zeros: int) -> tuple:
        """Return the pixels, the taps, the first place in D and each tap's shift of one class."""
        first = (rho - pad) % g.s
        a = np.array([a for a in range(taps) if g.d * a % g.s == rho], int)
        shift = zeros - (g.d * a - rho) // g.s
        return range(first, pixels, g.s), a, (first + pad) // g.s, shift

    index = np.arange(C_out * C_in * f[0] * f[1]).reshape(W_shape).swapaxes(0, 1)
    nu = np.arange(C_out).reshape(-1, 1, 1)
    taps, offsets, work, k = [], [], [], 0
    remainders = (
        sorted({(h + pad) % g.s for h in range(pixels)})
        for pixels, pad in zip(size, (g.top, g.left), strict=True)
    )
    for rho, kappa in product(*remainders):
        down, a, at_h, up = axis(rho, size[0], g.top, f[0], before[0])
        right, c, at_w, back = axis(kappa, size[1], g.left, f[1], before[1])
        offset = ((nu * rows + up[:, np.newaxis]) * columns + back) * N
        taps.append(index[:, :, a[:, np.newaxis], c].reshape(C_in, -1))
        offsets.append(offset.ravel())
        last = k + offset.size
        for i, h in enumerate(down):
            start = ((at_h + i) * columns + at_w) * N
            work.append((k, last, start, h, right[0], len(right)))
        k = last
    work.sort(key=lambda pixels: pixels[3])
    tap = np.ascontiguousarray(np.concatenate(taps, axis=1))
    return (
        before,
        rows,
        columns,
        tap,
        np.concatenate(offsets),
        np.array(work, int),
    )


@_parallel
def _sum_classes(
    dx: np.ndarray,
    D: np.ndarray,
    offset: np.ndarray,
    V: np.ndarray,
    work: np.ndarray,
    s: int,
) -> None:
    """Fill ``dx``, (C, H, W, N): a task adds up some pixels of a class and puts them in place."""
    C, _, W, N = dx.shape
    pixels = (W + s - 1) // s
    most, blocks = max(1, _piece(pixels * N) // N), (C + 3) // 4
    pieces = (pixels + most - 1) // most
    for task in prange(len(work) * pieces * blocks):
        first, last, start, h, w, columns = work[task // blocks // pieces]
        q, mu = task // blocks % pieces * most, 4 * (task % blocks)
        columns, count = min(most, columns - q), min(4, C - mu)
        if columns > 0:
            T, v = columns * N, V[mu : mu + count, first:last]
            beside = np.empty((4, 1, max(most * N, _LONG) + _GAP), dx.dtype)
            beside[:, :, :T] = 0
            _add_taps(beside, 0, 0, 0, T, D[start + q * N :], offset[first:last], v)
            for m in range(count):
                for j in range(columns):
                    _copy(dx[mu + m, h, w + s * (q + j)], beside[m, 0, j * N :])


# --- The rest of the step ---


def rows_compiled(x: np.ndarray) -> np.ndarray:
    """Lay each image out as one row, contiguous in memory.

    Implements {eq}`eq:flatten`.

    Parameters
    ----------
    x : np.ndarray
        The images, N along the first axis; float32, float64 or int64.

    Returns
    -------
    np.ndarray
        Shape (N, M), C-contiguous: ``x`` itself, or a copy.

    Raises
    ------
    TypeError
        ``x`` is no array of numbers, or of another dtype.
    ValueError
        ``x`` is empty.
    """
    check_array("x", x, ("N", *np.shape(x)[1:]))
    _check_dtype(x)
    return _batch_first(x.reshape(len(x), -1))


def linear_compiled(q: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the dense layer z = q Wᵀ + b with the compiled loops.

    Implements {eq}`eq:dense-forward`.

    Parameters
    ----------
    q : np.ndarray
        The inputs, shape (N, M_in), in any memory order; float32, float64 or int64.
    W : np.ndarray
        The weights, shape (M_out, M_in), dtype as ``q``.
    b : np.ndarray
        The bias, shape (M_out,), dtype as ``q``.

    Returns
    -------
    np.ndarray
        The outputs z, shape (N, M_out), dtype as ``q``.

    Raises
    ------
    TypeError
        An argument is no array of numbers, or their dtypes differ.
    ValueError
        The shapes do not fit, or one of them holds a zero.
    """
    _check_dtype(q)
    z = np.empty((len(q), len(W)), q.dtype)
    _dense(z, _batch_first(q), _plain(W), _plain(b))
    return z


@_inner
def _dense(z, q, W, b):
    """Fill z = q Wᵀ + b."""
    (N, M_in), M_out = q.shape, len(W)
    start, taps = np.zeros(1, np.int64), np.arange(0, M_out * M_in, M_in)
    no_sums = np.empty(0, q.dtype)
    _dot_taps(z, no_sums, q.reshape(N, 1, M_in), W.reshape(W.size), start, taps)
    for n in range(N):
        for m in range(M_out):
            z[n, m] += b[m]


def linear_compiled_backward(
    dz: np.ndarray, q: np.ndarray, W: np.ndarray, input_gradient: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Compute a dense layer's gradients with the compiled loops.

    Implements {eq}`eq:dense-dq`, {eq}`eq:dense-dW` and {eq}`eq:dense-db`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient of the cost by the output, shape (N, M_out).
    q, W : np.ndarray
        What ``linear_compiled`` was given, dtype as ``dz``.
    input_gradient : bool
        Whether to compute ``dq``.

    Returns
    -------
    dq : np.ndarray or None
        Shape (N, M_in); None where ``input_gradient`` is false.
    dW : np.ndarray
        Shape (M_out, M_in).
    db : np.ndarray
        Shape (M_out,).

    Raises
    ------
    TypeError
        An argument is no array of numbers, or their dtypes differ.
    ValueError
        The shapes do not fit, or one of them holds a zero.
    """
    _check_dtype(q)
    dW, db = np.empty(W.shape, W.dtype), np.empty(len(W), W.dtype)
    dq = np.empty(q.shape if input_gradient else (0, 0), q.dtype)
    second = np.empty(dq.shape if len(W) >= 2 * len(q) else (0, 0), q.dtype)
    dz, q = _plain(dz), _batch_first(q)
    _dense_backward(dq, second, dW, db, dz, _turned(dz), q, _plain(W))
    return dq if input_gradient else None, dW, db


@_inner
def _dense_backward(dq, second, dW, db, dz, turned, q, W):
    """Fill dW = dzᵀ q, db with the sums of dz, and dq = dz W unless it is empty.

    If there is a ``second`` array of the shape of ``dq``, each core makes a share of all of it.
    """
    (N, M_in), M_out = q.shape, len(W)
    start, taps = np.zeros(1, np.int64), np.arange(0, max(N, M_out) * M_in, M_in)
    zeros = np.zeros(max(N, M_out), dz.dtype)
    for m in range(M_out):
        db[m] = _sum(turned[m])
    rows, w = dW.reshape(M_out, 1, M_in), W.reshape(W.size)
    _sum_taps(rows, q.reshape(q.size), start, taps[:N], turned, zeros)
    if len(dq):
        rows = dq.reshape(N, 1, M_in)
        if len(second):
            share = second.reshape(N, 1, M_in)
            _sum_halves(rows, share, w, taps[:M_out], dz)
        else:
            _sum_taps(rows, w, start, taps[:M_out], dz, zeros)


@_parallel
def _sum_halves(
    z: np.ndarray,
    second: np.ndarray,
    X: np.ndarray,
    offset: np.ndarray,
    W: np.ndarray,
) -> None:
    """Fill ``z``, (N, 1, T), as ``_sum_taps`` does: one half of the taps, plus the second."""
    N, _, T = z.shape
    most, blocks, middle = _piece(T), (N + 3) // 4, len(offset) // 2
    upper, lower = W[:, :middle].copy(), W[:, middle:].copy()
    b = np.zeros(N, z.dtype)
    for task in prange(2 * blocks):
        n = 4 * (task % blocks)
        for t in range(0, T, most):
            end = min(t + most, T)
            if task < blocks:
                _sum_piece(z, n, 0, t, end, X[t:], offset[:middle], upper, b)
            else:
                _sum_piece(second, n, 0, t, end, X[t:], offset[middle:], lower, b)
    for n in prange(N):
        row, more = z[n, 0], second[n, 0]
        for t in range(T):
            row[t] += more[t]


def relu_compiled(z: np.ndarray) -> np.ndarray:
    """Let the positive entries pass and set the others to zero, with a compiled loop.

    Implements {eq}`eq:relu`.

    Parameters
    ----------
    z : np.ndarray
        Pre-activations of any shape, float32 or float64.

    Returns
    -------
    np.ndarray
        The output q, shape, dtype and memory order as ``z``.

    Raises
    ------
    TypeError
        ``z`` is not an array of floating-point numbers, or of another kind than these two.
    ValueError
        ``z`` is empty.
    """
    check_array("z", z, np.shape(z), kind="float")
    _check_dtype(z)
    q = _like(z)
    fill = _relu if z.size >= _ALONE else _relu_piece
    fill(q.ravel("K"), _in_order(z, q).ravel("K"))
    return q


def relu_compiled_backward(dq: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Let the gradient pass where the output of ``relu`` is positive, with a compiled loop.

    Implements {eq}`eq:relu-backward`.

    Parameters
    ----------
    dq : np.ndarray
        The gradient of the cost by the output, any shape, float32 or float64.
    q : np.ndarray
        What ``relu_compiled`` returned, shape and dtype as ``dq``.

    Returns
    -------
    np.ndarray
        The gradient by the pre-activations, shape, dtype and memory order as ``q``.

    Raises
    ------
    TypeError
        An argument is no array of floating-point numbers, or their dtypes differ.
    ValueError
        The shapes differ, or the arrays are empty.
    """
    check_array("q", q, np.shape(q), kind="float")
    check_array("dq", dq, q.shape, "the shape of q", kind="float")
    check_same_dtype(dq=dq, q=q)
    _check_dtype(q)
    dz = _like(q)
    fill = _gate if q.size >= _ALONE else _gate_piece
    fill(dz.ravel("K"), _in_order(dq, dz).ravel("K"), _in_order(q, dz).ravel("K"))
    return dz


def _like(a: np.ndarray) -> np.ndarray:
    """Return an array with arbitrary contents, its axes in memory in the order of ``a``'s."""
    order, back = _axes(a.strides)
    return np.empty(tuple([a.shape[axis] for axis in order]), a.dtype).transpose(back)


@functools.lru_cache(256)
def _axes(strides: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Return the axes as they lie in memory, the outermost first, and each axis's place."""
    order = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
    return order, sorted(range(len(strides)), key=order.__getitem__)


def _in_order(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``a`` if it lies in memory as ``b`` does and may be written, otherwise such a copy."""
    if a.strides == b.strides and a.flags.behaved:
        return a
    if a.ndim == 4 and b.transpose(1, 2, 3, 0).flags.carray:
        return _batch_last(a).transpose(3, 0, 1, 2)
    copy = _like(b)
    np.copyto(copy, a)
    return copy


_PIECE = 4096


@_parallel
def _relu(q: np.ndarray, z: np.ndarray) -> None:
    """Fill q = max(0, z), a piece for each task."""
    for piece in prange((len(z) + _PIECE - 1) // _PIECE):
        i, j = _PIECE * piece, _PIECE * (piece + 1)
        _relu_piece(q[i:j], z[i:j])


@_inner
def _relu_piece(q, z):
    """Fill one piece."""
    for t in range(len(z)):
        q[t] = 0 if z[t] < 0 else z[t]


@_parallel
def _gate(dz: np.ndarray, dq: np.ndarray, q: np.ndarray) -> None:
    """Fill dz = dq where q > 0, and 0 elsewhere."""
    for piece in prange((len(q) + _PIECE - 1) // _PIECE):
        i, j = _PIECE * piece, _PIECE * (piece + 1)
        _gate_piece(dz[i:j], dq[i:j], q[i:j])


@_inner
def _gate_piece(dz, dq, q):
    """Fill one piece."""
    zero, one = q.dtype.type(0), q.dtype.type(1)
    for t in range(len(q)):
        dz[t] = dq[t] * (one if q[t] > zero else zero)


def cross_entropy_compiled(
    z: np.ndarray, y: np.ndarray
) -> tuple[np.floating, np.ndarray]:
    """Compute the cost J and dz, its gradient by the scores, in one pass.

    Implements {eq}`eq:ce` and {eq}`eq:ce-grad`.

    Parameters
    ----------
    z : np.ndarray
        The scores, shape (N, K), float32 or float64.
    y : np.ndarray
        The labels, shape (N,), integers from 0 to K - 1.

    Returns
    -------
    J : np.floating
        A number of the dtype of ``z``.
    dz : np.ndarray
        Shape (N, K), dtype as ``z``.

    Raises
    ------
    TypeError
        ``z`` is no array of floating-point numbers of these kinds, or ``y`` none of integers.
    ValueError
        The shapes do not fit, the batch is empty, or a label is out of range.
    FloatingPointError
        A score is NaN or infinite; the message names the first one.
    """
    check_array("z", z, ("N", "K"), kind="float")
    _check_dtype(z)
    check_array("y", y, (len(z),), "one label per image", kind="integer")
    dz, labels = np.empty(z.shape, z.dtype), y.astype(np.int64, copy=False)
    J, in_order = _cross_entropy(dz, _plain(z), _plain(labels))
    if not in_order:
        return cross_entropy(z, y), cross_entropy_backward(z, y)
    return z.dtype.type(J), dz


@_inner
def _cross_entropy(dz, z, y):
    """Fill dz; return J, and whether all scores are finite and all labels in range."""
    N, K = z.shape
    number = z.dtype.type
    J = number(0)
    for n in range(N):
        k, m, finite = y[n], z[n, 0], True
        for j in range(K):
            m, finite = max(m, z[n, j]), finite and np.isfinite(z[n, j])
        if not (finite and 0 <= k < K):
            return J, False
        total = number(0)
        for j in range(K):
            dz[n, j] = np.exp(z[n, j] - m)
            total += dz[n, j]
        J += m + np.log(total) - z[n, k]
        for j in range(K):
            dz[n, j] /= total
        dz[n, k] -= number(1)
        for j in range(K):
            dz[n, j] /= number(N)
    return J / number(N), True


def adam_compiled(
    theta: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    t: int,
    gamma: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Take Adam's step number ``t`` with one parameter, in one pass through the memory.

    Implements {eq}`eq:adam-moments`, {eq}`eq:adam-correction` and {eq}`eq:adam-step`.

    Parameters
    ----------
    theta, g : np.ndarray
        The parameter and its gradient.
    m, v : np.ndarray
        The averages of the gradient and of its square; they are changed in place.
    scratch : np.ndarray
        Used only where theta, m or v does not lie in one piece. All five arrays have one shape
        and dtype, float32 or float64.
    t : int
        The step's number, counted from 1.
    gamma, betas, eps : float
        The learning rate γ, the decays (β₁, β₂), and ε.

    Raises
    ------
    TypeError
        The dtype is neither float32 nor float64.
    ValueError
        The shapes differ.
    """
    if not (theta.flags.carray and m.flags.carray and v.flags.carray):
        # not in one piece
        adam_update(theta, g, m, v, t, gamma, betas, eps)
        return
    number, (beta1, beta2) = theta.dtype.type, betas
    factors = (1 - beta1, 1 - beta2, 1 / (1 - beta2**t), eps, gamma / (1 - beta1**t))
    rows = (a.reshape(-1) for a in (theta, _plain(g), m, v))
    update = _adam if theta.size >= _ALONE else _adam_piece
    update(*rows, *map(number, factors))


@_parallel
def _adam(theta, g, m, v, rise1, rise2, correct2, eps, rate):
    """Update θ, m and v in place, a piece for each task."""
    for piece in prange((len(theta) + _PIECE - 1) // _PIECE):
        i, j = _PIECE * piece, _PIECE * (piece + 1)
        _adam_piece(
            theta[i:j], g[i:j], m[i:j], v[i:j], rise1, rise2, correct2, eps, rate
        )


@_inner
def _adam_piece(theta, g, m, v, rise1, rise2, correct2, eps, rate):
    """Update one piece."""
    for t in range(len(theta)):
        m[t] += (g[t] - m[t]) * rise1
        v[t] += (g[t] * g[t] - v[t]) * rise2
        theta[t] -= m[t] / (np.sqrt(v[t] * correct2) + eps) * rate


# --- The first step ---


if find_spec("numba"):
    import numba.core.event

    class _Announce(numba.core.event.Listener):
        """Tell who waits at a terminal, once, why the first call takes so long."""

        said = False

        def on_start(self, event: numba.core.event.Event) -> None:
            """Say it if the function being compiled is one of this module."""
            function = event.data["dispatcher"].py_func
            if (
                function.__module__ == __name__
                and not self.said
                and sys.stderr  # there is none where there is no console
                and sys.stderr.isatty()
            ):
                self.said = True
                print(
                    "compiling the loops for this processor, once ...", file=sys.stderr
                )

        def on_end(self, event: numba.core.event.Event) -> None:
            """Say nothing more."""

    numba.core.event.register("numba:compile", _Announce())
