"""No classic mistake gets through the checks, and no check is there for nothing."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections import Counter
from functools import cache
from operator import attrgetter
from types import ModuleType

import numpy as np
import pytest
from bs4 import BeautifulSoup
from checks import CHECKS, SUBJECTS
from mistakes import (
    LATER,
    MISTAKES,
    Mistake,
    edit,
    mutate,
    run_check,
    run_checks,
    table,
    undisturbed,
)

import cnn.bands
import cnn.conv
import cnn.correlation_grad
import cnn.dense

FIRST = {mistake.subject: mistake for mistake in reversed(MISTAKES)}
APPLY = [(subject, name) for subject, checks in SUBJECTS.items() for name in checks]
each_mistake = pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
results = cache(run_checks)


@pytest.mark.parametrize(("subject", "name"), APPLY)
def test_right_code_passes(subject: str, name: str) -> None:
    """A check that always raises, or at any copy of a module, would see every mistake."""
    mistake = FIRST[subject]
    right = importlib.import_module(f"cnn.{mistake.where.partition('.')[0]}")
    for module in (right, mutate(mistake._replace(new=mistake.old))):
        SUBJECTS[subject][name](module)


@each_mistake
def test_no_mistake_gets_through(mistake: Mistake) -> None:
    """The check that was predicted to see it must: a wrong number, or an error."""
    seen = {name for name, result in results(mistake).items() if result != "passes"}
    assert seen, "every check lets it pass"
    assert mistake.predicted in seen, f"it is seen by {sorted(seen)} only"


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_sees_something(name: str) -> None:
    """A check that sees nothing is no check."""
    assert any(results(mistake).get(name, "passes") != "passes" for mistake in MISTAKES)


@each_mistake
def test_each_mistake_changes_the_program(mistake: Mistake) -> None:
    """An edit of a comment, or of spaces, would be no mistake."""
    before, after = (ast.dump(ast.parse(source)) for source in edit(mistake))
    assert before != after


def test_the_list_is_in_order() -> None:
    """Two mistakes of one name would share a row; a subject without mistakes tests nothing."""
    assert max(Counter(mistake.name for mistake in MISTAKES).values()) == 1
    assert {mistake.subject for mistake in MISTAKES} == SUBJECTS.keys()
    assert all(checks.keys() <= CHECKS.keys() for checks in SUBJECTS.values())
    assert len(MISTAKES) >= 30
    shown = [m for m in MISTAKES if not m.where.startswith(LATER)]
    assert len(shown) < len(MISTAKES)
    assert {name for m in shown for name in SUBJECTS[m.subject]} == CHECKS.keys()


def test_part_of_the_list_makes_a_part_of_the_table() -> None:
    """The chapter leaves out the modules of chapters to come."""
    some = {mistake.name: results(mistake) for mistake in MISTAKES[3:5]}
    rows = BeautifulSoup(table(some), "html.parser").select("tbody tr")
    assert [row.th.text for row in rows] == list(some)


@pytest.mark.parametrize(("old", "count"), [("dz.product(", "0"), ("z", "[0-9]+")])
def test_a_mistake_that_fits_no_more_is_reported(old: str, count: str) -> None:
    """Where the code has changed, the list must not quietly test something else."""
    mistake = Mistake("a name", "losses.cross_entropy", "cross-entropy", "", old, "")
    with pytest.raises(
        LookupError, match=f"'a name'.*{count} times; expected once"
    ) as e:
        mutate(mistake)
    assert "def cross_entropy(" in str(e.value), "what the function reads now"


@pytest.mark.parametrize("where", ["losses.cross_entropi", "lasses.cross_entropy"])
def test_a_function_that_has_moved_is_reported(where: str) -> None:
    """A mistake of a function that no longer exists is none."""
    with pytest.raises(LookupError, match=f"'a name': there is no {where}"):
        mutate(Mistake("a name", where, "cross-entropy", "", "z", "y"))


def test_spacing_does_not_matter() -> None:
    """A formatter may break a line in two without touching the list of mistakes."""
    mistake = next(m for m in MISTAKES if m.where == "dense.linear_backward")
    spaced = mistake._replace(old=mistake.old.replace("(", "(\n    "))
    assert edit(spaced) == edit(mistake)


def test_the_package_stays_right() -> None:
    """The wrong copies must not be what anybody imports."""
    for mistake in MISTAKES:
        mutate(mistake)
        module = sys.modules[f"cnn.{mistake.where.partition('.')[0]}"]
        assert module.__file__, "a copy has no file"
        function = attrgetter(mistake.where.partition(".")[2])(module)
        assert inspect.unwrap(function).__code__.co_filename == module.__file__


def test_what_a_copy_registers_is_taken_out_again() -> None:
    """A module that enters itself into a table, or behind a door, must not stay there."""
    mistake = next(m for m in MISTAKES if m.where.startswith("bands."))
    tables = dict(cnn.conv.IMPLEMENTATIONS), dict(cnn.conv.CHOICES)
    wrong = mutate(mistake)
    assert wrong.conv2d_bands is not cnn.bands.conv2d_bands
    assert tables == (cnn.conv.IMPLEMENTATIONS, cnn.conv.CHOICES)
    behind = cnn.dense.linear.behind
    with undisturbed():
        cnn.dense.linear.behind = abs
        cnn.conv.CHOICES["none"] = abs
    assert cnn.dense.linear.behind is behind
    assert "none" not in cnn.conv.CHOICES


def test_the_wrong_function_is_the_one_that_others_call() -> None:
    """A copy whose functions call the right ones would prove nothing."""
    mistake = next(m for m in MISTAKES if m.where == "correlation_grad.crop")
    wrong = mutate(mistake)
    backward = inspect.unwrap(wrong.conv2d_correlation_backward)
    assert backward.__globals__["crop"] is wrong.crop
    assert wrong.crop is not cnn.correlation_grad.crop


def test_verdicts() -> None:
    """What a check finds and what it stumbles over are told apart; warnings stay inside."""

    def wrong(module: ModuleType) -> None:
        assert np.exp(np.float64(1e4)) < 0

    assert run_check(wrong, cnn) == "differs"
    assert run_check(lambda module: module.nothing, cnn) == "raises"
    assert run_check(lambda module: None, cnn) == "passes"


def test_the_table_holds_every_result() -> None:
    """A row or a mark left out would look like a check that does not apply."""
    expected = {mistake.name: results(mistake) for mistake in MISTAKES}
    soup = BeautifulSoup(table(expected), "html.parser")
    assert [th.text for th in soup.select("thead th")] == list(CHECKS)
    rows = {row.th.text: row.find_all("td") for row in soup.select("tbody tr")}
    assert rows.keys() == expected.keys()
    for mistake in MISTAKES:
        cells = dict(zip(CHECKS, rows[mistake.name], strict=True))
        shown = {
            name: cell["class"][0] for name, cell in cells.items() if cell.get("class")
        }
        assert shown == expected[mistake.name]
        assert "predicted" in cells[mistake.predicted]["class"]
