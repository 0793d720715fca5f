"""Every number of the chapters on MNIST and PyTorch, again from the stored runs, by SciPy."""

from __future__ import annotations

import json
import re
from itertools import product

import numpy as np
import pytest
from chapters import BOOK, read_all
from scipy import stats

pytestmark = pytest.mark.check

CHAPTERS = {chapter.name: chapter for chapter in read_all()}
MODELS, RECIPES = ("simple", "deep"), ("constant", "schedule", "dropout")
KINDS = list(product(MODELS, RECIPES))
RUNS = json.loads((BOOK / "runs" / "replication.json").read_text("utf-8"))


def results(
    model: str, recipe: str, who: str = "ours", what: str = "test_error"
) -> np.ndarray:
    """Return the last results of all seeds, none missing, in their order."""
    kind = who, model, recipe
    found = {r["seed"]: r for r in RUNS if (r["who"], r["model"], r["recipe"]) == kind}
    assert sorted(found) == list(range(len(found)))
    return np.array([found[seed][what] for seed in range(len(found))])


def half_width(d: np.ndarray, comparisons: int = 1) -> float:
    low, high = stats.ttest_1samp(d, 0).confidence_interval(1 - 0.05 / comparisons)
    return (high - low) / 2


def printed(name: str) -> dict[str, list[str]]:
    """Return the numbers in each line that a chapter prints, by the words before them."""
    streams = (
        "".join(output["text"])
        for cell in CHAPTERS[name].code
        for output in cell.outputs
        if output["output_type"] == "stream"
    )
    lines = (line.replace(",", " ") for line in "\n".join(streams).splitlines())
    rows = (re.fullmatch(r"([a-z −]*) *((?<= )[-+]?\d.*)", line) for line in lines)
    return {
        " ".join(row[1].split()): re.findall(r"[-+]?\d+(?:\.\d+)?", row[2])
        for row in rows
        if row
    }


def glued(name: str) -> dict[str, str]:
    """Return what a chapter's prose is given, by its key."""
    outputs = (output for cell in CHAPTERS[name].code for output in cell.outputs)
    return {
        output["metadata"]["scrapbook"]["name"]: str(text).strip("'")
        for output in outputs
        if "scrapbook" in output.get("metadata", {})
        for kind, text in output["data"].items()
        if kind.endswith("text/plain")
    }


def agree(shown: list[str], wanted: list[float]) -> None:
    """Compare numbers as they are printed, to half a unit of their last digit."""
    assert len(shown) == len(wanted)
    for text, number in zip(shown, wanted, strict=True):
        unit = 10.0 ** -len(text.partition(".")[2])
        assert float(text) == pytest.approx(number, abs=0.501 * unit)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_errors_of_a_recipe(kind: tuple[str, str]) -> None:
    e = 100 * results(*kind)
    wanted = [len(e), e.mean(), e.std(ddof=1), e.min(), e.max()]
    agree(printed("19-mnist")[" ".join(kind)], wanted)
    assert glued("19-mnist")["ch19-" + "-".join(kind)] == f"{e.mean():.2f}%"
    theirs = 100 * results(*kind, who="PyTorch")
    d = e - theirs
    widths = half_width(d), half_width(d, 6)
    row = printed("20-pytorch")[" ".join(kind)]
    agree(row, [len(d), e.mean(), theirs.mean(), d.mean(), *widths])


def pairs() -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return the seven comparisons: along the recipes, and between the networks."""
    along = [
        ((m, a), (m, b))
        for m in MODELS
        for a, b in zip(RECIPES, RECIPES[1:], strict=False)
    ]
    return along + [(("simple", recipe), ("deep", recipe)) for recipe in RECIPES]


def test_differences_between_recipes() -> None:
    rows, shown = printed("19-mnist"), []
    for one, other in pairs():
        d = 100 * (results(*one) - results(*other))
        wanted = [d.mean(), half_width(d), half_width(d, 7)]
        agree(rows[f"{' '.join(one)} − {' '.join(other)}"], wanted)
        if abs(d.mean()) > half_width(d, 7):
            shown.append((one, other))
    assert len(pairs()) == 7
    assert shown  # the text says which


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5])
def test_shares_of_dropout(share: float) -> None:
    e, loss = (
        results("deep", f"held out, {share}", what=w)
        for w in ("test_error", "test_loss")
    )
    text = "".join(
        "".join(o.get("text", "")) for c in CHAPTERS["19-mnist"].code for o in c.outputs
    )
    row = re.search(rf"^ *{share} +(.*)$", text, re.MULTILINE)[1]
    wanted = [len(e), 100 * e.mean(), 100 * e.std(ddof=1), loss.mean()]
    agree(re.findall(r"\d+(?:\.\d+)?", row), wanted)


def test_uncertainties() -> None:
    said = glued("19-mnist")
    for model, recipe in (("simple", "constant"), ("deep", "dropout")):
        e = results(model, recipe)
        assert said[f"ch19-seed-{model}-{recipe}"] == f"{half_width(e):.2%}"
        sd = stats.binom(10_000, e.mean()).std() / 10_000
        half = stats.norm.ppf(0.975) * sd
        assert said[f"ch19-images-{model}-{recipe}"] == f"{half:.2%}"


def test_mcnemar() -> None:
    said = glued("19-mnist")
    alone = [int(said[f"ch19-alone-{name}"]) for name in ("deep", "dropout")]
    p = stats.binomtest(alone[0], sum(alone)).pvalue
    assert float(said["ch19-mcnemar"]) == pytest.approx(p, rel=0.5)
    assert (said["ch19-mcnemar-verdict"] == "") == (p < 0.05 / 2)
