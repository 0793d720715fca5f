"""The ink of a picture, its size and its place, and images moved about."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import STEP
from PIL import Image

from cnn.augment import (
    ANGLE,
    GROWTH,
    SHIFT,
    SLANT,
    augment,
    bilinear,
    draw_maps,
    fit_augmented,
    warp,
)
from cnn.data import Dataset, digits
from cnn.handwriting import (
    as_mnist,
    center_of_mass,
    ink,
    resize,
)
from cnn.recipes import train


def bar(
    paper: float = 1, stroke: float = 0, top: int = 40, left: int = 60
) -> np.ndarray:
    """Return a picture of a lying L: no symmetry, so that every mistake in an axis shows."""
    grey = np.full((120, 200), float(paper))
    grey[top : top + 10, left : left + 50] = stroke
    grey[top : top + 30, left : left + 8] = stroke
    return grey


# --- Ink ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("paper", "stroke"), [(1, 0), (0, 1), (0.9, 0.5), (0.2, 0.5), (0.6, 0.3)]
)
def test_ink_is_one_and_ground_zero(paper: float, stroke: float, dtype: type) -> None:
    found = ink(bar(paper, stroke).astype(dtype))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, bar(0, 1), atol=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_light_and_noise_are_taken_out(seed: int) -> None:
    y, x = np.mgrid[-1:1:120j, -1:1:200j]
    light = 0.65 + 0.2 * x - 0.1 * y - 0.1 * x * x
    noise = np.random.default_rng(seed).normal(0, 0.015, light.shape)
    found = ink(np.clip(light * bar(0.95, 0.25) + noise, 0, 1))
    inside = bar(0, 1) == 1
    assert found[inside].min() > 0.6
    assert not found[~inside].any(), "a speck is left"


def test_light_is_divided_out() -> None:
    light = np.linspace(0.2, 1, 200)
    found = ink(light * bar(1, 0.3))
    np.testing.assert_allclose(found, bar(0, 1), atol=0.02)


def test_faint_ink_is_not_drowned_in_noise() -> None:
    noise = np.random.default_rng(4).normal(0, 0.03, (120, 200))
    found = ink(np.clip(bar(0.9, 0.45) + noise, 0, 1))
    assert not found[bar(0, 1) == 0].any(), "a speck is left"


def test_the_border_is_ground_even_where_most_is_ink() -> None:
    grey = np.ones((100, 100))
    grey[9:91, 9:91] = 0
    np.testing.assert_allclose(ink(grey), 1 - grey, atol=0.01)
    np.testing.assert_allclose(ink(1 - grey), 1 - grey, atol=0.01)


BLANK = {
    "black": np.zeros((50, 60)),
    "white": np.ones((50, 60)),
    "one pixel": np.full((1, 1), 0.5),
    "one row": np.full((1, 40), 0.5),
    "light": np.linspace(0.3, 0.9, 60) * np.ones((50, 1)),
    "noise": np.clip(np.random.default_rng(0).normal(0.6, 0.05, (100, 90)), 0, 1),
}


@pytest.mark.parametrize("blank", BLANK.values(), ids=BLANK)
def test_blank_pictures_hold_no_digit(blank: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no digit found"):
        ink(blank)


# --- Size and place ---


@pytest.mark.parametrize("shape", [(30, 50), (7, 13), (1, 1), (28, 3)])
@pytest.mark.parametrize("size", [(20, 20), (1, 1), (5, 40)])
def test_resize_keeps_constants_and_means(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    x = np.random.default_rng(1).random(shape)
    assert resize(x, size).shape == size
    np.testing.assert_allclose(resize(x, size).mean(), x.mean())
    np.testing.assert_allclose(resize(np.full(shape, 0.7), size), 0.7)
    np.testing.assert_allclose(resize(x, shape), x)


def test_resize_is_pillows_box() -> None:
    x = np.random.default_rng(2).random((90, 40)).astype(np.float32)
    box = Image.fromarray(x).resize((20, 30), Image.Resampling.BOX)
    np.testing.assert_allclose(resize(x, (30, 20)), np.asarray(box), atol=1e-6)


def test_center_of_mass_of_one_pixel_and_of_two() -> None:
    x = np.zeros((5, 9), np.uint8)
    x[1, 7] = 200
    assert center_of_mass(x) == (1, 7)
    x[3, 7] = 200  # the sum does not fit into a byte
    assert center_of_mass(x) == (2, 7)


@pytest.mark.parametrize("top", [0, 33, 89])
@pytest.mark.parametrize("left", [0, 60, 149])
def test_the_place_does_not_matter(top: int, left: int) -> None:
    reference = as_mnist(1 - bar())
    np.testing.assert_array_equal(as_mnist(1 - bar(top=top, left=left)), reference)


@pytest.mark.parametrize("shape", [(30, 50), (200, 3), (3, 200), (1, 1), (500, 400)])
def test_mnists_form(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    image = as_mnist(np.pad(rng.uniform(0.1, 1, shape), 11))
    assert image.shape == (1, 1, 28, 28)
    assert image.dtype == np.float32
    assert image.min() == 0
    assert image.max() == 1
    inked = [np.flatnonzero(image[0, 0].any(axis=a)) for a in (1, 0)]
    assert max(np.ptp(i) + 1 for i in inked) == 20
    assert np.abs(np.subtract(center_of_mass(image[0, 0]), 14)).max() <= 0.501


def test_a_digit_heavy_at_one_end_stays_inside() -> None:
    heavy = np.full((100, 100), 1e-4)
    heavy[:5, :5] = 1
    for corner in (heavy, heavy[::-1, ::-1]):
        assert np.count_nonzero(as_mnist(corner)) == 400


def test_the_arguments_are_not_changed() -> None:
    for function, a in (
        (ink, bar()),
        (as_mnist, 1 - bar()),
        (center_of_mass, bar()),
        (lambda x: resize(x, (9, 9)), bar()),
    ):
        a.flags.writeable = False
        before = a.copy()
        function(a)
        np.testing.assert_array_equal(a, before)


# --- Augmentation ---


def literal(x: np.ndarray, h: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Sum over all pixels, each with the weight of its two hats."""
    N, C, H, W = x.shape
    out = np.zeros((N, C, h.shape[1]))
    for n, p, i, j in np.ndindex(N, h.shape[1], H, W):
        weight = max(0, 1 - abs(h[n, p] - i)) * max(0, 1 - abs(w[n, p] - j))
        out[n, :, p] += x[n, :, i, j] * weight
    return out


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 1, 6, 2)])
def test_bilinear_is_the_double_sum(shape: tuple[int, ...]) -> None:
    """Inside, at the border, far outside, and on the pixels themselves."""
    rng = np.random.default_rng(0)
    x = rng.random(shape)
    h, w = rng.uniform(-4, 9, (2, shape[0], 40))
    h[:, :20], w[:, :20] = h[:, :20].round(), w[:, :20].round()
    h[:, 20:30] = h[:, 20:30].round()
    np.testing.assert_allclose(bilinear(x, h, w), literal(x, h, w), atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_map_that_does_nothing_changes_no_bit(dtype: type) -> None:
    x = np.random.default_rng(0).random((3, 2, 6, 5)).astype(dtype)
    M, o = np.tile(np.eye(2, dtype=dtype), (3, 1, 1)), np.zeros((3, 2), dtype)
    out = warp(x, M, o)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, x)


