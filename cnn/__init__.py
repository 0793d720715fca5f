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
``pooling`` and ``regularization``, optimisers in ``optimizers``, the loop in ``training``;
``gradcheck`` checks derivatives.

Exported from book/package.ipynb: edit the chapter and run `make export`.
"""

from .backend import use
from .batchnorm import BatchNorm1d, BatchNorm2d
from .checkpoint import fit, train
from .conv import Conv2d, conv2d, conv2d_backward
from .correlation import output_size
from .data import Dataset, batches, digits, one_hot, read_folder
from .files import load, load_arrays, load_weights, save_arrays, save_weights
from .gradcheck import check_gradient, numerical_gradient, relative_error
from .initialization import kaiming_normal_, xavier_normal_
from .losses import cross_entropy, cross_entropy_backward, error_rate, softmax
from .models import count_parameters, deep_cnn, simple_cnn, summary
from .network import Flatten, Layer, Linear, ReLU, Sequential, Sigmoid, Tanh
from .optimizers import SGD, Adam, ExponentialDecay
from .pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from .recipes import probabilities
from .regularization import AdamW, Dropout
from .training import History, evaluate, train_step

__all__ = [
    "use",
    "BatchNorm1d",
    "BatchNorm2d",
    "fit",
    "train",
    "Conv2d",
    "conv2d",
    "conv2d_backward",
    "output_size",
    "Dataset",
    "batches",
    "digits",
    "one_hot",
    "read_folder",
    "load",
    "load_arrays",
    "load_weights",
    "save_arrays",
    "save_weights",
    "check_gradient",
    "numerical_gradient",
    "relative_error",
    "kaiming_normal_",
    "xavier_normal_",
    "cross_entropy",
    "cross_entropy_backward",
    "error_rate",
    "softmax",
    "count_parameters",
    "deep_cnn",
    "simple_cnn",
    "summary",
    "Flatten",
    "Layer",
    "Linear",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "SGD",
    "Adam",
    "ExponentialDecay",
    "AvgPool2d",
    "GlobalAvgPool2d",
    "MaxPool2d",
    "probabilities",
    "AdamW",
    "Dropout",
    "History",
    "evaluate",
    "train_step",
]


# --- The shortest useful example ---


__version__ = "0.1.0"
