"""Two architectures.

Exported from book/18-architectures.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .conv import Conv2d
from .network import Flatten, Layer, Linear, ReLU, Sequential, check_module
from .regularization import Dropout
from .shapes import check_integer, check_number
from .training import in_use

__all__ = ["simple_cnn", "deep_cnn", "output_shapes", "count_parameters", "summary"]


# --- Two lists of numbers ---
def simple_cnn(
    *, rng: np.random.Generator, dtype: type = np.float32, num_classes: int = 10,
    dropout: float = 0.0,
) -> Sequential:  # fmt: skip
    """Make the network of Table 1: one convolution, 232 662 parameters.

    Parameters
    ----------
    rng : np.random.Generator
        Draws the initial weights, layer after layer.
    dtype : type
        What the network computes in: np.float32, or np.float64 to check gradients.
    num_classes : int
        How many scores it gives each image.
    dropout : float
        The probability to switch off, in training, each input of the two dense layers; 0 for no
        such layers.

    Returns
    -------
    Sequential
        From images of shape (N, 1, 28, 28) to scores of shape (N, num_classes).
    """
    K = check_integer("num_classes", num_classes, 1)
    return Sequential(
        Conv2d(1, 2, 5, rng=rng, dtype=dtype),
        ReLU(),
        Flatten(),
        *_dropout(dropout, rng),
        Linear(2 * 24 * 24, 200, rng=rng, dtype=dtype),
        ReLU(),
        *_dropout(dropout, rng),
        Linear(200, K, rng=rng, dtype=dtype),
    )


def deep_cnn(
    *, rng: np.random.Generator, dtype: type = np.float32, num_classes: int = 10,
    dropout: float = 0.0,
) -> Sequential:  # fmt: skip
    """Make the network of Table 2: three convolutions, 122 270 parameters.

    Parameters, result and errors are those of ``simple_cnn``.
    """
    K = check_integer("num_classes", num_classes, 1)
    return Sequential(
        Conv2d(1, 4, 5, padding=2, rng=rng, dtype=dtype),
        ReLU(),
        Conv2d(4, 8, 5, stride=2, padding=2, rng=rng, dtype=dtype),
        ReLU(),
        Conv2d(8, 12, 4, stride=2, padding=1, rng=rng, dtype=dtype),
        ReLU(),
        Flatten(),
        *_dropout(dropout, rng),
        Linear(12 * 7 * 7, 200, rng=rng, dtype=dtype),
        ReLU(),
        *_dropout(dropout, rng),
        Linear(200, K, rng=rng, dtype=dtype),
    )


def _dropout(p: float, rng: np.random.Generator) -> list[Layer]:
    """Return a dropout layer, or none; the weights are drawn as without it."""
    check_number("dropout", p, end=1)
    return [Dropout(p, rng=rng.spawn(1)[0])] if p else []


# --- How large is everything? ---
def output_shapes(
    net: Sequential, input_shape: tuple[int, ...] = (1, 28, 28)
) -> list[tuple[int, ...]]:
    """Return one image's shape after each layer, without the batch's axis.

    Where a layer refuses what it gets, the message names the layer and both shapes.
    """
    if not isinstance(input_shape, tuple | list):
        raise TypeError(
            f"input_shape is {input_shape!r:.60}; expected such as (C, H, W)"
        )
    sizes = [check_integer("a size in input_shape", n, 1) for n in input_shape]
    used = in_use(net)
    dtypes = [a.dtype for a in used.params.values()]
    x = np.zeros((1, *sizes), dtypes[0] if dtypes else np.float32)
    shapes = []
    for i, layer in enumerate(used):
        try:
            x = layer.forward(x)
        except ValueError as err:
            where = f"layer {i}, {layer}, gets shape {x.shape[1:]}"
            raise ValueError(f"{where}: {err}") from err
        shapes.append(x.shape[1:])
    return shapes


# --- How many numbers are learned? ---
def count_parameters(net: Layer) -> int:
    """Return how many numbers a layer or a network learns.

    Implements {eq}`eq:count-conv` and {eq}`eq:count-dense`, added up over the layers.

    Parameters
    ----------
    net : Layer
        A layer, or a network.

    Returns
    -------
    int
        How many numbers its parameters hold.
    """
    check_module(net)
    return sum(a.size for a in net.params.values())


def summary(net: Sequential, input_shape: tuple[int, ...] = (1, 28, 28)) -> str:
    """Return a table of the layers, one image's shape after each, and the parameters.

    Parameters
    ----------
    net : Sequential
        The network; it is not changed.
    input_shape : tuple of int
        One image's shape, (C, H, W).

    Returns
    -------
    str
        Lines to print.
    """
    shapes = output_shapes(net, input_shape)
    rows = [
        ("", "layer", "output", "parameters"),
        ("", "input", f"{tuple(input_shape)}", ""),
    ]
    for i, shape in enumerate(shapes):
        layer = f"{net[i]}".replace(", dilation=1", "")  # nearly always 1
        rows.append((f"{i}", layer, f"{shape}", _spaced(count_parameters(net[i]))))
    rows.append(("", "total", "", _spaced(count_parameters(net))))
    return _table(rows)


def _spaced(n: int) -> str:
    """Write a number with a space between groups of digits."""
    return f"{n:,}".replace(",", " ")


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    """Line the columns up, a rule under the first row and one above the last."""
    w = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{i:>{w[0]}}  {layer:<{w[1]}}  {shape:<{w[2]}}  {n:>{w[3]}}"
        for i, layer, shape, n in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
