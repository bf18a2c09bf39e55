# SPDX-License-Identifier: Apache-2.0
"""Every split gets its own pictures, also where all of them number their files from 0."""

import json
import posixpath
import random

import pytest

from src.data.annotations.image_places import image_folders, may_hold
from src.data.annotations.layout import Tree, scan
from src.data.annotations.named_boxes import find_image
from src.data.coco_utils import load_data
from src.data.images import read_image
from tests.datasets import coco_content, labelme_content, voc_xml, write_image, write_texts

NAMES = ("000000.jpg", "000001.jpg")
STEMS = ("000000", "000001")
COCO = json.dumps(coco_content(NAMES, [(1, 3, [0, 0, 9, 9])]))
VOC = voc_xml([("cat", (1, 1, 9, 9))])
CSV = "filename,xmin,ymin,xmax,ymax,class\n" + "".join(f"{name},1,2,9,9,cat\n" for name in NAMES)
LABELME = [
    labelme_content([("cat", "rectangle", [[1, 2], [9, 9]])], imagePath=name) for name in NAMES
]
UP = [text.replace("000", "../images/000", 1) for text in LABELME]
COLOURS = {"train": 40, "val": 120, "test": 200}

LAYOUTS = {  # folder of images, and text by path
    "fiftyone": ("{s}/data", {"{s}/labels.json": COCO}),
    "coco beside": ("{s}/images", {"{s}/annotations.json": COCO}),
    "coco": ("{s}/images", {"annotations/instances_{s}.json": COCO}),
    "coco 2017": ("{s}2017/images", {"annotations/instances_{s}.json": COCO}),
    "coco in capitals": ("{S}/Images", {"annotations/{s}.json": COCO}),
    "coco named": ("{s}_images", {"annotations/{s}.json": COCO}),
    "coco joined": ("images-{s}", {"{s}.json": COCO}),
    "voc": ("{s}/images", {f"{{s}}/annotations/{stem}.xml": VOC for stem in STEMS}),
    "csv": ("{s}/images", {"{s}/annotations.csv": CSV}),
    "csv named": ("{s}_images", {"{s}_labels.csv": CSV}),
    "labelme": ("{s}/images", {f"{{s}}/labels/{k}.json": t for k, t in zip(STEMS, LABELME)}),
    "labelme up": ("{s}/images", {f"{{s}}/labels/{k}.json": t for k, t in zip(STEMS, UP)}),
    "labelme apart": ("images/{s}", {f"labels/{{s}}/{k}.json": t for k, t in zip(STEMS, LABELME)}),
}


def fill(root, layout, split):
    folder, texts = LAYOUTS[layout]
    of_split = {"s": split, "S": split.capitalize()}
    for name in NAMES:
        write_image(root / folder.format(**of_split) / name, value=COLOURS[split])
    write_texts(root, {path.format(**of_split): text for path, text in texts.items()})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_split_gets_its_own_pictures(tmp_path, layout):
    for split in COLOURS:
        fill(tmp_path, layout, split)
    for split, colour in COLOURS.items():
        records = load_data(tmp_path, split).records
        assert [posixpath.basename(row.path) for row in records] == list(NAMES)
        for row in records:
            assert split in row.path[len(str(tmp_path)) :].lower()
            assert abs(int(read_image(row.path)[0, 0, 0]) - colour) < 5


@pytest.mark.parametrize(
    ("folder", "split"),
    [("training", "train"), ("validation/images", "val"), ("valid", "val"), ("testing/a", "test")],
)
def test_other_words_for_a_split_name_its_folder(tmp_path, folder, split):
    tree = scan(write_texts(tmp_path, {f"{folder}/x": "", "a/x": "", "images/x": ""}))
    found = image_folders(tree, split, "annotations")
    assert found.index(folder) < min(found.index("a"), found.index("images"))


@pytest.mark.parametrize("other", ["a_train", "a/val/images", "Testing2", "dev"])
def test_a_folder_of_another_split_comes_after_those_of_none(tmp_path, other):
    split = "test" if "train" in other else "train"
    tree = scan(write_texts(tmp_path, {f"{other}/x": "", "pictures/x": ""}))
    assert image_folders(tree, split, "annotations")[-1] == other
    assert not may_hold(other, split)
    assert may_hold("pictures", split)


MANY = json.dumps(coco_content([f"{i:06}.jpg" for i in range(20)], [(1, 3, [0, 0, 9, 9])]))


@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_an_undivided_data_set_does_not_take_those_of_a_test(tmp_path, split):
    for folder in ("test", "train"):
        for i in range(20):
            write_image(tmp_path / folder / f"{i:06}.jpg")
    for row in load_data(write_texts(tmp_path, {"labels.json": MANY}), split).records:
        assert row.path.startswith(str(tmp_path / "train"))


def test_images_lie_nearer_to_their_annotations_than_others_of_the_name(tmp_path):
    texts = {f"{part}/{folder}/x": "" for part in "ab" for folder in ("annotations/xmls", "images")}
    tree = scan(write_texts(tmp_path, texts))
    for part in "ab":
        found = image_folders(tree, "all", f"{part}/annotations/xmls")
        others = [folder for folder in found if folder.endswith("images")]
        assert others[0] == f"{part}/images"


def probed(tree, name, folders):
    """What `Tree.find` is to find, by trying one folder after the other."""
    head, _, tail = name.rpartition("/")
    for folder in folders:
        parent = f"{folder}/{head}" if folder and head else folder or head
        if tail in tree.files.get(parent, ()):
            return f"{parent}/{tail}" if parent else tail
    return None


def test_a_file_is_found_in_the_first_folder_that_holds_it():
    rng = random.Random(0)
    for _ in range(300):
        paths = ["/".join(rng.choices("abc", k=rng.randint(1, 4))) for _ in range(8)]
        files = {"": set()}
        for path in paths:
            files.setdefault(posixpath.dirname(path), set()).add(posixpath.basename(path))
        folders = rng.sample([*files, "none"], rng.randint(1, len(files)))
        name = rng.choice([*paths, "a", "b/c", "/a", "a/", "a//b", "b", "aa", ""])
        tree = Tree("/data", files)
        assert tree.find(name, folders) == probed(tree, name, folders), (name, folders, files)


class Folders(list):
    """Counts how often it is gone through."""

    looked = 0

    def __iter__(self):
        self.looked += 1
        return super().__iter__()


def test_folders_are_not_gone_through_for_a_name_that_none_of_them_holds():
    """Names without an ending have nine to try, in four ways of writing: 0.1 s for each image."""
    folders = [f"d{i}" for i in range(50)]
    tree = Tree("/data", {folder: {"a.jpg"} for folder in folders})
    assert tree.find("a.jpg", folders[::-1]) == "d49/a.jpg"
    counted = Folders(folders)
    assert find_image(tree, "b/gone", counted) is None
    assert counted.looked == 0


@pytest.mark.parametrize("masks", ["annotations/trimaps", "a_masks", "SegmentationClass"])
def test_masks_are_not_taken_for_photographs(tmp_path, masks):
    tree = scan(write_texts(tmp_path, {f"pets/{masks}/x": "", "pets/pictures/x": ""}))
    found = image_folders(tree, "all", "pets/annotations/xmls")
    assert found.index("pets/pictures") < found.index(f"pets/{masks}")
    assert not may_hold(f"pets/{masks}", "all")
