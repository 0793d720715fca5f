"""On a graphics processor, or its simulator: the steps of one process, any network that fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import STEP
from numba import cuda

import cnn
from cnn import (
    SGD,
    Adam,
    Conv2d,
    Dataset,
    Dropout,
    Flatten,
    Linear,
    ReLU,
    Sequential,
    Tanh,
    fit,
)
from cnn.gpu_plan import GpuError, check_device, plan

ROOT = Path(__file__).resolve().parents[1]

START = """
import copy, json, os, sys

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
sys.setswitchinterval(1e-5)
import numpy as np
from cnn import *
from cnn import gpu, gpu_image, gpu_kernels, gpu_plan
from cnn.gpu_step import Steps

use("numpy")
for module in (gpu, gpu_image, gpu_kernels):
    # else a thread's first warning makes it, while another looks through the names
    vars(module)["__warningregistry__"] = {}


def near(a, b, share=1e-5):
    return np.abs(np.subtract(a, b)).max() <= share * max(1e-3, np.abs(b).max())
"""


def simulate(program: str, *args: object) -> str:
    """Run a program in a process of its own: the simulator is chosen before Numba is imported."""
    result = subprocess.run(
        [sys.executable, "-c", START + program, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


# --- One operation ---

OPERATIONS = """
from cnn.correlation import conv2d_loops
from cnn.correlation_grad import conv2d_loops_backward

rng = np.random.default_rng(int(sys.argv[1]))
for case in range(8):
    N, C_in, C_out, s, d = rng.integers(1, 4, 5)
    f, padding = rng.integers(1, 4, 2), tuple(map(int, rng.integers(0, 3, 4)))
    H, width = d * (f - 1) + 1 + rng.integers(0, 4, 2)
    x, W = rng.standard_normal((N, C_in, H, width)), rng.standard_normal((C_out, C_in, *f))
    b, how = rng.standard_normal(C_out), (int(s), padding, int(d))
    z = gpu.conv2d_gpu(x, W, b, *how)
    assert near(z, conv2d_loops(x, W, b, *how), 1e-12)
    dz = rng.standard_normal(z.shape)
    ours, theirs = (f(dz, x, W, *how) for f in (gpu.conv2d_gpu_backward, conv2d_loops_backward))
    assert all(near(p, q, 1e-12) for p, q in zip(ours, theirs))
"""


def test_operations_are_those_of_the_loops() -> None:
    """Any stride, dilation and padding, also with rows that nobody reads; in float64."""
    simulate(OPERATIONS, 1)


# --- Steps ---

STEPS = """
from hypothesis import HealthCheck, example, given, settings, strategies as st


@st.composite
def networks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    layers, shape = [], (draw(st.integers(1, 2)), 5, 6)

    def activations():
        layers.extend([ReLU()] * draw(st.integers(0, 1)))
        for p in draw(st.lists(st.sampled_from([0.3, 0.5]), max_size=2)):
            layers.append(Dropout(p, rng=rng.spawn(1)[0]))

    for _ in range(draw(st.integers(0, 2))):
        C, f_h, f_w, s = (draw(st.integers(1, most)) for most in (2, 3, 3, 2))
        far = 2 * f_h - 1 <= shape[1] + 1 and 2 * f_w - 1 <= shape[2] + 3
        how = {"stride": s, "padding": (1, 0, 2, 1), "dilation": draw(st.integers(1, 1 + far))}
        layers.append(Conv2d(shape[0], C, (f_h, f_w), **how, rng=rng))
        shape = gpu_plan.output_shapes(Sequential(layers[-1]), shape)[-1]
        activations()
    layers, M = [*layers, Flatten()], int(np.prod(shape))
    for _ in range(draw(st.integers(0, 2))):
        layers.append(Linear(M, draw(st.integers(1, 4)), rng=rng))
        M = len(layers[-1].params["bias"])
        activations()
    return Sequential(*layers, Linear(M, 4, rng=rng))


rng = np.random.default_rng(0)
narrow = [Linear(30, 3, rng=rng), ReLU(), Linear(3, 1, rng=rng), Linear(1, 5, rng=rng)]
narrow = Sequential(Flatten(), *narrow, Linear(5, 4, rng=rng))


