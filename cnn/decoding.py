"""Pictures that somebody else made.

Exported from book/33-pictures.ipynb: edit the chapter and run `make export`.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .handwriting import CONTRAST

__all__ = ["LARGEST", "SIDE", "FORMATS", "read_picture", "SCALES"]


if TYPE_CHECKING:
    from PIL import Image


# --- Decode it, but not blindly ---
LARGEST = 200_000_000  # pixels
SIDE = 800
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "AVIF")


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture file as grey values from 0 (black) to 1 (white), shape (H, W)."""
    with open(Path(path), "rb") as file:
        try:
            return _grey(_reduced(_opened(file)))
        except (MemoryError, ImportError):
            raise
        except Exception as err:  # damaged files make decoders fail in many ways
            raise ValueError(
                f"{path} can't be read as a picture ({err}); expected an intact PNG, "
                f"JPEG or similar of at most {LARGEST // 10**6} megapixels"
            ) from err


def _opened(file: BinaryIO) -> "Image.Image":
    """Read a picture's header, and decide whether to go on."""
    try:
        from PIL import Image
    except ImportError as err:
        raise ImportError(
            "reading pictures needs the package Pillow: pip install pillow"
        ) from err
    Image.init()
    start = file.read(16)
    for name in FORMATS:
        opener, accepts = Image.OPEN.get(name, (None, None))
        if opener and accepts and accepts(start):
            file.seek(0)
            picture = opener(file, "")
            if picture.width * picture.height > LARGEST:
                size = f"{picture.width}×{picture.height}"
                raise ValueError(f"its header promises {size} pixels")
            picture.verify()
            file.seek(0)
            return opener(file, "")
    raise ValueError("its first bytes are of no format that is read here")


def _reduced(picture: "Image.Image") -> "Image.Image":
    """Decode a picture and reduce it, a strip at a time, to at most SIDE pixels a side."""
    from PIL import Image, ImageOps

    picture.draft(picture.mode, (SIDE, SIDE))
    picture.load()
    (W, H), factor = picture.size, max(1, max(picture.size) // SIDE)
    height = factor * (1 + 2_000_000 // (factor * W))  # of a strip
    strips = [
        _plain(picture.crop((0, top, W, min(top + height, H)))).reduce(factor)
        for top in range(0, H, height)
    ]
    h, w = sum(strip.height for strip in strips), strips[0].width
    small = Image.new(strips[0].mode, (w, h))
    for k, strip in enumerate(strips):
        small.paste(strip, (0, k * (height // factor)))
    if max(w, h) > SIDE:
        size = [max(1, round(n * SIDE / max(w, h))) for n in (w, h)]
        small = small.resize((size[0], size[1]), Image.Resampling.BOX)
    small.getexif()[0x0112] = picture.getexif().get(0x0112, 1)
    return ImageOps.exif_transpose(small)


def _plain(picture: "Image.Image") -> "Image.Image":
    """Return a picture in one of three modes: F, RGBA or L."""
    from PIL import Image

    if picture.mode[0] in "IF":  # 16 or 32 bits
        values = np.array(picture, dtype=np.float64)
        if picture.mode[0] == "I":  # Pillow reads 32 bits as if they had a sign
            values[values < 0] += 2.0**32
        return Image.fromarray(values.astype(np.float32))
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture.convert("RGB").convert("L")


# --- What do the numbers mean? ---
SCALES = (1, 255, 4095, 65535)


def _grey(picture: "Image.Image") -> np.ndarray:
    """Return the grey values of a picture in mode F, RGBA or L, from 0 to 1."""
    if picture.mode == "RGBA":
        alpha = np.asarray(picture.getchannel("A"), dtype=np.float64) / 255
        grey = picture.convert("RGB").convert("L")
        return _without_holes(np.asarray(grey, dtype=np.float64) / 255, alpha)
    values = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some pixels are no finite numbers")
    values = values - min(0, values.min())
    largest = values.max()
    white = next((scale for scale in SCALES if largest <= 1.01 * scale), largest)
    return np.asarray(np.minimum(values / white, 1))


def _without_holes(grey: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return grey values of a picture that is transparent where alpha is 0."""
    opaque = alpha > 0.5 * alpha.max()
    if alpha.min() > 0.9 or not opaque.any():
        return grey
    rows, columns = (np.flatnonzero(opaque.any(axis=axis)) for axis in (1, 0))
    covered = opaque.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
    if np.ptp(grey[opaque]) < CONTRAST or covered < 0.5:
        return np.asarray(1 - alpha / alpha.max())
    return np.asarray(alpha * grey + (1 - alpha) * np.median(grey[opaque]))
