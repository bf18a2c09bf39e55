# SPDX-License-Identifier: Apache-2.0
"""Reading detection data sets: COCO in any of its layouts, Pascal VOC, YOLO, LabelMe and CSV."""

import logging
import os
from typing import Callable, List, NamedTuple, Optional, Union

from ..runtime.cpu_settings import collector_off
from .annotations.coco import load_coco
from .annotations.csv_boxes import csv_splits, is_csv, load_csv
from .annotations.labelme import is_labelme, labelme_splits, load_labelme
from .annotations.layout import Tree, choose_split, coco_files, is_coco_name, scan
from .annotations.others import what_is_there
from .annotations.voc import is_voc, load_voc, voc_splits
from .annotations.yolo import is_yolo, load_yolo, yolo_splits
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

    COCO with 2014 or 2017 names, one JSON file beside its images, Pascal VOC, YOLO, LabelMe or CSV,
    found by looking.
    "train" and "val" stand for what is there, e.g. train2017, trainval35k or
    ImageSets/Main/train.txt; an undivided data set is split nine to one. Boxes are clipped to the
    image, unusable ones dropped and counted. Links that lead out of `root` are refused unless
    `allow_links`. `findings` collects what is wrong instead of stopping at it.

    Raises:
        DataError: a missing directory, annotation file, split or image, or contents that make no
            sense.
    """
    tree = scan(root, allow_links)
    with collector_off():
        data = _load(tree, split, findings if findings is not None else Findings())
    if data.dropped and findings is None:
        logger.warning("%s, %s: %s", data.annotation_path, data.split, data.repairs())
    return data


def find_splits(root: Union[str, os.PathLike], allow_links: bool = False) -> List[str]:
    """The splits of the data set below `root`; ["all"] for an undivided one, [] for none at all.

    Raises:
        DataError: no such directory, or a data.yaml that makes no sense.
    """
    tree = scan(root, allow_links)
    return next((splits(tree) for found, splits, _ in FORMATS if found(tree)), [])


def _load(tree: Tree, split: str, findings: Findings) -> DetectionData:
    for found, _, load in FORMATS:
        if found(tree):
            return load(tree, split, findings)
    raise DataError(f"{tree.root}: {what_is_there(tree)}")


def _is_coco(tree: Tree) -> bool:
    available = coco_files(tree)
    # A stray JSON file beside a folder of XML files does not make it COCO.
    return bool(available) and (any(map(is_coco_name, available.values())) or not is_voc(tree))


def _coco_splits(tree: Tree) -> List[str]:
    return sorted(coco_files(tree))


def _load_coco(tree: Tree, split: str, findings: Findings) -> DetectionData:
    available = coco_files(tree)
    name = choose_split(split, available, tree.root)
    whole_set = next(iter(available.values()))  # the only one, where `name` is a part of it
    relative = available.get(name, whole_set)
    return load_coco(tree, name, relative, name not in available, findings)


class Format(NamedTuple):
    """How one kind of annotations is known, which splits it has, and how it is read."""

    found: Callable[[Tree], bool]
    splits: Callable[[Tree], List[str]]
    load: Callable[[Tree, str, Findings], DetectionData]


FORMATS = (  # the first that is there counts
    Format(_is_coco, _coco_splits, _load_coco),
    Format(is_voc, voc_splits, load_voc),
    Format(is_yolo, yolo_splits, load_yolo),
    Format(is_labelme, labelme_splits, load_labelme),
    Format(is_csv, csv_splits, load_csv),
)
