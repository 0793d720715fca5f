"""What the tests share: no limit in seconds, the built pages, notebooks made up for a test."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent
Cell = tuple[str, str]

# The chapters run inside book/, and train for minutes unless told otherwise.
os.environ["CNN_DATA"] = os.path.abspath(os.environ.get("CNN_DATA") or "data")
os.environ.setdefault("CNN_TIER", "minutes")
STEP = (
    1 if os.environ["CNN_TIER"] == "full" else 3
)  # of many alike, each third is tried
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several at work: a core for each
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# How fast a machine is says nothing about the code.
settings.register_profile(
    "no clock",
    deadline=None,
    max_examples=100 // STEP,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("no clock")

# What computes longest, first: so several workers end together. What starts several processes
# itself comes last, when the other workers have nothing left to do.
LONGEST = (
    "test_book",
    "test_conv",
    "test_live",
    "test_program",
    "14-pooling",
    "test_pictures",
    "test_gpu",
    "test_reader",
    "20-pytorch",
    "33-pictures",
    "19-mnist",
    "22-handwriting",
)
LAST = ("27-many-machines", "test_parallel")


def imports(path: Path) -> set[str]:
    """Return what a test file imports at its top, itself or by way of its neighbours."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    folders = [ROOT / place for place in ("tests", "book", "book/tools", "book/_ext")]
    near = [folder / f"{name}.py" for name in found for folder in folders]
    return found.union(*(imports(file) for file in near if file.is_file()))


# A test file is left out where what it compares with, or builds with, is not installed.
OPTIONAL = {
    "PIL", "bs4", "docutils", "nbclient", "nbformat", "numba", "numpydoc", "safetensors",
    "sklearn", "threadpoolctl", "torch", "yaml",
}  # fmt: skip
MISSING = {name for name in OPTIONAL if importlib.util.find_spec(name) is None}
LEFT_OUT = {
    path.stem: sorted(wanted)
    for path in sorted(ROOT.glob("tests/test_*.py"))
    if MISSING and (wanted := imports(path) & MISSING)
}
collect_ignore = [f"tests/{name}.py" for name in LEFT_OUT]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Let one worker more than there are cores run: some wait for a browser or a program."""
    return (os.cpu_count() or 1) + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what is left out, and why."""
    for name, packages in LEFT_OUT.items():
        terminalreporter.line(f"left out: {name}, without {', '.join(packages)}")


def pytest_configure(config: pytest.Config) -> None:
    """Let nbval wait for a kernel as long as it lives."""
    if not config.getoption("nbval", False):
        return
    from nbval.kernel import Empty, RunningKernel

    config.option.nbval_cell_timeout = None
    config.option.nbval_kernel_startup_timeout = None
    get_message = RunningKernel.get_message

    def patient(self: RunningKernel, stream: str, timeout: float | None = None) -> dict:
        while True:
            try:
                return get_message(self, stream, timeout=1)
            except Empty:
                if (
                    timeout == 1
                ):  # nbval asks whether the channel is up, again and again
                    raise
                if not self.is_alive():
                    raise RuntimeError("the kernel died") from None

    RunningKernel.get_message = patient


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what computes longest first; within a file the order stays."""
    order = {stem: place for place, stem in enumerate(LONGEST)}
    order |= {stem: len(items) + place for place, stem in enumerate(LAST, 1)}
    items.sort(key=lambda item: order.get(item.path.stem, len(items)))


@pytest.fixture
def write_chapter(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a notebook of ``(kind, source)`` cells into ``tmp_path``."""

    def write(name: str, *cells: Cell) -> Path:
        content = []
        for number, (kind, source) in enumerate(cells):
            cell = {
                "id": f"cell-{number}",
                "cell_type": kind,
                "metadata": {},
                "source": source,
            }
            if kind == "code":
                cell |= {"execution_count": None, "outputs": []}
            content.append(cell)
        path = tmp_path / f"{name}.ipynb"
        notebook = {
            "cells": content,
            "metadata": {},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        path.write_text(json.dumps(notebook), "utf-8")
        return path

    return write


def jupyter_book(out: Path, *options: str) -> subprocess.CompletedProcess:
    """Build the book below ``out``; every warning is an error."""
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        ROOT,
        "--path-output",
        out,
    ]
    command += ["--all", "-W", "-n", "--keep-going", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def warnings(result: subprocess.CompletedProcess) -> str:
    """Return a build's warnings, or where there are none the end of what it printed."""
    lines = (result.stdout + result.stderr).splitlines()
    found = [line for line in lines if "WARNING" in line or "ERROR" in line]
    return "\n".join(found or lines[-30:])


def build_once(factory: pytest.TempPathFactory, name: str, *options: str) -> Path:
    """Build the book once for all workers; return the folder that it is built in."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    out, done = shared / name, shared / f"{name}-done"
    try:
        out.mkdir()
    except FileExistsError:  # another worker builds it
        while not done.exists():
            time.sleep(0.5)
    else:
        build(out, done, options)
    assert not done.read_text("utf-8"), done.read_text("utf-8")
    return out / "_build"


def build(out: Path, done: Path, options: tuple[str, ...]) -> None:
    """Build the book below ``out``; ``done`` then holds its warnings, if any."""
    problems = "the build was stopped"
    try:
        result = jupyter_book(out, *options)
        problems = warnings(result) if result.returncode else ""
    finally:
        part = done.with_suffix(".part")
        part.write_text(problems, "utf-8")
        part.replace(done)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the pages: built once, or that of CNN_SITE."""
    if "CNN_SITE" in os.environ:
        return Path(os.environ["CNN_SITE"]).resolve()
    return build_once(tmp_path_factory, "site") / "html"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Start Chromium, if there is one."""
    from browser import CHROMIUM, launch

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the pages are not tried in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()
