"""Data are read as they are, downloads are checked, and a bad file is told, never half believed."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import socket
import struct
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn import files as files_module
from cnn.data import (
    Dataset,
    batches,
    digits,
    one_hot,
    read_folder,
    read_idx,
    scale,
)
from cnn.files import MNIST_SHA256, load, mnist

IMAGES, LABELS = bytes([0, 0, 8, 3]), bytes([0, 0, 8, 1])


def idx(a: np.ndarray) -> bytes:
    """Return an array of bytes in the IDX format."""
    return bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()


def pixels(*shape: int) -> np.ndarray:
    """Return bytes of every value, well mixed."""
    return (np.arange(np.prod(shape)) * 37 % 256).astype(np.uint8).reshape(shape)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Write a data set of six and four images in MNIST's format; return its MNIST/raw."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in MNIST_SHA256:
        n = 6 if name.startswith("train") else 4
        a = pixels(n, 28, 28) if "images" in name else np.arange(n, dtype=np.uint8)
        (folder / name).write_bytes(idx(a))
    return folder


# --- The IDX format ---


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 1, 1), (3, 28, 28), (2, 5, 4)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_what_was_written(
    tmp_path: Path, shape: tuple[int, ...], suffix: str
) -> None:
    """Sizes in the wrong order or of the wrong endianness would scramble the images."""
    path, a = tmp_path / f"a{suffix}", pixels(*shape)
    path.write_bytes(gzip.compress(idx(a)) if suffix else idx(a))
    b = read_idx(path, ndim=len(shape))
    assert b.dtype == np.uint8
    np.testing.assert_array_equal(a, b)


WHOLE = idx(pixels(3, 4, 5))
ZIPPED = gzip.compress(WHOLE, mtime=0)
MIDDLE = len(ZIPPED) // 2
BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a", b"", "magic number"),
    "empty gz": ("a.gz", b"", "magic number"),
    "labels for images": ("a", idx(pixels(60)), "00000801"),
    "labels for images gz": ("a.gz", gzip.compress(idx(pixels(60))), "00000801"),
    "floats": ("a", bytes([0, 0, 13, 3]) + WHOLE[4:], "00000d03"),
    "ends in its header": ("a", WHOLE[:9], "header"),
    "ends in its header gz": ("a.gz", gzip.compress(WHOLE[:9]), "header"),
    "one byte short": ("a", WHOLE[:-1], "59"),
    "one byte short gz": ("a.gz", gzip.compress(WHOLE[:-1]), "59"),
    "one byte more": ("a", WHOLE + b"x", "more"),
    "one byte more gz": ("a.gz", gzip.compress(WHOLE + b"x"), "more"),
    "gz truncated, named plain": ("a", ZIPPED[:MIDDLE], "gzip"),
    "gz truncated": ("a.gz", ZIPPED[:MIDDLE], "gzip"),
    "gz damaged": (
        "a.gz",
        ZIPPED[:MIDDLE] + b"\xff" * 8 + ZIPPED[MIDDLE + 8 :],
        "gzip",
    ),
    "gz with a tail": ("a.gz", ZIPPED + b"tail", "gzip"),
    "ends inside a size": ("a", WHOLE[:15], "header"),
    "no images": ("a", struct.pack(">4s3I", IMAGES, 0, 28, 28), "none 0"),
}


@pytest.mark.parametrize(
    ("name", "content", "fragment"), BAD_FILES.values(), ids=BAD_FILES
)
def test_a_bad_file_is_told(
    tmp_path: Path, name: str, content: bytes, fragment: str
) -> None:
    """A file half read would train a network on noise; the message says which and what to do."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=fragment) as caught:
        read_idx(path, ndim=3)
    assert str(path) in str(caught.value)
    assert "replace it with an intact copy" in str(caught.value)


def test_images_are_no_labels(tmp_path: Path) -> None:
    """The two files of a set are easily swapped."""
    path = tmp_path / "a"
    path.write_bytes(WHOLE)
    with pytest.raises(ValueError, match=r"00000803.*expected 00000801"):
        read_idx(path, ndim=1)


@pytest.mark.parametrize("kind", ["flipped", "truncated"])
def test_gzip_damaged_anywhere(tmp_path: Path, kind: str) -> None:
    """Whichever byte is hit: a ValueError, or (in gzip's own remarks) the right array."""
    path, refused = tmp_path / "a.gz", 0
    for k in range(len(ZIPPED)):
        damaged = (
            bytes([ZIPPED[k] ^ 0xFF]) + ZIPPED[k + 1 :] if kind == "flipped" else b""
        )
        path.write_bytes(ZIPPED[:k] + damaged)
        try:
            np.testing.assert_array_equal(read_idx(path, ndim=3), pixels(3, 4, 5))
        except ValueError:
            refused += 1
    assert refused >= len(ZIPPED) - (8 if kind == "flipped" else 0)


