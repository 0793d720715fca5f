"""Live figures in a browser: their numbers are the package's, and every hand can use them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import STEP
from live import SCRIPTS, scripts
from visits import SIZES

from cnn import digits, load_weights
from cnn.handwriting import as_mnist, center_of_mass
from cnn.losses import softmax
from cnn.training import in_use
from cnn.visualize import activations

FRONT, CHAPTER = "book/index", "book/22-handwriting"
FIGURES = {FRONT: "#draw-a-digit", CHAPTER: "#fig-handwriting-steps"}
SCRIPT = re.compile(r'CNN\.live\(\s*"([^"]+)"')
NET = load_weights()

INK = """canvas => {
    const {width, height} = canvas;
    const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
    return Array.from({length: width * height}, (_, at) => data[4 * at + 3]);
}"""
CONTRAST = """figure => {
    const parse = colour => {
        const n = colour.match(/[-\\d.]+/g).map(Number);
        const rgb = colour.startsWith("color(") ? n.slice(0, 3).map(x => 255 * x) : n.slice(0, 3);
        return [rgb, n.length > 3 ? n[3] : 1];
    };
    const over = ([top, a], below) => top.map((x, k) => a * x + (1 - a) * below[k]);
    const ground = element => {
        if (!element) return [255, 255, 255];
        const own = parse(getComputedStyle(element).backgroundColor);
        return own[1] === 1 ? own[0] : over(own, ground(element.parentElement));
    };
    const light = rgb => rgb.map(x => x / 255)
        .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
        .reduce((sum, x, k) => sum + [0.2126, 0.7152, 0.0722][k] * x, 0);
    const texts = [...figure.querySelectorAll(".live *")].filter(e =>
        e.checkVisibility() && !e.closest(".live-paper")
        && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
    return texts.map(e => {
        const below = ground(e), style = getComputedStyle(e);
        const [a, b] = [light(over(parse(style.color), below)), light(below)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        return [e.textContent, ratio, parseFloat(style.fontSize)];
    });
}"""


@pytest.fixture
def visit(site: Path, browser):
    """Return a function that opens a page; at the end no page has complained."""
    contexts, faults = [], []

    def open_page(name: str, size: str = "desktop", **options):
        width, height = SIZES[size]
        options |= {"viewport": {"width": width, "height": height}, "offline": True}
        context = browser.new_context(**options)
        context.set_default_timeout(0)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith(("file:", "data:")) else faults.append(r.url)
            ),
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda m: faults.append(m.text) if m.type in ("error", "warning") else None,
        )
        page.goto((site / f"{name}.html").as_uri(), wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


SETTLED = """async figure => {
    const board = figure.querySelector(".live-board");
    const answer = figure.querySelector(".live-answer");
    let told;
    do {
        told = answer.textContent;
        for (const frame of [1, 2]) await new Promise(requestAnimationFrame);
        await new Promise(done => setTimeout(done, 400));
    } while (board.dataset.writing || !told || told !== answer.textContent);
}"""


def settled(page, name: str):
    """Wait for the example to be written and the answer to be told; return the figure."""
    figure = page.locator(FIGURES[name])
    figure.evaluate(SETTLED)
    return figure


def clear(figure) -> None:
    """Empty the board."""
    figure.locator(".live-clear").click()
    figure.page.wait_for_function(
        "f => !f.querySelector('.live-best')", arg=figure.element_handle()
    )


def shown(figure) -> np.ndarray:
    """Return the ten probabilities that the bars show."""
    styles = figure.locator(".live-fill").evaluate_all(
        "fills => fills.map(fill => fill.style.transform)"
    )
    return np.array([float(re.search(r"\((.*)\)", style)[1]) for style in styles])


def seen(figure) -> np.ndarray:
    """Return what the network is given for the ink on the board, by the package."""
    ink = np.array(figure.locator(".live-board").evaluate(INK)) / 255
    return as_mnist(ink.reshape(280, 280))


def expected(figure) -> np.ndarray:
    """Return the package's probabilities for the ink on the board."""
    return softmax(in_use(NET)(seen(figure)))[0]


SEVEN = [(0.25, 0.2), (0.5, 0.19), (0.75, 0.2), (0.6, 0.5), (0.45, 0.85)]


def places(figure) -> list[tuple[float, float]]:
    """Return the points of a seven in the window."""
    figure.locator(".live-board").scroll_into_view_if_needed()
    box = figure.locator(".live-board").bounding_box()
    return [
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in SEVEN
    ]


def with_mouse(page, points) -> None:
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=5)
    page.mouse.up()


def with_pen(page, points) -> None:
    session = page.context.new_cdp_session(page)
    kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
    for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1}
        session.send(
            "Input.dispatchMouseEvent", event | {"pointerType": "pen", "clickCount": 1}
        )


