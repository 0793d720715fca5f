"""Execute chapters in place and store their outputs.

    python book/tools/run.py                    all chapters
    python book/tools/run.py 10-convolution…    the named ones

A chapter that fails is left as it was; the message names the cell. The metadata say when a chapter
was run, for how long, on which data and with which versions. A re-run of an unchanged deterministic
chapter changes no byte, of this record neither. Where ``CNN_TIER`` does not say otherwise, chapters
train in full.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from machine import machine
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from cnn.data import mnist_folder

BOOK = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


SHORT = ("date", "seconds")  # of a record, what differs from run to run
FOREVER = 10**9  # seconds: a kernel that dies is noticed without


def execute(path: Path) -> None:
    """Execute one chapter and write it back, whole or not at all."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["kernelspec"] = dict(KERNEL)
    place = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook,
        timeout=None,
        startup_timeout=FOREVER,
        iopub_timeout=FOREVER,
        record_timing=False,
        coalesce_streams=True,
        resources=place,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    current, start = {}, time.perf_counter()
    client.on_cell_start = lambda cell, cell_index: current.update(
        cell=cell.get("id", cell_index)
    )
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        raise RuntimeError(
            f"{path.name}, cell {current.get('cell')}:\n{error}"
        ) from error
    notebook.metadata.pop("language_info", None)
    notebook.metadata["run"] = record(notebook, time.perf_counter() - start)
    if same(notebook, nbformat.read(path, as_version=4)):
        return
    nbformat.validate(notebook)
    beside = path.with_name(f".{path.name}.part")
    nbformat.write(notebook, beside)
    os.replace(beside, path)


def record(notebook: NotebookNode, seconds: float) -> dict:
    """Return what is worth knowing of a run: when, how long, on which data, with what."""
    source = "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "code"
    )
    data = ""
    if re.search(r"\b(load|mnist)\(", source):
        data = "MNIST" if mnist_folder().is_dir() else "embedded digits"
    elif re.search(r"\bdigits\(", source):
        data = "embedded digits"
    tier = os.environ.get("CNN_TIER") or "full"
    return machine() | {"seconds": round(seconds, 1), "data": data, "tier": tier}


def same(new: NotebookNode, old: NotebookNode) -> bool:
    """Return whether a run has changed nothing but the time it took and the day."""
    runs = [
        {
            key: value
            for key, value in notebook.metadata.get("run", {}).items()
            if key not in SHORT
        }
        for notebook in (new, old)
    ]
    return new.cells == old.cells and runs[0] == runs[1]


def select(book: Path, names: list[str]) -> list[Path]:
    """Return the chapters with the given names (``10``, ``10-name`` or a path), or all."""
    everything = sorted(book.glob("*.ipynb"))
    chosen = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        match = [
            p for p in everything if p.stem == stem or p.stem.startswith(f"{stem}-")
        ]
        if not match:
            known = ", ".join(p.stem for p in everything)
            raise SystemExit(f"run: no chapter {name!r}; there are {known}")
        chosen += match
    return chosen or everything


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Execute chapters and store their outputs."
    )
    parser.add_argument(
        "chapters", nargs="*", help="names such as 11-convolution-gradient or 10"
    )
    parser.add_argument("--book", type=Path, default=BOOK, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    # the chapters run in their own folder
    os.environ["CNN_DATA"] = os.path.abspath(os.environ.get("CNN_DATA") or "data")
    failed = 0
    for path in select(args.book, args.chapters):
        start = time.perf_counter()
        print(f"{path.stem} ... ", end="", flush=True)
        try:
            execute(path)
        except RuntimeError as error:
            failed += 1
            print(f"failed; the file is unchanged\n{error}", flush=True)
        else:
            print(f"{time.perf_counter() - start:.1f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
