"""Training on MNIST.

Exported from book/19-mnist.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .data import Dataset, check_dataset, digits
from .losses import softmax
from .models import deep_cnn, simple_cnn
from .network import Sequential
from .optimizers import Adam, ExponentialDecay, Rate
from .shapes import check_array, check_integer, shapes
from .training import History, fit, in_use

__all__ = [
    "SEED", "MODELS", "DECAY", "RECIPES", "epochs_for", "prepare", "train",
    "plot_curves", "interval", "probabilities",
]  # fmt: skip


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# --- What is decided beforehand ---
SEED = 0
MODELS: dict[str, Callable[..., Sequential]] = {"simple": simple_cnn, "deep": deep_cnn}
DECAY = ExponentialDecay(gamma_max=0.003, gamma_min=0.0001, tau=2000)
# learning rate or schedule, and the share of the dense layers' inputs switched off
RECIPES: dict[str, tuple[Rate, float]] = {
    "constant": (1e-3, 0.0),
    "schedule": (DECAY, 0.0),
    "dropout": (DECAY, 0.25),
}


def epochs_for(data: Dataset) -> int:
    """Return the number of epochs: 15, or 120 on the much smaller embedded digits."""
    # known by its images: any folder may be called "digits"
    embedded = np.array_equal(data.x_test, digits().x_test)
    return 120 if embedded else 15


def prepare(
    model: str = "simple", recipe: str = "constant", *, seed: int = SEED,
    num_classes: int = 10, dtype: type = np.float32, lr: Rate | None = None,
) -> tuple[Sequential, Adam, np.random.Generator]:  # fmt: skip
    """Return a new network, its optimiser, and the generator that shuffles the images."""
    for name, value, known in (("model", model, MODELS), ("recipe", recipe, RECIPES)):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    rate, dropout = RECIPES[recipe]
    init, order = np.random.default_rng(check_integer("seed", seed, 0)).spawn(2)
    net = MODELS[model](rng=init, dtype=dtype, num_classes=num_classes, dropout=dropout)
    return net, Adam(net.params, lr=rate if lr is None else lr), order


def train(
    data: Dataset, model: str = "simple", recipe: str = "constant", *,
    epochs: int | None = None, seed: int = SEED, lr: Rate | None = None,
    batch_size: int = 100, fit: Callable[..., History] = fit,
) -> tuple[Sequential, History]:  # fmt: skip
    """Train a network, and test it every 100 iterations."""
    check_dataset(data)
    check_array("x_train", data.x_train, ("N", 1, 28, 28), "both networks take 28×28")
    how: dict[str, Any] = {"seed": seed, "num_classes": data.num_classes, "lr": lr}
    net, optimizer, order = prepare(model, recipe, **how)
    epochs = epochs_for(data) if epochs is None else epochs
    run = {"epochs": epochs, "rng": order, "batch_size": batch_size}
    return net, fit(net, optimizer, data, **run)


# --- The runs ---
def plot_curves(histories: Mapping[str, History]) -> "Figure":
    """Draw each run's losses, on a logarithmic scale, and below them its test errors."""
    from matplotlib.figure import Figure

    if not histories or not all(h.iterations for h in histories.values()):
        raise ValueError(
            f"histories is {histories!r:.60}; expected runs with at least one test each"
        )
    figure = Figure(figsize=(6.5, 5.4), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for i, (name, h) in enumerate(histories.items()):
        window = max(1, min(100, len(h.loss) // 10))
        mean = np.convolve(h.loss, np.full(window, 1 / window), "valid")
        dots = f"C{i}.-" if len(mean) < 50 else f"C{i}"  # a short line is no curve yet
        above.semilogy(range(window, len(h.loss) + 1), mean, dots, lw=0.7)
        size = 3 if len(h.iterations) > 10 else 7
        test = {"color": f"C{i}", "marker": "o", "markersize": size, "label": name}
        above.semilogy(h.iterations, h.test_loss, **test)
        below.plot(h.iterations, 100 * np.array(h.test_error), **test)
    above.set_ylabel("cross-entropy\n(thin: training, dots: test)")
    above.legend()
    worst = max(h.test_error[-1] for h in histories.values())
    highest = min(100, 300 * worst) or None
    below.set(xlabel="iteration", ylabel="test error in %", ylim=(0, highest))
    return figure


# --- What the seeds show ---
@shapes("d (R) real")
def interval(d: np.ndarray, c: float = 0.95) -> tuple[float, float]:
    """Return the mean of differences and half the width of its confidence interval.

    Implements {eq}`eq:paired-interval`.
    """
    R, t = len(d), np.arange(0.0005, 1000, 0.001)
    density = (1 + t**2 / (R - 1)) ** (-R / 2)
    t_c = np.interp(c, np.cumsum(density) / density.sum(), t)
    return float(d.mean()), float(t_c * d.std(ddof=1) / np.sqrt(R))


# --- What the mistakes show ---
def probabilities(net: Sequential, x: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Compute the probability of each class for each image, a batch at a time.

    It computes as after ``net.eval()``: the softmax of the network's scores at inference.

    Parameters
    ----------
    net : Sequential
        The network, which is not touched.
    x : np.ndarray
        The images, shape (N, C, H, W) or whatever the first layer takes.
    batch_size : int
        How many images to compute at once.

    Returns
    -------
    np.ndarray
        The probabilities P, shape (N, K), dtype as the network's.
    """
    check_array("x", x, ("N", "..."))
    check_integer("batch_size", batch_size, 1)
    parts = (x[n : n + batch_size] for n in range(0, len(x), batch_size))
    used = in_use(net)
    return np.vstack([softmax(used.forward(part)) for part in parts])
