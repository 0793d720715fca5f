"""Digits redrawn as people's pictures come: on paper, in shade, in frames, cropped, in many files.

    python book/redrawn.py [N]      the table of all ways, for the first N digits of each set

A way takes an image (28, 28), ink 1 on 0, and a generator, and gives grey values or a picture.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cnn.pictures import read_digit

H, W = 240, 320
I, J = np.mgrid[:H, :W]
Way = Callable[[np.ndarray, np.random.Generator], "np.ndarray | Image.Image"]


def enlarge(x: np.ndarray, k: int) -> np.ndarray:
    """Enlarge an image k times, with soft edges."""
    picture = Image.fromarray(np.float32(x))
    size = (k * x.shape[1], k * x.shape[0])
    return np.clip(np.asarray(picture.resize(size, Image.Resampling.BICUBIC)), 0, 1)


def box(x: np.ndarray) -> np.ndarray:
    """Crop an image to its ink."""
    rows, columns = (np.flatnonzero(x.max(axis=axis) > 0.2) for axis in (1, 0))
    return x[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def placed(x: np.ndarray, rng: np.random.Generator, largest: int = 7) -> np.ndarray:
    """Put an image, enlarged, somewhere into an empty page; 1 is ink."""
    pen = enlarge(x, rng.integers(3, largest + 1))
    room = np.subtract((H, W), pen.shape)
    top, left = rng.integers(room // 4, 1 + 3 * room // 4)
    page = np.zeros((H, W))
    page[top : top + len(pen), left : left + len(pen)] = pen
    return page


def paper(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write an image on a sheet of paper."""
    return 0.9 - 0.75 * placed(x, rng)


def noisy(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of a sensor."""
    return np.clip(grey + rng.normal(0, 0.015, grey.shape), 0, 1)


def framed(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a line around the page, at its edge or a little inside."""
    outer = rng.choice([0, 4, 15])
    inner = outer + rng.integers(1, 7)
    edge = np.minimum(np.minimum(I, H - 1 - I), np.minimum(J, W - 1 - J))
    line = (edge >= outer) & (edge < inner)
    return np.where(line, 0.15, 0.9 - 0.75 * placed(x, rng, 5))


def on_table(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay the sheet, not quite straight, on a dark table that shows at some of its edges."""
    slope, grey = rng.uniform(-0.08, 0.08), 0.9 - 0.75 * placed(x, rng, 5)
    top, left, bottom, right = rng.integers(8, 36, 4) * (rng.random(4) < 0.75)
    u, v = I + slope * (J - W / 2), J - slope * (I - H / 2)
    sheet = (u >= top) & (u < H - bottom) & (v >= left) & (v < W - right)
    return noisy(np.where(sheet, grey, 0.25), rng)


def ruled(squared: bool, steepest: float = 0.0) -> Way:
    """Rule the paper, or divide it into squares."""

    def way(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        slope, step = rng.uniform(-steepest, steepest), rng.integers(14, 30)
        thick, dark = rng.integers(1, 3), rng.uniform(0.15, 0.7)
        lines = (I + slope * J) % step < thick
        if squared:
            lines |= (J - slope * I) % step < thick
        grey = paper(x, rng)
        return np.where(lines, np.minimum(grey, dark), grey)

    return way


def shaded(softness: float) -> Way:
    """Put a part of the page into the shade."""

    def way(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi)
        across = np.cos(angle) * (J / W - 0.5) + np.sin(angle) * (I / H - 0.5)
        across = (across - rng.uniform(-0.15, 0.15)) / softness
        return noisy(paper(x, rng) * (1 - 0.55 / (1 + np.exp(-across))), rng)

    return way


def transparent(x: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Draw in black, grey or white on a transparent ground."""
    alpha = np.uint8(255 * placed(x, rng))
    colour = np.full_like(alpha, rng.choice([0, 128, 255]))
    return Image.fromarray(np.dstack([colour, colour, colour, alpha]))


def scaled(white: float, dtype: type) -> Way:
    """Store the page in numbers of another type and scale."""
    return lambda x, rng: Image.fromarray((white * paper(x, rng)).astype(dtype))


WAYS: dict[str, Way] = {
    "on paper": lambda x, rng: noisy(paper(x, rng), rng),
    "on a blackboard": lambda x, rng: noisy(1 - paper(x, rng), rng),
    "cropped to its box": lambda x, rng: 1 - enlarge(box(x), 8),
    "cropped, blocky": lambda x, rng: 1 - np.kron(box(x), np.ones((8, 8))),
    "cropped, bright": lambda x, rng: enlarge(box(x), 8),
    "cropped, on paper": lambda x, rng: noisy(0.9 - 0.7 * enlarge(box(x), 8), rng),
    "as it is, 28×28": lambda x, rng: x,
    "transparent ground": transparent,
    "in a frame": framed,
    "on a dark table": on_table,
    "ruled": ruled(squared=False),
    "ruled, askew": ruled(squared=False, steepest=0.06),
    "squared": ruled(squared=True),
    "squared, askew": ruled(squared=True, steepest=0.05),
    "shadow, hard edge": shaded(0.002),
    "shadow, soft edge": shaded(0.03),
    "shadow, very soft": shaded(0.1),
    "one bit": lambda x, rng: Image.fromarray(paper(x, rng) > 0.5),
    "16 bits": scaled(65535, np.uint16),
    "32 bits": scaled(65535, np.int32),
    "floats to 255": scaled(255, np.float32),
}


def picture_of(way: Way, x: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Redraw an image, as a picture that can be saved."""
    made = way(np.clip(x, 0, 1).astype(np.float64), rng)
    if isinstance(made, np.ndarray):
        made = Image.fromarray(np.uint8(np.round(255 * made)))
    return made


def read_back(way: Way, images: np.ndarray, seed: int = 0) -> list[np.ndarray | None]:
    """Redraw each image, write it to a file, and read it; None where it was refused."""
    rng, read = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as folder:
        for x in images[:, 0]:
            path = Path(folder) / "x.tif"
            picture_of(way, x, rng).save(path)
            try:
                read.append(read_digit(path))
            except ValueError:
                read.append(None)
    return read


def main() -> None:
    """Print how many digits are refused and misread, by way and set."""
    from cnn import digits, load, load_weights, probabilities

    N = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    net = load_weights()
    for data in (load(), digits()):
        x, y = data.x_test[:N], data.y_test[:N]
        direct = probabilities(net, x).argmax(axis=1) != y
        print(f"{data.name}, {len(x)} digits, {direct.sum()} misread as they are")
        for name, way in WAYS.items():
            images = read_back(way, x)
            kept = [k for k, image in enumerate(images) if image is not None]
            P = probabilities(net, np.concatenate([images[k] for k in kept]))
            wrong = (P.argmax(axis=1) != y[kept]).sum()
            print(
                f"  {name:20} refused {len(x) - len(kept):3}, misread {wrong:3}",
                flush=True,
            )


if __name__ == "__main__":
    main()
