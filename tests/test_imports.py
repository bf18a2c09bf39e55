# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, and the pure layer knows no framework."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = {
    *("config", "typed_config", "priors", "box_utils", "lr_scheduler", "nms", "loss_scale"),
    *("cpu_settings", "compile_cache"),
}
DATA = {
    "records",
    "images",
    "coco_json",
    "data_layout",
    "voc_files",
    "coco_utils",
    "voc_utils",
    "scoring",
    "transforms",
    "dataset",
    "samples",
    "voc_scoring",
    "multi_scale",
    "mindrecords",
    "data_report",
    "data_picture",
    "draw",
    "postprocess",
    "views",
    "tiling",
    "weighted_boxes",
    "merging",
    "detection_errors",
    "metrics",
    "partial_results",
    "submission",
    "stopwatch",
    "report_html",
    "report_parts",
    "sources",
    "box_files",
    "screen",
    "inside",
    "anchor_fit",
    "object_fates",
}
GRAPH = {
    *("backbones", "ssd", "model", "loss", "checkpoint", "utils", "detector"),
    *("optimizers", "train_step", "network_options", "graph_cache", "graph_facts"),
}
EXPORT = {
    "exported",
    "export_cells",
    "export_check",
    "export_file",
    "export_metadata",
    "export_onnx",
}
RUNTIME = {
    *("callback", "trainer", "evaluation", "network_file", "stopping", "ema", "resume"),
    *("progress", "run_log", "plot_log", "train_eval", "training_setup"),
}
ALLOWED = {
    **dict.fromkeys(PURE, PURE),
    **dict.fromkeys(DATA, PURE | DATA),
    **dict.fromkeys(GRAPH, PURE | DATA | GRAPH),
    **dict.fromkeys(EXPORT, PURE | DATA | GRAPH | EXPORT),
    **dict.fromkeys(RUNTIME, PURE | DATA | GRAPH | EXPORT | RUNTIME),
}


def imported(path):
    """Top-level names of every module a file imports, and the parts of `src` among them."""
    names, parts = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            if node.module == "src":
                modules = [f"src.{alias.name}" for alias in node.names]
        for module in modules:
            names.add(module.split(".")[0])
            if module.startswith("src."):
                parts.add(module.split(".")[1])
    return names, parts


def files_of(part):
    path = ROOT / "src" / part
    return list(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_one_way(part):
    for path in files_of(part):
        _, parts = imported(path)
        assert parts <= ALLOWED[part], f"{path} imports {sorted(parts - ALLOWED[part])}"


@pytest.mark.parametrize("part", sorted(PURE))
def test_the_pure_layer_imports_no_framework(part):
    for path in files_of(part):
        names, _ = imported(path)
        assert not names & {"mindspore", "torch", "cv2", "pycocotools"}


def test_the_configuration_needs_the_standard_library_only():
    for name in ("config", "typed_config"):
        names, parts = imported(ROOT / "src" / f"{name}.py")
        assert names <= {"dataclasses", "json", "math", "typing", "src"}
        assert parts <= {"typed_config"}


def test_only_build_functions_and_scripts_see_the_configuration():
    """A class that takes a Config could be anything; parts take plain arguments."""
    for path in (ROOT / "src").rglob("*.py"):
        for cls in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(cls, ast.ClassDef):
                continue
            for item in cls.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    kinds = {ast.unparse(a.annotation) for a in item.args.args if a.annotation}
                    assert "Config" not in kinds, f"{path}: {cls.name}"
