# SPDX-License-Identifier: Apache-2.0
"""Large annotation files are read once: what was taken from them is kept for later starts.

Kept where compiled graphs are (`M2DET_CACHE` says where, or "off"), under the digest of the file's
contents, so that no change of it, nor of the file's place, can bring back something else.
"""

import logging
import os
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import msgspec
import numpy as np

from ...runtime.errors import printable
from ...runtime.files import file_sha256
from ...runtime.graph_cache.store import CacheError, Store, cache_folder
from ..records import Findings
from .coco_file import BoxTable, CocoFile, ImageEntry, read_coco

LEAST_BYTES = 1 << 25  # smaller files are read in less than half a second
ENDING = ".annotations"
_VERSION = 1  # of the layout below, and of what `read_coco` takes from a file
_ARRAYS = {  # fields of BoxTable
    "image_ids": np.dtype("<i8"),
    "category_ids": np.dtype("<i8"),
    "boxes_xywh": np.dtype("<f8"),
    "areas": np.dtype("<f8"),
    "crowd": np.dtype("?"),
}

logger = logging.getLogger(__name__)


class _Head(msgspec.Struct):
    images: List[ImageEntry]
    categories: list
    annotated: bool
    packed: bool


def read_cached(path: str, findings: Findings) -> CocoFile:
    """As `read_coco`, from what an earlier start has kept if there is something.

    Raises:
        DataError: as `read_coco`.
    """
    store, key = _store(path)
    if store is None:
        return read_coco(path, findings)
    kept = _unpack(store.get(key))
    if kept is not None:
        return kept
    before = (findings.counts.copy(), findings.errors.copy())
    file = read_coco(path, findings)
    plain = all(isinstance(entry, ImageEntry) for entry in file.images)
    if plain and before == (findings.counts, findings.errors):  # else its faults would be lost
        try:
            store.put(key, _pack(file))
            text = "annotations are kept for later starts: %s"
            logger.info(text, printable(str(store.path(key))))
        except (CacheError, UnicodeEncodeError) as error:
            logger.info("annotations are not kept for later starts: %s", error)
    return file


def _store(path: str) -> Tuple[Optional[Store], str]:
    """Where to keep what is in the file at `path`, if at all, and under which name."""
    folder = cache_folder(os.environ)
    try:
        if folder is None or os.path.getsize(path) < LEAST_BYTES:
            return None, ""
        return Store(folder, ending=ENDING), f"{file_sha256(Path(path))}-{_VERSION}"
    except OSError:  # of the folder, or of the file, which reading it will name
        return None, ""


def _pack(file: CocoFile) -> Dict[str, bytes]:
    head = _Head(file.images, file.categories, file.annotated, file.packed)
    arrays = {name: getattr(file.boxes, name).astype(kind) for name, kind in _ARRAYS.items()}
    return {
        "head.json": msgspec.json.encode(head),
        **{name: array.tobytes() for name, array in arrays.items()},
    }


def _unpack(files: Optional[Dict[str, bytes]]) -> Optional[CocoFile]:
    """None where it is not what `_pack` makes."""
    if files is None:
        return None
    try:
        head = msgspec.json.decode(files["head.json"], type=_Head)
        columns = {name: np.frombuffer(files[name], kind) for name, kind in _ARRAYS.items()}
        columns["boxes_xywh"] = columns["boxes_xywh"].reshape(len(columns["areas"]), 4)
    except (KeyError, ValueError):
        return None
    table = BoxTable(**columns)
    return CocoFile(head.images, head.categories, table, head.annotated, head.packed)
