"""Pictures from outside: what is read, what is refused, and which digit is found."""

from __future__ import annotations

import builtins
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redrawn
from conftest import STEP
from PIL import Image, ImageDraw, ImageFile
from redrawn import WAYS, box, enlarge, read_back
from test_handwriting import BLANK

from cnn.data import digits
from cnn.decoding import SIDE, read_picture
from cnn.handwriting import as_mnist
from cnn.pictures import find_digit, read_digit
from cnn.recipes import probabilities
from cnn.weights import load_weights


def bar(
    paper: float = 1, stroke: float = 0, top: int = 40, left: int = 60
) -> np.ndarray:
    """Return a picture of a lying L: no symmetry, so that every mistake in an axis shows."""
    grey = np.full((120, 200), float(paper))
    grey[top : top + 10, left : left + 50] = stroke
    grey[top : top + 30, left : left + 8] = stroke
    return grey


def png(width: int, height: int, *data: bytes) -> bytes:
    """Return a PNG file of 8-bit grey values whose header says what we like."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rest = [chunk(b"IDAT", zlib.compress(d)) for d in data] + [chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(rest)


# --- Files ---

BYTES = np.round(255 * bar(0.8, 0.2)).astype(np.uint8)


def saved(path: Path, picture: Image.Image, **options: object) -> np.ndarray:
    """Write a picture and read it back."""
    picture.save(path, **options)
    return read_picture(path)


PIXELS = {
    "16 bits": BYTES.astype(np.uint16) * 257,
    "12 bits in 16": np.round(BYTES * (4095 / 255)).astype(np.uint16),
    "8 bits in 16": BYTES.astype(np.uint16),
    "8 bits in 32": BYTES.astype(np.int32),
    "16 bits in 32": BYTES.astype(np.int32) * 257,
    "floats to 1": BYTES.astype(np.float32) / 255,
    "floats to 255": BYTES.astype(np.float32),
    "floats to 65535": BYTES.astype(np.float32) * 257,
}
PIXELS = {
    name: np.pad(a, 1, constant_values=a.max() / 204 * 255)
    for name, a in PIXELS.items()
}
MODES = ("L", "RGB", "P", "CMYK", "LA", "RGBA")


@pytest.mark.parametrize("name", PIXELS)
def test_white_is_found_in_the_values(tmp_path: Path, name: str) -> None:
    """The padding has white's value; a type alone doesn't say what that is."""
    grey = saved(tmp_path / "x.tif", Image.fromarray(PIXELS[name]))
    np.testing.assert_allclose(
        grey, np.pad(BYTES, 1, constant_values=255) / 255, atol=1 / 255
    )


@pytest.mark.parametrize("largest", [1.005, 257.0])
def test_resampling_may_overshoot(tmp_path: Path, largest: float) -> None:
    values = np.where(bar(), largest / 1.005, 0).astype(np.float32)
    values[0, 0] = largest
    np.testing.assert_array_equal(
        saved(tmp_path / "x.tif", Image.fromarray(values)) > 0.9, bar() > 0
    )


def test_thirty_two_bits_have_no_sign(tmp_path: Path) -> None:
    """Pillow reads them as if they had one: white is -1."""
    values = np.where(bar() == 1, 2**32 - 1, 0).astype(np.uint32).view(np.int32)
    np.testing.assert_array_equal(
        saved(tmp_path / "x.tif", Image.fromarray(values)), bar()
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_pixels_becomes_grey(tmp_path: Path, mode: str) -> None:
    """A grey picture must not change its values, however it is stored."""
    picture = Image.fromarray(BYTES).convert(mode)
    ending = "tif" if mode == "CMYK" else "png"
    grey = saved(tmp_path / f"x.{ending}", picture)
    assert grey.dtype == np.float64
    np.testing.assert_allclose(grey, BYTES / 255, atol=1 / 255)


@pytest.mark.parametrize("ending", ["jpg", "gif", "bmp", "webp", "tif", "ppm"])
def test_common_formats_are_read(tmp_path: Path, ending: str) -> None:
    grey = saved(tmp_path / f"x.{ending}", Image.fromarray(BYTES))
    assert np.abs(grey - BYTES / 255).mean() < 0.01


def test_black_and_white_of_one_bit(tmp_path: Path) -> None:
    grey = saved(tmp_path / "x.png", Image.fromarray(BYTES > 128))
    np.testing.assert_array_equal(grey, bar())


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    """Black strokes on nothing: the nothing is black as well, but one must not see it."""
    layers = np.zeros((120, 200, 4), np.uint8)
    layers[..., 3] = 255 * (1 - bar())
    np.testing.assert_array_equal(
        saved(tmp_path / "x.png", Image.fromarray(layers)), bar()
    )


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_strokes_on_nothing_are_ink_in_any_colour(tmp_path: Path, colour: int) -> None:
    layers = np.full((120, 200, 4), colour, np.uint8)
    layers[..., 3] = 255 * (1 - bar())
    np.testing.assert_array_equal(
        saved(tmp_path / "x.png", Image.fromarray(layers)), bar()
    )


@pytest.mark.parametrize(("paper", "stroke"), [(255, 0), (0, 255), (200, 90)])
def test_a_sheet_with_holes_keeps_its_drawing(
    tmp_path: Path, paper: int, stroke: int
) -> None:
    """Transparent corners take the colour of the sheet, also of a blackboard."""
    grey = np.where(bar() == 1, paper, stroke).astype(np.uint8)
    alpha = np.full_like(grey, 255)
    alpha[:20, :20] = alpha[-20:, -20:] = 0
    picture = Image.fromarray(np.dstack([np.where(alpha, grey, 77)] * 3 + [alpha]))
    np.testing.assert_allclose(saved(tmp_path / "x.png", picture), grey / 255)


def test_a_faint_opaque_drawing_is_no_blank(tmp_path: Path) -> None:
    grey = np.where(bar() == 1, 200, 190).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGBA")
    np.testing.assert_allclose(saved(tmp_path / "x.png", picture), grey / 255)


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    picture = Image.fromarray((bar() == 0).astype(np.uint8), mode=None).convert("P")
    picture.putpalette([9, 9, 9, 0, 0, 0])
    grey = saved(tmp_path / "x.png", picture, transparency=0)
    np.testing.assert_array_equal(grey, bar())


@pytest.mark.parametrize(
    ("tag", "turned"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1))],
)
def test_exif_turns_the_picture(
    tmp_path: Path, tag: int, turned: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    grey = saved(tmp_path / "x.png", Image.fromarray(BYTES), exif=exif)
    np.testing.assert_allclose(grey, turned(BYTES / 255))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_large_pictures_are_reduced(tmp_path: Path, ending: str) -> None:
    large = Image.fromarray(BYTES).resize((4000, 2400), Image.Resampling.NEAREST)
    grey = saved(tmp_path / f"x.{ending}", large)
    assert grey.shape == (SIDE * 120 // 200, SIDE)
    assert np.isclose(grey.mean(), BYTES.mean() / 255, atol=0.005)


def test_a_very_long_picture_keeps_a_row(tmp_path: Path) -> None:
    grey = saved(tmp_path / "x.png", Image.new("L", (9000, 2), 255))
    np.testing.assert_array_equal(grey, np.ones((1, SIDE)))


def small_png() -> bytes:
    """Return an intact PNG file of random pixels, which do not compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 51), dtype=np.uint8)
    pixels[:, 0] = 0  # each row's filter
    return png(50, 50, pixels.tobytes())


