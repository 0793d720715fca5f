"""Write the package ``cnn`` from the chapters: one chapter, one module.

A chapter names its module in its first code cell (``#| default_exp losses``) and marks the cells
that belong to the package (``#| export``). Export cells hold imports and definitions only. The
module gathers the imports at its top, keeps the chapter's section headings as comments and lists
its public names in ``__all__``.

    python book/tools/export.py            write cnn/*.py
    python book/tools/export.py --check    change nothing; print the differences and exit with 1
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1]
PACKAGE = BOOK.parent / "cnn"
WIDTH = 88
DEFINITIONS = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.If


class ExportError(Exception):
    """A chapter that cannot be exported; the message names the chapter and the cell."""


@dataclass
class Module:
    """What one chapter gives to the package."""

    chapter: str
    title: str = ""
    docstring: str = ""
    plain: set[str] = field(default_factory=set)
    members: dict[str, set[str]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the module's source."""
        origin = f"Exported from book/{self.chapter}: edit the chapter and run `make export`."
        start = self.docstring or self.title + ("" if self.title[-1:] in ".?!" else ".")
        raw = "r" if "\\" in start else ""
        parts = [f'{raw}"""{start}\n\n{origin}\n"""']
        parts += [
            "\n\n".join("\n".join(section) for section in self.imports() if section)
        ]
        parts += [wrap("__all__ = [", [f'"{name}"' for name in self.names], "]")]
        head = "\n\n".join(part for part in parts if part)
        return "\n\n\n".join([head, *self.blocks]) + "\n"

    def imports(self) -> list[list[str]]:
        """Return the import lines: future, standard library, third party, this package."""
        sections: list[list[str]] = [[], [], [], []]
        for line in sorted(self.plain, key=natural):
            sections[section(line.split()[1])].append(line)
        for module in sorted(self.members, key=natural):
            head, names = (
                f"from {module} import ",
                sorted(self.members[module], key=by_kind),
            )
            line = wrap(head, names, "", brackets="()")
            sections[section(module)].append(line)
        return sections


def section(module: str) -> int:
    """Return the import section that a module belongs to."""
    top = module.partition(".")[0]
    if top in ("", "__future__"):
        return 0 if top else 3
    return 1 if top in sys.stdlib_module_names else 2


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sorting key that takes digits as numbers and ignores case."""
    return [(int(d or -1), s.lower()) for d, s in re.findall(r"(\d+)|(\D+)", name)]


def by_kind(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Return a sorting key for imported names: CONSTANTS, Classes, functions."""
    return (
        0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    ), natural(name)


def wrap(head: str, items: list[str], tail: str, brackets: str = "") -> str:
    """Return ``head item, item tail`` on one line or, where that is too long, an item a line."""
    line = head + ", ".join(items) + tail
    if len(line) <= WIDTH:
        return line
    opening, closing = brackets or ("", "")
    rows = "".join(f"    {item},\n" for item in items)
    return f"{head}{opening}\n{rows}{closing}{tail}"


