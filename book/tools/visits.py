"""One visit to a page in a browser: what can be seen of it, collected in one pass.

python book/tools/visits.py [SITE]      a table of times, shifts and sizes of the built pages
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

from browser import launch

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
COLUMNS = 88  # that a line of code may have

WATCH = """
  window.shifts = 0;
  new PerformanceObserver(list => {
    for (const e of list.getEntries()) if (!e.hadRecentInput) window.shifts += e.value;
  }).observe({type: "layout-shift", buffered: true});
"""

# What is wrong with a page whatever its colours: a list of sentences.
FAULTS = """([size, columns]) => {
  const found = [], all = (css) => [...document.querySelectorAll(css)];
  const say = (what, elements) => {
    for (const e of elements) found.push(what + ": " + e.outerHTML.slice(0, 160));
  };
  say("a formula is not rendered", all(".math").filter(e =>
    !e.querySelector("mjx-container") || e.querySelector("mjx-merror, merror")));
  say("a formula is wrong", all("mjx-merror, [data-mml-node=merror]"));
  say("a formula is a stop of the Tab key", all("mjx-container[tabindex]"));
  const px = (e) => parseFloat(getComputedStyle(e).fontSize);
  const text = px(document.querySelector("article p") || document.body);
  const code = all("article div.highlight pre").filter(e => e.offsetParent);
  say("code is smaller than 0.9 of the text", code.filter(e => px(e) < 0.9 * text - 0.01));
  if (size === "desktop")
    say("code scrolls sideways", code.filter(e => e.scrollWidth > e.clientWidth + 1
      && Math.max(...e.textContent.split("\\n").map(l => l.length)) <= columns));
  if (size === "phone") {
    say("a figure's writing is below 9 px", all("article figure img").filter(e => {
      const least = parseFloat(e.style.getPropertyValue("--legible")) || 0;
      return e.offsetParent && e.getBoundingClientRect().width < least - 1;
    }));
    say("it scrolls, and no key reaches it", all("article div.math").filter(e =>
      e.scrollWidth > e.clientWidth + 1 && e.tabIndex !== 0));
  }
  const ids = all("[id]").map(e => e.id);
  say("an id is repeated", all("[id]").filter((e, n) => ids.indexOf(e.id) !== n
    && !e.closest("svg")));
  return found;
}"""

SIDEWAYS = """() => {
  const root = document.documentElement, limit = root.clientWidth + 1;
  if (root.scrollWidth <= limit) return "";
  const wide = [...document.querySelectorAll("main *")].filter(
    e => e.getBoundingClientRect().right > limit);
  return `${root.scrollWidth} px: ` + (wide.length ? wide[0].outerHTML.slice(0, 200) : "");
}"""

BOXED = """() => [...document.querySelectorAll("article img")].filter(e =>
  getComputedStyle(e).backgroundColor !== "rgba(0, 0, 0, 0)").map(e => e.src)"""

TIMES = """() => ({
  paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime || 0,
  formulas: performance.now(), shifts: window.shifts})"""

AXE = """async () => {
  const formulas = [...document.querySelectorAll("mjx-container")].map(f => [f, [...f.childNodes]]);
  for (const [formula] of formulas) formula.replaceChildren();  // a picture; thousands of nodes
  const {violations} = await axe.run(document, {resultTypes: ["violations"], preload: false});
  for (const [formula, parts] of formulas) formula.replaceChildren(...parts);
  return violations.filter(v => ["serious", "critical"].includes(v.impact)).map(v =>
    `${v.id}, ${v.nodes.length} times: ${v.nodes[0].html.slice(0, 160)} `
    + v.nodes[0].failureSummary);
}"""


@cache
def axe() -> str:
    """Return the source of axe-core, which looks for what shuts people out."""
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


@dataclass
class Seen:
    """What a visit has seen."""

    faults: list[str] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)
    page: object = None


def settle(page) -> None:
    """Wait until the page has been drawn anew."""
    page.evaluate("""async () => {
        for (const frame of [1, 2]) await new Promise(requestAnimationFrame);
    }""")


def new_page(browser, size: str = "desktop", **options):
    """Open an empty page without a network, of which the layout's shifts are counted."""
    width, height = SIZES[size]
    about = {"offline": True, "color_scheme": "light"} | options
    context = browser.new_context(viewport={"width": width, "height": height}, **about)
    context.set_default_timeout(0)
    context.add_init_script(WATCH)
    return context.new_page()


def go(page, file: Path) -> None:
    """Go to a page and wait for its formulas."""
    page.goto(file.as_uri(), wait_until="load")
    if page.locator(".math").count():
        page.evaluate("MathJax.startup.promise.then(() => true)")
    settle(page)


def visit(browser, file: Path, sizes: Sequence[str], axes: Collection[str]) -> Seen:
    """Visit a page in both colour schemes and some sizes; axe-core looks in the schemes ``axes``.

    The page is loaded in the first of the sizes; axe-core sees the dark one there, the light one
    in the last.
    """
    page, seen = new_page(browser, sizes[0]), Seen()
    outside = "a request to the network: "
    page.on(
        "request",
        lambda r: (
            None
            if r.url.startswith(("file:", "data:"))
            else seen.faults.append(outside + r.url)
        ),
    )
    page.on("pageerror", lambda error: seen.faults.append(str(error)))
    page.on(
        "console", lambda m: seen.faults.append(m.text) if m.type == "error" else None
    )
    go(page, file)
    seen.times, seen.page = page.evaluate(TIMES), page
    page.add_style_tag(content="* { transition: none !important; }")
    looks = {"dark": sizes[0], "light": sizes[-1]}
    for size in sizes:
        width, height = SIZES[size]
        page.set_viewport_size({"width": width, "height": height})
        settle(page)
        seen.faults += page.evaluate(FAULTS, [size, COLUMNS])
        for scheme in ("light", "dark"):
            seen.faults += look(page, scheme, scheme in axes and looks[scheme] == size)
    return seen


def look(page, scheme: str, closely: bool) -> list[str]:
    """Return what is wrong with a page in a colour scheme, ``closely`` with axe-core's eyes."""
    page.emulate_media(color_scheme=scheme)
    settle(page)
    faults = [f"a picture on a box: {src}" for src in page.evaluate(BOXED)]
    if wide := page.evaluate(SIDEWAYS):
        faults.append(f"scrolls sideways: {wide}")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    if (sum(map(int, re.findall(r"\d+", ground)[:3])) > 384) != (scheme == "light"):
        faults.append(f"the ground is {ground}")
    if closely:
        page.evaluate(axe())
        faults += page.evaluate(AXE)
    return [f"in {scheme}: {fault}" for fault in faults]


def main() -> None:
    """Print how fast the pages of a site are there, how much they shift, and their size."""
    from playwright.sync_api import sync_playwright

    site = Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html").resolve()
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    print(f"site {size / 1e6:.1f} MB")
    print("page                          paint   formulas   shifts")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for file in sorted(site.glob("book/*.html")):
            page = new_page(browser)
            go(page, file)
            t = page.evaluate(TIMES)
            row = f"{t['paint']:5.0f} ms {t['formulas']:7.0f} ms {t['shifts']:8.3f}"
            print(f"{file.stem:28} {row}", flush=True)
            page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
