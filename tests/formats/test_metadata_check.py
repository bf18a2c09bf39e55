# SPDX-License-Identifier: Apache-2.0
"""What an exported file says of itself, edited by hand: one line with the file and the key."""

import json
from pathlib import Path

import pytest

from src.config import get_config
from src.formats.checkpoint import Labels
from src.formats.export_metadata import Request, describe
from src.formats.metadata_check import ExportedError, check_input, check_metadata, parse_json

FILE = Path("net.onnx.json")
NAMES = ("cat", "dog", "naïve bird")


@pytest.fixture
def metadata():
    config = get_config("m2det_tiny", ["model.num_classes=4", "model.input_size=64"])
    made = describe(config, Labels(NAMES, (4, 2, 9)), Request(), {"topk": 0}, "checksum")
    return json.loads(json.dumps(made))


def refusal(call, *args):
    with pytest.raises(ExportedError) as caught:
        call(*args)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith("net.onnx.json: ")
    assert len(text) < 250
    return text


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


CHANGES = [
    *[("batch_size", v) for v in (0, -1, True, 1.5, "1", 10**400, [1], {})],
    *[("input_size", v) for v in (0, None, "64", 64.0, float("nan"), 128)],
    *[("mean_bgr", v) for v in ([1, 2], [1, 2, "3"], [1, 2, float("inf")], 104, [1, 2, 300])],
    *[
        ("class_names", v)
        for v in ("cat", ["a", "b"], ["a", "b", 3], ["a", "b", "c", "d"], deep(9))
    ],
    *[("class_names", ["cat", "dog", odd]) for odd in ("a\nb", "\x1b[31m", "\u202egpj", "")],
    *[("category_ids", v) for v in ([1, 2], [1, 2, 3.5], None, [1, 2, 10**30], [1, 2, True])],
    *[("input", v) for v in ("video", None, ["tensor"])],
    *[("outputs", v) for v in ("everything", 7, [])],
    *[("config", v) for v in ([], None, {"model": {"planes": "many"}}, {"model": deep(900)})],
    ("postprocess", "soft"),
]


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_edited_values(key, value, metadata):
    metadata[key] = value
    assert key in refusal(check_metadata, metadata, FILE)


def test_every_key_is_needed(metadata):
    for key in ("input", "outputs", "batch_size", "mean_bgr", "class_names", "config"):
        part = {name: value for name, value in metadata.items() if name != key}
        assert f"{key} is missing" in refusal(check_metadata, part, FILE)
    assert "another version" in refusal(check_metadata, {}, FILE)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_what_is_no_object(text):
    assert "expected the JSON object" in refusal(parse_json, text, FILE)


@pytest.mark.parametrize(
    "shape", [(None, 3, 64, 64), (2, 3, 64, 64), (1, 64, 64, 3), (1, 3, 32, 32), ()]
)
def test_the_input_is_that_of_the_network(shape, metadata):
    check_input(metadata, (1, 3, 64, 64), FILE)
    assert "not 1x3x64x64" in refusal(check_input, metadata, shape, FILE)


def test_what_was_written_passes(metadata):
    config = check_metadata(metadata, FILE)
    assert config.model.num_classes == 4
    metadata["batch_size"] = None
    check_metadata(metadata, FILE)
    check_input(metadata, (None, 3, 64, 64), FILE)
