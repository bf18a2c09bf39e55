# SPDX-License-Identifier: Apache-2.0
"""Everything about a cell that can go into its compiled graph, as one digest.

Values of parameters are inputs of a graph and are left out; tensors, numbers, texts, flags and
operators' attributes are constants in it and count in full. Whatever is not understood is refused,
and what only may matter is taken in: a needless compilation costs seconds, a wrong graph a run.
"""

import functools
import hashlib
import inspect
import types
from enum import Enum
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Set

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

# Attributes that differ between processes or calls and do not affect the graph.
_PASSING = {
    *("_create_time", "_cell_init_args", "_compile_cache", "_phase_cache", "_compile_phase"),
    *("arguments_key", "_params_list", "_jit_graph_name", "_compiled", "_id", "_exist_objs"),
    *("_exist_names", "_init_flag", "_is_check_and_refresh", "_lazy_construct_sig"),
    *("_lazy_user_parameters", "_has_mutable_args_list", "instance_name", "compile_phase"),
    *("current_phase", "__compile_cell_hook__", "sequence_modified", "__parse_method__"),
    *("_scope", "weight_init", "bias_init"),  # initialisers: they have been used
}
_A_TIME = 10**15  # numbers beyond it in MindSpore's own closures are times of creation
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


class Unknown(ValueError):
    """An object whose effect on a graph is not known."""


def graph_digest(cell: nn.Cell, inputs: Iterable[Any]) -> str:
    """A digest of `cell` called with `inputs`, the same in every process.

    Raises:
        Unknown: it holds something that cannot be described.
    """
    hasher = _Hasher()
    hasher.add(cell)
    for x in inputs:
        hasher.note("input", x.shape, x.dtype, isinstance(x, Parameter), x.const_arg)
    for path in sorted(hasher.sources):
        hasher.note(hashlib.sha256(Path(path).read_bytes()).hexdigest())
    return hasher.digest.hexdigest()


class _Hasher:
    """Walks through objects and hashes each; one that comes again is hashed by its number."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.sources: Set[str] = set()  # files that classes and functions come from
        self._met: Dict[int, int] = {}
        self._references: List[Any] = []  # so that no two objects have one id
        self._kinds: List[Any] = [
            (_PLAIN, lambda x: self.note(type(x).__name__, repr(x))),
            (Parameter, self._parameter),
            (Tensor, lambda x: self._array(x.asnumpy(), x.dtype)),
            ((np.ndarray, np.generic), lambda x: self._array(np.asarray(x))),
            ((list, tuple), self._sequence),
            (dict, lambda x: self._mapping(x, ())),
            ((set, frozenset), lambda x: self._sequence(sorted(x, key=repr))),
            (type, lambda x: self._source(x)),
            (Enum, lambda x: self.note(str(x))),
            (functools.partial, lambda x: self._sequence((x.func, x.args, x.keywords))),
            (types.MethodType, lambda x: self._sequence((x.__self__, x.__func__.__qualname__))),
            (types.FunctionType, self._function),
            ((types.BuiltinFunctionType, np.dtype), lambda x: self.note(str(x))),
        ]

    def note(self, *words: Any) -> None:
        for word in words:
            text = str(word).encode()
            self.digest.update(b"%d:%s" % (len(text), text))

    def add(self, value: Any) -> None:
        if not isinstance(value, (*_PLAIN, tuple)):
            if id(value) in self._met:
                return self.note("again", self._met[id(value)])
            self._met[id(value)] = len(self._met)
            self._references.append(value)
        for kinds, describe in self._kinds:
            if isinstance(value, kinds):
                return describe(value)
        return self._object(value)

    def _parameter(self, value: Parameter) -> None:
        self.note("parameter", value.name, value.shape, value.dtype, value.requires_grad)

    def _array(self, value: np.ndarray, kind: Any = None) -> None:
        self.note("array", value.shape, value.dtype, kind)
        if value.dtype.hasobject:
            raise Unknown("an array of objects")
        self.digest.update(np.ascontiguousarray(value).tobytes())

    def _sequence(self, values: Any) -> None:
        self._source(type(values))
        self.note(len(values))
        for value in values:
            self.add(value)

    def _mapping(self, values: Dict[Any, Any], left_out: Iterable[str]) -> None:
        names = [name for name in values if name not in left_out]
        self.note("mapping", len(names))
        for name in names:
            self.add(name)
            self.add(values[name])

    def _function(self, value: types.FunctionType) -> None:
        self._source(value)
        self.add(value.__defaults__)
        self.add(value.__kwdefaults__)
        for cell in value.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # not filled yet
                inside = None
            ours = not value.__module__.startswith("mindspore.")
            if ours or not isinstance(inside, int) or inside < _A_TIME:
                self.add(inside)

    def _source(self, value: Callable[..., Any]) -> None:
        """The name of a class or function; its file, unless MindSpore's version says it all."""
        self.note(value.__module__, value.__qualname__)
        if value.__module__.split(".")[0] in ("builtins", "collections", "mindspore"):
            return
        try:
            self.sources.add(str(inspect.getsourcefile(value)))
        except (TypeError, OSError):
            raise Unknown(f"{value.__qualname__}, whose source is not there") from None

    def _object(self, value: Any) -> None:
        """A cell, an operator, or another object of MindSpore's."""
        kind = type(value)
        if isinstance(value, ms.common.dtype.Type) or hasattr(
            kind, "__members__"
        ):  # an enum in C++
            return self.note(str(value))
        ours = isinstance(value, (nn.Cell, ms.ops.Primitive))
        if not ours and not kind.__module__.startswith("mindspore."):
            raise Unknown(f"{kind.__module__}.{kind.__qualname__}")
        if not hasattr(value, "__dict__"):
            raise Unknown(f"{kind.__module__}.{kind.__qualname__}")
        self._source(kind)
        # MindSpore fills empty private attributes with empty ones of another type
        empty = [n for n, v in vars(value).items() if n[0] == "_" and (v is None or v == {})]
        return self._mapping(vars(value), {*_PASSING, *empty})
