"""What this book adds to Sphinx.

- A cell that the package exports, or that checks an equation, has a small caption; its directive
  lines (``#| export``) and what it hands to the text (``glue``) are not shown.
- A docstring is folded to its first line, and its equations have their numbers (``folding``).
- A chapter says how many minutes it takes to read.
- Figures that one can touch are attached to printed ones (``live``).
- Indices are generated, of equations (``equation-index``), modules (``module-index``) and runs
  (``run-index``, in ``history``).
- Docstrings may use the chapters' ``{eq}`` roles.
- A large number, as in 60 000, is not broken between two lines.
- Each chapter is also written as a notebook that reads as the page does (``reader``).
- Mathematics renders offline: one MathJax file, copied out of an installed wheel.
- Of the theme's files, those that would ask the network for something are left out, and the maps
  that only its developers need.
- The finished pages are mended, and indexed for the search (``pages``).
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from chapters import (
    BOOK,
    Cell,
    contents,
    minutes,
    parse,
    qualified,
    read_all,
    tree,
    without_glue,
)
from folding import visit_literal_block
from ledger import Equation, Ledger
from live import add_scripts, write_weights
from pages import finish_pages

MATHJAX = "mathjax/tex-svg-full.js"


def show(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make a chapter's notebook what its page shows."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".ipynb":
        chapter = parse(path, source[0])
        cells = [shown for cell in chapter.cells for shown in show_cell(cell)]
        time = max(1, round(minutes(chapter)))
        unit = "minute" if time == 1 else "minutes"
        note = f"```{{container}} reading-time\n{time} {unit}\n```"
        title = next(cell for cell in cells if re.search("(?m)^# ", cell["source"]))
        title["source"] = re.sub(
            "(?m)^(# .*)$", rf"\1\n\n{note}\n", title["source"], count=1
        )
        source[0] = json.dumps(chapter.about | {"cells": cells})


def show_cell(cell: Cell) -> list[dict]:
    """Return what the page has of a cell: a caption, the cell, or nothing."""
    about = {"cell_type": cell.kind, "id": cell.id, "metadata": cell.metadata}
    if cell.kind == "markdown":
        return [about | {"source": cell.source}]
    about |= {"outputs": cell.outputs, "execution_count": cell.count}
    code = without_glue(cell.source)
    if not code:  # nothing but results for the text
        about["metadata"] = {**cell.metadata, "tags": [*cell.tags, "remove-cell"]}
    shown = [about | {"source": code}] if code or cell.outputs else []
    if text := caption(cell):
        mark = f"({anchor(cell.chapter, cell.id)})=\n```{{container}} cell-caption"
        body = {"source": f"{mark}\n{text}\n```\n", "metadata": {}}
        shown = [{"cell_type": "markdown", "id": f"{cell.id}-caption", **body}, *shown]
    return shown


def caption(cell: Cell) -> str:
    """Return, as Markdown, where a cell goes or what it checks."""
    if cell.exported and not {"remove-cell", "remove-input"} & cell.tags:
        return f"{{py:mod}}`cnn/{cell.module}.py <{qualified(cell.module)}>`"
    labels = cell.directives.get("check", "").split() if not cell.exported else []
    roles = ", ".join(f"{{eq}}`{label}`" for label in labels)
    return f"checks {roles}" if roles else ""


def anchor(chapter: str, cell: str) -> str:
    """Return the link target of a captioned cell."""
    return f"cell-{chapter}-{cell}".lower()


def docstring_roles(app: Sphinx, what, name, obj, options, lines: list[str]) -> None:
    """Turn a docstring's Markdown into reStructuredText: roles, code, the chapters it is from."""
    if what == "module" and "Exported from" in "".join(lines[2:3]):
        del lines[:2]  # nothing but the chapter's title, which its link shows
    text = re.sub(r"\{([\w:]+)\}(`[^`]+`)", r":\1:\2", "\n".join(lines))
    text = re.sub(r"(?<![`:\w])`([^`<\n]+)`(?![`_])", r"``\1``", text)
    origin = r"(?ms)^Exported from (book/.*?):\s.*?``make export``\."
    lines[:] = re.sub(origin, chapter_links, text).split("\n")


def chapter_links(origin: re.Match) -> str:
    """Return links to the chapters that a module comes from."""
    pages = re.findall(r"(book/\S+)\.ipynb", origin[1])
    links = " and ".join(f":doc:`/{page}`" for page in pages)
    return f"{'Chapter' if len(pages) == 1 else 'Chapters'} {links}."


