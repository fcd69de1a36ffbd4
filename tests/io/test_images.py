import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from flowwarp.errors import InputError, OutputError
from flowwarp.io import png
from flowwarp.io.flow_files import read_flow
from flowwarp.io.images import (
    ImageFormat,
    list_frames,
    read_image,
    read_image_with_format,
    write_image,
)

RGB = np.array([[[255, 0, 51], [0, 102, 0]]], np.uint8)  # 1 row, 2 columns


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "ppm", "webp", "gif"])
def test_rgb_by_hand(tmp_path, extension):
    options = {"lossless": True} if extension == "webp" else {}
    image = read_image(save(tmp_path / f"a.{extension}", RGB, **options))
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    expected = torch.tensor([[[1, 0]], [[0, 0.4]], [[0.2, 0]]])
    assert torch.allclose(image, expected, atol=0, rtol=1e-7)


def test_grey_becomes_three_channels(tmp_path):
    image, format = read_image_with_format(
        save(tmp_path / "a.png", np.array([[0, 51], [102, 255]], np.uint8))
    )
    assert format == ImageFormat(8, gray=True)
    assert torch.equal(image, torch.tensor([[0, 0.2], [0.4, 1]]).expand(3, 2, 2))


def test_black_and_white(tmp_path):
    save(tmp_path / "a.png", np.array([[0, 255, 255]], np.uint8), "1")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0, 1, 1]]


def test_palette(tmp_path):
    path = save(tmp_path / "a.png", RGB, "P")
    with Image.open(path) as picture:
        assert picture.mode == "P"
    image, format = read_image_with_format(path)
    assert format == ImageFormat()
    assert image.shape == (3, 1, 2)


