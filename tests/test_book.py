"""The built pages: no warning, nothing from the network, and in a browser everything works."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from chapters import (
    BOOK,
    Cell,
    Chapter,
    contents,
    docstrings,
    minutes,
    read_all,
    tree,
    without_glue,
)

PAGES = ["index", *(name for pages in contents().values() for name in pages)]
PAGES += [f"api/{page.stem}" for page in sorted((BOOK / "api").glob("*.rst"))]
PAGES = [f"book/{name}" for name in PAGES]
CHAPTERS = read_all()
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
NUMBER = re.compile(r"\{eq\}`[^`]*`|\(\d+\.\d+\)")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
    "embed": "src",
}
# A page of the reference is tried on the narrow screen alone.
VIEWS = [
    (name, size)
    for name in PAGES
    for size in SIZES
    if size == "phone" or not name.startswith("book/api/")
]


def test_builds_without_a_warning(site):
    assert (site / "index.html").is_file()
    for page in PAGES:
        assert (site / f"{page}.html").is_file(), page


def test_pages_load_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
        for tag, attribute in LOADING.items():
            for element in soup.find_all(tag):
                url = element.get(attribute) or ""
                assert not re.match(r"(https?:)?//", url), (
                    f"{page.relative_to(site)}: {element}"
                )
    for sheet in site.rglob("*.css"):
        urls = re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)",
            sheet.read_text("utf-8"),
        )
        assert not urls, f"{sheet.relative_to(site)}: {urls}"


def test_no_directive_is_left_on_a_page(site):
    for page in site.glob("book/*.html"):
        words = BeautifulSoup(page.read_text("utf-8"), "html.parser").get_text()
        assert not re.search(
            r"^\s*#\|\s*(default_exp|export|check)\b", words, re.MULTILINE
        ), page


def test_every_file_that_a_page_names_is_there(site):
    assert not list(site.rglob("*.map"))
    for name in PAGES:
        page = site / f"{name}.html"
        soup = BeautifulSoup(page.read_text("utf-8"), "html.parser").head
        for link in soup.select("link[rel=stylesheet], script[src]"):
            file = (link.get("href") or link.get("src")).partition("?")[0]
            assert (page.parent / file).is_file(), (name, file)


@each_chapter
def test_the_button_gives_the_readers_edition(site, chapter):
    page = (site / f"book/{chapter.name}.html").read_text("utf-8")
    (link,) = BeautifulSoup(page, "html.parser").select(".btn-download-source-button")
    file = (site / "book" / link["href"]).resolve()
    assert file == site.resolve() / "notebooks" / f"{chapter.name}.ipynb"
    assert "{glue:" not in file.read_text("utf-8")


def test_all_chapters_come_as_one_zip(site):
    page = (site / "book/index.html").read_text("utf-8")
    link = BeautifulSoup(page, "html.parser").select_one("article a[href$='.zip']")
    names = zipfile.ZipFile(site / "book" / link["href"]).namelist()
    assert {f"{chapter.name}.ipynb" for chapter in CHAPTERS} <= {
        Path(n).name for n in names
    }
    assert any(name.endswith("/_static/book.mplstyle") for name in names)


def article(site: Path, chapter: Chapter) -> BeautifulSoup:
    """Return a chapter's page without its frame."""
    page = (site / f"book/{chapter.name}.html").read_text("utf-8")
    return BeautifulSoup(page, "html.parser").article


def cells_of_the_page(chapter: Chapter) -> list[Cell]:
    """Return the cells whose code is on the page, folded or not."""
    cells = [c for c in chapter.code if not {"remove-cell", "remove-input"} & c.tags]
    return [cell for cell in cells if without_glue(cell.source)]


@each_chapter
def test_code_is_complete_and_its_docstrings_are_folded(site, chapter):
    """What is copied is the text of the page; only the numbers of equations are another."""
    cells = [without_glue(cell.source) for cell in cells_of_the_page(chapter)]
    blocks = article(site, chapter).select(".cell_input pre")
    shown = [block.get_text().strip("\n") for block in blocks]
    assert [NUMBER.sub("", c) for c in shown] == [NUMBER.sub("", c) for c in cells]
    assert not [code for code in shown if "{eq}" in code]
    for block, code in zip(blocks, cells, strict=True):
        long = [1 for first, last in docstrings(tree(code)) if first < last]
        assert len(block.select("label.docstring > input")) == len(long)
        for rest in block.select(".docstring-rest"):
            assert rest.get_text().rstrip().endswith(('"""', "'" * 3))


@each_chapter
def test_a_chapter_tells_its_minutes(site, chapter):
    (told,) = article(site, chapter).select("h1 + .reading-time")
    assert told.get_text().split()[0] == str(round(minutes(chapter)))


@each_chapter
def test_captions_name_the_module_of_a_cell(site, chapter):
    captions = article(site, chapter).select(".cell-caption")
    shown = [c.get_text().strip() for c in captions if "checks" not in c.get_text()]
    exported = [cell for cell in cells_of_the_page(chapter) if cell.exported]
    assert shown == [f"cnn/{cell.module}.py" for cell in exported]


