"""The law of the page, the order of the chapters, and the size of the house."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from chapters import (
    BOOK,
    Chapter,
    contents,
    docstrings,
    minutes,
    qualified,
    read,
    read_all,
    tree,
    visible_lines,
    without_glue,
)

pytestmark = pytest.mark.check

PACKAGE = BOOK.parent / "cnn"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
CONTENTS = contents()
CHAPTERS = read_all()
# Where a chapter's place is, its modules begin.
BEGINS = {m: place for place, c in enumerate(CHAPTERS) for m in c.modules}
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
LOADS = """
import importlib, os, sys
import numpy.random
for name in sys.argv[1:]:
    if len(sys.argv) > 2 and os.fork():
        os.wait()
    else:
        importlib.import_module(name)
        print(name, *(m for m in sys.modules if m.partition(".")[0] in ("cnn", "numba")))
        sys.stdout.flush()
        os._exit(0)
"""


def part(numeral: str, toc: dict[str, list[str]] = CONTENTS) -> set[str]:
    """Return the pages of a part."""
    return {p for name, ps in toc.items() if name.startswith(f"{numeral}.") for p in ps}


def since(numeral: str, toc: dict[str, list[str]] = CONTENTS) -> set[str]:
    """Return the pages of a part and of all parts after it."""
    captions = list(toc)
    first = [n for n, name in enumerate(captions) if name.startswith(f"{numeral}.")]
    return {p for name in captions[first[0] :] for p in toc[name]} if first else set()


# --- What a reader meets ---


def long_cells(chapter: Chapter, limit: int) -> dict[str, int]:
    """Return the cells that the page shows with more lines than the limit."""
    sizes = {cell.id: visible_lines(cell.text) for cell in chapter.code if cell.shown}
    return {name: size for name, size in sizes.items() if size > limit}


@each_chapter
def test_a_cell_fits_on_half_a_screen(chapter: Chapter):
    assert not long_cells(chapter, 40 if chapter.name in part("V") else 25)


@each_chapter
def test_a_chapter_takes_half_an_hour_at_most(chapter: Chapter):
    assert minutes(chapter) <= 30


def glue_left(chapter: Chapter) -> list[str]:
    """Return the cells of a page on which ``glue``, or a cell broken by its removal, is seen."""
    left = []
    for cell in chapter.code:
        if not {"remove-cell", "remove-input"} & cell.tags:
            code = without_glue(cell.source)
            names = [
                node.id for node in ast.walk(tree(code)) if isinstance(node, ast.Name)
            ]
            broken = bool(tree(cell.source).body) and code and not tree(code).body
            left += [cell.id] if "glue" in names or "myst_nb" in code or broken else []
    return left


@each_chapter
def test_no_glue_is_seen(chapter: Chapter):
    assert not glue_left(chapter)


def test_lines_are_counted_as_a_reader_sees_them(write_chapter):
    function = '''#| export
def f():
    """Do.

    More.
    """

    def g():
        """Do."""
        return """not
        a docstring"""
'''
    text = "one two\n\n$$\na b c\n$$\n" + "three " * 398
    path = write_chapter(
        "01-a", ("markdown", text), ("code", function), ("code", "%time x")
    )
    chapter = read(path)
    assert [visible_lines(cell.text) for cell in chapter.code] == [7, 1]
    assert long_cells(chapter, 6) == {"cell-1": 7}
    assert minutes(chapter) == pytest.approx(400 / 200 + 8 / 30)
    hidden = [replace(c, metadata={"tags": ["hide-input"]}) for c in chapter.cells]
    chapter = replace(chapter, cells=hidden)
    assert not long_cells(chapter, 6)
    assert minutes(chapter) == pytest.approx(400 / 200)


def test_glue_is_taken_out_of_a_cell(write_chapter):
    code = """from myst_nb import glue

import numpy as np

for x in range(3):
    y = x
    glue(f"{x}", y)

glue(
    "long",
    f"{y}",
)
for x in range(3):
    if x:
        glue(f"{x}", x)

z = 1"""
    shown = "import numpy as np\n\nfor x in range(3):\n    y = x\n\nz = 1"
    assert without_glue(code) == shown
    assert without_glue("%time x\nglue(1)") == "%time x\nglue(1)"
    leaves = ["if x:\n    glue('a', 1)\nelse:\n    x = 1", "a = glue('b', 2)", code]
    path = write_chapter("01-a", *(("code", source) for source in leaves))
    assert glue_left(read(path)) == ["cell-0", "cell-1"]


# --- The order of the chapters ---


def imports(code: ast.AST, modules: Iterable[str]) -> Iterator[str]:
    """Yield the modules of the package that code imports anywhere; ``__init__`` for the package."""
    for node in ast.walk(code):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(
                ["cnn"] * bool(node.level) + [node.module] * bool(node.module)
            )
            names = [f"{source}.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            module = rest.partition(".")[0]
            if top == "cnn":
                yield module if module in modules else "__init__"


def upward(graph: dict[str, set[str]], begins: dict[str, int]) -> list[str]:
    """Return the imports that go from a module to one of a later chapter."""
    pairs = [(module, other) for module, others in graph.items() for other in others]
    return [f"{m} imports {o}" for m, o in pairs if begins[o] > begins[m]]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, if some do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def early(chapters: list[Chapter], begins: dict[str, int], free: set[str]) -> list[str]:
    """Return where a cell uses a module before its chapter; the ``free`` may use all of ``cnn``."""
    return [
        f"{cell.where}: {module}"
        for place, chapter in enumerate(chapters)
        for cell in chapter.code
        if not cell.exported
        for module in imports(tree(cell.source), begins)
        if begins[module] > place
        and not (module == "__init__" and chapter.name in free)
    ]


GRAPH = {
    module: set(
        imports(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8")), MODULES)
    )
    for module in MODULES
}
for name in ("__main__", "commands"):  # the program is the package's first user
    GRAPH[name] -= {"__init__"}


def test_modules_import_downwards():
    assert not upward(GRAPH, BEGINS)


def test_modules_import_in_no_circle():
    assert not circle(GRAPH)


def test_chapters_use_what_they_have_introduced():
    assert not early(CHAPTERS, BEGINS, since("IV"))


def test_the_order_of_imports_is_seen(write_chapter):
    code = """from __future__ import annotations
