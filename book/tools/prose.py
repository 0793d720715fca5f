"""Look for misspelt words in chapters, pages and code, and for worn-out phrases in the text.

The words are codespell's and proselint's; ``OURS``, ``proselint.json`` and ``pyproject.toml``
say which of their opinions this book doesn't share.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from chapters import BOOK, read_all

CONFIG = Path(__file__).with_name("proselint.json")
PAGES = ("*.md", "book/*.md", "book/*.py", "book/*/*.py", "tests/*.py")
# What this book means as it says it.
OURS = (
    "cost the sum of",
    "draw the line",
    "in the long run",
    "luck of the draw",
    "these ones",
)
NO_PROSE = re.compile(
    r"<!--.*?-->|\$\$.*?\$\$(?: *\([\w:-]+\))?|\$[^$]+?\$"  # comments and formulas
    r"|\{[\w:]+\}`[^`]*`|`+[^`]+`+|^ *:\w+:.*?$"  # roles, names, options
    r"|\]\([^)]*\)|https?://\S+|\d[\d ]*\d"  # where links lead, numbers
    rf"|\b(?:{'|'.join(OURS)})\b",
    re.DOTALL | re.MULTILINE,
)


def without_fences(markdown: str) -> Iterator[str]:
    """Yield a text's lines, blank where they are code or the fence of a directive."""
    fences: list[str] = []
    code = False
    for line in markdown.splitlines():
        fence, name, title = re.match(r" *(`{3,})? *(\{[\w-]+\})?(.*)", line).groups()
        if fence and fences and fence.startswith(fences[-1]) and not name and not title:
            fences.pop()
            code = False
        elif fence and not code:
            fences.append(fence)
            code = not name
        yield "" if code or fence and not title else title if fence else line


def prose(markdown: str) -> str:
    """Return a text of the same lines, a made-up name wherever there is no prose."""
    names = (f"q{n:04}" for n in itertools.count())
    text = "\n".join(without_fences(markdown)) + "\n"
    text = NO_PROSE.sub(lambda m: next(names) + "\n" * m[0].count("\n"), text)
    return re.sub(
        "^#.*$", lambda m: f"{next(names)} {m[0]} {next(names)}", text, flags=re.M
    )


def lay_out(folder: Path, book: Path = BOOK) -> None:
    """Write each cell into a file of its own and the pages beside them, prose as .md."""
    texts = {}
    for chapter in read_all(book):
        for cell in chapter.cells:
            code = cell.kind == "code"
            name = f"{chapter.name}/{cell.id}.{'py' if code else 'md'}"
            texts[name] = cell.text if code else prose(cell.text)
    for path in (path for pattern in PAGES for path in book.parent.glob(pattern)):
        text = path.read_text("utf-8")
        name = str(path.relative_to(book.parent))
        texts[name] = prose(text) if path.suffix == ".md" else text
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def main(book: Path = BOOK) -> int:
    """Run both, print what they find, and return 1 if it is anything."""
    codespell = ["codespell_lib", "--toml", str(BOOK.parent / "pyproject.toml")]
    proselint = ["proselint", "check", "--config", str(CONFIG)]
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder), book)
        runs = [
            subprocess.run(
                [sys.executable, "-m", *tool, "."],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for tool in (codespell, proselint)
        ]
        found = "".join(run.stdout for run in runs)
        print(found.replace(f"{Path(folder).resolve()}/", ""), end="")
    return int(any(run.returncode for run in runs))


if __name__ == "__main__":
    sys.exit(main())
