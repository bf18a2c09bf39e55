# SPDX-License-Identifier: Apache-2.0
"""What is meant by a flag that a program has not got."""

import difflib
from typing import Dict, Mapping, Sequence

from ..config import Config
from ..runtime.typed_config import keys_of

# What is a flag of training in other code bases and a parameter here, by their name for it.
_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("epochs", "num_epochs", "max_epochs"), "train.total_epochs"),
    **dict.fromkeys(("steps", "max_steps", "iterations"), "train.total_steps"),
    **dict.fromkeys(("batch", "batch_size"), "train.per_batch_size"),
    **dict.fromkeys(("imgsz", "img_size", "image_size", "size"), "model.input_size"),
    **dict.fromkeys(("learning_rate", "lr0"), "train.lr"),
    **dict.fromkeys(("workers", "num_workers"), "train.num_workers"),
    "seed": "random_seed",
}


def did_you_mean(unknown: Sequence[str], flags: Sequence[str]) -> str:
    """ ": did you mean ...?" for the first of the words that argparse does not know, or nothing.

    Args:
        unknown: as of `parse_known_args`, such as ["--epochs", "3"] or ["--epochs=3"].
        flags: those of the program, with their dashes.
    """
    first, equals, value = unknown[0].partition("=")
    name = first.lstrip("-").replace("-", "_")
    near = difflib.get_close_matches(f"--{name}", flags, 1, 0.7)
    if near:
        return f": did you mean {near[0]}?"
    meant: Dict[str, str] = {key.rpartition(".")[2]: key for key in reversed(keys_of(Config))}
    meant.update(_ELSEWHERE if "--train_url" in flags else {})
    key = meant.get(name)
    if key is None or not first.startswith("-"):
        return ""
    follows = unknown[1] if len(unknown) > 1 and not unknown[1].startswith("--") else "..."
    return f": did you mean --set {key}={value if equals else follows}?"
