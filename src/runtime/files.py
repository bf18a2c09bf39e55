# SPDX-License-Identifier: Apache-2.0
"""Files written whole or not at all, folders held by one process, checksums."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, TextIO, Union

from .errors import M2DetError

LOCK_NAME = ".lock"
_LONGEST_NAME = 200  # bytes; file systems take 255
_TEMPORARY = re.compile(r"\.(\d+)\..+")
_MADE_BY_MKDTEMP = re.compile(r"[a-z0-9_]{8}")  # after the prefix
_NEW_SECONDS = 86400.0
_MOST_ATTEMPTS = 10
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockedError(M2DetError):
    """Another process holds the folder."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a name beside `path`, with its ending, for a program to write a file to.

    When the block ends, that file takes the place of `path`, so that a crash or a power cut leaves
    the old content or the new, never a part. When it fails, what it has written is removed.

    Raises:
        OSError: naming `path`, whatever the file was called while it was written.
    """
    temporary = path.with_name(_temporary_name(path.name))
    try:
        yield temporary
        if not temporary.is_symlink():
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses even what is not there
            try:
                temporary.unlink(missing_ok=True)
            except KeyboardInterrupt:  # a second Ctrl-C
                temporary.unlink(missing_ok=True)
                raise


def write_atomically(path: Path, content: Union[str, bytes]) -> None:
    """Write a file as `replacing` does; text as UTF-8, file names in it byte for byte.

    Raises:
        OSError: naming `path`.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A full disk is an error without a file's name; in this block it has that of `path`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def append(path: Path, text: str) -> None:
    """Add to a file, as UTF-8.

    Raises:
        OSError: naming `path`; a part of the text may be there.
    """
    with naming(path), open(path, "ab") as file:
        file.write(text.encode())


def write_json(path: Path, value: Any, **layout: Any) -> None:
    """Write JSON as `replacing` does; `layout` is handed to `json.dumps`.

    Raises:
        OSError: naming `path`.
    """
    write_atomically(path, json.dumps(value, **layout) + "\n")


def _temporary_name(name: str) -> str:
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest() + os.path.splitext(name)[1]
    return f".{os.getpid()}.{name}"


def remove_leftovers(folder: Path) -> None:
    """Remove what `replacing` has left in `folder` of processes that were killed."""
    for path in folder.glob(".*.*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not os.path.exists(f"/proc/{match.group(1)}"):
            path.unlink(missing_ok=True)


def remove_unfinished() -> None:
    """Remove the files this process is writing by `replacing`, and its locks with the folders that
    hold nothing else, before it ends at once.
    """
    for handle in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{handle}")
            if os.path.basename(target).startswith(f".{os.getpid()}."):
                os.unlink(target)
            elif os.path.basename(target) == LOCK_NAME:
                fcntl.lockf(int(handle), fcntl.LOCK_EX | fcntl.LOCK_NB)  # not another's
                os.unlink(target)
                os.rmdir(os.path.dirname(target))


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """`folder` is there in this block; what of it was made for the block and stays empty goes.

    Raises:
        OSError: it cannot be made.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for path in new:
                path.rmdir()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder`, which is made if need be, for this process.

    The kernel lets it go when the process ends, in whatever way. Forked workers do not hold it.
    Where the file system has no locks it goes on without.

    Raises:
        LockedError: another process holds it.
        OSError: nothing can be written there.
    """
    path, owner = folder / LOCK_NAME, os.getpid()
    with made(folder), _lock(path) as file:
        file.truncate(0)
        with contextlib.suppress(OSError):  # on a full disk it locks all the same
            os.write(file.fileno(), f"{owner} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            if os.getpid() == owner:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent` for this process, removed when the block ends.

    Those of the same `prefix` that killed processes have left are removed first; other folders
    whose names begin so stay.

    Raises:
        OSError: it cannot be made.
    """
    for left in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError, LockedError):
            if _MADE_BY_MKDTEMP.fullmatch(left.name[len(prefix) :]) and _abandoned(left):
                with locked(left):
                    shutil.rmtree(left)
    owner = os.getpid()
    with contextlib.ExitStack() as held:
        folder = _new_locked(parent, prefix, held)
        try:
            yield folder
        finally:
            if os.getpid() == owner:
                shutil.rmtree(folder, ignore_errors=True)


def _new_locked(parent: Path, prefix: str, held: contextlib.ExitStack) -> Path:
    """A new folder that `held` keeps locked."""
    attempts = 0
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        attempts += 1
        try:
            held.enter_context(locked(folder))
            return folder
        except (FileNotFoundError, LockedError):
            # Another process found the lock file before it was locked, and removes the folder.
            shutil.rmtree(folder, ignore_errors=True)
            if attempts == _MOST_ATTEMPTS:
                raise


def _abandoned(folder: Path) -> bool:
    """Whether a folder may be removed by who can lock it; one without a lock is perhaps new."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    return (folder / LOCK_NAME).exists() or time.time() - status.st_mtime > _NEW_SECONDS


def _lock(path: Path) -> TextIO:
    """The file at `path`, open and locked."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (returned open)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which forks inherit
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:  # its holder has just removed it
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file
            file.seek(0)
            holder = file.read()
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise LockedError(f"{path.parent}: in use by process {holder or 'unknown'}") from None
        file.close()


def sync_folder(folder: Path) -> None:
    """Make a new name in `folder` outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """The checksum of a file's contents."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
