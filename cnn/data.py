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

from .shapes import check_array, check_integer, check_labels

__all__ = [
    "read_idx",
    "scale",
    "one_hot",
    "enlarge",
    "Dataset",
    "digits",
    "MNIST_FILES",
    "find",
    "read_folder",
    "mnist",
    "mnist_folder",
    "load",
    "batches",
]


# --- Reading it ---


_REMEDY = "replace it with an intact copy"


def read_idx(path: str | os.PathLike, ndim: int) -> np.ndarray:
    """Read an IDX file of bytes, gzip-compressed where its name ends in ``.gz``.

    Implements {eq}`eq:idx-address`.

    Parameters
    ----------
    path : path-like
        The file.
    ndim : int
        How many dimensions it must have: 3 for images, 1 for labels.

    Returns
    -------
    np.ndarray
        The array, dtype uint8.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not what it should be; the message names it and says what is wrong.

    Notes
    -----
    Nothing is allocated on the header's word: the data are read in pieces and counted.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            shape = _read_header(file, ndim)
            data = _read_exactly(file, math.prod(shape))
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise ValueError(
            f"{path}: the gzip stream is damaged ({err}); {_REMEDY}"
        ) from err
    except ValueError as err:
        raise ValueError(f"{path}: {err}; {_REMEDY}") from err
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _read_header(file: BinaryIO, ndim: int) -> tuple[int, ...]:
    magic, expected = file.read(4), bytes([0, 0, 8, ndim])
    if magic != expected:
        raise ValueError(
            f"the magic number is {magic.hex() or 'missing'}, expected {expected.hex()}: "
            f"bytes in {ndim} dimension{'s'[: ndim > 1]}"
        )
    sizes = file.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise ValueError("the file ends inside its header")
    shape = tuple(int(n) for n in np.frombuffer(sizes, dtype=">u4"))
    if 0 in shape:
        raise ValueError(f"the header promises an empty array, of shape {shape}")
    return shape


def _read_exactly(file: BinaryIO, count: int) -> bytearray:
    data = bytearray()
    while len(data) <= count and (piece := file.read(1 << 20)):
        data += piece
    if len(data) != count:
        held = "more" if len(data) > count else len(data)
        raise ValueError(
            f"the header promises {count} bytes of data, the file holds {held}"
        )
    return data


# --- From bytes to numbers from 0 to 1 ---


def scale(images: np.ndarray) -> np.ndarray:
    """Turn bytes into numbers from 0 to 1, and give them an axis for the channel.

    Implements {eq}`eq:scale`.

    Parameters
    ----------
    images : np.ndarray
        Shape (N, H, W), dtype uint8.

    Returns
    -------
    np.ndarray
        Shape (N, 1, H, W), dtype float32.

    Raises
    ------
    TypeError
        ``images`` is no array of unsigned integers.
    ValueError
        It does not have three axes, or is empty.
    """
    check_array("images", images, ("N", "H", "W"), kind="bytes")
    return (images / np.float32(255))[:, np.newaxis]


# --- Labels as pictures of certainty ---


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

    Raises
    ------
    TypeError
        ``y`` is not an array of integers.
    ValueError
        It does not have one axis, is empty, or a label is out of range.
    """
    check_array("y", y, ("N",), kind="integer")
    check_labels(y, len(y), K)
    return np.eye(K, dtype=dtype)[y]


