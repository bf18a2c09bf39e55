# SPDX-License-Identifier: Apache-2.0
"""Class names of a YOLO data set, from data.yaml or a list of names."""

import posixpath
import re
from typing import Any, List, Mapping, Optional

import yaml

from ...runtime.errors import printable_name
from ..records import DataError
from .layout import Tree

MAX_YAML_BYTES = 1 << 20
MAX_BRACKETS = 1000  # PyYAML's time grows by the square of their depth
NAMES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_HAS_NAMES = re.compile(r"""(^|[{,])\s*["']?names["']?\s*:""", re.MULTILINE)


def yaml_file(tree: Tree) -> Optional[str]:
    """The relative path of the YAML file that describes the data set."""
    found = []
    for folder, names in tree.files.items():
        for stem, ending in map(posixpath.splitext, names if "/" not in folder else ()):
            if ending.lower() in (".yaml", ".yml"):
                rank = {"data": 0, "dataset": 1}.get(stem.lower(), 2)
                found.append((len(folder) > 0, rank, posixpath.join(folder, stem + ending)))
    for _, _, path in sorted(found):
        try:
            with open(tree.path(path), encoding="utf-8-sig", errors="replace") as file:
                if _HAS_NAMES.search(file.read(MAX_YAML_BYTES)):
                    return path
        except OSError:
            continue
    return None


def read_yaml(tree: Tree) -> Mapping[str, Any]:
    """The contents of data.yaml; {} if there is none."""
    relative = yaml_file(tree)
    if relative is None:
        return {}
    path = tree.path(relative)
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_YAML_BYTES + 1)
        if len(text) > MAX_YAML_BYTES or text.count(b"[") + text.count(b"{") > MAX_BRACKETS:
            raise ValueError("too large or too deeply nested")
        # All values as texts: YAML takes a class called "no" or 007 for something else.
        content = yaml.load(text, yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: not YAML ({reason})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected names, train and val as keys")
    return content


def class_names(tree: Tree, description: Mapping[str, Any]) -> List[str]:
    """Names of the classes in the order of their numbers.

    Raises:
        DataError: none, not one for each number, or one that cannot be used.
    """
    relative = yaml_file(tree)
    if relative:
        path, names = tree.path(relative), description.get("names")
        if isinstance(names, dict):
            names = [names.get(str(number)) for number in range(len(names))]
        if not isinstance(names, list) or not names or None in names:
            raise DataError(f"{path}: expected names as a list, or by number from 0")
        if description.get("nc") not in (None, str(len(names))):
            raise DataError(f"{path}: nc is not the number of names, {len(names)}")
    else:
        relative = names_file(tree)
        path = tree.path(relative or "")
        if relative is None:
            raise DataError(f"{path}: labels of YOLO, but no data.yaml or classes.txt with names")
        names = [line.strip() for line in text_lines(path)]
        while names and not names[-1]:
            names.pop()
    for number, name in enumerate(names):
        if not printable_name(name) or name in names[:number]:
            reason = "is repeated" if printable_name(name) else "is not a printable text"
            raise DataError(f"{path}: the name of class {number} {reason}")
    if not names:
        raise DataError(f"{path}: no names of classes")
    return names


def names_file(tree: Tree) -> Optional[str]:
    for folder in sorted(tree.files, key=lambda name: (name.count("/"), name)):
        for name in NAMES:
            if name in tree.files[folder]:
                return posixpath.join(folder, name)
    return None


def text_lines(path: str) -> List[str]:
    """The lines of a text file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({str(error)[:80]})") from None
