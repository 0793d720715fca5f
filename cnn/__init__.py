"""Convolutional networks in NumPy: every equation derived, every gradient checked.

A small network learns to read the handwritten digits that come with the package:

>>> import numpy as np
>>> from cnn import Adam, Conv2d, Flatten, Linear, ReLU, Sequential, digits, fit
>>> rng = np.random.default_rng(0)
>>> net = Sequential(
...     Conv2d(1, 8, 5, stride=2, rng=rng), ReLU(),
...     Flatten(), Linear(1152, 10, rng=rng),
... )
>>> history = fit(net, Adam(net.params, lr=3e-3), digits(), epochs=10, rng=rng)
>>> round(history.test_error[-1], 2)
0.06

So it misreads 6 % of the 299 digits that it has never seen. ``simple_cnn`` and
``deep_cnn`` are the book's two networks; the program ``cnn`` (``python -m cnn --help``) trains
them on MNIST, tests them, and reads digits from pictures.

Images and labels are in ``data``, costs in ``losses``, layers in ``network``, ``conv``,
``pooling``, ``regularization`` and ``batchnorm``, optimisers in ``optimizers``, the loop in
``training``; ``gradcheck`` checks derivatives.

Exported from book/package.ipynb: edit the chapter and run `make export`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

# --- The shortest useful example ---
__version__ = "0.1.0"


_HOMES = {
    "backend": "use",
    "batchnorm": "BatchNorm1d BatchNorm2d",
    "checkpoint": "fit train",
    "conv": "Conv2d conv2d conv2d_backward",
    "correlation": "output_size",
    "data": "Dataset batches digits one_hot read_folder",
    "files": "load load_arrays save_arrays",
    "gradcheck": "check_gradient numerical_gradient relative_error",
    "initialization": "kaiming_normal_ xavier_normal_",
    "losses": "cross_entropy cross_entropy_backward error_rate softmax",
    "models": "count_parameters deep_cnn simple_cnn summary",
    "network": "Flatten Layer Linear ReLU Sequential Sigmoid Tanh",
    "optimizers": "SGD Adam AdamW ExponentialDecay",
    "pooling": "AvgPool2d GlobalAvgPool2d MaxPool2d",
    "recipes": "probabilities",
    "regularization": "Dropout",
    "training": "History evaluate train_step",
    "weights": "load_weights save_weights",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = [  # in words that type checkers read; tests compare it with _HOME
    "Adam", "AdamW", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conv2d", "Dataset",
    "Dropout", "ExponentialDecay", "Flatten", "GlobalAvgPool2d", "History", "Layer",
    "Linear", "MaxPool2d", "ReLU", "SGD", "Sequential", "Sigmoid", "Tanh",
    "batches", "check_gradient", "conv2d", "conv2d_backward", "count_parameters",
    "cross_entropy", "cross_entropy_backward", "deep_cnn", "digits", "error_rate",
    "evaluate", "fit", "kaiming_normal_", "load", "load_arrays", "load_weights",
    "numerical_gradient", "one_hot", "output_size", "probabilities", "read_folder",
    "relative_error", "save_arrays", "save_weights", "simple_cnn", "softmax",
    "summary", "train", "train_step", "use", "xavier_normal_",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for, and the fast functions before it."""
    if name in _HOME:
        import_module("cnn.backend")
        value = getattr(import_module(f"cnn.{_HOME[name]}"), name)
    elif not name.startswith("_") and find_spec(f"cnn.{name}"):
        value = import_module(f"cnn.{name}")
    else:
        raise AttributeError(f"module 'cnn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from cnn.backend import use
    from cnn.batchnorm import BatchNorm1d, BatchNorm2d
    from cnn.checkpoint import fit, train
    from cnn.conv import Conv2d, conv2d, conv2d_backward
    from cnn.correlation import output_size
    from cnn.data import Dataset, batches, digits, one_hot, read_folder
    from cnn.files import load, load_arrays, save_arrays
    from cnn.gradcheck import check_gradient, numerical_gradient, relative_error
    from cnn.initialization import kaiming_normal_, xavier_normal_
    from cnn.losses import cross_entropy, cross_entropy_backward, error_rate, softmax
    from cnn.models import count_parameters, deep_cnn, simple_cnn, summary
    from cnn.network import Flatten, Layer, Linear, ReLU, Sequential, Sigmoid, Tanh
    from cnn.optimizers import SGD, Adam, AdamW, ExponentialDecay
    from cnn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
    from cnn.recipes import probabilities
    from cnn.regularization import Dropout
    from cnn.training import History, evaluate, train_step
    from cnn.weights import load_weights, save_weights
