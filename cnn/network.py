"""Backpropagation.

Exported from book/06-backpropagation.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

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
from .shapes import (
    check_array,
    check_generator,
    check_integer,
    check_same_dtype,
    shapes,
)

__all__ = [
    "Module", "check_module", "Layer", "uniform_params", "Linear", "ReLU", "Sigmoid",
    "Tanh", "rows", "Flatten", "Container", "check_state", "Sequential",
]  # fmt: skip


# --- What a layer must remember ---
class Module:
    """What can be switched between training and inference, with all the layers inside it."""

    training = True
    least = 1  # images that a batch must have in training

    def children(self) -> Iterator["Module"]:
        """Yield the layers among the attributes, and in lists there."""
        for a in vars(self).values():
            for layer in a if isinstance(a, list | tuple) else [a]:
                if isinstance(layer, Module):
                    yield layer

    def modules(self) -> Iterator["Module"]:
        """Yield this layer and all inside it, however deep."""
        yield self
        for layer in self.children():
            yield from layer.modules()

    def train(self, mode: bool = True) -> Self:
        """Switch this layer and all inside it to training, or with False to inference."""
        if not isinstance(mode, bool):
            raise TypeError(f"mode is {mode!r:.60}; expected True or False")
        self.training = mode
        for layer in self.children():
            layer.train(mode)
        return self

    def eval(self) -> Self:
        """Switch this layer and all inside it to inference."""
        return self.train(False)


def check_module(net: Module) -> None:
    """Raise unless ``net`` is a layer, or a network of layers."""
    if not isinstance(net, Module):
        raise TypeError(f"net is of type {type(net).__name__}; expected a network")


class Layer(Module):
    """One step of a network; a new kind of layer is a subclass with its own two passes.

    Attributes
    ----------
    params, grads, buffers : dict of str to np.ndarray
        The parameters; the cost's gradient with respect to each, from the latest ``backward``;
        arrays that belong to the layer, but that no gradient changes.
    training : bool
        Training or inference: a few layers compute differently in the two.
    """

    def __init__(self) -> None:
        self.params: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.buffers: dict[str, np.ndarray] = {}
        self._seen: Any = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Compute the output, and remember what ``backward`` will need."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> Any:
        """Turn the output's gradient into the input's (None if not wanted); fill ``grads``.

        Raises
        ------
        RuntimeError
            There was no ``forward`` before it.
        """
        raise NotImplementedError

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Compute the output: ``layer(x)`` is ``layer.forward(x)``."""
        return self.forward(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _recall(self) -> Any:
        """Return what ``forward`` remembered."""
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
    _check_draw(shape, rng, dtype)
    k = 1 / math.sqrt(math.prod(shape[1:]))
    weight, bias = rng.uniform(-k, k, shape), rng.uniform(-k, k, shape[0])
    return {"weight": weight.astype(dtype), "bias": bias.astype(dtype)}


def _check_draw(shape: tuple[int, ...], rng: np.random.Generator, dtype: type) -> None:
    """Raise unless random weights of this shape and dtype can be drawn."""
    if not all(isinstance(n, int | np.integer) and n >= 1 for n in shape):
        raise ValueError(f"the weight's shape is {shape}; expected integers from 1 on")
    check_generator(rng)
    if np.dtype(dtype).kind not in "fc":
        raise TypeError(f"dtype is {np.dtype(dtype)}; expected a floating-point dtype")


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
    """

    def __init__(
        self, in_features: int, out_features: int, *, rng: np.random.Generator,
        dtype: type = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        check_integer("in_features", in_features, 1)
        check_integer("out_features", out_features, 1)
        self.params = uniform_params((out_features, in_features), rng, dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Turn inputs of shape (N, M_in) into outputs of shape (N, M_out)."""
        z, self._seen = linear(x, self.params["weight"], self.params["bias"]), x
        return z

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> Any:
        """Return dq, or None if it is not wanted; fill ``grads`` with dW and db."""
        q, W = self._recall(), self.params["weight"]
        dq, dW, db = linear_backward(dy, q, W, input_gradient)
        self.grads = {"weight": dW, "bias": db}
        return dq

    def __repr__(self) -> str:
        return "Linear({1}, {0})".format(*self.params["weight"].shape)


# --- The activations ---
class _Activation(Layer):
    """A function applied to every entry, whose derivative can be read off its output."""

    _pair: tuple[Callable, Callable]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Apply the function to every entry, and remember the output."""
        q = self._seen = self._pair[0](x)
        return q

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> Any:
        """Multiply ``dy`` by the function's derivative, entry by entry."""
        return self._pair[1](dy, self._recall())


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
        q, self._seen = rows(x), x
        return q

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> Any:
        """Give ``dy`` the shape that the input had."""
        x = self._recall()
        check_array("dy", dy, (len(x), x[0].size), f"because x has shape {x.shape}")
        return dy.reshape(x.shape)


# --- Layers in a row ---
def _check_layers(layers: Iterable[Layer]) -> None:
    """Raise unless each is a layer, and none occurs in two places, not even inside another."""
    seen: set[int] = set()
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(
                f"argument {i} is of type {type(layer).__name__}; expected layers: "
                "Sequential(a, b), not ([a, b])"
            )
        inside = {id(a) for a in layer.modules()}
        if seen & inside:
            raise ValueError(
                f"layer {i}, {layer!r}, is in the network already, or a layer inside it: it can "
                "remember only one forward pass, so make one for each place"
            )
        seen |= inside


class Container(Layer):
    """A layer made of layers. It has no arrays of its own: it asks its layers for theirs."""

    params = property(lambda self: self._named("params"))
    grads = property(lambda self: self._named("grads"))
    buffers = property(lambda self: self._named("buffers"))

    def __init__(self, *layers: Layer) -> None:
        _check_layers(layers)
        self.layers = list(layers)

    def _named(self, kind: str) -> dict[str, np.ndarray]:
        """Collect the layers' arrays of this kind; each name begins with its layer's number."""
        named = {}
        for i, layer in enumerate(self.layers):
            for name, a in getattr(layer, kind).items():
                named[f"{i}.{name}"] = a
        return named

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: int) -> Layer:
        return self.layers[i]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"


