"""Every numbered equation has a function and a check, and the ledger notices where not."""

from __future__ import annotations

import ledger
import pytest

pytestmark = pytest.mark.check

EQUATION = ("markdown", "# T\n\n## Section\n\n$$\na = b\n$$ (eq:a)\n\nSee {eq}`eq:a`.")
MODULE = ("code", "#| default_exp thing")
FUNCTION = (
    "code",
    '#| export\ndef f():\n    """Do.\n\n    Implements {eq}`eq:a`.\n    """',
)
CHECK = ("code", "#| check eq:a\nassert f() is None")


def test_the_book_has_no_problems():
    assert not ledger.problems()


def test_the_book_has_equations():
    assert sum(equation.numbered for equation in ledger.rows()) > 20


def test_a_complete_equation(write_chapter, tmp_path):
    write_chapter("01-a", EQUATION, MODULE, FUNCTION, CHECK)
    assert not ledger.problems(tmp_path)
    (row,) = ledger.rows(tmp_path)
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
    assert not ledger.problems(tmp_path)
    assert [row.functions for row in ledger.rows(tmp_path)] == [["cnn.thing.A.f"]] * 2


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
        ([("code", "#| check eq:b\nassert True")], "#| check eq:b names no equation"),
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
    problems = ledger.problems(tmp_path)
    assert any(message in problem for problem in problems), problems
    assert all("01-a" in problem for problem in problems)


def test_pages_are_read_too(write_chapter, tmp_path):
    write_chapter("01-a", EQUATION, MODULE, FUNCTION, CHECK)
    (tmp_path / "page.md").write_text("See {eq}`eq:gone`.", "utf-8")
    assert ledger.problems(tmp_path) == [
        "page.md: {eq}`eq:gone` names no equation of the book"
    ]


def test_sections_follow_the_text(write_chapter, tmp_path):
    text = "# T\n\n$$a$$ (def:a)\n\n## One\n\n$$b$$ (def:b)\n\n### Two\n\n$$c$$\n\n$$c$$ (def:c)"
    write_chapter("01-a", ("markdown", text))
    assert [row.section for row in ledger.rows(tmp_path)] == ["", "One", "Two"]
