"""Faults that users of such programs report: for each kind, every place where it can occur."""

from __future__ import annotations

import gzip
import io
import logging
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cnn
from cnn import (
    SGD,
    Adam,
    AdamW,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dataset,
    Dropout,
    ExponentialDecay,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    digits,
    evaluate,
    fit,
    load_weights,
    probabilities,
    read_folder,
    save_arrays,
    save_weights,
    simple_cnn,
    train_step,
)
from cnn.augment import augment
from cnn.data import MNIST_FILES, find, scale
from cnn.files import locked, replace_file, save_history
from cnn.models import output_shapes
from cnn.optimizers import Bookkeeping
from cnn.recipes import epochs_for
from cnn.training import History, in_use, progress_bar, watched
from cnn.visualize import activations, occlusion, saliency

ROOT = Path(__file__).resolve().parents[1]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def made_up(n: int = 20, m: int = 6, features: int = 8) -> Dataset:
    x, y = rng(1).random((n + m, features), np.float32), rng(2).integers(0, 3, n + m)
    return Dataset("made up", x[:n], y[:n], x[n:], y[n:])


def dense(*more: Layer) -> Sequential:
    return Sequential(Linear(8, 3, rng=rng(3)), *more)


# --- 1: scalars keep their shape ---


def test_scalars_keep_their_shape(tmp_path: Path) -> None:
    """A count of shape () comes back as one, from each file that holds arrays."""
    safetensors = pytest.importorskip("safetensors.numpy")
    net = dense(BatchNorm1d(3))
    save_weights(tmp_path / "a.safetensors", net)
    save_arrays(tmp_path / "a.npz", net.state_dict())
    for state in (
        safetensors.load_file(tmp_path / "a.safetensors"),
        cnn.load_arrays(tmp_path / "a.npz"),
    ):
        assert state["1.num_batches_tracked"].shape == ()
        net.load_state_dict(state)


# --- 2: at inference, nothing of the network is touched ---


def everything(net: Sequential) -> list[object]:
    """Return what could be touched: each layer's attributes, and what is in its dicts."""
    seen: list[object] = []
    for layer in net.modules():
        for name, a in sorted(vars(layer).items()):
            seen += [name, id(a)]
            if isinstance(a, dict):
                seen += [(k, id(b), np.array(b).tobytes()) for k, b in a.items()]
            if isinstance(a, np.random.Generator):
                seen.append(str(a.bit_generator.state))
    return seen


