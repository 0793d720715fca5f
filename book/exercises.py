"""Exercises that answer: ``check("ex-conv-unread", unread)`` tries your function.

It is called with random and with nasty arguments, and its answers are compared with those of
another function that does the same in a plainer, slower way. Where all your answers are those of a
mistake that others have made before you, ``check`` says which. The exercises are listed in the
folder ``answers``, a file for a few chapters each: look there before you have tried, and you have
read the solution.
"""

import importlib
import inspect
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

ANSWERS = Path(__file__).with_name("answers")
SEED = 20
SHOWN = 12  # numbers of an array, at most; half as many of an answer
Rng = np.random.Generator
Case = tuple  # what kind of call it is, in words; then the arguments


@dataclass(frozen=True)
class Task:
    """One function to write.

    Attributes
    ----------
    reference : callable
        What is right; its name and its arguments are those that the exercise asks for.
    cases : callable
        Yields the calls to try, given a random generator: the same calls for the same seed,
        each with arrays of its own.
    mistakes : dict
        What a mistake is in words, and a function that makes it.
    tolerance : float
        How far floating-point numbers may be apart, relative to the largest one.
    call : callable, optional
        ``call(function, *arguments)`` returns what is to be compared, if not the function does.
    also : callable, optional
        ``also(answer, *arguments)`` says what else is wrong with an answer, "" if nothing.
    """

    reference: Callable
    cases: Callable[[np.random.Generator], Iterator[Case]]
    mistakes: dict[str, Callable]
    tolerance: float = 1e-9
    call: Callable = lambda function, *args: function(*args)
    also: Callable = lambda answer, *args: ""


class Outcome(NamedTuple):
    """What a call came to: an answer or an error, and the arguments that it has changed."""

    answer: object = None
    error: str = ""
    changed: tuple[str, ...] = ()
    also: str = ""


@dataclass
class Report:
    """What ``examine`` has found; ``wrong`` and ``right`` count the calls of each kind."""

    right: Counter = field(default_factory=Counter)
    wrong: Counter = field(default_factory=Counter)
    failures: list[tuple[float, str]] = field(default_factory=list)
    unwritten: bool = False
    mistake: str = ""


@cache
def exercises() -> dict[str, tuple[Task, ...]]:
    """Return label → the functions to write, of all exercises that ``check`` knows."""
    names = sorted(file.stem for file in ANSWERS.glob("[a-z]*.py"))
    parts = (importlib.import_module(f"answers.{name}").EXERCISES for name in names)
    return dict(sorted(pair for part in parts for pair in part.items()))


def check(label: str, *mine: Callable) -> bool:
    """Try the functions that you wrote for an exercise; print what is right and what isn't."""
    if label not in exercises():
        raise ValueError(f"no exercise {label!r}; there are {', '.join(exercises())}")
    tasks = exercises()[label]
    names = [task.reference.__name__ for task in tasks]
    if len(mine) != len(tasks) or not all(map(callable, mine)):
        print(f'Give the function itself: check("{label}", {", ".join(names)})')
        return False
    reports = [examine(task, f) for task, f in zip(tasks, mine, strict=True)]
    for name, report in zip(names, reports, strict=True):
        for line in lines(name, report):
            print(textwrap.fill(line, 88, subsequent_indent="    "))
    return not any(report.failures for report in reports)


def lines(name: str, report: Report) -> Iterator[str]:
    """Yield what to print about one function."""
    if report.unwritten:
        yield f"{name} returns None: not written yet."
        return
    right, wrong = report.right, report.wrong
    tried = right + wrong
    if not report.failures:
        yield f"✓ {name} is right in all {tried.total()} calls: {'; '.join(tried)}."
        return
    yield f"✗ {name} is right in {right.total()} of {tried.total()} calls."
    failing = (
        kind + f" ({n} of {tried[kind]})" * (right[kind] > 0)
        for kind, n in wrong.items()
    )
    yield f"  Not right: {'; '.join(failing)}."
    if passing := [kind for kind in right if not wrong[kind]]:
        yield f"  Right: {'; '.join(passing)}."
    yield f"  {min(report.failures, key=lambda f: f[0])[1]}"
    if report.mistake:
        yield f"  The likely mistake: {report.mistake}."


# --- For the lists of exercises ---