def test_palette_with_transparency(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png", transparency=bytes([0, 255]))
    image, format = read_image_with_format(tmp_path / "a.png")
    assert format == ImageFormat(alpha=True)
    assert image.tolist() == [[[1, 0]], [[0, 1]], [[0, 0]], [[0, 1]]]


def test_alpha_is_dropped_returned_or_added(tmp_path):
    save(tmp_path / "a.png", np.dstack([RGB, np.array([[[51], [255]]], np.uint8)]))
    save(tmp_path / "b.png", RGB)
    assert read_image(tmp_path / "a.png").shape == (3, 1, 2)
    assert torch.equal(read_image(tmp_path / "a.png", alpha=True)[3], torch.tensor([[0.2, 1]]))
    assert read_image(tmp_path / "b.png").shape == (3, 1, 2)
    assert torch.equal(read_image(tmp_path / "b.png", alpha=True)[3], torch.ones(1, 2))


def test_grey_with_alpha(tmp_path):
    image, format = read_image_with_format(
        save(tmp_path / "a.png", np.array([[[51, 102]]], np.uint8))
    )
    assert format == ImageFormat(8, gray=True, alpha=True)
    assert torch.allclose(image.flatten(), torch.tensor([0.2, 0.2, 0.2, 0.4]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_png_keeps_its_precision(tmp_path, channels):
    pixels = np.arange(6 * channels, dtype=np.uint16).reshape(2, 3, channels) * 999
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    image, format = read_image_with_format(tmp_path / "a.png")
    assert format == ImageFormat(16, gray=channels == 1, alpha=channels == 4)
    rgb = pixels[..., {1: [0, 0, 0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]]
    assert np.array_equal((image.double() * 65535).round().numpy(), rgb.transpose(2, 0, 1))


def test_16_bit_grey_tiff(tmp_path):
    save(tmp_path / "a.tif", np.array([[0, 13107, 65535]], np.uint16))
    image, format = read_image_with_format(tmp_path / "a.tif")
    assert format == ImageFormat(16, gray=True)
    assert torch.allclose(image[2], torch.tensor([[0, 0.2, 1]]))


@pytest.mark.parametrize("top", [65535, 1000])
def test_16_bit_grey_pgm(tmp_path, top):
    values = np.array([0, top // 5, top], ">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5\n3 1\n%d\n" % top + values.tobytes())
    image, format = read_image_with_format(tmp_path / "a.pgm")
    assert format == ImageFormat(16, gray=True)
    assert torch.allclose(image, torch.tensor([[[0, 0.2, 1]]]).expand(3, 1, 3))


def test_32_bit_grey_tiff_is_refused(tmp_path):
    save(tmp_path / "a.tif", np.zeros((2, 2), np.int32))
    with pytest.raises(InputError, match="has 'I' pixels"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("colour", [0, 4])
def test_interlaced_16_bit_png(tmp_path, colour):
    # 5 x 3 in seven passes, by hand: nothing here writes interlaced PNG.
    channels = {0: 1, 4: 2}[colour]
    pixels = (np.arange(15 * channels).reshape(3, 5, channels) * 1000).astype(">u2")
    raw = b""
    for x, y, dx, dy in [
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]:  # fmt: skip
        raw += b"".join(b"\0" + row.tobytes() for row in pixels[y::dy, x::dx] if row.size)

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 3, 16, colour, 0, 0, 1))
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )
    image, _ = read_image_with_format(tmp_path / "a.png")
    assert np.array_equal((image[0].double() * 65535).round().numpy(), pixels[..., 0])
    if colour == 4:
        assert np.array_equal((image[3].double() * 65535).round().numpy(), pixels[..., 1])


def test_cmyk_jpeg(tmp_path):
    red = np.full((16, 16, 3), (255, 0, 0), np.uint8)
    image = read_image(save(tmp_path / "a.jpg", red, "CMYK", quality=100))
    assert torch.allclose(image.mean((1, 2)), torch.tensor([1.0, 0, 0]), atol=0.02)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, [[0, 100], [200, 250]]), (3, [[250, 200], [100, 0]]), (6, [[200, 0], [250, 100]])],
)
def test_exif_orientation(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.array([[0, 100], [200, 250]], np.uint8).repeat(8, 0).repeat(8, 1)
    save(tmp_path / "a.jpg", pixels, exif=exif, quality=100)
    corners = read_image(tmp_path / "a.jpg")[0, 4::8, 4::8] * 255
    assert torch.allclose(corners, torch.tensor(expected, dtype=torch.float32), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_16_bit_png(tmp_path, orientation):
    """As Pillow turns one of 8 bits; flow is not turned."""
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10
    save(tmp_path / "8.png", pixels, exif=exif)
    cv2.imwrite(str(tmp_path / "16.png"), pixels[..., ::-1].astype(np.uint16) * 257)
    before = read_flow(tmp_path / "16.png")
    add_chunk(tmp_path / "16.png", b"eXIf", exif.tobytes())
    image, format = read_image_with_format(tmp_path / "16.png")
    assert format == ImageFormat(16)
    assert image.is_contiguous()
    assert torch.allclose(image, read_image(tmp_path / "8.png"))
    after = read_flow(tmp_path / "16.png")
    assert all(torch.equal(*both) for both in zip(before, after, strict=True))


def test_broken_exif_of_a_16_bit_png(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 3, 3), np.uint16))
    add_chunk(tmp_path / "a.png", b"eXIf", b"nonsense")
    with pytest.raises(InputError, match=r"a\.png: is a broken picture"):
        read_image(tmp_path / "a.png")


def add_chunk(path, kind, body):
    data = path.read_bytes()
    crc = struct.pack(">I", zlib.crc32(kind + body))
    chunk = struct.pack(">I", len(body)) + kind + body + crc
    path.write_bytes(data[:33] + chunk + data[33:])


# ------------------------------------------------------------------ colour profiles


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(space=b"RGB ", more=0):
    """Return a profile that calls its colours ``space``, longer by so many bytes of nothing."""
    size = len(SRGB) + more
    return size.to_bytes(4, "big") + SRGB[4:16] + space + SRGB[20:] + bytes(more)


def add_png_profile(path, icc):
    add_chunk(path, b"iCCP", b"mine\0\0" + zlib.compress(icc))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
def test_a_profile_round_trips(tmp_path, extension, channels, bits):
    """As Pillow reads it; a WebP stores grey as RGB, to which a profile of grey does not apply."""
    if channels == 4 and extension == "jpg":
        channels = 3
    icc = profile(b"GRAY" if channels == 1 else b"RGB ")
    write_image(tmp_path / "a.png", torch.full((channels, 4, 5), 0.2), ImageFormat(bits))
    add_png_profile(tmp_path / "a.png", icc)
    image, format = read_image_with_format(tmp_path / "a.png")
    assert format == ImageFormat(bits, channels == 1, channels == 4, icc)
    path = tmp_path / f"b.{extension}"
    write_image(path, image, format)
    wanted = None if extension == "webp" and channels == 1 else icc
    with Image.open(path) as picture:
        assert picture.info.get("icc_profile") == wanted
    again, format = read_image_with_format(path)
    assert format.icc == wanted
    assert (again - image).abs().max() < 0.01


@pytest.mark.parametrize("extension", ["bmp", "ppm"])
def test_a_profile_is_dropped_by_formats_without_one(tmp_path, extension):
    write_image(tmp_path / f"a.{extension}", torch.zeros(3, 2, 2), ImageFormat(icc=profile()))
    assert read_image_with_format(tmp_path / f"a.{extension}")[1] == ImageFormat()


@pytest.mark.parametrize(
    "icc",
    [
        b"",
        b"nonsense" * 20,
        profile()[:-1],
        profile(b"GRAY"),
        profile(b"CMYK"),
        profile(more=2**22),
    ],
    ids=["empty", "nonsense", "cut off", "of grey", "of ink", "huge"],
)
@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
def test_a_profile_that_does_not_fit_is_dropped(tmp_path, extension, icc):
    path = save(tmp_path / f"a.{extension}", RGB)
    before = read_image(path)
    if extension == "png":
        add_png_profile(path, icc)
    else:
        save(path, RGB, icc_profile=icc)
    image, format = read_image_with_format(path)
    assert format == ImageFormat()
    assert torch.equal(image, before)
    write_image(tmp_path / "b.png", image, ImageFormat(icc=icc))
    with Image.open(tmp_path / "b.png") as picture:
        assert "icc_profile" not in picture.info


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("packed", [b"", b"nonsense", zlib.compress(bytes(2**26))])
def test_a_profile_that_cannot_be_unpacked_is_dropped(tmp_path, bits, packed):
    write_image(tmp_path / "a.png", torch.ones(3, 1, 1), ImageFormat(bits))
    for name in (b"mine\0\0", b"mine\0\7", b""):
        add_chunk(tmp_path / "a.png", b"iCCP", name + packed)
        image, format = read_image_with_format(tmp_path / "a.png")
        assert format == ImageFormat(bits)
        assert image.flatten().tolist() == [1, 1, 1]
        write_image(tmp_path / "a.png", image, format)


def test_a_cmyk_profile_is_dropped(tmp_path):
    save(tmp_path / "a.jpg", RGB, "CMYK", icc_profile=profile(b"CMYK"))
    assert read_image_with_format(tmp_path / "a.jpg")[1] == ImageFormat()


def test_a_large_profile_is_read(tmp_path):
    """Pillow refuses a PNG with a profile of more than 1 MiB."""
    icc = profile(more=2**22 - len(SRGB))
    add_png_profile(save(tmp_path / "a.png", RGB), icc)
    assert read_image_with_format(tmp_path / "a.png")[1] == ImageFormat(icc=icc)


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_animation_gives_its_first_frame(tmp_path, extension):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"a.{extension}", save_all=True, append_images=[second])
    image = read_image(tmp_path / f"a.{extension}")
    assert torch.allclose(image.mean((1, 2)), torch.tensor([1.0, 0, 0]), atol=0.02)


