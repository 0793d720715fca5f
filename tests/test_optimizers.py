"""The optimisers take PyTorch's steps, go on where they stopped, and start from fair numbers."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cnn.conv import Conv2d
from cnn.initialization import fans, kaiming_normal_, xavier_normal_
from cnn.models import deep_cnn, simple_cnn
from cnn.network import Flatten, Linear, ReLU, Sequential
from cnn.optimizers import SGD, Adam, ExponentialDecay, Optimizer
from cnn.training import train_step

Params = dict[str, np.ndarray]
STEPS = 12
DECAY = ExponentialDecay(0.003, 0.0001, 5)

PAIRS: dict[
    str, tuple[Callable[..., Optimizer], Callable[..., torch.optim.Optimizer]]
] = {
    "SGD": (SGD, torch.optim.SGD),
    "momentum": (
        lambda params, lr: SGD(params, lr, momentum=0.9),
        lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9),
    ),
    "Adam": (Adam, torch.optim.Adam),
    "Adam, other betas": (
        lambda params, lr: Adam(params, lr, betas=(0.5, 0.9), eps=1e-3),
        lambda params, lr: torch.optim.Adam(params, lr, betas=(0.5, 0.9), eps=1e-3),
    ),
}


def draw(rng: np.random.Generator) -> Params:
    """Return two small arrays and a large one, their entries of very different size."""
    shapes = {"0.weight": (3, 2, 2, 2), "1.weight": (65, 65), "1.bias": (3,)}
    return {
        k: rng.standard_normal(s) * 10.0 ** rng.integers(-6, 3, s)
        for k, s in shapes.items()
    }


@pytest.mark.parametrize("lr", [0.01, DECAY], ids=["constant", "schedule"])
@pytest.mark.parametrize("name", PAIRS)
def test_steps_equal_pytorchs(name: str, lr: float | ExponentialDecay) -> None:
    """A bias correction with t off by one, or a momentum that forgets, would drift away."""
    ours, theirs = PAIRS[name]
    rng = np.random.default_rng(0)
    params = draw(rng)
    twins = {k: torch.tensor(a, requires_grad=True) for k, a in params.items()}
    optimizer = ours(params, lr)
    twin = theirs(twins.values(), lr=1.0 if callable(lr) else lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(twin, lr) if callable(lr) else None
    for _ in range(STEPS):
        grads = draw(rng)
        optimizer.step(grads)
        for k, g in grads.items():
            twins[k].grad = torch.tensor(g)
        twin.step()
        if scheduler:
            scheduler.step()
        for k, a in params.items():
            np.testing.assert_allclose(a, twins[k].detach(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", PAIRS)
def test_training_a_network_equals_pytorchs(name: str) -> None:
    """Gradients put to the wrong parameter, or in the wrong order, would train another network."""
    ours, theirs = PAIRS[name]
    rng = np.random.default_rng(0)
    to = {"rng": rng, "dtype": np.float64}
    net = Sequential(Conv2d(1, 2, 3, **to), ReLU(), Flatten(), Linear(32, 4, **to))
    twin = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 4),
    ).double()
    twin.load_state_dict({k: torch.tensor(a) for k, a in net.state_dict().items()})
    optimizer, twins = ours(net.params, 0.01), theirs(twin.parameters(), lr=0.01)
    for _ in range(STEPS):
        x, y = rng.standard_normal((5, 1, 6, 6)), rng.integers(0, 4, 5)
        twins.zero_grad()
        J = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        J.backward()
        twins.step()
        assert train_step(net, optimizer, x, y) == pytest.approx(J.item(), rel=1e-10)
    for k, theta in twin.named_parameters():
        np.testing.assert_allclose(net.params[k], theta.detach(), rtol=0, atol=1e-10)


def test_schedule() -> None:
    """The rate begins at γ_max, ends at γ_min, and is γ_min + (γ_max - γ_min)/e after τ steps."""
    assert DECAY(0) == 0.003
    assert DECAY(10**6) == 0.0001
    assert DECAY(5) == pytest.approx(0.0001 + 0.0029 / math.e, rel=1e-15)


@pytest.mark.parametrize("stop", [0, 1, 5])
@pytest.mark.parametrize("name", PAIRS)
def test_state_dict_goes_on_bit_for_bit(name: str, stop: int) -> None:
    """A memory or the count of steps left out would change the steps after a restart."""
    make, _ = PAIRS[name]
    params, rng = draw(np.random.default_rng(0)), np.random.default_rng(1)
    grads = [draw(rng) for _ in range(10)]
    optimizer = make(params, DECAY)
    for g in grads[:stop]:
        optimizer.step(g)
    state = optimizer.state_dict()
    copies = {k: a.copy() for k, a in params.items()}
    for g in grads[stop:]:
        optimizer.step(g)
    again = make(copies, DECAY)
    again.load_state_dict(state)
    for g in grads[stop:]:
        again.step(g)
    for k, a in params.items():
        np.testing.assert_array_equal(copies[k], a)


def test_state_dict_is_a_copy() -> None:
    """A view would change behind the checkpoint's back."""
    params = draw(np.random.default_rng(0))
    optimizer = Adam(params)
    state = optimizer.state_dict()
    optimizer.step({k: np.ones_like(a) for k, a in params.items()})
    assert not any(a.any() for a in state.values())


