# SPDX-License-Identifier: Apache-2.0
"""The flags of each subcommand; no framework is imported for them."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Optional, Sequence

from ..config import default_preset
from ..runtime.cpu_settings import usable_cores
from ..runtime.device_choice import device_there
from ..utils import add_common_arguments, add_config_arguments
from .unknown_flags import did_you_mean

Words = Optional[Sequence[str]]  # of the command line; None is sys.argv
DATASET = "folder of COCO, VOC, YOLO, LabelMe or CSV"


def train_arguments(argv: Words, prog: Optional[str] = None) -> argparse.Namespace:
    """Train M2Det on a data set: COCO, Pascal VOC, YOLO, LabelMe or CSV."""
    from ..formats import shipped

    parser = argparse.ArgumentParser(prog=prog, description=train_arguments.__doc__)
    parser.add_argument("--dataset_path", required=True, type=Path, help=DATASET)
    parser.add_argument("--split", default="train", help="split to train on (default: train)")
    parser.add_argument(
        "--pretrained_backbone", default="none", help="converted backbone weights, or none"
    )
    parser.add_argument("--train_url", default="outputs", type=Path, help="output folder")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--resume", metavar="PATH|auto", help="continue from a checkpoint")
    begin.add_argument(
        "--finetune",
        metavar=f"PATH|{shipped.NAME}",
        help="begin with what fits of a checkpoint, or of the network that comes with the project",
    )
    parser.add_argument(
        "--force", action="store_true", help="resume in spite of other classes, ranks or schedule"
    )
    parser.add_argument("--check", action="store_true", help="check the data set and stop")
    parser.add_argument("--dry_run", action="store_true", help="build, show a batch, and stop")
    parser.add_argument("--distribute", action="store_true", help="one of several msrun ranks")
    parser.add_argument("--log_interval", type=int, default=10, help="steps between log lines")
    add_common_arguments(parser)
    args = _parsed(parser, argv)
    if args.log_interval < 1:
        parser.error(f"--log_interval must be at least 1, not {args.log_interval}")
    if args.finetune == shipped.NAME:
        args.finetune, args.config = str(shipped.PHOTOS), args.config or shipped.PRESET
    args.config = args.config or default_preset(args.device_target)
    return args


def eval_arguments(argv: Words, prog: Optional[str] = None) -> argparse.Namespace:
    """Evaluate a checkpoint or an exported file on any split of a data set.

    Writes detections.json (a COCO results file) and metrics.json, or for a split without ground
    truth the zip file that the COCO server takes. Started again, it continues.
    """
    from ..evaluation.coco_metrics import SCORERS

    parser = argparse.ArgumentParser(prog=prog, description=eval_arguments.__doc__)
    _add_network(parser)
    parser.add_argument("--dataset_path", required=True, type=Path, help=DATASET)
    parser.add_argument("--split", default="val", help="split to evaluate (default: val)")
    parser.add_argument("--output", default="eval_output", type=Path, help="folder for the results")
    parser.add_argument("--scorer", default=SCORERS[0], choices=SCORERS, help="of the COCO numbers")
    parser.add_argument("--name", help="of the method in a submission; the experiment's otherwise")
    parser.add_argument(
        "--score_threshold",
        type=float,
        default=0.3,
        help="detections counted in the confusion matrix and the errors (%(default)s)",
    )
    parser.add_argument("--report", action="store_true", help="write report.html as well")
    parser.add_argument("--distribute", action="store_true", help="one of several msrun ranks")
    add_common_arguments(parser)
    return _parsed(parser, argv)


def export_arguments(argv: Words, prog: Optional[str] = None) -> argparse.Namespace:
    """Export a checkpoint to MINDIR or ONNX and check that the file computes the same."""
    parser = argparse.ArgumentParser(prog=prog, description=export_arguments.__doc__)
    parser.add_argument("--checkpoint_path", required=True, type=Path)
    parser.add_argument("--file_format", default="MINDIR", choices=("MINDIR", "ONNX"))
    parser.add_argument("--output", type=Path, help="default: the checkpoint's name, new ending")
    parser.add_argument(
        "--inputs",
        default="tensor",
        choices=("tensor", "image"),
        help="tensor: (B, 3, S, S) float32, BGR minus mean; image: (B, S, S, 3) uint8 BGR",
    )
    parser.add_argument(
        "--outputs",
        default="boxes",
        choices=("raw", "boxes", "detections"),
        help="boxes: decoded, with probabilities; raw: offsets and class scores; detections: boxes"
        " after hard NMS, ONNX only, for deploy/ (%(default)s)",
    )
    parser.add_argument("--batch_size", type=int, default=1, help="0 for any number (%(default)s)")
    parser.add_argument(
        "--fold_batchnorm", action="store_true", help="put BatchNorm into the convolutions"
    )
    parser.add_argument(
        "--int8",
        metavar="PATH",
        type=Path,
        help="write NAME_int8.onnx as well, with convolutions in 8-bit integers whose ranges come"
        " from these images: a folder, or a data set, of which AP is measured before and after",
    )
    add_common_arguments(parser)
    return _parsed(parser, argv)


def convert_arguments(argv: Words, prog: Optional[str] = None) -> argparse.Namespace:
    """Convert weights to MindSpore, or a checkpoint made here to the official PyTorch layout.

    The input is a PyTorch file, an ONNX graph or a NumPy archive. What it holds is seen from its
    keys: a VGG-16, reduced as in ssd.pytorch or Oxford's without its fully connected layers; a
    ResNet of torchvision, with BatchNorm or with it folded into the convolutions; an SE network of
    Cadene's pretrained-models; or a whole model of the official M2Det code.
    """
    parser = argparse.ArgumentParser(prog=prog, description=convert_arguments.__doc__)
    parser.add_argument(
        "--input", required=True, type=Path, help="X.pth, X.onnx or X.npz; X.ckpt for --to pytorch"
    )
    parser.add_argument("--output", required=True, type=Path, help="Y.ckpt, Y.safetensors or Y.pth")
    parser.add_argument("--to", default="mindspore", choices=("mindspore", "pytorch"))
    parser.add_argument(
        "--pixels",
        choices=("bgr", "rgb"),
        help="what a backbone was trained on: BGR in 0..255 minus a mean, as here, or torchvision's"
        " RGB (default: rgb where BatchNorm is folded, else bgr)",
    )
    add_config_arguments(parser)
    return _parsed(parser, argv)


def demo_arguments(argv: Words, prog: Optional[str] = None) -> argparse.Namespace:
    """Detect in images, folders, patterns, videos, a camera, or files listed on standard input.

    Draws pictures or videos with the boxes in, and writes all boxes to a file. A picture that
    cannot be read is passed over and reported.
    """
    from ..inference.result_files import WRITERS

    parser = argparse.ArgumentParser(prog=prog, description=demo_arguments.__doc__)
    _add_network(parser)
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        help="images, videos, folders, patterns ('a/*.jpg'), a camera's number,"
        " or - for paths on standard input, one a line",
    )
    parser.add_argument("--output", default="demo_output", type=Path, help="folder for the results")
    parser.add_argument(
        "--format", default=["json"], nargs="+", choices=sorted(WRITERS), help="of the boxes"
    )
    parser.add_argument("--no_pictures", action="store_true", help="draw nothing, only list boxes")
    parser.add_argument("--show", action="store_true", help="show what is drawn, on a screen")
    parser.add_argument(
        "--hide_overlaps",
        type=float,
        nargs="?",
        const=0.6,
        metavar="IOU",
        help="draw only the best of boxes that overlap this much, whatever their classes; the files"
        " of boxes keep all (without a number: 0.6)",
    )
    parser.add_argument("--limit", type=int, default=0, help="pictures at most; 0 takes all")
    parser.add_argument(
        "--score_threshold", type=float, default=0.3, help="lowest score shown (%(default)s)"
    )
    add_common_arguments(parser)
    return _parsed(parser, argv)


def check_arguments(argv: Words, prog: Optional[str] = None) -> argparse.Namespace:
    """Check a data set before training: numbers, faults, recall of the priors."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=check_arguments.__doc__,
        epilog="Exit code 0: nothing wrong, or training repairs it; 1: faults in the data;"
        " 2: no such data set or split, or the picture cannot be written.",
    )
    parser.add_argument("dataset", type=Path, nargs="?", help=DATASET)
    parser.add_argument("--dataset_path", type=Path, help="the same, as in train.py")
    parser.add_argument("--split", nargs="+", help="splits to check (default: train and val)")
    # The preset that train.py takes, so that the priors are those of a training.
    add_config_arguments(parser, default_preset(device_there()))
    parser.add_argument(
        "--images",
        default="decode",
        choices=("decode", "header", "none"),
        help="decode every image (default), look at headers, or do not open images",
    )
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--strict", action="store_true", help="what training repairs is an error")
    parser.add_argument(
        "--suggest_anchors", action="store_true", help="print anchors.scales that fit the boxes"
    )
    parser.add_argument(
        "--output",
        default="check_output",
        type=Path,
        help="folder for a picture of each split, or a PNG file (%(default)s)",
    )
    args = _parsed(parser, argv)
    if (args.dataset is None) == (args.dataset_path is None) and not args.show_config:
        parser.error("name the data set's folder, once")
    args.dataset = args.dataset or args.dataset_path
    return args


