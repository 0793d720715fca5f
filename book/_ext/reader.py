"""The reader's edition: each chapter as a notebook that needs nothing of the book to be read.

Where the book's own notebook says ``{eq}`` or ``{glue:text}``, this one has the number; formulas
carry theirs, figures their caption and a white ground, exercises their heading, solutions are
folded, and what the code needs of the book's folder comes along. The build writes the edition to
``_build/notebooks``, and for the pages also into the site, with all chapters as one zip.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import shutil
import textwrap
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from chapters import (
    BOOK,
    Cell,
    Chapter,
    contents,
    headings,
    minutes,
    read_all,
    without_glue,
)
from docutils import nodes
from PIL import Image
from pybtex.database import Entry, parse_file
from pybtex.plugin import find_plugin
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROLE = re.compile(r"(?<!`)\{([a-z]+(?::[a-z]+)?)\}`([^`]+)`")
FENCE = re.compile(r"(\s*)(`{3,}|:{3,})\{([\w:-]+)\}\s*(.*)")
LABELLED = re.compile(r"\$\$[ ]*\(([\w:-]+)\)[ ]*$", re.MULTILINE)
NOTES = {
    "note",
    "tip",
    "hint",
    "important",
    "warning",
    "caution",
    "seealso",
    "admonition",
}
ALL = "all-chapters.zip"
PACKAGE = "cnn-from-first-principles[notebooks]"

UNPACK = """\
# What this chapter takes from the book's folder. Nothing that is there already is changed.
def unpack(files):
    import base64
    import zlib
    from pathlib import Path

    for name, text in files.items():
        if isinstance(text, bytes):  # long ones are packed, and answers not to be read at once
            text = zlib.decompress(base64.b85decode(text)).decode()
        if not Path(name).exists():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text, "utf-8")


"""
NEEDED = """\
import importlib.util

if importlib.util.find_spec("cnn") is None:
    {remedy}
"""


class Edition:
    """All chapters with what the build knows of their numbers, titles and sources."""

    def __init__(self, app: Sphinx) -> None:
        self.env, self.builder = app.env, app.builder
        self.whitens = app.builder.format == "html"  # else nobody looks at the pictures
        self.figure = app.config.numfig_format["figure"]
        self.style = find_plugin("pybtex.style.formatting", "unsrt")()
        self.backend = find_plugin("pybtex.backends", "markdown")()
        self.repository = repository(app)
        self.site = app.config.html_baseurl.rstrip("/")
        self.chapters = read_all()
        self.names = {chapter.name for chapter in self.chapters}
        self.values = {c.path.name: glued(c) for c in self.chapters}
        self.sources = parse_file(str(BOOK / "references.bib")).entries
        self.sections = dict(places(self.chapters))

    def notebook(self, chapter: Chapter) -> dict:
        """Return a chapter's notebook."""
        return Writer(self, chapter).notebook()

    def link(self, text: str, page: str, section: str = "") -> str:
        """Return a link to a chapter, or to a page where the site's address is known."""
        fragment = fragment_of(section) if section else ""
        if page in self.names:
            return f"[{text}]({page}.ipynb{fragment})"
        return f"[{text}]({self.site}/book/{page}.html)" if self.site else f"*{text}*"

    def number(self, kind: str, label: str) -> str:
        """Return the number of an equation or a figure, as the pages show it."""
        if kind == "numref":
            page, place = self.env.domains["std"].anonlabels.get(label, ("", ""))
            figures = self.env.toc_fignumbers.get(page, {}).get("figure", {})
            if place in figures:
                return self.figure % ".".join(map(str, figures[place]))
        else:
            node = nodes.Element(refexplicit=False)
            found = self.env.domains["math"].resolve_xref(
                self.env, "book/index", self.builder, kind, label, node, node.copy()
            )
            if found is not None:
                return found.astext()
        raise ExtensionError(f"reader's edition: nothing is called {label!r}")

    def exercise(self, label: str) -> str:
        """Return the number of an exercise."""
        page = self.env.sphinx_exercise_registry[label]["docname"]
        numbers = self.env.toc_fignumbers.get(page, {}).get("exercise", {})
        return ".".join(map(str, numbers.get(label, ())))


