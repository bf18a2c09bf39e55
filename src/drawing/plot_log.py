# SPDX-License-Identifier: Apache-2.0
"""Draws the curves of a run: loss, AP and learning rate, from its `log.jsonl` to one PNG."""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np

from ..runtime.files import write_atomically
from ..training.run_log import JSONL_NAME, read_log

WIDTH, HEIGHT = 900, 320  # of a panel, pixels
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 36
PANELS: Mapping[str, Tuple[str, ...]] = {
    "loss": ("loss", "loc_loss", "conf_loss"),
    "AP": ("AP", "AP50", "AP_ema", "AP50_ema"),
    "learning rate": ("learning_rate",),
}
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _GREY = (40, 40, 40), (215, 215, 215)
_COLOURS = ((190, 120, 40), (40, 140, 230), (90, 160, 60), (160, 60, 160))  # BGR
Points = List[Tuple[float, float]]


def curves(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Dict[str, Points]:
    """(step, value) of each name that `rows` hold numbers for."""
    found: Dict[str, Points] = {}
    for name in names:
        points = [(row["step"], float(row[name])) for row in rows if row.get(name) is not None]
        if points:
            found[name] = points
    return found


def draw_run(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The whole picture, (H, W, 3) uint8 BGR: a panel for each kind of curve there is.

    Raises:
        ValueError: no rows, or rows without any of the curves.
    """
    if not rows:
        raise ValueError("no steps to draw")
    last = max(row["step"] for row in rows)
    found = {title: curves(rows, names) for title, names in PANELS.items()}
    panels = [draw_panel(title, lines, last) for title, lines in found.items() if lines]
    if not panels:
        raise ValueError("no curves to draw")
    return np.vstack(panels)


def draw_panel(title: str, lines: Mapping[str, Points], last_step: int) -> np.ndarray:
    """One panel, (HEIGHT, WIDTH, 3) uint8 BGR, with a grid, and a legend beside the title."""
    panel = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    _write(panel, title, (LEFT, 26), 0.6)
    values = [value for points in lines.values() for _, value in points]
    low, high = limits(values)
    for share in np.linspace(0, 1, 5):
        x, y = place([(share * last_step, low + share * (high - low))], last_step, low, high)[0]
        cv2.line(panel, (LEFT, y), (WIDTH - RIGHT, y), _GREY, 1)
        cv2.line(panel, (x, TOP), (x, HEIGHT - BOTTOM), _GREY, 1)
        _write(panel, f"{low + share * (high - low):.3g}", (8, y + 4), 0.42)
        _write(panel, f"{share * last_step:.0f}", (x - 14, HEIGHT - 12), 0.42)
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        corners = place(points, last_step, low, high)
        cv2.polylines(panel, [np.array(corners, np.int32)], False, colour, 2, cv2.LINE_AA)
        if len(corners) == 1:
            cv2.circle(panel, corners[0], 3, colour, cv2.FILLED)
        cv2.putText(panel, name, (300 + 150 * number, 26), _FONT, 0.5, colour, 1, cv2.LINE_AA)
    return panel


def limits(values: Sequence[float]) -> Tuple[float, float]:
    """The ends of the upright axis: 0, or the smallest value below it, and the largest.

    A first loss far above all others would flatten the rest: the top is at most three times the
    value that nine in ten stay below.
    """
    if not values:
        return 0.0, 1.0
    low, high = min(0.0, *values), max(values)
    high = min(high, 3 * float(np.percentile(values, 90)))
    return low, high if high > low else low + 1.0


def place(points: Points, last_step: int, low: float, high: float) -> List[Tuple[int, int]]:
    """Pixels (x, y) within a panel; what lies above the axis stays at its end."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return [
        (
            LEFT + round(width * step / max(last_step, 1)),
            TOP + round(height * (1 - min(max((value - low) / (high - low), 0), 1))),
        )
        for step, value in points
    ]


def _write(picture: np.ndarray, text: str, at: Tuple[int, int], scale: float) -> None:
    cv2.putText(picture, text, at, _FONT, scale, _INK, 1, cv2.LINE_AA)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m src.drawing.plot_log", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, with log.jsonl")
    parser.add_argument("--output", type=Path, help="PNG to write (default: RUN/log.png)")
    args = parser.parse_args(argv)
    try:
        picture = draw_run(read_log(args.run))
    except ValueError as error:
        print(f"error: {args.run / JSONL_NAME}: {error}, or no such file", file=sys.stderr)
        return 2
    output = args.output or args.run / "log.png"
    try:
        write_atomically(output, cv2.imencode(".png", picture)[1].tobytes())
    except OSError as error:
        print(f"error: {output} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
