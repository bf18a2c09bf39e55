# SPDX-License-Identifier: Apache-2.0
"""The command `m2det`, and the way into each of its subcommands for the programs of the model zoo.

Flags are read before a subcommand's module is imported: MindSpore takes seconds, and neither --help
nor a misspelt flag should.
"""

import argparse
import sys
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Any, Optional, Sequence

from ..config import Config, get_config
from ..runtime.config_file import as_yaml
from ..runtime.errors import UsageError
from ..runtime.stop_signal import held_signals, interruptible
from ..utils import run_main

COMMANDS = {
    "train": "train on a data set",
    "eval": "score a checkpoint or an exported file",
    "export": "write MINDIR or ONNX",
    "convert": "PyTorch weights to MindSpore, and back",
    "demo": "detect in images, videos, a camera",
    "check": "check a data set before training",
    "visualize": "draw priors, matches, activations",
}


def run(name: str, argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> Any:
    """A subcommand with its flags, by default those of the process; returns what it returns.

    Args:
        prog: the name in usage texts, by default the program's.

    Raises:
        SystemExit: --help (code 0), or flags it does not know (code 2).
    """
    from . import arguments

    training = name == "train"
    with nullcontext() if training else interruptible():
        # A training saves at a signal; threads that NumPy starts before would take it instead.
        with held_signals() if training else nullcontext():
            args = getattr(arguments, f"{name}_arguments")(argv, prog)
            if args.show_config:
                print(as_yaml(_config_of(args)), end="")
                return 0
            program = import_module(f".{name}", __package__)
        return program.main(args)


def _config_of(args: argparse.Namespace) -> Config:
    """The configuration that the flags lead to.

    Raises:
        M2DetError: unknown names or values, or neither --config nor a checkpoint.
    """
    if args.config is not None:
        return get_config(args.config, args.set)
    checkpoint = getattr(args, "checkpoint_path", None)
    if checkpoint is None:
        raise UsageError("--show_config needs --config, a preset or a file")
    if checkpoint.suffix in (".mindir", ".onnx"):
        raise UsageError(f"the configuration of {checkpoint} stands in {checkpoint.name}.json")
    from ..formats.checkpoint import resolve_config  # NumPy's threads: see `run`

    return resolve_config(None, args.set, checkpoint)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Command line of `m2det`."""
    words = sys.argv[1:] if argv is None else list(argv)
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="m2det",
        usage="m2det COMMAND [FLAGS]",
        description="Object detection with M2Det on MindSpore.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
        + "\n\nm2det COMMAND --help lists the flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    name = parser.parse_args(words[:1]).command
    run_main(partial(run_to_exit, name, words[1:]))


def run_to_exit(name: str, argv: Sequence[str]) -> None:
    """Ends the process with the exit code of a subcommand that returns one."""
    code = run(name, argv, f"m2det {name}")
    if isinstance(code, int):
        sys.exit(code)
