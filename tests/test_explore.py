"""Live figures of the derivations: the package's numbers, by mouse, touch and keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chapters import BOOK, read_all

from cnn.correlation import conv2d_loops, geometry, output_size, pad
from cnn.correlation_grad import (
    conv2d_correlation_backward,
    conv2d_loops_backward,
    conv2d_matrix,
    rot180,
    spread,
)
from cnn.gradcheck import check_gradient, complex_step_gradient, numerical_gradient
from cnn.im2col import im2col
from cnn.losses import softmax
from cnn.optimizers import SGD, Adam

STATIC = BOOK / "_static"
LIVE = STATIC / "live"
FILES = [
    "explorer", "backprop", "valley", "step", "softmax", "columns", "classes",
]  # fmt: skip
SHARED = ["base", "plane", "convolution"]
ATTACHED = re.compile(r'CNN\.live\(\s*"([^"]+)"')
FIGURES = [
    name
    for file in FILES
    for name in ATTACHED.findall((LIVE / f"{file}.js").read_text("utf-8"))
]
TABLES = [name for name in FIGURES if re.search("corr|conv|columns|classes", name)]
COLOURS = {
    "light": {"text-base": "#323232", "background": "#fff", "surface": "#f5f5f5"},
    "dark": {"text-base": "#ced6dd", "background": "#14181e", "surface": "#29313d"},
}


def written(folder: Path, scheme: str) -> Path:
    """Write a page with an empty figure for every live one, in the theme's colours."""
    colours = "".join(f"--pst-color-{k}:{v};" for k, v in COLOURS[scheme].items())
    sheets = [STATIC / "cnnbook.css", LIVE / "live.css"]
    scripts = [LIVE / f"{name}.js" for name in SHARED + FILES]
    page = folder / f"{scheme}.html"
    page.write_text(
        f'<!doctype html><html lang="en" data-theme="{scheme}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Live</title>'
        + "".join(f'<link rel="stylesheet" href="{s.as_uri()}">' for s in sheets)
        + f"<style>:root{{{colours}--pst-color-border:#888}} *{{box-sizing:border-box}}"
        + "body{margin:0;font:16px sans-serif;background:var(--pst-color-background);"
        + "color:var(--pst-color-text-base)} main{max-width:45rem;padding:0 1rem}</style>"
        + '<main class="bd-content">'
        + "".join(
            f'<figure id="{n}"><p>still</p><figcaption>x</figcaption></figure>'
            for n in FIGURES
        )
        + "</main>"
        + "".join(f'<script src="{s.as_uri()}"></script>' for s in scripts),
        "utf-8",
    )
    return page


def opened(browser, folder: Path, scheme: str = "light", width: int = 1280, **options):
    """Open the page and wait until every figure is built; what goes wrong is in ``wrong``."""
    options = {"reduced_motion": "reduce", "offline": True, **options}
    size = {"width": width, "height": 844}
    context = browser.new_context(viewport=size, color_scheme=scheme, **options)
    context.set_default_timeout(0)
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text))
    page.goto(written(folder, scheme).as_uri())
    built = "n => document.querySelectorAll('.live-said p').length >= n"
    page.wait_for_function(built, arg=len(FIGURES))
    return page


@pytest.fixture(scope="module")
def desk(browser, tmp_path_factory):
    """A page on a desk, for the numbers."""
    page = opened(browser, tmp_path_factory.mktemp("desk"))
    yield page
    assert not page.wrong
    page.context.close()


@pytest.fixture(scope="module")
def phone(browser, tmp_path_factory):
    """The same on a phone, for the hands."""
    folder = tmp_path_factory.mktemp("phone")
    page = opened(browser, folder, width=390, has_touch=True)
    yield page
    assert not page.wrong
    page.context.close()


def asked(page, script: str, cases: list) -> list:
    """Call a function of the page once for each case, a list of arguments."""
    return page.evaluate(f"cases => cases.map((one) => ({script})(...one))", cases)


def test_every_live_figure_has_a_printed_one():
    names = {
        cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for chapter in read_all()
        for cell in chapter.code
    }
    assert names >= set(FIGURES)
    size = sum((LIVE / f"{name}.js").stat().st_size for name in SHARED + FILES)
    assert size <= 100_000


def rows(n: int, seed: int = 0) -> Iterator[dict[str, int]]:
    """Make sizes of one axis, some too small for their filter."""
    rng = np.random.default_rng(seed)
    most = {"H": 12, "f": 5, "s": 5, "d": 4, "before": 4, "after": 4}
    for _ in range(n):
        low = {"before": 0, "after": 0}
        yield {k: int(rng.integers(low.get(k, 1), m)) for k, m in most.items()}


