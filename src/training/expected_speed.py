# SPDX-License-Identifier: Apache-2.0
"""How fast a training will be, for the estimate before its first step.

A finished run leaves its speed beside the compiled graphs, for later runs like it on this machine.
"""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Dict, Optional, Tuple

from ..config import PRESETS, Config
from ..runtime.files import write_json
from ..runtime.graph_cache.store import cache_folder, digest_of_json
from ..runtime.presets import PRESETS as DESCRIBED
from .run_log import read_log

NAME = "speeds.json"
MOST = 200  # runs that are remembered


def expected_speed(config: Config, folder: Path, device: str) -> Optional[Tuple[float, str]]:
    """Images per second, and how that is known; None where it is not.

    Args:
        config: of the run.
        folder: of the run, with its log where it is resumed.
        device: in words: the kind, with the number of threads and ranks.
    """
    speed = _logged(folder)
    if speed:
        return speed, "at the speed before"
    speed = _remembered().get(_key(config, device))
    if speed:
        return speed, "at the speed of such a run on this machine"
    preset, base = DESCRIBED.get(config.experiment_tag), PRESETS.get(config.experiment_tag)
    if preset is None or base is None or not device.startswith("CPU"):
        return None
    if not preset.images_per_second or base.model.backbone != config.model.backbone:
        return None
    # Fewer pixels are faster, but not by as much.
    pixels = min((base.model.input_size / config.model.input_size) ** 2, 1)
    return preset.images_per_second * pixels, "roughly, by one CPU core elsewhere"


def remember_speed(config: Config, folder: Path, device: str) -> None:
    """Store the speed in the log of a finished run, in images per second."""
    place, speed = _place(), _logged(folder)
    if place is None or not speed:
        return
    speeds = _remembered()
    speeds.pop(_key(config, device), None)
    speeds[_key(config, device)] = speed
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(place, dict(list(speeds.items())[-MOST:]))
    except OSError:  # the next estimate is rougher, that is all
        pass


def _logged(folder: Path) -> Optional[float]:
    """Images per second, the mean of the last intervals of a log; None without any."""
    rows = [row["images_per_second"] for row in read_log(folder) if row.get("images_per_second")]
    return sum(rows[-20:]) / len(rows[-20:]) if rows else None


def _key(config: Config, device: str) -> str:
    """A digest of what the speed depends on; the number of classes changes little."""
    model, train = replace(config.model, num_classes=2), config.train
    frozen = (train.freeze_stages, train.freeze_backbone)
    return digest_of_json([asdict(model), train.per_batch_size, train.amp_level, frozen, device])


def _place() -> Optional[Path]:
    folder = cache_folder(os.environ)
    return None if folder is None else folder / NAME


def _remembered() -> Dict[str, float]:
    """Speed by key, oldest first."""
    place = _place()
    try:
        found = json.loads(place.read_text(encoding="utf-8")) if place else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: speed for key, speed in found.items() if type(speed) is float and speed > 0}
