# SPDX-License-Identifier: Apache-2.0
"""Findings on driver, libraries and kernels, from words and files made up for it."""

import struct
from pathlib import Path

import pytest

from src.runtime.gpu.findings import (
    driver_findings,
    kernel_finding,
    kernel_targets,
    library_findings,
    parse_gpus,
    parse_ldd,
)
from src.runtime.gpu.libraries import Installation

LDD = """\
\tlinux-vdso.so.1 (0x00007ffd)
\tlibmindspore_core.so => /v/mindspore/lib/plugin/../libmindspore_core.so (0x00007f01)
\tlibcublas.so.11 => /v/nvidia/cublas/lib/libcublas.so.11 (0x00007f02)
\tlibcudnn.so.8 => not found
\tlibcuda.so.1 => not found
\tlibcurand.so.10 => /usr/local/cuda/lib64/libcurand.so.10 (0x00007f03)
\tlibnccl.so.2 => /v/mindspore/lib/plugin/gpu11.6/libnccl.so.2 (0x00007f04)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f05)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f06)
"""
FOUND = Installation(Path("/v"), Path("/v/mindspore"), {}, (), {"cublas": "11.11.3.6"})


def test_ldd():
    libraries = parse_ldd(LDD)
    assert libraries["libcudnn.so.8"] is None
    assert libraries["libcublas.so.11"] == "/v/nvidia/cublas/lib/libcublas.so.11"
    assert len(libraries) == 7


def test_libraries():
    """MindSpore's own and the system's are no news; the driver has lines of its own."""
    findings = {f.name: f for f in library_findings(parse_ldd(LDD), FOUND)}
    assert set(findings) == {"libcublas.so.11", "libcudnn.so.8", "libcurand.so.10"}
    assert findings["libcublas.so.11"].state == "ok"
    assert findings["libcublas.so.11"].text.startswith("11.11.3.6  /v/nvidia")
    assert findings["libcudnn.so.8"].state == "missing"
    assert "requirements-gpu.txt" in findings["libcudnn.so.8"].advice
    assert "not from pip" in findings["libcurand.so.10"].text


def cubin(capability, machine=190):
    """The head of an ELF image of GPU code (e_machine 190 is CUDA), and some bytes."""
    head = bytearray(64)
    head[:4] = b"\x7fELF"
    struct.pack_into("<H", head, 18, machine)
    struct.pack_into("<I", head, 48, 0x560500 | capability)
    return bytes(head) + b"\0" * 100


def test_kernels_in_a_library(tmp_path):
    library = tmp_path / "kernels.so"
    ptx = b".version 7.6\n.target sm_60\n.address_size 64\n.target sm_86, debug\n"
    library.write_bytes(cubin(0, machine=62) + cubin(60) + cubin(75) + ptx + cubin(60))
    assert kernel_targets(library) == ({(6, 0), (7, 5)}, {(6, 0), (8, 6)})


CODE = {(6, 0), (6, 1), (7, 0), (7, 5), (8, 0)}
PTX = {(6, 0), (8, 6)}


@pytest.mark.parametrize(
    ("capability", "state", "words"),
    [
        ((5, 2), "missing", "too old"),
        ((6, 0), "ok", "machine code"),
        ((6, 2), "ok", "machine code"),
        ((7, 0), "ok", "machine code"),
        ((8, 9), "ok", "machine code"),
        ((9, 0), "ok", "compiled by the driver"),
        ((10, 0), "missing", "newer than the libraries"),
        ((12, 0), "missing", "newer than the libraries"),
    ],
)
def test_kernels_for_a_card(capability, state, words):
    finding = kernel_finding(capability, CODE, PTX)
    assert (finding.state, words in finding.text) == (state, True)
    assert bool(finding.advice) == (state == "missing")


CARDS = "NVIDIA Card A, 7.0, 535.104.05\nNVIDIA Card B, 9.0, 535.104.05\n"


def test_driver_and_cards():
    findings = driver_findings(CARDS)
    assert [f.state for f in findings] == ["ok"] * 3
    assert findings[0].text == "535.104.05"
    assert findings[2].text == "NVIDIA Card B, compute capability 9.0"
    assert [gpu.capability for gpu in parse_gpus(CARDS)] == [(7, 0), (9, 0)]
    old = driver_findings("Card, 7.0, 470.1\n")
    assert [f.state for f in old] == ["missing", "ok"]
    assert "510" in old[0].advice


@pytest.mark.parametrize(
    ("said", "loads", "state", "words"),
    [
        ("", False, "missing", "nvidia-smi not found"),
        ("", True, "note", "libcuda.so.1 is there"),
        ("No devices were found\n", True, "missing", "No devices were found"),
        ("NVIDIA-SMI has failed because ...\n\n", False, "missing", "has failed"),
        ('Field "compute_cap" is not a valid field to query.', True, "missing", "compute_cap"),
    ],
)
def test_no_driver(said, loads, state, words):
    (finding,) = driver_findings(said, loads)
    assert (finding.state, finding.name) == (state, "driver")
    assert words in finding.text
    assert ("510" in finding.advice) == (state == "missing")
