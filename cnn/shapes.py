"""Notation.

Exported from book/notation.ipynb: edit the chapter and run `make export`.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import update_wrapper
from typing import Any

import numpy as np

__all__ = [
    "Axes",
    "Table",
    "KINDS",
    "COUNTS",
    "check_array",
    "check_same_dtype",
    "check_integer",
    "check_labels",
    "shapes",
    "explain",
]


# --- Arrays that don't fit should say so ---


Axes = tuple[int | str, ...]
Table = list[tuple[str, Axes, str]]

# What an array may hold, in NumPy's codes (f floats, c complex, i and u integers) and in words.
KINDS = {
    "": ("fiuc", "numbers"),
    "float": ("fc", "floating-point numbers"),
    "real float": ("f", "real floating-point numbers"),
    "real": ("fiu", "real numbers"),
    "integer": ("iu", "integers"),
    "bytes": ("u", "unsigned integers"),
}
COUNTS = ("integer", "bytes")  # they need not have the others' dtype


def check_array(
    name: str, a: np.ndarray, shape: Axes, why: str = "", kind: str = ""
) -> None:
    """Raise unless ``a`` is an array of this shape and kind; a letter stands for any size but 0."""
    expected = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    codes, words = KINDS[kind]
    if not isinstance(a, np.ndarray):
        got = type(a).__name__
        raise TypeError(
            f"{name} is of type {got}; expected a NumPy array of shape {expected}"
        )
    if a.dtype.kind not in codes:
        raise TypeError(f"{name} has dtype {a.dtype}; expected {words}")
    if not _fits(a.shape, shape):
        reason = f", {why}" if why else ""
        raise ValueError(f"{name} has shape {a.shape}; expected {expected}{reason}")
    if not a.size:
        raise ValueError(f"{name} is empty: its shape is {a.shape}; expected no zero")


def _fits(shape: tuple[int, ...], expected: Axes) -> bool:
    """Return whether the sizes are the expected ones, where these are numbers."""
    more = len(shape) - len(expected)
    if more < -1 or (more and "..." not in expected):
        return False
    pairs = _pairs(expected, shape)
    return all(isinstance(e, str) or size == (e,) for e, size in pairs)


def _pairs(axes: Axes, shape: tuple[int, ...]) -> Iterator[tuple[int | str, tuple]]:
    """Yield each letter, number or ``...`` with the sizes that it stands for."""
    for e in axes:
        count = len(shape) - len(axes) + 1 if e == "..." else 1
        yield e, shape[:count]
        shape, axes = shape[count:], axes[1:]


def check_same_dtype(**arrays: np.ndarray) -> None:
    """Raise unless all the arrays, given by name, share one dtype.

    NumPy would convert silently, and a float32 network would compute in float64.
    """
    if len({a.dtype for a in arrays.values()}) > 1:
        listing = ", ".join(f"{name} {a.dtype}" for name, a in arrays.items())
        raise TypeError(
            f"the arrays have different dtypes ({listing}): convert with .astype(...)"
        )


def check_integer(name: str, value: int, least: int) -> int:
    """Return ``value`` as Python's integer, which can't overflow, if it is at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}; expected an integer of at least {least}")
    if value < least:
        raise ValueError(f"{name} is {value}; expected an integer of at least {least}")
    return int(value)


def check_labels(y: np.ndarray, N: int, K: int) -> None:
    """Raise unless ``y`` holds N integers from 0 to K - 1; name the first that is none."""
    check_array("y", y, (N,), "one label per image", "integer")
    wrong = np.flatnonzero((y < 0) | (y >= K))
    if wrong.size:
        raise ValueError(
            f"y[{wrong[0]}] is {y[wrong[0]]}; expected labels from 0 to {K - 1} "
            f"({wrong.size} of {N} are outside)"
        )


# --- Shapes in one line ---


