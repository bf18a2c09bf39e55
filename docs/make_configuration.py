# SPDX-License-Identifier: Apache-2.0
"""Writes docs/configuration.md from src/config.py: `python -m docs.make_configuration`.

What stands in the comment beside a field, or in the comment lines above it, is its description.
"""

import ast
import dataclasses
from pathlib import Path
from typing import Any, Dict, List

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


def comments() -> Dict[str, str]:
    """The description of each field, by class and name: "TrainConfig.lr"."""
    source = (ROOT / "src" / "config.py").read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for cls in ast.parse(source).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for item in cls.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                words = [lines[(item.end_lineno or item.lineno) - 1].partition("  # ")[2]]
                above = item.lineno - 2
                while lines[above].strip().startswith("# "):
                    words.insert(0, lines[above].strip()[2:])
                    above -= 1
                found[f"{cls.name}.{item.target.id}"] = " ".join(words).strip()
    return found


def _limits(declared: "dataclasses.Field[Any]") -> List[str]:
    known = declared.metadata
    parts = [", ".join(f"`{choice}`" for choice in known["choices"])] if "choices" in known else []
    if "min" in known and "max" in known:
        parts.append(f"from {known['min']:g} to {known['max']:g}")
    elif "min" in known:
        parts.append(f"at least {known['min']:g}")
    return parts


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def page() -> str:
    """The whole page."""
    texts = comments()
    lines = [HEAD.format(presets=", ".join(f"`{name}`" for name in PRESETS))]
    defaults, single = Config(), []
    for section in dataclasses.fields(Config):
        part = getattr(defaults, section.name)
        if not dataclasses.is_dataclass(part):
            text = texts[f"Config.{section.name}"]
            single.append(f"| `{section.name}` | {_shown(part)} | {text} |")
            continue
        lines += [f"## {section.name}", "", "| Key | Default | |", "|---|---|---|"]
        for declared in dataclasses.fields(part):
            text = texts[f"{type(part).__name__}.{declared.name}"].replace("|", "\\|")
            about = "; ".join([*([text] if text else []), *_limits(declared)])
            value = _shown(getattr(part, declared.name))
            lines.append(f"| `{section.name}.{declared.name}` | {value} | {about} |")
        lines.append("")
    lines += ["## Without a section", "", "| Key | Default | |", "|---|---|---|", *single]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(page(), encoding="utf-8")
