"""Many machines.

Exported from book/27-many-machines.ipynb: edit the chapter and run `make export`.
"""

import copy
import json
import logging
import os
import platform
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

from .backend import FAST, twins
from .batchnorm import _BatchNorm, _per_channel, _value_axes
from .losses import cross_entropy_and_gradient
from .network import Layer, Sequential
from .optimizers import Optimizer
from .regularization import Dropout
from .training import evaluate, log

__all__ = [
    "share_of", "skip", "SyncBatchNorm", "Workers", "share", "step_together", "gather",
    "evaluate_together", "started", "MeetingError", "meet",
]  # fmt: skip


# --- The gradient of a mean is the mean of gradients ---
def share_of(N: int, rank: int, size: int) -> slice:
    """Return which of N images belong to worker number ``rank`` of ``size``."""
    return slice(N * rank // size, N * (rank + 1) // size)


# --- Dropout: whose number is it? ---
def skip(rng: np.random.Generator, count: int) -> None:
    """Pass over so many numbers of 32 bits, as if they had been drawn."""
    g = rng.bit_generator
    if isinstance(g, np.random.PCG64) and count:
        count -= g.state["has_uint32"]
        g.advance(count // 2)
        count %= 2
    np.random.Generator(g).random(count, np.float32)


class _Rows(np.random.Generator):
    """A generator that draws for a whole batch, and returns the rows of one worker."""

    workers: "Workers"

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Draw float32 numbers of this size, one row for each image."""
        part, N, D = self.workers.part, self.workers.N, int(np.prod(size[1:]))
        skip(self, part.start * D)
        own = super().random(size, dtype)
        skip(self, (N - part.stop) * D)
        return own


# --- Batch normalisation: a mean over everybody ---
class SyncBatchNorm(Layer):
    """Batch normalisation over the images of all workers, with another layer's arrays.

    Implements {eq}`eq:parallel-moments` and {eq}`eq:parallel-bn-grads`.
    """

    def __init__(self, layer: _BatchNorm, workers: "Workers") -> None:
        super().__init__()
        self.layer, self.workers = layer, workers
        self.params, self.buffers = layer.params, layer.buffers

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Normalise with the moments of the whole batch."""
        gamma, beta = self.params.values()
        m_run, v_run, count = self.buffers.values()
        B, alpha = self.workers.N * x[0, 0].size, self.layer.momentum
        x = x.astype(m_run.dtype, copy=False)
        m = self.workers.add(x.sum(axis=_value_axes(x))) / B
        d = x - _per_channel(m, x)
        v = self.workers.add((d * d).sum(axis=_value_axes(x))) / B
        m_run[...] = (1 - alpha) * m_run + alpha * m
        v_run[...] = (1 - alpha) * v_run + alpha * (B / (B - 1) * v)
        count += 1
        sigma = np.sqrt(v + self.layer.eps)
        xhat = (d / _per_channel(sigma, x)).astype(gamma.dtype)
        self._seen = xhat, sigma.astype(gamma.dtype), B
        return _per_channel(gamma, x) * xhat + _per_channel(beta, x)

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Return dx by {eq}`eq:bn-dx`; fill ``grads`` with this worker's own part."""
        xhat, sigma, B = self._recall()
        dbeta = dy.sum(axis=_value_axes(dy))
        dgamma = (dy * xhat).sum(axis=_value_axes(dy))
        self.grads = {"weight": dgamma, "bias": dbeta}
        dbeta, dgamma = self.workers.add(np.stack([dbeta, dgamma])) / B
        dx = dy - _per_channel(dbeta, dy) - xhat * _per_channel(dgamma, dy)
        return _per_channel(self.params["weight"] / sigma, dy) * dx


# --- A step for everybody ---
class Workers:
    """Processes that share the images of every batch, and take the same steps.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        What connects them: anything with ``rank``, ``size`` and ``Allreduce``.
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.met = False  # whether all have seen that they do the same
        self.deal(1)

    def deal(self, N: int) -> slice:
        """Return which of N images this worker computes with, at least one."""
        own = share_of(N, self.rank, self.size)
        self.N, self.own = N, own.stop - own.start
        self.part = slice(own.start, max(own.stop, own.start + 1))
        return self.part

    def add(self, a: np.ndarray) -> np.ndarray:
        """Return the sum over all workers that have an image of their own."""
        return self.sum(a if self.own else np.zeros_like(a))

    def sum(self, a: np.ndarray) -> np.ndarray:
        """Return the sum over all workers."""
        total = np.empty_like(a, order="C")
        self.comm.Allreduce(np.ascontiguousarray(a), total)
        return total


def share(layer: Layer, workers: Workers) -> Layer:
    """Return a network with the same arrays, whose layers know of the other workers."""
    if isinstance(layer, _BatchNorm):
        return SyncBatchNorm(layer, workers)
    twin = copy.copy(layer)
    for name, a in vars(layer).items():
        if isinstance(a, Layer):
            setattr(twin, name, share(a, workers))
        elif isinstance(a, list | tuple):
            inside = (share(b, workers) if isinstance(b, Layer) else b for b in a)
            setattr(twin, name, [*inside])
        elif isinstance(a, np.random.Generator):
            setattr(twin, name, _rows_of(layer, a, workers))
    return twin


def _rows_of(layer: Layer, rng: np.random.Generator, workers: Workers) -> _Rows:
    """Return a generator for one worker's images that draws from where ``rng`` does."""
    if not isinstance(layer, Dropout):
        raise TypeError(
            f"{layer!r} draws random numbers, and only Dropout's can be shared by several "
            "workers: train it in one process"
        )
    rows = _Rows(rng.bit_generator)
    rows.workers = workers
    return rows


def step_together(
    workers: Workers, net: Layer, optimizer: Optimizer, x: np.ndarray, y: np.ndarray
) -> float:
    """Take the step of the whole batch, and compute a share of it; return the cost J.

    Implements {eq}`eq:parallel-sum`. ``net`` is what ``share`` returned.
    """
    part, wrong = workers.deal(len(x)), ""
    z = net.forward(x[part])
    try:
        J, dz = cross_entropy_and_gradient(z, y[part])
    except FloatingPointError as err:
        J, dz, wrong = z.dtype.type(np.nan), np.full_like(z, np.nan), str(err)
    weight = workers.own / workers.N
    net.backward(weight * dz, input_gradient=False)
    grads, total = _add_all(workers, net.grads, float(weight * J))
    _stop_together(workers, total, wrong)
    optimizer.step(grads)
    return total


def _add_all(
    workers: Workers, grads: dict[str, np.ndarray], J: float
) -> tuple[dict[str, np.ndarray], float]:
    """Return the sums over all workers of each gradient, and of the cost."""
    wide = np.result_type(np.float32, *grads.values())  # MPI knows no float16
    row = np.concatenate([*(g.ravel() for g in grads.values()), [J]], dtype=wide)
    row, sums, start = workers.add(row), {}, 0
    for name, g in grads.items():
        sums[name] = row[start : start + g.size].reshape(g.shape).astype(g.dtype)
        start += g.size
    return sums, float(row[-1].real)


def gather(workers: Workers, text: str) -> list[str]:
    """Return every worker's text, in the order of their numbers."""
    mine, P = np.frombuffer(text.encode(), np.uint8), workers.size
    lengths = workers.sum(np.eye(P, dtype=np.int64)[workers.rank] * len(mine))
    table = np.zeros((P, max(lengths)), np.uint8)  # a sum of rows that others leave 0
    table[workers.rank, : len(mine)] = mine
    rows = zip(workers.sum(table), lengths, strict=True)
    return [row[:length].tobytes().decode() for row, length in rows]


def _stop_together(workers: Workers, J: float, wrong: str) -> None:
    """Raise the same error in all workers where the cost is not finite in one."""
    if not np.isfinite(J):
        told = [
            f"worker {p}: {text}"
            for p, text in enumerate(gather(workers, wrong))
            if text
        ]
        raise FloatingPointError(told[0] if told else f"the cost is {J}")


def evaluate_together(
    workers: Workers, net: Sequential, x: np.ndarray, y: np.ndarray
) -> tuple[float, float]:
    """Compute cost and error rate on a set, of which each worker takes a share."""
    own, J, error, wrong = share_of(len(x), workers.rank, workers.size), 0.0, 0.0, ""
    n = own.stop - own.start
    try:
        if n:
            J, error = evaluate(net, x[own], y[own])
    except FloatingPointError as err:
        J, wrong = np.nan, str(err)
    J, error = workers.sum(np.array([n * J, n * error])) / len(x)
    _stop_together(workers, J, wrong)
    return float(J), float(error)


# --- On real processes ---
_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def started() -> Workers | None:
    """Return the workers that ``mpiexec`` started this process with, None if it is alone.

    Raises
    ------
    ImportError
        There are several, and the package mpi4py is missing.
    RuntimeError
        mpi4py sees another number of processes than were started together.
    """
    counts = [os.environ.get(name, "") for name in _COUNTS]
    count = next((int(n) for n in counts if n.isdigit()), 1)
    if count == 1:
        return None
    # MPICH may not copy out of another worker's memory: one that dies would be told of twice
    os.environ.setdefault("MPIR_CVAR_CH4_CMA_ENABLE", "0")
    try:
        from mpi4py import MPI
    except ImportError as err:
        raise ImportError(
            f"{count} processes were started together; to share the work they need mpi4py: "
            "pip install 'cnn-from-first-principles[mpi]'"
        ) from err
    if MPI.COMM_WORLD.size != count:
        raise RuntimeError(
            f"{count} processes were started together, but mpi4py sees {MPI.COMM_WORLD.size}: "
            "the mpiexec is of another MPI than mpi4py's; use the one beside this Python"
        )
    workers = Workers(MPI.COMM_WORLD)
    _share_cores(workers)
    if workers.rank:
        log.setLevel(logging.CRITICAL)  # one voice is enough
    return workers


def _share_cores(workers: Workers) -> None:
    """Leave each worker on this machine its part of the cores."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = [*range(os.cpu_count() or 1)]
    here = f"{platform.node()}: {cores}"
    threads = max(1, len(cores) // gather(workers, here).count(here))
    with suppress(ImportError):
        import_module("threadpoolctl").threadpool_limits(threads)
    if FAST and twins():
        numba = import_module("numba")
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


class MeetingError(ValueError):
    """The workers are not about to do the same."""


def meet(workers: Workers, record: dict[str, str]) -> None:
    """Raise MeetingError, the same in all workers, unless all bring the same record."""
    workers.met = True
    first, *others = (json.loads(text) for text in gather(workers, json.dumps(record)))
    for p, other in enumerate([first, *others]):
        if "error" in other:
            raise MeetingError(f"worker {p}: {other['error']}")
    for p, other in enumerate(others, 1):
        for name in first:
            if other.get(name) != first[name]:
                raise MeetingError(
                    f"worker {p} has the {name} {other.get(name)}, worker 0 has {first[name]}: "
                    "start all of them with the same arguments, data and versions"
                )
