"""Optimisers.

Exported from book/08-optimizers.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .data import check_array, check_same_dtype
from .network import check_state, fastest

__all__ = [
    "fans",
    "xavier_normal_",
    "kaiming_normal_",
    "Optimizer",
    "SGD",
    "adam_update",
    "check_adam",
    "Adam",
    "ExponentialDecay",
]


# --- The variance of a sum ---


def fans(W: np.ndarray) -> tuple[int, int]:
    """Return fan-in and fan-out: how many inputs an output sums, how many outputs an input feeds.

    Implements {eq}`eq:fans`.

    Parameters
    ----------
    W : np.ndarray
        A weight of shape (M_out, M_in) or (C_out, C_in, f_h, f_w).

    Returns
    -------
    tuple of int
        M_in and M_out, or C_in·f_h·f_w and C_out·f_h·f_w.

    Raises
    ------
    TypeError
        ``W`` is not an array of floating-point numbers.
    ValueError
        ``W`` has fewer than two axes, or is empty.
    """
    check_array("W", W, ("out", "in", *np.shape(W)[2:]), kinds="fc")
    taps = math.prod(W.shape[2:])
    return W.shape[1] * taps, W.shape[0] * taps


# --- Glorot and He ---


def xavier_normal_(W: np.ndarray, rng: np.random.Generator) -> None:
    """Fill ``W`` in place with Glorot's N(0, 2 / (fan_in + fan_out)).

    Implements {eq}`eq:glorot`.

    Parameters
    ----------
    W : np.ndarray
        A weight of shape (M_out, M_in) or (C_out, C_in, f_h, f_w); its dtype stays.
    rng : np.random.Generator
        Where the random numbers come from.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no array of floating-point numbers, or has fewer than two axes.
    """
    fan_in, fan_out = fans(W)
    W[...] = rng.standard_normal(W.shape) * math.sqrt(2 / (fan_in + fan_out))


def kaiming_normal_(W: np.ndarray, rng: np.random.Generator) -> None:
    """Fill ``W`` in place with He's N(0, 2 / fan_in), for a layer before a ReLU.

    Implements {eq}`eq:he`.

    Parameters
    ----------
    W : np.ndarray
        A weight of shape (M_out, M_in) or (C_out, C_in, f_h, f_w); its dtype stays.
    rng : np.random.Generator
        Where the random numbers come from.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no array of floating-point numbers, or has fewer than two axes.
    """
    fan_in, _ = fans(W)
    W[...] = rng.standard_normal(W.shape) * math.sqrt(2 / fan_in)


# --- In code ---


# Parameters with at most so many numbers share a row.
_SMALL = 4096


class Optimizer:
    """What optimisers share: parameters, a learning rate, a count of steps, and memories.

    A new optimiser is a subclass that names its ``memories`` and writes ``update``, a rule that
    treats each number by itself.

    Parameters
    ----------
    params : mapping of str to np.ndarray
        The parameters by name, a network's ``params``; they are changed in place.
    lr : float or callable
        The learning rate γ, or a schedule: a function of the step, counted from 0.
    weight_decay : float
        The share λ of each parameter that is added to its gradient; 0 for none.

    Attributes
    ----------
    memories : tuple of str
        The names of the arrays that ``update`` keeps from step to step, one set a parameter.
    t : int
        How many steps were taken.

    Raises
    ------
    TypeError
        A parameter is not an array of floating-point numbers.
    ValueError
        There are no parameters, one stands there under two names or is read-only, ``lr`` is
        neither positive nor a function, or ``weight_decay`` is negative or not finite.
    """

    memories: tuple[str, ...] = ()

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        lr: float | Callable[[int], float],
        weight_decay: float = 0.0,
    ) -> None:
        if not params:
            raise ValueError("params is empty: there is nothing to optimise")
        if not callable(lr) and not 0 < lr < math.inf:
            raise ValueError(f"lr is {lr}; expected a positive number or a schedule")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(
                f"weight_decay is {weight_decay}; expected a number, at least 0"
            )
        first: dict[int, str] = {}
        for name, theta in params.items():
            check_array(f"params[{name!r}]", theta, np.shape(theta), kinds="f")
            if not theta.flags.writeable:
                raise ValueError(
                    f"params[{name!r}] is read-only, but a step changes it in place: pass a copy"
                )
            if first.setdefault(id(theta), name) != name:
                raise ValueError(
                    f"params[{name!r}] is the same array as params[{first[id(theta)]!r}]: a step "
                    "would change it twice; name it once"
                )
        self.params, self.lr, self.t = dict(params), lr, 0
        self.weight_decay = float(weight_decay)
        self.memory: dict[str, dict[str, np.ndarray]] = {}
        self._rows, self._pieces = [], {}
        self._remember()
        self._decayed: dict[str, np.ndarray] = {}

    def _remember(self) -> None:
        """Make the memories, those of all small parameters side by side in a row."""
        kept = (*self.memories, "scratch")
        small: dict[np.dtype, list[str]] = {}
        for name, theta in self.params.items():
            if theta.size <= _SMALL:
                small.setdefault(theta.dtype, []).append(name)
            else:
                self.memory[name] = {m: np.zeros_like(theta) for m in kept}
        for dtype, names in small.items():
            size, end = sum(self.params[name].size for name in names), 0
            row = {a: np.zeros(size, dtype) for a in ("theta", "g", *kept)}
            self._rows.append(row)
            for name in names:
                shape, begin = self.params[name].shape, end
                end += self.params[name].size
                piece = {a: row[a][begin:end].reshape(shape) for a in row}
                self._pieces[name] = piece["theta"], piece["g"]
                self.memory[name] = {m: piece[m] for m in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Lay the memories side by side again: in a copy each has become an array of its own."""
        vars(self).update(state)
        copied, self.memory, self._rows, self._pieces = self.memory, {}, [], {}
        self._remember()
        for name, memory in copied.items():
            for m in self.memories:
                self.memory[name][m][...] = memory[m]

    def step(self, grads: Mapping[str, np.ndarray]) -> None:
        """Change every parameter once, by the gradient of the same name.

        Parameters
        ----------
        grads : mapping of str to np.ndarray
            The gradients, a network's ``grads`` after ``backward``.

        Raises
        ------
        KeyError
            The names are not those of the parameters.
        TypeError, ValueError
            A gradient has another dtype or shape than its parameter, or the schedule's
            learning rate is negative or not finite. Nothing is changed then.
        """
        if grads.keys() != self.params.keys():
            raise KeyError(
                f"grads has the names {sorted(grads)}; expected {sorted(self.params)}"
            )
        for name, theta in self.params.items():
            g = grads[name]
            fits = isinstance(g, np.ndarray) and g.shape == theta.shape
            if not fits or g.dtype != theta.dtype:
                check_array(f"grads[{name!r}]", g, theta.shape, "the parameter's shape")
                check_same_dtype(parameter=theta, gradient=g)
        gamma = float(self.lr(self.t) if callable(self.lr) else self.lr)
        if not 0 <= gamma < math.inf:
            raise ValueError(
                f"the schedule's rate at t = {self.t} is {gamma}; expected 0 or more"
            )
        self.t += 1
        for name, theta in self.params.items():
            g = grads[name]
            if self.weight_decay:
                g = self.decay(name, g, gamma)
            if name in self._pieces:
                theta_piece, g_piece = self._pieces[name]
                theta_piece[...], g_piece[...] = theta, g
            else:
                self.update(theta, g, gamma, **self.memory[name])
        for row in self._rows:
            self.update(gamma=gamma, **row)
        for name, (theta_piece, _) in self._pieces.items():
            self.params[name][...] = theta_piece

    def decay(self, name: str, g: np.ndarray, gamma: float) -> np.ndarray:
        """Return the gradient that ``update`` shall use: with the weight decay's share, g + λ θ.

        Implements {eq}`eq:decay-coupled`.

        Parameters
        ----------
        name : str
            The parameter's name.
        g : np.ndarray
            Its gradient, which stays as it is.
        gamma : float
            The learning rate of this step.

        Returns
        -------
        np.ndarray
            An array shaped as ``g``, overwritten in the next step.
        """
        theta = self.params[name]
        if name not in self._decayed:  # made once; most runs never need it
            self._decayed[name] = np.empty_like(theta)
        np.multiply(theta, self.weight_decay, out=self._decayed[name])
        self._decayed[name] += g
        return self._decayed[name]

    def update(
        self, theta: np.ndarray, g: np.ndarray, gamma: float, **memory: np.ndarray
    ) -> None:
        """Change one parameter in place, or several that lie side by side in a row.

        Parameters
        ----------
        theta, g : np.ndarray
            The parameter and its gradient, of one shape. What becomes of a number must not
            depend on its neighbours.
        gamma : float
            The learning rate of this step.
        **memory : np.ndarray
            The memories by name, to be changed in place, and ``scratch``: space for intermediate
            results. All have the shape of ``theta`` and begin as zeros.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the count of steps, ``"t"``, and a copy of each memory, as ``"m.0.weight"``."""
        state = {"t": np.array(self.t, np.int64)}
        for name, memory in self.memory.items():
            state |= {f"{m}.{name}": memory[m].copy() for m in self.memories}
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state_dict`` returned: all of it, or nothing and an error.

        Parameters
        ----------
        state : mapping of str to np.ndarray
            What ``state_dict`` of such an optimiser returned.

        Raises
        ------
        KeyError
            An entry is missing, or a name is unknown.
        TypeError
            A value is not an array, or has another dtype.
        ValueError
            An array has another shape, or holds NaN or infinity.
        """
        check_state(state, self.state_dict())
        self.t = int(state["t"])
        for name, memory in self.memory.items():
            for m in self.memories:
                memory[m][...] = state[f"{m}.{name}"]


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
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; expected at least 0 and below 1")
        self.momentum = momentum

    def update(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        gamma: float,
        v: np.ndarray,
        scratch: np.ndarray,
    ) -> None:
        """Set v ← μ v + g, then θ ← θ - γ v, in place."""
        v *= self.momentum
        v += g
        np.multiply(v, gamma, out=scratch)
        theta -= scratch

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
    scratch: np.ndarray,
    t: int,
    gamma: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Take Adam's step number ``t`` with one parameter, in place, without a temporary array.

    Implements {eq}`eq:adam-moments`, {eq}`eq:adam-correction` and {eq}`eq:adam-step`.

    Parameters
    ----------
    theta, g : np.ndarray
        The parameter and its gradient.
    m, v : np.ndarray
        The averages of the gradient and of its square; they are changed in place.
    scratch : np.ndarray
        Space for intermediate results. All five arrays have one shape and dtype.
    t : int
        The step's number, counted from 1.
    gamma, betas, eps : float
        The learning rate γ, the decays (β₁, β₂), and ε.

    Raises
    ------
    TypeError
        One of the arrays holds no floating-point numbers, or their dtypes differ.
    ValueError
        The shapes differ.
    """
    check_adam(theta, g, m, v)
    beta1, beta2 = betas
    np.subtract(g, m, out=scratch)
    scratch *= 1 - beta1
    m += scratch
    np.multiply(g, g, out=scratch)
    scratch -= v
    scratch *= 1 - beta2
    v += scratch
    np.divide(v, 1 - beta2**t, out=scratch)
    np.sqrt(scratch, out=scratch)
    scratch += eps
    np.divide(m, scratch, out=scratch)
    scratch *= gamma / (1 - beta1**t)
    theta -= scratch


def check_adam(theta: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray) -> None:
    """Raise unless a parameter, its gradient and Adam's averages fit together.

    Parameters
    ----------
    theta, g, m, v : np.ndarray
        As in ``adam_update``.

    Raises
    ------
    TypeError, ValueError
        As in ``adam_update``; the message names the arrays.
    """
    check_array("theta", theta, np.shape(theta), kinds="f")
    for name, a in (("g", g), ("m", m), ("v", v)):
        check_array(name, a, theta.shape, "the shape of theta")
    check_same_dtype(theta=theta, g=g, m=m, v=v)


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
        if not 0 <= eps < math.inf:
            raise ValueError(f"eps is {eps}; expected a small number, at least 0")
        self.betas, self.eps = betas, eps

    def update(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        gamma: float,
        m: np.ndarray,
        v: np.ndarray,
        scratch: np.ndarray,
    ) -> None:
        """Take step number ``self.t`` in place, by ``adam_update`` or its faster twin."""
        step = fastest(adam_update)
        step(theta, g, m, v, scratch, self.t, gamma, self.betas, self.eps)

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