def test_the_row_of_the_explorer_is_the_package_s(desk):
    """Windows, remainder, outputs, blame, matrix and the framed row, on whole numbers."""
    rng, tried = np.random.default_rng(1), 0
    script = """(row, x, W, dz) => {
        const c = CNN.conv, g = c.geometry(row);
        if (!g.h_out) return { g };
        const xbar = [...Array(g.before).fill(0), ...x, ...Array(g.after).fill(0)];
        const blame = dz.slice(0, g.h_out), E = c.framed(g, blame);
        return { g, z: c.forward(g, xbar, W, 5), dx: c.backward(g, blame, W), E,
            again: c.correlate(E, c.turned(g, W)), A: c.matrix(g, W) };
    }"""
    cases = [
        [row, *(rng.integers(-9, 10, n).tolist() for n in (row["H"], row["f"], 30))]
        for row in rows(150)
    ]
    for case, mine in zip(cases, asked(desk, script, cases), strict=True):
        row, x, W, dz = case
        H, f, s, d, before, after = row.values()
        if before + H + after < d * (f - 1) + 1:
            assert mine["g"]["h_out"] == 0
            continue
        h_out, r = output_size(H, f, s, d, before + after)
        assert (mine["g"]["h_out"], mine["g"]["r"]) == (h_out, r)
        where = {"stride": s, "padding": (0, 0, before, after), "dilation": d}
        image, filter_ = np.reshape(x, (1, 1, 1, H)), np.reshape(W, (1, 1, 1, f))
        z = conv2d_loops(image, filter_, np.array([5]), **where)
        assert mine["z"] == z.ravel().tolist()
        blame = np.reshape(dz[:h_out], (1, 1, 1, h_out))
        dx, _, _ = conv2d_loops_backward(blame, image, filter_, **where)
        real = slice(before, before + H)
        assert mine["dx"][real] == dx.ravel().tolist()
        assert mine["again"] == mine["dx"]
        g = geometry((1, H), (1, f), **where)
        xbar = pad(image, g)
        padded, _, _ = conv2d_loops_backward(blame, xbar, filter_, s, 0, d)
        assert mine["dx"] == padded.ravel().tolist()
        e = d * (f - 1)
        E = np.pad(spread(blame, s)[0, 0, 0], (e, e + r))
        assert mine["E"] == E.tolist()
        A = conv2d_matrix(filter_, (1, H), **where)
        assert np.array_equal(np.array(mine["A"])[:, real], A)
        tried += 1
    assert tried > 80


def test_the_image_of_the_explorer_is_the_package_s(desk):
    rng, cases, wanted = np.random.default_rng(2), [], []
    script = """(rows, columns, dz, W, x) => {
        const c = CNN.conv, gh = c.geometry(rows), gw = c.geometry(columns);
        return { dx: c.backward2d(gh, gw, dz, W), E: c.framed2d(gh, gw, dz),
            F: c.both(W, (row) => c.turned(gh, row)), V: c.columns(gh, gw, x) };
    }"""
    for high, wide in zip(rows(120, 3), rows(120, 4), strict=True):
        wide |= {"s": high["s"], "d": high["d"]}
        s, d = high["s"], high["d"]
        sides = (high["before"], high["after"], wide["before"], wide["after"])
        try:
            f = (high["f"], wide["f"])
            g = geometry((high["H"], wide["H"]), f, s, sides, d)
        except ValueError:
            continue
        x = rng.integers(-9, 10, (1, 1, high["H"], wide["H"]))
        W = rng.integers(-9, 10, (1, 1, *f))
        dz = rng.integers(-9, 10, (1, 1, g.h_out, g.w_out))
        given = [a[0, 0].tolist() for a in (dz, W, pad(x, g))]
        cases.append([high, wide, *given])
        dx, _, _ = conv2d_correlation_backward(dz, pad(x, g), W, s, 0, d)
        e_h, e_w = d * (f[0] - 1), d * (f[1] - 1)
        E = np.pad(spread(dz, s)[0, 0], ((e_h, e_h + g.r_h), (e_w, e_w + g.r_w)))
        turned, V = rot180(spread(W, d))[0, 0], im2col(x, *f, g)
        wanted.append({"dx": dx[0, 0], "E": E, "F": turned, "V": V})
    assert len(cases) > 40
    for mine, want in zip(asked(desk, script, cases), wanted, strict=True):
        for name, array in want.items():
            assert np.array_equal(mine[name], array.reshape(np.shape(mine[name])))


