"""One visit to a page in a browser: what can be seen of it, collected in one pass.

python tests/visits.py [SITE]      a table of times, shifts and sizes of the built pages
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
COLUMNS = 88  # that a line of code may have
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

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
  for (const formula of document.querySelectorAll("mjx-container")) formula.replaceChildren();
  const {violations} = await axe.run(document, {resultTypes: ["violations"], preload: false});
  return violations.filter(v => ["serious", "critical"].includes(v.impact)).map(v =>
    `${v.id}, ${v.nodes.length} times: ${v.nodes[0].html.slice(0, 160)} `
    + v.nodes[0].failureSummary);
}"""


@cache
def axe() -> str:
    """Return the source of axe-core, which looks for what shuts people out; "" without it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    places = spec.submodule_search_locations if spec else []
    return next((Path(p, "axe.min.js").read_text("utf-8") for p in places), "")


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


def visit(browser, file: Path, size: str) -> Seen:
    """Visit a page in both colour schemes; axe-core looks at one of them, another for each size."""
    page, seen = new_page(browser, size), Seen()
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
    seen.times = page.evaluate(TIMES)
    seen.faults += page.evaluate(FAULTS, [size, COLUMNS])
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        settle(page)
        if page.evaluate("document.documentElement.dataset.theme") != scheme:
            seen.faults.append(f"not in {scheme}")
        if wide := page.evaluate(SIDEWAYS):
            seen.faults.append(f"scrolls sideways in {scheme}: {wide}")
        seen.faults += [f"on a box in {scheme}: {src}" for src in page.evaluate(BOXED)]
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        if axe() and (scheme == "dark") == (size == "phone"):
            page.evaluate(axe())
            seen.faults += [f"in {scheme}: {fault}" for fault in page.evaluate(AXE)]
    if grounds[0] == grounds[1]:
        seen.faults.append("light and dark look alike")
    seen.page = page
    return seen


def main() -> None:
    """Print how fast the pages of a site are there, how much they shift, and their size."""
    import shutil

    from playwright.sync_api import sync_playwright

    site = Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html").resolve()
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    print(f"site {size / 1e6:.1f} MB")
    print("page                          paint   formulas   shifts")
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(
            executable_path=path, args=FLAGS, timeout=0
        )
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
