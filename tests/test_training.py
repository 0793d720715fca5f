"""Training takes the steps it should, says what is not a number, and tests in any batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn.checkpoint import fit
from cnn.conv import Conv2d
from cnn.data import Dataset
from cnn.files import load_arrays
from cnn.losses import cross_entropy, error_rate
from cnn.network import Flatten, Linear, ReLU, Sequential
from cnn.optimizers import SGD, Adam, ExponentialDecay, Optimizer
from cnn.training import History, evaluate

Arrays = dict[str, np.ndarray]


def made_up(seed: int = 0, n: int = 23) -> Dataset:
    """Return images of noise: five batches of 5, the last one of 3."""
    rng = np.random.default_rng(seed)
    x = rng.random((n + 7, 1, 6, 6), np.float32)
    y = rng.integers(0, 3, n + 7)
    return Dataset("noise", x[:n], y[:n], x[n:], y[n:])


class Run:
    """A network, an optimiser and a generator, as fresh as in a new process."""

    def __init__(self, name: str = "Adam", seed: int = 0, units: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.net = Sequential(
            Conv2d(1, 2, 3, rng=rng), ReLU(), Flatten(), Linear(32, units, rng=rng)
        )
        decay = ExponentialDecay(0.05, 0.001, 10)
        self.optimizer: Optimizer = {
            "Adam": lambda params: Adam(params, 0.01),
            "Adam, schedule": lambda params: Adam(params, decay),
            "momentum": lambda params: SGD(params, 0.05, momentum=0.9),
        }[name](self.net.params)
        self.rng = rng

    def fit(self, **options: object) -> History:
        """Train for four epochs of five iterations, unless told otherwise."""
        options = {
            "data": made_up(),
            "epochs": 4,
            "batch_size": 5,
            "every": 3,
        } | options
        return fit(
            self.net, self.optimizer, options.pop("data"), rng=self.rng, **options
        )

    def stop_at(self, t: int) -> None:
        """Let Ctrl+C be pressed in iteration t, when its weights have just been changed."""
        step = self.optimizer.step

        def stopping(grads: Arrays) -> None:
            step(grads)
            if self.optimizer.t == t:
                raise KeyboardInterrupt

        self.optimizer.step = stopping

    def state(self) -> Arrays:
        """Return all that the run ended with."""
        return self.net.state_dict() | self.optimizer.state_dict()


def assert_same(first: Arrays, second: Arrays) -> None:
    """Compare bit for bit."""
    assert first.keys() == second.keys()
    for name, a in first.items():
        assert a.dtype == second[name].dtype
        np.testing.assert_array_equal(a, second[name], err_msg=name)


def assert_same_history(first: History, second: History) -> None:
    """Compare all but the time."""
    for name in ("loss", "iterations", "test_loss", "test_error"):
        assert getattr(first, name) == getattr(second, name), name


def record_of(path: Path) -> tuple[Arrays, dict[str, object]]:
    """Return a checkpoint's arrays and what its record says."""
    arrays = load_arrays(path)
    return arrays, json.loads(arrays["record"].tobytes())


# --- The loop ---


def test_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy alone must do: no progress bar then, and the same weights."""
    with_bar, without_bar = Run(), Run()
    with_bar.fit()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    without_bar.fit()
    assert_same(with_bar.state(), without_bar.state())


# --- NaN is told, not averaged away ---


@pytest.mark.parametrize("part", ["x_train", "x_test"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_images_are_told_before_training(part: str, value: float) -> None:
    """One NaN pixel makes every weight NaN in a single step."""
    data = made_up()
    x = getattr(data, part).copy()
    x[4, 0, 2, 2] = value
    run = Run()
    before = run.state()
    with pytest.raises(ValueError, match=part):
        run.fit(data=data._replace(**{part: x}))
    assert_same(before, run.state())


def test_nan_weights_are_told() -> None:
    """A network that is broken from the start says so at once."""
    run = Run()
    run.net.params["3.weight"][0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="iteration 1:"):
        run.fit()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_becomes_nan_is_told(tmp_path: Path) -> None:
    """With a wild learning rate the run stops at the iteration that broke it, and saves nothing."""
    run = Run()
    optimizer = SGD(run.net.params, 1e25)
    with pytest.raises(
        FloatingPointError, match=r"iteration \d+: .*learning rate"
    ) as caught:
        fit(
            run.net,
            optimizer,
            made_up(),
            epochs=4,
            rng=run.rng,
            every=1,
            checkpoint=tmp_path / "c",
        )
    assert 1 <= int(str(caught.value).split(":")[0].removeprefix("iteration ")) < 10
    if (tmp_path / "c").exists():
        assert all(np.isfinite(a).all() for a in load_arrays(tmp_path / "c").values())


# --- Testing ---


@pytest.mark.parametrize("batch_size", [1, 3, 7, 23, 500])
def test_evaluating_in_parts_changes_nothing(batch_size: int) -> None:
    """The mean of the batches' means is wrong where the last batch is smaller."""
    rng, data = np.random.default_rng(0), made_up()
    net = Sequential(Flatten(), Linear(36, 3, rng=rng, dtype=np.float64))
    x = data.x_train.astype(np.float64)
    z = net.forward(x)
    expected = cross_entropy(z, data.y_train), error_rate(z, data.y_train)
    assert evaluate(net, x, data.y_train, batch_size) == pytest.approx(
        expected, rel=1e-13
    )
