"""What looks for misspelt words and worn-out phrases finds them, and nothing else."""

from __future__ import annotations

import prose
import pytest

pytestmark = pytest.mark.check

TEXT = """## The bias of `teh` and `teh`

The bias `teh` `teh` teh.

Of $teh$ and {cite}`teh` and 10 000 000 nothing is said.

````{exercise} A title
:label: teh
Once teh word, `once`.
```python
teh = 1
```
````
Twice teh word.
```python
teh = 2
```
"""


def test_what_is_no_prose_is_left_out():
    text = prose.prose(TEXT)
    assert text.count("teh") == 3
    assert "A title" in text
    assert "nothing is said." in text
    assert text.count("\n") == TEXT.count("\n"), "the lines keep their numbers"


def test_findings_are_reported_with_their_place(write_chapter, capsys):
    path = write_chapter(
        "01-a",
        ("markdown", "Nothing is is wrong here, at the end of the day."),
        ("code", "# recieve"),
        ("markdown", "All is well."),
    )
    assert prose.main(path.parent) == 1
    said = capsys.readouterr().out
    places = {line.split(":")[0] for line in said.splitlines()}
    assert places == {"./01-a/cell-1.py", "01-a/cell-0.md"}
    assert "'is is'" in said
    assert "'at the end of the day'" in said
    path.unlink()
    write_chapter("01-a", ("markdown", "All is well."))
    assert prose.main(path.parent) == 0
