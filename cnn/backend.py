"""The whole step.

Exported from book/26-whole-step.ipynb: edit the chapter and run `make export`.
"""

import functools
import os
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from . import bands
from .activations import relu, relu_backward
from .conv import CHOICES, IMPLEMENTATIONS, check_implementation
from .dense import linear, linear_backward
from .losses import cross_entropy_and_gradient
from .network import rows
from .optimizers import Adam

__all__ = [
    "FAST",
    "kernels",
    "leave_loops_to_parent",
    "compiled",
    "SMALL",
    "FLOATS",
    "worthwhile",
    "choose",
    "twin",
    "PLAIN",
    "TWINS",
    "PLAIN_RULE",
    "TWIN_RULE",
    "use",
]


# Whether Numba is installed, and with it the compiled loops. It is not imported for that.
FAST = find_spec("numba") is not None


@functools.cache
def kernels() -> ModuleType | None:
    """Import ``cnn.kernels``, and with it Numba, when it is needed; None if that fails."""
    try:
        module = import_module("cnn.kernels")
    except Exception as err:
        warnings.warn(
            f"the compiled loops can't be loaded, and NumPy computes instead: {err}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave_loops_to_parent)
    return module


def leave_loops_to_parent() -> None:
    """Compute with NumPy in a forked process: the loops' threads did not come along."""
    global FAST
    FAST = False
    use("auto" if _in_use == "compiled" else _in_use)


def compiled(name: str) -> Callable:
    """Return the function of this name in ``cnn.kernels``, imported when it is first called."""

    def function(*args: object) -> object:
        return getattr(kernels(), name)(*args)

    return function


IMPLEMENTATIONS["compiled"] = (
    compiled("conv2d_compiled"),
    compiled("conv2d_compiled_backward"),
)


# --- Who chooses ---


# For fewer numbers than these the call costs more than the work.
SMALL = 500
FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}


def worthwhile(a: np.ndarray) -> bool:
    """Return whether the compiled loops can take this array, and whether they should."""
    return a.dtype in FLOATS and a.size >= SMALL and FAST and kernels() is not None


def choose(x: np.ndarray, W: np.ndarray, dilation: int) -> str:
    """Return the name of the fastest implementation for these arrays."""
    return "compiled" if worthwhile(x) else bands.choose(x, W, dilation)


def twin(plain: Callable, name: str) -> Callable:
    """Return a function that calls the compiled one where it is worth it, else ``plain``."""
    fast = compiled(name)

    @functools.wraps(plain)
    def function(*args: object) -> object:
        return (fast if worthwhile(args[0]) else plain)(*args)

    return function


PLAIN = {
    door: door.behind
    for door in (
        rows,
        linear,
        linear_backward,
        relu,
        relu_backward,
        cross_entropy_and_gradient,
    )
}
TWINS = {
    rows: twin(rows.behind, "rows_compiled"),
    linear: twin(linear.behind, "linear_compiled"),
    linear_backward: twin(linear_backward.behind, "linear_compiled_backward"),
    relu: twin(relu.behind, "relu_compiled"),
    relu_backward: twin(relu_backward.behind, "relu_compiled_backward"),
    cross_entropy_and_gradient: twin(
        cross_entropy_and_gradient.behind, "cross_entropy_compiled"
    ),
}
PLAIN_RULE = Adam.rule
TWIN_RULE = twin(Adam.rule, "adam_compiled")


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
    check_implementation(implementation)
    if implementation == "compiled" and not (FAST and kernels()):
        raise ModuleNotFoundError(
            "the compiled loops need Numba, which is not installed, can't be loaded, or belongs "
            "to the process that this one is a fork of: "
            "pip install 'cnn-from-first-principles[fast]', or choose another implementation"
        )
    before, _in_use = _in_use, implementation
    CHOICES["auto"] = choose if implementation == "auto" else lambda *_: implementation
    fast = FAST and implementation in ("auto", "compiled")
    for door, function in (TWINS if fast else PLAIN).items():
        door.behind = function
    Adam.rule = staticmethod(TWIN_RULE if fast else PLAIN_RULE)
    return before


_at_first = use("auto")
