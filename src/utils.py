# SPDX-License-Identifier: Apache-2.0
"""What the command lines share, and under their names of the model zoo `load_weights`,
`setup_device` and `set_seed`.
"""

import argparse
import sys
from typing import Any, Callable, Optional

from .config import PRESETS
from .formats.checkpoint import load_weights
from .runtime.device import set_seed, setup_device

__all__ = [
    "add_common_arguments",
    "add_config_arguments",
    "load_weights",
    "run_main",
    "set_seed",
    "setup_device",
]


def run_main(main: Callable[[], Any]) -> None:
    """Call a script's `main`; an expected error becomes one line on stderr and exit code 2."""
    try:
        main()
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config`, `--set`, `--device_target` and `--device_id`."""
    add_config_arguments(parser)
    parser.add_argument("--device_target", default="CPU", choices=("CPU", "GPU", "Ascend"))
    parser.add_argument("--device_id", type=int, default=0)


def add_config_arguments(parser: argparse.ArgumentParser, preset: Optional[str] = None) -> None:
    """`--config`, where left out `preset`, and `--set`."""
    choices = ", ".join(PRESETS)
    parser.add_argument("--config", metavar="NAME", default=preset, help=f"preset: {choices}")
    parser.add_argument(
        "--set",
        metavar="section.key=value",
        action="append",
        default=[],
        help="override a parameter of src/config.py; may be given several times",
    )
