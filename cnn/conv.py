"""The convolutional layer.

Exported from book/13-conv-layer.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .correlation import Padding, conv2d_loops, padding_sides
from .correlation_grad import conv2d_loops_backward
from .im2col import conv2d_im2col, conv2d_im2col_backward
from .network import Layer, uniform_params
from .shapes import check_integer, shapes

__all__ = [
    "IMPLEMENTATIONS", "CHOICES", "implementation_of", "check_implementation", "conv2d",
    "conv2d_backward", "Kernel", "filter_size", "check_where", "Conv2d",
]  # fmt: skip


# --- One pair of functions, by name ---
# The functions without their doors: conv2d has checked the arrays already.
IMPLEMENTATIONS: dict[str, tuple[Callable, Callable]] = {
    "loops": (conv2d_loops.behind, conv2d_loops_backward.behind),
    "im2col": (conv2d_im2col.behind, conv2d_im2col_backward.behind),
}
CHOICES: dict[str, Callable[[np.ndarray, np.ndarray, int], str]] = {
    "auto": lambda x, W, dilation: "im2col",
    "numpy": lambda x, W, dilation: "im2col",
}


def implementation_of(
    name: str, x: np.ndarray, W: np.ndarray, dilation: int
) -> tuple[Callable, Callable]:
    """Return the pair of functions that a name means for these arrays."""
    check_implementation(name)
    while name in CHOICES:
        name = CHOICES[name](x, W, dilation)
    return IMPLEMENTATIONS[name]


def check_implementation(name: str) -> str:
    """Return the name, if there is an implementation of this name."""
    names = (*CHOICES, *IMPLEMENTATIONS)
    if name not in names:
        raise ValueError(
            f"implementation is {name!r}; expected one of {', '.join(names)}"
        )
    return name


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d(
    x: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1, implementation: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Cross-correlate images with filters, by the implementation asked for.

    Implements {eq}`eq:conv-forward`.

    Parameters
    ----------
    x, W, b : np.ndarray
        Images, filters and bias, of one dtype.
    stride, dilation : int
        The steps between windows and between the taps of one window.
    padding : int or tuple of int
        Zeros around the image: p, (rows, columns), or (top, bottom, left, right).
    implementation : str
        ``"auto"``, ``"numpy"`` or a name in ``IMPLEMENTATIONS``.

    Returns
    -------
    np.ndarray
        The output z, shape (N, C_out, h_out, w_out).
    """
    forward, _ = implementation_of(implementation, x, W, dilation)
    return forward(x, W, b, stride, padding, dilation)


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1, input_gradient: bool = True,
    implementation: str = "auto",
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:  # fmt: skip
    """Turn dz into the gradients dx (None where it is not wanted), dW and db.

    Implements {eq}`eq:conv-dx`, {eq}`eq:conv-dW` and {eq}`eq:conv-db`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient with respect to the output.
    x, W, stride, padding, dilation, implementation
        As in ``conv2d``.
    input_gradient : bool
        Whether ``dx`` is wanted.

    Returns
    -------
    dx, dW, db : np.ndarray
        The gradients with respect to ``x``, ``W`` and ``b``, shaped as these.
    """
    _, backward = implementation_of(implementation, x, W, dilation)
    return backward(dz, x, W, stride, padding, dilation, input_gradient)


# --- The layer ---
Kernel = int | tuple[int, int]


def filter_size(kernel_size: Kernel) -> tuple[int, int]:
    """Return (f_h, f_w), for f where the filter is square or for the two."""
    pair = isinstance(kernel_size, tuple | list)
    f: Any = kernel_size if pair else (kernel_size, kernel_size)
    if len(f) != 2:
        raise ValueError(
            f"kernel_size is {kernel_size!r}; expected f or (rows, columns)"
        )
    f_h, f_w = (check_integer("kernel_size", size, 1) for size in f)
    return f_h, f_w


def check_where(stride: int, padding: Padding, dilation: int) -> dict[str, Any]:
    """Return the three by name, if they say where a filter goes."""
    stride = check_integer("stride", stride, 1)
    dilation = check_integer("dilation", dilation, 1)
    padding_sides(padding)
    return {"stride": stride, "padding": padding, "dilation": dilation}


class _Filters(Layer):
    """Filters with a bias, and where they go."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Kernel,
        stride: int = 1, padding: Padding = 0, dilation: int = 1, *,
        rng: np.random.Generator, dtype: type = np.float32,
        implementation: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__()
        C_in = check_integer("in_channels", in_channels, 1)
        C_out = check_integer("out_channels", out_channels, 1)
        f_h, f_w = filter_size(kernel_size)
        self.params = uniform_params((C_out, C_in, f_h, f_w), rng, dtype)
        self.where = check_where(stride, padding, dilation)
        self.implementation = check_implementation(implementation)


class Conv2d(_Filters):
    """A convolutional layer: filters moved over images of several channels.

    Parameters
    ----------
    in_channels, out_channels : int
        The input's channels, and how many filters the layer has.
    kernel_size : int or tuple of int
        The filters' size: f for f × f, or (f_h, f_w).
    stride, padding, dilation, implementation
        As in ``conv2d``; the implementation may be changed later.
    rng : np.random.Generator
        Draws weight and bias uniformly up to 1/√(in_channels·f_h·f_w), as PyTorch does.
    dtype : type
        The parameters' dtype, and hence that of the input.

    Examples
    --------
    >>> layer = Conv2d(1, 4, kernel_size=5, padding=2, rng=np.random.default_rng(0))
    >>> layer
    Conv2d(1, 4, kernel_size=(5, 5), stride=1, padding=2, dilation=1)
    >>> layer(np.zeros((100, 1, 28, 28), np.float32)).shape
    (100, 4, 28, 28)
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Compute z, shape (N, out_channels, h_out, w_out); remember ``x``, uncopied."""
        W, b = self.params["weight"], self.params["bias"]
        z = conv2d(x, W, b, **self.where, implementation=self.implementation)
        self._seen = x
        return z

    def backward(
        self, dy: np.ndarray, *, input_gradient: bool = True
    ) -> np.ndarray | None:
        """Fill ``grads``; return dx, or None where it isn't wanted."""
        x, W = self._recall(), self.params["weight"]
        how = self.where | {"implementation": self.implementation}
        dx, dW, db = conv2d_backward(dy, x, W, input_gradient=input_gradient, **how)
        self.grads = {"weight": dW, "bias": db}
        return dx

    def __repr__(self) -> str:
        C_out, C_in, *f = self.params["weight"].shape
        where = ", ".join(f"{name}={value}" for name, value in self.where.items())
        return f"Conv2d({C_in}, {C_out}, kernel_size={tuple(f)}, {where})"
