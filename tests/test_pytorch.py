"""The networks and their twins in PyTorch: one step, weights both ways, batches, whole runs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cnn.batchnorm import BatchNorm1d, BatchNorm2d  # noqa: E402
from cnn.conv import Conv2d  # noqa: E402
from cnn.data import Dataset, batches, digits  # noqa: E402
from cnn.losses import cross_entropy, cross_entropy_backward  # noqa: E402
from cnn.models import deep_cnn, simple_cnn  # noqa: E402
from cnn.network import (  # noqa: E402
    Flatten,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
)
from cnn.optimizers import Adam, ExponentialDecay  # noqa: E402
from cnn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d  # noqa: E402
from cnn.pytorch import (  # noqa: E402
    Batches,
    Trainer,
    best_device,
    train_twin,
    twin,
    weights_from,
)
from cnn.recipes import RECIPES, train  # noqa: E402
from cnn.regularization import Dropout  # noqa: E402
from cnn.training import fit  # noqa: E402

N = 12


def all_layers(*, rng: np.random.Generator, dtype: type = np.float32) -> Sequential:
    """Return a network with every layer that has a twin, one network inside the other."""
    head = Sequential(
        Flatten(), Linear(12, 8, rng=rng, dtype=dtype), BatchNorm1d(8, dtype=dtype)
    )
    return Sequential(
        Conv2d(1, 4, (5, 3), 2, (2, 1), rng=rng, dtype=dtype),
        BatchNorm2d(4, 1e-3, 0.3, dtype=dtype),
        ReLU(),
        MaxPool2d(3, 2, 1, ceil_mode=True),
        Conv2d(4, 12, 3, padding=2, dilation=2, rng=rng, dtype=dtype),
        Tanh(),
        AvgPool2d((2, 3), 2, (1, 0), count_include_pad=False),
        Dropout(0.0, rng=rng),
        GlobalAvgPool2d(),
        head,
        Sigmoid(),
        Linear(8, 10, rng=rng, dtype=dtype),
    )


NETWORKS = [simple_cnn, deep_cnn, all_layers]


def some() -> Dataset:
    """Return a few digits in double precision."""
    d = digits()
    x = d.x_train[:105].astype(np.float64)
    return Dataset("some", x, d.y_train[:105], x[:33] / 2, d.y_train[:33])


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    assert ours.keys() == theirs.keys()
    return max(np.abs(ours[name] - theirs[name]).max() for name in ours)


@pytest.mark.parametrize("make", NETWORKS)
def test_one_step_is_equal(make):
    data = some()
    x, y = data.x_train[:N], data.y_train[:N]
    net = make(rng=np.random.default_rng(0), dtype=np.float64)
    module = twin(net)
    z = net.forward(x)
    J = cross_entropy(z, y)
    net.backward(cross_entropy_backward(z, y), input_gradient=False)
    Adam(net.params, 1e-3).step(net.grads)

    trainer = Trainer(module, torch.optim.Adam(module.parameters(), lr=1e-3))
    loss = trainer.step(torch.from_numpy(x), torch.from_numpy(y))
    grads = {k: a.grad.numpy() for k, a in module.named_parameters()}
    assert abs(J - loss) <= 1e-12
    assert grads.keys() == net.grads.keys()
    assert max(np.abs(grads[k] - g).max() for k, g in net.grads.items()) <= 1e-12
    # a bias before batch normalisation has no gradient but rounding, which Adam amplifies
    limit = 1e-8 if make is all_layers else 1e-12
    assert difference(net.state_dict(), weights_from(module)) <= limit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", NETWORKS)
def test_weights_go_both_ways(make, dtype):
    x = some().x_train[:N].astype(dtype)
    net, other = (make(rng=np.random.default_rng(s), dtype=dtype) for s in (0, 1))
    for n in (net, other):
        n.eval()
    module = twin(other)
    net.load_state_dict(weights_from(module))
    z = module(torch.from_numpy(x)).detach().numpy()
    assert z.dtype == dtype
    np.testing.assert_allclose(net(x), z, atol=1e-5 if dtype is np.float32 else 1e-13)


def test_nothing_is_shared_and_nothing_is_drawn():
    """A step of one must not change the other, nor PyTorch's random numbers."""
    net = simple_cnn(rng=np.random.default_rng(0))
    before, state = net.state_dict(), torch.random.get_rng_state()
    module = twin(net)
    assert torch.equal(state, torch.random.get_rng_state())
    taken = weights_from(module)
    with torch.no_grad():
        for a in module.parameters():
            a += 1
    assert difference(net.state_dict(), before) == 0
    assert difference(taken, before) == 0


def test_the_mode_is_kept():
    net = all_layers(rng=np.random.default_rng(0))
    assert all(part.training for part in twin(net).modules())
    assert not any(part.training for part in twin(net.eval()).modules())


