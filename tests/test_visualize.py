"""What the pictures of a network show is what was asked: the layers, the score, the patch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from cnn.batchnorm import BatchNorm2d
from cnn.conv import Conv2d
from cnn.losses import error_rate, softmax
from cnn.network import Flatten, Linear, ReLU, Sequential
from cnn.regularization import Dropout
from cnn.training import in_use
from cnn.visualize import (
    activations,
    confusion_matrix,
    most_confident_mistakes,
    occlusion,
    saliency,
)

Look = Callable[[Sequential, np.ndarray, np.ndarray], object]
N, K = 3, 4
X = np.random.default_rng(5).random((N, 2, 6, 5))
Y = np.array([3, 0, 1])


def network() -> Sequential:
    """Return a network with all that computes differently in training, and in training mode."""
    rng = np.random.default_rng(0)
    f64 = {"rng": rng, "dtype": np.float64}
    net = Sequential(
        Conv2d(2, 3, 3, padding=1, **f64),
        BatchNorm2d(3, dtype=np.float64),
        ReLU(),
        Flatten(),
        Dropout(0.5, rng=rng),
        Linear(90, K, **f64),
    )
    for _ in range(5):  # so that the running moments differ from any batch's
        net(rng.standard_normal((8, 2, 6, 5)))
    return net


def answers(net: Sequential, x: np.ndarray) -> np.ndarray:
    """Return the scores at inference."""
    return in_use(net)(x)


# --- Modes and states ---


LOOKS: list[Look] = [
    saliency,
    lambda net, x, y: occlusion(net, x, y, 3),
    lambda net, x, y: activations(net, x),
]


@pytest.mark.parametrize("look", LOOKS)
def test_looking_changes_nothing(look: Look) -> None:
    """Modes, weights, running moments and the image are as before, whatever they were."""
    net, x = network(), X.copy()
    net[4].eval()
    modes, state = [layer.training for layer in net.modules()], net.state_dict()
    look(net, x, Y)
    assert [layer.training for layer in net.modules()] == modes
    for name, a in net.state_dict().items():
        assert_array_equal(a, state[name])
    assert_array_equal(x, X)


def test_modes_are_put_back_after_an_error() -> None:
    """A wrong class is found after the network was told to be in use."""
    net = network()
    for look in LOOKS[:2]:
        with pytest.raises(ValueError, match=r"y\[0\] is 4"):
            look(net, X, np.array([4, 0, 0]))
        assert all(layer.training for layer in net.modules())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept(dtype: type) -> None:
    """A float32 network gives float32 maps."""
    rng = np.random.default_rng(0)
    net = Sequential(Flatten(), Linear(60, K, rng=rng, dtype=dtype))
    x = X.astype(dtype)
    for a in (*activations(net, x), saliency(net, x, Y), occlusion(net, x, Y, 3)):
        assert a.dtype == dtype


# --- Activations ---


def test_activations_are_the_layers_outputs() -> None:
    """Each is the next layer's input, and the last one the network's answer."""
    net = network()
    outputs = activations(net, X)
    assert len(outputs) == len(net)
    assert_array_equal(outputs[-1], answers(net, X))
    assert_array_equal(outputs[2], np.maximum(outputs[1], 0))
    assert_array_equal(outputs[0], in_use(net)[0](X))


# --- Saliency ---


def test_saliency_is_pytorchs_gradient() -> None:
    """The same network, built there with the same weights."""
    net = network()
    twin = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, padding=1),
        torch.nn.BatchNorm2d(3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(90, K),
    ).double()
    state = {name: torch.from_numpy(a) for name, a in net.state_dict().items()}
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("num_batches" in name for name in missing)
    x = torch.from_numpy(X).requires_grad_()
    twin.eval()(x)[torch.arange(N), torch.from_numpy(Y)].sum().backward()
    assert_allclose(saliency(net, X, Y), x.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_saliency_of_a_batch_is_each_images_own() -> None:
    """No image's map depends on which other images are in the batch."""
    net = network()
    together = saliency(net, X, Y)
    for n in range(N):
        alone = saliency(net, X[n : n + 1], Y[n : n + 1])
        assert_allclose(together[n : n + 1], alone, rtol=1e-12, atol=1e-14)


# --- Occlusion ---


@pytest.mark.parametrize(
    ("size", "stride", "value"), [(1, 1, 0.0), (2, 1, 0.5), (3, 2, 1.0), (5, 1, 0.0)]
)
def test_occlusion_is_the_literal_loop(size: int, stride: int, value: float) -> None:
    """Pixel by pixel, whether it is covered."""
    net = network()
    O = occlusion(net, X, Y, size, stride, value)
    h, w = ((side - size) // stride + 1 for side in X.shape[2:])
    assert O.shape == (N, h, w)
    before = softmax(answers(net, X))
    for i, j in np.ndindex(h, w):
        covered = X.copy()
        for row, column in np.ndindex(X.shape[2:]):
            down, across = row - stride * i, column - stride * j
            if 0 <= down < size and 0 <= across < size:
                covered[:, :, row, column] = value
        P = softmax(answers(net, covered))
        for n in range(N):
            assert O[n, i, j] == pytest.approx(before[n, Y[n]] - P[n, Y[n]], abs=1e-13)


def test_paper_on_paper_costs_nothing() -> None:
    """What occlusion cannot see."""
    x = X.copy()
    x[:, :, :, 2:] = 0
    assert_array_equal(occlusion(network(), x, Y, 3)[:, :, 2], 0)


# --- Counting ---


def test_confusion_counts_every_pair() -> None:
    """Rows are labels, and a pair that occurs often is counted as often."""
    y, guess = np.array([0, 0, 0, 2, 1]), np.array([1, 1, 0, 2, 2])
    expected = [[1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    C = confusion_matrix(y, guess, 4)
    assert_array_equal(C, expected)
    assert C.dtype.kind == "i"
    assert_array_equal(confusion_matrix(guess, y, 4), C.T)


def test_the_diagonal_is_what_is_right() -> None:
    """The rest is the error rate."""
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((200, 10)), rng.integers(0, 10, 200)
    C = confusion_matrix(y, z.argmax(axis=1))
    assert C.sum() == 200
    assert 1 - np.trace(C) / 200 == pytest.approx(error_rate(z, y))


def test_mistakes_come_surest_first() -> None:
    """Right answers never; of two equally sure mistakes, the earlier one."""
    P = np.array([[0.6, 0.4], [0.1, 0.9], [0.4, 0.6], [0.99, 0.01], [0.6, 0.4]])
    assert most_confident_mistakes(P, np.array([1, 0, 0, 0, 1])).tolist() == [
        1,
        0,
        2,
        4,
    ]
    assert most_confident_mistakes(P, P.argmax(axis=1)).tolist() == []
