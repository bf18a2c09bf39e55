# SPDX-License-Identifier: Apache-2.0
"""Pieces of an HTML page: tables, bars, curves, a heat map, pictures. Standard library and OpenCV.

Each function returns HTML that needs nothing but the page's own style; text is escaped here.
"""

import base64
from html import escape
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np

_LEFT, _TOP, _WIDTH, _HEIGHT = 44, 12, 520, 300  # of the plot within its SVG


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], right: int = 1) -> str:
    """A table whose columns from number `right` on are aligned to the right."""

    def cell(tag: str, column: int, value: object) -> str:
        kind = ' class="n"' if column >= right else ""
        return f"<{tag}{kind}>{escape(str(value))}</{tag}>"

    head = "".join(cell("th", column, text) for column, text in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(cell("td", column, value) for column, value in enumerate(row)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>'


def bars(rows: Sequence[Tuple[str, float, str]], most: float = 1.0) -> str:
    """Labelled bars from (name, value, text); a negative value has none."""
    lines = []
    for name, value, text in rows:
        share = 100 * min(max(value, 0.0) / most, 1.0) if most else 0.0
        lines.append(
            f'<div class="bar"><span>{escape(name)}</span><i><b style="width:{share:.1f}%"></b></i>'
            f"<span>{escape(text)}</span></div>"
        )
    return '<div class="bars">' + "\n".join(lines) + "</div>"


def curves(named: Sequence[Tuple[str, Sequence[float], str]]) -> str:
    """Precision over recall as an SVG, from (name, values at even steps of recall, CSS class).

    Names are shown for the classes "main" and "second"; others are told by a tooltip.
    """
    lines: List[str] = []
    legend: List[str] = []
    for name, values, kind in named:
        points = " ".join(
            f"{_LEFT + _WIDTH * k / (len(values) - 1):.1f},{_TOP + _HEIGHT * (1 - v):.1f}"
            for k, v in enumerate(values)
        )
        lines.append(f'<polyline class="{kind}" points="{points}">{_title(name)}</polyline>')
        if kind in ("main", "second"):
            y = _TOP + _HEIGHT - 14 - 18 * len(legend)
            legend.append(
                f'<line class="{kind}" x1="{_LEFT + 10}" x2="{_LEFT + 34}" y1="{y - 4}"'
                f' y2="{y - 4}"/><text x="{_LEFT + 40}" y="{y}">{escape(name)}</text>'
            )
    box = f"0 0 {_LEFT + _WIDTH + 12} {_TOP + _HEIGHT + 40}"
    body = _axes() + "".join(lines) + "".join(legend)
    title = _title("precision over recall")
    return f'<svg class="plot" viewBox="{box}" role="img">{title}{body}</svg>'


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _axes() -> str:
    parts = []
    for tenth in range(0, 11, 2):
        x, y = _LEFT + _WIDTH * tenth / 10, _TOP + _HEIGHT * (1 - tenth / 10)
        parts.append(
            f'<path class="grid" d="M{x:.0f} {_TOP}v{_HEIGHT}M{_LEFT} {y:.0f}h{_WIDTH}"/>'
            f'<text x="{x:.0f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{tenth / 10}</text>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{tenth / 10}</text>'
        )
    middle = _LEFT + _WIDTH / 2
    parts.append(
        f'<text x="{middle}" y="{_TOP + _HEIGHT + 36}" text-anchor="middle">recall</text>'
        f'<text transform="translate(12 {_TOP + _HEIGHT / 2}) rotate(-90)"'
        ' text-anchor="middle">precision</text>'
    )
    return "".join(parts)


def heat_map(names: Sequence[str], rows: Sequence[Sequence[int]]) -> str:
    """Counts of truth (rows) by prediction (columns), darker by their share of the row."""
    head = "".join(f'<th class="up"><span>{escape(name)}</span></th>' for name in names)
    body = []
    for name, row in zip(names, rows):
        total = max(sum(row), 1)
        cells = "".join(
            f'<td style="--share:{count / total:.3f}">{count or ""}</td>' for count in row
        )
        body.append(f"<tr><th>{escape(name)}</th>{cells}</tr>\n")
    return (
        f'<div class="scroll"><table class="heat"><tr><th>truth \\ found</th>{head}</tr>\n'
        f"{''.join(body)}</table></div>"
    )


def picture(image: np.ndarray, text: str, most_px: int = 480) -> str:
    """A BGR image as an embedded JPEG of at most `most_px` a side, with a caption."""
    height, width = image.shape[:2]
    scale = min(1.0, most_px / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    code = base64.b64encode(data.tobytes()).decode("ascii")
    return (
        f'<figure><img alt="{escape(text)}" src="data:image/jpeg;base64,{code}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def number(value: Optional[float], digits: int = 3) -> str:
    """A score as text; "-" where there is none (-1)."""
    return "-" if value is None or value < 0 else f"{value:.{digits}f}"


def section(title: str, *parts: str, note: str = "") -> str:
    """A headed part of the page; `note` is a line of plain text under the heading."""
    below = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{below}{''.join(parts)}</section>\n"


def page(title: str, sections: Sequence[str], style: str) -> str:
    """A whole document that loads nothing."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{''.join(sections)}</body></html>\n"
    )
