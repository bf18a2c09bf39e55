# SPDX-License-Identifier: Apache-2.0
"""A small data set in COCO format, drawn instead of downloaded: coloured shapes on textured ground.

`python -m src.data.synthetic_shapes OUT --train 800 --val 80 --seed 0` writes `OUT/train2017`,
`OUT/val2017` and `OUT/annotations/instances_{train,val}2017.json`. The same arguments give the same
pixels.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

CLASS_NAMES = ("ellipse", "rectangle", "triangle")
# With gaps, as COCO's own ids have them: a reader that takes ids for labels fails here too.
CATEGORY_IDS = (1, 2, 4)
SIDES_PX = (160, 240)
SIDE_FRACTION = (0.18, 0.55)  # longer side of a shape as a fraction of the shorter image side
MAX_COVER = 0.15  # fraction of the smaller of two boxes that the other may cover
EMPTY_EVERY, CROWD_EVERY = 20, 20  # images 1, 21, ... have no boxes; images 2, 22, ... a crowd
_OVERSAMPLE = 4


class Shape(NamedTuple):
    """One object: `outline_px` (V, 2) polygon, x before y, pixel edges at whole numbers."""

    label: int  # position in CLASS_NAMES
    outline_px: np.ndarray

    @property
    def box_xyxy(self) -> np.ndarray:
        return np.concatenate([self.outline_px.min(axis=0), self.outline_px.max(axis=0)])


class Scene(NamedTuple):
    """A drawn image (H, W, 3) uint8 BGR, its shapes, and a crowd's label and mask (H, W) if any."""

    image: np.ndarray
    shapes: List[Shape]
    crowd: Optional[Tuple[int, np.ndarray]]


def draw_scene(seed: int, split: int, index: int) -> Scene:
    """Image number `index` of split number `split`. Depends on nothing but its arguments."""
    rng = np.random.default_rng([seed, split, index])
    width, height = (int(side) for side in rng.integers(SIDES_PX[0], SIDES_PX[1] + 1, size=2))
    image = _ground(width, height, rng)
    _distract(image, rng)
    shapes: List[Shape] = []
    crowd = None
    if index % EMPTY_EVERY != 1:
        taken: List[np.ndarray] = []
        if index % CROWD_EVERY == 2:
            crowd = _draw_crowd(image, rng)
            taken.append(_mask_box(crowd[1]))
        for _ in range(int(rng.integers(4, 10))):
            shape = _place(width, height, taken, rng)
            if shape is not None:
                taken.append(shape.box_xyxy)
                _paint(image, shape.outline_px, rng)
                shapes.append(shape)
    image += rng.normal(0.0, 3.0, size=image.shape)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), shapes, crowd)


def write_dataset(out: Path, counts: Sequence[Tuple[str, int]], seed: int) -> bool:
    """Writes `counts`, pairs of (split name, images), under `out`. False when just that is there.

    The folder appears complete or not at all.

    Raises:
        FileExistsError: `out` holds something else.
    """
    spec = {"counts": [list(pair) for pair in counts], "seed": seed, "version": 4}
    spec_path = out / "shapes.json"
    if spec_path.is_file() and json.loads(spec_path.read_text()) == spec:
        return False
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: holds something else; remove it or name another folder")
    work = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        (work / "annotations").mkdir(parents=True)
        for split, (name, count) in enumerate(counts):
            _write_split(work, name, split, count, seed)
        (work / spec_path.name).write_text(json.dumps(spec) + "\n")
        if out.exists():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def _write_split(root: Path, name: str, split: int, count: int, seed: int) -> None:
    folder = root / name
    folder.mkdir()
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for index in range(count):
        scene = draw_scene(seed, split, index)
        image_id, file_name = index + 1, f"{index + 1:012d}.jpg"
        height, width = scene.image.shape[:2]
        if not cv2.imwrite(str(folder / file_name), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise OSError(f"{folder / file_name}: could not be written")
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for entry in _annotate(scene):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **entry})
    categories = [{"id": key, "name": kind} for key, kind in zip(CATEGORY_IDS, CLASS_NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content) + "\n")


