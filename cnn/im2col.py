"""Convolution as matrix multiplication.

Exported from book/12-im2col.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .correlation import Geometry, Padding, geometry, pad, padded_size, windows
from .correlation_grad import check_conv_backward, crop
from .shapes import check_array, shapes

__all__ = ["im2col", "conv2d_im2col", "col2im", "conv2d_im2col_backward"]


# --- A window is a column ---


def im2col(x: np.ndarray, f_h: int, f_w: int, g: Geometry) -> np.ndarray:
    """Copy every window of the padded images into a column.

    Implements {eq}`eq:columns`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C, H, W).
    f_h, f_w : int
        The filter's rows and columns.
    g : Geometry
        What ``geometry`` returned for this image and this filter.

    Returns
    -------
    np.ndarray
        V, shape (N, C·f_h·f_w, h_out·w_out), dtype as ``x``. Where there is nothing to copy it is
        a view of ``x``.

    Raises
    ------
    TypeError
        ``x`` is no array of numbers.
    ValueError
        ``x`` has not the size that ``g`` was made for.
    """
    rows, columns = padded_size(f_h, f_w, g)
    size = (rows - g.top - g.bottom, columns - g.left - g.right)
    check_array("x", x, ("N", "C", *size), f"for a {f_h} × {f_w} filter and {g}")
    V = windows(pad(x, g), f_h, f_w, g)
    return V.reshape(len(x), x.shape[1] * f_h * f_w, g.h_out * g.w_out)


# --- Forward: one product ---


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d_im2col(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> np.ndarray:
    """Cross-correlate with one matrix product per image.

    Implements {eq}`eq:conv-columns`.

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
        Zeros around the image: p, (rows, columns), or (top, bottom, left, right).

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
    C_out, _, f_h, f_w = W.shape
    g = geometry(x.shape[2:], (f_h, f_w), stride, padding, dilation)
    z = np.empty((len(x), C_out, g.h_out * g.w_out), x.dtype)
    np.matmul(W.reshape(C_out, -1), im2col(x, f_h, f_w, g), out=z)
    z += b[:, np.newaxis]
    return z.reshape(len(x), C_out, g.h_out, g.w_out)


# --- Backward: two products, and the way home ---


def col2im(dV: np.ndarray, g: Geometry) -> np.ndarray:
    """Add each window's numbers to the pixels they were read from, as im2col in reverse.

    Implements {eq}`eq:conv-columns-dx`.

    Parameters
    ----------
    dV : np.ndarray
        A number for each tap of each window, shape (N, C, f_h, f_w, h_out, w_out).
    g : Geometry
        What ``geometry`` returned for this image and this filter.

    Returns
    -------
    np.ndarray
        dx̄, shape (N, C, top + H + bottom, left + W + right), dtype as ``dV``.

    Raises
    ------
    TypeError
        ``dV`` is no array of numbers.
    ValueError
        ``dV`` has another number of windows than ``g``.
    """
    check_array("dV", dV, ("N", "C", "f_h", "f_w", g.h_out, g.w_out), f"for {g}")
    N, C, f_h, f_w, h_out, w_out = dV.shape
    dxbar = np.empty((N, C, *padded_size(f_h, f_w, g)), dV.dtype)
    dxbar[...] = 0
    for a, c in np.ndindex(f_h, f_w):
        h = slice(g.d * a, g.d * a + g.s * h_out, g.s)
        w = slice(g.d * c, g.d * c + g.s * w_out, g.s)
        dxbar[:, :, h, w] += dV[:, :, a, c]
    return dxbar


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_im2col_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Turn the gradient by a convolution's output into those by its input and parameters.

    Implements {eq}`eq:conv-columns-dW` and {eq}`eq:conv-columns-dV`; the bias is {eq}`eq:conv-db`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient of the cost by the output, shape (N, C_out, h_out, w_out).
    x, W : np.ndarray
        What ``conv2d_im2col`` was given: shapes (N, C_in, H, W) and (C_out, C_in, f_h, f_w),
        dtype as ``dz``.
    stride, padding, dilation : int or tuple of int
        What ``conv2d_im2col`` was given.
    input_gradient : bool
        Whether to compute ``dx``.

    Returns
    -------
    dx : np.ndarray or None
        Shape (N, C_in, H, W); None where ``input_gradient`` is false.
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
    (C_out, C_in, f_h, f_w), N = W.shape, len(x)
    dz = np.ascontiguousarray(dz)
    db = dz.sum(axis=(0, 2, 3))
    dz = dz.reshape(N, C_out, -1)
    V = im2col(x, f_h, f_w, g)
    dW = np.empty((N, C_out, V.shape[1]), W.dtype)
    np.matmul(dz, V.transpose(0, 2, 1), out=dW)
    dW = dW.sum(axis=0).reshape(W.shape)
    if not input_gradient:
        return None, dW, db
    dV = np.empty(V.shape, W.dtype)
    np.matmul(W.reshape(C_out, -1).T, dz, out=dV)
    dV = dV.reshape(N, C_in, f_h, f_w, g.h_out, g.w_out)
    return crop(col2im(dV, g), x.shape, g), dW, db
