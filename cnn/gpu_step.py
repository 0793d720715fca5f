"""Training steps on a graphics processor.

Exported from book/30-gpu-step.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .conv import Conv2d
from .data import Dataset
from .gpu import SIMULATED, THREADS, TILE, TILES
from .gpu_image import convolving, deconvolving
from .gpu_kernels import blaming, hidden, scoring, updating
from .gpu_plan import GpuError, Stage, plan, sizes
from .network import Sequential
from .optimizers import Adam, AdamW
from .regularization import dropout
from .shapes import check_labels

__all__ = [
    "Room", "zeros", "Launch", "tiles", "Kernels", "record", "next_rates", "draw",
    "TESTED", "Steps", "Card",
]  # fmt: skip


# --- Send, record, send again ---
class Room:
    """A run's arrays on the card: rows for images, and a place for each parameter.

    The parameters and Adam's memories there are copies: ``push`` sends the network's own
    numbers there, ``pull`` brings them back.
    """

    def __init__(
        self, net: Sequential, optimizer: Adam, stages: list[Stage], N: int,
        places: int, steps: int,
    ) -> None:  # fmt: skip
        self.net, self.memory, last = net, optimizer.memory, stages[-1]
        P, shape = (
            sum(a.size for a in net.params.values()),
            (N, last.target + last.after[0]),
        )
        filters = min(s.first for s in stages if not isinstance(s.layer, Conv2d))
        self.q, self.dq, self.r = zeros(*shape), zeros(*shape), zeros(*shape)
        self.ones = cuda.to_device(
            np.ones(shape, np.float32)
        )  # for tests, without dropout
        self.part = zeros(N, max(filters, 1))
        self.theta, self.m, self.v = zeros(P), zeros(P), zeros(P)
        self.rates, self.costs = zeros(steps, 3), zeros(places, 2)
        self.order, self.spot = zeros(places, dtype=np.int32), zeros(N, dtype=np.int32)
        self.clock = zeros(2, dtype=np.int32)

    def _pairs(self) -> Iterator[tuple[Any, list[np.ndarray]]]:
        """Yield each row of numbers there, and the arrays here that it is a copy of."""
        params = self.net.params
        yield self.theta, [*params.values()]
        yield self.m, [self.memory[name]["m"] for name in params]
        yield self.v, [self.memory[name]["v"] for name in params]

    def push(self) -> None:
        """Send parameters and memories to the card."""
        for there, here in self._pairs():
            there.copy_to_device(np.concatenate([a.ravel() for a in here]))

    def pull(self) -> None:
        """Bring parameters and memories back."""
        for there, here in self._pairs():
            row, end = there.copy_to_host(), 0
            for a in here:
                a[...] = row[end : end + a.size].reshape(a.shape)
                end += a.size


def zeros(*shape: int, dtype: type = np.float32) -> Any:
    """Return an array of zeros on the card."""
    return cuda.to_device(np.zeros(shape, dtype))


class Launch(NamedTuple):
    """A kernel, how many blocks, of how many threads that share how many bytes, and with what."""

    kernel: Any
    blocks: int
    threads: int
    room: int
    args: tuple

    def __call__(self, stream: Any) -> None:
        """Send it to the card, behind what has been sent there before."""
        self.kernel[self.blocks, self.threads, stream, self.room](*self.args)


def tiles(rows: int, columns: int) -> int:
    """Count the tiles that cover a matrix."""
    return -(-rows // TILE) * -(-columns // TILE)


class Kernels:
    """The kernels of a network, and the launches of a step."""

    def __init__(self, stages: list[Stage], optimizer: Adam) -> None:
        *middle, last = stages
        dense = [stage for stage in middle if not isinstance(stage.layer, Conv2d)]
        conv = [stage for stage in stages if isinstance(stage.layer, Conv2d)]
        self.room = 4 * max([sizes(stage).end for stage in conv], default=1)
        self.room_for_scores = TILES + 4 * TILE * last.after[0]
        self.convolve, self.deconvolve = convolving(stages), deconvolving(stages)
        self.hidden = [(stage, hidden(stage)) for stage in dense]
        blamed = [stage for stage in dense if stage.source]
        below = blamed.pop() if blamed else None
        self.score, self.wide = scoring(last, below), (below or last).before[0]
        self.blame = [(stage, blaming(stage)) for stage in reversed(blamed)]
        self.blocks, self.update = updating(stages, optimizer)

    def forward(self, N: int, x: Any, y: Any, r: Any, a: Room) -> Iterator[Launch]:
        """Yield what computes the costs of N images: all that a test needs."""
        first = x, a.order, a.clock, a.spot, a.q, r, a.theta
        yield Launch(self.convolve, N, THREADS, self.room, first)
        for stage, kernel in self.hidden:
            grid = tiles(N, stage.after[0])
            yield Launch(kernel, grid, THREADS, TILES, (N, a.q, a.dq, r, a.theta))
        args = N, y, a.order, a.clock, a.spot, a.q, a.dq, r, a.theta, a.costs
        grid = tiles(N, self.wide)
        yield Launch(self.score, grid, THREADS, self.room_for_scores, args)

    def backward(self, N: int, a: Room) -> Iterator[Launch]:
        """Yield what a step does after that."""
        for stage, kernel in self.blame:
            grid = tiles(N, stage.before[0])
            yield Launch(kernel, grid, THREADS, TILES, (N, a.q, a.dq, a.r, a.theta))
        args = a.q, a.dq, a.r, a.theta, a.part
        yield Launch(self.deconvolve, N, THREADS, self.room, args)
        last = N, a.clock, a.q, a.dq, a.r, a.part, a.theta, a.m, a.v, a.rates
        yield Launch(self.update, self.blocks, THREADS, TILES, last)


def record(launches: list[Launch], stream: Any) -> Callable[[], object]:
    """Return a function that does all the launches: on a card they become one CUDA graph."""

    def in_turn() -> None:
        for launch in launches:
            launch(stream)

    if SIMULATED:
        return in_turn
    from cuda.bindings import driver

    def sure(error: int, *result: Any) -> Any:
        if error:
            raise RuntimeError(
                f"the CUDA graph can't be recorded or launched: {error!r}"
            )
        return result[0] if result else None

    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    sure(*driver.cuStreamBeginCapture(int(stream), mode))
    in_turn()  # is written down, not done
    graph = sure(*driver.cuStreamEndCapture(int(stream)))
    whole = sure(*driver.cuGraphInstantiate(graph, 0))
    return lambda: sure(*driver.cuGraphLaunch(whole, int(stream)))


def next_rates(optimizer: Adam, steps: int) -> np.ndarray:
    """Count so many steps, and return what Adam multiplies with at each of them."""
    rows, (beta1, beta2) = [], optimizer.betas
    for _ in range(steps):
        gamma = optimizer.rate()
        optimizer.t += 1
        shrink = gamma * optimizer.weight_decay * isinstance(optimizer, AdamW)
        rise1, rise2 = 1 - beta1**optimizer.t, 1 - beta2**optimizer.t
        rows.append((gamma / rise1, 1 / rise2, 1 - shrink))
    return np.array(rows, np.float32)


def draw(stages: list[Stage], r: np.ndarray) -> np.ndarray:
    """Fill dropout's factors for a batch: the numbers that the layers themselves would draw."""
    for stage in stages:
        columns = r[:, stage.target : stage.target + math.prod(stage.after)]
        columns[...] = 1
        for layer in stage.drops:
            columns *= dropout(np.ones_like(columns), layer.p, layer.rng)[1]
    return r