def with_finger(page, points) -> None:
    session = page.context.new_cdp_session(page)
    kinds = ["touchStart", *["touchMove"] * (len(points) - 1)]
    for kind, (x, y) in zip(kinds, points, strict=True):
        touch = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
        session.send("Input.dispatchTouchEvent", touch)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.check
def test_a_page_gets_the_scripts_of_its_figures():
    assert scripts("<p>no figure</p>") == []
    for script in SCRIPTS.glob("*.js"):
        for name in SCRIPT.findall(script.read_text("utf-8")):
            assert scripts(f'<figure id="{name}">')[-1] == script
    wanted = scripts('<figure id="fig-handwriting-steps">')
    assert [script.name for script in wanted] == [
        "network.js",
        "drawing.js",
        "handwriting.js",
    ]


def test_every_live_figure_has_its_printed_one(site):
    pages = [page.read_text("utf-8") for page in site.glob("book/*.html")]
    for script in SCRIPTS.glob("*.js"):
        for name in SCRIPT.findall(script.read_text("utf-8")):
            (page,) = (p for p in pages if f'id="{name}"' in p)
            assert f"_static/live/{script.name}?" in page


def test_scores_are_the_package_s(visit, record_property):
    page, x = visit(FRONT), digits().x_test[:100]
    page.evaluate("CNN.load('weights.js')")
    found, times = page.evaluate(
        """images => {
            const net = CNN.network(CNN.weights), times = [];
            const scores = images.map(data => {
                const start = performance.now();
                const z = net.scores({shape: [1, 28, 28], data: Float32Array.from(data)});
                times.push(performance.now() - start);
                return Array.from(z);
            });
            return [scores, times];
        }""",
        x.reshape(100, -1).tolist(),
    )
    record_property("ms_per_answer", float(np.median(times)))
    print(f"{np.median(times):.2f} ms an answer, at most {np.max(times):.2f}")
    difference = np.abs(np.array(found) - in_use(NET)(x)).max()
    print(f"largest difference of a score: {difference:.1e}")
    assert difference < 1e-4


def test_ink_becomes_the_package_s_image(visit):
    page, rng = visit(FRONT), np.random.default_rng(22)
    # half a pixel, of 40×25 and 3×8, goes to the even number
    for H, W in [(40, 40), (61, 47), (40, 25), (3, 8), (20, 90), (13, 200)]:
        ink = np.zeros((H + 9, W + 5))
        ink[3 : 3 + H, 2 : 2 + W] = rng.random((H, W)) * (rng.random((H, W)) < 0.2)
        ink[3, 2] = ink[2 + H, 1 + W] = 1
        steps = page.evaluate(
            "ink => { const s = CNN.asMnist(ink); return [Array.from(s.image.data), s.center]; }",
            {"shape": list(ink.shape), "data": ink.ravel().tolist()},
        )
        image = as_mnist(ink)
        assert np.allclose(steps[0], image.ravel(), rtol=0, atol=1e-6)
        assert np.allclose(steps[1], center_of_mass(image[0, 0]), atol=1e-5)
    empty = "CNN.asMnist({shape: [2, 3], data: [0, 0, 0, 0, 0, 0]})"
    assert page.evaluate(empty) is None


def test_numbers_are_written_as_in_the_book(visit):
    page = visit(FRONT)
    written = {
        0: "0",
        -1.5: "−1.5",
        0.12345: "0.123",
        1234.4: "1234",
        60000: "60\u00a0000",
        -122270: "−122\u00a0270",
        1.5e-9: "1.5·10⁻⁹",
        2e12: "2·10¹²",
    }
    for x, text in written.items():
        assert page.evaluate("x => CNN.number(x)", x) == text
    assert page.evaluate("[CNN.number(NaN), CNN.number(-Infinity)]") == [
        "not a number",
        "−∞",
    ]


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        (FRONT, with_mouse),
        (FRONT, with_pen),
        (FRONT, with_finger),
        (CHAPTER, with_finger),
    ][::STEP],
)
def test_a_drawing_is_read(visit, name, draw):
    page = visit(name, "phone" if draw is with_finger else "desktop", has_touch=True)
    figure = settled(page, name)
    clear(figure)
    points = places(figure)
    before = page.evaluate("scrollY")
    draw(page, points)
    figure = settled(page, name)
    assert page.evaluate("scrollY") == before
    P = shown(figure)
    assert np.allclose(P, expected(figure), atol=1e-4)
    assert P.argmax() == 7
    assert figure.locator(".live-answer").text_content().startswith("It reads a 7")
    clear(figure)
    assert shown(figure).max() == 0