# --- Eight pixels become twenty ---


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Enlarge square images by linear interpolation.

    Implements {eq}`eq:enlarge`.

    Parameters
    ----------
    images : np.ndarray
        Shape (N, H, H).
    size : int
        The new number of rows and columns.

    Returns
    -------
    np.ndarray
        Shape (N, size, size), dtype float64.

    Raises
    ------
    TypeError
        ``images`` is no array of numbers, or ``size`` no integer.
    ValueError
        The images are not square, have other than three axes or no pixels, or ``size`` is less
        than 1.
    """
    check_array("images", images, ("N", "H", "H"))
    H = images.shape[1]
    check_array("images", images, ("N", H, H), "because images must be square")
    check_integer("size", size, 1)
    t = np.clip((np.arange(size) + 0.5) * H / size - 0.5, 0, H - 1)
    R = np.maximum(0, 1 - np.abs(t[:, np.newaxis] - np.arange(H)))
    return R @ images @ R.T


class Dataset(NamedTuple):
    """Images and labels, to learn from and to test on.

    Attributes
    ----------
    name : str
        What they are: ``"MNIST"``, ``"digits"``, or what ``read_folder`` was told.
    x_train, x_test : np.ndarray
        Images, shape (N, 1, H, W), float32 from 0 (paper) to 1 (ink); here H = W = 28.
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
    """Read the embedded digits: 1 797 handwritten digits of 8×8 pixels, enlarged to MNIST's size.

    Every sixth image is a test image: 1 498 to learn from, 299 to test on.

    Returns
    -------
    Dataset
        Its name is ``"digits"``.

    Notes
    -----
    The source is the UCI repository's *Optical Recognition of Handwritten Digits* (E. Alpaydin
    and C. Kaynak, 1998), in the selection that scikit-learn ships.
    """
    folder = files("cnn")
    images = read_idx(folder / "digits-images-idx3-ubyte.gz", ndim=3)
    y = read_idx(folder / "digits-labels-idx1-ubyte.gz", ndim=1).astype(np.int64)
    box = enlarge(images / 16, 20).astype(np.float32)
    x = np.pad(box, ((0, 0), (4, 4), (4, 4)))[:, np.newaxis]
    test = np.arange(len(x)) % 6 == 5
    return Dataset("digits", x[~test], y[~test], x[test], y[test])


# --- MNIST ---


MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find(folder: Path, name: str) -> Path | None:
    """Return the path of a file, or of its compressed twin, if one is there."""
    return next(
        (p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None
    )


def read_folder(folder: str | os.PathLike, name: str | None = None) -> Dataset:
    """Read four IDX files, named as MNIST's, from ``folder``: MNIST itself, or another set.

    Parameters
    ----------
    folder : path-like
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same two with
        ``t10k``, each as it is or compressed (``.gz``).
    name : str, optional
        What to call the data; by default the folder's name.

    Returns
    -------
    Dataset
        Images of shape (N, 1, H, W), float32, between 0 and 1, and their labels, int64.

    Raises
    ------
    FileNotFoundError
        A file is missing; the message names it.
    ValueError
        A file is damaged, or the images and labels are not equally many.
    """
    folder, arrays = Path(folder), []
    for file in MNIST_FILES:
        path = find(folder, file)
        if path is None:
            raise FileNotFoundError(
                f"{folder / file}[.gz] does not exist: expected a folder with four files, "
                f"{', '.join(MNIST_FILES)}"
            )
        arrays.append(read_idx(path, ndim=3 if "images" in file else 1))
    x_train, y_train, x_test, y_test = arrays
    for what, x, y in (("train", x_train, y_train), ("t10k", x_test, y_test)):
        if len(x) != len(y):
            raise ValueError(
                f"{folder}: {what} holds {len(x)} images but {len(y)} labels"
            )
    y_train, y_test = y_train.astype(np.int64), y_test.astype(np.int64)
    name = folder.resolve().name if name is None else name
    return Dataset(name, scale(x_train), y_train, scale(x_test), y_test)


def mnist(root: str | os.PathLike | None = None) -> Dataset:
    """Read MNIST from ``root/MNIST/raw``; ``root`` is by default ``CNN_DATA``, or else ``data``."""
    folder = mnist_folder(root)
    try:
        return read_folder(folder, "MNIST")
    except FileNotFoundError as err:
        raise FileNotFoundError(
            f"{err}. Set CNN_DATA to the folder that holds MNIST/raw, or call "
            "cnn.files.mnist(download=True)"
        ) from err


def mnist_folder(root: str | os.PathLike | None = None) -> Path:
    """Return the folder where MNIST's files are, or would be."""
    root = os.environ.get("CNN_DATA", "data") if root is None else root
    return Path(root, "MNIST", "raw")


def load(root: str | os.PathLike | None = None) -> Dataset:
    """Read MNIST where it is found, else the embedded digits; the result's ``name`` says which.

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
    n : int
        How many images there are.
    batch_size : int
        How many indices to deal out at a time.
    rng : np.random.Generator
        Shuffles the indices, once.

    Yields
    ------
    np.ndarray
        Indices, shape (batch_size,); the last one is shorter where the size does not divide n.

    Raises
    ------
    TypeError, ValueError
        ``n`` or ``batch_size`` is no integer of at least 1; raised when the first batch is
        asked for.
    """
    check_integer("n", n, 1)
    check_integer("batch_size", batch_size, 1)
    order = rng.permutation(n)
    for start in range(0, n, batch_size):
        yield order[start : start + batch_size]
