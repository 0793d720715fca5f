"""A run that is stopped or killed goes on to the same weights, or says why it can't."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_training import Run, assert_same, assert_same_history, made_up, record_of

from cnn.files import load_arrays, save_arrays
from cnn.optimizers import SGD

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


def test_who_a_checkpoint_belongs_to_is_said_as_ever(tmp_path: Path) -> None:
    """These words are in the files of earlier versions, which must stay good for going on."""
    run = Run("Adam, schedule")
    run.fit(epochs=1, checkpoint=tmp_path / "c")
    arrays, record = record_of(tmp_path / "c")
    assert record["run"] == {
        "network": "Sequential(Conv2d(1, 2, kernel_size=(3, 3), stride=1, padding=0, "
        "dilation=1), ReLU(), Flatten(), Linear(32, 3))",
        "optimizer": "Adam(lr=ExponentialDecay(gamma_max=0.05, gamma_min=0.001, tau=10), "
        "betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)",
        "schedule": "0.04533703348376202, 0.019026092617400677, "
        "0.0010022245965583619, 0.001, 0.001, 0.001",
        "data": "23 + 7 images, 0a48589d",
        "seed": "0",
        "batch_size": "5",
        "every": "3",
    }
    assert record.keys() == {"run", "rng", "generators", "history"}
    assert {name.partition("/")[0] for name in arrays} == {"record", "net", "optimizer"}
    assert repr(SGD({"w": np.ones(2)}, 0.1, 0.9, 0.01)) == (
        "SGD(lr=0.1, momentum=0.9, weight_decay=0.01)"
    )


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    """It gave the data's name, and had no word for the schedule."""
    path, run = tmp_path / "c", Run("Adam, schedule")
    run.fit(epochs=1, checkpoint=path)
    arrays, record = record_of(path)
    del record["run"]["schedule"]
    record["run"]["data"] = "23 + 7 images, my noise 0a48589d"
    text = json.dumps(record).encode()
    save_arrays(path, arrays | {"record": np.frombuffer(text, np.uint8)})
    again, whole = Run("Adam, schedule"), Run("Adam, schedule")
    again.fit(epochs=2, checkpoint=path)
    whole.fit(epochs=2)
    assert_same(again.state(), whole.state())


# --- Damaged checkpoints ---

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
def test_a_wrong_record_is_refused(
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
def test_wrong_arrays_are_refused(tmp_path: Path, change: str) -> None:
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
