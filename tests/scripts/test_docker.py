# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles name what is there; nothing is built."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {"Dockerfile": "requirements.txt", "Dockerfile.gpu": "requirements-gpu.txt"}


def instructions(name):
    """(word, rest) of each instruction, continued lines joined."""
    text = "\n".join(s for s in (ROOT / name).read_text().splitlines() if not s.startswith("#"))
    joined = text.replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("name", FILES)
def test_what_a_dockerfile_names_is_there(name):
    lines = instructions(name)
    copied = [word for key, rest in lines if key == "COPY" for word in rest.split()[:-1]]
    assert FILES[name] in copied
    assert all((ROOT / word).exists() for word in copied)
    text = (ROOT / name).read_text()
    for script in re.findall(r"[a-z_]+\.sh", text):
        assert (ROOT / "scripts" / script).is_file(), script
    assert f"-r {FILES[name]}" in text
    for module in re.findall(r"-m (src\.[a-z_.]+)", text):
        assert (ROOT / f"{module.rstrip('.').replace('.', '/')}.py").is_file()


@pytest.mark.parametrize("name", FILES)
def test_a_dockerfile_is_pinned_and_needs_no_root(name):
    lines = instructions(name)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", dict(lines)["FROM"])
    words = [key for key, _ in lines]
    assert lines[words.index("USER")][1] == "m2det"
    assert "RUN" not in words[words.index("USER") :]


def test_the_requirements_of_the_requirements_are_copied():
    """requirements-gpu.txt includes another file, which must be there when pip reads it."""
    needed = set(re.findall(r"^-r (\S+)", (ROOT / "requirements-gpu.txt").read_text(), re.M))
    copied = dict(reversed(instructions("Dockerfile.gpu")))["COPY"].split()
    assert needed <= set(copied)
