"""Bands.

Exported from book/23-bands.ipynb: edit the chapter and run `make export`.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .conv import CHOICES, IMPLEMENTATIONS
from .correlation import Geometry, Padding, geometry, padded_size
from .correlation_grad import check_conv_backward
from .shapes import shapes

__all__ = ["conv2d_bands", "conv2d_bands_backward", "choose"]


# --- In code ---
def _framed(a: np.ndarray, rows: int, columns: int, top: int, left: int) -> np.ndarray:
    """Return ``a``, whose first axes are rows and columns, with zeros around it."""
    h, w, *rest = a.shape
    framed = np.zeros((rows, columns, *rest), a.dtype)
    framed[top : top + h, left : left + w] = a
    return framed


def _slide(
    X: np.ndarray, first: int, count: int, s: int, taps: int, d: int
) -> np.ndarray:
    """View axis 1 as windows: number i has the taps first + s i + d a, an axis of their own."""
    (A, _, *rest), (outer, step, *inner) = X.shape, X.strides
    shape, strides = (A, count, taps, *rest), (outer, s * step, d * step, *inner)
    return as_strided(X[:, first:], shape, strides)


def _strips(xbar: np.ndarray, *columns: int) -> np.ndarray:
    """Copy the columns that each column of outputs reads: (w_out, rows, f_w, C, N).

    Implements {eq}`eq:band-blocks`.
    """
    return np.ascontiguousarray(_slide(xbar, *columns).swapaxes(0, 1))


def _bands(X: np.ndarray, *rows: int) -> np.ndarray:
    """Return the rows that each output reads as a matrix: (w_out, h_out, f_h·f_w·C, N).

    Implements {eq}`eq:band`.
    """
    B = _slide(X, *rows)
    return B.reshape(*B.shape[:2], -1, B.shape[-1])


# --- Forward ---
@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d_bands(
    x: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> np.ndarray:  # fmt: skip
    """Cross-correlate with one matrix product per output pixel, for all images at once.

    Implements {eq}`eq:conv-bands`.
    """
    (C_out, _, f_h, f_w), N = W.shape, len(x)
    g = geometry(x.shape[2:], (f_h, f_w), stride, padding, dilation)
    B = _input_bands(x, f_h, f_w, g)
    z = np.empty((g.h_out, g.w_out, C_out, N), x.dtype)
    np.matmul(W.transpose(0, 2, 3, 1).reshape(C_out, -1), B, out=z.swapaxes(0, 1))
    z += b[:, np.newaxis]
    return z.transpose(3, 2, 0, 1)


def _input_bands(x: np.ndarray, f_h: int, f_w: int, g: Geometry) -> np.ndarray:
    """Return B for images of shape (N, C, H, W)."""
    xbar = _framed(x.transpose(2, 3, 1, 0), *padded_size(f_h, f_w, g), g.top, g.left)
    X = _strips(xbar, 0, g.w_out, g.s, f_w, g.d)
    return _bands(X, 0, g.h_out, g.s, f_h, g.d)


# --- Backward ---
@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_bands_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1, input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:  # fmt: skip
    """Turn dz into the gradients dx (None where it is not wanted), dW and db.

    Implements {eq}`eq:conv-bands-dW`; the bias is {eq}`eq:conv-db`.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    (C_out, C_in, f_h, f_w), N = W.shape, len(x)
    dz = np.ascontiguousarray(dz.transpose(2, 3, 1, 0))
    db = dz.reshape(-1, C_out, N).sum(axis=0).sum(axis=1)
    products = _input_bands(x, f_h, f_w, g) @ dz.transpose(1, 0, 3, 2)
    dW = products.reshape(-1, products[0, 0].size).sum(axis=0)
    dW = dW.reshape(f_h, f_w, C_in, C_out).transpose(3, 2, 0, 1)
    dx = _input_gradient(dz, x.shape, W, g) if input_gradient else None
    return dx, np.ascontiguousarray(dW), db


def _meeting(h: int, f: int, g: Geometry) -> tuple[list[int], int]:
    """Return the taps that meet pixel h, the last one first, and that one's output."""
    taps = [a for a in reversed(range(f)) if (h - g.d * a) % g.s == 0]
    return taps, (h - g.d * taps[0]) // g.s if taps else 0


def _input_gradient(
    dz: np.ndarray, shape: tuple[int, ...], W: np.ndarray, g: Geometry
) -> np.ndarray:
    """Return dx of this shape; ``dz`` lies in the order (h_out, w_out, C_out, N).

    Implements {eq}`eq:conv-bands-dx`.
    """
    (N, C, H, width), (_, _, f_h, f_w) = shape, W.shape
    top, left = g.d * (f_h - 1) // g.s, g.d * (f_w - 1) // g.s
    rows = top + max((g.top + H - 1) // g.s + 1, g.h_out)
    columns = left + max((g.left + width - 1) // g.s + 1, g.w_out)
    framed = _framed(dz, rows, columns, top, left)
    dx, apart = np.zeros((H, width, C, N), W.dtype), g.d // math.gcd(g.s, g.d)
    for w in range(min(g.s, width)):
        c, j = _meeting(g.left + w, f_w, g)
        pixels = dx[:, w :: g.s]
        X = _strips(framed, left + j, pixels.shape[1], 1, len(c), apart)
        for h in range(min(g.s, H)):
            a, i = _meeting(g.top + h, f_h, g)
            if a and c:
                out = pixels[h :: g.s].swapaxes(0, 1)
                B = _bands(X, top + i, out.shape[1], 1, len(a), apart)
                V = W[:, :, a][:, :, :, c].transpose(1, 2, 3, 0)
                np.matmul(V.reshape(C, -1), B, out=out)
    return dx.transpose(3, 2, 0, 1)


# --- Which way? ---
def choose(x: np.ndarray, W: np.ndarray, dilation: int) -> str:
    """Return the name of the faster one of NumPy's two ways."""
    banded = len(x) >= 16 and dilation == 1 and W.shape[2:] != (1, 1)
    return "bands" if banded else "im2col"


IMPLEMENTATIONS["bands"] = conv2d_bands.behind, conv2d_bands_backward.behind
CHOICES["numpy"] = CHOICES["auto"] = choose
