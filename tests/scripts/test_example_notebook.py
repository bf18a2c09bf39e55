# SPDX-License-Identifier: Apache-2.0
"""docs/example.ipynb, its cells run in order as a notebook would."""

import ast
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = json.loads((ROOT / "docs" / "example.ipynb").read_text(encoding="utf-8"))

pytestmark = pytest.mark.usefixtures("device")


def run_cell(source, names):
    """Runs a cell; the value of its last line where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """In a folder that has the project's photographs, with what it writes beside them."""
    for name in ("docs", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = {}
    shown = [
        run_cell("".join(cell["source"]), names)
        for cell in NOTEBOOK["cells"]
        if cell["cell_type"] == "code"
    ]
    _, classes, result, _, sure, saved, annotations = shown
    assert len(classes) == 20
    picture = cv2.imdecode(np.frombuffer(result._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == result.image.shape
    assert "cat 0.9" in capsys.readouterr().out
    assert sure == (1, ("cat",))
    assert [path.name for path in saved] == ["astronaut.png", "cat.png"]
    assert all(path.is_file() for path in saved)
    assert {entry["image_id"] for entry in annotations} == {1, 2}


def test_the_notebook_is_of_format_4_5_and_without_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert not any(cell.get("outputs") for cell in NOTEBOOK["cells"])
