"""The training loop.

Exported from book/09-training.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import copy
import io
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np

from .data import Dataset, batches, check_dataset
from .losses import cross_entropy, cross_entropy_and_gradient, error_rate
from .network import Module, Sequential, check_module
from .optimizers import Bookkeeping, Optimizer
from .shapes import check_generator, check_integer, shapes

__all__ = [
    "train_step", "check_trains", "evaluate", "in_use", "History", "loop", "fit",
    "check_run", "check_data", "log", "watched", "progress_bar",
]  # fmt: skip


# --- One step ---
def train_step(
    net: Sequential, optimizer: Optimizer, x: np.ndarray, y: np.ndarray
) -> float:
    """Take one step: forward, backward, update.

    Parameters
    ----------
    net, optimizer : Sequential, Optimizer
        The network, changed in place, and an optimiser made of ``net.params``.
    x, y : np.ndarray
        A batch: images as the first layer takes them, and their labels.

    Returns
    -------
    float
        The cost J of the batch *before* the step.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        The batch does not fit, a label is out of range, or a score is not finite.
    """
    check_trains(optimizer, net)
    z = net.forward(x)
    J, dz = cross_entropy_and_gradient(z, y)
    net.backward(dz, input_gradient=False)
    optimizer.step(net.grads)
    return float(J)


def check_trains(optimizer: Optimizer, net: Sequential) -> None:
    """Raise unless the optimiser moves the network's own arrays, and all of them."""
    check_module(net)
    if not isinstance(optimizer, Bookkeeping):
        got = type(optimizer).__name__
        raise TypeError(f"optimizer is of type {got}; expected one such as Adam or SGD")
    params = net.params
    foreign = [
        name for name, a in params.items() if optimizer.params.get(name) is not a
    ]
    if foreign or len(optimizer.params) > len(params):
        raise ValueError(
            f"the optimiser does not hold the network's own arrays ({len(foreign)} of "
            f"{len(params)} are others): make it of net.params, when the last layer is in place"
        )


# --- How good is it? ---
@shapes("x (N, ...), y (N) integer")
def evaluate(
    net: Sequential, x: np.ndarray, y: np.ndarray, batch_size: int = 500
) -> tuple[float, float]:
    """Compute the cost and the error rate on a whole set, a batch at a time.

    Implements {eq}`eq:evaluate`. The network computes as after ``net.eval()``.

    Parameters
    ----------
    net : Sequential
        The network, which is not touched.
    x, y : np.ndarray
        All the images, and their labels.
    batch_size : int
        How many images to compute at once; the result does not depend on it.

    Returns
    -------
    tuple of float
        The cost J and the share of images classified wrongly, from 0 to 1.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        The arguments do not fit each other, or a score is not finite.
    """
    check_integer("batch_size", batch_size, 1)
    used, J, error = in_use(net), 0.0, 0.0
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        z = used.forward(x[part])
        J += len(z) * float(cross_entropy(z, y[part]))
        error += len(z) * error_rate(z, y[part])
    return J / len(x), error / len(x)


_M = TypeVar("_M", bound=Module)


def in_use(net: _M) -> _M:
    """Return the network as at inference: other layers, with the same arrays."""
    check_module(net)
    used = copy.copy(net)
    used.training = False
    for name, a in vars(net).items():
        if isinstance(a, Module):
            setattr(used, name, in_use(a))
        elif isinstance(a, list | tuple):
            inside = (in_use(b) if isinstance(b, Module) else b for b in a)
            setattr(used, name, [*inside])
    return used


# --- What to write down ---
@dataclass
class History:
    """What a training run recorded.

    Attributes
    ----------
    loss : list of float
        The cost of every iteration's batch, before the step.
    iterations : list of int
        After how many iterations the network was tested.
    test_loss, test_error, seconds : list of float
        For each of these, results on the test set, and the time used until then.
    """

    # 31-files gives it these two, when there are files
    save: ClassVar[Callable[..., None]]
    load: ClassVar[Callable[..., "History"]]

    loss: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_error: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add_test(self, t: int, loss: float, error: float, seconds: float) -> None:
        """Record one test, after iteration ``t``."""
        self.iterations.append(t)
        self.test_loss.append(loss)
        self.test_error.append(error)
        self.seconds.append(seconds)

    def __str__(self) -> str:
        loss = f"loss {self.loss[-1]:.4f}" if self.loss else "no iteration yet"
        error = f", test error {self.test_error[-1]:.2%}" if self.test_error else ""
        return loss + error


