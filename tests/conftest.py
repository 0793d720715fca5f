"""What the tests share: where things are, and small notebooks made up for a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Cell = tuple[str, str]


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