@example(net=narrow, kind=Adam, decay=0.0, batches=[3, 2], again=False, seed=0)
@settings(
    max_examples=int(sys.argv[1]), deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    net=networks(), kind=st.sampled_from([Adam, AdamW]), decay=st.sampled_from([0.0, 0.1]),
    batches=st.lists(st.integers(1, 3), min_size=2, max_size=2), again=st.booleans(),
    seed=st.integers(0, 99),
)
def check(net, kind, decay, batches, again, seed):
    rng = np.random.default_rng(seed)
    first = next(l for l in net if l.params)
    C = first.params["weight"].shape[1] // (1 if isinstance(first, Conv2d) else 30)
    x = rng.random((6, C, 5, 6), np.float32)
    data = Dataset("random", x, rng.integers(0, 4, 6), x[:2], rng.integers(0, 4, 2))
    twins = [copy.deepcopy(net) for _ in range(2 + again)]
    schedule = ExponentialDecay(0.01, 0.001, 2)
    adams = [kind(t.params, lr=schedule, weight_decay=decay) for t in twins]
    dealt = [rng.permutation(6)[:N] for N in batches]
    J = [train_step(twins[0], adams[0], x[i], data.y_train[i]) for i in dealt]
    found = []
    for twin, adam in zip(twins[1:], adams[1:]):
        steps = Steps(twin, adam, data, batch_size=3, every=2)
        costs = steps.run(dealt, True)[:, 0]
        parts = np.split(costs, [len(dealt[0])])
        assert near([part.mean() for part in parts], J)
        test = steps.run([np.arange(2)], False)
        steps.room.pull()
        J_test, error = evaluate(twin, data.x_test, data.y_test)
        assert near(test.mean(axis=0), (J_test, error))
        memories = [adam.memory[name][m] for name in twin.params for m in "mv"]
        found.append([costs, *twin.params.values(), *memories])
        assert adam.t == 2
    theirs = [adams[0].memory[name][m] for name in net.params for m in "mv"]
    P = 1 + len(net.params)
    for a, b in zip(found[0][1:P], twins[0].params.values(), strict=True):
        assert np.abs(a - b).max() < 2e-4
    assert all(near(a, b, 1e-4) for a, b in zip(found[0][P:], theirs, strict=True))
    assert all(map(np.array_equal, found[0], found[-1])), "the same bits"


check()
"""


def test_any_network_takes_the_steps_of_one_process() -> None:
    """Costs, weights, memories to single precision; tests without dropout; the same bits again."""
    simulate(STEPS, 18 if STEP == 1 else 4)


# --- The training loop ---

LOOP = """
def network():
    layers = [Conv2d(1, 1, 3, stride=2, rng=np.random.default_rng(0)), ReLU(), Flatten()]
    layers += [Dropout(0.25, rng=np.random.default_rng(1))]
    return Sequential(*layers, Linear(4, 3, rng=np.random.default_rng(2)))


rng = np.random.default_rng(5)
x, y = rng.random((7, 1, 5, 5), np.float32), rng.integers(0, 3, 7)
data = Dataset("seven", x, y, x[:4], y[:4])


def run(epochs, device, checkpoint=None):
    net = network()
    adam = Adam(net.params, lr=0.02)
    how = {"batch_size": 3, "every": 2, "rng": np.random.default_rng(3)}
    how |= {"checkpoint": checkpoint, "device": device}
    return net, adam, fit(net, adam, data, epochs=epochs, **how)


net, adam, history = run(3, "cuda", "whole.npz")
twin, twins_adam, other = run(3, "cpu")
assert history.iterations == other.iterations == [2, 4, 6, 8, 9]
assert near(history.loss, other.loss)
assert near(history.test_loss, other.test_loss)
assert history.test_error == other.test_error
assert all(near(net.params[name], a, 1e-4) for name, a in twin.params.items())
for devices in (("cuda", "cuda"), ("cuda", "cpu")):
    for epochs, device in zip((1, 3), devices):
        again, _, parts = run(epochs, device, f"{'-'.join(devices)}.npz")
    assert near(parts.loss, history.loss)
    same = [np.array_equal(again.params[n], a) for n, a in net.params.items()]
    assert all(same) or "cpu" in devices
whole, parts = load_arrays("whole.npz"), load_arrays("cuda-cuda.npz")
assert whole.keys() == parts.keys()
assert all(np.array_equal(whole[k], parts[k]) for k in whole if k != "record")
states = [json.loads(a["record"].tobytes())["generators"] for a in (whole, parts)]
assert states[0] == states[1]

adam.lr = 1e30
try:
    fit(net, adam, data, epochs=3, rng=rng, batch_size=3, every=9, device="cuda")
except FloatingPointError as err:
    print(err)
