# SPDX-License-Identifier: Apache-2.0
"""Reading LabelMe data sets: one JSON file for each image, with rectangles, polygons and circles.

Polygons give the box around them. Folders named as splits (train, val) are splits; else the data
set is undivided.
"""

import math
import posixpath
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

from ...runtime.errors import printable_name
from ..images import SUFFIXES
from ..records import DataError, DetectionData, Findings
from .coco_json import brief, flag, read_json, whole
from .image_places import image_folders
from .layout import (
    HOLD_OUT,
    MOST_JSON,
    Tree,
    choose_split,
    held_out,
    no_images,
    report_missing,
)
from .named_boxes import (
    AnnotatedImage,
    Box,
    NamedBox,
    build_data,
    find_image,
    parts_of,
)


class LabelFile(NamedTuple):
    """What one JSON file says."""

    image: object  # imagePath, of any type
    size: Optional[Tuple[int, int]]  # width, height; None where it is not given
    boxes: List[NamedBox]


_AREAS = ("rectangle", "polygon", "rotation", "circle", "mask")
NO_AREA = "shapes without an area"  # points and lines


def is_labelme(tree: Tree) -> bool:
    """Whether there are JSON files of LabelMe below the root."""
    return bool(_folders(tree))


def labelme_splits(tree: Tree) -> List[str]:
    """The splits by the names of their folders; ["all"] for an undivided data set."""
    return sorted(set(parts_of(_folders(tree)).values()))


def load_labelme(tree: Tree, split: str, findings: Findings) -> DetectionData:
    """One split; class names are those in all JSON files, sorted.

    Raises:
        DataError: a missing split or image, or a file that makes no sense.
    """
    folders = _folders(tree)
    part_by_folder = parts_of(folders)
    parts = dict.fromkeys(part_by_folder.values())
    chosen = choose_split(split, parts, tree.root)
    paths = [
        posixpath.join(folder, name) for folder in folders for name in _json_files(tree, folder)
    ]
    names: Set[str] = set()
    files: Dict[str, LabelFile] = {}
    for position, path in enumerate(paths):
        part = part_by_folder[posixpath.dirname(path)]
        wanted = part == chosen or (chosen not in parts and held_out(chosen, position))
        file = _read(tree.path(path), findings if wanted else Findings(collect=True))
        if file:
            names.update(box.name for box in file.boxes)
        if file and wanted:
            files[path] = file
    where = tree.path(folders[0])
    if not files:
        raise no_images(where, chosen, enough=chosen in parts or len(paths) >= HOLD_OUT)
    places: Dict[str, List[str]] = {}  # to look in, by folder of JSON files
    images, missing = [], []
    for path, file in files.items():
        image = _image_of(tree, path, file, part_by_folder, places)
        if image:
            images.append(AnnotatedImage(image, file.boxes, file.size))
        else:
            missing.append(posixpath.splitext(path)[0] + ".jpg")
    report_missing(tree, missing, len(files), where, findings)
    return build_data(tree, images, sorted(names), chosen, where, "labelme", findings)


def _folders(tree: Tree) -> List[str]:
    """Folders that hold JSON files of LabelMe."""
    return [
        folder
        for folder in sorted(tree.files)
        if any(
            b'"shapes"' in tree.head(posixpath.join(folder, name))
            for name in _json_files(tree, folder)[:MOST_JSON]
        )
    ]


def _json_files(tree: Tree, folder: str) -> List[str]:
    return sorted(name for name in tree.files[folder] if name.lower().endswith(".json"))


def _read(path: str, findings: Findings) -> Optional[LabelFile]:
    """One file; None for another kind of JSON or a damaged file."""
    try:
        content = read_json(path)
    except DataError as error:
        findings.refuse("bad JSON files", str(error))
        return None
    if "shapes" not in content:
        return None
    shapes = content["shapes"]
    if not isinstance(shapes, list):
        findings.refuse("bad JSON files", f"{path}: expected a list of shapes")
        return None
    boxes = []
    for number, shape in enumerate(shapes):
        shape = shape if isinstance(shape, dict) else {}
        box, kind = _box(shape), shape.get("shape_type") or "polygon"
        if kind not in _AREAS:
            findings.note(NO_AREA, f"{path}: shape {number} is a {brief(kind)}")
        elif box is None or not printable_name(shape.get("label")):
            found = f"{brief(shape.get('label'))} and {brief(shape.get('points'))}"
            message = f"{path}: expected a label and points in shape {number}, found {found}"
            findings.refuse("malformed annotations", message)
        else:
            boxes.append(NamedBox(shape["label"], box, flag(shape.get("difficult"))))
    return LabelFile(content.get("imagePath"), _size(content), boxes)


def _box(shape: Mapping[str, Any]) -> Optional[Box]:
    """The corners of the box around a shape, in pixels; None if its points make no sense."""
    points = shape.get("points")
    try:
        rows = [(float(x), float(y)) for x, y in points]  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        return None
    if len(rows) < 2 or not all(math.isfinite(value) for row in rows for value in row):
        return None
    if shape.get("shape_type") == "circle":  # its centre, and a point on it
        (x, y), (u, v) = rows[:2]
        radius = math.hypot(u - x, v - y)
        return x - radius, y - radius, x + radius, y + radius
    x_px, y_px = [row[0] for row in rows], [row[1] for row in rows]
    return min(x_px), min(y_px), max(x_px), max(y_px)


def _size(content: Mapping[str, Any]) -> Optional[Tuple[int, int]]:
    width, height = whole(content.get("imageWidth")), whole(content.get("imageHeight"))
    if width and height and 0 < width < 10**6 and 0 < height < 10**6:
        return width, height
    return None


def _image_of(
    tree: Tree,
    path: str,
    file: LabelFile,
    part_by_folder: Mapping[str, str],
    places: Dict[str, List[str]],
) -> Optional[str]:
    """The relative path of the image of a JSON file: the one it names, else one of its own name.

    `places` are the folders to look in, which are put in order once for each folder, and only where
    an image is not where the file says: sorting them for each file takes long.
    """
    folder, name = posixpath.split(path)
    named = file.image if isinstance(file.image, str) else ""
    said = posixpath.normpath(posixpath.join(folder, named.replace("\\", "/")))
    if named.lower().endswith(SUFFIXES) and tree.find(said, [""]):
        return tree.find(said, [""])
    if folder not in places:
        places[folder] = [folder, *image_folders(tree, part_by_folder[folder], folder)]
    found = find_image(tree, named, places[folder])
    return found or find_image(tree, posixpath.splitext(name)[0], places[folder])
