"""Exercises that answer: the solutions pass, mistakes are named, nothing else is."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from chapters import Chapter, qualified, read_all, tree
from conftest import STEP
from exercises import (
    Task,
    calls,
    check,
    difference,
    examine,
    exercises,
    outcomes,
    same_outcomes,
)

EXERCISES = exercises()
CHAPTERS = {
    label: chapter
    for chapter in read_all()
    for label in re.findall(r"\{exercise\}[^\n]*\n:label: *(\S+)", chapter.prose)
}
DEFINITION = ast.FunctionDef | ast.ClassDef
PROGRAM = "ex-program-drawers"  # it reads pictures, with weights
MISSING = [name for name in ("PIL", "safetensors") if find_spec(name) is None]
needs = pytest.mark.skipif(bool(MISSING), reason=f"without {', '.join(MISSING)}")


def labels(*more: str, step: int = 1) -> pytest.MarkDecorator:
    """Return a test for each exercise, or with ``n`` for each function of each."""
    cases = [
        pytest.param(label, *([n] if more else []), marks=[needs] * (label == PROGRAM))
        for label, tasks in EXERCISES.items()
        for n in range(len(tasks) if more else 1)
    ]
    return pytest.mark.parametrize(("label", *more), cases[::step])


each_exercise = labels()
each_function = labels("n")
a_third_of_functions = labels("n", step=STEP)


# --- In the chapters ---


def text_of(label: str) -> str:
    """Return an exercise's text."""
    block = rf"(`{{3,}})\{{exercise\}}[^\n]*\n:label: {label}\n(.*?)\n\1"
    return re.search(block, CHAPTERS[label].prose, re.DOTALL)[2]


@each_exercise
def test_an_exercise_is_in_a_chapter(label: str):
    """Name and arguments are those that the text asks for."""
    for task in EXERCISES[label]:
        name = task.reference.__name__
        asked = re.search(rf"`{name}\(([^`]*)\)`", text_of(label))
        assert asked, f"the text does not say {name}(…)"
        ours = inspect.signature(task.reference).parameters
        assert re.sub(r"=[^,]*", "", asked[1]).split(", ") == list(ours)


def test_every_function_to_write_is_checked():
    for chapter in read_all():
        found = re.findall(
            r"\{exercise\}[^\n]* · write [^\n]*\n:label: *(\S+)", chapter.prose
        )
        assert set(found) <= EXERCISES.keys(), chapter.name
        if chapter.name[:2].isdigit():
            assert found, chapter.name
    assert len(EXERCISES) >= 30


def solution(label: str) -> list[ast.stmt]:
    """Return the statements of an exercise's solution."""
    cells, within, body = CHAPTERS[label].cells, False, []
    for cell in cells:
        if cell.kind == "markdown" and "{solution" in cell.text:
            within = f"{{solution-start}} {label}\n" in cell.text
        elif within and cell.kind == "code":
            body += tree(cell.source).body
    return body