@pytest.mark.parametrize("name", PAIRS)
def test_steps_are_in_place_and_leave_gradients_alone(name: str) -> None:
    """The network must see the new weights, and its gradients must stay what they were."""
    params = draw(np.random.default_rng(0))
    before = {k: (a, a.copy()) for k, a in params.items()}
    grads = {k: np.ones_like(a) for k, a in params.items()}
    PAIRS[name][0](params, 0.1).step(grads)
    for k, (array, values) in before.items():
        assert params[k] is array
        assert (array != values).any()
        np.testing.assert_array_equal(grads[k], 1)


@pytest.mark.parametrize("name", PAIRS)
def test_a_parameter_does_not_feel_its_neighbours(name: str) -> None:
    """Memories of one could be used for another, or converted to its dtype."""
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 2), "b": (7,), "c": (65, 65), "d": (), "e": (4, 1, 2)}
    params = {k: np.array(rng.standard_normal(s)) for k, s in shapes.items()}
    params |= {f"{k} single": np.asarray(a, np.float32) for k, a in params.items()}
    params["turned"] = rng.standard_normal((4, 5)).T
    alone = {k: {k: a.copy("K")} for k, a in params.items()}
    together = PAIRS[name][0](params, 0.01)
    optimizers = {k: PAIRS[name][0](a, 0.01) for k, a in alone.items()}
    for t in range(5):
        grads = {k: np.array(np.sin(a + a.dtype.type(t))) for k, a in params.items()}
        together.step(grads)
        for k, optimizer in optimizers.items():
            optimizer.step({k: grads[k]})
    for k, a in params.items():
        np.testing.assert_array_equal(a, alone[k][k], err_msg=k)
        for m in together.memories:
            assert together.memory[k][m].dtype == a.dtype
            assert together.memory[k][m].any()


# --- Where the parameters come from ---


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 5, 2), (8, 1, 1, 1)])
def test_fans_are_pytorchs(shape: tuple[int, ...]) -> None:
    """Fan-in and fan-out swapped, or the filter's size forgotten, would scale wrongly."""
    fan_in_and_out = torch.nn.init._calculate_fan_in_and_fan_out
    assert fans(np.empty(shape)) == fan_in_and_out(torch.empty(shape))


