"""How far to step.

Exported from book/08-optimizers.ipynb and book/15-regularization.ipynb: edit the chapters and run
`make export`.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .network import check_state
from .shapes import check_array, check_number, check_same_dtype, shapes

__all__ = [
    "Params", "Rate", "check_params", "check_grads", "check_optimizer", "check_adam",
    "Bookkeeping", "Optimizer", "SGD", "adam_update", "Adam", "ExponentialDecay",
    "AdamW",
]  # fmt: skip


# --- In code ---
Params = Mapping[str, np.ndarray]
Rate = float | Callable[[int], float]


def check_params(params: Params) -> None:
    """Raise unless these are arrays that can be trained, each under one name."""
    if not isinstance(params, Mapping):
        got = type(params).__name__
        raise TypeError(
            f"params is of type {got}; expected arrays by name, as net.params"
        )
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


def check_grads(grads: Params, params: Params) -> None:
    """Raise unless there is a gradient for each parameter, and for nothing else."""
    if grads.keys() != params.keys():
        raise KeyError(
            f"grads has the names {sorted(grads)}; expected {sorted(params)}"
        )
    for name, theta in params.items():
        g = grads[name]
        if getattr(g, "shape", None) != theta.shape or g.dtype != theta.dtype:
            check_array(f"grads[{name!r}]", g, theta.shape, "the parameter's shape")
            check_same_dtype(parameter=theta, gradient=g)


def check_optimizer(params: Params, lr: Rate, weight_decay: float) -> None:
    """Raise unless an optimiser can be made of these."""
    check_params(params)
    if not callable(lr):
        check_number("lr", lr)
        if lr == 0:
            raise ValueError("lr is 0; expected a positive number or a schedule")
    check_number("weight_decay", weight_decay)


def check_adam(betas: tuple[float, float], eps: float) -> None:
    """Raise unless Adam's averages forget, and its ε is not negative."""
    pair = isinstance(betas, tuple | list) and len(betas) == 2
    if not pair or not all(isinstance(b, numbers.Real) and 0 <= b < 1 for b in betas):
        raise ValueError(
            f"betas is {betas!r:.60}; expected two numbers, at least 0 and below 1"
        )
    check_number("eps", eps)


