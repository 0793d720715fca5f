"""Your own handwriting.

Exported from book/22-handwriting.ipynb: edit the chapter and run `make export`.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .shapes import check_array, check_integer

__all__ = [
    "LARGEST",
    "SIDE",
    "read_picture",
    "CONTRAST",
    "ink",
    "resize",
    "center_of_mass",
    "as_mnist",
]


if TYPE_CHECKING:
    from PIL import Image


# --- A file from outside ---


LARGEST = 50_000_000
SIDE = 800


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Read a picture file as grey values.

    Colour becomes grey, what is transparent is laid on white, and a photograph is turned as
    its EXIF entry says. A side longer than ``SIDE`` (800) pixels is reduced to it.

    Parameters
    ----------
    path : path-like
        The file, of any format that Pillow reads, except EPS.

    Returns
    -------
    np.ndarray
        Shape (H, W), dtype float64, from 0 (black) to 1 (white).

    Raises
    ------
    ImportError
        The package Pillow is not installed.
    FileNotFoundError
        There is no such file.
    ValueError
        The file holds no picture, is damaged, or its header promises more than ``LARGEST``
        (50 million) pixels; the message names the file. No such picture is decoded.
    """
    try:
        from PIL import Image
    except ImportError as err:
        raise ImportError(
            "reading pictures needs the package Pillow: pip install pillow"
        ) from err
    path = Path(path)
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as picture:
                _check_picture(picture)
                return _grey(picture)
        except MemoryError:
            raise
        except Exception as err:  # damaged files make decoders fail in many ways
            raise ValueError(
                f"{path} can't be read as a picture ({err}); expected an intact PNG, JPEG or "
                f"similar of at most {LARGEST // 10**6} megapixels"
            ) from err


def _check_picture(picture: "Image.Image") -> None:
    """Raise unless the picture, not yet decoded, is safe to decode."""
    width, height = picture.size
    if width * height > LARGEST:
        raise ValueError(f"its header promises {width}×{height} pixels")
    if picture.format == "EPS":
        raise ValueError("EPS is a program to run, not a picture")


def _grey(picture: "Image.Image") -> np.ndarray:
    """Decode a picture into grey values from 0 to 1, of at most SIDE pixels a side."""
    from PIL import Image, ImageOps

    picture.draft(picture.mode, (SIDE, SIDE))
    picture = ImageOps.exif_transpose(picture)
    white = 255
    if picture.mode[0] in "IF":
        values = np.array(picture, dtype=np.float32)
        largest = values.max()
        if not np.isfinite(values).all():
            raise ValueError("some pixels are no finite numbers")
        white = next((w for w in (1, 65535) if largest <= w), largest)
        white = 65535 if picture.mode[0] == "I" and white == 1 else white
        picture = Image.fromarray(values)
    elif picture.has_transparency_data:
        drawn = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, drawn).convert("L")
    else:
        picture = picture.convert("RGB").convert("L")
    factor = min(1, SIDE / max(picture.size))
    size = [max(1, round(factor * n)) for n in picture.size]
    small = picture.resize(size, Image.Resampling.BOX)
    return np.clip(np.asarray(small, dtype=np.float64) / white, 0, 1)


# --- Ink ---


# what stands out from the ground by less is no ink
CONTRAST = 0.1


def ink(grey: np.ndarray) -> np.ndarray:
    """Find out where there is ink, and how much: the ground becomes 0, the strokes about 1.

    The ground's shade is a curved surface, fitted to the picture from its border inwards.
    Dark strokes on white ground and bright strokes on black ground give the same ink.

    Parameters
    ----------
    grey : np.ndarray
        Shape (H, W), floats from 0 (black) to 1 (white), as ``read_picture`` gives them.

    Returns
    -------
    np.ndarray
        Shape (H, W), dtype float64, from 0 (ground) to 1 (ink).

    Raises
    ------
    TypeError
        ``grey`` is no array of floats.
    ValueError
        It does not have two axes, a value is outside 0 to 1, or nothing stands out from
        the ground (no digit found).
    """
    _check_picture_array("grey", grey)
    grey = grey.astype(np.float64)
    shade = _shade(grey)
    darker, brighter = _peak(shade - grey), _peak(grey - shade)
    if darker >= brighter:  # dark on white: light multiplies
        ink = (shade - grey) / np.maximum(shade, 0.05)
    else:
        ink = (grey - shade) / np.maximum(1 - shade, 0.05)
    peak = _peak(ink)
    ground = ink[2 * ink <= peak]
    noise = 1.5 * np.median(np.abs(ground)) if ground.size else np.inf
    if peak < max(CONTRAST, 6 * noise):
        raise ValueError(
            f"no digit found: nothing stands out from the ground (contrast {peak:.2f}, "
            f"noise {noise:.2f}); write with a darker pen, or in better light"
        )
    least = max(0.1 * peak, 5 * noise)
    neighbours = _blur(ink, round(max(grey.shape) / 250))  # a speck has none
    return np.where((ink > least) & (neighbours > least), np.minimum(ink / peak, 1), 0)


