"""Read the chapters: their cells, what is in them, and how long they take to read.

Whatever wants something of a notebook (the export, the ledger, the pages, the tests) asks here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

BOOK = Path(__file__).resolve().parents[1]
HIDDEN = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
DESCRIBED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Cell:
    """One cell; ``section`` is the heading above it, ``module`` where an exported cell goes."""

    chapter: str
    section: str
    id: str
    kind: str
    text: str
    source: str
    directives: dict[str, str]
    metadata: dict
    outputs: list[dict]
    count: int | None
    module: str

    @property
    def where(self) -> str:
        """The cell's place, as a message names it."""
        return f"{self.chapter}.ipynb, cell {self.id}"

    @property
    def tags(self) -> set[str]:
        """The cell's tags."""
        return set(self.metadata.get("tags", []))

    @property
    def exported(self) -> bool:
        """Whether the cell goes to the package."""
        return "export" in self.directives

    @property
    def shown(self) -> bool:
        """Whether it is a code cell that the page shows without a click."""
        return self.kind == "code" and not HIDDEN & self.tags


@dataclass(frozen=True)
class Chapter:
    """A notebook; ``modules`` are those that it begins, ``about`` is all but its cells."""

    path: Path
    cells: list[Cell]
    modules: list[str]
    about: dict

    @property
    def name(self) -> str:
        """The file's name, without its ending."""
        return self.path.stem

    @property
    def title(self) -> str:
        """The heading of level 1."""
        titles = (text for level, text in headings(self.prose) if level == 1)
        return next(titles, self.name)

    @property
    def code(self) -> list[Cell]:
        """The code cells."""
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def prose(self) -> str:
        """The text of the Markdown cells."""
        return "\n\n".join(cell.text for cell in self.cells if cell.kind == "markdown")


def parse(path: Path, text: str) -> Chapter:
    """Return the chapter that a notebook's text holds."""
    about = json.loads(text)
    cells, modules, section = [], [], ""
    for raw in about.pop("cells"):
        text = "".join(raw["source"])
        code = raw["cell_type"] == "code"
        directives = dict(leading(text)) if code else {}
        if name := directives.get("default_exp"):
            modules.append(name)
        module = directives.get("export") or (modules[-1] if modules else "")
        cells.append(
            Cell(
                chapter=path.stem,
                section=section,
                id=raw.get("id", "?"),
                kind=raw["cell_type"],
                text=text,
                source=re.sub(r"\A(?:#\|.*\n?)+", "", text) if code else text,
                directives=directives,
                metadata=raw["metadata"],
                outputs=raw.get("outputs", []),
                count=raw.get("execution_count"),
                module=module if "export" in directives else "",
            )
        )
        for level, heading in () if code else headings(text):
            section = heading if level > 1 else ""
    return Chapter(path, cells, modules, about)


def leading(source: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of the directives in a cell's first lines."""
    for line in source.splitlines():
        if not line.startswith("#|"):
            return
        name, _, value = line[2:].strip().partition(" ")
        yield name, value.strip()


def read(path: Path) -> Chapter:
    """Return the chapter in a file."""
    return parse(path, path.read_text("utf-8"))


def contents(book: Path = BOOK) -> dict[str, list[str]]:
    """Return caption → names of the pages, for the parts that the table of contents lists."""
    toc = book.parent / "_toc.yml"
    parts = yaml.safe_load(toc.read_text("utf-8"))["parts"] if toc.is_file() else []
    return {part["caption"]: list(pages(part["chapters"])) for part in parts}


def pages(entries: list[dict]) -> Iterator[str]:
    """Yield the names in a list of the table of contents, those of its sections too."""
    for entry in entries:
        if "file" in entry:
            yield entry["file"].partition("/")[2]
        yield from pages(entry.get("sections", []))


def read_all(book: Path = BOOK) -> list[Chapter]:
    """Return the chapters in the order of the table of contents, those it lacks at the end."""
    order = [name for part in contents(book).values() for name in part]
    places = {name: place for place, name in enumerate(order)}
    files = sorted(book.glob("*.ipynb"))
    return [read(file) for file in sorted(files, key=lambda f: places.get(f.stem, 1e9))]


def headings(markdown: str) -> Iterator[tuple[int, str]]:
    """Yield level and text of the headings in Markdown, fenced blocks left out."""
    fence = ""
    for line in markdown.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,}|:{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence and (heading := re.match(r"(#+)\s+(.*?)\s*#*$", line)):
            yield len(heading[1]), heading[2].replace("`", "").replace("$", "")


def qualified(module: str) -> str:
    """Return a module's name as one imports it."""
    return f"cnn.{module}".removesuffix(".__init__")


def tree(source: str) -> ast.Module:
    """Return the syntax tree of a cell, an empty one where the cell is more than Python."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def docstrings(syntax: ast.Module) -> Iterator[tuple[int, int]]:
    """Yield first and last line of the docstrings of classes and functions."""
    for node in ast.walk(syntax):
        if isinstance(node, DESCRIBED) and ast.get_docstring(node, clean=False):
            yield node.body[0].lineno, node.body[0].end_lineno


def visible_lines(source: str) -> int:
    """Return how many lines of code a reader meets: none blank, docstrings folded."""
    lines = source.splitlines()
    for first, last in docstrings(tree(source)):
        lines[first:last] = [""] * (last - first)
    return sum(bool(line.strip()) for line in lines)


def minutes(chapter: Chapter) -> float:
    """Return how long a chapter takes to read: 200 words or 30 lines of code a minute."""
    words = len(re.sub(r"\$\$.*?\$\$", "", chapter.prose, flags=re.DOTALL).split())
    lines = sum(visible_lines(cell.text) for cell in chapter.cells if cell.shown)
    return words / 200 + lines / 30


def glues(node: ast.AST) -> bool:
    """Return whether a statement does nothing but hand results to the text."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Name(id="glue"))):
            return True
        case ast.ImportFrom(module="myst_nb"):
            return True
        case ast.For() | ast.If() | ast.With():
            return all(map(glues, node.body + getattr(node, "orelse", [])))
    return False


def without_glue(source: str) -> str:
    """Return a cell's source as the page shows it: without what serves ``glue`` or Ruff alone."""
    lines = source.splitlines()
    for node in filter(glues, ast.walk(tree(source))):
        first = node.lineno - 1
        while first and not (lines[first - 1] or "").strip():
            first -= 1  # the blank lines before it go too
        lines[first : node.end_lineno] = [None] * (node.end_lineno - first)
    kept = (line.removesuffix("  # fmt: skip") for line in lines if line is not None)
    return "\n".join(kept).strip("\n")
