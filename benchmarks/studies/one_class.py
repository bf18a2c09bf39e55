# SPDX-License-Identifier: Apache-2.0
"""One class of a data set as a COCO data set of its own.

`python -m benchmarks.studies.one_class --dataset_path D --name CLASS --output FOLDER SPLIT...`

Every image of the splits is copied, with the boxes of that class alone.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from src.data.coco_utils import load_data
from src.data.records import DetectionData
from src.runtime.errors import UsageError
from src.runtime.files import write_json
from src.utils import run_main


def coco_content(data: DetectionData, label: int) -> Dict[str, List[Dict[str, Any]]]:
    """COCO's JSON of the objects of `label`, with images called by their number."""
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for number, record in enumerate(data.records, 1):
        name = f"{number:06d}{Path(record.path).suffix}"
        size = {"width": record.width, "height": record.height}
        images.append({"id": number, "file_name": name, **size})
        rows = zip(record.boxes_px.tolist(), record.labels.tolist(), record.ignore.tolist())
        for (x1, y1, x2, y2), own, ignore in rows:
            if own == label:
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                ids = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
                annotations.append({**ids, **box, "iscrowd": int(ignore)})
    categories = [{"id": 1, "name": data.class_names[label - 1]}]
    return {"images": images, "annotations": annotations, "categories": categories}


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Command line: writes FOLDER/annotations/instances_SPLIT.json and FOLDER/SPLIT/."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset_path", required=True, type=Path)
    parser.add_argument("--name", required=True, help="of the class")
    parser.add_argument("--output", required=True, type=Path, help="folder, made anew")
    parser.add_argument("splits", nargs="+", metavar="SPLIT")
    args = parser.parse_args(argv)
    if args.output.exists():
        raise UsageError(f"--output {args.output}: exists already")
    loaded = {split: load_data(args.dataset_path, split) for split in args.splits}
    for split, data in loaded.items():
        if args.name not in data.class_names:
            raise UsageError(f"--name {args.name}: must be one of {', '.join(data.class_names)}")
        content = coco_content(data, data.class_names.index(args.name) + 1)
        (args.output / split).mkdir(parents=True)
        for image, record in zip(content["images"], data.records):
            shutil.copyfile(record.path, args.output / split / image["file_name"])
        (args.output / "annotations").mkdir(exist_ok=True)
        write_json(args.output / "annotations" / f"instances_{split}.json", content)
        print(f"{split}: {len(data.records)} images, {len(content['annotations'])} boxes")


if __name__ == "__main__":
    run_main(main)
