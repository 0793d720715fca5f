"""A run that is stopped, killed or given nonsense ends well: the same weights, or a clear error."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnn.conv import Conv2d
from cnn.data import Dataset
from cnn.losses import cross_entropy, error_rate
from cnn.network import Flatten, Linear, ReLU, Sequential
from cnn.optimizers import SGD, Adam, ExponentialDecay, Optimizer
from cnn.checkpoint import fit
from cnn.files import load_arrays, replace_file, save_arrays
from cnn.training import History, evaluate

Arrays = dict[str, np.ndarray]


def made_up(seed: int = 0, n: int = 23) -> Dataset:
    """Return images of noise: five batches of 5, the last one of 3."""
    rng = np.random.default_rng(seed)
    x = rng.random((n + 7, 1, 6, 6), np.float32)
    y = rng.integers(0, 3, n + 7)
    return Dataset("noise", x[:n], y[:n], x[n:], y[n:])


class Run:
    """A network, an optimiser and a generator, as fresh as in a new process."""

    def __init__(self, name: str = "Adam", seed: int = 0, units: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.net = Sequential(
            Conv2d(1, 2, 3, rng=rng), ReLU(), Flatten(), Linear(32, units, rng=rng)
        )
        decay = ExponentialDecay(0.05, 0.001, 10)
        self.optimizer: Optimizer = {
            "Adam": lambda params: Adam(params, 0.01),
            "Adam, schedule": lambda params: Adam(params, decay),
            "momentum": lambda params: SGD(params, 0.05, momentum=0.9),
        }[name](self.net.params)
        self.rng = rng

    def fit(self, **options: object) -> History:
        """Train for four epochs of five iterations, unless told otherwise."""
        options = {
            "data": made_up(),
            "epochs": 4,
            "batch_size": 5,
            "every": 3,
        } | options
        return fit(
            self.net, self.optimizer, options.pop("data"), rng=self.rng, **options
        )

    def stop_at(self, t: int) -> None:
        """Let Ctrl+C be pressed in iteration t, when its weights have just been changed."""
        step = self.optimizer.step

        def stopping(grads: Arrays) -> None:
            step(grads)
            if self.optimizer.t == t:
                raise KeyboardInterrupt

        self.optimizer.step = stopping

    def state(self) -> Arrays:
        """Return all that the run ended with."""
        return self.net.state_dict() | self.optimizer.state_dict()


def assert_same(first: Arrays, second: Arrays) -> None:
    """Compare bit for bit."""
    assert first.keys() == second.keys()
    for name, a in first.items():
        assert a.dtype == second[name].dtype
        np.testing.assert_array_equal(a, second[name], err_msg=name)


def assert_same_history(first: History, second: History) -> None:
    """Compare all but the time."""
    for name in ("loss", "iterations", "test_loss", "test_error"):
        assert getattr(first, name) == getattr(second, name), name


# --- Stopped and gone on ---


@pytest.mark.parametrize("every", [1, 3, 5])
@pytest.mark.parametrize(
    "stops",
    [
        [1],
        [2],
        [3],
        [4],
        [5],
        [6],
        [9],
        [10],
        [14],
        [15],
        [16],
        [19],
        [20],
        [4, 7, 15, 16],
    ],
    ids=str,
)
def test_resume_is_exact(tmp_path: Path, every: int, stops: list[int]) -> None:
    """Mid-epoch, at an epoch's end, before the first checkpoint: the same weights, bit for bit."""
    whole = Run()
    history = whole.fit(every=every)
    path = tmp_path / "checkpoint.npz"
    for t in stops:
        interrupted = Run()
        interrupted.stop_at(t)
        with pytest.raises(KeyboardInterrupt):
            interrupted.fit(every=every, checkpoint=path)
        assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"] * (t > every)
    again = Run()
    resumed = again.fit(every=every, checkpoint=path)
    assert_same(whole.state(), again.state())
    assert_same_history(history, resumed)


@pytest.mark.parametrize("name", ["Adam", "Adam, schedule", "momentum"])
def test_every_optimizer_resumes(tmp_path: Path, name: str) -> None:
    """A memory, or the schedule's t, that starts again at zero would bend the run."""
    whole, interrupted, again = Run(name), Run(name), Run(name)
    whole.fit()
    interrupted.stop_at(13)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(checkpoint=tmp_path / "c")
    again.fit(checkpoint=tmp_path / "c")
    assert_same(whole.state(), again.state())


