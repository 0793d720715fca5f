"""The package is what the chapters export."""

from __future__ import annotations

import shutil

import export
import pytest
from conftest import ROOT

pytestmark = pytest.mark.check

HEAD = ("markdown", "# A chapter")
MODULE = ("code", "#| default_exp thing")
ORIGIN = "Exported from book/{}.ipynb: edit the chapter and run `make export`."


@pytest.fixture
def package(tmp_path):
    """A copy of the package."""
    copy = tmp_path / "cnn"
    return shutil.copytree(
        ROOT / "cnn", copy, ignore=shutil.ignore_patterns("__pycache__")
    )


def test_package_is_in_sync(capsys):
    assert export.main(["--check"]) == 0, capsys.readouterr().err


def test_an_edited_module_is_found_shown_and_written(package, capsys):
    module = package / "losses.py"
    before = module.read_text("utf-8")
    module.write_text(before + "\nEDITED = True\n", "utf-8")
    assert export.main(["--check"], package=package) == 1
    out, err = capsys.readouterr()
    assert "-EDITED = True" in out
    assert "cnn/losses.py" in err
    assert "EDITED" in module.read_text("utf-8"), "--check must change nothing"
    assert export.main([], package=package) == 0
    assert module.read_text("utf-8") == before


@pytest.mark.parametrize("arguments", [["--check"], []])
def test_a_stray_module_is_found(package, capsys, arguments):
    (package / "stray.py").write_text("x = 1\n", "utf-8")
    assert export.main(arguments, package=package) == 1
    assert "cnn/stray.py: no chapter exports it" in capsys.readouterr().err


def test_export_is_deterministic():
    assert export.modules() == export.modules()


def test_module_reads_like_a_module(write_chapter, tmp_path):
    first = (
        "#| export\nimport numpy as np\n\nfrom cnn.a import g\n\n\ndef f():\n    pass"
    )
    second = """#| export
import gzip

import numpy as np

from cnn.a import B, h as high

_hidden = 1  # why
SEEN, (a, *b) = 2, (3, 4)
f.table["x"] = SEEN"""
    write_chapter(
        "01-thing",
        HEAD,
        MODULE,
        ("markdown", "## First\n\n```text\n# no heading\n```"),
        ("code", first),
        ("markdown", "## Nothing exported here"),
        ("code", "x = 1"),
        ("markdown", "## Second"),
        ("code", second),
    )
    assert export.modules(tmp_path)["thing.py"] == (
        f'"""A chapter.\n\n{ORIGIN.format("01-thing")}\n"""\n\n'
        "import gzip\n\nimport numpy as np\n\nfrom .a import B, g, h as high\n\n"
        '__all__ = ["f", "SEEN", "a", "b"]\n\n\n'
        "# --- First ---\ndef f():\n    pass\n\n\n"
        "# --- Second ---\n_hidden = 1  # why\nSEEN, (a, *b) = 2, (3, 4)\n"
        'f.table["x"] = SEEN\n'
    )


def test_a_later_chapter_adds_to_a_module(write_chapter, tmp_path):
    add = """#| export thing
import zlib

from cnn.thing import f
from cnn.b import c


def g():
    return f()"""
    write_chapter(
        "02-b",
        ("markdown", "# B\n\n## More"),
        ("code", "#| default_exp b\n#| export\nc = 1"),
        ("code", add),
        ("code", "#| export\nd = 2"),
    )
    own = "#| export\nimport abc\n\n\ndef f():\n    pass"
    write_chapter("01-a", HEAD, MODULE, ("markdown", "## More"), ("code", own))
    texts = export.modules(tmp_path)
    origin = ORIGIN.format("01-a.ipynb and book/02-b").replace("chapter", "chapters")
    assert texts["thing.py"] == (
        f'"""A chapter.\n\n{origin}\n"""\n\n'
        "import abc\nimport zlib\n\nfrom .b import c\n\n"
        '__all__ = ["f", "g"]\n\n\n'
        "# --- More ---\ndef f():\n    pass\n\n\n"
        "# --- More ---\ndef g():\n    return f()\n"
    )
    assert "c = 1\n\n\nd = 2\n" in texts["b.py"]


