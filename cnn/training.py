"""The training loop.

Exported from book/09-training.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import io
import itertools
import json
import math
import os
import re
import sys
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .data import Dataset, batches, check_array, check_integer, check_same_dtype
from .losses import cross_entropy, cross_entropy_and_gradient, error_rate
from .network import Sequential, check_state, fastest
from .optimizers import Optimizer

__all__ = [
    "train_step",
    "evaluate",
    "in_use",
    "History",
    "replace_file",
    "save_arrays",
    "load_arrays",
    "fit",
    "progress_bar",
]


# --- One step ---


def train_step(
    net: Sequential, optimizer: Optimizer, x: np.ndarray, y: np.ndarray
) -> float:
    """Take one step: forward, backward, update.

    Parameters
    ----------
    net : Sequential
        The network; its parameters are changed in place.
    optimizer : Optimizer
        An optimiser made of ``net.params``.
    x : np.ndarray
        A batch of images, shape (N, C, H, W) or whatever the first layer takes.
    y : np.ndarray
        Their labels, shape (N,), integers.

    Returns
    -------
    float
        The cost J of the batch *before* the step.

    Raises
    ------
    TypeError, ValueError
        The batch does not fit the network, or a label is out of range.
    FloatingPointError
        A score is NaN or infinite.
    """
    z = net.forward(x)
    J, dz = fastest(cross_entropy_and_gradient)(z, y)
    net.backward(dz, input_gradient=False)
    optimizer.step(net.grads)
    return float(J)


# --- How good is it? ---


def evaluate(
    net: Sequential, x: np.ndarray, y: np.ndarray, batch_size: int = 500
) -> tuple[float, float]:
    """Compute the cost and the error rate on a whole set, a batch at a time.

    Implements {eq}`eq:evaluate`. The network computes as after ``net.eval()``.

    Parameters
    ----------
    net : Sequential
        The network; its parameters stay as they are, and every layer's mode is put back.
    x : np.ndarray
        All the images, shape (N, C, H, W) or whatever the first layer takes.
    y : np.ndarray
        Their labels, shape (N,), integers.
    batch_size : int
        How many images to compute at once: it changes the memory needed, not the result.

    Returns
    -------
    tuple of float
        The cost J and the share of the images that are classified wrongly, from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        ``x`` is empty, ``y`` has another length, or they do not fit the network.
    FloatingPointError
        A score is NaN or infinite.
    """
    _check_examples("x", x, "y", y)
    check_integer("batch_size", batch_size, 1)
    J = error = 0.0
    with in_use(net):
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            z = net.forward(x[part])
            J += len(z) * float(cross_entropy(z, y[part]))
            error += len(z) * error_rate(z, y[part])
    return J / len(x), error / len(x)


@contextlib.contextmanager
def in_use(net: Sequential) -> Iterator[None]:
    """Let a network compute as it will when it is used, and put each layer's mode back.

    Parameters
    ----------
    net : Sequential
        The network.

    Yields
    ------
    None
        Inside the ``with`` statement every layer is in evaluation mode.
    """
    modes = [(layer, layer.training) for layer in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _check_examples(x_name: str, x: np.ndarray, y_name: str, y: np.ndarray) -> None:
    """Raise unless ``x`` holds images and ``y`` one integer for each of them."""
    check_array(x_name, x, ("N", *np.shape(x)[1:]))
    check_array(
        y_name, y, (len(x),), f"because {x_name} has shape {x.shape}", kinds="iu"
    )


# --- What to write down ---


@dataclass
class History:
    """What a training run recorded.

    Attributes
    ----------
    loss : list of float
        The cost of every iteration's batch, before the step.
    iterations : list of int
        After how many iterations the network was tested.
    test_loss, test_error : list of float
        Cost and error rate on the test set, one for each of ``iterations``.
    seconds : list of float
        The time used until then, testing included, one for each of ``iterations``.

    Raises
    ------
    ValueError
        A list holds something else than finite numbers, or the lists do not fit together.
    """

    loss: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_error: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not isinstance(values, list) or not all(map(_is_finite, values)):
                raise ValueError(
                    f"{name} is {values!r:.60}; expected a list of finite numbers"
                )
        tests = self.iterations
        counts = {
            len(v) for v in (tests, self.test_loss, self.test_error, self.seconds)
        }
        if len(counts) > 1:
            raise ValueError(
                f"the tests' lists have different lengths: {sorted(counts)}"
            )
        rising = all(
            a < b for a, b in itertools.pairwise([0, *tests, len(self.loss) + 1])
        )
        if not rising or not all(isinstance(t, int) for t in tests):
            raise ValueError(
                f"iterations is {tests!r:.60}; expected integers that rise from at least 1 to at "
                f"most {len(self.loss)}, the number of losses"
            )

    def __str__(self) -> str:
        loss = f"loss {self.loss[-1]:.4f}" if self.loss else "no iteration yet"
        return loss + (
            f", test error {self.test_error[-1]:.2%}" if self.test_error else ""
        )

    def add_test(self, t: int, loss: float, error: float, seconds: float) -> None:
        """Record one test, after iteration ``t``."""
        self.iterations.append(t)
        self.test_loss.append(loss)
        self.test_error.append(error)
        self.seconds.append(seconds)

    def save(self, path: str | os.PathLike) -> None:
        """Write the history as JSON; ``path`` is never half written."""
        replace_file(path, lambda file: file.write(json.dumps(asdict(self)).encode()))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "History":
        """Read what ``save`` wrote.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file holds anything else than a history; the message names it.
        """
        try:
            return cls._from_dict(json.loads(Path(path).read_bytes()))
        except (ValueError, RecursionError) as err:
            raise ValueError(f"{path} is no history: {err}") from err

    @classmethod
    def _from_dict(cls, record: object) -> "History":
        names = {f.name for f in fields(cls)}
        if not isinstance(record, dict) or record.keys() != names:
            raise ValueError(
                f"it holds {record!r:.60}; expected lists named {sorted(names)}"
            )
        return cls(**record)


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def replace_file(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside ``path``, then rename it: ``path`` is never half written.

    Parameters
    ----------
    path : path-like
        The file to make or to replace; missing folders are made.
    write : callable
        Is given the open binary file and writes the content. Where it raises, ``path`` stays as
        it was and nothing is left beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            write(file)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


# --- Going on after Ctrl-C ---


def _iterations(
    N: int,
    batch_size: int,
    rng: np.random.Generator,
    total: int,
    done: int = 0,
    shuffled: dict | None = None,
) -> Iterator[tuple[int, np.ndarray, dict]]:
    """Deal out the iterations from ``done`` + 1 to ``total``, epoch by epoch.

    An epoch that was begun is dealt again, in the order that it got from the state ``shuffled``,
    and its first batches are skipped.

    Yields
    ------
    t : int
        The iteration, counted from 1.
    i : np.ndarray
        The batch: indices of its images.
    shuffled : dict
        The generator's state before this epoch was shuffled.
    """
    t, per_epoch = done, math.ceil(N / batch_size)
    while t < total:
        skip, now = t % per_epoch, rng.bit_generator.state
        if skip:
            rng.bit_generator.state = shuffled
        shuffled = rng.bit_generator.state
        epoch = list(batches(N, batch_size, rng))
        if skip:  # somebody else may have drawn from it since the shuffle
            rng.bit_generator.state = now
        for i in epoch[skip:]:
            t += 1
            yield t, i, shuffled


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to an uncompressed ``.npz`` file: weights, or a checkpoint.

    Equal arrays make equal files, byte for byte, and ``path`` is never half written.

    Parameters
    ----------
    path : path-like
        The file to make or to replace.
    arrays : mapping of str to np.ndarray
        What to write, for example ``net.state_dict()``.

    Raises
    ------
    ValueError
        An array holds Python objects instead of numbers.
    """

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, a in arrays.items():
                # a ZipInfo of its own carries no date, so that no clock gets into the file
                with archive.open(
                    zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True
                ) as member:
                    np.lib.format.write_array(
                        member, np.asarray(a), (1, 0), allow_pickle=False
                    )

    replace_file(path, write)


