"""Weights that others can read.

Exported from book/31-files.ipynb: edit the chapter and run `make export`.
"""

import json
import os
from collections.abc import Mapping
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np

from .files import replace_file
from .network import Sequential
from .recipes import MODELS, RECIPES

__all__ = ["save_weights", "load_weights", "network_of"]


# --- Weights that others can read ---
def save_weights(
    path: str | os.PathLike, net: Sequential, about: Mapping[str, object] | None = None
) -> None:
    """Write a network's weights as a safetensors file, which PyTorch reads as well.

    Parameters
    ----------
    path, net : path-like, Sequential
        The file to make or to replace, which is never half written, and the network.
    about : mapping of str to object, optional
        What else the header shall say, as JSON: such as how the network was trained.

    Raises
    ------
    ImportError
        The package safetensors is not installed.
    """
    from safetensors.numpy import save

    words = {"about": json.dumps(dict(about))} if about else {}
    content = save(net.state_dict(), words)
    replace_file(path, lambda file: file.write(content))


def load_weights(path: str | os.PathLike | None = None) -> Sequential:
    """Read one of the two networks, with its weights, from a safetensors file.

    Which network it is, and with how many classes, names and shapes tell.

    Parameters
    ----------
    path : path-like, optional
        The file; by default the one that comes with the package, ``deep`` on MNIST.

    Returns
    -------
    Sequential
        The network, in training mode.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError
        Safetensors or the file is missing; it is damaged, or of another network.
    """
    shipped = files("cnn") / "deep-mnist.safetensors"
    file = shipped if path is None else Path(path)
    state = _read_weights(file.read_bytes(), str(file))
    try:
        net = network_of(state)
        net.load_state_dict(state)
    except ValueError as err:  # another network, NaN or infinity
        raise ValueError(f"{file}: {err}") from err
    return net


def _read_weights(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Take the arrays out of a safetensors file of single or double precision."""
    from safetensors import SafetensorError, deserialize

    try:
        entries = dict(deserialize(content))
    except (SafetensorError, ValueError) as err:
        what = (
            "a ZIP archive, as torch.save makes" if content[:2] == b"PK" else str(err)
        )
        raise ValueError(f"{name} is no safetensors file: {what}") from err
    known, state = {"F32": np.float32, "F64": np.float64}, {}
    for key, entry in entries.items():
        if entry["dtype"] not in known:
            raise ValueError(
                f"{name} holds {key} as {entry['dtype']}; expected F32 or F64: convert the "
                "weights, as PyTorch's module.float() does, and save them again"
            )
        a = np.frombuffer(entry["data"], known[entry["dtype"]])
        state[key] = a.reshape(entry["shape"])
    return state


def network_of(state: Mapping[str, np.ndarray]) -> Sequential:
    """Return a network that has arrays of these names, shapes and dtype."""
    shapes = {name: a.shape for name, a in state.items()}
    dtypes = {a.dtype for a in state.values()}
    if dtypes in ({np.dtype("f4")}, {np.dtype("f8")}):
        rng, dtype = np.random.default_rng(0), dtypes.pop().type
        outputs = {shape[0] for shape in shapes.values() if shape[1:] == (200,)} - {0}
        dropouts = {dropout for _, dropout in RECIPES.values()}
        for make, p, K in product(MODELS.values(), dropouts, outputs):
            net = make(rng=rng, dtype=dtype, num_classes=K, dropout=p)
            if {name: a.shape for name, a in net.params.items()} == shapes:
                return net
    raise ValueError(
        f"it holds {shapes!s:.200}; expected the float32 or float64 weights of one of the two "
        "networks, simple or deep"
    )
