"""The training loop.

Exported from book/09-training.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .data import Dataset, batches
from .losses import cross_entropy, cross_entropy_and_gradient, error_rate
from .network import Sequential
from .optimizers import Optimizer
from .shapes import check_integer, shapes

__all__ = [
    "train_step", "evaluate", "in_use", "History", "loop", "fit", "check_run",
    "check_data", "progress_bar",
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
    z = net.forward(x)
    J, dz = cross_entropy_and_gradient(z, y)
    net.backward(dz, input_gradient=False)
    optimizer.step(net.grads)
    return float(J)


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
        The network; every layer's mode is put back.
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
    J = error = 0.0
    with in_use(net):
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            z = net.forward(x[part])
            J += len(z) * float(cross_entropy(z, y[part]))
            error += len(z) * error_rate(z, y[part])
    return J / len(x), error / len(x)


@contextlib.contextmanager
def in_use(net: Sequential) -> Iterator[None]:
    """Let every layer compute as at inference, and put its mode back afterwards."""
    modes = [(layer, layer.training) for layer in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


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
    total, N = check_run(data, epochs, batch_size, every), len(data.x_train)
    net.train()
    return loop(
        lambda i: train_step(net, optimizer, data.x_train[i], data.y_train[i]),
        lambda: evaluate(net, data.x_test, data.y_test),
        (i for _ in range(epochs) for i in batches(N, batch_size, rng)),
        total,
        every,
    )


def check_run(data: Dataset, epochs: int, batch_size: int, every: int) -> int:
    """Raise unless a run can be made of these; return how many iterations it will have."""
    check_integer("epochs", epochs, 1)
    check_integer("batch_size", batch_size, 1)
    check_integer("every", every, 1)
    check_data(*data[1:])
    return epochs * math.ceil(len(data.x_train) / batch_size)


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


def progress_bar(done: int, total: int) -> contextlib.AbstractContextManager:
    """Return tqdm's bar, silent where nobody watches, or a context of None without tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext()
    return tqdm(initial=done, total=total, unit="it", disable=None)


def _show(bar: Any, history: History) -> None:
    """Move the bar on by one iteration, where there is a bar."""
    if bar:
        bar.set_postfix_str(str(history), refresh=False)
        bar.update()
