# SPDX-License-Identifier: Apache-2.0
"""Writes docs/configuration.md from src/config.py: `python -m docs.make_configuration`."""

import dataclasses
from pathlib import Path
from typing import Any

from src.config import Config
from src.runtime.config_file import shown
from src.runtime.presets import PRESETS
from src.runtime.typed_config import describe_values

ROOT = Path(__file__).resolve().parents[1]
HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made by `python -m docs.make_configuration`; change src/config.py instead. -->
# Configuration

Every parameter, with its default. `--config NAME` chooses a preset, `--set section.key=value`
changes one value and may be given several times, `--set test=official` and `--set test=paper`
choose how scores become boxes. Lists are written `1,2,3`. Wrong names, types and values are
refused. `--list` shows all of this in the terminal.

`--config FILE` takes a `.yaml` or `.json` file: sections with keys, and what it leaves out is as in
the preset that it names. A run's `config.json` is such a file, and `--show_config` prints one.

```yaml
preset: m2det_small
train:
  lr: 5e-4
  total_epochs: 40
data:
  vertical_flip: true
```

| Preset | |
|---|---|
{presets}
"""


def _row(cls: type, key: str, name: str, value: Any, about: str) -> str:
    words = f"{about}; {describe_values(cls, name)}".replace("|", "\\|")
    return f"| `{key}` | {shown(value)} | {words} |"


def page() -> str:
    """The whole page."""
    rows = [f"| `{name}` | {preset.about} |" for name, preset in PRESETS.items()]
    lines = [HEAD.format(presets="\n".join(rows))]
    table = ["", "| Key | Default | |", "|---|---|---|"]
    single = ["## Without a section", *table]
    for section in dataclasses.fields(Config):
        part = getattr(Config(), section.name)
        if not dataclasses.is_dataclass(part):
            single.append(_row(Config, section.name, section.name, part, section.metadata["about"]))
            continue
        lines += [f"## {section.name}", *table]
        for declared in dataclasses.fields(part):
            key, value = f"{section.name}.{declared.name}", getattr(part, declared.name)
            about = declared.metadata["about"]
            lines.append(_row(type(part), key, declared.name, value, about))
        lines.append("")
    return "\n".join([*lines, *single]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(page(), encoding="utf-8")
