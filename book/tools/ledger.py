"""The ledger of equations: every numbered equation has a function and a check.

An equation is labelled ``$$ … $$ (eq:name)`` in a chapter. The function that computes it says so
in its docstring (``Implements {eq}`eq:name`.``), and a check cell names it (``#| check eq:name``).
A label ``def:name`` marks a definition or an intermediate line, which needs neither.

    python book/tools/ledger.py    print what is missing and the totals; exit with 1 if anything is
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chapters import BOOK, DESCRIBED, Cell, headings, qualified, read_all

EQUATION = re.compile(r"\$\$(.+?)\$\$(?:[ \t]*\(([^()\s]+)\))?", re.DOTALL)
ROLE = re.compile(r"\{eq\}`(?:[^`]*<)?([^`<>]*)>?`")
IMPLEMENTS = re.compile(
    r"\bImplements\s+((?:\{eq\}`[^`]+`(?:,\s+and\s+|,\s+|\s+and\s+)?)+)"
)


@dataclass
class Equation:
    """A labelled equation, and what the book has for it."""

    label: str
    chapter: str
    section: str
    formula: str
    functions: list[str] = field(default_factory=list)
    checks: list[tuple[str, str]] = field(default_factory=list)

    @property
    def numbered(self) -> bool:
        """Whether it needs a function and a check (a definition does not)."""
        return self.label.startswith("eq:")


class Ledger:
    """All labelled equations of the book, by label, and the problems found on the way."""

    def __init__(self, book: Path = BOOK) -> None:
        self.equations: dict[str, Equation] = {}
        self.problems: list[str] = []
        cells = [cell for chapter in read_all(book) for cell in chapter.cells]
        prose = [cell for cell in cells if cell.kind == "markdown"]
        for cell in prose:
            self.add_equations(cell)
        for cell in prose:
            self.look_up(ROLE.findall(cell.text), cell.where)
        for cell in cells:
            if cell.directives.keys() & {"check", "export"}:
                self.add_code(cell)
        for page in sorted(book.rglob("*.md")):
            self.look_up(ROLE.findall(page.read_text("utf-8")), page.name)
        for equation in self.equations.values():
            self.problems += missing(equation)

    def look_up(self, labels: Iterable[str], where: str) -> list[Equation]:
        """Return the equations with these labels; note the labels that no equation has."""
        for label in labels:
            if label not in self.equations:
                self.problems.append(f"{where}: {{eq}}`{label}` names no equation")
        return [self.equations[name] for name in labels if name in self.equations]

    def add_equations(self, cell: Cell) -> None:
        """Add the labelled equations of a Markdown cell."""
        for match in EQUATION.finditer(cell.text):
            formula, label = match.groups()
            if label in self.equations:
                other = self.equations[label].chapter
                self.problems.append(
                    f"{cell.where}: label {label} is taken (in {other})"
                )
            elif label:
                above = headings(cell.text[: match.start()])
                section = [cell.section, *(name for level, name in above if level > 1)]
                self.equations[label] = Equation(
                    label, cell.chapter, section[-1], formula.strip()
                )

    def add_code(self, cell: Cell) -> None:
        """Add a cell's functions and checks to the equations that they name."""
        try:
            syntax = ast.parse(cell.text)
        except SyntaxError as error:
            self.problems.append(f"{cell.where}: {error.msg} in line {error.lineno}")
            return
        named = cell.directives.get("check", "").split()
        for equation in self.look_up(named, f"{cell.where}, #| check"):
            equation.checks.append((cell.chapter, cell.id))
        if "check" in cell.directives and not checks(syntax):
            what = "a check cell without assert or check_gradient"
            self.problems.append(f"{cell.where}: {what}")
        if cell.exported:
            for name, text in descriptions(syntax, qualified(cell.module)):
                groups = IMPLEMENTS.findall(text)
                labels = dict.fromkeys(ROLE.findall(text))
                for equation in self.look_up(labels, f"{cell.where}, {name}"):
                    if equation.label in ROLE.findall(" ".join(groups)):
                        equation.functions.append(name)


def checks(syntax: ast.Module) -> bool:
    """Return whether a cell contains an assert statement or a call of ``check_gradient``."""
    for node in ast.walk(syntax):
        call = node.func if isinstance(node, ast.Call) else None
        name = getattr(call, "id", getattr(call, "attr", ""))
        if isinstance(node, ast.Assert) or name == "check_gradient":
            return True
    return False


def descriptions(syntax: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield qualified name and docstring of the functions, methods and classes."""
    for node in ast.iter_child_nodes(syntax):
        if isinstance(node, DESCRIBED):
            name = f"{prefix}.{node.name}"
            yield name, ast.get_docstring(node) or ""
            yield from descriptions(node, name)


def missing(equation: Equation) -> Iterator[str]:
    """Yield what an equation lacks."""
    where = f"{equation.chapter}: {equation.label}"
    if not equation.label.startswith(("eq:", "def:")):
        yield f"{where}: a label begins with eq: or def:"
    if equation.numbered and not equation.functions:
        yield f"{where} has no function (Implements {{eq}}`{equation.label}`)"
    if equation.numbered and not equation.checks:
        yield f"{where} has no check cell (#| check {equation.label})"


def main() -> int:
    """Print the problems and the totals; return the exit status."""
    ledger = Ledger()
    for problem in ledger.problems:
        print(f"ledger: {problem}", file=sys.stderr)
    numbered = sum(equation.numbered for equation in ledger.equations.values())
    rest, faults = len(ledger.equations) - numbered, len(ledger.problems)
    print(f"ledger: {numbered} equations, {rest} definitions, {faults} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
