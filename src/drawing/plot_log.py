# SPDX-License-Identifier: Apache-2.0
"""Plot the training curves of a run: loss, AP and learning rate, from `log.jsonl` to one PNG."""

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..runtime.files import write_atomically
from ..training.run_log import JSONL_NAME, read_log

if TYPE_CHECKING:  # imported where a picture is drawn: Matplotlib takes half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS: Mapping[str, Tuple[str, ...]] = {
    "loss": ("loss", "loc_loss", "conf_loss"),
    "AP": ("AP", "AP50", "AP_ema", "AP50_ema"),
    "learning rate": ("learning_rate",),
}
PANEL_INCHES = (9.0, 3.2)  # width and height, at 100 dots per inch
Points = List[Tuple[float, float]]


def curves(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Dict[str, Points]:
    """The curve, as (step, value) points, of each name that `rows` hold numbers for."""
    found: Dict[str, Points] = {}
    for name in names:
        points = [(row["step"], float(row[name])) for row in rows if row.get(name) is not None]
        if points:
            found[name] = points
    return found


def plot_run(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """A figure with a panel for each entry of `PANELS` that `rows` hold values for.

    Raises:
        ValueError: no rows, or rows without any of the curves.
    """
    if not rows:
        raise ValueError("no steps to draw")
    found = {title: curves(rows, names) for title, names in PANELS.items()}
    panels = {title: lines for title, lines in found.items() if lines}
    if not panels:
        raise ValueError("no curves to draw")
    return plot_panels(panels)


def plot_panels(panels: Mapping[str, Mapping[str, Points]]) -> "Figure":
    """A figure of panels one below the other, over the same steps; `panels` has curves by title."""
    from matplotlib.figure import Figure

    width, height = PANEL_INCHES
    figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
    column = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (title, lines) in zip(column, panels.items()):
        _plot_panel(axes, title, lines)
    column[-1].set_xlabel("step")
    return figure


def _plot_panel(axes: "Axes", title: str, lines: Mapping[str, Points]) -> None:
    for name, points in lines.items():
        axes.plot(*zip(*points), label=name, marker="o" if len(points) == 1 else "")
    axes.set_ylim(*limits([value for points in lines.values() for _, value in points]))
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(labelbottom=True)
    axes.set_ylabel(title)
    axes.grid(alpha=0.4)
    if lines:
        axes.legend()


def limits(values: Sequence[float]) -> Tuple[float, float]:
    """Ends of the y axis: 0, or the smallest value if that is negative, and the largest value.

    A first loss far above all others would flatten the rest, so the upper end is at most three
    times the 90th percentile. 5 % are added at the top.
    """
    if not values:
        return 0.0, 1.0
    low, high = min(0.0, *values), max(values)
    high = min(high, 3 * float(np.percentile(values, 90)))
    return low, high + 0.05 * (high - low) if high > low else low + 1.0


def write_png(path: Path, figure: "Figure") -> None:
    """Write `figure` as PNG, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    write_atomically(path, png.getvalue())


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m src.drawing.plot_log", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, with log.jsonl")
    parser.add_argument("--output", type=Path, help="PNG to write (default: RUN/log.png)")
    args = parser.parse_args(argv)
    try:
        figure = plot_run(read_log(args.run))
    except ValueError as error:
        print(f"error: {args.run / JSONL_NAME}: {error}, or no such file", file=sys.stderr)
        return 2
    output = args.output or args.run / "log.png"
    try:
        write_png(output, figure)
    except OSError as error:
        print(f"error: {output} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