def _check_picture_array(name: str, a: np.ndarray) -> None:
    check_array(name, a, ("H", "W"), kind="real float")
    if not (a.min() >= 0 and a.max() <= 1):
        raise ValueError(
            f"{name} runs from {a.min():.4g} to {a.max():.4g}; expected values from 0 to 1: "
            "divide bytes by 255"
        )


def _peak(ink: np.ndarray) -> float:
    """Return the largest value but for a few, which may be specks."""
    k = 1 + min(20, ink.size // 1000)
    return float(np.partition(ink, ink.size - k, axis=None)[ink.size - k])


def _shade(grey: np.ndarray) -> np.ndarray:
    """Return the shade of the ground, a surface of second degree that ignores the strokes."""
    H, W = grey.shape
    y, x = np.linspace(-1, 1, H)[:, np.newaxis], np.linspace(-1, 1, W)
    rows, columns = slice(None, None, 1 + H // 100), slice(None, None, 1 + W // 100)
    g = grey[rows, columns]  # a hundred rows and columns are plenty for six numbers
    A = _second_degree(x[columns], y[rows])
    border = np.maximum(np.abs(x[columns]), np.abs(y[rows])).ravel() > 0.85
    weight = border.astype(np.float64)
    for step in range(12):
        weighted = A * weight[:, np.newaxis]
        c = np.linalg.lstsq(weighted.T @ A, weighted.T @ g.ravel(), rcond=None)[0]
        r = np.abs(g.ravel() - A @ c)
        s = 0.02 + 3 * np.median(r[weight > 0.1])
        weight = (border if step < 4 else 1) / (1 + (r / s) ** 2) ** 2
    return np.clip((_second_degree(x, y) @ c).reshape(H, W), 0, 1)


def _second_degree(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return 1, x, y, x², xy, y² for every pixel, shape (H W, 6)."""
    x, y = (a.ravel() for a in np.broadcast_arrays(x, y))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _blur(a: np.ndarray, r: int) -> np.ndarray:
    """Return the means over squares of 2r + 1 pixels a side."""
    for axis in (0, 1):
        n = a.shape[axis]
        total = np.insert(np.cumsum(a, axis=axis), 0, 0, axis=axis)
        first, last = (
            np.maximum(np.arange(n) - r, 0),
            np.minimum(np.arange(n) + r + 1, n),
        )
        count = np.expand_dims(last - first, 1 - axis)
        a = (total.take(last, axis) - total.take(first, axis)) / count
    return a


# --- Smaller by averaging ---


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Change an image's size by area averaging.

    Implements {eq}`eq:area-resize`.

    Parameters
    ----------
    image : np.ndarray
        Shape (H, W).
    size : tuple of two int
        The new height and width.

    Returns
    -------
    np.ndarray
        Shape ``size``, dtype float64: every new pixel is the mean over the area that it covers.

    Raises
    ------
    TypeError
        ``image`` is no array of real numbers, or ``size`` does not hold integers.
    ValueError
        ``image`` does not have two axes, or ``size`` not two numbers of at least 1.
    """
    check_array("image", image, ("H", "W"), kind="real")
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size is {size!r}; expected two integers (height, width)")
    for n in size:
        check_integer("size", n, 1)
    A, B = (_overlap(n, m) for n, m in zip(image.shape, size, strict=True))
    return A @ image @ B.T


def _overlap(H: int, h: int) -> np.ndarray:
    """Return the share of each of h new pixels that each of H old ones covers, (h, H)."""
    i, k = np.arange(h)[:, np.newaxis], np.arange(H)
    s = H / h
    return np.maximum(0, np.minimum((i + 1) * s, k + 1) - np.maximum(i * s, k)) / s


# --- The place to hold it by ---


def center_of_mass(image: np.ndarray) -> tuple[float, float]:
    """Return the mean row and the mean column of an image's ink.

    Implements {eq}`eq:center-of-mass`.

    Parameters
    ----------
    image : np.ndarray
        Shape (H, W), no value negative.

    Returns
    -------
    row, column : float
        The centre of mass; whole numbers are the centres of pixels.

    Raises
    ------
    TypeError
        ``image`` is no array of real numbers.
    ValueError
        It does not have two axes, or a value is negative or not finite, or all are zero.
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
    """Make an image of MNIST's form: 20 pixels long, its centre of mass in the middle.

    Parameters
    ----------
    ink : np.ndarray
        Shape (H, W), floats from 0 (ground) to 1 (ink), as ``ink`` gives them.

    Returns
    -------
    np.ndarray
        A batch of one image, shape (1, 1, 28, 28), dtype float32, from 0 to 1.

    Raises
    ------
    TypeError
        ``ink`` is no array of floats.
    ValueError
        It does not have two axes, a value is outside 0 to 1, or there is no ink.
    """
    _check_picture_array("ink", ink)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError(
            "ink is zero everywhere; expected a digit: call ink(grey) first"
        )
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = resize(box, [max(1, round(20 * n / max(box.shape))) for n in box.shape])
    small /= small.max()
    image = np.zeros((1, 1, 28, 28), dtype=np.float32)
    top, left = (
        min(max(round(14 - c), 0), 28 - n)
        for c, n in zip(center_of_mass(small), small.shape, strict=True)
    )
    image[0, 0, top : top + small.shape[0], left : left + small.shape[1]] = small
    return image
