"""The Makefile and its tools: any path, any tier, and the targets that README names."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import run
from conftest import ROOT

pytestmark = pytest.mark.check

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE)
SAY = '#!/bin/sh\nprintf "%s|" "$CNN_DATA" "$@"\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder as make finds it: set up, but its Python only says what it is told."""
    folder = tmp_path / "Bücher und mehr"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / ".venv" / "bin" / "python").write_text(SAY)
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    (folder / ".venv" / ".stamp").touch()
    return folder


@pytest.mark.parametrize("target", ["test", "run", "train", "bench", "replicate"])
@pytest.mark.parametrize("data", ["some where/with space", "/ä/$HOME/'", "plain"])
def test_the_path_of_the_data_arrives(clone: Path, target: str, data: str) -> None:
    """A program that trained on other data, in a folder made of half a path, would mislead."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    command = ["make", "--silent", target]
    done = subprocess.run(
        command, cwd=clone, env=env | {"CNN_DATA": data}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition("|")[0] == data


SHOW = """
import os, tiers
print(os.environ["CNN_DATA"], tiers.pick(seconds=1, minutes=2, full=3))
"""


@pytest.mark.parametrize(("tier", "picked"), [(None, "3"), ("minutes", "2")])
def test_chapters_run_in_full_on_the_data_that_was_named(
    write_chapter: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tier: str | None,
    picked: str,
) -> None:
    """A chapter runs in its own folder: from there the path would lead elsewhere."""
    monkeypatch.delenv("CNN_TIER", raising=False)
    if tier:
        monkeypatch.setenv("CNN_TIER", tier)
    path = write_chapter("01-made-up", ("code", SHOW))
    (path.parent / "tiers.py").write_bytes((ROOT / "book" / "tiers.py").read_bytes())
    (path.parent / "else where").mkdir()
    monkeypatch.chdir(path.parent / "else where")
    monkeypatch.setenv("CNN_DATA", "a b")
    assert run.main(["--book", str(path.parent)]) == 0
    (cell,) = nbformat.read(path, as_version=4).cells
    assert cell.outputs[0].text == f"{Path.cwd() / 'a b'} {picked}\n"


def test_a_run_is_recorded_and_a_second_one_changes_no_byte(
    write_chapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNN_TIER", "seconds")
    path = write_chapter(
        "01-made-up", ("code", "from cnn.data import digits\ndigits().name")
    )
    assert run.main(["--book", str(path.parent)]) == 0
    first = path.read_bytes()
    record = nbformat.read(path, as_version=4).metadata["run"]
    assert (record["data"], record["tier"]) == ("embedded digits", "seconds")
    assert record["seconds"] > 0
    assert platform.node() not in str(record)
    assert run.main(["--book", str(path.parent)]) == 0
    assert path.read_bytes() == first
    monkeypatch.setenv("CNN_TIER", "minutes")
    assert run.main(["--book", str(path.parent)]) == 0
    assert path.read_bytes() != first


def test_a_kernel_that_dies_is_told(write_chapter: Callable[..., Path]) -> None:
    """Without a limit in seconds nothing else would end the wait for its answer."""
    path = write_chapter("01-made-up", ("code", "import os; os._exit(1)"))
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--nbval"]
    command += ["--nbval-current-env", str(path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=path.parent, env=env, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    assert "the kernel died" in done.stdout


def test_targets_are_named() -> None:
    """Each is in the README, and help lists it."""
    assert {"book", "test", "fuzz", "check"} <= {*TARGETS}
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [
        t for t in TARGETS if f"`{t}`" not in readme and f"make {t}" not in readme
    ] == ["help"]
