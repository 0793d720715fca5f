"""The program.

Exported from book/30-program.ipynb: edit the chapter and run `make export`.
"""

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from . import __version__
from .backend import FAST
from .checkpoint import train
from .data import Dataset, digits, mnist_folder, read_folder
from .files import load, load_weights, mnist, replace_file, save_history, save_weights
from .models import count_parameters, output_shapes, summary
from .network import Sequential
from .pictures import read_digit
from .recipes import MODELS, RECIPES, SEED, plot_curves, probabilities
from .training import History, evaluate

__all__ = ["main"]


# --- Which data? ---
def _data(choice: str | None) -> Dataset:
    """Read the data that ``--data`` names, and say what they are."""
    data = _read(choice)
    for x in (data.x_train, data.x_test):
        if x.shape[1:] != (1, 28, 28):
            size = "×".join(map(str, x.shape[2:]))
            raise ValueError(
                f"{data.name}: the images have {size} pixels; expected 28×28, as both "
                "networks take them"
            )
    print(
        f"Data: {data.name}, {len(data.x_train)} images to learn from, "
        f"{len(data.x_test)} to test on, {data.num_classes} classes."
    )
    if choice is None and data.name != "MNIST":
        print(f"(MNIST is not in {mnist_folder()} and could not be downloaded.)")
    return data


def _read(choice: str | None) -> Dataset:
    """Read the data that ``--data`` names."""
    if choice is None:
        return load(download=True)
    if choice == "digits":
        return digits()
    if choice != "mnist":
        return read_folder(choice)
    try:
        return mnist(download=True)
    except (OSError, ImportError) as err:
        raise ValueError(f"MNIST is not in {mnist_folder()}: {err}") from err


# --- Before an hour is spent ---
def _need(package: str, purpose: str) -> None:
    """Raise unless a package can be imported."""
    try:
        importlib.import_module(package)
    except ImportError as err:
        raise ImportError(
            f"{purpose} needs the package {package}: pip install {package}"
        ) from err


def _folder(args: argparse.Namespace, data: Dataset, prefix: str = "") -> Path:
    """Return the folder to write into, after something could be written into it."""
    name = f"{prefix}{args.model}-{args.recipe}-{data.name.lower()}"
    out = args.out or Path("data", "runs", name)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        return out


def _check_checkpoint(checkpoint: Path, resume: bool) -> None:
    """Raise where a run would be overwritten, or where there is none to go on with."""
    if checkpoint.exists() and not resume:
        raise ValueError(
            f"{checkpoint} is there already: add --resume to go on with that run, or name "
            "another folder with --out to begin a new one"
        )
    if resume and not checkpoint.exists():
        raise ValueError(
            f"there is no {checkpoint} to go on with: leave --resume out to begin a new run"
        )


# --- train ---
def _train(args: argparse.Namespace) -> None:
    """Train a network and write what comes of it into a folder."""
    _need("safetensors", "writing the weights")
    data = _data(args.data)
    if data.num_classes < 2:
        raise ValueError(
            f"{data.name}: all labels are 0; expected at least two classes"
        )
    out = _folder(args, data)
    checkpoint = out / "checkpoint.npz"
    _check_checkpoint(checkpoint, args.resume)
    how = {"epochs": args.epochs, "seed": args.seed, "checkpoint": checkpoint}
    try:
        net, history = train(data, args.model, args.recipe, **how)
        save_weights(out / "weights.safetensors", net)
        save_history(out / "history.json", history)
        _draw(out, {f"{args.model}, {args.recipe}": history}, args.show)
    except KeyboardInterrupt:
        go_on = f"The same command with --resume goes on from {checkpoint}."
        anew = "No test was reached, so there is no checkpoint: the same command begins anew."
        raise KeyboardInterrupt(go_on if checkpoint.exists() else anew) from None
    print(f"Iteration {len(history.loss)}: {history}, {history.seconds[-1]:.0f} s.")
    print(f"Written to {out}: {', '.join(sorted(os.listdir(out)))}")


