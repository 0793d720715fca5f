"""Optimisers.

Exported from book/08-optimizers.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .network import check_state
from .shapes import check_array, check_same_dtype

__all__ = [
    "Optimizer",
    "check_params",
    "check_grads",
    "check_share",
    "SGD",
    "adam_update",
    "Adam",
    "ExponentialDecay",
]


# --- In code ---


class Optimizer:
    """What optimisers share: parameters, a learning rate, a count of steps, and memories.

    A new optimiser is a subclass that names its ``memories``, arrays shaped as the parameter that
    begin as zeros, and writes ``update``.
    """

    memories: tuple[str, ...] = ()

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        lr: float | Callable[[int], float],
        weight_decay: float = 0.0,
    ) -> None:
        check_params(params)
        if not callable(lr) and not 0 < lr < math.inf:
            raise ValueError(f"lr is {lr}; expected a positive number or a schedule")
        check_share("weight_decay", weight_decay, math.inf)
        self.params, self.lr, self.t = dict(params), lr, 0
        self.weight_decay = float(weight_decay)
        self.memory = {
            name: {m: np.zeros_like(theta) for m in self.memories}
            for name, theta in params.items()
        }

    def step(self, grads: Mapping[str, np.ndarray]) -> None:
        """Change every parameter once, by the gradient of the same name."""
        check_grads(grads, self.params)
        gamma = self.rate()
        self.t += 1
        for name, theta in self.params.items():
            g = self.decay(theta, grads[name], gamma)
            self.update(theta, g, gamma, **self.memory[name])

    def rate(self) -> float:
        """Return this step's learning rate."""
        gamma = float(self.lr(self.t) if callable(self.lr) else self.lr)
        if not 0 <= gamma < math.inf:
            raise ValueError(
                f"the schedule's rate at t = {self.t} is {gamma}; expected 0 or more"
            )
        return gamma

    def decay(self, theta: np.ndarray, g: np.ndarray, gamma: float) -> np.ndarray:
        """Return the gradient with the weight decay's share, g + λ θ.

        Implements {eq}`eq:decay-coupled`.
        """
        return g + self.weight_decay * theta if self.weight_decay else g

    def update(
        self, theta: np.ndarray, g: np.ndarray, gamma: float, **memory: np.ndarray
    ) -> None:
        """Change one parameter, and its memories, in place."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the count of steps, ``"t"``, and a copy of each memory, as ``"m.0.weight"``."""
        state = {"t": np.array(self.t, np.int64)}
        for name, memory in self.memory.items():
            state |= {f"{m}.{name}": a.copy() for m, a in memory.items()}
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state_dict`` returned: all of it, or nothing and an error."""
        check_state(state, self.state_dict())
        self.t = int(state["t"])
        for name, memory in self.memory.items():
            for m, a in memory.items():
                a[...] = state[f"{m}.{name}"]


def check_params(params: Mapping[str, np.ndarray]) -> None:
    """Raise unless these are arrays that can be trained, each under one name."""
    if not params:
        raise ValueError("params is empty: there is nothing to optimise")
    first: dict[int, str] = {}
    for name, theta in params.items():
        check_array(f"params[{name!r}]", theta, np.shape(theta), kind="real float")
        if not theta.flags.writeable:
            raise ValueError(
                f"params[{name!r}] is read-only, but a step changes it in place: pass a copy"
            )
        if first.setdefault(id(theta), name) != name:
            raise ValueError(
                f"params[{name!r}] is the same array as params[{first[id(theta)]!r}]: a step "
                "would change it twice; name it once"
            )


def check_grads(
    grads: Mapping[str, np.ndarray], params: Mapping[str, np.ndarray]
) -> None:
    """Raise unless there is a gradient for each parameter, and for nothing else."""
    if grads.keys() != params.keys():
        raise KeyError(
            f"grads has the names {sorted(grads)}; expected {sorted(params)}"
        )
    for name, theta in params.items():
        g = grads[name]
        fits = isinstance(g, np.ndarray) and g.shape == theta.shape
        if not fits or g.dtype != theta.dtype:
            check_array(f"grads[{name!r}]", g, theta.shape, "the parameter's shape")
            check_same_dtype(parameter=theta, gradient=g)


def check_share(name: str, value: float, end: float = 1) -> None:
    """Raise unless a setting is at least 0 and below ``end``."""
    if not 0 <= value < end:
        below = "" if end == math.inf else f" and below {end}"
        raise ValueError(f"{name} is {value}; expected a number, at least 0{below}")


class SGD(Optimizer):
    """Stochastic gradient descent, with or without momentum.

    Implements {eq}`eq:sgd`, and {eq}`eq:momentum` where ``momentum`` is above 0.

    Parameters
    ----------
    params : mapping of str to np.ndarray
        The parameters by name; they are changed in place.
    lr : float or callable
        The learning rate γ, or a schedule: a function of the step, counted from 0.
    momentum : float
        The share μ of the velocity that a step keeps.
    weight_decay : float
        The share λ of each parameter that is added to its gradient; 0 for none.

    Raises
    ------
    ValueError
        ``momentum`` is below 0 or not below 1; ``lr``, ``params`` or ``weight_decay`` is unfit.
    """

    memories = ("v",)

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        lr: float | Callable[[int], float],
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        check_share("momentum", momentum)
        self.momentum = momentum

    def update(
        self, theta: np.ndarray, g: np.ndarray, gamma: float, v: np.ndarray
    ) -> None:
        """Set v ← μ v + g, then θ ← θ - γ v, in place."""
        v *= self.momentum
        v += g
        theta -= gamma * v

    def __repr__(self) -> str:
        return (
            f"SGD(lr={self.lr}, momentum={self.momentum}, "
            f"weight_decay={self.weight_decay})"
        )


# --- Adam ---


def adam_update(
    theta: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    t: int,
    gamma: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Take Adam's step number ``t``, counted from 1, with one parameter, in place.

    Implements {eq}`eq:adam-moments`, {eq}`eq:adam-correction` and {eq}`eq:adam-step`.
    """
    beta1, beta2 = betas
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    theta -= gamma / (1 - beta1**t) * (m / (np.sqrt(v / (1 - beta2**t)) + eps))


