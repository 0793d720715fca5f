"""The training loop.

Exported from book/09-training.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .data import Dataset, batches
from .losses import cross_entropy, cross_entropy_and_gradient, error_rate
from .network import Sequential
from .optimizers import Optimizer
from .shapes import check_array, check_integer, check_same_dtype

__all__ = [
    "train_step",
    "evaluate",
    "in_use",
    "History",
    "loop",
    "fit",
    "check_run",
    "progress_bar",
]


# --- One step ---


def train_step(
    net: Sequential, optimizer: Optimizer, x: np.ndarray, y: np.ndarray
) -> float:
    """Take one step: forward, backward, update.

    Parameters
    ----------
    net : Sequential
        The network; its parameters are changed in place.
    optimizer : Optimizer
        An optimiser made of ``net.params``.
    x : np.ndarray
        A batch of images, shape (N, C, H, W) or whatever the first layer takes.
    y : np.ndarray
        Their labels, shape (N,), integers.

    Returns
    -------
    float
        The cost J of the batch *before* the step.

    Raises
    ------
    TypeError, ValueError
        The batch does not fit the network, or a label is out of range.
    FloatingPointError
        A score is NaN or infinite.
    """
    z = net.forward(x)
    J, dz = cross_entropy_and_gradient(z, y)
    net.backward(dz, input_gradient=False)
    optimizer.step(net.grads)
    return float(J)


# --- How good is it? ---


def evaluate(
    net: Sequential, x: np.ndarray, y: np.ndarray, batch_size: int = 500
) -> tuple[float, float]:
    """Compute the cost and the error rate on a whole set, a batch at a time.

    Implements {eq}`eq:evaluate`. The network computes as after ``net.eval()``.

    Parameters
    ----------
    net : Sequential
        The network; its parameters stay as they are, and every layer's mode is put back.
    x : np.ndarray
        All the images, shape (N, C, H, W) or whatever the first layer takes.
    y : np.ndarray
        Their labels, shape (N,), integers.
    batch_size : int
        How many images to compute at once: it changes the memory needed, not the result.

    Returns
    -------
    tuple of float
        The cost J and the share of the images that are classified wrongly, from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        ``x`` is empty, ``y`` has another length, or they do not fit the network.
    FloatingPointError
        A score is NaN or infinite.
    """
    _check_examples("x", x, "y", y)
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
    """Let a network compute as it will when it is used, and put each layer's mode back.

    Parameters
    ----------
    net : Sequential
        The network.

    Yields
    ------
    None
        Inside the ``with`` statement every layer is in evaluation mode.
    """
    modes = [(layer, layer.training) for layer in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _check_examples(x_name: str, x: np.ndarray, y_name: str, y: np.ndarray) -> None:
    """Raise unless ``x`` holds images and ``y`` one integer for each of them."""
    check_array(x_name, x, ("N", *np.shape(x)[1:]))
    check_array(
        y_name, y, (len(x),), f"because {x_name} has shape {x.shape}", kind="integer"
    )


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
    test_loss, test_error : list of float
        Cost and error rate on the test set, one for each of ``iterations``.
    seconds : list of float
        The time used until then, testing included, one for each of ``iterations``.

    Raises
    ------
    ValueError
        A list holds something else than finite numbers, or the lists do not fit together.
    """

    loss: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_error: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not isinstance(values, list) or not all(map(_is_finite, values)):
                raise ValueError(
                    f"{name} is {values!r:.60}; expected a list of finite numbers"
                )
        tests = self.iterations
        counts = {
            len(v) for v in (tests, self.test_loss, self.test_error, self.seconds)
        }
        if len(counts) > 1:
            raise ValueError(
                f"the tests' lists have different lengths: {sorted(counts)}"
            )
        rising = all(
            a < b for a, b in itertools.pairwise([0, *tests, len(self.loss) + 1])
        )
        if not rising or not all(isinstance(t, int) for t in tests):
            raise ValueError(
                f"iterations is {tests!r:.60}; expected integers that rise from at least 1 to at "
                f"most {len(self.loss)}, the number of losses"
            )

    def __str__(self) -> str:
        loss = f"loss {self.loss[-1]:.4f}" if self.loss else "no iteration yet"
        return loss + (
            f", test error {self.test_error[-1]:.2%}" if self.test_error else ""
        )

    def add_test(self, t: int, loss: float, error: float, seconds: float) -> None:
        """Record one test, after iteration ``t``."""
        self.iterations.append(t)
        self.test_loss.append(loss)
        self.test_error.append(error)
        self.seconds.append(seconds)


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


# --- The whole loop ---


def loop(
    step: Callable[[Any], float],
    test: Callable[[], tuple[float, float]],
    dealt: Iterable[Any],
    total: int,
    every: int = 100,
    history: History | None = None,
    keep: Callable[[], None] = lambda: None,
) -> History:
    """Take one step with each batch that is dealt; test, and keep, every so many iterations."""
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
            if bar:
                bar.set_postfix_str(str(history), refresh=False)
                bar.update()
    return history


def fit(
    net: Sequential,
    optimizer: Optimizer,
    data: Dataset,
    *,
    epochs: int,
    rng: np.random.Generator,
    batch_size: int = 100,
    every: int = 100,
) -> History:
    """Train ``net`` on ``data``, test it every so many iterations, and return the history."""
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
    counts = {"epochs": epochs, "batch_size": batch_size, "every": every}
    for name, value in counts.items():
        check_integer(name, value, 1)
    _check_data(data)
    return epochs * math.ceil(len(data.x_train) / batch_size)


def _check_data(data: Dataset) -> None:
    """Raise unless the images are finite, of one shape and dtype, and have labels."""
    _check_examples("x_train", data.x_train, "y_train", data.y_train)
    _check_examples("x_test", data.x_test, "y_test", data.y_test)
    expected = ("N", *data.x_train.shape[1:])
    check_array(
        "x_test",
        data.x_test,
        expected,
        f"because x_train has shape {data.x_train.shape}",
    )
    check_same_dtype(x_train=data.x_train, x_test=data.x_test)
    for name, x in (("x_train", data.x_train), ("x_test", data.x_test)):
        finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        if not finite.all():
            n = finite.argmin()
            raise ValueError(
                f"{name}[{n}] holds NaN or infinity; expected finite images"
            )


def progress_bar(done: int, total: int) -> contextlib.AbstractContextManager:
    """Return a progress bar that is silent where nobody watches, or nothing where tqdm is missing.

    Parameters
    ----------
    done, total : int
        How many iterations lie behind, and how many there are in all.

    Returns
    -------
    context manager
        To be used in a ``with`` statement: tqdm's bar, or None without tqdm.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext()
    return tqdm(initial=done, total=total, unit="it", disable=None)
