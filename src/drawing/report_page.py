# SPDX-License-Identifier: Apache-2.0
"""The evaluation report: one HTML page that needs nothing else; for phones and dark screens too."""

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np

from ..data.images import read_image
from ..data.records import DetectionData, ImageError, ImageRecord
from ..evaluation.error_analysis import KINDS, ErrorSummary, ImageErrors
from ..runtime.files import write_atomically
from .detections import draw_detections
from .html_parts import bars, curves, heat_map, number, page, picture, section, table

PICTURES = 6  # of the best images, and of the worst
PICTURE_PX = 400  # longer side that small images are enlarged to, so that names can be read
MOST_HEAT = 31  # classes of a full confusion matrix; more are cut to the worst pairs
_STYLE = """
:root{color-scheme:light dark;--ink:#1d2530;--soft:#5c6773;--line:#d9dee4;--paper:#fff;
--main:#0b62c4;--second:#c2410c;--fill:#0b62c4}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa5b1;--line:#36404b;
--paper:#14181d;--main:#6cb2ff;--second:#ffa06b;--fill:#3b82d6}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
max-width:70rem;padding:1rem;box-sizing:border-box}
h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2rem 0 .5rem}
p,figcaption{color:var(--soft);margin:.25rem 0 .75rem}figcaption{font-size:.85rem}
.scroll{overflow-x:auto;max-height:75vh}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}
.n{text-align:right;font-variant-numeric:tabular-nums}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(7rem,1fr));gap:.6rem}
.tiles div{border:1px solid var(--line);border-radius:.4rem;padding:.5rem .7rem}
.tiles b{display:block;font-size:1.3rem}.tiles span{color:var(--soft);font-size:.85rem}
.bar{display:grid;grid-template-columns:minmax(6rem,12rem) 1fr 5rem;gap:.6rem;align-items:center}
.bar span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bar i{background:var(--line);height:.8rem;border-radius:.2rem;overflow:hidden}
.bar b{display:block;height:100%;background:var(--fill)}
.plot{width:100%;max-width:44rem}.plot text{fill:var(--ink);font-size:13px}
.plot polyline,.plot line{fill:none;stroke:var(--soft);stroke-width:1;opacity:.35}
.plot .main{stroke:var(--main);stroke-width:2.5;opacity:1}
.plot .second{stroke:var(--second);stroke-width:2.5;opacity:1}.grid{stroke:var(--line);fill:none}
.heat td{text-align:right;--p:calc(var(--share)*100%);
background:color-mix(in srgb,var(--fill) var(--p),var(--paper))}
.heat .up{vertical-align:bottom;padding:.3rem .1rem}
.heat .up span{writing-mode:vertical-rl;transform:rotate(180deg)}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.4rem}figure{margin:0}img{max-width:100%}
pre{overflow-x:auto;font-size:.8rem}
"""


