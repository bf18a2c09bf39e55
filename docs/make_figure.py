# SPDX-License-Identifier: Apache-2.0
"""Draws the network of a preset: `python -m docs.make_figure [PRESET] [PICTURE.svg]`.

Without arguments the figure of how-m2det-works.md: m2det320_vgg16, docs/images/m2det.svg. Channels
and sizes come from the code that builds the network. A map of C channels and S x S cells is
"C x S x S".
"""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, List, NamedTuple, Tuple

import matplotlib

from src.config import Config, get_config
from src.model.backbones import build_backbone
from src.model.mlfpn import FFMv1
from src.priors import map_sizes, prior_shapes_per_cell
from src.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRESET = "m2det320_vgg16"
PICTURE = Path(__file__).resolve().parent / "images" / "m2det.svg"
BLUE, ORANGE, GREEN, PURPLE, GREY = "#cfe2f8", "#fbdcb8", "#cfeccb", "#e3d5f3", "#e8e8e8"
LINE, TEXT = "#555555", "#202020"
MapShape = Tuple[int, int]  # channels and side in cells


class Shapes(NamedTuple):
    """Channels and sides of the maps of an M2Det network."""

    image: MapShape
    shallow: MapShape
    deep: MapShape
    base: MapShape
    tum_inputs: List[MapShape]  # of each TUM
    tum_outputs: List[MapShape]  # of every TUM, largest first
    pyramid: List[MapShape]  # what the head sees, largest first
    priors_per_cell: List[int]
    num_classes: int


def shapes(config: Config) -> Shapes:
    """The shapes of a network with MLFPN whose TUMs all see the base feature."""
    model = config.model
    sizes = map_sizes(model)
    shallow, deep = build_backbone(model.backbone).out_channels
    squeezed = model.planes // 2
    later = [squeezed + model.planes] * (model.num_levels - 1)
    return Shapes(
        (3, model.input_size),
        (shallow, model.input_size // 8),
        (deep, model.input_size // 16),
        (FFMv1.out_channels, sizes[0]),
        [(channels, sizes[0]) for channels in (squeezed, *later)],
        [(model.planes, size) for size in sizes],
        [(model.planes * model.num_levels, size) for size in sizes],
        prior_shapes_per_cell(config.anchors, len(sizes)),
        model.num_classes,
    )


def name(shape: MapShape) -> str:
    """As it stands in the picture: "256 x 40 x 40"."""
    channels, side = shape
    return f"{channels} x {side} x {side}"


def box(
    axes: "Axes", x: float, y: float, width: float, height: float, text: str, colour: str
) -> None:
    """A labelled box around (x, y)."""
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, width, height, style, facecolor=colour, edgecolor=LINE))
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=TEXT, linespacing=1.3)


