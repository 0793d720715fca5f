"""One line declares a function's shapes: what fits passes, the rest is reported with the reason."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest

from cnn import shapes as module
from cnn.shapes import check_array, check_integer, check_labels, shapes


def declared(line: str, names: str | None = None) -> Callable[..., object]:
    """Return a function of these arrays, by default the line's, that returns them all."""
    if names is None:
        names = ", ".join(name for name, _, _ in module._read(line))
    space: dict[str, Callable] = {}
    exec(f"def taken({names}):\n    return [{names}]", space)
    return shapes(line)(space["taken"])


def zeros(*shape: int, dtype: str = "f8") -> np.ndarray:
    """Return an array of zeros."""
    return np.zeros(shape, dtype)


# --- What fits ---

FIT: dict[str, list[tuple[object, ...]]] = {
    "W (M_out, M_in), q (N, M_in), b (M_out)": [
        (zeros(4, 3), zeros(2, 3), zeros(4)),
        (zeros(1, 1), zeros(1, 1), zeros(1)),
        (zeros(4, 3, dtype="i8"), zeros(2, 3, dtype="i8"), zeros(4, dtype="i8")),
    ],
    "W (M, M)": [(zeros(3, 3),), (zeros(1, 1),)],
    "x (N, 3, H, H) float": [(zeros(2, 3, 4, 4, dtype="c16"),)],
    "q (...) float, dq (...) float": [
        (zeros(), zeros()),
        (zeros(2), zeros(2)),
        (zeros(2, 1, 3), zeros(2, 1, 3)),
    ],
    "x (N, C, ...) float, gamma (C) float": [
        (zeros(2, 3), zeros(3)),
        (zeros(2, 3, 4, 5), zeros(3)),
    ],
    "x (..., C), y (C, ...)": [(zeros(4, 5, 3), zeros(3, 4, 5))],
    "z (N, K) real, y (N) integer": [(zeros(2, 3), zeros(2, dtype="u1"))],
    "images (N, H, W) bytes": [(zeros(2, 3, 3, dtype="u1"),)],
    "theta () real float": [(zeros(),)],
    "y (N) integer, z (N) integer": [(zeros(2, dtype="i4"), zeros(2, dtype="i8"))],
}


@pytest.mark.parametrize(
    ("line", "arrays"), [(line, a) for line, all_ in FIT.items() for a in all_]
)
def test_what_fits_passes(line: str, arrays: tuple[object, ...]) -> None:
    """The very arrays arrive, with no copy, and the words agree."""
    arrived = declared(line)(*arrays)
    assert all(a is b for a, b in zip(arrived, arrays, strict=True))
    module._explain(module._read(line), *arrays)


# --- What doesn't ---

DENSE = "W (M_out, M_in), q (N, M_in), b (M_out)"
MISFITS: dict[str, tuple[str, tuple[object, ...], type[Exception], str]] = {
    "another size": (
        DENSE,
        (zeros(2, 4), zeros(5, 3), zeros(2)),
        ValueError,
        "q has shape (5, 3); expected (N, 4), because W has shape (2, 4)",
    ),
    "an axis less": (
        DENSE,
        (zeros(2, 4), zeros(4), zeros(2)),
        ValueError,
        "q has shape (4,); expected (N, 4), because W has shape (2, 4)",
    ),
    "an axis more": (
        DENSE,
        (zeros(2, 4), zeros(1, 5, 4), zeros(2)),
        ValueError,
        "q has shape (1, 5, 4); expected (N, 4), because W has shape (2, 4)",
    ),
    "the first is to blame": (
        DENSE,
        (zeros(4), zeros(5, 3), zeros(2)),
        ValueError,
        "W has shape (4,); expected (M_out, M_in)",
    ),
    "two reasons": (
        "x (N, C), y (M, K), z (N, K)",
        (zeros(2, 3), zeros(4, 5), zeros(2, 4)),
        ValueError,
        "z has shape (2, 4); expected (2, 5), because x has shape (2, 3) and y has shape (4, 5)",
    ),
    "a number": (
        "x (N, 3, H, W)",
        (zeros(2, 1, 4, 4),),
        ValueError,
        "x has shape (2, 1, 4, 4); expected (N, 3, H, W)",
    ),
    "a letter twice": (
        "W (M, M)",
        (zeros(2, 3),),
        ValueError,
        "W has shape (2, 3); expected (M, M)",
    ),
    "other axes in the dots": (
        "q (...) float, dq (...) float",
        (zeros(2, 3), zeros(3, 2)),
        ValueError,
        "dq has shape (3, 2); expected (2, 3), because q has shape (2, 3)",
    ),
    "dots, one axis too few": (
        "x (N, C, ...)",
        (zeros(2),),
        ValueError,
        "x has shape (2,); expected (N, C, ...)",
    ),
    "no axes at all": (
        "x (N)",
        (zeros(),),
        ValueError,
        "x has shape (); expected (N,)",
    ),
    "empty": (
        DENSE,
        (zeros(2, 4), zeros(0, 4), zeros(2)),
        ValueError,
        "q is empty: it has shape (0, 4); expected no 0",
    ),
    "no array": (
        DENSE,
        ([[1.0]], zeros(1, 1), zeros(1)),
        TypeError,
        "W is a list; expected array (M_out, M_in)",
    ),
    "nothing": (
        DENSE,
        (zeros(2, 4), zeros(1, 4), None),
        TypeError,
        "b is a NoneType; expected array (2,)",
    ),
    "something with a shape": (
        "x (N)",
        (np.float64(1),),
        TypeError,
        "x is a float64; expected array (N,)",
    ),
    "truth values": (
        "x (N)",
        (zeros(2, dtype="?"),),
        TypeError,
        "x has dtype bool; expected numbers",
    ),
    "strings": (
        "x (N)",
        (zeros(2, dtype="U3"),),
        TypeError,
        "x has dtype <U3; expected numbers",
    ),
    "objects": (
        "x (N)",
        (zeros(2, dtype="O"),),
        TypeError,
        "x has dtype object; expected numbers",
    ),
    "integers for floats": (
        "x (N) float",
        (zeros(2, dtype="i8"),),
        TypeError,
        "x has dtype int64; expected floating-point numbers",
    ),
    "complex for real": (
        "x (N) real",
        (zeros(2, dtype="c8"),),
        TypeError,
        "x has dtype complex64; expected real numbers",
    ),
    "complex for real floats": (
        "x (N) real float",
        (zeros(2, dtype="c8"),),
        TypeError,
        "x has dtype complex64; expected real floating-point numbers",
    ),
    "floats for integers": (
        "y (N) integer",
        (zeros(2),),
        TypeError,
        "y has dtype float64; expected integers",
    ),
    "signed bytes": (
        "y (N) bytes",
        (zeros(2, dtype="i1"),),
        TypeError,
        "y has dtype int8; expected bytes, uint8",
    ),
    "two dtypes": (
        "x (N), y (N) integer, z (N)",
        (zeros(2), zeros(2, dtype="i4"), zeros(2, dtype="f4")),
        TypeError,
        "different dtypes (x float64, z float32): convert with .astype(...)",
    ),
}