@pytest.mark.parametrize("size", [1, 20, 50, 105, 200])
def test_batches_deal_the_same(size):
    data = some()
    dealt = Batches(data.x_train, data.y_train, size, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    for _ in range(2):
        expected, got = list(batches(105, size, rng)), list(dealt)
        assert len(got) == len(dealt) == len(expected)
        for i, (x, y) in zip(expected, got, strict=True):
            np.testing.assert_array_equal(x.numpy(), data.x_train[i])
            np.testing.assert_array_equal(y.numpy(), data.y_train[i])
    in_order = Batches(data.x_train, data.y_train, size)
    assert len(list(in_order)) == len(in_order)
    for a, k in ((data.x_train, 0), (data.y_train, 1)):
        np.testing.assert_array_equal(torch.cat([part[k] for part in in_order]), a)


@pytest.mark.parametrize("make", [simple_cnn, deep_cnn])
def test_fit_equals_ours(make):
    """Twenty iterations, with a schedule and a last batch that is smaller."""
    data = some()
    net = make(rng=np.random.default_rng(0), dtype=np.float64)
    module = twin(net)
    decay = ExponentialDecay(3e-3, 1e-4, 10)
    ours = fit(
        net,
        Adam(net.params, decay),
        data,
        epochs=4,
        batch_size=25,
        every=6,
        rng=np.random.default_rng(1),
    )
    theirs = Trainer(module, torch.optim.Adam(module.parameters()), schedule=decay).fit(
        Batches(data.x_train, data.y_train, 25, np.random.default_rng(1)),
        Batches(data.x_test, data.y_test, 10),
        epochs=4,
        every=6,
    )
    assert len(ours.loss) == len(theirs.loss) == 20
    assert ours.iterations == theirs.iterations == [6, 12, 18, 20]
    assert np.abs(np.subtract(ours.loss, theirs.loss)).max() <= 1e-10
    assert np.abs(np.subtract(ours.test_loss, theirs.test_loss)).max() <= 1e-10
    assert ours.test_error == theirs.test_error
    assert difference(net.state_dict(), weights_from(module)) <= 1e-10
    assert theirs.seconds == sorted(theirs.seconds)
    assert module.training


@pytest.mark.parametrize("recipe", ["constant", "schedule"])
def test_train_twin_equals_train(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same recipe, seed and number of classes; the schedule is made fast enough to matter."""
    monkeypatch.setitem(RECIPES, "schedule", (ExponentialDecay(3e-3, 1e-4, 2), 0.0))
    d = digits()
    few, tests = d.y_train < 3, d.y_test < 3
    data = Dataset(
        "few", d.x_train[few], d.y_train[few], d.x_test[tests], d.y_test[tests]
    )
    net, ours = train(data, "deep", recipe, epochs=2, seed=3)
    module, theirs = train_twin(data, "deep", recipe, epochs=2, seed=3)
    assert len(ours.loss) == len(theirs.loss) == 10
    assert ours.iterations == theirs.iterations
    assert np.abs(np.subtract(ours.loss, theirs.loss)).max() <= 1e-4
    assert np.abs(np.subtract(ours.test_loss, theirs.test_loss)).max() <= 1e-4
    assert net.params["9.weight"].shape == (3, 200)
    assert difference(net.state_dict(), weights_from(module)) <= 1e-3


def dropping(seed: int | None) -> list[float]:
    """Return the losses of a short run with dropout, fed by a DataLoader."""
    data = some()
    rng = np.random.default_rng(0)
    net = Sequential(
        Flatten(), Dropout(rng=rng), Linear(784, 10, rng=rng, dtype=np.float64)
    )
    module = twin(net)
    tensors = torch.utils.data.TensorDataset(
        torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    )
    loader = torch.utils.data.DataLoader(tensors, 50, shuffle=True)
    trainer = Trainer(module, torch.optim.SGD(module.parameters(), lr=0.1))
    return trainer.fit(loader, loader, epochs=2, seed=seed).loss


def test_the_seed_decides_and_leaves_nothing():
    state = torch.random.get_rng_state()
    assert dropping(1) == dropping(1) != dropping(2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_evaluate_weighs_batches_and_puts_modes_back():
    data = some()
    module = twin(all_layers(rng=np.random.default_rng(0), dtype=np.float64))
    module[1].eval()
    trainer = Trainer(module, torch.optim.Adam(module.parameters()))
    before = weights_from(module)
    whole = trainer.evaluate(Batches(data.x_train, data.y_train, 105))
    parts = trainer.evaluate(Batches(data.x_train, data.y_train, 40))
    np.testing.assert_allclose(whole, parts, rtol=1e-12)
    assert module[0].training
    assert not module[1].training
    assert difference(before, weights_from(module)) == 0


def test_nan_is_told_and_changes_nothing():
    data = some()
    x = data.x_train.copy()
    x[60] = np.nan
    module = twin(simple_cnn(rng=np.random.default_rng(0), dtype=np.float64))
    trainer = Trainer(module, torch.optim.Adam(module.parameters()))
    test = Batches(data.x_test, data.y_test)
    with pytest.raises(FloatingPointError, match="iteration 4: "):
        trainer.fit(Batches(x, data.y_train, 20), test, epochs=1)
    assert trainer.t == 3
    assert all(np.isfinite(a).all() for a in weights_from(module).values())


def test_best_device_exists():
    assert torch.zeros(2, device=best_device()).sum() == 0


def test_a_missing_torch_is_told():
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "import cnn.pytorch"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "ImportError" in done.stderr
    assert "pip install 'cnn-from-first-principles[torch]'" in done.stderr
