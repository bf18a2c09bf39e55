# SPDX-License-Identifier: Apache-2.0
"""eval.py scores exported files as it scores the checkpoint."""

import cv2
import numpy as np
import pytest
from datasets import write_coco
from exporting import LABELS

import eval as evaluate
from src.inference.detector import ArrayDetector
from src.inference.mindspore_network import cell_network

pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture(scope="module")
def data(exports, tmp_path_factory):
    """Images of noise whose ground truth is what the network finds, moved a little."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(2)
    network = cell_network(exports.network)
    detector = ArrayDetector.from_network(network, exports.config, LABELS, "net")
    content = {"images": [], "annotations": [], "categories": []}
    for name, number in zip(LABELS.class_names, LABELS.category_ids):
        content["categories"].append({"id": number, "name": name})
    (root / "val2017").mkdir()
    for i in range(1, 9):
        image = cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), (80, 60))
        file = f"{i}.png"
        cv2.imwrite(str(root / "val2017" / file), image)
        content["images"].append({"id": i, "file_name": file, "width": 80, "height": 60})
        found = detector(image)
        chosen = rng.permutation(len(found))[:5]
        for box, label in zip(found.boxes_px[chosen], found.labels[chosen]):
            x1, y1, x2, y2 = np.clip(box + rng.uniform(-2, 2, 4), 0, [80, 60, 80, 60]).tolist()
            entry = {"id": len(content["annotations"]) + 1, "image_id": i, "iscrowd": 0}
            entry["category_id"] = LABELS.category_ids[label - 1]
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            content["annotations"].append({**entry, "area": (x2 - x1) * (y2 - y1)})
    return write_coco(root, content, images=None, path="annotations/instances_val2017.json")


def score(path, data, out):
    flags = ["--checkpoint_path", str(path), "--dataset_path", str(data), "--output", str(out)]
    return evaluate.main(flags)


def test_the_same_twelve_numbers(exports, data, tmp_path):
    expected = score(exports.checkpoint, data, tmp_path / "checkpoint")
    assert len(expected) == 12
    assert 0.05 < expected["AP"] < 0.95  # neither nothing nor everything
    for case in ("mindir raw any", "onnx raw image"):
        found = score(exports.path(case), data, tmp_path / case)
        assert found == pytest.approx(expected, abs=1e-9)