@pytest.mark.parametrize(
    ("line", "arrays", "error", "message"), MISFITS.values(), ids=MISFITS
)
def test_what_does_not_fit_is_reported(
    line: str, arrays: tuple[object, ...], error: type[Exception], message: str
) -> None:
    """The value, what was expected, and why: word for word."""
    with pytest.raises(error) as caught:
        declared(line)(*arrays)
    assert str(caught.value) == message


# --- The two checks agree ---


def refuse(table: module.Table, *arrays: object) -> None:
    """Stand in for the words: the fast check has said no."""
    raise ValueError("the fast check says no")


def passes(check: Callable[..., object], *arguments: object) -> bool:
    """Return whether a check accepts its arguments."""
    try:
        check(*arguments)
    except (TypeError, ValueError):
        return False
    return True


def perturbed(a: np.ndarray, rng: np.random.Generator) -> object:
    """Return the array, or something that differs from it a little."""
    shape, what = list(a.shape), rng.integers(12)
    if what == 0:
        return np.ones(shape, rng.choice(["f4", "f8", "c16", "i8", "u1", "?", "U1"]))
    if what == 1 and shape:
        shape[rng.integers(len(shape))] = rng.integers(0, 4)
    if what == 2 and shape:
        del shape[rng.integers(len(shape))]
    if what == 3:
        shape.insert(rng.integers(len(shape) + 1), rng.integers(0, 3))
    if what == 4:
        return [None, a.tolist(), 1.0, np.float64(1)][rng.integers(4)]
    return np.ones(shape, a.dtype)


@pytest.mark.parametrize("line", [*FIT, "x (N, M, ...) float, W (M, M), y (N) integer"])
def test_words_and_fast_check_agree(line: str) -> None:
    """Too lenient, and wrong arrays slip through; too strict, and nothing would be explained."""
    table, door, rng = module._read(line), declared(line), np.random.default_rng(0)
    door.__globals__["_explain"] = refuse
    good = FIT.get(line, [(zeros(2, 3, 4), zeros(3, 3), zeros(2, dtype="i8"))])
    verdicts = []
    for _ in range(1500):
        arrays = [perturbed(a, rng) for a in good[rng.integers(len(good))]]
        verdicts.append(passes(module._explain, table, *arrays))
        assert passes(door, *arrays) == verdicts[-1], (line, arrays)
    assert 100 < sum(verdicts) < 1400


# --- Lines that say nothing sensible ---


@pytest.mark.parametrize(
    "line",
    ["", "x", "x N", "x (N", "x(N)", "x (N),y (N)", "x (N) ; y (N)", "x (N,)", "x (N M)",
     "x (N, ..)", "x (N, -1)", "x ((N))", "x (N), ", ", x (N)", "x.y (N)", "x (N, (M))"],
)  # fmt: skip
def test_a_line_that_cannot_be_read(line: str) -> None:
    """A typing mistake must not become a check that checks nothing."""
    with pytest.raises(ValueError, match="cannot read"):
        shapes(line)


