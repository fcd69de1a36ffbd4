import lzma
import struct
import tempfile
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowwarp.errors import InputError, OutputError
from flowwarp.io import flow_files
from flowwarp.io.file_types import FLOW_EXTENSIONS
from flowwarp.io.flow_files import read_flow, read_packed_flow, write_flow

EXACT = ["flo", "pfm", "npy", "npz"]
# 1 row, 2 columns: (1.5, -2) and (0.25, 300).
FLO = b"PIEH" + struct.pack("<ii", 2, 1) + struct.pack("<4f", 1.5, -2, 0.25, 300)
FLOW = torch.tensor([[[1.5, 0.25]], [[-2.0, 300.0]]])


def random_flow(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    flow = 40 * torch.randn(2, height, width, generator=generator)
    valid = torch.rand(1, height, width, generator=generator) > 0.3
    return flow, valid


def assert_same(path, flow, valid):
    got_flow, got_valid = read_flow(path)
    assert got_flow.dtype == torch.float32
    assert got_flow.is_contiguous()
    assert got_valid.dtype == torch.bool
    assert torch.equal(got_flow, flow)
    assert torch.equal(got_valid, valid)


def test_every_format_has_a_reader_and_a_writer():
    assert set(flow_files._FORMATS) == FLOW_EXTENSIONS


def test_flo_bytes_by_hand(tmp_path):
    path = tmp_path / "a.flo"
    path.write_bytes(FLO)
    assert_same(path, FLOW, torch.tensor([[[True, True]]]))
    write_flow(tmp_path / "b.flo", FLOW)
    assert (tmp_path / "b.flo").read_bytes() == FLO


@pytest.mark.parametrize("bad", [1.1e9, -2e9, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 1])
def test_flo_unknown_values(tmp_path, bad, channel):
    values = [1.5, -2, 0.25, 300]
    values[2 + channel] = bad
    path = tmp_path / "a.flo"
    path.write_bytes(FLO[:12] + struct.pack("<4f", *values))
    flow = FLOW.clone()
    flow[:, 0, 1] = 0
    assert_same(path, flow, torch.tensor([[[True, False]]]))


def test_flo_writes_unknown_as_middlebury_does(tmp_path):
    write_flow(tmp_path / "a.flo", FLOW, torch.tensor([[[False, True]]]))
    data = (tmp_path / "a.flo").read_bytes()
    assert struct.unpack("<4f", data[12:]) == (1e10, 1e10, 0.25, 300)


def test_kitti_by_hand(tmp_path):
    # One row of three, BGR for OpenCV: valid, green and red are (v, u) * 64 + 2^15.
    pixels = np.array([[[1, 32768 - 64, 32768 + 96], [0, 0, 0], [7, 32768, 65535]]], np.uint16)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), pixels)
    flow = torch.tensor([[[1.5, 0, 32767 / 64]], [[-1.0, 0, 0]]])
    assert_same(path, flow, torch.tensor([[[True, False, True]]]))

    write_flow(tmp_path / "b.png", flow, torch.tensor([[[True, False, True]]]))
    written = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
    pixels[0, 2, 0] = 1  # valid is always written as 1
    assert np.array_equal(written, pixels)


@pytest.mark.parametrize(("scale", "order"), [("-1.0", "<"), ("1.0", ">"), ("-0.0039", "<")])
def test_pfm_by_hand(tmp_path, scale, order):
    # 1 column, 2 rows, stored bottom row first; the third channel means nothing.
    data = struct.pack(order + "6f", 3, 4, 9, 1, 2, 9)
    path = tmp_path / "a.pfm"
    path.write_bytes(f"PF\n1 2\n{scale}\n".encode() + data)
    flow = torch.tensor([[[1.0], [3.0]], [[2.0], [4.0]]])
    assert_same(path, flow, torch.ones(1, 2, 1, dtype=torch.bool))


def test_pfm_written_bytes(tmp_path):
    write_flow(tmp_path / "a.pfm", torch.tensor([[[1.0], [3.0]], [[2.0], [4.0]]]))
    expected = b"PF\n1 2\n-1.0\n" + struct.pack("<6f", 3, 4, 0, 1, 2, 0)
    assert (tmp_path / "a.pfm").read_bytes() == expected


