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
from types import ModuleType
from typing import BinaryIO, NamedTuple

import numpy as np

__all__ = [
    "read_idx",
    "check_array",
    "check_integer",
    "check_same_dtype",
    "check_labels",
    "scale",
    "one_hot",
    "enlarge",
    "Dataset",
    "digits",
    "MNIST_SHA256",
    "MNIST_MIRRORS",
    "download_mnist",
    "read_folder",
    "mnist",
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


# --- Arrays that don't fit should say so ---


def check_array(
    name: str,
    a: np.ndarray,
    shape: tuple[int | str, ...],
    why: str = "",
    kinds: str = "fiuc",
) -> None:
    """Raise an error that names both shapes unless ``a`` has the expected shape and dtype.

    Parameters
    ----------
    name : str
        What the caller calls the array.
    a : np.ndarray
        The array to check.
    shape : tuple of int or str
        The expected shape. A number must match; a letter stands for any size but zero.
    why : str
        Where the expectation comes from, added to the message.
    kinds : str
        The permitted kinds of dtype, in NumPy's one-letter codes: f for floats, i and u for
        integers with and without a sign, c for complex numbers.

    Raises
    ------
    TypeError
        ``a`` is not an array, or its dtype is of another kind.
    ValueError
        ``a`` has another shape, or is empty.

    Examples
    --------
    >>> check_array("q", np.zeros((5, 3)), ("N", 4), "because W has shape (2, 4)")
    Traceback (most recent call last):
        ...
    ValueError: q has shape (5, 3); expected (N, 4), because W has shape (2, 4)
    """
    if (
        isinstance(a, np.ndarray)
        and a.dtype.kind in kinds
        and _fits(a.shape, shape)
        and a.size
    ):
        return
    expected = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    if not isinstance(a, np.ndarray):
        raise TypeError(
            f"{name} is of type {type(a).__name__}; expected a NumPy array of shape {expected}"
        )
    if a.dtype.kind not in kinds:
        raise TypeError(
            f"{name} has dtype {a.dtype}; expected numbers (dtype kinds {kinds!r})"
        )
    if not _fits(a.shape, shape):
        raise ValueError(
            f"{name} has shape {a.shape}; expected {expected}{why and ', ' + why}"
        )
    raise ValueError(
        f"{name} is empty: its shape is {a.shape}; expected {expected}, none zero"
    )


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Return whether the sizes are the expected ones, where these are numbers."""
    if shape == expected:  # without a letter: the usual case, and quickly told
        return True
    if len(shape) != len(expected):
        return False
    for n, e in zip(shape, expected, strict=True):
        if n != e and not isinstance(e, str):
            return False
    return True


def check_integer(name: str, value: int, least: int) -> int:
    """Return ``value`` as Python's integer, which can't overflow, if it is at least ``least``.

    Parameters
    ----------
    name : str
        What the caller calls the number.
    value : int
        The number to check.
    least : int
        The smallest value that is allowed.

    Returns
    -------
    int
        The number: NumPy's own integers may have no more than eight bits.

    Raises
    ------
    TypeError
        ``value`` is no integer; True and False are none.
    ValueError
        ``value`` is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}; expected an integer of at least {least}")
    if value < least:
        raise ValueError(f"{name} is {value}; expected an integer of at least {least}")
    return int(value)


def check_same_dtype(**arrays: np.ndarray) -> None:
    """Raise unless all the arrays, given by name, share one dtype.

    NumPy would convert silently, and a float32 network would compute in float64.

    Parameters
    ----------
    **arrays : np.ndarray
        The arrays, by the names that the message shall use.

    Raises
    ------
    TypeError
        Two dtypes differ; the message lists them all.
    """
    if len({a.dtype for a in arrays.values()}) > 1:
        listing = ", ".join(f"{name} {a.dtype}" for name, a in arrays.items())
        raise TypeError(
            f"the arrays have different dtypes ({listing}): convert with .astype(...)"
        )


