# SPDX-License-Identifier: Apache-2.0
"""AP and cost of multi-scale testing: `python -m benchmarks.studies.multi_scale --checkpoint_path F
--dataset_path D`.

Every way of looking at the images is scored on the same split. The cost is the pixels the network
sees, and the time it takes for an image, beside those of one look. Ends with 1 where some way
scores lower than one look does.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from src.config import Config, override
from src.data.coco_utils import load_data
from src.data.records import DetectionData
from src.evaluation.coco_metrics import category_ids_for, score_coco
from src.evaluation.pipeline import detect_split
from src.inference.detector import STAGES, ArrayDetector
from src.inference.open_network import read_network_file
from src.runtime.device import setup_device
from src.runtime.stopwatch import Stopwatch
from src.utils import add_common_arguments, run_main


def ways(base: int) -> List[List[str]]:
    """Overrides of each way, from one look to four sizes and their mirror images."""
    sizes = [max(64, round(base * share / 16) * 16) for share in (0.75, 1, 1.25, 1.5)]
    three, four = (",".join(map(str, part)) for part in (sizes[1:], sizes))
    found = [[], ["test.flip=true"]]
    for merge in ("soft_nms", "wbf"):
        found.append([f"test.multi_scale={three}", f"test.merge={merge}"])
        found.append([f"test.multi_scale={four}", "test.flip=true", f"test.merge={merge}"])
    return found


def measure(
    detector: ArrayDetector, data: DetectionData, config: Config
) -> Tuple[Dict[str, float], float]:
    """The COCO numbers, and seconds of an image after the network has been compiled."""
    ids = category_ids_for(detector.class_names, data)
    found: List[Any] = []
    watch = Stopwatch(STAGES)
    options: Dict[str, Any] = {"batch_size": config.test.batch_size, "watch": watch}
    detect_split(detector, data, [0], ids, lambda *_: None, **options)  # compiles
    began = time.monotonic()
    everything = range(len(data.records))
    detect_split(detector, data, everything, ids, lambda _, rows: found.extend(rows), **options)
    seconds = (time.monotonic() - began) / len(data.records)
    return score_coco(data, [entry for rows in found for entry in rows])[0], seconds


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.multi_scale", description=__doc__
    )
    parser.add_argument("--checkpoint_path", required=True, type=Path)
    parser.add_argument("--dataset_path", required=True, type=Path)
    parser.add_argument("--split", default="val")
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    setup_device(args.device_target, args.device_id)
    network = read_network_file(args.checkpoint_path, args.config, args.set)
    data = load_data(args.dataset_path, args.split)
    print(f"{'':<52}{'AP':>8}{'pixels':>9}{'s/image':>10}{'ratio':>8}")
    one: Tuple[float, float] = (0.0, 0.0)
    worse = 0
    for overrides in ways(network.config.model.input_size):
        config = override(network.config, overrides)
        detector = network.detector(config)
        numbers, seconds = measure(detector, data, config)
        base = detector.plan.base_size
        pixels = sum(view.size**2 for view in detector.plan.views(base, base)) / base**2
        one = one if overrides else (numbers["AP"], seconds)
        worse += numbers["AP"] < one[0]
        ratio = f"{pixels:7.1f} x{seconds:10.4f}{seconds / one[1]:6.1f} x"
        print(f"{' '.join(overrides) or 'one look':<52}{numbers['AP']:8.4f}{ratio}", flush=True)
    return 1 if worse else 0


if __name__ == "__main__":
    run_main(lambda: sys.exit(main()))
