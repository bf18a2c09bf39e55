# SPDX-License-Identifier: Apache-2.0
"""Finding annotations and images below a data set directory, without ever leaving it."""

import functools
import os
import posixpath
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Set, Union
from unicodedata import normalize
from urllib.parse import unquote

from ..mindrecord import MINDRECORD_ROWS, mindrecord_file
from ..records import DataError, Findings, MissingData, NothingHeldOut

MAX_DEPTH = 4
_SAME_SPLIT = {
    "minival": ("minival2014", "val2017"),
    "minival2014": ("minival", "val2017"),
    "trainval35k": ("trainval35k2014", "train2017"),
}
_TRAIN = ("train2017", "trainval35k", "train2014", "train", "training", "trainval")
_VAL = ("val2017", "minival2014", "minival", "val2014", "val", "valid", "validation", "dev", "test")
WHOLE = "all"  # the name of a split that has none
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
MOST_JSON = 20  # in one folder
_NO_SPLIT = (  # names of files that say nothing about the split
    *("", "_annotations", "annotations", "annotation", "instances", "coco", "default"),
    *("labels", "result", "data", "dataset"),
)
_BEFORE_SPLIT = ("instances_", "image_info_", "annotations_", "annotation_", "coco_", "oidv6-")
_AFTER_SPLIT = (".coco", "_annotations", "_coco", "_instances", "_labels", "-annotations-bbox")
LINKS = "links out of the data set"
HOLD_OUT = 10  # every tenth image validates where a data set comes undivided


@dataclass
class Tree:
    """Regular files by folder; folders are relative to `root` with "/" between, "" is the root."""

    root: str  # absolute
    files: Dict[str, Set[str]] = field(default_factory=dict)
    outside: Dict[str, str] = field(
        default_factory=dict
    )  # links that leave the root, and their targets

    def find(self, name: str, folders: Sequence[str]) -> Optional[str]:
        """The relative path of `name` in the first of `folders` that holds it.

        Where none does, it is looked for without URL escapes ("a%20b.jpg"), as some tools write it,
        and with accents joined to their letters or apart from them, as macOS writes names.
        """
        found, plain = self._find(name, folders), unquote(name)
        for form in () if found else (plain, normalize("NFC", plain), normalize("NFD", plain)):
            found = found or self._find(form, folders)
        return found

    def _find(self, name: str, folders: Sequence[str]) -> Optional[str]:
        head, _, tail = name.rpartition("/")
        for folder in folders[:2]:  # the likeliest, as nearly always
            parent = f"{folder}/{head}" if folder and head else folder or head
            if tail in self.files.get(parent, ()):
                return f"{parent}/{tail}" if parent else tail
        holding = self._holding.get(tail, []) if len(folders) > 2 else []
        if head:  # what stands before it in their paths; nothing before the head itself
            ends = [f"/{parent}" for parent in holding if f"/{parent}".endswith(f"/{head}")]
            holding = [path[: -len(head) - 1][1:] for path in ends]
        among = set(holding)
        for folder in folders if among else ():
            if folder in among:
                return "/".join(part for part in (folder, head, tail) if part)
        return None

    @functools.cached_property
    def _holding(self) -> Dict[str, List[str]]:
        """The folders that hold a file of that name: thousands of others may not."""
        found: Dict[str, List[str]] = {}
        for folder, names in self.files.items():
            for name in names:
                found.setdefault(name, []).append(folder)
        return found

    def path(self, relative: str) -> str:
        """The absolute path of a relative one."""
        return os.path.join(self.root, relative) if relative else self.root

    def head(self, relative: str) -> bytes:
        """The first 64 KB of a file; none of one that cannot be read."""
        try:
            with open(self.path(relative), "rb") as file:
                return file.read(1 << 16)
        except OSError:
            return b""

    def link_to(self, path: str) -> str:
        """The refused link that `path` most likely goes through."""
        parts = path.split("/")
        for link in self.outside:
            if posixpath.basename(link) in parts:
                return link
        return next(iter(self.outside))


def scan(root: Union[str, os.PathLike], allow_links: bool = False) -> Tree:
    """The files below `root`, to a depth of four folders; what is hidden is passed over.

    A link that leads out of the root is not followed unless `allow_links`.

    Raises:
        DataError: no such directory, or it cannot be listed.
    """
    tree, real = Tree(os.path.abspath(root)), os.path.realpath(root)
    if not os.path.isdir(tree.root):
        raise MissingData(f"{tree.root}: {_no_folder(tree.root)}")
    seen: Set[str] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        resolved = os.path.realpath(tree.path(folder))
        if resolved in seen:  # a link to a folder above
            continue
        seen.add(resolved)
        names: Set[str] = set()
        try:
            with os.scandir(tree.path(folder)) as entries:
                for entry in entries:
                    if entry.name[0] == "." or entry.name == "lost+found":  # hidden, or root's
                        continue
                    if entry.is_symlink() and not allow_links and not _inside(entry.path, real):
                        link = posixpath.join(folder, entry.name)
                        tree.outside[link] = os.path.realpath(entry.path)
                    elif entry.is_symlink() and not os.path.exists(entry.path):
                        continue  # it leads nowhere, or to itself
                    elif entry.is_file():
                        names.add(entry.name)
                    elif entry.is_dir() and _depth(folder) < MAX_DEPTH:
                        pending.append(posixpath.join(folder, entry.name))
        except OSError as error:
            raise DataError(f"{tree.path(folder)}: cannot be listed ({error.strerror})") from None
        tree.files[folder] = names
    return tree


def _depth(folder: str) -> int:
    return folder.count("/") + bool(folder)


