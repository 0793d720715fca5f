"""Against PyTorch.

Exported from book/20-pytorch.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
from numpy.random import Generator

from .batchnorm import BatchNorm1d, BatchNorm2d
from .conv import Conv2d, filter_size
from .correlation import padding_sides
from .data import Dataset, batches
from .network import Flatten, Layer, Linear, ReLU, Sequential, Sigmoid, Tanh
from .optimizers import Adam
from .pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from .recipes import SEED, train
from .regularization import Dropout
from .shapes import check_array, check_generator, check_integer
from .training import History, loop

__all__ = ["twin", "weights_from", "Batches", "Trainer", "best_device", "train_twin"]


if find_spec("torch"):
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer
else:
    raise ImportError(
        "cnn.pytorch needs PyTorch, which is not installed: "
        "pip install 'cnn-from-first-principles[torch]'"
    )


# --- Twins ---
def _both_sides(layer: Conv2d | MaxPool2d | AvgPool2d) -> tuple[int, int]:
    """Return the padding of rows and columns, where PyTorch can pad like that."""
    top, bottom, left, right = sides = padding_sides(layer.where["padding"])
    if (top, left) != (bottom, right):
        raise ValueError(
            f"{layer} pads (top, bottom, left, right) = {sides}; expected as much on "
            "opposite sides: PyTorch's layers can't do otherwise"
        )
    return top, left


def _conv(layer: Conv2d) -> nn.Module:
    C_out, C_in, *f = layer.params["weight"].shape
    where = layer.where | {"padding": _both_sides(layer)}
    return nn.Conv2d(C_in, C_out, tuple(f), **where)


def _pool(layer: MaxPool2d | AvgPool2d) -> nn.Module:
    p, f = _both_sides(layer), layer.where["kernel_size"]
    f_h, f_w = filter_size(f)
    if 2 * p[0] > f_h or 2 * p[1] > f_w:
        few = "expected at most half of the window, or PyTorch's layers refuse"
        raise ValueError(f"{layer} pads {p} around a window of {(f_h, f_w)}; {few}")
    return getattr(nn, type(layer).__name__)(**layer.where | {"padding": p})


def _batch_norm(layer: BatchNorm1d | BatchNorm2d) -> nn.Module:
    C = len(layer.params["weight"])
    return getattr(nn, type(layer).__name__)(C, layer.eps, layer.momentum)


_MAKERS: dict[type, Callable[[Any], nn.Module]] = {
    Sequential: lambda layer: nn.Sequential(*map(_translate, layer)),
    Linear: lambda layer: nn.Linear(*layer.params["weight"].shape[::-1]),
    **{Conv2d: _conv, MaxPool2d: _pool, AvgPool2d: _pool},
    **{BatchNorm1d: _batch_norm, BatchNorm2d: _batch_norm},
    **{ReLU: lambda layer: nn.ReLU(), Tanh: lambda layer: nn.Tanh()},
    **{Sigmoid: lambda layer: nn.Sigmoid(), Flatten: lambda layer: nn.Flatten()},
    GlobalAvgPool2d: lambda layer: nn.AdaptiveAvgPool2d(1),
    Dropout: lambda layer: nn.Dropout(layer.p),
}


def _translate(layer: Layer) -> nn.Module:
    """Return PyTorch's layer of the same kind and in the same mode, with any weights."""
    if type(layer) not in _MAKERS:
        known = ", ".join(kind.__name__ for kind in _MAKERS)
        raise TypeError(f"{layer!r:.60} has no twin; expected one of {known}")
    return _MAKERS[type(layer)](layer).train(layer.training)


def _check_type(name: str, value: object, kind: type, words: str) -> None:
    if not isinstance(value, kind):
        got = type(value).__name__
        raise TypeError(f"{name} is of type {got}; expected {words}")


