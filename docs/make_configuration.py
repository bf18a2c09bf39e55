# SPDX-License-Identifier: Apache-2.0
"""Writes docs/configuration.md from src/config.py: `python -m docs.make_configuration`."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from src.config import PRESETS, Config

ROOT = Path(__file__).resolve().parents[1]
HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made by `python -m docs.make_configuration`; change src/config.py instead. -->
# Configuration

Every parameter, with its default. `--config NAME` chooses a preset, `--set section.key=value`
changes one value and may be given several times, `--set test=official` and `--set test=paper`
choose how scores become boxes. Lists are written `1,2,3`. Wrong names, types and values are
refused.

Presets: {presets}.
"""


def _about(declared: "dataclasses.Field[Any]") -> str:
    """What a key is, what it may be, and its range."""
    known = declared.metadata
    parts = [known["about"], ", ".join(f"`{choice}`" for choice in known["choices"])]
    least, most, above = known["least"], known["most"], known["above"]
    parts.append(f"at least {least:g}" if math.isfinite(least) else "")
    parts.append(f"above {above:g}" if math.isfinite(above) else "")
    parts.append(f"at most {most:g}" if math.isfinite(most) else "")
    return "; ".join(part for part in parts if part).replace("|", "\\|")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def page() -> str:
    """The whole page."""
    lines = [HEAD.format(presets=", ".join(f"`{name}`" for name in PRESETS))]
    table = ["", "| Key | Default | |", "|---|---|---|"]
    single = ["## Without a section", *table]
    for section in dataclasses.fields(Config):
        part = getattr(Config(), section.name)
        if not dataclasses.is_dataclass(part):
            single.append(f"| `{section.name}` | {_shown(part)} | {_about(section)} |")
            continue
        lines += [f"## {section.name}", *table]
        for declared in dataclasses.fields(part):
            value = _shown(getattr(part, declared.name))
            lines.append(f"| `{section.name}.{declared.name}` | {value} | {_about(declared)} |")
        lines.append("")
    return "\n".join([*lines, *single]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(page(), encoding="utf-8")
