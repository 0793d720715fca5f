"""What the program does.

Exported from book/34-program.ipynb: edit the chapter and run `make export`.
"""

import argparse
import contextlib
import json
import os
import platform
import webbrowser
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, files
from .checkpoint import ResumeError, train
from .console import LOG, UserError, ending_together, need, say, told
from .data import Dataset, digits, mnist_folder, read_folder
from .gpu_plan import GpuError
from .models import count_parameters, output_shapes, summary
from .network import Sequential
from .parallel import MeetingError, Workers, started
from .pictures import read_digit
from .recipes import MODELS, RECIPES, SEED, epochs_for, plot_curves, probabilities
from .training import History, evaluate
from .weights import load_weights, save_weights

__all__ = ["COMMANDS"]


# --- Which data? ---
def _data(choice: str | None) -> Dataset:
    """Read the data that ``--data`` names, and say what they are."""
    missing = f"MNIST is not in {mnist_folder()}: " if choice == "mnist" else ""
    with told(OSError, ImportError, ValueError, about=missing):
        data = _read(choice)
    for x in (data.x_train, data.x_test):
        if x.shape[1:] != (1, 28, 28):
            size = "×".join(map(str, x.shape[2:]))
            raise UserError(
                f"{data.name}: the images have {size} pixels; expected 28×28, as both "
                "networks take them"
            )
    counts = f"{len(data.x_train)} images to learn from, {len(data.x_test)} to test on"
    LOG.info("Data: %s, %s, %d classes.", data.name, counts, data.num_classes)
    if choice is None and data.name != "MNIST":
        LOG.info("(MNIST is not in %s and could not be downloaded.)", mnist_folder())
    return data


def _read(choice: str | None) -> Dataset:
    """Read the data that ``--data`` names."""
    if choice is None:
        return files.load(download=True)
    if choice == "mnist":
        return files.mnist(download=True)
    return digits() if choice == "digits" else read_folder(choice)


# --- Before an hour is spent ---
def _data_to_learn(args: argparse.Namespace) -> Dataset:
    """Read the data, and tell the user where they leave nothing to learn."""
    data = _data(args.data)
    if data.num_classes < 2:
        raise UserError(f"{data.name}: all labels are 0; expected at least two classes")
    return data


def _check_run(out: Path, resume: bool) -> None:
    """Tell the user where a run would be overwritten, or there is none to go on with."""
    checkpoint = out / "checkpoint.npz"
    there = checkpoint.exists()
    if there and not resume:
        ways = "add --resume to go on with that run, or name another folder with --out"
        raise UserError(f"{checkpoint} is there already: {ways} to begin a new one")
    if resume and not there:
        way = "leave --resume out to begin a new run"
        raise UserError(f"there is no {checkpoint} to go on with: {way}")


def _origin(args: argparse.Namespace, data: Dataset) -> str:
    """Say where the data come from: MNIST, digits, or a folder."""
    named = args.data in (None, "mnist", "digits")
    return data.name if named else str(Path(args.data).resolve())


def _place(args: argparse.Namespace, data: Dataset, prefix: str = "") -> Path:
    """Return --out, or a folder called after the network, the recipe and the data."""
    name = f"{prefix}{args.model}-{args.recipe}-{data.name.lower()}"
    if _origin(args, data) != data.name:
        checksum = 0
        for a in data[1:5]:
            checksum = zlib.crc32(np.ascontiguousarray(a).data, checksum)
        name += f"-{checksum:08x}"
    return args.out or Path("data", "runs", name)


@contextlib.contextmanager
def _folder(out: Path, workers: Workers | None = None) -> Iterator[None]:
    """Make a run's folder, and keep every other run out of it meanwhile."""
    with contextlib.ExitStack() as stack:
        if not (workers and workers.rank):  # of several, the first one does
            with told(OSError):
                stack.enter_context(files.locked(out / "run.lock"))
        yield


def _answer(args: argparse.Namespace, record: dict[str, Any], text: str = "") -> None:
    """Give an answer as a text, or with --json as one JSON document."""
    say(json.dumps(record, indent=2) if args.json else text)


