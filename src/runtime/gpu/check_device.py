# SPDX-License-Identifier: Apache-2.0
"""Check that training on a GPU will work; name what is missing and what to do.

usage: python -m src.runtime.gpu.check_device [--device_id N]
Ends with exit code 0 if the GPU works, 1 if it does not. `source scripts/gpu_env.sh` comes first.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from .findings import (
    DRIVER,
    INSTALL,
    QUERY,
    Finding,
    driver_findings,
    kernel_finding,
    kernel_targets,
    library_findings,
    parse_gpus,
    parse_ldd,
)
from .libraries import (
    GpuLibraryError,
    Installation,
    choose_plugin,
    find_installation,
    find_mindspore,
)

ROOT = Path(__file__).resolve().parents[3]
TRIAL_SECONDS = 900  # a first start on a new card compiles for minutes


def plugin_findings(found: Installation, cuda_home: Optional[str]) -> List[Finding]:
    """On the plugin that fits the CUDA runtime, and whether MindSpore will choose it."""
    try:
        version = choose_plugin(list(found.plugins), found.versions.get("cuda_runtime"))
    except GpuLibraryError as error:
        return [Finding("missing", "plugin", str(error), INSTALL)]
    wheel = ", ".join(sorted(found.plugins))
    plugin = found.plugins[version]
    findings = [Finding("ok", "plugin", f"{plugin.name} of {wheel}  {plugin}")]
    if not cuda_home:
        findings.append(Finding("missing", "CUDA_HOME", "not set", "source scripts/gpu_env.sh"))
        return findings
    said = command_output([str(Path(cuda_home) / "bin" / "nvcc"), "--version"])
    if f"release {version}," in said:
        text = f"{cuda_home}, nvcc there answers {version}"
        return [*findings, Finding("ok", "CUDA_HOME", text)]
    text = f"{cuda_home}: its nvcc does not answer {version}"
    return [*findings, Finding("missing", "CUDA_HOME", text, "source scripts/gpu_env.sh")]


def command_output(command: Sequence[str]) -> str:
    """What a program prints, or nothing where it cannot be run."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def static_findings(found: Installation, device_id: int) -> List[Finding]:
    """Everything that can be seen without running anything on the device."""
    findings = plugin_findings(found, os.environ.get("CUDA_HOME"))
    runtime = found.versions.get("cuda_runtime")
    libraries: Dict[str, Optional[str]] = {}
    if found.plugins and runtime:
        version = choose_plugin(list(found.plugins), runtime)
        plugin = found.plugins[version]
        parts = [plugin, *(plugin.parent / f"gpu{version}").glob("*.so*")]  # NCCL among them
        libraries = parse_ldd("".join(command_output(["ldd", str(part)]) for part in parts))
        findings += library_findings(libraries, found)
    said = command_output(QUERY)
    gpus = parse_gpus(said)
    kernels = found.mindspore / "lib" / "plugin" / "gpu" / "libcuda_ops.so.11"
    if kernels.is_file():
        code, ptx = kernel_targets(kernels)
        lists = (" ".join(f"{a}.{b}" for a, b in sorted(kinds)) for kinds in (code, ptx))
        machine, compiled = lists
        text = f"machine code for {machine}, PTX for {compiled} (compute capability)"
        findings.append(Finding("note", "kernels", text))
        if device_id < len(gpus):
            findings.append(kernel_finding(gpus[device_id].capability, code, ptx))
    return driver_findings(said, libraries.get(DRIVER) is not None) + findings


def trial_finding(target: str, device_id: int) -> Finding:
    """On a convolution and a training step, run in another process."""
    command = [sys.executable, "-m", f"{__package__}.trial", target, str(device_id)]
    environment = {**os.environ, "GLOG_v": "4"}  # errors come as exceptions too
    try:
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("missing", f"{target} trial", f"not done in {TRIAL_SECONDS} s")
    lines = result.stdout.strip().splitlines()
    if result.returncode or not lines:
        words = [line for line in result.stderr.splitlines() if line.strip()]
        reason = next((w for w in reversed(words) if "Error" in w), f"code {result.returncode}")
        return Finding("missing", f"{target} trial", f"failed: {reason[:200]}")
    return judge_trial(target, json.loads(lines[-1]))


def judge_trial(target: str, numbers: Mapping) -> Finding:
    """Whether a trial computed what it should."""
    before, after = numbers["loss"]
    text = (
        f"first convolution after {numbers['first_s']:.1f} s, then "
        f"{numbers['convolution_ms']:.2f} ms; training step {numbers['step_ms']:.2f} ms; "
        f"loss {before:.3f} -> {after:.3f}"
    )
    if not numbers["error"] <= 1e-2:  # NaN is no number either
        return Finding(
            "missing", f"{target} trial", f"wrong results: off by {numbers['error']:.1e}"
        )
    if not after < before:
        return Finding("missing", f"{target} trial", f"does not learn: {text}")
    return Finding("ok", f"{target} trial", text)


def report(findings: Sequence[Finding]) -> None:
    """Print the findings, a line each, and what to do."""
    marks = {"ok": "ok", "missing": "MISSING", "note": ""}
    for finding in findings:
        print(f"{marks[finding.state]:<8}{finding.name:<20}{finding.text}")
    missing = [finding for finding in findings if finding.state == "missing"]
    if not missing:
        print("The GPU works. Train with --device_target GPU.")
        return
    print("The GPU cannot be used. To do:")
    for advice in dict.fromkeys(f.advice or f"{f.name}: {f.text}" for f in missing):
        print(f"  - {advice}")
    if [f.name for f in missing] == ["driver"]:
        print("Everything but the driver is there.")


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device_id", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        found = find_installation(find_mindspore())
    except GpuLibraryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    version = importlib.metadata.version("mindspore")
    findings = [Finding("ok", "MindSpore", f"{version}  {found.mindspore}")]
    findings += static_findings(found, args.device_id)
    ready = not any(finding.state == "missing" for finding in findings)
    findings.append(trial_finding("GPU" if ready else "CPU", args.device_id))
    report(findings)
    return int(any(finding.state == "missing" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
