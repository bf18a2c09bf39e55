# SPDX-License-Identifier: Apache-2.0
"""What each choice is worth.

`python -m benchmarks.studies.ablation --dataset_path D --output FOLDER`

Trains the same recipe once as it is and once without each of its choices, on as many images, and
scores every run on the same split. Runs in `--output` that have been scored are not repeated, so an
interrupted table goes on. With `--jobs 2` two runs share the machine, one thread each.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from src.config import get_config
from src.runtime.cpu_settings import usable_cores
from src.utils import add_config_arguments, run_main

ROOT = Path(__file__).resolve().parents[2]
BASE = "the recipe"
# What a run does otherwise than the recipe. The paper's tables 2 and 3 vary the first four; those
# with a plus are later than SSD and M2Det.
CHOICES: Mapping[str, Sequence[str]] = {
    BASE: (),
    "without SFAM": ("model.sfam=false",),
    "one TUM": ("model.num_levels=1",),
    "six TUMs": ("model.num_levels=6",),
    "a squeeze for each TUM": ("model.shared_squeeze=false",),
    "the usual anchors": ("anchors.scales=", "anchors.ratios=[[2.0,3.0]]"),
    "never upside down": ("data.vertical_flip=false",),
    "crop and zoom out as in SSD": ("data.crop_prob=1", "data.max_expand_ratio=4"),
    "without an average of the weights": ("train.ema=0",),
    "SGD": ("optimizer.type=SGD", "optimizer.weight_decay=5e-4", "train.lr=0.01"),
    "batches twice as large": ("train.per_batch_size={twice}", "train.total_steps={half}"),
    "plus GIoU": ("loss.box=giou", "loss.box_weight=2"),
    "plus IoU as score": ("loss.quality=true",),
    "plus dynamic k": ("anchors.dynamic_k=20",),
    "plus mosaic for six tenths": ("data.mosaic=0.5", "data.mosaic_until=0.6"),
    "plus stronger colour": ("data.color_jitter=1.6",),
    "plus a shorter average": ("train.ema=0.95",),
    "plus box voting": ("test.voting_iou=0.7",),
    "plus voting, mirrored too": ("test.voting_iou=0.7", "test.flip=true", "test.merge=soft_nms"),
}
METRICS = Path("run", "metrics.json")
SCORES = ("AP", "AP50", "AP75")


def flags_of(preset: str, recipe: Sequence[str], choice: Sequence[str], steps: int) -> List[str]:
    """Overrides of one run of `steps` steps; later ones win.

    Raises:
        ConfigError: an unknown preset or key, or a wrong value.
    """
    batch = get_config(preset, recipe).train.per_batch_size
    filled = [text.format(twice=2 * batch, half=steps // 2) for text in choice]
    flags = [*recipe, f"train.total_steps={steps}", *filled]
    get_config(preset, flags)
    return flags


def run_one(folder: Path, args: argparse.Namespace, overrides: Sequence[str], threads: int) -> None:
    """Trains into `folder`/run and scores; nothing if that has been done.

    Raises:
        OSError: train.py or eval.py failed; the log in `folder` says why.
    """
    if (folder / METRICS).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    sets = [
        word
        for text in (*overrides, "experiment_tag=run", "train.eval_times=0")
        for word in ("--set", text)
    ]
    data = ["--dataset_path", str(args.dataset_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:

        def call(program: str, *words: str) -> None:
            command = [sys.executable, str(ROOT / program), *data, *words]
            if subprocess.run(command, stdout=log, stderr=log, env=environment).returncode:
                raise OSError(f"{program} failed; see {folder / 'log.txt'}")

        start = ["--finetune", args.finetune] if args.finetune else []
        call("train.py", "--split", args.split, "--config", args.config, *sets, *start,
             "--train_url", str(folder))  # fmt: skip
        (checkpoint,) = folder.glob("run/*-final.ckpt")
        call("eval.py", "--checkpoint_path", str(checkpoint), "--split", args.eval_split,
             "--output", str(checkpoint.parent))  # fmt: skip


def mean_scores(folders: Sequence[Path]) -> Dict[str, float]:
    """Means over the runs of a choice."""
    runs = [json.loads((folder / METRICS).read_text(encoding="utf-8")) for folder in folders]
    return {key: sum(run[key] for run in runs) / len(runs) for key in SCORES}


def table(folders: Mapping[str, Sequence[Path]]) -> str:
    """Markdown: the scores of every choice, and AP beside the recipe's."""
    scores = {name: mean_scores(of_seeds) for name, of_seeds in folders.items()}
    lines = [f"| | {' | '.join(SCORES)} | AP to the recipe |", "|---" * (len(SCORES) + 2) + "|"]
    for name, found in scores.items():
        cells = [f"{found[key]:.3f}" for key in SCORES]
        lines.append(f"| {name} | {' | '.join(cells)} | {found['AP'] - scores[BASE]['AP']:+.3f} |")
    return "\n".join(lines)


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset_path", required=True, type=Path, help="COCO or VOC folder")
    parser.add_argument("--split", default="train", help="to train on (%(default)s)")
    parser.add_argument("--eval_split", default="val", help="to score (%(default)s)")
    parser.add_argument("--output", required=True, type=Path, help="folder for the runs")
    add_config_arguments(parser, "m2det_small")
    parser.add_argument("--finetune", help="weights every run starts from, as for train.py")
    parser.add_argument("--steps", type=int, default=600, help="of each run (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each choice, of which the"
                        " table has the means (%(default)s)")  # fmt: skip
    parser.add_argument("--only", default="", metavar="TEXT",
                        help="choices whose name holds it, beside the recipe")  # fmt: skip
    parser.add_argument("--later", action="store_true",
                        help="the choices that came after M2Det, instead of its own")  # fmt: skip
    args = parser.parse_args(argv)
    if args.steps < 2 or args.jobs < 1 or args.seeds < 1:
        parser.error("--steps must be at least 2, --jobs and --seeds at least 1")
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    ends = ["", *(f"_seed{seed}" for seed in range(1, args.seeds))]
    names = [
        name
        for name in CHOICES
        if name == BASE or (args.only in name and name.startswith("plus") == args.later)
    ]
    overrides = {name: flags_of(args.config, args.set, CHOICES[name], args.steps) for name in names}
    folders = {
        name: [args.output / (name.replace(" ", "_").replace(",", "") + end) for end in ends]
        for name in names
    }
    threads = max(1, usable_cores() // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [
            pool.submit(run_one, folder, args, [*overrides[name], f"random_seed={seed}"], threads)
            for name in names
            for seed, folder in enumerate(folders[name])
        ]
        for run in runs:
            run.result()
    print(table(folders))


if __name__ == "__main__":
    run_main(main)
