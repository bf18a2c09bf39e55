# SPDX-License-Identifier: Apache-2.0
"""Going on with a run from a checkpoint, and starting a new one from another network's weights."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from ..formats.checkpoint import (
    STATE_PREFIX,
    CheckpointError,
    DamagedError,
    load_weights,
    read_checkpoint,
)
from ..runtime.errors import M2DetError
from .callback import list_checkpoints
from .ema import Ema
from .optimizers import Optimizer

LOG = logging.getLogger("m2det.train")
FINGERPRINT = "run"  # its name in a checkpoint
CLASS_HEADS = "head.conf."


class OtherRun(CheckpointError):
    """A checkpoint of a run with another network, other classes, ranks or schedule."""


class UsedFolder(M2DetError):
    """The output folder holds another run, which this one would overwrite."""


def refuse_used(folder: Path, resume: Optional[str]) -> None:
    """Refuse a folder with checkpoints unless the run is resumed from them.

    Args:
        folder: of the run.
        resume: None, "auto", or the checkpoint it goes on from.

    Raises:
        UsedFolder: it does.
    """
    if resume is not None and (
        resume == "auto" or Path(resume).parent.absolute() == folder.absolute()
    ):
        return
    found = sorted(path for path in folder.glob("*") if path.suffix in (".ckpt", ".safetensors"))
    if found:
        raise UsedFolder(
            f"{folder} holds {found[-1].name}: go on with that run by --resume auto, or choose"
            " another --train_url or --set experiment_tag=NAME"
        )


@dataclass
class DrawnSeed:
    """Random seed of the augmentation in a run without `random_seed`, saved for resuming.

    Below 2**24: the ranks share it as a float32.
    """

    value: int

    def state(self) -> Dict[str, np.ndarray]:
        """What resuming needs, by name."""
        return {"drawn_seed": np.array([self.value], np.int32)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` gave."""
        self.value = int(state["drawn_seed"][0])


@dataclass
class Resumable:
    """Everything that changes in the course of a run, and what must not.

    Args:
        model: the network.
        optimizer: its moments and step count.
        fingerprint: settings that must be the same when the run is resumed, e.g. the number of
            ranks; JSON values.
        ema: the average of weights, if there is one.
        others: further parts with `state()`, arrays by name, and `restore(state)`.
    """

    model: nn.Cell
    optimizer: Optimizer
    fingerprint: Mapping[str, Any]
    ema: Optional[Ema] = None
    others: Sequence[Any] = ()

    def parameters(self) -> Dict[str, Parameter]:
        """The optimiser's parameters by name, which are saved beside the weights."""
        return dict(self.optimizer.state())

    def state(self) -> Dict[str, Any]:
        """What a checkpoint holds beside the weights, by name."""
        found: Dict[str, Any] = dict(self.parameters())
        if self.ema is not None:
            found.update(self.ema.state())
        for part in self.others:
            found.update(part.state())
        text = json.dumps(self.fingerprint, sort_keys=True).encode()
        found[FINGERPRINT] = np.frombuffer(text, np.uint8)
        return found

    def restore(self, path: Path, force: bool = False) -> int:
        """Restore from a checkpoint; returns the number of steps done.

        Args:
            path: of the checkpoint.
            force: even of a run with another fingerprint; what does not fit is left as it is.

        Raises:
            OtherRun: the fingerprints differ, and `force` is not set.
            CheckpointError: it does not fit, or holds weights only.
        """
        content = read_checkpoint(path)
        state = {
            name[len(STATE_PREFIX) :]: value.asnumpy()
            for name, value in content.items()
            if name.startswith(STATE_PREFIX)
        }
        if "global_step" not in state:
            raise CheckpointError(f"{path} cannot be resumed from: no global_step in it")
        differences = compare_fingerprints(_saved_fingerprint(state), self.fingerprint)
        if differences and not force:
            raise OtherRun(
                f"{path} is of another run: {'; '.join(differences)}"
                " (--force goes on all the same, --finetune takes the weights only)"
            )
        self._fill(path, state, force)
        return int(state["global_step"][0])

    def _fill(self, path: Path, state: Mapping[str, np.ndarray], force: bool) -> None:
        own = self.parameters()
        shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
        if self.ema is not None:
            shapes.update(self.ema.shapes())
        wrong = [n for n, shape in shapes.items() if n not in state or state[n].shape != shape]
        if wrong and not force:
            raise CheckpointError(f"{path} cannot be resumed from: no fitting {wrong[0]} in it")
        if force:
            for line in load_fitting(self.model, path, replace_heads=False):
                LOG.warning("%s", line)
        else:
            load_weights(self.model, path)
        if self.ema is not None:
            self.ema.restore({n: value for n, value in state.items() if n not in wrong})
        for name, parameter in own.items():
            if name not in wrong:
                parameter.set_data(ms.Tensor(state[name], parameter.dtype))
        for name in wrong:
            LOG.warning("%s: no fitting %s, which begins anew", path, name)
        for part in self.others:
            if set(part.state()) <= set(state):
                part.restore(state)

    def restore_newest(self, folder: Path, prefix: str, force: bool = False) -> int:
        """`restore` from the newest good checkpoint of a folder; 0 where there is none.

        Raises:
            OtherRun: as `restore`, an older one would be no better; or the folder holds
                checkpoints of another backbone or input size, or only a finished network.
            CheckpointError: the newest that can be read does not fit, or none can be read.
        """
        found = list_checkpoints(folder, prefix)
        for path in reversed(found):
            try:
                step = self.restore(path, force)
            except DamagedError as error:
                LOG.warning("passed over: %s", error)
                continue
            LOG.info("going on from %s, step %d", path, step)
            return step
        if found:
            raise CheckpointError(f"{folder}: none of its {len(found)} checkpoints can be read")
        written = sorted(path.name for path in folder.glob("*-*.ckpt"))
        if f"{prefix}-final.ckpt" in written:
            raise OtherRun(
                f"{folder} holds a finished run, {prefix}-final.ckpt, and nothing to resume;"
                " choose another --train_url or experiment_tag"
            )
        others = [name for name in written if name != f"{prefix}-best.ckpt"]
        if others:
            raise OtherRun(
                f"{folder} holds {others[-1]}, of another model.backbone or model.input_size than"
                f" {prefix}; choose another --train_url or experiment_tag"
            )
        LOG.info("nothing to resume in %s: starting anew", folder)
        return 0


