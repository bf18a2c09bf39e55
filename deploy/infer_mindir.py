# SPDX-License-Identifier: Apache-2.0
"""Detect in images with a network that `export.py --outputs boxes` wrote as MINDIR.
Needs mindspore, numpy and opencv-python-headless, and nothing else of this project.
"""

import argparse
import io
import json
import os
import sys
from pathlib import Path

import cv2
import mindspore
import numpy as np
from mindspore.train.mind_ir_pb2 import ModelProto

try:  # optional: names in any script, which stay apart
    from m2det.drawing.detections import draw_detections
except ImportError:
    draw_detections = None


def load(path):
    """The network as a function of one (1, ...) input, and the file's metadata."""
    if mindspore.__version__.startswith(("2.9.", "2.10.")):  # their AVX-512 convolutions are slow
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    try:
        info = ModelProto.FromString(path.read_bytes()).user_info
        info = info if hasattr(info, "get") else {e.key: e.value for e in info}  # before 2.10
        about = json.loads(info.get("m2det", "{}"))
        network = mindspore.nn.GraphCell(mindspore.load(str(path)))
    except Exception as error:  # MindSpore raises many kinds
        raise ValueError(f"{path}: cannot be loaded: {error}") from None
    if not isinstance(about, dict) or about.get("outputs") != "boxes":
        raise ValueError(f"{path}: not written by export.py --outputs boxes")
    return lambda inputs: [o.asnumpy() for o in network(mindspore.Tensor(inputs))], about


def prepare(image, about):
    """(1, S, S, 3) uint8 BGR or (1, 3, S, S) float32 minus mean, filled up to the batch size."""
    resized = cv2.resize(image, (about["input_size"],) * 2, interpolation=cv2.INTER_LINEAR)
    if about["input"] != "image":
        resized = (resized.astype(np.float32) - np.float32(about["mean_bgr"])).transpose(2, 0, 1)
    return np.ascontiguousarray(np.repeat(resized[None], about["batch_size"] or 1, axis=0))


def overlap(box, boxes, edge=0):
    """IoU of a box (4,) with others (N, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inter = np.maximum(high - low + edge, 0).prod(1)
    areas = [(part[..., 2:] - part[..., :2] + edge).prod(-1) for part in (box, boxes)]
    return inter / np.maximum(areas[0] + areas[1] - inter, 1e-9)


def suppress(boxes, scores, rule):
    """Soft or hard NMS of (N, 4) boxes in pixels: indices and lowered scores, best first."""
    left, lowered = np.arange(len(scores)), scores.copy()
    kept: list = []
    while len(left) and len(kept) < (rule["keep_per_class"] or len(scores)):
        best = left[lowered[left].argmax()]
        kept.append(best)
        left = left[left != best]
        iou = overlap(boxes[best], boxes[left], 1)  # sizes count both edges
        factor = 1 - iou if rule["method"] == "linear" else 0
        weight = np.where(iou > rule["iou_threshold"], factor, 1)
        if rule["method"] == "gaussian":
            weight = np.exp(-iou * iou / rule["sigma"])
        lowered[left] *= weight.astype(np.float32)
        left = left[(iou <= 0) | (lowered[left] >= rule["lowest_score"])]
    return np.array(kept, int), lowered[kept]


def select(boxes, scores, rule):
    """Detections from (P, 4) boxes in pixels and (P, C - 1) scores: boxes, scores, classes."""
    rows, classes = np.nonzero(scores > rule["score_threshold"])
    boxes, scores = boxes[rows], scores[rows, classes]
    groups = np.zeros_like(classes) if rule["class_agnostic"] else classes
    found = [(np.zeros(0, int), np.zeros(0, np.float32))]
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        index, lowered = suppress(boxes[members], scores[members], rule)
        found.append((members[index], lowered))
    index, lowered = (np.concatenate(part) for part in zip(*found))
    order = np.argsort(-lowered, kind="stable")[: rule["topk"] or None]
    index, lowered, kept = index[order], lowered[order], boxes[index[order]]
    for row, own in enumerate(index if rule.get("voting_iou") else ()):
        near = (overlap(boxes[own], boxes) >= rule["voting_iou"]) & (classes == classes[own])
        near[own] = True
        kept[row] = np.average(boxes[near], axis=0, weights=scores[near])
    return kept, lowered, classes[index]


def detect(run, about, image):
    """The image's detections, best first, as entries for JSON; boxes in its own pixels."""
    outputs, rule = run(prepare(image, about)), about["postprocess"]
    scale = np.tile(np.float32(image.shape[1::-1]), 2)
    boxes, scores, classes = select(outputs[0][0] * scale, outputs[1][0], rule)
    names, boxes = about["class_names"], boxes.astype(float).round(2).tolist()
    found = zip((names[c] for c in classes), scores.astype(float).round(4).tolist(), boxes)
    return [dict(zip(("class", "score", "box_xyxy_px"), row)) for row in found]


def draw(image, found, names):
    """The picture with frames and names, the best on top; as by demo.py where that is installed."""
    boxes, scores = ([entry[key] for entry in found] for key in ("box_xyxy_px", "score"))
    labels = [names.index(entry["class"]) + 1 for entry in found]
    if draw_detections is not None:
        return draw_detections(image, boxes, labels, scores, names)
    side = min(image.shape[:2])
    line, scale, stroke = max(1, round(side / 200)), max(0.4, side / 900), max(1, side // 500)
    rows = list(zip(np.clip(boxes, -9999, 9999).tolist(), labels, scores))
    for (x1, y1, x2, y2), label, score in reversed(rows):
        shade = ((230, 255), (230, 160), (110, 255), (120, 190))[label // 8 % 4]
        bright = np.array([[[int(label * 0.61803398875 % 1 * 180), *shade]]], np.uint8)
        colour = cv2.cvtColor(bright, cv2.COLOR_HSV2BGR)[0, 0].tolist()
        cv2.rectangle(image, (int(x1), int(y1)), (int(x2), int(y2)), colour, line)
        text = f"{names[label - 1]} {score:.2f}"  # other letters than ASCII are question marks
        (width, height), _ = cv2.getTextSize(text, 0, scale, stroke)
        x, y = max(0, int(x1)), max(height + 6, int(y1))
        cv2.rectangle(image, (x, y - height - 6), (x + width, y), colour, cv2.FILLED)
        ink = (0, 0, 0) if np.dot(colour, (0.114, 0.587, 0.299)) > 100 else (255, 255, 255)
        cv2.putText(image, text, (x, y - 3), 0, scale, ink, stroke, cv2.LINE_AA)
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("detections"))
    parser.add_argument("--score_threshold", type=float, default=0.3, help="lowest score shown")
    args = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that are not UTF-8
    run, about = load(args.network)
    args.output.mkdir(parents=True, exist_ok=True)
    for path in args.images:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        # upright, as demo.py and viewers show a photograph
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if image is None:
            raise ValueError(f"{path}: not an image")
        found = [e for e in detect(run, about, image) if e["score"] >= args.score_threshold]
        text = json.dumps({"image": str(path), "detections": found}, indent=1) + "\n"
        (args.output / f"{path.stem}.json").write_text(text, encoding="utf-8")
        image = draw(image, found, about["class_names"])
        picture = cv2.imencode(".png", image)[1].tobytes()  # imwrite takes UTF-8 names only
        (args.output / f"{path.stem}.png").write_bytes(picture)
        print(f"{path}: {len(found)} found")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        sys.exit(2)
