"""Every public function tells a wrong argument: what it got, what it expected, both shapes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpydoc.docscrape import ClassDoc, FunctionDoc

import cnn
from cnn.activations import (
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    tanh,
    tanh_backward,
)
from cnn.augment import augment, bilinear, warp
from cnn.backend import use
from cnn.bands import conv2d_bands, conv2d_bands_backward
from cnn.batchnorm import (
    BatchNorm1d,
    BatchNorm2d,
    batch_norm,
    batch_norm_backward,
    moments,
)
from cnn.checkpoint import fit, train
from cnn.conv import (
    Conv2d,
    check_implementation,
    check_where,
    conv2d,
    conv2d_backward,
    filter_size,
)
from cnn.correlation import (
    conv2d_loops,
    geometry,
    output_size,
    pad,
    padding_sides,
    windows,
)
from cnn.correlation_grad import (
    check_conv_backward,
    conv2d_correlation_backward,
    conv2d_loops_backward,
    conv2d_matrix,
    correlate,
    crop,
    rot180,
    spread,
)
from cnn.data import (
    Dataset,
    batches,
    check_dataset,
    digits,
    enlarge,
    one_hot,
    read_folder,
    read_idx,
    scale,
)
from cnn.decoding import read_picture
from cnn.dense import linear, linear_backward
from cnn.files import (
    check_history,
    history_from,
    load,
    load_arrays,
    load_history,
    mnist,
    save_arrays,
    save_history,
)
from cnn.gradcheck import (
    check_gradient,
    complex_step_gradient,
    numerical_gradient,
    relative_error,
)
from cnn.handwriting import (
    as_mnist,
    center_of_mass,
    check_picture,
    ink,
    resize,
)
from cnn.im2col import col2im, conv2d_im2col, conv2d_im2col_backward, im2col
from cnn.initialization import fans, kaiming_normal_, xavier_normal_
from cnn.kernels import conv2d_compiled
from cnn.kernels_grad import conv2d_compiled_backward
from cnn.losses import (
    check_scores,
    cross_entropy,
    cross_entropy_and_gradient,
    cross_entropy_backward,
    error_rate,
    log_sum_exp,
    softmax,
)
from cnn.models import deep_cnn, output_shapes, simple_cnn, summary
from cnn.network import (
    Container,
    Flatten,
    Layer,
    Linear,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    check_module,
    check_state,
    rows,
    uniform_params,
)
from cnn.optimizers import (
    SGD,
    Adam,
    AdamW,
    ExponentialDecay,
    Optimizer,
    adam_update,
    check_adam,
    check_grads,
    check_optimizer,
    check_params,
)
from cnn.pictures import find_digit, read_digit
from cnn.pooling import (
    AvgPool2d,
    GlobalAvgPool2d,
    MaxPool2d,
    avg_pool2d,
    avg_pool2d_backward,
    global_avg_pool2d,
    global_avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    pool_geometry,
    window_counts,
)
from cnn.recipes import epochs_for, interval, plot_curves, prepare, probabilities
from cnn.regularization import Dropout, dropout, dropout_backward
from cnn.shapes import (
    check_array,
    check_generator,
    check_integer,
    check_labels,
    check_number,
    check_same_dtype,
    shapes,
)
from cnn.training import (
    History,
    check_data,
    check_run,
    check_trains,
    evaluate,
    in_use,
    train_step,
)
from cnn.visualize import (
    activations,
    confusion_matrix,
    most_confident_mistakes,
    occlusion,
    saliency,
)
from cnn.weights import load_weights, network_of, save_weights

NOWHERE = Path("no") / "such" / "folder"


def f(*shape: int) -> np.ndarray:
    """Return float64 numbers of this shape, none of them alike."""
    return np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)


def f32(*shape: int) -> np.ndarray:
    """Return the same in float32."""
    return f(*shape).astype(np.float32)


def rng() -> np.random.Generator:
    """Return a fresh generator."""
    return np.random.default_rng(0)


# --- Every array argument, replaced by every kind of wrong array ---

X, W, B, DZ, G = (
    f(2, 3, 6, 5),
    f(4, 3, 3, 2),
    f(4),
    f(2, 4, 4, 4),
    geometry((6, 5), (3, 2)),
)
LABELS, Z = np.array([0, 2]), f(2, 3)
WON = np.zeros((2, 3, 3, 2), int)
CONV = {"x": X, "W": W, "b": B}
CONV_BACK = {"dz": DZ, "x": X, "W": W}
ADAM = (1, 0.1, (0.9, 0.999), 1e-8)

# by name: the function and good arguments
ARRAYS: dict[str, tuple[Callable[..., object], dict[str, np.ndarray]]] = {
    "relu": (relu, {"z": Z}),
    "sigmoid": (sigmoid, {"z": Z}),
    "tanh": (tanh, {"z": Z}),
    "relu_backward": (relu_backward, {"dq": Z, "q": Z}),
    "sigmoid_backward": (sigmoid_backward, {"dq": Z, "q": Z}),
    "tanh_backward": (tanh_backward, {"dq": Z, "q": Z}),
    "softmax": (softmax, {"z": Z}),
    "log_sum_exp": (log_sum_exp, {"z": Z}),
    "cross_entropy": (cross_entropy, {"z": Z, "y": LABELS}),
    "cross_entropy_backward": (cross_entropy_backward, {"z": Z, "y": LABELS}),
    "cross_entropy_and_gradient": (
        cross_entropy_and_gradient,
        {"z": Z, "y": LABELS},
    ),
    "error_rate": (error_rate, {"z": Z, "y": LABELS}),
    "linear": (linear, {"q": f(2, 3), "W": f(4, 3), "b": B}),
    "linear_backward": (linear_backward, {"dz": f(2, 4), "q": f(2, 3), "W": f(4, 3)}),
    "rows": (rows, {"x": X}),
    "adam_update": (
        lambda g, m, v: adam_update(Z.copy(), g, m, v, *ADAM),
        {"g": Z, "m": Z.copy(), "v": Z * Z},
    ),
    "conv2d": (conv2d, CONV),
    "conv2d_compiled": (conv2d_compiled, CONV),
    "conv2d_compiled_backward": (conv2d_compiled_backward, CONV_BACK),
    "conv2d_loops": (conv2d_loops, CONV),
    "conv2d_backward": (conv2d_backward, CONV_BACK),
    "conv2d_loops_backward": (conv2d_loops_backward, CONV_BACK),
    "conv2d_correlation_backward": (conv2d_correlation_backward, CONV_BACK),
    "check_conv_backward": (lambda dz: check_conv_backward(dz, X, W), {"dz": DZ}),
    "conv2d_matrix": (lambda W: conv2d_matrix(W, (6, 5)), {"W": W}),
    "correlate": (correlate, {"x": X, "W": W}),
    "pad": (lambda x: pad(x, G), {"x": X}),
    "im2col": (lambda x: im2col(x, 3, 2, G), {"x": X}),
    "windows": (lambda x: windows(x, 3, 2, G), {"x": X}),
    "col2im": (lambda dV: col2im(dV, G), {"dV": f(2, 3, 3, 2, 4, 4)}),
    "conv2d_im2col": (conv2d_im2col, CONV),
    "conv2d_im2col_backward": (conv2d_im2col_backward, CONV_BACK),
    "conv2d_bands": (conv2d_bands, CONV),
    "conv2d_bands_backward": (conv2d_bands_backward, CONV_BACK),
    "crop": (lambda dxbar: crop(dxbar, X.shape, G), {"dxbar": X}),
    "scale": (scale, {"images": np.ones((2, 3, 3), np.uint8)}),
    "enlarge": (lambda images: enlarge(images, 5), {"images": f(2, 3, 3)}),
    "one_hot": (lambda y: one_hot(y, 3), {"y": LABELS}),
    "numerical_gradient": (
        lambda theta: numerical_gradient(np.sum, theta),
        {"theta": Z},
    ),
    "complex_step_gradient": (
        lambda theta: complex_step_gradient(np.sum, theta),
        {"theta": Z},
    ),
    "check_gradient": (
        lambda theta, dtheta: check_gradient(np.sum, theta, dtheta),
        {"theta": Z, "dtheta": np.ones((2, 3))},
    ),
    "train_step": (
        lambda x, y: train_step(net := small(), SGD(net.params, 0.1), x, y),
        {"x": f32(2, 1, 3, 3), "y": LABELS},
    ),
    "check_data": (
        check_data,
        {
            "x_train": f32(6, 1, 3, 3),
            "y_train": np.arange(6),
            "x_test": f32(4, 1, 3, 3),
            "y_test": np.arange(4),
        },
    ),
    "evaluate": (
        lambda x, y: evaluate(small(), x, y),
        {"x": f32(2, 1, 3, 3), "y": LABELS},
    ),
    "Linear": (lambda x: Linear(3, 2, rng=rng(), dtype=np.float64)(x), {"x": f(2, 3)}),
    "Conv2d": (lambda x: Conv2d(3, 2, 3, rng=rng(), dtype=np.float64)(x), {"x": X}),
    "max_pool2d": (lambda x: max_pool2d(x, 2), {"x": X}),
    "max_pool2d_backward": (
        lambda dy, x: max_pool2d_backward(dy, x, np.zeros((2, 3, 3, 2), int), 2),
        {"dy": f(2, 3, 3, 2), "x": X},
    ),
    "avg_pool2d": (lambda x: avg_pool2d(x, 2), {"x": X}),
    "avg_pool2d_backward": (
        lambda dy, x: avg_pool2d_backward(dy, x, 2),
        {"dy": f(2, 3, 3, 2), "x": X},
    ),
    "global_avg_pool2d": (global_avg_pool2d, {"x": X}),
    "global_avg_pool2d_backward": (
        global_avg_pool2d_backward,
        {"dy": f(2, 3, 1, 1), "x": X},
    ),
    "MaxPool2d": (lambda x: MaxPool2d(2)(x), {"x": X}),
    "AvgPool2d": (lambda x: AvgPool2d(2)(x), {"x": X}),
    "GlobalAvgPool2d": (lambda x: GlobalAvgPool2d()(x), {"x": X}),
    "ReLU": (lambda x: ReLU()(x), {"x": Z}),
    "Sigmoid": (lambda x: Sigmoid()(x), {"x": Z}),
    "Tanh": (lambda x: Tanh()(x), {"x": Z}),
    "Flatten": (lambda x: Flatten()(x), {"x": X}),
    "Sequential": (lambda x: small()(x), {"x": f32(2, 1, 3, 3)}),
    "dropout": (lambda x: dropout(x, 0.5, rng()), {"x": X}),
    "dropout_backward": (dropout_backward, {"dy": X, "r": X}),
    "moments": (moments, {"x": X}),
    "batch_norm": (batch_norm, {"x": X, "gamma": f(3), "beta": f(3)}),
    "batch_norm_backward": (
        batch_norm_backward,
        {"dy": X, "x": X, "gamma": f(3)},
    ),
    "Dropout": (lambda x: Dropout(rng=rng())(x), {"x": X}),
    "BatchNorm1d": (lambda x: BatchNorm1d(3, dtype=np.float64)(x), {"x": f(2, 3)}),
    "BatchNorm2d": (lambda x: BatchNorm2d(3, dtype=np.float64)(x), {"x": X}),
    "fans": (fans, {"W": W}),
    "xavier_normal_": (lambda W: xavier_normal_(W, rng()), {"W": W.copy()}),
    "kaiming_normal_": (lambda W: kaiming_normal_(W, rng()), {"W": W.copy()}),
    "spread": (lambda a: spread(a, 2), {"a": DZ}),
    "rot180": (rot180, {"a": DZ}),
    "interval": (interval, {"d": f(4)}),
    "bilinear": (bilinear, {"x": X, "h": f(2, 5), "w": f(2, 5)}),
    "warp": (warp, {"x": X, "M": f(2, 2, 2), "o": f(2, 2)}),
    "augment": (lambda x: augment(x, rng()), {"x": X}),
    "activations": (lambda x: activations(small(), x), {"x": f32(2, 1, 3, 3)}),
    "saliency": (
        lambda x, y: saliency(small(), x, y),
        {"x": f32(2, 1, 3, 3), "y": LABELS},
    ),
    "occlusion": (
        lambda x, y: occlusion(small(), x, y, 2),
        {"x": f32(2, 1, 3, 3), "y": LABELS},
    ),
    "confusion_matrix": (
        lambda y, answers: confusion_matrix(y, answers, 3),
        {"y": LABELS, "answers": LABELS[::-1].copy()},
    ),
    "most_confident_mistakes": (most_confident_mistakes, {"P": Z, "y": LABELS}),
}
ANY_NDIM = {
    *(
        "relu",
        "sigmoid",
        "tanh",
        "ReLU",
        "Sigmoid",
        "Tanh",
        "Flatten",
        "rows",
        "spread",
        "rot180",
        "dropout",
        "Dropout",
        "moments",
    ),
    *(
        "numerical_gradient",
        "complex_step_gradient",
        "fans",
        "xavier_normal_",
        "kaiming_normal_",
    ),
}
# the axis whose size another argument prescribes
GROWS = {"x": 1, "W": 1, "b": 0, "dz": 1, "q": 1, "dq": 0, "z": 0, "y": 0, "dtheta": 0}
GROWS |= {"dy": 1, "r": 1, "gamma": 0, "beta": 0}
CONVERTS = {"x", "W", "b", "dz", "q", "dq", "dy", "r", "gamma", "beta"}
ANY_CHANNELS = {"bilinear", "warp"}


def small() -> Sequential:
    """Return a small network in float32, for images of shape (1, 3, 3)."""
    return Sequential(
        Conv2d(1, 2, 2, rng=rng()), ReLU(), Flatten(), Linear(8, 3, rng=rng())
    )


Wrong = tuple[object, type[Exception], tuple[str, ...]]


def wrong_arrays(name: str, argument: str, a: np.ndarray) -> dict[str, Wrong]:
    """Return what may be wrong with an argument: a stand-in, the error, the message's parts."""
    less, more, shapes = np.asarray(a[0]), a[np.newaxis], (" has shape (", "expected (")
    wrong: dict[str, Wrong] = {
        "None": (None, TypeError, (argument, "NoneType")),
        "list": (a.tolist(), TypeError, (argument, "list")),
        "objects": (a.astype(object), TypeError, (argument, "object")),
        "booleans": (a > 0, TypeError, (argument, "bool")),
        "strings": (a.astype(str), TypeError, (argument, "<U")),
        "empty": (a[:0], ValueError, (argument, str(a[:0].shape))),
    }
    if name not in ANY_NDIM:
        wrong["an axis less"] = (less, ValueError, (str(less.shape), *shapes))
        wrong["an axis more"] = (more, ValueError, (str(more.shape), *shapes))
    if argument == "y":
        wrong["floats"] = (a.astype(float), TypeError, (argument, "float64"))
        wrong["negative"] = (a - 1, ValueError, ("y[0] is -1", "0 to 2"))
        wrong["too large"] = (a + 1, ValueError, ("y[1] is 3", "0 to 2"))
    grows = argument in GROWS and name not in ANY_CHANNELS
    if len(ARRAYS[name][1]) > 1 and grows:
        wrong["another size"] = (
            np.concatenate([a, a], GROWS[argument]),
            ValueError,
            shapes,
        )
        if argument in CONVERTS:
            other = np.float32 if a.dtype == np.float64 else np.float64
            wrong["of another dtype"] = (
                a.astype(other),
                TypeError,
                ("float32", "float64"),
            )
    return wrong


