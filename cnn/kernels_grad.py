"""Compiled gradients.

Exported from book/25-compiled-gradients.ipynb: edit the chapter and run `make export`.
"""

import functools
from itertools import product
from typing import NamedTuple

import numpy as np

from .correlation import Geometry, Padding
from .correlation_grad import check_conv_backward
from .kernels import (
    _DTYPES,
    _REFUSED,
    _add_taps,
    _by_pixel,
    _inner,
    _lay_out,
    _layout,
    _parallel,
    _piece,
    _plain,
    prange,
)
from .shapes import shapes

__all__ = ["conv2d_compiled_backward"]


# --- The weights ---
@_inner
def _dot_4x4(dW, dz, X, start, offset, nu, k):
    """Fill four rows and columns of dW; at the edge some of them twice."""
    (C_out, h_out, T), K = dz.shape, len(offset)
    n1, n2, n3 = min(nu + 1, C_out - 1), min(nu + 2, C_out - 1), min(nu + 3, C_out - 1)
    k1, k2, k3 = min(k + 1, K - 1), min(k + 2, K - 1), min(k + 3, K - 1)
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = dW.dtype.type(0)
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = dW.dtype.type(0)
    for i in range(h_out):
        z0, z1, z2, z3 = dz[nu, i], dz[n1, i], dz[n2, i], dz[n3, i]
        x = X[start[i] :]
        x0, x1 = x[offset[k] :][:T], x[offset[k1] :][:T]
        x2, x3 = x[offset[k2] :][:T], x[offset[k3] :][:T]
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
    # the last row and column first: at the edge they stand in for those beyond it
    dW[n3, k3], dW[n3, k2], dW[n3, k1], dW[n3, k] = d3, d2, d1, d0
    dW[n2, k3], dW[n2, k2], dW[n2, k1], dW[n2, k] = c3, c2, c1, c0
    dW[n1, k3], dW[n1, k2], dW[n1, k1], dW[n1, k] = b3, b2, b1, b0
    dW[nu, k3], dW[nu, k2], dW[nu, k1], dW[nu, k] = a3, a2, a1, a0


@_inner
def _sum(row):
    """Return the sum of a row."""
    total = row.dtype.type(0)
    for t in range(len(row)):
        total += row[t]
    return total


@_parallel
def _dot_taps(
    dW: np.ndarray, db: np.ndarray, dz: np.ndarray, X: np.ndarray, start: np.ndarray,
    offset: np.ndarray,
) -> None:  # fmt: skip
    """Fill dW[ν, k] = Σ_i Σ_t dz[ν, i, t] · X[start[i] + offset[k] + t]; db unless it is empty.

    Implements {eq}`eq:kernel-dot`.
    """
    down, across = (dW.shape[0] + 3) // 4, (dW.shape[1] + 3) // 4
    for task in prange(down * across):
        if down < across:  # the longer side is dealt out to the cores
            nu, k = task % down, task // down
        else:
            nu, k = task // across, task % across
        _dot_4x4(dW, dz, X, start, offset, 4 * nu, 4 * k)
        if k == across - 1:  # the last task of these filters
            for m in range(4 * nu, min(4 * nu + 4, len(db))):
                db[m] = _sum(dz[m].reshape(dz.shape[1] * dz.shape[2]))


# --- Sorting the pixels ---
class _Pixels(NamedTuple):
    """The pixels along one axis that meet the same taps."""

    pixels: range  # every s-th, from the first that is not padding
    taps: np.ndarray
    place: int  # of the first pixel's output, for a tap without shift
    shift: np.ndarray  # each tap's


def _along(H: int, pad: int, f: int, g: Geometry) -> tuple[list[_Pixels], int]:
    """Sort H pixels, ``pad`` zeros before them, by remainder; return the zeros before dz, too."""
    zeros, classes = g.d * (f - 1) // g.s, []
    for first in range(min(g.s, H)):
        place, rho = divmod(first + pad, g.s)
        taps = np.array([a for a in range(f) if g.d * a % g.s == rho], int)
        shift = zeros - (g.d * taps - rho) // g.s
        classes.append(_Pixels(range(first, H, g.s), taps, place, shift))
    return classes, zeros


class _Classes(NamedTuple):
    """What is to be added up where, for the gradient with respect to the input."""

    top: int  # rows of zeros before dz, and columns
    left: int
    rows: int  # of D, dz with its zeros
    columns: int
    tap: (
        np.ndarray
    )  # for each input channel: where in W its taps are, class after class
    offset: np.ndarray  # each tap's, in D
    work: np.ndarray  # the rows of pixels, from the top of the image down


# A row of pixels: its class's taps, from first to last; where it starts in D; where it goes.
_ROW = np.dtype([(name, int) for name in ("first", "last", "start", "h", "w", "count")])