def _draw(out: Path, histories: Mapping[str, History], show: bool) -> None:
    """Write curves.png, and open it where that is wanted and there is a screen."""
    path = out / "curves.png"
    try:
        figure = plot_curves(histories)
    except ImportError:
        print("No curves.png: it needs the package matplotlib.")
        return
    replace_file(path, lambda file: figure.savefig(file, format="png"))
    if show and not _open(path):
        print(f"There is no screen to show the curves on; they are in {path}.")


def _open(path: Path) -> bool:
    """Show a picture in a window until it is closed; return whether there was a screen."""
    from matplotlib import pyplot as plt
    from matplotlib.backends import BackendFilter, backend_registry

    windows = backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    if plt.get_backend().lower() not in windows:
        return False
    try:
        figure = plt.figure(layout="constrained")
    except ImportError:  # the backend was chosen, but there is no screen
        return False
    figure.add_subplot().imshow(plt.imread(path))
    figure.axes[0].axis("off")
    plt.show()
    return True


# --- evaluate, predict, summary ---
def _evaluate(args: argparse.Namespace) -> None:
    """Test a network on a data set that it may never have seen."""
    net, dtype = _load(args.weights)
    data = _data(args.data)
    known = output_shapes(net)[-1][0]
    if data.num_classes > known:
        raise ValueError(
            f"{args.weights} knows {known} classes, but {data.name} has labels up to "
            f"{data.num_classes - 1}: name other data with --data"
        )
    J, error = evaluate(net, data.x_test.astype(dtype), data.y_test)
    wrong = round(error * len(data.y_test))
    print(f"Test error {error:.2%} ({wrong} of {len(data.y_test)}), loss {J:.4f}.")
    print(f"{count_parameters(net)} parameters.")


def _load(weights: Path) -> tuple[Sequential, np.dtype]:
    """Return the network that a file of weights holds, and the dtype it computes in."""
    _need("safetensors", "reading the weights")
    net = load_weights(weights)
    return net, next(iter(net.params.values())).dtype


def _summary(args: argparse.Namespace) -> None:
    """Show a network's layers, their shapes and their parameters."""
    if args.weights is None:
        net = MODELS[args.model](rng=np.random.default_rng(SEED))
    else:
        net, _ = _load(args.weights)
    print(summary(net))


def _predict(args: argparse.Namespace) -> None:
    """Read the digit in each picture; name the runner-up as well."""
    net, dtype = _load(args.weights)
    for path in args.images:
        P = probabilities(net, read_digit(path).astype(dtype))[0]
        first, *others = np.argsort(-P)
        line = f"{path}: {first} ({P[first]:.1%})"
        print(line + "".join(f", or else {k} ({P[k]:.1%})" for k in others[:1]))


# --- compare ---
def _compare(args: argparse.Namespace) -> None:
    """Train a network here and its twin in PyTorch, and put the results side by side."""
    _need("torch", "the comparison")
    from cnn.pytorch import train_twin

    data = _data(args.data)
    out = _folder(args, data, "compare-")
    how = {"epochs": args.epochs, "seed": args.seed}
    print("Training ours ...", flush=True)
    _, ours = train(data, args.model, args.recipe, **how)
    print("Training PyTorch's ...", flush=True)
    _, theirs = train_twin(data, args.model, args.recipe, **how)
    histories = {"ours": ours, "PyTorch": theirs}
    for name, history in histories.items():
        save_history(out / f"{name.lower()}.json", history)
    _draw(out, histories, args.show)
    print(_table(histories))
    print(f"Written to {out}: {', '.join(sorted(os.listdir(out)))}")


def _table(histories: Mapping[str, History]) -> str:
    """Return the last test's results, a run a line; the ratio is to the last run's time."""
    lines = [f"{'':8}{'error':>8}{'loss':>9}{'seconds':>9}{'ratio':>7}"]
    *_, last = histories.values()
    for name, h in histories.items():
        error, loss, seconds = h.test_error[-1], h.test_loss[-1], h.seconds[-1]
        ratio = seconds / last.seconds[-1]
        lines.append(f"{name:8}{error:8.2%}{loss:9.4f}{seconds:9.1f}{ratio:7.2f}")
    return "\n".join(lines)


