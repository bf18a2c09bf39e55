# SPDX-License-Identifier: Apache-2.0
"""Small networks to export, with weights that excite every part of them."""

import contextlib
import fcntl
import io

import mindspore as ms
import numpy as np

import export
from src.config import get_config
from src.formats.checkpoint import Labels, save_checkpoint, save_config
from src.model import build_model

SMALL = (
    "model.input_size=64",
    "model.num_levels=1",
    "model.num_scales=3",
    "model.planes=32",
    "model.num_classes=4",
)


def random_network(*overrides):
    """A network in evaluation mode and its configuration."""
    config = get_config("m2det_tiny", [*SMALL, *overrides])
    network = build_model(config).set_train(False)
    randomise(network)
    return network, config


def randomise(network):
    """Weights and statistics that let signals through with about the strength they come in."""
    rng = np.random.default_rng(1)
    for name, parameter in network.parameters_dict().items():
        values = rng.standard_normal(parameter.shape, np.float32)
        if name.endswith("moving_variance"):
            values = np.abs(values) + 0.5
        elif values.ndim == 4:
            values *= (0.005 if name.startswith("head") else 1.4) / np.sqrt(values[0].size)
        elif name.endswith("gamma"):  # branches that add little keep a deep network from chaos
            values = (0.3 if "layer" in name else 1) + 0.1 * values
        else:
            values *= 0.1
        parameter.set_data(ms.Tensor(values.astype(np.float32)))


def images_for(config, batch):
    """The same images as uint8 (B, S, S, 3) and as network input (B, 3, S, S)."""
    size = config.model.input_size
    pixels = np.random.default_rng(3).integers(0, 256, (batch, size, size, 3), np.uint8)
    tensor = (pixels - np.float32(config.data.mean_bgr)).transpose(0, 3, 1, 2)
    return pixels, np.ascontiguousarray(tensor)


LABELS = Labels(("cat", "dog", "naïve bird"), (4, 2, 9))
# Flags of export.py; every value of each flag is there.
CASES = {
    "mindir raw any": ["--outputs", "raw", "--batch_size", "0"],
    "mindir boxes image folded": [
        *("--inputs", "image", "--outputs", "boxes", "--fold_batchnorm", "--batch_size", "2"),
    ],
    "onnx raw image": [
        *("--file_format", "ONNX", "--outputs", "raw", "--inputs", "image", "--batch_size", "0"),
    ],
    "onnx boxes": ["--file_format", "ONNX"],
    "onnx detections folded": [
        *("--file_format", "ONNX", "--outputs", "detections", "--fold_batchnorm"),
        *("--batch_size", "0", "--inputs", "image"),
    ],
}


class Exports:
    """One network, exported in every way on first use, by whichever test process comes first."""

    def __init__(self, root):
        self.root = root
        self.folder = root / "a folder"
        self.network, self.config = random_network()
        with self._alone():
            self.checkpoint = root / "run" / "net.ckpt"
            if not self.folder.is_dir():
                save_run(root / "run", self.network, self.config)
                self.folder.mkdir(mode=0o755)

    def path(self, case):
        ending = "onnx" if case.startswith("onnx") else "mindir"
        path = self.folder / f"{case.replace(' ', '_')}.{ending}"
        with self._alone():
            if not self._said(case).is_file():
                flags = ["--checkpoint_path", str(self.checkpoint), "--output", str(path)]
                text = io.StringIO()
                with contextlib.redirect_stdout(text):
                    export.main([*flags, *CASES[case]])
                self._said(case).write_text(text.getvalue())
        return path

    def printed(self, case):
        """What export.py printed."""
        self.path(case)
        return self._said(case).read_text()

    def _said(self, case):
        return self.root / f"{case}.txt"

    @contextlib.contextmanager
    def _alone(self):
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def save_run(folder, network, config):
    """A checkpoint with its configuration and labels; its path."""
    checkpoint = folder / "net.ckpt"
    save_checkpoint(network.parameters_dict(), checkpoint)
    save_config(folder, config, LABELS)
    return checkpoint


def unmatched(own, found, class_names):
    """How many of a Detector's detections are not among the entries of deploy's programs."""
    left = list(found)
    missing = 0
    for box, score, label in zip(own.boxes_px, own.scores, own.labels):
        for entry in left:
            same = entry["class"] == class_names[label - 1] and abs(entry["score"] - score) < 2e-4
            if same and np.abs(np.array(entry["box_xyxy_px"]) - box).max() < 0.05:
                left.remove(entry)
                break
        else:
            missing += 1
    return missing
