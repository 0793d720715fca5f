"""Measure training steps on a graphics processor, and write them to ``book/runs/gpu.json``.

    python tests/bench_gpu.py [--out FILE] [--tiny]

It needs a card of Nvidia's, ``pip install '.[gpu,train,torch]'`` with PyTorch's ordinary wheels,
and MNIST, which is downloaded where it is missing. It is laid out for less than four minutes;
much of that is compiling. ``--tiny`` needs none of these: it goes through all that is ours with a
tiny network, as the tests do in Numba's simulator. Ours and PyTorch's ways take turns in one
process. Not a test: no verdict depends on a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import numpy as np
from numba import cuda

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "book" / "tools")]

from bench import torch_net  # noqa: E402
from machine import machine  # noqa: E402

import cnn  # noqa: E402
from cnn import Adam, Conv2d, Dataset, Flatten, Linear, ReLU, Sequential  # noqa: E402
from cnn.gpu import SIMULATED  # noqa: E402
from cnn.gpu_step import Launch, Steps, record  # noqa: E402

ROUNDS = 7
Run = Callable[[np.ndarray], None]  # takes the steps whose images are in its rows


def tiny_cnn(*, rng: np.random.Generator) -> Sequential:
    """Make a network that the simulator can train."""
    first = Conv2d(1, 1, 3, rng=rng)
    return Sequential(first, ReLU(), Flatten(), Linear(4, 3, rng=rng))


def tiny_data() -> Dataset:
    """Return a few images of 4×4 pixels."""
    rng = np.random.default_rng(0)
    x, y = rng.random((6, 1, 4, 4), np.float32), np.arange(6) % 3
    return Dataset("tiny", x, y, x[:3], y[:3])


# --- Who takes part ---


class Ours:
    """A network on the card, whose kernels are compiled once for all that is measured."""

    def __init__(self, make: Callable, data: Dataset, batch: int, steps: int) -> None:
        self.make, self.net = make, make(rng=np.random.default_rng(0))
        self.adam = Adam(self.net.params)
        self.card = Steps(self.net, self.adam, data, batch, steps)

    def begin(self) -> None:
        """Go back to the start."""
        self.net.load_state_dict(self.make(rng=np.random.default_rng(0)).state_dict())
        self.adam.load_state_dict(Adam(self.net.params).state_dict())
        self.card.room.push()

    def runs(self, batch: int) -> dict[str, Run]:
        """Return our step, recorded and launched one by one."""
        card, a = self.card, self.card.room
        x, y = card.sets[True]
        launches = [*card.kernels.forward(batch, x, y, a.r, a)]
        launches += card.kernels.backward(batch, a)

        def in_turn() -> None:
            for launch in launches:
                launch(card.stream)

        def one_by_one(rows: np.ndarray) -> None:
            before, card.recorded = card.recorded, {(batch, True): in_turn}
            card.run([*rows], True)
            card.recorded = before

        return {
            "ours": lambda rows: card.run([*rows], True),
            "ours, launched one by one": one_by_one,
        }


def theirs(network: str, data: Dataset, batch: int) -> dict[str, Run]:
    """Return PyTorch's step: as usual, recorded, and for 100 images compiled and recorded."""
    import torch

    images = torch.from_numpy(data.x_train).cuda()
    labels = torch.from_numpy(data.y_train).cuda()
    runs: dict[str, Run] = {}
    ways = ["PyTorch", "PyTorch, CUDA graph"]
    ways += ["PyTorch, compiled, CUDA graph"] * (batch == 100)
    for who in ways:
        net = torch_net(network).cuda()
        adam = torch.optim.Adam(net.parameters(), fused=True, capturable=True)
        chosen = torch.arange(batch, device="cuda")

        def cost(i, net=net):
            return torch.nn.functional.cross_entropy(net(images[i]), labels[i])

        compiled = torch.compile(cost) if "compiled" in who else cost

        def step(adam=adam, chosen=chosen, cost=compiled) -> None:
            adam.zero_grad()
            cost(chosen).backward()
            adam.step()

        launch = step if who == "PyTorch" else recorded_by_torch(step)

        def run(rows, launch=launch, chosen=chosen) -> None:
            order = torch.from_numpy(rows).cuda()
            for i in order:
                chosen.copy_(i)
                launch()
            torch.cuda.synchronize()

        runs[who] = run
    return runs


