# SPDX-License-Identifier: Apache-2.0
"""More than 500 damaged annotation files and images: each gives a result or a one-line error.

Whatever is accepted goes through augmentation, matching and the loss, which must stay finite.
"""

import copy
import json
import os
import time

import cv2
import numpy as np
import pytest
from mindspore import Tensor

from src.config import DataConfig
from src.data.coco_utils import load_data
from src.data.images import read_image
from src.data.records import DataError, ImageError
from src.data.sample_stream import SampleStream, Shard
from src.loss import MultiBoxLoss
from tests.datasets import (
    coco_content,
    labelme_content,
    voc_xml,
    write_coco,
    write_image,
    write_texts,
    write_voc,
)

SECONDS = 10  # for one case; most take milliseconds
STRANGE = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**200,
    10**400,
    1e308,
    -1e308,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\0",
    "a\nb",
    "../" * 50,
    "/" * 300,
    "é" * 5000,
    [],
    {},
    [[[[]]]],
    {"id": {"id": 1}},
    [1, 2, 3, 4],
    [None] * 4,
)


def priors():
    centres = (np.arange(4) + 0.5) / 4
    y, x = np.meshgrid(centres, centres, indexing="ij")
    boxes = [np.stack([x, y, np.full_like(x, s), np.full_like(x, s)], axis=-1) for s in (0.3, 0.8)]
    return np.concatenate([b.reshape(-1, 4) for b in boxes]).astype(np.float32)


class Trainer:
    """Makes training samples of whatever was accepted; `close` puts them all through the loss."""

    def __init__(self):
        self.targets, self.labels = [], []

    def add(self, data):
        shard = Shard(batch_size=1, total_steps=len(data.records))
        stream = SampleStream(data, {32: priors()}, DataConfig(), shard, seed=1)
        for number in range(len(stream)):
            image, targets, labels, _ = stream[number]
            assert np.isfinite(image).all()
            assert np.abs(targets).max() < 100
            self.targets.append(targets)
            self.labels.append(np.minimum(labels, 2))  # a damaged file may have more classes

    def close(self):
        if self.targets:
            shape = (len(self.targets), len(priors()))
            rng = np.random.default_rng(0)
            losses = MultiBoxLoss(3)(
                Tensor(rng.normal(size=(*shape, 4)).astype(np.float32)),
                Tensor(rng.normal(size=(*shape, 3)).astype(np.float32)),
                Tensor(np.stack(self.targets)),
                Tensor(np.stack(self.labels)),
            )
            assert all(np.isfinite(loss.asnumpy()).all() for loss in losses)


@pytest.fixture
def trainer():
    made = Trainer()
    yield made
    made.close()


def outcome(root, trainer):
    """ "accepted" or "refused" after everything that must hold was checked."""
    start = time.perf_counter()
    try:
        data = load_data(root, "train")
        trainer.add(data)
        return "accepted"
    except DataError as error:
        text = str(error)
        assert "\n" not in text
        assert 0 < len(text) < 2000
        text.encode("utf-8")  # it can be printed
        return "refused"
    finally:
        assert time.perf_counter() - start < SECONDS


def places(content, path=()):
    """Every path into a tree of lists and dictionaries."""
    keys = content if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield (*path, key)
        if isinstance(content[key], (dict, list)):
            yield from places(content[key], (*path, key))


def damaged(content, rng):
    """A copy with one to three values replaced, deleted, repeated or exchanged."""
    content = copy.deepcopy(content)
    for _ in range(rng.integers(1, 4)):
        paths = list(places(content))
        if not paths:
            return content
        path = paths[rng.integers(len(paths))]
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        action = rng.integers(4)
        if action == 0:
            del parent[path[-1]]
        elif action == 1 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        elif action == 2:
            other = content
            for key in paths[rng.integers(len(paths))]:
                other = other[key]
            parent[path[-1]] = copy.deepcopy(other)
        else:
            parent[path[-1]] = copy.deepcopy(STRANGE[rng.integers(len(STRANGE))])
    return content


