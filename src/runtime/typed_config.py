# SPDX-License-Identifier: Apache-2.0
"""Typed `section.key=value` overrides of nested frozen dataclasses, with checks.

The types and limits stand in the dataclasses; nothing here knows what the keys mean. A field's
metadata is what `setting` puts there.
"""

import dataclasses
import difflib
import json
import logging
import math
import re
import reprlib
import typing
from dataclasses import field, replace
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

from .errors import M2DetError

LOG = logging.getLogger("m2det.config")
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_REPR.maxlevel = 3
_NAME = re.compile(r"(?!\.\.?$)[^/\\]{1,200}")  # of one folder


def setting(
    default: Any,
    about: str,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    choices: Sequence[str] = (),
    count: Tuple[float, float] = (0, math.inf),
    name: bool = False,
    or_zero: bool = False,
) -> Any:
    """A field of a configuration.

    Args:
        default: its value where nothing else is asked for.
        about: what it is, in a few words, for lists of keys.
        least, most: ends of the range of its number, or of each of its numbers.
        above: what they must exceed.
        choices: the texts it may be; empty: any.
        count: how few and how many values a list may have.
        name: the text names a folder.
        or_zero: 0 is taken besides what is in the range.
    """
    limits = {"least": least, "most": most, "above": above, "count": count}
    limits.update(name=name, or_zero=or_zero)
    return field(default=default, metadata={"about": about, "choices": choices, **limits})


class ConfigError(M2DetError, ValueError):
    """A preset, section, key or value that does not exist or has the wrong type."""


def override_fields(
    node: Any,
    overrides: Sequence[str],
    renamed: Mapping[str, str] = MappingProxyType({}),
    forms: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({}),
) -> Any:
    """The dataclass `node` with each `section.key=value` applied.

    Args:
        overrides: a single one may be given as it is.
        renamed: keys of today by those of before.
        forms: for a section, names that set several of its keys: `section=name`.

    Raises:
        ConfigError: another form, unknown key, or wrong type of value.
    """
    for text in [overrides] if isinstance(overrides, str) else overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"override {_short(text)} is not of the form section.key=value")
        if value in forms.get(key, ()):
            node = update_fields(node, {key: forms[key][value]})
            continue
        known, key = keys_of(type(node)), _renamed(key, renamed)
        if not any(name == key or f"{name}.".startswith(f"{key}.") for name in known):
            raise ConfigError(f"unknown key {_short(key)}{nearest(key, known) or _sections(node)}")
        node = _set(node, key, value)
    return node


def update_fields(
    node: Any,
    values: Any,
    renamed: Mapping[str, str] = MappingProxyType({}),
    prefix: str = "",
) -> Any:
    """The dataclass `node` with what nested dictionaries hold; absent keys stay.

    Raises:
        ConfigError: unknown key or wrong type of value.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{prefix[:-1] or 'the configuration'} must hold keys, not {_short(values)}"
        )
    made: Dict[str, Any] = {}
    for old, value in values.items():
        key = _renamed(f"{prefix}{old}", renamed)[len(prefix) :]
        declared, kind = _field(type(node), key, prefix)
        if dataclasses.is_dataclass(kind):
            made[key] = update_fields(getattr(node, key), value, renamed, f"{prefix}{key}.")
        else:
            made[key] = _check(value, kind, prefix + key, declared.metadata)
    return replace(node, **made)


def _renamed(key: str, renamed: Mapping[str, str]) -> str:
    """A key's name of today."""
    if key in renamed:
        LOG.warning("%s is called %s now", key, renamed[key])
    return renamed.get(key, key)


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
    return replace(node, **{head: _check(_parse(text, kind), kind, path, declared.metadata)})


