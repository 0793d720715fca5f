"""A sample of ``make fuzz``; and a reader that is careless is caught by it."""

from __future__ import annotations

import math
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import fuzz
import numpy as np
import pytest
from conftest import ROOT


def run(*words: object) -> subprocess.CompletedProcess:
    """Run the program and return what came of it."""
    command = [sys.executable, fuzz.__file__, *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_damaged_files_are_refused_or_read_right() -> None:
    """Hundreds of each kind: no other error, no wrong read, no memory on a header's word."""
    done = run("--files", 300, "--kills", 0, "--seed", 0)
    assert done.returncode == 0, done.stderr
    assert all(f"{kind}: 300 files" in done.stdout for kind in fuzz.KINDS)


def test_a_killed_training_ends_with_the_same_bits() -> None:
    """A power cut comes at any moment, also while a checkpoint is being written."""
    done = run("--files", 0, "--kills", 3, "--seed", 0)
    assert done.returncode == 0, done.stderr
    assert "3 kills" in done.stdout


def trusting(content: bytes) -> np.ndarray:
    """Read an IDX file of images that says nothing but the truth."""
    magic, *shape = struct.unpack(">4I", content[:16])
    if magic != 0x803:
        raise ValueError
    return np.frombuffer(content[16:], np.uint8).reshape(shape)


def longer(content: bytes) -> np.ndarray:
    """Take what is needed, and ask about nothing else."""
    if len(content) < 17:
        raise ValueError
    shape = struct.unpack(">3I", content[4:16])
    return trusting(content[: 16 + math.prod(shape)])


def reserving(content: bytes) -> np.ndarray:
    """Make room for what the header promises."""
    if len(content) < 17:
        raise ValueError
    np.ones(struct.unpack(">3I", content[4:16]), np.uint8)
    return trusting(content)


def unpacking(content: bytes) -> np.ndarray:
    """Unpack a file without a look at its checksum."""
    try:
        return longer(zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[10:]))
    except zlib.error as err:
        raise ValueError from err


CARELESS: dict[str, tuple[str, Callable[[bytes], object], str]] = {
    "another error": ("idx", trusting, "error: unpack requires"),
    "a wrong read": ("idx", longer, "a wrong read"),
    "memory": ("idx", reserving, "MemoryError"),
    "no checksum": ("gz", unpacking, "a wrong read"),
}


@pytest.mark.parametrize(("name", "read", "said"), CARELESS.values(), ids=CARELESS)
def test_a_careless_reader_is_caught(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    read: Callable[[bytes], object],
    said: str,
) -> None:
    """Damage that no reader trips over would prove nothing; and the damage can be repeated."""
    careless = fuzz.KINDS[name]._replace(read=lambda path: read(path.read_bytes()))
    monkeypatch.setitem(fuzz.KINDS, name, careless)
    before = resource.getrlimit(resource.RLIMIT_AS)
    fuzz.bound_memory()
    try:
        fault = fuzz.read_damaged(name, 0, range(1000), tmp_path)
        assert said in fault
        command, _, what = fault.partition(": ")
        number = int(command.split()[-3])
        again = fuzz.read_damaged(name, 0, range(number, number + 1), tmp_path)
        assert again == f"{command}: {what}"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
