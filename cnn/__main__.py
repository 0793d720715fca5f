"""The program.

Exported from book/29-program.ipynb: edit the chapter and run `make export`.
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
from .checkpoint import train
from .data import Dataset, digits, read_folder
from .files import load, load_weights, mnist, save_weights
from .handwriting import as_mnist, ink, read_picture
from .models import count_parameters, output_shapes, summary
from .network import Sequential
from .recipes import MODELS, RECIPES, SEED, plot_curves, probabilities
from .training import History, evaluate

__all__ = ["main"]


# --- Which data? ---


def _data(choice: str | None) -> Dataset:
    """Read the data that ``--data`` names, and say what they are."""
    if choice is None:
        data = load(download=True)
    elif choice == "digits":
        data = digits()
    elif choice == "mnist":
        data = _insist_on_mnist()
    else:
        data = read_folder(choice)
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
        print(f"(MNIST is not in {_mnist_folder()} and could not be downloaded.)")
    return data


def _insist_on_mnist() -> Dataset:
    """Read or download MNIST; where neither is possible, say why."""
    try:
        return mnist(download=True)
    except (OSError, ImportError) as err:
        raise ValueError(f"MNIST is not in {_mnist_folder()}: {err}") from err


def _mnist_folder() -> Path:
    """Return where MNIST is looked for."""
    return Path(os.environ.get("CNN_DATA", "data"), "MNIST", "raw")


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
    try:
        net, history = train(
            data,
            args.model,
            args.recipe,
            epochs=args.epochs,
            seed=args.seed,
            checkpoint=checkpoint,
        )
        save_weights(out / "weights.safetensors", net)
        history.save(out / "history.json")
        _draw(out, {f"{args.model}, {args.recipe}": history}, args.show)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(checkpoint)) from None
    print(f"Iteration {len(history.loss)}: {_result(history)}.")
    print(f"Written to {out}: {', '.join(sorted(os.listdir(out)))}")


def _how_to_go_on(checkpoint: Path) -> str:
    """Return what can truly be done after an interrupt."""
    if checkpoint.exists():
        return f"The same command with --resume goes on from {checkpoint}."
    return (
        "No test was reached, so there is no checkpoint: the same command begins anew."
    )


def _result(history: History) -> str:
    """Return the last test's result as text."""
    minutes, seconds = divmod(round(history.seconds[-1]), 60)
    return (
        f"test error {history.test_error[-1]:.2%}, loss {history.test_loss[-1]:.4f}, "
        f"{minutes} min {seconds} s"
    )


def _draw(out: Path, histories: Mapping[str, History], show: bool) -> None:
    """Write curves.png, and open it where that is wanted and there is a screen."""
    path = out / "curves.png"
    try:
        plot_curves(histories, path)
    except ImportError:
        print("No curves.png: it needs the package matplotlib.")
        return
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


def _predict(args: argparse.Namespace) -> None:
    """Read the digit in each picture; name the runner-up as well."""
    net, dtype = _load(args.weights)
    for path in args.images:
        grey = read_picture(path)
        try:
            x = as_mnist(ink(grey))
        except ValueError as err:  # which picture was it?
            raise ValueError(f"{path}: {err}") from err
        P = probabilities(net, x.astype(dtype))[0]
        first, *others = np.argsort(-P)
        line = f"{path}: {first} ({P[first]:.1%})"
        print(line + "".join(f", or else {k} ({P[k]:.1%})" for k in others[:1]))


def _summary(args: argparse.Namespace) -> None:
    """Show a network's layers, their shapes and their parameters."""
    if args.weights is None:
        net = MODELS[args.model](rng=np.random.default_rng(SEED))
    else:
        net, _ = _load(args.weights)
    print(summary(net))


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
        history.save(out / f"{name.lower()}.json")
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
    parser = _Parser(
        prog="cnn",
        description="Train, test and use the networks of this book: convolutional networks that\n"
        "read handwritten digits, in nothing but NumPy. Exit codes: 0 when all went well,\n"
        "2 after an error, 130 after Ctrl-C.",
        epilog="cnn COMMAND --help tells the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"cnn {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for run, about, options, examples in (
        (_train, "train a network", _train_options, _TRAIN),
        (_evaluate, "test a network", _evaluate_options, _EVALUATE),
        (_predict, "read the digits in pictures", _predict_options, _PREDICT),
        (_summary, "show a network's layers", _summary_options, _SUMMARY),
        (_compare, "train beside PyTorch", _run_options, _COMPARE),
    ):
        command = commands.add_parser(
            run.__name__.removeprefix("_"),
            help=about,
            description=run.__doc__,
            epilog=f"examples:\n{examples}",
        )
        options(command)
        command.set_defaults(run=run, prog=command.prog)
    return parser


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


def _data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="mnist, digits, or a folder with four IDX files of 28×28 images, named as MNIST's "
        "(default: MNIST where it is found or can be downloaded, else the embedded digits)",
    )


def _run_options(parser: argparse.ArgumentParser) -> None:
    add, usual = parser.add_argument, "(default: %(default)s)"
    add("--model", choices=[*MODELS], default="simple", help=f"which network {usual}")
    add(
        "--recipe", choices=[*RECIPES], default="constant", help=f"how to train {usual}"
    )
    _data_option(parser)
    epochs = "how often each image is seen (default: 15; 120 for the embedded digits)"
    add("--epochs", type=int, metavar="N", help=epochs)
    add("--seed", type=int, metavar="N", default=SEED, help=f"fixes all chance {usual}")
    out = "folder to write to (default: one in data/runs, named after the run)"
    add("--out", type=Path, metavar="DIR", help=out)
    add("--show", action="store_true", help="open the curves where there is a screen")


def _train_options(parser: argparse.ArgumentParser) -> None:
    _run_options(parser)
    about = "go on from the folder's checkpoint"
    parser.add_argument("--resume", action="store_true", help=about)


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help=_WEIGHTS)
    _data_option(parser)


def _predict_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help=_WEIGHTS)
    add("images", nargs="+", metavar="IMAGE", help="a photograph or scan of one digit")


def _summary_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_mutually_exclusive_group().add_argument
    add("weights", type=Path, metavar="WEIGHTS", nargs="?", help=_WEIGHTS)
    about = "a network with its initial weights (default: %(default)s)"
    add("--model", choices=[*MODELS], default="simple", help=about)


_WEIGHTS = "a safetensors file of weights, as cnn train writes it"


# --- One way in, three ways out ---


def main(argv: list[str] | None = None) -> int:
    """Run a command; ``cnn --help``, or ``python -m cnn --help``, lists them.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the command line.

    Returns
    -------
    int
        The exit code: 0, 2 after an error told in one line on stderr, or in silence where nobody
        reads the output any more, 130 after an interrupt.

    Raises
    ------
    SystemExit
        With code 0 after ``--help`` or ``--version``, with 2 where the arguments are wrong.
    """
    args = _parser().parse_args(argv)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # told in one line, too
            args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print(f"Interrupted. {stop}".strip(), file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, head for instance, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except _TOLD as err:
        print(f"{args.prog}: {' '.join(str(err).split())}", file=sys.stderr)
        return 2
    return 0


_TOLD = (ArithmeticError, ImportError, MemoryError, OSError, TypeError, ValueError)

if __name__ == "__main__" and __spec__:
    sys.exit(main())