@pytest.mark.parametrize("header", [b"PF 1 1 -1\n", b"PF\r\n1 1\r\n-1\r\n", b"PF\n1\n1\n-1e0\n"])
def test_pfm_header_spacing(tmp_path, header):
    # The data begins with a newline byte, which is not part of the header.
    path = tmp_path / "a.pfm"
    path.write_bytes(header + b"\n\n\n\n" + struct.pack("<2f", 2, 0))
    flow, _ = read_flow(path)
    assert flow[0, 0, 0] == struct.unpack("<f", b"\n\n\n\n")[0]
    assert flow[1, 0, 0] == 2


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("last", [False, True])
def test_npy_layouts(tmp_path, dtype, order, last):
    flow, _ = random_flow(3, 5)
    array = flow.half().numpy()
    stored = np.asarray(array.transpose(1, 2, 0) if last else array, dtype, order=order)
    np.save(tmp_path / "a.npy", stored)
    np.savez_compressed(tmp_path / "a.npz", flow=stored, other=np.zeros(3))
    for name in ("a.npy", "a.npz"):
        assert_same(tmp_path / name, flow.half().float(), torch.ones(1, 3, 5, dtype=torch.bool))


def test_two_rows_of_two_channels_are_channels_first(tmp_path):
    flow, valid = random_flow(5, 2)
    np.save(tmp_path / "a.npy", flow.numpy())  # (2, 5, 2), which could be (H, W, 2)
    assert_same(tmp_path / "a.npy", flow, torch.ones_like(valid))


def test_npy_header_versions(tmp_path):
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array(file, FLOW.numpy(), version)
        assert_same(tmp_path / "a.npy", FLOW, torch.ones(1, 1, 2, dtype=torch.bool))


def test_npz_without_compression_and_2d_valid(tmp_path):
    np.savez(tmp_path / "a.npz", flow=FLOW.numpy(), valid=np.array([[True, False]]))
    flow = FLOW.clone()
    flow[:, 0, 1] = 0
    assert_same(tmp_path / "a.npz", flow, torch.tensor([[[True, False]]]))


def test_float64_beyond_float32_is_unknown(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 1, 1), 1e300))
    assert_same(tmp_path / "a.npy", torch.zeros(2, 1, 1), torch.tensor([[[False]]]))


@pytest.mark.parametrize("extension", EXACT)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_round_trip_is_exact(tmp_path_factory, extension, height, width, seed):
    flow, valid = random_flow(height, width, seed)
    path = tmp_path_factory.mktemp("round") / f"flow.{extension}"
    write_flow(path, flow, valid)
    assert_same(path, flow * valid, valid)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_kitti_round_trip_within_half_a_step(tmp_path_factory, height, width, seed):
    flow, valid = random_flow(height, width, seed)
    path = tmp_path_factory.mktemp("round") / "flow.png"
    write_flow(path, flow, valid)
    got, got_valid = read_flow(path)
    assert torch.equal(got_valid, valid)
    assert (got - flow * valid).abs().max() <= 1 / 128
    write_flow(path, got, valid)  # what has been rounded once stays
    assert_same(path, got, valid)