def unbroken_numbers(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put spaces that do not break between the groups of large numbers, but not in code."""
    fixed = (nodes.literal, nodes.math, nodes.FixedTextElement)
    for text in list(doctree.findall(nodes.Text)):
        # the bibliography's texts don't all know their parent
        if text.parent and not isinstance(text.parent, fixed):
            unbroken = re.sub(r"(?<=\d) (?=\d{3}\b)", "\N{NO-BREAK SPACE}", text)
            text.parent.replace(text, nodes.Text(unbroken))


class GeneratedIndex(SphinxDirective):
    """A directive whose content is Markdown made from the chapters."""

    def run(self) -> list[nodes.Node]:
        """Return the content; it is made anew when a chapter changes."""
        for path in BOOK.glob("*.ipynb"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(self.text())


class EquationIndex(GeneratedIndex):
    """``{equation-index}``: every numbered equation with its function and its check, linked."""

    def text(self) -> str:
        """Return the index, grouped by chapter."""
        entries = Ledger().equations.values()
        numbered = [entry for entry in entries if entry.numbered]
        text = (
            f"In all **{len(numbered)} equations**, each with its function and its check, and "
            f"{len(entries) - len(numbered)} further numbered lines that are definitions or steps "
            "of a derivation and need neither.\n"
        )
        for chapter, group in itertools.groupby(numbered, lambda entry: entry.chapter):
            text += f"\n:::{{rubric}} {{doc}}`{chapter}`\n:::\n"
            text += "".join(self.entry(equation) for equation in group)
        return text

    @staticmethod
    def entry(equation: Equation) -> str:
        """Return one equation's line, formula and links as Markdown."""
        # the reference has no page for what begins with an underscore
        functions = ", ".join(
            f"`{name}`" if "._" in name else f"{{py:obj}}`{name}`"
            for name in equation.functions
        )
        checks = [
            f"{{ref}}`{'also' if i else 'check'} <{anchor(*cell)}>`"
            for i, cell in enumerate(equation.checks)
        ]
        links = f"{functions or 'no function'} · {', '.join(checks) or 'no check'}"
        body = f"{{eq}}`{equation.label}` · {links}\n\n$$\n{equation.formula}\n$$\n"
        return f"\n::::{{container}} equation-entry\n{body}::::\n"


class ModuleIndex(GeneratedIndex):
    """``{module-index}``: the modules with their chapter and what they define, part by part."""

    def text(self) -> str:
        """Return the index, grouped by the book's parts."""
        chapters = read_all()
        cells = [c for chapter in chapters for c in chapter.code if c.exported]
        text = ""
        for part, pages in contents().items():
            entries = [
                self.entry(module, chapter.name, cells)
                for chapter in chapters
                for module in chapter.modules
                if chapter.name in pages and module != "__init__"
            ]
            text += f"\n:::{{rubric}} {part}\n:::\n" * bool(entries)
            text += "".join(entries)
        return text

    @staticmethod
    def entry(module: str, chapter: str, cells: list[Cell]) -> str:
        """Return a module's entry: its page, its chapter and its functions and classes."""
        names = [
            f"{{py:obj}}`~cnn.{module}.{node.name}`"
            for cell in cells
            if cell.module == module
            for node in tree(cell.source).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            if not node.name.startswith("_")
        ]
        about = f"{{py:mod}}`cnn.{module}`, from {{doc}}`{chapter}`"
        return f"\n{about}\n: {', '.join(names)}\n"


def without_thebe(app: Sphinx, config) -> None:
    """Disconnect sphinx-thebe, which Jupyter Book always loads: its scripts are on the network."""
    for listeners in app.events.listeners.values():
        listeners[:] = [
            x for x in listeners if not x.handler.__module__.startswith("sphinx_thebe")
        ]
    styles = app.registry.css_files
    styles[:] = [(file, about) for file, about in styles if file != "sphinx-thebe.css"]


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Copy MathJax out of its wheel into the site, delete source maps, finish the pages."""
    if exception or app.builder.format != "html":
        return
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    places = spec.submodule_search_locations if spec else []
    found = [p for place in places for p in Path(place).rglob("tex-svg-full.js")]
    if not found:
        raise ExtensionError(
            "tex-svg-full.js not found: pip install sphinx-mathjax-offline"
        )
    copy = Path(app.outdir) / "_static" / MATHJAX
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found[0], copy)
    write_weights(app)
    for unused in Path(app.outdir, "_static").rglob("*.map"):
        unused.unlink()
    names = [f"book/{name}" for part in contents().values() for name in part]
    finish_pages(Path(app.outdir), ["book/index", *names], app.config.html_baseurl)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("equation-index", EquationIndex)
    app.add_directive("module-index", ModuleIndex)
    html = (visit_literal_block, None)
    app.add_node(nodes.literal_block, override=True, html=html)
    app.connect("source-read", show)
    app.connect("autodoc-process-docstring", docstring_roles)
    app.connect("doctree-resolved", unbroken_numbers)
    app.connect("config-inited", without_thebe, priority=1)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", finish)
    app.setup_extension("reader")
    app.setup_extension("history")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
