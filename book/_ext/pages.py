"""What is done to the finished pages: mends of the theme, descriptions, an index for the search.

The theme's templates have faults that no option takes away. They are mended in the written HTML,
by ``MENDS``; ``tests/test_book.py`` says with axe-core when one of them is needed no more or
another is.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
from collections.abc import Iterable
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

NAME = "Convolutional Networks from First Principles"
SMALLEST = 9  # pixels that the smallest writing of a figure must have on a phone
POINT = 160 / 72  # pixels of a stored figure in a point of its writing

# (what, by what): scripts of a search that we replace, icons that the style sheet has as a font,
# names for what has none, names that say what is seen, and roles that fit.
MENDS = [
    (r"<script[^>]*/(?:searchtools|language_data|fontawesome)\.js[^>]*></script>", ""),
    (r'<script[^>]*"[^"]*searchindex\.js[^>]*></script>', ""),
    (r'<meta name="viewport" content="width=device-width, initial-scale=1" ?/>', ""),
    (
        r"<summary><span class=\"toctree-toggle\"",
        r'<summary aria-label="Its pages">\g<0>',
    ),
    (r'(<summary aria-label="Its pages">)<summary>', r"\1"),
    (r'<section id="(exercise|solution)-content">', r'<section class="\1-content">'),
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    (r'(class="citation"[^>]*?) role="doc-biblioentry"', r"\1"),
    (r'<div id="ethical-ad-placement".*?</div>', ""),
    (
        r'<span class="(?:n|p|w|o|nn|nb|bp)">([^<]*)</span>',
        r"\1",
    ),  # code that looks like any
    (r"(_images/\w+)\.png", r"\1.webp"),
]
LAYOUT = [(re.compile(pattern, re.DOTALL), by) for pattern, by in MENDS]
# Makes a stored figure's middle tones darker: its grey ink becomes legible on white.
CURVE = "".join(f'<feFunc{c} type="gamma" exponent="1.35"/>' for c in "RGB")
INK = (
    '<svg aria-hidden="true" style="position:absolute;width:0;height:0">'
    '<filter id="darker-ink" color-interpolation-filters="sRGB"><feComponentTransfer>'
    f"{CURVE}</feComponentTransfer></filter></svg>"
)
FIGURE = re.compile(
    r'(<figure\b[^>]*>\s*)(<a [^>]*>)?(<img [^>]*?src="([^"]+)"[^>]*?)( ?/>|>)(\s*</a>)?'
)


def mend(html: str, page: Path) -> str:
    """Return a page without the theme's faults, its figures linked and legible on a phone."""
    for pattern, by in LAYOUT:
        html = pattern.sub(by, html)
    html = re.sub("<body[^>]*>", rf"\g<0>\n{INK}", html, count=1)
    return FIGURE.sub(lambda found: figure(found, page), html)


def figure(found: re.Match, page: Path) -> str:
    """Return a figure whose picture is a link to itself and knows how wide it must be."""
    start, link, image, source, end, close = found.groups()
    file = page.parent / source
    if file.suffix == ".webp" and "--legible" not in image:
        with Image.open(file) as picture:
            width, height = picture.size
        legible = round(width * SMALLEST / (11 * POINT))
        image = re.sub(r' style="', f' style="--legible: {legible}px; ', image)
        if "--legible" not in image:
            image += f' style="--legible: {legible}px"'
        if "height=" not in image:  # so that the text below does not jump
            image += f' width="{width}" height="{height}"'
    link = link or f'<a class="reference internal image-reference" href="{source}">'
    return f"{start}{link}{image}{end}{close or '</a>'}"


VOID = {"img", "br", "hr", "input", "meta", "link", "col", "wbr"}
BREAKS = {"p", "li", "dd", "td", "th", "div", "h1", "h2", "h3", "h4"}


class Sections(HTMLParser):
    """The sections and exercises of a page: anchor, and texts by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, list[str]]]] = []
        self.open: list[tuple[str, str]] = []  # open tags, each with its texts' kind

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a section where one begins; note of what kind the texts in the tag are."""
        about = {name: value or "" for name, value in attrs}
        classes = set(about.get("class", "").split())
        outer = self.open[-1][1] if self.open else ""
        kind = self.kind(tag, classes, outer)
        anchor = about.get("id", "")
        begins = (
            tag == "section"
            or (tag == "dt" and "sig" in classes)
            or "exercise" in classes
        )
        if outer and anchor and begins:
            self.found.append(
                (anchor, {"title": [], "text": [], "code": [], "terms": []})
            )
        elif self.found and outer and re.match("equation-|fig-", anchor):
            self.texts("terms").append(re.sub(r"\W", " ", anchor) + " ")
        if tag not in VOID:
            self.open.append((tag, kind))

    def kind(self, tag: str, classes: set[str], outer: str) -> str:
        """Return of what kind texts in a tag are: "" outside the article, "none" if nothing."""
        if tag == "article":
            return "text"
        hidden = {"headerlink", "cell_output", "reading-time"}
        if not outer or outer == "none":
            return outer
        if hidden & classes or tag in {"script", "button"}:
            return "none"
        if re.fullmatch("h[1-4]", tag) or (tag == "dt" and "sig" in classes):
            return "title"
        if "admonition-title" in classes and not self.found[-1][1]["title"]:
            return "title"
        if tag == "pre":
            return "code"
        if tag in {"em", "strong"} and outer == "text":
            return "terms"
        return outer

    def texts(self, kind: str) -> list[str]:
        """Return the last section's texts of a kind."""
        return self.found[-1][1][kind]

    def handle_endtag(self, tag: str) -> None:
        """Close a tag, and those inside that nobody closed."""
        if tag in (name for name, _ in self.open):
            while self.open.pop()[0] != tag:
                pass
        if self.found and tag in BREAKS:
            self.texts("text").append(" ")

    def handle_data(self, data: str) -> None:
        """Put text where it belongs."""
        kind = self.open[-1][1] if self.open else ""
        if not self.found or kind in {"", "none"}:
            return
        if re.match(r"\s*\\[(\[]", data):
            data = spoken(data)
        self.texts(kind).append(data)
        if kind == "terms":  # a word in italics is being introduced
            self.texts("terms").append(" ")
            self.texts("text").append(data)


