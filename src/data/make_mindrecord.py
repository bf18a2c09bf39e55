# SPDX-License-Identifier: Apache-2.0
"""Data sets as MindRecord files, for network disks where 100,000 small files are slow.

`python -m src.data.make_mindrecord DATASET OUT` writes the images of each split into a few large
files, and beside them a COCO annotation file that says in which row each image is. OUT is then a
data set like any other: the same samples in the same order. Image files are stored byte for byte.
"""

import argparse
import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from ..runtime.files import write_json
from .annotations.coco import ground_truth
from .images import MINDRECORD_MARK, read_bytes
from .mindrecord import GROUP_ROWS, MINDRECORD_ROWS, mindrecord_file
from .records import DataError, DetectionData, ImageError, NothingHeldOut


def write(data: DetectionData, folder: Path) -> Path:
    """Write a split into `folder`; returns the annotation file, which is written last.

    Raises:
        DataError: an image file that cannot be read, files of an earlier run in the way, or too
            little room on the disk.
    """
    annotations = folder / "annotations" / f"instances_{data.split}.json"
    if annotations.exists():
        raise DataError(f"{annotations}: is already there")
    _check_room(data, folder)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(data.records), MINDRECORD_ROWS):
        _write_file(data, start, folder / mindrecord_file(data.split, start))
    content = ground_truth(data) if data.annotated else _without_boxes(data)
    for row, (entry, record) in enumerate(zip(content["images"], data.records)):
        entry["file_name"] = os.path.basename(record.path)
        entry["row"] = row
    content["mindrecord"] = 1  # version
    write_json(annotations, content)
    return annotations


def _check_room(data: DetectionData, folder: Path) -> None:
    """MindSpore ends the process without a word where the disk gets full."""
    paths = [record.path for record in data.records]
    # Of images that lie in MindRecord files already, those files.
    files = {path.rpartition("#")[0] for path in paths if MINDRECORD_MARK in path}
    needed = 0
    for path in [*files, *(path for path in paths if MINDRECORD_MARK not in path)]:
        with contextlib.suppress(OSError):  # reading it will say what is wrong
            needed += os.path.getsize(path)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        text = f"the images of {data.split} need {needed / 1e6:.1f} MB"
        raise DataError(f"{folder}: {text}, and {free / 1e6:.1f} MB are free on its disk")


def _without_boxes(data: DetectionData) -> Dict[str, Any]:
    images = [{"id": r.image_id, "width": r.width, "height": r.height} for r in data.records]
    names = zip(data.category_ids, data.class_names)
    return {"images": images, "categories": [{"id": key, "name": name} for key, name in names]}


def _write_file(data: DetectionData, start: int, path: Path) -> None:
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(str(path), shard_num=1, overwrite=True)
    kinds = {"part": "int32", "row": "int64", "image": "bytes"}
    writer.add_schema({name: {"type": kind} for name, kind in kinds.items()}, "images")
    writer.add_index(["part"])
    stop = min(start + MINDRECORD_ROWS, len(data.records))
    for first in range(start, stop, GROUP_ROWS):
        rows = range(first, min(first + GROUP_ROWS, stop))
        writer.write_raw_data([_row(data.records[row].path, row - start) for row in rows])
    writer.commit()


def _row(path: str, row: int) -> Dict[str, Any]:
    try:
        return {"part": row // GROUP_ROWS, "row": row, "image": read_bytes(path)}
    except ImageError as error:
        raise DataError(str(error)) from None


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Convert the splits of a data set, and return the exit code."""
    from .coco_utils import find_splits, load_data

    parser = argparse.ArgumentParser(description="Write a data set as MindRecord files.")
    parser.add_argument("dataset", type=Path, help="folder of a data set")
    parser.add_argument("output", type=Path, help="folder to write, then a data set itself")
    parser.add_argument("splits", nargs="*", help="default: all; train and val of an undivided one")
    parser.add_argument(
        "--allow_links", action="store_true", help="follow links that lead out of the data set"
    )
    args = parser.parse_args(argv)
    links: bool = args.allow_links
    try:
        splits: List[str] = args.splits or find_splits(args.dataset, links)
        for split in ["train", "val"] if splits == ["all"] else splits or ["train"]:
            try:
                data = load_data(args.dataset, split, links)
            except NothingHeldOut as error:
                if args.splits:
                    raise
                print(error)  # "train" is all of it
                continue
            print(f"{write(data, args.output)}: {len(data.records)} images", flush=True)
    except (DataError, OSError) as error:
        # The other programs have --set, which the message is made for.
        message = str(error).replace("data.allow_links=true", "--allow_links")
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
