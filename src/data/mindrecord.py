# SPDX-License-Identifier: Apache-2.0
"""Reading an image that lies in a MindRecord file, and the names of such files."""

import functools
import os
from typing import Any

from .records import ImageError

GROUP_ROWS = 64  # images under one category, which is how MindPage finds a row


def read_row(path: str) -> bytes:
    """The image file stored at `path`, e.g. "/data/train2017-00003.mindrecord#17".

    Raises:
        ImageError: the file cannot be read, or has no such row.
    """
    name, _, number = path.rpartition("#")
    row = int(number)
    try:
        group, place = divmod(row, GROUP_ROWS)
        found = _open(name, os.getpid()).read_at_page_by_name(str(group), place, 1)
        if len(found) != 1 or found[0]["row"] != row:
            raise ImageError(f"{path}: no such row")
        return bytes(found[0]["image"])
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, ImageError):
            raise
        reason = next((line for line in str(error).splitlines() if line.startswith("[ERROR]")), "")
        raise ImageError(f"{path}: cannot be read {reason[:200]}".strip()) from None


@functools.cache
def _open(name: str, pid: int) -> Any:
    """One reader for each file and process: readers do not survive a fork."""
    from mindspore.mindrecord import MindPage

    page = MindPage(name, num_consumer=1)
    page.category_field = "part"
    page.read_category_info()
    return page


MINDRECORD_ROWS = 2048  # images in one MindRecord file


def mindrecord_file(split: str, row: int) -> str:
    """The name of the MindRecord file with image `row` of a split."""
    return f"{split}-{row // MINDRECORD_ROWS:05}.mindrecord"
