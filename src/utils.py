# SPDX-License-Identifier: Apache-2.0
"""Helpers of the command lines; and `load_weights`, `setup_device` and `set_seed` under the names
of the model zoo, which import MindSpore on first use.
"""

import argparse
import importlib
import io
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, Callable, Optional

from .config import PRESETS, Config
from .runtime import presets
from .runtime.config_file import keys_as_text
from .runtime.device_choice import device_there
from .runtime.errors import M2DetError, UsageError, one_line, printable
from .runtime.files import remove_unfinished

_HOMES = {
    "load_weights": ".formats.checkpoint",
    "set_seed": ".runtime.device",
    "setup_device": ".runtime.device",
}
UNEXPECTED = 1  # exit codes
EXPECTED = 2
INTERRUPTED = 130
NO_READER = 141  # as of a program ended by SIGPIPE


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __package__), name)


def run_main(main: Callable[[], Any]) -> None:
    """Call a program's `main`; what it returns is the exit code if it is a number other than 0.

    An error becomes one line on stderr: exit code 2 for the expected ones (`M2DetError`, and files
    that cannot be read or written), 1 for the others. `--debug` prints the traceback as well.
    """
    logging.raiseExceptions = False  # `| head -1`: a log that nobody reads is no error
    warnings.filterwarnings("ignore", module=r"PIL\..*")  # of damaged EXIF in photographs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # LANG=C: names of classes are escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = main()
        finally:
            _flush()
    except BrokenPipeError:  # `| head -1`: nobody reads any more
        sys.exit(NO_READER)
    except KeyboardInterrupt:
        remove_unfinished()
        sys.exit(INTERRUPTED)
    except Exception as error:
        if "--debug" in sys.argv[1:]:
            traceback.print_exc()
        print(f"error: {describe(error)}", file=sys.stderr)
        sys.exit(EXPECTED if isinstance(error, (M2DetError, OSError)) else UNEXPECTED)
    if isinstance(code, int) and code:
        sys.exit(code)


def _flush() -> None:
    """What is printed goes out, if standard output is open."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:  # Python would try again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OSError(error.errno, error.strerror, "standard output") from None


def describe(error: Exception) -> str:
    """An error on one line; an unexpected one with its class and where it came from."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{printable(os.fsdecode(error.filename))}: {error.strerror}"
    if isinstance(error, (M2DetError, OSError)):
        return one_line(error, 2000)
    root = Path(__file__).resolve().parents[1]
    calls = [
        f"{Path(frame.filename).relative_to(root)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if root in Path(frame.filename).parents and "site-packages" not in frame.filename
    ]
    where = f" (from {', '.join(calls)}; --debug shows the traceback)"
    return f"unexpected {type(error).__name__}: {one_line(error, 300)}{where}"


def check_score_threshold(value: float) -> None:
    """Refuses a `--score_threshold` that is no probability.

    Raises:
        UsageError: it is outside [0, 1], or NaN.
    """
    if not 0 <= value <= 1:
        raise UsageError(f"--score_threshold must be from 0 to 1, not {value:g}")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """`--device_target`, `--device_id`, and those of `add_config_arguments`."""
    add_config_arguments(parser)
    parser.add_argument(
        "--device_target",
        default=device_there(),
        choices=("CPU", "GPU", "Ascend"),
        help="default: what this machine has",
    )
    parser.add_argument("--device_id", type=int, default=0)


def add_config_arguments(parser: argparse.ArgumentParser, preset: Optional[str] = None) -> None:
    """`--config`, where left out `preset`, `--set`, `--list` and `--debug`."""
    parser.add_argument(
        "--config",
        metavar="NAME|FILE",
        default=preset,
        help="a preset, or a .yaml or .json file such as a run's config.json",
    )
    parser.add_argument(
        "--set",
        metavar="section.key=value",
        action="append",
        default=[],
        help="override a parameter; may be given several times",
    )
    parser.add_argument(
        "--list", nargs=0, action=ListAction, help="show all presets and parameters, and stop"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


class ListAction(argparse.Action):
    """Prints presets and parameters, whatever else is on the command line."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print("Presets, for --config:")
        for name, config in PRESETS.items():
            model = f"{config.model.backbone}, {config.model.input_size} pixels"
            print(f"  {name}: {model}\n      {presets.PRESETS[name].about}")
        print("\nParameters, for --set section.key=value, with their defaults:")
        print(keys_as_text(Config()))
        parser.exit()
