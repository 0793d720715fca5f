"""Bands.

Exported from book/23-bands.ipynb: edit the chapter and run `make export`.
"""

import math
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .conv import CHOICES, IMPLEMENTATIONS
from .correlation import Geometry, Padding, geometry
from .correlation_grad import check_conv_backward
from .shapes import check_integer, shapes

__all__ = ["conv2d_bands", "conv2d_bands_backward", "choose"]


# --- Between the two ---


def _frame(xbar: np.ndarray, x: np.ndarray, top: int, left: int) -> None:
    """Write images into ``xbar``, zeros around them; both begin (rows, columns)."""
    h0, w0 = max(top, 0), max(left, 0)
    h1 = max(min(top + x.shape[0], xbar.shape[0]), h0)
    w1 = max(min(left + x.shape[1], xbar.shape[1]), w0)
    xbar[:h0] = xbar[h1:] = 0
    xbar[h0:h1, :w0] = xbar[h0:h1, w1:] = 0
    xbar[h0:h1, w0:w1] = x[h0 - top : h1 - top, w0 - left : w1 - left]


def _compact(a: np.ndarray) -> np.ndarray:
    """Return the array itself if it is C-contiguous, otherwise a copy that is."""
    if a.flags.c_contiguous:
        return a
    copy = np.empty(a.shape, a.dtype)
    np.copyto(copy, a)
    return copy


def _blocks(
    x: np.ndarray, top: int, left: int, rows: int, count: int, step: int, k: int
) -> np.ndarray:
    """Cut ``count`` blocks of k columns, ``step`` apart, from x with its padding.

    See {eq}`eq:band-blocks`; (count, rows, k, C, N), one block not copied.
    """
    N, C = x.shape[:2]
    xbar = np.empty((rows, step * (count - 1) + k, C, N), x.dtype)
    _frame(xbar, x.transpose(2, 3, 1, 0), top, left)
    h, w, mu, n = xbar.strides
    X = as_strided(xbar, (count, rows, k, C, N), (step * w, h, w, mu, n))
    return _compact(X)


def _bands(
    X: np.ndarray, start: int, count: int, s: int, taps: int, d: int
) -> np.ndarray:
    """View each block as its bands: band i has the rows start + s i + d a.

    See {eq}`eq:band`; (blocks, count, taps·k·C, N), copied where d is not 1.
    """
    X = X[:, start:]
    (J, _, k, C, N), (block, h, *inner) = X.shape, X.strides
    B = as_strided(X, (J, count, taps, k, C, N), (block, s * h, d * h, *inner))
    if d > 1 and taps > 1:
        B = _compact(B)
    return B.reshape(J, count, taps * k * C, N)


def _toeplitz(
    W: np.ndarray, outputs: range, columns: range, s: int, d: int
) -> np.ndarray:
    """Spread the taps over the columns that they meet.

    See {eq}`eq:toeplitz`; (outputs, C_out, f_h, columns, C_in).
    """
    C_out, C_in, f_h, f_w = W.shape
    T = np.zeros((len(outputs), C_out, f_h, len(columns), C_in), W.dtype)
    for (p, j), c in product(enumerate(outputs), range(f_w)):
        if (w := s * j + d * c) in columns:
            T[p, :, :, columns.index(w)] = W[:, :, :, c].transpose(0, 2, 1)
    return T


# --- Forward ---


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d_bands(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    m: int | None = None,
) -> np.ndarray:
    """Cross-correlate with one matrix product for each m neighbouring outputs.

    Implements {eq}`eq:toeplitz`, {eq}`eq:band-blocks`, {eq}`eq:band` and {eq}`eq:conv-bands`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C_in, H, W), in any order of memory.
    W : np.ndarray
        The filters, shape (C_out, C_in, f_h, f_w), dtype as ``x``.
    b : np.ndarray
        The bias, shape (C_out,), dtype as ``x``.
    stride, dilation : int
        The steps between windows and between the taps of one window.
    padding : int or tuple of int
        Zeros around the image: p, (rows, columns), or (top, bottom, left, right).
    m : int, optional
        How many outputs of a row one product makes, a divisor of the row's length. By default the
        number that is predicted to be the cheapest.

    Returns
    -------
    np.ndarray
        The output z, shape (N, C_out, h_out, w_out), dtype as ``x``: a view of an array in the
        order (h_out, w_out, C_out, N).

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, the filter is larger than the padded image, or ``m`` does not
        divide the outputs of a row.
    """
    g = geometry(x.shape[2:], W.shape[2:], stride, padding, dilation)
    m = _outputs_at_a_time(m, len(x), W.shape, g)
    B, columns = _input_bands(x, W.shape, g, m)
    T = _toeplitz(W, range(m), columns, g.s, g.d).reshape(m * len(W), -1)
    z = np.empty((g.h_out, g.w_out, len(W), len(x)), x.dtype)
    np.matmul(T, B, out=_by_block(z, m))
    z += b[:, np.newaxis]
    return z.transpose(3, 2, 0, 1)


