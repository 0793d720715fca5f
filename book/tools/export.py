"""Write the package ``cnn`` from the chapters; with ``--check`` only show what would change.

A cell with ``#| export`` goes to the module that the last ``#| default_exp NAME`` names, one with
``#| export NAME`` to a module of an earlier chapter. A module gathers the imports at its top, lists
its public names in ``__all__``, and keeps the section headings as comments. Ruff formats it.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from chapters import BOOK, Cell, read_all

PACKAGE = BOOK.parent / "cnn"
IMPORT = ast.Import | ast.ImportFrom
KEPT = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.If | ast.Try


class ExportError(Exception):
    """A chapter that cannot be exported; the message names the cell."""


def demand(condition: bool, cell: Cell, why_not: str) -> None:
    """Raise unless a cell is as it has to be."""
    if not condition:
        raise ExportError(f"{cell.where}: {why_not}")


@dataclass
class Module:
    """One file of the package; ``names`` says which chapter has defined which name."""

    name: str
    title: str
    chapters: list[str]
    docstring: str = ""
    section: str = ""
    imports: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    blocks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the module's source, not yet formatted."""
        books = " and ".join(f"book/{name}.ipynb" for name in self.chapters)
        plural = "s" * (len(self.chapters) > 1)
        start = self.docstring or self.title + "." * (self.title[-1:] not in ".?!")
        raw = "r" if "\\" in start else ""
        origin = (
            f"Exported from {books}: edit the chapter{plural} and run `make export`."
        )
        names = ", ".join(f'"{n}"' for n in self.names if not n.startswith("_"))
        public = f"__all__ = [{names}]"
        if len(public) > 88:  # Ruff would give each name a line
            rows = textwrap.indent(textwrap.fill(names, 84), "    ")
            public = f"__all__ = [\n{rows},\n]  # fmt: skip"
        head = [
            f'{raw}"""{start}\n\n{textwrap.fill(origin, 100)}\n"""',
            "\n".join(self.imports),
        ]
        head += [public] if "__all__" not in self.names else []
        return "\n\n\n".join(["\n\n".join(head), *self.blocks])

    def add(self, cell: Cell) -> None:
        """Add a cell: its imports, its names and the rest of its text."""
        if cell.chapter not in self.chapters:
            self.chapters.append(cell.chapter)
            self.section = ""
        lines = cell.source.splitlines()
        for node in statements(cell):
            if isinstance(node, IMPORT):
                self.add_import(node, cell)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                self.docstring = inspect.cleandoc(node.value.value)
            else:
                self.add_names(defined(node), cell)
                continue
            moved = slice(node.lineno - 1, node.end_lineno)  # to the module's top
            lines[moved] = [""] * len(lines[moved])
        if (block := "\n".join(lines).strip("\n")) and cell.section != self.section:
            self.section = cell.section
            block = f"# --- {cell.section} ---"[:88] + f"\n{block}"
        self.blocks += [block] * bool(block)

    def add_import(self, node: ast.stmt, cell: Cell) -> None:
        """Add an import, relative where it is of this package; ``__init__`` passes it on."""
        if isinstance(node, ast.ImportFrom):
            demand(node.names[0].name != "*", cell, "import names, not *")
            top, _, rest = (node.module or "").partition(".")
            if top == "cnn":
                node.module, node.level = rest or None, 1
            if node.level and node.module == self.name:
                return  # a chapter that adds to a module has its names there
            if node.level and self.name == "__init__":
                self.add_names([a.asname or a.name for a in node.names], cell)
        self.imports.append(ast.unparse(node))

    def add_names(self, names: list[str], cell: Cell) -> None:
        """Add names that no other chapter may have given to the module."""
        for name in names:
            other = self.names.setdefault(name, cell.chapter)
            what = f"cnn/{self.name}.py has its {name} from {other}"
            demand(other == cell.chapter, cell, what)


def statements(cell: Cell) -> list[ast.stmt]:
    """Return an export cell's statements, which are all of a kind that a module may hold."""
    try:
        body = ast.parse(cell.source).body
    except SyntaxError as error:
        what = f"{error.msg} (line {error.lineno}: {(error.text or '').strip()})"
        why_not = f"{cell.where}: {what}; export cells are plain Python"
        raise ExportError(why_not) from None
    lines, described = cell.source.splitlines(), ast.get_docstring(ast.Module(body))
    for node in body[described is not None :]:
        fits = isinstance(node, IMPORT | KEPT) or registers(node)
        what = f"not `{lines[node.lineno - 1].strip()}`"
        demand(fits, cell, f"an export cell holds imports and definitions only, {what}")
    return body


def registers(node: ast.stmt) -> bool:
    """Return whether a statement calls something whose name ends in ``register``."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func).endswith("register")


def defined(node: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = (n for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


def modules(book: Path = BOOK) -> dict[str, str]:
    """Return file name → text of every module that the chapters in ``book`` define."""
    found: dict[str, Module] = {}
    for chapter in read_all(book):
        for cell in chapter.code:
            if name := cell.directives.get("default_exp"):
                demand(name not in found, cell, f"another chapter begins {name}.py")
                title = cell.section if name != chapter.modules[0] else ""
                found[name] = Module(name, title or chapter.title, [chapter.name])
            if cell.exported:
                what = f"no #| default_exp {cell.module} comes before it"
                demand(cell.module in found, cell, what)
                found[cell.module].add(cell)
    return formatted({f"{name}.py": module.text() for name, module in found.items()})


def formatted(texts: dict[str, str]) -> dict[str, str]:
    """Return the texts with their imports sorted, as Ruff formats them."""
    options = ["--quiet", "--no-cache", "--config", BOOK.parent / "pyproject.toml"]
    ruff = Path(sys.executable).with_name("ruff")
    with tempfile.TemporaryDirectory() as folder:
        for file, text in texts.items():
            Path(folder, file).write_text(text, "utf-8", newline="\n")
        for command in (["check", "--select", "I", "--fix"], ["format"]):
            subprocess.run([ruff, *command, *options, folder], check=True)
        return {file: Path(folder, file).read_text("utf-8") for file in texts}


def settle(path: Path, text: str, check: bool) -> str:
    """Make a file what it should be, or show what is different; return what is left to do."""
    old = path.read_text("utf-8") if path.is_file() else ""
    if not text:
        return "no chapter exports it: delete it"
    if check and old != text:
        lines = (old.splitlines(keepends=True), text.splitlines(keepends=True))
        print("".join(difflib.unified_diff(*lines, path.name, "the chapters")))
        return "it is not what the chapters say: run `make export`"
    if old != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
    return ""


def main(argv: list[str], book: Path = BOOK, package: Path = PACKAGE) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(argv).check
    try:
        texts = modules(book)
    except (ExportError, FileNotFoundError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    files = sorted(texts.keys() | {path.name for path in package.glob("*.py")})
    left = {file: settle(package / file, texts.get(file, ""), check) for file in files}
    for file in filter(left.get, left):
        print(f"export: cnn/{file}: {left[file]}", file=sys.stderr)
    return int(any(left.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