def test_large_numbers_are_not_broken(site):
    found = 0
    for page in site.glob("book/*.html"):
        soup = BeautifulSoup(page.read_text("utf-8"), "html.parser").article
        for fixed in soup.select("pre, code, script, .math"):
            fixed.decompose()
        words = soup.get_text()
        assert not re.search(r"\d \d{3}\b", words), page
        found += len(re.findall(r"\d\N{NO-BREAK SPACE}\d{3}\b", words))
    assert found > 20


def sideways(page) -> str:
    """Return the widest thing on a page that is wider than its window, or nothing."""
    return page.evaluate("""() => {
        const root = document.documentElement, limit = root.clientWidth + 1;
        if (root.scrollWidth <= limit) return "";
        const wide = [...document.querySelectorAll("main *")].filter(
            e => e.getBoundingClientRect().right > limit);
        return `${root.scrollWidth} px: ` + (wide.length ? wide[0].outerHTML.slice(0, 200) : "");
    }""")


@pytest.mark.parametrize(("name", "size"), VIEWS)
def test_page_in_a_browser(site, browser, name, size):
    width, height = SIZES[size]
    context = browser.new_context(
        offline=True, color_scheme="light", viewport={"width": width, "height": height}
    )
    context.set_default_timeout(0)
    page, requests, errors = context.new_page(), [], []
    page.on(
        "request",
        lambda r: (
            None if r.url.startswith(("file:", "data:")) else requests.append(r.url)
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto((site / f"{name}.html").as_uri(), wait_until="load")
    if page.locator(".math").count():
        page.evaluate("MathJax.startup.promise.then(() => true)")
    bad = page.evaluate("""() => [...document.querySelectorAll(".math")]
        .filter(e => !e.querySelector("mjx-container") || e.querySelector("mjx-merror, merror"))
        .map(e => e.textContent.slice(0, 100))""")
    assert not bad, f"formulas not rendered: {bad}"
    assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0
    assert page.locator("mjx-container[tabindex]").count() == 0
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        settle(page)
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert not sideways(page), f"scrolls sideways in {scheme}: {sideways(page)}"
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        boxed = page.evaluate("""() => [...document.querySelectorAll("article img")].filter(e =>
            getComputedStyle(e).backgroundColor !== "rgba(0, 0, 0, 0)").map(e => e.src)""")
        assert not boxed, f"figures on a box of their own in {scheme}: {boxed}"
    assert grounds[0] != grounds[1], "light and dark look alike"
    if size == "phone":
        check_menu(page)
    assert not errors
    assert not requests
    context.close()


def test_docstrings_in_a_browser(site, browser):
    """A click or printing opens one; its cell is copied whole, with the button as by hand."""
    page = first_with_docstrings(site, browser)
    label, rest = (
        page.locator(".docstring").first,
        page.locator(".docstring-rest").first,
    )
    block = page.locator("pre:has(.docstring)").first
    whole = block.evaluate("e => e.textContent")
    assert rest.bounding_box()["height"] <= 1
    by_hand = "e => { getSelection().selectAllChildren(e); return getSelection().toString(); }"
    assert block.evaluate(by_hand).rstrip("\n") == whole.rstrip("\n")
    page.emulate_media(media="print")
    assert rest.bounding_box()["height"] > 10
    page.emulate_media(media="screen")
    label.click()
    assert rest.bounding_box()["height"] > 10
    label.locator("input").press("Space")
    assert rest.bounding_box()["height"] <= 1
    block.locator("xpath=following-sibling::button").click()
    assert page.evaluate("navigator.clipboard.readText()") == whole.removesuffix("\n")
    page.context.close()


def first_with_docstrings(site: Path, browser):
    """Open the first page that has a folded docstring."""
    file = next(
        f
        for f in sorted(site.glob("book/*.html"))
        if "docstring-rest" in f.read_text("utf-8")
    )
    context = browser.new_context(
        offline=True, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(0)
    page = context.new_page()
    page.goto(file.as_uri(), wait_until="load")
    page.locator("pre:has(.docstring) + button").first.wait_for(state="attached")
    return page


def settle(page) -> None:
    """Wait until the page has been drawn anew."""
    page.evaluate("""async () => {
        for (const frame of [1, 2]) await new Promise(requestAnimationFrame);
    }""")


def check_menu(page) -> None:
    """The phone's menu button opens the table of contents."""
    sidebar, button = (
        page.locator("#pst-primary-sidebar"),
        page.locator(".primary-toggle").first,
    )
    shown = page.locator(
        "#pst-primary-sidebar-modal a.reference:visible, #pst-primary-sidebar a.reference:visible"
    )
    assert shown.count() == 0, sidebar
    button.click()
    settle(page)
    assert shown.count() > 0, "the menu button shows no contents"
