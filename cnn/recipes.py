"""Training on MNIST.

Exported from book/19-mnist.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .data import Dataset
from .losses import softmax
from .models import deep_cnn, simple_cnn
from .network import Sequential
from .optimizers import Adam, ExponentialDecay
from .shapes import check_array, check_integer
from .training import History, fit, in_use

__all__ = [
    "SEED",
    "MODELS",
    "DECAY",
    "RECIPES",
    "epochs_for",
    "prepare",
    "train",
    "plot_curves",
    "probabilities",
]


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# --- What is decided beforehand ---


SEED = 0
MODELS = {"simple": simple_cnn, "deep": deep_cnn}
DECAY = ExponentialDecay(gamma_max=0.003, gamma_min=0.0001, tau=2000)
# learning rate or schedule, and the share of the dense layers' inputs that are switched off
RECIPES = {"constant": (1e-3, 0.0), "schedule": (DECAY, 0.0), "dropout": (DECAY, 0.25)}


def epochs_for(data: Dataset) -> int:
    """Return how many epochs are trained: 15, or 120 on the much smaller embedded digits.

    Parameters
    ----------
    data : Dataset
        What is learned from.

    Returns
    -------
    int
        The number of epochs.

    Raises
    ------
    AttributeError
        ``data`` has no name: it is no ``Dataset``.
    """
    return 120 if data.name == "digits" else 15


def prepare(
    model: str = "simple",
    recipe: str = "constant",
    *,
    seed: int = SEED,
    num_classes: int = 10,
    dtype: type = np.float32,
) -> tuple[Sequential, Adam, np.random.Generator]:
    """Make all that a run begins with: the network, its optimiser, and what shuffles the images.

    Parameters
    ----------
    model : str
        A key of ``MODELS``: ``"simple"`` for Table 1, ``"deep"`` for Table 2.
    recipe : str
        A key of ``RECIPES``: ``"constant"``, ``"schedule"`` or ``"dropout"``.
    seed : int
        Where all chance comes from: initial weights, dropout, the order of the images.
    num_classes : int
        How many scores the network gives.
    dtype : type
        What it computes in, np.float32 or np.float64.

    Returns
    -------
    net : Sequential
        The network with its initial weights.
    optimizer : Adam
        Its optimiser.
    order : np.random.Generator
        Shuffles the images: to be given to ``fit`` as ``rng``.

    Raises
    ------
    TypeError, ValueError
        ``model`` or ``recipe`` is no such key, or a number is out of range.
    """
    for name, value, known in (("model", model, MODELS), ("recipe", recipe, RECIPES)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    check_integer("seed", seed, 0)
    lr, dropout = RECIPES[recipe]
    init, order = np.random.default_rng(seed).spawn(2)
    net = MODELS[model](rng=init, dtype=dtype, num_classes=num_classes, dropout=dropout)
    return net, Adam(net.params, lr=lr), order


def train(
    data: Dataset,
    model: str = "simple",
    recipe: str = "constant",
    *,
    epochs: int | None = None,
    seed: int = SEED,
    fit: Callable[..., History] = fit,
) -> tuple[Sequential, History]:
    """Train a network: batches of 100 images, a test every 100 iterations."""
    check_array("x_train", data.x_train, ("N", 1, 28, 28), "both networks take 28×28")
    net, optimizer, order = prepare(
        model, recipe, seed=seed, num_classes=data.num_classes
    )
    epochs = epochs_for(data) if epochs is None else epochs
    return net, fit(net, optimizer, data, epochs=epochs, rng=order)


# --- The runs ---


def plot_curves(histories: Mapping[str, History]) -> "Figure":
    """Draw the losses on a logarithmic scale and, below, the error rate on the test set.

    Parameters
    ----------
    histories : mapping of str to History
        What ``fit`` returned, by the name that the run has in the legend.

    Returns
    -------
    matplotlib.figure.Figure
        The picture: thin lines are the mean loss of 100 batches, thick ones come from the test set.

    Raises
    ------
    ImportError
        Matplotlib is not installed.
    ValueError
        A history holds no test, or there is no history.
    """
    from matplotlib.figure import Figure

    if not histories or not all(h.iterations for h in histories.values()):
        raise ValueError(
            f"histories is {histories!r:.60}; expected runs with at least one test each"
        )
    figure = Figure(figsize=(6.5, 5.4), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for i, (name, history) in enumerate(histories.items()):
        window = min(100, len(history.loss))
        mean = np.convolve(history.loss, np.full(window, 1 / window), "valid")
        t = np.arange(window, len(history.loss) + 1)
        above.semilogy(t, mean, f"C{i}", lw=0.7)
        above.semilogy(history.iterations, history.test_loss, f"C{i}", lw=2, label=name)
        below.plot(history.iterations, 100 * np.array(history.test_error), f"C{i}")
    above.set_ylabel("cross-entropy\n(thin: training, thick: test)")
    above.legend()
    below.set(xlabel="iteration", ylabel="test error in %", ylim=(0, None))
    return figure


# --- Everything it still gets wrong ---


def probabilities(net: Sequential, x: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Compute the probability of each class for each image, a batch at a time.

    Implements {eq}`eq:softmax` on the network's scores; it computes as after ``net.eval()``.

    Parameters
    ----------
    net : Sequential
        The network; every layer's mode is put back.
    x : np.ndarray
        The images, shape (N, C, H, W) or whatever the first layer takes.
    batch_size : int
        How many images to compute at once.

    Returns
    -------
    np.ndarray
        The probabilities P, shape (N, K), dtype as the network's.

    Raises
    ------
    TypeError, ValueError
        ``x`` is empty or does not fit the network, or ``batch_size`` is below 1.
    """
    check_array("x", x, ("N", *np.shape(x)[1:]))
    check_integer("batch_size", batch_size, 1)
    with in_use(net):
        return np.vstack(
            [
                softmax(net.forward(x[start : start + batch_size]))
                for start in range(0, len(x), batch_size)
            ]
        )