class Adam(Optimizer):
    """Adam: steps of about the size γ, whatever the gradient's scale.

    Its steps are those of ``adam_update``.

    Parameters
    ----------
    params : mapping of str to np.ndarray
        The parameters by name; they are changed in place.
    lr : float or callable
        The learning rate γ, or a schedule: a function of the step, counted from 0.
    betas : tuple of float
        The decay β₁ of the gradient's average and β₂ of its square's.
    eps : float
        A small ε that keeps the division finite; it stands outside the root, as in PyTorch.
    weight_decay : float
        The share λ of each parameter that is added to its gradient; 0 for none.

    Raises
    ------
    ValueError
        A beta is below 0 or not below 1, or ``eps`` is negative; ``lr``, ``params`` or
        ``weight_decay`` is unfit.
    """

    memories = ("m", "v")
    rule = staticmethod(adam_update)

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        lr: float | Callable[[int], float] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"betas is {betas}; expected two numbers, at least 0 and below 1"
            )
        check_share("eps", eps, math.inf)
        self.betas, self.eps = betas, eps

    def update(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        gamma: float,
        m: np.ndarray,
        v: np.ndarray,
    ) -> None:
        """Take step number ``self.t``, in place."""
        self.rule(theta, g, m, v, self.t, gamma, self.betas, self.eps)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(lr={self.lr}, betas={self.betas}, eps={self.eps}, "
            f"weight_decay={self.weight_decay})"
        )


# --- Schedules ---


@dataclass(frozen=True)
class ExponentialDecay:
    """A learning rate that falls from ``gamma_max`` to ``gamma_min``.

    Implements {eq}`eq:exp-decay`.

    Parameters
    ----------
    gamma_max, gamma_min : float
        The rate at step 0, and the one that it tends to.
    tau : float
        After so many steps 1/e of the way is left.

    Raises
    ------
    ValueError
        A rate is negative, ``gamma_min`` exceeds ``gamma_max``, or ``tau`` is not positive.
    """

    gamma_max: float
    gamma_min: float
    tau: float

    def __post_init__(self) -> None:
        if not 0 <= self.gamma_min <= self.gamma_max < math.inf or not self.tau > 0:
            raise ValueError(
                f"{self}: expected 0 <= gamma_min <= gamma_max, and tau above 0"
            )

    def __call__(self, t: int) -> float:
        """Return the learning rate of step ``t``, counted from 0."""
        return self.gamma_min + (self.gamma_max - self.gamma_min) * math.exp(
            -t / self.tau
        )
