# SPDX-License-Identifier: Apache-2.0
"""README and docs: size, picture, links, and that the files and modules they name are there."""

import re
from pathlib import Path

import cv2
import pytest

from docs.make_configuration import page
from src.config import PRESETS, get_config
from src.priors import make_priors, map_sizes, table_for

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
CHINESE = ROOT / "README.zh.md"
ALL = [README, CHINESE, ROOT / "MODEL_CARD.md", ROOT / "CONTRIBUTING.md", *PAGES]
ZOO = (
    "Description",
    "Model architecture",
    "Data set",
    "Environment requirements",
    "Quick start",
    "Script description",
    "Parameters",
    "Training",
    "Evaluation",
    "Export",
    "Performance",
    "Description of random situation",
    "Licence",
)


def links(path):
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()) if "://" not in link]


def test_readme_is_short_and_begins_with_a_picture():
    text = README.read_text()
    assert len(text.encode()) <= 14 * 1024
    (picture,) = re.findall(r"^!\[.+\]\((.+)\)$", "\n".join(text.splitlines()[:6]), re.M)
    assert (ROOT / picture).stat().st_size <= 150_000
    assert cv2.imread(str(ROOT / picture)).shape[1] >= 400


def test_readme_has_the_headings_of_the_model_zoo_in_order():
    headings = re.findall(r"^## (.+)$", README.read_text(), re.M)
    assert [heading for heading in headings if heading in ZOO] == list(ZOO)


def code_blocks(text):
    """The fenced blocks: language and lines, without what explains them after two blanks."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S)
    explanation = re.compile(r"(?<=\S)  .*")
    return [
        (language, [explanation.sub("", line) for line in body.splitlines()])
        for language, body in blocks
    ]


def test_the_chinese_readme_has_the_headings_commands_tables_and_links_of_the_english_one():
    english, chinese = README.read_text(), CHINESE.read_text()
    assert code_blocks(english) == code_blocks(chinese)
    assert len(code_blocks(english)) > 8

    def outline(text):
        text = re.sub(r"^```.*?^```", "CODE", text, flags=re.M | re.S)
        return re.findall(r"^(#+ |CODE|\||- )", text, re.M)

    assert outline(english) == outline(chinese)

    def targets(path):
        return {re.sub(r"^#.*", "#", link) for link in links(path)} - {README.name, CHINESE.name}

    assert targets(README) == targets(CHINESE)
    assert "README.zh.md" in links(README)
    assert "README.md" in links(CHINESE)
    numbers = r"(?<![\w.])\d[\d.,]*\d(?![\w])"
    assert sorted(re.findall(numbers, english)) == sorted(re.findall(numbers, chinese))


def test_every_page_is_linked_from_readme():
    assert {f"docs/{path.name}" for path in PAGES} <= set(links(README))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for link in links(path):
        name, _, heading = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if heading:
            found = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
            assert heading in {
                re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in found
            }


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_programs_modules_and_scripts_that_are_named_exist(path):
    text = path.read_text()
    for name in re.findall(r"\bpython (\w[\w/]*\.py)", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"-m ((?:src|benchmarks|docs)(?:\.\w+)+)", text):
        stem = ROOT.joinpath(*name.split("."))
        assert stem.with_suffix(".py").is_file() or (stem / "__init__.py").is_file(), name
    for name in re.findall(r"\b(?:scripts|tests|src)/[\w/]+\.(?:sh|py)", text):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_classes_and_functions_that_are_linked_are_in_their_files(path):
    """A link like [`TUM`](../src/model/mlfpn.py)."""
    for name, target in re.findall(r"\[`(\w+)`\]\(([^)\s]+\.py)\)", path.read_text()):
        text = (path.parent / target).read_text()
        assert re.search(rf"^(?:    )?(?:class |def )?{name}\b", text, re.M), f"{target}: {name}"


def test_the_table_of_priors_is_that_of_the_code():
    rows = re.findall(
        r"^\| (\d+) \| ([\d ]+) \| ([\d. ]+) \| ([\d ]+) \| ([\d,]+) \|$",
        (ROOT / "docs" / "how-m2det-works.md").read_text(),
        re.M,
    )
    assert [row[0] for row in rows] == ["320", "512", "704", "800"]
    for size, maps, scales, steps, count in rows:
        config = get_config(f"m2det{size}_vgg16")
        sizes = map_sizes(config.model)
        table = table_for(config.anchors, int(size), sizes)
        assert [int(word) for word in maps.split()] == sizes
        assert tuple(float(word) for word in scales.split()) == table.scales
        assert tuple(float(word) for word in steps.split()) == table.steps
        assert int(count.replace(",", "")) == len(make_priors(config))


@pytest.mark.parametrize("path", [README, CHINESE, *PAGES], ids=lambda path: path.name)
def test_keys_and_presets_that_are_named_exist(path):
    keys = set(re.findall(r"^\| `(\w+\.\w+)` ", page(), re.M))
    for key in re.findall(
        r"\b((?:model|anchors|train|data|test|optimizer)\.\w+)=", path.read_text()
    ):
        assert key in keys, key
    for name in re.findall(r"--config (m2det\w+|ssd\w+|deconv\w+)", path.read_text()):
        assert name in PRESETS


def test_the_configuration_page_is_that_of_the_code():
    """`python -m docs.make_configuration` makes it."""
    assert (ROOT / "docs" / "configuration.md").read_text() == page()


def test_every_parameter_is_in_the_reference():
    text = page()
    for line in ("| `train.ema` | 0.0 |", "| `optimizer.type` | SGD |", "| `random_seed` | none |"):
        assert line in text
