"""A network that has seen more.

Exported from book/22-handwriting.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .data import Dataset, batches
from .network import Sequential
from .optimizers import Optimizer
from .shapes import check_generator, shapes
from .training import History, evaluate, loop, train_step

__all__ = [
    "bilinear", "warp", "ANGLE", "SLANT", "GROWTH", "SHIFT", "draw_maps", "augment",
    "fit_augmented",
]  # fmt: skip


# --- A network that has seen more ---
@shapes("x (N, C, H, W) float, h (N, P) float, w (N, P) float")
def bilinear(x: np.ndarray, h: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Read P points (h, w) of each image, between its pixels, as an array (N, C, P).

    Implements {eq}`eq:bilinear`.
    """
    N, C, H, W = x.shape
    xbar = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).reshape(N, C, -1)
    h, w = np.clip(h, -1, H) + 1, np.clip(w, -1, W) + 1
    top, left = np.minimum(np.floor(h), H), np.minimum(np.floor(w), W)
    down, right = (h - top)[:, np.newaxis], (w - left)[:, np.newaxis]
    first = (top * (W + 2) + left).astype(np.intp)[:, np.newaxis]
    a, b, c, d = (
        np.take_along_axis(xbar, first + k, axis=2) for k in (0, 1, W + 2, W + 3)
    )
    upper, lower = a + right * (b - a), c + right * (d - c)
    return upper + down * (lower - upper)


@shapes("x (N, C, H, W) float, M (N, 2, 2) float, o (N, 2) float")
def warp(x: np.ndarray, M: np.ndarray, o: np.ndarray) -> np.ndarray:
    """Move each image by its affine map: the new image's points are M · old + o.

    Implements {eq}`eq:affine-map`.
    """
    H, W = x.shape[2:]
    middle = np.array([[H - 1], [W - 1]], x.dtype) / 2
    ij = np.indices((H, W), x.dtype).reshape(2, -1)
    hw = M @ (ij - middle) + middle + o[:, :, np.newaxis]
    return bilinear(x, hw[:, 0], hw[:, 1]).reshape(x.shape)


ANGLE, SLANT, GROWTH, SHIFT = np.pi / 15, 0.15, 0.12, 2.0


def draw_maps(N: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw N affine maps: matrices, shape (N, 2, 2), and offsets, shape (N, 2)."""
    phi, psi, alpha = (rng.uniform(-a, a, N) for a in (ANGLE, SLANT, GROWTH))
    turn = np.array([[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]])
    slant = np.array([[np.ones(N), np.zeros(N)], [psi, np.ones(N)]])
    M = (1 + alpha) * np.einsum("abn, bcn -> acn", turn, slant)
    return M.transpose(2, 0, 1), rng.uniform(-SHIFT, SHIFT, (N, 2))


@shapes("x (N, C, H, W) float")
def augment(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, slant, stretch and move each image at random, by a little."""
    check_generator(rng)
    M, o = (a.astype(x.dtype) for a in draw_maps(len(x), rng))
    return warp(x, M, o)


def fit_augmented(
    net: Sequential, optimizer: Optimizer, data: Dataset, *, epochs: int,
    rng: np.random.Generator, batch_size: int = 100,
) -> History:  # fmt: skip
    """Train as ``fit`` does, each batch in a new version; test every 1000 iterations."""
    (chance,), N = rng.spawn(1), len(data.x_train)

    def step(i: np.ndarray) -> float:
        x = augment(data.x_train[i], chance)
        return train_step(net, optimizer, x, data.y_train[i])

    def test() -> tuple[float, float]:
        return evaluate(net, data.x_test, data.y_test)

    dealt = [i for _ in range(epochs) for i in batches(N, batch_size, rng)]
    return loop(step, test, dealt, len(dealt), every=1000)