@pytest.mark.parametrize(
    ("name", "argument", "wrong"),
    [
        pytest.param(name, argument, wrong, id=f"{name}: {argument} is {what}")
        for name, (_, arguments) in ARRAYS.items()
        for argument, a in arguments.items()
        for what, wrong in wrong_arrays(name, argument, a).items()
    ],
)
def test_a_wrong_array_is_told(name: str, argument: str, wrong: Wrong) -> None:
    """What NumPy would broadcast, convert or pass on must be told, with both shapes or dtypes."""
    function, arguments = ARRAYS[name]
    bad, error, parts = wrong
    with pytest.raises(error) as caught:
        function(*(arguments | {argument: bad}).values())
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in: {caught.value}"


def test_good_arrays_are_taken() -> None:
    """Otherwise the errors above could have another reason."""
    for function, arguments in ARRAYS.values():
        function(*arguments.values())


# --- Everything else that can be wrong ---

NET = {"rng": np.random.default_rng(0), "dtype": np.float64}
THETA = {"w": f(2, 3)}
NOISE = Dataset(
    "noise", f32(6, 1, 3, 3), np.arange(6) % 3, f32(4, 1, 3, 3), np.arange(4) % 3
)
NAN = f(2, 3)
NAN[1, 2] = np.nan


def run(data: Dataset = NOISE, **options: object) -> History:
    """Train a small network on made-up images."""
    net = small()
    return fit(net, SGD(net.params, 0.1), data, **{"epochs": 1, "rng": rng()} | options)


