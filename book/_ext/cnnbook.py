"""What this book adds to Sphinx.

- Directive lines (``#| export``, ``#| check eq:name``) become a small caption above the cell.
- The index of equations is generated from the ledger (``equation-index``).
- Docstrings may use the chapters' ``{eq}`` roles.
- A large number, as in 60 000, is not broken between two lines.
- Mathematics renders offline: one MathJax file, copied out of an installed wheel.
- The theme's scripts that would ask the network for something are left out.
"""

from __future__ import annotations

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
import ledger
from export import directive

MATHJAX = "mathjax/tex-svg-full.js"


def caption_cells(cell: dict, module: str, name: str) -> list[dict]:
    """Return a Markdown cell that says where a code cell goes or what it checks, if it does."""
    source, hidden = cell["source"], {"remove-cell", "remove-input"}
    if directive(source, "export") is not None:
        if hidden & set(cell["metadata"].get("tags", [])):
            return []
        target = f"cnn.{module}".removesuffix(".__init__")
        text = f"{{py:mod}}`cnn/{module}.py <{target}>`"
    elif labels := (directive(source, "check") or "").split():
        text = "checks " + ", ".join(f"{{eq}}`{label}`" for label in labels)
    else:
        return []
    body = f"({name})=\n```{{container}} cell-caption\n{text}\n```\n"
    about = {"id": f"{cell['id']}-caption", "metadata": {}, "source": body}
    return [{"cell_type": "markdown", **about}]


def captions(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the directive lines of a chapter's code cells by captions."""
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    notebook, cells, module = json.loads(source[0]), [], ""
    for cell in notebook["cells"]:
        text = cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code":
            module = directive(text, "default_exp") or module
            name = anchor(Path(docname).name, cell["id"])
            cells += caption_cells(cell, module, name)
            cell["source"] = re.sub(r"\A(?:#\|.*\n?)+", "", text)
            if not cell["source"].strip() and not cell["outputs"]:
                continue
        cells.append(cell)
    notebook["cells"] = cells
    source[0] = json.dumps(notebook)


def anchor(chapter: str, cell: str) -> str:
    """Return the link target of a captioned cell."""
    return f"cell-{chapter}-{cell}".lower()


def docstring_roles(app: Sphinx, what, name, obj, options, lines: list[str]) -> None:
    """Turn a docstring's Markdown into reStructuredText: roles, code, the chapter it is from."""
    if what == "module" and "Exported from" in "".join(lines[2:3]):
        del lines[:2]  # nothing but the chapter's title, which its link shows
    for i, line in enumerate(lines):
        line = re.sub(r"\{([\w:]+)\}(`[^`]+`)", r":\1:\2", line)
        line = re.sub(r"(?<![`:\w])`([^`<]+)`(?![`_])", r"``\1``", line)
        lines[i] = re.sub(
            r"^Exported from (book/\S+)\.ipynb: .*", r"Chapter :doc:`/\1`.", line
        )


def unbroken_numbers(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put spaces that do not break between the groups of large numbers, but not in code."""
    fixed = (nodes.literal, nodes.math, nodes.FixedTextElement)
    for text in list(doctree.findall(nodes.Text)):
        # the bibliography's texts don't all know their parent
        if text.parent and not isinstance(text.parent, fixed):
            unbroken = re.sub(r"(?<=\d) (?=\d{3}\b)", "\N{NO-BREAK SPACE}", text)
            text.parent.replace(text, nodes.Text(unbroken))


class EquationIndex(SphinxDirective):
    """``{equation-index}``: every numbered equation with its function and its check, linked."""

    def run(self) -> list:
        """Return the index, grouped by chapter."""
        for chapter, _ in ledger.chapters(ledger.BOOK):
            self.env.note_dependency(str(ledger.BOOK / f"{chapter}.ipynb"))
        entries = ledger.rows()
        numbered = [entry for entry in entries if entry.numbered]
        text = (
            f"In all **{len(numbered)} equations**, each with its function and its check, and "
            f"{len(entries) - len(numbered)} further numbered lines that are definitions or steps "
            "of a derivation and need neither.\n"
        )
        for chapter, group in itertools.groupby(
            numbered, key=lambda entry: entry.chapter
        ):
            text += f"\n:::{{rubric}} {{doc}}`{chapter}`\n:::\n"
            text += "".join(self.entry(equation) for equation in group)
        return self.parse_text_to_nodes(text)

    @staticmethod
    def entry(equation: ledger.Equation) -> str:
        """Return one equation's line, formula and links as Markdown."""
        functions = ", ".join(f"{{py:obj}}`{name}`" for name in equation.functions)
        checks = [
            f"{{ref}}`{'also' if i else 'check'} <{anchor(*cell)}>`"
            for i, cell in enumerate(equation.checks)
        ]
        links = f"{functions or 'no function'} · {', '.join(checks) or 'no check'}"
        body = f"{{eq}}`{equation.label}` · {links}\n\n$$\n{equation.formula}\n$$\n"
        return f"\n::::{{container}} equation-entry\n{body}::::\n"


def without_thebe(app: Sphinx, config) -> None:
    """Disconnect sphinx-thebe, which Jupyter Book always loads: its scripts are on the network."""
    for listeners in app.events.listeners.values():
        listeners[:] = [
            x for x in listeners if not x.handler.__module__.startswith("sphinx_thebe")
        ]


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy the one MathJax file out of the wheel sphinx-mathjax-offline into the built site."""
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


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("equation-index", EquationIndex)
    app.connect("source-read", captions)
    app.connect("autodoc-process-docstring", docstring_roles)
    app.connect("doctree-resolved", unbroken_numbers)
    app.connect("config-inited", without_thebe, priority=1)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
