"""Notation.

Exported from book/notation.ipynb: edit the chapter and run `make export`.
"""

import inspect
import math
import numbers
import re
from collections.abc import Callable, Iterator
from functools import update_wrapper
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import numpy as np

__all__ = [
    "Axes", "KINDS", "check_array", "check_same_dtype", "check_integer", "check_number",
    "check_labels", "check_generator", "Table", "Door", "shapes",
]  # fmt: skip


# --- Arrays that don't fit should say so ---
Axes = tuple[int | str, ...]


def _match(axes: Axes, shape: tuple[int, ...]) -> dict[int | str, tuple] | None:
    """Return what each letter, and ``...``, stands for; None if they don't fit."""
    found: dict[int | str, tuple] = {}
    rest = len(shape) - (len(axes) - 1)  # as many axes "..." stands for
    if rest < 0 or (rest != 1 and "..." not in axes):
        return None
    for e in axes:
        count = rest if e == "..." else 1
        size, shape = shape[:count], shape[count:]
        if size != ((e,) if isinstance(e, int) else found.setdefault(e, size)):
            return None
    return found


# What an array may hold: NumPy's codes (f floats, c complex, i, u integers), words.
KINDS = {
    "": ("fiuc", "numbers"),
    "float": ("fc", "floating-point numbers"),
    "real float": ("f", "real floating-point numbers"),
    "real": ("fiu", "real numbers"),
    "integer": ("iu", "integers"),
    "bytes": ("B", "bytes, uint8"),  # the one dtype of this letter
}


def check_array(
    name: str, a: np.ndarray, shape: Axes, why: str = "", kind: str = ""
) -> None:
    """Raise unless ``a`` has this shape and kind; a letter is any size but 0."""
    expected = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    codes, words = KINDS[kind]
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name} is a {type(a).__name__}; expected array {expected}")
    if (a.dtype.char if kind == "bytes" else a.dtype.kind) not in codes:
        raise TypeError(f"{name} has dtype {a.dtype}; expected {words}")
    if _match(shape, a.shape) is None:
        reason = f", {why}" if why else ""
        raise ValueError(f"{name} has shape {a.shape}; expected {expected}{reason}")
    if not a.size:
        raise ValueError(f"{name} is empty: it has shape {a.shape}; expected no 0")


def check_same_dtype(**arrays: np.ndarray) -> None:
    """Raise unless all the arrays, given by name, share one dtype."""
    if len({a.dtype for a in arrays.values()}) > 1:
        listing = ", ".join(f"{name} {a.dtype}" for name, a in arrays.items())
        raise TypeError(f"different dtypes ({listing}): convert with .astype(...)")


def check_integer(name: str, value: int, least: int) -> int:
    """Return ``value`` as Python's integer if it is one and at least ``least``."""
    expected = f"an integer of at least {least}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}; expected {expected}")
    if value < least:
        raise ValueError(f"{name} is {value}; expected {expected}")
    return int(value)


def check_number(name: str, value: float, end: float = math.inf) -> None:
    """Raise unless ``value`` is a number, at least 0 and below ``end``."""
    below = "" if end == math.inf else f" and below {end}"
    expected = f"{name} is {value!r:.60}; expected a number, at least 0{below}"
    if not isinstance(value, numbers.Real):
        raise TypeError(expected)
    if not 0 <= value < end:
        raise ValueError(expected)


def check_labels(y: np.ndarray, N: int, K: int) -> None:
    """Raise unless ``y`` is N integers from 0 to K - 1; name the first that isn't."""
    check_array("y", y, (N,), "one label per image", "integer")
    wrong = np.flatnonzero((y < 0) | (y >= K))
    if wrong.size:
        expected = f"labels from 0 to {K - 1} ({wrong.size} of {N} are outside)"
        raise ValueError(f"y[{wrong[0]}] is {y[wrong[0]]}; expected {expected}")


