# SPDX-License-Identifier: Apache-2.0
"""Small data sets written by the tests of everything that reads data."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from src.data.synthetic_shapes import write_dataset

SHARED = Path(__file__).resolve().parents[2] / "shared"


def rendered(factory: Any, train: int, val: int) -> Path:
    """Folder of a rendered data set of so many images; `factory` is pytest's tmp_path_factory."""
    folder = factory.mktemp("data") / "shapes"
    write_dataset(folder, (("train2017", train), ("val2017", val)), seed=0)
    return folder


def write_image(path: Path, width: int = 60, height: int = 48, value: int = 90) -> Path:
    """An image of one colour, in the format of its suffix; the path may hold any character."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((height, width, 3), value, np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def coco_content(
    names: Sequence[str] = ("a.jpg",), boxes: Sequence[Tuple] = (), **changes: Any
) -> Dict[str, Any]:
    """A COCO file of 60 x 48 images and rows of (image id, category id, bbox[, crowd])."""
    content: Dict[str, Any] = {
        "images": [
            {"id": i, "file_name": name, "width": 60, "height": 48}
            for i, name in enumerate(names, 1)
        ],
        # Neither contiguous nor sorted, as in COCO itself.
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": i,
                "image_id": row[0],
                "category_id": row[1],
                "bbox": row[2],
                "area": 1.0,
                "iscrowd": row[3] if len(row) > 3 else 0,
            }
            for i, row in enumerate(boxes, 1)
        ],
    }
    content.update(changes)
    return content


def write_coco(
    root: Path,
    content: Dict[str, Any],
    images: Optional[str] = "train2017",
    path: str = "annotations/instances_train2017.json",
) -> Path:
    """The annotation file below `root`, and its images in a folder of it (None for no images)."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    if images is not None:
        for entry in content["images"]:
            write_image(root / images / entry["file_name"])
    return root


def voc_xml(
    objects: Sequence[Tuple] = (), size: Optional[Tuple[int, int]] = (60, 48), filename: str = "x"
) -> str:
    """A VOC annotation with rows of (name, (xmin, ymin, xmax, ymax)[, difficult])."""
    lines: List[str] = ["<annotation>", f"<filename>{filename}</filename>"]
    if size:
        lines.append(f"<size><width>{size[0]}</width><height>{size[1]}</height></size>")
    for row in objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), row[1])
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
        difficult = row[2] if len(row) > 2 else 0
        lines.append(
            f"<object><name>{row[0]}</name><difficult>{difficult}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>"])


def write_voc(
    root: Path, files: Dict[str, str], splits: Optional[Dict[str, Sequence[str]]] = None
) -> Path:
    """A VOC folder from XML text by stem, with an image for each, and lists of names by split."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for stem, text in files.items():
        (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
        write_image(root / "JPEGImages" / f"{stem}.jpg")
    for split, stems in (splits or {}).items():
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(stems) + "\n", encoding="utf-8")
    return root


def write_yolo(root: Path, files: Dict[str, str], texts: Optional[Dict[str, str]] = None) -> Path:
    """Label text by the path of its image, "images" in it becoming "labels", and other files."""
    for image, text in files.items():
        write_image(root / image)
        label = root / Path(image.replace("images", "labels")).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text, encoding="utf-8")
    return write_texts(root, texts or {})


def write_texts(root: Path, texts: Dict[str, str]) -> Path:
    """Text files by path below `root`."""
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


def labelme_content(shapes: Sequence[Tuple] = (), **changes: Any) -> str:
    """LabelMe's JSON for a.jpg of 60 x 48 with rows of (label, shape_type, points)."""
    rows = [
        {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}
        for label, kind, points in shapes
    ]
    content = {"version": "5.3.1", "flags": {}, "shapes": rows, "imagePath": "a.jpg"}
    content.update({"imageData": None, "imageHeight": 48, "imageWidth": 60, **changes})
    return json.dumps(content)
