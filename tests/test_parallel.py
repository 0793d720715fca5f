"""Several workers take the steps of one: every layer, any shares, real processes, sudden deaths."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import STEP
from hypothesis import given, strategies as st
from post import Comm, together

import cnn
from cnn import (
    SGD,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    digits,
    evaluate,
    load_arrays,
    load_weights,
    train_step,
)
from cnn.allreduce import sum_naive, sum_ring, sum_tree
from cnn.network import Layer
from cnn.parallel import (
    MeetingError,
    SyncBatchNorm,
    Workers,
    evaluate_together,
    gather,
    meet,
    share,
    share_of,
    skip,
    started,
    step_together,
)

Batch = tuple[np.ndarray, np.ndarray]
POST = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"]


@pytest.fixture(autouse=True)
def in_numpy() -> Iterator[None]:
    """Threads stand for workers here, and the compiled loops have threads of their own."""
    before = cnn.use("numpy")
    yield
    cnn.use(before)


# --- Shares and sums ---


@given(st.integers(1, 50), st.integers(1, 12))
def test_each_image_has_one_worker(N: int, P: int) -> None:
    """Neighbours, in order, and as equal as can be."""
    shares = [share_of(N, p, P) for p in range(P)]
    assert [n for s in shares for n in range(N)[s]] == list(range(N))
    counts = [s.stop - s.start for s in shares]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("way", [sum_naive, sum_tree, sum_ring])
@given(P=st.integers(1, 7), n=st.integers(1, 20))
def test_everybody_has_the_sum(way: Callable, P: int, n: int) -> None:
    """Also of fewer numbers than there are workers."""
    arrays = np.random.default_rng(n).integers(-9, 10, (P, n))

    def work(comm: Comm) -> np.ndarray:
        a = arrays[comm.rank].copy()
        way(comm, a)
        return a

    for a in together(P, work)[0]:
        assert np.array_equal(a, arrays.sum(axis=0))


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "Philox", "MT19937", "SFC64"])
@given(drawn=st.integers(0, 5), count=st.integers(0, 2000))
def test_skipping_leads_where_drawing_leads(kind: str, drawn: int, count: int) -> None:
    """From a half and from a whole number, and with generators that can't jump."""
    one, other = (np.random.Generator(getattr(np.random, kind)(7)) for _ in range(2))
    one.random(drawn + count, np.float32)
    other.random(drawn, np.float32)
    skip(other, count)
    for dtype in (np.float32, np.float64, np.float32):
        assert np.array_equal(one.random(3, dtype), other.random(3, dtype))


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5))
def test_everybody_hears_everybody(texts: list[str]) -> None:
    """Words of any length, none among them."""
    heard = together(len(texts), lambda comm: gather(Workers(comm), texts[comm.rank]))[
        0
    ]
    assert heard == [texts] * len(texts)


# --- Every layer ---

D = {"dtype": np.float64}


def rng_of(seed: int) -> np.random.Generator:
    """Return a generator."""
    return np.random.default_rng(seed)


# each turns images of (N, 2, 6, 6) into something that is made flat and weighed
MIDDLES: dict[str, Callable[[], list[Layer]]] = {
    "Conv2d": lambda: [Conv2d(2, 3, 3, stride=2, padding=1, rng=rng_of(1), **D)],
    "MaxPool2d": lambda: [MaxPool2d(3, stride=2, padding=1)],
    "AvgPool2d": lambda: [AvgPool2d(2)],
    "GlobalAvgPool2d": lambda: [GlobalAvgPool2d()],
    "BatchNorm2d": lambda: [BatchNorm2d(2, **D)],
    "BatchNorm1d": lambda: [Flatten(), BatchNorm1d(72, **D)],
    "Dropout": lambda: [Dropout(0.4, rng=rng_of(2)), Dropout(0.2, rng=rng_of(3))],
    "ReLU": lambda: [ReLU()],
    "Sigmoid": lambda: [Sigmoid()],
    "Tanh": lambda: [Tanh()],
    "Flatten": lambda: [Flatten()],
    "Linear": lambda: [Flatten(), Linear(72, 5, rng=rng_of(4), **D)],
    "Sequential": lambda: [
        Sequential(BatchNorm2d(2, **D), Sequential(Dropout(0.3, rng=rng_of(5)), Tanh()))
    ],
}


def test_no_layer_is_missing() -> None:
    """A new layer of the package belongs into the list above."""
    kinds = {name: kind for name, kind in vars(cnn).items() if isinstance(kind, type)}
    public = {name for name, kind in kinds.items() if issubclass(kind, Layer)}
    assert public - {"Layer", "Container", "SyncBatchNorm"} == set(MIDDLES)


