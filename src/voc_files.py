# SPDX-License-Identifier: Apache-2.0
"""The files of a Pascal VOC data set: folders of XML, lists of names, one annotation."""

import posixpath
import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple
from xml.etree import ElementTree

from src.data.images import SUFFIXES
from src.data.records import DataError, Findings
from src.data_layout import WHOLE, Tree

MAX_XML_BYTES = 16 * 1024 * 1024
_PLAIN = ("", "annotations", "annotation", "xml", "xmls", "labels")


@dataclass(frozen=True)
class XmlFile:
    """What one annotation file says; coordinates as they stand in it."""

    filename: str
    width: float  # 0 where it is not given
    height: float
    objects: Tuple[Tuple[str, Tuple[float, float, float, float], bool], ...]  # name, box, difficult


class XmlFolder:
    """One folder of XML files, its lists of names, and where its images may be."""

    def __init__(self, tree: Tree, folder: str, near: Sequence[str] = ()) -> None:
        self.folder = folder
        self.parent = posixpath.dirname(folder)
        files = sorted(name for name in tree.files[folder] if name.lower().endswith(".xml"))
        self.names: Dict[str, str] = {name[:-4]: name for name in files}
        self.splits = {
            name[:-4]: posixpath.join(self.parent, lists, name)
            for lists in ("ImageSets", "ImageSets/Main")  # the latter wins
            for name in tree.files.get(posixpath.join(self.parent, lists), ())
            if name.endswith(".txt")
        }
        part = posixpath.basename(folder)
        if part.lower() in _PLAIN:
            part = posixpath.basename(self.parent)
        self.part = part or WHOLE  # the split it stands for, where there are no lists

    def relative(self, stem: str) -> str:
        """The path of an XML file, relative to the root."""
        return posixpath.join(self.folder, self.names[stem])

    def images(self, tree: Tree, places: Sequence[str]) -> Dict[str, str]:
        """Relative path by stem of the images in `places`, the first of them winning."""
        found: Dict[str, str] = {}
        for place in (posixpath.join(self.parent, "JPEGImages"), *places):
            for name in sorted(tree.files.get(place, ())):
                stem, suffix = posixpath.splitext(name)
                if suffix.lower() in SUFFIXES:
                    found.setdefault(stem, posixpath.join(place, name))
        return found


def xml_folders(tree: Tree) -> List[XmlFolder]:
    """Folders of XML files; where some are named Annotations only those."""
    holding = [
        folder
        for folder, names in sorted(tree.files.items())
        if any(name.lower().endswith(".xml") for name in names)
    ]
    named = [name for name in holding if posixpath.basename(name).lower() == "annotations"]
    return [XmlFolder(tree, folder) for folder in named or holding]


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
        if len(text) > MAX_XML_BYTES or re.search(rb"<!\s*(DOCTYPE|ENTITY)", text):
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
    objects = []
    for item in root.findall("object"):
        name = (item.findtext("name") or "").strip()
        x1, y1, x2, y2 = (
            _number(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")
        )
        if name and x1 is not None and y1 is not None and x2 is not None and y2 is not None:
            difficult = (item.findtext("difficult") or "").strip().lower() in ("1", "true")
            objects.append((name, (x1, y1, x2, y2), difficult))
        elif wanted:
            findings.note("malformed annotations", path)
    return XmlFile(
        (root.findtext("filename") or "").strip(),
        _number(root.findtext("size/width")) or 0.0,
        _number(root.findtext("size/height")) or 0.0,
        tuple(objects),
    )


def _number(text: Optional[str]) -> Optional[float]:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
