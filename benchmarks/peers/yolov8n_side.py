# SPDX-License-Identifier: Apache-2.0
"""Ultralytics' part of `benchmarks.peers.yolov8n`, run by the interpreter that has it installed.

`PYTHON yolov8n_side.py DATA_YAML OUTPUT MINUTES SEED`: trains `yolov8n.yaml` from nothing with the
package's own defaults, and writes what it finds in the images of `test` to OUTPUT/found.json.
"""

import json
import sys
from pathlib import Path

SIZE = 320
BATCH = 8
MAX_DETECTIONS = 100  # as many as COCO's AP counts


def main(data: str, output: str, minutes: str, seed: str) -> None:
    """Train for as many minutes, then detect."""
    import torch
    import yaml
    from ultralytics import YOLO

    torch.set_num_threads(1)
    model = YOLO("yolov8n.yaml")
    model.train(
        data=data,
        imgsz=SIZE,
        batch=BATCH,
        time=float(minutes) / 60,
        seed=int(seed),
        device="cpu",
        workers=0,
        pretrained=False,
        val=False,
        plots=False,
        project=output,
        name="run",
        exist_ok=True,
    )
    root = Path(yaml.safe_load(Path(data).read_text())["path"])
    images = sorted((root / "images" / "test").iterdir())
    trained = YOLO(Path(output) / "run" / "weights" / "last.pt")
    found = []
    for image in images:
        boxes = trained.predict(
            image, imgsz=SIZE, conf=0.001, max_det=MAX_DETECTIONS, device="cpu", verbose=False
        )[0].boxes
        columns = (boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.int().tolist())
        found.append([image.stem, *columns])
    (Path(output) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
