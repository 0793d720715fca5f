"""How the program speaks.

Exported from book/34-program.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator

from .parallel import MeetingError, Workers, meet

__all__ = ["UserError", "told", "LOG", "say", "console", "need", "ending_together"]


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


# --- Before an hour is spent ---
def need(package: str, purpose: str, install: str = "") -> None:
    """Tell the user unless a package can be imported."""
    get = f"{install or package}: pip install {install or package}"
    try:
        importlib.import_module(package)
    except ImportError as err:
        raise UserError(f"{purpose} needs the package {get}") from err


# --- Several processes ---
@contextlib.contextmanager
def ending_together(workers: Workers | None) -> Iterator[None]:
    """However one of several workers ends, let all of them end, and say why once."""
    if workers and workers.rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; one will do
    try:
        yield
    except BaseException as err:
        known = isinstance(err.__cause__, FloatingPointError | MeetingError)
        if workers and not known and not workers.met:
            with contextlib.suppress(MeetingError):
                meet(workers, {"error": str(err) or type(err).__name__})
        elif workers and not known:
            _abort(workers, err)
        raise


def _abort(workers: Workers, err: BaseException) -> None:
    """Say what is wrong with this worker, and end all of them at once."""
    if isinstance(err, UserError | KeyboardInterrupt):
        stopped = "Interrupted. " * isinstance(err, KeyboardInterrupt)
        print(f"cnn train, worker {workers.rank}: {stopped}{err}", file=sys.stderr)
    else:
        traceback.print_exception(err)
    code = {UserError: 2, KeyboardInterrupt: 130}.get(type(err), 1)
    sys.stderr.flush()
    time.sleep(1)  # mpiexec drops what it has not passed on
    workers.comm.Abort(code)
    os._exit(code)  # or Python goes on, until it is killed
