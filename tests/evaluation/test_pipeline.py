# SPDX-License-Identifier: Apache-2.0
"""A split through a detector of a few lines: order, batches, bad images, eval.py around it."""

import errno
import itertools
import json
import logging
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import eval as evaluate
from src.config import get_config
from src.data.coco_utils import load_data
from src.data.records import DataError
from src.data.sample_stream import Reader
from src.evaluation.pipeline import detect_split
from src.formats.checkpoint import Labels, save_config
from src.inference.detector import STAGES, ArrayDetector, PostProcessor
from src.inference.views import ViewPlan, view_input
from src.runtime.device import RANK_VARIABLES
from src.runtime.errors import UsageError
from src.runtime.files import LockedError, naming
from src.runtime.stopwatch import Stopwatch
from tests.datasets import coco_content, voc_xml, write_coco, write_voc

CENTRES = (np.arange(4) + 0.5) / 4
GRID = np.array([[x, y, 0.25, 0.25] for y in CENTRES for x in CENTRES], np.float32)
COUNT = 11


def network(inputs):
    """Sure of "cat" in each of 4 x 4 cells that is bright."""
    side = inputs.shape[-1] // 4
    cells = inputs.reshape(len(inputs), 3, 4, side, 4, side).mean(axis=(1, 3, 5))
    logits = np.zeros((len(inputs), 16, 3), np.float32)
    logits[..., 0] = 5
    logits[..., 1] = np.where(cells.reshape(-1, 16) > 50, 12, -5)
    return np.zeros((len(inputs), 16, 4), np.float32), logits


def detector(labels=("cat", "dog"), **plan):
    return ArrayDetector(
        network,
        PostProcessor(GRID),
        ViewPlan(64, **plan),
        (104, 117, 123),
        Labels(labels, (3, 7)),
    )


def spot(number):
    """Cell (xywh in pixels of 60 x 48) that is bright in image `number`."""
    column, row = number % 4, number // 4 % 4
    return [column * 15, row * 12, 15, 12]


def write_spots(folder, names):
    for number, name in enumerate(names):
        image = np.zeros((48, 60, 3), np.uint8)
        x, y, w, h = spot(number)
        image[y : y + h, x : x + w] = 255
        cv2.imwrite(str(folder / name), image)


@pytest.fixture
def root(tmp_path):
    names = [f"{number}.png" for number in range(COUNT)]
    rows = [(number + 1, 3, spot(number)) for number in range(COUNT)]
    write_coco(
        tmp_path / "data",
        coco_content(names, rows),
        "val2017",
        "annotations/instances_val2017.json",
    )
    write_spots(tmp_path / "data" / "val2017", names)
    return tmp_path / "data"


def run(data, indices=None, **options):
    found = {}

    def on_batch(image_ids, entries):
        found.update(zip(image_ids, entries))

    plan = options.pop("plan", {})
    indices = range(len(data.records)) if indices is None else indices
    detect_split(detector(**plan), data, indices, (3, 7), on_batch, **options)
    return found


PLANS = [{}, {"flip": True}, {"tile_px": 30}]


@pytest.mark.parametrize("plan", PLANS)
def test_every_batch_size_and_number_of_threads_gives_the_same(root, plan):
    data = load_data(root, "val")
    found = run(data, plan=plan)
    assert list(found) == list(range(1, COUNT + 1))
    for image_id, entries in found.items():
        best = entries[0]
        assert (best["image_id"], best["category_id"]) == (image_id, 3)
        np.testing.assert_allclose(best["bbox"], spot(image_id - 1), atol=0.5)
    for batch_size, workers in ((4, 1), (7, 3)):
        assert run(data, plan=plan, batch_size=batch_size, num_workers=workers) == found


def test_ranks_divide_the_images(root):
    data = load_data(root, "val")
    parts = [run(data, range(rank, COUNT, 2), batch_size=4) for rank in range(2)]
    assert not set(parts[0]) & set(parts[1])
    assert {**parts[0], **parts[1]} == run(data)


def test_every_stage_is_timed(root):
    watch = Stopwatch(STAGES)
    run(load_data(root, "val"), watch=watch)
    assert all(seconds > 0 for seconds in watch.seconds.values())
    assert set(watch.rates(COUNT)) == {"load", "preprocess", "network", "decode", "nms"}