HUGE = 2**32 - 1
LIES = {
    "3.4 GB": (1, 60_000, 57_000),
    "all that 32 bits can say": (HUGE, HUGE, HUGE),
    "a product that is 0 in 64 bits": (2**31, 2**31, 4),
    "nothing, very often": (0, HUGE, HUGE),
}


@pytest.mark.parametrize("shape", LIES.values(), ids=LIES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_lying_header_takes_no_memory(
    tmp_path: Path, suffix: str, shape: tuple[int, int, int]
) -> None:
    """A file of 20 bytes must not make the reader ask for 3 GB."""
    path, content = (
        tmp_path / f"a{suffix}",
        struct.pack(">4s3I", IMAGES, *shape) + b"few",
    )
    path.write_bytes(gzip.compress(content) if suffix else content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="header promises"):
            read_idx(path, ndim=3)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_gzip_bomb_takes_no_memory(tmp_path: Path) -> None:
    """200 MB of zeros fit into 200 kB; the reader stops where the header says."""
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(">4s3I", IMAGES, 1, 28, 28))
        for _ in range(200):
            file.write(bytes(10**6))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more"):
            read_idx(path, ndim=3)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Which file is missing is what one needs to know."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere.gz", ndim=3)


# --- A data set in a folder ---


def test_reads_a_folder(raw: Path) -> None:
    """Train and test, or images and labels, are easily mixed up."""
    data = mnist(raw.parents[1])
    assert data.name == "MNIST"
    for x, y, n in ((data.x_train, data.y_train, 6), (data.x_test, data.y_test, 4)):
        assert (x.shape, x.dtype, y.dtype) == ((n, 1, 28, 28), np.float32, np.int64)
        np.testing.assert_array_equal(np.rint(x[:, 0] * 255), pixels(n, 28, 28))
        np.testing.assert_array_equal(y, np.arange(n))


def test_reads_any_folder(raw: Path) -> None:
    """Another set of the same form needs no MNIST/raw around it, and is not called MNIST."""
    folder = raw.rename(raw.parents[1] / "clothes")
    data = read_folder(folder)
    assert data.name == "clothes"
    assert read_folder(folder, "Fashion").name == "Fashion"
    assert (len(data.x_train), len(data.y_test)) == (6, 4)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte") as caught:
        read_folder(folder)
    assert "CNN_DATA" not in str(caught.value)


