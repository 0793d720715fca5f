"""Files that may lie.

Exported from book/31-files.ipynb: edit the chapter and run `make export`.
"""

import contextlib
import io
import itertools
import json
import math
import os
import secrets
import shutil
import sys
import tokenize
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic, write_array

from . import data
from .data import MNIST_FILES, Dataset, digits, find
from .training import History

__all__ = [
    "replace_file", "locked", "save_history", "load_history", "history_from",
    "check_history", "save_arrays", "load_arrays", "MNIST_SHA256", "MNIST_MIRRORS",
    "download_mnist", "mnist", "load",
]  # fmt: skip


# --- A file is whole or absent ---
def replace_file(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside ``path``, then rename it: ``path`` is never half written.

    ``write`` is given the open file. Where it raises, ``path`` stays as it was.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a device or a pipe can't be renamed
        with open(path, "wb") as file:
            write(file)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(beside, "xb") as file:
            if path.exists():
                shutil.copymode(path, beside)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as err:
        err.filename = str(path)  # a full disk doesn't name the file
        raise
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Hold a file's lock, or raise BlockingIOError where somebody else holds it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        if not _lock(file.fileno()) or os.fstat(file.fileno()).st_nlink == 0:
            raise BlockingIOError(
                f"{path.parent} is in use: another process holds {path.name}; wait until it "
                "has ended, or name another place"
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps what is open
                path.unlink()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> bool:
        """Lock an open file for this process; return whether nobody else holds it."""
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: int) -> bool:
        """Lock an open file for this process; return whether nobody else holds it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        return True


# --- A record for people ---
def save_history(
    path: str | os.PathLike, history: History, about: Mapping[str, object] | None = None
) -> None:
    """Write a history as JSON, and what else shall be known about it, in one piece."""
    record = asdict(history) | ({"about": dict(about)} if about else {})
    text = json.dumps(record, allow_nan=False)
    replace_file(path, lambda file: file.write(text.encode()))


def load_history(path: str | os.PathLike) -> History:
    """Read what ``save_history`` wrote; anything else is a ValueError."""
    try:
        return history_from(json.loads(Path(path).read_bytes()))
    except (ValueError, RecursionError) as err:
        raise ValueError(f"{path} is no history: {err}") from err


def history_from(record: object) -> History:
    """Make a history of what JSON held, if its lists are there and agree."""
    names = set(vars(History()))
    if not isinstance(record, dict) or record.keys() - {"about"} != names:
        raise ValueError(
            f"it holds {record!r:.60}; expected lists named {sorted(names)}"
        )
    history = History(**{name: record[name] for name in names})
    check_history(history)
    return history


def check_history(history: History) -> None:
    """Raise unless its lists hold finite numbers, one of each for every test."""
    loss, *tests = vars(history).values()
    for values in (loss, *tests):
        if not isinstance(values, list) or not all(map(_is_finite, values)):
            raise ValueError(
                f"it holds {values!r:.60}; expected a list of finite numbers"
            )
    if len(set(map(len, tests))) > 1:
        raise ValueError("the tests' lists have different lengths")
    t = [0, *history.iterations, len(loss) + 1]
    rising = all(a < b for a, b in itertools.pairwise(t))
    if not rising or not all(isinstance(number, int) for number in t):
        raise ValueError(
            f"iterations is {t[1:-1]!r:.60}; expected integers that rise from at least 1 to at "
            f"most {len(loss)}, the number of losses"
        )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


History.save = lambda self, path: save_history(path, self)
History.load = staticmethod(load_history)


# --- Named arrays ---
def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to an uncompressed ``.npz`` file: weights, or a checkpoint.

    Equal arrays make equal files, byte for byte, and ``path`` is never half written.

    Parameters
    ----------
    path, arrays : path-like, mapping of str to np.ndarray
        The file to make or to replace; what to write, as ``net.state_dict()``.
    """

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, a in arrays.items():
                undated = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(undated, "w", force_zip64=True) as member:
                    write_array(member, np.asarray(a), (1, 0), allow_pickle=False)

    replace_file(path, write)


def _read_array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, available: int
) -> np.ndarray:
    """Read one array, if its header's promise agrees with the bytes there are."""
    name = info.filename
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed; expected what np.savez writes")
    with archive.open(info) as member:
        version = read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{name} has format {version}; expected (1, 0)")
        shape, fortran, dtype = read_array_header_1_0(member)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects; expected numbers")
        promised = member.tell() + math.prod(shape) * dtype.itemsize
        held = min(info.file_size, available)
        if promised != info.file_size or promised > available:
            raise ValueError(
                f"{name} promises {shape} of {dtype}, {promised} bytes with its header, "
                f"but holds {held}"
            )
        a = np.frombuffer(member.read(), dtype)
        return a.reshape(shape, order="F" if fortran else "C").copy()


# what NumPy and zipfile raise, besides, where the bytes are not what they should be
_DAMAGED = (zipfile.BadZipFile, tokenize.TokenError, EOFError, SyntaxError)


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read named arrays from an uncompressed ``.npz`` file; nothing is unpickled.

    Parameters
    ----------
    path : path-like
        A file that ``save_arrays`` or ``np.savez`` wrote.

    Returns
    -------
    dict of str to np.ndarray
        The arrays by name.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file; or it is damaged, compressed, or holds Python objects.
    """
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            return {k: _read_array(archive, m, len(content)) for k, m in names.items()}
    except (ValueError, RuntimeError, *_DAMAGED) as err:
        raise ValueError(f"{path} is damaged, or no file of arrays: {err}") from err


# --- Downloads ---
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def download_mnist(folder: str | os.PathLike) -> None:
    """Fetch MNIST's missing files, trying each mirror, and check their SHA-256."""
    missing = [name for name in MNIST_FILES if not find(Path(folder), name)]
    for name in missing:
        _fetch(Path(folder), f"{name}.gz", f"sha256:{MNIST_SHA256[name]}")


def _fetch(folder: Path, name: str, known_hash: str) -> None:
    """Fetch one file from the first mirror that gives an intact one."""
    try:
        import pooch
    except ImportError as err:
        reason = "downloading needs the package pooch: pip install pooch"
        raise ImportError(reason) from err
    pooch.get_logger().setLevel("ERROR")
    fetch, tried = pooch.HTTPDownloader(timeout=10), []
    for url in MNIST_MIRRORS:
        try:
            pooch.retrieve(url + name, known_hash, name, folder, downloader=fetch)
            return
        except (OSError, ValueError) as err:
            tried.append(f"{url}: {type(err).__name__}")
    raise ConnectionError(
        f"{name} could not be downloaded ({'; '.join(tried)}): copy MNIST's four files "
        f"into {folder} and call again"
    )


def mnist(root: str | os.PathLike | None = None, download: bool = False) -> Dataset:
    """Read MNIST from ``root/MNIST/raw``; first fetch what is missing, if asked to."""
    if download:
        download_mnist(data.mnist_folder(root))
    return data.mnist(root)


def load(root: str | os.PathLike | None = None, download: bool = False) -> Dataset:
    """Read MNIST where it is found or can be downloaded, else the embedded digits.

    Parameters
    ----------
    root, download : path-like, bool, optional
        The folder that holds ``MNIST/raw``, as torchvision lays it out; by default what
        ``CNN_DATA`` names, or ``data``. Whether to fetch what is missing (11.6 MB).

    Returns
    -------
    Dataset
        Its name, ``"MNIST"`` or ``"digits"``, says which.
    """
    try:
        return mnist(root, download)
    except (FileNotFoundError, ConnectionError, ImportError):
        return digits()
