"""``import cnn`` is light, brings NumPy alone, and holds what it says it holds."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

import cnn

pytestmark = pytest.mark.check

ALONE = """
import sys
from importlib.util import find_spec
before = set(sys.modules)
import cnn
print(*sorted(set(sys.modules) - before))
"""
LOADED = """
import sys
from importlib.util import find_spec
import numpy.random  # brings Cython's run-time module along
before = set(sys.modules)
import cnn, pkgutil, importlib
for module in pkgutil.iter_modules(cnn.__path__):
    alone = module.name not in ("__main__", "pytorch", "gpu", "gpu_image", "gpu_step")
    if alone and "kernels" not in module.name:
        importlib.import_module(f"cnn.{module.name}")
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(t for t in tops if t not in sys.stdlib_module_names and not t.startswith("_")))
"""
MODULES = [
    "cnn",
    *(f"cnn.{module.name}" for module in pkgutil.iter_modules(cnn.__path__)),
]
if not find_spec("torch"):
    MODULES.remove("cnn.pytorch")


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_import_is_light():
    """Who wants one name doesn't wait for the others: how many modules, on any machine."""
    modules = python(ALONE).split()
    ours = [m for m in modules if m.partition(".")[0] not in sys.stdlib_module_names]
    assert ours == ["cnn"]
    assert len(modules) < 50


def test_import_brings_numpy_alone():
    assert set(python(LOADED).split()) <= {"cnn", "numpy"}


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist(name):
    module = importlib.import_module(name)
    assert module.__all__, name
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.{public}"


@pytest.mark.parametrize("name", MODULES)
def test_public_things_are_described(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in module.__all__:
        thing = getattr(module, public)
        if getattr(thing, "__module__", "").startswith("cnn") and callable(thing):
            assert thing.__doc__, f"{name}.{public} has no docstring"
