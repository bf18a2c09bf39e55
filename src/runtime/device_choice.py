# SPDX-License-Identifier: Apache-2.0
"""Which device a machine has, found without a framework."""

import subprocess
from pathlib import Path


def device_there(root: Path = Path("/")) -> str:
    """ "GPU", "Ascend" or "CPU": what the shell scripts would take."""
    if (root / "dev" / "nvidia0").exists() or _nvidia_smi_lists_one():
        return "GPU"
    return "Ascend" if (root / "dev" / "davinci0").exists() else "CPU"


def _nvidia_smi_lists_one() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
