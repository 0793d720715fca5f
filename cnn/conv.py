"""The convolutional layer.

Exported from book/13-conv-layer.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .correlation import (
    Geometry,
    Padding,
    check_conv,
    geometry,
    pad,
    padded_size,
    padding_sides,
    windows,
)
from .correlation_grad import check_conv_backward, crop
from .data import check_array, check_integer
from .network import Layer, uniform_params

__all__ = ["columns", "conv2d", "add_windows", "conv2d_backward", "Conv2d"]


# --- A window is a column ---


def columns(x: np.ndarray, f_h: int, f_w: int, g: Geometry) -> np.ndarray:
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
        V, shape (N, C·f_h·f_w, h_out·w_out), dtype as ``x``.

    Raises
    ------
    TypeError
        ``x`` is no array of numbers.
    ValueError
        ``x`` has not the size that ``g`` was made for.
    """
    return windows(pad(x, g), f_h, f_w, g).reshape(len(x), -1, g.h_out * g.w_out)


def conv2d(
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
    check_conv(x, W, b)
    C_out, _, f_h, f_w = W.shape
    g = geometry(x.shape[2:], (f_h, f_w), stride, padding, dilation)
    z = W.reshape(C_out, -1) @ columns(x, f_h, f_w, g)
    z += b[:, np.newaxis]
    return z.reshape(len(x), C_out, g.h_out, g.w_out)


# --- Backward ---


def add_windows(dV: np.ndarray, g: Geometry) -> np.ndarray:
    """Add each window's numbers to the pixels they were read from, as ``windows`` in reverse.

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
    dxbar = np.zeros((N, C, *padded_size(f_h, f_w, g)), dV.dtype)
    for a, c in np.ndindex(f_h, f_w):
        h = slice(g.d * a, g.d * a + g.s * h_out, g.s)
        w = slice(g.d * c, g.d * c + g.s * w_out, g.s)
        dxbar[:, :, h, w] += dV[:, :, a, c]
    return dxbar


def conv2d_backward(
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
        What ``conv2d`` was given: shapes (N, C_in, H, W) and (C_out, C_in, f_h, f_w), dtype as
        ``dz``.
    stride, padding, dilation : int or tuple of int
        What ``conv2d`` was given.
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
    C_out, C_in, f_h, f_w = W.shape
    db = dz.sum(axis=(0, 2, 3))
    dz = dz.reshape(len(x), C_out, -1)
    dW = (dz @ columns(x, f_h, f_w, g).transpose(0, 2, 1)).sum(axis=0).reshape(W.shape)
    if not input_gradient:
        return None, dW, db
    dV = (W.reshape(C_out, -1).T @ dz).reshape(len(x), C_in, f_h, f_w, g.h_out, g.w_out)
    return crop(add_windows(dV, g), x.shape, g), dW, db


# --- The layer ---


class Conv2d(Layer):
    """A convolutional layer: filters moved over images of several channels.

    Parameters
    ----------
    in_channels, out_channels : int
        The input's channels, and how many filters the layer has.
    kernel_size : int or tuple of int
        The filters' size: f for f × f, or (f_h, f_w).
    stride, dilation : int
        The steps between windows and between the taps of one window.
    padding : int or tuple of int
        Zeros around the image: p, (rows, columns), or (top, bottom, left, right).
    rng : np.random.Generator
        Draws the initial parameters, uniformly up to 1/√(in_channels·f_h·f_w), as PyTorch does.
    dtype : type
        The parameters' dtype; inputs must have the same.

    Attributes
    ----------
    params : dict of str to np.ndarray
        ``weight``, shape (out_channels, in_channels, f_h, f_w), and ``bias``, shape
        (out_channels,), as in PyTorch.
    grads : dict of str to np.ndarray
        Their gradients, from the latest ``backward``.

    Raises
    ------
    TypeError
        A size is no integer.
    ValueError
        A size is too small, or there are too many of them.

    Examples
    --------
    >>> layer = Conv2d(1, 4, kernel_size=5, padding=2, rng=np.random.default_rng(0))
    >>> layer
    Conv2d(1, 4, kernel_size=(5, 5), stride=1, padding=2, dilation=1)
    >>> layer(np.zeros((100, 1, 28, 28), np.float32)).shape
    (100, 4, 28, 28)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: Padding = 0,
        dilation: int = 1,
        *,
        rng: np.random.Generator,
        dtype: type = np.float32,
    ) -> None:
        super().__init__()
        f = (
            tuple(kernel_size)
            if isinstance(kernel_size, tuple | list)
            else (kernel_size,) * 2
        )
        if len(f) != 2:
            raise ValueError(
                f"kernel_size is {kernel_size!r}; expected f or (rows, columns)"
            )
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        for size in f:
            check_integer("kernel_size", size, 1)
        check_integer("stride", stride, 1)
        check_integer("dilation", dilation, 1)
        padding_sides(padding)
        self.params = uniform_params((out_channels, in_channels, *f), rng, dtype)
        self.where = {"stride": stride, "padding": padding, "dilation": dilation}

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Compute the output, shape (N, out_channels, h_out, w_out); remember ``x``, uncopied."""
        z = conv2d(x, self.params["weight"], self.params["bias"], **self.where)
        self._seen = x
        return z

    def backward(
        self, dy: np.ndarray, *, input_gradient: bool = True
    ) -> np.ndarray | None:
        """Fill ``grads``; return the gradient by the input, or None where it isn't wanted."""
        dx, dW, db = conv2d_backward(
            dy,
            self._recall(),
            self.params["weight"],
            **self.where,
            input_gradient=input_gradient,
        )
        self.grads = {"weight": dW, "bias": db}
        return dx

    def __repr__(self) -> str:
        C_out, C_in, *f = self.params["weight"].shape
        where = ", ".join(f"{name}={value}" for name, value in self.where.items())
        return f"Conv2d({C_in}, {C_out}, kernel_size={tuple(f)}, {where})"
