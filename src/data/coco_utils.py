# SPDX-License-Identifier: Apache-2.0
"""Reading detection data sets: COCO in any of its layouts, and Pascal VOC."""

import gc
import logging
import os
from typing import List, Optional, Union

from .annotations.coco import load_coco
from .annotations.layout import Tree, choose_split, coco_files, is_coco_name, scan
from .annotations.voc import is_voc, load_voc, voc_splits
from .records import DataError, DetectionData, Findings, ImageRecord

__all__ = [
    "DataError",
    "DetectionData",
    "ImageRecord",
    "find_splits",
    "load_data",
]

logger = logging.getLogger(__name__)


def load_data(
    root: Union[str, os.PathLike],
    split: str,
    allow_links: bool = False,
    findings: Optional[Findings] = None,
) -> DetectionData:
    """The images and boxes of one split of the data set below `root`.

    COCO with 2014 or 2017 names, one JSON file beside its images, or Pascal VOC, found by looking.
    "train" and "val" stand for what is there, e.g. train2017, trainval35k or
    ImageSets/Main/train.txt; an undivided data set is split nine to one. Boxes are clipped to the
    image, unusable ones dropped and counted. Links that lead out of `root` are refused unless
    `allow_links`. `findings` collects what is wrong instead of stopping at it.

    Raises:
        DataError: a missing directory, annotation file, split or image, or contents that make no
            sense.
    """
    tree = scan(root, allow_links)
    # Millions of objects and not one cycle: the collector would look at them again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        data = _load(tree, split, findings if findings is not None else Findings())
    finally:
        if collecting:
            gc.enable()
    if data.dropped and findings is None:
        logger.warning("%s, %s: %s", data.annotation_path, data.split, data.repairs())
    return data


def find_splits(root: Union[str, os.PathLike], allow_links: bool = False) -> List[str]:
    """The splits of the data set below `root`; ["all"] for an undivided one, [] for none at all.

    Raises:
        DataError: no such directory.
    """
    tree = scan(root, allow_links)
    return sorted(coco_files(tree) if _is_coco(tree) else voc_splits(tree))


def _is_coco(tree: Tree) -> bool:
    available = coco_files(tree)
    # A stray JSON file beside a folder of XML files does not make it COCO.
    return bool(available) and (any(map(is_coco_name, available.values())) or not is_voc(tree))


def _load(tree: Tree, split: str, findings: Findings) -> DetectionData:
    if _is_coco(tree):
        available = coco_files(tree)
        name = choose_split(split, available, tree.root)
        whole_set = next(iter(available.values()))  # the only one, where `name` is a part of it
        return load_coco(tree, name, available.get(name, whole_set), findings)
    if is_voc(tree):
        return load_voc(tree, split, findings)
    link = next((f"; {link} is a link out of it" for link in tree.outside), "")
    raise DataError(
        f"{tree.root}: no annotations; expected annotations/instances_*.json (COCO)"
        f" or Annotations/*.xml (Pascal VOC){link}"
    )
