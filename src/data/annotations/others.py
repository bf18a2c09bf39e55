# SPDX-License-Identifier: Apache-2.0
"""Messages for formats that are not read, with the way to convert them."""

import posixpath
from typing import Optional

from .csv_boxes import first_fields
from .layout import ARCHIVES, Tree

CSV_COLUMNS = "filename, xmin, ymin, xmax, ymax, class"
EXPECTED = (
    "no annotations; expected annotations/instances_*.json (COCO), Annotations/*.xml (Pascal VOC),"
    " data.yaml with images and labels (YOLO), a JSON file beside each image (LabelMe),"
    f" or CSV with {CSV_COLUMNS}"
)
_TFRECORD = (".tfrecord", ".tfrecords")
_TELLING = (*ARCHIVES, *_TFRECORD, ".json", ".csv")  # endings of what is known
_VIA_WORDS = (b'"_via_settings"', b'"_via_img_metadata"', b'"shape_attributes"')
_VIA = (
    "of VIA, the VGG Image Annotator, which is not read; open it there and choose"
    " Annotation > Export Annotations (COCO format)"
)


def what_is_there(tree: Tree) -> str:
    """Why there is nothing to read in a folder: the first known thing in it, else what is read."""
    for folder in sorted(tree.files, key=lambda name: (name.count("/"), name)):
        names = [name for name in tree.files[folder] if name.lower().endswith(_TELLING)]
        for name in sorted(names)[:100]:
            reason = _kind(tree, posixpath.join(folder, name))
            if reason:
                return reason
    link = next((f"; {link} is a link out of it" for link in tree.outside), "")
    return EXPECTED + link


def _kind(tree: Tree, path: str) -> Optional[str]:
    lower = path.lower()
    if lower.endswith(ARCHIVES):
        return f"no annotations, but {path}: unpack it"
    if lower.endswith(_TFRECORD):
        return f"{path} is a TFRecord file, which is not read; convert it to COCO or Pascal VOC"
    if lower.endswith(".json") and any(word in tree.head(path) for word in _VIA_WORDS):
        return f"{path} is {_VIA}"
    fields = first_fields(tree.path(path))[0] if lower.endswith(".csv") else []
    if "region_shape_attributes" in fields:
        return f"{path} is {_VIA}"
    if len(fields) > 1:
        found = ", ".join(fields)[:160]
        return f"{path}: expected the columns {CSV_COLUMNS}; found {found}"
    return None
