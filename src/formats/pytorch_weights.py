# SPDX-License-Identifier: Apache-2.0
"""Weights between PyTorch state dicts and the parameters of this project. NumPy only.

PyTorch itself is imported where a file is read or written. "Official" is the layout of the official
M2Det code, or that of a backbone's own checkpoint; see `src/formats/pytorch_keys.py`.
"""

import io
import pickle
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

from ..runtime.files import write_atomically
from .pytorch_keys import ConversionError, reason_unused, strip_module

Arrays = Mapping[str, np.ndarray]
KeysOf = Callable[[str], Sequence[str]]
_COUNTER = "num_batches_tracked"
_WRAPPERS = ("state_dict", "model", "net", "weights")


@dataclass(frozen=True)
class Converted:
    """`weights` by parameter name; `unused` counts the source keys left out, by reason."""

    weights: Dict[str, np.ndarray]
    unused: Dict[str, int]


def read_pytorch(path: Path) -> Dict[str, np.ndarray]:
    """The tensors of a PyTorch file as {key: array}, floats as float32, without `module.`.

    Nothing but tensors and plain containers is unpickled: a file with anything else is refused
    before any of it runs.

    Raises:
        ConversionError: missing, damaged, holding code or no tensors, or PyTorch is not installed.
    """
    content = _load(path)
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]

    if not isinstance(content, dict) or not content:
        raise ConversionError(f"{path}: expected a state dict, found {type(content).__name__}")
    for key, value in content.items():
        kind = _odd_kind(value)
        if kind:
            found = f"{key!r:.100} of type {kind}"
            raise ConversionError(f"{path}: expected a state dict of plain tensors, found {found}")
    try:
        plain = strip_module([str(key) for key in content])
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None
    return {plain[str(key)]: _to_numpy(value) for key, value in content.items()}


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ConversionError(f"{path}: not found")
    try:
        import torch
    except ImportError:
        message = f"{path}: reading it needs PyTorch, see requirements-dev.txt"
        raise ConversionError(message) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of odd files, the errors say too
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        found = f"a reference to {code.group(1)}, which could run code" if code else "other content"
        raise ConversionError(
            f"{path}: refused and not run, expected a PyTorch file of tensors only, found {found}"
            f"{'' if code else ' or damage'}"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:100]
        raise ConversionError(f"{path}: damaged, or not a PyTorch file ({reason})") from None


def _odd_kind(value: Any) -> str:
    """What a value is that NumPy has no form for; "" for a plain tensor."""
    import torch

    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    odd = {
        "nested tensor": value.is_nested,
        "meta tensor, without values": value.is_meta,
        "quantised tensor": value.is_quantized,
        f"sparse tensor ({value.layout})": value.layout != torch.strided,
        "complex tensor": value.is_complex(),
    }
    return next((name for name, found in odd.items() if found), "")


def _to_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def from_official(
    state: Arrays, expected: Mapping[str, Tuple[int, ...]], keys_of: KeysOf
) -> Converted:
    """The weights of a network out of an official state dict.

    Args:
        state: {key: array}.
        expected: {parameter name: shape} of the whole network.
        keys_of: the official keys of a parameter; where they are several, all must agree.

    Raises:
        ConversionError: parameters are not there or have another shape, keys have no place, keys
            that share a module disagree, or values are not finite; the first few are named.
    """
    keys = {name: list(keys_of(name)) for name in expected}
    problems = _misfits(state, expected, keys)
    used = {key for several in keys.values() for key in several}
    unused: Dict[str, int] = defaultdict(int)
    for key in state.keys() - used:
        unused[reason_unused(key)] += 1
    problems += [
        f"found {key}, which the network has no place for"
        for key in state
        if key not in used and not reason_unused(key)
    ]
    problems = problems or _disagreements(state, keys)
    if problems:
        raise ConversionError(_join(problems))
    check_finite(state, [key for key in state if key in used])
    weights = {
        name: state[several[0]].astype(np.float32, copy=False) for name, several in keys.items()
    }
    return Converted(weights, dict(unused))