def _saved_fingerprint(state: Mapping[str, np.ndarray]) -> Optional[Mapping[str, Any]]:
    if FINGERPRINT not in state:
        return None
    return json.loads(bytes(state[FINGERPRINT].astype(np.uint8)).decode())


def compare_fingerprints(
    saved: Optional[Mapping[str, Any]], present: Mapping[str, Any], prefix: str = ""
) -> List[str]:
    """One line for each setting that differs; one that the checkpoint does not have is skipped."""
    lines: List[str] = []
    for name, value in present.items():
        if saved is None or name not in saved:
            continue
        if isinstance(value, Mapping) and isinstance(saved[name], Mapping):
            lines += compare_fingerprints(saved[name], value, f"{prefix}{name}.")
        elif saved[name] != json.loads(json.dumps(value)):
            lines.append(f"{prefix}{name} was {_short(saved[name])}, is {_short(value)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def load_fitting(net: nn.Cell, path: Path, replace_heads: bool = True) -> List[str]:
    """Load every weight of a checkpoint that fits the network; a line for each that does not.

    Args:
        net: the cell to fill.
        path: a .ckpt or .safetensors file.
        replace_heads: the layers of class scores begin anew even where they would fit: the same
            number of classes need not be the same classes.

    Raises:
        CheckpointError: missing or damaged file, or nothing in it fits.
    """
    content = {n: p for n, p in read_checkpoint(path).items() if not n.startswith(STATE_PREFIX)}
    lines, taken = [], 0
    for name, parameter in net.parameters_dict().items():
        if replace_heads and name.startswith(CLASS_HEADS):
            lines.append(f"{name}: begins anew")
        elif name not in content:
            lines.append(f"{name}: not in {path}, begins anew")
        elif tuple(content[name].shape) != tuple(parameter.shape):
            shapes = f"{tuple(content[name].shape)} there, {tuple(parameter.shape)} here"
            lines.append(f"{name}: {shapes}, begins anew")
        elif not np.isfinite(content[name].asnumpy()).all():
            lines.append(f"{name}: not finite in {path}, begins anew")
        else:
            parameter.set_data(ms.Tensor(content[name].asnumpy(), parameter.dtype))
            taken += 1
    if not taken:
        raise CheckpointError(f"{path}: nothing in it fits the network")
    own = net.parameters_dict()
    return lines + [f"{name}: in {path} only, left out" for name in content if name not in own]
