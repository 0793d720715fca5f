"""Live figures: a page gets the scripts that attach to one of its figures, and no others.

``base.js``, on every page, is what they share. A script says where it belongs by its calls,
``CNN.live("fig-conv-dw", …)``, and in a comment what comes before it: ``Needs network.js.``
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from zlib import crc32

from docutils import nodes
from sphinx.application import Sphinx

from cnn import Dropout, load_weights
from cnn.network import Layer

SCRIPTS = Path(__file__).resolve().parents[1] / "_static" / "live"


def scripts(body: str) -> list[Path]:
    """Return the scripts that a page's figures want, those first that others need."""
    wanted: dict[Path, None] = {}
    for script in sorted(SCRIPTS.glob("*.js")):
        text = script.read_text("utf-8")
        names = re.findall(r'CNN\.live\(\s*"([^"]+)"', text)
        if any(f'id="{name}"' in body for name in names):
            needs = re.search(r"Needs (.*)\.", text)
            files = re.findall(r"\w+\.js", needs[1]) if needs else []
            wanted |= dict.fromkeys([*(SCRIPTS / file for file in files), script])
    return list(wanted)


def add_scripts(
    app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document
) -> None:
    """Put a page's scripts behind its text: its figures are there, and nothing is drawn yet."""
    for script in scripts(context.get("body", "")):
        url = context["pathto"](f"_static/live/{script.name}", 1)
        url += f"?v={crc32(script.read_bytes()):08x}"
        context["body"] += f'<script src="{url}"></script>\n'


def write_weights(app: Sphinx) -> None:
    """Write the network that the package ships as a script, for the pages that compute with it."""
    script = f"CNN.weights = {json.dumps([about(layer) for layer in used()])};\n"
    path = Path(app.outdir, "_static", "live", "weights.js")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, "utf-8")


def used() -> list[Layer]:
    """Return the layers of the shipped network that compute something at inference."""
    return [layer for layer in load_weights().layers if not isinstance(layer, Dropout)]


def about(layer: Layer) -> dict:
    """Return a layer's kind, where its filters go, and its arrays in base 64."""
    arrays = {
        name: {
            "shape": a.shape,
            "base64": base64.b64encode(a.astype("<f4").tobytes()).decode(),
        }
        for name, a in layer.params.items()
    }
    return {"kind": type(layer).__name__, **getattr(layer, "where", {}), **arrays}
