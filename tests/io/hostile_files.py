"""A corpus of broken and hostile flow files, pictures and videos."""

import io
import os
import pickle
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from flowwarp.io.images import write_image
from flowwarp.io.video_writer import write_video

MAX_BYTES = 16 * 2**20


HUGE = 2**31 - 1


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


def flo(width=2, height=2, values=8, magic=b"PIEH"):
    return magic + struct.pack("<ii", width, height) + bytes(4 * values)


def pfm(header=b"PF\n2 2\n-1.0\n", values=12):
    return header + bytes(4 * values)


def npy(header=None, descr="'<f4'", order="False", shape="(2, 2, 2)", data=bytes(32), version=1):
    text = header or f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + data


def npz(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def patch(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def chunk(kind, body, checksum=None):
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(width=2, height=2, bits=16, colour=2, raw=None, packed=None, extra=b"", interlace=0):
    raw = bytes(height * (1 + 6 * width)) if raw is None and packed is None else raw
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    body = zlib.compress(raw) if packed is None else packed
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
    return start + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def npy_of(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def written(write, name, *arguments):
    """Return the bytes of a valid file."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, name), *arguments)
        return Path(folder, name).read_bytes()


def zeros(count):
    """Deflate ``count`` MiB of zeros from one repeated block, without allocating them."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * count + b"\x03\0"  # and an empty last block


def png_bomb():
    """Return an honest PNG of 8192 x 5500 black pixels: 270 MB from 270 kB."""
    size = 5500 * (1 + 6 * 8192)
    whole, rest = divmod(size, 2**20)
    packer = zlib.compressobj(9, wbits=-15)
    body = zeros(whole)[:-2] + packer.compress(bytes(rest)) + packer.flush()
    return png(8192, 5500, packed=b"\x78\xda" + body + struct.pack(">HH", size % 65521, 1))


def npz_bomb():
    """Return an honest .npz of (2, 8192, 8192) zeros: 512 MiB from 520 kB."""
    head = npy(shape="(2, 8192, 8192)", data=b"")
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(512)
    size = len(head) + 2**29
    small = npz({"flow.npy": b""})
    start, end = small.index(b"PK\x01\x02"), small.index(b"PK\x05\x06")
    entry = patch(small[start:end], 20, struct.pack("<II", len(packed), size))
    local = patch(small[:38], 18, struct.pack("<II", len(packed), size))
    finish = patch(small[end:], 16, struct.pack("<I", len(local) + len(packed)))
    return local + packed + entry + finish


FLOW_PNG = png()


NPZ = npz({"flow.npy": npy()})


ZIP_END = len(NPZ) - 22


# Its header asks for 1.6 GB; the bytes are honest deflate of zeros, but far too few.
LYING_PNG = png(2**14, 2**13, raw=bytes(1000))


BOMB = npz({"flow.npy": npy(shape="(2, 8192, 8192)", data=bytes(0)) + bytes(2**20)})


STORED = npz({"flow.npy": npy()}, zipfile.ZIP_STORED)


FLOWS = {
    # .flo
    "flo_empty.flo": b"",
    "flo_one_byte.flo": b"P",
    "flo_magic_only.flo": b"PIEH",
    "flo_cut_in_width.flo": flo()[:6],
    "flo_cut_in_height.flo": flo()[:11],
    "flo_no_data.flo": flo(values=0),
    "flo_cut_in_data.flo": flo()[:-1],
    "flo_too_long.flo": flo() + b"\0",
    "flo_wrong_magic.flo": flo(magic=b"HEIP"),
    "flo_big_endian.flo": struct.pack(">fii", 202021.25, 2, 2) + bytes(32),
    "flo_zero_width.flo": flo(0, 2, 0),
    "flo_zero_height.flo": flo(2, 0, 0),
    "flo_negative_width.flo": flo(-2, 2),
    "flo_both_negative.flo": flo(-2, -2),
    "flo_huge.flo": flo(HUGE, HUGE),
    "flo_huge_width.flo": flo(HUGE, 1),
    # width * height * 8 wraps to 0 and to 32 in 32 bits
    "flo_overflow_zero.flo": flo(65536, 65536, 0),
    "flo_overflow_small.flo": flo(2**29 + 4, 1),
    "flo_swapped_sizes.flo": patch(flo(), 4, struct.pack(">ii", 2, 2)),
    "flo_is_text.flo": b"hello, I am not a flow file\n" * 10,
    "flo_is_png.flo": FLOW_PNG,
    "flo_is_zip.flo": NPZ,
    # .pfm
    "pfm_empty.pfm": b"",
    "pfm_magic_only.pfm": b"PF",
    "pfm_no_size.pfm": b"PF\n",
    "pfm_no_height.pfm": b"PF\n2\n",
    "pfm_no_scale.pfm": b"PF\n2 2\n",
    "pfm_no_newline.pfm": b"PF\n2 2\n-1.0",
    "pfm_no_data.pfm": pfm(values=0),
    "pfm_cut_in_data.pfm": pfm()[:-1],
    "pfm_too_long.pfm": pfm() + b"\0",
    "pfm_grey.pfm": pfm(b"Pf\n2 2\n-1.0\n", 4),
    "pfm_zero.pfm": pfm(b"PF\n0 0\n-1.0\n", 0),
    "pfm_negative.pfm": pfm(b"PF\n-2 -2\n-1.0\n"),
    "pfm_huge.pfm": pfm(b"PF\n2147483647 2147483647\n-1.0\n"),
    "pfm_huge_digits.pfm": pfm(b"PF\n" + b"9" * 5000 + b" 2\n-1.0\n"),
    "pfm_fraction.pfm": pfm(b"PF\n2.0 2.0\n-1.0\n"),
    "pfm_scale_zero.pfm": pfm(b"PF\n2 2\n0.0\n"),
    "pfm_scale_nan.pfm": pfm(b"PF\n2 2\nnan\n"),
    "pfm_scale_overflow.pfm": pfm(b"PF\n2 2\n1e999\n"),
    "pfm_scale_dots.pfm": pfm(b"PF\n2 2\n1.2.3\n"),
    "pfm_scale_word.pfm": pfm(b"PF\n2 2\nlittle\n"),
    "pfm_spaces.pfm": b"PF" + b" " * 100_000,
    "pfm_wrong_magic.pfm": pfm(b"P6\n2 2\n255\n"),
    # KITTI .png
    "png_empty.png": b"",
    "png_signature_only.png": FLOW_PNG[:8],
    "png_cut_in_header.png": FLOW_PNG[:20],
    "png_header_only.png": FLOW_PNG[:33],
    "png_cut_in_pixels.png": FLOW_PNG[:-20],
    "png_no_end.png": FLOW_PNG[:-12],
    "png_cut_in_end.png": FLOW_PNG[:-1],
    "png_8_bit.png": png(bits=8, raw=bytes(2 * 7)),
    "png_grey.png": png(colour=0, raw=bytes(2 * 5)),
    "png_rgba.png": png(colour=6, raw=bytes(2 * 17)),
    "png_palette.png": png(bits=8, colour=3, raw=bytes(2 * 3), extra=chunk(b"PLTE", bytes(6))),
    "png_palette_16_bit.png": png(colour=3),
    "png_unknown_colour.png": png(colour=5),
    "png_bad_interlace.png": png(interlace=9),
    "png_zero_width.png": png(width=0, raw=bytes(2)),
    "png_huge.png": png(HUGE, HUGE, raw=bytes(100)),
    "png_lying.png": LYING_PNG,
    "png_bad_header_checksum.png": patch(FLOW_PNG, 29, b"\0\0\0\0"),
    "png_bad_checksum.png": patch(FLOW_PNG, len(FLOW_PNG) - 16, b"\0\0\0\0"),
    "png_chunk_of_4_gb.png": FLOW_PNG[:33] + b"\xff\xff\xff\xffIDAT" + bytes(100),
    "png_corrupt_deflate.png": png(packed=b"\x78\x9c" + b"\xff" * 40),
    "png_no_pixels.png": png(packed=b""),
    "png_few_pixels.png": png(raw=bytes(13)),
    "png_many_pixels.png": png(raw=bytes(27)),
    "png_bad_filter.png": png(raw=b"\x09" + bytes(25)),
    "png_no_adler.png": png(packed=zlib.compress(bytes(26))[:-4]),
    "png_bomb.png": png(11000, 11000, packed=zlib.compress(bytes(2**20)) * 800),
    "png_honest_bomb.png": png_bomb(),
    "png_is_jpeg.png": b"\xff\xd8\xff\xe0" + bytes(100),
    # .npy
    "npy_empty.npy": b"",
    "npy_magic_only.npy": b"\x93NUMPY",
    "npy_cut_in_length.npy": npy()[:9],
    "npy_cut_in_header.npy": npy()[:30],
    "npy_no_data.npy": npy(data=b""),
    "npy_cut_in_data.npy": npy()[:-1],
    "npy_too_long.npy": npy() + b"\0",
    "npy_version_9.npy": patch(npy(), 6, b"\x09"),
    "npy_header_of_4_gb.npy": b"\x93NUMPY\x02\0\xff\xff\xff\xff" + bytes(100),
    "npy_header_is_code.npy": npy(header="__import__('os').mkdir('unpickled')\n"),
    "npy_header_nested.npy": npy(header="(" * 4000),
    "npy_object.npy": npy_of(np.array([Evil()] * 2, object), allow_pickle=True),
    "npy_pickle.npy": pickle.dumps(Evil()),
    "npy_object_honest.npy": npy(descr="'|O'", data=pickle.dumps(Evil())),
    "npy_complex.npy": npy_of(np.zeros((2, 2, 2), np.complex64)),
    "npy_integers.npy": npy_of(np.zeros((2, 2, 2), np.int32)),
    "npy_text.npy": npy_of(np.full((2, 2, 2), "abc")),
    "npy_records.npy": npy_of(np.zeros((2, 2, 2), [("u", "f4"), ("v", "f4")])),
    "npy_scalar.npy": npy_of(np.float32(1)),
    "npy_1d.npy": npy_of(np.zeros(8, np.float32)),
    "npy_2d.npy": npy_of(np.zeros((2, 4), np.float32)),
    "npy_4d.npy": npy_of(np.zeros((1, 2, 2, 2), np.float32)),
    "npy_three_channels.npy": npy_of(np.zeros((3, 4, 5), np.float32)),
    "npy_zero_size.npy": npy_of(np.zeros((2, 0, 4), np.float32)),
    "npy_negative.npy": npy(shape="(2, -2, -2)"),
    "npy_huge.npy": npy(shape=f"(2, {HUGE}, {HUGE})"),
    "npy_wraps_64_bits.npy": npy(shape=f"(2, {2**31}, {2**32})", data=b""),
    "npy_huge_digits.npy": npy(shape="(2, 2, " + "9" * 3000 + ")"),
    "npy_no_shape.npy": npy(header="{'descr': '<f4', 'fortran_order': False}\n"),
    # .npz
    "npz_empty.npz": b"",
    "npz_magic_only.npz": b"PK\x03\x04",
    "npz_cut_in_half.npz": NPZ[: len(NPZ) // 2],
    "npz_cut_in_end.npz": NPZ[:-1],
    "npz_no_members.npz": b"PK\x05\x06" + bytes(18),
    "npz_other_name.npz": npz({"arr_0.npy": npy()}),
    "npz_not_npy.npz": npz({"flow.npy": b"hello"}),
    "npz_object.npz": npz({"flow.npy": npy_of(np.array([Evil()], object), allow_pickle=True)}),
    "npz_pickle.npz": npz({"flow.npy": pickle.dumps(Evil())}),
    "npz_bad_checksum.npz": patch(STORED, STORED.index(b"}\n") + 4, b"\x01"),
    "npz_corrupt_deflate.npz": patch(NPZ, 40, b"\xff" * 8),
    "npz_bomb.npz": BOMB,
    "npz_honest_bomb.npz": npz_bomb(),
    "npz_bzip2.npz": npz({"flow.npy": npy()}, zipfile.ZIP_BZIP2),
    "npz_lying_size.npz": patch(NPZ, NPZ.index(b"PK\x01\x02") + 24, struct.pack("<I", 2**31)),
    "npz_lying_packed_size.npz": patch(
        NPZ, NPZ.index(b"PK\x01\x02") + 20, struct.pack("<II", 2**24, 2**31)
    ),
    "npz_directory_of_4_gb.npz": patch(NPZ, ZIP_END + 12, b"\xff\xff\xff\xff"),
    "npz_directory_elsewhere.npz": patch(NPZ, ZIP_END + 16, struct.pack("<I", 2**31)),
    "npz_many_members.npz": npz({f"a{i}": b"" for i in range(70)} | {"flow.npy": npy()}),
    "npz_encrypted.npz": patch(NPZ, NPZ.index(b"PK\x01\x02") + 8, b"\x01\0"),
    "npz_valid_of_other_size.npz": npz(
        {"flow.npy": npy(), "valid.npy": npy_of(np.ones((3, 3), bool))}
    ),
    "npz_valid_is_float.npz": npz({"flow.npy": npy(), "valid.npy": npy_of(np.ones((2, 2)))}),
    # names
    "flow.xyz": flo(),
    "flow": flo(),
    "line\nbreak.flo": b"PIEH",
    "escape\x1b[31m.flo": b"PIEH",
    "not-utf8-\udcff\udcfe.flo": b"PIEH",
    "x" * 240 + ".flo": b"PIEH",
}


RGB = torch.linspace(0, 1, 3 * 40 * 50).reshape(3, 40, 50)


JPEG = written(write_image, "a.jpg", RGB)


PNG = written(write_image, "a.png", RGB)


WEBP = written(write_image, "a.webp", RGB)


TIFF = written(write_image, "a.tif", RGB)


BMP = written(write_image, "a.bmp", RGB)


SOF = JPEG.index(b"\xff\xc0") + 5


IMAGES = {
    "empty.png": b"",
    "text.png": b"not a picture\n" * 20,
    "half.png": PNG[: len(PNG) // 2],
    "no_end.png": PNG[:-12],
    "flipped.png": patch(PNG, len(PNG) // 2, bytes([PNG[len(PNG) // 2] ^ 1])),
    "few_rows.png": png(50, 40, 8, 2, raw=bytes(151 * 20)),
    "huge.png": png(HUGE, HUGE, 8, 2, raw=bytes(100)),
    "lying.png": png(10000, 10000, 8, 2, raw=bytes(1000)),
    "chunk_of_4_gb.png": PNG[:33] + b"\xff\xff\xff\xffzTXt" + PNG[33:],
    "half.jpg": JPEG[: len(JPEG) // 2],
    "header_only.jpg": JPEG[:20],
    "huge.jpg": patch(JPEG, SOF, struct.pack(">HH", 65500, 65500)),
    "larger.jpg": patch(JPEG, SOF, struct.pack(">HH", 4000, 5000)),
    "zero.jpg": patch(JPEG, SOF, bytes(4)),
    "half.webp": WEBP[: len(WEBP) // 2],
    "half.tif": TIFF[: len(TIFF) // 2],
    "header_only.tif": b"II*\0\x08\0\0\0",
    "half.bmp": BMP[: len(BMP) // 2],
    "huge.bmp": patch(BMP, 18, struct.pack("<ii", 10000, 10000)),
    "negative.bmp": patch(BMP, 18, struct.pack("<ii", -50, 40)),
    "half.ppm": b"P6\n50 40\n255\n" + bytes(3000),
    "huge.ppm": b"P6\n99999 99999\n255\n" + bytes(3000),
    "header_only.gif": b"GIF89a\x10\0\x10\0\xf7\0\0",
    "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


FRAMES = [RGB[:, :32, :48] * i / 10 for i in range(10)]


MP4 = written(write_video, "a.mp4", FRAMES)


GIF = written(write_video, "a.gif", FRAMES)


VIDEOS = {
    "empty.mp4": b"",
    "text.mp4": b"not a video\n" * 20,
    "header_only.mp4": MP4[:40],
    "no_index.mp4": MP4[: MP4.index(b"moov") + 20],
    "no_pictures.mp4": MP4[: MP4.index(b"mdat") + 4],
    "half.mp4": MP4[: len(MP4) - 300],
    "noise_in_pictures.mp4": MP4[: MP4.index(b"mdat") + 4] + b"\xa5" * 2000,
    "half.gif": GIF[: len(GIF) // 2],
    "header_only.gif": GIF[:13],
    "huge.gif": patch(GIF, 6, struct.pack("<HH", 65535, 65535)),
    "half.webp": written(write_video, "a.webp", FRAMES)[:200],
}
