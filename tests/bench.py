"""Measure training steps, ours beside PyTorch's, and write them to ``book/runs/bench.json``.

    python tests/bench.py [--out FILE] [--quick]

The whole of it takes a quarter of an hour on a quiet machine, ``--quick`` three minutes.

Ours and PyTorch take turns in one process, round after round, so that whatever else the machine
does meets both; a turn during which the cores are far apart is taken again. Every setting gets a
process of its own: threads that one library keeps spinning would slow down the next. Not a test:
no verdict depends on a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "book" / "tools"))

from machine import machine  # noqa: E402

OUT = ROOT / "book" / "runs" / "bench.json"
BATCHES = (16, 32, 64, 100, 128, 256, 512, 1024)
ROUNDS = 5
# what our side is made of: the argument of cnn.use, and the environment of the process
OURS: dict[str, tuple[str, dict[str, str]]] = {
    "compiled": ("auto", {}),
    "numpy": ("numpy", {}),
    "compiled, dense by BLAS": ("auto", {}),
    "compiled, threads that sleep": ("auto", {"NUMBA_THREADING_LAYER": "workqueue"}),
}
Step = Callable[[], object]


def our_steps(network: str, ours: str, x: np.ndarray, y: np.ndarray) -> dict[str, Step]:
    """Return one training step and one forward pass of ours."""
    import cnn
    from cnn.dense import linear, linear_backward

    cnn.use("numpy")
    plain = {door: door.behind for door in (linear, linear_backward)}
    cnn.use(OURS[ours][0])
    if "BLAS" in ours:
        for door, function in plain.items():
            door.behind = function
    net = getattr(cnn, f"{network}_cnn")(rng=np.random.default_rng(0))
    optimizer = cnn.Adam(net.params)
    return {
        "step": lambda: cnn.train_step(net, optimizer, x, y),
        "forward": lambda: net(x),
    }


def torch_net(network: str) -> object:
    """Return PyTorch's twin of a network."""
    from torch import nn

    convolutions = {
        "simple": [nn.Conv2d(1, 2, 5), nn.ReLU()],
        "deep": [
            *(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU()),
            *(nn.Conv2d(4, 8, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Conv2d(8, 12, 4, stride=2, padding=1), nn.ReLU()),
        ],
    }[network]
    inputs = {"simple": 2 * 24 * 24, "deep": 12 * 7 * 7}[network]
    dense = [nn.Linear(inputs, 200), nn.ReLU(), nn.Linear(200, 10)]
    return nn.Sequential(*convolutions, nn.Flatten(), *dense)


def torch_steps(
    net: object, fused: bool, x: np.ndarray, y: np.ndarray
) -> dict[str, Step]:
    """Return one training step and one forward pass of PyTorch's twin."""
    import torch
    from torch import nn

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def forward() -> object:
        with torch.no_grad():
            return net(images)

    return {"step": step, "forward": forward}


def on_threads(step: Step, threads: int) -> Step:
    """Return the same work done by so many threads: beside other numbers, in the same run."""
    import numba

    def run() -> None:
        numba.set_num_threads(threads)
        step()

    return run


def arithmetic() -> Step:
    """Return two tasks of multiplying and adding in registers: what two cores give at most."""
    import numba

    @numba.njit(parallel=True, fastmath={"contract"})
    def burn(n, rate, rise):
        total = np.zeros(2)
        for task in numba.prange(2):
            a = b = c = d = e = f = g = h = 1.0 + task
            for _ in range(n):
                a, b, c, d = (
                    a * rate + rise,
                    b * rate + rise,
                    c * rate + rise,
                    d * rate + rise,
                )
                e, f, g, h = (
                    e * rate + rise,
                    f * rate + rise,
                    g * rate + rise,
                    h * rate + rise,
                )
            total[task] = a + b + c + d + e + f + g + h
        return total

    return lambda: burn(300_000, 0.999, 0.001)


def scaling(quick: bool, ready: Callable[[], bool]) -> list[dict]:
    """Return records of one thread and two, and of all large batches, all taking turns."""
    contestants = {("arithmetic", "", 0): arithmetic()}
    for network in ("simple", "deep"):
        for batch in (100,) if quick else BATCHES[2:]:
            step = our_steps(network, "compiled", *batch_of(batch))["step"]
            contestants["compiled", network, batch] = step
    steps = {
        (threads, *key): on_threads(step, threads)
        for key, step in contestants.items()
        for threads in (2, 1)
    }
    repeats = {key: max(4, min(20, 2000 // (key[3] or 100))) for key in steps}
    times = in_turns(steps, repeats, 2 if quick else 20, ready)
    return [
        {
            "who": who,
            "network": network,
            "threads": threads,
            "batch": batch,
            "what": "in turns",
            **summary(times[threads, who, network, batch]),
        }
        for threads, who, network, batch in steps
    ]


def batch_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random images and labels: their values do not matter to the time."""
    rng = np.random.default_rng(size)
    return rng.random((size, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, size)


def handshakes() -> Step:
    """Return forty tasks so small that two threads do little but wait for each other."""
    import torch

    a = torch.rand(100_000)

    def forty() -> None:
        for _ in range(40):
            torch.mul(a, 2.0, out=a)

    return forty


def nearest(quick: bool) -> list[dict]:
    """Return the shortest time of ``handshakes``, in seconds, of a minute and a half or of 3 s."""
    shake, start = handshakes(), perf_counter()
    best = seconds(shake)
    while perf_counter() - start < (3 if quick else 90):
        best = min(best, seconds(shake))
        sleep(0.01)
    return [{"best": best}]


def near(best: float, minutes: int) -> Callable[[], bool]:
    """Return a function that tells whether the two cores are near each other at the moment.

    Near means that ``handshakes`` take about as long as at their best. On a virtual machine that
    changes from moment to moment, and in steps: 1.15 times the best is another state than 1.05.
    With it changes the time of every step of short tasks, ours and PyTorch's. After so many
    ``minutes`` of noes the answer is always yes: a machine that is never quiet is measured as it
    is.
    """
    shake, patience = handshakes(), 1200 * minutes

    def question() -> bool:
        nonlocal patience
        shake()  # the threads of the turn before may still be spinning
        if median(seconds(shake) for _ in range(8)) < 1.1 * best or not patience:
            return True
        patience -= 1
        sleep(0.05)
        return False

    return question


def in_turns(
    steps: dict[Hashable, Step],
    repeats: dict[Hashable, int],
    rounds: int,
    ready: Callable[[], bool],
) -> dict[Hashable, list[float]]:
    """Return each contestant's times in seconds, in rounds of ``repeats`` steps.

    A turn begins when the cores are near each other, and is taken again if they no longer are.
    """
    times: dict[Hashable, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        names = list(steps)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            ended_well = False
            while not ended_well:
                while not ready():
                    pass
                for _ in range(3):  # wake the threads, fill the caches
                    steps[name]()
                taken = [seconds(steps[name]) for _ in range(repeats[name])]
                ended_well = ready()
            times[name] += taken
    return times


def seconds(step: Step) -> float:
    """Return how long a step takes."""
    start = perf_counter()
    step()
    return perf_counter() - start


def summary(times: list[float]) -> dict[str, int | float | list[float]]:
    """Return how many times there are, their median, quartiles and minimum."""
    low, middle, high = quantiles(times, n=4)
    return {
        "steps": len(times),
        "median": middle,
        "quartiles": [low, high],
        "minimum": min(times),
    }


def measure(
    ours: str,
    threads: int,
    network: str,
    batch: int,
    quick: bool,
    ready: Callable[[], bool],
) -> list[dict]:
    """Return a record for each contestant and each kind of work."""
    x, y = batch_of(batch)
    contestants = {
        ours: our_steps(network, ours, x, y),
        "PyTorch": torch_steps(torch_net(network), False, x, y),
        "PyTorch, fused Adam": torch_steps(torch_net(network), True, x, y),
    }
    records = []
    for what in ("step", "forward") if batch == 100 else ("step",):
        steps = {name: kinds[what] for name, kinds in contestants.items()}
        repeats = dict.fromkeys(steps, 4 if quick else max(8, min(50, 5000 // batch)))
        for name, times in in_turns(steps, repeats, ROUNDS, ready).items():
            records.append(
                {
                    "who": name,
                    "beside": ours,
                    "network": network,
                    "threads": threads,
                    "batch": batch,
                    "what": what,
                    **summary(times),
                }
            )
    return records


def memory(who: str, network: str, batch: int) -> list[dict]:
    """Return by how many bytes ten steps raise this process's peak memory."""
    x, y = batch_of(batch)
    make = {"PyTorch": lambda: torch_steps(torch_net(network), False, x, y)["step"]}
    step = make.get(who, lambda: our_steps(network, who, x, y)["step"])()
    tiny = batch_of(2)
    small = {"PyTorch": lambda: torch_steps(torch_net(network), False, *tiny)["step"]}
    small.get(who, lambda: our_steps(network, who, *tiny)["step"])()()
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak begins here
    before = resident("VmRSS")
    for _ in range(10):
        step()
    peak = resident("VmHWM") - before
    return [
        {
            "who": who,
            "network": network,
            "batch": batch,
            "what": "memory",
            "bytes": peak,
        }
    ]


def resident(field: str) -> int:
    """Return this process's memory in bytes, now (VmRSS) or at its peak (VmHWM); Linux only."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}: memory is measured on Linux only")


def together(who: str, x: np.ndarray, y: np.ndarray) -> tuple[Step, list[float]]:
    """Return a step of the larger network shared by the processes of this job.

    The list grows by the seconds that ours spends on each sum, waiting included.
    """
    talking: list[float] = []
    if who == "DDP":
        import torch
        from torch.nn.parallel import DistributedDataParallel

        rank, size = int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"])
        how = {"rank": rank, "world_size": size, "init_method": os.environ["MEETING"]}
        torch.distributed.init_process_group("gloo", **how)
        net = DistributedDataParallel(torch_net("deep"))
        return torch_steps(net, True, x[rank::size], y[rank::size])["step"], talking
    import cnn
    from cnn.parallel import share, started, step_together

    net = cnn.deep_cnn(rng=np.random.default_rng(0))
    optimizer, workers = cnn.Adam(net.params), started()
    if workers is None:
        return lambda: cnn.train_step(net, optimizer, x, y), talking
    add = workers.sum
    workers.sum = lambda a: timed(add, a, talking)
    twin = share(net, workers)
    return lambda: step_together(workers, twin, optimizer, x, y), talking


def timed(function: Callable, a: np.ndarray, times: list[float]) -> np.ndarray:
    """Call a function, and note how long it takes."""
    start = perf_counter()
    result = function(a)
    times.append(perf_counter() - start)
    return result


def parallel(job: dict) -> list[dict]:
    """Let processes and threads take turns with PyTorch's processes; each turn starts anew."""
    turns: dict = {}
    mpiexec = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"]
    starts = {"two workers": (mpiexec, 1), "two threads": ([], 2), "DDP": (mpiexec, 1)}
    for turn in range(2 if job["quick"] else ROUNDS):
        for batch in (100, 1000):
            for who, (start, threads) in starts.items():
                part = {"kind": "turn", "who": who, "batch": batch, "threads": threads}
                with tempfile.TemporaryDirectory() as folder:
                    meeting = {"MEETING": f"file://{folder}/{turn}"}
                    found = run(part, start, meeting)
                turns.setdefault((who, batch), []).append(found)
    return [
        {
            "who": who,
            "network": "deep",
            "batch": batch,
            "threads": starts[who][1],
            "what": "parallel",
            "talking": median(t for found in rounds for t in found["talking"] or [0]),
            **summary([t for found in rounds for t in found["step"]]),
        }
        for (who, batch), rounds in turns.items()
    ]


def one_turn(job: dict) -> dict[str, list[float]]:
    """Take some steps, this process alone or with others, and return their seconds."""
    step, talking = together(job["who"], *batch_of(job["batch"]))
    for _ in range(10):
        step()
    talking.clear()
    times = [seconds(step) for _ in range(20_000 // job["batch"])]
    return {"step": times, "talking": talking}


HOSTS, MBIT = 4, 100
# MPI must believe that these are different machines, and use their network
CABLE = ["-genv", "MPIR_CVAR_NOLOCAL", "1", "-genv", "UCX_TLS", "tcp"]
LAUNCH = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
host=${1##*.}
shift
exec ip netns exec cnn$host bash -c "$*"
"""


def cable() -> list[dict]:
    """Measure messages and sums between four hosts, with cables of 100 Mbit/s each.

    The hosts are network namespaces of this machine: it takes Linux, root, and ``ip`` and ``tc``.
    Where these are missing, nothing is measured.
    """
    made = [f"ip netns add cnn{k}" for k in range(HOSTS)]
    made += ["ip link add cnn-bridge type bridge", "ip link set cnn-bridge up"]
    for k in range(HOSTS):
        made += [
            f"ip link add cnn-out{k} type veth peer name cnn-in{k} netns cnn{k}",
            f"ip link set cnn-out{k} master cnn-bridge up",
            f"ip -n cnn{k} addr add 10.77.0.{k}/24 dev cnn-in{k}",
            f"ip -n cnn{k} link set cnn-in{k} up",
            f"ip -n cnn{k} link set lo up",
            f"ip netns exec cnn{k} tc qdisc add dev cnn-in{k} root tbf "
            f"rate {MBIT}mbit burst 32k latency 400ms",
        ]
    try:
        for command in made:
            subprocess.run(command.split(), check=True, capture_output=True)
        with tempfile.TemporaryDirectory() as folder:
            launcher = Path(folder, "launch")
            launcher.write_text(LAUNCH, "utf-8")
            launcher.chmod(0o755)
            hosts = ",".join(f"10.77.0.{k}" for k in range(HOSTS))
            mpiexec = str(Path(sys.executable).with_name("mpiexec"))
            start = ["ip", "netns", "exec", "cnn0", mpiexec, *CABLE]
            start += ["-launcher", "ssh", "-launcher-exec", str(launcher)]
            start += ["-hosts", hosts, "-ppn", "1", "-n", f"{HOSTS}"]
            return run({"kind": "messages", "threads": 1}, start)
    except (OSError, subprocess.CalledProcessError):
        return []
    finally:
        for command in [
            "ip link del cnn-bridge",
            *(f"ip netns del cnn{k}" for k in range(HOSTS)),
        ]:
            with suppress(OSError):
                subprocess.run(command.split(), check=False, capture_output=True)


def messages() -> list[dict]:
    """Time messages between two of this job's processes, and the ring's sum among all."""
    from mpi4py import MPI

    from cnn.allreduce import sum_ring

    comm, records = MPI.COMM_WORLD, []
    for n in (8, 4096, 2**16, 2**18, 2**20):
        a, times = np.zeros(n, np.uint8), []
        for _ in range(21):
            comm.Barrier()
            start = perf_counter()
            if comm.rank == 0:
                comm.Send(a, dest=1)
                comm.Recv(a, source=1)
            elif comm.rank == 1:
                comm.Recv(a, source=0)
                comm.Send(a, dest=0)
            times.append((perf_counter() - start) / 2)
        records.append({"what": "message", "bytes": n, **summary(times[1:])})
    gradients, times = np.zeros(122_270, np.float32), []
    for _ in range(11):
        comm.Barrier()
        times.append(seconds(lambda: sum_ring(comm, gradients)))
    sums = {"what": "sum", "workers": comm.size, "bytes": gradients.nbytes}
    return [*records, sums | summary(times[1:])]


def worker(job: dict) -> list[dict] | dict:
    """Do one job in this process."""
    if job["kind"] == "parallel":
        return [*parallel(job), *cable()]
    if job["kind"] == "messages":
        return messages()
    if job["kind"] == "memory":
        return memory(job["who"], job["network"], job["batch"])
    import torch  # before our loops start threads, so that neither's settings reach the other

    torch.set_num_threads(job["threads"])
    if job.get("ours") != "numpy":
        import numba

        numba.set_num_threads(job["threads"])
    if job["kind"] == "nearest":
        return nearest(job["quick"])
    if job["kind"] == "turn":
        return one_turn(job)
    alone = job["threads"] == 1
    # what one thread and two tell depends most on how near the cores are
    scales = job["kind"] == "scaling"
    ready = (lambda: True) if alone else near(job["best"], 20 if scales else 3)
    if scales:
        return scaling(job["quick"], ready)
    cases = [
        (network, batch) for network in ("simple", "deep") for batch in job["batches"]
    ]
    return [
        record
        for network, batch in cases
        for record in measure(
            job["ours"], job["threads"], network, batch, job["quick"], ready
        )
    ]


def jobs(quick: bool) -> list[dict]:
    """Return what is to be measured, a process for each."""
    batches = (64, 100) if quick else BATCHES
    main = [
        {
            "kind": "time",
            "ours": ours,
            "threads": threads,
            "batches": batches,
            "quick": quick,
        }
        for ours in ("compiled", "numpy")
        for threads in (2, 1)
    ]
    tried = [
        {"kind": "time", "ours": ours, "threads": 2, "batches": (100,), "quick": quick}
        for ours in OURS
        if "," in ours
    ]
    peaks = [
        {"kind": "memory", "who": who, "network": network, "batch": batch, "threads": 2}
        for who in ("compiled", "numpy", "PyTorch")
        for network in ("simple", "deep")
        for batch in (100, 1024)
    ]
    first = [
        {"kind": kind, "threads": 2, "quick": quick} for kind in ("scaling", "parallel")
    ]
    return [*first, *main, *tried, *peaks]


def run(
    job: dict, start: Sequence[str] = (), more: Mapping[str, str] = {}
) -> list[dict] | dict:
    """Do one job in a process of its own, with the number of threads set from its start."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(variables, str(job["threads"]))
    environment |= OURS[job["ours"]][1] if "ours" in job else more
    result = subprocess.run(
        [*start, sys.executable, __file__, "--job", json.dumps(job)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"bench: {job} failed:\n{result.stderr}")
    return json.loads(result.stdout)


def ratios(records: list[dict]) -> list[str]:
    """Return the lines of the table: our time, the faster PyTorch's, and their ratio."""
    lines = [
        f"{'who':34} {'net':7} {'threads':>7} {'batch':>6} "
        f"{'ours ms':>8} {'PyTorch ms':>10} {'ratio':>6}"
    ]
    for r in records:
        if r["what"] == "step" and r["who"] == r["beside"]:
            key = ("beside", "network", "threads", "batch", "what")
            rivals = [
                o for o in records if o["what"] == "step" and "PyTorch" in o["who"]
            ]
            best = min(o["median"] for o in rivals if all(o[k] == r[k] for k in key))
            lines.append(
                f"{r['who']:34} {r['network']:7} {r['threads']:7} {r['batch']:6} "
                f"{1e3 * r['median']:8.2f} {1e3 * best:10.2f} {best / r['median']:6.2f}"
            )
    return lines


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    parser.add_argument(
        "--quick", action="store_true", help="few batch sizes, few steps"
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        found = json.dumps(worker(json.loads(args.job)))
        if os.environ.get("PMI_RANK", "0") == "0":  # one of several speaks
            print(found)
        return
    from tqdm import tqdm

    from cnn.files import replace_file

    todo = tqdm(jobs(args.quick), "watching the cores", unit="job", disable=None)
    (nearest,) = run({"kind": "nearest", "threads": 2, "quick": args.quick})
    todo.set_description("measuring")
    records = [record for job in todo for record in run(job | nearest)]
    result = json.dumps({"machine": machine(), "records": records}, indent=1) + "\n"
    replace_file(args.out, lambda file: file.write(result.encode()))
    print(*ratios(records), sep="\n")


if __name__ == "__main__":
    main()
