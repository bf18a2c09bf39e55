# SPDX-License-Identifier: Apache-2.0
"""Where compiled graphs are kept between runs: files by key, whole or not at all.

An entry is one file. It appears under its name by a rename and begins with a digest of the rest, so
that processes need no locks, and a killed process or a damaged disk leaves nothing that is used.

The folder may be one where other things lie: nothing is removed but files named as here.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Tuple

from ..files import write_atomically

VARIABLE = "M2DET_CACHE"
ENDING = ".graph"
MOST_BYTES = 2**30
MOST_DAYS = 30.0
LEAST_FREE_BYTES = 2**28  # a graph and what is written beside it fit well into that
_DIGEST = hashlib.sha256().digest_size
# Endings of the files that share a folder and its limits.
_FAMILIES = ((ENDING, ".annotations"), (".onnx", ".onnx.json"))
_KEY = r"[0-9a-f]{64}(-\d+)?"  # a digest, perhaps with a version


class CacheError(OSError):
    """The folder cannot be used."""


def cache_folder(environment: Mapping[str, str], default: bool = True) -> Optional[Path]:
    """The folder that `M2DET_CACHE` asks for, or None where there is to be no cache.

    Args:
        environment: as `os.environ`. `M2DET_CACHE` is "off", "on" or a folder.
        default: whether there is a cache where it is not set.
    """
    wanted = environment.get(VARIABLE, "").strip() or ("on" if default else "off")
    if wanted.lower() in ("off", "0", "no", "false"):
        return None
    if wanted.lower() not in ("on", "1", "yes", "true"):
        return Path(os.path.expanduser(wanted)).absolute()
    base = environment.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # as the XDG specification says
        base = os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".cache")
    # A user without a home, as in some containers, has no place for it.
    return Path(base) / "m2det-mindspore" if os.path.isabs(base) else None


def digest_of_files(paths: Iterable[Path]) -> str:
    """A digest of names and contents; the order of `paths` does not matter."""
    total = hashlib.sha256()
    for path in sorted(set(paths)):
        total.update(f"{path.name}:".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def digest_of_json(value: Any) -> str:
    """A digest of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Store:
    """Entries of a folder, each a few named files.

    Args:
        folder: made if it is not there, for this user alone.
        ending: of the names of the entries' files; the keys of those to be pruned are digests.

    Raises:
        CacheError: it cannot be written, or its disk is nearly full.
    """

    def __init__(
        self, folder: Path, least_free_bytes: int = LEAST_FREE_BYTES, ending: str = ENDING
    ) -> None:
        self.folder, self.ending = folder, ending
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=folder):
                pass
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise CacheError(f"{folder}: {error.strerror or error}") from None
        if free < least_free_bytes:
            raise CacheError(f"{folder}: {free / 2**20:.0f} MB free on its disk")

    def path(self, key: str) -> Path:
        """The file of an entry, there or not."""
        return self.folder / f"{key}{self.ending}"

    def get(self, key: str) -> Optional[Dict[str, bytes]]:
        """The files of an entry by name; None if there is none, or a damaged one (then removed)."""
        path = self.path(key)
        try:
            found = _unpack(path.read_bytes())
            if found is None:
                path.unlink()
            else:
                os.utime(path)  # what is used stays longest
        except OSError:
            return None
        return found

    def put(self, key: str, files: Mapping[str, bytes]) -> None:
        """Keep an entry, in place of one of that name; then remove what is old.

        Raises:
            CacheError: it could not be written; nothing of it is left.
        """
        try:
            write_atomically(self.path(key), _pack(files))
        except OSError as error:
            raise CacheError(f"{self.folder}: {error.strerror or error}") from None
        self.prune(MOST_BYTES, MOST_DAYS)

    def prune(self, most_bytes: int, most_days: float) -> None:
        """Remove the entries that have not been used for so many days, and the oldest beyond so
        many bytes; with them what killed processes have begun to write.
        """
        left, oldest = most_bytes, time.time() - most_days * 86400
        for used, size, path in sorted(self._own_files(), reverse=True):
            left -= size
            if used < oldest or left < 0:
                with contextlib.suppress(OSError):  # another process has been faster
                    path.unlink()

    def _own_files(self) -> Iterator[Tuple[float, int, Path]]:
        """Time of the last use, size and path of each file that a store has written here."""
        endings = next((all_ for all_ in _FAMILIES if self.ending in all_), (self.ending,))
        # With a number in front where `write_atomically` has not finished.
        own = re.compile(rf"(\.\d+\.)?{_KEY}({'|'.join(map(re.escape, endings))})")
        for path in self.folder.iterdir():
            if not own.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError):  # another process has been faster
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    yield status.st_mtime, status.st_size, path


def _pack(files: Mapping[str, bytes]) -> bytes:
    """Digest of the rest, names and sizes as a line of JSON, contents."""
    names = sorted(files)
    head = json.dumps([[name, len(files[name])] for name in names]).encode() + b"\n"
    body = head + b"".join(files[name] for name in names)
    return hashlib.sha256(body).digest() + body


def _unpack(data: bytes) -> Optional[Dict[str, bytes]]:
    body = data[_DIGEST:]
    if hashlib.sha256(body).digest() != data[:_DIGEST]:
        return None
    head, _, rest = body.partition(b"\n")
    files, start = {}, 0
    for name, size in json.loads(head):
        files[name] = rest[start : start + size]
        start += size
    return files
