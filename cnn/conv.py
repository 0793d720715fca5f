"""The convolutional layer.

Exported from book/13-conv-layer.ipynb: edit the chapter and run `make export`.
"""

import functools
import os
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from .activations import relu, relu_backward
from .correlation import Padding, check_conv, conv2d_loops, geometry, padding_sides
from .correlation_grad import conv2d_loops_backward
from .data import check_integer
from .dense import linear, linear_backward
from .im2col import (
    choose,
    conv2d_bands,
    conv2d_bands_backward,
    conv2d_im2col,
    conv2d_im2col_backward,
)
from .losses import cross_entropy_and_gradient
from .network import Layer, rows, twins, uniform_params
from .optimizers import adam_update

__all__ = [
    "FAST",
    "IMPLEMENTATIONS",
    "SMALL",
    "use",
    "conv2d",
    "conv2d_backward",
    "Conv2d",
]


# --- One pair of functions, four times ---


# Whether Numba is installed, and with it the compiled loops. It is not imported for that.
FAST = find_spec("numba") is not None


def _compiled(name: str) -> Callable:
    """Return the function of this name in ``cnn.kernels``, imported when it is first called."""

    def function(*args: object, **kwargs: object) -> object:
        return getattr(_kernels(), name)(*args, **kwargs)

    return function


@functools.cache
def _kernels() -> ModuleType | None:
    """Import ``cnn.kernels``, and with it Numba, when it is needed; None if that fails."""
    try:
        kernels = import_module("cnn.kernels")
    except Exception as err:
        warnings.warn(
            f"the compiled loops can't be loaded, and NumPy computes instead: {err}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_loops_to_parent)
    return kernels


def _leave_loops_to_parent() -> None:
    """Compute with NumPy in a forked process: the loops' threads did not come along."""
    global FAST
    FAST = False
    use("auto" if _in_use == "compiled" else _in_use)


def _loops_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Call ``conv2d_loops_backward``, which knows no ``input_gradient``."""
    dx, dW, db = conv2d_loops_backward(dz, x, W, stride, padding, dilation)
    return dx if input_gradient else None, dW, db


# Forward and backward, by name. Whoever adds a pair here can ask for it by its name.
IMPLEMENTATIONS: dict[str, tuple[Callable, Callable]] = {
    "loops": (conv2d_loops, _loops_backward),
    "im2col": (conv2d_im2col, conv2d_im2col_backward),
    "bands": (conv2d_bands, conv2d_bands_backward),
    "compiled": (_compiled("conv2d_compiled"), _compiled("conv2d_compiled_backward")),
}


# --- Who chooses ---


# For fewer numbers than these the call costs more than the work.
SMALL = 500
_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}


def _worthwhile(a: object) -> bool:
    """Return whether the compiled loops can take this array, and whether they should."""
    return (
        isinstance(a, np.ndarray)
        and a.dtype in _FLOATS
        and a.size >= SMALL
        and _kernels() is not None
    )


def _twin(plain: Callable, name: str) -> Callable:
    """Return a function that calls the compiled one where it is worth it, else ``plain``."""
    fast = _compiled(name)

    @functools.wraps(plain)
    def function(*args: object, **kwargs: object) -> object:
        return (fast if args and _worthwhile(args[0]) else plain)(*args, **kwargs)

    return function


_TWINS = {
    rows: _twin(rows, "rows_compiled"),
    linear: _twin(linear, "linear_compiled"),
    linear_backward: _twin(linear_backward, "linear_compiled_backward"),
    relu: _twin(relu, "relu_compiled"),
    relu_backward: _twin(relu_backward, "relu_compiled_backward"),
    cross_entropy_and_gradient: _twin(
        cross_entropy_and_gradient, "cross_entropy_compiled"
    ),
    adam_update: _twin(adam_update, "adam_compiled"),
}
if FAST:
    twins.update(_TWINS)


# --- Automatically, and on demand ---


_in_use = "auto"


def use(implementation: str = "auto") -> str:
    """Set what ``"auto"`` means from now on, for every network in this process.

    Parameters
    ----------
    implementation : str
        ``"auto"``: the compiled loops where Numba is installed and there is enough to do,
        otherwise NumPy's products; ``"numpy"``: NumPy alone; or a name in ``IMPLEMENTATIONS``,
        for all convolutions. Flatten, the dense layer, ReLU, the cost and Adam use compiled twins,
        where there is enough to do, with ``"auto"`` and ``"compiled"``. A forked process computes
        with NumPy.

    Returns
    -------
    str
        What was in use before.

    Raises
    ------
    ValueError
        There is no implementation of this name.
    ModuleNotFoundError
        ``"compiled"`` is asked for, and Numba is not installed, can't be loaded, or belongs to
        the process that this one is a fork of.

    Examples
    --------
    >>> before = use("numpy")
    >>> use(before)
    'numpy'
    """
    global _in_use
    _check_implementation(implementation)
    before, _in_use = _in_use, implementation
    for function, twin in _TWINS.items():
        if FAST and implementation in ("auto", "compiled"):
            twins[function] = twin
        else:
            twins.pop(function, None)
    return before


def _check_implementation(name: str) -> None:
    """Raise unless there is an implementation of this name, and what it needs is installed."""
    names = ("auto", "numpy", *IMPLEMENTATIONS)
    if name not in names:
        raise ValueError(
            f"implementation is {name!r}; expected one of {', '.join(names)}"
        )
    if name == "compiled" and not (FAST and _kernels()):
        raise ModuleNotFoundError(
            "the compiled loops need Numba, which is not installed, can't be loaded, or belongs "
            "to the process that this one is a fork of: "
            "pip install 'cnn-from-first-principles[fast]', or choose another implementation"
        )


def _resolve(
    implementation: str,
    x: np.ndarray,
    W: np.ndarray,
    where: tuple[int, Padding, int],
    input_gradient: bool = True,
) -> str:
    """Return the name in ``IMPLEMENTATIONS`` that ``implementation`` means for these arrays."""
    name = _in_use if implementation == "auto" else implementation
    _check_implementation(name)
    if name == "auto":
        name = "compiled" if FAST and _worthwhile(x) else "numpy"
    if name == "numpy":
        check_conv(x, W)
        g = geometry(x.shape[2:], W.shape[2:], *where)
        name = choose(len(x), W.shape, g, input_gradient)
    return name


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
        ``"auto"``, ``"numpy"`` or a name in ``IMPLEMENTATIONS``, as in ``use``.

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
    where = (stride, padding, dilation)
    forward, _ = IMPLEMENTATIONS[_resolve(implementation, x, W, where)]
    return forward(x, W, b, *where)


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
    where = (stride, padding, dilation)
    name = _resolve(implementation, x, W, where, input_gradient)
    _, backward = IMPLEMENTATIONS[name]
    return backward(dz, x, W, *where, input_gradient)


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
        _check_implementation(implementation)
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
