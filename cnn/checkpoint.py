"""Stopping and going on.

Exported from book/32-checkpoint.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import functools
import json
import math
import os
import platform
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import recipes, training
from .data import Dataset, batches
from .files import history_from, load_arrays, locked, save_arrays
from .gpu_plan import check_device, on_card
from .network import Sequential, check_state
from .optimizers import Optimizer, Rate
from .parallel import Workers, evaluate_together, meet, share, step_together
from .recipes import SEED
from .shapes import check_generator
from .training import History, check_run, check_trains, evaluate, loop, train_step

__all__ = [
    "State", "iterations", "Parts", "save", "identify", "resume", "ResumeError", "Ways",
    "fit", "train",
]  # fmt: skip


# --- What the next step depends on ---
State = Mapping[str, Any]  # of a generator


def iterations(
    N: int, batch_size: int, rng: np.random.Generator, total: int, done: int = 0,
    shuffled: State | None = None,
) -> Iterator[tuple[np.ndarray, State]]:  # fmt: skip
    """Deal out the iterations from ``done`` + 1 to ``total``, epoch by epoch.

    An epoch that was begun is dealt again, shuffled from the state ``shuffled``, and
    its first batches are skipped.
    """
    t, per_epoch = done, math.ceil(N / batch_size)
    while t < total:
        skip, now = t % per_epoch, rng.bit_generator.state
        if skip and shuffled:
            rng.bit_generator.state = shuffled
        shuffled = rng.bit_generator.state
        epoch = list(batches(N, batch_size, rng))
        if skip:  # somebody else may have drawn from it since the shuffle
            rng.bit_generator.state = now
        for i in epoch[skip:]:
            t += 1
            yield i, shuffled


# --- What goes into the file ---
Parts = tuple[Sequential, Optimizer, np.random.Generator]


def save(
    path: str | os.PathLike, run: dict[str, str], parts: Parts, shuffled: State,
    history: History,
) -> None:  # fmt: skip
    """Write a checkpoint: all that the rest of the run depends on."""
    net, optimizer, rng = parts
    record = {
        "run": run,
        "rng": shuffled,
        "generators": [g.state for g in _generators(net, rng)],
        "history": asdict(history),
    }
    arrays = {"record": np.frombuffer(_as_json(record), np.uint8)}
    arrays |= {f"net/{name}": a for name, a in net.state_dict().items()}
    arrays |= {f"optimizer/{name}": a for name, a in optimizer.state_dict().items()}
    save_arrays(path, arrays)


def _as_json(record: Mapping[str, object]) -> bytes:
    """Write a record whose arrays become lists; a generator's state may hold some."""
    return json.dumps(record, default=lambda a: a.tolist()).encode()


def _generators(
    net: Sequential, rng: np.random.Generator
) -> list[np.random.BitGenerator]:
    """Return what random numbers come from: for the order, then each layer's."""
    attributes = (a for layer in net.modules() for a in vars(layer).values())
    drawing = [a for a in attributes if isinstance(a, np.random.Generator)]
    return [generator.bit_generator for generator in (rng, *drawing)]


# --- Whose checkpoint is it? ---
def identify(parts: Parts, data: Dataset, **counts: int) -> dict[str, str]:
    """Say what makes this run this run: equal answers can share a checkpoint."""
    (net, optimizer, rng), checksum = parts, 0
    for a in data[1:]:
        checksum = zlib.crc32(np.ascontiguousarray(a).data, checksum)
    images = f"{len(data.x_train)} + {len(data.x_test)} images"
    # the address of a schedule, say, is another one in every process
    address = re.compile(" at 0x[0-9a-f]+")
    return {
        "network": address.sub("", repr(net)),
        "optimizer": address.sub("", repr(optimizer)),
        "schedule": ", ".join(map(str, _rates(optimizer.lr))),
        "data": f"{images}, {checksum:08x}",
        "seed": ", ".join(_seeds(_generators(net, rng))),
        **{name: str(value) for name, value in counts.items()},
    }


def _rates(lr: Rate) -> list[float]:
    """Return some values of a schedule, by which to tell it from another one."""
    return [float(lr(10**k)) for k in range(6)] if callable(lr) else [lr]


def _seeds(generators: list[np.random.BitGenerator]) -> Iterator[str]:
    """Say where each generator began, or which of those before it is the same."""
    for k, g in enumerate(generators):
        first = generators.index(g)
        yield f"as {first}" if first < k else _seed(g)


