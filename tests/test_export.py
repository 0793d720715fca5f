"""The package is what the chapters export."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import export
import pytest
from conftest import ROOT

pytestmark = pytest.mark.check

HEAD = ("markdown", "# A chapter")
MODULE = ("code", "#| default_exp thing")


def run(*args: str | Path) -> subprocess.CompletedProcess:
    """Run the exporter's command line."""
    command = [sys.executable, ROOT / "book" / "tools" / "export.py", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_package_is_in_sync():
    result = run("--check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_edited_module_is_found_and_shown(tmp_path):
    package = tmp_path / "cnn"
    shutil.copytree(ROOT / "cnn", package, ignore=shutil.ignore_patterns("__pycache__"))
    module = package / "losses.py"
    module.write_text(module.read_text("utf-8") + "\nEDITED = True\n", "utf-8")
    result = run("--check", "--package", package)
    assert result.returncode == 1
    assert "-EDITED = True" in result.stdout
    assert "cnn/losses.py" in result.stderr
    assert "EDITED" in module.read_text("utf-8"), "--check must change nothing"


def test_a_stray_module_is_found(tmp_path):
    package = tmp_path / "cnn"
    shutil.copytree(ROOT / "cnn", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "stray.py").write_text("x = 1\n", "utf-8")
    assert run("--check", "--package", package).returncode == 1
    result = run("--package", package)
    assert result.returncode == 1
    assert "stray.py" in result.stderr


def test_export_is_deterministic():
    assert export.modules() == export.modules()


def test_module_reads_like_a_module(write_chapter, tmp_path):
    write_chapter(
        "01-thing",
        HEAD,
        MODULE,
        ("markdown", "## First\n\n```text\n# no heading\n```"),
        (
            "code",
            "#| export\nimport numpy as np\n\nfrom cnn.a import g\n\n\ndef f():\n    pass",
        ),
        ("markdown", "## Nothing exported here"),
        ("code", "x = 1"),
        ("markdown", "## Second"),
        (
            "code",
            "#| export\nimport gzip\n\nfrom cnn.a import B\n\n_hidden = 1  # why\nSEEN = 2",
        ),
    )
    assert export.modules(tmp_path)["thing.py"] == (
        '"""A chapter.\n\n'
        "Exported from book/01-thing.ipynb: edit the chapter and run `make export`.\n"
        '"""\n\n'
        "import gzip\n\nimport numpy as np\n\nfrom .a import B, g\n\n"
        '__all__ = ["f", "SEEN"]\n\n\n'
        "# --- First ---\n\n\ndef f():\n    pass\n\n\n"
        "# --- Second ---\n\n\n_hidden = 1  # why\nSEEN = 2\n"
    )


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


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("#| export\ndef f(:\n    pass", "plain Python"),
        ("#| export\n%matplotlib inline\nx = 1", "plain Python"),
        ("#| export\nprint('loud')", "imports and definitions only"),
        ("#| export\nfrom cnn.data import *", "not *"),
    ],
)
def test_what_cannot_be_exported_is_named(write_chapter, tmp_path, cell, word):
    write_chapter("01-thing", HEAD, MODULE, ("code", cell))
    result = run("--book", tmp_path, "--package", tmp_path / "cnn")
    assert result.returncode == 1
    assert "01-thing.ipynb, cell cell-2" in result.stderr
    assert word in result.stderr
    assert not (tmp_path / "cnn").exists()


def test_two_chapters_cannot_export_one_module(write_chapter, tmp_path):
    for name in ("01-a", "02-b"):
        write_chapter(name, HEAD, MODULE, ("code", "#| export\nx = 1"))
    with pytest.raises(export.ExportError, match=r"02-b\.ipynb and 01-a\.ipynb"):
        export.modules(tmp_path)


def test_export_needs_a_module(write_chapter, tmp_path):
    write_chapter("01-a", HEAD, ("code", "#| export\nx = 1"))
    with pytest.raises(export.ExportError, match="default_exp"):
        export.modules(tmp_path)