def test_the_content_decides_the_format(tmp_path):
    save(tmp_path / "a.jpg", RGB, format="PNG")
    assert torch.equal(read_image(tmp_path / "a.jpg")[0], torch.tensor([[1.0, 0]]))


@pytest.mark.parametrize("extension", ["png", "webp", "bmp", "tif", "ppm"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(height=st.integers(1, 30), width=st.integers(1, 30), channels=st.sampled_from([1, 3, 4]))
def test_round_trip_within_half_a_step(tmp_path_factory, extension, height, width, channels):
    if channels == 4 and extension in ("bmp", "ppm"):
        channels = 3
    generator = torch.Generator().manual_seed(height * width)
    image = torch.rand(channels, height, width, generator=generator)
    path = tmp_path_factory.mktemp("round") / f"a.{extension}"
    write_image(path, image)
    got = read_image(path, alpha=channels == 4)
    assert (got - (image.expand(3, -1, -1) if channels == 1 else image)).abs().max() <= 0.5001 / 255
    write_image(path, got)  # what has been rounded once stays
    assert torch.equal(read_image(path, alpha=channels == 4), got)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_format_round_trips(tmp_path, bits, gray, alpha):
    image = torch.rand(1, 5, 4).expand(3, -1, -1) if gray else torch.rand(3, 5, 4)
    if alpha:
        image = torch.cat([image, torch.rand(1, 5, 4)])
    format = ImageFormat(bits, gray, alpha)
    write_image(tmp_path / "a.png", image, format)
    got, got_format = read_image_with_format(tmp_path / "a.png")
    # OpenCV writes no 16-bit grey with alpha: that becomes RGBA.
    assert got_format == ImageFormat(bits, gray and not (alpha and bits == 16), alpha)
    assert (got - image).abs().max() <= 0.501 / (2**bits - 1)


def test_16_bits_become_8_in_formats_of_8(tmp_path):
    write_image(tmp_path / "a.bmp", torch.rand(3, 2, 2), ImageFormat(16))
    assert read_image_with_format(tmp_path / "a.bmp")[1] == ImageFormat()


@pytest.mark.parametrize("bits", [8, 16])
def test_written_values_are_clamped_and_rounded(tmp_path, bits):
    top = 2**bits - 1
    values = torch.tensor([-1, 2, torch.nan, torch.inf, 0.4 / top, 0.6 / top])
    write_image(tmp_path / "a.png", values.reshape(1, 1, 6), ImageFormat(bits))
    got = read_image(tmp_path / "a.png")[0, 0] * top
    assert got.round().tolist() == [0, top, 0, top, 0, 1]


@pytest.mark.parametrize("extension", ["jpg", "jpeg"])
def test_jpeg_is_close(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    ramp = torch.linspace(0, 1, 64).expand(3, 48, 64)
    write_image(path, ramp)
    assert (read_image(path) - ramp).abs().max() < 4 / 255
    with Image.open(path) as picture:
        assert picture.quantization[0][0] == 2  # of quality 95; at 75 it is 8


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((3, 1, 1), np.float32), TypeError, "got ndarray"),
        (torch.zeros(3, 1, 1, dtype=torch.uint8), TypeError, "got torch.uint8"),
        (torch.zeros(1, 3, 1, 1), ValueError, r"\(1\|3\|4, H, W\)"),
        (torch.zeros(2, 1, 1), ValueError, r"\(2, 1, 1\)"),
        (torch.zeros(3, 0, 1), ValueError, r"\(3, 0, 1\)"),
    ],
)
def test_write_checks_its_arguments(tmp_path, image, error, words):
    with pytest.raises(error, match=words):
        write_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_write_refuses_alpha_that_a_format_lacks(tmp_path):
    with pytest.raises(OutputError, match=r"\.jpg file has no transparency; write \.png"):
        write_image(tmp_path / "a.jpg", torch.zeros(4, 1, 1))
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        write_image(tmp_path / "a.xyz", torch.zeros(3, 1, 1))