@pytest.mark.parametrize("how", ["CNN_DATA", "./data"])
def test_where_data_are_found(
    raw: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment comes first, then the folder ``data``."""
    monkeypatch.delenv("CNN_DATA", raising=False)
    if how == "CNN_DATA":
        monkeypatch.setenv("CNN_DATA", str(raw.parents[1]))
    else:
        raw.parents[1].joinpath("data").mkdir()
        raw.parent.rename(raw.parents[1] / "data" / "MNIST")
        monkeypatch.chdir(raw.parents[1])
    assert load().name == "MNIST"


@pytest.mark.parametrize("missing", ["a file", "the folder"])
def test_missing_data_are_named(raw: Path, missing: str) -> None:
    """The message says what is missing and both ways out."""
    root = raw.parents[1] / "nowhere" if missing == "the folder" else raw.parents[1]
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"CNN_DATA.*download=True") as caught:
        mnist(root)
    name = (
        "train-images-idx3-ubyte"
        if missing == "the folder"
        else "t10k-labels-idx1-ubyte"
    )
    assert str(root / "MNIST" / "raw" / name) in str(caught.value)
    assert load(root).name == "digits"


@pytest.mark.parametrize(("part", "counts"), [("train", (6, 5)), ("t10k", (4, 5))])
def test_unequal_counts_are_told(raw: Path, part: str, counts: tuple[int, int]) -> None:
    """From the first missing label on, every image would get its neighbour's."""
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(
        ValueError, match=rf"{part}.*{counts[0]} images.*{counts[1]} labels"
    ):
        mnist(raw.parents[1])


@pytest.mark.parametrize("read", [mnist, load])
def test_damage_is_no_reason_to_fall_back(
    raw: Path, read: Callable[..., Dataset]
) -> None:
    """Other data than those asked for, without a word, would be the worst answer."""
    (raw / "train-images-idx3-ubyte").write_bytes(WHOLE[:-1])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        read(raw.parents[1])


def test_scaling() -> None:
    """White is 0, ink is exactly 1, in float32."""
    x = scale(np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    assert (x.dtype, x.shape, x.min(), x.max()) == (np.float32, (1, 1, 16, 16), 0, 1)
    np.testing.assert_array_equal(
        x.ravel(), np.arange(256, dtype=np.float32) / np.float32(255)
    )


# --- Downloads ---


class Server(http.server.SimpleHTTPRequestHandler):
    """A mirror: files under /good, nothing under /dead, files cut short under /short."""

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """Answer one request."""
        if not self.path.startswith("/short/"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")
        return None


@pytest.fixture
def mirror(
    raw: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Serve the small data set, compressed, on this machine; the checksums are its own."""
    served = tmp_path_factory.mktemp("served")
    sums = {}
    for folder in ("good", "other"):
        (served / folder).mkdir()
        for name in MNIST_SHA256:
            content = gzip.compress((raw / name).read_bytes(), mtime=folder == "other")
            (served / folder / f"{name}.gz").write_bytes(content)
            sums.setdefault(name, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(files_module, "MNIST_SHA256", sums)
    monkeypatch.setenv("NO_PROXY", "*")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Server, directory=served)
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def closed_port() -> str:
    """Return an address at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/"


def held(root: Path) -> list[str]:
    """Return the names of all files under a folder."""
    return sorted(path.name for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("first", ["good", "dead", "short", "other", None])
def test_download(
    mirror: str, first: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first mirror is down, cuts a file short or gives another one, the second helps."""
    unreliable = closed_port() if first is None else f"{mirror}{first}/"
    monkeypatch.setattr(files_module, "MNIST_MIRRORS", (unreliable, f"{mirror}good/"))
    root = tmp_path / "fresh"
    data = mnist(root, download=True)
    assert data.x_train.shape == (6, 1, 28, 28)
    assert held(root) == sorted(f"{name}.gz" for name in MNIST_SHA256)


@pytest.mark.parametrize("first", ["dead", "short", "other"])
def test_a_bad_download_is_refused(
    mirror: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with another checksum, kept, would be taken for the real one next time."""
    monkeypatch.setattr(files_module, "MNIST_MIRRORS", (f"{mirror}{first}/",))
    root = tmp_path / "fresh"
    with pytest.raises(ConnectionError, match=r"train-images-idx3-ubyte\.gz") as caught:
        mnist(root, download=True)
    assert f"{mirror}{first}/" in str(caught.value)
    assert held(root) == []


def test_only_what_is_missing_is_downloaded(
    mirror: str, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are there, compressed or not, must stay untouched."""
    monkeypatch.setattr(files_module, "MNIST_MIRRORS", (f"{mirror}good/",))
    (raw / "t10k-labels-idx1-ubyte").unlink()
    before = {path: path.stat() for path in raw.iterdir()}
    mnist(raw.parents[1], download=True)
    assert held(raw) == sorted([*(p.name for p in before), "t10k-labels-idx1-ubyte.gz"])
    assert all(
        path.stat().st_mtime_ns == stat.st_mtime_ns for path, stat in before.items()
    )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the network: no name resolves, no connection opens."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("offline")
def test_no_network_is_one_clear_error(tmp_path: Path) -> None:
    """Not four tracebacks: the file, what was tried, and the remedy; and nothing left behind."""
    with pytest.raises(ConnectionError) as caught:
        mnist(tmp_path, download=True)
    message = str(caught.value)
    for part in (
        "train-images-idx3-ubyte.gz",
        *files_module.MNIST_MIRRORS,
        str(tmp_path),
        "copy",
    ):
        assert part in message
    assert held(tmp_path) == []
    assert load(tmp_path, download=True).name == "digits"


def test_without_pooch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy alone must do: then nothing is downloaded, and the remedy is told."""
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="pip install pooch"):
        mnist(tmp_path, download=True)
    assert load(tmp_path, download=True).name == "digits"


def test_without_pooch_files_at_hand_are_read(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to download pooch is not needed: MNIST must not turn into the digits."""
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert mnist(raw.parents[1], download=True).name == "MNIST"
    assert load(raw.parents[1], download=True).name == "MNIST"


# --- The data themselves ---


def test_embedded_digits_are_scikit_learns() -> None:
    """Where the digits come from is written down; this is the proof."""
    source, folder = load_digits(), files("cnn")
    images = read_idx(folder / "digits-images-idx3-ubyte.gz", ndim=3)
    np.testing.assert_array_equal(images, source.images)
    labels = read_idx(folder / "digits-labels-idx1-ubyte.gz", ndim=1)
    np.testing.assert_array_equal(labels, source.target)


def test_digits_are_split_once() -> None:
    """An image in both halves would make the test error too good; every sixth one tests."""
    data, y = digits(), load_digits().target
    assert (len(data.x_train), len(data.x_test)) == (1498, 299)
    np.testing.assert_array_equal(data.y_test, y[5::6])
    np.testing.assert_array_equal(data.y_train, np.delete(y, np.s_[5::6]))
    train, test = ({a.tobytes() for a in x} for x in (data.x_train, data.x_test))
    assert not train & test
    assert len(train | test) == len({a.tobytes() for a in load_digits().images})


def test_digits_look_like_mnist() -> None:
    """Both architectures must run on them unchanged."""
    data = digits()
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert (x.shape[1:], x.dtype, y.dtype) == ((1, 28, 28), np.float32, np.int64)
        assert len(x) == len(y)
        assert x.min() == 0
        assert 0.9 < x.max() <= 1
        assert set(y) == set(range(10))
        frame = np.ones((28, 28), bool)
        frame[4:24, 4:24] = False
        assert not x[:, 0, frame].any()


@pytest.fixture(scope="module")
def real() -> Dataset:
    """Return the real MNIST, where it is at hand."""
    try:
        return mnist()
    except FileNotFoundError as err:
        pytest.skip(f"real MNIST is not at hand: {err}")


def test_real_mnist(real: Dataset) -> None:
    """60 000 and 10 000 images; the first ten labels are known by heart."""
    assert real.x_train.shape == (60_000, 1, 28, 28)
    assert real.x_test.shape == (10_000, 1, 28, 28)
    assert real.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert real.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(real.y_test).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert real.x_train.mean() == pytest.approx(0.1307, abs=1e-4)
    assert real.x_train.std() == pytest.approx(0.3081, abs=1e-4)


@pytest.fixture(scope="module")
def torchvision_mnist() -> Callable[..., object]:
    """Return torchvision's MNIST, also where its operators don't match the installed torch."""
    torch = pytest.importorskip("torch")
    try:
        import torchvision
    except ImportError as err:
        pytest.skip(f"torchvision is not installed: {err}")
    except RuntimeError as err:
        torchvision = import_without_operators(torch, err)
    return torchvision.datasets.MNIST


def import_without_operators(torch: ModuleType, err: RuntimeError) -> ModuleType:
    """Import torchvision beside a torch without its compiled operators, which reading needs not."""
    if "torchvision::nms" not in str(err):
        pytest.skip(f"torchvision can't be imported: {err}")
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for op in ("nms", "qnms"):
        library.define(
            f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    import torchvision

    torchvision.library_that_must_stay_alive = library
    return torchvision


def assert_same_as_torchvision(
    data: Dataset, root: Path, theirs: Callable[..., object]
) -> None:
    """Compare both halves, image by image and label by label."""
    for train, x, y in (
        (True, data.x_train, data.y_train),
        (False, data.x_test, data.y_test),
    ):
        twin = theirs(root, train=train, download=False)
        np.testing.assert_array_equal(np.rint(x[:, 0] * 255), twin.data)
        np.testing.assert_array_equal(y, twin.targets)


def test_torchvision_reads_the_same(
    raw: Path, torchvision_mnist: Callable[..., object]
) -> None:
    """A reader who knows torchvision must find the same images here."""
    assert_same_as_torchvision(mnist(raw.parents[1]), raw.parents[1], torchvision_mnist)


def test_torchvision_reads_the_same_mnist(
    real: Dataset, tmp_path: Path, torchvision_mnist: Callable[..., object]
) -> None:
    """And on the real files, unpacked as torchvision wants them."""
    source = Path(os.environ.get("CNN_DATA", "data")) / "MNIST" / "raw"
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in MNIST_SHA256:
        plain, packed = source / name, source / f"{name}.gz"
        content = (
            plain.read_bytes()
            if plain.exists()
            else gzip.decompress(packed.read_bytes())
        )
        (folder / name).write_bytes(content)
    assert_same_as_torchvision(real, tmp_path, torchvision_mnist)


# --- Batches and labels ---


@pytest.mark.parametrize(
    ("n", "batch_size"), [(1, 1), (10, 5), (10, 3), (10, 10), (10, 99)]
)
def test_batches_deal_every_index_once(n: int, batch_size: int) -> None:
    """An image dealt twice or never would be learnt twice or never."""
    dealt = list(batches(n, batch_size, np.random.default_rng(0)))
    assert sorted(np.concatenate(dealt)) == list(range(n))
    assert {len(i) for i in dealt[:-1]} <= {batch_size}
    assert len(dealt) == -(-n // batch_size)


def test_batches_are_shuffled_by_the_seed_alone() -> None:
    """The same seed gives the same order, another seed and another epoch another one."""

    def order(rng: np.random.Generator) -> list[int]:
        return np.concatenate(list(batches(50, 7, rng))).tolist()

    rng = np.random.default_rng(1)
    first, second = order(rng), order(rng)
    assert first == order(np.random.default_rng(1))
    assert (
        len({tuple(o) for o in (first, second, order(np.random.default_rng(2)))}) == 3
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_hot(dtype: type) -> None:
    """Exactly one 1 in each row, in the label's column."""
    y = np.array([2, 0, 1, 2])
    np.testing.assert_array_equal(
        one_hot(y, 4, dtype), [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    )
    assert one_hot(y, 4, dtype).dtype == dtype
