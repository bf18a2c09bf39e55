# SPDX-License-Identifier: Apache-2.0
"""Full-sized networks exported: the differences, and the boxes found in photographs."""

import json
from functools import partial

import mindspore as ms
import numpy as np
import pytest
from exporting import images_for, randomise

import export
from src.config import get_config
from src.data.images import read_image
from src.formats.checkpoint import Labels, save_checkpoint, save_config
from src.formats.export_check import network_outputs
from src.formats.exported_network import load_exported
from src.inference.detector import ArrayDetector
from src.model import build_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

# Overrides, and the number of photographs compared; test_deploy.py has all 80 for a small network.
NETWORKS = {
    "m2det320_vgg16": ([], 8),
    "m2det320_resnet50": ([], 8),
    "m2det512_vgg16": ([], 4),
    "m2det512_resnet50": (["model.input_size=512"], 4),
}


def make_network(name):
    """A preset with random weights, its heads scaled to offsets of 1 and scores of 1.5 units."""
    overrides, _ = NETWORKS[name]
    config = get_config(name.replace("512_resnet50", "320_resnet50"), overrides)
    network = build_model(config).set_train(False)
    randomise(network)
    outputs = network_outputs(network, images_for(config, 1)[1])
    for cells, output, wanted in zip((network.head.loc, network.head.conf), outputs, (1.0, 1.5)):
        for cell in cells:
            for parameter in (cell.weight, cell.bias):
                parameter.set_data(ms.Tensor(parameter.asnumpy() * wanted / output.std()))
    return network, config


@pytest.mark.parametrize("name", NETWORKS)
def test_large_networks(name, tmp_path, coco_tiny, capsys):
    pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    network, config = make_network(name)
    numbers = tuple(range(1, 81))
    labels = Labels(tuple(f"class {i}" for i in numbers), numbers)
    save_checkpoint(network.parameters_dict(), tmp_path / "net.ckpt")
    save_config(tmp_path, config, labels)
    paths = sorted((coco_tiny / "val2017").glob("*.jpg"))[: NETWORKS[name][1]]
    photographs = [read_image(str(path)) for path in paths]
    detector = ArrayDetector.from_network(partial(network_outputs, network), config, labels, name)
    expected = detector.detect_batch(photographs)
    total = sum(map(len, expected))
    assert total > 10 * len(photographs)
    for kind, bound in (("MINDIR", 1e-5), ("ONNX", 1e-4)):
        path = tmp_path / f"net.{kind.lower()}"
        flags = ["--checkpoint_path", str(tmp_path / "net.ckpt"), "--file_format", kind]
        export.main([*flags, "--output", str(path), "--batch_size", "0"])
        printed = capsys.readouterr().out
        shown = [line for line in printed.splitlines() if line.startswith("batch ")]
        assert [line.split(":")[0] for line in shown] == ["batch 1", "batch 4"]
        file = load_exported(path)
        found = ArrayDetector.from_network(
            file.network, file.config, file.labels, kind, file.decoded
        )
        missing = differing(expected, found.detect_batch(photographs))
        with capsys.disabled():
            print(f"\n{name} {kind}: {json.dumps(shown)}; {missing} of {total} boxes differ")
        assert max(float(line.split(", ")[1].split(" ")[0]) for line in shown) <= bound
        assert missing <= total * 1e-3


def differing(expected, found):
    """Detections without a counterpart within 0.05 pixels and 2e-4 of the score."""
    missing = 0
    for own, other in zip(expected, found):
        missing += abs(len(own) - len(other))
        for box, score, label in zip(own.boxes_px, own.scores, own.labels):
            near = np.abs(other.boxes_px - box).max(1, initial=0) < 0.05
            near &= (np.abs(other.scores - score) < 2e-4) & (other.labels == label)
            missing += not near.any()
    return missing
