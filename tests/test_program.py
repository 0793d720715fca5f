"""The program: every command, every exit code, what goes to which stream, and what is not made."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import webbrowser
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from threadpoolctl import threadpool_limits

import cnn
from cnn import commands, files
from cnn.__main__ import main
from cnn.commands import COMMANDS
from cnn.data import digits
from cnn.files import MNIST_SHA256, load_arrays, locked
from cnn.optimizers import Adam
from cnn.recipes import plot_curves, prepare
from cnn.training import History, evaluate
from cnn.weights import load_weights, save_weights

TRAINING = ("train", "compare") if find_spec("torch") else ("train",)

ROOT = Path(cnn.__file__).parents[1]
OUT = ("--out", "new")
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
        code = main([*map(str, words)])
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
    """Check an error's text: a single line with these parts, and no traceback.

    Before it only the data and the weights may have been named, or the progress.
    """
    *talk, line = err.splitlines()
    assert all(a.startswith(("Data: ", "(MNIST", "Weights: ", "iter")) for a in talk)
    assert err.endswith("\n")
    for part in parts:
        assert str(part) in line


# --- What is typed ---


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
        ("--model deep", "COMMAND"),
        ("train --epoch 3", "unrecognized arguments: --epoch 3"),
        ("train --epochs few", "few"),
        ("train --epochs 0", "0 given; expected at least 1"),
        ("train --seed -1", "-1 given; expected at least 0"),
        ("train --lr 0", "0 given"),
        ("train --lr nan", "nan given"),
        ("train --lr inf", "inf given"),
        ("train --batch-size 0", "0 given"),
        ("compare --batch-size 1e2", "1e2"),
        ("train --model wide", "wide"),
        ("train --recipe cake", "cake"),
        ("train --json", "--json"),
        ("evaluate a b", "unrecognized arguments: b"),
        ("predict", "IMAGE"),
        ("predict w.safetensors", "IMAGE"),
        ("predict --weights w.safetensors", "IMAGE"),
        ("summary --model deep w.safetensors", "not allowed"),
    ],
)
def test_a_slip_shows_the_usage(run: Run, words: str, part: str) -> None:
    """That of the command which was typed; exit code 2, nothing on stdout, no file."""
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    typed = [word for word in words.split()[:1] if word in COMMANDS]
    name = " ".join(["cnn", *typed])
    assert err.startswith(f"usage: {name} [-h]")
    *_, line = err.splitlines()
    assert line.startswith(f"{name}: error: ")
    assert part in line
    assert not [*Path().iterdir()]


def test_the_script_and_the_module_are_one_program() -> None:
    """``cnn`` and ``python -m cnn``; the script's target exists."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = scripts["scripts"]["cnn"].partition(":")
    assert getattr(sys.modules[module], name) is main
    result = as_process("summary", "--model", "deep")
    assert (result.returncode, result.stderr) == (0, "")
    assert "122 270" in result.stdout
    assert as_process("nonsense").returncode == 2


def as_process(
    *words: object, stdout: object = subprocess.PIPE, code: str = "", **env: str
) -> subprocess.CompletedProcess:
    """Run ``python -m cnn``, or some code, in a process of its own."""
    how = ["-c", code] if code else ["-m", "cnn"]
    return subprocess.run(
        [sys.executable, *how, *map(str, words)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | ONE_THREAD | env,
    )


ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}


# --- Training ---


def test_a_run(run: Run) -> None:
    """It says which data it has and why; its files hold what it said."""
    code, out, err = run("train", "--epochs", 2)
    assert (code, out) == (0, "")
    assert "digits" in err
    assert "1498" in err
    assert str(Path("nowhere", "MNIST", "raw")) in err, "where MNIST was looked for"
    assert ", ".join(sorted(RESULTS)) in err
    folder = Path("data", "runs", "simple-constant-digits")
    assert {path.name for path in folder.iterdir()} == RESULTS
    net, data = load_weights(folder / "weights.safetensors"), digits()
    J, error = evaluate(net, data.x_test, data.y_test)
    history = History.load(folder / "history.json")
    assert (J, error) == (history.test_loss[-1], history.test_error[-1])
    assert f"{error:.2%}" in err


