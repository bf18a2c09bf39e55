# SPDX-License-Identifier: Apache-2.0
"""Imports between the rooms of src/ point one way, and the pure ones know no framework."""

import ast

import pytest
from source_imports import ROOT, imports_of

SRC = ROOT / "src"
# From the bottom up: a room may import what stands before it and what stands beside it.
LAYERS = (
    ("runtime",),
    ("config", "priors", "box_utils", "nms", "loss"),
    ("model",),
    ("data",),
    ("formats",),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("drawing",),
    ("utils", "detector"),
    ("programs",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(SRC.rglob("*.py"))
FRAMEWORKS = {"mindspore", "torch", "cv2", "pycocotools"}


def room_of(path):
    return path.relative_to(SRC).with_suffix("").parts[0]


def test_every_room_has_a_level():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_down(path):
    room = room_of(path)
    if room == "__init__":
        return
    for part in imports_of(path)[1]:
        assert LEVEL[part[0]] <= LEVEL[room], f"{path} imports {'.'.join(part)}"


def test_no_circles():
    """Among files, whatever their rooms; imports inside functions count."""
    files = {path.relative_to(SRC).with_suffix("").parts: path for path in FILES}
    arrows = {}
    for parts, path in files.items():
        targets = set()
        for part in imports_of(path)[1]:
            for length in range(len(part), 0, -1):
                target = part[:length] if part[:length] in files else (*part[:length], "__init__")
                if target in files:
                    targets.add(target)
                    break
        arrows[parts] = targets - {parts}
    while arrows:
        ends = [file for file, targets in arrows.items() if not targets & set(arrows)]
        assert ends, f"a circle among {sorted('/'.join(file) for file in arrows)}"
        for file in ends:
            del arrows[file]


@pytest.mark.parametrize("room", ["config", "priors", "box_utils", "nms"])
def test_the_pure_rooms_import_no_framework(room):
    for path in FILES:
        if room_of(path) == room:
            assert not imports_of(path)[0] & FRAMEWORKS, path


def test_the_configuration_needs_the_standard_library_only():
    """But for PyYAML, where a YAML file is read."""
    files = ("typed_config", "config_file", "presets", "errors")
    standard = {"dataclasses", "difflib", "json", "logging", "math", "re", "typing"}
    standard |= {"pathlib", "reprlib", "textwrap", "types"}
    for path in (SRC / "config.py", *(SRC / "runtime" / f"{file}.py" for file in files)):
        names, parts = imports_of(path)
        assert names <= {*standard, "src", "yaml"}
        assert {part[:2] for part in parts} <= {("runtime", file) for file in files}


def test_only_build_functions_and_scripts_see_the_configuration():
    """A class that takes a Config could be anything; parts take plain arguments."""
    for path in FILES:
        for cls in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(cls, ast.ClassDef):
                continue
            for item in cls.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    kinds = {ast.unparse(a.annotation) for a in item.args.args if a.annotation}
                    assert "Config" not in kinds, f"{path}: {cls.name}"
