"""The notation page lists every letter of the formulas and the docstrings, and no other."""

from __future__ import annotations

import ast
import re
import unicodedata

import pytest
from chapters import Cell, Chapter, docstrings, read, read_all, tree

pytestmark = pytest.mark.check

CHAPTERS = {chapter.name: chapter for chapter in read_all()}
NOTATION = CHAPTERS.pop("notation")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.DOTALL)
# In a formula: words, the d of a gradient, what \begin names, the names of commands.
NO_LETTER = re.compile(
    r"\\(?:text|operatorname|begin|end)\*?\{[^}]*\}|\\mathrm\{?.\}?|\\[A-Za-z]+"
)
GREEK = {unicodedata.name(c).split()[-1].lower(): c for c in map(chr, range(945, 970))}
GREEK |= {"lambda": "λ", "varepsilon": "ε", "varphi": "φ", "ell": "ℓ", "Lambda": "Λ"}
# A letter with or without a subscript; not in a word or an abbreviation such as "e.g.".
ALONE = re.compile(r"(?<![\w.'’-])([^\W\d_])(?:_\w+)?(?![\w'’-]|\.\w)")
WORDS = {"a", "A", "I", "Σ"}


def in_formulas(text: str) -> set[str]:
    """Return the letters of a text's formulas, without accents, primes and words."""
    letters = set()
    for match in FORMULA.finditer(re.sub(r"`[^`]*`", "", text)):
        formula = match[1] or match[2]
        names = re.findall(r"\\([A-Za-z]+)", formula)
        letters |= {GREEK[name] for name in names if name in GREEK}
        letters |= set(re.findall(r"[A-Za-z]", NO_LETTER.sub(" ", formula)))
    return letters


def in_docstrings(source: str) -> set[str]:
    """Return the letters of docstrings, without accents and subscripts."""
    lines, letters = source.splitlines(), set()
    for first, last in docstrings(tree(source)):
        text = "\n".join(lines[first - 1 : last])
        text = re.sub(r"\{eq\}`[^`]*`|``\"[^`]*\"``|>>>.*", "", text)
        plain = unicodedata.normalize("NFD", text)
        plain = "".join(c for c in plain if not unicodedata.combining(c))
        letters |= set(ALONE.findall(plain)) - WORDS
    return letters


def in_code(source: str) -> set[str]:
    """Return the names of one letter in a cell's code."""
    nodes = (node for node in ast.walk(tree(source)) if isinstance(node, ast.Name))
    return {
        GREEK.get(name, name) for name in (node.id.partition("_")[0] for node in nodes)
    }


def lesson(chapter: Chapter) -> list[Cell]:
    """Return the cells before the exercises: an exercise says what its own letters mean."""
    return [cell for cell in chapter.cells if cell.section != "Exercises"]


def used(chapter: Chapter) -> set[str]:
    """Return the letters of a chapter's formulas and of its functions' docstrings."""
    cells = lesson(chapter)
    texts = (cell.text for cell in cells if cell.kind == "markdown")
    text = "\n\n".join(text.partition("## Exercises")[0] for text in texts)
    exported = (in_docstrings(cell.source) for cell in cells if cell.exported)
    return in_formulas(text).union(*exported)


def listed(page: Chapter) -> tuple[set[str], dict[str, set[str]]]:
    """Return the letters that the page lists for the whole book, and for single chapters."""
    everywhere: set[str] = set()
    single: dict[str, set[str]] = {}
    for line in page.prose.splitlines():
        cells = line.strip("| ").split("|")
        if cells[0].startswith("$"):
            names = re.findall(r"\{doc\}`([^`]+)`", cells[-1])
            for letters in [single.setdefault(n, set()) for n in names] or [everywhere]:
                letters |= in_formulas(cells[0])
    return everywhere, single


EVERYWHERE, SINGLE = listed(NOTATION)


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_letter_is_listed(name: str):
    missing = used(CHAPTERS[name]) - EVERYWHERE - SINGLE.get(name, set())
    assert not missing, f"list them in book/notation.ipynb, for {name} or everywhere"


@pytest.mark.parametrize("name", SINGLE)
def test_every_listed_letter_is_used(name: str):
    code = (
        in_code(cell.source) for cell in lesson(CHAPTERS[name]) if cell.kind == "code"
    )
    unused = SINGLE[name] - EVERYWHERE - used(CHAPTERS[name]).union(*code)
    assert not unused, (
        f"{name} has no such letters: take them out of book/notation.ipynb"
    )


def test_a_letter_that_is_not_listed_is_seen(write_chapter):
    text = (
        r"$\bar x_\text{old}$ and $$ \begin{aligned} \mathrm{d}W'_{ij} \end{aligned} $$"
    )
    code = '#| export\ndef f(y_mean):\n    """Take ŷ, e.g. β_1 or ``"L"``.\n\n    C_in.\n    """'
    cells = [("markdown", text), ("code", code)]
    cells += [("markdown", "## Exercises\n\n$z$"), ("markdown", "$q$")]
    assert used(read(write_chapter("01-a", *cells))) == set("xWijyβC")
    assert in_code("theta = q_new + spam") == {"θ", "q", "spam"}
    page = "| symbol |\n| $x$, $y_i$ | x |\n| $q$ | $z$ | {doc}`01-a` |\n$j$\n: $A$."
    page = read(write_chapter("notation", ("markdown", page)))
    assert listed(page) == (set("xyij"), {"01-a": {"q"}})
