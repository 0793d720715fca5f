"""A window is a column.

Exported from book/12-im2col.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .correlation import Geometry, Padding, geometry, pad, padded_size, windows
from .correlation_grad import check_conv_backward, crop
from .shapes import check_array, shapes

__all__ = ["im2col", "conv2d_im2col", "col2im", "conv2d_im2col_backward"]


# --- Copying the windows ---
@shapes("x (N, C, H, W)")
def im2col(x: np.ndarray, f_h: int, f_w: int, g: Geometry) -> np.ndarray:
    """Copy every window into a column: V, shape (N, C·f_h·f_w, h_out·w_out).

    Implements {eq}`eq:columns`.
    """
    V = windows(pad(x, g), f_h, f_w, g)
    return V.reshape(len(x), x.shape[1] * f_h * f_w, g.h_out * g.w_out)


# --- Forward: one product ---
@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d_im2col(
    x: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> np.ndarray:  # fmt: skip
    """Cross-correlate with one matrix product per image: z, (N, C_out, h_out, w_out).

    Implements {eq}`eq:conv-columns`.
    """
    C_out, _, f_h, f_w = W.shape
    g = geometry(x.shape[2:], (f_h, f_w), stride, padding, dilation)
    V = im2col(x, f_h, f_w, g)
    z = W.reshape(C_out, -1) @ V + b[:, np.newaxis]
    return z.reshape(len(x), C_out, g.h_out, g.w_out)


# --- Backward: two products, and the way back to the image ---
def col2im(dV: np.ndarray, g: Geometry) -> np.ndarray:
    """Add to each pixel what its copies got: dx̄, with the padding's share.

    Implements {eq}`eq:conv-columns-dx`; dV has shape (N, C, f_h, f_w, h_out, w_out).
    """
    check_array("dV", dV, ("N", "C", "f_h", "f_w", g.h_out, g.w_out), f"for {g}")
    N, C, f_h, f_w, h_out, w_out = dV.shape
    dxbar = np.zeros((N, C, *padded_size(f_h, f_w, g)), dV.dtype)
    for a, c in np.ndindex(f_h, f_w):
        h = slice(g.d * a, g.d * a + g.s * h_out, g.s)
        w = slice(g.d * c, g.d * c + g.s * w_out, g.s)
        dxbar[:, :, h, w] += dV[:, :, a, c]
    return dxbar


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_im2col_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1, input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:  # fmt: skip
    """Turn dz into the gradients dx (None where it is not wanted), dW and db.

    Implements {eq}`eq:conv-columns-dW` and {eq}`eq:conv-columns-dV`.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    C_out, C_in, f_h, f_w = W.shape
    V = im2col(x, f_h, f_w, g)
    dz = np.ascontiguousarray(dz).reshape(len(x), C_out, -1)
    dW = (dz @ V.transpose(0, 2, 1)).sum(axis=0).reshape(W.shape)
    db = dz.sum(axis=(0, 2))
    if not input_gradient:
        return None, dW, db
    dV = W.reshape(C_out, -1).T @ dz
    dxbar = col2im(dV.reshape(len(x), C_in, f_h, f_w, g.h_out, g.w_out), g)
    return crop(dxbar, x.shape, g), dW, db
