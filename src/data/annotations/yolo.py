# SPDX-License-Identifier: Apache-2.0
"""Reading YOLO data sets: images, a text file of boxes for each, names of the classes.

A line is "class x_centre y_centre width height", normalised by the image's sides, or "class x y x y
..." for a polygon, whose box is taken. Classes count from 0. As in Ultralytics' and Roboflow's data
sets, data.yaml names classes and splits; as in LabelImg's and Darknet's, classes.txt or obj.names
may hold the names, a line each, and train.txt the images of a split. An image without a text file
is one without objects.
"""

import posixpath
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..images import SUFFIXES
from ..records import DataError, DetectionData, Findings
from .layout import LINKS, Tree, choose_split, held_out, no_images, not_followed, report_missing
from .named_boxes import (
    AnnotatedImage,
    Box,
    NamedBox,
    build_data,
    find_image,
    images_in,
    parts_of,
)
from .yolo_names import NAMES, class_names, names_file, read_yaml, text_lines, yaml_file

MAX_NORMALISED = 2.0  # normalised coordinates beyond this are taken for pixels by mistake
_SPLITS = ("train", "val", "valid", "test")
_LABELS = ("labels", "Labels", "LABELS")


class Members(NamedTuple):
    """The images of a split, those of its list that are not there, and the list or data.yaml."""

    images: List[str]
    missing: List[str]
    listed_in: str


def is_yolo(tree: Tree) -> bool:
    """Whether there is a data.yaml, a list of names, or a folder of labels below the root."""
    return bool(yaml_file(tree) or names_file(tree) or _label_folder(tree))


def yolo_splits(tree: Tree) -> List[str]:
    """The splits that are there; ["all"] for an undivided data set.

    Raises:
        DataError: data.yaml makes no sense.
    """
    return sorted(_members(tree, read_yaml(tree)))


def load_yolo(tree: Tree, split: str, findings: Findings) -> DetectionData:
    """One split, by data.yaml, lists of images or folders named as splits.

    Raises:
        DataError: a missing split or image, no names of classes, or a line that makes no sense.
    """
    description = read_yaml(tree)
    names = class_names(tree, description)
    members = _members(tree, description)
    chosen = choose_split(split, members, tree.root)
    where = tree.path(yaml_file(tree) or names_file(tree) or "")
    images, missing, listed_in = members.get(chosen) or next(iter(members.values()))
    if chosen not in members:  # an undivided data set
        images = [path for i, path in enumerate(images) if held_out(chosen, i)]
    if not images and not missing:
        raise no_images(where, chosen, enough=chosen in members)
    report_missing(tree, missing, len(images) + len(missing), tree.path(listed_in), findings)
    keypoints = "kpt_shape" in description  # they follow the box
    rows, labelled = [], False
    for image in images:
        label = _label_file(tree, image, findings)
        labelled |= label is not None
        boxes = _read_labels(tree.path(label), names, keypoints, findings) if label else []
        rows.append(AnnotatedImage(image, boxes, normalised=True))
    _note_unused(tree, members, findings)
    return build_data(tree, rows, names, chosen, where, "yolo", findings, labelled)


def _note_unused(tree: Tree, members: Mapping[str, Members], findings: Findings) -> None:
    """Note text files in folders of labels that belong to no image, of whatever split."""
    quiet = Findings(collect=True)
    images = [image for split in members.values() for image in split.images]
    used = {_label_file(tree, image, quiet) for image in images}
    for folder in {posixpath.dirname(path) for path in used if path}:
        if "labels" in folder.lower().split("/"):
            paths = {posixpath.join(folder, n) for n in tree.files[folder] if n.endswith(".txt")}
            for path in sorted(paths - used - {posixpath.join(folder, name) for name in NAMES}):
                findings.note("labels without an image", tree.path(path))


def _label_folder(tree: Tree) -> Optional[str]:
    for folder in sorted(tree.files):
        named = "labels" in folder.lower().split("/")
        if named and any(name.endswith(".txt") for name in tree.files[folder]):
            return folder
    return None


