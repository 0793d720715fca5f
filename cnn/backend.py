"""Behind the doors.

Exported from book/26-whole-step.ipynb: edit the chapter and run `make export`.
"""

import ctypes
import functools
import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from . import bands, conv
from .activations import relu, relu_backward
from .conv import conv2d, conv2d_backward
from .dense import linear, linear_backward
from .losses import cross_entropy_and_gradient
from .network import rows
from .optimizers import Adam, adam_update
from .training import watched

__all__ = ["FAST", "twins", "SMALL", "choose", "use"]


# --- Behind the doors ---
FAST = find_spec("numba") is not None  # whether it is installed; that imports nothing


@functools.cache
def twins() -> dict[Callable, Callable]:
    """Import the loops, and with them Numba, when they are needed; {} where that fails."""
    try:
        _announce_compiling()
        table = import_module("cnn.kernels_step").TWINS
    except Exception as err:
        message = (
            f"the compiled loops can't be loaded, and NumPy computes instead: {err}"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return {}
    _keep_memory()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_loops_to_parent)
    return table


def _leave_loops_to_parent() -> None:
    """Compute with NumPy in a forked process: the loops' threads did not come along."""
    global FAST
    FAST = False
    use("auto" if _in_use == "compiled" else _in_use)


def _announce_compiling() -> None:
    """Have Numba say at a terminal, once, why the first call takes so long."""
    from numba.core import event

    class Listener(event.Listener):
        silent = not watched()

        def on_start(self, event: Any) -> None:
            module = event.data["dispatcher"].py_func.__module__
            if module.startswith("cnn.kernels") and not self.silent:
                print(
                    "compiling the loops for this processor, once ...", file=sys.stderr
                )
                self.silent = True

        def on_end(self, event: Any) -> None:
            """Say nothing more."""

    event.register("numba:compile", Listener())


# --- Memory that comes and goes ---
def _keep_memory() -> None:
    """Let the C library keep up to 1 GiB of what arrays leave, where it is one that can."""
    mallopt = sys.platform == "linux" and getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: what is larger is given back
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: what may lie idle


# --- Which one computes? ---
SMALL = 500  # for fewer numbers the call costs more than the work
_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}


def choose(x: np.ndarray, W: np.ndarray, dilation: int) -> str:
    """Return the name of the fastest implementation for these arrays."""
    if x.size >= SMALL and x.dtype in _FLOATS and FAST and twins():
        return "compiled"
    return bands.choose(x, W, dilation)


def _twin(door: Callable, plain: Callable) -> Callable:
    """Return a function that calls a door's compiled twin where it is worth it."""

    def function(a: np.ndarray, *rest: Any) -> Any:
        fast = a.size >= SMALL and a.dtype in _FLOATS and FAST and twins()
        return (fast[door] if fast else plain)(a, *rest)

    return function


_DOORS = (
    rows,
    linear,
    linear_backward,
    relu,
    relu_backward,
    cross_entropy_and_gradient,
)
_PLAIN = {door: door.behind for door in _DOORS}
_FASTER = {door: _twin(door, plain) for door, plain in _PLAIN.items()}
_FASTER_RULE = _twin(adam_update, adam_update.behind)


_NO_LOOPS = (
    "the compiled loops need Numba, which is not installed, can't be loaded, or belongs to "
    "the process that this one is a fork of: pip install 'cnn-from-first-principles[fast]', "
    "or choose another implementation"
)


def _compiled(door: Callable) -> Callable:
    """Return a function that calls a door's compiled twin, or raises where there is none."""

    def function(*args: Any) -> Any:
        if fast := FAST and twins():
            return fast[door](*args)
        raise ModuleNotFoundError(_NO_LOOPS)

    return function


conv.IMPLEMENTATIONS["compiled"] = _compiled(conv2d), _compiled(conv2d_backward)


# --- Automatically, and on demand ---
_in_use = "auto"


def use(implementation: str = "auto") -> str:
    """Set what ``"auto"`` means from now on, for every network in this process.

    Parameters
    ----------
    implementation : str
        ``"auto"``: compiled loops where Numba is installed and there is enough to do, else
        NumPy; ``"numpy"``: NumPy alone; or a name in ``IMPLEMENTATIONS``, for all convolutions.

    Returns
    -------
    str
        What was in use before.

    Raises
    ------
    ModuleNotFoundError
        ``"compiled"`` is asked for, and can't be used in this process.
    """
    global _in_use
    conv.check_implementation(implementation)
    if implementation == "compiled" and not (FAST and twins()):
        raise ModuleNotFoundError(_NO_LOOPS)
    before, _in_use = _in_use, implementation
    conv.CHOICES["auto"] = (
        choose if implementation == "auto" else lambda *_: implementation
    )
    fast = FAST and implementation in ("auto", "compiled")
    for door, function in (_FASTER if fast else _PLAIN).items():
        door.behind = function
    Adam.rule = staticmethod(_FASTER_RULE if fast else adam_update)
    return before


_at_first = use("auto")
