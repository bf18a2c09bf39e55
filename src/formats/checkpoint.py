# SPDX-License-Identifier: Apache-2.0
"""Files of a run: checkpoints, `config.json` and `labels.json`, written atomically.

MindSpore is imported by the functions that read or write tensors: an ONNX file needs labels and no
framework.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..config import Config, ConfigError, from_json, get_config, to_json
from ..runtime.errors import M2DetError, one_line, printable_name
from ..runtime.files import replacing, write_atomically, write_json

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import nn

CONFIG_NAME = "config.json"
LABELS_NAME = "labels.json"
# Names of what a checkpoint holds besides weights (momentum, step), for resuming.
STATE_PREFIX = "state/"


class CheckpointError(M2DetError, ValueError):
    """A weights file that is missing, damaged, or made for another network."""


class DamagedError(CheckpointError):
    """A weights file that is there and cannot be read."""


@dataclass(frozen=True)
class Labels:
    """Names of a network's classes; saved beside its checkpoints.

    `class_names[i]` and `category_ids[i]` (the data set's own number) belong to label i + 1.
    """

    class_names: Tuple[str, ...]
    category_ids: Tuple[int, ...]


def resolve_config(name: Optional[str], overrides: Sequence[str], checkpoint: Path) -> Config:
    """The preset or file `name`, else what is saved beside `checkpoint`; with overrides.

    Raises:
        ConfigError: unknown names or values, or no `config.json` beside the checkpoint.
        CheckpointError: no checkpoint there either.
    """
    if name is not None:
        return get_config(name, overrides)
    path = checkpoint.parent / CONFIG_NAME
    if not path.is_file():
        if not checkpoint.is_file():
            raise no_checkpoint(checkpoint)
        if checkpoint.suffix.lower() in (".mindir", ".onnx"):
            raise CheckpointError(f"{checkpoint}: expected a checkpoint (.ckpt or .safetensors)")
        raise ConfigError(f"{path} not found; give the preset with --config")
    return get_config(str(path), overrides)


def save_config(folder: Path, config: Config, labels: Optional[Labels] = None) -> None:
    """Write `config.json`, and `labels.json` where the classes are known, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CONFIG_NAME, to_json(config))
    if labels is not None:
        content = {"class_names": labels.class_names, "category_ids": labels.category_ids}
        write_json(folder / LABELS_NAME, content, indent=2, ensure_ascii=False)


def load_labels(checkpoint: Path) -> Optional[Labels]:
    """The labels saved beside a checkpoint, or None.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = checkpoint.parent / LABELS_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names, numbers = (
            _list_of(str, content["class_names"]),
            _list_of(int, content["category_ids"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: expected JSON with class_names and category_ids") from None
    if len(names) != len(numbers):
        raise CheckpointError(f"{path}: {len(names)} class_names and {len(numbers)} category_ids")
    odd = [name for name in names if not printable_name(name)]
    if odd:
        raise CheckpointError(f"{path}: class name {odd[0]!r} is empty or holds control characters")
    for key, values in (("class name", names), ("category id", numbers)):
        twins = [value for value, count in Counter(values).items() if count > 1]
        if twins:
            raise CheckpointError(f"{path}: {key} {twins[0]!r} stands there twice")
    return Labels(names, numbers)


def _list_of(kind: type, values: Any) -> Tuple[Any, ...]:
    """A JSON list whose values are all of type `kind`, as a tuple.

    Raises:
        TypeError: something else.
    """
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise TypeError
    return tuple(values)


def save_checkpoint(parameters: Mapping[str, ms.Tensor], path: Path) -> None:
    """Write named tensors to `path` (.ckpt with a checksum, or .safetensors), atomically.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    import mindspore as ms

    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix[1:]
    if kind not in ("ckpt", "safetensors"):
        raise CheckpointError(f"{path}: a checkpoint's name must end in .ckpt or .safetensors")
    content = [{"name": name, "data": ms.Tensor(data)} for name, data in parameters.items()]
    logging.disable(logging.CRITICAL)  # MindSpore logs what the exception says
    try:
        with replacing(path) as temporary:
            draft = temporary.with_suffix(".tmp")  # where MindSpore writes first
            try:
                ms.save_checkpoint(content, str(temporary), format=kind, crc_check=kind == "ckpt")
            finally:
                draft.unlink(missing_ok=True)
            temporary.chmod(0o644)  # MindSpore leaves it read-only for its owner alone
    except (OSError, RuntimeError) as error:
        reason = one_line(error)
        raise OSError(f"checkpoint {path} cannot be written: {reason}") from None
    finally:
        logging.disable(logging.NOTSET)


