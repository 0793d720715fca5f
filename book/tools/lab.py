"""Open the chapters in JupyterLab: copies of the reader's edition, in ``notebooks``.

What is there already stays as the reader left it. To have a chapter as it was, delete it there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_missing(edition: Path, place: Path) -> list[Path]:
    """Copy the files of the edition that the place lacks, and return them."""
    copied = []
    for file in sorted(path for path in edition.rglob("*") if path.is_file()):
        target = place / file.relative_to(edition)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            copied.append(target)
    return copied


def main() -> int:
    """Copy what is missing, start JupyterLab and return its exit status."""
    os.environ["CNN_DATA"] = os.path.abspath(os.environ.get("CNN_DATA") or "data")
    place = ROOT / "notebooks"
    copy_missing(ROOT / "_build" / "notebooks", place)
    command = [sys.executable, "-m", "jupyterlab", str(place / "index.ipynb")]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
