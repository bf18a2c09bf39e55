# SPDX-License-Identifier: Apache-2.0
"""The data pipeline: order, sharding, workers, unreadable images."""

import dataclasses
import logging
import multiprocessing
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from src.box_utils import decode
from src.config import AnchorConfig, ConfigError, DataConfig
from src.data import dataset
from src.data import sample_stream as samples
from src.data.records import DataError, DetectionData, make_record

MEAN = (104.0, 117.0, 123.0)
SIZE = 64
PLAIN = DataConfig()


def grid_priors():
    """8 x 8 cells of one prior a quarter of the image wide."""
    centres = (np.arange(8) + 0.5) / 8
    y, x = np.meshgrid(centres, centres, indexing="ij")
    side = np.full(64, 0.25)
    return np.stack([x.ravel(), y.ravel(), side, side], axis=1).astype(np.float32)


def make_data(folder: Path, count: int = 7, broken=()):
    """Images of one flat colour each, so that a batch shows which image it came from."""
    records = []
    for i in range(count):
        path = folder / f"{i}.png"
        if i in broken:
            path.write_bytes(b"\xff\xd8\xff\xe0 not an image")
        else:
            cv2.imwrite(str(path), np.full((48, 60, 3), 20 + 10 * i, np.uint8))
        boxes = [((10, 8, 40, 30), 1 + i % 2, False), ((0, 0, 60, 48), 1, True)]
        # Image 1 has no boxes at all, image 2 only a crowd.
        boxes = {1: [], 2: boxes[1:]}.get(i, boxes)
        records.append(make_record(100 + i, str(path), (60, 48), boxes))
    return DetectionData(records, ("a", "b"), (1, 2), "train", str(folder), "coco")


def stream(data, wanted=PLAIN, priors=None, **changes):
    """A stream of 14 batches of two; `changes` are of the shard or of the stream."""
    parts = {field.name for field in dataclasses.fields(samples.Shard)}
    shard = {key: value for key, value in changes.items() if key in parts}
    others = {key: value for key, value in changes.items() if key not in parts}
    return samples.SampleStream(
        data,
        priors or {SIZE: grid_priors()},
        wanted,
        samples.Shard(**{"batch_size": 2, "total_steps": 14, **shard}),
        **{"seed": 5, **others},
    )


def indices(source):
    return [int(source[i][3]) for i in range(len(source))]


