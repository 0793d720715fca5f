"""Compiled loops.

Exported from book/12-compiled-loops.ipynb: edit the chapter and run `make export`.
"""

import functools
import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from .correlation import Geometry, Padding, check_conv, geometry
from .correlation_grad import check_conv_backward
from .data import check_array, check_same_dtype
from .dense import check_linear
from .im2col import empty
from .optimizers import adam_update

__all__ = [
    "conv2d_compiled",
    "conv2d_compiled_backward",
    "rows_compiled",
    "linear_compiled",
    "linear_compiled_backward",
    "relu_compiled",
    "relu_compiled_backward",
    "adam_compiled",
]


# --- The loops, compiled ---


if find_spec("numba"):
    from numba import njit, prange
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
    most = T if T <= 2048 else 1024
    pieces, blocks = (T + most - 1) // most, (C_out + 3) // 4
    for task in prange(h_out * pieces * blocks):
        i, t = task // blocks // pieces, task // blocks % pieces * most
        nu, end = 4 * (task % blocks), min(t + most, T)
        count = min(4, C_out - nu)
        for m in range(nu, nu + count):
            z[m, i, t:end] = b[m]
        _add_taps(z, nu, i, t, end, X[start[i] + t :], offset, W[nu : nu + count])


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
    copy = empty(a.shape, a.dtype)
    np.copyto(copy, a)
    return copy


def _turned(a: np.ndarray) -> np.ndarray:
    """Return the transpose of a matrix, contiguous."""
    out = empty(a.shape[::-1], a.dtype)
    if a.size < 2**15:  # not worth waking a second core
        np.copyto(out, a.T)
    else:
        _turn(out, a)
    return out


@_parallel
def _turn(out: np.ndarray, a: np.ndarray) -> None:
    """Fill ``out`` with the transpose of ``a``, sixteen columns at a time."""
    R, C = a.shape
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
    X = _laid_out(_by_pixel(x), g.top, g.left, rows, g.s, columns)
    z = empty((C_out, g.h_out, g.w_out, N), x.dtype)
    _sum_taps(
        z.reshape(C_out, g.h_out, -1),
        X,
        start,
        offset,
        _plain(W).reshape(C_out, -1),
        _plain(b),
    )
    return z.transpose(3, 0, 1, 2)


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


