# SPDX-License-Identifier: Apache-2.0
"""Reading images safely: the header is looked at before anything is decoded."""

import os
import struct
from dataclasses import dataclass
from typing import Optional, Tuple

import cv2
import numpy as np

from .records import ImageError

MAX_PIXELS = 64_000_000  # a 47 KB PNG can decode to gigabytes
MINDRECORD_MARK = ".mindrecord#"  # in a path: a row of that file
MAX_BYTES = 256 * 1024 * 1024
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Header:
    """What the first bytes say: pixel size, EXIF orientation (1 upright), and whether the end is
    there.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    complete: bool = True


def read_header(data: bytes) -> Header:
    """Size and completeness from the bytes of a JPEG, PNG, BMP, WebP or TIFF file, without
    decoding.

    Raises:
        ValueError: none of these formats, or no size in it.
    """
    readers = (
        (b"\xff\xd8", _jpeg),
        (b"\x89PNG\r\n\x1a\n", _png),
        (b"BM", _bmp),
        (b"RIFF", _webp),
        (b"II*\0", _tiff),
        (b"MM\0*", _tiff),
    )
    for magic, reader in readers:
        if data.startswith(magic):
            try:
                header = reader(data)
            except (struct.error, IndexError):
                raise ValueError("its header is cut off") from None
            if header.width < 1 or header.height < 1:
                raise ValueError("its header gives no size")
            return header
    raise ValueError(
        "it is empty" if not data else "it is not a JPEG, PNG, BMP, WebP or TIFF image"
    )


def read_image(path: str, size: Optional[Tuple[int, int]] = None) -> np.ndarray:
    """The image at `path` as (H, W, 3) uint8 BGR, in the file's own orientation as COCO is
    annotated.

    `size` is the annotated (width, height). A photo whose size fits only after its EXIF rotation
    was annotated as viewers show it, and is rotated.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, or more than 64 million pixels.
    """
    data = read_bytes(path)
    return decode(path, data, checked_header(path, data), size)


def decode(
    path: str, data: bytes, header: Header, size: Optional[Tuple[int, int]] = None
) -> np.ndarray:
    """`read_image` for the contents of a file whose header was checked."""
    flags = cv2.IMREAD_COLOR
    swapped = size is not None and size != (header.width, header.height) and header.orientation >= 5
    if not (swapped and size == (header.height, header.width)):
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"{path}: cannot be decoded ({str(error).splitlines()[0]})") from None
    if image is None:
        raise ImageError(f"{path}: cannot be decoded")
    return image


def image_header(path: str) -> Header:
    """The header of the file at `path`, with the checks of `read_image` but no decoding."""
    return checked_header(path, read_bytes(path))


def checked_header(path: str, data: bytes) -> Header:
    """The header in `data`, the contents of `path`; ImageError if it should not be decoded."""
    try:
        header = read_header(data)
    except ValueError as error:
        raise ImageError(f"{path}: {error}") from None
    if header.width * header.height > MAX_PIXELS:
        raise ImageError(
            f"{path}: {header.width} x {header.height} is more than {MAX_PIXELS // 10**6} Mpx",
            "oversized images",
        )
    if not header.complete:
        raise ImageError(
            f"{path}: truncated, the end of the {header.kind} data is missing", "truncated images"
        )
    return header


def read_bytes(path: str) -> bytes:
    """The contents of an image file, or of a row of a MindRecord file.

    Raises:
        ImageError: it is too large or cannot be read.
    """
    if MINDRECORD_MARK in path:
        from .mindrecord import read_row

        return read_row(path)
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise ImageError(f"{path}: larger than {MAX_BYTES >> 20} MB", "oversized images")
            return file.read()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def _jpeg(data: bytes) -> Header:
    """ISO/IEC 10918-1, annex B: segments up to the first scan, then entropy-coded data to EOI."""
    position, size, orientation = 2, (0, 0), 1
    while True:
        if data[position] != 0xFF:
            raise ValueError("its JPEG segments are damaged")
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            break
        (length,) = struct.unpack_from(">H", data, position)
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            size = (width, height)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 8 : position + length])
        position += length
    # Inside a scan 0xFF is always escaped, so an end marker after it is the real one. Searching
    # from the end skips both trailing bytes and the marker of an embedded thumbnail.
    complete = data.rfind(b"\xff\xd9", position) >= 0
    return Header("JPEG", size[0], size[1], orientation, complete)


def _exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory; 1 where there is none or it makes no sense."""
    try:
        value = _tiff_tags(tiff).get(0x0112, 1)
    except (struct.error, IndexError, KeyError):
        return 1
    return value if 1 <= value <= 8 else 1


def _tiff_tags(data: bytes) -> dict:
    """Short and long values of the first directory of a TIFF block."""
    order = {b"II": "<", b"MM": ">"}[bytes(data[:2])]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if kind in (3, 4):
            (tags[tag],) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], data, entry + 8)
    return tags


def _png(data: bytes) -> Header:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    raw = height * ((width * depth * channels + 7) // 8 + 1)
    # Deflate packs at most 1032 bytes into one: with fewer, the sides are wrong or data missing.
    complete = _png_ends(data) and raw <= 1032 * len(data)
    return Header("PNG", width, height, complete=complete)


def _png_ends(data: bytes) -> bool:
    """Whether the chain of chunks reaches the end chunk; decoders reserve what a chunk claims."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position += length + 12
    return False


def _bmp(data: bytes) -> Header:
    (start,) = struct.unpack_from("<I", data, 10)
    if struct.unpack_from("<I", data, 14)[0] == 12:  # the OS/2 header has 16-bit sizes
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", width, abs(height), complete=len(data) > start)


def _webp(data: bytes) -> Header:
    """RFC 9649: a lossy, lossless or extended first chunk."""
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        raise ValueError("it is a RIFF file, but not a WebP image")
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    (length,) = struct.unpack_from("<I", data, 4)
    return Header("WebP", width, height, complete=len(data) >= length + 8)


def _tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)
    return Header("TIFF", tags.get(256, 0), tags.get(257, 0), tags.get(274, 1))
