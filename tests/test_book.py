"""The built pages: no warning, nothing from the network, and in a browser everything works."""

from __future__ import annotations

import copy
import re
import shutil
import struct
import zipfile
from functools import cache
from pathlib import Path

import pdf
import pytest
from bs4 import BeautifulSoup
from chapters import (
    Cell,
    Chapter,
    contents,
    docstrings,
    minutes,
    read_all,
    tree,
    without_glue,
)
from conftest import STEP
from visits import SIZES, go, new_page, settle, visit

PAGES = ["index", *(name for pages in contents().values() for name in pages)]
PAGES = [f"book/{name}" for name in PAGES]
REFERENCE = [name for name in PAGES if name.startswith("book/api/")]
OTHERS = [name for name in PAGES if name not in REFERENCE]
VISITED = [*OTHERS[::STEP], *REFERENCE[:: 3 * STEP]] if STEP > 1 else PAGES
CHAPTERS = read_all()
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
NUMBER = re.compile(r"\{eq\}`[^`]*`|\(\d+\.\d+\)")
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


@cache
def parsed(page: Path) -> BeautifulSoup:
    """Return a page's tree, which nobody changes."""
    return BeautifulSoup(page.read_text("utf-8"), "html.parser")


def test_builds_without_a_warning(site):
    assert (site / "index.html").is_file()
    for page in PAGES:
        assert (site / f"{page}.html").is_file(), page


def test_pages_load_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        soup = parsed(page)
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
        words = parsed(page).get_text()
        assert not re.search(
            r"^\s*#\|\s*(default_exp|export|check)\b", words, re.MULTILINE
        ), page


def test_every_file_that_a_page_names_is_there(site):
    assert not list(site.rglob("*.map"))
    for name in PAGES:
        page = site / f"{name}.html"
        soup = parsed(page).head
        for link in soup.select("link[rel=stylesheet], script[src]"):
            file = (link.get("href") or link.get("src")).partition("?")[0]
            assert (page.parent / file).is_file(), (name, file)


@each_chapter
def test_the_button_gives_the_readers_edition(site, chapter):
    (link,) = parsed(site / f"book/{chapter.name}.html").select(
        ".btn-download-source-button"
    )
    file = (site / "book" / link["href"]).resolve()
    assert file == site.resolve() / "notebooks" / f"{chapter.name}.ipynb"
    assert "{glue:" not in file.read_text("utf-8")


def test_all_chapters_come_as_one_zip(site):
    link = parsed(site / "book/index.html").select_one("article a[href$='.zip']")
    names = zipfile.ZipFile(site / "book" / link["href"]).namelist()
    assert {f"{chapter.name}.ipynb" for chapter in CHAPTERS} <= {
        Path(n).name for n in names
    }
    assert any(name.endswith("/_static/book.mplstyle") for name in names)


def article(site: Path, chapter: Chapter) -> BeautifulSoup:
    """Return a chapter's page without its frame."""
    return parsed(site / f"book/{chapter.name}.html").article


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
        soup = copy.copy(parsed(page).article)
        for fixed in soup.select("pre, code, script, .math"):
            fixed.decompose()
        words = soup.get_text()
        assert not re.search(r"\d \d{3}\b", words), page
        found += len(re.findall(r"\d\N{NO-BREAK SPACE}\d{3}\b", words))
    assert found > 20


@pytest.mark.parametrize(("place", "name"), [*enumerate(VISITED)], ids=VISITED)
def test_page_in_a_browser(site, browser, place, name):
    """The reference in the narrow size alone; axe-core sees each third page, or all in full."""
    sizes = ["phone"] if name in REFERENCE else ["phone", "desktop"]
    axes = ["light", "dark"] if STEP == 1 else [("light", "dark")[place % 2]]
    axes = [] if place % STEP else axes
    seen = visit(browser, site / f"{name}.html", sizes, axes)
    assert not seen.faults, "\n".join(seen.faults)
    assert seen.times["shifts"] < 0.05
    seen.page.context.close()


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
    page = new_page(browser, permissions=["clipboard-read", "clipboard-write"])
    go(page, file)
    page.locator("pre:has(.docstring) + button").first.wait_for(state="attached")
    return page


@pytest.mark.parametrize("name", ["index", "11-convolution-gradient", "api/conv"])
def test_the_phones_menu_opens(site, browser, name):
    page = new_page(browser, "phone")
    go(page, site / f"book/{name}.html")
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
    page.context.close()


# --- What a page can do ---