class Bookkeeping:
    """A count of steps, the rate of the next one, and memories that a later run can take over."""

    lr: Rate
    t: int
    memories: tuple[str, ...] = ()
    memory: dict[str, dict[str, np.ndarray]]

    def zeros(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Return a parameter's memories, float32 at least: a squared float16 is soon 0."""
        dtype = np.result_type(theta, np.float32)
        return {name: np.zeros(theta.shape, dtype) for name in self.memories}

    def rate(self) -> float:
        """Return this step's learning rate."""
        gamma = float(self.lr(self.t) if callable(self.lr) else self.lr)
        if not 0 <= gamma < math.inf:
            raise ValueError(
                f"the schedule's rate at t = {self.t} is {gamma}; expected 0 or more"
            )
        return gamma

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the count of steps, ``"t"``, and a copy of each memory, as ``"m.0.weight"``."""
        state = {"t": np.array(self.t, np.int64)}
        for name, memory in self.memory.items():
            state |= {f"{m}.{name}": a.copy() for m, a in memory.items()}
        return state

    def load_state_dict(self, state: Params) -> None:
        """Go on from what ``state_dict`` returned: all of it, or nothing and an error."""
        check_state(state, self.state_dict())
        self.t = int(state["t"])
        for name, memory in self.memory.items():
            for m, a in memory.items():
                a[...] = state[f"{m}.{name}"]

    def update(
        self, theta: np.ndarray, g: np.ndarray, gamma: float, **memory: np.ndarray
    ) -> None:
        """Change one parameter, and its memories, in place."""
        raise NotImplementedError


class Optimizer(Bookkeeping):
    """What optimisers share; a new one names ``memories``, writes ``update``."""

    def __init__(self, params: Params, lr: Rate, weight_decay: float = 0.0) -> None:
        check_optimizer(params, lr, weight_decay)
        self.params, self.lr, self.t = dict(params), lr, 0
        self.weight_decay = float(weight_decay)
        self.memory = {name: self.zeros(a) for name, a in params.items()}

    def step(self, grads: Params) -> None:
        """Change every parameter once, by the gradient of the same name."""
        check_grads(grads, self.params)
        gamma = self.rate()
        self.t += 1
        for name, theta in self.params.items():
            wide = theta if theta.itemsize > 2 else theta.astype(np.float32)
            g = self.decay(wide, grads[name].astype(wide.dtype, copy=False), gamma)
            self.update(wide, g, gamma, **self.memory[name])
            if wide is not theta:
                theta[...] = wide

    def decay(self, theta: np.ndarray, g: np.ndarray, gamma: float) -> np.ndarray:
        """Return the gradient with the weight decay's share, g + λ θ.

        Implements {eq}`eq:decay-coupled`.
        """
        return g + self.weight_decay * theta if self.weight_decay else g


class SGD(Optimizer):
    """Stochastic gradient descent, with or without momentum.

    Implements {eq}`eq:sgd`, and {eq}`eq:momentum` where ``momentum`` is above 0.

    Parameters
    ----------
    params, lr : mapping of str to np.ndarray, float or callable
        The parameters by name, changed in place; γ, or a schedule of the step.
    momentum, weight_decay : float
        The share μ of the velocity that a step keeps; λ; 0 for none.
    """

    memories = ("v",)

    def __init__(
        self, params: Params, lr: Rate, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr, weight_decay)
        check_number("momentum", momentum, end=1)
        self.momentum = momentum

    def update(
        self, theta: np.ndarray, g: np.ndarray, gamma: float, **memory: np.ndarray
    ) -> None:
        """Set v ← μ v + g, then θ ← θ - γ v, in place."""
        v = memory["v"]
        v[...] = self.momentum * v + g
        theta -= gamma * v

    def __repr__(self) -> str:
        settings = f"lr={self.lr}, momentum={self.momentum}"
        return f"SGD({settings}, weight_decay={self.weight_decay})"


# --- Adam ---
@shapes("theta (...), g (...), m (...), v (...)")
def adam_update(
    theta: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    gamma: float, betas: tuple[float, float], eps: float,
) -> None:  # fmt: skip
    """Take Adam's step number ``t``, counted from 1, with one parameter, in place.

    Implements {eq}`eq:adam-moments`, {eq}`eq:adam-correction` and {eq}`eq:adam-step`.
    """
    beta1, beta2 = betas
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * (g * g)
    theta -= gamma / (1 - beta1**t) * (m / (np.sqrt(v / (1 - beta2**t)) + eps))


class Adam(Optimizer):
    """Adam: steps of about the size γ, whatever the gradient's scale.

    Its steps are those of ``adam_update``.

    Parameters
    ----------
    params, lr : mapping of str to np.ndarray, float or callable
        The parameters by name, changed in place; γ, or a schedule of the step.
    betas, eps : tuple of float, float
        How much the averages of g and g² keep; ε, which stands outside the root.
    weight_decay : float
        The share λ of each parameter that is added to its gradient; 0 for none.
    """

    memories = ("m", "v")
    rule = staticmethod(adam_update)

    def __init__(
        self, params: Params, lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, weight_decay)
        check_adam(betas, eps)
        self.betas, self.eps = betas, eps

    def update(
        self, theta: np.ndarray, g: np.ndarray, gamma: float, **memory: np.ndarray
    ) -> None:
        """Take step number ``self.t``, in place."""
        m, v = memory["m"], memory["v"]
        self.rule(theta, g, m, v, self.t, gamma, self.betas, self.eps)

    def __repr__(self) -> str:
        settings = f"lr={self.lr}, betas={self.betas}, eps={self.eps}"
        return f"{type(self).__name__}({settings}, weight_decay={self.weight_decay})"


# --- Schedules ---
@dataclass(frozen=True)
class ExponentialDecay:
    """A learning rate that falls from ``gamma_max`` to ``gamma_min``.

    Implements {eq}`eq:exp-decay`.

    Parameters
    ----------
    gamma_max, gamma_min, tau : float
        The rate at step 0, the one it tends to, and the steps until 1/e is left.
    """

    gamma_max: float
    gamma_min: float
    tau: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(name, value)
        if not self.gamma_min <= self.gamma_max or not self.tau > 0:
            raise ValueError(
                f"{self}: expected 0 <= gamma_min <= gamma_max and tau > 0"
            )

    def __call__(self, t: int) -> float:
        """Return the learning rate of step ``t``, counted from 0."""
        share = math.exp(-t / self.tau)
        return self.gamma_min + (self.gamma_max - self.gamma_min) * share


# --- Adam is different ---
class AdamW(Adam):
    """Adam with decoupled weight decay: the weights shrink by themselves, whatever the gradient.

    Implements {eq}`eq:decay-decoupled`.

    Parameters
    ----------
    params : mapping of str to np.ndarray
        The parameters by name; they are changed in place.
    lr : float or callable
        The learning rate γ, or a schedule: a function of the step, counted from 0.
    betas, eps : tuple of float, float
        As for ``Adam``.
    weight_decay : float
        λ: every step begins by taking the share γλ away from each parameter.
    """

    def __init__(
        self, params: Mapping[str, np.ndarray],
        lr: float | Callable[[int], float] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay)

    def decay(self, theta: np.ndarray, g: np.ndarray, gamma: float) -> np.ndarray:
        """Shrink the parameter in place, and return its gradient as it is."""
        theta *= 1 - gamma * self.weight_decay
        return g