# what NumPy and zipfile raise where the bytes are not what they should be
_DAMAGED = (
    zipfile.BadZipFile,
    ValueError,
    RuntimeError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
)


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the named arrays of an uncompressed ``.npz`` file; nothing in it is unpickled.

    Parameters
    ----------
    path : path-like
        A file that ``save_arrays`` or ``np.savez`` wrote.

    Returns
    -------
    dict of str to np.ndarray
        The arrays by name.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, compressed, or holds Python objects; the message names it.
    """
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {
                info.filename.removesuffix(".npy"): _read_array(
                    archive, info, len(content)
                )
                for info in archive.infolist()
            }
    except _DAMAGED as err:
        raise ValueError(f"{path} is damaged, or no file of arrays: {err}") from err


def _read_array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, available: int
) -> np.ndarray:
    """Read one array, after its header's promise has been compared with the bytes there are."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{info.filename} is compressed; expected what np.savez writes"
        )
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{info.filename} has format {version}; expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        promised = member.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects; expected numbers")
        if promised != info.file_size or promised > available:
            raise ValueError(
                f"{info.filename} promises {shape} of {dtype}, {promised} bytes with its header, "
                f"but holds {min(info.file_size, available)}"
            )
        a = np.frombuffer(member.read(), dtype)
        return a.reshape(shape, order="F" if fortran else "C").copy()