def network(middle: str) -> Sequential:
    """Return a network around one kind of layer: the same one at each call."""
    layers = [*MIDDLES[middle](), Flatten()]
    q = np.zeros((2, 2, 6, 6))
    for layer in layers:
        q = layer.forward(q)
    net = Sequential(
        Conv2d(1, 2, 1, rng=rng_of(0), **D),
        *MIDDLES[middle](),
        Flatten(),
        Linear(q.shape[1], 3, rng=rng_of(9), **D),
    )
    return net


def batches_of(sizes: list[int]) -> list[Batch]:
    """Return batches of images and labels."""
    rng = rng_of(sum(sizes))
    return [(rng.standard_normal((n, 1, 6, 6)), rng.integers(0, 3, n)) for n in sizes]


def trained(comm: Comm, middle: str, steps: list[Batch]) -> tuple[list[float], dict]:
    """Take the steps as one of several workers."""
    net = network(middle)
    optimizer = SGD(net.params, lr=0.1, momentum=0.5, weight_decay=0.01)
    workers = Workers(comm)
    twin = share(net, workers)
    costs = [step_together(workers, twin, optimizer, *batch) for batch in steps]
    return costs, net.state_dict()


@pytest.mark.parametrize("middle", MIDDLES)
@given(sizes=st.lists(st.integers(2, 7), min_size=1, max_size=3), P=st.integers(1, 6))
def test_any_number_of_workers_takes_the_same_steps(
    middle: str, sizes: list[int], P: int
) -> None:
    """Some have nothing; costs, parameters and running moments within 1e-12 of one worker's."""
    steps, net = batches_of(sizes), network(middle)
    optimizer = SGD(net.params, lr=0.1, momentum=0.5, weight_decay=0.01)
    costs = [train_step(net, optimizer, *batch) for batch in steps]
    for found, state in together(P, lambda comm: trained(comm, middle, steps))[0]:
        np.testing.assert_allclose(found, costs, rtol=1e-12)
        for name, a in net.state_dict().items():
            assert np.abs(state[name] - a).max() <= 1e-12 * max(1, np.abs(a).max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_in_other_dtypes(dtype: type) -> None:
    """MPI knows no float16: what travels is wider, what arrives is the parameter's."""

    def work(comm: Comm) -> dict[str, np.ndarray]:
        net = Sequential(
            Flatten(),
            Linear(36, 4, rng=rng_of(0), dtype=dtype),
            BatchNorm1d(4, dtype=dtype),
        )
        optimizer, workers = SGD(net.params, lr=0.1), Workers(comm)
        x, y = batches_of([6])[0]
        step_together(workers, share(net, workers), optimizer, x.astype(dtype), y)
        return net.state_dict()

    one, *several = (together(P, work)[0][0] for P in (1, 2, 3))
    for state in several:
        for name, a in one.items():
            assert state[name].dtype == a.dtype
            wide, eps = a.astype(float), np.finfo(dtype).eps
            assert np.abs(state[name] - wide).max() <= 8 * eps * max(1, abs(wide).max())


def test_a_layer_that_draws_in_its_own_way_is_refused() -> None:
    """Its numbers can't be dealt out by the image."""

    class Noise(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.rng = rng_of(0)

    def work(comm: Comm) -> None:
        with pytest.raises(TypeError, match=r"Noise\(\) draws .* only Dropout's"):
            share(Sequential(Sequential(Noise())), Workers(comm))

    together(2, work)


def test_a_layer_of_layers_is_shared_inside() -> None:
    """Layers among attributes and in lists, as a container of the user's may hold them."""

    class Both(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.more = BatchNorm1d(2), [Dropout(0.5, rng=rng_of(0))]

    twin = share(Both(), Workers(Comm(0, 1, {}, [])))
    assert isinstance(twin.norm, SyncBatchNorm)
    assert type(twin.more[0].rng).__name__ == "_Rows"


# --- Testing, and bad news ---


@given(N=st.integers(1, 9), P=st.integers(1, 6))
def test_testing_is_shared(N: int, P: int) -> None:
    """The numbers are those of one worker."""
    (x, y), net = batches_of([N])[0], network("BatchNorm2d")
    J, error = evaluate(net, x, y)
    found = together(P, lambda comm: evaluate_together(Workers(comm), net, x, y))[0]
    np.testing.assert_allclose(found, [(J, error)] * P, rtol=1e-12)


@pytest.mark.parametrize("where", ["training", "testing"])
@pytest.mark.parametrize("middle", ["ReLU", "BatchNorm2d", "Dropout"])
def test_a_cost_that_is_not_finite_stops_all(where: str, middle: str) -> None:
    """One worker's image is at fault; all raise the same, and no weight has moved."""
    (x, y), P = batches_of([7])[0], 3
    x[5, 0, 0, 0] = np.nan

    def work(comm: Comm) -> str:
        net, workers = network(middle), Workers(comm)
        before = {name: a.copy() for name, a in net.params.items()}
        rest = share(net, workers), SGD(net.params, lr=0.1), x, y
        training = where == "training"
        with pytest.raises(FloatingPointError) as caught:
            step_together(workers, *rest) if training else evaluate_together(
                workers, net, x, y
            )
        assert all(np.array_equal(before[name], a) for name, a in net.params.items())
        return str(caught.value)

    with np.errstate(invalid="ignore"):
        messages = together(P, work)[0]
    first = "0" if (middle, where) == ("BatchNorm2d", "training") else "2"
    assert messages == [messages[0]] * P
    assert messages[0].startswith(f"worker {first}: z[")


def test_workers_that_differ_are_told() -> None:
    """Who differs, in what, from whom, and what to do; one who has failed brings the reason."""

    def work(comm: Comm, *records: dict) -> str:
        with pytest.raises(MeetingError) as caught:
            meet(Workers(comm), records[comm.rank])
        return str(caught.value)

    same = {"seed": "0", "data": "digits"}
    messages = together(3, lambda c: work(c, same, same, same | {"seed": "1"}))[0]
    expected = (
        "worker 2 has the seed 1, worker 0 has 0: start all of them with the same"
    )
    assert all(message.startswith(expected) for message in messages)
    messages = together(2, lambda c: work(c, same, {"error": "no data"}))[0]
    assert messages == ["worker 1: no data"] * 2
    together(3, lambda comm: meet(Workers(comm), same))


# --- Alone, or badly started ---


def test_alone_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single process, one that mpiexec started among them, knows nothing of MPI."""
    for name in POST:
        monkeypatch.delenv(name, raising=False)
    assert started() is None
    monkeypatch.setenv("PMI_SIZE", "1")
    assert started() is None
    program = (
        "import sys, cnn; cnn.fit; print([m for m in sys.modules if 'mpi4py' in m])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_several_without_mpi4py_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each would train alone, and all write the same files."""
    monkeypatch.setenv("PMI_SIZE", "3")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"3 processes .* need mpi4py: pip install"):
        started()


# --- Real processes ---

HERE = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=str(HERE)) or shutil.which("mpiexec")
needs_mpi = pytest.mark.skipif(
    not MPIEXEC or not importlib.util.find_spec("mpi4py"),
    reason="mpi4py and mpiexec are not installed",
)
ALONE = {name: value for name, value in os.environ.items() if name not in POST}
TRAIN = ["-m", "cnn", "train", "--data", "digits", "--model", "deep"]


def mpiexec(
    *programs: list, n: int = 1, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run programs as the processes of one job, each ``n`` times."""
    words = []
    for program in programs:
        words += [":"] * bool(words) + ["-n", n, sys.executable, *program]
    return subprocess.run(
        [MPIEXEC, *map(str, words)],
        cwd=folder,
        env=ALONE,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_mpi
def test_the_wrong_mpiexec_is_noticed() -> None:
    """Processes of which each believes that it is alone."""
    result = subprocess.run(
        [sys.executable, *TRAIN],
        env=ALONE | {"OMPI_COMM_WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "2 processes were started together, but mpi4py sees 1" in result.stderr


@needs_mpi
def test_the_program_as_several_processes(tmp_path: Path) -> None:
    """As one writes: the same losses up to rounding, the same files; the same bits again."""
    words = [*TRAIN, "--recipe", "dropout", "--epochs", 1, "--out"]
    runs = {"one": 1, "two": 2, "again": 2} | ({"three": 3} if STEP == 1 else {})
    for name, n in runs.items():
        result = mpiexec([*words, name], n=n, folder=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("Written to") == 1
        assert result.stdout == ""
    files = {name: {p.name for p in (tmp_path / name).iterdir()} for name in runs}
    assert len(set(map(frozenset, files.values()))) == 1
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in runs]
    assert weights[1] == weights[2]
    losses = {
        name: json.loads((tmp_path / name / "history.json").read_bytes())["loss"]
        for name in runs
    }
    for name in runs.keys() - {"one"}:
        apart = np.abs(np.subtract(losses[name], losses["one"]))
        assert apart[0] < 1e-5
        assert apart.max() < 0.05
    nets = [load_weights(tmp_path / name / "weights.safetensors") for name in runs]
    x, y = digits().x_test, digits().y_test
    errors = [evaluate(net, x, y)[1] for net in nets]
    assert max(errors) - min(errors) < 0.1


@needs_mpi
def test_any_number_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """Three begin, two go on, one ends: nearly the run of one."""
    out = tmp_path / "out"
    words = [*TRAIN, "--recipe", "dropout", "--batch-size", 107, "--out", out]
    for n, epochs in ((3, 1), (2, 2), (1, 3)):
        more = ["--resume"] if n < 3 else []
        result = mpiexec([*words, "--epochs", epochs, *more], n=n, folder=tmp_path)
        assert result.returncode == 0, result.stderr
    result = mpiexec([*words[:-1], tmp_path / "whole", "--epochs", 3], folder=tmp_path)
    assert result.returncode == 0, result.stderr
    losses = [
        json.loads((tmp_path / name / "history.json").read_bytes())["loss"]
        for name in ("out", "whole")
    ]
    assert len(losses[0]) == len(losses[1]) == 3 * 14
    assert np.abs(np.subtract(*losses)).max() < 1e-3


@needs_mpi
def test_processes_that_differ_or_fail_before_the_first_step(tmp_path: Path) -> None:
    """All end, one line says why, and nothing is written."""
    seeds = ([*TRAIN, "--out", "run", "--seed", seed] for seed in (0, 1))
    result = mpiexec(*seeds, folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("worker 1 has the seed 1/1, worker 0 has 0/1") == 1
    lacking = [*TRAIN, "--out", "run"], [*TRAIN, "--data", "nowhere", "--out", "run"]
    for programs, p in ((lacking, 1), (lacking[::-1], 0)):
        result = mpiexec(*programs, folder=tmp_path)
        assert result.returncode == 2
        assert result.stderr.count("nowhere") == 1, (p, result.stderr)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@needs_mpi
def test_a_disk_that_is_full_for_one_ends_all(tmp_path: Path) -> None:
    """Only the first one writes, so only it can fail; the others must not wait for it."""
    program = """
import runpy, sys
import cnn.checkpoint
def save(*args): raise OSError(28, "No space left on device", "checkpoint.npz")
cnn.checkpoint.save = save
sys.argv[0] = "cnn"
runpy.run_module("cnn", run_name="__main__", alter_sys=True)
"""
    words = ["-c", program, *TRAIN[2:], "--epochs", 7, "--out", "run"]
    result = mpiexec(words, n=2, folder=tmp_path)
    assert result.returncode != 0
    assert result.stderr.count("checkpoint.npz: No space left on device") == 1


FORBIDDEN = """
import ctypes, struct, sys
# a filter of the kernel's: load the call's number; if it is process_vm_readv, refuse; else allow
READV, ALLOW, REFUSE = 310, 0x7FFF0000, 0x00050001
steps = (0x20, 0, 0, 0), (0x15, 0, 1, READV), (0x06, 0, 0, REFUSE), (0x06, 0, 0, ALLOW)
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in steps))
libc, program = ctypes.CDLL(None), struct.pack("HP", len(steps), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, with a filter
import numpy as np
from cnn.parallel import started
assert (started().sum(np.ones(200_000)) == 2).all()
"""


@needs_mpi
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the number of a system call",
)
def test_nobody_copies_out_of_another_memory(tmp_path: Path) -> None:
    """Some containers forbid it; and a worker that has just died has none."""
    result = mpiexec(["-c", FORBIDDEN], n=2, folder=tmp_path)
    assert result.returncode == 0, result.stderr


@needs_mpi
@pytest.mark.parametrize("seed", range(1 if STEP > 1 else 10))
def test_a_worker_that_dies_ends_all(tmp_path: Path, seed: int) -> None:
    """Killed at a random moment: all end, and the checkpoint is whole or not there."""
    chance, out = random.Random(seed), tmp_path / "out"
    words = [*TRAIN, "--epochs", 2000, "--out", out]
    command = [MPIEXEC, "-n", "3", sys.executable, *map(str, words)]
    with subprocess.Popen(
        command, env=ALONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        while not (out / "checkpoint.npz").exists():
            time.sleep(0.05)
            assert job.poll() is None
        time.sleep(chance.random())
        victims = [pid for pid in children(job.pid) if "train" in command_of(pid)]
        assert len(victims) == 3
        os.kill(chance.choice(victims), signal.SIGKILL)
        printed, _ = job.communicate()
        assert job.returncode != 0
    assert printed.count("BAD TERMINATION") == 1
    assert "Abort(" not in printed
    assert "Traceback" not in printed
    while any(map(command_of, victims)):
        time.sleep(0.05)
    done = int(load_arrays(out / "checkpoint.npz")["optimizer/t"])
    result = mpiexec(
        [*words[:-3], done // 15 + 1, "--out", out, "--resume"], folder=tmp_path
    )
    assert result.returncode == 0, result.stderr


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(folder.name), *children(int(folder.name))]
    return found


def command_of(pid: int) -> str:
    """Return how a living process was started, "" for any other."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
