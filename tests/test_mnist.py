"""The main job: Table 1's network learns the embedded digits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from cnn.data import digits
from cnn.models import count_parameters, deep_cnn, output_shapes, simple_cnn, summary
from cnn.network import Sequential
from cnn.recipes import (
    MODELS,
    RECIPES,
    epochs_for,
    interval,
    plot_curves,
    prepare,
    probabilities,
    train,
)
from cnn.training import History, evaluate
from cnn.weights import load_weights, save_weights

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
    return train(digits())


def test_the_main_job(trained: Trained) -> None:
    """At most 5 % of the digits never seen are misread; the last test is what is reported."""
    net, history = trained
    assert history.test_error[-1] <= 0.05
    assert np.mean(history.loss[-15:]) < 0.01
    assert len(history.loss) == history.iterations[-1] == epochs_for(digits()) * 15
    assert history.iterations == [*range(100, len(history.loss) + 1, 100)]
    data = digits()
    J, error = evaluate(net, data.x_test, data.y_test)
    assert (J, error) == (history.test_loss[-1], history.test_error[-1])
    assert all(a.dtype == np.float32 for a in net.params.values())


def test_chance_comes_from_the_seed_alone() -> None:
    """The same seed twice gives the same weights; another seed gives others."""
    first, second, other = (train(digits(), epochs=1, seed=s)[0] for s in (1, 1, 2))
    for name, a in first.params.items():
        np.testing.assert_array_equal(a, second.params[name])
        assert (a != other.params[name]).any()


@pytest.mark.parametrize("model", MODELS)
def test_dropout_changes_no_initial_weight(model: str) -> None:
    """Recipes are compared from the same start; dropout draws from a generator of its own."""
    plain, dropped = (prepare(model, r)[0] for r in ("schedule", "dropout"))
    ours, theirs = plain.params.values(), dropped.params.values()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    kinds = [type(layer).__name__ for layer in dropped]
    before = [kinds[i - 1] for i, kind in enumerate(kinds) if kind == "Linear"]
    assert before == ["Dropout", "Dropout"]
    assert len(dropped) == len(plain) + 2


def test_the_schedule_is_followed() -> None:
    """Without it the recipe would be the constant one under another name."""
    _, optimizer, _ = prepare("deep", "schedule")
    assert optimizer.lr(0) == 0.003
    assert 0.0001 < optimizer.lr(20_000) < 0.00011


def test_any_number_of_classes() -> None:
    """Another set in MNIST's format has another number of classes."""
    data = digits()
    net, _ = train(data._replace(y_train=data.y_train + 16), epochs=1)
    assert probabilities(net, data.x_test[:3]).shape == (3, 26)


def test_probabilities(trained: Trained) -> None:
    """Rows add up to one, batches change nothing, and every layer's mode is put back."""
    net, x = prepare("deep", "dropout")[0], digits().x_test[:7]
    P = probabilities(net, x)
    np.testing.assert_allclose(P.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(P, probabilities(net, x, 3), rtol=1e-5)
    assert all(layer.training for layer in net)
    error = np.mean(
        probabilities(trained[0], digits().x_test).argmax(1) != digits().y_test
    )
    assert error == pytest.approx(trained[1].test_error[-1])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("num_classes", [3, 10, 200])
def test_weights_are_kept(
    model: str, recipe: str, num_classes: int, tmp_path: Path
) -> None:
    """The network comes back, whichever it was, from the file alone."""
    net, *_ = prepare(model, recipe, num_classes=num_classes)
    save_weights(tmp_path / "w.safetensors", net)
    again = load_weights(tmp_path / "w.safetensors")
    assert repr(again) == repr(net)
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(again.params[name], a)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def hostile(kind: str, whole: bytes) -> bytes:
    """Return a file that looks like weights and is none."""
    from safetensors.numpy import load, save

    state = load(whole)
    return {
        "empty": b"",
        "truncated": whole[:-1],
        "longer": whole + b"x",
        "huge header": (2**62).to_bytes(8, "little") + whole[8:],
        "a pickle": b"\x80\x04K\x01.",
        "huge shape": whole.replace(b"[200]", b"[2e9]"),
        "no array": save({}),
        "other network": save(state | {"11.weight": np.zeros((3, 200), np.float32)}),
        "half precision": save({k: a.astype(np.float16) for k, a in state.items()}),
        "mixed": save(state | {"0.bias": state["0.bias"].astype(np.float64)}),
        "not a number": save({k: a * np.float32(np.nan) for k, a in state.items()}),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "truncated",
        "longer",
        "huge header",
        "a pickle",
        "huge shape",
        "no array",
        "other network",
        "half precision",
        "mixed",
        "not a number",
    ],
)
def test_hostile_weights_are_refused(kind: str, tmp_path: Path) -> None:
    """One ValueError that names the file, whatever is wrong with it."""
    path = tmp_path / "w.safetensors"
    save_weights(path, prepare("simple")[0])
    path.write_bytes(hostile(kind, path.read_bytes()))
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        load_weights(path)


def test_curves(trained: Trained) -> None:
    """Both losses and the error of each run, and an axis that shows how the end trembles."""
    figure = plot_curves(dict.fromkeys("ab", trained[1]))
    above, below = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [4, 2]
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["a", "b"]
    assert below.get_ylim() == (0, pytest.approx(300 * trained[1].test_error[-1]))
    assert above.get_yscale() == "log"


@pytest.mark.parametrize("steps", [1, 9, 15])
def test_a_short_run_draws_visible_curves(steps: int) -> None:
    """One epoch of the embedded digits has one test: a line through one point is nothing."""
    history = History([2.0] * steps, [steps], [1.5], [0.0], [1.0])
    figure = plot_curves({"short": history})
    for axes in figure.axes:
        for line in axes.lines:
            visible = line.get_marker() not in ("None", None, "")
            assert visible or len(line.get_xdata()) > 1 or steps == 1
    assert figure.axes[0].lines[0].get_xdata()[-1] == steps


def test_the_interval_is_students() -> None:
    """The quantiles of printed tables, and a width that goes with the spread."""
    for R, c, t in (
        (3, 0.95, 4.303),
        (5, 0.95, 2.776),
        (5, 0.99, 4.604),
        (10, 0.95, 2.262),
    ):
        d = np.arange(R) - 0.5
        mean, half = interval(d, c)
        assert mean == pytest.approx(d.mean())
        assert half == pytest.approx(t * d.std(ddof=1) / np.sqrt(R), rel=1e-3)
        assert interval(3 * d, c)[1] == pytest.approx(3 * half)


def test_the_loop_is_an_argument() -> None:
    """What was prepared, with its order and the default number of epochs, is handed on."""
    asked = {}

    def fit(net: Sequential, optimizer: object, data: object, **how: object) -> History:
        asked.update(how, net=net, optimizer=optimizer, data=data)
        return History()

    data = digits()
    net, history = train(data, "deep", "schedule", seed=4, fit=fit)
    expected, _, order = prepare("deep", "schedule", seed=4)
    assert asked["net"] is net
    assert asked["data"] is data
    assert asked["epochs"] == 120
    assert asked["rng"].bit_generator.state == order.bit_generator.state
    for name, a in expected.params.items():
        np.testing.assert_array_equal(net.params[name], a)
    assert history == History()
