"""The gradient of a convolution.

Exported from book/11-convolution-gradient.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .correlation import Geometry, Padding, check_conv, geometry, pad, windows
from .shapes import check_array, check_integer, check_same_dtype, shapes

__all__ = [
    "conv2d_loops_backward",
    "check_conv_backward",
    "crop",
    "conv2d_matrix",
    "spread",
    "rot180",
    "correlate",
    "conv2d_correlation_backward",
]


# --- First way: indices ---


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_loops_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Compute a convolution's gradients by the literal loops of its forward pass.

    Implements {eq}`eq:conv-dx`, {eq}`eq:conv-dW` and {eq}`eq:conv-db`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient of the cost by the output, shape (N, C_out, h_out, w_out).
    x, W : np.ndarray
        What ``conv2d_loops`` was given: shapes (N, C_in, H, W) and (C_out, C_in, f_h, f_w),
        dtype as ``dz``.
    stride, padding, dilation
        As in ``conv2d_loops``.

    Returns
    -------
    dx, dW, db : np.ndarray
        The gradients by input, weights and bias, shaped as these.

    Raises
    ------
    TypeError
        An argument is no array of numbers, or their dtypes differ.
    ValueError
        The shapes do not fit, or stride, padding or dilation are out of range.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    C_out, C_in, f_h, f_w = W.shape
    s, d, xbar = g.s, g.d, pad(x, g)
    dxbar, dW, db = np.zeros_like(xbar), np.zeros_like(W), np.zeros(C_out, W.dtype)
    for n, nu, i, j in np.ndindex(dz.shape):
        db[nu] += dz[n, nu, i, j]
        for mu, a, c in np.ndindex(C_in, f_h, f_w):
            dW[nu, mu, a, c] += (
                dz[n, nu, i, j] * xbar[n, mu, s * i + d * a, s * j + d * c]
            )
            dxbar[n, mu, s * i + d * a, s * j + d * c] += (
                dz[n, nu, i, j] * W[nu, mu, a, c]
            )
    return crop(dxbar, x.shape, g) if input_gradient else None, dW, db


def check_conv_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> Geometry:
    """Raise unless ``dz`` has the shape of the output of ``x`` and ``W``; return the geometry.

    Parameters
    ----------
    dz, x, W, stride, padding, dilation
        As in ``conv2d_loops_backward``.

    Returns
    -------
    Geometry
        Where the filter goes.

    Raises
    ------
    TypeError, ValueError
        As in ``conv2d_loops_backward``.
    """
    g = geometry(x.shape[2:], W.shape[2:], stride, padding, dilation)
    expected = (len(x), len(W), g.h_out, g.w_out)
    check_array(
        "dz", dz, expected, f"the output's shape for x {x.shape} and W {W.shape}"
    )
    return g


def crop(dxbar: np.ndarray, shape: tuple[int, ...], g: Geometry) -> np.ndarray:
    """Drop the padding's rows and columns: from the shape of x̄ back to the ``shape`` of x.

    Implements {eq}`eq:conv-crop`.

    Parameters
    ----------
    dxbar : np.ndarray
        The gradient by the padded input, shape (N, C, top + H + bottom, left + W + right).
    shape : tuple of int
        The input's shape, (N, C, H, W).
    g : Geometry
        What ``geometry`` returned for it.

    Returns
    -------
    np.ndarray
        The gradient by the input, a view of ``dxbar``.

    Raises
    ------
    TypeError
        ``dxbar`` is no array of numbers.
    ValueError
        ``dxbar`` has another shape.
    """
    N, C, H, W = shape
    expected = (N, C, g.top + H + g.bottom, g.left + W + g.right)
    check_array("dxbar", dxbar, expected, f"the padded size of x {shape}")
    return dxbar[:, :, g.top : g.top + H, g.left : g.left + W]


# --- Second way: a matrix ---


def conv2d_matrix(
    W: np.ndarray,
    size: tuple[int, int],
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> np.ndarray:
    """Write the convolution of one image as a matrix.

    Implements {eq}`eq:conv-matrix`.

    Parameters
    ----------
    W : np.ndarray
        The weights, shape (C_out, C_in, f_h, f_w).
    size : tuple of int
        The image's rows and columns, (H, W).
    stride, padding, dilation
        As in ``conv2d_loops``.

    Returns
    -------
    np.ndarray
        A, shape (C_out·h_out·w_out, C_in·H·W), dtype as ``W``. It is dense: for small images only.

    Raises
    ------
    TypeError
        ``W`` is no array of numbers.
    ValueError
        The shapes do not fit, or stride, padding or dilation are out of range.
    """
    check_array("W", W, ("C_out", "C_in", "f_h", "f_w"))
    C_out, C_in, f_h, f_w = W.shape
    g = geometry(size, (f_h, f_w), stride, padding, dilation)
    H, w = size
    padded = (H + g.top + g.bottom, w + g.left + g.right)
    A = np.zeros((C_out, g.h_out, g.w_out, C_in, *padded), W.dtype)
    for i, j, a, c in np.ndindex(g.h_out, g.w_out, f_h, f_w):
        A[:, i, j, :, g.s * i + g.d * a, g.s * j + g.d * c] = W[:, :, a, c]
    A = A[..., g.top : g.top + H, g.left : g.left + w]
    return A.reshape(C_out * g.h_out * g.w_out, C_in * H * w)


# --- Third way: solve the condition ---


def spread(a: np.ndarray, k: int) -> np.ndarray:
    """Put k - 1 zeros between neighbours along the last two axes.

    Implements {eq}`eq:spread`.

    Parameters
    ----------
    a : np.ndarray
        Shape (..., h, w), both at least 1.
    k : int
        The distance at which neighbours end up.

    Returns
    -------
    np.ndarray
        Shape (..., k(h - 1) + 1, k(w - 1) + 1), dtype as ``a``.

    Raises
    ------
    TypeError
        ``a`` is no array of numbers, or ``k`` no integer.
    ValueError
        ``k`` is below 1, or ``a`` has fewer than two axes or is empty.
    """
    k = check_integer("k", k, 1)
    check_array("a", a, (*np.shape(a)[:-2], "h", "w"))
    *front, h, w = a.shape
    D = np.zeros((*front, k * (h - 1) + 1, k * (w - 1) + 1), a.dtype)
    D[..., ::k, ::k] = a
    return D


def rot180(a: np.ndarray) -> np.ndarray:
    """Turn the last two axes by half a turn.

    Implements {eq}`eq:rot180`.

    Parameters
    ----------
    a : np.ndarray
        Shape (..., h, w).

    Returns
    -------
    np.ndarray
        A view of ``a``, of the same shape.

    Raises
    ------
    TypeError
        ``a`` is no array of numbers.
    ValueError
        ``a`` has fewer than two axes, or is empty.
    """
    check_array("a", a, (*np.shape(a)[:-2], "h", "w"))
    return a[..., ::-1, ::-1]


def correlate(x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Cross-correlate with stride 1, without bias or padding.

    Implements {eq}`eq:correlate`.

    Parameters
    ----------
    x : np.ndarray
        Shape (N, C_in, H, W).
    W : np.ndarray
        Shape (C_out, C_in, f_h, f_w), dtype as ``x``.

    Returns
    -------
    np.ndarray
        Shape (N, C_out, H - f_h + 1, W - f_w + 1).

    Raises
    ------
    TypeError
        An argument is no array of numbers, or their dtypes differ.
    ValueError
        The shapes do not fit.
    """
    check_conv(x, W)
    f_h, f_w = W.shape[2:]
    V = windows(x, f_h, f_w, geometry(x.shape[2:], (f_h, f_w)))
    return np.einsum("nmacij,vmac->nvij", V, W)


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_correlation_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute a convolution's gradients as cross-correlations.

    Implements {eq}`eq:conv-dx-correlation` and {eq}`eq:conv-dW-correlation`.

    Parameters
    ----------
    dz, x, W, stride, padding, dilation
        As in ``conv2d_loops_backward``.

    Returns
    -------
    dx, dW, db : np.ndarray
        The gradients by input, weights and bias, shaped as these.

    Raises
    ------
    TypeError, ValueError
        As in ``conv2d_loops_backward``.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    e_h, e_w = g.d * (W.shape[2] - 1), g.d * (W.shape[3] - 1)
    D, V, xbar = spread(dz, g.s), spread(W, g.d), pad(x, g)
    E = np.pad(D, ((0, 0), (0, 0), (e_h, e_h + g.r_h), (e_w, e_w + g.r_w)))
    dxbar = correlate(E, rot180(V).swapaxes(0, 1))
    read = xbar[:, :, : xbar.shape[2] - g.r_h, : xbar.shape[3] - g.r_w]
    dW = correlate(read.swapaxes(0, 1), D.swapaxes(0, 1)).swapaxes(0, 1)[
        :, :, :: g.d, :: g.d
    ]
    return crop(dxbar, x.shape, g), dW, dz.sum(axis=(0, 2, 3))
