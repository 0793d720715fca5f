"""The program.

Exported from book/34-program.ipynb: edit the chapter and run `make export`.
"""

import argparse
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from . import __version__
from .backend import FAST
from .commands import COMMANDS
from .console import LOG, UserError, console, say
from .recipes import MODELS, RECIPES, SEED

__all__ = ["main"]


# --- What can be typed ---
class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, shows examples, and sees that help arrives."""

    def __init__(self, **settings: Any) -> None:
        style = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=style, **settings)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        say(end="")
        super().exit(status, message)


def _parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = _Parser(prog="cnn", description=_ABOUT, epilog=_MORE)
    parser.add_argument("--version", action="version", version=_VERSION)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (about, options, examples) in _WORDS.items():
        run, more = COMMANDS[name], f"examples:\n{examples}"
        command = commands.add_parser(
            name, help=about, description=run.__doc__, epilog=more
        )
        for word in options.split():
            # of weights and --model only one can be named
            either = command.add_mutually_exclusive_group() if "|" in word else command
            for option in word.split("|"):
                either.add_argument(option.rstrip("?"), **_OPTIONS[option])
        command.set_defaults(run=run, parser=command)
    return parser


def _number(least: float, kind: type = int) -> Callable[[str], float]:
    """Return a function that reads a number of at least this size."""

    def number(text: str) -> float:
        value = kind(text)
        if not least <= value < 2**63:
            expected = f"expected at least {least} and less than 2**63"
            raise argparse.ArgumentTypeError(f"{text} given; {expected}")
        return value

    return number


_FROM = "a file that cnn train wrote, or its folder (else what comes with cnn)"
_WEIGHTS = {"metavar": "WEIGHTS", "help": _FROM}
_FLAG = {"action": "store_true"}
_COUNT = {"type": _number(1), "metavar": "N"}
_RATE = {"type": _number(1e-9, float), "metavar": "RATE"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "--model": {"choices": [*MODELS], "default": "simple", "help": "which network"},
    "--recipe": {"choices": [*RECIPES], "default": "constant", "help": "how to train"},
    "--data": {
        "help": "mnist, digits, or a folder with four IDX files of 28×28 images, named as "
        "MNIST's (else: MNIST, found or downloaded, or the embedded digits)",
    },
    "--epochs": {**_COUNT, "help": "how often each image is seen (15; digits: 120)"},
    "--lr": {**_RATE, "help": "a constant learning rate (else the recipe's)"},
    "--batch-size": {**_COUNT, "default": 100, "help": "images in a step (100)"},
    "--seed": {"type": _number(0), "default": SEED, "help": "fixes all chance"},
    "--out": {"type": Path, "help": "folder to write to (else one in data/runs)"},
    "--device": {"choices": ["cpu", "cuda"], "default": "cpu", "help": "what computes"},
    "--show": {**_FLAG, "help": "open the curves, if there is a screen"},
    "--resume": {**_FLAG, "help": "go on from the folder's checkpoint"},
    "--json": {**_FLAG, "help": "answer with one JSON document"},
    "--quiet": {**_FLAG, "help": "no progress, and no talk beside the answer"},
    "--weights": _WEIGHTS,
    "weights?": {**_WEIGHTS, "nargs": "?"},
    "images": {"nargs": "+", "metavar": "IMAGE", "help": "a photo or scan of a digit"},
}


_ABOUT = """\
Train, test and use the networks of this book: convolutional networks that
read handwritten digits, in nothing but NumPy. Exit codes: 0 when all went well,
1 after an error of the program, 2 after one of yours, 130 after Ctrl-C."""
_VERSION = f"cnn {__version__}, {'compiled loops' if FAST else 'NumPy alone'}"
_MORE = "cnn COMMAND --help lists the options of a command."
_TRAIN = """\
  cnn train
  cnn train --model deep --recipe dropout
  cnn train --data digits --epochs 20 --out try --show
  cnn train --data digits --epochs 40 --out try --resume"""
_EVALUATE = """\
  cnn evaluate
  cnn evaluate data/runs/simple-constant-mnist
  cnn evaluate weights.safetensors --data my-digits --json"""
_PREDICT = """\
  cnn predict seven.png photo.jpg
  cnn predict --weights weights.safetensors seven.png
  cnn predict weights.safetensors seven.png"""
_SUMMARY = """\
  cnn summary --model deep
  cnn summary weights.safetensors"""
_COMPARE = """\
  cnn compare --data digits
  cnn compare --model deep --recipe schedule --epochs 2 --show"""


_RUN = "--model --recipe --data --epochs --lr --batch-size --seed --out --show"
_TALK = "--json --quiet"
_WORDS = {
    "train": ("train a network", f"{_RUN} --device --resume --quiet", _TRAIN),
    "evaluate": ("test a network", f"weights? --data {_TALK}", _EVALUATE),
    "predict": ("read the digits in pictures", f"--weights images {_TALK}", _PREDICT),
    "summary": ("show a network's layers", f"weights?|--model {_TALK}", _SUMMARY),
    "compare": ("train beside PyTorch", f"{_RUN} {_TALK}", _COMPARE),
}


def _complete(parser: argparse.ArgumentParser) -> None:
    """Finish a word, where a shell asks for it and argcomplete is installed."""
    if "_ARGCOMPLETE" in os.environ:
        with contextlib.suppress(ImportError):
            importlib.import_module("argcomplete").autocomplete(parser)


# --- One way in, four ways out ---
def main(argv: list[str] | None = None) -> int:
    """Run a command, and return the exit code: 0, 2 after a user's error, 130 after Ctrl-C.

    ``cnn --help``, or ``python -m cnn --help``, lists the commands. Any other exception
    is the program's own error, and is raised.
    """
    with console(), np.errstate(over="ignore", invalid="ignore"):
        parser = _parser()
        _complete(parser)
        try:
            args, unknown = parser.parse_known_args(argv)
            parser = args.parser
            if unknown:
                parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            LOG.setLevel(logging.ERROR if args.quiet else logging.INFO)
            return args.run(args) or 0
        except SystemExit as end:  # argparse has said what there was to say
            return int(end.code or 0)
        except KeyboardInterrupt as stop:
            LOG.error("%s", f"Interrupted. {stop}".strip())
            return 130
        except UserError as err:
            LOG.error("%s: %s", parser.prog, err)
            return 2


if __name__ == "__main__" and __spec__:
    sys.exit(main())
