"""Serve the pages, build them again when a file of the book changes, and reload the browser."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WATCHED = (
    "book/*.ipynb",
    "book/*.md",
    "book/*.bib",
    "book/_static/*",
    "book/runs/*.json",
    "_config.yml",
    "_toc.yml",
)


def build() -> None:
    """Build what has changed; a warning is shown and no reason to stop."""
    tool = Path(sys.executable).with_name("jupyter-book")
    subprocess.run([tool, "build", ROOT, "--keep-going"], check=False)


def main() -> None:
    """Build once, then serve until Ctrl-C."""
    from livereload import Server

    build()
    server = Server()
    for pattern in WATCHED:
        server.watch(str(ROOT / pattern), build)
    server.serve(root=str(ROOT / "_build" / "html"), port=5500, open_url_delay=1)


if __name__ == "__main__":
    main()