def names(node: ast.AST) -> set[str]:
    """Return the names that a piece of code uses."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def definitions(chapter: Chapter) -> dict[str, ast.stmt]:
    """Return the functions and classes of the cells that stay in the chapter."""
    found = {}
    for cell in chapter.code:
        for node in tree(cell.source).body:
            if isinstance(node, DEFINITION) and not cell.exported:
                found.setdefault(node.name, node)
    return found


@cache
def solved(label: str) -> dict[str, Callable]:
    """Return what a solution defines, with the chapter's imports and what else it needs."""
    chapter, space = CHAPTERS[label], {}
    for module in chapter.modules:
        space |= vars(importlib.import_module(qualified(module)))
    for cell in chapter.code:
        for node in tree(cell.source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                run(node, space) if getattr(node, "level", 0) == 0 else None
    near, wanted, ready = definitions(chapter), solution(label), []
    wanted = [
        n for n in wanted if isinstance(n, DEFINITION | ast.Import | ast.ImportFrom)
    ]
    own = {node.name for node in wanted if isinstance(node, DEFINITION)}
    while wanted:
        ready.append(node := wanted.pop())
        needed = (names(node) & near.keys()) - own
        own |= needed
        wanted += [near[name] for name in needed]
    for node in reversed(ready):
        run(node, space)
    return space


def run(node: ast.stmt, space: dict) -> None:
    """Execute one statement; without an optional package, leave the test out."""
    try:
        exec(compile(ast.Module([node], []), "<chapter>", "exec"), space)
    except ModuleNotFoundError as error:
        if isinstance(node, ast.Import | ast.ImportFrom) and error.name != "torch":
            return  # a figure's helper; if the solution needs it, it will say so
        pytest.skip(f"{error.name} is not installed")


@each_exercise
def test_the_solution_passes(label: str, capsys):
    space = solved(label)
    own = {node.name for node in solution(label) if isinstance(node, ast.FunctionDef)}
    mine = [space[task.reference.__name__] for task in EXERCISES[label]]
    assert {f.__name__ for f in mine} <= own
    right = check(label, *mine)
    out = capsys.readouterr().out
    assert right, out
    assert out.count("✓") == len(mine)
    start = time.process_time()  # the first time, loops were compiled
    check(label, *mine)
    assert time.process_time() - start < 2


# --- Mistakes ---


@each_function
def test_the_listed_mistakes_are_named(label: str, n: int):
    task = EXERCISES[label][n]
    assert len(task.mistakes) >= 5
    for words, mistake in task.mistakes.items():
        report = examine(task, mistake)
        assert report.failures, f"passes: {words}"
        assert report.mistake == words


def spoil(answer: object, change: Callable) -> object:
    """Return an answer with a change of its first array, or number, or text."""
    if isinstance(answer, tuple) and any(isinstance(a, np.ndarray) for a in answer):
        first = next(k for k, a in enumerate(answer) if isinstance(a, np.ndarray))
        return (*answer[:first], change(answer[first]), *answer[first + 1 :])
    if isinstance(answer, dict):
        return {key: change(value) for key, value in answer.items()}
    return change(answer)


def numbers(change: Callable) -> Callable:
    """Return a change of numbers, in arrays, tuples and lists; bytes lose their last one."""

    def changed(answer):
        if isinstance(answer, bytes):
            return answer[:-1]
        if isinstance(answer, list | tuple):
            return type(answer)(changed(a) for a in answer)
        return answer if answer is None or isinstance(answer, str) else change(answer)

    return changed


def sequence(change: Callable) -> Callable:
    """Return a change of what has a length; a number becomes a list of two."""
    return lambda answer: (
        change(answer) if hasattr(answer, "__getitem__") else [answer] * 2
    )


def first_changed(a):
    """Return an array whose first number is one more, or something else with more to it."""
    if not isinstance(a, np.ndarray) or not a.size:
        return [a, 1]
    a = a.copy()
    a.flat[0] += 1
    return a


CHANGES = {
    "doubled": numbers(lambda a: 2 * a + 0),
    "a millionth more": numbers(lambda a: a * (1 + 1e-6)),
    "negated": numbers(lambda a: 0 - a),
    "plus one": numbers(lambda a: a + 1),
    "rounded": numbers(lambda a: np.round(a)),
    "squared": numbers(lambda a: a * a),
    "first changed": first_changed,
    "reversed": sequence(lambda a: a[::-1]),
    "one missing": sequence(lambda a: a[1:]),
    "doubly long": sequence(lambda a: [a, a]),
    "complex": numbers(lambda a: a + 0j),
    "text": str,
    "nan": numbers(lambda a: a * np.nan),
    "transposed": lambda a: np.asarray(a, dtype=object).T,
    "an axis more": lambda a: np.asarray(a)[np.newaxis],
}


def wrong_functions(task: Task) -> Iterator[tuple[str, Callable]]:
    """Yield functions that are wrong in ways which fit every exercise."""
    right = task.reference
    takes = list(inspect.signature(right).parameters)
    for name, change in CHANGES.items():
        yield name, lambda *args, change=change: spoil(right(*args), change)
    (_, *some), *_ = calls(task, 1)
    constant = right(*some)
    yield "constant", lambda *args: constant
    yield "the last argument", lambda *args: args[-1]

    def broken(*args):
        raise ZeroDivisionError("division by zero")

    def late(*args):
        if sum(np.size(a) for a in args) > sum(np.size(a) for a in some):
            raise IndexError("index out of bounds")
        return right(*args)

    def destructive(*args):
        answer = right(*args)
        for a in args:
            if isinstance(a, np.ndarray):
                a[...] = 0
                break
            if isinstance(a, list | dict):
                a.clear()
                break
        return answer

    yield "raises", broken
    yield "raises for more", late
    yield "destructive", destructive
    yield "an argument less", lambda *args: right(*args[: len(takes) - 1])


def in_files(wrong: Callable) -> Callable:
    """Return what writes into a file the bytes that a wrong function makes."""
    from answers.files import write_content

    def write(path, a):
        content = wrong(a)
        if isinstance(content, bytes):
            write_content(path, content)
        else:
            path.write_text(str(content))

    return write


@a_third_of_functions
def test_other_wrong_functions_fail_without_a_name(label: str, n: int):
    """What is right after all, or is a listed mistake for other arguments too, is left out."""
    task, tried = EXERCISES[label][n], 0
    plain = task
    if label == "ex-files-write":
        plain = EXERCISES["ex-digits-write"][0]
    for name, wrong in wrong_functions(plain):
        if plain is not task:
            wrong = in_files(wrong)
        anew = list(outcomes(task, wrong, 7))
        known = [task.reference, *task.mistakes.values()]
        if any(
            same_outcomes(anew, outcomes(task, f, 7), task.tolerance) for f in known
        ):
            continue
        report = examine(task, wrong)
        assert report.failures, f"{name} passes"
        assert not report.mistake, name
        tried += 1
    assert tried >= 10


# --- What check says ---


def said(capsys, *mine: Callable, label: str = "ex-conv-unread") -> str:
    """Return what ``check`` prints of a function that is not right."""
    assert check(label, *mine) is False
    return capsys.readouterr().out


def test_what_is_not_written_is_not_wrong(capsys):
    assert (
        said(capsys, lambda H, f, s, d: None)
        == "unread returns None: not written yet.\n"
    )
    out = said(capsys, lambda path, a: None, label="ex-files-write")
    assert out == "write_idx returns None: not written yet.\n"


def test_the_smallest_call_that_fails_is_shown(capsys):
    right = solved("ex-conv-unread")["unread"]
    out = said(capsys, lambda H, f, s, d: right(H, f, s, d) if H < 9 else [])
    assert "unread(9, 2, 3, 1) gives [], expected [2, 5, 8]" in out
    assert re.match(r"✗ unread is right in \d+ of \d+ calls\.\n", out)
    out = said(capsys, lambda H, f, s, d: [h for h in range(H) if h % s >= f])
    assert "Not right: dilation" in out
    assert "Right: " in out


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (lambda H, f, s, d: "none", "gives none, expected an empty list"),
        (lambda H, f, s, d: 3, "gives the whole number 3, expected an empty list"),
        (
            lambda H, f, s, d: [] if H == 1 else 1 // 0,
            "raises ZeroDivisionError:",
        ),
        (lambda H: [], "raises TypeError:"),
        (lambda H, f, s, d: exit(3), "raises SystemExit: 3"),
        (lambda H, f, s, d: [0.5], "gives [0.5], expected []"),
    ],
)
def test_types_and_errors_are_reported(mine: Callable, words: str, capsys):
    assert words in " ".join(said(capsys, mine).split())