def check_generator(rng: np.random.Generator) -> None:
    """Raise unless ``rng`` can be drawn from."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng is {rng!r:.60}; expected np.random.default_rng(seed)")


# --- A function's shapes in one line ---
Table = list[tuple[str, Axes, str]]  # the arrays' names, axes and kinds


def _read(line: str) -> Table:
    """Return name, axes and kind of each array in a line of shapes."""
    axis = r"(?:\w+|\.\.\.)"
    entry = rf"(\w+) \(((?:{axis}(?:, {axis})*)?)\)([\w ]*)"
    if not re.fullmatch(f"{entry}(, {entry})*", line):
        raise ValueError(
            f"cannot read {line!r}; expected such as 'x (N, 3, ...) float'"
        )
    table: Table = []
    for name, axes, kind in re.findall(entry, line):
        letters = [int(e) if e.isdigit() else e for e in axes.split(", ") if e]
        if letters.count("...") > 1:
            raise ValueError(f"{name} ({axes}) has '...' twice; expected it once")
        if kind.strip() not in KINDS:
            raise ValueError(f"{name} is{kind}; expected one of {[*KINDS][1:]}")
        table.append((name, tuple(letters), kind.strip()))
    return table


def _explain(table: Table, *arrays: np.ndarray) -> None:
    """Check the arrays one by one, and raise what is wrong."""
    rows = list(zip(table, arrays, strict=True))
    known: dict[int | str, tuple] = {}
    because: dict[int | str, str] = {}
    for (name, axes, kind), a in rows:
        expected = tuple(n for e in axes for n in known.get(e, (e,)))
        why = " and ".join(dict.fromkeys(because[e] for e in axes if e in because))
        check_array(name, a, expected, why and f"because {why}", kind)
        for e, size in (_match(axes, a.shape) or {}).items():
            known.setdefault(e, size)
            because.setdefault(e, f"{name} has shape {a.shape}")
    check_same_dtype(**{row[0]: a for row, a in rows if "f" in KINDS[row[2]][0]})


def _takes_apart(table: Table) -> Iterator[str]:
    """Write ``[_W0, _W1] = W.shape`` for each array."""
    for name, axes, _ in table:
        sizes = (f"{'*' * (e == '...')}_{name}{i}" for i, e in enumerate(axes))
        yield f"[{', '.join(sizes)}] = {name}.shape"


def _compares(table: Table) -> Iterator[str]:
    """Write what must be true, one comparison after the other."""
    first: dict[int | str, str] = {}
    alike = [name for name, _, kind in table if "f" in KINDS[kind][0]]
    for name, axes, kind in table:
        code = "char" if kind == "bytes" else "kind"
        yield f"isinstance({name}, _ndarray) and {name}.size"
        yield f"{name}.dtype.{code} in {KINDS[kind][0]!r}"
        if name in alike[1:]:
            yield f"{name}.dtype == {alike[0]}.dtype"
        for i, e in enumerate(axes):
            size = f"_{name}{i}"
            seen = str(e) if isinstance(e, int) else first.setdefault(e, size)
            if seen != size:
                yield f"{size} == {seen}"


def _source(table: Table, parameters: str) -> str:
    """Write the door: compare, explain what is wrong, call what stands behind."""
    floats = [name for name, _, kind in table if "f" in KINDS[kind][0]]
    # a function that is given a network hands its arrays on; the layers have doors
    computes = floats and "net" not in parameters.split(", ")
    half = f"{floats[0]}.dtype.char == 'e'" if computes else "False"
    return f"""
def _door({parameters}):
    try:
        {"; ".join(_takes_apart(table))}
        _fits = ({" and ".join(_compares(table))})
    except (AttributeError, ValueError):
        _fits = False
    if not _fits:
        _explain(_table, {", ".join(name for name, _, _ in table)})
    elif {half}:
        return _in_single(_door.behind, {parameters})
    return _door.behind({parameters})
"""


def _in_single(function: Callable, *arguments: Any) -> Any:
    """Compute in float32 what came in float16, and round at the end."""
    wide = [_change(a, np.float16, np.float32) for a in arguments]
    result = function(*wide)
    if result is None:
        for a, w in zip(arguments, wide, strict=True):
            if a is not w and a.flags.writeable:
                a[...] = w
    if isinstance(result, tuple):
        return tuple(_change(a, np.float32, np.float16) for a in result)
    return _change(result, np.float32, np.float16)


def _change(a: Any, old: type, new: type) -> Any:
    """Return ``a`` in the dtype ``new``, if it has the dtype ``old``."""
    return a.astype(new) if getattr(a, "dtype", None) == old else a


_P = ParamSpec(
    "_P"
)  # a function's parameters, for type checkers; _R is what it returns
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)


class Door(Protocol[_P, _R_co]):
    """A function that checks its arrays, and the one behind it that computes."""

    behind: Callable[..., Any]
    __name__: str

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Check, then compute."""


def _door(function: Callable[_P, _R], table: Table) -> Door[_P, _R]:
    """Compile the door of a function, whose parameters the arrays must be."""
    parameters = inspect.signature(function).parameters.values()
    plain = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    plain = [name for name in plain if name[0] != "_"]  # these are the door's own
    names = [name for name, _, _ in table]
    if len(plain) < len(parameters) or sorted(names) != sorted({*names} & {*plain}):
        wrong = f"the shapes of {function.__name__} are for {names}"
        raise TypeError(f"{wrong}; expected plain parameters, once, of {plain}")
    space: dict[str, Any] = {"_ndarray": np.ndarray, "_in_single": _in_single}
    space |= {"_explain": _explain, "_table": table}
    exec(_source(table, ", ".join(plain)), space)
    door: Any = update_wrapper(space["_door"], function)
    door.__defaults__ = getattr(function, "__defaults__", None)
    door.behind = function
    return cast("Door[_P, _R]", door)


def shapes(line: str) -> Callable[[Callable[_P, _R]], Door[_P, _R]]:
    """Declare the shapes of a function's arrays in one line, checked at each call.

    Equal letters are equal sizes, ``...`` equal axes; a word after the shape narrows
    what the array may hold (``float``, ``real``, ``integer``, ``bytes``). All but
    integers share one dtype. ``function.behind`` is the function without its check.
    """
    table = _read(line)

    def declare(function: Callable[_P, _R]) -> Door[_P, _R]:
        door = _door(function, table)
        summary, *rest = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        parts = [summary, f"Shapes: ``{line}``.", *rest]
        door.__doc__ = "\n\n".join(parts).lstrip()
        return door

    return declare
