"""pyproject.toml, constraints.txt, environment.yml and what is installed say the same."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

pytestmark = pytest.mark.check

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = {
    name.lower().replace("_", "-"): pin
    for name, pin in re.findall(
        r"^([\w.-]+)==(\S+)$",
        (ROOT / "constraints.txt").read_text("utf-8"),
        re.MULTILINE,
    )
}
LATER = {"gpu", "lab", "serve"}  # installed where there is a card, or by their targets
EXTRAS = PROJECT["optional-dependencies"]


def declared(*groups: list[str]) -> list[Requirement]:
    """Return the requirements on others in some lists."""
    found = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


DECLARED = declared(PROJECT["dependencies"], *EXTRAS.values())
AT_ONCE = declared(
    PROJECT["dependencies"], *(g for name, g in EXTRAS.items() if name not in LATER)
)


def test_conda_installs_the_same_as_make():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *plain, pip = conda["dependencies"]
    python = next(entry for entry in plain if entry.startswith("python="))
    assert Version(python.removeprefix("python=")) in SpecifierSet(
        PROJECT["requires-python"]
    )
    assert "pip" in plain
    extras = re.search(r"-e '\.\[([\w,]+)\]'", (ROOT / "Makefile").read_text("utf-8"))[
        1
    ]
    assert pip == {"pip": ["-c constraints.txt", f"-e .[{extras}]"]}
    known = set(PROJECT["optional-dependencies"])
    alone = {"train", "notebooks", *LATER}  # the book's extra includes train
    assert set(extras.split(",")) | alone == known


def test_constraints_are_exact_and_portable():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert len(PINS) == len(lines), "every line reads name==version"
    assert not [pin for pin in PINS.values() if "+" in pin]


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_requirement_is_pinned_inside_its_bounds(requirement):
    pin = PINS[requirement.name.lower().replace("_", "-")]
    assert Version(pin) in requirement.specifier


@pytest.mark.parametrize("requirement", AT_ONCE, ids=str)
def test_what_is_installed_is_what_is_pinned(requirement):
    installed = Version(version(requirement.name)).public
    assert installed == PINS[requirement.name.lower().replace("_", "-")]


def test_the_package_needs_numpy_alone():
    assert [Requirement(line).name for line in PROJECT["dependencies"]] == ["numpy"]
