# SPDX-License-Identifier: Apache-2.0
"""Augmentation keeps its constraints over 1,000 seeds."""

import cv2
import numpy as np
import pytest

from src.config import DataConfig
from src.data import transforms

SEEDS = range(1000)
MEAN = (104.0, 117.0, 123.0)
PLAIN = DataConfig()
WIDTH, HEIGHT = 60, 48
BOXES = np.array([[4, 4, 24, 20], [30, 10, 58, 46], [28, 24, 33, 29]], np.float32)
LABELS = np.array([1, 2, 3], np.int32)


def photo(width=WIDTH, height=HEIGHT):
    """Smooth colours that tell where in the image a pixel is: blue by column, green by row."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 200 / width + 20, y * 200 / height + 20, np.full_like(x, 120.0)]
    return np.stack(channels, axis=2).astype(np.uint8)


def iou(a, b):
    """IoU of two xyxy boxes, written out."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def window_of(cropped):
    """Where in `photo()` a crop was taken from, from the colours of its corner."""
    base = photo()
    column = np.flatnonzero(base[0, :, 0] == cropped[0, 0, 0])[0]
    row = np.flatnonzero(base[:, 0, 1] == cropped[0, 0, 1])[0]
    return column, row, column + cropped.shape[1], row + cropped.shape[0]


def test_crop_keeps_its_constraints():
    seen = {"whole": 0, "cropped": 0, "tight": 0}
    for seed in SEEDS:
        image, boxes, labels = transforms.crop(photo(), BOXES, LABELS, np.random.default_rng(seed))
        if image.shape == (HEIGHT, WIDTH, 3):
            seen["whole"] += 1
            continue
        seen["cropped"] += 1
        left, top, right, bottom = window_of(image)
        width, height = (right - left) / WIDTH, (bottom - top) / HEIGHT
        # One pixel of rounding on a side of at least 14.
        assert 0.45 <= width / height <= 2.2
        assert 0.3 * 0.9 <= np.sqrt(width * height) <= 1.0
        inside = [
            i
            for i, (x1, y1, x2, y2) in enumerate(BOXES)
            if left < (x1 + x2) / 2 < right and top < (y1 + y2) / 2 < bottom
        ]
        assert labels.tolist() == [LABELS[i] for i in inside]
        assert len(inside) > 0
        for box, i in zip(boxes, inside):
            x1, y1, x2, y2 = BOXES[i]
            expected = [max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)]
            np.testing.assert_allclose(box, np.subtract(expected, [left, top, left, top]))
        seen["tight"] += min(iou(box, (left, top, right, bottom)) for box in BOXES) < 0.1
    # One mode in seven is the whole image, one has no limit on IoU; the others can hardly be met.
    assert seen["whole"] > 100
    assert seen["tight"] > 100


