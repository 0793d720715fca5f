"""The program: every command, every exit code, and one line on stderr where something is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from threadpoolctl import threadpool_limits

import cnn
import cnn.__main__ as program
from cnn.__main__ import main
from cnn.data import digits
from cnn.files import MNIST_SHA256, load_arrays
from cnn.optimizers import Adam
from cnn.recipes import prepare
from cnn.training import History, evaluate
from cnn.weights import load_weights, save_weights

ROOT = Path(cnn.__file__).parents[1]
RESULTS = {"checkpoint.npz", "curves.png", "history.json", "weights.safetensors"}
Captured = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep to one core: on a busy machine two threads wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, where MNIST neither is nor can be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNN_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setitem(sys.modules, "pooch", None)


@pytest.fixture
def run(capsys: Captured) -> Run:
    """Return a function that runs a command and returns exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([*map(str, words)])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def write_folder(folder: Path, classes: int, n: int, size: int = 28) -> Path:
    """Write some of the embedded digits as four IDX files."""
    folder.mkdir(parents=True, exist_ok=True)
    data = digits()
    for part, x, y in (("train", *data[1:3]), ("t10k", *data[3:5])):
        few = np.flatnonzero(y < classes)[: n if part == "train" else n // 4]
        pixels = np.rint(255 * x[few, 0, :size, :size])
        for kind, a in (("images-idx3", pixels), ("labels-idx1", y[few])):
            header = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">u4").tobytes()
            path = folder / f"{part}-{kind}-ubyte"
            path.write_bytes(header + a.astype(np.uint8).tobytes())
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three classes: two batches an epoch, the second one short."""
    return write_folder(tmp_path_factory.mktemp("data") / "three", 3, 120)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return weights for ten classes that read a clear digit."""
    from cnn.recipes import train

    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, train(digits(), epochs=12)[0])
    return path


def one_line(err: str, *parts: object) -> None:
    """Check an error's text: a single line with these parts, and no traceback."""
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert "Traceback" not in err
    for part in parts:
        assert str(part) in err


# --- What is typed ---


COMMANDS = ("train", "evaluate", "predict", "summary", "compare")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(run: Run, command: str) -> None:
    """It begins as what one types."""
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: cnn {command}" in out
    assert f"\n  cnn {command}" in out
    assert command in run("--help")[1]


def test_version(run: Run) -> None:
    """The package's."""
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert out.startswith(f"cnn {cnn.__version__}, ")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "COMMAND"),
        ("nonsense", "nonsense"),
        ("train --epoch 3", "unrecognized"),
        ("train --epochs few", "few"),
        ("train --model wide", "wide"),
        ("train --recipe cake", "cake"),
        ("evaluate", "WEIGHTS"),
        ("predict w.safetensors", "IMAGE"),
        ("summary --model deep w.safetensors", "not allowed"),
    ],
)
def test_a_slip_is_told_in_one_line(run: Run, words: str, part: str) -> None:
    """Exit code 2, nothing on stdout, and where the help is."""
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    one_line(err, part, "--help")


def test_the_script_and_the_module_are_one_program() -> None:
    """``cnn`` and ``python -m cnn``; the script's target exists."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = scripts["scripts"]["cnn"].partition(":")
    assert getattr(sys.modules[module], name) is main
    result = as_process("summary", "--model", "deep")
    assert (result.returncode, result.stderr) == (0, "")
    assert "122 270" in result.stdout
    assert as_process("nonsense").returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told() -> None:
    """What was printed must arrive, or the exit code says that it did not."""
    with open("/dev/full", "w") as full:
        result = as_process("summary", stdout=full)
    assert result.returncode == 2
    one_line(result.stderr, "space")


def as_process(*words: object, **how: object) -> subprocess.CompletedProcess:
    """Run ``python -m cnn`` in a process of its own."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.run(
        [sys.executable, "-m", "cnn", *map(str, words)],
        text=True,
        check=False,
        env=os.environ | ONE_THREAD,
        **how,
    )


ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


# --- Training ---


def test_a_run(run: Run) -> None:
    """It says which data it has and why; its files hold what it said."""
    code, out, err = run("train", "--epochs", 2)
    assert (code, err) == (0, "")
    assert "digits" in out
    assert "1498" in out
    assert str(Path("nowhere", "MNIST", "raw")) in out, "where MNIST was looked for"
    folder = Path("data", "runs", "simple-constant-digits")
    assert {path.name for path in folder.iterdir()} == RESULTS
    net, data = load_weights(folder / "weights.safetensors"), digits()
    J, error = evaluate(net, data.x_test, data.y_test)
    history = History.load(folder / "history.json")
    assert (J, error) == (history.test_loss[-1], history.test_error[-1])
    assert f"{error:.2%}" in out


