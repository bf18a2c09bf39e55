# SPDX-License-Identifier: Apache-2.0
"""Every message that docs/troubleshooting.md quotes stands in the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = sorted(
    {
        quoted
        for table in re.findall(r"^\| Message \|.*\n((?:\|.*\n)+)", PAGE, re.M)
        for row in table.splitlines()[1:]
        for quoted in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    }
)


def text_of(node):
    """A string of the source with "..." for every value that is put into it."""
    if isinstance(node, ast.Constant):
        return re.sub(r"%[sd]", "...", node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "..." for part in node.values)
    return ""


@pytest.fixture(scope="module")
def messages():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "src").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = {text_of(node) for node in nodes if id(node) not in docstrings}
    return texts | {path.read_text() for path in (ROOT / "scripts").glob("*.sh")}


def test_the_page_has_messages():
    assert len(QUOTED) > 100


@pytest.mark.parametrize("quoted", QUOTED)
def test_message_is_in_the_code(messages, quoted):
    pattern = re.compile(".*?".join(map(re.escape, quoted.split("..."))))
    found = [text for text in messages if pattern.search(text)]
    assert found, f"no message of the code reads {quoted!r}"


def test_every_section_is_listed_at_the_top():
    headings = re.findall(r"^## (.+)$", PAGE, re.M)
    listed = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    assert listed == [heading.lower().replace(" ", "-") for heading in headings]