def state(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the small network's weights with some arrays changed."""
    return small().state_dict() | changes


def without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the arrays but one."""
    return {k: a for k, a in arrays.items() if k != name}


def half(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays in float16."""
    return {k: a.astype(np.float16) for k, a in arrays.items()}


Call = Callable[[], object]
Error = type[BaseException] | tuple[type[BaseException], ...]
CALLS: dict[str, list[tuple[Call, Error, tuple[str, ...]]]] = {
    "conv2d_compiled": [
        (lambda: conv2d_compiled(**CONV, stride=0), ValueError, ("stride is 0",)),
        (lambda: conv2d_compiled(**CONV, dilation=3), ValueError, ("spans 7", "has 6")),
        (
            lambda: conv2d_compiled(**{k: a.astype(">f8") for k, a in CONV.items()}),
            TypeError,
            (">f8", "astype"),
        ),
    ],
    "conv2d_compiled_backward": [
        (
            lambda: conv2d_compiled_backward(**CONV_BACK, stride=2),
            ValueError,
            (str(DZ.shape), "(2, 4, 2, 2)"),
        ),
    ],
    # data
    "check_array": [
        (lambda: check_array("a", [1], ("N",)), TypeError, ("a ", "list", "(N,)")),
        (
            lambda: check_array("a", f(2), ("N", 3)),
            ValueError,
            ("a ", "(2,)", "(N, 3)"),
        ),
        (
            lambda: check_array("a", f(2, 4), ("N", 3), "why"),
            ValueError,
            ("(2, 4)", "why"),
        ),
        (lambda: check_array("a", f(0, 3), ("N", 3)), ValueError, ("(0, 3)", "empty")),
        (
            lambda: check_array("a", f(2), ("N",), kind="integer"),
            TypeError,
            ("float64", "integers"),
        ),
    ],
    "check_same_dtype": [
        (
            lambda: check_same_dtype(x=f(1), W=f32(1)),
            TypeError,
            ("x float64", "W float32"),
        ),
    ],
    "check_implementation": [
        (
            lambda: check_implementation("gpu"),
            ValueError,
            ("'gpu'", "expected one of auto, numpy"),
        )
    ],
    "shapes": [
        (lambda: shapes("q N"), ValueError, ("'q N'", "expected")),
        (lambda: shapes("q (N) whole"), ValueError, ("q is whole", "integer")),
        (lambda: shapes("V (N)")(rot180.behind), TypeError, ("rot180", "'V'", "['a']")),
    ],
    "check_scores": [
        (lambda: check_scores(NAN, LABELS), FloatingPointError, ("z[1, 2] is nan",)),
        (lambda: check_scores(Z, LABELS + 1), ValueError, ("y[1] is 3", "0 to 2")),
    ],
    "check_labels": [
        (lambda: check_labels(LABELS, 3, 3), ValueError, ("(2,)", "(3,)")),
        (
            lambda: check_labels(LABELS, 2, 2),
            ValueError,
            ("y[1] is 2", "0 to 1", "1 of 2"),
        ),
        (lambda: check_labels(-LABELS, 2, 3), ValueError, ("y[1] is -2",)),
        (lambda: check_labels(LABELS * 1.0, 2, 3), TypeError, ("float64",)),
    ],
    "read_idx": [(lambda: read_idx(NOWHERE, 3), FileNotFoundError, (str(NOWHERE),))],
    "read_folder": [
        (
            lambda: read_folder(NOWHERE),
            FileNotFoundError,
            (str(NOWHERE), "train-images"),
        )
    ],
    "mnist": [(lambda: mnist(NOWHERE), FileNotFoundError, (str(NOWHERE), "CNN_DATA"))],
    "load": [(lambda: load(3), TypeError, ())],
    "one_hot": [(lambda: one_hot(LABELS, 2), ValueError, ("y[1] is 2", "0 to 1"))],
    "enlarge": [
        (lambda: enlarge(f(2, 3, 4), 5), ValueError, ("(2, 3, 4)", "(N, H, H)")),
        (lambda: enlarge(f(2, 3, 3), 0), ValueError, ("size is 0",)),
        (lambda: enlarge(f(2, 3, 3), 2.5), (TypeError, ValueError), ("size is 2.5",)),
    ],
    "scale": [(lambda: scale(f(2, 3, 3)), TypeError, ("images", "float64"))],
    "batches": [
        (lambda: list(batches(0, 5, rng())), ValueError, ("n is 0",)),
        (lambda: list(batches(5, 0, rng())), ValueError, ("batch_size is 0",)),
        (lambda: list(batches(5, -1, rng())), ValueError, ("batch_size is -1",)),
        (
            lambda: list(batches(5, 2.5, rng())),
            (TypeError, ValueError),
            ("batch_size is 2.5",),
        ),
        (lambda: list(batches(5.0, 2, rng())), (TypeError, ValueError), ("n is 5.0",)),
    ],
    # losses
    "cross_entropy": [
        (lambda: cross_entropy(NAN, LABELS), FloatingPointError, ("z[1, 2] is nan",))
    ],
    "cross_entropy_backward": [
        (
            lambda: cross_entropy_backward(NAN, LABELS),
            FloatingPointError,
            ("z[1, 2] is nan",),
        )
    ],
    "cross_entropy_and_gradient": [
        (
            lambda: cross_entropy_and_gradient(NAN, LABELS),
            FloatingPointError,
            ("z[1, 2] is nan",),
        )
    ],
    "error_rate": [
        (lambda: error_rate(NAN, LABELS), FloatingPointError, ("z[1, 2] is nan",)),
        (
            lambda: error_rate(NAN * np.inf, LABELS),
            FloatingPointError,
            ("z[0, 0] is -inf", "6 of"),
        ),
    ],
    # gradcheck
    "numerical_gradient": [
        (lambda: numerical_gradient(np.sum, f32(2)), TypeError, ("float32", "float64")),
        (lambda: numerical_gradient(np.sum, f(2), h=0), ValueError, ("h is 0",)),
    ],
    "complex_step_gradient": [
        (
            lambda: complex_step_gradient(np.sum, f32(2)),
            TypeError,
            ("float32", "float64"),
        ),
        (
            lambda: complex_step_gradient(lambda a: abs(a).sum(), f(2)),
            TypeError,
            ("imaginary",),
        ),
    ],
    "relative_error": [
        (lambda: relative_error(f(2, 3), f(3)), ValueError, ("(2, 3)", "(3,)")),
        (lambda: relative_error(f(0), f(0)), ValueError, ("(0,)", "empty")),
    ],
    "check_gradient": [
        (
            lambda: check_gradient(np.sum, f(3), f(3)),
            AssertionError,
            ("at [0]", "-1", "1"),
        ),
        (lambda: check_gradient(np.sum, f(3), f(3) * np.nan), AssertionError, ("nan",)),
        (
            lambda: check_gradient(lambda a: np.nan, f(3), 0 * f(3)),
            AssertionError,
            ("nan",),
        ),
        (
            lambda: check_gradient(lambda a: 0.0, f(3), 0 * f(3)),
            ValueError,
            ("both", "zero"),
        ),
    ],
    # correlation
    "output_size": [
        (lambda: output_size(5, 3, d=3), ValueError, ("spans 7", "has 5", "padding 0")),
        (lambda: output_size(5, 3, s=0), ValueError, ("s is 0",)),
        (lambda: output_size(5, 3, p=-1), ValueError, ("p is -1",)),
        (lambda: output_size(5, 2.5), TypeError, ("f is 2.5",)),
    ],
    "check_integer": [
        (lambda: check_integer("n", 2, 3), ValueError, ("n is 2", "at least 3")),
        (lambda: check_integer("n", True, 0), TypeError, ("n is True",)),
        (lambda: check_integer("n", "3", 0), TypeError, ("n is '3'",)),
    ],
    "geometry": [
        (lambda: geometry((6, 5), (3, 2), stride=0), ValueError, ("stride is 0",)),
        (
            lambda: geometry((6, 5), (3, 2), dilation=-1),
            ValueError,
            ("dilation is -1",),
        ),
        (
            lambda: geometry((6, 5), (3, 2), stride=(1, 2)),
            TypeError,
            ("stride is (1, 2)",),
        ),
        (
            lambda: geometry((6, 5), (3, 2), stride=[2, 2]),
            TypeError,
            ("stride is [2, 2]",),
        ),
        (lambda: geometry((6, 5), (3, 2), dilation=1.0), TypeError, ("is 1.0",)),
        (lambda: geometry((6, 5), (3, 2), 1, True), TypeError, ("is True",)),
        (lambda: geometry((6, 5), (3, 2), 1, [0, 1, 2]), ValueError, ("(0, 1, 2)",)),
        (lambda: geometry((6.0, 5), (3, 2)), TypeError, ("H is 6.0",)),
        (lambda: geometry((6, 5), (3, 6)), ValueError, ("size 6", "has 5")),
        (lambda: geometry((6, 5, 4), (3, 2)), ValueError, ("(6, 5, 4)",)),
        (lambda: geometry((6, 5), (3, 2, 1)), ValueError, ("(3, 2, 1)",)),
    ],
    "padding_sides": [
        (lambda: padding_sides(-1), ValueError, ("padding is -1",)),
        (
            lambda: padding_sides((1, 2, 3)),
            ValueError,
            ("(1, 2, 3)", "top, bottom, left, right"),
        ),
        (lambda: padding_sides((1, 2, -3, 0)), ValueError, ("-3",)),
        (lambda: padding_sides("same"), TypeError, ("same",)),
        (lambda: padding_sides(()), ValueError, ("()",)),
    ],
    "conv2d": [
        (lambda: conv2d(**CONV, stride=0), ValueError, ("stride is 0",)),
        (lambda: conv2d(**CONV, padding=-1), ValueError, ("padding is -1",)),
        (lambda: conv2d(**CONV, padding=(1, 1, 1)), ValueError, ("(1, 1, 1)",)),
        (lambda: conv2d(**CONV, dilation=3), ValueError, ("spans 7", "has 6")),
        (lambda: conv2d(**CONV, implementation="gpu"), ValueError, ("'gpu'", "auto")),
    ],
    "conv2d_backward": [
        (
            lambda: conv2d_backward(**CONV_BACK, stride=2),
            ValueError,
            (str(DZ.shape), "(2, 4, 2, 2)"),
        ),
        (
            lambda: conv2d_backward(**CONV_BACK, implementation=0),
            ValueError,
            ("implementation is 0", "numpy"),
        ),
    ],
    "adam_update": [
        (
            lambda: adam_update(Z.copy(), f(3, 2), Z.copy(), Z * Z, *ADAM),
            ValueError,
            ("(3, 2)", "(2, 3)"),
        ),
        (
            lambda: adam_update(Z.copy(), f(3), Z.copy(), Z * Z, *ADAM),
            ValueError,
            ("g ", "(3,)", "(2, 3)"),
        ),
    ],
    "use": [
        (lambda: use("fft"), ValueError, ("'fft'", "auto, numpy, loops, im2col")),
        (lambda: use(None), ValueError, ("None", "compiled")),
    ],
    "windows": [
        (lambda: windows(f(2, 3, 5, 5), 3, 2, G), ValueError, ("(2, 3, 5, 5)",)),
        (lambda: windows(X, 4, 2, G), ValueError, (str(X.shape),)),
    ],
    # im2col
    "im2col": [
        (lambda: im2col(f(2, 3, 5, 5), 3, 2, G), ValueError, ("(2, 3, 5, 5)",)),
        (lambda: im2col(X, 4, 2, G), ValueError, (str(X.shape), "(N, C, 7, 5)")),
        (lambda: im2col(X[0], 3, 2, G), ValueError, ("(3, 6, 5)", "(N, C, H, W)")),
    ],
    "conv2d_im2col": [
        (lambda: conv2d_im2col(**CONV, stride=0), ValueError, ("stride is 0",)),
        (lambda: conv2d_im2col(**CONV, dilation=3), ValueError, ("spans 7", "has 6")),
    ],
    "conv2d_im2col_backward": [
        (
            lambda: conv2d_im2col_backward(**CONV_BACK, stride=2),
            ValueError,
            (str(DZ.shape), "(2, 4, 2, 2)"),
        )
    ],
    "conv2d_bands": [
        (lambda: conv2d_bands(**CONV, stride=0), ValueError, ("stride is 0",)),
        (lambda: conv2d_bands(**CONV, dilation=3), ValueError, ("spans 7", "has 6")),
    ],
    "conv2d_bands_backward": [
        (
            lambda: conv2d_bands_backward(**CONV_BACK, stride=2),
            ValueError,
            (str(DZ.shape), "(2, 4, 2, 2)"),
        ),
    ],
    "crop": [(lambda: crop(f(2, 3, 5, 5), X.shape, G), ValueError, ("(2, 3, 5, 5)",))],
    "conv2d_matrix": [
        (lambda: conv2d_matrix(W, (2, 5)), ValueError, ("size 3", "has 2")),
        (lambda: conv2d_matrix(W, (6, 5), stride=0), ValueError, ("stride is 0",)),
    ],
    "spread": [
        (lambda: spread(DZ, 0), ValueError, ("step is 0",)),
        (lambda: spread(f(3), 2), ValueError, ("(3,)", "(..., rows, columns)")),
    ],
    "rot180": [(lambda: rot180(f(3)), ValueError, ("(3,)", "(..., rows, columns)"))],
    # network and conv
    "Module": [
        (lambda: Module().train(1), TypeError, ("mode is 1", "True")),
        (lambda: Linear(3, 2, **NET).train(None), TypeError, ("mode is None",)),
    ],
    "Layer": [
        (lambda: Layer().forward(f(1)), NotImplementedError, ()),
        (lambda: Layer().backward(f(1)), NotImplementedError, ()),
    ],
    "uniform_params": [
        (lambda: uniform_params((3, 0), rng()), ValueError, ("(3, 0)",)),
        (lambda: uniform_params((3, 2), rng(), int), TypeError, ("int",)),
        (lambda: uniform_params((3, 2), rng(), bool), TypeError, ("bool",)),
        (lambda: uniform_params((3, 2.5), rng()), ValueError, ("(3, 2.5)", "integers")),
        (lambda: uniform_params((3, 2), 7), TypeError, ("rng is 7", "default_rng")),
    ],
    "Linear": [
        (lambda: Linear(0, 3, **NET), ValueError, ("in_features is 0",)),
        (lambda: Linear(3, -1, **NET), ValueError, ("out_features is -1",)),
        (lambda: Linear(3, 2, rng=0), TypeError, ("rng is 0", "default_rng")),
        (
            lambda: Linear(3, 2, **NET).backward(f(2, 2)),
            RuntimeError,
            ("Linear(3, 2)", "forward"),
        ),
        (
            lambda: back(Linear(3, 2, **NET), f(4, 3), f(4, 3)),
            ValueError,
            ("(4, 3)", "(4, 2)"),
        ),
    ],
    "ReLU": [
        (lambda: ReLU().backward(f(2, 2)), RuntimeError, ("ReLU()", "forward")),
        (lambda: back(ReLU(), f(4, 3), f(4)), ValueError, ("(4, 3)", "(4,)")),
    ],
    "Sigmoid": [
        (lambda: Sigmoid().backward(f(2, 2)), RuntimeError, ("Sigmoid()", "forward")),
        (lambda: back(Sigmoid(), f(4, 3), f(4)), ValueError, ("(4, 3)", "(4,)")),
    ],
    "Tanh": [
        (lambda: Tanh().backward(f(2, 2)), RuntimeError, ("Tanh()", "forward")),
        (lambda: back(Tanh(), f(4, 3), f(4)), ValueError, ("(4, 3)", "(4,)")),
    ],
    "Flatten": [
        (lambda: Flatten().backward(f(2, 2)), RuntimeError, ("Flatten()", "forward")),
        (
            lambda: back(Flatten(), f(4, 3, 2), f(4, 3)),
            ValueError,
            ("(4, 3)", "(4, 6)"),
        ),
    ],
    "check_state": [
        (lambda: check_state({}, THETA), KeyError, ("missing", "w")),
        (
            lambda: check_state(THETA | {"v": f(1)}, THETA),
            KeyError,
            ("unexpected", "v"),
        ),
        (
            lambda: check_state({"w": f(3, 2)}, THETA),
            ValueError,
            ("w", "(3, 2)", "(2, 3)"),
        ),
        (
            lambda: check_state({"w": f32(2, 3)}, THETA),
            TypeError,
            ("float32", "float64"),
        ),
        (lambda: check_state({"w": NAN}, THETA), ValueError, ("w", "NaN")),
        (lambda: check_state({"w": [1]}, THETA), TypeError, ("w", "list")),
    ],
    "Container": [
        (lambda: Container(ReLU(), relu), TypeError, ("argument 1", "function")),
        (
            lambda: Container(Sequential(layer := ReLU()), layer),
            ValueError,
            ("layer 1", "ReLU()"),
        ),
    ],
    "Sequential": [
        (lambda: Sequential(ReLU(), relu), TypeError, ("1", "function", "layer")),
        (lambda: Sequential([ReLU()]), TypeError, ("0", "list", "Sequential(a, b)")),
        (
            lambda: Sequential(layer := ReLU(), Tanh(), layer),
            ValueError,
            ("2", "ReLU()"),
        ),
        (
            lambda: Sequential(layer := ReLU(), Sequential(Tanh(), layer)),
            ValueError,
            ("layer 1", "Sequential(Tanh(), ReLU())", "one for each place"),
        ),
        (
            lambda: small().backward(f32(2, 3)),
            RuntimeError,
            ("Linear(8, 3)", "forward"),
        ),
        (lambda: small()(f32(2, 1, 4, 4)), ValueError, ("(2, 18)", "8")),
        (
            lambda: small().load_state_dict(without(state(), "0.bias")),
            KeyError,
            ("0.bias",),
        ),
        (lambda: small().load_state_dict(state(extra=f(1))), KeyError, ("extra",)),
        (
            lambda: small().load_state_dict(state(**{"0.bias": f32(3)})),
            ValueError,
            ("0.bias", "(3,)", "(2,)"),
        ),
        (
            lambda: small().load_state_dict(state(**{"0.bias": f(2)})),
            TypeError,
            ("0.bias", "float64", "float32"),
        ),
        (
            lambda: small().load_state_dict(state(**{"0.bias": f32(2) * np.nan})),
            ValueError,
            ("0.bias", "NaN"),
        ),
    ],
    "Conv2d": [
        (lambda: Conv2d(0, 2, 3, **NET), ValueError, ("in_channels is 0",)),
        (lambda: Conv2d(1, -2, 3, **NET), ValueError, ("out_channels is -2",)),
        (lambda: Conv2d(1, 2, 0, **NET), ValueError, ("kernel_size is 0",)),
        (lambda: Conv2d(1, 2, 2.5, **NET), TypeError, ("kernel_size is 2.5",)),
        (lambda: Conv2d(1, 2, (3, 3, 3), **NET), ValueError, ("(3, 3, 3)",)),
        (lambda: Conv2d(1, 2, 3, stride=0, **NET), ValueError, ("stride is 0",)),
        (lambda: Conv2d(1, 2, 3, dilation=0, **NET), ValueError, ("dilation is 0",)),
        (lambda: Conv2d(1, 2, 3, padding=-1, **NET), ValueError, ("padding is -1",)),
        (lambda: Conv2d(1, 2, 3, padding=(1, 2, 3), **NET), ValueError, ("(1, 2, 3)",)),
        (
            lambda: Conv2d(1, 2, 3, implementation="gpu", **NET),
            ValueError,
            ("'gpu'", "expected one of auto, numpy"),
        ),
        (lambda: Conv2d(3, 2, 7, **NET)(X), ValueError, ("size 7", "has 6")),
        (lambda: Conv2d(2, 2, 3, **NET)(X), ValueError, (str(X.shape), "(N, 2, H, W)")),
        (
            lambda: Conv2d(3, 2, 3, **NET).backward(X),
            RuntimeError,
            ("Conv2d(3, 2", "forward"),
        ),
        (
            lambda: back(Conv2d(3, 2, 3, **NET), X, X),
            ValueError,
            (str(X.shape), "(2, 2, h_out, w_out)"),
        ),
        (
            lambda: back(Conv2d(3, 2, 3, **NET), X, X[:, :2]),
            ValueError,
            ("(2, 2, 6, 5)", "(2, 2, 4, 3)"),
        ),
    ],
    "filter_size": [
        (lambda: filter_size((3, 3, 3)), ValueError, ("(3, 3, 3)", "f or (rows")),
        (lambda: filter_size((3, 0)), ValueError, ("kernel_size is 0",)),
        (lambda: filter_size("3"), TypeError, ("kernel_size is '3'",)),
    ],
    "check_where": [
        (lambda: check_where(0, 0, 1), ValueError, ("stride is 0",)),
        (lambda: check_where((2, 2), 0, 1), TypeError, ("stride is (2, 2)",)),
        (lambda: check_where(1, "same", 1), TypeError, ("same",)),
        (lambda: check_where(1, 0, 1.5), TypeError, ("dilation is 1.5",)),
    ],
    # pooling
    "pool_geometry": [
        (lambda: pool_geometry((6, 5), 0), ValueError, ("kernel_size is 0",)),
        (lambda: pool_geometry((6, 5), 2.5), TypeError, ("kernel_size is 2.5",)),
        (lambda: pool_geometry((6, 5), (2, 2, 2)), ValueError, ("(2, 2, 2)",)),
        (lambda: pool_geometry((6, 5), ()), ValueError, ("kernel_size is ()",)),
        (lambda: pool_geometry((6, 5), (3, 2)), ValueError, ("(3, 2)", "stride=")),
        (lambda: pool_geometry((6, 5), 2, 0), ValueError, ("stride is 0",)),
        (lambda: pool_geometry((6, 5), 2, (2, 1)), TypeError, ("stride is (2, 1)",)),
        (lambda: pool_geometry((6, 5), 2, padding=-1), ValueError, ("padding is -1",)),
        (lambda: pool_geometry((6, 5), 3, 1, (1, 2, 3)), ValueError, ("(1, 2, 3)",)),
        (
            lambda: pool_geometry((6, 5), 2, padding=2),
            ValueError,
            ("padding is 2", "(2, 2)", "alone"),
        ),
        (
            lambda: pool_geometry((6, 5), (3, 2), 1, (0, 0, 0, 2)),
            ValueError,
            ("(0, 0, 0, 2)", "(3, 2)", "alone"),
        ),
        (lambda: pool_geometry((6, 5), 6), ValueError, ("size 6", "has 5")),
        (lambda: pool_geometry((6, 5), 8, 2, 0, True), ValueError, ("size 8", "has 6")),
        (lambda: pool_geometry((6,), 2, None, 0, True), ValueError, ("size is (6,)",)),
        (lambda: pool_geometry((6, 5, 4), 2), ValueError, ("size is (6, 5, 4)",)),
        (lambda: pool_geometry((0, 5), 2, None, 1, True), ValueError, (" is 0",)),
        (lambda: pool_geometry((6.0, 5), 2), TypeError, (" is 6.0",)),
        (
            lambda: pool_geometry((6, 5), 2, 2, 0, 1),
            TypeError,
            ("ceil_mode is 1", "True or False"),
        ),
    ],
    "window_counts": [
        (
            lambda: window_counts((6, 5), 2, count_include_pad=0),
            TypeError,
            ("count_include_pad is 0", "True or False"),
        ),
        (lambda: window_counts((6, 5), 2, padding=2), ValueError, ("alone",)),
    ],
    "max_pool2d": [
        (lambda: max_pool2d(X + 1j, 2), TypeError, ("complex128",)),
        (lambda: max_pool2d(X, 2, padding=2), ValueError, ("padding is 2",)),
    ],
    "max_pool2d_backward": [
        (lambda: pool_back(winners=WON[:1]), ValueError, ("winners", "(2, 3, 3, 2)")),
        (lambda: pool_back(winners=WON * 1.0), TypeError, ("winners", "float64")),
        (lambda: pool_back(winners=None), TypeError, ("winners", "NoneType")),
        (lambda: pool_back(winners=WON + 4), ValueError, ("4 to 4", "0 to 3")),
        (lambda: pool_back(winners=WON - 1), ValueError, ("-1 to -1", "0 to 3")),
        (lambda: pool_back(stride=1), ValueError, ("(2, 3, 3, 2)", "(2, 3, 5, 4)")),
    ],
    "avg_pool2d": [
        (lambda: avg_pool2d(np.ones((1, 1, 4, 4), int), 2), TypeError, ("int64",)),
        (lambda: avg_pool2d(X, 2, count_include_pad=None), TypeError, ("is None",)),
    ],
    "avg_pool2d_backward": [
        (
            lambda: avg_pool2d_backward(f(2, 3, 3, 2), X, 2, stride=1),
            ValueError,
            ("(2, 3, 3, 2)", "(2, 3, 5, 4)"),
        ),
    ],
    "MaxPool2d": [
        (lambda: MaxPool2d(0), ValueError, ("kernel_size is 0",)),
        (lambda: MaxPool2d((2, 3)), ValueError, ("(2, 3)", "stride=")),
        (lambda: MaxPool2d(3, 2, 1, 1), TypeError, ("ceil_mode is 1",)),
        (lambda: MaxPool2d(2, padding=2), ValueError, ("padding is 2", "alone")),
        (
            lambda: MaxPool2d(2).backward(X),
            RuntimeError,
            ("MaxPool2d(kernel_size=2", "forward"),
        ),
        (
            lambda: back(MaxPool2d(2), X, X),
            ValueError,
            (str(X.shape), "(2, 3, 3, 2)"),
        ),
    ],
    "AvgPool2d": [
        (lambda: AvgPool2d(2.0), TypeError, ("kernel_size is 2.0",)),
        (lambda: AvgPool2d(2, stride=-1), ValueError, ("stride is -1",)),
        (lambda: AvgPool2d(2, 2, 0, 0), TypeError, ("ceil_mode is 0",)),
        (
            lambda: AvgPool2d(2, 2, 0, True, 1),
            TypeError,
            ("count_include_pad is 1",),
        ),
        (lambda: AvgPool2d(2).backward(X), RuntimeError, ("AvgPool2d(", "forward")),
        (
            lambda: back(AvgPool2d(2), X, X),
            ValueError,
            (str(X.shape), "(2, 3, 3, 2)"),
        ),
    ],
    "GlobalAvgPool2d": [
        (
            lambda: GlobalAvgPool2d().backward(X),
            RuntimeError,
            ("GlobalAvgPool2d()", "forward"),
        ),
        (
            lambda: back(GlobalAvgPool2d(), X, X),
            ValueError,
            (str(X.shape), "(2, 3, 1, 1)"),
        ),
        (
            lambda: back(GlobalAvgPool2d(), X, f32(2, 3, 1, 1)),
            TypeError,
            ("float32", "float64"),
        ),
    ],
    # regularization
    "dropout": [
        (lambda: dropout(X, 1, rng()), ValueError, ("p is 1", "below 1")),
        (lambda: dropout(X, -0.1, rng()), ValueError, ("p is -0.1",)),
        (lambda: dropout(X, float("nan"), rng()), ValueError, ("p is nan",)),
        (lambda: dropout(np.ones((2, 3), int), 0.5, rng()), TypeError, ("int64",)),
    ],
    "dropout_backward": [
        (lambda: dropout_backward(X, X[:, :2]), ValueError, (str(X.shape), "(2, 2,")),
    ],
    "moments": [
        (lambda: moments(f(3)), ValueError, ("(3,)", "(N, C, ...)")),
        (lambda: moments(f(1, 3)), ValueError, ("(1, 3)", "one number", "at least 2")),
        (lambda: moments(np.ones((2, 3), int)), TypeError, ("int64",)),
    ],
    "batch_norm": [
        (lambda: batch_norm(f(1, 3), f(3), f(3)), ValueError, ("(1, 3)", "one number")),
        (
            lambda: batch_norm(X, f(2), f(2)),
            ValueError,
            ("(N, 2, ...)", "gamma has shape (2,)"),
        ),
        (lambda: batch_norm(X, f(3), f(3), eps=0), ValueError, ("eps is 0",)),
        (lambda: batch_norm(X, f(3), f(3), eps=np.nan), ValueError, ("eps is nan",)),
    ],
    "batch_norm_backward": [
        (
            lambda: batch_norm_backward(X[:, :2], X, f(3)),
            ValueError,
            ("dy", str(X[:, :2].shape), str(X.shape)),
        ),
        (lambda: batch_norm_backward(X, X, f(3), -1), ValueError, ("eps is -1",)),
    ],
    "Dropout": [
        (lambda: Dropout(1.0, rng=rng()), ValueError, ("p is 1.0",)),
        (lambda: Dropout(-1, rng=rng()), ValueError, ("p is -1",)),
        (lambda: Dropout(rng=0), TypeError, ("rng is 0", "default_rng")),
        (lambda: Dropout(rng=np.random), TypeError, ("rng is <module", "default_rng")),
        (
            lambda: Dropout(rng=rng()).backward(X),
            RuntimeError,
            ("Dropout(p=0.5)", "forward"),
        ),
        (
            lambda: back(Dropout(rng=rng()), X, f(2, 3)),
            ValueError,
            ("(2, 3)", str(X.shape)),
        ),
        (
            lambda: back(Dropout(rng=rng()).eval(), X, f(2, 3)),
            ValueError,
            ("(2, 3)", str(X.shape)),
        ),
        (lambda: Dropout(rng=rng()).train(0), TypeError, ("mode is 0", "True")),
        (lambda: Dropout(rng=rng()).train(NOISE), TypeError, ("mode is D", "True")),
    ],
    "BatchNorm1d": [
        (lambda: BatchNorm1d(0), ValueError, ("num_features is 0",)),
        (lambda: BatchNorm1d(2.0), TypeError, ("num_features is 2.0",)),
        (lambda: BatchNorm1d(2, eps=0), ValueError, ("eps is 0",)),
        (lambda: BatchNorm1d(2, momentum=1.1), ValueError, ("momentum is 1.1",)),
        (lambda: BatchNorm1d(2, momentum=-1), ValueError, ("momentum is -1",)),
        (lambda: BatchNorm1d(2, dtype=int), TypeError, ("int64", "floating")),
        (
            lambda: BatchNorm1d(3)(f32(2, 4)),
            ValueError,
            ("(2, 4)", "(N, 3)", "BatchNorm1d(3"),
        ),
        (lambda: BatchNorm1d(3)(f32(1, 3)), ValueError, ("(1, 3)", "one number")),
        (lambda: BatchNorm1d(3)(f(2, 3)), TypeError, ("float64", "float32")),
        (
            lambda: BatchNorm1d(3).backward(f32(2, 3)),
            RuntimeError,
            ("BatchNorm1d(3", "forward"),
        ),
        (
            lambda: back(BatchNorm1d(3), f32(2, 3), f32(2, 2)),
            ValueError,
            ("(2, 2)", "(2, 3)"),
        ),
        (
            lambda: back(BatchNorm1d(3), f32(2, 3), f(2, 3)),
            TypeError,
            ("float64", "float32"),
        ),
    ],
    "BatchNorm2d": [
        (lambda: BatchNorm2d(-1), ValueError, ("num_features is -1",)),
        (
            lambda: BatchNorm2d(2)(f32(2, 3, 4, 4)),
            ValueError,
            ("(2, 3, 4, 4)", "(N, 2, H, W)"),
        ),
        (lambda: BatchNorm2d(3)(f32(1, 3, 1, 1)), ValueError, ("one number",)),
        (
            lambda: Sequential(BatchNorm2d(3)).load_state_dict(
                Sequential(BatchNorm2d(2)).state_dict()
            ),
            ValueError,
            ("(2,)", "(3,)"),
        ),
        (
            lambda: Sequential(BatchNorm2d(3)).load_state_dict(
                without(Sequential(BatchNorm2d(3)).state_dict(), "0.running_var")
            ),
            KeyError,
            ("0.running_var",),
        ),
    ],
    "AdamW": [
        (lambda: AdamW(THETA, 0), ValueError, ("lr is 0",)),
        (lambda: AdamW(THETA, betas=(0.9, 1.0)), ValueError, ("(0.9, 1.0)",)),
        (lambda: AdamW(THETA, weight_decay=-1), ValueError, ("weight_decay is -1",)),
        (
            lambda: AdamW(THETA, weight_decay=np.inf),
            ValueError,
            ("weight_decay is inf",),
        ),
    ],
    # models
    "simple_cnn": [
        (
            lambda: simple_cnn(rng=rng(), num_classes=0),
            ValueError,
            ("num_classes is 0",),
        ),
        (
            lambda: simple_cnn(rng=rng())(f32(2, 1, 27, 28)),
            ValueError,
            ("(2, 1104)", "1152"),
        ),
        (
            lambda: simple_cnn(rng=rng())(f(2, 1, 28, 28)),
            TypeError,
            ("float64", "float32"),
        ),
    ],
    "deep_cnn": [
        (lambda: deep_cnn(rng=rng(), num_classes=0), ValueError, ("num_classes is 0",)),
        (
            lambda: deep_cnn(rng=rng())(f32(2, 3, 28, 28)),
            ValueError,
            ("(2, 3, 28, 28)", "(N, 1"),
        ),
    ],
    "output_shapes": [
        (
            lambda: output_shapes(small(), (3, 3, 3)),
            ValueError,
            ("layer 0", "(3, 3, 3)", "Conv2d"),
        ),
        (
            lambda: output_shapes(small(), (1, 9, 9)),
            ValueError,
            ("layer 3", "(128,)", "Linear"),
        ),
    ],
    "summary": [
        (lambda: summary(small(), (1, 9, 9)), ValueError, ("layer 3", "(128,)"))
    ],
    # optimizers
    "fans": [(lambda: fans(f(3)), ValueError, ("(3,)",))],
    "xavier_normal_": [
        (lambda: xavier_normal_(f(3), rng()), ValueError, ("(3,)",)),
        (lambda: xavier_normal_(np.ones((3, 2), int), rng()), TypeError, ("int64",)),
    ],
    "kaiming_normal_": [
        (lambda: kaiming_normal_(f(3), rng()), ValueError, ("(3,)",)),
        (lambda: kaiming_normal_(np.ones((3, 2), int), rng()), TypeError, ("int64",)),
    ],
    "check_params": [
        (lambda: check_params({}), ValueError, ("params", "empty")),
        (lambda: check_params({"w": [1.0]}), TypeError, ("params['w']", "list")),
        (lambda: check_params({"w": f(2) * 1j}), TypeError, ("complex128", "real")),
    ],
    "check_grads": [
        (lambda: check_grads({}, THETA), KeyError, ("'w'",)),
        (lambda: check_grads({"w": None}, THETA), TypeError, ("NoneType", "(2, 3)")),
    ],
    "check_generator": [(lambda: check_generator(0), TypeError, ("rng is 0",))],
    "check_module": [(lambda: check_module([]), TypeError, ("list", "network"))],
    "check_dataset": [(lambda: check_dataset([]), TypeError, ("list", "Dataset"))],
    "check_trains": [
        (lambda: check_trains(SGD(THETA, 0.1), small()), ValueError, ("own arrays",)),
        (lambda: check_trains(small(), small()), TypeError, ("Sequential", "Adam")),
    ],
    "in_use": [(lambda: in_use(None), TypeError, ("NoneType", "network"))],
    "check_number": [
        (lambda: check_number("μ", 1, 1), ValueError, ("μ is 1", "below 1"))
    ],
    "check_optimizer": [
        (lambda: check_optimizer(THETA, 0, 0), ValueError, ("lr is 0",)),
        (lambda: check_optimizer(THETA, 1, -1), ValueError, ("weight_decay is -1",)),
    ],
    "check_adam": [
        (lambda: check_adam((0.9, 1), 0), ValueError, ("(0.9, 1)",)),
        (lambda: check_adam((0.9, 0.9), -1), ValueError, ("eps is -1",)),
    ],
    "Optimizer": [
        (lambda: Optimizer({}, 0.1), ValueError, ("params", "empty")),
        (lambda: Optimizer({"w": np.ones(2, int)}, 0.1), TypeError, ("w", "int64")),
        (
            lambda: Optimizer({"v": THETA["w"], "w": THETA["w"]}, 0.1),
            ValueError,
            ("params['w']", "params['v']", "same array"),
        ),
        (lambda: Optimizer(THETA, 0.1).step(THETA), NotImplementedError, ()),
    ],
    "SGD": [
        (lambda: SGD(THETA, 0), ValueError, ("lr is 0", "positive")),
        (lambda: SGD(THETA, -0.1), ValueError, ("lr is -0.1",)),
        (lambda: SGD(THETA, float("nan")), ValueError, ("lr is nan",)),
        (lambda: SGD(THETA, float("inf")), ValueError, ("lr is inf",)),
        (lambda: SGD(THETA, 0.1, momentum=1), ValueError, ("momentum is 1",)),
        (
            lambda: SGD(THETA, 0.1, weight_decay=-0.1),
            ValueError,
            ("weight_decay is -0.1",),
        ),
        (lambda: SGD(THETA, 0.1, momentum=-0.5), ValueError, ("momentum is -0.5",)),
        (lambda: SGD(THETA, 0.1).step({}), KeyError, ("w",)),
        (lambda: SGD(THETA, 0.1).step(THETA | {"v": f(1)}), KeyError, ("v",)),
        (
            lambda: SGD(THETA, 0.1).step({"w": f(3)}),
            ValueError,
            ("w", "(3,)", "(2, 3)"),
        ),
        (
            lambda: SGD(THETA, 0.1).step({"w": f32(2, 3)}),
            TypeError,
            ("float32", "float64"),
        ),
        (lambda: SGD(THETA, lambda t: -1.0).step(THETA), ValueError, ("t = 0", "-1")),
        (
            lambda: SGD(THETA, lambda t: np.nan).step(THETA),
            ValueError,
            ("t = 0", "nan"),
        ),
    ],
    "Adam": [
        (lambda: Adam(THETA, 0), ValueError, ("lr is 0",)),
        (lambda: Adam(THETA, betas=(0.9, 1.0)), ValueError, ("(0.9, 1.0)",)),
        (lambda: Adam(THETA, betas=(-0.1, 0.9)), ValueError, ("(-0.1, 0.9)",)),
        (lambda: Adam(THETA, betas=(0.9,)), ValueError, ("(0.9,)",)),
        (lambda: Adam(THETA, eps=-1), ValueError, ("eps is -1",)),
        (
            lambda: Adam(THETA, weight_decay=np.nan),
            ValueError,
            ("weight_decay is nan",),
        ),
        (lambda: Adam(THETA).load_state_dict({}), KeyError, ("t", "m.w", "v.w")),
        (
            lambda: Adam(THETA).load_state_dict(Adam(THETA).state_dict() | {"x": f(1)}),
            KeyError,
            ("x",),
        ),
        (
            lambda: Adam(THETA).load_state_dict(
                Adam(THETA).state_dict() | {"m.w": f(3, 2)}
            ),
            ValueError,
            ("m.w", "(3, 2)", "(2, 3)"),
        ),
        (
            lambda: Adam(THETA).load_state_dict(
                Adam(THETA).state_dict() | {"m.w": f32(2, 3)}
            ),
            TypeError,
            ("m.w", "float32", "float64"),
        ),
        (
            lambda: Adam(THETA).load_state_dict(
                Adam(THETA).state_dict() | {"m.w": NAN}
            ),
            ValueError,
            ("m.w", "NaN"),
        ),
    ],
    "ExponentialDecay": [
        (lambda: ExponentialDecay(0.1, 0.2, 10), ValueError, ("0.1", "0.2")),
        (lambda: ExponentialDecay(0.1, -0.1, 10), ValueError, ("-0.1",)),
        (lambda: ExponentialDecay(0.1, 0.01, 0), ValueError, ("tau",)),
    ],
    # training
    "train_step": [
        (
            lambda: train_step(small(), SGD(THETA, 0.1), f32(2, 1, 3, 3), LABELS),
            ValueError,
            ("own arrays", "net.params"),
        ),
        (
            lambda: train_step(
                net := small(), SGD(net.params, 0.1), f(2, 1, 3, 3), LABELS
            ),
            TypeError,
            ("float64", "float32"),
        ),
    ],
    "evaluate": [
        (
            lambda: evaluate(small(), *NOISE[1:3], batch_size=0),
            ValueError,
            ("batch_size is 0",),
        ),
        (
            lambda: evaluate(small(), *NOISE[1:3], batch_size=-1),
            ValueError,
            ("batch_size is -1",),
        ),
        (lambda: evaluate(small(), NOISE[1], LABELS), ValueError, ("(2,)", "(6,)")),
    ],
    "check_run": [
        (lambda: check_run(small(), NOISE, 1, 1, 2.5), TypeError, ("every is 2.5",)),
        (lambda: check_run(small(), NOISE, True, 1, 1), TypeError, ("epochs is True",)),
    ],
    # files
    "history_from": [
        (lambda: history_from([]), ValueError, ("[]", "lists named")),
        (lambda: history_from({"loss": []}), ValueError, ("'loss'", "seconds")),
    ],
    "check_history": [
        (lambda: check_history(History(loss=0.1)), ValueError, ("0.1", "list")),
        (lambda: check_history(History(loss=["low"])), ValueError, ("low",)),
        (lambda: check_history(History([0.1], [1])), ValueError, ("lengths",)),
        (
            lambda: check_history(History([0.1], [2], [1], [1], [1])),
            ValueError,
            ("[2]", "at most 1"),
        ),
    ],
    "load_history": [
        (lambda: load_history(NOWHERE), FileNotFoundError, (str(NOWHERE),)),
        (lambda: load_history(__file__), ValueError, (__file__, "no history")),
    ],
    "save_history": [(lambda: save_history(NOWHERE, 3), TypeError, ("dataclass",))],
    "network_of": [
        (lambda: network_of({}), ValueError, ("{}", "simple or deep")),
        (lambda: network_of(state()), ValueError, ("(3, 8)", "simple or deep")),
    ],
    "save_arrays": [
        (lambda: save_arrays(NOWHERE, {"a": np.array([{}])}), ValueError, ("bject",)),
    ],
    "load_arrays": [(lambda: load_arrays(NOWHERE), FileNotFoundError, (str(NOWHERE),))],
    "fit": [
        (lambda: run(epochs=0), ValueError, ("epochs is 0",)),
        (lambda: run(batch_size=0), ValueError, ("batch_size is 0",)),
        (lambda: run(batch_size=2.5), TypeError, ("batch_size is 2.5",)),
        (lambda: run(every=-1), ValueError, ("every is -1",)),
        (
            lambda: run(NOISE._replace(x_train=f(6, 1, 3, 3))),
            TypeError,
            ("float64", "float32"),
        ),
        (
            lambda: run(NOISE._replace(x_train=f32(0, 1, 3, 3))),
            ValueError,
            ("x_train", "(0, 1,"),
        ),
        (
            lambda: run(NOISE._replace(x_test=f32(0, 1, 3, 3))),
            ValueError,
            ("x_test", "(0, 1,"),
        ),
        (
            lambda: run(NOISE._replace(y_train=LABELS)),
            ValueError,
            ("y_train", "(2,)", "(6,)"),
        ),
        (
            lambda: run(NOISE._replace(y_test=LABELS)),
            ValueError,
            ("y_test", "(2,)", "(4,)"),
        ),
        (
            lambda: run(NOISE._replace(x_test=f32(4, 1, 4, 4))),
            ValueError,
            ("x_test", "(4, 1, 4"),
        ),
        (
            lambda: run(NOISE._replace(y_train=np.arange(6))),
            ValueError,
            ("is 3", "0 to 2"),
        ),
    ],
    # pictures
    "find_digit": [
        (lambda: find_digit([[0.5]]), TypeError, ("grey", "list", "(H, W)")),
        (lambda: find_digit(np.ones((5, 5), np.uint8)), TypeError, ("grey", "uint8")),
        (
            lambda: find_digit(np.full((5, 5), 255.0)),
            ValueError,
            ("255", "from 0 to 1"),
        ),
        (lambda: find_digit(NAN), ValueError, ("nan", "from 0 to 1")),
        (lambda: find_digit(np.ones((5, 5))), ValueError, ("no digit found", "pen")),
    ],
    "read_digit": [
        (lambda: read_digit(NOWHERE), FileNotFoundError, (str(NOWHERE),)),
        (lambda: read_digit(__file__), ValueError, ("test_bad_input.py", "PNG")),
        (lambda: read_digit(7), TypeError, ("int",)),
    ],
    # handwriting
    "check_picture": [
        (lambda: check_picture("a", [1.0]), TypeError, ("a is", "list", "(H, W)")),
        (lambda: check_picture("a", NAN), ValueError, ("a runs", "from 0 to 1")),
    ],
    "read_picture": [
        (lambda: read_picture(NOWHERE), FileNotFoundError, (str(NOWHERE),)),
        (lambda: read_picture(__file__), ValueError, ("test_bad_input.py", "PNG")),
        (lambda: read_picture(7), TypeError, ("int",)),
    ],
    "ink": [
        (lambda: ink([[0.5]]), TypeError, ("grey", "list", "(H, W)")),
        (lambda: ink(np.ones((5, 5), np.uint8)), TypeError, ("grey", "uint8")),
        (lambda: ink(f(5, 5, 1)), ValueError, ("(5, 5, 1)", "(H, W)")),
        (lambda: ink(np.ones((0, 5))), ValueError, ("grey is empty",)),
        (lambda: ink(np.full((5, 5), 255.0)), ValueError, ("255", "from 0 to 1")),
        (lambda: ink(NAN), ValueError, ("nan", "from 0 to 1")),
        (lambda: ink(np.ones((5, 5))), ValueError, ("no digit found", "pen")),
    ],
    "center_of_mass": [
        (lambda: center_of_mass([1]), TypeError, ("image", "list")),
        (lambda: center_of_mass(np.ones(5)), ValueError, ("(5,)", "(H, W)")),
        (lambda: center_of_mass(np.zeros((5, 5))), ValueError, ("all zero",)),
        (lambda: center_of_mass(-np.ones((5, 5))), ValueError, ("from -1", "negative")),
        (lambda: center_of_mass(NAN), ValueError, ("nan", "finite")),
    ],
    "resize": [
        (lambda: resize([1], (2, 2)), TypeError, ("image", "list")),
        (lambda: resize(f(2, 3, 4), (2, 2)), ValueError, ("(2, 3, 4)", "(H, W)")),
        (lambda: resize(f(5, 5), 20), ValueError, ("size is 20", "two integers")),
        (lambda: resize(f(5, 5), (20,)), ValueError, ("(20,)", "two integers")),
        (lambda: resize(f(5, 5), (20, 0)), ValueError, ("size is 0", "at least 1")),
        (lambda: resize(f(5, 5), (20, 1.5)), TypeError, ("1.5", "integer")),
    ],
    "as_mnist": [
        (lambda: as_mnist([[1.0]]), TypeError, ("ink", "list")),
        (lambda: as_mnist(np.ones((5, 5), np.uint8)), TypeError, ("ink", "uint8")),
        (lambda: as_mnist(np.ones(5)), ValueError, ("(5,)", "(H, W)")),
        (lambda: as_mnist(np.full((5, 5), 2.0)), ValueError, ("ink", "from 0 to 1")),
        (lambda: as_mnist(NAN), ValueError, ("nan", "from 0 to 1")),
        (
            lambda: as_mnist(np.zeros((5, 5))),
            ValueError,
            ("zero everywhere", "ink(grey)"),
        ),
    ],
    # mnist
    "bilinear": [
        (lambda: bilinear(X, f(3, 5), f(2, 5)), ValueError, ("h has", "(2, P)")),
        (lambda: bilinear(X, f(2, 5), f(2, 4)), ValueError, ("w has", "(2, 5)")),
    ],
    "warp": [
        (lambda: warp(X, f(3, 2, 2), f(2, 2)), ValueError, ("M has", "(2, 2, 2)")),
        (lambda: warp(X, f(2, 2, 2), f(2, 3)), ValueError, ("o has", "(2, 2)")),
        (lambda: warp(X, f32(2, 2, 2), f(2, 2)), TypeError, ("float32", "M")),
    ],
    "epochs_for": [(lambda: epochs_for(None), AttributeError, ("x_test",))],
    "prepare": [
        (lambda: prepare("large"), ValueError, ("'large'", "simple, deep")),
        (lambda: prepare(recipe="best"), ValueError, ("'best'", "constant, schedule")),
        (lambda: prepare(seed=-1), ValueError, ("seed is -1",)),
        (lambda: prepare(num_classes=0), ValueError, ("0",)),
        (lambda: prepare(dtype=np.int64), TypeError, ("int64",)),
    ],
    "train": [
        (lambda: train(NOISE), ValueError, ("x_train", "28")),
        (lambda: train(digits(), epochs=0), ValueError, ("epochs is 0",)),
    ],
    "probabilities": [
        (
            lambda: probabilities(small(), f32(0, 1, 3, 3)),
            ValueError,
            ("(0, 1, 3, 3)",),
        ),
        (
            lambda: probabilities(small(), f32(2, 2, 3, 3)),
            ValueError,
            ("(2, 2, 3, 3)",),
        ),
        (
            lambda: probabilities(small(), f32(2, 1, 3, 3), 0),
            ValueError,
            ("batch_size is 0",),
        ),
    ],
    "save_weights": [
        (lambda: save_weights(NOWHERE, None), AttributeError, ("state_dict",))
    ],
    "load_weights": [
        (lambda: load_weights(NOWHERE), FileNotFoundError, (str(NOWHERE),)),
        (lambda: load_weights(__file__), ValueError, (__file__, "safetensors")),
    ],
    "plot_curves": [
        (lambda: plot_curves({}), ValueError, ("{}",)),
        (lambda: plot_curves({"a": History()}), ValueError, ("'a'", "one test")),
    ],
    # visualize
    "saliency": [
        (
            lambda: saliency(Flatten(), f(2, 1, 3, 3), np.array([0, 9])),
            ValueError,
            ("y[1] is 9", "0 to 8"),
        ),
        (
            lambda: saliency(ReLU(), f(2, 1, 3, 3), LABELS),
            ValueError,
            ("z has shape (2, 1, 3, 3)", "(2, K)", "scores"),
        ),
    ],
    "occlusion": [
        (
            lambda: occlusion(small(), f32(2, 1, 3, 3), LABELS),
            ValueError,
            ("size is 7", "(2, 1, 3, 3)", "at most 3"),
        ),
        (
            lambda: occlusion(small(), f32(2, 1, 3, 3), LABELS, 0),
            ValueError,
            ("size is 0",),
        ),
        (
            lambda: occlusion(small(), f32(2, 1, 3, 3), LABELS, 2, 0),
            ValueError,
            ("stride is 0",),
        ),
        (
            lambda: occlusion(small(), f32(2, 1, 3, 3), LABELS, 2, 1, np.nan),
            ValueError,
            ("value is nan", "finite"),
        ),
    ],
    "confusion_matrix": [
        (
            lambda: confusion_matrix(LABELS, LABELS, 0),
            ValueError,
            ("num_classes is 0",),
        ),
        (
            lambda: confusion_matrix(LABELS, LABELS + 1, 3),
            ValueError,
            ("answers", "1 to 3", "0 to 2"),
        ),
        (
            lambda: confusion_matrix(LABELS, LABELS - 1, 3),
            ValueError,
            ("answers", "-1 to 1"),
        ),
    ],
    "most_confident_mistakes": [
        (
            lambda: most_confident_mistakes(np.ones((2, 3), int), LABELS),
            TypeError,
            ("P has dtype int64",),
        ),
    ],
}


if find_spec("torch"):  # the one module that needs more than NumPy
    import torch

    from cnn.pytorch import (
        Batches,
        Trainer,
        best_device,
        train_twin,
        twin,
        weights_from,
    )

    def trainer(**changes: object) -> Trainer:
        """Return a trainer of a twin with some arguments changed."""
        module = twin(small())
        sgd = torch.optim.SGD(module.parameters(), lr=0.1)
        return Trainer(**{"module": module, "optimizer": sgd} | changes)

    def one_sided(layer: type, *args: object, **options: object) -> Sequential:
        """Return a network of one layer that pads at the top alone."""
        return Sequential(layer(*args, padding=(1, 0, 0, 0), **options))

    CALLS |= {
        "twin": [
            (lambda: twin([ReLU()]), TypeError, ("list", "Sequential")),
            (lambda: twin(Sequential(Layer())), TypeError, ("Layer()", "Linear")),
            (
                lambda: twin(one_sided(Conv2d, 1, 1, 3, rng=rng())),
                ValueError,
                ("Conv2d", "(1, 0, 0, 0)", "opposite"),
            ),
            (lambda: twin(one_sided(MaxPool2d, 2)), ValueError, ("(1, 0, 0, 0)",)),
            (
                lambda: twin(Sequential(MaxPool2d(3, padding=2))),
                ValueError,
                ("(2, 2)", "(3, 3)", "half"),
            ),
        ],
        "train_twin": [
            (lambda: train_twin(NOISE), ValueError, ("x_train", "28")),
            (lambda: train_twin(digits(), epochs=0), ValueError, ("epochs is 0",)),
            (lambda: train_twin(digits(), "big"), ValueError, ("big", "simple")),
        ],
        "weights_from": [(lambda: weights_from({}), TypeError, ("dict", "Module"))],
        "Batches": [
            (lambda: Batches(f32(0, 4), LABELS), ValueError, ("x is empty",)),
            (lambda: Batches(f32(3, 4), LABELS), ValueError, ("(2,)", "(3,)")),
            (lambda: Batches(f32(2, 4), LABELS * 1.0), TypeError, ("y", "float64")),
            (lambda: Batches([1], LABELS), TypeError, ("x", "list")),
            (
                lambda: Batches(f32(2, 4), LABELS, 0),
                ValueError,
                ("batch_size is 0",),
            ),
            (
                lambda: Batches(f32(2, 4), LABELS, rng=7),
                TypeError,
                ("rng is 7", "default_rng"),
            ),
        ],
        "Trainer": [
            (lambda: trainer(module=small()), TypeError, ("Sequential", "Module")),
            (
                lambda: trainer(optimizer=SGD(THETA, 0.1)),
                TypeError,
                ("SGD", "torch.optim"),
            ),
            (lambda: trainer(schedule=0.1), TypeError, ("schedule is 0.1",)),
            (
                lambda: trainer(module=twin(small())),
                ValueError,
                ("4 of the optimizer's 4",),
            ),
            (lambda: trainer(device="abacus"), RuntimeError, ("abacus",)),
            (lambda: trainer().evaluate([]), ValueError, ("0 batches",)),
            (lambda: trainer().fit([], [], epochs=1), ValueError, ("0 batches",)),
            (lambda: trainer().fit([1], [], epochs=0), ValueError, ("epochs is 0",)),
            (
                lambda: trainer().fit([1], [], epochs=1, every=0),
                ValueError,
                ("every is 0",),
            ),
            (
                lambda: trainer().fit(iter([]), [], epochs=1),
                TypeError,
                ("iterator", "length"),
            ),
        ],
    }


def pool_back(**changes: object) -> np.ndarray:
    """Take max pooling backward, with some arguments changed."""
    good = {"dy": f(2, 3, 3, 2), "x": X, "winners": WON, "kernel_size": 2}
    return max_pool2d_backward(**good | changes)


def back(layer: Layer, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Take a layer forward and backward."""
    layer.forward(x)
    return layer.backward(dy)


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        pytest.param(*case, id=f"{name} {number}")
        for name, cases in CALLS.items()
        for number, case in enumerate(cases)
    ],
)
def test_a_wrong_argument_is_told(
    call: Call, error: Error, parts: tuple[str, ...]
) -> None:
    """The value, what was expected, and not an error from the depths of NumPy."""
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in: {caught.value}"


def test_a_refused_state_changes_nothing() -> None:
    """The arrays before the wrong one must not have been loaded."""
    net, bad = small(), {k: a + 1 for k, a in state().items()}
    before = net.state_dict()
    with pytest.raises(ValueError, match=r"3\.weight"):
        net.load_state_dict(bad | {"3.weight": f32(3, 7)})
    for name, a in net.params.items():
        np.testing.assert_array_equal(a, before[name])


# --- Nothing public is forgotten ---

MODULES = [
    importlib.import_module(f"cnn.{module.name}")
    for module in pkgutil.iter_modules(cnn.__path__)
    if module.name != "pytorch" or find_spec("torch")
]
PUBLIC = {
    f"{module.__name__}.{name}": thing
    for module in MODULES
    for name in module.__all__
    if inspect.isfunction(thing := getattr(module, name)) or inspect.isclass(thing)
}
EXCEPTIONS = {
    "choose": "a rule for arrays that conv2d has checked: test_im2col.py, test_conv.py",
    "locked": "its error is another holder's: test_faults.py",
    "watched": "takes no argument",
    "progress_bar": "shows what fit has checked: test_training.py",
    "loop": "is given functions, by those that have checked: test_training.py",
    "History": "a record; check_history reads it where it comes from a file",
    "Bookkeeping": "the half of an optimiser that Optimizer inherits",
    "iterations": "deals out what fit has checked: test_checkpoint.py",
    "identify": "says what fit has checked: test_checkpoint.py",
    "save": "writes what fit has trained: test_checkpoint.py",
    "resume": "reads any file: test_checkpoint.py",
    "Dataset": "a named tuple of arrays; fit checks what is in it",
    "Geometry": "a named tuple of integers; geometry makes it and checks them",
    "digits": "takes no argument",
    "find": "a path or None: test_data.py",
    "mnist_folder": "puts a path together: test_data.py",
    "count_parameters": "adds up what any layer holds",
    "download_mnist": "its errors need a network that fails: test_data.py",
    "replace_file": "its errors are its callback's: test_files.py",
    "Door": "says to type checkers what shapes returns",
    "ink_on_ground": "finds ink in a picture that ink has checked",
    "fit_augmented": "is given what train has checked",
    "draw_maps": "counts the images that augment has checked",
    "implementation_of": "looks up what check_implementation lets pass",
    "main": "takes any words, and returns an exit code: test_program.py",
    "ResumeError": "is raised, not called: test_checkpoint.py",
    "UserError": "what the program's user is told: test_program.py",
    "told": "turns exceptions into it: test_program.py",
    "say": "prints any text on any stream: test_program.py",
    "console": "takes no argument",
    "need": "names the package that is missing: test_program.py",
    "ending_together": "takes what started returned: test_parallel.py",
    "sum_naive": "adds up what another worker sends: test_parallel.py",
    "sum_tree": "adds up what another worker sends: test_parallel.py",
    "sum_ring": "adds up what another worker sends: test_parallel.py",
    "share_of": "deals out what fit has checked: test_parallel.py",
    "skip": "counts what dropout has checked: test_parallel.py",
    "SyncBatchNorm": "is made of a layer by share: test_parallel.py",
    "Workers": "is made by started: test_parallel.py",
    "share": "refuses layers, not arguments: test_parallel.py",
    "step_together": "is given what fit has checked: test_parallel.py",
    "evaluate_together": "is given what fit has checked: test_parallel.py",
    "gather": "takes any text: test_parallel.py",
    "started": "takes no argument: test_parallel.py",
    "MeetingError": "is raised, not called: test_parallel.py",
    "meet": "tells its workers apart: test_parallel.py",
    "padded_size": "calculates with a Geometry, which geometry has checked",
    "conv2d_gpu": "has the shapes of conv2d_loops, before a card is asked: test_gpu.py",
    "conv2d_gpu_backward": "has those of conv2d_loops_backward: test_gpu.py",
    "GpuError": "is raised, not called: test_gpu.py",
    "plan": "refuses networks, not arguments: test_gpu.py",
    "check_device": "is what fit asks: test_gpu.py",
}
ON_A_CARD = """
product activation chain convolution convolving deconvolution deconvolving filter_gradient
input_gradient loader adam blame_tile blaming either hidden linear_tile move_filters
move_weights scoring softmax_tile updating Sizes Stage sizes check_stages on_card
Card Kernels Launch Room Steps draw next_rates record
tiles zeros
"""
EXCEPTIONS |= dict.fromkeys(ON_A_CARD.split(), "follows a plan that fits: test_gpu.py")
if find_spec("torch"):
    EXCEPTIONS[best_device.__name__] = "takes no argument"


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_in_the_table(name: str) -> None:
    """A new function without a bad call has not been thought through."""
    short = name.rpartition(".")[2]
    assert (short in ARRAYS or short in CALLS) != (short in EXCEPTIONS)


def test_the_table_holds_nothing_else() -> None:
    """A name that no longer exists would hide a hole."""
    names = {name.rpartition(".")[2] for name in PUBLIC}
    assert {*ARRAYS, *CALLS, *EXCEPTIONS} <= names


def methods(thing: type) -> dict[str, Callable[..., object]]:
    """Return the methods that a class defines itself: the public ones and how it is made."""
    own = {k: getattr(m, "__func__", m) for k, m in vars(thing).items()}
    return {
        k: m
        for k, m in own.items()
        if inspect.isfunction(m)
        and m.__qualname__.startswith(
            thing.__qualname__
        )  # a dataclass's are made elsewhere
        and (k == "__init__" or not k.startswith("_"))
    }


FUNCTIONS = {
    name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)
} | {
    f"{name}.{method}": function
    for name, thing in PUBLIC.items()
    if inspect.isclass(thing)
    for method, function in methods(thing).items()
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_type_hints_are_complete(name: str) -> None:
    """Every parameter and every result says what it is."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    hinted = {p for p in parameters if p not in ("self", "cls")} | {"return"}
    assert set(FUNCTIONS[name].__annotations__) == hinted


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_begin_with_a_sentence(name: str) -> None:
    """A first line, whatever follows; methods too."""
    thing = PUBLIC[name]
    docs = [thing, *(methods(thing).values() if inspect.isclass(thing) else ())]
    for doc in (inspect.getdoc(a) for a in docs if a.__name__ != "__init__"):
        assert (doc or "").partition("\n")[0].endswith((".", ":")), doc


@pytest.mark.parametrize("name", cnn.__all__)
def test_the_manual_is_complete(name: str) -> None:
    """What ``from cnn import`` gives says each parameter by its name, the result, the errors."""
    thing = getattr(cnn, name)
    doc = (ClassDoc if inspect.isclass(thing) else FunctionDoc)(thing)
    sections = (
        ("Parameters", "Attributes") if inspect.isclass(thing) else ("Parameters",)
    )
    described = {
        part.strip(" *")
        for section in sections
        for entry in doc[section]
        for part in entry.name.split(",")
    }
    text = " ".join(doc["Summary"] + doc["Extended Summary"])
    twins = re.findall(r"(?:are those|as) of ``(\w+)``", text)  # twins share theirs
    if not twins:
        parameters = set(inspect.signature(thing).parameters)
        assert parameters <= described, f"Parameters: {parameters - described}"
    if inspect.isfunction(thing) and thing.__annotations__["return"] is not None:
        assert doc["Returns"] or doc["Yields"] or twins, "Returns"


def test_docstrings_name_no_private_thing() -> None:
    """A reader can't look up what starts with an underscore."""
    for name, thing in PUBLIC.items():
        assert not re.search(r"``_\w", inspect.getdoc(thing) or ""), name