def _annotate(scene: Scene) -> List[Dict[str, Any]]:
    entries: List[Dict[str, Any]] = []
    for shape in scene.shapes:
        x1, y1, x2, y2 = (round(float(edge), 2) for edge in shape.box_xyxy)
        entries.append(
            {
                "category_id": CATEGORY_IDS[shape.label],
                "iscrowd": 0,
                "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                "area": round(_area(shape.outline_px), 2),
                "segmentation": [np.round(shape.outline_px, 2).ravel().tolist()],
            }
        )
    if scene.crowd is not None:
        label, mask = scene.crowd
        left, top, right, bottom = _mask_box(mask).tolist()
        entries.append(
            {
                "category_id": CATEGORY_IDS[label],
                "iscrowd": 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": int(np.count_nonzero(mask)),
                "segmentation": {"counts": run_lengths(mask), "size": list(mask.shape)},
            }
        )
    return entries


def run_lengths(mask: np.ndarray) -> List[int]:
    """COCO's plain run-length code of an (H, W) mask: by columns, the first run is of zeros."""
    flat = np.concatenate([[0], (mask != 0).ravel(order="F").astype(np.int8)])
    changes = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], changes, [flat.size - 1]])).tolist()


def _ground(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32 texture: a gradient between two dull colours and four octaves of noise."""
    first, second = rng.uniform(60, 160) + rng.uniform(-25, 25, size=(2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    alpha = np.clip(0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)), 0, 1)[..., None]
    ground = first * (1 - alpha) + second * alpha
    strength = rng.uniform(5, 20)
    for octave in range(4):
        cells = 3 * 2**octave
        # Grey and coloured noise together: neither brightness nor hue alone gives a shape away.
        grid = rng.normal(size=(cells, cells, 1)) + 0.4 * rng.normal(size=(cells, cells, 3))
        layer = cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        ground = ground + strength / 2**octave * layer
    return np.ascontiguousarray(np.clip(ground, 0, 255), dtype=np.float32)


def _distract(image: np.ndarray, rng: np.random.Generator) -> None:
    """Lines and soft blobs onto `image` (in place), which belong to no class."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(0, 4))):
        ends = (rng.uniform(0, 1, size=(2, 2)) * (width, height)).astype(int).tolist()
        cv2.line(image, ends[0], ends[1], _colour(rng), int(rng.integers(1, 4)), cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 3))):
        mask = np.zeros((height, width), np.float32)
        centre = (rng.uniform(0, 1, size=2) * (width, height)).astype(int).tolist()
        radius = int(rng.uniform(0.05, 0.2) * min(width, height))
        cv2.circle(mask, centre, radius, (1.0,), -1)
        soft = 0.7 * cv2.GaussianBlur(mask, (0, 0), max(radius / 2.5, 1.0))[..., None]
        image[:] = image * (1 - soft) + np.array(_colour(rng), np.float32) * soft


def _colour(rng: np.random.Generator) -> Tuple[float, ...]:
    return tuple(rng.uniform(0, 255, size=3).tolist())


def _place(
    width: int, height: int, taken: Sequence[np.ndarray], rng: np.random.Generator
) -> Optional[Shape]:
    """A shape inside the image that covers little of the boxes in `taken`, or None if none fits."""
    for _ in range(20):
        label = int(rng.integers(len(CLASS_NAMES)))
        side = min(width, height) * np.exp(rng.uniform(*np.log(SIDE_FRACTION)))
        shape = Shape(label, _outline(label, side, rng))
        x1, y1, x2, y2 = shape.box_xyxy
        room = np.array([width - (x2 - x1), height - (y2 - y1)])
        if (room < 2).any():
            continue
        shape = Shape(label, shape.outline_px + rng.uniform(1, room - 1) - (x1, y1))
        if all(_cover(shape.box_xyxy, other) <= MAX_COVER for other in taken):
            return shape
    return None


def _outline(label: int, side: float, rng: np.random.Generator) -> np.ndarray:
    """(V, 2) polygon around the origin whose longer side is `side` pixels, a little turned."""
    kind = CLASS_NAMES[label]
    if kind == "rectangle":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    else:
        count = {"ellipse": 72, "triangle": 3}[kind]
        turn = 2 * np.pi * np.arange(count) / count
        points = np.stack([np.sin(turn), -np.cos(turn)], axis=1)
    points[:, int(rng.integers(2))] *= rng.uniform(0.5, 1.0)
    angle = np.deg2rad(rng.uniform(-12, 12))
    points = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points * side / (points.max(axis=0) - points.min(axis=0)).max()