def damaged_bytes(data, rng):
    """Cut, flipped, overwritten, doubled or filled with zeros somewhere."""
    data = bytearray(data)
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, max(2, len(data) // 4)))
    action = rng.integers(6)
    if action == 0:
        del data[start:]
    elif action == 1:
        del data[start : start + length]
    elif action == 2:
        for place in rng.integers(0, len(data), 8):
            data[place] ^= 1 << int(rng.integers(8))
    elif action == 3:
        data[start : start + length] = rng.integers(0, 256, length).astype(np.uint8).tobytes()
    elif action == 4:
        data[start:start] = data[start : start + length]
    else:
        data[start : start + length] = bytes(length)
    return bytes(data)


ROWS = [(1, 7, [10, 20, 30, 10]), (2, 3, [0, 0, 25, 26]), (2, 3, [8, 8, 20, 20], 1)]


def test_damaged_coco_values(tmp_path, trainer):
    root = write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"], ROWS))
    path = root / "annotations" / "instances_train2017.json"
    outcomes = []
    for seed in range(250):
        content = damaged(coco_content(["a.jpg", "b.jpg"], ROWS), np.random.default_rng(seed))
        path.write_text(json.dumps(content))
        outcomes.append(outcome(root, trainer))
    assert outcomes.count("accepted") > 50
    assert outcomes.count("refused") > 50


def test_damaged_coco_bytes(tmp_path, trainer):
    root = write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"], ROWS))
    path = root / "annotations" / "instances_train2017.json"
    whole = path.read_bytes()
    outcomes = []
    for seed in range(100):
        path.write_bytes(damaged_bytes(whole, np.random.default_rng(seed)))
        outcomes.append(outcome(root, trainer))
    assert outcomes.count("refused") > 50


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-32-be", "cp1251", "utf-7"])
def test_coco_in_a_wrong_encoding(tmp_path, trainer, encoding):
    content = coco_content(categories=[{"id": 3, "name": "Ñandú"}, {"id": 7, "name": "x"}])
    root = write_coco(tmp_path, content)
    path = root / "annotations" / "instances_train2017.json"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding, "replace"))
    outcome(root, trainer)


def test_damaged_voc_values(tmp_path, trainer):
    root = write_voc(tmp_path, {"a": voc_xml([("cat", (1, 1, 20, 20))])}, {"train": ["a"]})
    strange = [*map(str, STRANGE[:13]), "", "x", "1e5000", "0x10", "\uff11", "-0", "1_0", " 7 "]
    outcomes = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        text = voc_xml([("cat", (1, 1, 20, 20)), ("dog", (5, 6, 50, 40), 1)])
        for _ in range(rng.integers(1, 4)):
            old = ("60", "48", ">20<", ">1<", ">5<", "cat", "dog", "object", "bndbox", "size")
            name = old[rng.integers(len(old))]
            new = strange[rng.integers(len(strange))]
            text = text.replace(name, f">{new}<" if name[0] == ">" else new, 1)
        (root / "Annotations" / "a.xml").write_text(text, encoding="utf-8")
        outcomes.append(outcome(root, trainer))
    assert outcomes.count("accepted") > 20
    assert outcomes.count("refused") > 20


def test_damaged_voc_bytes_and_lists(tmp_path, trainer):
    text = voc_xml([("cat", (1, 1, 20, 20)), ("dog", (5, 6, 50, 40), 1)])
    root = write_voc(tmp_path, {"a": text}, {"train": ["a"]})
    xml, listed = root / "Annotations" / "a.xml", root / "ImageSets" / "Main" / "train.txt"
    for seed in range(80):
        rng = np.random.default_rng(seed)
        xml.write_bytes(damaged_bytes(text.encode(), rng))
        outcome(root, trainer)
    xml.write_text(text)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        listed.write_bytes(damaged_bytes(b"a\na\na\n", rng))
        outcome(root, trainer)


