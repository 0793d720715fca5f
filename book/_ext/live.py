"""Live figures: a page gets the scripts that attach to one of its figures, and no others.

``base.js``, on every page, is what they share. A script says where it belongs by its calls,
``CNN.live("fig-conv-dw", …)``.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from zlib import crc32

from docutils import nodes
from sphinx.application import Sphinx

SCRIPTS = Path(__file__).resolve().parents[1] / "_static" / "live"


@cache
def figures(script: Path) -> tuple[str, ...]:
    """Return the names of the figures that a script attaches to."""
    return tuple(re.findall(r'CNN\.live\(\s*"([^"]+)"', script.read_text("utf-8")))


def add_scripts(
    app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document
) -> None:
    """Put a page's scripts behind its text: its figures are there, and nothing is drawn yet."""
    body = context.get("body", "")
    for script in sorted(SCRIPTS.glob("*.js")):
        if any(f'id="{name}"' in body for name in figures(script)):
            url = context["pathto"](f"_static/live/{script.name}", 1)
            url += f"?v={crc32(script.read_bytes()):08x}"
            context["body"] += f'<script src="{url}"></script>\n'
