"""Handwritten digits.

Exported from book/01-digits.ipynb: edit the chapter and run `make export`.
"""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from importlib.resources import as_file, files
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .shapes import check_generator, check_integer, check_labels, shapes

__all__ = [
    "read_idx", "scale", "one_hot", "enlarge", "Dataset", "check_dataset", "digits",
    "MNIST_FILES", "read_folder", "find", "mnist_folder", "mnist", "load", "batches",
]  # fmt: skip


# --- Reading it ---
def _read_header(file: BufferedIOBase, ndim: int) -> tuple[int, ...]:
    """Return the shape that the header of an IDX file promises."""
    header, magic = file.read(4 + 4 * ndim), bytes([0, 0, 8, ndim])
    if header[:4] != magic:
        raise ValueError(_foreign(header[:4], magic))
    places = range(4, len(header), 4)
    shape = tuple(int.from_bytes(header[k : k + 4], "big") for k in places)
    if len(header) < 4 + 4 * ndim or 0 in shape:
        promise = f"the header promises {shape}, expected {ndim} sizes, none 0"
        raise ValueError(f"{promise}; {_INTACT}")
    return shape


_TYPES = {8: "bytes", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_INTACT = "replace it with an intact copy"


def _foreign(start: bytes, magic: bytes) -> str:
    """Say what a file is that begins with these four bytes, and what to do."""
    if start.lstrip()[:1] == b"<":
        return "this is a web page, not data: download the file again, and look at it"
    if start == b"vers":
        return "this is Git LFS's pointer to a file: git lfs pull fetches the file"
    found = f"the magic number is {start.hex() or 'missing'}, expected {magic.hex()}"
    if len(start) == 4 and start[:2] == b"\0\0" and start[2] in _TYPES:
        held = f"{_TYPES[start[2]]} in {start[3]} dimensions"
        return f"{found}: it holds {held}, not bytes in {magic[3]}; {_INTACT} of MNIST's form"
    return f"{found}; {_INTACT}"


def _read_exactly(file: BufferedIOBase, count: int) -> bytearray:
    """Return the rest of a file, which must be ``count`` bytes."""
    data = bytearray()
    while len(data) <= count and (piece := file.read(1 << 20)):
        data += piece
    if len(data) != count:
        held = "more" if len(data) > count else len(data)
        promise = f"the header promises {count} bytes, the file holds {held}"
        raise ValueError(f"{promise}; {_INTACT}")
    return data


def read_idx(path: str | os.PathLike, ndim: int) -> np.ndarray:
    """Read an IDX file of bytes, compressed by gzip or not, whatever its name.

    Implements {eq}`eq:idx-address`.
    """
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            content: BufferedIOBase = gzip.GzipFile(fileobj=file) if packed else file
            shape = _read_header(content, ndim)
            data = _read_exactly(content, math.prod(shape))
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise ValueError(f"{path}: damaged gzip: {err}; {_INTACT}") from err
    except ValueError as err:
        raise ValueError(f"{path}: {err}") from err
    return np.frombuffer(data, np.uint8).reshape(shape)


# --- From bytes to numbers from 0 to 1 ---
@shapes("images (N, H, W) bytes")
def scale(images: np.ndarray) -> np.ndarray:
    """Turn bytes into float32 from 0 to 1, shape (N, 1, H, W).

    Implements {eq}`eq:scale`.
    """
    return (images / np.float32(255))[:, np.newaxis]


# --- Labels as rows of probabilities ---
@shapes("y (N) integer")
def one_hot(y: np.ndarray, K: int, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Turn N labels into N rows of K numbers, with a single one in each.

    Implements {eq}`eq:one-hot`.

    Parameters
    ----------
    y : np.ndarray
        Labels, shape (N,), integers from 0 to K - 1.
    K : int
        The number of classes.
    dtype : type
        The result's dtype.

    Returns
    -------
    np.ndarray
        Y, shape (N, K).
    """
    check_labels(y, len(y), check_integer("K", K, 1))
    return np.eye(K, dtype=dtype)[y]


# --- Eight pixels become twenty ---
@shapes("images (N, H, H)")
def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Enlarge square images by linear interpolation, in float64.

    Implements {eq}`eq:enlarge`.
    """
    H, S = images.shape[1], check_integer("size", size, 1)
    t = np.clip((np.arange(S) + 0.5) * H / S - 0.5, 0, H - 1)
    R = np.maximum(0, 1 - np.abs(t[:, np.newaxis] - np.arange(H)))
    return R @ images @ R.T


# --- Two data sets ---
class Dataset(NamedTuple):
    """Images and labels, to learn from and to test on.

    Attributes
    ----------
    name : str
        What they are: ``"MNIST"``, ``"digits"``, or a folder's name.
    x_train, x_test : np.ndarray
        Images, shape (N, 1, H, W), float32 from 0 (no ink) to 1; here H = W = 28.
    y_train, y_test : np.ndarray
        Labels, shape (N,), int64 from 0.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def num_classes(self) -> int:
        """How many classes there are: one more than the largest label."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1


def check_dataset(data: Dataset) -> None:
    """Raise unless ``data`` is a ``Dataset``."""
    if not isinstance(data, Dataset):
        raise TypeError(f"data is of type {type(data).__name__}; expected a Dataset")


def digits() -> Dataset:
    """Read the embedded digits, 1 797 of 8×8 pixels, enlarged to MNIST's size.

    The source is UCI's *Optical Recognition of Handwritten Digits*, as in scikit-learn.

    Returns
    -------
    Dataset
        Named ``"digits"``: 1 498 images to learn from, and every sixth, 299, to test on.
    """
    shipped = files("cnn")  # perhaps in an archive, from which as_file takes a copy
    with as_file(shipped / "digits-images-idx3-ubyte.gz") as path:
        images = read_idx(path, ndim=3)
    with as_file(shipped / "digits-labels-idx1-ubyte.gz") as path:
        y = read_idx(path, ndim=1)
    box = enlarge(images / 16, 20).astype(np.float32)
    x = np.pad(box, ((0, 0), (4, 4), (4, 4)))[:, np.newaxis]
    y, test = y.astype(np.int64), np.arange(len(x)) % 6 == 5
    return Dataset("digits", x[~test], y[~test], x[test], y[test])


MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _read_part(folder: Path, images: str, labels: str) -> list[np.ndarray]:
    """Read a file of images and a file of as many labels."""
    found = []
    for name, ndim in ((images, 3), (labels, 1)):
        path = find(folder, name)
        if path is None:
            expected = f"expected {', '.join(MNIST_FILES)}"
            raise FileNotFoundError(f"{folder / name}[.gz] does not exist; {expected}")
        found.append(read_idx(path, ndim))
    x, y = found
    if len(x) != len(y):
        counts = f"{images} holds {len(x)} images but {labels} {len(y)} labels"
        raise ValueError(f"{folder}: {counts}")
    return [scale(x), y.astype(np.int64)]


def read_folder(folder: str | os.PathLike, name: str | None = None) -> Dataset:
    """Read four IDX files, named as MNIST's, from ``folder``: MNIST or another set.

    Parameters
    ----------
    folder : path-like
        Holds the files ``MNIST_FILES``, each as it is or compressed (``.gz``).
    name : str, optional
        What to call the data; by default the folder's name.

    Returns
    -------
    Dataset
        Images of shape (N, 1, H, W), float32 from 0 to 1, and their labels, int64.

    Raises
    ------
    FileNotFoundError, ValueError
        A file is missing or damaged, or images and labels are not equally many.
    """
    folder, images_and_labels = Path(folder), []
    for names in (MNIST_FILES[:2], MNIST_FILES[2:]):
        images_and_labels += _read_part(folder, *names)
    name = folder.resolve().name if name is None else name
    return Dataset(name, *images_and_labels)


def find(folder: Path, name: str) -> Path | None:
    """Return a file's path, compressed or not, with a hyphen or a dot before ``idx``."""
    names = (name, name.replace("-idx", ".idx"))
    twins = [folder / f"{n}{ending}" for n in names for ending in ("", ".gz")]
    return next((path for path in twins if path.is_file()), None)


def mnist_folder(root: str | os.PathLike | None = None) -> Path:
    """Return where MNIST's files are: ``root``, ``CNN_DATA`` or ``data``, ``MNIST/raw``."""
    root = os.environ.get("CNN_DATA", "data") if root is None else root
    return Path(root, "MNIST", "raw")


def mnist(root: str | os.PathLike | None = None) -> Dataset:
    """Read MNIST from its folder; see ``mnist_folder``."""
    try:
        return read_folder(mnist_folder(root), "MNIST")
    except FileNotFoundError as err:
        ways = "Set CNN_DATA to its place, or call cnn.files.mnist(download=True)"
        raise FileNotFoundError(f"{err}. {ways}") from err


def load(root: str | os.PathLike | None = None) -> Dataset:
    """Read MNIST where it is found, else the embedded digits; ``name`` says which.

    A damaged file is an error, not a reason to fall back.
    """
    try:
        return mnist(root)
    except FileNotFoundError:
        return digits()


# --- Mini-batches ---
def batches(n: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Deal the indices 0 to n - 1 out in random order, ``batch_size`` at a time.

    Parameters
    ----------
    n, batch_size : int
        How many images there are, and how many to deal out at a time.
    rng : np.random.Generator
        Shuffles the indices, once.

    Yields
    ------
    np.ndarray
        Indices, shape (batch_size,); fewer in the last batch where it does not divide n.
    """
    check_integer("n", n, 1)
    check_integer("batch_size", batch_size, 1)
    check_generator(rng)
    order = rng.permutation(n)
    for start in range(0, n, batch_size):
        yield order[start : start + batch_size]