YOLO_YAML = "path: .\ntrain: images\nval: images\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
CSV = "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "a.jpg,60,48,cat,1,2,30,40\n" * 3


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("data.yaml", YOLO_YAML),
        ("labels/a.txt", "0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.3 0.1 0.2 0.4\n"),
        ("classes.txt", "cat\ndog\n"),
        ("images/a.json", labelme_content([("cat", "rectangle", [[1, 2], [30, 40]])])),
        ("train.csv", CSV),
        ("train.csv", "images/a.jpg,1,2,30,40,cat\n" * 3),
        ("classes.csv", "cat,0\ndog,1\n"),
    ],
)
def test_damaged_bytes_of_other_formats(tmp_path, trainer, path, text):
    files = {"train.csv": CSV} if path == "classes.csv" else {}
    if path.endswith("txt"):
        files = {"labels/a.txt": "1 0.5 0.5 0.2 0.3\n"}
        files.update({"data.yaml": YOLO_YAML} if path == "labels/a.txt" else {})
    write_image(tmp_path / "images" / "a.jpg")
    write_texts(tmp_path, {**files, path: text})
    assert outcome(tmp_path, trainer) == "accepted"
    outcomes = []
    for seed in range(60):
        (tmp_path / path).write_bytes(damaged_bytes(text.encode(), np.random.default_rng(seed)))
        outcomes.append(outcome(tmp_path, trainer))
    assert outcomes.count("refused") > 10


@pytest.mark.parametrize(
    "text", ["names: &a [*a]\ntrain: *a\n", "names: " + "[" * 100_000, "names: " + "- " * 100_000]
)
def test_yaml_bombs(tmp_path, trainer, text):
    write_image(tmp_path / "images" / "a.jpg")
    write_texts(tmp_path, {"data.yaml": text})
    assert outcome(tmp_path, trainer) == "refused"
    rows = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    write_texts(tmp_path, {"data.yaml": f"a0: &a0 x\n{rows}names: *a11\ntrain: *a11\n"})
    assert outcome(tmp_path, trainer) == "refused"


def test_xml_bombs(tmp_path, trainer):
    root = write_voc(tmp_path, {"a": voc_xml([("cat", (1, 1, 9, 9))])}, {"train": ["a"]})
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    bombs = [
        f'<!DOCTYPE a [<!ENTITY e0 "x">{entities}]><annotation>&e11;</annotation>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>',
        "<annotation>" * 100_000,
        "<annotation>" + "<object/>" * 100_000 + "</annotation>",
    ]
    for text in bombs:
        (root / "Annotations" / "a.xml").write_text(text)
        assert outcome(root, trainer) == "refused"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_damaged_images(tmp_path, trainer, suffix, capfd):
    root = write_coco(tmp_path, coco_content([f"a{suffix}", f"b{suffix}"], ROWS))
    noise = np.random.default_rng(0).integers(0, 255, (48, 60, 3)).astype(np.uint8)
    whole = cv2.imencode(suffix, cv2.GaussianBlur(noise, (9, 9), 3))[1].tobytes()
    path = root / "train2017" / f"a{suffix}"
    read, refused = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        data = damaged_bytes(whole, rng)
        if seed % 3 == 0:  # the header is where sizes are
            data = damaged_bytes(whole[:64], rng) + whole[64:]
        path.write_bytes(data)
        outcome(root, trainer)
        try:
            read += read_image(str(path)).dtype == np.uint8
        except ImageError as error:
            refused.append(str(error))
    assert not any("\n" in text for text in refused)
    assert read + len(refused) == 60
    assert refused
    capfd.readouterr()  # what the decoders have to say


def test_files_that_are_no_files(tmp_path, trainer):
    root = write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"]))
    (root / "train2017" / "a.jpg").unlink()
    os.mkfifo(root / "train2017" / "a.jpg")  # reading it would wait for ever
    assert outcome(root, trainer) == "refused"
    (root / "train2017" / "a.jpg").unlink()
    (root / "train2017" / "a.jpg").mkdir()
    assert outcome(root, trainer) == "refused"
    (root / "train2017" / "a.jpg").rmdir()
    write_image(root / "train2017" / "a.jpg")
    assert outcome(root, trainer) == "accepted"
