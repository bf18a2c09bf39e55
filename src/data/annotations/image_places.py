# SPDX-License-Identifier: Apache-2.0
"""In which order the folders of a data set are looked through for the images of a split."""

import functools
import posixpath
import re
from typing import Dict, FrozenSet, List, Optional, Tuple

from ..images import SUFFIXES
from .layout import Tree, unsafe_name

# Where the images of a split are, when not in a folder of its own name.
_FOLDERS = {
    "trainval35k": ("train2014", "val2014", "train2017", "val2017"),
    "minival": ("val2014", "val2017"),
    "minival2014": ("val2014", "val2017"),
    "valminusminival2014": ("val2014", "train2017"),
    "test-dev2015": ("test2015",),
    "test-dev2017": ("test2017",),
}
_USES = {
    **dict.fromkeys(("train", "training"), ("train",)),
    **dict.fromkeys(("val", "valid", "validation", "dev", "minival"), ("val",)),
    **dict.fromkeys(("test", "testing"), ("test",)),
    "trainval": ("train", "val"),
}
# Images in such folders repeat the names of the photographs.
_NO_PHOTOGRAPHS = re.compile(
    r"(^|/)(annotations?|labels|segmentation(class|object)|([^/]*[_-])?(masks?|trimaps?))(/|$)",
    re.IGNORECASE,
)
_SPLITS_OWN, _OF_SAME_USE, _NEAR, _ANY, _OF_ANOTHER_USE = range(1, 6)  # likeliest first


def image_folders(tree: Tree, split: str, beside: str) -> List[str]:
    """All folders, as places to look for the images of `split` in, the likeliest first; `beside`
    holds the annotations.

    Every split may number its images from 0, so a folder of another split comes last.
    """
    near = (beside, "", "images", "JPEGImages")
    path = f"{beside}/"
    above = [path[: i + 1] for i, character in enumerate(path) if character == "/"]

    def rank(folder: str) -> tuple:
        match, place = _match(folder, split)
        if folder in near and (match == _ANY or (folder == beside and match == _OF_ANOTHER_USE)):
            match, place = _NEAR, near.index(folder)
        shared = sum(map(f"{folder}/".startswith, above))  # folders that both paths begin with
        return (folder != beside and _of_masks(folder), match, place, -shared, folder)

    # Parents count too: a file_name may bring the last part of the folder with it.
    return sorted(tree.files, key=rank)


def may_hold(folder: str, split: str) -> bool:
    """Whether the path of a folder speaks neither of another split ("test_images" for "train") nor
    of masks.
    """
    other = _match(folder, split)[0] == _OF_ANOTHER_USE
    return not other and not _of_masks(folder)


class ImageFinder:
    """Finds the images of Pascal VOC's annotations of the split `part` in the folder `beside`;
    usually these are in JPEGImages of the folder `parent`.
    """

    def __init__(self, tree: Tree, part: str, beside: str, parent: str) -> None:
        self._tree = tree
        usual = posixpath.join(parent, "JPEGImages")
        self._places = [usual, *image_folders(tree, part, beside)]
        self._likely = [place for place in self._places if may_hold(place, part)]
        self._by_stem: Dict[str, str] = {}
        for place in self._places:
            for name in sorted(tree.files.get(place, ())):
                stem, suffix = posixpath.splitext(name)
                if suffix.lower() in SUFFIXES:
                    self._by_stem.setdefault(stem, posixpath.join(place, name))

    def find(self, stem: str, filename: str) -> Optional[str]:
        """The relative path of an image of that stem, rather one called as the XML file says.

        Of another stem only where there is none: programs that copy files leave <filename> as it
        was.
        """
        found = self._by_stem.get(stem)
        name = "" if unsafe_name(filename) else filename.replace("\\", "/")
        if found is None:
            return self._tree.find(name, self._places) if name else None
        if name.startswith(f"{stem}.") and posixpath.basename(found) != name:
            return self._tree.find(name, self._likely) or found
        return found


@functools.lru_cache(maxsize=1 << 14)
def _match(folder: str, split: str) -> Tuple[int, int]:
    """How well a folder's path speaks for `split`, smaller is better; its last telling part counts.

    "train2017" and "images/train2017" come before "train2017/images" and "train2017_images", these
    before "training".
    """
    named = (split, *_FOLDERS.get(split, ()))
    own = _uses(split)
    for up, part in enumerate(reversed(folder.split("/"))):
        if not up and part in named:
            return 0, named.index(part)
        hits = [named.index(word) for word in (part, *re.split(r"[_\-. ]", part)) if word in named]
        if hits:
            return _SPLITS_OWN, min(hits)
        uses = _uses(part)
        if uses & own:
            return _OF_SAME_USE, 0
        if uses:  # an undivided data set may lie in "train"
            return (_ANY if not own and "train" in uses else _OF_ANOTHER_USE), 0
    return _ANY, 0


def _uses(name: str) -> FrozenSet[str]:
    """What the words of a name say about the use of a split: train, val or test."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return frozenset(use for word in words for use in _USES.get(word.lower(), ()))


@functools.lru_cache(maxsize=1 << 14)
def _of_masks(folder: str) -> bool:
    return bool(_NO_PHOTOGRAPHS.search(folder))