def _members(tree: Tree, description: Mapping[str, Any]) -> Dict[str, Members]:
    """Every split there is."""
    relative = yaml_file(tree) or ""
    values = {key: description[key] for key in _SPLITS if description.get(key)}
    if not values:
        lists = [f"{key}.txt" for key in _SPLITS if f"{key}.txt" in tree.files[""]]
        values = {name[:-4]: name for name in lists}
    if not values:
        return _by_folder(tree)
    base = description.get("path", "")
    found: Dict[str, Members] = {}
    text_of: Dict[Optional[str], str] = {}
    for key, value in values.items():
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in [*texts, base]):
            raise DataError(f"{tree.path(relative)}: expected a folder or a list file as {key!r}")
        places = {text: _place(tree, f"{base}/{text}", relative) for text in texts}
        for text, place in places.items():
            other = text_of.setdefault(place, text)
            if place is not None and _parts(other) != _parts(text):
                both = f"{other!r} and {text!r} are both {tree.path(place)}"
                raise DataError(f"{tree.path(relative)}: {both}; give paths from its folder")
        parts = [_at(tree, place, relative) for place in places.values() if place is not None]
        if parts:
            images = dict.fromkeys(image for part in parts for image in part.images)
            missing = [name for part in parts for name in part.missing]
            found[key] = Members(list(images), missing, parts[0].listed_in)
    if not found:
        text = ", ".join(f"{key}: {value}" for key, value in values.items())[:200]
        link = (
            f"; {tree.path(next(iter(tree.outside)))}: {not_followed(tree)}" if tree.outside else ""
        )
        raise DataError(f"{tree.path(relative)}: found nothing below {tree.root} for {text}{link}")
    return found


def _place(tree: Tree, path: str, listed_in: str) -> Optional[str]:
    """The folder or list that data.yaml means by `path`, below the root whatever it says.

    Roboflow writes "../train/images" for a folder beside data.yaml, others absolute paths: the
    longest end of it that is there counts.
    """
    parts = _parts(path)
    for start in range(len(parts)):
        for folder in (posixpath.dirname(listed_in), ""):
            place = posixpath.join(folder, *parts[start:])
            if place in tree.files or (place.endswith(".txt") and tree.find(place, [""])):
                return place
    return None if parts else posixpath.dirname(listed_in)


def _parts(path: str) -> List[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _at(tree: Tree, place: str, listed_in: str) -> Members:
    """The images in a folder or a list of paths."""
    if place in tree.files:
        return Members(images_in(tree, place), [], listed_in)
    folders = [posixpath.dirname(place), ""]
    members = Members([], [], place)
    for line in text_lines(tree.path(place)):
        name = line.strip()
        if name:
            found = find_image(tree, name, folders)
            (members.images if found else members.missing).append(found or name.lstrip("/"))
    return members


def _by_folder(tree: Tree) -> Dict[str, Members]:
    """Splits by the names of the folders with images in them."""
    holding = {
        folder: images
        for folder in sorted(tree.files)
        if (images := [name for name in tree.files[folder] if name.lower().endswith(SUFFIXES)])
    }
    found: Dict[str, Members] = {}
    for folder, part in parts_of(holding).items():
        images = found.setdefault(part, Members([], [], folder)).images
        images += [posixpath.join(folder, name) for name in sorted(holding[folder])]
    return found


def _label_file(tree: Tree, image: str, findings: Findings) -> Optional[str]:
    """The text file of an image: in labels for one in images, else beside it.

    Raises:
        DataError: it is behind a link out of the data set.
    """
    folder, name = posixpath.split(image)
    parts = folder.split("/")
    folders = [folder, *(posixpath.join(folder, labels) for labels in _LABELS)]
    for at in [i for i, part in enumerate(parts) if part.lower() == "images"][-1:]:
        beside = ["/".join([*parts[:at], labels, *parts[at + 1 :]]) for labels in _LABELS]
        folders = beside + folders
    label = f"{posixpath.splitext(name)[0]}.txt"
    found = tree.find(label, folders)
    for link in tree.outside if found is None else ():
        if any(f"{place}/{label}/".startswith(f"{link}/") for place in folders):
            findings.refuse(LINKS, f"{tree.path(link)}: {not_followed(tree)}")
    return found


def _read_labels(
    path: str, names: Sequence[str], keypoints: bool, findings: Findings
) -> List[NamedBox]:
    boxes: List[NamedBox] = []
    try:
        lines = text_lines(path)
    except DataError as error:
        findings.refuse("unreadable labels", str(error))
        return boxes
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            label, box = _read_line(words[:5] if keypoints else words)
            if not 0 <= label < len(names):
                raise ValueError(f"class {label}, but there are {len(names)}, counted from 0")
        except (ValueError, OverflowError) as error:
            findings.refuse("malformed labels", f"{path}:{number}: {error}")
            continue
        boxes.append(NamedBox(names[label], box))
    return boxes


def _read_line(words: Sequence[str]) -> Tuple[int, Box]:
    """Class number and corners, normalised by the image's sides.

    Raises:
        ValueError: with what was expected.
    """
    try:
        label = float(words[0])
        values = [float(word) for word in words[1:]]
    except ValueError:
        values = []
    if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)) or label % 1:
        raise ValueError(
            "expected 'class x_centre y_centre width height', or 'class x y x y x y ...'"
        )
    if max(map(abs, values)) > MAX_NORMALISED:
        raise ValueError("expected shares of the image's width and height, from 0 to 1")
    if len(values) > 4:
        x, y = values[::2], values[1::2]
        return int(label), (min(x), min(y), max(x), max(y))
    cx, cy, w, h = values
    return int(label), (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