class Writer:
    """One chapter of the edition in the making."""

    def __init__(self, edition: Edition, chapter: Chapter) -> None:
        self.edition, self.chapter = edition, chapter
        self.cited: list[str] = []
        self.solution = ""

    def notebook(self) -> dict:
        """Return the notebook."""
        cells = [new for cell in self.chapter.cells for new in self.cell(cell)]
        title, rest = cells[0]["source"].split("\n", 1)
        cells[0]["source"] = rest.strip()
        head = [markdown("reader-title", f"{title}\n\n{self.note()}"), self.set_up()]
        cells = [*head, *cells]
        if self.cited:
            cells.append(markdown("reader-references", self.references()))
        for count, cell in enumerate((c for c in cells if c["cell_type"] == "code"), 1):
            cell["execution_count"] = count
            for output in cell["outputs"]:
                if "execution_count" in output:
                    output["execution_count"] = count
        return self.chapter.about | {"cells": cells}

    def note(self) -> str:
        """Return what stands below the title."""
        time = max(1, round(minutes(self.chapter)))
        return quote(
            f"*From* Convolutional Networks from First Principles, *about {time} minutes to read. "
            "Code that only draws is folded, and so are the solutions of the exercises. "
            "Links lead to the other chapters where they lie beside this one. "
            f"To run it: Python 3.11 or newer and* `pip install '{PACKAGE}'`, *from the "
            "book's folder* `pip install '.[notebooks]'`. *The cell below brings what else "
            "it needs.*"
        )

    def set_up(self) -> dict:
        """Return the first cell of code: the package and files of the book's folder."""
        where = f" @ git+{self.edition.repository}"
        remedy = f'%pip install --quiet "{PACKAGE}{where}"'
        if not self.edition.repository:
            message = "The package is missing. In the book's folder: pip install '.[notebooks]'"
            remedy = f'raise ImportError("{message}")'
        source = NEEDED.format(remedy=remedy)
        if files := needed("\n".join(cell.text for cell in self.chapter.code)):
            lines = "".join(
                f"    {name!r}: {packed(name, text)!r},\n"
                for name, text in files.items()
            )
            source = f"{UNPACK}unpack({{\n{lines}}})\n\n{source}"
        return code(
            "reader-needs", source.strip(), [], {"jupyter": {"source_hidden": True}}
        )

    def cell(self, cell: Cell) -> list[dict]:
        """Return what the edition has in a cell's place."""
        if cell.kind == "markdown":
            text = self.folded(self.text(cell.source)).strip()
            return [markdown(cell.id, text)] if text else []
        source = self.plain(without_glue(cell.source))
        if not source:  # nothing but results for the text
            return []
        removed = "remove-cell" in cell.tags
        about = metadata(cell, bool(self.solution))
        whitens = self.edition.whitens
        kept = [] if removed else [readable(o, whitens) for o in cell.outputs]
        outputs = [output for output in kept if output is not None]
        figure = cell.metadata.get("mystnb", {})
        for output in outputs:
            if size := width(output):
                alt = figure.get("image", {}).get("alt", "")
                output["metadata"] = {"image/png": {"width": size, "alt": alt}}
        shown = [code(cell.id, source, outputs, about)]
        labels = [] if cell.exported else cell.directives.get("check", "").split()
        if labels and not removed:
            numbers = ", ".join(self.role("eq", label) for label in labels)
            shown.insert(0, markdown(f"{cell.id}-caption", f"*checks* {numbers}"))
        if cell.exported and not removed:
            shown.insert(0, markdown(f"{cell.id}-caption", f"`cnn/{cell.module}.py`"))
        if "figure" in figure:
            number = self.edition.number("numref", figure["figure"]["name"])
            text = f"**{number}** {self.inline(figure['figure']['caption'])}"
            text = self.folded(text) if self.solution else text
            shown.append(markdown(f"{cell.id}-figure", text))
        return shown

    def folded(self, text: str) -> str:
        """Return a cell's text, folded where it belongs to a solution."""
        if not self.solution or not text.strip():
            return text
        label, self.solution = self.solution, "Solution, continued"
        return f"<details>\n<summary>{label}</summary>\n\n{text.strip()}\n\n</details>"

    def text(self, source: str) -> str:
        """Return Markdown with its directives and roles resolved."""
        done, lines = [], source.split("\n")
        while lines:
            line = lines.pop(0)
            if start := FENCE.match(line):
                done.append(self.directive(*start.groups(), inside(start[2], lines)))
            elif fence := re.match(r"\s*(`{3,}|~{3,})", line):
                done += [line, *map(self.plain, inside(fence[1], lines)), fence[0]]
            elif not re.match(r"\([\w:-]+\)=$", line):  # a target's name
                done.append(line)
        parts = re.split(r"(?ms)(^[ ]*(```+|~~~+).*?^[ ]*\2[ ]*$)", "\n".join(done))
        return "".join(
            part if i % 3 else self.inline(part)
            for i, part in enumerate(parts)
            if i % 3 < 2
        )

    def directive(
        self, indent: str, fence: str, name: str, argument: str, body: list[str]
    ) -> str:
        """Return what a directive becomes."""
        options = {}
        while body and (option := re.match(r"\s*:([\w-]+):\s*(.*)", body[0])):
            options[option[1]] = option[2]
            body.pop(0)
        text = "\n".join(body).strip("\n")
        if name == "exercise":
            self.solution = ""
            number = (
                self.edition.exercise(options["label"]) if options.get("label") else ""
            )
            return f"#### Exercise {number} ({argument})\n\n{text}"
        if name in ("solution-start", "solution"):
            self.solution = f"Solution of exercise {self.edition.exercise(argument)}"
            return text
        if name == "solution-end":
            self.solution = ""
            return ""
        if name in NOTES:
            title = argument if name == "admonition" else name.capitalize()
            return quote(f"**{title}**\n\n{text}")
        if name in ("container", "div"):
            return text
        if name == "math":
            return f"$$\n{text}\n$$" + f" ({options['label']})" * ("label" in options)
        if name in ("code-block", "code"):
            return f"```{argument}\n{text}\n```"
        raise ExtensionError(
            f"{self.chapter.path.name}: the reader's edition has no form for {{{name}}}"
        )

    def inline(self, text: str) -> str:
        """Return Markdown without blocks of code: roles resolved, formulas numbered."""

        def tag(kind: str, label: str) -> str:
            return self.edition.number(kind, label)

        text = LABELLED.sub(
            lambda m: rf"\tag{{{tag('eq', m[1]).strip('()')}}}" + "\n$$", text
        )
        text = re.sub(
            r"(\S)[ ]*(\\tag\{[^}]*\})\n\$\$", r"\1 \2 $$", text
        )  # on one line
        return ROLE.sub(lambda m: self.role(m[1], m[2]), text)

    def plain(self, text: str) -> str:
        """Return code with its roles as words."""
        return ROLE.sub(
            lambda m: re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", self.role(*m.groups())),
            text,
        )

    def role(self, name: str, content: str) -> str:
        """Return what a role becomes."""
        explicit = re.fullmatch(r"(.*?)\s*<(.+)>", content, re.DOTALL)
        title, target = explicit.groups() if explicit else ("", content)
        edition = self.edition
        match name.split(":"):
            case ["glue", *_]:
                return self.value(target)
            case ["eq" | "numref" as kind]:
                page, section = edition.sections[target]
                text = title or edition.number(kind, target)
                if page == self.chapter.name:
                    return f"[{text}]({fragment_of(section)})"
                return edition.link(text, page, section)
            case ["doc"]:
                page = target.removeprefix("/").removeprefix("book/")
                about = edition.env.titles[f"book/{page}"].astext()
                return edition.link(title or about, page)
            case ["cite", *form]:
                return self.cite(target, form)
            case ["py", _] | ["class" | "func" | "meth" | "mod" | "obj" | "attr"]:
                short = target.rpartition(".")[2] if target.startswith("~") else target
                return f"`{title or short}`"
        raise ExtensionError(
            f"{self.chapter.path.name}: the reader's edition has no form for {{{name}}}"
        )

    def value(self, key: str) -> str:
        """Return a result that a cell has stored for the text."""
        page, _, name = key.rpartition("::")
        name, _, form = name.partition(":")
        value = self.edition.values[page or self.chapter.path.name][name]
        return format(value, form)

    def cite(self, keys: str, form: list[str]) -> str:
        """Return authors and year, and remember what is cited."""
        names = []
        for key in map(str.strip, keys.split(",")):
            if key not in self.cited:
                self.cited.append(key)
            entry = self.edition.sources[key]
            gap = " ({})" if form == ["t"] else ", {}"
            names.append(authors(entry) + gap.format(entry.fields["year"]))
        return ", ".join(names) if form == ["t"] else f"({'; '.join(names)})"

    def references(self) -> str:
        """Return the list of what is cited, by author."""
        entries = [self.edition.sources[key] for key in self.cited]
        entries.sort(key=lambda e: (authors(e).lower(), e.fields["year"]))
        texts = [
            e.text.render(self.edition.backend)
            for e in self.edition.style.format_entries(entries)
        ]
        texts = [
            re.sub(r"\\([.()!-])", r"\1", text).replace("\n", " ") for text in texts
        ]
        return "## References\n\n" + "\n".join(f"- {text}" for text in texts)