def visualize_arguments(argv: Words, prog: Optional[str] = None) -> argparse.Namespace:
    """Draw prior boxes on an image, the priors matched to each object, or activations.

    `priors` needs a configuration, `matches` a data set as well, `activations` a checkpoint.
    """
    parser = argparse.ArgumentParser(prog=prog, description=visualize_arguments.__doc__)
    parser.add_argument("what", choices=("priors", "matches", "activations"))
    parser.add_argument("--checkpoint_path", type=Path, help="its config.json is used, too")
    parser.add_argument("--image", type=Path, help="for priors and activations")
    parser.add_argument("--dataset_path", type=Path, help="for matches")
    parser.add_argument("--split", default="train", help="of the data set (default: train)")
    parser.add_argument("--index", type=int, default=0, help="image of the split, from 0")
    parser.add_argument("--output", type=Path, help="default: WHAT.png")
    add_common_arguments(parser)
    return _parsed(parser, argv)


def _add_network(parser: argparse.ArgumentParser) -> None:
    from ..formats.shipped import PHOTOS

    parser.add_argument(
        "--checkpoint_path",
        default=PHOTOS,
        type=Path,
        help="default: the network of photographs that comes with the project",
    )


def _parsed(parser: argparse.ArgumentParser, argv: Words) -> argparse.Namespace:
    """The flags; with --show_config nothing is required."""

    class ShowConfig(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, args: Any, *_: Any) -> None:
            args.show_config = True
            for action in parser._actions:
                action.required = False

    parser.add_argument(
        "--show_config",
        nargs=0,
        action=ShowConfig,
        default=False,
        help="print the whole configuration, as YAML that --config takes, and stop",
    )
    _refuse_empty(parser, sys.argv[1:] if argv is None else argv)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [text for action in parser._actions for text in action.option_strings]
        hint = did_you_mean(unknown, flags)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def _refuse_empty(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Ends the program at an empty word: a path of nothing would be the folder it runs in."""
    for before, word in zip(["", *words], words):
        if re.fullmatch(r"(--\w+=)?", word):
            flag = re.match(r"--\w+", word or before)
            what = flag[0] if flag else "an argument"
            parser.error(f"{what} is empty, perhaps of a variable that is not set")
