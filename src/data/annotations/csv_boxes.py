# SPDX-License-Identifier: Apache-2.0
"""Reading boxes from CSV files, a row for each box.

With a line of names as TensorFlow's, Roboflow's and Open Images' files have it: an image, four
corners and a class, called in any of the usual ways; width and height of the image may be there.
Or without one as keras-retinanet has it: path,x1,y1,x2,y2,class. A row of an image alone says that
there is nothing on it. Coordinates are in pixels, or, where none in the file is above 2, in shares
of the image's sides. Corners in pixels are edges counted from 0.

Names of classes are those in all files, sorted; classes.csv (name,number) gives their order, and
class-descriptions*.csv (Open Images) what their codes stand for.
"""

import csv
import posixpath
from dataclasses import dataclass
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...runtime.errors import printable_name
from ..images import SUFFIXES
from ..records import DataError, DetectionData, Findings
from .image_places import image_folders
from .layout import (
    Tree,
    choose_split,
    held_out,
    no_images,
    report_missing,
    split_of,
)
from .named_boxes import AnnotatedImage, Box, NamedBox, build_data, find_image

MAX_NORMALISED = 2.0  # of a box that reaches out of its image; no file has all its boxes there
MOST_CSV = 50  # looked at in one folder
_COLUMNS = {  # in lower case, without "_", "-" and blanks
    "image": ("filename", "imageid", "image", "imagepath", "imagename", "path", "file", "img"),
    "xmin": ("xmin", "x1", "left", "bboxxmin"),
    "ymin": ("ymin", "y1", "top", "bboxymin"),
    "xmax": ("xmax", "x2", "right", "bboxxmax"),
    "ymax": ("ymax", "y2", "bottom", "bboxymax"),
    "class": ("class", "classname", "label", "labelname", "category", "name", "categoryname"),
    "width": ("width", "imagewidth"),
    "height": ("height", "imageheight"),
    "ignore": ("isgroupof", "iscrowd", "difficult"),
}
_NEEDED = ("image", "xmin", "ymin", "xmax", "ymax", "class")
_CORNERS = _NEEDED[1:5]
_NAMES_FILES = ("classes.csv", "class.csv", "class_names.csv")


class Row(NamedTuple):
    """One line: the box is None where the image has nothing on it."""

    image: str
    box: Optional[NamedBox]
    size: Optional[Tuple[int, int]]


@dataclass
class CsvFile:
    """A file of boxes and where its values stand: column by role."""

    path: str  # relative
    columns: Mapping[str, int]
    delimiter: str
    header: bool


def is_csv(tree: Tree) -> bool:
    """Whether there is a CSV file of boxes below the root."""
    return bool(_csv_files(tree))


def csv_splits(tree: Tree) -> List[str]:
    """The splits by the names of the files or their folders; ["all"] for an undivided data set."""
    return sorted(_csv_files(tree))


def load_csv(tree: Tree, split: str, findings: Findings) -> DetectionData:
    """One split.

    Raises:
        DataError: a missing split or image, or a line that makes no sense.
    """
    files = _csv_files(tree)
    chosen = choose_split(split, files, tree.root)
    part = chosen if chosen in files else next(iter(files))
    file = files[part]
    codes, order = _descriptions(tree), _class_order(tree)
    by_image = _by_image(_rows(tree, file, codes, order, findings))
    names = set(order)
    for other in files.values() if not order else ():
        every = _rows(tree, other, codes, order, Findings(collect=True))
        names.update(row.box.name for row in every if row.box)
    if chosen not in files:  # an undivided data set
        kept = [name for i, name in enumerate(by_image) if held_out(chosen, i)]
        by_image = {name: by_image[name] for name in kept}
    where = tree.path(file.path)
    if not by_image:
        raise no_images(where, chosen, enough=chosen in files)
    corners = [v for rows in by_image.values() for row in rows if row.box for v in row.box.xyxy]
    normalised = bool(corners) and max(corners) <= MAX_NORMALISED
    folder = posixpath.dirname(file.path)
    places = [folder, *image_folders(tree, part, folder)]
    images, missing = [], []
    for name, rows in by_image.items():
        path = find_image(tree, name, places)
        boxes = [row.box for row in rows if row.box]
        if path:
            images.append(AnnotatedImage(path, boxes, rows[0].size, normalised))
        else:
            missing.append(name.lstrip("/"))
    report_missing(tree, missing, len(by_image), where, findings)
    ordered = sorted(names, key=lambda name: (order.get(name, 0), name))
    return build_data(tree, images, ordered, chosen, where, "csv", findings)


def _by_image(rows: Iterator[Row]) -> Dict[str, List[Row]]:
    found: Dict[str, List[Row]] = {}
    for row in rows:
        found.setdefault(row.image, []).append(row)
    return found


def _csv_files(tree: Tree) -> Dict[str, CsvFile]:
    """File of boxes by split name."""
    found: Dict[str, CsvFile] = {}
    for path in csv_paths(tree):
        file = _recognise(tree, path)
        if file:
            found.setdefault(split_of(posixpath.basename(path), posixpath.dirname(path)), file)
    return found


