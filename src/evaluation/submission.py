# SPDX-License-Identifier: Apache-2.0
"""The file that the COCO evaluation server takes. Standard library only."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any, Mapping, Sequence

from ..runtime.files import replacing


def write_submission(
    folder: Path, results: Sequence[Mapping[str, Any]], split: str, name: str
) -> Path:
    """Writes detections_SPLIT_NAME_results.zip with the JSON file of the same name, and no folder.

    Source of the naming: https://cocodataset.org/#upload. `split` is e.g. "test-dev2015" or
    "test-dev2017"; in `name`, what the server's rule does not allow for (it divides by
    underscores) becomes "-".

    Raises:
        OSError: it cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "m2det"
    stem = f"detections_{split}_{name}_results"
    path = folder / f"{stem}.zip"
    with replacing(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{stem}.json", json.dumps(list(results)))
    return path