def spoken(formula: str) -> str:
    """Return a formula as one would type it: ``dW`` for the gradient with respect to W."""
    formula = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", formula)
    formula = re.sub(r"\\(?:begin|end)\{\w+\*?\}|\\q+uad|&|\\\\", " ", formula)
    formula = re.sub(
        r"\\(?:mathrm|mathbf|mathcal|text|operatorname|bar|hat|tilde)\b", "", formula
    )
    formula = re.sub(r"\\(?:left|right|[bB]igg?)\b|\\[()\[\],;:! ]|[{}$]", "", formula)
    formula = re.sub(r"\\([A-Za-z]+)", r" \1 ", re.sub(r"[_^]", " ", formula))
    return re.sub(r"\bd\s+(?=[A-Za-z]\b)", "d", formula)


def sections(html: str) -> list[list[str]]:
    """Return a page's sections that have a title: anchor, title, text, code's names, terms."""
    parser = Sections()
    parser.feed(html)
    rows = []
    for anchor, parts in parser.found:
        title, text, code, terms = (
            re.sub(r"\s+", " ", "".join(part)).strip() for part in parts.values()
        )
        names = " ".join(dict.fromkeys(re.findall(r"[A-Za-z_]\w+", code)))
        if title:
            rows.append([anchor, title, text, names, terms])
    return rows


def describe(html: str, rows: list[list[str]], page: str, base: str) -> str:
    """Return a page with its own description and what others show when they link to it."""
    title = re.search(r"<title>(.*?)</title>", html, re.DOTALL)
    name = unescape(title[1]).partition(" — ")[0].strip() if title else NAME
    first = next((row[2] for row in rows if len(row[2]) > 60), "")
    usual = re.search(r'<meta content="([^"]*)"[^>]*name="description"[^>]*>', html)
    text = (
        first
        if not page.endswith("/index") and first
        else unescape(usual[1] if usual else f"{name}: {NAME}")
    )
    if len(text) > 200:
        text = text[:200].rsplit(" ", 1)[0].rstrip(",;:") + " …"
    tags = {
        "og:site_name": NAME,
        "og:type": "book" if page.endswith("/index") else "article",
        "og:title": name,
        "og:description": text,
    }
    if base:
        address = base.rstrip("/")
        tags |= {"og:url": f"{address}/{page}.html"}
        tags |= {"og:image": f"{address}/_static/cover.png", "og:image:alt": NAME}
    lines = [f'<meta name="description" content="{escape(text)}" />'] if text else []
    lines += [
        f'<meta property="{k}" content="{escape(v)}" />' for k, v in tags.items() if v
    ]
    html = html.replace(usual[0], "", 1) if usual else html
    return html.replace("<title>", "\n".join(lines) + "\n    <title>", 1)


def finish_pages(out: Path, pages: Iterable[str], base: str = "") -> None:
    """Mend all pages of a site and write the index of its sections."""
    index = []
    wanted = list(pages)
    for picture in out.glob("_images/*.png"):  # lossless, and half the size
        Image.open(picture).save(
            picture.with_suffix(".webp"), lossless=True, quality=30, method=2
        )
        picture.unlink()
    for file in out.rglob("*.html"):
        page = posixpath.splitext(file.relative_to(out).as_posix())[0]
        html = file.read_text("utf-8")
        if "og:site_name" in html:
            continue  # done in an earlier build
        html = mend(html, file)
        if page in wanted:
            rows = sections(html)
            html = describe(html, rows, page, base)
            index.append([wanted.index(page), page, rows])
        file.write_text(html, "utf-8")
    for page in set(wanted) - {row[1] for row in index}:
        rows = sections((out / f"{page}.html").read_text("utf-8"))
        index.append([wanted.index(page), page, rows])
    words = json.dumps([row[1:] for row in sorted(index)], ensure_ascii=False)
    text = f"window.CNN = window.CNN || {{}};\nwindow.CNN.sections = {words};\n"
    (out / "_static" / "sections.js").write_text(text, "utf-8")
    for unused in (
        "searchindex.js",
        "_static/searchtools.js",
        "_static/language_data.js",
    ):
        (out / unused).unlink(missing_ok=True)
    for unused in (out / "_static").rglob("fontawesome.js*"):
        unused.unlink()
    for unused in (out / "_static").rglob("*.ttf"):  # the same fonts as .woff2
        unused.unlink()
    shutil.rmtree(
        out / "_static" / "locales", ignore_errors=True
    )  # the theme in German, …
