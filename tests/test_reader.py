"""The reader's edition: nothing that only the build can read, true values, and it runs alone."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import sys
import urllib.parse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lab
import nbformat
import pytest
from chapters import BOOK, Chapter, read_all, tree
from conftest import ROOT, build_once
from nbclient import NotebookClient
from PIL import Image

sys.path.insert(0, str(BOOK / "_ext"))
import history
import reader

CHAPTERS = read_all()
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
RAW = {
    "a role": r"\{[a-z]+(:[a-z]+)?\}`[^`]",
    "a directive": r"^\s*(`{3,}|:{3,})\{",
    "an option": r"^:(label|class|name):",
    "a label": r"\$\$ *\([\w:-]+\)\s*$",
    "a cell's directive": r"^\s*#\| ?(default_exp|export|check)\b",
    "a key": r"\bch\d\d-[a-z][\w-]*`",
    "glue": r"(?<![\"'\w])glue\(|^\s*from myst_nb import",
    "a target": r"^\([\w:-]+\)=$",
}
PASTED = re.compile(r"\{glue:text\}`(?:([\w.-]+)::)?([\w.-]+)(?::\w*)?`")
LINK = re.compile(r"\]\(([\w.-]*?)(?:\.ipynb)?(#[^)]*)?\)")


@pytest.fixture(scope="session")
def edition(request: pytest.FixtureRequest, tmp_path_factory) -> Path:
    """Return the folder of the notebooks: beside the pages, or built alone for `make check`."""
    if "CNN_SITE" in os.environ or "check" not in request.config.option.markexpr:
        return request.getfixturevalue("site").parent / "notebooks"
    dummy = ("--builder", "custom", "--custom-builder", "dummy")
    return build_once(tmp_path_factory, "edition", *dummy) / "notebooks"


def read(edition: Path, name: str) -> nbformat.NotebookNode:
    """Return a notebook, which must be valid."""
    notebook = nbformat.read(edition / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def markdown(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the texts of a notebook."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


@pytest.mark.check
def test_every_reference_has_its_target(edition: Path):
    names = {path.stem for path in edition.glob("*.ipynb")}
    assert names == {"index", *(chapter.name for chapter in CHAPTERS)}


@pytest.mark.check
@each_chapter
def test_nothing_is_left_that_only_the_build_can_read(edition: Path, chapter: Chapter):
    for cell in read(edition, chapter.name).cells[2:]:
        for what, pattern in RAW.items():
            found = re.search(pattern, cell.source, re.MULTILINE)
            assert not found, (cell.id, what, found[0])


@pytest.mark.check
@each_chapter
def test_values_are_those_of_the_stored_outputs(edition: Path, chapter: Chapter):
    """Lines with values, and no other role, are compared word by word."""
    stored = {}
    for other in CHAPTERS:
        for output in (output for cell in other.code for output in cell.outputs):
            if about := output.get("metadata", {}).get("scrapbook"):
                (value,) = output["data"].values()
                stored[other.path.name, about["name"]] = str(ast.literal_eval(value))
    texts = "\n".join(markdown(read(edition, chapter.name)))
    here = chapter.path.name
    for line in chapter.prose.split("\n"):
        told = PASTED.sub(lambda m: stored[m[1] or here, m[2]], line)
        if told != line and not re.search(r"\{[a-z:]+\}`", told):
            assert told.strip() in texts


@pytest.mark.check
@each_chapter
def test_links_lead_to_chapters_and_their_sections(edition: Path, chapter: Chapter):
    for text in markdown(read(edition, chapter.name)):
        for page, fragment in LINK.findall(text):
            if not re.match(r"https?:", page):
                target = page or chapter.name
                assert (edition / f"{target}.ipynb").is_file(), (page, text)
                if fragment:
                    wanted = urllib.parse.unquote(fragment[1:]).replace("-", " ")
                    titles = re.findall(
                        r"^#+ (.*)$",
                        "\n".join(markdown(read(edition, target))),
                        re.MULTILINE,
                    )
                    known = [re.sub(r"[`$]", "", t).replace("-", " ") for t in titles]
                    assert wanted in known, fragment


@pytest.mark.check
@each_chapter
def test_formulas_figures_exercises_and_sources_are_whole(
    edition: Path, chapter: Chapter
):
    notebook = read(edition, chapter.name)
    text = "\n".join(markdown(notebook))
    labels = re.findall(r"\$\$ *\(([\w:-]+)\) *$", chapter.prose, re.MULTILINE)
    tags = re.findall(r"\\tag\{([\d.]+)\}", text)
    assert len(tags) == len(set(tags)) == len(labels)
    assert len(re.findall(r"^#### Exercise \d", text, re.MULTILINE)) == len(
        re.findall(r"^`{3,}\{exercise\}", chapter.prose, re.MULTILINE)
    )
    assert text.count("<details>") == text.count("</details>")
    starts = chapter.prose.count("{solution-start}")
    assert text.count("<summary>Solution of exercise") == starts
    assert ("{cite" in chapter.prose) == ("## References" in text)
    names = [c.metadata.get("mystnb", {}).get("figure") for c in chapter.code]
    assert len(re.findall(r"^\*\*Fig\. [\d.]+\*\* ", text, re.MULTILINE)) == len(
        [name for name in names if name]
    )


@each_chapter
def test_figures_are_on_white_and_as_wide_as_drawn(edition: Path, chapter: Chapter):
    for cell in read(edition, chapter.name).cells:
        for output in cell.get("outputs", []):
            assert "scrapbook" not in output.get("metadata", {})
            if png := output.get("data", {}).get("image/png"):
                picture = Image.open(io.BytesIO(base64.b64decode(png)))
                assert picture.mode == "P", cell.id
                assert "transparency" not in picture.info, cell.id
                about = output.metadata["image/png"]
                assert len(about["alt"]) > 20
                assert about["width"] == round(picture.width * 0.6)
                assert "needs_background" not in output.metadata


@pytest.mark.check
@each_chapter
def test_code_is_that_of_the_book(edition: Path, chapter: Chapter):
    """Nothing but ``glue``, its import and directives is gone; numbers stand for roles."""
    shown = {cell.id: cell for cell in read(edition, chapter.name).cells}
    for cell in chapter.code:
        if cell.id in shown and tree(cell.source).body:
            assert tree(shown[cell.id].source).body, cell.id
        for node in ast.walk(tree(shown[cell.id].source if cell.id in shown else "")):
            assert not (isinstance(node, ast.Name) and node.id == "glue"), cell.id
    texts = "\n".join(c.source for c in shown.values() if c.cell_type == "markdown")
    for block in re.findall(r"(?ms)^```python\n.*?^```", chapter.prose):
        assert block in texts or "{eq}" in block, block
    counts = [c.execution_count for c in shown.values() if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", ["03-gradient-check", "05-activations", "errata"])
def test_a_chapter_runs_alone_in_an_empty_folder(
    edition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv("CNN_DATA", str(tmp_path / "nothing"))
    notebook = read(edition, name)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=None, resources=place).execute()
    (about,) = {
        tuple(output.metadata)
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    } or {()}
    assert "needs_background" not in about


@pytest.mark.check
def test_what_a_chapter_imports_from_the_book_comes_along():
    files = reader.needed("from mistakes import DEMOS\nplt.style.use('book.mplstyle')")
    assert set(files) == {"mistakes.py", "checks.py", "_static/book.mplstyle"}
    assert "none" not in files["_static/book.mplstyle"]
    answer = 'from exercises import check\ncheck("ex-conv-unread", unread)'
    assert set(reader.needed(answer)) == {
        "exercises.py",
        "answers/__init__.py",
        "answers/convolution.py",
    }
    (bench,) = reader.needed('Path("runs/bench.json")').values()
    assert json.loads(bench) == json.loads((BOOK / "runs/bench.json").read_text())


@pytest.mark.check
def test_notes_are_block_quotes():
    writer = reader.Writer(None, CHAPTERS[0])
    text = "Before.\n\n```{note}\nOne\n\ntwo\n```\n\nAfter."
    assert writer.text(text) == (
        "Before.\n\n> **Note**\n> \n> One\n> \n> two\n\nAfter."
    )


@pytest.mark.check
@pytest.mark.parametrize(
    "place", ["https://github.com/you/book", "https://github.com/you/book/"]
)
def test_colab_and_binder_open_the_branch_of_notebooks(place: str):
    colab, binder = (url for _, _, url in reader.hosted(place, "04-dense"))
    assert colab.endswith("/github/you/book/blob/notebooks/04-dense.ipynb")
    assert binder.endswith("/gh/you/book/notebooks?labpath=04-dense.ipynb")
    workflow = (ROOT / ".github/workflows/pages.yml").read_text("utf-8")
    assert "--initial-branch notebooks" in workflow
    assert reader.hosted("", "04-dense") == []


@pytest.mark.check
def test_the_page_of_runs_says_what_is_stored_and_what_is_not():
    chapter = CHAPTERS[0]
    run = {"date": "2026-01-02", "seconds": 300.0, "data": "MNIST", "tier": "full"}
    run |= {
        "python": "3.11.7",
        "numpy": "2.4.6",
        "numba": "0.68.1",
        "torch": "2.13.0+cpu",
    }
    about = {**chapter.about, "metadata": {"run": run}}
    assert history.row(replace(chapter, about=about))[1:] == [
        "2026-\N{WORD JOINER}01-\N{WORD JOINER}02",
        "5\N{NO-BREAK SPACE}min",
        "MNIST",
        "Python 3.11.7, NumPy 2.4.6, Numba 0.68.1, PyTorch 2.13.0",
    ]
    without = replace(chapter, about={**chapter.about, "metadata": {}})
    assert history.row(without)[1:3] == [history.UNKNOWN] * 2
    records = json.loads((BOOK / "runs/replication.json").read_text("utf-8"))
    (*_, runs) = history.measurement("", "replication", "")
    assert runs.startswith(f"{len(records)} records, ")


@pytest.mark.check
def test_the_lab_keeps_what_the_reader_changed(tmp_path: Path):
    edition, place = tmp_path / "edition", tmp_path / "mine"
    (edition / "_static").mkdir(parents=True)
    for name in ("a.ipynb", "_static/b"):
        (edition / name).write_text("new")
    place.mkdir()
    (place / "a.ipynb").write_text("mine")
    assert lab.copy_missing(edition, place) == [place / "_static" / "b"]
    assert (place / "a.ipynb").read_text() == "mine"


@pytest.mark.check
@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("", ""),
        ("https://github.com/executablebooks/jupyter-book", ""),
        ("https://x/y/z/", "https://x/y/z"),
    ],
)
def test_the_repository_is_the_one_configured(address: str, known: str):
    """Jupyter Book names its own where the book names none."""
    config = SimpleNamespace(html_theme_options={"repository_url": address})
    assert reader.repository(SimpleNamespace(config=config)) == known


@pytest.mark.check
def test_the_buttons_of_a_page():
    def shown(address: str) -> dict:
        group = {"type": "group", "buttons": [{"label": "download-source-button"}]}
        context = {"header_buttons": [group], "pathto": lambda page, _: f"../{page}"}
        config = SimpleNamespace(html_theme_options={"repository_url": address})
        app = SimpleNamespace(config=config)
        reader.buttons(app, "book/04-dense", "page.html", context, None)
        return {
            b.get("text", "file"): b["url"]
            for g in context["header_buttons"]
            for b in g["buttons"]
        }

    assert shown("") == {"file": "../notebooks/04-dense.ipynb"}
    assert list(shown("https://github.com/you/book")) == ["Colab", "Binder", "file"]
