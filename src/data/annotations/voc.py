# SPDX-License-Identifier: Apache-2.0
"""Reading Pascal VOC data sets: folders of XML, lists of names, one annotation.

Boxes of VOC count pixels from 1 and include the last one. Here they are edges in pixels from 0:
xmax - xmin + 1 of the development kit becomes right - left, and + 1 appears nowhere else.
"""

import posixpath
import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple
from xml.etree import ElementTree

from ...runtime.errors import printable_name
from ..images import image_header
from ..records import (
    DataError,
    DetectionData,
    Findings,
    ImageError,
    ImageRecord,
    PackedRecords,
    make_record,
)
from .coco_json import brief
from .image_places import ImageFinder
from .layout import (
    HOLD_OUT,
    WHOLE,
    Tree,
    choose_split,
    held_out,
    no_images,
    report_missing,
)
from .named_boxes import parts_of

MAX_XML_BYTES = 16 * 1024 * 1024


Object = Tuple[str, Tuple[float, ...], bool]  # name, xmin ymin xmax ymax, difficult


@dataclass(frozen=True)
class XmlFile:
    """What one annotation file says; coordinates as they stand in it."""

    filename: str
    width: float  # 0 where it is not given
    height: float
    objects: Tuple[Object, ...]


class XmlFolder:
    """One folder of XML files, its lists of names, and where its images may be."""

    def __init__(self, tree: Tree, folder: str, part: str) -> None:
        self.folder = folder
        self.part = part  # the split it stands for, where there are no lists
        self.parent = posixpath.dirname(folder)
        files = sorted(name for name in tree.files[folder] if name.lower().endswith(".xml"))
        self.names: Dict[str, str] = {name[:-4]: name for name in files}
        self.splits = {
            name[:-4]: posixpath.join(self.parent, lists, name)
            for lists in ("ImageSets", "ImageSets/Main")  # the latter wins
            for name in tree.files.get(posixpath.join(self.parent, lists), ())
            if name.endswith(".txt")
        }

    def relative(self, stem: str) -> str:
        """The path of an XML file, relative to the root."""
        return posixpath.join(self.folder, self.names[stem])


def xml_folders(tree: Tree) -> List[XmlFolder]:
    """Folders of XML files; where some are named Annotations only those."""
    holding = [
        folder
        for folder, names in sorted(tree.files.items())
        if any(name.lower().endswith(".xml") for name in names)
    ]
    named = [name for name in holding if posixpath.basename(name).lower() == "annotations"]
    return [XmlFolder(tree, folder, part) for folder, part in parts_of(named or holding).items()]


def read_list(path: str) -> List[str]:
    """The stems in an ImageSets list, once each; a list for one class marks those without by -1.

    Raises:
        DataError: unreadable, or not text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            rows = [line.split() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of names ({str(error)[:80]})") from None
    rows = [row for row in rows if row]
    if all(len(row) == 2 and row[1] in ("-1", "0", "1") for row in rows):
        return list(dict.fromkeys(row[0] for row in rows if row[1] != "-1"))
    return list(dict.fromkeys(" ".join(row) for row in rows))


def read_xml(path: str, wanted: bool, findings: Findings) -> Optional[XmlFile]:
    """One annotation file; None, and a finding if it is `wanted`, where it makes no sense."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_XML_BYTES + 1)
        # Entities are the way to make a small XML file large, or to read another through it.
        # Without its zero bytes, UTF-16 is ASCII enough to be searched too.
        plain = text.replace(b"\0", b"")
        if len(text) > MAX_XML_BYTES or re.search(rb"<!\s*(DOCTYPE|ENTITY)", plain):
            raise ValueError("too large, or with a document type, which is refused")
        root = ElementTree.fromstring(text)
        if root.tag != "annotation":
            raise ValueError(f"expected <annotation>, found <{root.tag[:40]}>")
    except (OSError, ValueError, LookupError, RecursionError, ElementTree.ParseError) as error:
        if wanted:
            reason = " ".join(str(error).split())[:100]
            message = f"{path}: not a Pascal VOC annotation ({reason})"
            findings.refuse("bad XML files", message)
        return None
    objects: List[Object] = []
    for item in root.findall("object"):
        try:
            objects.append(_object(item))
        except ValueError as error:
            if wanted:
                findings.note("malformed annotations", f"{path}: {error}")
    return XmlFile(
        (root.findtext("filename") or "").strip(),
        _number(root.findtext("size/width")) or 0.0,
        _number(root.findtext("size/height")) or 0.0,
        tuple(objects),
    )


def _object(item: ElementTree.Element) -> Object:
    """One object; ValueError names the tag that makes no sense."""
    name = (item.findtext("name") or "").strip()
    if not printable_name(name):
        raise ValueError(f"expected a printable text as <name> of an object, found {brief(name)}")
    box = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        text = item.findtext(f"bndbox/{tag}")
        value = _number(text)
        if value is None:
            raise ValueError(f"expected a number as <{tag}> of {name!r}, found {brief(text)}")
        box.append(value)
    difficult = (item.findtext("difficult") or "").strip().lower() in ("1", "true")
    return name, tuple(box), difficult


def _number(text: Optional[str]) -> Optional[float]:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