def test_classes_of_pixels_meet_the_taps_that_reach_them(desk):
    """With blame everywhere, taps are met if and only if their product arrives."""
    cases = [
        [f, s, d, rho]
        for f in range(1, 6)
        for s in range(1, 5)
        for d in range(1, 5)
        for rho in range(s)
    ]
    answers = asked(desk, "(...one) => CNN.conv.taps(...one)", cases)
    for (f, s, d, rho), taps in zip(cases, answers, strict=True):
        h = s * (d * f // s + 3) + rho  # far from the edges
        starts = {s * i for i in range(output_size(100, f, s, d)[0])}
        assert taps == [a for a in range(f) if h - d * a in starts]


@pytest.mark.parametrize("rule", ["descent", "momentum", "rmsprop", "adam"])
def test_walks_are_the_optimisers(desk, rule):
    rng = np.random.default_rng(5)
    call = """(rule, set, start, angle) =>
        CNN.optimizers.walk(rule, set, start, 40, [1, 40], angle)"""
    cases = []
    for _ in range(20):
        gamma, given = 10 ** rng.uniform(-3, -1), rng.uniform(size=3).tolist()
        sizes = dict(zip(("mu", "beta1", "beta2"), given, strict=True))
        sizes |= {"gamma": gamma, "eps": 1e-8}
        cases.append([rule, sizes, rng.uniform(-5, 5, 2).tolist(), rng.uniform(0, 1)])
    for case, mine in zip(cases, asked(desk, call, cases), strict=True):
        _, sizes, start, angle = case
        c, s = np.cos(angle), np.sin(angle)
        Q = np.array([[c, -s], [s, c]])
        path = walked(rule, sizes, np.array(start), Q @ np.diag([1.0, 40.0]) @ Q.T)
        np.testing.assert_allclose(mine, path, rtol=1e-9, atol=1e-9)


def walked(
    rule: str, given: dict, start: np.ndarray, curvature: np.ndarray
) -> list[np.ndarray]:
    """Take forty steps with the package's optimiser, RMSProp with PyTorch's."""
    theta, path = start.copy(), [start.copy()]
    params, gamma = {"theta": theta}, given["gamma"]
    if rule == "rmsprop":
        torch = pytest.importorskip("torch")
        tensor = torch.from_numpy(theta).requires_grad_()
        hinton = torch.optim.RMSprop([tensor], gamma, given["beta2"], given["eps"])
    elif rule == "adam":
        betas = (given["beta1"], given["beta2"])
        optimizer = Adam(params, gamma, betas, given["eps"])
    else:
        optimizer = SGD(params, gamma, given["mu"] if rule == "momentum" else 0)
    for _ in range(40):
        if rule == "rmsprop":
            tensor.grad = torch.from_numpy(curvature @ theta)
            hinton.step()
        else:
            optimizer.step({"theta": curvature @ theta})
        path.append(theta.copy())
    return path


def test_the_factor_of_momentum_is_that_of_long_walks(desk):
    cases = [[0.05, 3, 0.5], [0.02, 1, 0.9], [0.07, 40, 0.53], [0.09, 40, 0.5]]
    factors = asked(desk, "(...one) => CNN.optimizers.factor(...one)", cases)
    for (gamma, lam, mu), factor in zip(cases, factors, strict=True):
        roots = np.roots([1, -(1 + mu - gamma * lam), mu])
        assert factor == pytest.approx(abs(roots).max(), rel=1e-7)


def test_the_scalar_network_has_the_chapter_s_numbers(desk):
    call = (
        "x => { const v = CNN.scalar.forward(x); return [v, CNN.scalar.backward(v)]; }"
    )
    names, points = "qwbuv", np.random.default_rng(7).uniform(-6, 6, (30, 5))
    points = [[3.0, 2.0, -4.0, 4.0, -1.0], *points.tolist()]
    cases = [[dict(zip(names, point, strict=True))] for point in points]
    answers = asked(desk, call, cases)
    values, gradients = answers[0]
    want = {
        "p": 6,
        "z": 2,
        "q1": 2,
        "z_u": 8,
        "z_v": -2,
        "J_u": 0.5,
        "J_v": 2,
        "J": 2.5,
    }
    assert {k: values[k] for k in want} == want
    want = {"q": 12, "w": 18, "b": 6, "u": 2, "v": -4, "q1": 6, "q_u": 4, "q_v": 2}
    assert {k: gradients[k] for k in want} == want

    def cost(a):
        q, w, b, u, v = a
        q1 = max(0, w * q + b)
        return (u * q1 - 7) ** 2 / 2 + (v * q1) ** 2 / 2

    for point, (values, gradients) in zip(points, answers, strict=True):
        a, da = np.array(point), np.array([gradients[k] for k in names])
        assert values["J"] == pytest.approx(cost(a), rel=1e-12)
        if values["z"] > 1e-2:
            check_gradient(cost, a, da)
        elif values["z"] < -1e-2:
            assert not da.any()


def test_differences_are_those_of_the_chapter(desk):
    """To rounding: two exponentials may differ in their last bit, and the step magnifies it."""

    def f(theta):
        return np.log(1 + np.exp(theta)).sum()

    eps = np.finfo(float).eps
    call = "(h, theta) => Object.values(CNN.differences.rules).map((rule) => rule(theta, h))"
    steps, theta = (10.0 ** np.arange(-18, 0.1, 0.5)).tolist(), np.array([0.9])
    answers = asked(desk, call, [[h, theta[0]] for h in steps])
    for h, (forward, central, complex_) in zip(steps, answers, strict=True):
        off = 4 * eps * f(theta) / h + 1e-15
        assert abs(forward - (f(theta + h) - f(theta)) / h) <= off
        assert abs(central - numerical_gradient(f, theta, h)[0]) <= off
        want = complex_step_gradient(f, theta, h)[0]
        assert complex_ == pytest.approx(want, rel=1e-14)
    call = "h => CNN.differences.worst('central', h)"
    large, best, small = asked(desk, call, [[1e-2], [1e-5], [1e-12]])
    assert best < 1e-9 < large < small


def test_the_softmax_is_the_package_s(desk):
    rng = np.random.default_rng(8)
    z = rng.uniform(-10, 10, (50, 3))
    answers = asked(desk, "z => CNN.softmax(z)", [[row] for row in z.tolist()])
    for mine, P in zip(answers, softmax(z), strict=True):
        np.testing.assert_allclose(mine["P"], P, rtol=1e-13)
        np.testing.assert_allclose(mine["odds"], P / P.min(), rtol=1e-12)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_fit_and_can_be_read(browser, tmp_path, scheme):
    """No sideways scrolling, text of 12 px at least, controls of 44 px, 4.5 : 1 on squares."""
    page = opened(browser, tmp_path, scheme)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        redrawn = "new Promise((f) => requestAnimationFrame(() => setTimeout(f)))"
        page.evaluate(redrawn)
        legible(page, width)
    assert not page.wrong
    page.emulate_media(media="print")
    assert not page.locator(".live").first.is_visible()
    page.context.close()


def legible(page, width: int) -> None:
    """Look at every figure in a window of this width."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widest = """() => Math.max(...[...document.querySelectorAll(".live svg")]
        .map((e) => e.getBoundingClientRect().right))"""
    assert page.evaluate(widest) <= width
    assert page.locator(".live").count() == len(FIGURES)
    sizes = page.evaluate("""() => [...document.querySelectorAll(".live *")]
        .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
        .map((e) => parseFloat(getComputedStyle(e).fontSize))""")
    assert min(sizes) >= 12
    low = page.evaluate("""() => [...document.querySelectorAll(".live button, .live input")]
        .filter((e) => e.getBoundingClientRect().height < 44).map((e) => e.outerHTML)""")
    assert not low
    pairs = page.evaluate("""() => [...document.querySelectorAll(".square:not(.soft)")]
        .filter((e) => e.querySelector("text"))
        .map((e) => [e.querySelector("text"), e.querySelector("rect")]
        .map((part) => getComputedStyle(part).fill))""")
    for ink, ground in {tuple(pair) for pair in pairs}:
        if ground != "rgba(0, 0, 0, 0)":
            assert contrast(ink, ground) >= 4.5, (ink, ground)


def contrast(*colours: str) -> float:
    """Return the contrast of two colours, each ``rgb(…)``, as WCAG counts it."""
    light = []
    for colour in colours:
        rgb = np.array([int(n) for n in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(light) / min(light)


def told(page, name: str) -> str:
    """Return what a figure says."""
    return page.locator(f"#{name} .live-said").inner_text()


def seen(page, name: str) -> str:
    """Return what a figure draws and says."""
    drawn = "es => es.map((e) => e.outerHTML).join()"
    return page.locator(f"#{name} .live-body svg").evaluate_all(drawn) + told(
        page, name
    )


@pytest.mark.parametrize("name", FIGURES)
def test_by_mouse_keyboard_and_touch(phone, name):
    """Whatever the hand, the figure answers: a square, a slider, a button."""
    page = phone
    figure, before = page.locator(f"#{name}"), [seen(page, name)]

    def answers(what: str) -> None:
        before.append(seen(page, name))
        assert before[-1] != before[-2], what

    if name in TABLES or "valley" in name:
        picture = figure.locator("svg[role=application]").first
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        at = [
            (box["width"] * x, box["height"] * y) for x, y in ((0.55, 0.3), (0.8, 0.9))
        ]
        picture.click(position=dict(zip("xy", at[0], strict=True)))
        answers("a click")
        picture.tap(position=dict(zip("xy", at[1], strict=True)))
        answers("a tap")
        picture.focus()
        for key in ("ArrowLeft", "ArrowUp"):
            page.keyboard.press(key)
            answers(key)
    figure.locator("input[type=range]").first.focus()
    page.keyboard.press("ArrowLeft")
    answers("a slider")
    pressed = figure.locator(".live-body button:not([disabled], [aria-pressed=true])")
    if pressed.count():
        html = figure.locator(".live-body").inner_text()
        pressed.first.tap()
        assert figure.locator(".live-body").inner_text() != html
    still = figure.locator("> p")
    assert not still.is_visible()
    figure.get_by_role("button", name="Printed figure").click()
    assert still.is_visible()
    assert not page.wrong


def test_the_explorer_shows_who_reads_whom(desk):
    """The printed case: pixel 4 meets outputs 1 and 2, pixel 7 none; and a window of its own."""
    figure = desk.locator("#fig-conv-backward-row")
    words = told(desk, "fig-conv-backward-row")
    assert "2·2 + 1·0 = 4: output i = 2 through W₀" in words
    assert "2·1 + 1·2 = 4: output i = 1 through W₂" in words
    table, strip = figure.locator("svg").all()
    table.locator("[data-at='0,8']").click()
    assert "no window reads pixel 7" in told(desk, "fig-conv-backward-row")
    table.locator("[data-at='2,0']").click()
    assert "2·1 + 1·0 = 2, 2·1 + 1·1 = 3, 2·1 + 1·2 = 4" in told(
        desk, "fig-conv-backward-row"
    )
    lit = "es => es.map((e) => e.dataset.at)"
    chosen = table.locator(".square.blue:not(.soft)").evaluate_all(lit)
    assert chosen == ["2,0", "2,3", "2,4", "2,5"]
    reached = strip.locator(".square.orange").evaluate_all(lit)
    assert reached == ["2,2", "2,3", "2,4"]


def test_an_explosion_is_felt(desk):
    figure = desk.locator("#fig-valley")
    slider = figure.locator("input[type=range]").first
    for power, leaves in ((-1.2, True), (-1.5, False)):
        slider.evaluate(
            "(e, x) => { e.value = x; e.dispatchEvent(new Event('input')); }", power
        )
        assert ("leaves the picture" in told(desk, "fig-valley")) == leaves
        assert (figure.locator("svg.lost").count() == 1) == leaves
        assert ("above the limit" in told(desk, "fig-valley")) == leaves


def test_backpropagation_ends_with_the_printed_numbers(desk):
    """Seventeen clicks forwards and backwards, each with a sentence of its own."""
    figure = desk.locator("#fig-backprop-scalar")
    told_so_far = {told(desk, "fig-backprop-scalar")}
    for _ in range(17):
        figure.get_by_role("button", name="Next").click()
        told_so_far.add(told(desk, "fig-backprop-scalar"))
    assert len(told_so_far) == 18
    assert figure.get_by_role("button", name="Next").is_disabled()
    shown = figure.locator("svg text.gradient").all_text_contents()
    assert sorted(shown) == sorted(
        ["12", "6", "6", "6", "4", "2", "1", "−2", "1", "1", "1", "18", "6", "2", "−4"]
    )
    figure.get_by_role("button", name="Start again").click()
    assert not figure.locator("svg text.gradient").count()


def test_the_colours_are_named_once():
    """Scripts name tones, the sheet has the numbers: so both schemes are kept."""
    for name in FILES + ["plane"]:
        text = (LIVE / f"{name}.js").read_text("utf-8")
        assert not re.search(r"#[0-9a-f]{6}\b", text), name