def _seed(g: np.random.BitGenerator) -> str:
    """Name the seed; where a generator was made without one, its state stands for it."""
    if isinstance(g.seed_seq, np.random.SeedSequence):
        return "/".join(map(str, (g.seed_seq.entropy, *g.seed_seq.spawn_key)))
    return f"state {zlib.crc32(_as_json(g.state)):08x}"


# --- Going on ---
def resume(
    path: str | os.PathLike, run: dict[str, str], parts: Parts, total: int
) -> tuple[History, dict]:
    """Put all parts where the checkpoint left them, or change nothing.

    Returns the history until then, and the generator's state before the latest shuffle.
    """
    net, optimizer, rng = parts
    generators = _generators(net, rng)
    try:
        arrays = load_arrays(path)
        record = json.loads(arrays.pop("record").tobytes())
        history = history_from(record["history"])
        _check_run(record["run"], run, len(history.loss), total)
        _check_states(record, generators)
        weights, memories = _part(arrays, "net/"), _part(arrays, "optimizer/")
        check_state(memories, optimizer.state_dict())
        net.load_state_dict(weights)
        optimizer.load_state_dict(memories)
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        raise ResumeError(
            f"{path} can't be resumed: {err}. Delete it to start anew, or name another file"
        ) from err
    for g, state in zip(generators, record["generators"], strict=True):
        g.state = state
    return history, record["rng"]


class ResumeError(ValueError):
    """A checkpoint is damaged, or of another run."""


def _check_run(found: dict, run: dict[str, str], done: int, total: int) -> None:
    """Raise unless the checkpoint is this run's, and not from beyond its end."""
    for name, mine in run.items():
        older = name == "schedule" and name not in found  # it could not say that yet,
        was = mine if older else found[name]
        was = re.sub("images, .* ", "images, ", was)  # and gave the data's name as well
        if was != mine:
            raise ValueError(f"its {name} was {was}, this run has {mine}")
    if done > total:
        raise ValueError(f"it is {done} iterations old, this run ends at {total}")