@pytest.mark.parametrize("recipe", ["constant", "schedule", "dropout"])
@pytest.mark.parametrize("model", ["simple", "deep"])
def test_every_model_and_recipe(run: Run, three: Path, model: str, recipe: str) -> None:
    """A folder with three classes makes a network with three scores."""
    how = ("--model", model, "--recipe", recipe, "--data", three)
    code, out, err = run("train", *how, "--epochs", 1)
    assert (code, err) == (0, "")
    assert "three" in out
    assert "3 classes" in out
    path = Path("data", "runs", f"{model}-{recipe}-three", "weights.safetensors")
    net = load_weights(path)
    expected = prepare(model, recipe, num_classes=3)[0]
    assert [type(layer) for layer in net] == [type(layer) for layer in expected]
    code, out, err = run("evaluate", path, "--data", three)
    assert (code, err) == (0, "")
    assert "30)" in out


def test_mnist_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its files are, it is taken without being asked for."""
    write_folder(Path("root", "MNIST", "raw"), 10, 100)
    monkeypatch.setenv("CNN_DATA", "root")
    for how in ([], ["--data", "mnist"]):
        code, out, _ = run("train", *how, "--epochs", 1, "--out", f"out{len(how)}")
        assert code == 0
        assert "MNIST, 100 images" in out
        assert "could not" not in out


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--data mnist", ["MNIST is not in", "pooch"]),
        ("--data nothing-here", ["nothing-here", "does not exist"]),
        ("--data damaged", ["train-images-idx3-ubyte", "magic"]),
        ("--data small", ["20×20", "28×28"]),
        ("--data digits --epochs 0", ["epochs is 0"]),
        ("--data digits --seed -1", ["seed is -1"]),
        ("--data digits --out in-the-way", ["in-the-way"]),
        ("--data digits --out in-the-way/deeper", ["in-the-way"]),
    ],
)
def test_a_fault_is_told_before_training(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    words: str,
    parts: list[str],
) -> None:
    """Exit code 2 and one line; no step was taken."""
    monkeypatch.setattr(Adam, "step", lambda *_: pytest.fail("a step was taken"))
    write_folder(Path("small"), 10, 20, size=20)
    Path("damaged").mkdir()
    for name in MNIST_SHA256:
        Path("damaged", name).write_bytes(b"damaged")
    Path("in-the-way").write_text("a file")
    code, _, err = run(command, *words.split())
    assert code == 2
    one_line(err, f"cnn {command}: ", *parts)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_is_not_ours(run: Run) -> None:
    """It is told before the training, not after."""
    Path("locked").mkdir(mode=0o500)
    code, _, err = run("train", "--data", "digits", "--out", "locked")
    assert code == 2
    one_line(err, "locked")


def test_one_class_is_none(run: Run) -> None:
    """There would be nothing to learn."""
    write_folder(Path("zeros"), 1, 20)
    code, _, err = run("train", "--data", "zeros")
    assert code == 2
    one_line(err, "at least two classes")


@pytest.mark.parametrize("package", ["safetensors", "torch"])
def test_a_missing_package_is_told_first(
    run: Run, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """Not after an hour; the line says how to install it."""
    monkeypatch.setitem(sys.modules, package, None)
    command = "compare" if package == "torch" else "train"
    code, out, err = run(command, "--data", "digits")
    assert (code, out) == (2, "")
    one_line(err, f"pip install {package}")
    assert not [*Path().iterdir()]


def test_without_matplotlib(
    run: Run, monkeypatch: pytest.MonkeyPatch, three: Path
) -> None:
    """No picture then, but all the rest."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    how = ("--data", three, "--epochs", 1, "--out", "out", "--show")
    code, out, _ = run("train", *how)
    assert code == 0
    assert "matplotlib" in out
    assert {path.name for path in Path("out").iterdir()} == RESULTS - {"curves.png"}


def test_show(run: Run, monkeypatch: pytest.MonkeyPatch, three: Path) -> None:
    """Without a screen the program says where the picture is; with one it opens a window."""
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    how = ("train", "--data", three, "--epochs", 1, "--show", "--out")
    assert f"they are in {Path('a', 'curves.png')}" in run(*how, "a")[1]
    shown = []
    monkeypatch.setattr(plt, "get_backend", lambda: "TkAgg")
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    assert "no screen" not in run(*how, "b")[1]
    assert len(shown) == 1
    assert shown[0].axes[0].images
    plt.close("all")


# --- Interrupted, and gone on ---


