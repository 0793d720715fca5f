"""Against PyTorch.

Exported from book/20-pytorch.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

import numpy as np

from .batchnorm import BatchNorm1d, BatchNorm2d
from .conv import Conv2d
from .correlation import padding_sides
from .data import Dataset, batches
from .network import Flatten, Layer, Linear, ReLU, Sequential, Sigmoid, Tanh
from .pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from .recipes import SEED, epochs_for, prepare
from .regularization import Dropout
from .shapes import check_array, check_integer
from .training import History, progress_bar

__all__ = ["twin", "weights_from", "best_device", "Batches", "Trainer", "train_twin"]


if find_spec("torch"):
    import torch
    from torch import nn
else:
    raise ImportError(
        "cnn.pytorch needs PyTorch, which is not installed: "
        "pip install 'cnn-from-first-principles[torch]'"
    )


# --- Twins ---


def _both_sides(layer: Layer) -> tuple[int, int]:
    """Return the padding of rows and columns, where PyTorch can pad like that."""
    top, bottom, left, right = padding_sides(layer.where["padding"])
    if top != bottom or left != right:
        raise ValueError(
            f"{layer} pads (top, bottom, left, right) = {(top, bottom, left, right)}; "
            "expected equal paddings on opposite sides: PyTorch's layers know no others"
        )
    return top, left


def _conv(layer: Conv2d) -> nn.Module:
    C_out, C_in, *f = layer.params["weight"].shape
    where = layer.where | {"padding": _both_sides(layer)}
    return nn.Conv2d(C_in, C_out, tuple(f), **where)


def _pool(layer: MaxPool2d | AvgPool2d) -> nn.Module:
    p, f = _both_sides(layer), layer.where["kernel_size"]
    f = f if isinstance(f, tuple | list) else (f, f)
    if any(2 * before > size for before, size in zip(p, f, strict=True)):
        raise ValueError(
            f"{layer} pads {p} around a window of {tuple(f)}; expected at most half of the window: "
            "PyTorch's layers take no more"
        )
    return getattr(nn, type(layer).__name__)(**layer.where | {"padding": p})


def _batch_norm(layer: BatchNorm1d | BatchNorm2d) -> nn.Module:
    C = len(layer.params["weight"])
    return getattr(nn, type(layer).__name__)(C, layer.eps, layer.momentum)


_MAKERS: dict[type, Callable[[Layer], nn.Module]] = {
    Sequential: lambda layer: nn.Sequential(*map(_translate, layer)),
    Linear: lambda layer: nn.Linear(*layer.params["weight"].shape[::-1]),
    Conv2d: _conv,
    ReLU: lambda layer: nn.ReLU(),
    Sigmoid: lambda layer: nn.Sigmoid(),
    Tanh: lambda layer: nn.Tanh(),
    Flatten: lambda layer: nn.Flatten(),
    MaxPool2d: _pool,
    AvgPool2d: _pool,
    GlobalAvgPool2d: lambda layer: nn.AdaptiveAvgPool2d(1),
    Dropout: lambda layer: nn.Dropout(layer.p),
    BatchNorm1d: _batch_norm,
    BatchNorm2d: _batch_norm,
}


def _translate(layer: Layer) -> nn.Module:
    """Return PyTorch's layer of the same kind and in the same mode, with any weights."""
    if type(layer) not in _MAKERS:
        known = ", ".join(kind.__name__ for kind in _MAKERS)
        raise TypeError(
            f"{layer!r:.60} has no twin in PyTorch; expected one of {known}"
        )
    module = _MAKERS[type(layer)](layer)
    module.training = layer.training
    return module


