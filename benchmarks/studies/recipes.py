# SPDX-License-Identifier: Apache-2.0
"""Compare the training curves and scores of several runs.

`python -m benchmarks.studies.recipes ours=RUN official=RUN --output recipes.png`

Plots loss, AP and AP50 of several run folders into one figure and prints a table. Scores come from
the run's log (`train.eval_epochs`; those of the EMA weights if there are any) and, for the last
step, from `metrics.json` if `eval.py --output RUN` has written one.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from src.drawing.plot_log import Points, curves, plot_panels, write_png
from src.runtime.errors import UsageError
from src.training.run_log import JSONL_NAME, read_log
from src.utils import run_main

PANELS = ("loss", "AP", "AP50")
METRICS_NAME = "metrics.json"
MAX_RUNS = 10  # Matplotlib's default colours


def read_run(folder: Path) -> Dict[str, Points]:
    """The curve, as (step, value) points, of each of `PANELS` that the run has values for.

    Raises:
        UsageError: no steps in the log, or a metrics.json without AP and AP50.
    """
    rows = read_log(folder)
    found = curves(rows, ["loss"])
    if not found:
        raise UsageError(f"{folder / JSONL_NAME}: no steps in it, or no such file")
    for name in ("AP", "AP50"):
        points = curves(rows, [f"{name}_ema"]) or curves(rows, [name])
        for kind in points.values():
            found[name] = kind
    for name, value in _final_scores(folder / METRICS_NAME).items():
        last = found["loss"][-1][0]
        found[name] = [p for p in found.get(name, []) if p[0] < last] + [(last, value)]
    return found


def _final_scores(path: Path) -> Dict[str, float]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(content[name]) for name in ("AP", "AP50")}
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: expected JSON with AP and AP50, as eval.py writes it") from None


def table(runs: Mapping[str, Mapping[str, Points]]) -> List[str]:
    """Markdown: steps, mean loss over the last tenth, last AP and AP50 of each run."""
    lines = ["| run | steps | loss, last tenth | AP | AP50 |", "|---|---|---|---|---|"]
    for name, run in runs.items():
        losses = [value for _, value in run["loss"]]
        tail = float(np.mean(losses[-max(1, len(losses) // 10) :]))
        scores = [f"{run[key][-1][1]:.3f}" if run.get(key) else "-" for key in ("AP", "AP50")]
        cells = [name, f"{run['loss'][-1][0]:.0f}", f"{tail:.3f}", *scores]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def named(text: str) -> Tuple[str, Path]:
    """`NAME=FOLDER`, or FOLDER with its own name."""
    name, equals, folder = text.partition("=")
    return (name, Path(folder)) if equals else (Path(text).name, Path(text))


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.recipes", description=__doc__.split("\n\n")[2]
    )
    parser.add_argument("runs", nargs="+", type=named, metavar="NAME=RUN", help="run folders")
    parser.add_argument("--output", default="recipes.png", type=Path, help="PNG to write")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    folders: Dict[str, Any] = dict(args.runs)
    if len(folders) < len(args.runs) or len(folders) > MAX_RUNS:
        raise UsageError(f"expected at most {MAX_RUNS} runs of different names")
    runs = {name: read_run(folder) for name, folder in folders.items()}
    panels = {
        title: {name: run[title] for name, run in runs.items() if run.get(title)}
        for title in PANELS
    }
    write_png(args.output, plot_panels(panels))
    print("\n".join([*table(runs), str(args.output)]))


if __name__ == "__main__":
    run_main(main)