def whole(rng: Rng, *shape: int) -> np.ndarray:
    """Return small whole numbers in float64: sums of them are exact."""
    return rng.integers(-9, 10, shape).astype(float)


def after(right: Callable, change: Callable) -> Callable:
    """Return a function that changes the right answer; the change is given the arguments too."""
    return lambda *args: change(right(*args), *args)


# --- Trying a function ---


def examine(task: Task, mine: Callable, seed: int = SEED) -> Report:
    """Try a function on all calls, and compare it with the listed mistakes if it fails."""
    report = Report()
    theirs = outcomes(task, task.reference, seed)
    found = list(outcomes(task, mine, seed))
    tried = zip(calls(task, seed), found, theirs, strict=True)
    for (kind, *args), yours, expected in tried:
        problem = complaint(yours, expected, task.tolerance)
        (report.wrong if problem else report.right)[kind] += 1
        if problem:
            given = ", ".join(map(show, args))
            words = f"{task.reference.__name__}({given}) {problem}"
            report.failures.append((weight(args), words))
    report.unwritten = all(
        yours.answer is None and not yours.error and not yours.changed
        for yours in found
    )
    if report.failures and not report.unwritten:
        alike = partial(same_outcomes, found, tolerance=task.tolerance)
        named = (
            words
            for words, mistake in task.mistakes.items()
            if alike(outcomes(task, mistake, seed))
        )
        report.mistake = next(named, "")
    return report


def calls(task: Task, seed: int) -> Iterator[Case]:
    """Return the calls to try, with arguments that nobody has touched."""
    return task.cases(np.random.default_rng(seed))


def outcomes(task: Task, function: Callable, seed: int) -> Iterator[Outcome]:
    """Call a function with all the arguments, one call after the other."""
    names = list(inspect.signature(task.reference).parameters)
    for (_, *args), (_, *before) in zip(
        calls(task, seed), calls(task, seed), strict=True
    ):
        answer, error, also = None, "", ""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                answer = task.call(function, *args)
                also = task.also(answer, *args) if answer is not None else ""
        except (Exception, SystemExit) as err:
            error = f"{type(err).__name__}: {err}"
        changed = zip(names, args, before, strict=False)
        changed = tuple(name for name, a, b in changed if not untouched(a, b))
        yield Outcome(answer, error, changed, also)


def untouched(a: object, b: object) -> bool:
    """Return whether an argument still is what it was; functions and generators may change."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, list | dict | set):
        return a == b
    return True


def same_outcomes(
    mine: Iterable[Outcome], theirs: Iterable[Outcome], tolerance: float
) -> bool:
    """Return whether two functions have done the same in all calls."""
    return all(
        a.error.partition(":")[0] == b.error.partition(":")[0]
        and (a.changed, a.also) == (b.changed, b.also)
        and (a.error or not difference(a.answer, b.answer, tolerance))
        for a, b in zip(mine, theirs, strict=True)
    )


def complaint(yours: Outcome, expected: Outcome, tolerance: float) -> str:
    """Return what is wrong with the outcome of a call, "" if nothing."""
    if yours.error:
        return f"raises {yours.error}"
    if yours.changed:
        return f"changes its argument {' and '.join(yours.changed)}"
    return difference(yours.answer, expected.answer, tolerance) or yours.also


# --- Comparing two answers ---


def difference(mine: object, theirs: object, tolerance: float = 1e-9) -> str:
    """Return how an answer differs from the right one, "" if it doesn't."""
    if isinstance(mine, np.ndarray) and mine.ndim == 0:
        mine = mine[()]  # a number in an array without axes
    other = f"gives {kind_of(mine)}, expected {kind_of(theirs)}"
    match theirs:
        case np.ndarray():
            return (
                other
                if type(mine) is not type(theirs)
                else arrays(mine, theirs, tolerance)
            )
        case list() | tuple():
            if not isinstance(mine, list | tuple | np.ndarray | range):
                return other
            if any(isinstance(part, np.ndarray) for part in theirs):
                return (
                    parts(mine, theirs, tolerance)
                    if len(mine) == len(theirs)
                    else other
                )
            alike = len(mine) == len(theirs) and not any(
                difference(a, b, tolerance) for a, b in zip(mine, theirs, strict=True)
            )
        case dict():
            if not isinstance(mine, dict):
                return other
            alike = mine.keys() == theirs.keys() and not any(
                difference(mine[key], value, tolerance) for key, value in theirs.items()
            )
        case bool() | np.bool() | str() | bytes() | None:
            if type(mine) is not type(theirs):
                return other
            alike = mine == theirs
        case int() | np.integer():
            if isinstance(mine, bool) or not isinstance(mine, int | np.integer):
                return other
            alike = mine == theirs
        case _:  # a real number
            if isinstance(mine, bool) or not isinstance(mine, int | float | np.number):
                return other
            alike = close(np.asarray(mine), np.asarray(theirs), tolerance).all()
    return "" if alike else f"gives {show(mine)}, expected {show(theirs)}"


