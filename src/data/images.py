# SPDX-License-Identifier: Apache-2.0
"""Reading images safely: the header is looked at before anything is decoded."""

import io
import os
import stat
import struct
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

import cv2
import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, TiffImagePlugin
from PIL.ExifTags import Base

from .records import ImageError

MAX_PIXELS = 64_000_000  # limit of decoded pixels: a 47 KB PNG can decode to gigabytes
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
    if data.startswith(b"RIFF") and data[8:12] != b"WEBP":
        raise ValueError("it is a RIFF file, but not a WebP image")
    for magic, reader in readers:
        if data.startswith(magic):
            try:
                header = reader(data)
            except Exception:  # what Pillow raises depends on format and damage
                header = None
            if header is None or header.width < 1 or header.height < 1:
                raise ValueError("its header is cut off, damaged, or gives no size")
            return header
    raise ValueError(
        "it is empty" if not data else "it is not a JPEG, PNG, BMP, WebP or TIFF image"
    )


def read_image(path: str, size: Optional[Tuple[int, int]] = None) -> np.ndarray:
    """The image at `path` as (H, W, 3) uint8 BGR.

    Args:
        size: annotated width and height. Annotations, like COCO's, are of the picture as it is
            stored; only where the size fits after the EXIF rotation alone were they made as
            viewers show it, and it is rotated. Without a size it is shown upright.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, or more than 64 million pixels.
    """
    data = read_bytes(path)
    return decode(path, data, checked_header(path, data), size)


def decode(
    path: str, data: bytes, header: Header, size: Optional[Tuple[int, int]] = None
) -> np.ndarray:
    """`read_image` for the contents of a file whose header was checked."""
    stored, turned = (header.width, header.height), (header.height, header.width)
    flags = cv2.IMREAD_COLOR
    as_stored = size is not None and (size == stored or size != turned or header.orientation < 5)
    if as_stored:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    cv2.setLogLevel(0)  # what it prints of damaged files names none
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"{path}: cannot be decoded ({str(error).splitlines()[0]})") from None
    if image is None:
        tiff = " (damaged, or not of 8 or 16 bits a sample)" if header.kind == "TIFF" else ""
        raise ImageError(f"{path}: cannot be decoded{tiff}")
    if as_stored and header.kind == "TIFF":  # which OpenCV turns all the same
        image = _turned_back(image, header.orientation)
    return image


def _turned_back(shown: np.ndarray, orientation: int) -> np.ndarray:
    """The (H, W, 3) picture as stored, from the one that its EXIF orientation shows."""
    if orientation in (2, 3, 6, 7):
        shown = shown[:, ::-1]
    if orientation in (3, 4, 7, 8):
        shown = shown[::-1]
    return np.ascontiguousarray(shown.transpose(1, 0, 2) if orientation >= 5 else shown)


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
            status = os.fstat(file.fileno())
            regular = stat.S_ISREG(status.st_mode)
            data = (
                b"" if status.st_size > MAX_BYTES else file.read(-1 if regular else MAX_BYTES + 1)
            )
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    if max(len(data), status.st_size) > MAX_BYTES:
        raise ImageError(f"{path}: larger than {MAX_BYTES >> 20} MB", "oversized images")
    return data


# Pillow's classes for single formats, which read up to the pixels: `Image.open` would warn of or
# refuse large images in its own words.


def _jpeg(data: bytes) -> Header:
    stream = io.BytesIO(data)
    image = JpegImagePlugin.JpegImageFile(stream)
    orientation = _exif_orientation(image.info.get("exif", b""))
    # Inside a scan 0xFF is always escaped, so an end marker after it is the real one. Searching
    # from the end skips both trailing bytes and the marker of an embedded thumbnail.
    complete = data.rfind(b"\xff\xd9", stream.tell()) >= 0
    return Header("JPEG", *image.size, orientation, complete)


def _png(data: bytes) -> Header:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    raw = height * ((width * depth * channels + 7) // 8 + 1)
    chunks = _png_chunks(data)
    orientation = _exif_orientation(chunks.get(b"eXIf", b""))
    # Deflate packs at most 1032 bytes into one: with fewer, the sides are wrong or data missing.
    complete = b"IEND" in chunks and raw <= 1032 * len(data)
    return Header("PNG", width, height, orientation, complete)


def _png_chunks(data: bytes) -> Dict[bytes, bytes]:
    """Contents by kind, up to the end chunk; without it where a chunk claims more than there is,
    which decoders would reserve.
    """
    position, chunks = 8, {}
    while position + 12 <= len(data) and b"IEND" not in chunks:
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks[kind] = data[position + 8 : position + 8 + length]
        position += length + 12
    return chunks


def _bmp(data: bytes) -> Header:
    width, height = BmpImagePlugin.BmpImageFile(io.BytesIO(data)).size
    (start,) = struct.unpack_from("<I", data, 10)
    return Header("BMP", width, height, complete=len(data) > start)


def _webp(data: bytes) -> Header:
    """RFC 9649: a lossy, lossless or extended first chunk.

    Not by Pillow, whose reader takes memory for the whole picture.
    """
    kind = data[12:16]
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
    """Only the tags: OpenCV reads kinds of pixels that Pillow does not know."""
    tags, stream = TiffImagePlugin.ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
    stream.seek(tags.next)
    tags.load(stream)
    width, height = int(tags[Base.ImageWidth]), int(tags[Base.ImageLength])
    return Header("TIFF", width, height, _orientation(tags))


def _exif_orientation(data: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(data)
        return _orientation(exif)
    except Exception:  # damaged EXIF, of which there are many kinds, is no EXIF
        return 1


def _orientation(tags: Mapping[int, Any]) -> int:
    value = int(tags.get(Base.Orientation, 1))
    return value if 1 <= value <= 8 else 1
