# SPDX-License-Identifier: Apache-2.0
"""Typed `section.key=value` overrides of nested frozen dataclasses, with checks.

The types and limits stand in the dataclasses; nothing here knows what the keys mean. A field's
metadata may hold "min", "max" and "choices".
"""

import dataclasses
import json
import math
import typing
from dataclasses import field, replace
from typing import Any, Dict, Mapping, Sequence, Tuple, Union

from .errors import M2DetError


def at_least(minimum: float, default: Any) -> Any:
    """A field whose number (or each of them) must not be below `minimum`."""
    return field(default=default, metadata={"min": minimum})


def between(minimum: float, maximum: float, default: Any) -> Any:
    """A field whose number must lie in [minimum, maximum]."""
    return field(default=default, metadata={"min": minimum, "max": maximum})


class ConfigError(M2DetError, ValueError):
    """A preset, section, key or value that does not exist or has the wrong type."""


def override_fields(node: Any, overrides: Sequence[str]) -> Any:
    """The dataclass `node` with each `section.key=value` applied.

    Raises:
        ConfigError: another form, unknown key, or wrong type of value.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"override {text!r} is not of the form section.key=value")
        node = _set(node, key.strip(), value.strip())
    return node


def from_dict(cls: type, values: Any, prefix: str = "") -> Any:
    """An instance of the dataclass `cls` from nested dictionaries; absent keys keep defaults.

    Raises:
        ConfigError: unknown key or wrong type of value.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix[:-1] or 'the configuration'} must hold keys, not {values!r}")
    made: Dict[str, Any] = {}
    for key, value in values.items():
        declared, kind = _field(cls, key, prefix)
        if dataclasses.is_dataclass(kind):
            made[key] = from_dict(typing.cast(type, kind), value, f"{prefix}{key}.")
        else:
            made[key] = _check(value, kind, prefix + key, declared.metadata)
    return cls(**made)


def _set(node: Any, key: str, text: str, prefix: str = "") -> Any:
    """The dataclass `node` with the field at dotted `key` parsed from `text`."""
    head, _, rest = key.partition(".")
    declared, kind = _field(type(node), head, prefix)
    path = prefix + head
    if dataclasses.is_dataclass(kind):
        if not rest:
            keys = ", ".join(f"{path}.{f.name}" for f in dataclasses.fields(kind))
            raise ConfigError(f"{path} is a section; set one of {keys}")
        return replace(node, **{head: _set(getattr(node, head), rest, text, f"{path}.")})
    if rest:
        raise ConfigError(f"unknown key {prefix + key!r}; {path} has no parts")
    return replace(node, **{head: _check(_parse(text, kind), kind, path, declared.metadata)})


def _field(cls: type, key: str, prefix: str) -> Tuple[Any, Any]:
    """The declaration and resolved type of field `key` of a dataclass."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if key not in fields:
        choices = ", ".join(prefix + name for name in fields)
        raise ConfigError(f"unknown key {prefix + key!r}; choose from {choices}")
    return fields[key], typing.get_type_hints(cls)[key]


def _parse(text: str, kind: Any) -> Any:
    """Text of the command line as a JSON value; bare words stay strings and `1,2` is a list."""
    if kind is str:
        return text
    if typing.get_origin(kind) is tuple and not text.startswith("["):
        text = f"[{text}]"
    try:
        return json.loads(
            {"True": "true", "False": "false", "None": "null", "none": "null"}.get(text, text)
        )
    except ValueError:
        return text


def _check(value: Any, kind: Any, path: str, metadata: Mapping[str, Any]) -> Any:
    """`value` as `kind`, or a ConfigError. Whole numbers are taken where any number is declared."""
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise ConfigError(f"{path} must be one of {', '.join(choices)}, not {value!r}")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Union:
        return None if value is None else _check(value, arguments[0], path, metadata)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_check(item, arguments[0], path, metadata) for item in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and number and math.isfinite(value):
        value = float(value)
    elif not isinstance(value, kind if isinstance(kind, type) else ()) or (
        isinstance(value, bool) and kind is not bool
    ):
        raise ConfigError(f"{path} must be {_describe(kind)}, not {value!r}")
    if number and value < metadata.get("min", -math.inf):
        raise ConfigError(f"{path} must be at least {metadata['min']}, not {value!r}")
    if number and value > metadata.get("max", math.inf):
        raise ConfigError(f"{path} must be at most {metadata['max']}, not {value!r}")
    return value


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list of {_describe(typing.get_args(kind)[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(
        kind, str(kind)
    )
