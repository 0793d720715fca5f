"""The whole book as one PDF: all pages of the built site joined to one, printed by Chromium.

    python book/tools/pdf.py [SITE] [PDF]

One page, so that the numbers, the links and the bookmarks are the browser's own.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

from browser import launch
from chapters import BOOK, contents
from PIL import Image

SITE = BOOK.parent / "_build" / "html"
JOINED = "whole-book.html"
PRINTED = "_printed"  # beside it, the pictures as they are printed
TITLE = "Convolutional Networks from First Principles"
FOOT = """<div style="width: 100%; text-align: center; font: 8pt sans-serif; color: #555">
<span class="pageNumber"></span></div>"""


def pages() -> list[str]:
    """Return the book's pages in reading order."""
    names = [name for part in contents().values() for name in part]
    return [f"book/{name}" for name in ["index", *names]]


def mark(page: str, anchor: str = "") -> str:
    """Return the name, in the joined page, of a place in a page."""
    return re.sub(r"\W", "-", page.removeprefix("book/")) + f"--{anchor}"


def article(site: Path, page: str, known: set[str]) -> str:
    """Return a page's text, with names and links that hold in the joined page."""
    html = (site / f"{page}.html").read_text("utf-8")
    text = re.search(r'<article class="bd-article">(.*)</article>', html, re.DOTALL)[1]
    folder = posixpath.dirname(page)
    text = re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL)
    text = re.sub(r'<a class="headerlink".*?</a>', "", text, flags=re.DOTALL)
    text = re.sub(r"<details(?![^>]*\bopen\b)", "<details open", text)

    def local(found: re.Match) -> str:
        path = posixpath.normpath(posixpath.join(folder, found[2]))
        return f'{found[1]}"{path}"'

    def link(found: re.Match) -> str:
        href = target(found[1], page, folder, known)
        return f' href="{href}"' if href else ""

    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{mark(page, found[1])}"', text)
    text = re.sub(r'(<img\b[^>]*?\bsrc=)"([^":]*)"', local, text)
    text = re.sub(r"\b_images/(\w+)\.webp", rf"{PRINTED}/\1.png", text)
    text = re.sub(r' href="([^"]*)"', link, text)
    return f'<section class="bd-article whole-page" id="{mark(page)}">{text}</section>'


def target(href: str, page: str, folder: str, known: set[str]) -> str:
    """Return where a page's link goes in the joined page; nothing if to no page of the book."""
    if re.match(r"[a-z]+:", href):
        return href
    path, _, anchor = href.partition("#")
    name = posixpath.normpath(posixpath.join(folder, path)) if path else f"{page}.html"
    name = name.removesuffix(".html")
    return f"#{mark(name, anchor)}" if name in known else ""


def table_of_contents(site: Path) -> str:
    """Return the list of parts and chapters, linked."""
    listed = ""
    for part, names in contents().items():
        rows = ""
        for name in (f"book/{name}" for name in names):
            html = (site / f"{name}.html").read_text("utf-8")
            title = re.search(r"<title>(.*?) &#8212;", html)[1]
            rows += f'<li><a href="#{mark(name)}">{title}</a></li>'
        listed += f"<p><strong>{part}</strong></p><ul>{rows}</ul>"
    return f'<nav class="whole-page whole-contents"><h1>Contents</h1>{listed}</nav>'


def darken(picture: Path, out: Path, gamma: float) -> None:
    """Write a picture as the light pages show it: on white, its middle tones darker.

    A browser's filter does the same, and makes a photograph of each, three times as large.
    """
    image = Image.open(picture).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    darker = ground.convert("RGB").point(
        [round(255 * (v / 255) ** gamma) for v in range(256)] * 3
    )
    darker.save(out)


def join(site: Path) -> Path:
    """Write all pages of a site as one beside them, with its pictures, and return its path."""
    names = pages()
    first = (site / "book/index.html").read_text("utf-8")
    gamma = float(re.search(r'<feFuncR type="gamma" exponent="([\d.]+)"', first)[1])
    (site / PRINTED).mkdir(exist_ok=True)
    for picture in site.glob("_images/*.webp"):
        darken(picture, site / PRINTED / f"{picture.stem}.png", gamma)
    head = first[: first.index("</head>")].replace('="../', '="')
    unwanted = (
        "searchtools|searchindex|language_data|search|live|copybutton|pydata|bootstrap"
    )
    head = re.sub(rf"<script[^>]*({unwanted})[^>]*></script>", "", head)
    texts = [article(site, name, set(names)) for name in names]
    texts.insert(1, table_of_contents(site))
    frame = '<div class="bd-content"><div class="bd-article-container">'
    body = f"<body><main>{frame}{''.join(texts)}</div></div></main>"
    path = site / JOINED
    path.write_text(f"{head}</head>{body}</body></html>", "utf-8")
    return path


def print_pdf(page: Path, out: Path) -> None:
    """Print a page, when its formulas stand, to an A4 PDF with bookmarks."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = launch(playwright)
        tab = chromium.new_page(color_scheme="light", offline=True)
        tab.set_default_timeout(0)
        tab.emulate_media(media="print", color_scheme="light")
        tab.goto(page.as_uri(), wait_until="load", timeout=0)
        tab.evaluate("MathJax.startup.promise.then(() => true)")
        margin = {"top": "18mm", "bottom": "20mm", "left": "20mm", "right": "20mm"}
        tab.pdf(
            path=out,
            format="A4",
            margin=margin,
            print_background=True,
            tagged=True,
            outline=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOT,
        )
        chromium.close()


def once(title: str) -> str:
    """Return a bookmark's words once, where Chromium says them twice: a page turn moved them."""
    return re.sub(r"^(\S+\s)?\1?(.{3,})\2$", r"\1\2", title)


def mend(out: Path) -> None:
    """Say every bookmark once, give the PDF its title, and pack its small objects."""
    import pikepdf

    with pikepdf.open(out, allow_overwriting_input=True) as pdf:
        items = [pdf.Root.Outlines]
        while items:
            item = items.pop()
            items += [item[key] for key in ("/First", "/Next") if key in item]
            if "/Title" in item:
                item.Title = pikepdf.String(once(str(item.Title)))
        pdf.docinfo["/Title"] = TITLE
        packed = pikepdf.ObjectStreamMode.generate
        pdf.save(out, object_stream_mode=packed, recompress_flate=True)


def main() -> None:
    """Print the book and say where it is."""
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else SITE
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else site.parent / "book.pdf"
    if not (site / "book" / "index.html").is_file():
        sys.exit(f"No pages in {site}: run 'make book' first.")
    page = join(site.resolve())
    print_pdf(page, out)
    mend(out)
    page.unlink()
    shutil.rmtree(site / PRINTED)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