# --- train ---
def _about(args: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """Say how a network is trained, for whoever finds its files later."""
    lr = RECIPES[args.recipe][0] if args.lr is None else args.lr
    python = platform.python_version()
    words = ("model", "recipe", "seed", "batch_size")
    return {word: getattr(args, word) for word in words} | {
        "epochs": args.epochs or epochs_for(data),
        "lr": lr if isinstance(lr, float) else str(lr),
        "data": _origin(args, data),
        "images": [len(data.x_train), len(data.x_test)],
        "versions": {"cnn": __version__, "numpy": np.__version__, "python": python},
    }


def _run(
    how: Callable[..., tuple[Any, History]], data: Dataset, args: argparse.Namespace,
    workers: Workers | None = None, **more: Path,
) -> tuple[Any, History]:  # fmt: skip
    """Train as the options say, with ``train`` or its twin."""
    yours = OSError, FloatingPointError, MemoryError
    names = "epochs", "seed", "lr", "batch_size", "device"
    options = {k: getattr(args, k) for k in names if k in args}
    options |= {"workers": workers} if workers else {}
    with told(*yours, ResumeError, MeetingError, GpuError):
        return how(data, args.model, args.recipe, **options, **more)


def _train_into(args: argparse.Namespace, workers: Workers | None) -> None:
    """Train, alone or with others; of several, only the first one writes."""
    if args.out:
        _check_run(args.out, args.resume)
    data = _data_to_learn(args)
    out, about = _place(args, data), _about(args, data)
    checkpoint = out / "checkpoint.npz"
    _check_run(out, args.resume)
    try:
        with _folder(out, workers):
            net, history = _run(train, data, args, workers, checkpoint=checkpoint)
            if workers and workers.rank:
                return
            with told(OSError):
                save_weights(out / "weights.safetensors", net, about)
                files.save_history(out / "history.json", history, about)
            _draw(out, {f"{args.model}, {args.recipe}": history}, args.show)
    except KeyboardInterrupt:
        there = f"The same command with --resume goes on from {checkpoint}."
        none = "No test was reached, so there is no checkpoint: begin anew."
        raise KeyboardInterrupt(there if checkpoint.exists() else none) from None
    steps, seconds = len(history.loss), history.seconds[-1]
    LOG.info("Iteration %d: %s, %.0f s.", steps, history, seconds)
    LOG.info("Written to %s: %s", out, _names(out))


# --- Several processes ---
def _train(args: argparse.Namespace) -> None:
    """Train a network and write what comes of it into a folder."""
    need("safetensors", "writing the weights")
    with told(ImportError, RuntimeError):
        workers = started()
    with ending_together(workers):
        _train_into(args, workers)


def _draw(out: Path, histories: dict[str, History], show: bool) -> None:
    """Write curves.png, where Matplotlib is installed, and open it where wanted."""
    path = out / "curves.png"
    try:
        figure = plot_curves(histories)
    except ImportError:
        LOG.info("No curves.png: it needs the package matplotlib.")
        return
    with told(OSError):
        files.replace_file(path, lambda file: figure.savefig(file, format="png"))
    if show and not webbrowser.open(path.resolve().as_uri()):
        LOG.info("There is no screen to show the curves on; they are in %s.", path)


def _names(out: Path) -> str:
    """Return the names of the files in a folder, those of broken-off writing left out."""
    return ", ".join(sorted(path.name for path in out.glob("[!.]*")))


# --- evaluate, predict, summary ---
def _load(weights: str | None) -> tuple[Sequential, np.dtype]:
    """Return the network of a file, a run's folder or the package, and its dtype."""
    need("safetensors", "reading the weights")
    if weights is None:
        LOG.info("Weights: those that come with cnn, of the network deep on MNIST.")
    elif os.path.isdir(weights):
        weights = os.path.join(weights, "weights.safetensors")
    with told(OSError, ValueError):
        net = load_weights(weights)
    return net, next(iter(net.params.values())).dtype


def _data_of(run: str | None) -> str | None:
    """Return what a run's folder says of its data, as --data has it."""
    if run is None or not os.path.isdir(run):
        return None
    why = f"{run} does not say what it was trained on; name data with --data: "
    with told(OSError, ValueError, LookupError, TypeError, RecursionError, about=why):
        record = json.loads(Path(run, "history.json").read_bytes())
        origin = str(record["about"]["data"])
    return "mnist" if origin == "MNIST" else origin


def _evaluate(args: argparse.Namespace) -> None:
    """Test a network on a data set that it may never have seen."""
    net, dtype = _load(args.weights)
    args.data = args.data or _data_of(args.weights)
    data = _data(args.data)
    known, N = output_shapes(net)[-1][0], len(data.y_test)
    if data.num_classes > known:
        raise UserError(
            f"the network knows {known} classes, but {data.name} has labels up to "
            f"{data.num_classes - 1}: name other data with --data"
        )
    with told(FloatingPointError, about=f"{args.weights}: "):
        J, error = evaluate(net, data.x_test.astype(dtype), data.y_test)
    wrong, count = round(error * N), count_parameters(net)
    record = {"weights": args.weights, "data": _origin(args, data), "images": N}
    record |= {"wrong": wrong, "error": error, "loss": J, "parameters": count}
    text = f"Test error {error:.2%} ({wrong} of {N}), loss {J:.4f}."
    _answer(args, record, f"{text}\n{count} parameters.")


def _summary(args: argparse.Namespace) -> None:
    """Show a network's layers, their shapes and their parameters."""
    if args.weights is None:
        net = MODELS[args.model](rng=np.random.default_rng(SEED))
    else:
        net, _ = _load(args.weights)
    layers = [
        {"layer": str(layer), "output": shape, "parameters": count_parameters(layer)}
        for layer, shape in zip(net, output_shapes(net), strict=True)
    ]
    _answer(args, {"layers": layers, "parameters": count_parameters(net)}, summary(net))


def _predict(args: argparse.Namespace) -> int:
    """Read the digit in each picture; name the runner-up as well."""
    if args.weights is None and _is_weights(args.images[0]):
        args.weights = args.images.pop(0)
    if not args.images:
        args.parser.error("the following arguments are required: IMAGE")
    net, dtype = _load(args.weights)
    need("PIL", "reading pictures", "pillow")
    answers: list[dict[str, Any]] = []
    for path in args.images:
        try:
            answers.append(_read_one(net, dtype, path))
        except UserError as err:
            LOG.error("%s: %s", args.parser.prog, err)
            answers.append({"file": path, "error": str(err)})
        else:
            if not args.json:
                say(_line(**answers[-1]))
    if args.json:
        _answer(args, {"weights": args.weights, "pictures": answers})
    return 2 * any("error" in answer for answer in answers)


def _is_weights(path: str) -> bool:
    """Return whether this is a safetensors file, by name or first bytes, or a run."""
    if path.endswith(".safetensors"):
        return True
    with contextlib.suppress(OSError):
        if os.path.isfile(path):
            return Path(path).read_bytes()[5:9] == b"\0\0\0{"
    return os.path.isfile(os.path.join(path, "weights.safetensors"))


def _read_one(net: Sequential, dtype: np.dtype, path: str) -> dict[str, Any]:
    """Return what the network sees in a picture."""
    with told(OSError, ValueError):
        x = read_digit(path)
    with told(FloatingPointError, about="the weights: "):
        P = probabilities(net, x.astype(dtype))[0]
    k, p = int(P.argmax()), [round(float(a), 6) for a in P]
    return {"file": path, "digit": k, "probability": p[k], "probabilities": p}


def _line(file: str, digit: int, probability: float, probabilities: list[float]) -> str:
    """Return the answer to one picture as a line, the runner-up in it as well."""
    others = sorted((-p, k) for k, p in enumerate(probabilities) if k != digit)
    line = f"{file}: {digit} ({probability:.1%})"
    return line + "".join(f", or else {k} ({-p:.1%})" for p, k in others[:1])


# --- compare ---
def _compare(args: argparse.Namespace) -> None:
    """Train a network here and its twin in PyTorch, and put the results side by side."""
    need("torch", "the comparison")
    from cnn.pytorch import train_twin

    data, histories = _data_to_learn(args), {}
    out, about = _place(args, data, "compare-"), _about(args, data)
    with _folder(out):
        for name, how in (("ours", train), ("PyTorch", train_twin)):
            LOG.info("Training: %s ...", name)
            _, histories[name] = _run(how, data, args)
        for name, history in histories.items():
            with told(OSError):
                files.save_history(out / f"{name.lower()}.json", history, about)
        _draw(out, histories, args.show)
    LOG.info("Written to %s: %s", out, _names(out))
    runs = {name: _last(history) for name, history in histories.items()}
    record = {"data": about["data"], "folder": str(out), "runs": runs}
    _answer(args, record, _table(runs))


def _last(h: History) -> dict[str, float]:
    """Return the results of the last test, and how long it took to get there."""
    return {
        "error": h.test_error[-1],
        "loss": h.test_loss[-1],
        "seconds": h.seconds[-1],
    }


def _table(runs: dict[str, dict[str, float]]) -> str:
    """Return the results, a run a line; the ratio is to the last run's time."""
    lines = [f"{'':8}{'error':>8}{'loss':>9}{'seconds':>9}{'ratio':>7}"]
    *_, last = runs.values()
    for name, run in runs.items():
        error, loss, seconds = run.values()
        ratio = seconds / last["seconds"]
        lines.append(f"{name:8}{error:8.2%}{loss:9.4f}{seconds:9.1f}{ratio:7.2f}")
    return "\n".join(lines)


_ALL = (_train, _evaluate, _predict, _summary, _compare)
COMMANDS = {command.__name__.removeprefix("_"): command for command in _ALL}