@pytest.mark.parametrize("recipe", ["constant", "schedule", "dropout"])
@pytest.mark.parametrize("model", ["simple", "deep"])
def test_every_model_and_recipe(run: Run, three: Path, model: str, recipe: str) -> None:
    """A folder with three classes makes a network with three scores."""
    how = ("--model", model, "--recipe", recipe, "--data", three)
    code, _, err = run("train", *how, "--epochs", 1)
    assert code == 0
    assert "three" in err
    assert "3 classes" in err
    (path,) = Path("data", "runs").glob(f"{model}-{recipe}-three-*/weights.safetensors")
    net = load_weights(path)
    expected = prepare(model, recipe, num_classes=3)[0]
    assert [type(layer) for layer in net] == [type(layer) for layer in expected]
    code, out, _ = run("evaluate", path, "--data", three)
    assert code == 0
    assert "30)" in out


def test_mnist_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its files are, it is taken without being asked for."""
    write_folder(Path("root", "MNIST", "raw"), 10, 100)
    monkeypatch.setenv("CNN_DATA", "root")
    for how in ([], ["--data", "mnist"]):
        code, _, err = run("train", *how, "--epochs", 1, "--out", f"out{len(how)}")
        assert code == 0
        assert "MNIST, 100 images" in err
        assert "could not" not in err


@pytest.mark.parametrize("command", TRAINING)
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--data mnist", ["MNIST is not in", "pooch"]),
        ("--data nothing-here", ["nothing-here", "does not exist"]),
        ("--data damaged", ["train-images-idx3-ubyte", "magic"]),
        ("--data small", ["20×20", "28×28"]),
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
    before = {*Path().rglob("*")}
    code, _, err = run(command, *words.split(), *([] if "--out" in words else OUT))
    assert code == 2
    one_line(err, f"cnn {command}: ", *parts)
    assert {*Path().rglob("*")} == before, "nothing is made"


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
    code, _, err = run("train", "--data", "zeros", *OUT)
    assert code == 2
    one_line(err, "at least two classes")
    assert not Path("new").exists()


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
    code, _, err = run("train", *how)
    assert code == 0
    assert "matplotlib" in err
    assert {path.name for path in Path("out").iterdir()} == RESULTS - {"curves.png"}


def test_show(run: Run, monkeypatch: pytest.MonkeyPatch, three: Path) -> None:
    """The picture is opened; where nothing can open it, the program says where it is."""
    opened, how = [], ("train", "--data", three, "--epochs", 1, "--show", "--out")
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url))
    assert f"they are in {Path('a', 'curves.png')}" in run(*how, "a")[2]
    monkeypatch.setattr(webbrowser, "open", lambda url: True)
    assert "no screen" not in run(*how, "b")[2]
    assert opened == [Path("a", "curves.png").resolve().as_uri()]


def test_rate_and_batch_size(run: Run, three: Path) -> None:
    """They arrive: more iterations, other losses; without a rate nothing moves."""
    how = ("train", "--data", three, "--recipe", "schedule", "--epochs", 2, "--out")
    for name, more in (
        ("a", ()),
        ("b", ("--lr", 1e-9)),
        ("c", ("--batch-size", 30)),
        ("d", ("--lr", "0.01")),
    ):
        assert run(*how, name, *more)[0] == 0
    a, b, c, d = (History.load(Path(name, "history.json")) for name in "abcd")
    assert [len(h.loss) for h in (a, b, c, d)] == [4, 4, 8, 4]
    assert len({h.loss[-1] for h in (a, b, c, d)}) == 4
    first = prepare(num_classes=3)[0].params["0.weight"]
    moved = load_weights("b/weights.safetensors").params["0.weight"] - first
    assert np.abs(moved).max() < 1e-7


def test_too_large_a_rate_is_told(run: Run, three: Path) -> None:
    """That is nobody's bug."""
    code, _, err = run("train", "--data", three, "--lr", 1e15, "--epochs", 3, *OUT)
    assert code == 2
    one_line(err, "cnn train: iteration ", "learning rate")