def test_the_checkpoint_decides_not_the_fresh_weights(tmp_path: Path) -> None:
    """What the new network and generator happen to hold must not matter."""
    whole, interrupted, again = Run(), Run(), Run()
    whole.fit()
    interrupted.stop_at(8)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(checkpoint=tmp_path / "c")
    for theta in again.net.params.values():
        theta += 1
    again.rng.random(100)
    again.fit(checkpoint=tmp_path / "c")
    assert_same(whole.state(), again.state())


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    """The same command twice must give the same answer, and more epochs go on from there."""
    whole, first, second, third = Run(), Run(), Run(), Run()
    history = whole.fit(epochs=4)
    first.fit(epochs=3, checkpoint=tmp_path / "c")
    second.stop_at(16)
    second.fit(epochs=3, checkpoint=tmp_path / "c")
    assert_same(first.state(), second.state())
    resumed = third.fit(epochs=4, checkpoint=tmp_path / "c")
    assert_same(whole.state(), third.state())
    assert resumed.loss == history.loss


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    """Watching a run must not change it: neither tests nor checkpoints draw numbers."""
    plain, watched = Run(), Run()
    plain.fit(every=1000)
    watched.fit(every=1, checkpoint=tmp_path / "c")
    assert_same(plain.state(), watched.state())


def test_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy alone must do: no progress bar then, and the same weights."""
    with_bar, without_bar = Run(), Run()
    with_bar.fit()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    without_bar.fit()
    assert_same(with_bar.state(), without_bar.state())


# --- Whose checkpoint? ---

OTHERS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "seed": ({"seed": 1}, {}),
    "network": ({"units": 4}, {}),
    "optimizer": ({"name": "momentum"}, {}),
    "schedule": ({"name": "Adam, schedule"}, {}),
    "images": ({}, {"data": made_up(seed=1)}),
    "number of images": ({}, {"data": made_up(n=22)}),
    "batch_size": ({}, {"batch_size": 4}),
    "every": ({}, {"every": 2}),
    "fewer epochs": ({}, {"epochs": 1}),
}


@pytest.mark.parametrize(("run", "options"), OTHERS.values(), ids=OTHERS)
def test_another_runs_checkpoint_is_refused(
    tmp_path: Path, run: dict[str, object], options: dict[str, object]
) -> None:
    """Two halves of different runs make a result that nobody can repeat."""
    path = tmp_path / "c"
    Run().fit(epochs=2, checkpoint=path)
    content, other = path.read_bytes(), Run(**run)
    before = other.state()
    with pytest.raises(ValueError, match="can't be resumed") as caught:
        other.fit(**options, checkpoint=path)
    assert str(path) in str(caught.value)
    assert "Delete" in str(caught.value)
    assert path.read_bytes() == content
    assert_same(before, other.state())


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
def test_a_bad_checkpoint_is_told(
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


def record_of(path: Path) -> tuple[Arrays, dict[str, object]]:
    """Return a checkpoint's arrays and what its record says."""
    arrays = load_arrays(path)
    return arrays, json.loads(arrays["record"].tobytes())


WRONG_RECORDS: dict[str, Callable[[dict], object]] = {
    "a list": lambda record: [record],
    "null": lambda record: None,
    "empty": lambda record: {},
    "no history": lambda record: record | {"history": None},
    "short history": lambda record: record | {"history": {"loss": []}},
    "words for losses": lambda record: (
        record | {"history": record["history"] | {"loss": ["low"] * 10}}
    ),
    "no generator": lambda record: record | {"rng": None},
    "another generator": lambda record: record | {"rng": np.random.MT19937(0).state},
    "no run": lambda record: record | {"run": []},
}


@pytest.mark.parametrize("change", WRONG_RECORDS.values(), ids=WRONG_RECORDS)
def test_a_wrong_record_is_told(
    tmp_path: Path, change: Callable[[dict], object]
) -> None:
    """An intact file with other contents is told as well, and changes nothing."""
    path = tmp_path / "c"
    Run().fit(epochs=2, checkpoint=path)
    arrays, record = record_of(path)
    text = json.dumps(change(record), default=lambda a: a.tolist())
    save_arrays(path, arrays | {"record": np.frombuffer(text.encode(), np.uint8)})
    run = Run()
    before = run.state()
    with pytest.raises(ValueError, match=r"can't be resumed.*Delete"):
        run.fit(checkpoint=path)
    assert_same(before, run.state())