def _identify(
    net: Sequential,
    optimizer: Optimizer,
    data: Dataset,
    rng: np.random.Generator,
    **counts: int,
) -> dict[str, str]:
    """Say what makes this run this run; two runs with the same answers can share a checkpoint."""
    checksum = 0
    for a in data[1:]:
        checksum = zlib.crc32(np.ascontiguousarray(a), checksum)
    seeds, generators = [], _generators(net, rng)
    for k, g in enumerate(generators):
        first = generators.index(g)  # one may serve several
        seed = (g.seed_seq.entropy, *g.seed_seq.spawn_key)
        seeds.append(f"as {first}" if first < k else "/".join(map(str, seed)))
    # the address of a schedule, say, is another one in every process
    address = re.compile(" at 0x[0-9a-f]+")
    return {
        "network": address.sub("", repr(net)),
        "optimizer": address.sub("", repr(optimizer)),
        "data": f"{len(data.x_train)} + {len(data.x_test)} images, {data.name} {checksum:08x}",
        "seed": ", ".join(seeds),
        **{name: str(value) for name, value in counts.items()},
    }


def _generators(
    net: Sequential, rng: np.random.Generator
) -> list[np.random.BitGenerator]:
    """Return what the random numbers come from: the batches' order, then each layer's."""
    attributes = (a for layer in net.modules() for a in vars(layer).values())
    drawing = [a for a in attributes if isinstance(a, np.random.Generator)]
    return [generator.bit_generator for generator in (rng, *drawing)]


def _save(
    path: str | os.PathLike,
    run: dict[str, str],
    net: Sequential,
    optimizer: Optimizer,
    rng: np.random.Generator,
    shuffled: dict,
    history: History,
) -> None:
    """Write a checkpoint: all that the rest of the run depends on."""
    record = {
        "run": run,
        "rng": shuffled,
        "generators": [g.state for g in _generators(net, rng)],
        "history": asdict(history),
    }
    text = json.dumps(record, default=lambda a: a.tolist())
    arrays = {"record": np.frombuffer(text.encode(), np.uint8)}
    arrays |= {f"net/{name}": a for name, a in net.state_dict().items()}
    arrays |= {f"optimizer/{name}": a for name, a in optimizer.state_dict().items()}
    save_arrays(path, arrays)


def _resume(
    path: str | os.PathLike,
    run: dict[str, str],
    net: Sequential,
    optimizer: Optimizer,
    rng: np.random.Generator,
    total: int,
) -> tuple[History, dict]:
    """Put network, optimiser and generators where the checkpoint left them.

    Returns
    -------
    history : History
        What was recorded until then.
    shuffled : dict
        The state of ``rng`` before the latest epoch was shuffled.
    """
    arrays = load_arrays(path)
    try:
        record = json.loads(arrays.pop("record").tobytes())
        history = History._from_dict(record["history"])
        for name, mine in run.items():
            if record["run"][name] != mine:
                raise ValueError(
                    f"its {name} was {record['run'][name]}, this run has {mine}"
                )
        if len(history.loss) > total:
            raise ValueError(
                f"it is {len(history.loss)} iterations old, this run ends at {total}"
            )
        weights, memories = _part(arrays, "net/"), _part(arrays, "optimizer/")
        check_state(weights, net.state_dict())
        check_state(memories, optimizer.state_dict())
        shuffled, generators = record["rng"], _generators(net, rng)
        draws = list(zip(generators, record["generators"], strict=True))
        for g, drawn in [*draws, (rng.bit_generator, shuffled)]:
            trial = type(g)(0)
            trial.state = drawn  # raises where it is no state of this kind of generator
        for g, drawn in draws:
            g.state = drawn
        net.load_state_dict(weights)
        optimizer.load_state_dict(memories)
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        raise ValueError(
            f"{path} can't be resumed: {err}. Delete it to start anew, or name another file"
        ) from err
    return history, shuffled


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)
    }