def _no_folder(path: str) -> str:
    if not os.path.isfile(path):
        return "no such data set directory"
    if path.lower().endswith(ARCHIVES):
        return "a packed file; unpack it and give the folder"
    return f"a file; give the folder of the data set, {os.path.dirname(path)}"


def _inside(path: str, real_root: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(real_root, ""))


def unsafe_name(name: str) -> str:
    """Why `name` must not be used as a path below the root, or ""."""
    if "\0" in name or not name.strip():
        return "is empty or holds a zero byte"
    if name.startswith(("/", "\\")) or name[1:3] in (":\\", ":/"):
        return "is an absolute path"
    if ".." in name.replace("\\", "/").split("/"):
        return "leads out of its folder with '..'"
    return ""


def mindrecord_place(tree: Tree, split: str, row: Optional[int]) -> Optional[str]:
    """The relative path that stands for that image ("a.mindrecord#17"); None if it is not there."""
    if row is None or row < 0 or mindrecord_file(split, row) not in tree.files[""]:
        return None
    return f"{mindrecord_file(split, row)}#{row % MINDRECORD_ROWS}"


def coco_files(tree: Tree) -> Dict[str, str]:
    """Annotation file (relative path) by split name."""
    found: Dict[str, str] = {}
    for folder in sorted(tree.files, key=lambda name: (name.count("/"), name)):
        names = [name for name in tree.files[folder] if name.lower().endswith(".json")]
        sure = sorted(name for name in names if is_coco_name(name))
        # One JSON file for each image is another format.
        others = sorted(set(names) - set(sure)) if len(names) <= MOST_JSON else []
        for name in sure + others if folder.count("/") < 2 else ():
            path = posixpath.join(folder, name) if folder else name
            split = split_of(name, folder)
            known = not split or split in found
            if not known and (name in sure or _looks_like_coco(tree.head(path))):
                found[split] = path
    return found


def is_coco_name(path: str) -> bool:
    """Whether a file is named as COCO or an exporter of it does."""
    name = posixpath.basename(path).lower()
    return name.startswith(("instances_", "image_info_")) or "annotations.coco" in name


def _looks_like_coco(head: bytes) -> bool:
    """Whether a JSON file starts like one: a key of COCO near the front."""
    head = head.replace(b"\0", b"")  # UTF-16 is then ASCII enough
    return any(key in head for key in (b'"images"', b'"annotations"', b'"categories"'))


def split_of(name: str, folder: str) -> str:
    """The split that the file `name` annotates; "" if its name says that it holds no boxes."""
    stem = os.path.splitext(name)[0].lower()
    if stem.startswith(("captions_", "person_keypoints_", "panoptic_", "stuff_")):
        return ""
    start, end = 0, len(stem)
    for prefix in _BEFORE_SPLIT:
        start += len(prefix) if stem[start:].startswith(prefix) else 0
    for ending in _AFTER_SPLIT:
        end -= len(ending) if stem[start:end].endswith(ending) else 0
    if stem[start:end] not in _NO_SPLIT:
        return name[start:end]
    last = posixpath.basename(folder)
    return last if last.lower() not in (*_NO_SPLIT, "images") else WHOLE


def choose_split(split: str, available: Mapping[str, object], where: str) -> str:
    """The name in `available` that `split` stands for; "train" and "val" take what there is.

    Where the data set is one undivided piece, "train" and "val" stay as they are (see `held_out`).

    Raises:
        DataError: no such split; the message lists those found.
    """
    if split in available:
        return split
    for name in _SAME_SPLIT.get(split, ()):
        if name in available:
            return name
    for family, names in (("train", _TRAIN), ("val", _VAL)):
        if split == family:
            by_lower = {name.lower(): name for name in sorted(available, reverse=True)}
            likely = [name for name in names if name in by_lower]
            likely += sorted(name for name in by_lower if name.startswith(family))
            if likely:
                return by_lower[likely[0]]
            if undivided(available):
                return split
    if not available:
        raise DataError(f"{where}: no annotations for split {split!r}")
    raise MissingData(f"{where}: no split {split!r}; found {', '.join(sorted(available))}")


def undivided(available: Iterable[str]) -> bool:
    """Whether the only split there is has a name that says nothing about its use."""
    names = [name.lower() for name in available]
    return len(names) == 1 and not names[0].startswith(("train", "val", "test", "minival", "dev"))


def held_out(split: str, position: int) -> bool:
    """Whether image `position` of an undivided data set belongs to `split`, which is train, val or
    all.
    """
    return split == WHOLE or (position % HOLD_OUT == HOLD_OUT - 1) == (split == "val")


def no_images(where: str, split: str, enough: bool) -> DataError:
    """The error for a split that has none; not `enough`: of an undivided data set of few images."""
    if split == "val" and not enough:
        return NothingHeldOut(f"{where}: under {HOLD_OUT} images, so none is held out for 'val'")
    return DataError(f"{where}: split {split!r} has no images")


def not_followed(tree: Tree) -> str:
    """What to say of a link out of the data set."""
    return f"a link out of {tree.root} is not followed; data.allow_links=true allows it"


def report_missing(
    tree: Tree, missing: Sequence[str], total: int, listed_in: str, findings: Findings
) -> None:
    """Image files that are not there, by relative path: fatal unless findings are collected.

    Raises:
        DataError: naming the first, or the refused link that leads to it.
    """
    if not missing:
        return
    count = f"{len(missing)} of {total} missing"
    if tree.outside:
        link = tree.path(tree.link_to(missing[0]))
        findings.refuse(LINKS, f"{link}: {not_followed(tree)} (images: {count})")
    for path in missing if findings.collect else missing[:1]:
        findings.refuse(
            "missing images", f"{tree.path(path)}: no such image, listed in {listed_in} ({count})"
        )