def test_colour_in_a_pgm_is_refused(tmp_path):
    """As a P6 file under the name .pgm, only some readers would open it."""
    with pytest.raises(OutputError, match=r"a \.pgm file has no colour; write \.ppm or \.png"):
        write_image(tmp_path / "a.pgm", torch.zeros(3, 1, 1))
    assert not list(tmp_path.iterdir())
    write_image(tmp_path / "a.pgm", torch.zeros(1, 1, 1))
    write_image(tmp_path / "b.pgm", torch.zeros(3, 1, 1), ImageFormat(gray=True))
    for name in ("a.pgm", "b.pgm"):
        assert (tmp_path / name).read_bytes().startswith(b"P5")


def test_picture_too_large_for_its_format(tmp_path):
    with pytest.raises(OutputError, match="cannot have a side of 70000 px"):
        write_image(tmp_path / "a.jpg", torch.zeros(1, 1, 70000))


def test_float_tiff_is_refused(tmp_path):
    save(tmp_path / "a.tif", np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match="has 'F' pixels"):
        read_image(tmp_path / "a.tif")


def test_list_frames(tmp_path):
    for name in ("f10.png", "f9.jpg", "notes.txt", "flow.flo"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_frames(tmp_path)] == ["f9.jpg", "f10.png"]