def check_labels(y: np.ndarray, N: int, K: int) -> None:
    """Raise unless ``y`` holds N integers from 0 to K - 1.

    Parameters
    ----------
    y : np.ndarray
        The labels.
    N, K : int
        The number of images and of classes.

    Raises
    ------
    TypeError
        ``y`` is not an array of integers.
    ValueError
        Its shape is not (N,), or a label is out of range; the message names the first one.
    """
    check_array("y", y, (N,), "one label per image", kinds="iu")
    wrong = np.flatnonzero((y < 0) | (y >= K))
    if wrong.size:
        raise ValueError(
            f"y[{wrong[0]}] is {y[wrong[0]]}; expected labels from 0 to {K - 1} "
            f"({wrong.size} of {N} are outside)"
        )


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
    check_array("images", images, ("N", "H", "W"), kinds="u")
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
    check_array("y", y, ("N",), kinds="iu")
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
    """Fetch MNIST's missing files into ``folder``, trying each mirror, and check their SHA-256.

    Parameters
    ----------
    folder : path-like
        Where the files go; made if it does not exist.

    Raises
    ------
    ImportError
        The package pooch is not installed.
    ConnectionError
        No mirror gave an intact file; nothing partial is left behind.
    """
    missing = [name for name in MNIST_SHA256 if not _find(Path(folder), name)]
    if not missing:
        return
    try:
        import pooch
    except ImportError as err:
        raise ImportError(
            "downloading needs the package pooch: pip install pooch"
        ) from err
    pooch.get_logger().setLevel("ERROR")
    for name in missing:
        _fetch(pooch, Path(folder), f"{name}.gz", f"sha256:{MNIST_SHA256[name]}")


def _fetch(pooch: ModuleType, folder: Path, name: str, known_hash: str) -> None:
    tried = []
    for mirror in MNIST_MIRRORS:
        downloader = pooch.HTTPDownloader(timeout=10)
        try:
            pooch.retrieve(
                mirror + name, known_hash, name, folder, downloader=downloader
            )
            return
        except (OSError, ValueError) as err:
            tried.append(f"{mirror}: {type(err).__name__}")
    raise ConnectionError(
        f"{name} could not be downloaded ({'; '.join(tried)}): copy MNIST's four files "
        f"into {folder} and call again"
    )


def _find(folder: Path, name: str) -> Path | None:
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
    for file in MNIST_SHA256:
        path = _find(folder, file)
        if path is None:
            raise FileNotFoundError(
                f"{folder / file}[.gz] does not exist: expected a folder with four files, "
                f"{', '.join(MNIST_SHA256)}"
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


def mnist(root: str | os.PathLike | None = None, download: bool = False) -> Dataset:
    """Read MNIST from ``root/MNIST/raw``.

    Parameters
    ----------
    root : path-like, optional
        The folder that holds ``MNIST/raw``, as torchvision lays it out; by default the
        environment variable ``CNN_DATA``, or else ``data``.
    download : bool
        Whether to fetch what is missing (11.6 MB).

    Returns
    -------
    Dataset
        Its name is ``"MNIST"``.

    Raises
    ------
    FileNotFoundError
        A file is missing and ``download`` is false.
    ImportError
        A file is missing and the package pooch, which could fetch it, too.
    ConnectionError
        A file is missing and could not be downloaded.
    ValueError
        A file is damaged, or the images and labels are not equally many.
    """
    root = Path(os.environ.get("CNN_DATA", "data") if root is None else root)
    folder = root / "MNIST" / "raw"
    if download:
        download_mnist(folder)
    try:
        return read_folder(folder, "MNIST")
    except FileNotFoundError as err:
        raise FileNotFoundError(
            f"{err}. Set CNN_DATA to the folder that holds MNIST/raw, or call "
            "mnist(download=True)"
        ) from err


def load(root: str | os.PathLike | None = None, download: bool = False) -> Dataset:
    """Read MNIST where it is found or can be downloaded, else the embedded digits.

    The result's ``name`` says which. A damaged file is an error, not a reason to fall back.

    Parameters
    ----------
    root, download
        As for ``mnist``.

    Returns
    -------
    Dataset
        Its name is ``"MNIST"`` or ``"digits"``.

    Raises
    ------
    ValueError
        A file is there but damaged, or the images and labels are not equally many.
    """
    try:
        return mnist(root, download)
    except (FileNotFoundError, ConnectionError, ImportError):
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