def places(chapters: list[Chapter]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield, for each label of an equation or a figure, its chapter and section."""
    for chapter in chapters:
        title = chapter.title
        for cell in chapter.cells:
            if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
                yield name, (chapter.name, cell.section or title)
            section = cell.section or title
            for line in cell.text.split("\n") if cell.kind == "markdown" else ():
                section = next((h for _, h in headings(line)), section)
                if label := LABELLED.search(line):
                    yield label[1], (chapter.name, section)


def fragment_of(section: str) -> str:
    """Return the address of a section inside its notebook, as Jupyter makes it."""
    return "#" + urllib.parse.quote(section.replace(" ", "-"))


def glued(chapter: Chapter) -> dict:
    """Return the results that a chapter's cells have stored for the text."""
    found = {}
    for output in (output for cell in chapter.code for output in cell.outputs):
        if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
            (value,) = output["data"].values()
            found[name] = ast.literal_eval("".join(value))
    return found


def needed(source: str) -> dict[str, str]:
    """Return the files of the book's folder that code asks for, by name."""
    texts = {file.name: file.read_text("utf-8") for file in BOOK.glob("*.py")}
    files: dict[str, str] = {}

    def ask(text: str) -> None:
        for name in re.findall(r"^\s*(?:from|import) (\w+)\b", text, re.MULTILINE):
            if f"{name}.py" in texts and f"{name}.py" not in files:
                files[f"{name}.py"] = texts[f"{name}.py"]
                ask(texts[f"{name}.py"])

    ask(source)
    if "exercises.py" in files:
        asked = re.findall(r'\bcheck\(\s*"(ex-[\w-]+)"', source)
        for file in sorted((BOOK / "answers").glob("*.py")):
            text = file.read_text("utf-8")
            if file.stem == "__init__" or any(f'"{label}"' in text for label in asked):
                files[f"answers/{file.name}"] = text
    if "book.mplstyle" in source:
        files["_static/book.mplstyle"] = style()
    for name in re.findall(r"runs/\w+\.json", source):
        stored = json.loads((BOOK / name).read_text("utf-8"))
        files[name] = json.dumps(stored, separators=(",", ":"))
    return files


def packed(name: str, text: str) -> str | bytes:
    """Return a file's text as the first cell has it: compressed where it is long, or answers."""
    if len(text) < 8000 and not name.startswith("answers/"):
        return text
    return base64.b85encode(zlib.compress(text.encode(), 9))


def style() -> str:
    """Return the look of the figures, on white instead of any ground."""
    text = (BOOK / "_static" / "book.mplstyle").read_text("utf-8")
    text = re.sub(r"(facecolor: )none", r"\1white", text)
    text = text.replace("savefig.transparent: True", "savefig.transparent: False")
    about = (
        "# One look for all figures: mid-grey ink, six colours of middle luminance.\n"
    )
    return about + re.sub(r"\A(#.*\n)+", "", text)


def readable(output: dict, whitens: bool) -> dict | None:
    """Return an output with its picture on white, or nothing where it is meant for the text."""
    if "scrapbook" in output.get("metadata", {}):
        return None
    data = dict(output.get("data", {}))
    if "image/png" in data:
        if whitens:
            data["image/png"] = on_white(data["image/png"])
        return output | {"data": data, "metadata": {}}
    return dict(output)


def on_white(png: str) -> str:
    """Return a picture without transparency."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    file = io.BytesIO()
    few = ground.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def width(output: dict) -> int:
    """Return how wide a picture is to be shown, in pixels: 160 dots to the inch are drawn."""
    if "image/png" not in output.get("data", {}):
        return 0
    png = base64.b64decode(output["data"]["image/png"])
    return round(int.from_bytes(png[16:20], "big") * 96 / 160)


def metadata(cell: Cell, solution: bool) -> dict:
    """Return what Jupyter and Colab need to fold a cell."""
    hidden = {"hide-input", "hide-cell", "remove-cell", "remove-input"} & cell.tags
    about: dict = {"jupyter": {"source_hidden": True}} if hidden or solution else {}
    if solution or {"hide-output", "hide-cell"} & cell.tags:
        about.setdefault("jupyter", {})["outputs_hidden"] = True
    if about:
        about["cellView"] = "form"
    if kept := sorted({"raises-exception"} & cell.tags):
        about["tags"] = kept
    return about


def inside(fence: str, lines: list[str]) -> list[str]:
    """Take the lines up to the end of a fenced block, and return them without it."""
    body = []
    while lines:
        line = lines.pop(0)
        if re.fullmatch(rf"\s*{fence[0]}{{{len(fence)},}}\s*", line):
            break
        body.append(line)
    return body


def quote(text: str) -> str:
    """Return Markdown as a block quote."""
    return textwrap.indent(text, "> ", lambda line: True)


def authors(entry: Entry) -> str:
    """Return who wrote a source, as a citation names them."""
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [" ".join([*p.prelast_names, *p.last_names]).strip("{}") for p in people]
    if len(names) > 2:
        return f"{names[0]} et al."
    return " and ".join(names)


def markdown(name: str, source: str) -> dict:
    """Return a cell of text."""
    return {"cell_type": "markdown", "id": name[:64], "metadata": {}, "source": source}


def code(name: str, source: str, outputs: list[dict], about: dict) -> dict:
    """Return a cell of code."""
    cell = {"cell_type": "code", "id": name[:64], "metadata": about, "source": source}
    return cell | {"outputs": outputs, "execution_count": None}


def index(edition: Edition) -> dict:
    """Return the notebook that lists the others."""
    text = "# Convolutional Networks from First Principles\n\n*The chapters as notebooks.*\n"
    for part, pages in contents().items():
        titles = {c.name: c.title for c in edition.chapters if c.name in pages}
        text += f"\n## {part}\n\n" * bool(titles)
        text += "".join(
            f"- [{title}]({name}.ipynb)\n" for name, title in titles.items()
        )
    about = edition.chapters[0].about
    return about | {"cells": [markdown("contents", text)]}


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the edition beside the pages and, for the site, into it."""
    if exception:
        return
    edition = Edition(app)
    out = Path(app.outdir).parent / "notebooks"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    notebooks = {c.name: edition.notebook(c) for c in edition.chapters}
    for name, notebook in ({"index": index(edition)} | notebooks).items():
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        (out / f"{name}.ipynb").write_text(text, "utf-8")
    everything = "\n".join(cell.text for c in edition.chapters for cell in c.code)
    for name, text in needed(everything).items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text, "utf-8")
    if app.builder.format != "html":
        return
    site = Path(app.outdir, "notebooks")
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir()
    with zipfile.ZipFile(site / ALL, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in out.rglob("*") if p.is_file()):
            name = Path("convolutional-networks", file.relative_to(out))
            archive.writestr(
                zipfile.ZipInfo(name.as_posix()),
                file.read_bytes(),
                zipfile.ZIP_DEFLATED,
            )
    for name in notebooks:
        shutil.copyfile(out / f"{name}.ipynb", site / f"{name}.ipynb")
        Path(app.outdir, "_sources", "book", f"{name}.ipynb").unlink(missing_ok=True)