def twin(net: Sequential) -> nn.Sequential:
    """Return the same network in PyTorch, on the CPU, with a copy of the weights."""
    _check_type("net", net, Sequential, "a Sequential")
    with torch.device("meta"):  # shapes without numbers: the numbers are ours
        module = _translate(net)
    state = {name: torch.from_numpy(a) for name, a in net.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return cast("nn.Sequential", module)


def weights_from(module: nn.Module) -> dict[str, np.ndarray]:
    """Return a copy of a module's weights, ready for ``net.load_state_dict``."""
    _check_type("module", module, nn.Module, "a torch.nn.Module, such as twin(net)")
    state = module.state_dict()
    return {name: a.detach().cpu().numpy().copy() for name, a in state.items()}


# --- One step ---
def _step(module: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> float:
    """Take one step: forward, backward, update; return the batch's cost before it."""
    J = nn.functional.cross_entropy(module(x), y)
    _check_finite(J.item())
    optimizer.zero_grad()
    J.backward()
    optimizer.step()
    return J.item()


def _check_finite(J: float) -> None:
    if not math.isfinite(J):
        raise FloatingPointError(
            f"the cost is {J}; expected a finite number: try a smaller learning rate"
        )


# --- The training loop ---
_Deal = Iterable[tuple[Tensor, Tensor]]


def _tensors(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return images and labels as tensors, on the arrays' memory where PyTorch can."""
    check_array("x", x, ("N", "..."))
    check_array("y", y, (len(x),), f"because x has shape {x.shape}", "integer")
    x, y = np.require(x, None, ["C", "W"]), np.require(y, np.int64, ["C", "W"])
    return torch.from_numpy(x), torch.from_numpy(y)


class Batches:
    """Batches of tensors: the same, in the same order, that ``fit`` deals itself."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray, batch_size: int = 100,
        rng: Generator | None = None,
    ) -> None:  # fmt: skip
        if rng is not None:
            check_generator(rng)
        self.x, self.y = _tensors(x, y)
        self.batch_size, self.rng = check_integer("batch_size", batch_size, 1), rng

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels: shuffled if there is a generator, else in order."""
        N, size = len(self.x), self.batch_size
        order = batches(N, size, self.rng) if self.rng else torch.arange(N).split(size)
        return ((self.x[i], self.y[i]) for i in order)


@torch.no_grad()
def _evaluate(module: nn.Module, batches: _Deal) -> tuple[float, float]:
    """Return cost and error rate over some batches, as after ``module.eval()``."""
    N, J, wrong = 0, 0.0, 0
    modes = [(inside, inside.training) for inside in module.modules()]
    module.eval()
    try:
        for x, y in batches:
            z = module(x)
            N += len(y)
            J += len(y) * nn.functional.cross_entropy(z, y).item()
            wrong += int((z.argmax(1) != y).sum())
    finally:
        for inside, mode in modes:
            inside.training = mode
    if N == 0:
        raise ValueError("there are 0 batches to test on; expected at least 1")
    _check_finite(J)
    return J / N, wrong / N


@dataclass
class _Steps:
    """A PyTorch module on its device, ready for a step or a test."""

    module: nn.Module
    optimizer: Optimizer
    schedule: Callable[[int], float] | None = None
    device: str | torch.device = "cpu"
    t: int = 0  # how many steps were taken

    def __post_init__(self) -> None:
        _check_parts(self)
        self.module.to(self.device)

    def step(self, x: Tensor, y: Tensor) -> float:
        """Take one step at the schedule's rate; return the batch's cost before it."""
        if self.schedule:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.t)
        J = _step(self.module, self.optimizer, x.to(self.device), y.to(self.device))
        self.t += 1
        return J

    def evaluate(self, batches: _Deal) -> tuple[float, float]:
        """Return cost and error rate over some batches, as after ``module.eval()``."""
        there = ((x.to(self.device), y.to(self.device)) for x, y in batches)
        return _evaluate(self.module, there)


class Trainer(_Steps):
    """The training loop of this book around a PyTorch module, which it trains in place."""

    def fit(
        self, train: _Deal, test: _Deal, *, epochs: int, every: int = 100,
        seed: int | None = None,
    ) -> History:  # fmt: skip
        """Train, test every so many iterations and after the last; return the history."""
        total = _check_fit(self.module, train, epochs, every)
        dealt = (batch for _ in range(epochs) for batch in train)
        step, results = (lambda b: self.step(*b)), (lambda: self.evaluate(test))
        self.module.train()
        cuda = [self.device] if torch.device(self.device).type == "cuda" else []
        with torch.random.fork_rng(cuda, enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            return loop(step, results, dealt, total, every)


def best_device() -> str:
    """Return the fastest device that this PyTorch can use: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_parts(trainer: _Steps) -> None:
    """Raise unless a trainer can be made of these."""
    module, optimizer, schedule = trainer.module, trainer.optimizer, trainer.schedule
    _check_type("module", module, nn.Module, "a torch.nn.Module, such as twin(net)")
    _check_type("optimizer", optimizer, Optimizer, "one of torch.optim")
    if schedule is not None and not callable(schedule):
        raise TypeError(f"schedule is {schedule!r:.60}; expected a function, or None")
    held = {id(a) for group in optimizer.param_groups for a in group["params"]}
    foreign = held - set(map(id, module.parameters()))
    if foreign:
        raise ValueError(
            f"{len(foreign)} of the optimizer's {len(held)} parameters are not the "
            "module's; expected an optimizer made of module.parameters()"
        )


def _check_fit(module: nn.Module, train: Any, epochs: int, every: int) -> int:
    """Raise unless a run can be made of these; return how many iterations it will have."""
    check_integer("epochs", epochs, 1)
    check_integer("every", every, 1)
    if not hasattr(train, "__len__"):
        got = type(train).__name__
        raise TypeError(f"train is of type {got}, without a length; expected Batches")
    if len(train) == 0:
        raise ValueError("train has 0 batches; expected at least 1")
    if isinstance(train, Batches) and (len(train.x) - 1) % train.batch_size == 0:
        for inside in module.modules():
            if isinstance(inside, nn.BatchNorm1d):
                raise ValueError(
                    f"{len(train.x)} images in batches of {train.batch_size} leave 1 for the "
                    f"last one, but {inside} needs 2 in training: choose another batch_size"
                )
    return epochs * len(train)


def train_twin(
    data: Dataset, model: str = "simple", recipe: str = "constant", *,
    epochs: int | None = None, seed: int = SEED, lr: float | None = None,
    batch_size: int = 100,
) -> tuple[nn.Sequential, History]:  # fmt: skip
    """Train PyTorch's twin of a network as ``train`` trains the network, on the CPU."""
    modules = []

    def fit(
        net: Sequential, ours: Adam, data: Dataset, epochs: int, rng: Generator,
        batch_size: int,
    ) -> History:  # fmt: skip
        modules.append(twin(net))
        adam = torch.optim.Adam(modules[0].parameters(), lr=ours.rate(), fused=True)
        dealt = Batches(data.x_train, data.y_train, batch_size, rng)
        tests = Batches(data.x_test, data.y_test, 500)
        trainer = Trainer(modules[0], adam, ours.lr if callable(ours.lr) else None)
        return trainer.fit(dealt, tests, epochs=epochs, seed=seed)

    how: dict[str, Any] = {"epochs": epochs, "seed": seed, "lr": lr}
    how["batch_size"] = batch_size
    _, history = train(data, model, recipe, fit=fit, **how)
    return modules[0], history