# --- The whole loop ---
def loop(
    step: Callable[[Any], float], test: Callable[[], tuple[float, float]],
    dealt: Iterable[Any], total: int, every: int = 100,
    history: History | None = None, keep: Callable[[], None] = lambda: None,
) -> History:  # fmt: skip
    """Take one step with each batch; test, and keep, every so many iterations."""
    history = History() if history is None else history
    begun = time.perf_counter() - (history.seconds[-1] if history.seconds else 0)
    with progress_bar(len(history.loss), total) as bar:
        for t, batch in enumerate(dealt, len(history.loss) + 1):
            try:
                history.loss.append(step(batch))
                if t % every == 0 or t == total:
                    history.add_test(t, *test(), time.perf_counter() - begun)
                    keep()
            except FloatingPointError as err:
                raise FloatingPointError(f"iteration {t}: {err}") from err
            _show(bar, history)
    return history


def fit(
    net: Sequential, optimizer: Optimizer, data: Dataset, *, epochs: int,
    rng: np.random.Generator, batch_size: int = 100, every: int = 100,
) -> History:  # fmt: skip
    """Train ``net`` on ``data``, test it now and then, and return the history."""
    check_trains(optimizer, net)
    check_generator(rng)
    total, N = check_run(net, data, epochs, batch_size, every), len(data.x_train)
    net.train()
    return loop(
        lambda i: train_step(net, optimizer, data.x_train[i], data.y_train[i]),
        lambda: evaluate(net, data.x_test, data.y_test),
        (i for _ in range(epochs) for i in batches(N, batch_size, rng)),
        total,
        every,
    )


def check_run(
    net: Sequential, data: Dataset, epochs: int, batch_size: int, every: int
) -> int:
    """Raise unless a run can be made of these; return how many iterations it will have."""
    check_integer("epochs", epochs, 1)
    check_integer("batch_size", batch_size, 1)
    check_integer("every", every, 1)
    check_dataset(data)
    check_data(*data[1:])
    N = len(data.x_train)
    last = N % batch_size or batch_size
    for layer in net.modules():
        if last < layer.least:
            raise ValueError(
                f"{N} images in batches of {batch_size} leave {last} for the last one, but "
                f"{layer!r} needs {layer.least} in training: choose another batch_size"
            )
    return epochs * math.ceil(N / batch_size)


@shapes("x_train (N, ...), y_train (N) integer, x_test (M, ...), y_test (M) integer")
def check_data(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> None:
    """Raise unless the images fit each other and their labels, and are finite."""
    for name, x in (("x_train", x_train), ("x_test", x_test)):
        finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{name}[{finite.argmin()}] holds NaN or infinity; expected finite images"
            )


log = logging.getLogger("cnn")


class _Lines(io.TextIOBase):
    """What tqdm takes for a file: each state of its bar becomes a line of the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.info(text.strip())
        return len(text)


def watched() -> bool:
    """Return whether somebody reads stderr on a terminal, and wants to."""
    if not sys.stderr or not log.isEnabledFor(logging.WARNING):
        return False
    try:
        return sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def progress_bar(done: int, total: int) -> contextlib.AbstractContextManager[Any]:
    """Return tqdm's bar, at a terminal or in the log; None where nobody listens."""
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext()
    how: dict[str, Any] = {"initial": done, "total": total, "unit": "it"}
    if watched():
        return tqdm(**how)
    if log.isEnabledFor(logging.INFO):
        line = "iteration {n_fmt} of {total_fmt}{postfix}, {remaining} left"
        lines = {"file": _Lines(), "mininterval": 10, "miniters": 1}
        return tqdm(**how, **lines, bar_format=line)
    return contextlib.nullcontext()


def _show(bar: Any, history: History) -> None:
    """Move the bar on by one iteration, where there is a bar."""
    if bar:
        bar.set_postfix_str(str(history), refresh=False)
        bar.update()
