"""The gradient of a convolution.

Exported from book/11-convolution-gradient.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .correlation import Geometry, Padding, geometry, pad, windows
from .shapes import check_array, check_integer, shapes

__all__ = [
    "conv2d_loops_backward", "crop", "check_conv_backward", "conv2d_matrix", "spread",
    "rot180", "correlate", "conv2d_correlation_backward",
]  # fmt: skip


# --- First way: indices ---
@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_loops_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1, input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:  # fmt: skip
    """Compute dx, dW and db by the literal loops of the forward pass.

    Implements {eq}`eq:conv-dx`, {eq}`eq:conv-dW` and {eq}`eq:conv-db`.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    C_out, C_in, f_h, f_w = W.shape
    s, d, xbar = g.s, g.d, pad(x, g)
    dxbar, dW, db = np.zeros_like(xbar), np.zeros_like(W), np.zeros(C_out, W.dtype)
    for n, nu, i, j in np.ndindex(dz.shape):
        db[nu] += dz[n, nu, i, j]
        for mu, a, c in np.ndindex(C_in, f_h, f_w):
            h, w = s * i + d * a, s * j + d * c
            dW[nu, mu, a, c] += dz[n, nu, i, j] * xbar[n, mu, h, w]
            dxbar[n, mu, h, w] += dz[n, nu, i, j] * W[nu, mu, a, c]
    return crop(dxbar, x.shape, g) if input_gradient else None, dW, db


def crop(dxbar: np.ndarray, shape: tuple[int, ...], g: Geometry) -> np.ndarray:
    """Drop the padding's rows and columns: from x̄'s shape back to x's, a view.

    Implements {eq}`eq:conv-crop`.
    """
    N, C, H, W = shape
    padded = (N, C, g.top + H + g.bottom, g.left + W + g.right)
    check_array("dxbar", dxbar, padded, f"the padded size of x {shape}")
    return dxbar[:, :, g.top : g.top + H, g.left : g.left + W]


def check_conv_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> Geometry:  # fmt: skip
    """Return the geometry, if the outputs that it counts are those of ``dz``."""
    g = geometry(x.shape[2:], W.shape[2:], stride, padding, dilation)
    outputs = (len(x), len(W), g.h_out, g.w_out)
    check_array(
        "dz", dz, outputs, f"the output's shape for x {x.shape} and W {W.shape}"
    )
    return g


# --- Second way: a matrix ---
@shapes("W (C_out, C_in, f_h, f_w)")
def conv2d_matrix(
    W: np.ndarray, size: tuple[int, int], stride: int = 1, padding: Padding = 0,
    dilation: int = 1,
) -> np.ndarray:  # fmt: skip
    """Write the convolution of one image of ``size`` (rows, columns) as a dense matrix.

    Implements {eq}`eq:conv-matrix`.
    """
    C_out, C_in, f_h, f_w = W.shape
    g = geometry(size, (f_h, f_w), stride, padding, dilation)
    rows, columns = size
    padded = (g.top + rows + g.bottom, g.left + columns + g.right)
    A = np.zeros((C_out, g.h_out, g.w_out, C_in, *padded), W.dtype)
    for i, j, a, c in np.ndindex(g.h_out, g.w_out, f_h, f_w):
        A[:, i, j, :, g.s * i + g.d * a, g.s * j + g.d * c] = W[:, :, a, c]
    A = A[..., g.top : g.top + rows, g.left : g.left + columns]
    return A.reshape(C_out * g.h_out * g.w_out, C_in * rows * columns)


# --- Third way: solve the condition ---
@shapes("a (..., rows, columns)")
def spread(a: np.ndarray, step: int) -> np.ndarray:
    """Put step - 1 zeros between neighbours along the last two axes.

    Implements {eq}`eq:spread`.
    """
    step = check_integer("step", step, 1)
    *front, rows, columns = a.shape
    D = np.zeros((*front, step * (rows - 1) + 1, step * (columns - 1) + 1), a.dtype)
    D[..., ::step, ::step] = a
    return D


@shapes("a (..., rows, columns)")
def rot180(a: np.ndarray) -> np.ndarray:
    """Turn the last two axes by half a turn; a view.

    Implements {eq}`eq:rot180`.
    """
    return a[..., ::-1, ::-1]


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W)")
def correlate(x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Cross-correlate with stride 1, without bias or padding.

    Implements {eq}`eq:correlate`.
    """
    f_h, f_w = W.shape[2:]
    V = windows(x, f_h, f_w, geometry(x.shape[2:], (f_h, f_w)))
    return np.einsum("nmacij,vmac->nvij", V, W)


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_correlation_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Compute dx, dW and db as cross-correlations.

    Implements {eq}`eq:conv-dx-correlation` and {eq}`eq:conv-dW-correlation`.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    e_h, e_w = g.d * (W.shape[2] - 1), g.d * (W.shape[3] - 1)
    D, F, xbar = spread(dz, g.s), spread(W, g.d), pad(x, g)
    E = np.pad(D, ((0, 0), (0, 0), (e_h, e_h + g.r_h), (e_w, e_w + g.r_w)))
    dxbar = correlate(E, rot180(F).swapaxes(0, 1))
    read = xbar[:, :, : xbar.shape[2] - g.r_h, : xbar.shape[3] - g.r_w]
    dW = correlate(read.swapaxes(0, 1), D.swapaxes(0, 1)).swapaxes(0, 1)
    return crop(dxbar, x.shape, g), dW[:, :, :: g.d, :: g.d], dz.sum(axis=(0, 2, 3))