def _check_states(record: dict, generators: list[np.random.BitGenerator]) -> None:
    """Raise unless the record holds a state for each generator, and for the shuffle."""
    states = list(zip(generators, record["generators"], strict=True))
    for g, state in [*states, (generators[0], record["rng"])]:
        trial = type(g)(0)
        trial.state = state  # raises where it is no state of this kind of generator


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with ``prefix``, without it."""
    return {
        k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)
    }


# --- The loop, with a checkpoint ---
Ways = tuple[Callable[[np.ndarray], float], Callable[[], tuple[float, float]]]


def _ways(parts: Parts, data: Dataset, workers: Workers | None) -> Ways:
    """Return how to take a step with some images, and how to test, alone or together."""
    net, optimizer, _ = parts
    _, x, y, x_test, y_test = data
    net.train()
    if workers is None:
        step = functools.partial(train_step, net, optimizer)
        return lambda i: step(x[i], y[i]), lambda: evaluate(net, x_test, y_test)
    step = functools.partial(step_together, workers, share(net, workers), optimizer)
    test = functools.partial(evaluate_together, workers, net, x_test, y_test)
    return lambda i: step(x[i], y[i]), test


def _writes(workers: Workers | None) -> bool:
    """Return whether it is this process that writes: of several, number 0."""
    return workers is None or workers.rank == 0


def _agree(workers: Workers, net: Sequential, record: dict[str, str]) -> None:
    """Raise in all workers unless all are about to do the same, from the same weights."""
    code = weights = 0
    for a in net.state_dict().values():
        weights = zlib.crc32(np.ascontiguousarray(a).data, weights)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        code = zlib.crc32(file.read_bytes(), code)
    record |= {"weights": f"{weights:08x}", "version of cnn": f"{code:08x}"}
    record |= {"NumPy": np.__version__, "Python": platform.python_version()}
    meet(workers, record)


def _fit_and_keep(
    path: str | os.PathLike | None, parts: Parts, data: Dataset, total: int,
    workers: Workers | None, device: str, **how: int,
) -> History:  # fmt: skip
    """Train from the checkpoint, if there is one, and keep new ones."""
    (net, optimizer, rng), run = parts, identify(parts, data, **how)
    history, state = History(), rng.bit_generator.state
    if path and Path(path).exists():
        history, state = resume(path, run, parts, total)
    N, done = len(data.x_train), len(history.loss)
    if workers:
        _agree(workers, net, {**run, "end": f"{total}", "iteration": f"{done}"})
    take, test = _ways(parts, data, workers)

    def step(batch: tuple[np.ndarray, State]) -> float:
        nonlocal state
        i, state = batch
        return take(i)

    def keep() -> None:
        if path and _writes(workers):
            save(path, run, parts, state, history)

    dealt: Iterator[Any] = iterations(N, how["batch_size"], rng, total, done, state)
    if device == "cuda":
        take, test, dealt = on_card(net, optimizer, data, dealt, done, **how)
    return loop(step, test, dealt, total, how["every"], history, keep)


def fit(
    net: Sequential, optimizer: Optimizer, data: Dataset, *, epochs: int,
    rng: np.random.Generator, batch_size: int = 100, every: int = 100,
    checkpoint: str | os.PathLike | None = None, workers: Workers | None = None,
    device: str = "cpu",
) -> History:  # fmt: skip
    """Train ``net`` on ``data``, test it now and then, and return the history.

    Parameters
    ----------
    net, optimizer : Sequential, Optimizer
        The network, changed in place, and an optimiser made of ``net.params``.
    data, epochs : Dataset, int
        What to learn from and test on; how many times each image is seen.
    rng : np.random.Generator
        Shuffles the images, once an epoch.
    batch_size, every : int
        Images in a batch; iterations between two tests.
    checkpoint : path-like, optional
        A file written at each test. Where it exists, training goes on from it, and
        ends with the same weights as if it had never stopped. While it trains, a file
        that ends in ``.lock`` beside it keeps a second run away.
    workers : Workers, optional
        The processes that share the work, as ``cnn.parallel.started()`` returns them: each
        calls ``fit`` with the same arguments, and has the same network afterwards.
    device : str
        ``"cpu"``, or ``"cuda"`` for a graphics processor: see ``cnn.gpu_plan``.

    Returns
    -------
    History
        Losses, test results and times, from the first iteration on.

    Raises
    ------
    FloatingPointError, BlockingIOError, MeetingError
        The cost became NaN or infinite; the message says at which iteration. Another
        run uses the checkpoint. The workers differ in arguments, data or versions.
    """
    how = {"batch_size": batch_size, "every": every}
    check_device(device, workers)
    if checkpoint is None and workers is None and device == "cpu":
        return training.fit(net, optimizer, data, epochs=epochs, rng=rng, **how)
    check_trains(optimizer, net)
    check_generator(rng)
    total = check_run(net, data, epochs, **how)
    with contextlib.ExitStack() as stack:
        if checkpoint and _writes(workers):
            stack.enter_context(locked(Path(checkpoint).with_suffix(".lock")))
        parts = net, optimizer, rng
        return _fit_and_keep(checkpoint, parts, data, total, workers, device, **how)


def train(
    data: Dataset, model: str = "simple", recipe: str = "constant", *,
    epochs: int | None = None, seed: int = SEED, lr: float | None = None,
    batch_size: int = 100, checkpoint: str | os.PathLike | None = None,
    workers: Workers | None = None, device: str = "cpu",
) -> tuple[Sequential, History]:  # fmt: skip
    """Train a network, and test it every 100 iterations.

    Parameters
    ----------
    data, epochs : Dataset, int
        Images of 28×28 pixels; by default 15 epochs, or 120 for the embedded digits.
    model, recipe : str
        ``"simple"`` or ``"deep"``; ``"constant"``, ``"schedule"`` or ``"dropout"``.
    seed : int
        Where all chance comes from.
    checkpoint, workers, device : path-like, Workers, str
        As for ``fit``.
    lr, batch_size : float, int
        A constant learning rate in place of the recipe's; images in a batch.

    Returns
    -------
    net, history : Sequential, History
        The trained network; losses, test results and times.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As ``fit``; or there is no such model or recipe.
    """
    run = functools.partial(fit, checkpoint=checkpoint, workers=workers, device=device)
    how: dict[str, Any] = {"epochs": epochs, "seed": seed, "lr": lr}
    how["batch_size"] = batch_size
    return recipes.train(data, model, recipe, fit=run, **how)