def test_every_image_once_an_epoch_over_all_ranks(tmp_path):
    data = make_data(tmp_path)
    ranks = [indices(stream(data, rank=r, world_size=2, total_steps=7)) for r in range(2)]
    # Steps interleave: rank 0's batch, then rank 1's, make up the job's order.
    job = [i for step in range(7) for r in range(2) for i in ranks[r][2 * step : 2 * step + 2]]
    epochs = [job[k : k + 7] for k in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_without_shuffling_images_come_in_their_order(tmp_path):
    source = stream(make_data(tmp_path), shuffled=False, total_steps=7)
    assert indices(source) == list(range(7)) * 2


def test_the_size_of_a_sample_is_known(tmp_path):
    source = stream(make_data(tmp_path))
    assert source.sample_bytes == sum(column.nbytes for column in source[0])


def test_resuming_continues_the_order(tmp_path):
    data = make_data(tmp_path)
    whole = stream(data)
    rest = stream(data, start_step=5)
    assert len(rest) == 18
    for i in range(len(rest)):
        for a, b in zip(rest[i], whole[10 + i]):
            np.testing.assert_array_equal(a, b)


def test_without_shuffling_the_augmentation_follows_from_the_seed(tmp_path):
    data = make_data(tmp_path)
    first, again, other = (stream(data, shuffled=False, seed=n)[0][0] for n in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    one, two = (stream(data, seed=None, shuffled=False) for _ in range(2))  # by chance
    assert any((one[n][0] != two[n][0]).any() for n in range(len(one)))


def test_epochs_and_seeds_differ_and_the_same_seed_does_not(tmp_path):
    data = make_data(tmp_path, count=1)
    a, b, c = stream(data), stream(data), stream(data, seed=6)
    np.testing.assert_array_equal(a[0][0], b[0][0])
    assert any(not np.array_equal(a[0][0], a[i][0]) for i in range(1, 4))
    assert any(not np.array_equal(a[i][0], c[i][0]) for i in range(4))


def test_targets_are_the_boxes_of_the_image(tmp_path):
    """Decoded targets lie in [0, 1], labels are those of the record, crowds are never positive."""
    source = stream(make_data(tmp_path), total_steps=28)
    for number in range(len(source)):
        image, loc, label, index = source[number]
        assert image.shape == (3, SIZE, SIZE)
        assert image.dtype == loc.dtype == np.float32
        assert label.dtype == np.int32
        positive = label > 0
        if index in (1, 2):
            assert not positive.any()
        else:
            assert set(label[positive]) == {1 + index % 2}
            boxes = decode(loc, grid_priors())[positive]
            assert boxes.min() > -1e-5
            assert boxes.max() < 1 + 1e-5
            assert np.ptp(boxes, axis=0).max() < 1e-5  # one box


def test_without_augmentation_images_are_only_resized(tmp_path):
    """The same in every epoch, with the boxes where they are, however small."""
    record = make_record(1, str(tmp_path / "0.png"), (60, 48), [((10, 8, 40, 9), 1, False)])
    make_data(tmp_path, count=1)
    data = DetectionData([record], ("a", "b"), (1, 2), "train", str(tmp_path), "coco")
    source = stream(data, DataConfig(augment=False))
    for number in range(len(source)):
        image, loc, label, _ = source[number]
        colour = 20 - np.array(MEAN, np.float32)
        np.testing.assert_array_equal(image, np.broadcast_to(colour[:, None, None], image.shape))
        boxes = decode(loc, grid_priors())[label > 0]
        assert len(boxes)
        np.testing.assert_allclose(
            boxes, [[10 / 60, 8 / 48, 40 / 60, 9 / 48]] * len(boxes), atol=1e-5
        )


@pytest.mark.parametrize("workers", [1, 2])
def test_pipeline_gives_the_stream_for_any_number_of_workers(tmp_path, workers):
    data = make_data(tmp_path)
    source = stream(data, batch_size=3, total_steps=5)
    pipeline = dataset.build_train_dataset(source, workers)
    steps = 0
    for step, batch in enumerate(dataset.batches(pipeline)):
        for column in range(4):
            expected = np.stack([source[3 * step + i][column] for i in range(3)])
            np.testing.assert_array_equal(batch[column], expected)
            assert batch[column].dtype == expected.dtype
        steps += 1
    assert steps == 5


def test_an_unreadable_image_is_reported_once_and_replaced(tmp_path, caplog):
    data = make_data(tmp_path, broken=(3,))
    source = stream(data, shuffled=False)
    with caplog.at_level(logging.WARNING):
        seen = indices(source)
    # In the order 0 1 2 3 4 ..., number 3 is replaced by the next, 4.
    assert seen == [0, 1, 2, 4, 4, 5, 6] * 4
    assert [record.getMessage() for record in caplog.records if "3.png" in record.getMessage()]
    assert len(caplog.records) == 1
    assert source.reader.unreadable == 1


def test_many_unreadable_images_are_not_a_line_each(tmp_path, caplog):
    data = make_data(tmp_path, count=30, broken=range(29))
    with caplog.at_level(logging.WARNING):
        source = stream(data, shuffled=False)
        assert indices(source)[:5] == [29] * 5
    assert [row.getMessage().count("left out") for row in caplog.records] == [1] * 21
    assert "more images cannot be read" in caplog.text
    assert source.reader.unreadable == 29


def test_unreadable_images_are_counted_over_all_processes(tmp_path):
    reader = samples.Reader(make_data(tmp_path, broken=(1, 3, 4, 6)))
    context = multiprocessing.get_context("fork")
    for chosen in ((0, 1, 3), (3, 4), (5,)):
        process = context.Process(
            target=lambda indices: [*map(reader.read, indices)], args=[chosen]
        )
        process.start()
        process.join()
        assert process.exitcode == 0
    assert reader.unreadable == 3
    assert reader.read(6) is None
    assert (reader.unreadable, type(reader.unreadable)) == (4, int)


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_an_unreadable_image_in_one_line(tmp_path, workers):
    data = make_data(tmp_path, broken=(3,))
    pipeline = dataset.build_train_dataset(stream(data, DataConfig(strict=True)), workers)
    with pytest.raises(DataError, match=r"3\.png") as caught:
        list(dataset.batches(pipeline))
    assert "\n" not in str(caught.value)


def test_no_readable_image_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="none of the 2 images"):
        stream(make_data(tmp_path, count=2, broken=(0, 1)))[0]


def test_no_images_at_all_is_an_error(tmp_path):
    data = DetectionData([], ("a",), (1,), "train", "x.json", "coco")
    with pytest.raises(DataError, match="no images"):
        stream(data)


def test_a_file_of_another_size_than_annotated_scales_its_boxes(tmp_path):
    record = make_record(1, str(tmp_path / "x.png"), (60, 48), [((10, 8, 40, 30), 1, False)])
    boxes, labels = samples.training_boxes(record, np.zeros((96, 60, 3), np.uint8))
    np.testing.assert_allclose(boxes, [[10, 16, 40, 60]])
    assert labels.tolist() == [1]


def test_a_run_that_stops_half_way_ends_at_once_and_cleanly(tmp_path):
    """The process leaves while workers are still producing."""
    make_data(tmp_path)
    script = f"""
from pathlib import Path
from tests.data.test_dataset import *
source = stream(make_data(Path({str(tmp_path)!r})), total_steps=100000)
pipeline = dataset.build_train_dataset(source, 2)
made = dataset.batches(pipeline)
next(made)
import psutil
print(" ".join(str(child.pid) for child in psutil.Process().children(recursive=True)))
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    for pid in map(int, run.stdout.split()):
        assert not psutil.pid_exists(pid)


def test_no_more_workers_than_shared_memory_holds(monkeypatch, caplog):
    """A worker's queue holds 4 batches, and four fifths of the memory may be used."""
    monkeypatch.setattr(dataset.os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(dataset, "shared_memory", lambda: 100_000_000)
    assert dataset.usable_workers(8, 5_000_000) == 4  # 80 MB by 20 MB
    assert "4 worker(s) instead of 8" in caplog.text
    assert dataset.usable_workers(4, 5_000_000) == 4
    assert dataset.usable_workers(8, 5_000_000, ranks=8) == 1
    assert dataset.usable_workers(8, 30_000_000) == 1
    assert dataset.usable_workers(1, 10**12) == 1


def test_no_more_workers_than_cores():
    assert dataset.usable_workers(0) == 1
    assert dataset.usable_workers(10_000) <= 10_000
    assert dataset.usable_workers(1) == 1


def test_batches_that_no_memory_holds_are_refused(tmp_path):
    source = stream(make_data(tmp_path), batch_size=4096 * 10_000)
    with pytest.raises(ConfigError, match=r"train\.per_batch_size.* 40,960,000 images take"):
        dataset.build_train_dataset(source)


def test_extras_are_off_by_default_and_leave_order_and_determinism_alone(tmp_path):
    data = make_data(tmp_path)
    plain = stream(data, total_steps=7)
    for name in ("mosaic", "mixup"):
        source, again = (stream(data, DataConfig(**{name: 1.0}), total_steps=7) for _ in range(2))
        changed = 0
        for number in range(len(source)):
            image, loc, label, index = source[number]
            assert index == plain[number][3]
            assert np.isfinite(loc).all()
            assert set(label) <= {0, 1, 2}
            for a, b in zip(source[number], again[number]):
                np.testing.assert_array_equal(a, b)
            changed += not np.array_equal(image, plain[number][0])
        assert changed > 10
        # Image 1 has no box of its own, but its mixtures have.
        own = [source[i][2].any() for i in range(len(source)) if source[i][3] == 1]
        assert any(own)


def test_matching_and_colours_follow_the_configuration(tmp_path):
    data = make_data(tmp_path)
    still = DataConfig(crop_prob=0, max_expand_ratio=1, color_jitter=0)
    plain, near, dynamic = (
        stream(data, still, matching=AnchorConfig(iou_threshold=iou, dynamic_k=k))
        for iou, k in ((0.9, 0), (0.1, 0), (0.9, 30))
    )
    number = indices(plain).index(0)  # of the image with one box
    image, _, labels, _ = plain[number]
    assert (labels > 0).sum() == 1  # no prior has such an IoU: its best alone
    assert all((other[number][2] > 0).sum() > 1 for other in (near, dynamic))
    assert np.abs(image + np.reshape(still.mean_bgr, (3, 1, 1)) - 20).max() <= 1  # as in the file


def test_mosaic_ends_where_it_is_told_to(tmp_path):
    """Of 14 steps of two images, the last seven are those of a run without mosaic."""
    data = make_data(tmp_path)
    plain, whole, half = (
        [stream(data, DataConfig(mosaic=share, mosaic_until=until))[i][0] for i in range(28)]
        for share, until in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.5))
    )
    for i in range(28):
        np.testing.assert_array_equal(half[i], whole[i] if i < 14 else plain[i])
        assert (whole[i] != plain[i]).any()


