"""A file is whole or absent, and one that lies is refused before it does harm."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_training import Run, assert_same

from cnn.data import read_idx
from cnn.decoding import read_picture
from cnn.files import (
    load_arrays,
    load_history,
    replace_file,
    save_arrays,
    save_history,
)
from cnn.training import History
from cnn.weights import load_weights

# --- Damaged files ---


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Return an array file with this header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def archive(member: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip file with one array file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        zipped.writestr("a.npy", member)
    return file.getvalue()


def pickled() -> bytes:
    """Return an archive whose array is a pickle that runs a program when it is read."""

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.system, ("touch trapped",)

    file = io.BytesIO()
    np.savez(file, a=np.array([Trap()], object))
    return file.getvalue()


def compressed() -> bytes:
    """Return what ``np.savez_compressed`` writes: 80 MB of zeros in 80 kB."""
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(10**7))
    return file.getvalue()


FLOATS = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"
GOOD = archive(npy(FLOATS % "(2,)", bytes(16)))
BAD_ARCHIVES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"these are no arrays",
    "random bytes": lambda: np.random.default_rng(0).bytes(5000),
    "truncated": lambda: GOOD[: len(GOOD) // 2],
    "cut at its end": lambda: GOOD[:-1],
    "a lone array": lambda: npy(FLOATS % "(2,)", bytes(16)),
    "no array inside": lambda: archive(b"these are no arrays"),
    "10^12 floats": lambda: archive(npy(FLOATS % "(1000000000000,)", bytes(16))),
    "2^64 floats": lambda: archive(npy(FLOATS % "(4294967296, 4294967296)", bytes(16))),
    "negative": lambda: archive(npy(FLOATS % "(-2,)", bytes(16))),
    "one float too many": lambda: archive(npy(FLOATS % "(3,)", bytes(16))),
    "one float too few": lambda: archive(npy(FLOATS % "(1,)", bytes(16))),
    "nonsense header": lambda: archive(npy("{'descr': (", bytes(16))),
    "unknown version": lambda: archive(npy(FLOATS % "(2,)", bytes(16), b"\x09\x00")),
    "pickle": pickled,
    "compressed": compressed,
}


@pytest.mark.parametrize("make", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
def test_a_bad_archive_is_refused(
    tmp_path: Path, make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory on the header's word, no code out of a pickle, and the network as it was."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.npz"
    path.write_bytes(make())
    run = Run()
    before = run.state()
    tracemalloc.start()
    try:
        for read in (load_arrays, lambda path: run.fit(checkpoint=path)):
            with pytest.raises(
                ValueError, match="is damaged, or no file of arrays"
            ) as caught:
                read(path)
            assert str(path) in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    assert_same(before, run.state())
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


@pytest.mark.parametrize("change", ["flipped", "truncated"])
def test_a_file_damaged_anywhere(tmp_path: Path, change: str) -> None:
    """Whichever byte is hit: a ValueError, or arrays as they were, though perhaps not all."""
    path, arrays = tmp_path / "c.npz", {"a": np.arange(3.0), "b": np.array(7)}
    save_arrays(path, arrays)
    content, refused = path.read_bytes(), 0
    for k in range(len(content)):
        new = bytes([content[k] ^ 0xFF]) if change == "flipped" else b""
        path.write_bytes(content[:k] + new + (content[k + 1 :] if new else b""))
        try:
            loaded = load_arrays(path)
            assert_same({name: arrays[name] for name in loaded}, loaded)
        except ValueError:
            refused += 1
    assert refused > len(content) / 4


# --- Files are whole or not there ---


def test_arrays_round_trip(tmp_path: Path) -> None:
    """Shape, dtype and order survive; NumPy reads ours and we read NumPy's."""
    rng = np.random.default_rng(0)
    arrays = {
        "0.weight": rng.random((3, 2), np.float32),
        "t": np.array(7),
        "fortran": np.asfortranarray(rng.random((3, 4))),
        "strided": rng.random((4, 6))[::2, ::3],
        "none": np.empty((0, 3)),
    }
    save_arrays(tmp_path / "sub" / "a.npz", arrays)
    assert_same(load_arrays(tmp_path / "sub" / "a.npz"), arrays)
    with np.load(tmp_path / "sub" / "a.npz") as theirs:
        assert_same(dict(theirs), arrays)
    np.savez(tmp_path / "b.npz", **arrays)
    loaded = load_arrays(tmp_path / "b.npz")
    assert_same(loaded, arrays)
    loaded["t"] += 1


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(28, "No space left on device")]
)
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, error: BaseException
) -> None:
    """Interrupted in the middle of writing, or with the disk full: the old checkpoint stays."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: io.BufferedWriter) -> None:
        file.write(b"half of the new")
        file.flush()
        raise error

    with pytest.raises((KeyboardInterrupt, OSError)) as caught:
        replace_file(path, write)
    if isinstance(error, OSError):
        assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_two_writers_don_t_meet(tmp_path: Path) -> None:
    """With one name for both beside files, the one would write into the other's."""
    path = tmp_path / "file"

    def write(file: io.BufferedWriter) -> None:
        file.write(b"outer, ")
        replace_file(path, lambda inner: inner.write(b"inner"))
        assert path.read_bytes() == b"inner"
        file.write(b"to its end")

    replace_file(path, write)
    assert path.read_bytes() == b"outer, to its end"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_permissions_and_links_stay(tmp_path: Path) -> None:
    """What others may not read, they may not read afterwards; a link still leads to its file."""
    path, link = tmp_path / "file", tmp_path / "link"
    replace_file(path, lambda file: file.write(b"old"))
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    link.symlink_to(path)
    replace_file(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_bytes_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a name that came before its bytes would stand on an empty file."""
    order = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(number: int) -> None:
        assert os.fstat(number).st_size == 3
        order.append("fsync")
        fsync(number)

    def noted_replace(source: Path, target: Path) -> None:
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    replace_file(tmp_path / "file", lambda file: file.write(b"new"))
    assert order == ["fsync", "replace"]


def test_history_round_trip(tmp_path: Path) -> None:
    """Every number comes back as it was."""
    history = Run().fit()
    history.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == history
    save_history(tmp_path / "again.json", history)
    assert load_history(tmp_path / "again.json") == history
    assert history.iterations == [3, 6, 9, 12, 15, 18, 20]
    assert len(history.loss) == 20


ONE = {"test_loss": [1.0], "test_error": [0.5], "seconds": [0.1]}
EMPTY = {"loss": [], "iterations": [], "test_loss": [], "test_error": [], "seconds": []}
BAD_HISTORIES: dict[str, object] = {
    "empty file": b"",
    "text": b"no history",
    "bytes": b"\xff\xfe\x00",
    "nested": b"[" * 10**5,
    "a list": [],
    "a number": 3,
    "no names": {},
    "another name": {"losses": [1.0]},
    "no list": EMPTY | {"loss": 3},
    "words": EMPTY | {"loss": ["1"]},
    "unequal": EMPTY | {"loss": [1.0], "iterations": [1]},
    "not a number": EMPTY | {"loss": [float("nan")]},
    "infinite": EMPTY | {"loss": [float("inf")]},
    "truth": EMPTY | {"loss": [True]},
    "huge": EMPTY | {"loss": [10**400]},
    "test 0": EMPTY | ONE | {"loss": [1.0], "iterations": [0]},
    "after the end": EMPTY | ONE | {"loss": [1.0], "iterations": [2]},
    "half an iteration": EMPTY | ONE | {"loss": [1.0, 1.0], "iterations": [1.5]},
    "backwards": {k: v * 2 for k, v in ONE.items()}
    | {"loss": [1.0, 1.0], "iterations": [2, 1]},
}


@pytest.mark.parametrize("content", BAD_HISTORIES.values(), ids=BAD_HISTORIES)
def test_a_malformed_history_is_refused(tmp_path: Path, content: object) -> None:
    """A picture drawn from another file's numbers would mislead."""
    path = tmp_path / "history.json"
    path.write_bytes(
        content if isinstance(content, bytes) else json.dumps(content).encode()
    )
    with pytest.raises(ValueError, match=r"history\.json"):
        History.load(path)


@pytest.mark.parametrize(
    "read",
    [load_weights, load_arrays, load_history, read_picture, lambda p: read_idx(p, 3)],
)
def test_a_refused_file_is_let_go(tmp_path: Path, read: Callable) -> None:
    """No reference in a circle keeps a large file in memory until somebody collects it."""
    path = tmp_path / "file"
    path.write_bytes(b"neither weights nor a picture")

    def refuse() -> None:
        with contextlib.suppress(ValueError):
            read(path)
            pytest.fail("it was read")

    refuse()  # imports and caches what it needs
    gc.collect()
    gc.disable()
    try:
        refuse()
        assert gc.collect() == 0
    finally:
        gc.enable()