def arrow(axes: "Axes", start: Tuple[float, float], end: Tuple[float, float]) -> None:
    """From `start` to `end`."""
    style = {"arrowstyle": "-|>", "color": LINE, "lw": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def line(axes: "Axes", *points: Tuple[float, float]) -> None:
    """Through all `points`, without a head."""
    axes.plot(*zip(*points), color=LINE, lw=1, solid_capstyle="butt", zorder=0)


def square(axes: "Axes", x: float, y: float, shape: MapShape, largest: int, colour: str) -> float:
    """A map around (x, y), its side growing with the root of its cells; returns half of the side.

    In the proportions of the cells themselves, one would be a hundredth of the first.
    """
    from matplotlib.patches import Rectangle

    side = 0.16 + 0.56 * (shape[1] / largest) ** 0.5
    corner = (x - side / 2, y - side / 2)
    axes.add_patch(Rectangle(corner, side, side, facecolor=colour, edgecolor=LINE))
    return side / 2


def draw_base(axes: "Axes", maps: Shapes, backbone: str, right: float) -> None:
    """Image, backbone and FFMv1 from the left, then the base feature as a bar up to `right`."""
    box(axes, 0.8, 8.2, 1.3, 0.8, f"image\n{name(maps.image)}", GREY)
    arrow(axes, (1.45, 8.2), (1.75, 8.2))
    box(axes, 2.35, 8.2, 1.2, 1.3, f"backbone\n{backbone}", BLUE)
    for y, shape, what in ((8.5, maps.shallow, "1/8"), (7.9, maps.deep, "1/16")):
        arrow(axes, (2.95, y), (4.6, y))
        axes.text(3.75, y + 0.06, name(shape), ha="center", va="bottom", fontsize=8)
        axes.text(3.75, y - 0.06, f"({what} of the side)", ha="center", va="top", fontsize=7)
    box(axes, 5.25, 8.2, 1.3, 1.3, "FFMv1\nreduce, resize,\nconcatenate", ORANGE)
    arrow(axes, (5.9, 8.2), (6.2, 8.2))
    text = f"base feature  {name(maps.base)}"
    box(axes, (6.2 + right) / 2, 8.2, right - 6.2, 0.5, text, ORANGE)


def draw_pyramid(axes: "Axes", maps: Shapes) -> None:
    """The TUMs as columns, the scales as rows; at the end of each row what the head makes of it."""
    levels, largest = len(maps.tum_inputs), maps.base[1]
    shown = [0, 1, 2, levels - 1] if levels > 4 else list(range(levels))
    step, first = 2.1, 1.4
    columns = [first + step * i for i in range(len(shown))]
    rows = [4.85 - 0.82 * i for i in range(len(maps.tum_outputs))]
    squeezed = maps.tum_inputs[0][0]
    line(axes, (6.4, 7.95), (6.4, 7.35))
    line(axes, (columns[0], 7.35), (max(columns[-1], 6.4), 7.35))
    axes.text(
        6.5, 7.65, f"1x1 convolution to {squeezed} channels", fontsize=8, va="center", color=TEXT
    )
    for i, (x, level) in enumerate(zip(columns, shown)):
        top = 6.72
        joint = "FFMv2\nconcatenate" if level else "nothing to\njoin yet"
        arrow(axes, (x, 7.35), (x, top + 0.26))
        box(axes, x, top, 1.15, 0.52, joint, ORANGE if level else "white")
        arrow(axes, (x, top - 0.26), (x, 6.1))
        axes.text(x - 0.07, 6.28, name(maps.tum_inputs[level]), ha="right", va="center", fontsize=8)
        box(axes, x, 5.85, 1.15, 0.5, f"TUM {level + 1}", GREEN)
        for y, shape in zip(rows, maps.tum_outputs):
            half = square(axes, x, y, shape, largest, GREEN)
            if not i:
                axes.text(x - 0.5, y, name(shape), ha="right", va="center", fontsize=8)
            if i + 1 < len(columns):
                end = columns[i + 1] - half
                skipped = shown[i + 1] != level + 1
                style = ":" if skipped else "-"
                axes.plot((x + half, end), (y, y), color=LINE, lw=0.8, ls=style, zorder=0)
        if i + 1 < len(columns):  # the largest map goes on to the next FFMv2
            if shown[i + 1] == level + 1:
                middle = x + 0.75
                line(axes, (x + 0.36, rows[0] + 0.2), (middle, rows[0] + 0.2), (middle, top))
                arrow(axes, (middle, top), (columns[i + 1] - 0.575, top))
            else:
                axes.text(x + step / 2, 5.85, "· · ·", ha="center", va="center", fontsize=14)
                arrow(axes, (columns[i + 1] - 0.9, top), (columns[i + 1] - 0.575, top))
    draw_outputs(axes, maps, columns[-1], rows)


def draw_outputs(axes: "Axes", maps: Shapes, x: float, rows: List[float]) -> None:
    """SFAM, the fused maps and the head, to the right of the last TUM's maps at `x`."""
    largest, top = maps.base[1], 5.85
    middle, height = (rows[0] + rows[-1]) / 2, rows[0] - rows[-1] + 0.8
    box(
        axes, x + 1.25, middle, 1.15, height, "SFAM\n\nconcatenates\nthe levels\nof a scale", PURPLE
    )
    box(axes, x + 4.6, middle, 1.2, height, "head\n\ntwo 3x3\nconvolutions\nper scale", BLUE)
    axes.text(x + 2.9, top, "multi-level feature pyramid", ha="center", va="center", fontsize=9)
    axes.text(x + 6.3, top, "priors", ha="center", va="center", fontsize=9)
    total = 0
    for y, mine, shape, cell in zip(rows, maps.tum_outputs, maps.pyramid, maps.priors_per_cell):
        half = square(axes, x, y, mine, largest, GREEN)
        arrow(axes, (x + half, y), (x + 0.67, y))
        arrow(axes, (x + 1.825, y), (x + 2.45 - half, y))
        square(axes, x + 2.45, y, shape, largest, PURPLE)
        axes.text(x + 2.87, y + 0.05, name(shape), va="bottom", fontsize=8)
        arrow(axes, (x + 2.45 + half, y), (x + 4.0, y))
        arrow(axes, (x + 5.2, y), (x + 5.5, y))
        count = shape[1] ** 2 * cell
        total += count
        sum_of_row = f"{shape[1]} x {shape[1]} x {cell} = {count:,}"
        axes.text(x + 5.57, y, sum_of_row, va="center", fontsize=8.5)
    classes = maps.num_classes
    text = f"{total:,} priors, each with\n4 offsets and {classes} scores"
    axes.text(x + 5.57, rows[-1] - 0.62, text, va="center", fontsize=8.5, weight="bold")


def draw_tum(axes: "Axes", maps: Shapes) -> None:
    """One TUM from the inside: the encoder as the upper row, the decoder below it."""
    planes = maps.tum_outputs[0][0]
    last = len(maps.tum_outputs) - 1
    entering = f"in\n{maps.tum_inputs[-1][1]} x {maps.tum_inputs[-1][1]}"
    for i, (_, side) in enumerate(maps.tum_outputs):
        x = 2.2 + 2.6 * i
        size = f"{side} x {side}"
        box(axes, x, 2.6, 1.3, 0.6, entering if not i else f"{planes}\n{size}", GREY)
        if i < last:
            kernel = "3x3, stride 2" if i + 1 < last or last < 2 else "3x3, unpadded"
            arrow(axes, (x + 0.65, 2.6), (x + 1.95, 2.6))
            axes.text(x + 1.3, 2.68, kernel, ha="center", va="bottom", fontsize=7.5)
            arrow(axes, (x + 1.95, 1.3), (x + 0.65, 1.3))
            axes.text(x + 1.3, 1.38, "resize, add", ha="center", va="bottom", fontsize=7.5)
        arrow(axes, (x, 2.3), (x, 1.6))
        axes.text(x + 0.08, 1.95, "3x3" if i < last else "1x1", va="center", fontsize=7.5)
        box(axes, x, 1.3, 1.3, 0.6, f"{planes}\n{size}", GREEN)
        arrow(axes, (x, 1.0), (x, 0.45))
        axes.text(x + 0.08, 0.75, "1x1" if i < last else "", va="center", fontsize=7.5)
        axes.text(x, 0.25, f"output {i + 1}", ha="center", va="center", fontsize=8.5)
    axes.text(0.2, 3.15, "One TUM from the inside", va="center", fontsize=9, weight="bold")
    axes.text(0.2, 2.6, "encoder", va="center", fontsize=9)
    axes.text(0.2, 1.3, "decoder", va="center", fontsize=9)


def picture(config: Config, backbone: str) -> bytes:
    """The figure as SVG."""
    from matplotlib.figure import Figure

    maps = shapes(config)
    figure = Figure(figsize=(13.5, 10.2), facecolor="white")
    above = figure.add_axes((0.01, 0.30, 0.98, 0.69))
    below = figure.add_axes((0.01, 0.01, 0.98, 0.25))
    above.set(xlim=(0, 15.9), ylim=(0, 9))
    below.set(xlim=(0, 15.9), ylim=(0, 3.3))
    draw_base(above, maps, backbone, 10.0)
    draw_pyramid(above, maps)
    draw_tum(below, maps)
    for axes in (above, below):
        axes.axis("off")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "m2det"}):  # the same file each time
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def main(preset: str = PRESET, path: str = str(PICTURE)) -> None:
    config = get_config(preset)
    write_atomically(Path(path), picture(config, config.model.backbone))


if __name__ == "__main__":
    main(*sys.argv[1:])
