# SPDX-License-Identifier: Apache-2.0
"""Convert PyTorch weights to MindSpore, or a checkpoint made here to the official PyTorch layout.

The kind of input is seen from its keys: the reduced VGG-16 of ssd.pytorch, ResNets of torchvision,
SE networks of Cadene's pretrained-models, or a whole model of the official M2Det code.
"""

import argparse
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from src.config import PRESETS, Config, to_json
from src.formats.checkpoint import (
    CONFIG_NAME,
    STATE_PREFIX,
    mismatches,
    read_checkpoint,
    resolve_config,
    save_checkpoint,
    save_config,
)
from src.formats.pytorch_config import (
    check_backbone,
    choose_config,
    describe,
    layout_of,
    unofficial_options,
)
from src.formats.pytorch_keys import ConversionError, Layout, find_backbone, find_model, is_detector
from src.formats.pytorch_weights import (
    Arrays,
    Converted,
    check_finite,
    from_official,
    read_pytorch,
    to_official,
    unused_classifier,
    write_pytorch,
)
from src.model import build_model
from src.model.backbones import build_backbone
from src.utils import add_debug_argument, run_main

WEIGHT_FILES = (".ckpt", ".safetensors", ".mindir", ".onnx")


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, type=Path, help="X.pth; X.ckpt for --to pytorch")
    parser.add_argument("--output", required=True, type=Path, help="Y.ckpt, Y.safetensors or Y.pth")
    parser.add_argument("--to", default="mindspore", choices=("mindspore", "pytorch"))
    parser.add_argument(
        "--config",
        metavar="NAME",
        help=f"preset the input must fit (default: what it tells of itself): {', '.join(PRESETS)}",
    )
    parser.add_argument(
        "--set",
        metavar="section.key=value",
        action="append",
        default=[],
        help="override a parameter, e.g. model.input_size=512, which no checkpoint tells",
    )
    add_debug_argument(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    endings = (".pth", ".pt") if args.to == "pytorch" else (".ckpt", ".safetensors")
    if args.output.suffix not in endings or args.output.is_dir():
        raise ConversionError(f"{args.output}: expected a file name in {' or '.join(endings)}")
    if args.to == "pytorch":
        lines = convert_to_pytorch(args.input, args.output, args.config, args.set)
    else:
        lines = convert_to_mindspore(args.input, args.output, args.config, args.set)
    print("\n".join(lines))


def convert_to_mindspore(
    source: Path, output: Path, name: Optional[str], overrides: Sequence[str]
) -> List[str]:
    """Write `output`, and for a whole model `config.json` beside it; returns lines to report.

    Raises:
        ConversionError: the input cannot be used; nothing has been written then.
    """
    state = read_pytorch(source)
    shapes = {key: values.shape for key, values in state.items()}
    try:
        if not is_detector(shapes):
            backbone = find_backbone(shapes)
            check_backbone(backbone, name, overrides)
            converted = _convert_backbone(state, backbone)
            save_checkpoint(converted.weights, output)
            return _report(f"{source}: {backbone} backbone", converted, output)
        facts = find_model(shapes)
        config, notes = choose_config(facts, (source, output), name, overrides)
        with no_init_parameters():
            network = build_model(config)
        keys_of = layout_of(config.model).official_keys
        converted = from_official(state, _shapes(network), keys_of)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from None
    _check_neighbours(output, config)
    save_checkpoint(converted.weights, output)
    try:
        save_config(output.parent, config)
    except OSError:
        output.unlink()
        raise
    lines = _report(f"{source}: M2Det, {describe(config.model)}", converted, output)
    return [*lines[:1], *notes, *lines[1:], f"written: {output.parent / CONFIG_NAME}"]


def convert_to_pytorch(
    source: Path, output: Path, name: Optional[str], overrides: Sequence[str]
) -> List[str]:
    """Write a whole model in the official layout; returns lines to report.

    Raises:
        ValueError: the checkpoint does not fit its configuration; nothing has been written then.
    """
    content = read_checkpoint(source)
    config = resolve_config(name, overrides, source)
    weights = {k: p.asnumpy() for k, p in content.items() if not k.startswith(STATE_PREFIX)}
    if config.model.neck != "mlfpn":
        raise ConversionError(f"{source}: the official code has no {config.model.neck} network")
    with no_init_parameters():
        network = build_model(config)
    problems = mismatches(_shapes(network), {k: values.shape for k, values in weights.items()})
    if problems:
        raise ConversionError(f"{source} does not fit its configuration: {'; '.join(problems[:5])}")
    check_finite(weights, weights)
    state = to_official(weights, layout_of(config.model).official_keys)
    classifier = unused_classifier(state)
    state.update(classifier)
    write_pytorch(state, output)
    lines = [f"{source}: M2Det, {describe(config.model)}"]
    if classifier:
        lines.append(f"zeros: {', '.join(classifier)} (in the official layout, used by nothing)")
    if unofficial_options(config.model):
        options = ", ".join(unofficial_options(config.model))
        lines.append(f"note: the official code has no form for {options}")
    return [*lines, f"written: {output}, {len(state)} keys"]


def _convert_backbone(state: Arrays, backbone: str) -> Converted:
    with no_init_parameters():
        network = build_backbone(backbone)
    expected = {f"backbone.{name}": shape for name, shape in _shapes(network).items()}
    layout = Layout(backbone)
    return from_official(
        state, expected, lambda name: [key[len("base.") :] for key in layout.official_keys(name)]
    )


def _check_neighbours(output: Path, config: Config) -> None:
    """Refuse to replace the `config.json` of other checkpoints in the folder."""
    path = output.parent / CONFIG_NAME
    if not path.is_file() or path.read_text(encoding="utf-8") == to_json(config):
        return
    others = sorted(p.name for p in path.parent.iterdir() if p.suffix in WEIGHT_FILES)
    others = [other for other in others if other != output.name]
    if others:
        raise ConversionError(
            f"{path} belongs to {others[0]} and differs; choose another folder for {output.name}"
        )


def _shapes(network: nn.Cell) -> Dict[str, Tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in network.parameters_dict().items()}


def _report(title: str, converted: Converted, output: Path) -> List[str]:
    unused = [f"not used: {count} keys, {why}" for why, count in sorted(converted.unused.items())]
    return [title, *unused, f"written: {output}, {len(converted.weights)} parameters"]


if __name__ == "__main__":
    run_main(main)
