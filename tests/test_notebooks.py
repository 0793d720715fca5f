"""The chapters as files: outputs stored, nothing of one machine in them, figures described."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from chapters import BOOK, Cell, Chapter, read_all

pytestmark = pytest.mark.check

CHAPTERS = read_all()
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ABSOLUTE = re.compile(
    r"(?<![\w./:])/(?:home|Users|root|work|tmp|var|usr|opt|mnt)/|\b[A-Z]:\\\w"
)
EXERCISES = "calculate|explain|derive|write|find|try"
PASTE = re.compile(r"\{glue:\w*\}`([^`]+)`")
RECORDED = {
    "date",
    "seconds",
    "data",
    "tier",
    "cpu",
    "cores",
    "python",
    "numpy",
    "numba",
    "torch",
}
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)


def figure(cell: Cell) -> dict:
    """Return what a cell's metadata say about its figure."""
    about = cell.metadata.get("mystnb", {})
    return {**about.get("figure", {}), "alt": about.get("image", {}).get("alt", "")}


def draws(cell: Cell) -> bool:
    """Return whether a cell has a picture among its outputs."""
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def test_there_are_chapters():
    assert len(CHAPTERS) >= 14


@each_chapter
def test_outputs_are_stored_from_one_run(chapter: Chapter):
    counts = [cell.count for cell in chapter.code]
    wanted = list(range(1, len(counts) + 1))
    assert counts == wanted, f"run it: make run CHAPTER={chapter.name}"


@each_chapter
def test_no_errors_and_no_stderr(chapter: Chapter):
    for cell in chapter.code:
        for output in cell.outputs:
            assert output.get("name") != "stderr", (cell.id, output["text"])
            if output["output_type"] == "error":
                assert "raises-exception" in cell.tags, (cell.id, output["evalue"])


@each_chapter
def test_cell_ids_are_names(chapter: Chapter):
    ids = [cell.id for cell in chapter.cells]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) for name in ids), ids
    assert [name for name, count in Counter(ids).items() if count > 1] == []


@each_chapter
def test_metadata_are_the_same_on_every_machine(chapter: Chapter):
    wanted = {
        "metadata": {"kernelspec": KERNEL},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    about = json.loads(json.dumps(chapter.about))
    run = about["metadata"].pop("run", None)
    assert about == wanted
    assert run is None or run.keys() == RECORDED
    for cell in chapter.cells:
        unknown = cell.metadata.keys() - {"tags", "mystnb"}
        assert not unknown, (cell.id, unknown)


@each_chapter
def test_no_paths_of_this_machine_in_the_outputs(chapter: Chapter):
    for cell in chapter.code:
        for output in cell.outputs:
            data = output.get("data", {}).items()
            data = {kind: d for kind, d in data if not kind.startswith("image/")}
            texts = [data, output.get("text", ""), output.get("traceback", "")]
            found = ABSOLUTE.search(json.dumps(texts))
            assert not found, (cell.id, found)


@each_chapter
def test_no_star_imports(chapter: Chapter):
    for cell in chapter.code:
        star = re.search(r"^\s*from .* import \*", cell.source, re.MULTILINE)
        assert not star, cell.id


@each_chapter
def test_figures_have_name_caption_and_alt(chapter: Chapter):
    for cell in chapter.code:
        if draws(cell) and not {"remove-cell", "remove-output"} & cell.tags:
            about = figure(cell)
            assert about.get("name", "").startswith("fig-"), (cell.id, "no name fig-…")
            assert about.get("caption", "").strip(), (cell.id, "no caption")
            assert len(about["alt"]) > 20, (cell.id, "no alternative text")
            texts = [o for o in cell.outputs if o["output_type"] == "execute_result"]
            assert not texts, (cell.id, "an object's text is shown beside the figure")


def test_figure_names_are_unique_and_used():
    figures = [figure(cell) for chapter in CHAPTERS for cell in chapter.code]
    names = Counter(about["name"] for about in figures if "name" in about)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_exercise_has_a_solution():
    exercises, solutions = Counter(), Counter()
    for chapter in CHAPTERS:
        text = chapter.prose
        exercises.update(re.findall(r"\{exercise\}[^\n]*\n:label: *(\S+)", text))
        solutions.update(re.findall(r"\{solution(?:-start)?\} *(\S+)", text))
        starts, ends = (text.count(f"{{solution-{end}}}") for end in ("start", "end"))
        assert starts == ends, chapter.name
    assert exercises == solutions
    assert set(exercises.values()) <= {1}


@each_chapter
def test_exercises_of_several_kinds(chapter: Chapter):
    """From a calculation to a program; each says what it asks for, and how much."""
    if not chapter.name[:2].isdigit():
        return
    titles = re.findall(r"\{exercise\} *([^\n]*)\n", chapter.prose)
    assert 3 <= len(titles) <= 6
    kinds = [re.fullmatch(rf".+ · ({EXERCISES}) ★{{1,3}}", title) for title in titles]
    assert all(kinds), titles
    assert {"write", "find", "try"} <= {kind[1] for kind in kinds}
    for text in re.findall(
        r"\{exercise\}[^\n]* · write ★.*?```", chapter.prose, re.DOTALL
    ):
        assert re.search(r"`\w+\([^`]*\)`", text), "no name and arguments to write"


@each_chapter
def test_no_table_is_torn(chapter: Chapter):
    """After a blank line, rows without a head are words and bars."""
    for rows in re.findall(r"(?m)^(?:\|.*(?:\n|$))+", chapter.prose):
        head, rule, *_ = [*rows.splitlines(), ""]
        assert re.fullmatch(r"\|[-:| ]+\|", rule), head


@each_chapter
def test_no_letter_is_invisible(chapter: Chapter):
    """A backslash that a program read as a bell or a tab leaves a formula that is none."""
    for cell in chapter.cells:
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", cell.text), cell.where


def test_every_solution_is_run():
    for chapter in CHAPTERS:
        solution = None
        for cell in chapter.cells:
            if "{solution-start}" in cell.text:
                solution = []
            elif "{solution-end}" in cell.text:
                code = "\n".join(solution)
                assert re.search(r"\bassert\b|check_gradient\(|print\(|show\(", code), (
                    cell.where
                )
                solution = None
            elif solution is not None and cell.kind == "code":
                solution.append(cell.source)


def test_pasted_results_exist_and_glued_results_are_pasted():
    glued = {
        (chapter.path.name, output["metadata"]["scrapbook"]["name"])
        for chapter in CHAPTERS
        for cell in chapter.code
        for output in cell.outputs
        if "scrapbook" in output.get("metadata", {})
    }
    texts = {path: path.read_text("utf-8") for path in BOOK.glob("*.md")}
    for chapter in CHAPTERS:
        captions = json.dumps([figure(cell) for cell in chapter.code])
        texts[chapter.path] = chapter.prose + captions
    pasted = set()
    for path, text in texts.items():
        for role in PASTE.findall(text):
            page, _, key = role.rpartition("::")
            pasted.add((page or path.name, key.partition(":")[0]))
    assert pasted - glued == set(), "pasted, but no cell glues it"
    assert glued - pasted == set(), "glued, but no text pastes it"