def test_each_image_has_its_own_map() -> None:
    """A whole step down for one, two to the left for the other; what comes in is paper."""
    x = np.random.default_rng(0).random((2, 1, 6, 5))
    M, o = np.tile(np.eye(2), (2, 1, 1)), np.array([[-1.0, 0.0], [0.0, 2.0]])
    down, left = warp(x, M, o)[:, 0]
    np.testing.assert_array_equal(down[1:], x[0, 0, :-1])
    np.testing.assert_array_equal(left[:, :-2], x[1, 0, :, 2:])
    assert not down[0].any()
    assert not left[:, -2:].any()


@pytest.mark.parametrize("H", [6, 7])
def test_a_quarter_turn_is_exact(H: int) -> None:
    """About the middle, which for an even side lies between pixels."""
    x = np.random.default_rng(0).random((1, 1, H, H))
    quarter = np.array([[[0.0, 1.0], [-1.0, 0.0]]])
    turned = warp(x, quarter, np.zeros((1, 2)))
    np.testing.assert_allclose(turned, np.rot90(x, axes=(2, 3)))


def test_maps_stay_in_their_ranges() -> None:
    """And reach nearly to their ends, both ways."""
    M, o = draw_maps(5000, np.random.default_rng(0))
    assert M.shape == (5000, 2, 2)
    size = np.sqrt(np.linalg.det(M)) - 1  # turning and slanting keep areas
    psi = np.sum(M[:, :, 0] * M[:, :, 1], axis=1) / np.sum(M[:, :, 1] ** 2, axis=1)
    phi = np.arctan2(-M[:, 0, 1], M[:, 1, 1])
    drawn = (
        (size, GROWTH),
        (psi, SLANT),
        (phi, ANGLE),
        (o[:, 0], SHIFT),
        (o[:, 1], SHIFT),
    )
    for values, end in drawn:
        assert -end <= values.min() < -0.99 * end
        assert 0.99 * end < values.max() <= end + 1e-12
        assert abs(values.mean()) < 0.05 * end


