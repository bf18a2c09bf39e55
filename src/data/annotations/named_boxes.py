# SPDX-License-Identifier: Apache-2.0
"""What YOLO, LabelMe and CSV have in common: images with boxes of named classes to records."""

import posixpath
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..images import SUFFIXES, Header, image_header, read_header
from ..records import (
    DataError,
    DetectionData,
    Findings,
    ImageError,
    ImageRecord,
    PackedRecords,
    make_record,
)
from .layout import WHOLE, Tree, undivided

HEAD_BYTES = 1 << 16  # enough for the size of nearly every image
_PLAIN = (
    *("", "images", "labels", "annotations", "annotation", "json", "jsons", "data", "csv"),
    *("xml", "xmls"),
)

Box = Tuple[float, float, float, float]


class NamedBox(NamedTuple):
    """A box as annotated, not clipped."""

    name: str  # of its class
    xyxy: Box
    ignore: bool = False


class AnnotatedImage(NamedTuple):
    """An image that is there, with the boxes of an annotation file."""

    path: str  # relative to the root
    boxes: Sequence[NamedBox]
    size: Optional[Tuple[int, int]] = None  # width, height; None where the annotation has none
    normalised: bool = False  # boxes from 0 to 1, not in pixels


def build_data(
    tree: Tree,
    images: Iterable[AnnotatedImage],
    class_names: Sequence[str],
    split: str,
    where: str,
    style: str,
    findings: Findings,
    annotated: bool = True,
) -> DetectionData:
    """The data set of `images`; ids of images and of classes are their places, from 1.

    Raises:
        DataError: no classes.
    """
    if not class_names:
        raise DataError(f"{where}: no box with the name of a class")
    labels = {name: label for label, name in enumerate(class_names, 1)}
    records: List[ImageRecord] = []
    for number, image in enumerate(images, 1):
        path = tree.path(image.path)
        try:
            header = first_header(path)
        except ImageError as error:
            findings.note(error.kind, str(error))
            continue
        sides = (header.width, header.height)
        size = image.size or (sides if header.orientation < 5 else sides[::-1])
        scale = (*size, *size) if image.normalised else (1, 1, 1, 1)
        rows = []
        for name, xyxy, ignore in image.boxes:
            box = findings.clip([value * by for value, by in zip(xyxy, scale)], size, path)
            if box:
                rows.append((_as_read(box, size, header), labels[name], ignore))
        records.append(make_record(number, path, size, rows))
    ids = tuple(range(1, len(class_names) + 1))
    counts = dict(findings.counts)
    names = tuple(class_names)
    return DetectionData(PackedRecords(records), names, ids, split, where, style, counts, annotated)


def first_header(path: str) -> Header:
    """The header of an image from its first bytes, where they hold it.

    Raises:
        ImageError: it cannot be read, or is no image.
    """
    try:
        with open(path, "rb") as file:
            return read_header(file.read(HEAD_BYTES))
    except (OSError, ValueError):
        return image_header(path)  # says what is wrong, or finds a size further back


def _as_read(box_xyxy: Box, size: Tuple[int, int], header: Header) -> Box:
    """A box on the picture as viewers show it, where EXIF turns it, on what `read_image` gives.

    That turns pictures only where their sides change places, and leaves others as they are stored.
    """
    if header.orientation == 1 or size != (header.width, header.height):
        return box_xyxy
    x1, y1, x2, y2 = box_xyxy
    if header.orientation >= 5:
        if size[0] != size[1]:  # annotated as stored
            return box_xyxy
        x1, y1, x2, y2 = y1, x1, y2, x2
    if header.orientation in (2, 3, 7, 8):
        x1, x2 = size[0] - x2, size[0] - x1
    if header.orientation in (3, 4, 6, 7):
        y1, y2 = size[1] - y2, size[1] - y1
    return x1, y1, x2, y2


def find_image(tree: Tree, name: str, folders: Sequence[str]) -> Optional[str]:
    """The image that a file calls `name`, below the root whatever its path says.

    Paths often are those of the machine where they were written, and some lack their ending: the
    longest end of the path that is there in one of `folders` counts.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        for ending in ("",) if end.lower().endswith(SUFFIXES) else ("", *SUFFIXES):
            found = tree.find(end + ending, folders)
            if found:
                return found
    return None


def images_in(tree: Tree, folder: str) -> List[str]:
    """The images in `folder` and below it, sorted."""
    inside = posixpath.join(folder, "")
    return sorted(
        posixpath.join(place, name)
        for place, names in tree.files.items()
        if place == folder or place.startswith(inside)
        for name in names
        if name.lower().endswith(SUFFIXES)
    )


def parts_of(folders: Iterable[str]) -> Dict[str, str]:
    """The split that each folder stands for: "train" for "images/train" and for "train/images".

    Where none of them is called as a split is, they are one undivided data set.
    """
    found = {}
    for folder in folders:
        names = [name for name in folder.split("/") if name.lower() not in _PLAIN]
        found[folder] = names[-1] if names else WHOLE
    if len(set(found.values())) > 1 and all(undivided([part]) for part in found.values()):
        return dict.fromkeys(found, WHOLE)
    return found