def write_report(
    path: Path,
    data: DetectionData,
    metrics: Mapping[str, Any],
    errors: ErrorSummary,
    config: Mapping[str, Any],
    title: str,
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        data: the split.
        metrics: of `src.evaluation.summary.all_metrics`, and optionally "images_per_second".
        errors: what went wrong in each image.
        config: shown at the end.
        title: what was evaluated on what.

    Raises:
        OSError: it cannot be written.
    """
    sections = [
        _totals(metrics),
        _curves(metrics),
        _classes(metrics),
        _errors(metrics, errors),
        _confusion(metrics),
        *_pictures(data, errors),
        _speed(metrics),
        section(
            "Configuration", f"<details><summary>All</summary><pre>{_json(config)}</pre></details>"
        ),
    ]
    write_atomically(path, page(title, sections, _STYLE))


def _json(config: Mapping[str, Any]) -> str:
    text = json.dumps(config, indent=1, ensure_ascii=False)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _totals(metrics: Mapping[str, Any]) -> str:
    names = [name for name in metrics if name.startswith(("AP", "AR_", "VOC"))]
    tiles = "".join(
        f"<div><b>{number(metrics[name])}</b><span>{name.replace('_', ' ')}</span></div>"
        for name in names
        if not isinstance(metrics[name], Mapping)
    )
    note = f"{metrics['images']} images, {metrics['detections']} detections."
    return section("Scores", f'<div class="tiles">{tiles}</div>', note=note)


def _curves(metrics: Mapping[str, Any]) -> str:
    found = metrics["precision_recall"]
    lines = [(name, values, "thin") for name, values in found["0.50"].items() if name != "all"]
    if found["0.50"]["all"]:
        lines += [
            ("mean, IoU 0.75", found["0.75"]["all"], "second"),
            ("mean, IoU 0.50", found["0.50"]["all"], "main"),
        ]
    note = "Thin lines are the classes at IoU 0.50."
    return section("Precision and recall", curves(lines), note=note)


def _classes(metrics: Mapping[str, Any]) -> str:
    rows = sorted(metrics["classes"], key=lambda row: -row["AP"])
    chart = bars([(row["class"], row["AP"], number(row["AP"])) for row in rows if row["AP"] >= 0])
    heads = ("class", "objects", "detections", "AP", "AP50", "AP75", "small", "medium", "large")
    keys = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")
    body = [
        (row["class"], row["objects"], row["detections"], *(number(row[key]) for key in keys))
        for row in rows
    ]
    return section("Classes by AP", chart, table((*heads, "recall"), body))


def _errors(metrics: Mapping[str, Any], errors: ErrorSummary) -> str:
    counts: Dict[str, int] = errors.counts
    most = max(counts.values(), default=0)
    rows = [(kind, float(counts[kind]), str(counts[kind])) for kind in KINDS]
    note = (
        f"Detections with a score of at least {errors.score_threshold}: correct, or wrong by place"
        " (localisation), by class, by both, a second time, or on nothing; and objects missed."
    )
    return section("What went wrong", bars(rows, most), note=note)


def _confusion(metrics: Mapping[str, Any]) -> str:
    names, rows = metrics["confusion"]["classes"], metrics["confusion"]["rows"]
    pairs: List[Tuple[int, str, str]] = [
        (count, names[i], names[j])
        for i, row in enumerate(rows)
        for j, count in enumerate(row)
        if i and j and i != j and count
    ]
    worst = sorted(pairs, reverse=True)[:10]
    text = table(("truth", "taken for", "times"), [(i, j, n) for n, i, j in worst], 2)
    if len(names) > MOST_HEAT:
        summary = f"<summary>All {len(names)} classes</summary>"
        text = f"<details>{summary}{heat_map(names, rows)}</details>{text}"
    else:
        text = heat_map(names, rows) + (text if worst else "")
    note = "IoU 0.50, any class. Background as truth: found where nothing is; as found: missed."
    return section("Confusion matrix", text, note=note)


def _pictures(data: DetectionData, errors: ErrorSummary) -> List[str]:
    """The images with the most and the fewest errors, each beside its ground truth."""
    order = sorted(range(len(errors.images)), key=lambda row: -errors.images[row].wrong)
    worst = [row for row in order if errors.images[row].wrong][:PICTURES]
    right = [row for row in order if row not in worst and _found(errors.images[row])]
    best = sorted(right, key=lambda row: (errors.images[row].wrong, -_found(errors.images[row])))
    return [
        section(title, _gallery(data, errors, rows), note="Left: found. Right: the ground truth.")
        for title, rows in (("Worst images", worst), ("Best images", best[:PICTURES]))
        if rows
    ]


def _found(image: ImageErrors) -> int:
    return image.kinds.count("correct")


def _gallery(data: DetectionData, errors: ErrorSummary, rows: Sequence[int]) -> str:
    parts = []
    for row in rows:
        record, judged = data.records[row], errors.images[row]
        try:
            image = read_image(record.path, (record.width, record.height))
        except ImageError:  # reported when it was detected on
            continue
        judged_boxes = (judged.boxes_px, judged.labels, judged.scores)
        shown = [
            _drawn(image, record, judged_boxes, data),
            _drawn(image, record, (record.boxes_px, record.labels, None), data),
        ]
        name = Path(record.path).name
        text = f"{name}: {_found(judged)} right, {judged.wrong} errors"
        parts.append(
            f'<div class="pair">{picture(shown[0], text)}{picture(shown[1], "ground truth")}</div>'
        )
    return f'<div class="pictures">{"".join(parts)}</div>'


def _drawn(
    image: np.ndarray,
    record: ImageRecord,
    boxes: Tuple[np.ndarray, np.ndarray, Optional[np.ndarray]],
    data: DetectionData,
) -> np.ndarray:
    """The image with boxes in the annotated size, labels and scores; enlarged if it is small."""
    height, width = image.shape[:2]
    enlarge = max(1.0, PICTURE_PX / max(height, width))
    size = (round(width * enlarge), round(height * enlarge))
    scale = np.divide(size, (record.width, record.height))
    boxes_px, labels, scores = boxes
    image = cv2.resize(image, size) if enlarge > 1 else image
    return draw_detections(image, boxes_px * np.tile(scale, 2), labels, scores, data.class_names)


def _speed(metrics: Mapping[str, Any]) -> str:
    speed = metrics.get("images_per_second")
    if not speed:
        return ""
    rows = [(name, f"{rate:.1f}") for name, rate in speed.items()]
    note = "Stages run at the same time; each is measured by itself, and all is what came out."
    return section("Speed", table(("stage", "images/s"), rows), note=note)