def csv_paths(tree: Tree) -> List[str]:
    """CSV files near the root."""
    return [
        posixpath.join(folder, name)
        for folder in sorted(tree.files, key=lambda name: (name.count("/"), name))
        if folder.count("/") < 2
        for name in sorted(n for n in tree.files[folder] if n.lower().endswith(".csv"))[:MOST_CSV]
    ]


def first_fields(path: str) -> Tuple[List[str], str]:
    """The fields of the first line of a CSV file, and what stands between them."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            line = file.readline(1 << 16)
        delimiter = max(",;\t", key=line.count)
        return next(csv.reader([line], delimiter=delimiter), []), delimiter
    except (OSError, csv.Error):
        return [], ","


def _recognise(tree: Tree, path: str) -> Optional[CsvFile]:
    fields, delimiter = first_fields(tree.path(path))
    keys = ["".join(c for c in field.lower() if c not in "_- ") for field in fields]
    columns: Dict[str, int] = {}
    for role, names in _COLUMNS.items():
        known = [name for name in names if name in keys]
        if known:
            columns[role] = keys.index(known[0])
    if all(role in columns for role in _NEEDED):
        return CsvFile(path, columns, delimiter, True)
    if len(fields) == 6 and fields[0].lower().endswith(SUFFIXES):
        numbers = [_number(field) is not None for field in fields[1:5]]
        if all(numbers) or not any(fields[1:]):
            return CsvFile(path, {role: i for i, role in enumerate(_NEEDED)}, delimiter, False)
    return None


def _rows(
    tree: Tree,
    file: CsvFile,
    codes: Mapping[str, str],
    order: Mapping[str, int],
    findings: Findings,
) -> Iterator[Row]:
    """The lines of a file that make sense."""
    path = tree.path(file.path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=file.delimiter)
            if file.header:
                next(reader)
            for fields in reader:
                try:
                    row = _row([field.strip() for field in fields], file.columns, codes, order)
                except ValueError as error:
                    message = f"{path}:{reader.line_num}: {error}"
                    findings.refuse("malformed annotations", message)
                    continue
                if row:
                    yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({str(error)[:80]})") from None


def _row(
    fields: Sequence[str],
    columns: Mapping[str, int],
    codes: Mapping[str, str],
    order: Mapping[str, int],
) -> Optional[Row]:
    """One line; None for an empty one.

    Raises:
        ValueError: with what was expected.
    """
    if not any(fields):
        return None
    if len(fields) <= max(columns[role] for role in _NEEDED):
        raise ValueError(f"expected {', '.join(_NEEDED)}, found {len(fields)} fields")
    image, *corners, name = (fields[columns[role]] for role in _NEEDED)
    if not image or "\0" in image:
        raise ValueError("expected the name of an image")
    size = _size(fields, columns)
    if not any(corners):
        return Row(image, None, size)
    values = [_number(text) for text in corners]
    if None in values:
        raise ValueError(f"expected numbers as {', '.join(_CORNERS)}, found {corners}"[:160])
    name = codes.get(name, name)
    if not printable_name(name):
        raise ValueError(f"expected the name of a class, found {name[:40]!r}")
    if order and name not in order:
        raise ValueError(f"class {name[:40]!r} is not in the list of classes")
    at = columns.get("ignore", len(fields))
    ignore = at < len(fields) and fields[at].lower() in ("1", "true")
    xyxy: Box = tuple(values)  # type: ignore[assignment]
    return Row(image, NamedBox(name, xyxy, ignore), size)


def _size(fields: Sequence[str], columns: Mapping[str, int]) -> Optional[Tuple[int, int]]:
    """Width and height of the image where the file gives them."""
    sides = []
    for role in ("width", "height"):
        at = columns.get(role, len(fields))
        value = _number(fields[at]) if at < len(fields) else None
        if value is None or not 0 < value < 10**6 or value % 1:
            return None
        sides.append(int(value))
    return sides[0], sides[1]


def _number(text: str) -> Optional[float]:
    try:
        return float(text)
    except ValueError:
        return None


def _pairs(path: str) -> List[Tuple[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [[field.strip() for field in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({str(error)[:80]})") from None
    return [(row[0], row[1]) for row in rows if len(row) == 2]


def _descriptions(tree: Tree) -> Dict[str, str]:
    """Name by code, as Open Images has it: "/m/011k07" is a tortoise."""
    paths = [
        path
        for path in csv_paths(tree)
        if posixpath.basename(path).lower().startswith("class-descriptions")
    ]
    return dict(_pairs(tree.path(paths[0]))) if paths else {}


def _class_order(tree: Tree) -> Dict[str, int]:
    """Number by class name as keras-retinanet's classes.csv gives it; {} if there is none.

    Raises:
        DataError: it makes no sense.
    """
    paths = [path for path in csv_paths(tree) if posixpath.basename(path).lower() in _NAMES_FILES]
    if not paths:
        return {}
    path = tree.path(paths[0])
    order: Dict[str, int] = {}
    for name, number in _pairs(path):
        if not printable_name(name) or not number.isdecimal() or name in order:
            if order or number.isdecimal():  # not a line of headings
                raise DataError(f"{path}: expected a name and a number in a line, each name once")
            continue
        order[name] = int(number)
    return order