def _field(cls: type, key: str, prefix: str) -> Tuple[Any, Any]:
    """The declaration and resolved type of field `key` of a dataclass."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if key not in fields:
        near = nearest(prefix + key, [prefix + name for name in fields])
        raise ConfigError(f"unknown key {_short(prefix + key)}{near}")
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
    except (ValueError, RecursionError):
        return text


def _check(value: Any, kind: Any, path: str, metadata: Mapping[str, Any]) -> Any:
    """`value` as `kind`, or a ConfigError. Whole numbers are taken where any number is declared."""
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{path} must be one of {', '.join(choices)}, not {_short(value)}")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Union:
        return None if value in (None, "none") else _check(value, arguments[0], path, metadata)
    if origin is tuple and isinstance(value, (list, tuple)):
        few, many = metadata.get("count", (0, math.inf))
        if not few <= len(value) <= many:
            wanted = f"at least {few}" if len(value) < few else f"at most {many}"
            wanted = str(few) if few == many else wanted
            raise ConfigError(f"{path} must hold {wanted} values, not {len(value)}")
        return tuple(_check(item, arguments[0], path, metadata) for item in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not _finite(value):
        raise ConfigError(f"{path} must be {_describe(kind)}, not {_short(value)}")
    if kind is float and number:
        value = float(value)
    if not isinstance(value, kind if isinstance(kind, type) else ()) or (
        isinstance(value, bool) and kind is not bool
    ):
        raise ConfigError(f"{path} must be {_describe(kind)}, not {_short(value)}")
    if number:
        _check_range(typing.cast(float, value), path, metadata)
    name = str(value)
    if metadata.get("name") and (not _NAME.fullmatch(name) or not name.isprintable()):
        raise ConfigError(f"{path} must be a name for a folder, not {_short(value)}")
    return value


def _check_range(value: float, path: str, metadata: Mapping[str, Any]) -> None:
    or_zero = metadata.get("or_zero", False)
    if or_zero and value == 0:
        return
    if value < metadata.get("least", -math.inf):
        least = f"{'0 or ' * or_zero}at least {metadata['least']}"
        raise ConfigError(f"{path} must be {least}, not {_short(value)}")
    if value > metadata.get("most", math.inf):
        raise ConfigError(f"{path} must be at most {metadata['most']}, not {_short(value)}")
    if value <= metadata.get("above", -math.inf):
        raise ConfigError(f"{path} must be above {metadata['above']}, not {_short(value)}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _short(value: Any) -> str:
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python prints no number of thousands of digits
        return "a number too long to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sections(node: Any) -> str:
    return f"; its first part is one of {', '.join(f.name for f in dataclasses.fields(node))}"


def keys_of(cls: type, prefix: str = "") -> List[str]:
    """Every dotted key of the dataclass `cls`, in order."""
    found: List[str] = []
    kinds = typing.get_type_hints(cls)
    for declared in dataclasses.fields(cls):
        kind = kinds[declared.name]
        if dataclasses.is_dataclass(kind):
            found += keys_of(typing.cast(type, kind), f"{prefix}{declared.name}.")
        else:
            found.append(prefix + declared.name)
    return found


def nearest(word: str, known: Sequence[str]) -> str:
    """ ": did you mean ...?" for the name nearest to `word`, or nothing."""
    section, _, name = word.rpartition(".")
    initials = "".join(part[:1] for part in name.split("_"))  # learning_rate is lr
    found = [k for k in known if k in (initials, f"{section}.{initials}")]
    found = found or difflib.get_close_matches(word, known, 1, 0.55)
    if not found:  # the right word in the wrong section, or without one
        last = {k.rpartition(".")[2]: k for k in reversed(known)}
        found = [last[k] for k in difflib.get_close_matches(name, list(last), 1, 0.6)]
    return f": did you mean {found[0]}?" if found else ""


def describe_values(cls: type, key: str) -> str:
    """What the field `key` of a dataclass takes: type and range, or the choices."""
    declared, kind = _field(cls, key, "")
    known = declared.metadata
    if known["choices"]:
        return ", ".join(known["choices"])
    least, most, above = known["least"], known["most"], known["above"]
    parts = [f"from {_number(least)}"] if math.isfinite(least) else []
    parts += [f"above {_number(above)}"] if math.isfinite(above) else []
    parts += [f"to {_number(most)}"] if math.isfinite(most) else []
    optional = typing.get_origin(kind) is Union
    words = [_describe(typing.get_args(kind)[0] if optional else kind), *parts]
    return "none or " * optional + "0 or " * known["or_zero"] + " ".join(words)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _describe(kind: Any, many: bool = False) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return f"{'lists' if many else 'a list'} of {_describe(arguments[0], True)}"
    if kind is bool:
        return "true or false"
    one = {int: "a whole number", float: "a number", str: "text"}[kind]
    return f"{one.removeprefix('a ')}s" if many else one