def parts(mine: tuple, theirs: tuple, tolerance: float) -> str:
    """Return how the first of several arrays that differs does so."""
    for place, (a, b) in enumerate(zip(mine, theirs, strict=True), start=1):
        if problem := difference(a, b, tolerance):
            return f"{problem}, in part {place} of the answer"
    return ""


def arrays(mine: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    """Return how two arrays differ: in shape, in dtype, or in a number."""
    if mine.shape != theirs.shape:
        return f"gives an array of shape {mine.shape}, expected {theirs.shape}"
    whole = mine.dtype.kind in "iu" and theirs.dtype.kind in "iu"
    if mine.dtype != theirs.dtype and not whole:
        return f"gives an array of dtype {mine.dtype}, expected {theirs.dtype}"
    wrong = np.argwhere(~close(mine, theirs, tolerance))
    if not len(wrong):
        return ""
    if theirs.size <= SHOWN / 2:
        return f"gives {show(mine)}, expected {show(theirs)}"
    place = tuple(map(int, wrong[0]))
    numbers = f"{show(mine[place])} at {list(place)}, expected {show(theirs[place])}"
    return f"gives {numbers} ({len(wrong)} of {theirs.size} numbers differ)"


def close(mine: np.ndarray, theirs: np.ndarray, tolerance: float) -> np.ndarray:
    """Return where numbers agree: whole ones exactly, others relative to the largest."""
    if theirs.dtype.kind not in "fc":
        return mine == theirs
    finite = np.abs(theirs[np.isfinite(theirs)])
    if theirs.dtype == np.float32:
        tolerance = max(tolerance, 2e-5)
    limit = tolerance * max(finite.max(initial=0), 1e-300)
    with np.errstate(all="ignore"):
        near = np.abs(mine - theirs) <= limit
    return near | (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))


# --- Showing them ---


def kind_of(value: object) -> str:
    """Return what sort of thing a value is, in a few words."""
    match value:
        case None:
            return "None"
        case np.ndarray():
            return f"an array of shape {value.shape}"
        case list() | tuple():
            name = type(value).__name__
            return f"a {name} of {len(value)}" if value else f"an empty {name}"
        case str():
            return value
        case bool() | np.bool():
            return "True or False"
        case int() | np.integer():
            return f"the whole number {value}"
        case float() | np.floating():
            return f"the number {show(value)}"
    return f"a {type(value).__name__}"


def show(value: object) -> str:
    """Return a value as one would type it, on one line; of a large array its shape."""
    match value:
        case np.ndarray() if value.size > SHOWN:
            return f"<{value.dtype}, shape {value.shape}>"
        case np.ndarray():
            text = np.array2string(value, separator=", ", precision=4)
            return " ".join(text.split())
        case float() | np.floating():
            return f"{value:.9g}"
        case np.generic():
            return str(value)
        case list() | tuple() if len(value) <= 12:
            inside = ", ".join(map(show, value))
            comma = "," * (isinstance(value, tuple) and len(value) == 1)
            return f"[{inside}]" if isinstance(value, list) else f"({inside}{comma})"
        case np.random.Generator():
            return "rng"
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 100 else f"{text[:100]} …"


def weight(args: list) -> float:
    """Return how large a call is: the numbers in its arrays, and the numbers themselves."""
    sizes = {np.ndarray: lambda a: a.size + np.abs(a).max(initial=0) / 1e6, int: abs}
    return sum(
        float(sizes.get(type(a), lambda a: len(a) if hasattr(a, "__len__") else 0)(a))
        for a in args
    )
