# SPDX-License-Identifier: Apache-2.0
"""Results kept on disk batch by batch, so that an interrupted evaluation goes on where it was.

A part is a file of one rank, in JSON lines: a header with a key that stands for everything the
results depend on, and a line for each batch. A part with another key is never used.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence

from ..data.records import DetectionData
from ..runtime.files import append, file_sha256

VERSION = 1  # raise when the same settings would give other results


def settings_key(weights: Iterable[Path], settings: str, data: DetectionData, ranks: int) -> str:
    """A checksum of weights, settings, images (names, sizes, times of change) and ranks.

    Raises:
        OSError: a file of weights that cannot be read.
    """
    digest = hashlib.sha256(f"{VERSION}\n{ranks}\n{settings}\n".encode())
    for path in weights:
        digest.update(file_sha256(path).encode())
    where = f"{data.split}\n{data.annotation_path}\n{data.category_ids}\n"
    digest.update(where.encode("utf-8", "surrogateescape"))  # names that are not UTF-8
    for record in data.records:
        line = [record.image_id, record.path, record.width, record.height, *_state(record.path)]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _state(path: str) -> List[int]:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # missing, or a row of a MindRecord file
        return []
    return [found.st_size, found.st_mtime_ns]


class PartialResults:
    """One rank's part: the results in the file, and those added to it.

    Args:
        path: the file; started anew unless its header has `key`.
        key: of `settings_key`.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, key: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.results: Dict[int, List[Mapping[str, Any]]] = {}  # by id of the image
        lines, size = _read(path, key)
        for line in lines:
            self.results.update(zip(line.get("images", ()), line.get("results", ())))
        if size:
            os.truncate(path, size)  # what an interruption left half written
        else:
            path.write_bytes(b"")
            self._write({"key": key})

    def append(self, image_ids: Sequence[int], results: Sequence[List[Mapping[str, Any]]]) -> None:
        """Appends the results of some images."""
        self.results.update(zip(image_ids, results))
        self._write({"images": list(image_ids), "results": list(results)})

    def _write(self, content: Mapping[str, Any]) -> None:
        append(self.path, json.dumps(content) + "\n")


def _read(path: Path, key: str) -> Any:
    """The whole lines of a part after its header, and where they end; nothing for another key."""
    lines: List[Dict[str, Any]] = []
    size = 0
    if not path.is_file():
        return lines, size
    with open(path, "rb") as file:
        for raw in file:
            try:
                content = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                content = None
            if not isinstance(content, dict) or (not size and content.get("key") != key):
                break
            if size:
                lines.append(content)
            size += len(raw)
    return lines, size