def _misfits(
    state: Arrays, expected: Mapping[str, Tuple[int, ...]], keys: Mapping[str, Sequence[str]]
) -> List[str]:
    problems = []
    for name, shape in expected.items():
        for key in keys[name]:
            if key not in state:
                problems.append(f"expected {key} of shape {_text(shape)}, found no such key")
            elif state[key].shape != tuple(shape):
                found = _text(state[key].shape)
                problems.append(f"expected {key} of shape {_text(shape)} for {name}, found {found}")
    return problems


def _disagreements(state: Arrays, keys: Mapping[str, Sequence[str]]) -> List[str]:
    found: Dict[str, List[str]] = defaultdict(list)
    for first, *others in keys.values():
        for key in others:
            if not np.array_equal(state[first], state[key], equal_nan=True):
                found[_module(first)].append(_module(key))
    return [
        f"expected {', '.join(dict.fromkeys(others))} to repeat {first}, found other values"
        for first, others in found.items()
    ]


def check_finite(state: Arrays, keys: Iterable[str]) -> None:
    """Refuse NaN and infinity in the arrays of `keys`.

    Raises:
        ConversionError: naming the first few.
    """
    counts = {key: int((~np.isfinite(state[key])).sum()) for key in keys}
    problems = [
        f"expected finite numbers, found {count} of {state[key].size} in {key} that are not"
        for key, count in counts.items()
        if count
    ]
    if problems:
        raise ConversionError(_join(problems))


def to_official(weights: Arrays, keys_of: KeysOf) -> Dict[str, np.ndarray]:
    """The official state dict of a network's weights; keys of one module share one array.

    Counters of training steps, which are not kept here, are zero.
    """
    state: Dict[str, np.ndarray] = {}
    for name, values in weights.items():
        keys = list(keys_of(name))
        state.update(dict.fromkeys(keys, values))
        if name.endswith(".moving_variance"):
            counter = np.zeros((), np.int64)
            state.update({f"{_parent(key)}.{_COUNTER}": counter for key in keys})
    return state


def unused_classifier(state: Arrays) -> Dict[str, np.ndarray]:
    """The ImageNet classifier that the official code expects under ResNet and SE backbones: zeros.

    `state` is the rest of the official state dict.
    """
    last = state.get("up_reduce.conv.weight")
    if last is None or "base.0.weight" in state:
        return {}
    name = "base.last_linear" if "base.layer0.conv1.weight" in state else "base.fc"
    zeros = np.zeros((1000, last.shape[1]), np.float32)
    return {f"{name}.weight": zeros, f"{name}.bias": np.zeros(1000, np.float32)}


def write_pytorch(state: Arrays, path: Path) -> None:
    """Write a state dict with `torch.save`, whole or not at all; shared arrays stay shared.

    Raises:
        ConversionError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        message = f"{path}: writing it needs PyTorch, see requirements-dev.txt"
        raise ConversionError(message) from None
    made: Dict[int, Any] = {}
    for values in state.values():
        made.setdefault(id(values), torch.from_numpy(np.array(values)))
    content = io.BytesIO()  # of a full disk torch says what it expected at which position
    torch.save({key: made[id(values)] for key, values in state.items()}, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def _parent(key: str) -> str:
    return key.rpartition(".")[0]


def _module(key: str) -> str:
    """`leach.3` of `leach.3.bn.weight`, `sfam_module.fc1.3` of `sfam_module.fc1.3.bias`."""
    found = re.match(r"(leach\.\d+|sfam_module\.fc\d\.\d+)", key)
    return found.group(1) if found else key


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"


def _join(problems: Sequence[str], shown: int = 5) -> str:
    more = f"; and {len(problems) - shown} more" if len(problems) > shown else ""
    return "; ".join(problems[:shown]) + more