def test_training_on_augmented_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network and the same batches as ``fit``; only the images are other ones."""
    data = Dataset("few", *(a[:60] for a in digits()[1:]))
    seen = []

    def watched(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen.append((x, rng))
        return x

    def run(**how: object) -> tuple:
        return train(data, epochs=2, seed=3, batch_size=20, **how)

    net, history = run(fit=fit_augmented)
    monkeypatch.setattr("cnn.augment.augment", watched)
    same, same_history = run(fit=fit_augmented)
    plain, plain_history = run()
    assert same_history.loss == plain_history.loss != history.loss
    for name, a in plain.params.items():
        np.testing.assert_array_equal(same.params[name], a)
        assert np.any(net.params[name] != a)
    assert [len(x) for x, _ in seen] == [20] * 6
    assert history.iterations == [6]


def test_augment_draws_anew_and_changes_nothing() -> None:
    x = np.random.default_rng(0).random((4, 1, 28, 28)).astype(np.float32)
    before, rng = x.copy(), np.random.default_rng(1)
    first, second = augment(x, rng), augment(x, rng)
    again = augment(x, np.random.default_rng(1))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert first.shape == x.shape
    assert np.abs(first - second).mean() > 0.01
    assert first.min() >= 0
    assert first.max() <= 1
    np.testing.assert_array_equal(x, before)


def test_a_digit_cropped_to_its_box_is_read() -> None:
    """No border is bare, a few are nearly all ink; an empty sheet is refused all the same."""
    alike = []
    for x in digits().x_test[::STEP, 0].astype(float):
        rows, columns = (np.flatnonzero(x.max(axis) > 0.2) for axis in (1, 0))
        box = x[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        drawn = np.clip(np.kron(box, np.ones((8, 8))), 0, 1)
        alike.append(np.corrcoef(ink(1 - drawn).ravel(), drawn.ravel())[0, 1])
    assert np.mean(np.array(alike) > 0.9) >= 0.97
    for sheet in (
        np.full((60, 40), 0.8),
        np.linspace(0.2, 0.9, 60)[:, np.newaxis] * np.ones(40),
        np.clip(0.6 + np.random.default_rng(0).normal(0, 0.15, (60, 40)), 0, 1),
    ):
        with pytest.raises(ValueError, match="no digit"):
            ink(sheet)
