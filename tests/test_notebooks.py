"""The chapters as files: outputs stored, nothing of one machine in them, figures described."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.check

BOOK = ROOT / "book"
CHAPTERS = sorted(BOOK.glob("*.ipynb"))
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ABSOLUTE = re.compile(
    r"(?<![\w./:])/(?:home|Users|root|work|tmp|var|usr|opt|mnt)/|\b[A-Z]:\\\w"
)
PASTE = re.compile(r"\{glue:\w*\}`([^`]+)`")
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@cache
def notebook(path: Path) -> dict:
    """Return a chapter's content, the sources joined."""
    content = json.loads(path.read_text("utf-8"))
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"])
    return content


def code(path: Path) -> list[dict]:
    """Return a chapter's code cells."""
    return [cell for cell in notebook(path)["cells"] if cell["cell_type"] == "code"]


def text(path: Path) -> str:
    """Return a chapter's Markdown, or a page's."""
    if path.suffix == ".md":
        return path.read_text("utf-8")
    cells = notebook(path)["cells"]
    return "\n\n".join(
        cell["source"] for cell in cells if cell["cell_type"] == "markdown"
    )


def tags(cell: dict) -> list[str]:
    """Return a cell's tags."""
    return cell["metadata"].get("tags", [])


def figure(cell: dict) -> dict:
    """Return what a cell's metadata say about its figure."""
    about = cell["metadata"].get("mystnb", {})
    return {**about.get("figure", {}), "alt": about.get("image", {}).get("alt", "")}


def draws(cell: dict) -> bool:
    """Return whether a cell has a picture among its outputs."""
    return any("image/png" in output.get("data", {}) for output in cell["outputs"])


def test_there_are_chapters():
    assert len(CHAPTERS) >= 14


@each_chapter
def test_outputs_are_stored_from_one_run(path):
    counts = [cell["execution_count"] for cell in code(path)]
    assert counts == list(range(1, len(counts) + 1)), (
        "run it: make run CHAPTER=" + path.stem
    )


@each_chapter
def test_no_errors_and_no_stderr(path):
    for cell in code(path):
        for output in cell["outputs"]:
            assert output.get("name") != "stderr", (cell["id"], output["text"])
            if output["output_type"] == "error":
                assert "raises-exception" in tags(cell), (cell["id"], output["evalue"])


@each_chapter
def test_cell_ids_are_names(path):
    ids = [cell["id"] for cell in notebook(path)["cells"]]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) for name in ids), ids
    assert [name for name, count in Counter(ids).items() if count > 1] == []


@each_chapter
def test_metadata_are_the_same_on_every_machine(path):
    content = notebook(path)
    assert content["metadata"] == {"kernelspec": KERNEL}
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    for cell in content["cells"]:
        unknown = cell["metadata"].keys() - {"tags", "mystnb"}
        assert not unknown, (cell["id"], unknown)


@each_chapter
def test_no_paths_of_this_machine_in_the_outputs(path):
    for cell in code(path):
        for output in cell["outputs"]:
            data = {
                k: v
                for k, v in output.get("data", {}).items()
                if not k.startswith("image/")
            }
            shown = json.dumps(
                [data, output.get("text", ""), output.get("traceback", "")]
            )
            assert not ABSOLUTE.search(shown), (cell["id"], ABSOLUTE.search(shown))


@each_chapter
def test_no_star_imports(path):
    for cell in code(path):
        assert not re.search(r"^\s*from .* import \*", cell["source"], re.MULTILINE), (
            cell["id"]
        )


@each_chapter
def test_figures_have_name_caption_and_alt(path):
    for cell in code(path):
        if draws(cell) and not {"remove-cell", "remove-output"} & set(tags(cell)):
            about = figure(cell)
            assert about.get("name", "").startswith("fig-"), (
                cell["id"],
                "no name fig-...",
            )
            assert about.get("caption", "").strip(), (cell["id"], "no caption")
            assert len(about["alt"]) > 20, (cell["id"], "no alternative text")
            texts = [o for o in cell["outputs"] if o["output_type"] == "execute_result"]
            assert not texts, (
                cell["id"],
                "the text of an object is shown beside the figure",
            )


def test_figure_names_are_unique_and_used():
    names = Counter(
        figure(cell)["name"]
        for path in CHAPTERS
        for cell in code(path)
        if "name" in figure(cell)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_every_exercise_has_a_solution():
    exercises, solutions = Counter(), Counter()
    for path in CHAPTERS:
        exercises.update(re.findall(r"\{exercise\}[^\n]*\n:label: *(\S+)", text(path)))
        solutions.update(re.findall(r"\{solution(?:-start)?\} *(\S+)", text(path)))
        starts, ends = (
            text(path).count("{solution-" + end) for end in ("start}", "end}")
        )
        assert starts == ends, path.name
    assert exercises == solutions
    assert set(exercises.values()) <= {1}


def test_pasted_results_exist_and_glued_results_are_pasted():
    glued = {
        (path.name, output["metadata"]["scrapbook"]["name"])
        for path in CHAPTERS
        for cell in code(path)
        for output in cell["outputs"]
        if "scrapbook" in output.get("metadata", {})
    }
    pasted = set()
    for path in [*CHAPTERS, *BOOK.glob("*.md")]:
        captions = (
            "" if path.suffix == ".md" else json.dumps([figure(c) for c in code(path)])
        )
        for role in PASTE.findall(text(path) + captions):
            page, _, key = role.rpartition("::")
            pasted.add((page or path.name, key.partition(":")[0]))
    assert pasted - glued == set(), "pasted, but no cell glues it"
    assert glued - pasted == set(), "glued, but no text pastes it"
