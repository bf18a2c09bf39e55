# SPDX-License-Identifier: Apache-2.0
"""What a source file imports, read without running it."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def imports_of(path):
    """Top-level names of every module a file imports, and dotted paths of the parts of `src`."""
    names, parts = set(), set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = (*start, *(node.module.split(".") if node.module else ()))
            modules = [(*module, alias.name) for alias in node.names]
        else:
            continue
        for module in modules:
            names.add(module[0])
            if module[0] == "src" and len(module) > 1:
                parts.add(module[1:])
    return names, parts