def check_state(
    state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> None:
    """Raise unless ``state`` has the names, shapes and dtypes expected, and finite numbers."""
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unknown:
        found = f"missing {sorted(missing)}, unexpected {sorted(unknown)}"
        raise KeyError(f"the state does not fit: {found}")
    for key, a in expected.items():
        name = f"state[{key!r}]"
        check_array(name, state[key], a.shape, "as the array it is to replace")
        check_same_dtype(**{name: state[key], "current": a})
        if not np.isfinite(state[key]).all():
            raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")


class Sequential(Container):
    """Layers one after the other: the output of each is the input of the next.

    Its arrays are the layers' own; their names are PyTorch's, as in ``"0.weight"``.

    Parameters
    ----------
    *layers : Layer
        The layers, from the input to the output, each object once.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Send ``x`` through all layers, the first one first.

        Implements {eq}`eq:network-forward`.
        """
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> Any:
        """Send ``dy`` through all layers, the last one first.

        Implements {eq}`eq:backprop` and {eq}`eq:backprop-params`.
        """
        learning = [l for l, layer in enumerate(self.layers) if layer.params]
        first = 0 if input_gradient else min(learning, default=len(self.layers))
        for l in reversed(range(first, len(self.layers))):
            dy = self.layers[l].backward(dy, input_gradient=input_gradient or l > first)
        return dy if input_gradient else None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter and every buffer, by name."""
        return {name: a.copy() for name, a in (self.params | self.buffers).items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy such a ``state`` into the arrays: all of it, or nothing and an error."""
        current = self.params | self.buffers
        check_state(state, current)
        for name, a in current.items():
            a[...] = state[name]