TESTED = 500  # images of the test set at a time, at most


class Steps:
    """A network on a graphics processor, which computes batch after batch."""

    def __init__(
        self, net: Sequential, optimizer: Adam, data: Dataset, batch_size: int = 100,
        every: int = 100,
    ) -> None:  # fmt: skip
        if not cuda.is_available():
            raise GpuError(
                "no graphics processor of Nvidia's is found; expected device='cpu'"
            )
        stages = plan(net, optimizer, data.x_train.shape[1:])
        M = len(data.x_test)
        N, places = max(batch_size, min(TESTED, M)), max(every * batch_size, M)
        self.stages, self.optimizer, self.every = stages, optimizer, every
        self.kernels, self.stream = Kernels(stages, optimizer), cuda.stream()
        self.room = Room(net, optimizer, stages, N, places, every)
        self.room.push()
        K = stages[-1].after[0]
        self.sets = {True: _moved(*data[1:3], K), False: _moved(*data[3:5], K)}
        self.factors = np.ones(self.room.r.shape, np.float32)
        self.recorded: dict[tuple[int, bool], Callable[[], object]] = {}

    def run(self, dealt: list[np.ndarray], training: bool) -> np.ndarray:
        """Compute batches, with a step for each or without; return each image's J and mistake."""
        order, a = np.concatenate(dealt).astype(np.int32), self.room
        self._send(a.order, order)
        self._send(a.clock, np.zeros(2, np.int32))
        if training:
            self._send(a.rates, next_rates(self.optimizer, len(dealt)))
        for i in dealt:
            if training and any(stage.drops for stage in self.stages):
                self._send(a.r, draw(self.stages, self.factors[: len(i)]))
            self._launch(len(i), training)
        self.stream.synchronize()
        return a.costs[: len(order)].copy_to_host()

    def _send(self, there: Any, a: np.ndarray) -> None:
        """Copy an array to where a larger one begins on the card, in its turn."""
        there[: len(a)].copy_to_device(a, stream=self.stream)

    def _launch(self, N: int, training: bool) -> None:
        """Compute with the next N images: the first time kernel by kernel, then as recorded."""
        if (N, training) in self.recorded:
            self.recorded[N, training]()
            return
        (x, y), a = self.sets[training], self.room
        launches = [*self.kernels.forward(N, x, y, a.r if training else a.ones, a)]
        launches += self.kernels.backward(N, a) if training else []
        for launch in launches:
            launch(self.stream)
        self.recorded[N, training] = record(launches, self.stream)


