"""The ledger of equations: every numbered equation has a function and a check.

An equation is labelled ``$$ … $$ (eq:name)`` in a chapter. The function that computes it says so
in its docstring (``Implements {eq}`eq:name`.``), and a check cell names it (``#| check eq:name``).
A label ``def:name`` marks a definition or an intermediate line, which needs neither.

    python book/tools/ledger.py    print what is missing and the totals; exit with 1 if anything is
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from export import BOOK, directive, headings

EQUATION = re.compile(r"\$\$(.+?)\$\$(?:[ \t]*\(([^()\s]+)\))?", re.DOTALL)
ROLE = re.compile(r"\{eq\}`([^`]*)`")
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


@dataclass
class Ledger:
    """All labelled equations of the book, by label, and the problems found on the way."""

    equations: dict[str, Equation] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    references: list[tuple[str, str]] = field(default_factory=list)


def target(role: str) -> str:
    """Return the label that a role's text names: ``label`` or ``text <label>``."""
    match = re.fullmatch(r".*<(.+)>", role, re.DOTALL)
    return match[1] if match else role


def checks(tree: ast.AST) -> bool:
    """Return whether a cell contains an assert statement or a call of ``check_gradient``."""
    for node in ast.walk(tree):
        call = node.func if isinstance(node, ast.Call) else None
        name = getattr(call, "id", getattr(call, "attr", ""))
        if isinstance(node, ast.Assert) or name == "check_gradient":
            return True
    return False


def docstrings(tree: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield qualified name and docstring of the functions, methods and classes in a tree."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{prefix}.{node.name}"
            yield name, ast.get_docstring(node) or ""
            yield from docstrings(node, name)


def chapters(book: Path) -> Iterator[tuple[str, list[dict]]]:
    """Yield name and cells of the chapters, in their order."""
    for path in sorted(book.glob("*.ipynb")):
        yield path.stem, json.loads(path.read_text("utf-8"))["cells"]


def read(book: Path = BOOK) -> Ledger:
    """Return the ledger of the chapters in ``book``, its problems complete."""
    ledger = Ledger()
    for chapter, cells in chapters(book):
        read_equations(ledger, chapter, cells)
    for chapter, cells in chapters(book):
        read_code(ledger, chapter, cells)
    for path in sorted(book.glob("*.md")):
        ledger.references += [
            (path.name, target(r)) for r in ROLE.findall(path.read_text("utf-8"))
        ]
    for where, label in ledger.references:
        if label not in ledger.equations:
            ledger.problems.append(
                f"{where}: {{eq}}`{label}` names no equation of the book"
            )
    for equation in ledger.equations.values():
        where = f"{equation.chapter}: {equation.label}"
        if not equation.label.startswith(("eq:", "def:")):
            ledger.problems.append(f"{where}: a label begins with eq: or def:")
        if equation.numbered and not equation.functions:
            ledger.problems.append(
                f"{where} has no function (Implements {{eq}}`{equation.label}`)"
            )
        if equation.numbered and not equation.checks:
            ledger.problems.append(
                f"{where} has no check cell (#| check {equation.label})"
            )
    return ledger


def read_equations(ledger: Ledger, chapter: str, cells: list[dict]) -> None:
    """Add a chapter's labelled equations and the {eq} roles of its text."""
    section = ""
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] != "markdown":
            continue
        where = f"{chapter}, cell {cell.get('id', '?')}"
        ledger.references += [(where, target(role)) for role in ROLE.findall(text)]
        spans = [(m.start(), m) for m in EQUATION.finditer(text)]
        for piece in re.split(r"(?m)^(?=#)", text):
            names = [name for level, name in headings(piece) if level > 1]
            section = names[0] if names else section
            while spans and (spans[0][1].group() in piece):
                formula, label = spans.pop(0)[1].groups()
                if label in ledger.equations:
                    other = ledger.equations[label].chapter
                    ledger.problems.append(
                        f"{where}: label {label} is taken (in {other})"
                    )
                elif label:
                    entry = Equation(label, chapter, section, formula.strip())
                    ledger.equations[label] = entry


def read_code(ledger: Ledger, chapter: str, cells: list[dict]) -> None:
    """Add a chapter's functions and checks to the equations that they name."""
    module = ""
    for cell in cells:
        source, where = (
            "".join(cell["source"]),
            f"{chapter}, cell {cell.get('id', '?')}",
        )
        if cell["cell_type"] != "code":
            continue
        module = directive(source, "default_exp") or module
        named, exported = directive(source, "check"), directive(source, "export")
        if named is None and exported is None:
            continue
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            ledger.problems.append(f"{where}: {error.msg} in line {error.lineno}")
            continue
        if named is not None:
            if not checks(tree):
                ledger.problems.append(
                    f"{where}: a check cell without assert or check_gradient"
                )
            for label in named.split():
                if label in ledger.equations:
                    ledger.equations[label].checks.append((chapter, cell.get("id", "")))
                else:
                    ledger.problems.append(
                        f"{where}: #| check {label} names no equation"
                    )
        if exported is not None:
            for name, text in docstrings(tree, f"cnn.{module}"):
                ledger.references += [
                    (f"{where}, {name}", target(r)) for r in ROLE.findall(text)
                ]
                for labels in IMPLEMENTS.findall(text):
                    for label in ROLE.findall(labels):
                        if label in ledger.equations:
                            ledger.equations[label].functions.append(name)


def problems(book: Path = BOOK) -> list[str]:
    """Return what is wrong in the ledger, one clear line each; nothing when all is well."""
    return read(book).problems


def rows(book: Path = BOOK) -> list[Equation]:
    """Return the labelled equations of the book in the order of their appearance."""
    return list(read(book).equations.values())


def main() -> int:
    """Print the problems and the totals; return the exit status."""
    ledger = read()
    for problem in ledger.problems:
        print(f"ledger: {problem}", file=sys.stderr)
    numbered = sum(e.numbered for e in ledger.equations.values())
    definitions = len(ledger.equations) - numbered
    print(
        f"ledger: {numbered} equations, {definitions} definitions, {len(ledger.problems)} faults"
    )
    return int(bool(ledger.problems))


if __name__ == "__main__":
    sys.exit(main())