def _paint(image: np.ndarray, outline_px: np.ndarray, rng: np.random.Generator) -> None:
    """Fills the polygon (in place) with a colour that stands out from what lies under it."""
    alpha = _coverage(image.shape[:2], outline_px)[..., None]
    under = image[alpha[..., 0] > 0].mean(axis=0)
    colours = rng.uniform(0, 255, size=(8, 3))
    distance = np.linalg.norm(colours - under, axis=1)
    far = np.flatnonzero(distance >= 110)
    colour = colours[far[0] if far.size else int(distance.argmax())]
    grain = rng.normal(0, rng.uniform(0, 12), size=image.shape[:2])[..., None]
    image[:] = image * (1 - alpha) + (colour + grain).astype(np.float32) * alpha


def _coverage(shape: Tuple[int, ...], outline_px: np.ndarray) -> np.ndarray:
    """(H, W) float32, the fraction of each pixel that lies in the polygon."""
    height, width = shape
    # Drawn large and shrunk: OpenCV's own soft edges spread a pixel beyond the outline.
    large = np.zeros((height * _OVERSAMPLE, width * _OVERSAMPLE), np.uint8)
    # OpenCV puts pixel centres, COCO pixel edges at whole numbers.
    points = np.round(outline_px * _OVERSAMPLE - 0.5).astype(np.int32)
    cv2.fillPoly(large, [points], (255,))
    small = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _draw_crowd(image: np.ndarray, rng: np.random.Generator) -> Tuple[int, np.ndarray]:
    """Many small shapes of one class in a patch of `image` (in place): label and mask (H, W)."""
    height, width = image.shape[:2]
    label = int(rng.integers(len(CLASS_NAMES)))
    patch = rng.uniform(0.3, 0.45, size=2) * (width, height)
    corner = rng.uniform(0, 1, size=2) * ((width, height) - patch)
    mask = np.zeros((height, width), bool)
    for _ in range(int(rng.integers(8, 15))):
        outline = _outline(label, rng.uniform(0.06, 0.10) * min(width, height), rng)
        half = (outline.max(axis=0) - outline.min(axis=0)) / 2
        centre = corner + half + rng.uniform(0, 1, size=2) * (patch - 2 * half)
        outline = outline - (outline.max(axis=0) + outline.min(axis=0)) / 2 + centre
        _paint(image, outline, rng)
        mask |= _coverage(mask.shape, outline) >= 0.5
    return label, mask


def _mask_box(mask: np.ndarray) -> np.ndarray:
    """(4,) xyxy around the set pixels of an (H, W) mask."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def _cover(one_xyxy: np.ndarray, other_xyxy: np.ndarray) -> float:
    """Intersection over the smaller of two boxes."""
    sides = np.minimum(one_xyxy[2:], other_xyxy[2:]) - np.maximum(one_xyxy[:2], other_xyxy[:2])
    smaller = min(np.prod(box[2:] - box[:2]) for box in (one_xyxy, other_xyxy))
    return float(np.prod(np.maximum(sides, 0)) / smaller)


def _area(outline_px: np.ndarray) -> float:
    """Area of a polygon by the shoelace formula."""
    x, y = outline_px.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m src.data.synthetic_shapes", description=__doc__
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--train", type=int, default=800, help="training images (%(default)s)")
    parser.add_argument("--val", type=int, default=80, help="validation images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args(argv)
    if min(args.train, args.val) < 1 or args.seed < 0:
        parser.error("--train and --val must be at least 1, --seed at least 0")
    try:
        counts = (("train2017", args.train), ("val2017", args.val))
        made = write_dataset(args.out, counts, args.seed)
    except (OSError, ValueError) as error:
        print(f"src.data.synthetic_shapes: {error}", file=sys.stderr)
        return 2
    done = "written" if made else "already there"
    print(f"{args.out}: {args.train} + {args.val} images, {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