def test_arrays_are_reported(capsys):
    right = solved("ex-reg-cap")["max_norm"]

    def out(change):
        text = said(capsys, lambda W, c: change(W, right(W, c)), label="ex-reg-cap")
        return " ".join(text.split())

    assert "gives an array of shape (1, 1, 1), expected (1, 1)" in out(
        lambda W, a: a[None]
    )
    assert "dtype float64, expected float32" in out(lambda W, a: a.astype(float))
    assert "gives a list of 1, expected an array" in out(lambda W, a: a.tolist())
    assert "gives None, expected an array" in out(
        lambda W, a: None if len(W) > 1 else a
    )
    assert "changes its argument W" in out(lambda W, a: W.fill(0) or a)
    assert "([[-3.]], 2) gives [[-1.]], expected [[-2.]]" in out(lambda W, a: a / 2)
    large = out(lambda W, a: a + (a.size > 12))
    assert "at [0, 0], expected" in large
    assert "of 15 numbers differ" in large


def test_the_function_itself_is_wanted(capsys):
    assert 'check("ex-conv-unread", unread)' in said(capsys, [3, 4])
    assert "leaky_relu, leaky_relu_backward" in said(capsys, abs, label="ex-act-leaky")
    with pytest.raises(
        ValueError, match="no exercise 'unread'; there are ex-act-leaky"
    ):
        check("unread", abs)


def test_numbers_are_compared_as_they_should_be():
    one, tenth = np.ones((2, 2)), np.full((2, 2), 0.1)
    assert not difference(one, one + 1e-12)
    assert difference(one, one + 1e-6)
    assert difference(np.array([10**15 + 1]), np.array([10**15]))
    assert difference([1, 2], [1, 2, 3])
    assert difference(True, 1)
    assert difference(2.0, 2)
    assert not difference(2, 2.0)
    assert not difference(np.array([1, 2], np.int32), np.array([1, 2]))
    assert not difference((1, 2), [1, 2])
    assert not difference(np.array(3), 3)
    assert "part 2" in difference((one, one), (one, tenth))
    assert difference(one * np.nan, one)
    assert not difference({1: ["a"]}, {1: ["a"]})
    assert difference({1: ["a"]}, {1: ["b"]})
    assert difference(b"ab", "ab")


@each_function
def test_the_calls_are_always_the_same(label: str, n: int):
    task = EXERCISES[label][n]
    first, second = (re.sub(" at 0x\\w+", "", repr([*calls(task, 3)])) for _ in "ab")
    assert first == second
    cases = [*calls(task, 3)]
    assert len(cases) >= 2
    memory = [
        {id(a if a.base is None else a.base) for a in case if isinstance(a, np.ndarray)}
        for case in cases
    ]
    shared = [k for k, own in enumerate(memory) if own & set().union(*memory[:k])]
    assert not shared, "a function that changes its arguments would change later calls"
    assert same_outcomes(*(outcomes(task, task.reference, 3) for _ in "ab"), 0)
