"""The main job: Table 1's network learns the embedded digits, from Python and the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import cnn
from cnn.data import MNIST_SHA256, digits
from cnn.mnist import EPOCHS, main, plot_curves, train_simple
from cnn.models import count_parameters, deep_cnn, output_shapes, simple_cnn, summary
from cnn.network import Sequential
from cnn.training import History, evaluate, load_arrays

HERE = Path(cnn.__file__).parents[1]
Trained = tuple[Sequential, History]


@pytest.mark.parametrize(
    ("make", "counts"),
    [
        (simple_cnn, [52, 0, 0, 230_600, 0, 2_010]),
        (deep_cnn, [104, 0, 808, 0, 1_548, 0, 0, 117_800, 0, 2_010]),
    ],
)
def test_the_tables_are_built_as_printed(
    make: type[Sequential], counts: list[int]
) -> None:
    """232 662 and 122 270 numbers: one more or less, and it is another network."""
    net = make(rng=np.random.default_rng(0))
    assert [count_parameters(layer) for layer in net] == counts
    assert count_parameters(net) == sum(counts) == {6: 232_662, 10: 122_270}[len(net)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep to one core: on a busy machine two threads wait for each other, ten times as long."""
    with threadpool_limits(1):
        yield


def test_the_summary_says_so() -> None:
    """A table that disagrees with the network would be believed."""
    net = deep_cnn(rng=np.random.default_rng(0))
    lines, x = summary(net).splitlines(), np.zeros((1, 1, 28, 28), np.float32)
    for i, layer in enumerate(net):
        x = layer(x)
        (line,) = (line for line in lines if line.startswith(f"{i} "))
        for part in (
            type(layer).__name__,
            str(x.shape[1:]),
            f"{count_parameters(layer):,}",
        ):
            assert part.replace(",", " ") in line.replace(",", " ")
    assert output_shapes(net)[-1] == (10,)
    assert lines[-1].endswith("122 270")


@pytest.fixture(scope="module")
def trained() -> Trained:
    """Train once, as ``make train`` does without MNIST."""
    return train_simple(digits())


def test_the_main_job(trained: Trained) -> None:
    """At most 4 % of the digits never seen are misread; the last test is what is reported."""
    net, history = trained
    assert history.test_error[-1] <= 0.04
    assert np.mean(history.loss[-15:]) < 0.01
    assert len(history.loss) == history.iterations[-1] == EPOCHS["digits"] * 15
    assert history.iterations == [*range(100, len(history.loss) + 1, 100)]
    data = digits()
    J, error = evaluate(net, data.x_test, data.y_test)
    assert (J, error) == (history.test_loss[-1], history.test_error[-1])
    assert all(a.dtype == np.float32 for a in net.params.values())


def test_chance_comes_from_the_seed_alone() -> None:
    """The same seed twice gives the same weights; another seed gives others."""
    first, second, other = (
        train_simple(digits(), epochs=1, seed=s)[0] for s in (1, 1, 2)
    )
    for name, a in first.params.items():
        np.testing.assert_array_equal(a, second.params[name])
        assert (a != other.params[name]).any()


def test_curves(trained: Trained, tmp_path: Path) -> None:
    """A picture of both losses and the error, in the format that the name says."""
    figure = plot_curves(trained[1], tmp_path / "curves.svg")
    assert [len(axes.lines) for axes in figure.axes] == [3, 1]
    assert (tmp_path / "curves.svg").read_text("utf-8").lstrip().startswith("<?xml")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.svg"]


# --- The command line ---


@pytest.mark.parametrize(
    ("options", "status", "stream", "part"),
    [
        (["--help"], 0, "stdout", "--epochs"),
        (["--epoch", "3"], 2, "stderr", "unrecognized"),
        (["--epochs", "few"], 2, "stderr", "few"),
        (["nonsense"], 2, "stderr", "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_as_a_program(options: list[str], status: int, stream: str, part: str) -> None:
    """Help on stdout and success, a slip on stderr and status 2; nothing is trained."""
    command = [sys.executable, "-m", "cnn.mnist", *options]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=HERE
    )
    assert result.returncode == status
    assert part in getattr(result, stream)
    assert "Traceback" not in result.stderr


@pytest.fixture
def without_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return options for a short run that neither finds MNIST nor can download it."""
    monkeypatch.setitem(sys.modules, "pooch", None)
    return [
        "--data",
        str(tmp_path / "nowhere"),
        "--epochs",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]


def test_a_run(
    without_mnist: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which data it found and how it ended; its files hold what it said."""
    assert main(without_mnist) == 0
    out, err = capsys.readouterr()
    assert "digits" in out
    assert "1498" in out.replace(" ", "")
    assert str(tmp_path / "nowhere") in out, "where MNIST was looked for"
    assert not err
    files = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(files) == {"checkpoint.npz", "weights.npz", "history.json", "curves.png"}
    net, data = simple_cnn(rng=np.random.default_rng(9)), digits()
    net.load_state_dict(load_arrays(files["weights.npz"]))
    _, error = evaluate(net, data.x_test, data.y_test)
    assert error == History.load(files["history.json"]).test_error[-1]
    assert f"{error:.2%}" in out

    before = files["weights.npz"].read_bytes()
    assert main(without_mnist) == 0
    assert "start anew, delete" in capsys.readouterr().out
    assert files["weights.npz"].read_bytes() == before


def test_a_run_without_matplotlib(
    without_mnist: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The package needs NumPy alone: no picture then, but all the rest."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(without_mnist) == 0
    assert "matplotlib" in capsys.readouterr().out
    assert not [*tmp_path.rglob("curves*")]
    assert [*tmp_path.rglob("weights.npz")]


@pytest.mark.parametrize(
    "fault", ["damaged data", "epochs", "other seed", "out is a file"]
)
def test_a_fault_is_told_in_one_line(
    without_mnist: list[str],
    fault: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2 and one sentence on stderr, not a traceback."""
    if fault == "damaged data":
        folder = tmp_path / "nowhere" / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for name in MNIST_SHA256:
            (folder / name).write_bytes(b"damaged")
        options, part = [], "train-images-idx3-ubyte"
    elif fault == "epochs":
        options, part = ["--epochs", "0"], "epochs is 0"
    elif fault == "other seed":
        main(without_mnist)
        options, part = ["--seed", "7"], "can't be resumed"
    else:
        (tmp_path / "out").write_text("in the way")
        options, part = [], str(tmp_path / "out")
    capsys.readouterr()
    assert main([*without_mnist, *options]) == 2
    err = capsys.readouterr().err
    assert part in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