def half_jpeg() -> bytes:
    """Return the first half of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(BYTES).save(file, "JPEG")
    return file.getvalue()[: file.tell() // 2]


BAD = {
    "text": b"This is no picture.\n" * 9,
    "empty": b"",
    "signature alone": b"\x89PNG\r\n\x1a\n",
    "cut in the data": small_png()[:700],
    "cut in the header": small_png()[:20],
    "no data": png(50, 50),
    "a cut JPEG": half_jpeg(),
    "a bomb": png(60000, 60000, bytes(100)),
    "a header that promises too much": png(8000, 8000, bytes(100)),
    "no pixels": png(0, 50, b""),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(BAD[name])
    with pytest.raises(ValueError, match=r"mine\.png.*expected an intact PNG"):
        read_picture(path)


def test_the_intact_twin_of_the_bad_files_is_read(tmp_path: Path) -> None:
    """Otherwise the files above may be refused for another reason."""
    path = tmp_path / "mine.png"
    path.write_bytes(small_png())
    assert read_picture(path).shape == (50, 50)


@pytest.mark.parametrize("size", [14143, 20000, 60000])
def test_bombs_are_not_decoded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    size: int,
) -> None:
    """From the first pixel over 200 million."""

    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(size, size, bytes(100)))
    with pytest.raises(ValueError, match="header promises"):
        read_picture(path)
    assert not recwarn.list


def test_no_program_is_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(BAD["EPS"])
    with pytest.raises(ValueError, match="no format that is read"):
        read_picture(path)


def test_no_number_is_no_grey_value(tmp_path: Path) -> None:
    values = np.full((9, 9), np.nan, np.float32)
    with pytest.raises(ValueError, match="finite"):
        saved(tmp_path / "x.tif", Image.fromarray(values))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(OSError, match=tmp_path.name):
        read_picture(tmp_path)


def test_missing_pillow_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object) -> object:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install pillow"):
        read_picture(__file__)


@pytest.mark.parametrize("mode", ["1", "P", "I;16", "RGB"])
def test_large_pictures_take_one_copy(tmp_path: Path, mode: str) -> None:
    """What is decoded is one copy at the file's own depth; all else is strips and small."""
    path = tmp_path / "x.png"
    Image.fromarray(BYTES).convert("1" if mode == "1" else "L").resize(
        (5000, 3000)
    ).convert(mode).save(path)
    tracemalloc.start()
    grey = read_picture(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grey.shape == (480, 800)
    assert abs(grey.mean() - BYTES.mean() / 255) < 0.05
    assert peak < 60e6  # NumPy's part: one float64 copy of the whole would be 120 MB


def test_a_hundred_megapixels_are_read(tmp_path: Path) -> None:
    """More than Pillow's own limit, by which it warns."""
    path = tmp_path / "x.png"
    picture = Image.new("1", (10_000, 10_000), 1)
    ImageDraw.Draw(picture).line([(5000, 1000), (5000, 9000)], fill=0, width=800)
    picture.save(path, compress_level=1)
    grey = read_picture(path)
    assert max(grey.shape) == SIDE
    assert grey[400, 400] == 0
    assert grey[400, 300] == 1


# --- Which digit? ---

NET = load_weights()
DIGITS = digits()


def answer(grey: np.ndarray) -> int:
    """Return the digit that the network sees in a picture."""
    return int(probabilities(NET, as_mnist(find_digit(grey))).argmax())


@pytest.fixture(scope="module")
def direct() -> np.ndarray:
    """What the network makes of the first digits as they are."""
    return probabilities(NET, DIGITS.x_test[:8]).argmax(axis=1)


@pytest.mark.parametrize("name", [*WAYS][::STEP])
def test_redrawn_digits_are_read(name: str, direct: np.ndarray) -> None:
    """None is refused; as many are read as without the detour, but for one or two."""
    x, y = DIGITS.x_test[:8], DIGITS.y_test[:8]
    images = read_back(WAYS[name], x)
    assert all(image is not None for image in images)
    read = probabilities(NET, np.concatenate(images)).argmax(axis=1)
    assert np.sum(read != y) <= np.sum(direct != y) + 2


def test_cropped_digits_are_not_refused() -> None:
    for x in DIGITS.x_test[:: STEP**2, 0].astype(float):
        grey = 1 - np.clip(np.kron(box(x), np.ones((4, 4))), 0, 1)
        assert find_digit(grey).any()


@pytest.mark.parametrize("bright", [False, True])
def test_the_slits_of_a_bold_digit_are_not_the_digit(bright: bool) -> None:
    """An 8 whose holes are narrower than its strokes, cropped to its box."""
    eight = Image.new("L", (200, 280), 255)
    pen = ImageDraw.Draw(eight)
    pen.rounded_rectangle((0, 0, 199, 279), 70, fill=0)
    for top in (69, 174):
        pen.rounded_rectangle((55, top, 145, top + 36), 17, fill=255)
    ink = 1 - np.asarray(eight) / 255
    np.testing.assert_allclose(find_digit(ink if bright else 1 - ink), ink, atol=0.01)


def page(*shapes: tuple[np.ndarray, int, int]) -> np.ndarray:
    """Write shapes, each at its row and its column, on paper."""
    grey = np.full((240, 320), 0.9)
    for pen, top, left in shapes:
        grey[top : top + len(pen), left : left + pen.shape[1]] -= 0.75 * pen
    return grey


@pytest.mark.parametrize("gap", [0.1, 0.2, 0.6])
@pytest.mark.parametrize("k", range(0, 16, 4))
@pytest.mark.parametrize("stacked", [False, True])
def test_two_digits_are_said_to_be_two(k: int, gap: float, stacked: bool) -> None:
    first, second = (enlarge(box(x), 4) for x in DIGITS.x_test[k : k + 2, 0])
    aside = round(gap * len(first))
    place = (
        (10 + len(first) + aside, 40) if stacked else (10, 40 + first.shape[1] + aside)
    )
    with pytest.raises(ValueError, match="more than one digit: 2 shapes"):
        find_digit(page((first, 10, 40), (second, *place)))


def test_a_faint_stroke_joins_the_parts_of_a_digit() -> None:
    """A 1 that is faint in the middle, where the edge of a shadow crosses it."""
    ink = np.zeros((240, 320))
    ink[60:180, 150:170] = 1
    ink[105:135] *= 0.13
    found = find_digit(0.9 - 0.75 * ink)
    np.testing.assert_allclose(found.any(axis=1), ink.any(axis=1))


@pytest.mark.parametrize("cropped", [False, True])
def test_a_zero_without_its_sides_is_one_digit(cropped: bool) -> None:
    """Black and white pictures lose what is pale."""
    zero = Image.new("L", (200, 240), 255)
    pen = ImageDraw.Draw(zero)
    pen.arc((50, 50, 150, 200), -160, -20, fill=0, width=18)
    pen.arc((50, 50, 150, 200), 20, 160, fill=0, width=18)
    grey = np.asarray(zero) / 255
    if cropped:
        grey = 1 - box(1 - grey)
    np.testing.assert_allclose(find_digit(grey).sum(), (1 - grey).sum(), rtol=0.01)


@pytest.mark.parametrize("cropped", [False, True])
def test_a_broken_stroke_is_one_digit(cropped: bool) -> None:
    """A 5 whose bar is detached, and a 4 whose stem does not meet the rest."""
    five, four = (Image.new("L", (200, 240), 255) for _ in "54")
    pen = ImageDraw.Draw(five)
    pen.line([(75, 40), (150, 36)], fill=0, width=14)
    pen.line([(68, 62), (64, 110)], fill=0, width=14)
    pen.arc((45, 102, 140, 205), -120, 140, fill=0, width=14)
    pen = ImageDraw.Draw(four)
    pen.line([(70, 40), (55, 130), (108, 128)], fill=0, width=14, joint="curve")
    pen.line([(130, 60), (124, 210)], fill=0, width=14)
    for picture, digit in ((five, 5), (four, 4)):
        grey = np.asarray(picture) / 255
        if cropped:
            grey = 1 - box(1 - grey)
        found = find_digit(grey)
        assert np.sum(found) > 0.9 * np.sum(1 - grey)
        assert answer(grey) == digit


def test_lines_are_left_alone_where_they_are_the_digit() -> None:
    """A thin 7, a 4 and a 1 from edge to edge; also a 7 that nearly fills the picture."""
    strokes = {
        7: [[(0, 2), (158, 2), (60, 199)]],
        4: [[(40, 0), (2, 120), (158, 120)], [(120, 10), (110, 199)]],
        1: [[(3, 0), (3, 199)]],
    }
    for digit, lines in strokes.items():
        picture = Image.new("L", (8 if digit == 1 else 160, 200), 255)
        for line in lines:
            ImageDraw.Draw(picture).line(line, fill=0, width=5, joint="curve")
        grey = np.asarray(picture) / 255
        assert answer(grey) == digit
        if digit == 7:
            assert answer(np.pad(grey, 12, constant_values=1)) == 7


@pytest.mark.parametrize("blank", BLANK.values(), ids=BLANK)
def test_blank_pictures_hold_no_digit(tmp_path: Path, blank: np.ndarray) -> None:
    path = tmp_path / "blank.tif"
    Image.fromarray(blank.astype(np.float32)).save(path)
    with pytest.raises(ValueError, match=r"blank\.tif: no digit found"):
        read_digit(path)


def test_a_picture_file_becomes_an_image(tmp_path: Path) -> None:
    path = tmp_path / "two.png"
    redrawn.picture_of(
        WAYS["on paper"], DIGITS.x_test[2, 0], np.random.default_rng(0)
    ).save(path)
    image = read_digit(path)
    assert image.shape == (1, 1, 28, 28)
    assert image.dtype == np.float32
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_digit(tmp_path / "nowhere.png")


def test_the_argument_is_not_changed() -> None:
    grey = bar(0.9, 0.2)
    grey.flags.writeable = False
    find_digit(grey)
    assert grey.min() == 0.2