def test_a_full_disk_is_told(
    run: Run, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file it is that has no room."""
    replace, kept = files.replace_file, 0

    def full(path: Path, write: Callable[..., object]) -> None:
        if Path(path).name == kept:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        replace(path, write)

    monkeypatch.setattr(files, "replace_file", full)
    monkeypatch.setattr("cnn.weights.replace_file", full)
    for kept in sorted(RESULTS):
        code, _, err = run(
            "train", "--data", three, "--epochs", 1, "--out", f"{kept}.d"
        )
        assert code == 2, kept
        one_line(err, "cnn train: ", kept)


def test_the_files_say_how_they_were_made(run: Run, three: Path) -> None:
    """Model, recipe, seed, data, versions: in the history, and in the weights' header."""
    from safetensors import safe_open

    how = ("--data", three, "--epochs", 1, "--seed", 3, "--model", "deep", *OUT)
    assert run("train", *how, "--recipe", "schedule")[0] == 0
    about = json.loads(Path("new", "history.json").read_bytes())["about"]
    versions = about.pop("versions")
    assert versions == {
        "cnn": cnn.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    assert about == {
        "model": "deep",
        "recipe": "schedule",
        "seed": 3,
        "data": str(three.resolve()),
        "images": [120, 30],
        "epochs": 1,
        "batch_size": 100,
        "lr": "ExponentialDecay(gamma_max=0.003, gamma_min=0.0001, tau=2000)",
    }
    with safe_open("new/weights.safetensors", "np") as file:
        kept = json.loads(file.metadata()["about"])
    assert kept == about | {"versions": versions}
    assert run("train", "--epochs", 1, "--lr", 0.5, "--out", "b")[0] == 0
    about = json.loads(Path("b", "history.json").read_bytes())["about"]
    assert (about["lr"], about["data"], about["recipe"]) == (0.5, "digits", "constant")


def test_a_short_run_draws_something() -> None:
    """With a single iteration and test there is no line, so there must be dots to see."""
    for n in (1, 15):
        history = History([2.3] * n, [n], [2.0], [0.9], [1.0])
        figure = plot_curves({"run": history})
        file = io.BytesIO()
        for ax in figure.axes:
            assert ax.get_ylim()[1] <= 100
            if ax.get_legend():
                ax.get_legend().remove()
        figure.savefig(file, format="rgba", dpi=100)
        pixels = np.frombuffer(file.getvalue(), np.uint8).reshape(540, 650, 4)
        blue = (pixels[..., 2] > 150) & (pixels[..., 0] < 100)
        above, below = blue[:310], blue[310:]
        assert below.sum() >= 40, "a dot"
        assert above.sum() >= 45 + 10 * n, "the training's as well"


# --- Whose folder is it? ---


def test_a_folder_at_work_is_refused(
    run: Run, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one run trains, a second one into its folder ends at once; the first goes on."""
    how, step, codes = (
        ("--data", str(three), "--epochs", "1", "--out", "both"),
        Adam.step,
        [],
    )

    def stepping(self: Adam, grads: object) -> None:
        if not codes:
            for command in TRAINING:
                codes.append(main([command, *how, "--quiet"]))
        step(self, grads)

    monkeypatch.setattr(Adam, "step", stepping)
    code, _, err = run("train", *how)
    assert (code, codes) == (0, [2] * len(TRAINING))
    for command in TRAINING:
        assert f"cnn {command}: both is in use" in err
    assert {path.name for path in Path("both").iterdir()} == RESULTS
    shutil.rmtree("both")
    assert run(TRAINING[-1], *how)[0] == 0, "later it is free"


def test_another_process_is_refused(run: Run, three: Path) -> None:
    """The lock is the file's, not the process's."""
    with locked(Path("both", "run.lock")):
        result = as_process("train", "--data", three, "--epochs", 1, "--out", "both")
    assert result.returncode == 2
    one_line(result.stderr, "both is in use")
    assert not [*Path("both").iterdir()]


def test_a_name_is_no_content(run: Run, three: Path) -> None:
    """A folder called digits is not the embedded set, nor another folder of that name."""
    one = shutil.copytree(three, Path("one", "digits"))
    two = write_folder(Path("two", "digits"), 4, 100)
    for data in ("digits", one, two, three.parent / "three"):
        assert run("train", "--data", data, "--epochs", 1)[0] == 0
    names = sorted(path.name for path in Path("data", "runs").iterdir())
    assert len(names) == 4
    assert names[0] == "simple-constant-digits"
    assert names[1].startswith("simple-constant-digits-")
    assert names[1][-8:] == names[3][-8:] or names[2][-8:] == names[3][-8:]


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adam, "step", lambda *_: int("a bug"))
        with pytest.raises(ValueError, match="a bug"):  # ours, not the checkpoint's
            run(*how, "out", "--resume")
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
    assert not Path("out").exists()


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
    code, out, _ = run("evaluate", weights, "--data", "digits")
    assert code == 0
    data = digits()
    J, error = evaluate(load_weights(weights), data.x_test, data.y_test)
    for part in (f"{error:.2%}", f"{J:.4f}", "232662", "299"):
        assert part in out


def test_weights_that_nobody_named(run: Run, drawn: list[str]) -> None:
    """Those that come with the package read digits; the talk says which they are."""
    code, out, err = run("evaluate", "--data", "digits")
    assert code == 0
    assert "122270 parameters" in out
    assert "come with cnn" in err
    code, out, err = run("predict", *drawn)
    assert code == 0
    assert "come with cnn" in err
    assert [line.split(" (")[0] for line in out.splitlines()] == [
        "0.png: 0",
        "6.png: 6",
    ]


def test_a_runs_folder(run: Run, three: Path, drawn: list[str]) -> None:
    """It has weights, and its data are those that it was trained on."""
    assert run("train", "--data", three, "--epochs", 20, "--out", "out")[0] == 0
    code, out, err = run("evaluate", "out")
    assert code == 0
    assert "three" in err
    assert "of 30)" in out
    by_name = run("evaluate", "out/weights.safetensors", "--data", three)
    assert by_name[1] == out
    assert run("evaluate", "out", "--data", "digits")[0] == 2
    assert run("summary", "out")[1].splitlines()[-1].split()[1:] == ["231", "255"]
    assert run("predict", "out", drawn[0])[1].startswith("0.png: 0")
    Path("out", "history.json").write_text("{")
    code, _, err = run("evaluate", "out")
    assert code == 2
    one_line(err, "cnn evaluate: out does not say", "--data")
    Path("out", "weights.safetensors").unlink()
    code, _, err = run("evaluate", "out")
    assert code == 2
    one_line(err, "weights.safetensors")


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


@pytest.fixture
def drawn() -> list[str]:
    """Draw a nought and a six that no network was trained on, large and dark on white."""
    from PIL import Image

    data, names = digits(), ["0.png", "6.png"]
    for name in names:
        image = data.x_test[data.y_test == int(name[0])][0, 0]
        pixels = np.rint(255 * (1 - image)).astype(np.uint8)
        Image.fromarray(pixels).resize((280, 280)).save(name)
    return names


def test_predict(run: Run, weights: Path, drawn: list[str]) -> None:
    """A line for each picture: the digit, its probability, and the runner-up."""
    code, out, err = run("predict", weights, *drawn)
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("0.png: 0 (")
    assert second.startswith("6.png: 6 (")
    assert "or else" in first
    assert first.count("%") == 2


def test_weights_are_named_in_many_ways(
    run: Run, weights: Path, drawn: list[str]
) -> None:
    """By an option, or first among the files: by suffix, by content, or as a folder."""
    expected = run("predict", weights, *drawn)[1]
    assert expected != run("predict", *drawn)[1], "other weights, other probabilities"
    shutil.copy(weights, "no-suffix")
    Path("run").mkdir()
    shutil.copy(weights, Path("run", "weights.safetensors"))
    for way in (["--weights", weights], ["no-suffix"], ["run"], ["--weights", "run"]):
        assert run("predict", *way, *drawn)[:2] == (0, expected)
    Path("pictures").mkdir()
    code, out, err = run("predict", "pictures", drawn[0], "--quiet")
    assert code == 2
    assert out.startswith("0.png: 0")
    one_line(err, "pictures")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_bad_files_do_not_stop_good_ones(
    run: Run, weights: Path, drawn: list[str], place: int
) -> None:
    """What can be read is read; each of the others has its line; the code is 2."""
    from PIL import Image

    Image.new("L", (50, 50), 255).save("blank.png")
    Path("text.png").write_text("not a picture")
    Path("folder.png").mkdir()
    bad = ["blank.png", "text.png", "missing.png", "folder.png"]
    paths = [*drawn[:place], *bad, *drawn[place:]]
    code, out, err = run("predict", "--weights", weights, *paths)
    assert code == 2
    assert [line[:8] for line in out.splitlines()] == ["0.png: 0", "6.png: 6"]
    assert len(err.splitlines()) == 4
    for name, line in zip(bad, err.splitlines(), strict=True):
        assert line.startswith("cnn predict: ")
        assert name in line


# --- For other programs ---


def test_json(run: Run, weights: Path, three: Path, drawn: list[str]) -> None:
    """One document on stdout, whatever is said on stderr; it says what the text says."""
    code, out, _ = run("evaluate", weights, "--data", "digits", "--json")
    found = json.loads(out)
    assert code == 0
    assert found.keys() == {
        *("weights", "data", "images", "wrong", "error", "loss", "parameters"),
    }
    assert (found["weights"], found["data"]) == (str(weights), "digits")
    assert found["wrong"] == round(found["error"] * found["images"])
    text = run("evaluate", weights, "--data", "digits")[1]
    assert f"{found['error']:.2%} ({found['wrong']} of 299)" in text

    code, out, err = run("predict", "--json", drawn[0], "missing.png", drawn[1])
    found = json.loads(out)
    assert (code, found["weights"]) == (2, None)
    first, bad, last = found["pictures"]
    assert (first["file"], first["digit"], last["digit"]) == ("0.png", 0, 6)
    assert first["probability"] == max(first["probabilities"])
    assert len(first["probabilities"]) == 10
    assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert bad.keys() == {"file", "error"}
    assert bad["error"] in err

    code, out, err = run("summary", "--json", "--model", "deep")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (
        found["parameters"] == 122270 == sum(a["parameters"] for a in found["layers"])
    )
    assert [*found["layers"][-1].values()] == ["Linear(200, 10)", [10], 2010]


def test_quiet(run: Run, weights: Path, three: Path, drawn: list[str]) -> None:
    """No word but the answer; errors are said all the same."""
    how = ("--data", three, "--epochs", 1, "--quiet", "--out", "out")
    assert run("train", *how) == (0, "", "")
    code, _, err = run("train", *how)
    assert code == 2
    assert err.count("\n") == 1
    code, out, err = run("evaluate", "--data", "digits", "--quiet")
    assert (code, err) == (0, "")
    assert "Test error" in out
    code, out, err = run("predict", "--quiet", drawn[0])
    assert (code, err) == (0, "")
    assert "0.png: 0" in out


def test_progress(run: Run, three: Path) -> None:
    """Off a terminal it is lines on stderr, with loss, error and the time that is left."""
    code, out, err = run("train", "--data", three, "--epochs", 2, *OUT)
    assert (code, out) == (0, "")
    last = [line for line in err.splitlines() if line.startswith("iteration 4 of 4")][
        -1
    ]
    assert all(part in last for part in ("loss ", "test error ", " left"))


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


@pytest.mark.parametrize(
    "kind",
    [
        ArithmeticError,
        ImportError,
        IndexError,
        MemoryError,
        OSError,
        TypeError,
        ValueError,
    ],
)
def test_a_bug_keeps_its_traceback(
    run: Run, weights: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """Of whatever kind: to swallow it would hide our mistake behind a slip of the user's."""

    def buggy(*_: object) -> None:
        raise kind("a bug")

    monkeypatch.setattr(commands, "output_shapes", buggy)
    monkeypatch.setattr(commands, "_line", buggy)
    Path("p.png").write_bytes(b"")
    monkeypatch.setattr(commands, "_read_one", lambda *_: {})
    for words in (["summary"], ["evaluate", "--data", "digits"], ["predict", "p.png"]):
        with pytest.raises(kind, match="a bug"):
            main(words)


@pytest.mark.parametrize("kind", [IndexError, TypeError, ValueError, ZeroDivisionError])
def test_a_bug_in_the_training_keeps_its_traceback(
    three: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """The training is ours, and only what is given to it is the user's."""

    def buggy(*_: object) -> None:
        raise kind("a bug")

    monkeypatch.setattr(Adam, "step", buggy)
    with pytest.raises(kind, match="a bug"):
        main(["train", "--data", str(three), *OUT])


def test_a_bug_ends_with_1() -> None:
    """Python's own way; another program can tell it from a slip of the user's."""
    code = "import sys, cnn.commands as c; c.summary = lambda net: [].pop();"
    code += "from cnn.__main__ import main; sys.exit(main(['summary']))"
    result = as_process(code=code)
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert "IndexError" in result.stderr


# --- Streams that are not as one would like ---


def stream(encoding: str = "cp1252") -> io.TextIOWrapper:
    """Return a stream as a terminal of this encoding has it."""
    return io.TextIOWrapper(io.BytesIO(), encoding)


@pytest.mark.parametrize("state", ["absent", "closed"])
@pytest.mark.parametrize("names", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_streams_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, three: Path, names: list[str], state: str
) -> None:
    """The program does its work, and its exit code is heard."""
    for name in names:
        gone = None
        if state == "closed":
            gone = stream()
            gone.close()
        monkeypatch.setattr(sys, name, gone)
    how = ["--data", str(three), "--epochs", "1"]
    assert main(["summary"]) == 0
    assert main(["--help"]) == 0
    assert main(["predict", "missing.png"]) == 2
    assert main(["nonsense"]) == 2
    assert main(["train", *how, "--out", "a"]) == 0
    assert main(["train", *how, "--out", "a"]) == 2
    assert {path.name for path in Path("a").iterdir()} == RESULTS


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("name", ["手.png", "\udcff\udcfe.png", "a\u202e.png"])
def test_a_name_that_cannot_be_shown(
    monkeypatch: pytest.MonkeyPatch, drawn: list[str], name: str, encoding: str
) -> None:
    """The answer comes, the name as an escape; in an error as well, and in JSON whole."""
    try:
        shutil.copy(drawn[0], name)
    except (OSError, UnicodeError) as err:
        pytest.skip(f"this file system can't hold the name: {err}")
    # pytest's report can't hold such a name either, so it must not record the log
    monkeypatch.setattr(commands.LOG, "propagate", False)
    out, err = stream(encoding), stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["predict", name]) == 0
    shown = name.encode(encoding, "backslashreplace")
    assert out.buffer.getvalue().startswith(shown + b": 0 (")
    assert main(["predict", f"not-{name}", "--json"]) == 2
    assert b"cnn predict: " in err.buffer.getvalue()
    found = json.loads(out.buffer.getvalue().decode(encoding).partition(")\n")[2])
    assert found["pictures"][0]["file"] == f"not-{name}"
    assert main(["--help"]) == 0


def test_streams_and_log_are_given_back(three: Path) -> None:
    """A notebook that calls main goes on with its own."""
    before = sys.stdout, sys.stderr, commands.LOG.level, [*commands.LOG.handlers]
    main(["summary", "--quiet"])
    main(["nonsense"])
    after = sys.stdout, sys.stderr, commands.LOG.level, [*commands.LOG.handlers]
    assert before == after


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["summary", "summary --json", "--help", "--version"])
def test_an_answer_that_cannot_be_stored(words: str) -> None:
    """What was printed must arrive, or the exit code says that it did not."""
    with open("/dev/full", "w") as full:
        result = as_process(*words.split(), stdout=full)
    assert result.returncode == 2
    one_line(result.stderr, "space")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("cnn summary >&-", 0),
        ("cnn summary >&- 2>&-", 0),
        ("cnn predict missing.png >&- 2>&-", 2),
        ("cnn predict missing.png 2>/dev/full", 2),
        ("(sleep 1; cnn summary) | true; (exit ${PIPESTATUS[0]})", 0),
        ("(sleep 1; cnn --help) | true; (exit ${PIPESTATUS[0]})", 0),
    ],
)
def test_what_a_shell_does_to_streams(line: str, code: int) -> None:
    """Closed, full, or left by their reader: no traceback, and the right code."""
    python = f"{sys.executable} -m cnn"
    result = subprocess.run(
        ["bash", "-c", line.replace("cnn", python)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ONE_THREAD,
    )
    assert (result.returncode, result.stderr) == (code, "")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("cnn tr", {"train"}),
        ("cnn train --recipe s", {"schedule"}),
        ("cnn predict --j", {"--json"}),
        ("cnn compare --ba", {"--batch-size"}),
    ],
)
def test_completion(typed: str, completed: set[str]) -> None:
    """The shell starts the program and reads words from it."""
    pytest.importorskip("argcomplete")
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": "words", "_ARGCOMPLETE_IFS": "\n"}
    assert as_process(**asked).returncode == 0
    assert {word.strip() for word in Path("words").read_text().split()} == completed


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
    assert rows[-1][0] == "PyTorch"
    assert rows[-1][-1] == "1.00"


def test_a_comparison_for_other_programs(run: Run, three: Path) -> None:
    """One document; rate and batch size reach both."""
    pytest.importorskip("torch")
    how = ("--data", three, "--epochs", 2, "--lr", 0.01, "--batch-size", 40)
    code, out, _ = run("compare", *how, "--json", *OUT)
    found = json.loads(out)
    assert code == 0
    assert (found["data"], found["folder"]) == (str(three.resolve()), "new")
    assert [*found["runs"]] == ["ours", "PyTorch"]
    for name, kept in found["runs"].items():
        history = History.load(Path("new", f"{name.lower()}.json"))
        assert len(history.loss) == 6
        last = history.test_error[-1], history.test_loss[-1], history.seconds[-1]
        assert (kept["error"], kept["loss"], kept["seconds"]) == last
    ours, theirs = found["runs"].values()
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-3)


def test_an_interrupted_comparison(
    run: Run, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps nothing, and promises nothing."""
    pytest.importorskip("torch")
    interrupt(monkeypatch, 2)
    code, _, err = run("compare", "--data", three, "--epochs", 3, "--out", "both")
    assert code == 130
    assert err.splitlines()[-1] == "Interrupted."
    assert not [*Path("both").iterdir()]