def headings(markdown: str) -> Iterator[tuple[int, str]]:
    """Yield level and text of the headings in a Markdown cell, fenced blocks left out."""
    fence = ""
    for line in markdown.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,}|:{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence and (heading := re.match(r"(#+)\s+(.*?)\s*#*$", line)):
            yield len(heading[1]), heading[2].replace("`", "").replace("$", "")


def directive(source: str, name: str) -> str | None:
    """Return what follows ``#| name`` on one of a cell's leading directive lines, else None."""
    for line in source.splitlines():
        if not line.startswith("#|"):
            return None
        word, _, rest = line[2:].strip().partition(" ")
        if word == name:
            return rest.strip()
    return None


def read(path: Path) -> tuple[str, Module] | None:
    """Return the module's name and content that a chapter defines, or None where it has none."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    name, module, heading, written = None, Module(path.name), "", ""
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for level, text in headings(source):
                module.title, heading = (
                    (text, "") if level == 1 else (module.title, text)
                )
        elif cell["cell_type"] == "code":
            name = directive(source, "default_exp") or name
            if directive(source, "export") is None:
                continue
            where = f"{path.name}, cell {cell.get('id', '?')}"
            if name is None:
                raise ExportError(
                    f"{where}: #| export before any #| default_exp MODULE"
                )
            if block := take(source, module, where):
                if heading and heading != written:
                    block = f"# --- {heading} ---"[:WIDTH] + f"\n\n\n{block}"
                    written = heading
                module.blocks.append(block)
    return (name, module) if name else None


def take(source: str, module: Module, where: str) -> str:
    """Add a cell's imports and names to the module and return the rest of its text."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        line = f"line {error.lineno}: {(error.text or '').strip()}"
        raise ExportError(
            f"{where}: {error.msg} ({line}); export cells are plain Python"
        ) from None
    lines, dropped = source.splitlines(), set()
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            add_import(node, module, where)
        elif (
            node is body[0]
            and isinstance(node, ast.Expr)
            and ast.get_docstring(ast.Module(body))
        ):
            module.docstring = inspect.cleandoc(node.value.value)
        elif isinstance(node, DEFINITIONS):
            names = [
                n
                for n in defined(node)
                if not n.startswith("_") and n not in module.names
            ]
            module.names += names
            continue
        else:
            what = f"not `{lines[node.lineno - 1].strip()}`"
            raise ExportError(
                f"{where}: an export cell holds imports and definitions only, {what}"
            )
        dropped.update(range(node.lineno - 1, node.end_lineno))
    kept = [
        x for i, x in enumerate(lines) if i not in dropped and not x.startswith("#|")
    ]
    return "\n".join(kept).strip("\n")


def add_import(node: ast.Import | ast.ImportFrom, module: Module, where: str) -> None:
    """Add one import statement to the module, relative where it names this package."""
    names = [a.name + (f" as {a.asname}" if a.asname else "") for a in node.names]
    if isinstance(node, ast.Import):
        module.plain.update(f"import {name}" for name in names)
        return
    if names == ["*"]:
        raise ExportError(f"{where}: import names, not *")
    source = "." * node.level + (node.module or "")
    source = re.sub(r"^cnn(\.|$)", ".", source)
    module.members.setdefault(source, set()).update(names)
    if source.startswith(".") and module.chapter == "package.ipynb":
        public = [a.asname or a.name for a in node.names]
        module.names += [
            n for n in public if not n.startswith("_") and n not in module.names
        ]


def defined(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement defines."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))
    elif not isinstance(node, ast.If):
        yield node.name


def modules(book: Path = BOOK) -> dict[str, str]:
    """Return file name → text of every module that the chapters in ``book`` define."""
    found: dict[str, Module] = {}
    for path in sorted(book.glob("*.ipynb")):
        if result := read(path):
            name, module = result
            if (file := f"{name}.py") in found:
                other = found[file].chapter
                raise ExportError(
                    f"{path.name} and {other} both export {file}: one chapter each"
                )
            found[file] = module
    return {file: module.text() for file, module in found.items()}


def differences(book: Path = BOOK, package: Path = PACKAGE) -> dict[str, str]:
    """Return file name → unified diff from the package to the chapters, where they differ."""
    wanted = modules(book)
    present = {p.name: p.read_text("utf-8") for p in sorted(package.glob("*.py"))}
    diffs = {}
    for file in sorted(wanted.keys() | present.keys()):
        old, new = present.get(file, ""), wanted.get(file, "")
        if old != new:
            origin = (
                "the chapters" if file in wanted else "no chapter exports this module"
            )
            rows = difflib.unified_diff(
                old.splitlines(True),
                new.splitlines(True),
                f"cnn/{file}",
                f"cnn/{file} ({origin})",
            )
            diffs[file] = "".join(rows)
    return diffs


def write(path: Path, text: str) -> None:
    """Write a file beside its place, then move it there: never a half-written module."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, "utf-8", newline="\n")
    os.replace(beside, path)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Write the package cnn from the chapters."
    )
    parser.add_argument(
        "--check", action="store_true", help="print differences, change nothing"
    )
    parser.add_argument("--book", type=Path, default=BOOK, help=argparse.SUPPRESS)
    parser.add_argument("--package", type=Path, default=PACKAGE, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        texts = modules(args.book)
        diffs = differences(args.book, args.package)
    except ExportError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    if args.check:
        print(*diffs.values(), sep="\n", end="")
        if diffs:
            names = ", ".join(f"cnn/{file}" for file in diffs)
            print(
                f"export: not what the chapters say: {names}; run `make export`",
                file=sys.stderr,
            )
        return int(bool(diffs))
    args.package.mkdir(exist_ok=True)
    for file in diffs.keys() & texts.keys():
        write(args.package / file, texts[file])
    strays = sorted(diffs.keys() - texts.keys())
    for file in strays:
        print(f"export: no chapter exports cnn/{file}: delete it", file=sys.stderr)
    print(f"export: {len(texts)} modules, {len(diffs) - len(strays)} written")
    return int(bool(strays))


if __name__ == "__main__":
    sys.exit(main())