@functools.lru_cache(256)
def _classes(
    x_shape: tuple[int, ...], W_shape: tuple[int, ...], g: Geometry
) -> _Classes:
    """List the classes of pixels for images and filters of these shapes."""
    (N, _, H, W), (C_out, C_in, f_h, f_w) = x_shape, W_shape
    down, top = _along(H, g.top, f_h, g)
    right, left = _along(W, g.left, f_w, g)
    rows = top + max((H + g.top - 1) // g.s + 1, g.h_out)
    columns = left + max((W + g.left - 1) // g.s + 1, g.w_out)
    index = np.arange(C_out * C_in * f_h * f_w).reshape(W_shape).swapaxes(0, 1)
    nu = np.arange(C_out).reshape(-1, 1, 1)
    taps, offsets, work, k = [], [], [], 0
    for i, j in product(down, right):
        taps.append(index[:, :, i.taps[:, np.newaxis], j.taps].reshape(C_in, -1))
        offset = ((nu * rows + i.shift[:, np.newaxis]) * columns + j.shift) * N
        offsets.append(offset.ravel())
        for number, h in enumerate(i.pixels):
            start = ((i.place + number) * columns + j.place) * N
            work.append((k, k + offset.size, start, h, j.pixels[0], len(j.pixels)))
        k += offset.size
    work.sort(key=lambda row: row[3])
    tap, offset = np.concatenate(taps, axis=1), np.concatenate(offsets)
    return _Classes(top, left, rows, columns, tap, offset, np.array(work, _ROW))


_GAP = 272  # numbers between these rows, that they don't lie 4 096 bytes apart


@_parallel
def _sum_classes(
    dx: np.ndarray, D: np.ndarray, offset: np.ndarray, V: np.ndarray,
    work: np.ndarray, s: int,
) -> None:  # fmt: skip
    """Fill dx, (C, H, W, N): a task adds up some pixels of a class and puts them in place.

    Implements {eq}`eq:kernel-classes`.
    """
    C, _, W, N = dx.shape
    pixels, fours = (W + s - 1) // s, (C + 3) // 4
    length = max(1, _piece(pixels * N) // N)  # pixels for one task
    pieces = (pixels + length - 1) // length
    for task in prange(len(work) * pieces * fours):
        row = work[task // fours // pieces]
        q, mu = task // fours % pieces * length, 4 * (task % fours)
        count, first, last = min(length, row["count"] - q), row["first"], row["last"]
        if count > 0:
            w = V[mu : mu + 4, first:last]
            sums = np.zeros((len(w), 1, length * N + _GAP), dx.dtype)
            x = D[row["start"] + q * N :]
            _add_taps(sums, 0, 0, 0, count * N, x, offset[first:last], w)
            for m in range(len(w)):
                for j in range(count):
                    pixel = dx[mu + m, row["h"], row["w"] + s * (q + j)]
                    numbers = sums[m, 0, j * N :]
                    for n in range(N):
                        pixel[n] = numbers[n]


# --- The backward pass ---
_ALONE = 2**15  # for fewer numbers than these a second core is not woken


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
    """Fill ``out`` with the transpose of ``a``, sixteen of its columns at a time."""
    R, C = a.shape
    for block in prange((C + 15) // 16):
        u, v = a[:, 16 * block : 16 * block + 16], out[16 * block : 16 * block + 16]
        for r in range(R):
            for c in range(len(v)):
                v[c, r] = u[r, c]


def _batch_last(x: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) as (C, H, W, N), contiguous, copied only where needed."""
    y = x.transpose(1, 2, 3, 0)
    if y.flags.carray:
        return y
    return _turned(_plain(x).reshape(len(x), -1)).reshape(y.shape)


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_compiled_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1, input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:  # fmt: skip
    """Turn dz into the gradients dx (None where it is not wanted), dW and db."""
    if x.dtype not in _DTYPES:
        raise TypeError(_REFUSED.format(x.dtype))
    g, rows, columns, start, offset = _layout(
        x.shape, W.shape, stride, padding, dilation
    )
    if dz.shape[2:] != (g.h_out, g.w_out):
        check_conv_backward(dz, x, W, stride, padding, dilation)  # says what is wrong
    dz = _batch_last(dz)
    X = np.empty((x.shape[1], rows, g.s, columns, len(x)), x.dtype)
    dW, db = np.empty(W.shape, W.dtype), np.empty(len(W), W.dtype)
    _filter_gradient(dW, db, dz, X, _by_pixel(x), g.top, g.left, start, offset)
    return _input_gradient(dz, x, W, g) if input_gradient else None, dW, db


@_inner
def _filter_gradient(dW, db, dz, X, x, top, left, start, offset):
    """Lay out x, and multiply it by dz."""
    C_out, h_out, w_out, N = dz.shape
    _lay_out(X, x, top, left)
    dots, rows = dW.reshape(C_out, len(offset)), dz.reshape(C_out, h_out, w_out * N)
    _dot_taps(dots, db, rows, X.reshape(X.size), start, offset)


def _input_gradient(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, g: Geometry
) -> np.ndarray:
    """Return dx, all classes of pixels in one go."""
    top, left, rows, columns, tap, offset, work = _classes(x.shape, W.shape, g)
    N, C, H, width = x.shape
    D = np.empty((len(W), rows, 1, columns, N), W.dtype)
    dx = np.empty((C, H, width, N), W.dtype)
    _spread_classes(dx, D, dz, top, left, W.copy(), tap, offset, work, g.s)
    return dx.transpose(3, 0, 1, 2)


@_inner
def _spread_classes(dx, D, dz, top, left, W, tap, offset, work, s):
    """Lay out dz, put the weights in the order of the classes, and add up."""
    _lay_out(D, dz, top, left)
    w, V = W.reshape(W.size), np.empty(tap.shape, W.dtype)
    for mu in range(tap.shape[0]):
        for k in range(tap.shape[1]):
            V[mu, k] = w[tap[mu, k]]
    _sum_classes(dx, D.reshape(D.size), offset, V, work, s)
