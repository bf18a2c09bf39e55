# SPDX-License-Identifier: Apache-2.0
"""The programs with the network that comes along, on the photographs that come along."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import demo
import eval as evaluate
import train
from src.data import synthetic_shapes as shapes
from src.detector import Detector
from src.formats.shipped import PHOTOS

ROOT = Path(__file__).resolve().parents[2]
# By eye, in pixels: xyxy.
MAIN_BOX = {"astronaut.jpg": ("person", (20, 14, 365, 512)), "cat.jpg": ("cat", (0, 0, 400, 300))}


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def test_demo_without_a_checkpoint_finds_person_and_cat(tmp_path, device):
    demo.main(["--input", str(ROOT / "docs" / "photos"), "--output", str(tmp_path)])
    entries = json.loads((tmp_path / "detections.json").read_text())
    assert sorted(Path(entry["image"]).name for entry in entries) == sorted(MAIN_BOX)
    for entry in entries:
        name, box = MAIN_BOX[Path(entry["image"]).name]
        best = max(entry["detections"], key=lambda found: found["score"])
        assert best["class"] == name
        assert iou(best["box_xyxy_px"], box) > 0.5


def test_boxes_below_what_is_shown_vote_for_those_above():
    seen, all_of_them = (Detector.load(score_threshold=lowest) for lowest in (0.3, 0.01))
    for name in MAIN_BOX:
        image = cv2.imread(str(ROOT / "docs" / "photos" / name))
        few, most = seen(image), all_of_them(image).filter(0.3)
        np.testing.assert_array_equal(few.boxes_px, most.boxes_px)
        np.testing.assert_array_equal(few.scores, most.scores)


def test_eval_without_a_checkpoint(tmp_path, device, capsys):
    """On the two photographs with the boxes above: what is found there counts."""
    folder = tmp_path / "data"
    names = json.loads((PHOTOS.parent / "labels.json").read_text())["class_names"]
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    for number, (file, (name, (x1, y1, x2, y2))) in enumerate(sorted(MAIN_BOX.items()), 1):
        image = cv2.imread(str(ROOT / "docs" / "photos" / file))
        cv2.imwrite(str(folder / "val2017" / file), image)
        size = {"height": image.shape[0], "width": image.shape[1]}
        content["images"].append({"id": number, "file_name": file, **size})
        box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        label = {"id": number, "image_id": number, "category_id": names.index(name) + 1}
        content["annotations"].append({**label, **box})
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    totals = evaluate.main(["--dataset_path", str(folder), "--output", str(tmp_path / "out")])
    assert totals["AP50"] > 0.9


@pytest.mark.parametrize("resume", [[], ["--resume", "auto"]])
def test_without_weights_its_presets_are_refused(tmp_path, device, resume):
    shapes.write_dataset(tmp_path / "data", (("train2017", 2), ("val2017", 1)), seed=0)
    flags = ["--dataset_path", str(tmp_path / "data"), "--train_url", str(tmp_path / "out")]
    for preset in ("m2det_photos", "m2det_finetune"):
        with pytest.raises(ValueError, match=r"freeze_stages: .* would stay random"):
            train.main([*flags, "--config", preset, *resume])
    assert not (tmp_path / "out").exists()


def test_finetune_photos_takes_its_preset_and_all_weights_but_the_class_scores(
    tmp_path, device, caplog, capsys
):
    shapes.write_dataset(tmp_path / "data", (("train2017", 8), ("val2017", 2)), seed=0)
    with caplog.at_level("INFO"):
        flags = ["--dataset_path", str(tmp_path / "data"), "--train_url", str(tmp_path / "out")]
        train.main([*flags, "--finetune", "photos", "--dry_run"])
    anew = [line for line in caplog.messages if "begins anew" in line]
    assert len(anew) == 8
    assert all(line.startswith("head.conf.") for line in anew)
    assert "images: (4, 3, 256, 256)" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(MAIN_BOX))
def test_the_photographs_are_small_and_their_source_is_named(name):
    path = ROOT / "docs" / "photos" / name
    assert path.stat().st_size <= 100_000
    assert f"`{name}`" in (path.parent / "SOURCES.md").read_text()
