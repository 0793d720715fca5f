"""Train both networks with every recipe, ours and PyTorch's twins, over many seeds.

    python book/tools/replicate.py [--seeds N] [--jobs N]

Before them, ours with several shares of dropout is tested on training images that were held out;
the recipe's share is chosen by these runs. After them, the larger network learns from augmented
images. Each run that is not in the file yet is added to it: interrupted, the same command goes on.
The chapters draw what is in ``book/runs/replication.json``; nothing else reads or needs it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from statistics import mean

from machine import machine

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "book" / "runs" / "replication.json"
WEIGHTS = ROOT / "cnn" / "deep-mnist.safetensors"
HELD_OUT = 10_000  # of the training images, for the choice of the share
SHARES = (0.0, 0.1, 0.25, 0.5)
EPOCHS = 60  # on augmented images, of which none comes twice
Run = tuple[str, str, str, int]


def plan(seeds: int) -> list[Run]:
    """Return the runs: who computes, model, recipe, seed."""
    from cnn.recipes import MODELS, RECIPES

    chosen = [
        ("ours", "deep", f"held out, {share}", seed)
        for seed in range(3)
        for share in SHARES
    ]
    return (
        chosen
        + [
            (name, model, recipe, seed)
            for seed in range(seeds)
            for name in ("ours", "PyTorch")
            for model in reversed(MODELS)
            for recipe in reversed(RECIPES)
        ]
        + [("ours", "deep", "augmented", seed) for seed in range(seeds)]
    )


def train(run: Run) -> dict:
    """Make one run on MNIST and return its record."""
    who, model, recipe, seed = run
    import cnn  # with it come the compiled loops
    from cnn import recipes
    from cnn.augment import fit_augmented
    from cnn.data import Dataset, mnist

    data = mnist()
    if recipe.startswith("held out"):
        recipes.RECIPES[recipe] = recipes.DECAY, float(recipe.partition(", ")[2])
        x, y = data.x_train, data.y_train
        parts = x[:-HELD_OUT], y[:-HELD_OUT], x[-HELD_OUT:], y[-HELD_OUT:]
        data = Dataset(data.name, *parts)
    if recipe == "augmented":
        slower = replace(recipes.DECAY, tau=recipes.DECAY.tau * EPOCHS / 15)
        how = {"epochs": EPOCHS, "lr": slower, "fit": fit_augmented, "seed": seed}
        _, history = recipes.train(data, model, "dropout", **how)
    elif who == "ours":
        net, history = cnn.train(data, model, recipe, seed=seed)
        if (model, recipe, seed) == ("deep", "dropout", recipes.SEED):
            cnn.save_weights(WEIGHTS, net)
    else:
        import torch

        from cnn.pytorch import train_twin

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        _, history = train_twin(data, model, recipe, seed=seed)
    per_epoch = -(-len(data.x_train) // 100)
    return {
        "who": who,
        "model": model,
        "recipe": recipe,
        "seed": seed,
        "machine": machine(),
        "test_error": history.test_error[-1],
        "test_loss": history.test_loss[-1],
        "train_loss": mean(history.loss[-per_epoch:]),
        "iterations": history.iterations,
        "test_errors": [round(error, 5) for error in history.test_error],
    }


def main() -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 to N - 1")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    args = parser.parse_args()
    from tqdm import tqdm

    from cnn.files import replace_file

    records = json.loads(OUT.read_text()) if OUT.exists() else []
    known = {tuple(r[k] for k in ("who", "model", "recipe", "seed")) for r in records}
    todo = [run for run in plan(args.seeds) if run not in known]
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    for name in ("NUMBA", "OMP", "OPENBLAS"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, spawn) as pool:
        runs = [pool.submit(train, run) for run in todo]
        for done in tqdm(as_completed(runs), total=len(runs), unit="run", disable=None):
            records.append(done.result())
            result = json.dumps(records) + "\n"
            replace_file(OUT, lambda f, text=result: f.write(text.encode()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
