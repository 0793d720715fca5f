"""Training on MNIST.

Exported from book/17-mnist.ipynb: edit the chapter and run `make export`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .data import Dataset, load
from .models import count_parameters, simple_cnn
from .network import Sequential
from .optimizers import Adam
from .training import History, fit, replace_file, save_arrays

__all__ = ["EPOCHS", "SEED", "train_simple", "plot_curves", "main"]


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# --- What is decided beforehand ---


EPOCHS = {"MNIST": 15, "digits": 120}
SEED = 3


def train_simple(
    data: Dataset,
    *,
    epochs: int | None = None,
    seed: int = SEED,
    checkpoint: str | os.PathLike | None = None,
) -> tuple[Sequential, History]:
    """Train the network of Table 1: Adam with 0.001, batches of 100, a test every 100 iterations.

    Parameters
    ----------
    data : Dataset
        What to learn from and what to test on.
    epochs : int, optional
        How many times each image is seen; by default ``EPOCHS[data.name]``.
    seed : int
        Where all chance comes from: the initial weights and the order of the images.
    checkpoint : path-like, optional
        A file written at each test; where it exists, training goes on from it.

    Returns
    -------
    net : Sequential
        The trained network.
    history : History
        Losses, test results and times.

    Raises
    ------
    TypeError, ValueError
        The data are not what they should be, a number is out of range, or the checkpoint is
        damaged or belongs to another run.
    FloatingPointError
        The cost became NaN or infinite.
    """
    if epochs is None:
        if data.name not in EPOCHS:
            raise ValueError(
                f"the data are named {data.name!r}: say how many epochs to train"
            )
        epochs = EPOCHS[data.name]
    init, order = np.random.default_rng(seed).spawn(2)
    net = simple_cnn(rng=init)
    optimizer = Adam(net.params, lr=1e-3)
    return net, fit(
        net, optimizer, data, epochs=epochs, rng=order, checkpoint=checkpoint
    )


# --- The run ---


def plot_curves(history: History, path: str | os.PathLike | None = None) -> "Figure":
    """Draw the losses on a logarithmic scale and, below, the error rate on the test set.

    Parameters
    ----------
    history : History
        What ``fit`` returned.
    path : path-like, optional
        Where to save the picture; the name's ending says in which format.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ImportError
        Matplotlib is not installed.
    ValueError
        The history holds no test.
    """
    from matplotlib.figure import Figure

    if not history.iterations:
        raise ValueError("the history holds no test yet: there is nothing to draw")
    figure = Figure(figsize=(6.5, 5.4), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    t = np.arange(1, len(history.loss) + 1)
    window = min(100, len(t))
    mean = np.convolve(history.loss, np.full(window, 1 / window), "valid")
    above.semilogy(
        t, history.loss, color="C0", alpha=0.25, lw=0.6, label="loss of one batch"
    )
    above.semilogy(
        t[window - 1 :], mean, color="C0", label=f"mean of the last {window}"
    )
    above.semilogy(
        history.iterations, history.test_loss, "C1", label="loss on the test set"
    )
    above.set_ylabel("cross-entropy")
    above.legend()
    below.plot(history.iterations, 100 * np.array(history.test_error), "C1")
    below.set(xlabel="iteration", ylabel="test error in %", ylim=(0, None))
    if path is not None:
        ending = Path(path).suffix.removeprefix(".") or "png"
        replace_file(path, lambda file: figure.savefig(file, format=ending))
    return figure


# --- From the command line ---


def main(argv: list[str] | None = None) -> int:
    """Train from the command line; ``python -m cnn.mnist --help`` tells the options.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the command line.

    Returns
    -------
    int
        The exit status: 0, 2 after an error told on stderr, 130 after an interrupt.

    Raises
    ------
    SystemExit
        With status 0 after ``--help``, with 2 after an unknown option.
    """
    args = _parser().parse_args(argv)
    try:
        _train(args)
    except KeyboardInterrupt:
        print(
            "Interrupted. The same command goes on from the last test.", file=sys.stderr
        )
        return 130
    except (OSError, TypeError, ValueError, FloatingPointError) as err:
        print(f"cnn.mnist: {err}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnn.mnist",
        description="Train the network of Table 1 on MNIST or, where MNIST is neither found nor "
        "can be downloaded, on the embedded digits. An interrupted run goes on where it was when "
        "the same command is given again.",
        epilog="example: python -m cnn.mnist --epochs 2 --out data/runs/short",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data",
        metavar="ROOT",
        help="folder that holds MNIST/raw (default: $CNN_DATA, or data)",
    )
    epochs = ", ".join(f"{n} for {name}" for name, n in EPOCHS.items())
    chance = "fixes all chance (default: %(default)s)"
    where = "where to write, in a folder named after the data (default: %(default)s)"
    add(
        "--epochs",
        type=int,
        metavar="N",
        help=f"how often each image is seen (default: {epochs})",
    )
    add("--seed", metavar="N", type=int, default=SEED, help=chance)
    add("--out", metavar="DIR", type=Path, default=Path("data/runs/simple"), help=where)
    return parser


def _train(args: argparse.Namespace) -> None:
    """Train, telling what happens, and write the results."""
    data = load(args.data, download=True)
    root = args.data or os.environ.get("CNN_DATA", "data")
    print(
        f"{data.name}: {len(data.x_train)} images to learn from, {len(data.x_test)} to test on."
    )
    if data.name != "MNIST":
        print(
            f"MNIST is not in {root} and could not be downloaded: put its four files into"
        )
        print(f"{Path(root, 'MNIST', 'raw')}, or name another folder with --data.")
    out = args.out / data.name.lower()
    checkpoint = out / "checkpoint.npz"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    if before:
        print(f"Found {checkpoint}: this run goes on from there.")
    net, history = train_simple(
        data, epochs=args.epochs, seed=args.seed, checkpoint=checkpoint
    )
    _write(out, net, history)
    if before == checkpoint.stat().st_mtime_ns:
        print(
            f"Nothing is left to do. To start anew, delete {out} or name another --out."
        )
    minutes, seconds = divmod(round(history.seconds[-1]), 60)
    print(
        f"Test error after iteration {len(history.loss)}: {history.test_error[-1]:.2%}",
        end="",
    )
    print(f" ({count_parameters(net)} parameters, {minutes} min {seconds} s).")


def _write(out: Path, net: Sequential, history: History) -> None:
    """Write the weights, the history and, where matplotlib is installed, the curves."""
    save_arrays(out / "weights.npz", net.state_dict())
    history.save(out / "history.json")
    try:
        plot_curves(history, out / "curves.png")
    except ImportError:
        print("No curves.png: it needs matplotlib.")


if __name__ == "__main__" and __spec__:
    sys.exit(main())