def buttons(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Have the page's buttons give the reader's edition; Colab and Binder where it is hosted."""
    folder, _, name = page.rpartition("/")
    if not (BOOK / f"{name}.ipynb").is_file() or folder != "book":
        return
    groups = [b for b in context.get("header_buttons", []) if b["type"] == "group"]
    for button in (button for group in groups for button in group["buttons"]):
        if button.get("label") == "download-source-button":
            button["url"] = f"{context['pathto']('notebooks', 1)}/{name}.ipynb"
            button["tooltip"] = "Download this chapter as a notebook"
    found = hosted(repository(app), name)
    links = [
        {
            "type": "link",
            "url": url,
            "text": text,
            "tooltip": f"Run this chapter on {text}",
            "icon": icon,
            "label": f"launch-{text.lower()}-button",
        }
        for text, icon, url in found
    ]
    if links:
        context["header_buttons"].insert(
            0,
            {
                "type": "group",
                "tooltip": "Run this chapter",
                "icon": "fas fa-rocket",
                "buttons": links,
                "label": "launch-buttons",
            },
        )


def repository(app: Sphinx) -> str:
    """Return the address that _config.yml gives the book's repository, or nothing."""
    address = app.config.html_theme_options.get("repository_url", "").rstrip("/")
    return "" if address.endswith("/jupyter-book") else address  # Jupyter Book's own


def hosted(repository: str, name: str) -> list[tuple[str, str, str]]:
    """Return name, icon and address of the services that run a notebook of a repository.

    The notebooks are those of its branch ``notebooks``, which the workflow for the pages keeps.
    """
    place = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)/?", repository)
    if not place:
        return []
    colab = f"https://colab.research.google.com/github/{place[1]}/blob/notebooks/{name}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{place[1]}/notebooks?labpath={name}.ipynb"
    return [("Colab", "fas fa-play", colab), ("Binder", "fas fa-rocket", binder)]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("build-finished", write, priority=900)
    app.connect("html-page-context", buttons, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
