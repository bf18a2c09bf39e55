# SPDX-License-Identifier: Apache-2.0
"""Configurations as files: JSON and YAML read, YAML with a description of each key written."""

import dataclasses
import json
import re
import textwrap
import typing
from pathlib import Path
from typing import Any, Dict, Iterable, List, Tuple, Union

from .errors import one_line
from .typed_config import ConfigError, describe_values

ENDINGS = (".json", ".yaml", ".yml")
_MOST_BYTES = 256 * 1024
# As in YAML 1.2: PyYAML takes 1e-3, without a point, for text.
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


def is_config_file(name: str) -> bool:
    """Whether a name is that of a configuration file, by its ending."""
    return Path(name).suffix.lower() in ENDINGS


def read_config_file(name: Union[str, Path]) -> Any:
    """What a .json or .yaml file holds: nested dictionaries, if it is a configuration.

    Raises:
        ConfigError: it cannot be read or parsed; the message names the file.
    """
    path = Path(name)
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: larger than {_MOST_BYTES >> 10} KB, not a configuration")
    try:
        text = content.decode("utf-8-sig")
        return parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ConfigError: not JSON, or a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ConfigError("not a configuration: nested too deeply") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: not YAML, or a key twice.
    """
    import yaml  # not at the top: few runs have such a file

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _once((key.value, None) for key, _ in node.value if key.id == "scalar")
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except RecursionError:
        raise ConfigError("not a configuration: nested too deeply") from None
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"not YAML{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"not YAML: {one_line(error)}") from None


def _once(pairs: Iterable[Tuple[Any, Any]]) -> Dict[Any, Any]:
    found: Dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"holds {str(key)[:60]!r} twice")
        found[key] = value
    return found


def as_yaml(node: Any) -> str:
    """The dataclass `node` as YAML, with a description of each key."""
    lines, single = [], []
    for declared in dataclasses.fields(node):
        part = getattr(node, declared.name)
        if not dataclasses.is_dataclass(part):
            single.append(_yaml_line(declared, part))
            continue
        lines.append(f"{declared.name}:")
        lines += [f"  {_yaml_line(f, getattr(part, f.name))}" for f in dataclasses.fields(part)]
    return "\n".join([*single, *lines]) + "\n"


def _yaml_line(declared: "dataclasses.Field[Any]", value: Any) -> str:
    return f"{declared.name}: {json.dumps(value)}  # {declared.metadata['about']}"


def keys_as_text(node: Any, width: int = 80) -> str:
    """Every key of the dataclass `node` with its value, what it takes, and what it is."""
    lines: List[str] = []
    for section, part in [("", node), *vars(node).items()]:
        if not dataclasses.is_dataclass(part):
            continue
        for declared in dataclasses.fields(part):
            value = getattr(part, declared.name)
            if dataclasses.is_dataclass(value):
                continue
            key = f"{section}.{declared.name}" if section else declared.name
            words = describe_values(typing.cast(type, type(part)), declared.name)
            about = f"{declared.metadata['about']}; {words}"
            lines.append(f"  {key} = {shown(value)}")
            lines += textwrap.wrap(about, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple):
        nested = bool(value) and isinstance(value[0], tuple)
        return json.dumps(value) if nested else ",".join(map(shown, value)) or "[]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