def interrupt(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Press Ctrl-C in the given step."""
    step = Adam.step

    def stopping(self: Adam, grads: object) -> None:
        step(self, grads)
        if self.t == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr(Adam, "step", stopping)


def test_interrupted_and_resumed(run: Run, three: Path) -> None:
    """The weights, and the losses, are those of a run that nobody stopped."""
    how = ("train", "--data", three, "--epochs", 65, "--recipe", "dropout", "--out")
    assert run(*how, "whole")[0] == 0
    for moment, parts in ((50, ["no checkpoint"]), (120, ["--resume goes on"])):
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, moment)
            code, _, err = run(*how, "out")
        assert code == 130
        one_line(err, "Interrupted.", *parts)
        assert Path("out", "checkpoint.npz").exists() == (moment > 100)
        assert not Path("out", "weights.safetensors").exists()
    code, _, err = run(*how, "out")
    assert code == 2
    one_line(err, "--resume", "--out")
    code, _, err = run(*how, "out", "--seed", 7, "--resume")
    assert code == 2
    one_line(err, "resumed")
    assert run(*how, "out", "--resume")[0] == 0
    files = [
        Path(name, "weights.safetensors").read_bytes() for name in ("whole", "out")
    ]
    assert files[0] == files[1]
    whole, out = (History.load(Path(n, "history.json")) for n in ("whole", "out"))
    assert (whole.loss, whole.test_error) == (out.loss, out.test_error)


def test_nothing_to_resume(run: Run, three: Path) -> None:
    """A new run is not begun under the name of an old one."""
    code, _, err = run("train", "--data", three, "--out", "out", "--resume")
    assert code == 2
    one_line(err, "checkpoint.npz", "leave --resume out")


def test_a_damaged_checkpoint(run: Run, three: Path) -> None:
    """It is named, and left as it is."""
    Path("out").mkdir()
    Path("out", "checkpoint.npz").write_bytes(b"damaged")
    code, _, err = run("train", "--data", three, "--out", "out", "--resume")
    assert code == 2
    one_line(err, "checkpoint.npz")
    assert Path("out", "checkpoint.npz").read_bytes() == b"damaged"


STOPPING = """
import os, runpy, signal, sys
from cnn.optimizers import Adam

number, where = int(sys.argv.pop(1)), sys.argv.pop(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
step, replace = Adam.step, os.replace

def stopping_step(self, grads):
    step(self, grads)
    if where == f"iteration {self.t}":
        os.kill(os.getpid(), number)

def stopping_replace(source, target):
    if where == "writing":
        os.kill(os.getpid(), number)
    replace(source, target)

Adam.step, os.replace = stopping_step, stopping_replace
runpy.run_module("cnn", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name
)
def test_a_stopped_process_goes_on(
    run: Run, three: Path, number: signal.Signals
) -> None:
    """Stopped before the first checkpoint, mid-epoch, and while the next one is being written."""
    options = ["train", "--data", three, "--epochs", 105, "--seed", 5, "--out"]
    out = Path("out")
    for where, saved in (("iteration 31", 0), ("iteration 131", 100), ("writing", 100)):
        words = [*options, out, *(["--resume"] if where == "writing" else [])]
        result = subprocess.run(
            [sys.executable, "-c", STOPPING, *map(str, [int(number), where, *words])],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | ONE_THREAD,
        )
        files = {path.name for path in out.iterdir()}
        assert files & RESULTS == ({"checkpoint.npz"} if saved else set())
        if saved:
            assert load_arrays(out / "checkpoint.npz")["optimizer/t"] == saved
        if number == signal.SIGINT:
            assert result.returncode == 130, result.stderr
            one_line(result.stderr, "Interrupted.")
            assert files <= RESULTS, "nothing is left beside the checkpoint"
        else:
            assert result.returncode == -number, result.stderr
    assert run(*options, out, "--resume")[0] == 0
    assert run(*options, "whole")[0] == 0
    files = [
        Path(name, "weights.safetensors").read_bytes() for name in ("whole", "out")
    ]
    assert files[0] == files[1]


# --- Using the weights ---


def test_evaluate(run: Run, weights: Path) -> None:
    """The numbers are those of the function."""
    code, out, err = run("evaluate", weights, "--data", "digits")
    assert (code, err) == (0, "")
    data = digits()
    J, error = evaluate(load_weights(weights), data.x_test, data.y_test)
    for part in (f"{error:.2%}", f"{J:.4f}", "232662", "299"):
        assert part in out


def test_the_classes_must_fit(run: Run, weights: Path, three: Path) -> None:
    """A network with three classes has no score for a nine; ten classes can read zeros to twos."""
    small = Path("small.safetensors")
    save_weights(small, prepare(num_classes=3)[0])
    code, _, err = run("evaluate", small, "--data", "digits")
    assert code == 2
    one_line(err, "3 classes", "up to 9")
    assert run("evaluate", weights, "--data", three)[0] == 0


def test_float64_weights(run: Run, three: Path) -> None:
    """They compute in float64, whatever the images are."""
    path = Path("double.safetensors")
    save_weights(path, prepare(num_classes=3, dtype=np.float64)[0])
    assert run("evaluate", path, "--data", three)[0] == 0


def test_predict(run: Run, weights: Path) -> None:
    """A line for each picture: the digit, its probability, and the runner-up."""
    from PIL import Image

    data = digits()
    for k in (0, 6):
        image = data.x_test[data.y_test == k][0, 0]
        pixels = np.rint(255 * (1 - image)).astype(np.uint8)
        Image.fromarray(pixels).resize((280, 280)).save(f"{k}.png")
    code, out, err = run("predict", weights, "0.png", "6.png")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("0.png: 0 (")
    assert second.startswith("6.png: 6 (")
    assert "or else" in first
    assert first.count("%") == 2

    Image.new("L", (50, 50), 255).save("blank.png")
    Path("text.png").write_text("not a picture")
    for bad in ("blank.png", "text.png", "missing.png"):
        code, out, err = run("predict", weights, "0.png", bad)
        assert code == 2
        assert out.startswith("0.png: 0"), "what came before it was read"
        one_line(err, bad)


def test_summary(run: Run, weights: Path) -> None:
    """Of a model, or of what a file holds."""
    assert run("summary")[1].rstrip().endswith("232 662")
    assert run("summary", "--model", "deep")[1].rstrip().endswith("122 270")
    assert run("summary", weights)[1] == run("summary")[1]


def hostile(kind: str, whole: bytes) -> bytes:
    """Return a file that looks like weights and is none."""
    enormous = {"0.weight": np.full((3, 784), 1e38, np.float32)}
    return {
        "empty": b"",
        "truncated": whole[:-1],
        "header only": whole[:40],
        "huge header": (2**62).to_bytes(8, "little") + whole[8:],
        "pickle": b"\x80\x04K\x01.",
        "other network": save(enormous),
    }[kind]


@pytest.mark.parametrize("command", ["evaluate", "predict", "summary"])
@pytest.mark.parametrize(
    "kind",
    ["empty", "truncated", "header only", "huge header", "pickle", "other network"],
)
def test_hostile_weights(run: Run, weights: Path, command: str, kind: str) -> None:
    """One line that names the file; no data are read and no picture."""
    bad = Path("bad.safetensors")
    bad.write_bytes(hostile(kind, weights.read_bytes()))
    code, out, err = run(command, bad, *(["a.png"] if command == "predict" else []))
    assert (code, out) == (2, "")
    one_line(err, f"cnn {command}: ", "bad.safetensors")


def test_weights_that_overflow(run: Run) -> None:
    """Finite weights can have infinite scores: one line, and no warning of NumPy's."""
    net = prepare()[0]
    huge = {name: np.full_like(a, 1e30) for name, a in net.params.items()}
    Path("huge.safetensors").write_bytes(save(huge))
    code, _, err = run("evaluate", "huge.safetensors", "--data", "digits")
    assert code == 2
    one_line(err, "cnn evaluate: ")


def test_missing_weights(run: Run) -> None:
    """The usual slip."""
    for command in ("evaluate", "summary"):
        code, _, err = run(command, "missing.safetensors")
        assert code == 2
        one_line(err, "missing.safetensors")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """To swallow it would hide a mistake of ours behind a slip of the user's."""
    monkeypatch.setattr(program, "summary", lambda net: [][1])
    with pytest.raises(IndexError):
        main(["summary"])


# --- Beside PyTorch ---


@pytest.mark.parametrize("recipe", ["constant", "schedule"])
def test_compare(run: Run, three: Path, recipe: str) -> None:
    """The same weights and batches: the losses agree from the first to the last."""
    pytest.importorskip("torch")
    how = ("--data", three, "--recipe", recipe, "--epochs", 3, "--out", "both")
    code, out, _ = run("compare", *how)
    assert code == 0
    names = {path.name for path in Path("both").iterdir()}
    assert names == {"curves.png", "ours.json", "pytorch.json"}
    ours, theirs = (
        History.load(Path("both", n)) for n in ("ours.json", "pytorch.json")
    )
    np.testing.assert_allclose(ours.loss, theirs.loss, atol=1e-4)
    assert ours.iterations == theirs.iterations
    rows = [line.split() for line in out.splitlines()]
    assert ["error", "loss", "seconds", "ratio"] in rows
    assert [row[1] for row in rows if row[:1] == ["ours"]] == [
        f"{ours.test_error[-1]:.2%}"
    ]
    assert rows[-2][0] == "PyTorch"
    assert rows[-2][-1] == "1.00"


def test_an_interrupted_comparison(
    run: Run, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps nothing, and promises nothing."""
    pytest.importorskip("torch")
    interrupt(monkeypatch, 2)
    code, _, err = run("compare", "--data", three, "--epochs", 3, "--out", "both")
    assert code == 130
    assert err == "Interrupted.\n"
    assert not [*Path("both").iterdir()]