def test_examples_are_picked_by_keyboard(visit):
    page = visit(FRONT, reduced_motion="reduce")
    figure = settled(page, FRONT)
    figure.locator(".live-clear").focus()
    for digit in range(10):
        page.keyboard.press("Tab")
        focus = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert focus == f"Write a {digit}"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid"
        page.keyboard.press("Enter" if digit % 2 else "Space")
        page.wait_for_function(
            "d => document.querySelector('.live-best')?.textContent.startsWith(d)",
            arg=f"{digit}",
        )
    assert np.allclose(shown(figure), expected(figure), atol=1e-4)


def test_an_example_gives_way_to_the_first_stroke(visit):
    page = visit(FRONT)
    figure = settled(page, FRONT)
    assert figure.locator(".live-hint").is_visible()
    with_mouse(page, places(figure))
    settled(page, FRONT)
    assert shown(figure).argmax() == 7
    assert not figure.locator(".live-hint").is_visible()


def test_maps_are_the_layers_outputs(visit):
    """What is painted, brightest at the peak, is what each layer answers."""
    page = visit(FRONT, reduced_motion="reduce")
    figure = settled(page, FRONT)
    more = figure.locator(".live-more")
    assert not figure.locator(".live-maps").count()
    more.click()
    assert more.get_attribute("aria-expanded") == "true"
    check_maps(figure, ["ReLU"])
    more.press("Enter")
    assert not figure.locator(".live-panel").is_visible()


def test_every_layer_s_maps(visit):
    page = visit(CHAPTER, "phone", reduced_motion="reduce")
    figure = settled(page, CHAPTER)
    figure.get_by_role("button", name="Every layer's maps").click()
    check_maps(figure, ["Conv2d", "ReLU", "Linear"])


def check_maps(figure, kinds: list[str]) -> None:
    """Compare the painted maps of layers of these kinds with the package's."""
    used = in_use(NET)
    outputs = [
        a[0]
        for layer, a in zip(used.layers, activations(NET, seen(figure)), strict=True)
        if type(layer).__name__ in kinds
    ]
    rows = figure.locator(".live-maps").all()
    assert len(rows) == len(outputs)
    for row, a in zip(rows, outputs, strict=True):
        painted = [canvas.evaluate(INK) for canvas in row.locator("canvas").all()]
        assert np.allclose(
            np.ravel(painted) / 255,
            np.abs(a).ravel() / np.abs(a).max(),
            rtol=0,
            atol=0.01,
        )


def numbers(figure) -> dict[str, float]:
    """Return the sums that the figure shows."""
    found = figure.locator(".live-sum output").all()
    return {
        out.get_attribute("data-key"): float(out.get_attribute("data-value"))
        for out in found
    }


def check_convolution(figure, k: int, nu: int, i: int, j: int) -> None:
    """Compare the sums shown for output (nu, i, j) of the k-th convolution."""
    outputs, layer = activations(NET, seen(figure)), NET.layers[2 * k]
    x = seen(figure) if k == 0 else outputs[2 * k - 1]
    s, p = layer.where["stride"], layer.where["padding"]
    W, xbar = layer.params["weight"], np.pad(x[0], ((0, 0), (p, p), (p, p)))
    f = W.shape[2]
    sums = (xbar[:, s * i : s * i + f, s * j : s * j + f] * W[nu]).sum(axis=(1, 2))
    z = outputs[2 * k][0, nu, i, j]
    found = numbers(figure)
    assert np.allclose([found[f"sum-{mu}"] for mu in range(len(x[0]))], sums, atol=1e-4)
    assert np.isclose(found["bias"], layer.params["bias"][nu], atol=1e-6)
    assert np.isclose(found["z"], z, atol=1e-4)
    assert np.isclose(found["relu"], max(z, 0), atol=1e-4)
    together = sum(found[f"sum-{mu}"] for mu in range(len(x[0]))) + found["bias"]
    assert np.isclose(together, found["z"], atol=1e-4)