# --- What can be typed ---
class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, answers errors in one line, and shows examples."""

    def __init__(self, **settings: object) -> None:
        style = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=style, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = _Parser(prog="cnn", description=_ABOUT, epilog=_MORE)
    parser.add_argument("--version", action="version", version=_VERSION)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for run, about, options, examples in _COMMANDS:
        command = commands.add_parser(
            run.__name__.removeprefix("_"),
            help=about,
            description=run.__doc__,
            epilog=f"examples:\n{examples}",
        )
        # a network has weights from a file, or it is made anew
        either = command.add_mutually_exclusive_group() if run is _summary else command
        for name in options.split():
            either.add_argument(name.rstrip("?"), **_OPTIONS[name])
        command.set_defaults(run=run, prog=command.prog)
    return parser


_WEIGHTS = {"metavar": "WEIGHTS", "help": "a file that cnn train wrote"}
_OPTIONS: dict[str, dict[str, object]] = {
    "--model": {"choices": [*MODELS], "default": "simple", "help": "which network"},
    "--recipe": {"choices": [*RECIPES], "default": "constant", "help": "how to train"},
    "--data": {
        "help": "mnist, digits, or a folder with four IDX files of 28×28 images, named as "
        "MNIST's (else: MNIST, found or downloaded, or the embedded digits)",
    },
    "--epochs": {"type": int, "help": "how often each image is seen (15; digits: 120)"},
    "--seed": {"type": int, "default": SEED, "help": "fixes all chance"},
    "--out": {"type": Path, "help": "folder to write to (else one in data/runs)"},
    "--show": {"action": "store_true", "help": "open the curves, if there is a screen"},
    "--resume": {"action": "store_true", "help": "go on from the folder's checkpoint"},
    "weights": {"type": Path, **_WEIGHTS},
    "weights?": {"type": Path, "nargs": "?", **_WEIGHTS},
    "images": {"nargs": "+", "metavar": "IMAGE", "help": "a photo or scan of a digit"},
}
_RUN = "--model --recipe --data --epochs --seed --out --show"


_ABOUT = """\
Train, test and use the networks of this book: convolutional networks that
read handwritten digits, in nothing but NumPy. Exit codes: 0 when all went well,
2 after an error, 130 after Ctrl-C."""
_VERSION = f"cnn {__version__}, {'compiled loops' if FAST else 'NumPy alone'}"
_MORE = "cnn COMMAND --help lists the options of a command."
_TRAIN = """\
  cnn train
  cnn train --model deep --recipe dropout
  cnn train --data digits --epochs 20 --out try --show
  cnn train --data digits --epochs 40 --out try --resume"""
_EVALUATE = """\
  cnn evaluate data/runs/simple-constant-mnist/weights.safetensors
  cnn evaluate weights.safetensors --data my-digits"""
_PREDICT = "  cnn predict weights.safetensors seven.png photo.jpg"
_SUMMARY = """\
  cnn summary --model deep
  cnn summary weights.safetensors"""
_COMPARE = """\
  cnn compare --data digits
  cnn compare --model deep --recipe schedule --epochs 2 --show"""


_COMMANDS = (
    (_train, "train a network", f"{_RUN} --resume", _TRAIN),
    (_evaluate, "test a network", "weights --data", _EVALUATE),
    (_predict, "read the digits in pictures", "weights images", _PREDICT),
    (_summary, "show a network's layers", "weights? --model", _SUMMARY),
    (_compare, "train beside PyTorch", _RUN, _COMPARE),
)


# --- One way in, three ways out ---
def main(argv: list[str] | None = None) -> int:
    """Run a command, and return the exit code: 0, 2 after an error, 130 after an interrupt.

    ``cnn --help``, or ``python -m cnn --help``, lists the commands. An error is one line on stderr.
    Arguments that are wrong, and ``--help``, end in SystemExit.
    """
    args = _parser().parse_args(argv)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # said in one line, too
            args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print(f"Interrupted. {stop}".strip(), file=sys.stderr)
        return 130
    except BrokenPipeError:  # what read our output, head for instance, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except _SAID as err:
        print(f"{args.prog}: {' '.join(str(err).split())}", file=sys.stderr)
        return 2
    return 0


_SAID = (ArithmeticError, ImportError, MemoryError, OSError, TypeError, ValueError)

if __name__ == "__main__" and __spec__:
    sys.exit(main())
