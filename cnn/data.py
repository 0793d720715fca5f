"""Handwritten digits.

Exported from book/01-digits.ipynb: edit the chapter and run `make export`.
"""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from .shapes import check_integer, check_labels, shapes

__all__ = [
    "read_idx", "scale", "one_hot", "enlarge", "Dataset", "digits", "MNIST_FILES",
    "read_folder", "find", "mnist_folder", "mnist", "load", "batches",
]  # fmt: skip


# --- Reading it ---
def _read_header(file: BinaryIO, ndim: int) -> tuple[int, ...]:
    """Return the shape that the header of an IDX file promises."""
    header, magic = file.read(4 + 4 * ndim), bytes([0, 0, 8, ndim])
    if header[:4] != magic:
        found = header[:4].hex() or "missing"
        raise ValueError(f"the magic number is {found}, expected {magic.hex()}")
    places = range(4, len(header), 4)
    shape = tuple(int.from_bytes(header[k : k + 4], "big") for k in places)
    if len(header) < 4 + 4 * ndim or 0 in shape:
        raise ValueError(f"the header promises {shape}, expected {ndim} sizes, none 0")
    return shape


def _read_exactly(file: BinaryIO, count: int) -> bytearray:
    """Return the rest of a file, which must be ``count`` bytes."""
    data = bytearray()
    while len(data) <= count and (piece := file.read(1 << 20)):
        data += piece
    if len(data) != count:
        held = "more" if len(data) > count else len(data)
        raise ValueError(f"the header promises {count} bytes, the file holds {held}")
    return data


def read_idx(path: str | os.PathLike, ndim: int) -> np.ndarray:
    """Read an IDX file of bytes, compressed where its name ends in ``.gz``.

    Implements {eq}`eq:idx-address`.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            shape = _read_header(file, ndim)
            data = _read_exactly(file, math.prod(shape))
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as err:
        what = str(err) if type(err) is ValueError else f"damaged gzip: {err}"
        raise ValueError(f"{path}: {what}; replace it with an intact copy") from err
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
def one_hot(y: np.ndarray, K: int, dtype: type = np.float32) -> np.ndarray:
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
    check_labels(y, len(y), K)
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


def digits() -> Dataset:
    """Read the embedded digits, 1 797 of 8×8 pixels, enlarged to MNIST's size.

    The source is UCI's *Optical Recognition of Handwritten Digits*, as in scikit-learn.

    Returns
    -------
    Dataset
        Named ``"digits"``: 1 498 images to learn from, and every sixth, 299, to test on.
    """
    images = read_idx(files("cnn") / "digits-images-idx3-ubyte.gz", ndim=3)
    y = read_idx(files("cnn") / "digits-labels-idx1-ubyte.gz", ndim=1)
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
    for name in (images, labels):
        if find(folder, name) is None:
            expected = f"expected {', '.join(MNIST_FILES)}"
            raise FileNotFoundError(f"{folder / name}[.gz] does not exist; {expected}")
    x, y = read_idx(find(folder, images), 3), read_idx(find(folder, labels), 1)
    if len(x) != len(y):
        found = f"{images} holds {len(x)} images but {labels} {len(y)} labels"
        raise ValueError(f"{folder}: {found}")
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
    """Return the path of a file, or of its compressed twin, if one is there."""
    twins = (folder / name, folder / f"{name}.gz")
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
    order = rng.permutation(n)
    for start in range(0, n, batch_size):
        yield order[start : start + batch_size]