def _input_bands(
    x: np.ndarray, W_shape: tuple[int, ...], g: Geometry, m: int
) -> tuple[np.ndarray, range]:
    """Return the bands of the images in blocks for m outputs, and a block's columns."""
    _, _, f_h, f_w = W_shape
    rows = g.s * (g.h_out - 1) + g.d * (f_h - 1) + 1
    k = g.s * (m - 1) + g.d * (f_w - 1) + 1
    X = _blocks(x, g.top, g.left, rows, g.w_out // m, g.s * m, k)
    return _bands(X, 0, g.h_out, g.s, f_h, g.d), range(k)


def _by_block(z: np.ndarray, m: int) -> np.ndarray:
    """View (h, w, C, N) as one matrix for each block of m columns and each row."""
    h, w, C, N = z.shape
    return z.reshape(h, w // m, m * C, N).swapaxes(0, 1)


def _outputs_at_a_time(
    m: int | None, N: int, W_shape: tuple[int, ...], g: Geometry
) -> int:
    """Return ``m`` if it divides the outputs of a row, or the cheapest for None."""
    if m is None:
        return 1
    m = check_integer("m", m, 1)
    if g.w_out % m:
        raise ValueError(
            f"m is {m}; expected a divisor of the {g.w_out} outputs of a row"
        )
    return m


# --- Backward ---


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_bands_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    input_gradient: bool = True,
    m: int | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Turn the gradient by a convolution's output into those by its input and parameters.

    Implements {eq}`eq:conv-bands-dW` and {eq}`eq:conv-bands-dx`; the bias is {eq}`eq:conv-db`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient of the cost by the output, shape (N, C_out, h_out, w_out), in any order of
        memory.
    x, W : np.ndarray
        What ``conv2d_bands`` was given: shapes (N, C_in, H, W) and (C_out, C_in, f_h, f_w),
        dtype as ``dz``.
    stride, padding, dilation : int or tuple of int
        What ``conv2d_bands`` was given.
    input_gradient : bool
        Whether to compute ``dx``.
    m : int, optional
        As in ``conv2d_bands``; for ``dx`` a product makes s·m pixels.

    Returns
    -------
    dx : np.ndarray or None
        Shape (N, C_in, H, W), a view of an array in the order (H, W, C_in, N); None where
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
        The shapes do not fit, or ``m`` does not divide the outputs of a row.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    pixels = g.s * (m or 1)
    m = _outputs_at_a_time(m, len(x), W.shape, g)
    dz = _compact(dz.transpose(2, 3, 1, 0))
    db = dz.reshape(-1, len(W), len(x)).sum(axis=0).sum(axis=1)
    dW = _bands_dW(dz, x, W.shape, g, m)
    dx = _bands_dx(dz, x.shape, W, g, pixels) if input_gradient else None
    return dx, dW, db


def _bands_dW(
    dz: np.ndarray, x: np.ndarray, W_shape: tuple[int, ...], g: Geometry, m: int
) -> np.ndarray:
    """Return the gradient by the weights; ``dz`` is in the order (h, w, C, N).

    See {eq}`eq:conv-bands-dW`.
    """
    C_out, C_in, f_h, f_w = W_shape
    B, columns = _input_bands(x, W_shape, g, m)
    dT = np.empty((*B.shape[:3], m * C_out), x.dtype)
    np.matmul(B, _by_block(dz, m).swapaxes(2, 3), out=dT)
    dT = dT.reshape(-1, dT[0, 0].size).sum(axis=0)
    dT = dT.reshape(f_h, len(columns), C_in, m, C_out)
    span = g.d * (f_w - 1) + 1
    dW = sum(dT[:, g.s * j : g.s * j + span : g.d, :, j] for j in range(m))
    return np.ascontiguousarray(dW.transpose(3, 2, 0, 1))


def _bands_dx(
    dz: np.ndarray, shape: tuple[int, ...], W: np.ndarray, g: Geometry, m: int
) -> np.ndarray:
    """Return the gradient by the input, m pixels of a row at a time; ``dz`` as above.

    See {eq}`eq:conv-bands-dx`.
    """
    (N, C, H, width), (_, _, f_h, f_w) = shape, W.shape
    # The first and the last row of outputs that reads the image; a block's columns of outputs.
    i0, i1 = -((g.d * (f_h - 1) - g.top) // g.s), (g.top + H - 1) // g.s
    j0, j1 = -((g.d * (f_w - 1) - g.left) // g.s), (g.left + m - 1) // g.s
    outputs, blocks = range(j0, j1 + 1), -(-width // m)
    dz = dz.transpose(3, 2, 0, 1)
    Z = _blocks(dz, -i0, -j0, i1 - i0 + 1, blocks, m // g.s, len(outputs))
    T = _toeplitz(W, outputs, range(g.left, g.left + m), g.s, g.d)
    T = T.transpose(3, 4, 2, 0, 1)  # rows (w, mu), columns (a, j, nu)
    dx, apart = np.empty((H, blocks * m, C, N), W.dtype), g.d // math.gcd(g.s, g.d)
    for h in range(min(g.s, H)):
        rows = _by_block(dx, m)[:, h :: g.s]
        met = [a for a in reversed(range(f_h)) if (g.top + h - g.d * a) % g.s == 0]
        if met:
            first = (g.top + h - g.d * met[0]) // g.s - i0
            B = _bands(Z, first, rows.shape[1], 1, len(met), apart)
            np.matmul(T[:, :, met].reshape(m * C, -1), B, out=rows)
        else:
            rows[...] = 0
    return dx[:, :width].transpose(3, 2, 0, 1)


# --- Which way? ---


def choose(x: np.ndarray, W: np.ndarray, dilation: int) -> str:
    """Return the name of the faster way in NumPy."""
    banded = len(x) >= 16 and dilation == 1 and W.shape[2:] != (1, 1)
    return "bands" if banded else "im2col"


IMPLEMENTATIONS["bands"] = conv2d_bands.behind, conv2d_bands_backward.behind
CHOICES["numpy"] = CHOICES["auto"] = choose
