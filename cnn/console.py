"""How the program speaks.

Exported from book/30-program.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator

__all__ = ["UserError", "told", "LOG", "say", "console"]


# --- What a program owes you ---
class UserError(Exception):
    """Something that the user can put right; its text is all that the user is told."""


@contextlib.contextmanager
def told(*kinds: type[Exception], about: str = "") -> Iterator[None]:
    """Tell the user, in one line, of exceptions that come from what the user gave."""
    try:
        yield
    except kinds as err:
        if isinstance(err, OSError) and err.filename:
            about += f"{err.filename}: {err.strerror}"
        else:
            about += str(err)
        raise UserError(" ".join(about.split())) from err


# --- Two streams ---
LOG = logging.getLogger("cnn")


def say(text: str = "", end: str = "\n") -> None:
    """Print an answer on standard output; when this returns, it has arrived."""
    try:
        print(text, end=end, flush=True)
    except OSError as err:
        # Python would try to print the rest once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(err, BrokenPipeError):
            raise SystemExit(0) from err
        raise UserError(f"the answer could not be printed: {err}") from err


def _let_go() -> None:
    """Flush standard error; where that fails, Python must not try it again at the end."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextlib.contextmanager
def console() -> Iterator[None]:
    """Make the two streams fit to take any text, and lead the talk to standard error."""
    with contextlib.ExitStack() as stack:
        for redirect, stream in (
            (contextlib.redirect_stdout, sys.stdout),
            (contextlib.redirect_stderr, sys.stderr),
        ):
            if stream is None or stream.closed:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect(nowhere))
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        stack.callback(_let_go)
        handler = logging.StreamHandler()
        LOG.addHandler(handler)
        stack.callback(LOG.removeHandler, handler)
        stack.callback(LOG.setLevel, LOG.level)
        yield