import cnn
import numpy as np
import cnn.a as b
from . import c, name
def f():
    if TYPE_CHECKING:
        from .d import g
    from cnn.e import *
    from cnnx.h import i"""
    found = sorted(imports(ast.parse(code), set("abcdefghi")))
    assert found == ["__init__", "__init__", "a", "c", "d", "e"]
    begins = {"a": 0, "b": 1, "__init__": 2}
    assert upward({"a": {"b"}, "b": {"a", "b"}}, begins) == ["a imports b"]
    assert circle({"a": {"b"}, "b": {"a"}})
    assert not circle({"a": set(), "b": {"a"}})
    first = write_chapter(
        "01", ("code", "import cnn.b"), ("code", "#| export\nimport cnn")
    )
    second = write_chapter("02", ("code", "from cnn import b, x"))
    chapters = [read(first), read(second)]
    assert early(chapters, begins, {"02"}) == ["01.ipynb, cell cell-0: b"]
    assert early(chapters, begins, set())[1:] == ["02.ipynb, cell cell-0: __init__"]


def test_parts_are_told_apart():
    toc = {"Before": ["n"], "IV. Four": ["d"], "V. Five": ["e", "f"], "Back": ["z"]}
    assert part("V", toc) == {"e", "f"}
    assert since("V", toc) == {"e", "f", "z"}
    assert since("IX", toc) == part("I", toc) == set()


def loads(modules: list[str]) -> dict[str, set[str]]:
    """Return what each module, imported after NumPy alone, loads of ``cnn`` and ``numba``."""
    names = [qualified(module) for module in modules]
    runs = [names] if hasattr(os, "fork") else [[name] for name in names]
    loaded = {}
    for run in runs:
        command = [sys.executable, "-c", LOADS, *run]
        quiet = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, env=quiet
        )
        for line in result.stdout.splitlines():
            name, *found = line.split()
            loaded[name] = set(found)
    return {module: loaded[name] for module, name in zip(modules, names, strict=True)}


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What each module loads."""
    return loads(MODULES)


def test_a_module_loads_no_later_one(loaded):
    for module, found in loaded.items():
        assert qualified(module) in found
        others = {
            name.removeprefix("cnn.") for name in found if name.startswith("cnn.")
        }
        assert not {m for m in others if BEGINS[m] > BEGINS[module]}, module


def test_numba_is_loaded_where_it_is_asked_for(loaded):
    fast = {
        m for chapter in CHAPTERS if chapter.name in part("V") for m in chapter.modules
    }
    assert {module for module, found in loaded.items() if "numba" in found} <= fast


def test_every_module_has_its_page():
    pages = [BOOK / "api.md", *(BOOK / "api").glob("*.rst")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    found = sorted(re.findall(r"automodule:: (\S+)", text))
    assert found == sorted(map(qualified, MODULES)), "write book/api/MODULE.rst"


# --- The size of the house ---


def measure(package: Path) -> tuple[dict[str, int], list[int], float]:
    """Return lines by module, the functions' lines in order, and docstring lines per line of code.

    Blank lines and comments count in a module's size alone, docstrings not as lines of a function.
    """
    sizes, functions, told, code = {}, [], 0, 0
    for path in package.glob("*.py"):
        text = path.read_text("utf-8")
        syntax, lines = ast.parse(text), text.splitlines()
        full = {n for n, line in enumerate(lines, 1) if re.match(r"\s*[^\s#]", line)}
        described = list(docstrings(syntax))
        if ast.get_docstring(syntax):
            described.append((1, syntax.body[0].end_lineno))
        words = full & {n for first, last in described for n in range(first, last + 1)}
        sizes[path.stem] = len(lines)
        told, code = told + len(words), code + len(full - words)
        for node in ast.walk(syntax):
            if isinstance(node, ast.FunctionDef):
                own = range(node.lineno, node.end_lineno + 1)
                functions.append(len((full - words).intersection(own)))
    return sizes, sorted(functions), told / code


def test_the_house_is_small():
    sizes, functions, told = measure(PACKAGE)
    assert sum(sizes.values()) <= 8730
    assert max(sizes.values()) <= 350, sorted(sizes.items(), key=lambda s: -s[1])[:5]
    assert functions[len(functions) // 2] <= 8
    assert functions[int(0.9 * len(functions))] <= 18
    assert functions[-1] <= 40
    assert told <= 0.35


def test_the_house_is_measured(tmp_path):
    module = (
        '"""A module.\n\nMore.\n"""\n\n# Why.\nX = 1\n\n\nclass A:\n    """An A."""\n\n'
    )
    module += '    def f(self):\n        """Do."""\n\n        def g():\n            return 1\n'
    (tmp_path / "a.py").write_text(module + "\n        return g\n", "utf-8")
    assert measure(tmp_path) == ({"a": 19}, [2, 4], (3 + 1 + 1) / 6)