@pytest.mark.parametrize("limit", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_crop_keeps_each_iou_limit(monkeypatch, limit):
    monkeypatch.setattr(transforms, "CROP_MODES", (limit, limit, None))
    box = np.array([[6, 5, 54, 43]], np.float32)
    worst, cropped = 1.0, 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        image, _, _ = transforms.crop(photo(), box, LABELS[:1], rng)
        if image.shape[:2] != (HEIGHT, WIDTH):
            cropped += 1
            worst = min(worst, iou(box[0], window_of(image)))
    assert worst >= limit
    assert cropped > 100


def test_crop_of_an_image_without_boxes_leaves_it_whole():
    nothing = np.zeros((0, 4), np.float32)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        image, boxes, labels = transforms.crop(photo(), nothing, LABELS[:0], rng)
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert boxes.shape == (0, 4)
        assert labels.shape == (0,)


def test_canvas_keeps_its_constraints():
    expanded = 0
    for seed in SEEDS:
        wide, high, left, top = transforms.canvas(WIDTH, HEIGHT, np.random.default_rng(seed), 4)
        assert 0 <= left <= wide - WIDTH
        assert 0 <= top <= high - HEIGHT
        if (wide, high) != (WIDTH, HEIGHT):
            expanded += 1
            x, y = wide / WIDTH, high / HEIGHT
            assert np.sqrt(x * y) + 0.02 >= 1
            assert np.sqrt(x * y) <= 4
            assert 0.48 <= x / y <= 2.1
    # Probability 0.6: 600 of 1,000, standard deviation 15.
    assert 540 < expanded < 660


def test_distort_keeps_its_ranges():
    """On grey only brightness and contrast act: the level is bounded by their extremes."""
    grey = np.full((2, 2, 3), 100, np.uint8)
    levels = set()
    for seed in SEEDS:
        out = transforms.distort(grey, np.random.default_rng(seed))
        assert out.dtype == np.uint8
        assert np.ptp(out) == 0
        levels.add(int(out[0, 0, 0]))
    assert min(levels) >= int((100 - 32) * 0.5) - 1
    assert max(levels) <= (100 + 32) * 1.5
    assert min(levels) < 45
    assert max(levels) > 180


def test_distort_keeps_hue_and_saturation_ranges(monkeypatch):
    monkeypatch.setattr(transforms, "BRIGHTNESS", 0.0)
    monkeypatch.setattr(transforms, "CONTRAST", (1.0, 1.0))
    # Hue 60 (green), saturation 120, value 200 on OpenCV's scales.
    image = cv2.cvtColor(np.full((2, 2, 3), (60, 120, 200), np.uint8), cv2.COLOR_HSV2BGR)
    hues, saturations = [], []
    for seed in SEEDS:
        out = transforms.distort(image, np.random.default_rng(seed))
        hue, saturation, value = cv2.cvtColor(out, cv2.COLOR_BGR2HSV)[0, 0].tolist()
        assert abs(value - 200) <= 1
        hues.append(hue)
        saturations.append(saturation)
    # Two steps of slack for the way through 8-bit BGR.
    assert 60 - 20 <= min(hues) < 60 - 14
    assert 60 + 14 < max(hues) <= 60 + 20
    assert 58 <= min(saturations) < 70
    assert 170 < max(saturations) <= 182
    assert 150 < sum(h == 60 and abs(s - 120) <= 1 for h, s in zip(hues, saturations)) < 400


def test_hue_goes_around_the_circle():
    red = np.array([[[10, 10, 200]]], np.uint8)
    hues = set()
    for seed in SEEDS:
        out = transforms.distort(red, np.random.default_rng(seed))
        hues.add(int(cv2.cvtColor(out, cv2.COLOR_BGR2HSV)[0, 0, 0]))
    assert all(hue <= 20 or hue >= 160 for hue in hues)
    assert min(hue for hue in hues if hue >= 160) < 170


def test_mirror_half_the_time():
    turned = 0
    for seed in SEEDS:
        image, boxes, labels = transforms.mirror(
            photo(), BOXES, LABELS, np.random.default_rng(seed)
        )
        assert labels is LABELS
        if np.array_equal(image, photo()):
            np.testing.assert_array_equal(boxes, BOXES)
        else:
            turned += 1
            np.testing.assert_array_equal(image, photo()[:, ::-1])
            # 60 wide: [4, 24] becomes [36, 56].
            assert boxes[0].tolist() == [36, 4, 56, 20]
    assert 440 < turned < 560


def test_mirror_upside_down_half_the_time():
    turned = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        image, boxes, _ = transforms.mirror(photo(), BOXES, LABELS, rng, upside_down=True)
        if np.array_equal(image, photo()):
            np.testing.assert_array_equal(boxes, BOXES)
        else:
            turned += 1
            np.testing.assert_array_equal(image, photo()[::-1])
            # 48 high: [4, 20] becomes [28, 44].
            assert boxes[0].tolist() == [4, 28, 24, 44]
    assert 440 < turned < 560


@pytest.mark.parametrize(("allowed", "least", "most"), [(False, 0, 0), (True, 440, 560)])
def test_images_are_turned_upside_down_only_where_asked(allowed, least, most):
    turned = 0
    wanted = DataConfig(max_expand_ratio=1.0, crop_prob=0.0, vertical_flip=allowed)
    for seed in SEEDS:
        arguments = (photo(), BOXES, LABELS, np.random.default_rng(seed), 64)
        image, _, _ = transforms.augment(*arguments, wanted)
        turned += image[:8].sum() > image[-8:].sum()  # green grows from top to bottom
    assert least <= turned <= most


def test_resize_scales_boxes_with_the_image():
    image, boxes = transforms.resize(photo(), BOXES, (120, 24))
    assert image.shape == (24, 120, 3)
    np.testing.assert_allclose(boxes[0], [8, 2, 48, 10])


def test_paste_fills_with_the_mean():
    image, boxes = transforms.paste(photo(20, 10), BOXES[:1], (5, 7), 64, MEAN)
    assert image.shape == (64, 64, 3)
    np.testing.assert_array_equal(image[7:17, 5:25], photo(20, 10))
    image[7:17, 5:25] = MEAN
    assert (image == np.array(MEAN)).all()
    np.testing.assert_allclose(boxes[0], BOXES[0] + [5, 7, 5, 7])


def test_spot_stays_inside_whatever_the_sizes():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        width, height = int(rng.integers(1, 3000)), int(rng.integers(1, 3000))
        size = int(rng.integers(1, 900))
        place = transforms.canvas(width, height, rng, 4)
        x1, y1, x2, y2 = transforms.spot(place, width, height, size)
        assert 0 <= x1 < x2 <= size
        assert 0 <= y1 < y2 <= size
        # Within a pixel of the exact place.
        assert abs(x1 - place[2] * size / place[0]) <= 1
        assert abs(y2 - (place[3] + height) * size / place[1]) <= 1


def test_augment_follows_the_object():
    """A square of one colour on black: after everything its pixels are where its box says."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[12:36, 20:44] = 255
    box = np.array([[20, 12, 44, 36]], np.float32)
    black = DataConfig(mean_bgr=(0.0, 0.0, 0.0))
    for seed in SEEDS:
        out, boxes, labels = transforms.augment(
            image, box, LABELS[:1], np.random.default_rng(seed), 96, black
        )
        assert out.shape == (96, 96, 3)
        assert labels.tolist() == [1]
        rows, columns = np.nonzero(out.max(axis=2) > 0.5 * out.max())
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # Bilinear edges are half a source pixel wide, which is up to 5 here.
        side = (boxes[0, 2:] - boxes[0, :2]).max()
        np.testing.assert_allclose(boxes[0], found, atol=1.5 + side / 12)


def test_augment_keeps_boxes_inside_and_not_too_small():
    fallbacks = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        image = photo(int(rng.integers(20, 90)), int(rng.integers(20, 90)))
        height, width = image.shape[:2]
        low = rng.uniform(0, 0.9, (5, 2)) * (width, height)
        high = low + rng.uniform(0.005, 0.1, (5, 2)) * (width, height)
        boxes = np.concatenate([low, high], axis=1).astype(np.float32)
        _, made, labels = transforms.augment(image, boxes, np.arange(5), rng, 64, PLAIN)
        assert len(made) == len(labels) >= 1
        assert made.dtype == np.float32
        assert (made >= -1e-4).all()
        assert (made <= 64 + 1e-4).all()
        shortest = (made[:, 2:] - made[:, :2]).min()
        assert shortest > 0
        fallbacks += shortest <= 0.64
    # Only where no box survived is the image used as it is, tiny boxes included.
    assert fallbacks < 200


def test_augment_changes_neither_its_arguments_nor_by_itself():
    image, boxes = photo(), BOXES.copy()
    for seed in range(100):
        first = transforms.augment(
            image, boxes, LABELS, np.random.default_rng(seed), 64, DataConfig()
        )
        again = transforms.augment(
            image, boxes, LABELS, np.random.default_rng(seed), 64, DataConfig()
        )
        for a, b in zip(first, again):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(image, photo())
    np.testing.assert_array_equal(boxes, BOXES)


def test_random_interpolation_is_off_by_default():
    plain = [
        transforms.augment(photo(), BOXES, LABELS, np.random.default_rng(5), 64, PLAIN)[0]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*plain)
    varying = DataConfig(random_interpolation=True)
    varied = [
        transforms.augment(photo(), BOXES, LABELS, np.random.default_rng(s), 64, varying)[0]
        for s in range(20)
    ]
    assert all(image.shape == (64, 64, 3) for image in varied)


def test_to_input_subtracts_the_mean_channel_by_channel():
    out = transforms.to_input(photo(8, 8), MEAN)
    assert out.shape == (3, 8, 8)
    assert out.dtype == np.float32
    expected = photo(8, 8).astype(float)[2, 3] - MEAN
    np.testing.assert_allclose(out[:, 2, 3], expected)


def test_mosaic_keeps_each_part_where_its_boxes_are():
    parts = []
    for i in range(4):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[8:40, 10:50] = 50 + 50 * i
        parts.append((image, np.array([[10, 8, 50, 40]], np.float32), np.array([i + 1])))
    for seed in range(200):
        out, boxes, labels = transforms.mosaic(parts, np.random.default_rng(seed), 96)
        assert out.shape == (96, 96, 3)
        assert labels.tolist() == [1, 2, 3, 4]
        for i, (x1, y1, x2, y2) in enumerate(np.round(boxes).astype(int)):
            inside = out[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
            assert inside.size > 0
            assert (inside == 50 + 50 * i).all()


def test_mixup_blends_and_keeps_all_boxes():
    low, high = np.full((4, 4, 3), 0, np.uint8), np.full((4, 4, 3), 200, np.uint8)
    levels = []
    for seed in SEEDS:
        out, boxes, labels = transforms.mixup(
            (low, BOXES[:1], LABELS[:1]),
            (high, BOXES[1:], LABELS[1:]),
            np.random.default_rng(seed),
        )
        np.testing.assert_array_equal(boxes, BOXES)
        np.testing.assert_array_equal(labels, LABELS)
        levels.append(int(out[0, 0, 0]))
    # Weights 0.4 to 0.6 of 200.
    assert 80 <= min(levels) < 85
    assert 115 < max(levels) <= 120


def test_augment_crops_the_share_asked_for():
    """A box that is a fifth of an image is larger in any crop of it."""
    image, box = np.zeros((100, 100, 3), np.uint8), np.array([[40, 40, 60, 60]], np.float32)
    cropped = {}
    for share in (0.0, 0.25, 1.0):
        sides = []
        wanted = DataConfig(max_expand_ratio=1.0, crop_prob=share)
        for seed in range(400):
            rng = np.random.default_rng(seed)
            _, made, _ = transforms.augment(image, box, LABELS[:1], rng, 100, wanted)
            sides.append(made[0, 2:] - made[0, :2])
        cropped[share] = (np.max(sides, axis=1) > 20.5).mean()
    assert cropped[0.0] == 0
    assert 0.6 < cropped[1.0] < 1  # some modes leave the image whole
    assert abs(cropped[0.25] - 0.25 * cropped[1.0]) < 0.08


def test_colours_change_more_with_more_jitter_and_not_at_all_without():
    grey = np.full((4, 4, 3), (90, 120, 150), np.uint8)

    def moved(strength):
        changes = [
            np.abs(transforms.distort(grey, np.random.default_rng(s), strength).astype(int) - grey)
            for s in range(300)
        ]
        return np.mean(changes)

    assert moved(0.0) <= 1  # to HSV and back is not exact
    assert moved(0.5) < moved(1.0) < moved(1.6)