def test_stages_run_at_the_same_time(root, monkeypatch):
    """The third image is read, the second in the network and the first post-processed: each of the
    three waits until the others have begun.
    """
    meeting = threading.Barrier(3, timeout=60)

    def meets(function, turn):
        calls = itertools.count()

        def call(*args, **options):
            if next(calls) == turn:
                meeting.wait()
            return function(*args, **options)

        return call

    busy = detector()
    monkeypatch.setattr("src.evaluation.pipeline.view_input", meets(view_input, 2))
    busy.network, busy.postprocess = meets(busy.network, 1), meets(busy.postprocess, 0)
    done = []
    detect_split(
        busy, load_data(root, "val"), range(COUNT), (3, 7), lambda ids, _: done.extend(ids)
    )
    assert done == list(range(1, COUNT + 1))


def test_an_unreadable_image_is_reported_and_has_no_detections(root, caplog):
    data = load_data(root, "val")
    expected = run(data)
    (root / "val2017" / "4.png").write_bytes(b"no image")
    found = run(data, batch_size=4)
    assert found == {**expected, 5: []}
    assert caplog.text.count("4.png") == 1
    with pytest.raises(DataError, match=r"4\.png"):
        run(data, strict=True)


def test_a_split_without_a_readable_image_is_no_score_of_zero(root, caplog):
    data = load_data(root, "val")
    for path in (root / "val2017").iterdir():
        path.write_bytes(b"no image")
    reader = Reader(data)
    for _ in range(2):  # as while training
        with pytest.raises(DataError, match=r"json: split val2017 has no image that can be read"):
            run(data, reader=reader)
    assert caplog.text.count("left out") == COUNT
    with pytest.raises(DataError, match="no image that can be read"):
        run(data.subset([]))


def test_boxes_are_in_the_annotated_size(root):
    image = cv2.imread(str(root / "val2017" / "5.png"))
    cv2.imwrite(str(root / "val2017" / "5.png"), cv2.resize(image, (240, 96)))
    np.testing.assert_allclose(run(load_data(root, "val"))[6][0]["bbox"], spot(5), atol=0.2)


def test_many_tiles_are_made_as_the_network_goes(root):
    data = load_data(root, "val")
    found = run(data, plan={"tile_px": 8, "tile_overlap": 0.5}, batch_size=3)
    assert set(found) == set(range(1, COUNT + 1))


@pytest.fixture
def main(root, tmp_path, monkeypatch, device):
    """eval.py with the stand-in network."""
    checkpoint = tmp_path / "run" / "m.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    config = get_config("m2det_tiny", ["model.num_classes=3"])
    save_config(checkpoint.parent, config, Labels(("cat", "dog"), (3, 7)))
    monkeypatch.setattr("src.programs.eval.build_detector", lambda *_: detector())

    def call(*flags, data=root):
        argv = ["--checkpoint_path", str(checkpoint), "--dataset_path", str(data)]
        return evaluate.main([*argv, "--output", str(tmp_path / "out"), *flags])

    return call


def test_everything_is_written_and_printed(main, tmp_path, capsys):
    totals = main("--set", "test.batch_size=4")
    assert totals["AP"] == pytest.approx(1.0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "detections.json",
        "metrics.json",
    ]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["AP_by_class"] == {"cat": pytest.approx(1.0), "dog": -1.0}
    assert metrics["confusion"]["rows"] == [[0, 0, 0], [0, COUNT, 0], [0, 0, 0]]
    assert metrics["precision_recall"]["0.50"]["cat"] == [1.0] * 101
    assert set(metrics["images_per_second"]) == {*STAGES, "all"}
    printed = capsys.readouterr().out
    assert "images/s: load" in printed
    assert "AP_small" in printed


def test_the_cost_of_more_views_is_said(main, monkeypatch, caplog):
    monkeypatch.setattr("src.programs.eval.build_detector", lambda *_: detector(flip=True))
    with caplog.at_level(logging.INFO):
        main()
    assert "2 views of each image: 2.0 times the pixels of one" in caplog.text


def test_an_interrupted_run_goes_on(main, tmp_path, monkeypatch, caplog):
    main()
    expected = (tmp_path / "out" / "detections.json").read_text()
    calls = []

    def dies(batch):
        calls.append(len(batch))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return network(batch)

    broken = detector()
    broken.network = dies
    monkeypatch.setattr("src.programs.eval.build_detector", lambda *_: broken)
    with pytest.raises(KeyboardInterrupt):
        main("--set", "test.batch_size=2")
    assert (tmp_path / "out" / "partial" / "rank_0.jsonl").is_file()
    calls += [0] * 10  # it lives from here on
    with caplog.at_level(logging.INFO):
        main()
    assert "4 of 11 images were done before" in caplog.text
    assert len(calls) == 4 + 10 + 1 + COUNT - 4  # each run begins with a call that compiles
    assert (tmp_path / "out" / "detections.json").read_text() == expected
    assert not (tmp_path / "out" / "partial").exists()


