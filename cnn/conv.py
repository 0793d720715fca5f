"""The convolutional layer.

Exported from book/13-conv-layer.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable

import numpy as np

from .correlation import Padding, conv2d_loops, padding_sides
from .correlation_grad import conv2d_loops_backward
from .im2col import conv2d_im2col, conv2d_im2col_backward
from .network import Layer, uniform_params
from .shapes import check_integer, shapes

__all__ = [
    "IMPLEMENTATIONS",
    "choose_im2col",
    "CHOICES",
    "check_implementation",
    "implementation_of",
    "conv2d",
    "conv2d_backward",
    "Conv2d",
]


# --- One pair of functions, four times ---


# Forward and backward, by name: the functions without their doors, for conv2d has checked.
IMPLEMENTATIONS: dict[str, tuple[Callable, Callable]] = {
    "loops": (conv2d_loops.behind, conv2d_loops_backward.behind),
    "im2col": (conv2d_im2col.behind, conv2d_im2col_backward.behind),
}


def choose_im2col(x: np.ndarray, W: np.ndarray, dilation: int) -> str:
    """Return the name of the fastest implementation so far, whatever the arrays."""
    return "im2col"


# What the other names mean depends on the arrays.
CHOICES: dict[str, Callable[[np.ndarray, np.ndarray, int], str]] = {
    "auto": choose_im2col,
    "numpy": choose_im2col,
}


def check_implementation(name: str) -> None:
    """Raise unless there is an implementation of this name."""
    names = (*CHOICES, *IMPLEMENTATIONS)
    if name not in names:
        raise ValueError(
            f"implementation is {name!r}; expected one of {', '.join(names)}"
        )


def implementation_of(
    name: str, x: np.ndarray, W: np.ndarray, dilation: int
) -> tuple[Callable, Callable]:
    """Return the pair of functions that a name means for these arrays."""
    check_implementation(name)
    while name in CHOICES:
        name = CHOICES[name](x, W, dilation)
    return IMPLEMENTATIONS[name]


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    implementation: str = "auto",
) -> np.ndarray:
    """Cross-correlate, by the implementation asked for.

    Implements {eq}`eq:conv-forward`.

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
    implementation : str
        ``"auto"``, ``"numpy"`` or a name in ``IMPLEMENTATIONS``.

    Returns
    -------
    np.ndarray
        The output z, shape (N, C_out, h_out, w_out), dtype as ``x``. The order of its axes in
        memory depends on the implementation.

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, the filter is larger than the padded image, or the implementation
        is unknown.
    ModuleNotFoundError
        The compiled loops are asked for, and Numba is not installed.
    """
    forward, _ = implementation_of(implementation, x, W, dilation)
    return forward(x, W, b, stride, padding, dilation)


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    input_gradient: bool = True,
    implementation: str = "auto",
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Turn the gradient by a convolution's output into those by its input and parameters.

    Implements {eq}`eq:conv-dx`, {eq}`eq:conv-dW` and {eq}`eq:conv-db`.

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
    implementation : str
        As in ``conv2d``; it need not be the one that computed the output.

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
        The shapes do not fit, or the implementation is unknown.
    ModuleNotFoundError
        The compiled loops are asked for, and Numba is not installed.
    """
    _, backward = implementation_of(implementation, x, W, dilation)
    return backward(dz, x, W, stride, padding, dilation, input_gradient)


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
    implementation : str
        Which functions compute it: ``"auto"``, ``"numpy"`` or a name in ``IMPLEMENTATIONS``, as
        in ``use``. It may be changed later; the results are equal up to rounding, as long as all
        numbers are finite.

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
        A size is too small, there are too many of them, or the implementation is unknown.
    ModuleNotFoundError
        The compiled loops are asked for, and Numba is not installed.

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
        implementation: str = "auto",
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
        in_channels = check_integer("in_channels", in_channels, 1)
        out_channels = check_integer("out_channels", out_channels, 1)
        f = tuple(check_integer("kernel_size", size, 1) for size in f)
        check_integer("stride", stride, 1)
        check_integer("dilation", dilation, 1)
        padding_sides(padding)
        self.params = uniform_params((out_channels, in_channels, *f), rng, dtype)
        check_implementation(implementation)
        self.implementation = implementation
        self.where = {"stride": stride, "padding": padding, "dilation": dilation}

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Compute the output, shape (N, out_channels, h_out, w_out); remember ``x``, uncopied."""
        W, b = self.params["weight"], self.params["bias"]
        z = conv2d(x, W, b, **self.where, implementation=self.implementation)
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
            implementation=self.implementation,
        )
        self.grads = {"weight": dW, "bias": db}
        return dx

    def __repr__(self) -> str:
        C_out, C_in, *f = self.params["weight"].shape
        where = ", ".join(f"{name}={value}" for name, value in self.where.items())
        return f"Conv2d({C_in}, {C_out}, kernel_size={tuple(f)}, {where})"
