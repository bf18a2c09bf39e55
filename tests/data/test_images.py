# SPDX-License-Identifier: Apache-2.0
"""Reading images safely: headers, truncation, size limits, orientation."""

import io
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from src.data.images import image_header, read_header, read_image
from src.data.records import ImageError
from tests.datasets import SHARED, write_image


def half(width=40, height=20):
    """White on the left, black on the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 255
    return image


def encoded(suffix, image=None, *options):
    return cv2.imencode(suffix, half() if image is None else image, list(options))[1].tobytes()


def with_exif(jpeg, orientation, thumbnail=b""):
    """An EXIF block with one tag, and a thumbnail behind it, put after the start of a JPEG."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0) + thumbnail
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def png_of_size(width, height):
    """A valid PNG header of any size with no pixels to speak of."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_headers_give_the_size_that_decoding_gives(suffix):
    header = read_header(encoded(suffix))
    assert (header.width, header.height) == (40, 20)
    assert header.complete


@pytest.mark.parametrize(
    "options",
    [
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x411111),
    ],
)
def test_kinds_of_jpeg(options):
    data = encoded(".jpg", None, *options)
    assert read_header(data).complete
    assert read_header(data).width == 40


def test_lossless_webp_and_grey_and_alpha(tmp_path):
    assert read_header(encoded(".webp", None, cv2.IMWRITE_WEBP_QUALITY, 101)).width == 40
    for name, image in (
        ("grey", half()[:, :, 0]),
        ("alpha", np.dstack([half(), half()[:, :, :1]])),
    ):
        (tmp_path / name).write_bytes(encoded(".png", image))
        assert read_image(str(tmp_path / name)).shape == (20, 40, 3)


def test_reads_a_path_in_any_script(tmp_path):
    path = write_image(tmp_path / "папка" / "写真 1.png", value=77)
    assert (read_image(str(path)) == 77).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_image_is_refused(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    data = encoded(suffix, noise)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"a\.\w+: (truncated|its header)"):
        read_image(str(path))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(tmp_path):
    whole = with_exif(encoded(".jpg"), 1, thumbnail=encoded(".jpg", half(8, 8)))
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert read_image(str(path)).shape == (20, 40, 3)
    path.write_bytes(whole[:-20])
    with pytest.raises(ImageError, match="truncated"):
        read_image(str(path))


def test_bytes_after_the_end_do_no_harm(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(".jpg") + bytes(5000))
    assert read_image(str(path)).shape == (20, 40, 3)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (8_001, 8_000), (2**31 - 1, 1)])
def test_a_huge_image_is_refused_before_decoding(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(width, height))
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"bomb\.png: \d+ x \d+ is more than 64 Mpx"):
        read_image(str(path))
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"hello, this is text", "not a JPEG, PNG"),
        (b"\xff\xd8", "header is cut off"),
        (b"\xff\xd8\xff\xd9", "no size"),
        (b"\xff\xd8\x00\x00\x00\x00", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a WebP"),
        (b"II*\0\xff\xff\xff\x7f", "cut off"),
        (b"BM", "cut off"),
        (png_of_size(0, 5), "no size"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, content, message):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_header_without_pixels_is_refused(tmp_path):
    """The header and the end are there, the pixels are not."""
    path = tmp_path / "x.png"
    data = encoded(".png")
    start, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(str(path))


def test_a_file_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr("src.data.images.MAX_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="/dev/zero: larger than 1 MB"):
        read_image("/dev/zero")


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        read_image(str(tmp_path / "x.jpg"))
    with pytest.raises(ImageError, match="directory"):
        image_header(str(tmp_path))


def test_orientation_is_used_only_where_the_annotation_calls_for_it(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(with_exif(encoded(".jpg"), 6))
    assert image_header(str(path)).orientation == 6
    as_stored = read_image(str(path), (40, 20))
    assert as_stored.shape == (20, 40, 3)
    assert as_stored[10, 5].min() > 200
    # 6: turned a quarter to the right when shown, so that the white left is on top.
    as_shown = read_image(str(path), (20, 40))
    assert as_shown.shape == (40, 20, 3)
    assert as_shown[5, 10].min() > 200
    assert as_shown[35, 10].max() < 50
    # A size that fits neither way says nothing about rotation.
    assert read_image(str(path), (10, 10)).shape == (20, 40, 3)


@pytest.mark.parametrize(
    ("orientation", "corner"),  # where EXIF 2.3, tag 0x0112, shows the first pixel of the first row
    [
        *[(1, "top left"), (2, "top right"), (3, "bottom right"), (4, "bottom left")],
        *[(5, "top left"), (6, "top right"), (7, "bottom right"), (8, "bottom left")],
    ],
)
def test_without_an_annotation_a_photograph_is_upright(tmp_path, orientation, corner):
    image = np.zeros((16, 48, 3), np.uint8)
    image[:8, :16] = 255
    path = tmp_path / "phone.jpg"
    path.write_bytes(with_exif(encoded(".jpg", image), orientation))
    shown = read_image(str(path))
    assert shown.shape == ((16, 48, 3) if orientation < 5 else (48, 16, 3))
    rows, columns = np.nonzero(shown[:, :, 0] > 128)
    side = "top" if rows.mean() < shown.shape[0] / 2 else "bottom"
    assert corner == f"{side} {'left' if columns.mean() < shown.shape[1] / 2 else 'right'}"
    stored = read_image(str(path), (48, 16))
    assert (stored[:7, :15] > 128).all()


def test_orientation_that_makes_no_sense_is_upright():
    assert read_header(with_exif(encoded(".jpg"), 77)).orientation == 1


def test_every_real_image_is_complete():
    folder = SHARED / "data" / "coco_tiny"
    if not folder.is_dir():
        pytest.skip("the shared COCO images are not there")
    paths = sorted(folder.glob("*2017/*.jpg"))
    assert len(paths) == 160
    for path in paths:
        header = image_header(str(path))
        assert header.complete
        assert max(header.width, header.height) <= 640


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_as_stored_and_as_shown(tmp_path, kind, orientation):
    squares = np.random.default_rng(0).integers(0, 255, (3, 4, 3)).astype(np.uint8)
    stored = np.kron(squares, np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a"
    Image.fromarray(stored).save(path, kind, exif=exif)
    shown = np.array(ImageOps.exif_transpose(Image.open(path)))
    for found, expected in (
        (read_image(str(path)), shown),
        (read_image(str(path), (64, 48)), stored),
        (read_image(str(path), shown.shape[1::-1]), shown if orientation >= 5 else stored),
    ):
        assert found.shape == expected.shape
        assert np.abs(found[:, :, ::-1].astype(int) - expected).mean() < 5


def test_what_opencv_cannot_decode_is_one_line_and_prints_nothing(tmp_path, capfd):
    whole = tmp_path / "a.tif"
    Image.fromarray(np.zeros((48, 60), np.int32)).save(whole)
    cut = tmp_path / "b.bmp"
    cut.write_bytes(encoded(".bmp")[:-900])
    cv2.setLogLevel(3)  # OpenCV's own: warnings
    with pytest.raises(ImageError, match=r"a\.tif: cannot be decoded .*8 or 16 bits a sample"):
        read_image(str(whole))
    cv2.setLogLevel(3)
    with pytest.raises(ImageError, match=r"b\.bmp: cannot be decoded$"):
        read_image(str(cut))
    assert capfd.readouterr() == ("", "")


def odd_images():
    """Width, height and contents of files that are unusual and sound, by name."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 60, 3)).astype(np.uint8)
    colours = Image.fromarray(noise)
    pictures = {
        "one.jpg": (Image.new("RGB", (1, 1)), "JPEG", {}),
        "wide.jpg": (Image.new("RGB", (20_000, 3)), "JPEG", {}),
        "16bit.png": (Image.fromarray(noise[..., 0].astype(np.uint16) << 8), "PNG", {}),
        "cmyk.jpg": (colours.convert("CMYK"), "JPEG", {}),
        "palette.png": (colours.convert("P"), "PNG", {"transparency": 3}),
        "grey_alpha.png": (colours.convert("LA"), "PNG", {}),
        "photo.webp": (colours, "WEBP", {}),
        "moving.webp": (colours, "WEBP", {"save_all": True, "append_images": [colours]}),
        "moving.png": (colours, "PNG", {"save_all": True, "append_images": [colours]}),
    }
    for name, (picture, kind, options) in pictures.items():
        file = io.BytesIO()
        picture.save(file, kind, **options)
        yield name, picture.width, picture.height, file.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "content"),
    [pytest.param(*row[1:], id=row[0]) for row in odd_images()],
)
def test_unusual_images_are_read(tmp_path, capfd, width, height, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    image = read_image(str(path), (width, height))
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    if width == 60:  # a 16-bit or transparent picture keeps its contrast
        assert image.std() > 40
    assert capfd.readouterr() == ("", "")
