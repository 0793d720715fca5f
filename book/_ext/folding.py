"""Docstrings on the page: folded to their first line, their equations shown by number.

Nothing is added to a cell's text, so that copying a cell copies all of it, open or folded.
"""

from __future__ import annotations

import re

from chapters import docstrings, tree
from docutils import nodes
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.writers.html5 import HTML5Translator

ROLE = re.compile(r"\{eq\}`(?:[^`]*&lt;)?([^`&]+)(?:&gt;)?`")


def visit_literal_block(self: HTML5Translator, node: nodes.literal_block) -> None:
    """Write a block of code as ever; fold the docstrings where it is a cell of a chapter."""
    try:
        type(self).visit_literal_block(self, node)
    finally:
        if "cell_input" in node.parent.get("classes", []):
            self.body[-1] = fold(self.body[-1], node.astext(), self.builder)


def fold(html: str, source: str, builder: StandaloneHTMLBuilder) -> str:
    """Return a highlighted block with its docstrings folded by a check box each."""
    head, pre, code = html.partition("<pre>")
    lines = code.split("\n")
    for first, last in docstrings(tree(source)):
        for n in range(first - 1, last):
            lines[n] = ROLE.sub(lambda role: number(role, builder), lines[n])
        if first < last:
            box = '<input type="checkbox" autocomplete="off">'
            lines[first - 1] = (
                f'<label class="docstring">{lines[first - 1]}{box}</label>'
            )
            lines[first - 1] += '<span class="docstring-rest">'
            lines[last - 1] += "</span>"
    return head + pre + "\n".join(lines)


def number(role: re.Match, builder: StandaloneHTMLBuilder) -> str:
    """Return an equation's number, linked to the equation, or the role where there is none."""
    env, page = builder.env, builder.current_docname
    link = env.get_domain("math").resolve_xref(
        env, page, builder, "eq", role[1], nodes.Element(), nodes.Element()
    )
    if link is None:
        return role[0]
    url = link.get("refuri") or f"#{link['refid']}"
    return f'<a class="reference internal" href="{url}">{link.astext()}</a>'
