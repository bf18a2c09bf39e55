# SPDX-License-Identifier: Apache-2.0
"""`visualize.py`: priors, matches or activations as a picture. Flags: `visualize_arguments`."""

import argparse
from pathlib import Path
from typing import List, Tuple

import cv2
import numpy as np

from ..config import Config
from ..data.coco_utils import load_data
from ..data.images import read_image
from ..drawing.network_insides import draw_activations, draw_matches, draw_priors
from ..formats.checkpoint import no_checkpoint, resolve_config
from ..inference.result_files import refuse_inputs
from ..inference.views import View, view_input
from ..priors import make_priors, map_sizes, prior_shapes_per_cell
from ..runtime.errors import UsageError, printable
from ..runtime.files import write_atomically


def main(args: argparse.Namespace) -> None:
    needs = {"matches": ("dataset_path",), "activations": ("image", "checkpoint_path")}
    for name in needs.get(args.what, ("image",)):
        if getattr(args, name) is None:
            raise UsageError(f"{args.what} needs --{name}")
    if args.config is None and args.checkpoint_path is None:
        raise UsageError(
            f"{args.what} needs --config, or --checkpoint_path with config.json beside"
        )
    if args.checkpoint_path is not None and not args.checkpoint_path.is_file():
        raise no_checkpoint(args.checkpoint_path)
    output = args.output or Path(f"{args.what}.png")
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg") or output.is_dir():
        raise UsageError(f"--output {output}: expected a file whose name ends in .png or .jpg")
    refuse_inputs([output], [str(args.image)] if args.image else [])
    config = resolve_config(args.config, args.set, args.checkpoint_path)
    picture = {"priors": priors, "matches": matches, "activations": activations}[args.what]
    content = cv2.imencode(output.suffix.lower(), picture(config, args))[1].tobytes()
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, content)
    print(f"written: {printable(str(output))}")


def priors(config: Config, args: argparse.Namespace) -> np.ndarray:
    """The priors of the middle cell of each feature map."""
    return draw_priors(read_image(str(args.image)), make_priors(config), *_maps(config))


def _maps(config: Config) -> Tuple[List[int], List[int]]:
    """Cells a side of each feature map, and priors in a cell of each."""
    sizes = map_sizes(config.model)
    return sizes, prior_shapes_per_cell(config.anchors, len(sizes))


def matches(config: Config, args: argparse.Namespace) -> np.ndarray:
    """The priors that the objects of an image of the data set are trained on, by feature map.

    Raises:
        UsageError: no such image, or one without objects.
    """
    data = load_data(args.dataset_path, args.split, allow_links=config.data.allow_links)
    if not 0 <= args.index < len(data.records):
        raise UsageError(f"--index must be from 0 to {len(data.records) - 1}, not {args.index}")
    record = data.records[args.index]
    counted = ~record.ignore
    if not counted.any():
        raise UsageError(f"{record.path}: has no objects; choose another with --index")
    boxes = record.boxes_px[counted] / np.tile([record.width, record.height], 2)
    return draw_matches(
        read_image(record.path, (record.width, record.height)),
        boxes,
        record.labels[counted],
        make_priors(config),
        config.anchors,
        data.class_names,
        *_maps(config),
    )


def activations(config: Config, args: argparse.Namespace) -> np.ndarray:
    """Mean activation of each level and scale of the pyramid, as Figure 6 of the paper.

    Raises:
        UsageError: weights that do not fit, or a network without levels.
    """
    if config.model.neck != "mlfpn":
        raise UsageError(f"model.neck={config.model.neck} has no levels to show")
    from mindspore import Tensor

    from ..inference.mindspore_network import load_network
    from ..runtime.device import setup_device
    from ..runtime.graph_cache.cached_cell import Cached

    setup_device(args.device_target, args.device_id)
    model = load_network(config, args.checkpoint_path)
    image = read_image(str(args.image))
    whole = View(config.model.input_size, (0, 0, image.shape[1], image.shape[0]))
    inputs = Tensor(view_input(image, whole, config.data.mean_bgr)[None])
    features = Cached(model.backbone)(inputs)
    maps = [found.asnumpy()[0] for found in Cached(model.neck)(*features)]
    return draw_activations(image, maps, config.model.num_levels)