def _moved(x: np.ndarray, y: np.ndarray, K: int) -> tuple[Any, Any]:
    """Return images, each in a row, and labels, on the card."""
    check_labels(y, len(x), K)  # a kernel would read whatever lies behind the scores
    images = x.reshape(len(x), -1).astype(np.float32)
    return cuda.to_device(images), cuda.to_device(y.astype(np.int32))


# --- In the training loop ---
class Card(Steps):
    """The same, with what the training loop asks for."""

    def ahead(self, dealt: Iterable[Any], done: int) -> Iterator[tuple[float, Any]]:
        """Take all steps until the next test at once, and yield what each one cost.

        ``dealt`` yields indices with something beside them, which is passed on.
        """
        dealt = iter(dealt)
        while batches := [*islice(dealt, self.every - done % self.every)]:
            J = self.run([i for i, _ in batches], True)[:, 0]
            ends = np.cumsum([len(i) for i, _ in batches])[:-1]
            for row, (_, beside) in zip(np.split(J, ends), batches, strict=True):
                yield float(row.mean()), beside
            done += len(batches)

    def cost(self, J: float) -> float:
        """Return a batch's cost, unless it is none."""
        if not math.isfinite(J):
            raise FloatingPointError(f"the cost is {J}: try a smaller learning rate")
        return J

    def test(self) -> tuple[float, float]:
        """Bring the weights back; return cost and error rate on the test set."""
        self.room.pull()
        M, N = len(self.sets[False][1]), min(TESTED, len(self.sets[False][1]))
        dealt = np.split(np.arange(M), range(N, M, N))
        J, error = self.run(dealt, False).mean(axis=0, dtype=np.float64)
        return self.cost(float(J)), float(error)