@pytest.mark.parametrize("kind", ["floats", "int", "reall", "float32"])
def test_an_unknown_kind(kind: str) -> None:
    """Ignored, it would let everything in."""
    with pytest.raises(ValueError, match=f"x is {kind}; expected.*integer"):
        shapes(f"x (N) {kind}")


def test_dots_twice_in_one_array() -> None:
    """Nobody could tell whose axes are whose; in two arrays they are equal."""
    with pytest.raises(ValueError, match=r"x \(\.\.\., N, \.\.\.\).*once"):
        shapes("x (..., N, ...)")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("V (N)", "W"),  # no parameter
        ("W (N), W (M)", "W"),  # one of them would win
        ("W (N)", "W, *more"),
        ("W (N)", "W, **more"),
        ("W (N)", "*, W"),
        ("W (N)", "W, /"),
        ("W (N)", "W, _W0"),  # the door's own name
    ],
)
def test_names_that_do_not_suit_the_function(line: str, names: str) -> None:
    """At the declaration, not at the first call."""
    space: dict[str, Callable] = {}
    exec(f"def taken({names}):\n    pass", space)
    with pytest.raises(TypeError, match=r"shapes of taken.*expected"):
        shapes(line)(space["taken"])


# --- The door is the function ---


@shapes("W (M), q (M)")
def example(q: np.ndarray, W: np.ndarray, s: int = 2) -> np.ndarray:
    """Add up.

    At length.
    """
    return q * s + W


def test_the_line_is_in_the_help() -> None:
    """What the line says, a reader who asks must see, behind the summary."""
    assert example.__doc__ == "Add up.\n\nShapes: ``W (M), q (M)``.\n\nAt length."
    assert str(inspect.signature(example)).endswith("s: 'int' = 2) -> 'np.ndarray'")
    assert (example.__name__, example.__module__) == ("example", __name__)
    assert shapes("x (N)")(lambda x: x).__doc__ == "Shapes: ``x (N)``."


def test_defaults_and_names_pass() -> None:
    """A door takes its arguments as the function does."""
    q, W = zeros(3) + 1, zeros(3)
    assert example(q, W)[0] == 2
    assert example(W=W, q=q, s=3)[0] == 3
    with pytest.raises(TypeError, match="W"):
        example(q)
    with pytest.raises(ValueError, match="because W"):
        example(W=W, q=zeros(2))


def test_any_parameter_name_is_allowed() -> None:
    """Nothing that the door uses is hidden by an argument of that name."""
    names = "x, table, explain, door, ndarray, fits, behind, W0, isinstance_, x0"
    function = declared("x (N)", names)
    assert function(zeros(2), *range(9))[1:] == [*range(9)]
    with pytest.raises(ValueError, match="x has shape"):
        function(zeros(2, 2), *range(9))


def test_what_stands_behind_can_be_replaced() -> None:
    """A later chapter puts a faster function there; the check stays."""
    door = shapes("x (N)")(lambda x: "plain")
    assert door.behind(None) == "plain"
    door.behind = lambda x: "fast"
    assert door(zeros(2)) == "fast"
    with pytest.raises(ValueError, match="x has shape"):
        door(zeros(2, 2))


def test_a_method_can_have_a_door() -> None:
    """``self`` is an argument as any other."""

    class Thing:
        @shapes("x (N)")
        def double(self, x: np.ndarray) -> np.ndarray:
            return 2 * x

    assert Thing().double(zeros(2) + 1)[0] == 2
    with pytest.raises(ValueError, match="x has shape"):
        Thing().double(zeros(2, 2))


# --- Numbers and labels ---


def test_integers_become_pythons() -> None:
    """NumPy's would overflow later, in somebody's product of sizes."""
    n = check_integer("n", np.int8(100), 1)
    assert type(n) is int
    assert n + n == 200


@pytest.mark.parametrize("dtype", ["i8", "u1", "i2"])
def test_labels(dtype: str) -> None:
    """Every class passes; the first label that is none is named, and how many there are."""
    check_labels(np.arange(5).astype(dtype), 5, 5)
    with pytest.raises(ValueError, match="labels") as caught:
        check_labels(np.array([0, 4, 1, 3, 2]).astype(dtype), 5, 3)
    message = "y[1] is 4; expected labels from 0 to 2 (2 of 5 are outside)"
    assert str(caught.value) == message


def test_check_array_says_why() -> None:
    """The reason that the caller gives stands at the end."""
    with pytest.raises(ValueError, match="dz") as caught:
        check_array("dz", zeros(2, 3), ("N", 4), "the output's size")
    message = "dz has shape (2, 3); expected (N, 4), the output's size"
    assert str(caught.value) == message
