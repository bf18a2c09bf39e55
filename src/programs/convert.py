# SPDX-License-Identifier: Apache-2.0
"""`convert.py`: weights to MindSpore, or back to PyTorch. What it takes: `convert_arguments`."""

import argparse
import contextlib
import os
from pathlib import Path
from shlex import quote
from typing import Dict, List, Optional, Sequence, Tuple

from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from ..config import PRESETS, Config, DataConfig, to_json
from ..formats import imagenet_weights as imagenet
from ..formats.checkpoint import (
    CONFIG_NAME,
    STATE_PREFIX,
    mismatches,
    read_checkpoint,
    resolve_config,
    save_checkpoint,
    save_config,
)
from ..formats.pytorch_config import (
    asked_backbone,
    check_backbone,
    choose_config,
    describe,
    layout_of,
    unofficial_options,
)
from ..formats.pytorch_keys import ConversionError, Layout, find_backbone, find_model, is_detector
from ..formats.pytorch_weights import (
    Arrays,
    Converted,
    check_finite,
    from_official,
    read_pytorch,
    to_official,
    unused_classifier,
    write_pytorch,
)
from ..model import build_model
from ..model.backbones import build_backbone
from ..runtime.errors import printable
from ..utils import set_seed

WEIGHT_FILES = (".ckpt", ".safetensors", ".mindir", ".onnx")


def main(args: argparse.Namespace) -> None:
    endings = (".pth", ".pt") if args.to == "pytorch" else (".ckpt", ".safetensors")
    if args.output.suffix not in endings or args.output.is_dir():
        raise ConversionError(f"{args.output}: expected a file name in {' or '.join(endings)}")
    if os.path.realpath(args.output) == os.path.realpath(args.input):
        raise ConversionError(f"{args.output}: is the input; choose another name for the output")
    if args.to == "pytorch":
        lines = convert_to_pytorch(args.input, args.output, args.config, args.set)
    else:
        lines = convert_to_mindspore(args.input, args.output, args.config, args.set, args.pixels)
    print("\n".join(map(printable, lines)))


def convert_to_mindspore(
    source: Path,
    output: Path,
    name: Optional[str],
    overrides: Sequence[str],
    pixels: Optional[str] = None,
) -> List[str]:
    """Write `output`, and for a whole model `config.json` beside it; returns lines to report.

    Raises:
        ConversionError: the input cannot be used; nothing has been written then.
    """
    state = _read(source)
    shapes = {key: values.shape for key, values in state.items()}
    try:
        if not is_detector(shapes):
            return _backbone_to_mindspore(state, source, output, name, overrides, pixels)
        if pixels == "rgb":
            raise ConversionError("--pixels is for backbones, found a whole M2Det model")
        found = find_model(shapes)
        config, notes = choose_config(found, (source, output), name, overrides)
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
    lines = [f"{source}: M2Det, {describe(config.model)}", *notes, *_report(converted, output)]
    lines.append(f"written: {output.parent / CONFIG_NAME}")
    return [*lines, f"next: python demo.py --checkpoint_path {quote(str(output))} --input IMAGE"]


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


def _read(source: Path) -> Arrays:
    readers = {".npz": imagenet.read_npz, ".onnx": imagenet.read_onnx}
    return readers.get(source.suffix, read_pytorch)(source)


def _backbone_to_mindspore(
    state: Arrays,
    source: Path,
    output: Path,
    name: Optional[str],
    overrides: Sequence[str],
    pixels: Optional[str],
) -> List[str]:
    """Write a backbone; returns lines to report."""
    found = imagenet.name_layers(state)
    backbone = find_backbone({key: values.shape for key, values in found.state.items()})
    if (backbone, asked_backbone(name, overrides)) == ("resnet18", "resnet18_res4"):
        imagenet.keep_stages(found, 3)
        backbone = "resnet18_res4"
    check_backbone(backbone, name, overrides)
    lines = [f"{source}: {backbone} backbone"]
    if pixels == "rgb" or (pixels is None and found.folded):
        imagenet.take_bgr(found.state, DataConfig.mean_bgr)
        lines.append("input: RGB by ImageNet's mean and deviation, changed to BGR minus the mean")
    else:
        lines.append("input: BGR minus the mean; if the weights want torchvision's: --pixels rgb")
    converted, fresh = _convert_backbone(found.state, backbone)
    for reason, count in found.unused.items():
        converted.unused[reason] = converted.unused.get(reason, 0) + count
    save_checkpoint(converted.weights, output)
    lines.append(f"filled: {len(converted.weights) - fresh} parameters")
    if fresh:
        lines.append(f"fresh: {fresh} parameters, conv6 and conv7, which the input does not have")
    return [*lines, *_report(converted, output), f"next: {_training(backbone, output)}"]


def _training(backbone: str, weights: Path) -> str:
    """The command that trains with the weights of a backbone."""
    presets = [name for name, preset in PRESETS.items() if preset.model.backbone == backbone]
    chosen = f"--config {presets[0]}" if presets else f"--set model.backbone={backbone}"
    backbone_flag = f"--pretrained_backbone {quote(str(weights))}"
    return f"python train.py --dataset_path DATASET {chosen} {backbone_flag}"


def _convert_backbone(state: Arrays, backbone: str) -> Tuple[Converted, int]:
    """The weights of a backbone, and how many of them are new: VGG-16 may come without conv6, 7."""
    absent = ("conv6.", "conv7.") if imagenet.is_trunk(state) else ()
    set_seed(0)
    with contextlib.nullcontext() if absent else no_init_parameters():
        network = build_backbone(backbone)
    own = {f"backbone.{name}": p for name, p in network.parameters_dict().items()}
    fresh = {name: p for name, p in own.items() if name.split(".", 1)[1].startswith(absent)}
    expected = {name: tuple(p.shape) for name, p in own.items() if name not in fresh}
    layout = Layout(backbone)
    converted = from_official(
        state, expected, lambda name: [key[len("base.") :] for key in layout.official_keys(name)]
    )
    converted.weights.update({name: p.asnumpy() for name, p in fresh.items()})
    return converted, len(fresh)


def _check_neighbours(output: Path, config: Config) -> None:
    """Refuse to replace the `config.json` of other checkpoints in the folder."""
    path = output.parent / CONFIG_NAME
    if not path.is_file() or path.read_bytes() == to_json(config).encode():
        return
    others = sorted(p.name for p in path.parent.iterdir() if p.suffix in WEIGHT_FILES)
    others = [other for other in others if other != output.name]
    if others:
        raise ConversionError(
            f"{path} belongs to {others[0]} and differs; choose another folder for {output.name}"
        )


def _shapes(network: nn.Cell) -> Dict[str, Tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in network.parameters_dict().items()}


def _report(converted: Converted, output: Path) -> List[str]:
    unused = [f"not used: {count} keys, {why}" for why, count in sorted(converted.unused.items())]
    return [*unused, f"written: {output}, {len(converted.weights)} parameters"]