@pytest.mark.parametrize(
    "change", ["missing", "unknown", "shape", "dtype", "nan", "memory"]
)
def test_wrong_arrays_are_told(tmp_path: Path, change: str) -> None:
    """Weights that don't fit must not be half loaded."""
    path = tmp_path / "c"
    Run().fit(epochs=2, checkpoint=path)
    arrays = load_arrays(path)
    weight = arrays["net/3.weight"]
    if change in ("missing", "memory"):
        del arrays["net/0.bias" if change == "missing" else "optimizer/m.3.weight"]
    else:
        arrays |= {
            "unknown": {"net/9.weight": weight},
            "shape": {"net/3.weight": weight.T},
            "dtype": {"net/3.weight": weight.astype(np.float64)},
            "nan": {"net/3.weight": weight * np.nan},
        }[change]
    save_arrays(path, arrays)
    run = Run()
    before = run.state()
    with pytest.raises(ValueError, match=r"can't be resumed"):
        run.fit(checkpoint=path)
    assert_same(before, run.state())


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

    with pytest.raises((KeyboardInterrupt, OSError)):
        replace_file(path, write)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_history_round_trip(tmp_path: Path) -> None:
    """Every number comes back as it was."""
    history = Run().fit()
    history.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == history
    assert history.iterations == [3, 6, 9, 12, 15, 18, 20]
    assert len(history.loss) == 20


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
}


@pytest.mark.parametrize("content", BAD_HISTORIES.values(), ids=BAD_HISTORIES)
def test_a_malformed_history_is_told(tmp_path: Path, content: object) -> None:
    """A picture drawn from another file's numbers would mislead."""
    path = tmp_path / "history.json"
    path.write_bytes(
        content if isinstance(content, bytes) else json.dumps(content).encode()
    )
    with pytest.raises(ValueError, match=r"history\.json"):
        History.load(path)


# --- NaN is told, not averaged away ---


@pytest.mark.parametrize("part", ["x_train", "x_test"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_images_are_told_before_training(part: str, value: float) -> None:
    """One NaN pixel makes every weight NaN in a single step."""
    data = made_up()
    x = getattr(data, part).copy()
    x[4, 0, 2, 2] = value
    run = Run()
    before = run.state()
    with pytest.raises(ValueError, match=part):
        run.fit(data=data._replace(**{part: x}))
    assert_same(before, run.state())


def test_nan_weights_are_told() -> None:
    """A network that is broken from the start says so at once."""
    run = Run()
    run.net.params["3.weight"][0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="iteration 1:"):
        run.fit()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_becomes_nan_is_told(tmp_path: Path) -> None:
    """With a wild learning rate the run stops at the iteration that broke it, and saves nothing."""
    run = Run()
    optimizer = SGD(run.net.params, 1e25)
    with pytest.raises(
        FloatingPointError, match=r"iteration \d+: .*learning rate"
    ) as caught:
        fit(
            run.net,
            optimizer,
            made_up(),
            epochs=4,
            rng=run.rng,
            every=1,
            checkpoint=tmp_path / "c",
        )
    assert 1 <= int(str(caught.value).split(":")[0].removeprefix("iteration ")) < 10
    if (tmp_path / "c").exists():
        assert all(np.isfinite(a).all() for a in load_arrays(tmp_path / "c").values())


# --- Testing ---


@pytest.mark.parametrize("batch_size", [1, 3, 7, 23, 500])
def test_evaluating_in_parts_changes_nothing(batch_size: int) -> None:
    """The mean of the batches' means is wrong where the last batch is smaller."""
    rng, data = np.random.default_rng(0), made_up()
    net = Sequential(Flatten(), Linear(36, 3, rng=rng, dtype=np.float64))
    x = data.x_train.astype(np.float64)
    z = net.forward(x)
    expected = cross_entropy(z, data.y_train), error_rate(z, data.y_train)
    assert evaluate(net, x, data.y_train, batch_size) == pytest.approx(
        expected, rel=1e-13
    )
