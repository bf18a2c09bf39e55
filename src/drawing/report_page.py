# SPDX-License-Identifier: Apache-2.0
"""The evaluation report: one HTML page that needs nothing else; for phones and dark screens too."""

import json
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Mapping, Sequence

from ..data.records import DetectionData
from ..evaluation.error_analysis import judge_split
from ..runtime.files import write_atomically
from .report_data import LOWEST, best_thresholds, report_data

_SCRIPTS = ("report_charts.js", "report_pictures.js", "report.js")


def write_report(
    path: Path,
    data: DetectionData,
    results: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    title: str,
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        data: the split.
        results: entries of a COCO results file.
        metrics: of `src.evaluation.summary.all_metrics`, and optionally "images_per_second".
        config: shown at the end.
        title: what was evaluated on what.

    Raises:
        OSError: it cannot be written.
    """
    lowest = min(LOWEST, metrics["errors"]["score_threshold"])
    content = report_data(data, metrics, judge_split(data, results, lowest))
    content["best"] = [[round(x, 4) for x in both] for both in best_thresholds(content["counts"])]
    content["config"] = json.dumps(config, indent=1, ensure_ascii=False)
    here = Path(__file__).parent
    page = Template((here / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=(here / "report.css").read_text(encoding="utf-8"),
        script="\n".join((here / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        # In a <script> element only "<" could end it or begin a comment.
        data=json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
    )
    write_atomically(path, page)