def _laid_out(
    x: np.ndarray, top: int, left: int, rows: int, s: int, columns: int
) -> np.ndarray:
    """Return X as one long row of numbers, in memory that is used again."""
    X = empty((x.shape[0], rows, s, columns, x.shape[3]), x.dtype)
    _lay_out(X, x, top, left)
    return X.reshape(-1)


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
    C_out, K = dW.shape
    blocks = (K + 3) // 4
    for task in prange((C_out + 3) // 4 * blocks):
        nu, k = 4 * (task // blocks), 4 * (task % blocks)
        _dot_4x4(dW, dz, X, start, offset, nu, k)
        if k + 4 >= K:  # the last task of these channels
            for m in range(nu, min(nu + 4, len(db))):
                db[m] = 0
                for i in range(dz.shape[1]):
                    db[m] += _sum(dz[m, i])


@_inner
def _sum(row):
    """Return the sum of a row."""
    total = row.dtype.type(0)
    for t in range(len(row)):
        total += row[t]
    return total


@_inner
def _dot_4x4(dW, dz, X, start, offset, nu, k):
    """Fill four rows and columns of ``dW``; at the edge some of them twice."""
    C_out, h_out, T = dz.shape
    n1, n2, n3 = min(nu + 1, C_out - 1), min(nu + 2, C_out - 1), min(nu + 3, C_out - 1)
    K = len(offset)
    k1, k2, k3 = min(k + 1, K - 1), min(k + 2, K - 1), min(k + 3, K - 1)
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = dW.dtype.type(0)
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = dW.dtype.type(0)
    for i in range(h_out):
        z0, z1, z2, z3 = dz[nu, i], dz[n1, i], dz[n2, i], dz[n3, i]
        x = X[start[i] :]
        x0, x1 = x[offset[k] : offset[k] + T], x[offset[k1] : offset[k1] + T]
        x2, x3 = x[offset[k2] : offset[k2] + T], x[offset[k3] : offset[k3] + T]
        for t in range(T):
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
    X = _laid_out(_by_pixel(x), g.top, g.left, rows, g.s, columns)
    dW, db = empty(W.shape, W.dtype), empty(C_out, W.dtype)
    blame = dz.reshape(C_out, g.h_out, -1)
    _dot_taps(dW.reshape(C_out, -1), db, blame, X, start, offset)
    dx = _input_gradient(dz, W, x.shape, g) if input_gradient else None
    return dx, dW, db


def _input_gradient(
    dz: np.ndarray, W: np.ndarray, shape: tuple[int, ...], g: Geometry
) -> np.ndarray:
    """Return dx, all classes of pixels in one go."""
    N, C_in, *size = shape
    before, rows, columns, tap, offset, work = _classes(W.shape, tuple(size), g, N)
    D = _laid_out(dz, *before, rows, 1, columns)
    dx = empty((C_in, *size, N), dz.dtype)
    _sum_classes(dx, D, offset, W.take(tap), work, g.s)
    return dx.transpose(3, 0, 1, 2)


@functools.lru_cache(256)
def _classes(
    W_shape: tuple[int, ...], size: tuple[int, int], g: Geometry, N: int
) -> tuple[tuple[int, int], int, int, np.ndarray, np.ndarray, np.ndarray]:
    """Return the zeros before dz, rows and columns with them, and what is to be added where.

    That is: for each channel of x the places in W of its taps, class after class; each tap's
    offset; and for each row of pixels of a class its first and last tap, its start in D, and
    the row, first column and count of its pixels.
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
    for rho, kappa in np.ndindex(g.s, g.s):
        down, a, at_h, up = axis(rho, size[0], g.top, f[0], before[0])
        right, c, at_w, back = axis(kappa, size[1], g.left, f[1], before[1])
        offset = ((nu * rows + up[:, np.newaxis]) * columns + back) * N
        taps.append(index[:, :, a[:, np.newaxis], c].reshape(C_in, -1))
        offsets.append(offset.ravel())
        last = k + offset.size
        if right:
            for i, h in enumerate(down):
                start = ((at_h + i) * columns + at_w) * N
                work.append((k, last, start, h, right[0], len(right)))
        k = last
    tap = np.ascontiguousarray(np.concatenate(taps, axis=1))
    return (
        before,
        rows,
        columns,
        tap,
        np.concatenate(offsets),
        np.array(work, int).reshape(-1, 6),
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
    most = (W + s - 1) // s
    most = most if most * N <= 2048 else max(1, 1024 // N)
    pieces, blocks = ((W + s - 1) // s + most - 1) // most, (C + 3) // 4
    for task in prange(len(work) * pieces * blocks):
        first, last, start, h, w, columns = work[task // blocks // pieces]
        q, mu = task // blocks % pieces * most, 4 * (task % blocks)
        columns, count = min(most, columns - q), min(4, C - mu)
        if columns > 0:
            part = np.zeros((4, 1, most * N), dx.dtype)
            v = V[mu : mu + count, first:last]
            _add_taps(
                part, 0, 0, 0, columns * N, D[start + q * N :], offset[first:last], v
            )
            for m in range(count):
                for j in range(columns):
                    row, pixels = dx[mu + m, h, w + s * (q + j)], part[m, 0, j * N :]
                    for n in range(N):
                        row[n] = pixels[n]


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


_START = np.zeros(1, np.int64)


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
    check_linear(q, W)
    check_array("b", b, (len(W),), f"because W has shape {W.shape}")
    check_same_dtype(q=q, W=W, b=b)
    _check_dtype(q)
    (N, M_in), M_out = q.shape, len(W)
    z = empty((N, M_out), q.dtype)
    rows = _batch_first(q).reshape(N, 1, M_in)
    tap, no_sums = np.arange(0, M_out * M_in, M_in), np.empty(0, q.dtype)
    _dot_taps(z, no_sums, rows, _plain(W).reshape(-1), _START, tap)
    z += b
    return z


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
    check_linear(q, W)
    (N, M_in), M_out = q.shape, len(W)
    check_array("dz", dz, (N, M_out), f"because q has shape {q.shape} and W {W.shape}")
    check_same_dtype(dz=dz, q=q, W=W)
    _check_dtype(q)
    dz, taps = _plain(dz), np.arange(0, max(N, M_out) * M_in, M_in)
    dW, dq = empty(W.shape, W.dtype), None
    _sum_taps(
        dW.reshape(M_out, 1, M_in),
        _batch_first(q).reshape(-1),
        _START,
        taps[:N],
        _turned(dz),
        np.zeros(M_out, q.dtype),
    )
    if input_gradient:
        dq = empty(q.shape, q.dtype)
        _sum_taps(
            dq.reshape(N, 1, M_in),
            _plain(W).reshape(-1),
            _START,
            taps[:M_out],
            dz,
            np.zeros(N, q.dtype),
        )
    return dq, dW, dz.sum(axis=0)


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
    check_array("z", z, np.shape(z), kinds="fc")
    _check_dtype(z)
    q = _like(z)
    _relu(q.ravel("K"), _in_order(z, q).ravel("K"))
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
    check_array("q", q, np.shape(q), kinds="fc")
    check_array("dq", dq, q.shape, "the shape of q", kinds="fc")
    check_same_dtype(dq=dq, q=q)
    _check_dtype(q)
    dz = _like(q)
    _gate(dz.ravel("K"), _in_order(dq, dz).ravel("K"), _in_order(q, dz).ravel("K"))
    return dz


def _like(a: np.ndarray) -> np.ndarray:
    """Return an array with arbitrary contents, its axes in memory in the order of ``a``'s."""
    order, back = _axes(a.strides)
    return empty(tuple([a.shape[axis] for axis in order]), a.dtype).transpose(back)


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


@_parallel
def _relu(q: np.ndarray, z: np.ndarray) -> None:
    """Fill q = max(0, z), a piece for each task."""
    for piece in prange((len(z) + 16383) // 16384):
        at = 16384 * piece
        u, v = z[at : at + 16384], q[at : at + 16384]
        for t in range(len(u)):
            v[t] = 0 if u[t] < 0 else u[t]


@_parallel
def _gate(dz: np.ndarray, dq: np.ndarray, q: np.ndarray) -> None:
    """Fill dz = dq where q > 0, and 0 elsewhere."""
    for piece in prange((len(q) + 16383) // 16384):
        at = 16384 * piece
        u, v, w = q[at : at + 16384], dq[at : at + 16384], dz[at : at + 16384]
        for t in range(len(u)):
            w[t] = v[t] if u[t] > 0 else 0


def adam_compiled(
    theta: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    scratch: np.ndarray,
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
        Not needed here. All five arrays have one shape and dtype, float32 or float64.
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
    check_array("theta", theta, np.shape(theta), kinds="f")
    for name, a in (("g", g), ("m", m), ("v", v)):
        check_array(name, a, theta.shape, "the shape of theta")
    check_same_dtype(theta=theta, g=g, m=m, v=v)
    _check_dtype(theta)
    if not (theta.flags.carray and m.flags.carray and v.flags.carray):
        # not in one piece
        adam_update(theta, g, m, v, scratch, t, gamma, betas, eps)
        return
    number, (beta1, beta2) = theta.dtype.type, betas
    factors = (1 - beta1, 1 - beta2, 1 / (1 - beta2**t), eps, gamma / (1 - beta1**t))
    rows = (a.reshape(-1) for a in (theta, _plain(g), m, v))
    update = _adam if theta.size > _PIECE else _adam_piece
    update(*rows, *map(number, factors))


_PIECE = 4096


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
    """Update one piece; a parameter of one piece is not worth waking a second core."""
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
                and sys.stderr.isatty()
            ):
                self.said = True
                print(
                    "compiling the loops for this processor, once ...", file=sys.stderr
                )

        def on_end(self, event: numba.core.event.Event) -> None:
            """Say nothing more."""

    numba.core.event.register("numba:compile", _Announce())
