"""Your own handwriting.

Exported from book/22-handwriting.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .shapes import check_array, check_integer

__all__ = [
    "CONTRAST", "ink_on_ground", "ink", "check_picture", "resize", "center_of_mass",
    "as_mnist",
]  # fmt: skip


# --- Ink ---
def _shade(grey: np.ndarray) -> np.ndarray:
    """Return the shade of the ground: a surface of second degree without the strokes."""
    H, W = grey.shape
    y, x = np.linspace(-1, 1, H)[:, np.newaxis], np.linspace(-1, 1, W)
    rows, columns = slice(None, None, 1 + H // 100), slice(None, None, 1 + W // 100)
    g = grey[rows, columns].ravel()  # a hundred rows and columns are plenty
    A = _second_degree(x[columns], y[rows])
    border = (np.maximum(np.abs(x[columns]), np.abs(y[rows])) > 0.85).ravel()
    weight = border.astype(np.float64)
    for step in range(12):
        weighted = A * weight[:, np.newaxis]
        c = np.linalg.lstsq(weighted.T @ A, weighted.T @ g, rcond=None)[0]
        r = np.abs(g - A @ c)
        s = 0.02 + 3 * np.median(r[weight > 0.1])
        weight = (border if step < 4 else 1) / (1 + (r / s) ** 2) ** 2
    return np.clip((_second_degree(x, y) @ c).reshape(H, W), 0, 1)


def _second_degree(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return 1, x, y, x², xy, y² for every pixel, shape (H W, 6)."""
    x, y = (a.ravel() for a in np.broadcast_arrays(x, y))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


CONTRAST = 0.1


def ink_on_ground(grey: np.ndarray) -> np.ndarray:
    """Find the ink in a picture whose border is bare ground."""
    b = _shade(grey)
    if _peak(b - grey) >= _peak(grey - b):  # dark on bright
        ink = (b - grey) / np.maximum(b, 0.05)
    else:
        ink = (grey - b) / np.maximum(1 - b, 0.05)
    peak = _peak(ink)
    ground = ink[2 * ink <= peak]
    noise = 1.5 * np.median(np.abs(ground)) if ground.size else np.inf
    if peak < max(CONTRAST, 6 * noise):
        raise ValueError(
            f"no digit found: nothing stands out from the ground (contrast {peak:.2f}, "
            f"noise {noise:.2f}); write with a darker pen, or in better light"
        )
    least = max(0.1 * peak, 5 * noise)
    neighbours = _blur(ink, round(max(grey.shape) / 250))
    return np.where((ink > least) & (neighbours > least), np.minimum(ink / peak, 1), 0)


def ink(grey: np.ndarray) -> np.ndarray:
    """Find the ink in a picture: 0 for the ground, up to 1 for dark or bright strokes."""
    check_picture("grey", grey)
    grey, n = grey.astype(np.float64), max(grey.shape)
    try:
        return ink_on_ground(grey)
    except ValueError:
        rough = _peak(np.abs(grey - _shade(grey)))
        if min(rough, np.ptp(_blur(grey, 1 + n // 40)) / 2) < 0.25:
            raise
    return ink_on_ground(np.pad(grey, n, constant_values=1))[n:-n, n:-n]


def check_picture(name: str, a: np.ndarray) -> None:
    """Raise unless an array is a picture: (H, W), floats from 0 to 1."""
    check_array(name, a, ("H", "W"), kind="real float")
    if not (a.min() >= 0 and a.max() <= 1):
        raise ValueError(
            f"{name} runs from {a.min():.4g} to {a.max():.4g}; expected values from 0 "
            "to 1: divide bytes by 255"
        )


def _peak(ink: np.ndarray) -> float:
    """Return the largest value but for a few, which may be specks."""
    k = 1 + min(20, ink.size // 1000)
    return float(np.partition(ink, ink.size - k, axis=None)[ink.size - k])


def _blur(a: np.ndarray, r: int) -> np.ndarray:
    """Return the means over squares of 2r + 1 pixels a side, smaller at the border."""
    for axis, n in enumerate(a.shape):
        total = np.insert(np.cumsum(a, axis=axis), 0, 0, axis=axis)
        first = np.maximum(np.arange(n) - r, 0)
        last = np.minimum(np.arange(n) + r + 1, n)
        count = np.expand_dims(last - first, 1 - axis)
        a = (total.take(last, axis) - total.take(first, axis)) / count
    return a


# --- Smaller by averaging ---
def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Change an image's size, (H, W) to ``size``, by area averaging.

    Implements {eq}`eq:area-resize`.
    """
    check_array("image", image, ("H", "W"), kind="real")
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size is {size!r}; expected two integers (height, width)")
    S, T = (check_integer("size", n, 1) for n in size)
    A, B = _overlap(image.shape[0], S), _overlap(image.shape[1], T)
    return A @ image @ B.T


def _overlap(H: int, S: int) -> np.ndarray:
    """Return the part of each of S new pixels that each of H old ones fills, (S, H)."""
    i, k = np.arange(S)[:, np.newaxis], np.arange(H)
    s = H / S
    return np.maximum(0, np.minimum((i + 1) * s, k + 1) - np.maximum(i * s, k)) / s


# --- The place to hold it by ---
def center_of_mass(image: np.ndarray) -> tuple[float, float]:
    """Return the mean row and the mean column of an image's ink.

    Implements {eq}`eq:center-of-mass`; whole numbers are the centres of pixels.
    """
    check_array("image", image, ("H", "W"), kind="real")
    m = image.sum(dtype=np.float64)
    if not (image.min() >= 0 and 0 < m < np.inf):
        raise ValueError(
            f"image runs from {image.min():.4g} to {image.max():.4g}; expected finite "
            "values, none negative and not all zero: it has no centre of mass"
        )
    i, j = np.arange(image.shape[0]), np.arange(image.shape[1])
    return float(i @ image.sum(axis=1) / m), float(image.sum(axis=0) @ j / m)


def as_mnist(ink: np.ndarray) -> np.ndarray:
    """Make an image of MNIST's form, shape (1, 1, 28, 28), from a picture's ink."""
    check_picture("ink", ink)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError(
            "ink is zero everywhere; expected a digit: call ink(grey) first"
        )
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    h, w = (max(1, round(20 * n / max(box.shape))) for n in box.shape)
    small = resize(box, (h, w))
    small /= small.max()
    t, u = center_of_mass(small)
    top, left = min(max(round(14 - t), 0), 28 - h), min(max(round(14 - u), 0), 28 - w)
    image = np.zeros((1, 1, 28, 28), dtype=np.float32)
    image[0, 0, top : top + h, left : left + w] = small
    return image