Member = Tuple[XmlFolder, str]  # a folder and the stem of a file in it


def is_voc(tree: Tree) -> bool:
    """Whether there are XML files below the root."""
    return bool(xml_folders(tree))


def voc_splits(tree: Tree) -> List[str]:
    """The names that `load_voc` takes, beside those that stand for them."""
    folders = xml_folders(tree)
    lists = {split for folder in folders for split in folder.splits}
    if lists or not folders:
        return sorted(lists)
    return sorted({folder.part for folder in folders}) if len(folders) > 1 else [WHOLE]


def load_voc(tree: Tree, split: str, findings: Findings) -> DetectionData:
    """One split: ImageSets/Main lists, folders named as splits, or undivided.

    Several years side by side (VOCdevkit/VOC2007, VOC2012) are put together. Class names are all
    those in the XML files, sorted, so that every split has the same labels. An image's id is its
    place in the split, from 1.

    Raises:
        DataError: a missing split, file or image, or a file that makes no sense.
    """
    folders = xml_folders(tree)
    where = tree.path(folders[0].folder)
    chosen, part, members = _members(tree, folders, split, findings)
    files = _read_all(tree, folders, members, findings)
    names = sorted({row[0] for file in files.values() if file for row in file.objects})
    if not names:
        raise DataError(f"{where}: no XML file with an object in it")
    labels = {name: label for label, name in enumerate(names, 1)}
    used = dict.fromkeys(folder for folder, _ in members)
    images = {folder: ImageFinder(tree, part, folder.folder, folder.parent) for folder in used}
    records, missing = [], []
    for number, (folder, stem) in enumerate(members, 1):
        file = files[folder.relative(stem)]
        if file is None:
            continue
        image = images[folder].find(stem, file.filename)
        if image is None:
            missing.append(f"{folder.parent}/JPEGImages/{stem}.jpg".lstrip("/"))
            continue
        records += _record(tree.path(image), number, file, labels, findings)
    report_missing(tree, missing, len(members), where, findings)
    ids = tuple(range(1, len(names) + 1))
    counts = dict(findings.counts)
    return DetectionData(PackedRecords(records), tuple(names), ids, chosen, where, "voc", counts)


def _read_all(
    tree: Tree, folders: Sequence[XmlFolder], members: Sequence[Member], findings: Findings
) -> Dict[str, Optional[XmlFile]]:
    """Every XML file by relative path; only those of the split have to make sense."""
    wanted = {folder.relative(stem) for folder, stem in members}
    paths = [folder.relative(stem) for folder in folders for stem in folder.names]
    return {path: read_xml(tree.path(path), path in wanted, findings) for path in paths}


def _members(
    tree: Tree, folders: Sequence[XmlFolder], split: str, findings: Findings
) -> Tuple[str, str, List[Member]]:
    """The resolved split, the part of the data set that it is or is taken from, and its members."""
    available = dict.fromkeys(voc_splits(tree))
    chosen = choose_split(split, available, tree.root)
    part = chosen if chosen in available else next(iter(available))
    if any(folder.splits for folder in folders):
        holding = [folder for folder in folders if part in folder.splits]
        members = [m for f in holding for m in _listed(tree, f, part, findings)]
    else:
        several = len(folders) > 1
        holding = [folder for folder in folders if folder.part == part or not several]
        members = [(folder, stem) for folder in holding for stem in folder.names]
    enough = chosen in available or len(members) >= HOLD_OUT
    if chosen not in available:  # an undivided data set
        members = [member for i, member in enumerate(members) if held_out(chosen, i)]
    if not members:
        raise no_images(tree.root, chosen, enough=enough)
    return chosen, part, members


def _listed(tree: Tree, folder: XmlFolder, split: str, findings: Findings) -> List[Member]:
    """The members named in one ImageSets list."""
    path = tree.path(folder.splits[split])
    stems = []
    for stem in read_list(path):
        if stem not in folder.names:  # some lists name the image file
            stem = posixpath.splitext(posixpath.basename(stem))[0]
        stems.append(stem)
        if stem not in folder.names:
            xml = f"{tree.path(folder.folder)}/{stem}.xml"
            findings.refuse("missing XML files", f"{xml}: no such file, listed in {path}")
    return [(folder, stem) for stem in stems if stem in folder.names]


def _record(
    path: str, number: int, file: XmlFile, labels: Mapping[str, int], findings: Findings
) -> List[ImageRecord]:
    """The record of one image; empty if its size is not to be had."""
    sides = (file.width, file.height)
    if all(0 < side < 10**6 and side == int(side) for side in sides):
        size = int(file.width), int(file.height)
    else:
        try:
            header = image_header(path)
        except ImageError as error:
            findings.refuse("unreadable images", str(error))
            return []
        size = header.width, header.height
    boxes = []
    for name, (xmin, ymin, xmax, ymax), difficult in file.objects:
        if xmax <= xmin or ymax <= ymin:
            findings.note("zero-area boxes", path)
            continue
        box = findings.clip((xmin - 1, ymin - 1, xmax, ymax), size, path)
        if box:
            boxes.append((box, labels[name], difficult))
    return [make_record(number, path, size, boxes)]