# A query, and where its answer is: any of these may come first.
QUERIES = {
    "dW": "11-convolution-gradient#|04-dense#the-gradient-of-the-weights|04-dense#backward",
    "learning rate": "02-linear-classifier#(learning|downhill)|08-optimizers#gradient-descent",
    "Adam bias correction": "08-optimizers#adam",
    "weight decay": "15-regularization#weight-decay",
    "vanishing gradient": "05-activations#why-deep-networks-gave-the-sigmoid-up",
    "im2col": "12-im2col(#copying-the-windows)?",
    "zyzzyva": "",
}


def test_search_finds_the_section_first(site, browser):
    page = new_page(browser)
    page.goto((site / "search.html").as_uri() + "?q=dropout")
    page.locator("ol.found a").first.wait_for()
    assert "15-regularization" in page.locator("ol.found a").first.get_attribute("href")
    for query, expected in QUERIES.items():
        page.locator(".bd-search-container input").fill(query)
        page.wait_for_function("CNN.loading && CNN.loading.then(() => true)")
        settle(page)
        links = page.locator("ol.found a")
        if not expected:
            assert not links.count()
            assert page.locator(".found-count").first.text_content() == "Nothing found"
            continue
        first = links.first.get_attribute("href").replace(".html", "")
        assert re.search(rf"book/({expected})", first), (query, first)
        assert page.locator("ol.found > li").first.locator("mark").count(), query
    page.context.close()


def test_search_in_the_dialog(site, browser):
    page = new_page(browser)
    go(page, site / "book/04-dense.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("roofline")
    page.locator("#pst-search-dialog ol.found a").first.click()
    page.wait_for_url("**/24-compiled-loops.html#*")
    page.context.close()


def test_keys_turn_pages_and_focus_is_seen(site, browser):
    page = new_page(browser)
    go(page, site / "book/04-dense.html")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/05-activations.html")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/04-dense.html")
    unseen = """() => [...document.querySelectorAll("a[href], button, summary, input")]
        .filter(e => e.checkVisibility() && e.tabIndex >= 0).filter(e => {
            e.focus({focusVisible: true});
            if (document.activeElement !== e) return false;
            const style = getComputedStyle(e.closest(".docstring") || e);
            return style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2;
        }).map(e => e.outerHTML.slice(0, 200))"""
    page.keyboard.press("Tab")
    assert not page.evaluate(unseen)
    page.context.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_figure_can_be_enlarged(site, browser, size):
    page = new_page(browser, size)
    go(page, site / "book/04-dense.html")
    dialog, link = page.locator("dialog.enlarged"), page.locator("figure a").first
    link.click()
    assert dialog.locator("img").bounding_box()["width"] >= 300
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    link.focus()
    page.keyboard.press("Enter")
    dialog.locator("button").click()
    assert dialog.count() == 0
    page.context.close()


def test_print_is_light_and_whole(site, browser):
    page = new_page(browser, color_scheme="dark")
    go(page, site / "book/04-dense.html")
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 640, "height": 900})
    settle(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)"
    )
    lost = """() =>
        [...document.querySelectorAll("article pre, article div.admonition p")].filter(e =>
        e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().height < 5)
        .map(e => e.outerHTML.slice(0, 200))"""
    assert not page.evaluate(lost)
    page.context.close()


def test_the_site_is_small(site):
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    assert size <= 25e6, f"{size / 1e6:.1f} MB"


def test_the_picture_that_links_show_is_there(site):
    header = (site / "_static" / "cover.png").read_bytes()[16:24]
    assert struct.unpack(">II", header) == (1200, 630)


def test_every_page_says_what_it_is(site):
    for name in PAGES:
        page = parsed(site / f"{name}.html").head
        for tag in ("og:title", "og:description", "og:type", "og:site_name"):
            assert page.find("meta", property=tag)["content"], (name, tag)
        assert len(page.find_all("meta", attrs={"name": "description"})) == 1, name


@pytest.mark.parametrize(
    ("told", "title"),
    [
        ("NotationNotation", "Notation"),
        ("4. 4. The dense layerThe dense layer", "4. The dense layer"),
        ("4.1. Forward", "4.1. Forward"),
        ("Softmax", "Softmax"),
    ],
)
def test_a_bookmark_says_its_title_once(told, title):
    assert pdf.once(told) == title


def test_the_whole_book_is_one_page_with_its_links(site):
    joined = pdf.join(site)
    text = joined.read_text("utf-8")
    names = set(re.findall(r' id="([^"]*)"', text))
    links = re.findall(r'href="#([^"]*)"', text)
    assert len(links) > 2000
    assert not set(links) - names
    assert len(re.findall(r'<section class="bd-article whole-page"', text)) == len(
        PAGES
    )
    assert all(
        (site / src).is_file() for src in re.findall(r'<img[^>]*src="([^":]+)"', text)
    )
    joined.unlink()
    shutil.rmtree(site / pdf.PRINTED)