def no_checkpoint(path: Path) -> CheckpointError:
    """The error for a path at which there is no file."""
    if path.is_dir():
        return CheckpointError(f"checkpoint {path} is a folder; name a file in it")
    return CheckpointError(f"checkpoint {path} not found")


def read_checkpoint(path: Path) -> Dict[str, ms.Parameter]:
    """Every tensor of a .ckpt or .safetensors file by name.

    Raises:
        CheckpointError: no such file.
        DamagedError: it cannot be read.
    """
    if not path.is_file():
        raise no_checkpoint(path)
    import mindspore as ms

    kind = "safetensors" if path.suffix == ".safetensors" else "ckpt"
    logging.disable(logging.CRITICAL)  # MindSpore logs what the exception says
    try:
        flags = {"format": kind, "crc_check": kind == "ckpt"}
        content = ms.load_checkpoint(str(path), **flags) if path.stat().st_size else {}
    except Exception as error:  # MindSpore raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:120]
        message = f"checkpoint {path} cannot be read: damaged, or no checkpoint ({reason})"
        raise DamagedError(message) from None
    finally:
        logging.disable(logging.NOTSET)
    if not content:
        raise DamagedError(f"checkpoint {path} holds no parameters")
    return content


def load_weights(net: nn.Cell, path: Any, prefix: str = "") -> None:
    """Load a checkpoint into `net`; every parameter must be there with its shape, and no other.

    Args:
        net: the cell to fill.
        path: a .ckpt or .safetensors file.
        prefix: only names that start with it are looked at, e.g. "backbone.".

    Raises:
        CheckpointError: missing or damaged file, or any mismatch; the first three are named.
    """
    import mindspore as ms

    path = Path(path)
    loaded = read_checkpoint(path)
    weights = {
        name: p
        for name, p in loaded.items()
        if name.startswith(prefix) and not name.startswith(STATE_PREFIX)
    }
    own = net.parameters_dict()
    problems = mismatches(
        {n: p.shape for n, p in own.items()}, {n: p.shape for n, p in weights.items()}
    )
    problems += [
        f"{name} holds values that are not finite"
        for name, p in weights.items()
        if p.dtype.is_floating_point and not np.isfinite(p.asnumpy()).all()
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the network: {_few(problems)}{_made_for(path)}")
    for name, parameter in own.items():
        parameter.set_data(ms.Tensor(weights[name].asnumpy(), parameter.dtype))


def _few(problems: Sequence[str], shown: int = 3) -> str:
    more = f"; and {len(problems) - shown} more" if len(problems) > shown else ""
    return "; ".join(problems[:shown]) + more


def _made_for(path: Path) -> str:
    """End of an error message: the preset named in `config.json` beside the checkpoint."""
    try:
        tag = from_json((path.parent / CONFIG_NAME).read_text(encoding="utf-8")).experiment_tag
    except (OSError, ValueError):
        return ""
    return f" (it was made with {tag}, see {path.parent / CONFIG_NAME})"


def mismatches(
    expected: Dict[str, Tuple[int, ...]], found: Dict[str, Tuple[int, ...]]
) -> List[str]:
    """One line for each name that is missing, unknown or of another shape."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not a parameter of it" for name in found if name not in expected]
    for name, shape in expected.items():
        if name in found and tuple(found[name]) != tuple(shape):
            problems.append(f"{name} has shape {tuple(found[name])}, expected {tuple(shape)}")
    return problems
