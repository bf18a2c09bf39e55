# SPDX-License-Identifier: Apache-2.0
"""Detect in images: pictures with the boxes drawn in, and all boxes in one JSON file."""

import argparse
import itertools
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Container, Dict, List, Optional, Sequence

import cv2

from src.checkpoint import load_labels, resolve_config, write_atomically
from src.detector import Detections, Detector
from src.draw import draw_detections
from src.images import SUFFIXES, ImageError, read_image
from src.utils import add_common_arguments, run_main, setup_device

LOG = logging.getLogger("m2det.demo")


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint_path", required=True, type=Path)
    parser.add_argument(
        "--input", required=True, nargs="+", type=Path, help="images, or folders of images"
    )
    parser.add_argument("--output", default="demo_output", type=Path, help="folder for the results")
    parser.add_argument("--limit", type=int, default=0, help="images at most; 0 takes all")
    parser.add_argument(
        "--score_threshold", type=float, default=0.3, help="lowest score shown (%(default)s)"
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def find_images(inputs: Sequence[Path]) -> List[Path]:
    """The files among `inputs` and the images within its folders, in order of name.

    Raises:
        ValueError: a path is missing, or a folder holds no image.
    """
    found: List[Path] = []
    for path in inputs:
        if not path.is_dir():
            if not path.exists():
                raise ImageError(f"{path}: not found")
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise ImageError(f"{path}: no images in this folder")
        found += inside
    return found


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    images = find_images(args.input)[: args.limit or None]
    config = resolve_config(args.config, args.set, args.checkpoint_path)
    config = replace(config, test=replace(config.test, score_threshold=args.score_threshold))
    setup_device(args.device_target, args.device_id)
    detector = Detector.from_checkpoint(
        args.checkpoint_path, config, load_labels(args.checkpoint_path)
    )
    args.output.mkdir(parents=True, exist_ok=True)
    entries: List[Dict[str, Any]] = []
    for path in images:
        name = free_name(path.stem, {entry["picture"] for entry in entries})
        try:
            entries.append(process(detector, path, args.output / name))
        except ImageError as error:
            LOG.warning("passed over: %s", error)
    if not entries:
        raise ImageError(f"none of the {len(images)} images could be read")
    write_atomically(args.output / "detections.json", json.dumps(entries, indent=1) + "\n")
    LOG.info("written: %s and %d pictures", args.output / "detections.json", len(entries))


def free_name(stem: str, taken: Container[str]) -> str:
    """`stem`.png, or with a number where another folder's image has taken that."""
    name = f"{stem}.png"
    for number in itertools.count(2):
        if name not in taken:
            break
        name = f"{stem}_{number}.png"
    return name


def process(detector: Detector, path: Path, picture: Path) -> Dict[str, Any]:
    """Detects in the image at `path` and draws `picture`; the image's entry for the JSON file.

    Raises:
        ImageError: the image cannot be read.
        OSError: the picture cannot be written.
    """
    image = read_image(str(path))
    found = detector(image)
    drawn = draw_detections(image, found.boxes_px, found.labels, found.scores, detector.class_names)
    if not cv2.imwrite(str(picture), drawn):
        raise OSError(f"{picture}: could not be written")
    LOG.info("%s: %d found, %s", path, len(found), picture)
    return describe(path, picture.name, image.shape[:2], found, detector.class_names)


def describe(
    path: Path,
    picture: str,
    shape: Sequence[int],
    found: Detections,
    class_names: Sequence[str],
) -> Dict[str, Any]:
    """One image's entry for the JSON file: boxes as xyxy in its pixels, best first."""
    return {
        "image": str(path),
        "picture": picture,
        "width": int(shape[1]),
        "height": int(shape[0]),
        "detections": [
            {
                "class": class_names[label - 1],
                "score": round(float(score), 4),
                "box_xyxy_px": [round(float(edge), 2) for edge in box],
            }
            for box, score, label in zip(found.boxes_px, found.scores, found.labels)
        ],
    }


if __name__ == "__main__":
    run_main(main)