@pytest.mark.parametrize("extension", [*EXACT, "png"])
def test_unknown_everywhere(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    nowhere = torch.zeros(1, 2, 3, dtype=torch.bool)
    write_flow(path, torch.full((2, 2, 3), torch.nan))
    assert_same(path, torch.zeros(2, 2, 3), nowhere)
    write_flow(path, torch.full((2, 2, 3), 5.0), nowhere)
    assert_same(path, torch.zeros(2, 2, 3), nowhere)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_writes_any_float_and_any_layout(tmp_path, dtype):
    flow = torch.arange(12, dtype=dtype).reshape(2, 3, 2).transpose(1, 2).requires_grad_()
    write_flow(tmp_path / "a.flo", flow)
    assert_same(tmp_path / "a.flo", flow.detach().float().contiguous(), flow[:1] > -1)


def test_extension_in_capitals(tmp_path):
    write_flow(tmp_path / "A.FLO", FLOW)
    assert torch.equal(read_flow(tmp_path / "A.FLO")[0], FLOW)


@pytest.mark.parametrize("value", [-512.01, 511.993, 600.0, -1e8])
def test_kitti_range_is_not_clipped(tmp_path, value):
    with pytest.raises(InputError, match="does not fit a KITTI PNG") as fault:
        write_flow(tmp_path / "a.png", torch.full((2, 1, 1), value))
    assert f"{abs(value):.6g}" in str(fault.value)
    assert not list(tmp_path.iterdir())
    # Where the flow is not valid its value does not count.
    write_flow(
        tmp_path / "a.png", torch.full((2, 1, 1), value), torch.zeros(1, 1, 1, dtype=torch.bool)
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1_000_001), (1_000_001, 1)])
def test_kitti_sides_end_where_libpng_does(tmp_path, capfd, height, width):
    path, words = tmp_path / "a.png", f"is {width}x{height} px, .* at most 1,000,000 px a side"
    with pytest.raises(InputError, match=f"{words}; write .flo"):
        write_flow(path, torch.zeros(2, height, width))
    assert not path.exists()
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(height * (1 + 6 * width))),
        b"IEND": b"",
    }
    framed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks.items()
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
    with pytest.raises(InputError, match=words):
        read_flow(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", [-512.0, 511.984375, 511.99])
def test_kitti_range_ends(tmp_path, value):
    write_flow(tmp_path / "a.png", torch.full((2, 1, 1), value))
    assert (read_flow(tmp_path / "a.png")[0] - value).abs().max() <= 1 / 128


@pytest.mark.parametrize(
    ("flow", "valid", "error", "words"),
    [
        (np.zeros((2, 1, 1)), None, TypeError, "flow must be a floating-point torch.Tensor"),
        (torch.zeros(2, 1, 1, dtype=torch.int32), None, TypeError, "got torch.int32"),
        (torch.zeros(1, 2, 1, 1), None, ValueError, r"\(2, H, W\).*\(1, 2, 1, 1\)"),
        (torch.zeros(3, 1, 1), None, ValueError, r"\(2, H, W\)"),
        (torch.zeros(2, 0, 4), None, ValueError, "not empty"),
        (torch.zeros(2, 1, 1), torch.ones(1, 1, 1), TypeError, "valid must be a boolean"),
        (torch.zeros(2, 1, 1), np.ones((1, 1, 1), bool), TypeError, "got ndarray"),
        (torch.zeros(2, 1, 2), torch.ones(1, 2) > 0, ValueError, r"valid must be \(1, 1, 2\)"),
    ],
)
def test_write_checks_its_arguments(tmp_path, flow, valid, error, words):
    with pytest.raises(error, match=words):
        write_flow(tmp_path / "a.flo", flow, valid)
    assert not list(tmp_path.iterdir())


def test_unknown_extension(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.flo"):
        write_flow(tmp_path / "a.jpg", FLOW)
    with pytest.raises(InputError, match="does not have the extension of a flow file; use one of"):
        read_flow(tmp_path / "a.jpg")


def test_write_into_nowhere(tmp_path):
    with pytest.raises(OutputError, match="no such file"):
        write_flow(tmp_path / "none" / "a.flo", FLOW)
    (tmp_path / "dir.flo").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_flow(tmp_path / "dir.flo", FLOW)


def test_null_byte_in_name():
    with pytest.raises(InputError, match="null"):
        read_flow("a\0b.flo")


# ------------------------------------------------------------------ packed by xz


def pack(path, data, **options):
    path.write_bytes(lzma.compress(data, **options))
    return path


def test_packed_flow_equals_plain_flow(tmp_path):
    flow = torch.randn(2, 200, 300)
    flow[:, 0, 0] = torch.nan
    write_flow(tmp_path / "a.flo", flow)
    plain = (tmp_path / "a.flo").read_bytes()
    got = read_packed_flow(pack(tmp_path / "a.flo.xz", plain))
    assert all(torch.equal(*both) for both in zip(got, read_flow(tmp_path / "a.flo"), strict=True))
    for data, problem in ((plain[:-1], "is cut off"), (plain + b"x", "is longer than its header")):
        with pytest.raises(InputError, match=rf"a\.flo\.xz: {problem}"):
            read_packed_flow(pack(tmp_path / "a.flo.xz", data))
    with pytest.raises(InputError, match=r"extension of a packed flow file, \.flo\.xz"):
        read_packed_flow(pack(tmp_path / "a.pfm.xz", plain))


@pytest.mark.parametrize(
    ("width", "height", "problem"),
    [
        (3, 2, "is longer than its header says"),
        (2**13, 2**13, "its header says 8192x8192 pixels in"),
        (0, 2, "its header says 0x2 pixels"),
    ],
)
def test_a_packed_bomb_uses_neither_memory_nor_disk(tmp_path, monkeypatch, width, height, problem):
    head = b"PIEH" + struct.pack("<ii", width, height)
    path = pack(tmp_path / "a.flo.xz", head + bytes(2**26), preset=0)
    path.write_bytes(path.read_bytes()[:4000])  # the wrong header is detected first
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=problem):
            read_packed_flow(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_packed_file_that_needs_much_memory_is_refused(tmp_path):
    data = bytearray(lzma.compress(b"PIEH"))
    # The first block: its length in words, flags, LZMA2, one byte of options, which is the size of
    # the dictionary: 40 stands for 4 GiB.
    assert data[14:16] == b"\x21\x01"
    data[16] = 40
    end = 12 + 4 * (data[12] + 1)
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[12 : end - 4]))
    (tmp_path / "a.flo.xz").write_bytes(data)
    with pytest.raises(InputError, match=r"broken xz file \(Memory usage limit exceeded\)"):
        read_packed_flow(tmp_path / "a.flo.xz")
