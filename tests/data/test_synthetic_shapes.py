# SPDX-License-Identifier: Apache-2.0
import json

import cv2
import numpy as np
import pytest

from src.data import synthetic_shapes as shapes

COUNTS = (("train2017", 13), ("val2017", 4))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("shapes") / "data"
    assert shapes.write_dataset(out, COUNTS, seed=5)
    return out


def _annotations(root, split="train2017"):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[0, 1], [1, 1]], [1, 3]),  # column 0 is 0 1, column 1 is 1 1
        ([[1, 0, 0], [0, 0, 1]], [0, 1, 4, 1]),
    ],
)
def test_run_lengths(mask, expected):
    assert shapes.run_lengths(np.array(mask)) == expected


@pytest.mark.parametrize(("split", "count"), COUNTS)
def test_files_and_sizes(root, split, count):
    content = _annotations(root, split)
    files = sorted(path.name for path in (root / split).iterdir())
    assert files == [entry["file_name"] for entry in content["images"]]
    assert len(files) == count
    for entry in content["images"]:
        image = cv2.imread(str(root / split / entry["file_name"]))
        assert image.shape == (entry["height"], entry["width"], 3)
        assert 160 <= min(image.shape[:2]) <= max(image.shape[:2]) <= 240
    assert len({entry["width"] for entry in content["images"]}) > 1


def test_pycocotools_reads_it(root):
    coco = pytest.importorskip("pycocotools.coco")
    api = coco.COCO(str(root / "annotations" / "instances_train2017.json"))
    assert sorted(api.getCatIds()) == [1, 2, 4]
    crowds = api.loadAnns(api.getAnnIds(iscrowd=True))
    assert [crowd["image_id"] for crowd in crowds] == [3]  # index 2
    without = set(api.getImgIds()) - {entry["image_id"] for entry in api.anns.values()}
    assert without == {2}  # index 1
    for entry in api.anns.values():
        rows, columns = np.nonzero(api.annToMask(entry))
        x, y, width, height = entry["bbox"]
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # pycocotools rounds polygons; a sharp corner may lose a pixel or two.
        np.testing.assert_allclose(drawn, [x, y, x + width, y + height], atol=2.5)


def test_boxes_lie_inside_and_cover_little(root):
    content = _annotations(root)
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in content["images"]}
    for number, (width, height) in sizes.items():
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == number]
        for x, y, w, h in boxes:
            assert 0 <= x < x + w <= width
            assert 0 <= y < y + h <= height
        for i, (x, y, w, h) in enumerate(boxes):
            for u, v, s, t in boxes[:i]:
                across = min(x + w, u + s) - max(x, u)
                down = min(y + h, v + t) - max(y, v)
                assert max(across, 0) * max(down, 0) <= 0.16 * min(w * h, s * t)


def test_sizes_and_classes_vary():
    seen, share = set(), []
    for index in range(60):
        scene = shapes.draw_scene(1, 0, index)
        for shape in scene.shapes:
            x1, y1, x2, y2 = shape.box_xyxy
            seen.add(shape.label)
            share.append(max(x2 - x1, y2 - y1) / min(scene.image.shape[:2]))
    assert seen == {0, 1, 2}
    assert 0.119 < min(share) < 0.2
    assert 0.5 < max(share) < 0.701


def test_paint_fills_the_box():
    image = np.full((60, 80, 3), 100.0, np.float32)
    outline = np.array([[10, 20], [50, 20], [50, 45], [10, 45]], float)
    shapes._paint(image, outline, np.random.default_rng(0))
    changed = np.abs(image - 100).max(axis=2)
    assert (changed[20:45, 10:50] > 0).all()
    changed[19:46, 9:51] = 0  # one pixel of soft edge
    assert not changed.any()


def test_painted_shapes_stand_out():
    rng = np.random.default_rng(3)
    for _ in range(20):
        image = np.full((40, 40, 3), 128.0, np.float32)
        shapes._paint(image, np.array([[5, 5], [35, 5], [35, 35], [5, 35]], float), rng)
        assert np.linalg.norm(image[8:32, 8:32].mean(axis=(0, 1)) - 128) > 80


@pytest.mark.parametrize(
    ("points", "area"),
    [([[0, 0], [4, 0], [4, 3], [0, 3]], 12.0), ([[0, 0], [0, 6], [5, 0]], 15.0)],
)
def test_area(points, area):
    assert shapes._area(np.array(points, float)) == pytest.approx(area)


def test_same_seed_same_bytes(root, tmp_path):
    shapes.write_dataset(tmp_path / "again", COUNTS, seed=5)
    shapes.write_dataset(tmp_path / "other", COUNTS, seed=6)
    name = "train2017/000000000003.jpg"
    assert (tmp_path / "again" / name).read_bytes() == (root / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (root / name).read_bytes()
    assert _annotations(tmp_path / "again") == _annotations(root)
    splits = [(root / split / "000000000001.jpg").read_bytes() for split, _ in COUNTS]
    assert splits[0] != splits[1]


def test_second_write_leaves_what_is_there(root):
    before = (root / "train2017" / "000000000001.jpg").stat().st_mtime_ns
    assert not shapes.write_dataset(root, COUNTS, seed=5)
    assert (root / "train2017" / "000000000001.jpg").stat().st_mtime_ns == before


def test_other_contents_are_refused(root):
    with pytest.raises(FileExistsError, match="holds something else"):
        shapes.write_dataset(root, COUNTS, seed=6)


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes.cv2, "imwrite", lambda *_: False)
    with pytest.raises(OSError, match=r"000000000001\.jpg"):
        shapes.write_dataset(tmp_path / "data", COUNTS, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    argv = [str(tmp_path / "out"), "--train", "2", "--val", "1"]
    assert shapes.main(argv) == 0
    assert shapes.main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("already there")
    assert shapes.main([*argv, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / "out") in error
    with pytest.raises(SystemExit):
        shapes.main([*argv, "--val", "0"])
