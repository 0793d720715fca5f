"""What a graphics processor can train.

Exported from book/30-gpu-step.ipynb: edit the chapter and run `make export`.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .conv import Conv2d
from .correlation import geometry
from .data import Dataset
from .models import output_shapes
from .network import Flatten, Linear, ReLU, Sequential
from .optimizers import Adam, AdamW, Optimizer
from .regularization import Dropout

__all__ = [
    "SHARED", "TILED", "EACH_CLASS", "GpuError", "Stage", "plan", "Sizes", "sizes",
    "check_stages", "check_device", "on_card",
]  # fmt: skip


# --- What fits ---
SHARED = 12_288  # float32 numbers that a block can share: 48 KiB
TILED, EACH_CLASS = 2_048, 16  # what two matrices' tiles take of them, and a class


class GpuError(ValueError):
    """A network, or how it is trained, that this chapter's kernels can't compute."""


@dataclass
class Stage:
    """A layer with weights, and what follows it: an activation, dropout."""

    layer: Any  # Conv2d or Linear
    before: tuple[int, ...]  # one image's shape, in and out
    after: tuple[int, ...]
    source: int  # where in an image's row of numbers its input begins, its output,
    target: int
    first: int  # and where in the row of parameters its weights
    relu: bool = False
    drops: list[Dropout] = field(default_factory=list)

    @property
    def bias(self) -> int:
        """Where the bias begins: behind the weights."""
        return self.first + self.layer.params["weight"].size


def plan(net: Sequential, optimizer: Optimizer, shape: tuple[int, ...]) -> list[Stage]:
    """Return the stages of a network for images of this shape, or say why there are none."""
    if type(optimizer) not in (Adam, AdamW):
        raise GpuError(
            f"the optimiser is {optimizer!r}; on a graphics processor it is Adam or AdamW"
        )
    stages: list[Stage] = []
    before, source, target, first = shape, 0, math.prod(shape), 0
    layer: Any
    for i, (layer, after) in enumerate(
        zip(net, output_shapes(net, shape), strict=True)
    ):
        kind, where = type(layer), f"layer {i}, {layer!r}"
        if kind in (Conv2d, Linear):
            stages.append(Stage(layer, before, after, source, target, first))
            source, target = target, target + math.prod(after)
            first += sum(a.size for a in layer.params.values())
        elif kind not in (ReLU, Flatten, Dropout):
            raise GpuError(
                f"{where}: on a graphics processor a network is made of Conv2d, ReLU, "
                "Flatten, Linear and Dropout; train this one with device='cpu'"
            )
        elif kind is not Flatten and not stages:
            raise GpuError(
                f"{where} stands before all weights; put it behind a layer that has some"
            )
        elif kind is ReLU:
            stages[-1].relu = True
        elif kind is Dropout:
            stages[-1].drops.append(layer)
        before = after
    check_stages(stages)
    return stages


class Sizes(NamedTuple):
    """A convolution of one image, and where its parts begin in the memory that a block shares."""

    C_in: int
    H: int
    W: int
    C_out: int
    h: int
    w: int
    f_h: int
    f_w: int
    s: int
    d: int
    top: int
    left: int
    Hbar: int
    Wbar: int
    filters: int
    bias: int
    dz: int
    end: int


def sizes(stage: Stage) -> Sizes:
    """Return the sizes for a convolution.

    Implements {eq}`eq:gpu-room`, the sum of the parts.
    """
    (C_in, H, W), (C_out, h, w) = stage.before, stage.after
    f_h, f_w = stage.layer.params["weight"].shape[2:]
    g = geometry((H, W), (f_h, f_w), **stage.layer.where)
    Hbar, Wbar = (
        g.s * (h - 1) + g.d * (f_h - 1) + 1,
        g.s * (w - 1) + g.d * (f_w - 1) + 1,
    )
    parts = C_in * Hbar * Wbar, C_out * C_in * f_h * f_w, C_out, C_out * h * w
    begins = itertools.accumulate(parts)
    return Sizes(
        C_in, H, W, C_out, h, w, f_h, f_w, g.s, g.d, g.top, g.left, Hbar, Wbar, *begins
    )


def check_stages(stages: list[Stage]) -> None:
    """Raise unless the last stage gives scores, and each one fits a block."""
    last = stages[-1] if stages else None
    if not last or not isinstance(last.layer, Linear) or last.relu or last.drops:
        raise GpuError(
            "the network does not end with its scores; expected a Linear as the last layer"
        )
    for stage in stages:
        for name, a in stage.layer.params.items():
            if a.dtype != np.float32:
                raise GpuError(
                    f"{stage.layer!r}: {name} is {a.dtype}; expected float32, the cards' own"
                )
        conv = isinstance(stage.layer, Conv2d)
        need = sizes(stage).end if conv else TILED
        need += EACH_CLASS * stage.after[0] * (stage is last)
        if need > SHARED:
            raise GpuError(
                f"{stage.layer!r}: a block needs {need} numbers, and can share {SHARED}: "
                f"{need - SHARED} too many; take fewer channels, pixels or classes, or train "
                "with device='cpu'"
            )


def check_device(device: str, workers: object) -> None:
    """Raise unless there is such a device, and one process alone where it is a card."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; expected 'cpu' or 'cuda'")
    if device == "cuda" and workers:
        raise GpuError(
            "several processes share a batch only with device='cpu'; start one for a card"
        )


def on_card(
    net: Sequential, optimizer: Optimizer, data: Dataset, dealt: Iterable, done: int,
    **counts: int,
) -> tuple[Callable, Callable, Iterator]:  # fmt: skip
    """Return how a card looks at a cost, how it tests, and the batches, whose steps it takes."""
    try:
        card = import_module("cnn.gpu_step").Card(net, optimizer, data, **counts)
    except ImportError as err:
        raise GpuError(
            "a graphics processor needs the packages numba and numba-cuda: "
            f"pip install 'cnn-from-first-principles[gpu]' ({err})"
        ) from err
    return card.cost, card.test, card.ahead(dealt, done)