def recorded_by_torch(step: Callable[[], None]) -> Callable[[], None]:
    """Return PyTorch's CUDA graph of a step, after some steps on another stream."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


# --- What is measured ---


def spread(seconds: list[float]) -> dict:
    """Return median and quartiles."""
    low, middle, high = quantiles(seconds, n=4)
    return {"median": middle, "quartiles": [low, high]}


def step_records(
    network: str, batch: int, steps: int, N: int, runs: dict[str, Run]
) -> list[dict]:
    """Let them take turns."""
    rng, times = np.random.default_rng(0), {who: [] for who in runs}
    rows = np.stack([rng.permutation(N)[:batch] for _ in range(steps)])
    for run in runs.values():
        run(rows)
    for _ in range(ROUNDS if batch > 2 else 2):
        for who, run in runs.items():
            start = perf_counter()
            run(rows)
            times[who].append((perf_counter() - start) / steps)
    about = {"what": "step", "network": network, "batch": batch, "steps": steps}
    return [about | {"who": who} | spread(t) for who, t in times.items()]


def phase_records(network: str, mine: Ours, batch: int) -> list[dict]:
    """Time each kernel of a step alone, sent many times in one recorded list."""
    card, a, records = mine.card, mine.card.room, []
    (x, y), kernels, count = (
        card.sets[True],
        card.kernels,
        min(20, len(a.order) // batch),
    )
    launches = [*kernels.forward(batch, x, y, a.r, a), *kernels.backward(batch, a)]
    hidden, blame = ["hidden"] * len(kernels.hidden), ["blame"] * len(kernels.blame)
    names = ["convolve", *hidden, "score", *blame, "deconvolve", "update"]
    for name, launch in zip(names, launches, strict=True):
        launch(card.stream)
        again, times = record([launch] * count, card.stream), []
        for _ in range(ROUNDS if batch > 2 else 2):
            a.clock.copy_to_device(np.array([0, 1], np.int32), stream=card.stream)
            card.stream.synchronize()
            start = perf_counter()
            again()
            card.stream.synchronize()
            times.append((perf_counter() - start) / count)
        about = {"what": "phase", "network": network, "batch": batch, "kernel": name}
        records.append(about | spread(times))
    return records


def check_records(network: str, mine: Ours, data: Dataset, batch: int) -> list[dict]:
    """Compare 1 step and more with NumPy's, and two runs with each other, bit by bit."""
    cnn.use("numpy")
    rng, records = np.random.default_rng(1), []
    for steps in (1, min(20, mine.card.every)):
        dealt = [rng.permutation(len(data.x_train))[:batch] for _ in range(steps)]
        net = mine.make(rng=np.random.default_rng(0))
        adam, found = Adam(net.params), []
        J = [cnn.train_step(net, adam, data.x_train[i], data.y_train[i]) for i in dealt]
        for _ in range(2):
            mine.begin()
            costs = mine.card.run(dealt, True)[:, 0].reshape(steps, batch).mean(axis=1)
            mine.card.room.pull()
            found.append([costs, *mine.net.state_dict().values()])
        pairs = zip(net.params.values(), found[0][1:], strict=True)
        about = {"what": "check", "network": network, "steps": steps}
        about["costs"] = float(np.abs(found[0][0] - J).max())
        about["weights"] = max(float(np.abs(a - b).max()) for a, b in pairs)
        about["same bits"] = all(map(np.array_equal, *found))
        records.append(about)
    cnn.use("auto")
    return records


def epoch_record(
    network: str, recipe: str, train: Callable, epochs: int, every: int
) -> dict:
    """Train; the seconds are those after the first test, for all steps, so without compiling."""
    _, history = train()
    total = len(history.loss)
    seconds = history.seconds[-1] - history.seconds[0]
    about = {"what": "epochs", "network": network, "recipe": recipe, "epochs": epochs}
    about["seconds"] = seconds * total / max(1, total - every)
    return about | {"error": history.test_error[-1], "tests": len(history.iterations)}


@cuda.jit
def nothing() -> None:
    """Let every block do nothing."""


def meeting_record() -> dict:
    """Time what is between two kernels of a recorded list: all blocks of one must be done."""
    stream, count, times = cuda.stream(), 100, []
    empty = Launch(nothing, 2, 1, 0, ())
    empty(stream)
    launch = record([empty] * count, stream)
    for _ in range(ROUNDS):
        stream.synchronize()
        start = perf_counter()
        launch()
        stream.synchronize()
        times.append((perf_counter() - start) / count)
    return {"what": "meeting", "least": min(times), "most": max(times)}


# --- All of it ---


def tiny() -> list[dict]:
    """Go through all that is ours."""
    sys.setswitchinterval(1e-5)  # the simulator's threads wait for each other
    data = tiny_data()

    def train() -> tuple:
        net = tiny_cnn(rng=np.random.default_rng(0))
        how = {"epochs": 2, "batch_size": 3, "every": 2, "device": "cuda"}
        how["rng"] = np.random.default_rng(0)
        return net, cnn.fit(net, Adam(net.params), data, **how)

    mine = Ours(tiny_cnn, data, 2, 2)
    records = step_records("tiny", 2, 1, 6, mine.runs(2))
    records += phase_records("tiny", mine, 2) + check_records("tiny", mine, data, 2)
    return [*records, epoch_record("tiny", "constant", train, 2, 2), meeting_record()]


def everything() -> list[dict]:
    """Measure both networks."""
    data, records = cnn.load(download=True), []
    N = len(data.x_train)
    for network in ("simple", "deep"):
        mine = Ours(getattr(cnn, f"{network}_cnn"), data, 1000, 300)
        records += check_records(network, mine, data, 100)
        for batch, steps in ((100, 300), (1000, 60)):
            runs = mine.runs(batch) | theirs(network, data, batch)
            records += step_records(network, batch, steps, N, runs)
            records += phase_records(network, mine, batch)
        for recipe in cnn.recipes.RECIPES:

            def train(network: str = network, recipe: str = recipe) -> tuple:
                return cnn.train(data, network, recipe, epochs=15, device="cuda")

            records.append(epoch_record(network, recipe, train, 15, 100))
    return [*records, meeting_record()]


def about_the_card() -> dict:
    """Return what the numbers depend on: the card in the processor's place."""
    found = machine()
    if not SIMULATED:
        device = cuda.get_current_device()
        name = device.name
        found["cpu"] = name.decode() if isinstance(name, bytes) else name
        found["driver"] = ".".join(map(str, cuda.cudadrv.driver.driver.get_version()))
    return found


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    out = ROOT / "book" / "runs" / "gpu.json"
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--tiny", action="store_true", help="ours alone, in no time")
    args = parser.parse_args()
    if not cuda.is_available():
        parser.error(
            "no graphics processor of Nvidia's is found; --tiny runs in the simulator"
        )
    records = tiny() if args.tiny else everything()
    stored = {"trial": False, "machine": about_the_card(), "records": records}
    args.out.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
