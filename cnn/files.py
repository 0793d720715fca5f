"""Files that may lie.

Exported from book/27-files.ipynb: edit the chapter and run `make export`.
"""

import io
import itertools
import json
import math
import os
import tokenize
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from . import data
from .data import MNIST_FILES, Dataset, digits, find, read_folder
from .network import Sequential
from .recipes import MODELS, RECIPES
from .training import History

__all__ = [
    "MNIST_SHA256",
    "MNIST_MIRRORS",
    "download_mnist",
    "mnist",
    "load",
    "replace_file",
    "save_history",
    "load_history",
    "history_from",
    "save_weights",
    "load_weights",
    "save_arrays",
    "load_arrays",
]


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
    missing = [name for name in MNIST_FILES if not find(Path(folder), name)]
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


def mnist(root: str | os.PathLike | None = None, download: bool = False) -> Dataset:
    """Read MNIST from ``root/MNIST/raw``, and fetch first what is missing (11.6 MB) if asked to.

    Raises ImportError where pooch, which fetches, is missing, and ConnectionError where no mirror
    gave an intact file.
    """
    if download:
        download_mnist(data.mnist_folder(root))
    return data.mnist(root)


def load(root: str | os.PathLike | None = None, download: bool = False) -> Dataset:
    """Read MNIST where it is found or can be downloaded, else the embedded digits.

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
        Its name, ``"MNIST"`` or ``"digits"``, says which.

    Raises
    ------
    ValueError
        A file is there but damaged, or the images and labels are not equally many.
    """
    try:
        return mnist(root, download)
    except (FileNotFoundError, ConnectionError, ImportError):
        return digits()


# --- A file is whole or absent ---


def replace_file(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside ``path``, then rename it: ``path`` is never half written.

    Parameters
    ----------
    path : path-like
        The file to make or to replace; missing folders are made.
    write : callable
        Is given the open binary file and writes the content. Where it raises, ``path`` stays as
        it was and nothing is left beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            write(file)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def save_history(path: str | os.PathLike, history: History) -> None:
    """Write a history as JSON; ``path`` is never half written."""
    replace_file(path, lambda file: file.write(json.dumps(asdict(history)).encode()))


def load_history(path: str | os.PathLike) -> History:
    """Read what ``save_history`` wrote; anything else is a ValueError that names the file."""
    try:
        return history_from(json.loads(Path(path).read_bytes()))
    except (ValueError, RecursionError) as err:
        raise ValueError(f"{path} is no history: {err}") from err


def history_from(record: object) -> History:
    """Make a history of what JSON held, if it holds a history's lists."""
    names = set(vars(History()))
    if not isinstance(record, dict) or record.keys() != names:
        raise ValueError(
            f"it holds {record!r:.60}; expected lists named {sorted(names)}"
        )
    return History(**record)


# a history of the package can write itself
History.save = lambda self, path: save_history(path, self)
History.load = staticmethod(load_history)


# --- Keeping the weights ---


def save_weights(path: str | os.PathLike, net: Sequential) -> None:
    """Write a network's weights as a safetensors file, which PyTorch's users can read as well.

    Parameters
    ----------
    path : path-like
        The file to make or to replace; it is never half written.
    net : Sequential
        The network.

    Raises
    ------
    ImportError
        The package safetensors is not installed.
    """
    from safetensors.numpy import save

    state = {name: np.ascontiguousarray(a) for name, a in net.state_dict().items()}
    replace_file(path, lambda file: file.write(save(state)))


def load_weights(path: str | os.PathLike) -> Sequential:
    """Read one of the two networks, with its weights, from a safetensors file.

    Which network it is, with how many classes, with dropout or without, is told by the names and
    shapes of the arrays: a file that PyTorch's twin has written will do.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Sequential
        The network, in training mode.

    Raises
    ------
    ImportError
        The package safetensors is not installed.
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged or holds another network; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        state = load(Path(path).read_bytes())
    except (SafetensorError, KeyError, TypeError, ValueError) as err:
        raise ValueError(f"{path} is no safetensors file of weights: {err}") from err
    net = _network_of(state)
    if net is None:
        shapes = {name: a.shape for name, a in state.items()}
        raise ValueError(
            f"{path} holds {shapes!s:.200}; expected the float32 or float64 weights of one of the "
            "two networks, simple or deep"
        )
    try:
        net.load_state_dict(state)
    except ValueError as err:  # NaN or infinity
        raise ValueError(f"{path}: {err}") from err
    return net


def _network_of(state: Mapping[str, np.ndarray]) -> Sequential | None:
    """Return a network that has arrays of these names, shapes and dtype, or None."""
    shapes = {name: a.shape for name, a in state.items()}
    dtypes = {a.dtype for a in state.values()}
    if dtypes not in ({np.dtype("f4")}, {np.dtype("f8")}):
        return None
    # the last layer has 200 inputs: how many outputs it has is read from the file
    outputs = {shape[0] for shape in shapes.values() if shape[1:] == (200,)}
    how = {"rng": np.random.default_rng(0), "dtype": dtypes.pop().type}
    for make, recipe in itertools.product(MODELS.values(), RECIPES.values()):
        dropout = recipe[1]
        for num_classes in outputs - {0}:
            net = make(num_classes=num_classes, dropout=dropout, **how)
            if {name: a.shape for name, a in net.params.items()} == shapes:
                return net
    return None


# --- Named arrays ---


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to an uncompressed ``.npz`` file: weights, or a checkpoint.

    Equal arrays make equal files, byte for byte, and ``path`` is never half written.

    Parameters
    ----------
    path : path-like
        The file to make or to replace.
    arrays : mapping of str to np.ndarray
        What to write, for example ``net.state_dict()``.

    Raises
    ------
    ValueError
        An array holds Python objects instead of numbers.
    """

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, a in arrays.items():
                # a ZipInfo of its own carries no date, so that no clock gets into the file
                with archive.open(
                    zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True
                ) as member:
                    np.lib.format.write_array(
                        member, np.asarray(a), (1, 0), allow_pickle=False
                    )

    replace_file(path, write)


# what NumPy and zipfile raise where the bytes are not what they should be
_DAMAGED = (
    zipfile.BadZipFile,
    ValueError,
    RuntimeError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
)


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the named arrays of an uncompressed ``.npz`` file; nothing in it is unpickled.

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
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, compressed, or holds Python objects; the message names it.
    """
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {
                info.filename.removesuffix(".npy"): _read_array(
                    archive, info, len(content)
                )
                for info in archive.infolist()
            }
    except _DAMAGED as err:
        raise ValueError(f"{path} is damaged, or no file of arrays: {err}") from err


def _read_array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, available: int
) -> np.ndarray:
    """Read one array, after its header's promise has been compared with the bytes there are."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{info.filename} is compressed; expected what np.savez writes"
        )
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{info.filename} has format {version}; expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        promised = member.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects; expected numbers")
        if promised != info.file_size or promised > available:
            raise ValueError(
                f"{info.filename} promises {shape} of {dtype}, {promised} bytes with its header, "
                f"but holds {min(info.file_size, available)}"
            )
        a = np.frombuffer(member.read(), dtype)
        return a.reshape(shape, order="F" if fortran else "C").copy()