def twin(net: Sequential) -> nn.Sequential:
    """Return the same network in PyTorch, with a copy of the weights.

    Parameters
    ----------
    net : Sequential
        A network of this book's layers; it is not changed, and shares no memory with the twin.

    Returns
    -------
    torch.nn.Sequential
        PyTorch's layers in the same order and mode, on the CPU: the same dtype, and the same
        names in ``state_dict``. Nothing is drawn from PyTorch's random numbers.

    Raises
    ------
    TypeError
        ``net`` is no ``Sequential``, or holds a layer that has no twin; the message names it.
    ValueError
        A layer pads as PyTorch's can't: not alike on opposite sides, or, pooling, by more than
        half of the window.
    """
    if not isinstance(net, Sequential):
        raise TypeError(f"net is of type {type(net).__name__}; expected a Sequential")
    with torch.device("meta"):  # shapes without numbers: the numbers are ours
        module = _translate(net)
    state = {name: torch.from_numpy(a) for name, a in net.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module


def weights_from(module: nn.Module) -> dict[str, np.ndarray]:
    """Return a copy of a module's weights as NumPy arrays, ready for ``net.load_state_dict``.

    Parameters
    ----------
    module : torch.nn.Module
        A module on any device, ``twin(net)`` for example.

    Returns
    -------
    dict of str to np.ndarray
        Every parameter and buffer by its name in ``module.state_dict()``, dtype as there.

    Raises
    ------
    TypeError
        ``module`` is no module, or has a dtype that NumPy lacks.
    """
    _check_module(module)
    state = module.state_dict()
    return {name: a.detach().cpu().numpy().copy() for name, a in state.items()}


def _check_module(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module is of type {type(module).__name__}; expected a torch.nn.Module, such as "
            "twin(net)"
        )


# --- The training loop ---


def best_device() -> str:
    """Return the fastest kind of device that this PyTorch can use here.

    Returns
    -------
    str
        ``"cuda"``, ``"mps"`` (Apple's graphics processors) or ``"cpu"``.
    """
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class Batches:
    """Batches of tensors: the same, in the same order, that ``cnn.fit`` deals itself.

    Each time it is iterated over, it begins a new epoch.

    Parameters
    ----------
    x : np.ndarray
        All the images, shape (N, C, H, W) or whatever the first layer takes.
    y : np.ndarray
        Their labels, shape (N,), integers.
    batch_size : int
        Images in a batch; an epoch's last batch may be smaller.
    rng : np.random.Generator, optional
        Shuffles the images, once an epoch; without it they come in order.

    Raises
    ------
    TypeError
        ``x`` or ``y`` is no array, ``y`` holds no integers, ``batch_size`` is none, or ``rng``
        is no generator.
    ValueError
        ``x`` is empty, ``y`` has another length, or ``batch_size`` is below 1.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int = 100,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_array("x", x, ("N", *np.shape(x)[1:]))
        check_array("y", y, (len(x),), f"because x has shape {x.shape}", kind="integer")
        check_integer("batch_size", batch_size, 1)
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"rng is {rng!r:.60}; expected a generator, np.random.default_rng(seed), or None"
            )
        # tensors share the arrays' memory where PyTorch can use it
        self.x = torch.from_numpy(np.require(x, requirements=["C", "W"]))
        self.y = torch.from_numpy(np.require(y, np.int64, ["C", "W"]))
        self.batch_size, self.rng = batch_size, rng

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels, a batch at a time."""
        if self.rng is None:
            parts = zip(
                self.x.split(self.batch_size),
                self.y.split(self.batch_size),
                strict=True,
            )
            yield from parts
            return
        for i in batches(len(self.x), self.batch_size, self.rng):
            yield self.x[i], self.y[i]


class Trainer:
    """The training loop of this book around a PyTorch module.

    Parameters
    ----------
    module : torch.nn.Module
        From images to scores; it is moved to ``device`` and trained in place.
    optimizer : torch.optim.Optimizer
        An optimiser made of ``module.parameters()``.
    schedule : callable, optional
        The learning rate of each step, a function of the step counted from 0, such as
        ``ExponentialDecay``; without it the optimiser's own stays.
    device : str or torch.device
        Where to compute: ``"cpu"``, ``"cuda"``, ``"mps"``, or what ``best_device`` returns.

    Attributes
    ----------
    t : int
        How many steps were taken.

    Raises
    ------
    TypeError
        ``module`` or ``optimizer`` is none, or ``schedule`` no function.
    ValueError
        The optimiser holds parameters of something else.
    RuntimeError
        PyTorch knows no such device, or finds none.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Callable[[int], float] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        _check_module(module)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer is of type {type(optimizer).__name__}; expected one of torch.optim"
            )
        if schedule is not None and not callable(schedule):
            raise TypeError(
                f"schedule is {schedule!r:.60}; expected a function of the step, or None"
            )
        self.device = torch.device(device)
        self.module, self.optimizer = module.to(self.device), optimizer
        self.schedule, self.t = schedule, 0
        known = set(map(id, module.parameters()))
        held = {id(a) for group in optimizer.param_groups for a in group["params"]}
        if not held <= known:
            raise ValueError(
                f"{len(held - known)} of the optimizer's {len(held)} parameters are not the "
                "module's; expected an optimizer made of module.parameters()"
            )

    def step(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Take one step: forward, backward, update.

        Parameters
        ----------
        x, y : torch.Tensor
            A batch: images and labels, on any device.

        Returns
        -------
        float
            The cost J of the batch *before* the step.

        Raises
        ------
        FloatingPointError
            The cost is NaN or infinite; no parameter is changed then.
        """
        loss = self._loss(x, y)[0]
        J = loss.item()
        if not math.isfinite(J):
            raise FloatingPointError(
                f"the cost is {J}; expected a finite number: try a smaller learning rate"
            )
        if self.schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.t += 1
        return J

    def _loss(
        self, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch's mean cost and its scores."""
        x = torch.as_tensor(x, device=self.device)
        y = torch.as_tensor(y, device=self.device)
        z = self.module(x)
        return nn.functional.cross_entropy(z, y), z

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[float, float]:
        """Compute the cost and the error rate over some batches, as after ``module.eval()``.

        Parameters
        ----------
        batches : iterable of (images, labels)
            ``Batches`` or a DataLoader.

        Returns
        -------
        tuple of float
            The cost J and the share of the images that are classified wrongly, from 0 to 1.

        Raises
        ------
        ValueError
            There is no batch.
        FloatingPointError
            The cost is NaN or infinite.
        """
        N, J, wrong = 0, 0.0, 0
        with _in_use(self.module):
            for x, y in batches:
                loss, z = self._loss(x, y)
                N += len(y)
                J += len(y) * loss.item()
                wrong += int((z.argmax(1) != torch.as_tensor(y, device=z.device)).sum())
        if N == 0:
            raise ValueError("there are 0 batches to test on; expected at least 1")
        if not math.isfinite(J):
            raise FloatingPointError(f"the cost is {J}; expected a finite number")
        return J / N, wrong / N

    def fit(
        self,
        train: Iterable[tuple[torch.Tensor, torch.Tensor]],
        test: Iterable[tuple[torch.Tensor, torch.Tensor]],
        *,
        epochs: int,
        every: int = 100,
        seed: int | None = None,
    ) -> History:
        """Train, test every so many iterations and after the last, and return the history.

        Parameters
        ----------
        train, test : iterable of (images, labels)
            What to learn from and what to test on: ``Batches``, a DataLoader, or a list.
        epochs : int
            How many times to go through ``train``.
        every : int
            Test after so many iterations.
        seed : int, optional
            For what PyTorch draws itself: dropout, and the order of a DataLoader without a
            generator of its own. The generator's state before is put back afterwards (on CPU
            and CUDA).

        Returns
        -------
        History
            Losses, test results and times, as ``cnn.fit`` records them.

        Raises
        ------
        TypeError
            ``train`` doesn't tell its length, or a number is no integer.
        ValueError
            A number is too small, or there is no batch.
        FloatingPointError
            The cost became NaN or infinite; the message tells at which iteration.
        """
        check_integer("epochs", epochs, 1)
        check_integer("every", every, 1)
        if not hasattr(train, "__len__"):
            raise TypeError(
                f"train is of type {type(train).__name__}, which has no length; expected Batches, "
                "a DataLoader or a list of batches"
            )
        if len(train) == 0:
            raise ValueError("train has 0 batches; expected at least 1")
        total, history = epochs * len(train), History()
        self.module.train()
        begun = time.perf_counter()
        with _seeded(self.device, seed), progress_bar(0, total) as bar:
            dealt = itertools.chain.from_iterable(itertools.repeat(train, epochs))
            for t, (x, y) in enumerate(dealt, 1):
                try:
                    history.loss.append(self.step(x, y))
                    if t % every == 0 or t == total:
                        results = self.evaluate(test)
                        history.add_test(t, *results, time.perf_counter() - begun)
                except FloatingPointError as err:
                    raise FloatingPointError(f"iteration {t}: {err}") from err
                if bar:
                    bar.set_postfix_str(str(history), refresh=False)
                    bar.update()
        return history


@contextlib.contextmanager
def _in_use(module: nn.Module) -> Iterator[None]:
    """Let the module compute as it will when it is used, and put each part's mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int | None) -> Iterator[None]:
    """Seed PyTorch's generators, and put their states back at the end."""
    if seed is None:
        yield
        return
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.manual_seed(seed)
        yield


def train_twin(
    data: Dataset,
    model: str = "simple",
    recipe: str = "constant",
    *,
    epochs: int | None = None,
    seed: int = SEED,
) -> tuple[nn.Sequential, History]:
    """Train PyTorch's twin of a network as ``cnn.train`` trains the network, on the CPU.

    Parameters
    ----------
    data, model, recipe, epochs, seed
        As for ``cnn.train``. Initial weights and batches are the same as there; what dropout
        switches off is drawn by PyTorch, from the same seed.

    Returns
    -------
    module : torch.nn.Sequential
        The trained twin.
    history : History
        Losses, test results and times.

    Raises
    ------
    TypeError, ValueError
        The data are not what they should be, or an argument is out of range.
    FloatingPointError
        The cost became NaN or infinite.
    """
    check_array("x_train", data.x_train, ("N", 1, 28, 28), "both networks take 28×28")
    net, ours, order = prepare(model, recipe, seed=seed, num_classes=data.num_classes)
    module = twin(net)
    schedule = ours.lr if callable(ours.lr) else None
    adam = torch.optim.Adam(
        module.parameters(), lr=schedule(0) if schedule else ours.lr, fused=True
    )
    history = Trainer(module, adam, schedule=schedule).fit(
        Batches(data.x_train, data.y_train, rng=order),
        Batches(data.x_test, data.y_test, batch_size=500),
        epochs=epochs_for(data) if epochs is None else epochs,
        seed=seed,
    )
    return module, history