def shapes(line: str) -> Callable[[Callable], Any]:
    """Declare the shapes of a function's arrays in one line, and check them at each call.

    Equal letters are equal sizes, ``...`` equal axes; a word after the shape (``float``, ``real``,
    ``integer``) narrows what the array may hold. All but integers share one dtype.

    >>> @shapes("W (M_out, M_in), q (N, M_in)")
    ... def scores(q, W):
    ...     return q @ W.T
    >>> scores(np.zeros((5, 3)), np.zeros((2, 4)))
    Traceback (most recent call last):
        ...
    ValueError: q has shape (5, 3); expected (N, 4), because W has shape (2, 4)
    """
    entries = re.findall(r"(\w+) \(([^)]*)\) ?(\w*)", line)
    table = [(name, _axes(axes), kind) for name, axes, kind in entries]

    def declare(function: Callable) -> Any:
        door = _door(function, table)
        update_wrapper(door, function)
        door.behind = function
        summary, *rest = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        door.__doc__ = "\n\n".join([summary, f"Shapes: ``{line}``.", *rest])
        return door

    return declare


def _axes(text: str) -> Axes:
    """Return the letters, numbers and dots between two brackets."""
    words = re.findall(r"[\w.]+", text)
    return tuple(int(word) if word.isdigit() else word for word in words)


def explain(table: Table, *arrays: np.ndarray) -> None:
    """Check the arrays one by one, and raise what is wrong."""
    known: dict[int | str, tuple] = {}
    because: dict[int | str, str] = {}
    for (name, axes, kind), a in zip(table, arrays, strict=True):
        expected = tuple(n for e in axes for n in known.get(e, (e,)))
        why = " and ".join(dict.fromkeys(because[e] for e in axes if e in because))
        check_array(name, a, expected, why and f"because {why}", kind)
        for e, size in _pairs(axes, a.shape):
            known.setdefault(e, size)
            because.setdefault(e, f"{name} has shape {a.shape}")
    named = zip(table, arrays, strict=True)
    check_same_dtype(**{row[0]: a for row, a in named if row[2] not in COUNTS})


def _door(function: Callable, table: Table) -> Any:
    """Write and compile a function that checks, and then calls what stands behind it."""
    space: dict[str, Any] = {"ndarray": np.ndarray, "explain": explain, "table": table}
    takes = []
    for p in inspect.signature(function).parameters.values():
        takes.append(p.name if p.default is p.empty else f"{p.name}=_{p.name}")
        space[f"_{p.name}"] = p.default
    source = (
        f"def door({', '.join(takes)}):\n"
        f"    try:\n"
        f"        {'; '.join(_unpack(name, axes) for name, axes, _ in table)}\n"
        f"        fits = {' and '.join(_tests(table))}\n"
        f"    except (AttributeError, ValueError):\n"
        f"        fits = False\n"
        f"    if not fits:\n"
        f"        explain(table, {', '.join(name for name, _, _ in table)})\n"
        f"    return door.behind({', '.join(t.partition('=')[0] for t in takes)})\n"
    )
    exec(source, space)
    return space["door"]


def _unpack(name: str, axes: Axes) -> str:
    """Write ``_W0, _W1, = W.shape``."""
    sizes = (f"{'*' * (e == '...')}_{name}{i}, " for i, e in enumerate(axes))
    return f"{''.join(sizes)}= {name}.shape"


def _tests(table: Table) -> Iterator[str]:
    """Write what must be true, one test after the other."""
    seen: dict[int | str, str] = {}
    alike = [name for name, _, kind in table if kind not in COUNTS]
    for name, axes, kind in table:
        yield f"isinstance({name}, ndarray) and {name}.size"
        yield f"{name}.dtype.kind in {KINDS[kind][0]!r}"
        if name in alike[1:]:
            yield f"{name}.dtype == {alike[0]}.dtype"
        for i, e in enumerate(axes):
            if isinstance(e, int) or e in seen:
                yield f"_{name}{i} == {seen.get(e, e)}"
            else:
                seen[e] = f"_{name}{i}"