"""


def test_the_loop_does_not_notice(tmp_path: Path) -> None:
    """History, weights and checkpoints; stopped and gone on, also from one device to the other."""
    told = simulate(f"os.chdir({str(tmp_path)!r})" + LOOP)
    assert told.startswith("iteration ")
    assert told.endswith("the cost is nan: try a smaller learning rate\n")


# --- Refused ---

TO = {"rng": np.random.default_rng(0)}
X = np.zeros((4, 1, 28, 28), np.float32)
ZEROS = Dataset("zeros", X, np.zeros(4, np.int64), X, np.zeros(4, np.int64))
REFUSED = {
    r"layer 1, Tanh\(\): .* Conv2d, ReLU, Flatten, Linear and Dropout; .*device='cpu'": [
        Conv2d(1, 1, 5, **TO), Tanh(), Flatten(), Linear(576, 10, **TO),
    ],
    r"Conv2d\(1, 16, .* needs 13984 numbers, and can share 12288: 1696 too many": [
        Conv2d(1, 16, 5, padding=2, **TO), Flatten(), Linear(12544, 10, **TO),
    ],
    r"Linear\(784, 700\): a block needs 13248 numbers, .*: 960 too many": [
        Flatten(), Linear(784, 700, **TO),
    ],
    r"does not end with its scores; expected a Linear": [
        Flatten(), Linear(784, 10, **TO), ReLU(),
    ],
    r"layer 0, Dropout\(.*\) stands before all weights": [
        Dropout(0.1, **TO), Flatten(), Linear(784, 10, **TO),
    ],
    r"Linear\(784, 10\): weight is float64; expected float32": [
        Flatten(), Linear(784, 10, dtype=np.float64, **TO),
    ],
    r"layer 1, Sequential\(Linear\(784, 10\)\)": [
        Flatten(), Sequential(Linear(784, 10, **TO)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_told(message: str) -> None:
    """What it is, how much too large, and what to do."""
    net = Sequential(*REFUSED[message])
    with pytest.raises(GpuError, match=message):
        plan(net, Adam(net.params), (1, 28, 28))


def test_what_is_told_is_what_the_kernels_take() -> None:
    """The plan counts without Numba; on a card, a tile has these sizes."""
    program = """
from cnn.gpu import TILE, TILES
from cnn.gpu_plan import EACH_CLASS, TILED
assert (TILE, TILES) == (EACH_CLASS, 4 * TILED), (TILE, TILES)
"""
    env = os.environ | {"NUMBA_ENABLE_CUDASIM": "0"}
    subprocess.run([sys.executable, "-c", program], env=env, cwd=ROOT, check=True)


def test_another_optimizer_is_told() -> None:
    """The kernels know Adam's step alone."""
    net = Sequential(Flatten(), Linear(784, 10, **TO))
    with pytest.raises(GpuError, match=r"SGD\(.*it is Adam or AdamW"):
        plan(net, SGD(net.params, lr=0.1), (1, 28, 28))


def test_another_device_is_told() -> None:
    """There are two; and several processes have no card together."""
    net = Sequential(Flatten(), Linear(784, 10, **TO))
    how = {"epochs": 1, "rng": np.random.default_rng(0), "device": "gpu"}
    with pytest.raises(ValueError, match="device is 'gpu'; expected 'cpu' or 'cuda'"):
        fit(net, Adam(net.params), ZEROS, **how)
    with pytest.raises(GpuError, match="start one for a card"):
        check_device("cuda", workers=object())


def test_both_networks_of_the_book_fit() -> None:
    """With dropout and without."""
    for make in (cnn.simple_cnn, cnn.deep_cnn):
        for p in (0.0, 0.25):
            net = make(dropout=p, **TO)
            stages = plan(net, Adam(net.params), (1, 28, 28))
            last = stages[-1]
            assert last.bias + 10 == sum(a.size for a in net.params.values())
            assert sum(len(stage.drops) for stage in stages) == 2 * bool(p)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "cnn.gpu_step", None)
    net = Sequential(Flatten(), Linear(784, 10, **TO))
    how = {"epochs": 1, "rng": np.random.default_rng(0), "device": "cuda"}
    with pytest.raises(GpuError, match=r"pip install 'cnn-from-first-principles\[gpu"):
        fit(net, Adam(net.params), ZEROS, **how)


@pytest.mark.skipif(cuda.is_available(), reason="there is a card")
def test_the_program_without_a_card(tmp_path: Path) -> None:
    """It is the user's error, and nothing is written."""
    command = [
        sys.executable,
        "-m",
        "cnn",
        "train",
        "--data",
        "digits",
        "--device",
        "cuda",
    ]
    real = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    result = subprocess.run(
        [*command, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        env=real,
    )
    assert result.returncode == 2
    assert "no graphics processor of Nvidia's is found" in result.stderr
    assert not (tmp_path / "out" / "weights.safetensors").exists()


# --- The benchmark ---


def test_the_benchmark_runs_on_a_tiny_network(tmp_path: Path) -> None:
    """All its parts, but for what only a card can do."""
    out = tmp_path / "gpu.json"
    env = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, ROOT / "tests/bench_gpu.py", "--tiny", "--out", out]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=env
    )
    assert result.returncode == 0, result.stderr
    stored = json.loads(out.read_text("utf-8"))
    assert not stored["trial"]
    assert {r["what"] for r in stored["records"]} == {
        "step", "phase", "epochs", "check", "meeting",
    }  # fmt: skip
