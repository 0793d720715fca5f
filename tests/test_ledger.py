"""Every numbered equation has a function and a check, and the ledger notices where not."""

from __future__ import annotations

import pytest
from ledger import Ledger

pytestmark = pytest.mark.check

EQUATION = ("markdown", "# T\n\n## Section\n\n$$\na = b\n$$ (eq:a)\n\nSee {eq}`eq:a`.")
MODULE = ("code", "#| default_exp thing")
FUNCTION = (
    "code",
    '#| export\ndef f():\n    """Do.\n\n    Implements {eq}`eq:a`.\n    """',
)
CHECK = ("code", "#| check eq:a\nassert f() is None")


def test_the_book_has_no_problems():
    assert not Ledger().problems


def test_the_book_has_equations():
    assert sum(equation.numbered for equation in Ledger().equations.values()) > 20


def test_a_complete_equation(write_chapter, tmp_path):
    write_chapter("01-a", EQUATION, MODULE, FUNCTION, CHECK)
    assert not Ledger(tmp_path).problems
    (row,) = Ledger(tmp_path).equations.values()
    assert (row.label, row.chapter, row.section) == ("eq:a", "01-a", "Section")
    assert row.formula == "a = b"
    assert row.functions == ["cnn.thing.f"]
    assert row.checks == [("01-a", "cell-3")]


def test_methods_have_qualified_names(write_chapter, tmp_path):
    method = (
        '        """Do.\n\n        Implements {eq}`eq:a` and {eq}`def:b`.\n        """'
    )
    source = f'#| export\nclass A:\n    """An A."""\n\n    def f(self):\n{method}'
    definition = ("markdown", "$$c$$ (def:b)")
    write_chapter("01-a", EQUATION, definition, MODULE, ("code", source), CHECK)
    assert not Ledger(tmp_path).problems
    rows = Ledger(tmp_path).equations.values()
    assert [row.functions for row in rows] == [["cnn.thing.A.f"]] * 2


def test_a_function_is_named_by_the_module_it_goes_to(write_chapter, tmp_path):
    """The check may stand in another chapter than the equation, the function in another module."""
    write_chapter("01-a", ("markdown", "# A"), ("code", "#| default_exp other"))
    exported = FUNCTION[1].replace("export", "export other")
    write_chapter("02-b", EQUATION, MODULE, ("code", exported), CHECK)
    assert not Ledger(tmp_path).problems
    (row,) = Ledger(tmp_path).equations.values()
    assert row.functions == ["cnn.other.f"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([EQUATION, MODULE, CHECK], "eq:a has no function"),
        ([EQUATION, MODULE, FUNCTION], "eq:a has no check cell"),
        ([EQUATION, MODULE, FUNCTION, CHECK, EQUATION], "label eq:a is taken"),
        (
            [EQUATION, MODULE, FUNCTION, ("code", "#| check eq:a\nf()")],
            "without assert",
        ),
        (
            [EQUATION, MODULE, FUNCTION, ("code", "#| check eq:a\n%time f()")],
            "syntax in line 2",
        ),
        (
            [("code", "#| check eq:b\nassert True")],
            "#| check: {eq}`eq:b` names no equation",
        ),
        (
            [EQUATION, MODULE, FUNCTION, CHECK, ("code", "#| check\nf()")],
            "without assert",
        ),
        ([MODULE, FUNCTION], "cnn.thing.f: {eq}`eq:a` names no equation"),
        ([("markdown", "See {eq}`eq:b`.")], "{eq}`eq:b` names no equation"),
        ([("markdown", "See {eq}`this one <eq:b>`.")], "{eq}`eq:b` names no equation"),
        (
            [("markdown", "$$\na\n$$ (softmax)")],
            "softmax: a label begins with eq: or def:",
        ),
    ],
)
def test_each_fault_is_told(write_chapter, tmp_path, cells, message):
    write_chapter("01-a", *cells)
    problems = Ledger(tmp_path).problems
    assert any(message in problem for problem in problems), problems
    assert all("01-a" in problem for problem in problems)


def test_pages_are_read_too(write_chapter, tmp_path):
    write_chapter("01-a", EQUATION, MODULE, FUNCTION, CHECK)
    (tmp_path / "page.md").write_text("See {eq}`eq:gone`.", "utf-8")
    assert Ledger(tmp_path).problems == ["page.md: {eq}`eq:gone` names no equation"]


def test_sections_follow_the_text(write_chapter, tmp_path):
    text = "# T\n\n$$a$$ (def:a)\n\n## One\n\n$$b$$ (def:b)\n\n### Two\n\n$$c$$\n\n$$c$$ (def:c)"
    more = (
        "markdown",
        "Still there: $$d$$ (def:d)\n\n```text\n## Not a heading\n```\n\n$$e$$ (def:e)",
    )
    write_chapter("01-a", ("markdown", text), more)
    rows = Ledger(tmp_path).equations.values()
    assert [row.section for row in rows] == ["", "One", "Two", "Two", "Two"]