def test_what_is_done_is_kept_until_everything_is_written(main, tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise OSError("no space left")

    (tmp_path / "out" / "partial").mkdir(parents=True)
    (tmp_path / "out" / "partial" / "rank_5.jsonl").write_text("of a run with more ranks")
    with monkeypatch.context() as broken:
        broken.setattr("src.programs.eval.coco_score", fails)
        with pytest.raises(OSError, match="no space left"):
            main()
    with caplog.at_level(logging.INFO):
        assert main()["AP"] == pytest.approx(1.0)
    assert "11 of 11 images were done before" in caplog.text
    assert not (tmp_path / "out" / "partial").exists()


def test_a_split_without_ground_truth_becomes_a_submission(main, root, tmp_path):
    content = coco_content(["a.png"])
    del content["annotations"]
    write_coco(root, content, "test2015", "annotations/image_info_test-dev2015.json")
    assert main("--split", "test-dev2015", "--name", "mine") == {}
    stem = "detections_test-dev2015_mine_results"
    with zipfile.ZipFile(tmp_path / "out" / f"{stem}.zip") as archive:
        assert archive.namelist() == [f"{stem}.json"]
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_voc_data_has_the_metrics_of_voc(main, tmp_path, capsys):
    boxes = {name: spot(number) for number, name in enumerate("ab")}
    files = {
        name: voc_xml([("cat", (x + 1, y + 1, x + w, y + h)), ("dog", (1, 40, 9, 48))])
        for name, (x, y, w, h) in boxes.items()
    }
    voc = write_voc(tmp_path / "voc", files, {"val": ["a", "b"]})
    write_spots(voc / "JPEGImages", ["a.jpg", "b.jpg"])
    main(data=voc)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # every cat is found, no dog: 1 and 0 by either metric
    assert metrics["VOC07_mAP"] == pytest.approx(0.5)
    assert metrics["VOC12_mAP"] == pytest.approx(0.5)
    assert "VOC07_mAP 0.5000" in " ".join(capsys.readouterr().out.split())


def test_compiling_is_no_part_of_the_speed(main, tmp_path, monkeypatch):
    """By a clock that the network moves: 1000 seconds for its first call, one for the others."""
    clock = [0.0]

    def network_with_clock(batch):
        clock[0] += 1.0 if clock[0] else 1000.0
        return network(batch)

    slow = detector()
    slow.network = network_with_clock
    monkeypatch.setattr("src.programs.eval.build_detector", lambda *_: slow)
    monkeypatch.setattr("src.programs.eval.time", SimpleNamespace(monotonic=lambda: clock[0]))
    stopwatch = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("src.runtime.stopwatch.time", stopwatch)
    main()
    speed = json.loads((tmp_path / "out" / "metrics.json").read_text())["images_per_second"]
    assert clock == [1000 + COUNT]
    assert (speed["network"], speed["all"]) == (1.0, 1.0)


def test_two_evaluations_do_not_share_a_folder(main, tmp_path):
    hold = "import sys; from pathlib import Path; from src.runtime.files import locked\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    root = Path(evaluate.__file__).parent
    with subprocess.Popen(command, cwd=root, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"out: in use by process {other.pid}"):
            main()
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
        other.stdin.close()
    assert main()["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("value", ["nan", "-0.1", "1.5"])
def test_a_threshold_is_a_probability(main, value):
    with pytest.raises(UsageError, match="--score_threshold must be from 0 to 1"):
        main("--score_threshold", value)


def test_a_rank_needs_a_launcher(main, monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="--distribute is for the ranks of a launcher"):
        main("--distribute")


@pytest.mark.parametrize("name", ["rank_0.jsonl", "detections.json", "metrics.json", "report.html"])
def test_a_full_disk_names_the_file_and_leaves_no_half_of_one(main, tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_disk(path, _text):
        with naming(path):
            full()

    if name == "rank_0.jsonl":
        monkeypatch.setattr("src.evaluation.partial_results.append", full_disk)
    write = Path.write_bytes

    def write_bytes(path, content):
        if path.name.endswith(name) and name != "rank_0.jsonl":
            write(path, content[:5])
            full()
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OSError, match="No space left on device") as caught:
        main("--report")
    assert Path(caught.value.filename).name == name
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert name not in left
    assert not [entry for entry in left if entry.startswith(".")]