def test_one_convolution_stepped_through(visit):
    """By keyboard, then by pointing at a place; the cells multiply to their products."""
    page = visit(CHAPTER, reduced_motion="reduce")
    figure = settled(page, CHAPTER)
    figure.get_by_role("button", name="One convolution").press("Enter")
    for k, nu, i, j in [(0, 2, 14, 9), (1, 5, 6, 6), (2, 11, 3, 0)]:
        figure.get_by_role("button", name=f"Convolution {k + 1}").press("Space")
        for label, value in {"map ν": nu, "row i": i, "column j": j}.items():
            slider = figure.get_by_role("slider", name=label)
            slider.fill(str(max(0, value - 2)))
            for _ in range(min(2, value)):
                slider.press("ArrowRight")
        check_convolution(figure, k, nu, i, j)
        cells = figure.locator(".live-grid").evaluate_all(
            "g => g.map(g => [...g.querySelectorAll('.live-cells span')].map(e => e.textContent))"
        )
        window, W, products = np.array(
            [[float(x.replace("−", "-")) for x in grid] for grid in cells]
        )
        most = 0.005 * (1 + np.abs(window) + np.abs(W)) + 1e-4
        assert (np.abs(window * W - products) <= most).all()
    figure.get_by_role("button", name="Next place").click()
    check_convolution(figure, 2, 11, 3, 1)
    target = figure.locator(".live-target")
    box = target.bounding_box()
    at = {"x": 4.5 / 7 * box["width"], "y": 2.5 / 7 * box["height"]}
    target.click(position=at)
    check_convolution(figure, 2, 11, 2, 4)


def test_a_place_is_touched(visit):
    page = visit(CHAPTER, "phone", has_touch=True, reduced_motion="reduce")
    figure = settled(page, CHAPTER)
    figure.get_by_role("button", name="One convolution").tap()
    target = figure.locator(".live-target")
    nu = int(figure.get_by_role("slider", name="map ν").input_value())
    box = target.bounding_box()
    at = {"x": 10.5 / 28 * box["width"], "y": 5.5 / 28 * box["height"]}
    target.tap(position=at)
    check_convolution(figure, 0, nu, 5, 10)


CONTROLS = """figure => [...figure.querySelectorAll("button, input")].map(e => {
  const {width, height} = e.getBoundingClientRect();
  return [e.outerHTML.slice(0, 160), width, height];
}).filter(([_, width]) => width)"""


@pytest.mark.parametrize("name", FIGURES)
def test_legible_and_large_enough(visit, name):
    page = visit(name, reduced_motion="reduce")
    figure = settled(page, name)
    opened = ".live-more" if name == FRONT else ".live-choice >> nth=0 >> button"
    for button in figure.locator(opened).all():
        button.click()
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                settled(page, name)
                for text, ratio, px in figure.evaluate(CONTRAST):
                    assert ratio >= 4.5, (text, ratio, scheme)
                    assert px >= 12, (text, px)
            for control, *sides in figure.evaluate(CONTROLS):
                assert min(sides) >= 43.9, (control, size)
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", [*FIGURES][::STEP])
def test_printed_and_live_change_places(visit, name):
    page = visit(name)
    figure = settled(page, name)
    printed, alive = figure.locator("img"), figure.locator(".live-body")
    assert (printed.is_visible(), alive.is_visible()) == (False, True)
    figure.locator(".live-switch").click()
    assert (printed.is_visible(), alive.is_visible()) == (True, False)
    figure.locator(".live-switch").press("Enter")
    assert (printed.is_visible(), alive.is_visible()) == (False, True)
    page.emulate_media(media="print")
    assert (printed.is_visible(), alive.is_visible()) == (True, False)
    assert not figure.locator(".live-switch").is_visible()


@pytest.mark.parametrize("size", [*SIZES][::STEP])
@pytest.mark.parametrize("name", FIGURES)
def test_nothing_jumps(visit, name, size):
    """The page's cumulative layout shift, with all that its figures do while they load."""
    page = visit(name, size)
    settled(page, name)
    shift = page.evaluate("""async () => {
        let sum = 0;
        new PerformanceObserver(list => list.getEntries().forEach(e => { sum += e.value; }))
            .observe({type: "layout-shift", buffered: true});
        await new Promise(done => setTimeout(done, 200));
        return sum;
    }""")
    print(f"layout shift of {name}, {size}: {shift:.3f}")
    assert shift < 0.05