def test_mosaic_with_an_unreadable_part_uses_the_image_alone(tmp_path):
    data = make_data(tmp_path, count=3, broken=(1, 2))
    source = stream(data, DataConfig(mosaic=1.0, mixup=1.0))
    assert set(indices(source)) == {0}


def test_sizes_take_turns_by_step_the_same_on_every_rank(tmp_path):
    data = make_data(tmp_path)
    tables = {64: grid_priors(), 96: np.repeat(grid_priors(), 2, axis=0)}
    ranks = [stream(data, priors=tables, rank=r, world_size=2, total_steps=20) for r in range(2)]
    seen = set()
    for number in range(40):
        shapes = {ranks[r][number][0].shape[1] for r in range(2)}
        shapes |= {ranks[0][number // 2 * 2][0].shape[1]}
        assert len(shapes) == 1
        size = shapes.pop()
        assert len(ranks[0][number][2]) == len(tables[size])
        seen.add(size)
    assert seen == {64, 96}
    pipeline = dataset.build_train_dataset(stream(data, priors=tables, total_steps=6))
    assert len({batch[0].shape for batch in dataset.batches(pipeline)}) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"augment": False},
        {"random_interpolation": True},
        {"max_expand_ratio": 1.0},
        {"crop_prob": 0.0},
        {"vertical_flip": True},
        {"mosaic": 1.0},
        {"mixup": 1.0},
        {"mean_bgr": (0.0, 0.0, 0.0)},
    ],
    ids=str,
)
def test_every_setting_of_the_section_reaches_the_samples(tmp_path, changed):
    noise = np.random.default_rng(0).integers(0, 255, (2, 48, 60, 3)).astype(np.uint8)
    boxes, records = [((10, 8, 40, 30), 1, False)], []
    for number, image in enumerate(noise):
        path = str(tmp_path / f"{number}.png")
        cv2.imwrite(path, image)
        records.append(make_record(number, path, (60, 48), boxes))
    data = DetectionData(records, ("a",), (1,), "train", str(tmp_path), "coco")
    plain, other = stream(data), stream(data, DataConfig(**changed))
    assert any((plain[n][0] != other[n][0]).any() for n in range(len(plain)))
