"""``{run-index}``: how each chapter was run, and the measurements that are stored beside them."""

from __future__ import annotations

import json

from chapters import BOOK, Chapter, read_all
from cnnbook import GeneratedIndex
from sphinx.application import Sphinx

UNKNOWN = "not recorded"
VERSIONS = {"python": "Python", "numpy": "NumPy", "numba": "Numba", "torch": "PyTorch"}
TIERS = {"seconds": "trained for seconds", "minutes": "trained for minutes", "full": ""}


BENCH = "{doc}`26-whole-step`, {doc}`27-many-machines`, {doc}`28-scaling`"


class RunIndex(GeneratedIndex):
    """Tables of the chapters' last runs and of the stored measurements."""

    def text(self) -> str:
        """Return both tables as Markdown."""
        chapters = table(
            ["Chapter", "Executed", "Time", "Data", "With"], map(row, read_all())
        )
        stored = [
            measurement("Times of training steps", "bench", BENCH),
            measurement(
                "The same on a graphics processor", "gpu", "{doc}`30-gpu-step`"
            ),
            measurement("Steps with what was dropped", "cuts", "{doc}`26-whole-step`"),
            measurement(
                "Trainings over many seeds",
                "replication",
                "{doc}`19-mnist`, {doc}`20-pytorch`, {doc}`22-handwriting`",
            ),
        ]
        head = ["What", "Shown in", "Measured", "Processor", "With", "Runs"]
        return f"{chapters}\n\n## Stored measurements\n\n{table(head, stored)}"


def row(chapter: Chapter) -> list[str]:
    """Return a chapter's line: what its notebook says about its last run."""
    run = chapter.about["metadata"].get("run")
    if run is None:
        return [f"{{doc}}`{chapter.name}`", UNKNOWN, UNKNOWN, data(chapter), UNKNOWN]
    notes = filter(None, [run["data"], TIERS[run["tier"]]])
    time = duration(run["seconds"])
    return [
        f"{{doc}}`{chapter.name}`",
        day(run["date"]),
        time,
        ", ".join(notes),
        versions(run),
    ]


def data(chapter: Chapter) -> str:
    """Return the data's name where an output that is meant for the text says it."""
    for output in (output for cell in chapter.code for output in cell.outputs):
        about = output.get("metadata", {}).get("scrapbook", {})
        if about.get("name", "").endswith(("-name", "-data")):
            name = "".join(*output["data"].values()).strip("'")
            if name in ("MNIST", "digits", "embedded digits"):
                return name
    return UNKNOWN


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    number, unit = (seconds, "s") if seconds < 120 else (seconds / 60, "min")
    return f"{number:.0f}\N{NO-BREAK SPACE}{unit}"


def day(date: str) -> str:
    """Return a date that no line's end breaks."""
    return date.replace("-", "-\N{WORD JOINER}")


def versions(machine: dict) -> str:
    """Return the versions of what computed."""
    return ", ".join(
        f"{name} {machine[key].partition('+')[0]}"
        for key, name in VERSIONS.items()
        if key in machine
    )


def measurement(what: str, name: str, pages: str) -> list[str]:
    """Return the line of a file in ``runs``: machine, versions, seeds."""
    stored = json.loads((BOOK / "runs" / f"{name}.json").read_text("utf-8"))
    records = stored["records"] if isinstance(stored, dict) else stored
    machines = [r["machine"] for r in records if "machine" in r]
    machines = machines or [stored["machine"]]
    dates = sorted({day(m["date"]) for m in machines})
    seeds = {r["seed"] for r in records if "seed" in r}
    runs = f"{len(records)} records" + f", {len(seeds)} seeds" * bool(seeds)
    places = sorted({f"{m['cpu']}, {m['cores']} cores" for m in machines})
    used = sorted({versions(m) for m in machines})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return [what, pages, days, "; ".join(places), "; ".join(used), runs]


def table(head: list[str], rows) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("run-index", RunIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
