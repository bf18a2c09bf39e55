# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's network as an ONNX file in the user's cache, for ONNX Runtime on a CPU.

It is made by MindSpore once, compared with the network as every export, and starts without
MindSpore from then on. `M2DET_CACHE` says where, or "off" (`src.runtime.graph_cache.store`).
"""

import importlib.util
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Optional, Sequence

from ..formats.exported_network import Exported, load_exported
from ..runtime.errors import M2DetError
from ..runtime.files import file_sha256
from ..runtime.graph_cache.store import (
    MOST_BYTES,
    MOST_DAYS,
    CacheError,
    Store,
    cache_folder,
    digest_of_files,
    digest_of_json,
)
from .open_network import EXPORTED, NetworkFile, read_network_file

LARGEST_BYTES = 2**28  # of a checkpoint: larger ones would fill the cache
PACKAGES = ("onnx", "onnxruntime")
LOG = logging.getLogger("m2det.detector")


def cached_onnx(checkpoint: Path, overrides: Sequence[str] = ()) -> Optional[NetworkFile]:
    """The network of a checkpoint for ONNX Runtime, written into the cache at the first time.

    None where that cannot be: for another kind of file or a large one, several input sizes
    (`test.multi_scale`), packages that are missing, no cache, or a network that ONNX cannot hold.

    Raises:
        ValueError: no such file, or a configuration that makes no sense.
    """
    folder = cache_folder(os.environ)
    if checkpoint.suffix in EXPORTED or folder is None:
        return None
    network = read_network_file(checkpoint, None, overrides)
    other_sizes = set(network.config.test.multi_scale) - {network.config.model.input_size}
    if other_sizes or checkpoint.stat().st_size > LARGEST_BYTES:
        return None
    if not all(map(importlib.util.find_spec, PACKAGES)):
        return None
    try:
        store = Store(folder / "onnx", ending=".onnx")
        path = store.path(_key(network))
        exported = _cached(path)
        if exported is None:
            LOG.warning("writing the network for ONNX Runtime into the cache, once: %s", path)
            _write(network, path)
            store.prune(MOST_BYTES, MOST_DAYS)
            exported = load_exported(path)
    except (CacheError, M2DetError, OSError) as error:
        LOG.info("without ONNX Runtime: %s", error)
        return None
    return replace(network, path=path, exported=exported)


def _key(network: NetworkFile) -> str:
    """A digest of the weights, the form of the network, and the code that writes it."""
    code = digest_of_files((Path(__file__).parents[1]).rglob("*.py"))
    return digest_of_json([file_sha256(network.path), asdict(network.config.model), code])


def _cached(path: Path) -> Optional[Exported]:
    """The network in the cache, or None."""
    try:
        exported = load_exported(path)
        os.utime(path)  # what is used stays longest
        os.utime(f"{path}.json")
    except (M2DetError, OSError):  # not there, or damaged
        return None
    return exported


def _write(network: NetworkFile, path: Path) -> None:
    from ..formats.export_metadata import Request, labels_for
    from ..formats.export_network import check_request, export_network
    from ..runtime.device import setup_device
    from .mindspore_network import load_network

    request = Request("ONNX", batch_size=0, fold=True)
    config = network.config
    check_request(request, config, path)
    labels = labels_for(config, network.labels, network.path)
    setup_device("CPU")
    export_network(load_network(config, network.path), config, labels, request, {}, path)