def uniform_conv(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return the weights of a fresh convolutional layer."""
    return Conv2d(shape[1], shape[0], shape[2:], rng=rng, dtype=np.float64).params[
        "weight"
    ]


def uniform_linear(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return the weights of a fresh dense layer."""
    return Linear(shape[1], shape[0], rng=rng, dtype=np.float64).params["weight"]


def filled(fill: Callable[..., None]) -> Callable[..., np.ndarray]:
    """Turn a function that fills an array into one that makes it."""

    def make(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        W = np.full(shape, np.nan)
        fill(W, rng)
        return W

    return make


CONV, DENSE = (60, 40, 5, 3), (300, 200)
DRAWS = [
    ("conv", uniform_conv, CONV, 1 / 600 / 3),
    ("linear", uniform_linear, DENSE, 1 / 200 / 3),
    ("xavier conv", filled(xavier_normal_), CONV, 2 / (600 + 900)),
    ("xavier", filled(xavier_normal_), DENSE, 2 / 500),
    ("kaiming conv", filled(kaiming_normal_), CONV, 2 / 600),
    ("kaiming", filled(kaiming_normal_), DENSE, 2 / 200),
]


@pytest.mark.parametrize(
    ("make", "shape", "variance"), [d[1:] for d in DRAWS], ids=[d[0] for d in DRAWS]
)
def test_initial_variance(
    make: Callable[..., np.ndarray], shape: tuple[int, ...], variance: float
) -> None:
    """Too large or too small a variance, and the signal explodes or dies on its way up."""
    W = make(shape, np.random.default_rng(0))
    assert W.shape == shape
    assert abs(W.mean()) < 5 * math.sqrt(variance / W.size)
    assert W.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / W.size))


def test_uniform_weights_stay_inside_their_bounds() -> None:
    """U(-k, k) with k = 1/√fan_in, as PyTorch draws it; the bias as well."""
    for layer, fan_in in (
        (Conv2d(4, 50, 5, rng=np.random.default_rng(0)), 100),
        (Linear(100, 50, rng=np.random.default_rng(0)), 100),
    ):
        for a in layer.params.values():
            assert 0.9 < np.abs(a).max() * math.sqrt(fan_in) <= 1


@pytest.mark.parametrize("make", [simple_cnn, deep_cnn])
def test_same_seed_same_numbers(make: Callable[..., Sequential]) -> None:
    """Hidden global randomness would make a run unrepeatable."""

    def draw_and_train(seed: int, elsewhere: int) -> Params:
        rng = np.random.default_rng(seed)
        np.random.seed(elsewhere)  # noqa: NPY002
        net = make(rng=rng)
        train_step(
            net, Adam(net.params), np.ones((2, 1, 28, 28), np.float32), np.array([1, 2])
        )
        return net.state_dict()

    first, second, other = (
        draw_and_train(*seeds) for seeds in ((3, 0), (3, 1), (4, 1))
    )
    for k, a in first.items():
        np.testing.assert_array_equal(second[k], a)
        assert (other[k] != a).any()


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda both: pickle.loads(pickle.dumps(both)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("rule", [SGD, Adam])
def test_a_copy_trains_as_the_original(rule: type, way: str) -> None:
    """A copy that shared an array with the original would train both, or neither."""
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(size) for name, size in (("a", 3), ("b", 5000))}
    how = {"momentum": 0.9} if rule is SGD else {}
    ours = rule(params, lr=0.1, **how)
    grads = [
        {k: rng.standard_normal(a.shape) for k, a in params.items()} for _ in "123"
    ]
    ours.step(grads[0])
    params_copied, copied = COPIES[way]((params, ours))
    for g in grads[1:]:
        ours.step(g)
        copied.step(g)
    for name, theta in params.items():
        np.testing.assert_array_equal(params_copied[name], theta)
        assert not np.shares_memory(params_copied[name], theta)
    for name, a in ours.state_dict().items():
        np.testing.assert_array_equal(copied.state_dict()[name], a)


def test_a_parameter_that_can_not_change_is_refused_before_the_first_step() -> None:
    """Found in the middle of a step, it would leave half of the parameters changed."""
    params = {"a": np.ones(3), "b": np.ones(3)}
    params["b"].flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['b'\] is read-only"):
        Adam(params)
