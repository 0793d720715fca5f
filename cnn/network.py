"""Backpropagation.

Exported from book/06-backpropagation.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Self

import numpy as np

from .activations import (
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    tanh,
    tanh_backward,
)
from .dense import linear, linear_backward
from .shapes import check_array, check_same_dtype, shapes

__all__ = [
    "Layer",
    "uniform_params",
    "Linear",
    "ReLU",
    "Sigmoid",
    "Tanh",
    "rows",
    "Flatten",
    "check_state",
    "Sequential",
]


# --- What a layer must remember ---


class Layer:
    """One step of a network: it computes forward, remembers what it needs, and computes backward.

    A new kind of layer is a subclass with its own ``forward`` and ``backward``.

    Attributes
    ----------
    params : dict of str to np.ndarray
        The parameters by name; empty where there are none. Optimisers change them in place.
    grads : dict of str to np.ndarray
        The gradient of the cost by each parameter, from the latest ``backward``.
    buffers : dict of str to np.ndarray
        Arrays that belong to the layer's state, but that no gradient changes; mostly empty.
    training : bool
        Whether the network is being trained or used: a few layers compute differently then.
    """

    def __init__(self) -> None:
        self.params: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.buffers: dict[str, np.ndarray] = {}
        self.training = True
        self._seen: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Compute the layer's output, and remember what ``backward`` will need."""
        raise NotImplementedError

    def backward(
        self, dy: np.ndarray, *, input_gradient: bool = True
    ) -> np.ndarray | None:
        """Turn the gradient of the output into the one of the input, and fill ``grads``.

        It belongs to the latest ``forward``. Where ``input_gradient`` is false, a layer may save
        itself the work and return None.
        """
        raise NotImplementedError

    def modules(self) -> Iterator["Layer"]:
        """Yield this layer, then those among its attributes and in lists there, and so on."""
        yield self
        for value in vars(self).values():
            for a in value if isinstance(value, list | tuple) else [value]:
                if isinstance(a, Layer):
                    yield from a.modules()

    def train(self, mode: bool = True) -> Self:
        """Tell this layer and all inside it that the network is going to be trained."""
        if not isinstance(mode, bool):
            raise TypeError(f"mode is {mode!r:.60}; expected True or False")
        for layer in self.modules():
            layer.training = mode
        return self

    def eval(self) -> Self:
        """Tell this layer and all inside it that the network is going to be used, not trained."""
        return self.train(False)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Compute the layer's output: ``layer(x)`` is ``layer.forward(x)``."""
        return self.forward(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _recall(self) -> np.ndarray:
        """Return what ``forward`` remembered; raise a RuntimeError where it has not run."""
        if self._seen is None:
            raise RuntimeError(f"{self!r}: backward needs a forward pass before it")
        return self._seen


# --- The dense layer ---


def uniform_params(
    shape: tuple[int, ...], rng: np.random.Generator, dtype: type = np.float32
) -> dict[str, np.ndarray]:
    """Draw a weight of this shape and its bias, as PyTorch's layers do by default.

    Implements {eq}`eq:uniform-params`.
    """
    if min(shape) < 1:
        raise ValueError(
            f"the weight's shape is {shape}; expected every size to be at least 1"
        )
    if np.dtype(dtype).kind not in "fc":
        raise TypeError(f"dtype is {np.dtype(dtype)}; expected a floating-point dtype")
    k = 1 / math.sqrt(math.prod(shape[1:]))
    return {
        "weight": rng.uniform(-k, k, shape).astype(dtype),
        "bias": rng.uniform(-k, k, shape[0]).astype(dtype),
    }


class Linear(Layer):
    """The dense layer z = q Wᵀ + b, with parameters of its own.

    Parameters
    ----------
    in_features, out_features : int
        Inputs and units: the weight has shape (out_features, in_features).
    rng : np.random.Generator
        Draws the initial weight and bias; see ``uniform_params``.
    dtype : type
        The parameters' dtype, and hence that of the input.

    Raises
    ------
    TypeError, ValueError
        ``dtype`` is no floating-point dtype, or a size is below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rng: np.random.Generator,
        dtype: type = np.float32,
    ) -> None:
        super().__init__()
        self.params = uniform_params((out_features, in_features), rng, dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Turn inputs of shape (N, M_in) into outputs of shape (N, M_out)."""
        z = linear(x, self.params["weight"], self.params["bias"])
        self._seen = x
        return z

    def backward(
        self, dy: np.ndarray, *, input_gradient: bool = True
    ) -> np.ndarray | None:
        """Return the gradient by the input, or None; fill ``grads`` with dW and db."""
        dx, dW, db = linear_backward(
            dy, self._recall(), self.params["weight"], input_gradient
        )
        self.grads = {"weight": dW, "bias": db}
        return dx

    def __repr__(self) -> str:
        M_out, M_in = self.params["weight"].shape
        return f"Linear({M_in}, {M_out})"


# --- The activations ---


class _Activation(Layer):
    """A function applied to every entry, whose derivative can be read off its output."""

    _pair: tuple[Callable, Callable]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Apply the function to every entry, and remember the output."""
        function, _ = self._pair
        q = function(x)
        self._seen = q
        return q

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Multiply ``dy`` by the function's derivative, entry by entry."""
        _, function_backward = self._pair
        return function_backward(dy, self._recall())


class ReLU(_Activation):
    """The rectifier max(0, z), for arrays of any shape."""

    _pair = relu, relu_backward


class Sigmoid(_Activation):
    """The logistic function 1 / (1 + e^-z), for arrays of any shape."""

    _pair = sigmoid, sigmoid_backward


class Tanh(_Activation):
    """The hyperbolic tangent, for arrays of any shape."""

    _pair = tanh, tanh_backward


# --- Flatten ---


@shapes("x (N, ...)")
def rows(x: np.ndarray) -> np.ndarray:
    """Lay each image out as one row: (N, C, H, W) becomes (N, C·H·W).

    Implements {eq}`eq:flatten`.
    """
    return x.reshape(len(x), -1)


class Flatten(Layer):
    """Lay each image out as one row: (N, C, H, W) becomes (N, C·H·W)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Join all axes but the first."""
        q = rows(x)
        self._seen = x
        return q

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Give ``dy`` the shape that the input had."""
        x = self._recall()
        check_array("dy", dy, (len(x), x[0].size), f"because x has shape {x.shape}")
        return dy.reshape(x.shape)


# --- Layers in a row ---


def check_state(
    state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> None:
    """Raise unless ``state`` has the names, shapes and dtypes of ``expected``, and finite numbers."""
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise KeyError(
            f"the state does not fit: missing {missing}, unexpected {unknown}"
        )
    for name, a in expected.items():
        check_array(
            f"state[{name!r}]", state[name], a.shape, "as the array it is to replace"
        )
        check_same_dtype(**{f"state[{name!r}]": state[name], "current": a})
        if not np.isfinite(state[name]).all():
            raise ValueError(
                f"state[{name!r}] holds NaN or infinity; expected finite numbers"
            )


class Sequential(Layer):
    """Layers one after the other: the output of each is the input of the next.

    A parameter's or a buffer's name is PyTorch's: the layer's position, a dot, the name it has
    there, as in ``"0.weight"``. The arrays are the layers' own, not copies.

    Parameters
    ----------
    *layers : Layer
        The layers, from the input to the output, each object once.

    Raises
    ------
    TypeError
        An argument is not a layer.
    ValueError
        The same layer object occurs twice: it can remember only one forward pass.
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"argument {i} is of type {type(layer).__name__}; expected a Layer, each one "
                    "an argument of its own: Sequential(a, b), not Sequential([a, b])"
                )
            if any(layer is other for other in layers[:i]):
                raise ValueError(
                    f"layer {i}, {layer!r}, is in the network already, and can remember only one "
                    "forward pass: make a layer of its own for each place"
                )
        self.layers = list(layers)
        self.params = {
            f"{i}.{name}": a
            for i, layer in enumerate(layers)
            for name, a in layer.params.items()
        }
        self.buffers = {
            f"{i}.{name}": a
            for i, layer in enumerate(layers)
            for name, a in layer.buffers.items()
        }

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Send ``x`` through all layers, the first one first.

        Implements {eq}`eq:network-forward`.
        """
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(
        self, dy: np.ndarray, *, input_gradient: bool = True
    ) -> np.ndarray | None:
        """Send ``dy`` through all layers, the last one first; gather their ``grads`` by name.

        Implements {eq}`eq:backprop` and {eq}`eq:backprop-params`.

        Parameters
        ----------
        dy : np.ndarray
            The gradient of the cost by the network's output.
        input_gradient : bool
            Whether the gradient by the network's input is wanted. Where it is not, the pass
            ends at the lowest layer that has parameters, which saves that layer's share of it.

        Returns
        -------
        np.ndarray or None
            The gradient of the cost by the input; None where it is not wanted.
        """
        trained = [i for i, layer in enumerate(self.layers) if layer.params]
        last = 0 if input_gradient else min(trained, default=len(self))
        self.grads = {}
        for i in reversed(range(last, len(self))):
            layer = self.layers[i]
            dy = layer.backward(dy, input_gradient=input_gradient or i > last)
            self.grads |= {f"{i}.{name}": da for name, da in layer.grads.items()}
        return dy if input_gradient else None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter and every buffer, by name."""
        return {name: a.copy() for name, a in (self.params | self.buffers).items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy ``state`` into parameters and buffers: all of it, or nothing and an error.

        Parameters
        ----------
        state : mapping of str to np.ndarray
            What ``state_dict`` of such a network returned.

        Raises
        ------
        KeyError
            An array is missing, or a name is unknown.
        TypeError
            A value is not an array, or has another dtype than the one it is to replace.
        ValueError
            An array has another shape than the one it is to replace, or holds NaN or infinity.
        """
        current = self.params | self.buffers
        check_state(state, current)
        for name, a in current.items():
            a[...] = state[name]

    def __iter__(self) -> Iterator[Layer]:
        """Iterate over the layers."""
        return iter(self.layers)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.layers)

    def __getitem__(self, i: int) -> Layer:
        """Return the layer at position ``i``."""
        return self.layers[i]

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"