IMAGES, LABELS = rng().random((4, 1, 6, 6)), np.array([0, 1, 2, 1])
LOOKS: dict[str, Callable[[Sequential], object]] = {
    "evaluate": lambda net: evaluate(net, IMAGES, LABELS),
    "probabilities": lambda net: probabilities(net, IMAGES),
    "activations": lambda net: activations(net, IMAGES),
    "saliency": lambda net: saliency(net, IMAGES, LABELS),
    "occlusion": lambda net: occlusion(net, IMAGES, LABELS, 3),
    "output_shapes": lambda net: output_shapes(net, (1, 6, 6)),
    "summary": lambda net: cnn.summary(net, (1, 6, 6)),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_network_that_is_looked_at_is_not_touched(
    look: Callable[[Sequential], object],
) -> None:
    how = {"rng": rng(), "dtype": np.float64}
    inner = Sequential(BatchNorm2d(2, dtype=np.float64), Dropout(rng=rng()))
    net = Sequential(Conv2d(1, 2, 3, **how), inner, Flatten(), Linear(32, 3, **how))
    net.backward(np.ones_like(net(IMAGES)))
    before = everything(net)
    look(net)
    assert everything(net) == before


def test_threads_share_a_network_whatever_its_mode() -> None:
    """One is inside while another begins and a third ends."""
    inside, go = threading.Event(), threading.Event()
    answers: dict[int, np.ndarray] = {}

    class Gate(Layer):
        def forward(self, x: np.ndarray) -> np.ndarray:
            if len(x) == 2:
                inside.set()
                go.wait()
            else:
                inside.wait()
            return x

    net = Sequential(Gate(), Dropout(0.5, rng=rng()))

    def ask(n: int) -> None:
        answers[n] = probabilities(net, np.ones((n, 4), np.float32))

    threads = [threading.Thread(target=ask, args=(n,)) for n in (1, 2)]
    threads[1].start()
    inside.wait()
    threads[0].start()
    threads[0].join()
    go.set()
    threads[1].join()
    assert net.training
    assert all(np.array_equal(a, np.full((n, 4), 0.25)) for n, a in answers.items())


# --- 3 and 25: a published file is whole, and what it was before ---


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    """The last one wins, whole."""
    path, errors = tmp_path / "a", []

    def write(n: int) -> None:
        try:
            for _ in range(20):
                replace_file(path, lambda file: file.write(bytes([n]) * 100_000))
        except OSError as err:
            errors.append(err)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(path.read_bytes())) == 1
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="modes and devices are POSIX's")
def test_a_replaced_file_stays_what_it_was(tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", tmp_path / "link"
    secret.write_bytes(b"old")
    secret.chmod(0o600)
    link.symlink_to(secret)
    modes = []

    def write(file: io.BufferedWriter) -> None:
        modes.append(os.fstat(file.fileno()).st_mode & 0o777)
        file.write(b"new")

    replace_file(link, write)
    assert link.is_symlink()
    assert secret.read_bytes() == b"new"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert modes == [0o600], "while it was written, others could read it"
    replace_file("/dev/null", write)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    longest = tmp_path / ("a" * 250)
    replace_file(longest, write)
    assert longest.read_bytes() == b"new"


# --- 4: two runs in one place ---


def test_a_lock_keeps_a_second_holder_out(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    with locked(path):
        with pytest.raises(BlockingIOError, match="run is in use"), locked(path):
            pass
        with locked(tmp_path / "run" / "other"):
            pass
    with locked(path):
        pass
    assert not path.exists()


def test_a_second_run_with_one_checkpoint_is_refused(tmp_path: Path) -> None:
    net, data = dense(), made_up()
    how = {"epochs": 1, "rng": rng(), "checkpoint": tmp_path / "c.npz"}
    with locked(tmp_path / "c.lock"), pytest.raises(BlockingIOError, match="in use"):
        fit(net, Adam(net.params), data, **how)
    fit(net, Adam(net.params), data, **how)
    assert os.listdir(tmp_path) == ["c.npz"]


@pytest.mark.skipif(os.name == "nt", reason="kill is POSIX's")
def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, signal; from cnn.files import locked\n"
        f"with locked({str(tmp_path / 'x')!r}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with locked(tmp_path / "x"):
        pass


# --- 5 and 6: parameters have one truth ---


def exchanged(change: Callable[[Sequential], object]) -> tuple[Sequential, Adam]:
    net = Sequential(Linear(8, 4, rng=rng()), ReLU(), Linear(4, 3, rng=rng(1)))
    optimizer = Adam(net.params)
    change(net)
    return net, optimizer


def new_weight(net: Sequential) -> None:
    net[0].params["weight"] = net[0].params["weight"].copy()


CHANGES: dict[str, Callable[[Sequential], object]] = {
    "layer": lambda net: net.layers.__setitem__(2, Linear(4, 3, rng=rng(2))),
    "array": new_weight,
    "layer more": lambda net: net.layers.append(Linear(3, 3, rng=rng())),
    "layer less": lambda net: net.layers.pop(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("way", ["step", "fit", "checkpoint"])
def test_an_optimiser_of_other_arrays_is_refused(
    tmp_path: Path, change: Callable[[Sequential], object], way: str
) -> None:
    """It would train what nobody uses, and no word."""
    net, optimizer = exchanged(change)
    before, data = net.state_dict(), made_up()
    path = tmp_path / "c.npz" if way == "checkpoint" else None
    how = {"epochs": 1, "rng": rng(), "checkpoint": path}

    def train() -> None:
        if way == "step":
            train_step(net, optimizer, data.x_train, data.y_train)
        else:
            fit(net, optimizer, data, **how)

    with pytest.raises(ValueError, match=r"own arrays.*net\.params"):
        train()
    assert optimizer.t == 0
    assert all(np.array_equal(a, before[name]) for name, a in net.params.items())
    assert not os.listdir(tmp_path)


def test_what_a_network_says_of_itself_is_read_from_its_layers() -> None:
    net, _ = exchanged(CHANGES["layer"])
    assert net.params["2.weight"] is net[2].params["weight"]
    assert_array_equal(net.state_dict()["2.weight"], net[2].params["weight"])
    optimizer, before = Adam(net.params), net[2].params["weight"].copy()
    train_step(net, optimizer, made_up().x_train, made_up().y_train)
    assert not np.array_equal(before, net[2].params["weight"])


# --- 7: no console, no log ---


def test_no_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service has no console; a closed one raises when it is asked."""
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        assert not watched()
        net = dense()
        fit(net, Adam(net.params), made_up(), epochs=2, rng=rng())


def test_where_there_is_no_terminal_the_log_says_how_far(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("tqdm")
    history = History([0.5] * 7)
    history.add_test(7, 0.25, 0.125, 1.0)
    with caplog.at_level(logging.INFO, "cnn"), progress_bar(0, 9) as bar:
        bar.set_postfix_str(str(history), refresh=False)
        bar.update(7)
        bar.refresh()
    line = caplog.messages[-1]
    assert "7 of 9" in line
    assert "0.5000" in line
    assert "12.50%" in line
    assert "left" in line
    with progress_bar(0, 9) as bar:
        assert bar is None


# --- 14: from an archive ---


def test_the_package_works_from_an_archive(tmp_path: Path) -> None:
    """The digits and the weights are not files of the file system there."""
    archive = tmp_path / "cnn.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (ROOT / "cnn").iterdir():
            if path.is_file():
                file.write(path, f"cnn/{path.name}")
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "import cnn; assert '.zip' in cnn.__file__, cnn.__file__\n"
        "cnn.use('numpy')\n"
        "print(cnn.evaluate(cnn.load_weights(), *cnn.digits()[3:])[1] < 0.5)"
    )
    how = {"capture_output": True, "text": True, "cwd": tmp_path, "check": False}
    done = subprocess.run([sys.executable, "-c", code], **how)
    assert done.stdout.strip() == "True", done.stderr


# --- 16 and 17: files as they come ---


def idx(a: np.ndarray, kind: int = 8) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in a.shape)
    return bytes([0, 0, kind, a.ndim]) + sizes + a.tobytes()


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("packed", ["no", "yes", "unnamed", "named"])
def test_a_set_is_read_however_it_is_named(
    tmp_path: Path, dotted: bool, packed: str
) -> None:
    images, labels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4), np.arange(3)
    for k, name in enumerate(MNIST_FILES):
        content = idx(images if k % 2 == 0 else labels.astype(np.uint8))
        name = name.replace("-idx", ".idx") if dotted else name
        ending = ".gz" if packed in ("yes", "named") else ""
        content = gzip.compress(content) if packed in ("yes", "unnamed") else content
        (tmp_path / f"{name}{ending}").write_bytes(content)
    data = read_folder(tmp_path)
    assert_array_equal(data.y_test, labels)
    assert_array_equal(data.x_train, scale(images))
    assert all(find(tmp_path, name) for name in MNIST_FILES)


FOREIGN = {
    "a web page": (b"<!DOCTYPE html><html>not found</html>", "web page"),
    "a page with space": (b"\n<html>", "web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "float IDX": (idx(np.zeros((2, 3, 3), np.float32), 13), "float32"),
    "QMNIST's labels": (idx(np.zeros((2, 8), np.int32), 12), "int32 in 2 dimensions"),
}


@pytest.mark.parametrize(("content", "words"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_of_another_kind_is_called_by_its_name(
    tmp_path: Path, content: bytes, words: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a").write_bytes(pack(content))
    with pytest.raises(ValueError, match=words):
        cnn.data.read_idx(tmp_path / "a", ndim=3)


# --- 18: known by what it is ---


def test_an_own_folder_called_digits_is_an_own_folder(tmp_path: Path) -> None:
    own = digits()._replace(x_test=np.zeros((2, 1, 28, 28), np.float32))
    assert epochs_for(digits()) == 120
    assert epochs_for(digits()._replace(name="renamed")) == 120
    assert epochs_for(own) == 15


def test_a_checkpoint_knows_data_and_schedule_by_what_they_are(tmp_path: Path) -> None:
    """Renamed data are the same data; two functions with one name are two schedules."""

    def go_on(data: Dataset, lr: Callable[[int], float], epochs: int) -> None:
        net = dense()
        how = {"epochs": epochs, "rng": rng(), "checkpoint": tmp_path / "c.npz"}
        fit(net, Adam(net.params, lr=lr), data, **how)

    data = made_up()
    go_on(data, lambda t: 0.1 / (1 + t), 1)
    go_on(data._replace(name="renamed"), lambda t: 0.1 / (1 + t), 2)
    with pytest.raises(ValueError, match="its schedule was"):
        go_on(data, lambda t: 0.2 / (1 + t), 3)
    other = data._replace(x_test=data.x_test + 1)
    with pytest.raises(ValueError, match="its data was"):
        go_on(other, lambda t: 0.1 / (1 + t), 3)


# --- 19: wide accumulators ---

WIDE: dict[str, Callable[[type], Layer]] = {
    "AvgPool2d": lambda dtype: AvgPool2d(64),
    "GlobalAvgPool2d": lambda dtype: GlobalAvgPool2d(),
    "MaxPool2d": lambda dtype: MaxPool2d(64),
    "Conv2d": lambda dtype: Conv2d(2, 3, 64, rng=rng(), dtype=dtype),
    "Conv2d, overlapping": lambda dtype: Conv2d(2, 3, 7, rng=rng(), dtype=dtype),
    "Linear": lambda dtype: Sequential(
        Flatten(), Linear(2 * 64 * 64, 3, rng=rng(), dtype=dtype)
    ),
    "ReLU": lambda dtype: ReLU(),
    "Sigmoid": lambda dtype: Sigmoid(),
    "Tanh": lambda dtype: Tanh(),
    "BatchNorm2d": lambda dtype: BatchNorm2d(2, dtype=dtype),
    "Dropout": lambda dtype: Dropout(rng=rng()),
}


@pytest.mark.parametrize("make", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("scale", [3.0, 300.0])
@pytest.mark.filterwarnings("ignore:overflow")
def test_every_layer_adds_up_in_wide_numbers(
    make: Callable[[type], Layer], scale: float
) -> None:
    """float16 in and out, both ways, within a rounding of what float64 gives."""
    x = (scale * rng().uniform(0.5, 1.5, (40, 2, 64, 64))).astype(np.float16)
    half, double = make(np.float16), make(np.float64)
    for name, a in double.params.items():
        a[...] = half.params[name]
    y, expected = half(x), double(x.astype(np.float64))
    assert y.dtype == np.float16
    assert_allclose(y, expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())
    dy = rng(1).uniform(0.5, 1.5, y.shape).astype(np.float16)
    dx, dx64 = half.backward(dy), double.backward(dy.astype(np.float64))
    assert dx.dtype == np.float16
    assert_allclose(dx, dx64, rtol=5e-3, atol=5e-3 * np.abs(dx64).max())
    for name, g in half.grads.items():
        wanted = double.grads[name].astype(np.float16)
        near = 5e-3 * min(np.abs(double.grads[name]).max(), 65504)
        assert_allclose(g, wanted, rtol=5e-3, atol=near)


def test_sums_that_float16_cannot_hold() -> None:
    assert AvgPool2d(64)(np.full((1, 1, 64, 64), 3, np.float16)).item() == 3
    assert AvgPool2d(2)(np.full((1, 1, 2, 2), 40_000, np.float16)).item() == 40_000
    norm = BatchNorm2d(1, dtype=np.float16)
    norm(np.array([0, 60_000], np.float16).reshape(2, 1, 1, 1))
    assert np.isfinite(norm.buffers["running_var"]).all()
    z, y = np.zeros((3000, 10), np.float16), np.zeros(3000, int)
    assert float(cnn.cross_entropy(z, y)) == pytest.approx(np.log(10), rel=1e-3)


@pytest.mark.parametrize("rule", [Adam, AdamW, SGD])
def test_half_precision_is_trained(rule: type[Bookkeeping]) -> None:
    net = Sequential(Linear(8, 3, rng=rng(), dtype=np.float16))
    data = made_up()._replace(x_train=made_up().x_train.astype(np.float16))
    optimizer = rule(net.params, lr=0.01)
    losses = [train_step(net, optimizer, *data[1:3]) for _ in range(60)]
    assert losses[-1] < 0.99 * losses[0]
    assert all(a.dtype == np.float16 for a in net.params.values())
    assert np.isfinite(evaluate(net, *data[1:3])[0])


# --- 20: no cancellation ---


@pytest.mark.parametrize("betas", [(0.9, 0.0), (0.0, 0.999), (0.0, 0.0)])
@pytest.mark.parametrize("rule", [Adam, AdamW])
@pytest.mark.parametrize("size", [3, 5000])
@pytest.mark.parametrize("way", ["auto", "numpy"])
def test_averages_that_forget_at_once(
    betas: tuple[float, float], rule: type[Adam], size: int, way: str
) -> None:
    """After a large gradient a small one counts with all its digits, as in PyTorch."""
    torch = pytest.importorskip("torch")
    before = cnn.use(way)
    try:
        theta = np.zeros(size, np.float32)
        twin = torch.zeros(size, requires_grad=True)
        ours = rule({"w": theta}, lr=1e-2, betas=betas, weight_decay=0.0)
        theirs = getattr(torch.optim, rule.__name__)(
            [twin], lr=1e-2, betas=betas, weight_decay=0.0
        )
        for g in (100.0, 1e-3):
            ours.step({"w": np.full(size, g, np.float32)})
            twin.grad = torch.full((size,), g)
            theirs.step()
        assert_allclose(theta, twin.detach().numpy(), rtol=1e-4)
    finally:
        cnn.use(before)


# --- 21: generators of any kind ---

GENERATORS: dict[str, Callable[[], np.random.BitGenerator]] = {
    "Philox by key": lambda: np.random.Philox(key=1),
    "PCG64": lambda: np.random.PCG64(1),
    "MT19937": lambda: np.random.MT19937(1),
    "SFC64": lambda: np.random.SFC64(1),
}


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_any_generator_can_be_resumed(
    tmp_path: Path, make: Callable[[], np.random.BitGenerator]
) -> None:
    """Where there is no seed, the state says whose run it is."""

    def run(epochs: int, path: Path | None) -> dict[str, np.ndarray]:
        generator = np.random.Generator(make())
        net = dense(Dropout(0.2, rng=generator))
        how = {"epochs": epochs, "rng": generator, "batch_size": 5, "every": 3}
        fit(net, Adam(net.params), made_up(), **how, checkpoint=path)
        return net.params

    run(2, tmp_path / "c.npz")
    resumed, whole = run(4, tmp_path / "c.npz"), run(4, None)
    assert all(np.array_equal(resumed[name], a) for name, a in whole.items())
    net = dense(Dropout(0.2, rng=rng(9)))
    how = {"epochs": 5, "rng": rng(9), "batch_size": 5, "every": 3}
    with pytest.raises(ValueError, match="its seed was"):
        fit(net, Adam(net.params), made_up(), **how, checkpoint=tmp_path / "c.npz")


# --- 22: the last batch ---


@pytest.mark.parametrize(("n", "batch_size"), [(21, 10), (21, 1), (1, 10)])
def test_a_last_batch_that_is_too_small_is_said_before(n: int, batch_size: int) -> None:
    net, data = dense(BatchNorm1d(3)), made_up(n)
    before = net.state_dict()
    how = {"epochs": 1, "batch_size": batch_size, "rng": rng()}
    with pytest.raises(ValueError, match=r"leave 1 .*BatchNorm1d.*needs 2"):
        fit(net, Adam(net.params), data, **how)
    assert all(np.array_equal(a, before[name]) for name, a in net.params.items())


def test_pytorchs_last_batch_too() -> None:
    pytest.importorskip("torch")
    import torch

    from cnn.pytorch import Batches, Trainer, twin

    module, data = twin(dense(BatchNorm1d(3))), made_up(21)
    trainer = Trainer(module, torch.optim.SGD(module.parameters(), 0.1))
    train, test = Batches(*data[1:3], 10), Batches(*data[3:], 10)
    with pytest.raises(ValueError, match=r"leave 1 .*BatchNorm1d"):
        trainer.fit(train, test, epochs=1)


# --- 23: weights of another dtype ---


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F8_E4M3", "I32"])
def test_weights_of_another_dtype_are_named(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("safetensors")
    size = {"F16": 2, "BF16": 2, "F8_E4M3": 1, "I32": 4}[dtype]
    header = (
        f'{{"w":{{"dtype":"{dtype}","shape":[2,3],"data_offsets":[0,{6 * size}]}}}}'
    )
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(6 * size)
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"w as {dtype}; expected F32 or F64"):
        load_weights(tmp_path / "w.safetensors")


def test_an_archive_is_called_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones(3))
    with pytest.raises(ValueError, match="ZIP archive, as torch.save makes"):
        load_weights(tmp_path / "w.npz")


# --- 24: wrong types, in words ---


def valid() -> Iterator[tuple[str, Callable[..., object], dict[str, object]]]:
    """Yield each public function with arguments that it takes."""
    net, data, f32 = dense(), made_up(), np.float32
    image, W = np.ones((2, 1, 6, 6), f32), np.ones((3, 1, 3, 3), f32)
    params, z = {"w": np.ones(3, f32)}, np.zeros((4, 3), f32)
    how = {"stride": 1, "padding": 0, "dilation": 1, "implementation": "auto"}
    layer = {"in_channels": 1, "out_channels": 2, "kernel_size": 3, "rng": rng()}
    yield "Conv2d", Conv2d, how | layer
    yield "Linear", Linear, {"in_features": 3, "out_features": 2, "rng": rng()}
    yield "Dropout", Dropout, {"p": 0.5, "rng": rng()}
    yield "BatchNorm1d", BatchNorm1d, {"num_features": 3, "eps": 1e-5, "momentum": 0.1}
    yield "MaxPool2d", MaxPool2d, {"kernel_size": 2, "stride": 2, "padding": 0}
    yield "AvgPool2d", AvgPool2d, {"kernel_size": 2, "stride": 2, "padding": 0}
    yield "SGD", SGD, {"params": params, "lr": 0.1, "momentum": 0.9, "weight_decay": 0}
    adam = {"params": params, "lr": 0.1, "betas": (0.9, 0.9), "eps": 1e-8}
    yield "Adam", Adam, adam | {"weight_decay": 0.0}
    yield "AdamW", AdamW, adam | {"weight_decay": 0.0}
    decay = {"gamma_max": 0.1, "gamma_min": 0.01, "tau": 10}
    yield "ExponentialDecay", ExponentialDecay, decay
    run = {"net": net, "optimizer": Adam(net.params), "data": data, "epochs": 1}
    yield "fit", fit, run | {"rng": rng(), "batch_size": 10, "every": 1}
    step = {"net": net, "optimizer": Adam(net.params), "x": data.x_train}
    yield "train_step", train_step, step | {"y": data.y_train}
    test = {"net": net, "x": data.x_test, "y": data.y_test, "batch_size": 3}
    yield "evaluate", evaluate, test
    yield (
        "probabilities",
        probabilities,
        {"net": net, "x": data.x_test, "batch_size": 3},
    )
    yield "in_use", in_use, {"net": net}
    yield "cross_entropy", cnn.cross_entropy, {"z": z, "y": np.zeros(4, int)}
    yield "error_rate", cnn.error_rate, {"z": z, "y": np.zeros(4, int)}
    yield "one_hot", cnn.one_hot, {"y": np.zeros(4, int), "K": 3}
    yield (
        "batches",
        lambda **a: [*cnn.batches(**a)],
        {"n": 5, "batch_size": 2, "rng": rng()},
    )
    yield "conv2d", cnn.conv2d, how | {"x": image, "W": W, "b": np.ones(3, f32)}
    yield "output_size", cnn.output_size, {"H": 6, "f": 3, "s": 1, "d": 1, "p": 0}
    yield "kaiming_normal_", cnn.kaiming_normal_, {"W": W.copy(), "rng": rng()}
    yield "xavier_normal_", cnn.xavier_normal_, {"W": W.copy(), "rng": rng()}
    yield "simple_cnn", simple_cnn, {"rng": rng(), "num_classes": 3, "dropout": 0.1}
    yield "deep_cnn", cnn.deep_cnn, {"rng": rng(), "num_classes": 3, "dropout": 0.1}
    theta = np.ones((2, 2))
    check = {"f": lambda t: float(np.sum(t * t)), "theta": theta, "dtheta": 2 * theta}
    yield "check_gradient", cnn.check_gradient, check
    numerical = {"f": check["f"], "theta": theta, "h": 1e-6}
    yield "numerical_gradient", cnn.numerical_gradient, numerical
    train = {"data": digits(), "model": "simple", "recipe": "constant", "epochs": 1}
    yield "train", cnn.train, train | {"seed": 0, "lr": 0.1, "batch_size": 100}
    yield "load_weights", load_weights, {}
    yield "count_parameters", cnn.count_parameters, {"net": net}
    yield (
        "summary",
        cnn.summary,
        {"net": simple_cnn(rng=rng()), "input_shape": (1, 28, 28)},
    )
    yield "augment", augment, {"x": image, "rng": rng()}
    yield "use", cnn.use, {"implementation": "auto"}


WRONG = {"text": "x", "object": object(), "list": [None], "dict": {"a": 1}}
CASES = [
    pytest.param(call, good, name, wrong, id=f"{which}-{name}-{word}")
    for which, call, good in valid()
    for name in good
    for word, wrong in WRONG.items()
]


@pytest.mark.parametrize(("call", "good", "name", "wrong"), CASES)
def test_a_wrong_type_is_said_in_words(
    call: Callable[..., object], good: dict[str, object], name: str, wrong: object
) -> None:
    """The message names the argument, and is none of Python's own."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call(**good | {name: wrong})
    message = str(caught.value)
    assert "expected" in message, message
    assert name in message, message


# --- 28: numbers beyond their scale ---


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int8, np.float32, bool])
def test_only_bytes_are_scaled_as_bytes(dtype: type) -> None:
    with pytest.raises(TypeError, match="uint8"):
        scale(np.ones((1, 2, 2), dtype))


def test_a_record_with_more_in_it_is_read(tmp_path: Path) -> None:
    history = History([1.0])
    save_history(tmp_path / "h.json", history, {"model": "simple", "seed": 3})
    assert History.load(tmp_path / "h.json") == history
    assert b'"seed": 3' in (tmp_path / "h.json").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save_history(tmp_path / "h.json", history, {"lr": float("nan")})
    assert b'"seed": 3' in (tmp_path / "h.json").read_bytes()


# --- 15: typed for users ---

USER = """
import numpy as np
from cnn import Adam, Conv2d, Flatten, History, Linear, Sequential, conv2d, digits, fit
rng = np.random.default_rng(0)
net = Sequential(Conv2d(1, 2, 3, rng=rng), Flatten(), Linear(1352, 10, rng=rng))
history = fit(net, Adam(net.params, lr=lambda t: 0.1), digits(), epochs=1, rng=rng)
history.save("h.json")
best: list[float] = History.load("h.json").test_error
z: np.ndarray = conv2d(np.ones((1, 1, 5, 5)), np.ones((2, 1, 3, 3)), np.ones(2))
"""
WRONG_USER = """
from cnn import Linear, conv2d
conv2d(1, 2)
Linear("3", 4)
"""


def test_a_users_type_checker_knows_the_package(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    for name, code in (("right", USER), ("wrong", WRONG_USER)):
        (tmp_path / f"{name}.py").write_text(code)
    words = [
        "-m",
        "mypy",
        "--cache-dir",
        str(tmp_path / "c"),
        "--follow-imports",
        "silent",
    ]
    paths = [str(tmp_path / "right.py"), str(tmp_path / "wrong.py")]
    how = {"capture_output": True, "text": True, "cwd": tmp_path, "check": False}
    how["env"] = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words, *paths], **how)
    lines = [line for line in done.stdout.splitlines() if "error" in line]
    assert len(lines) >= 3, done.stdout + done.stderr
    assert all("wrong.py" in line for line in lines[:-1]), done.stdout


def test_the_public_names_are_written_out_for_type_checkers() -> None:
    assert cnn.__all__ == sorted(cnn._HOME)