# --- The whole loop ---


def fit(
    net: Sequential,
    optimizer: Optimizer,
    data: Dataset,
    *,
    epochs: int,
    rng: np.random.Generator,
    batch_size: int = 100,
    every: int = 100,
    checkpoint: str | os.PathLike | None = None,
) -> History:
    """Train ``net`` on ``data``, test it every so many iterations, and return the history.

    Parameters
    ----------
    net, optimizer : Sequential, Optimizer
        The network, changed in place and left in training mode, and an optimiser made of
        ``net.params``.
    data : Dataset
        What to learn from and what to test on.
    epochs : int
        How many times each training image is seen.
    rng : np.random.Generator
        Shuffles the images, once an epoch. Its seed is part of what makes a run this run.
    batch_size : int
        Images in a batch; an epoch's last batch may be smaller.
    every : int
        Test after so many iterations, and after the last one.
    checkpoint : path-like, optional
        A file written at each test. Where it exists, training goes on from it, and ends with
        the same weights as if it had never stopped.

    Returns
    -------
    History
        Losses, test results and times, from the first iteration on.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range, the data do not fit each other or the network, they hold NaN
        or infinity, or the checkpoint is damaged or belongs to another run.
    FloatingPointError
        The cost became NaN or infinite; the message tells at which iteration.
    """
    for name, value in (
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("every", every),
    ):
        check_integer(name, value, 1)
    _check_data(data)
    total = epochs * math.ceil(len(data.x_train) / batch_size)
    history, shuffled = History(), None
    if checkpoint is not None:
        run = _identify(net, optimizer, data, rng, batch_size=batch_size, every=every)
        if Path(checkpoint).exists():
            history, shuffled = _resume(checkpoint, run, net, optimizer, rng, total)
    net.train()
    done, N = len(history.loss), len(data.x_train)
    begun = time.perf_counter() - (history.seconds[-1] if history.seconds else 0)
    with progress_bar(done, total) as bar:
        for t, i, before in _iterations(N, batch_size, rng, total, done, shuffled):
            try:
                history.loss.append(
                    train_step(net, optimizer, data.x_train[i], data.y_train[i])
                )
                if t % every == 0 or t == total:
                    results = evaluate(net, data.x_test, data.y_test)
                    history.add_test(t, *results, time.perf_counter() - begun)
                    if checkpoint is not None:
                        _save(checkpoint, run, net, optimizer, rng, before, history)
            except FloatingPointError as err:
                raise FloatingPointError(f"iteration {t}: {err}") from err
            if bar:
                bar.set_postfix_str(str(history), refresh=False)
                bar.update()
    return history


def _check_data(data: Dataset) -> None:
    """Raise unless the images are finite, of one shape and dtype, and have labels."""
    _check_examples("x_train", data.x_train, "y_train", data.y_train)
    _check_examples("x_test", data.x_test, "y_test", data.y_test)
    expected = ("N", *data.x_train.shape[1:])
    check_array(
        "x_test",
        data.x_test,
        expected,
        f"because x_train has shape {data.x_train.shape}",
    )
    check_same_dtype(x_train=data.x_train, x_test=data.x_test)
    for name, x in (("x_train", data.x_train), ("x_test", data.x_test)):
        finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        if not finite.all():
            n = finite.argmin()
            raise ValueError(
                f"{name}[{n}] holds NaN or infinity; expected finite images"
            )


def progress_bar(done: int, total: int) -> contextlib.AbstractContextManager:
    """Return a progress bar that is silent where nobody watches, or nothing where tqdm is missing.

    Parameters
    ----------
    done, total : int
        How many iterations lie behind, and how many there are in all.

    Returns
    -------
    context manager
        To be used in a ``with`` statement: tqdm's bar, or None without tqdm.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext()
    return tqdm(initial=done, total=total, unit="it", disable=None)