def test_a_chapter_with_several_modules(write_chapter, tmp_path):
    write_chapter(
        "01-a",
        HEAD,
        MODULE,
        ("code", "#| export\nx = 1"),
        ("markdown", "## Its other half"),
        ("code", "#| default_exp other\n#| export\ny = 2"),
        ("code", "#| export thing\nz = 3"),
        ("code", "#| export\nw = 4"),
    )
    texts = export.modules(tmp_path)
    assert texts["thing.py"].startswith('"""A chapter.\n')
    assert '__all__ = ["x", "z"]' in texts["thing.py"]
    assert texts["other.py"].startswith('"""Its other half.\n')
    assert '__all__ = ["y", "w"]' in texts["other.py"]


def test_package_docstring_imports_and_version(write_chapter, tmp_path):
    cell = (
        '#| export\n"""Short example."""\n\nfrom cnn.a import B, g\n\n__version__ = "1"'
    )
    write_chapter("package", HEAD, ("code", "#| default_exp __init__"), ("code", cell))
    text = export.modules(tmp_path)["__init__.py"]
    assert text.startswith('"""Short example.\n\nExported from book/package.ipynb')
    assert "from .a import B, g" in text
    assert '__all__ = ["B", "g"]' in text
    assert '__version__ = "1"' in text


def test_a_cell_may_say_what_is_public(write_chapter, tmp_path):
    cell = """#| default_exp __init__
#| export
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnn.a import B

__all__ = ["B"]


def __getattr__(name):
    return name"""
    write_chapter("package", HEAD, ("code", cell))
    text = export.modules(tmp_path)["__init__.py"]
    assert text.count("__all__") == 1
    assert '__all__ = ["B"]' in text
    assert "if TYPE_CHECKING:\n    from cnn.a import B\n" in text


def test_what_a_module_may_hold(write_chapter, tmp_path):
    cell = """#| export
import atexit

table = {}
table["a"] = 1
atexit.done = False
try:
    import numba
except ImportError:
    numba = None
atexit.register(table.clear)"""
    write_chapter("01-thing", HEAD, MODULE, ("code", cell))
    text = export.modules(tmp_path)["thing.py"]
    assert '__all__ = ["table"]' in text
    assert text.endswith(cell.partition("atexit\n\n")[2] + "\n")


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("#| export\ndef f(:\n    pass", "plain Python"),
        ("#| export\n%matplotlib inline\nx = 1", "plain Python"),
        ("#| export\nprint('loud')", "definitions only, not `print('loud')`"),
        ("#| export\nx = 1\n'a string'", "definitions only, not `'a string'`"),
        ("#| export\nfor x in range(3):\n    pass", "imports and definitions only"),
        ("#| export\nfrom cnn.data import *", "not *"),
        ("#| export other\nx = 1", "no #| default_exp other"),
        ("#| default_exp thing", "another chapter begins thing.py"),
        ("#| export first\ny = 1", "cnn/first.py has its y from 00-first"),
    ],
)
def test_what_cannot_be_exported_is_named(write_chapter, tmp_path, capsys, cell, word):
    defined = ("code", "#| default_exp first\n#| export\ny = 1")
    write_chapter("00-first", HEAD, defined)
    write_chapter("01-thing", HEAD, MODULE, ("code", cell))
    package = tmp_path / "cnn"
    assert export.main([], book=tmp_path, package=package) == 1
    error = capsys.readouterr().err
    assert "01-thing.ipynb, cell cell-2" in error
    assert word in error
    assert not package.exists()


def test_export_needs_a_module(write_chapter, tmp_path):
    write_chapter("01-a", HEAD, ("code", "#| export\nx = 1"))
    with pytest.raises(export.ExportError, match="default_exp"):
        export.modules(tmp_path)
