"""The workflows for those who host the book: valid, pinned, and with commands that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

pytestmark = pytest.mark.check

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = re.findall(
    r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
)
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def steps(file: Path) -> Iterator[dict]:
    """Yield the steps of all jobs of a workflow."""
    for job in yaml.safe_load(file.read_text("utf-8"))["jobs"].values():
        assert job["runs-on"]
        yield from job["steps"]


def test_there_are_four():
    assert [file.stem for file in FILES] == ["check", "pages", "test", "wheel"]


@each_file
def test_a_workflow_says_when_and_what_it_may(file: Path):
    content = yaml.safe_load(file.read_text("utf-8"))
    assert content.keys() >= {"name", "on", "permissions", "jobs"}
    assert content["name"] == file.stem
    names = set(content["jobs"])
    assert all(
        job.get("needs", next(iter(names))) in names for job in content["jobs"].values()
    )


@each_file
def test_every_action_has_its_major_version(file: Path):
    for step in steps(file):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), step


@each_file
def test_commands_of_make_exist_and_packages_are_extras(file: Path):
    extras = (ROOT / "pyproject.toml").read_text("utf-8")
    commands = [step["run"] for step in steps(file) if "run" in step]
    for command in commands:
        for target in re.findall(r"\bmake (\w+)", command):
            assert target in TARGETS, command
        for group in re.findall(
            r"\.\[([\w,]+)\]|first-principles\[([\w,]+)\]", command
        ):
            for name in "".join(group).split(","):
                assert re.search(rf"^{name} = \[", extras, re.MULTILINE), command
    if file.stem in ("check", "test"):
        assert f"make {file.stem}" in commands
    if file.stem == "pages":
        assert "make book" in commands


def test_the_package_is_tried_as_the_readme_says():
    readme = (ROOT / "README.md").read_text("utf-8")
    (job,) = [f for f in FILES if f.stem == "test"]
    said = [
        s["run"] for s in steps(job) if s.get("run", "").startswith(("pip", "pytest"))
    ]
    assert len(said) == 2
    assert all(command in readme for command in said)