FLAT = {".tif": {"compression": "group4"}}
PREVIEW = Image.Exif()
PREVIEW[ExifTags.Base.ImageDescription] = b"\xff\xda" * 200


@pytest.mark.parametrize("extension", [".tif", ".png"])
def test_a_decompression_bomb_is_refused(tmp_path, extension):
    picture = Image.new("1", (2**14, 5500), 1)
    picture.save(tmp_path / f"a{extension}", **FLAT.get(extension, {}))
    with pytest.raises(InputError, match=r"to 270336000 bytes; refused as a decompression bomb"):
        read_image(tmp_path / f"a{extension}")


@pytest.mark.parametrize("extension", [".tif", ".gif", ".png", ".jpg"])
def test_more_pixels_than_allowed_are_refused(tmp_path, extension):
    Image.new("RGB", (9, 7)).save(tmp_path / f"a{extension}")
    assert read_image(tmp_path / f"a{extension}", most=63).shape == (3, 7, 9)
    with pytest.raises(InputError, match="9x7 pixels; at most 0 million"):
        read_image(tmp_path / f"a{extension}", most=62)


@pytest.mark.parametrize(("extra", "fits"), [(90, True), (91, False)])
def test_too_many_scans_are_refused(tmp_path, extra, fits):
    """A progressive JPEG that repeats its last scan, with a preview in its EXIF."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16), (9, 99, 200)).save(path, progressive=True, exif=PREVIEW)
    data = path.read_bytes()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    path.write_bytes(data[:end] + data[last:end] * extra + data[end:] + b"\xff\xda" * 200)
    if fits:
        assert read_image(path).shape == (3, 16, 16)
        return
    with pytest.raises(InputError, match="has more than 100 scans"):
        read_image(path)


@pytest.mark.parametrize(
    ("read", "extension"), [(read_image, ".png"), (read_image, ".webp"), (read_flow, ".png")]
)
def test_a_sparse_file_is_not_read(tmp_path, monkeypatch, read, extension):
    monkeypatch.setattr(png, "_MAX_METADATA", 2**16)
    path = tmp_path / f"a{extension}"
    data = np.full((2, 2, 3), 2**15 + 64, np.uint16)
    Image.new("RGB", (2, 2)).save(path) if read is read_image else cv2.imwrite(str(path), data)
    whole = read(path)
    os.truncate(path, 2**40)
    if extension == ".webp":  # which Pillow reads to its end
        with pytest.raises(InputError, match="has 1099511627776 bytes, more than"):
            read(path)
    else:
        assert torch.equal(*(picture[0] for picture in (whole, read(path))))
