"""Broken and hostile files: one line, exit 3, no files left behind, and little memory.

Flow files go through the command line, which shows that an InputError is printed as one line.
Pictures and videos go through their readers.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib

import pytest
import torch

from flowwarp.cli import main
from flowwarp.errors import InputError
from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import read_image
from flowwarp.io.video_reader import read_video
from hostile_files import (
    BMP,
    FLOW_PNG,
    FLOWS,
    GIF,
    IMAGES,
    JPEG,
    MAX_BYTES,
    MP4,
    NPZ,
    PNG,
    RGB,
    STORED,
    TIFF,
    VIDEOS,
    WEBP,
    flo,
    npy,
    npz_bomb,
    patch,
    pfm,
    png_bomb,
)


def save(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return path


def run(capfd, *arguments):
    """Run the command line in this process; return exit code, stdout and the lines on stderr."""
    with pytest.raises(SystemExit) as stop:
        main([os.fspath(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return stop.value.code, out, err.splitlines()


def listing(folder):
    return sorted(os.fsencode(path.name) for path in folder.iterdir())


def assert_refused(capfd, source, folder):
    """Convert ``source`` to files in ``folder``, which must fail and leave nothing."""
    before = listing(folder)
    for target in (folder / "out.npz", folder / "new" / "out.flo"):
        code, out, lines = run(capfd, "convert", source, "-o", target)
        assert (code, out, len(lines)) == (3, "", 1), lines
        assert lines[0].startswith("flowwarp: ")
        assert listing(folder) == before


def refuses(read, path):
    """Return the peak of what Python and NumPy allocate while ``path`` is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as fault:
            read(path)
        return str(fault.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def drain(path):
    for _ in read_video(path):
        pass


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where `unpickled` would appear


@pytest.mark.parametrize("name", FLOWS, ids=ascii)
def test_flow_file_is_refused(tmp_path, capfd, name):
    assert_refused(capfd, save(tmp_path, name, FLOWS[name]), tmp_path)
    message, peak = refuses(read_flow, tmp_path / name)
    assert "\n" not in message
    assert peak < MAX_BYTES
    assert listing(tmp_path) == [os.fsencode(name)]


@pytest.mark.parametrize(
    ("read", "files", "name"),
    [
        *((read_image, IMAGES, name) for name in IMAGES),
        *((drain, VIDEOS, name) for name in VIDEOS),
    ],
)
def test_picture_or_video_is_refused(tmp_path, capfd, read, files, name):
    message, peak = refuses(read, save(tmp_path, name, files[name]))
    assert message.startswith(f"{tmp_path / name}: ")
    assert "\n" not in message
    assert peak < MAX_BYTES
    assert capfd.readouterr() == ("", "")


def test_the_corpus_starts_from_valid_files(tmp_path, capfd):
    """Otherwise a case could be refused for another reason than the intended one."""
    for name, data in {
        "a.flo": flo(), "a.pfm": pfm(), "a.png": FLOW_PNG, "a.npy": npy(), "a.npz": NPZ,
        "b.npy": npy(version=2), "b.npz": STORED,
    }.items():  # fmt: skip
        flow, _ = read_flow(save(tmp_path, name, data))
        assert torch.equal(flow, torch.zeros_like(flow))
    for name, data in {
        "a.jpg": JPEG,
        "b.png": PNG,
        "a.webp": WEBP,
        "a.tif": TIFF,
        "a.bmp": BMP,
    }.items():
        assert read_image(save(tmp_path, name, data)).shape == RGB.shape
    for name, data in {"a.mp4": MP4, "a.gif": GIF}.items():
        assert len(list(read_video(save(tmp_path, name, data)))) == 10
    assert capfd.readouterr() == ("", "")


def test_bombs_are_honest():
    """They are refused for their size, not because they are broken."""
    for data in (png_bomb(), npz_bomb()):
        start = data.index(b"IDAT") + 6 if data.startswith(b"\x89PNG") else 38
        unpacker, size, rest = zlib.decompressobj(wbits=-15), 0, data[start:]
        while not unpacker.eof:
            size += len(unpacker.decompress(rest, 2**24))
            rest = unpacker.unconsumed_tail
        assert size > 2**28


@pytest.mark.parametrize("count", [0, 2, 9])
def test_libtiff_is_quiet(tmp_path, capfd, count):
    at = TIFF.index(b"\x1c\x01\x03\0")  # PlanarConfiguration, one short
    path = save(tmp_path, "a.tif", patch(TIFF, at + 4, struct.pack("<I", count)))
    with contextlib.suppress(InputError):
        read_image(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "kind",
    [
        *("folder", "missing", "missing folder", "dangling", "long"),
        pytest.param("pipe", marks=pytest.mark.posix),
    ],
)
def test_paths_that_are_not_files(tmp_path, capfd, kind):
    path = tmp_path / "a.flo"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "missing folder":
        path = tmp_path / "none" / "a.flo"
    elif kind == "long":
        path = tmp_path / ("x" * 5000 + ".flo")
    if kind != "folder":  # for convert a folder is a list of files, of which there are none here
        assert_refused(capfd, path, tmp_path)
    for read in (read_flow, read_image):
        message, _ = refuses(read, path)
        assert "\n" not in message


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path, capfd):
    path = save(tmp_path, "a.flo", flo())
    path.chmod(0)
    assert_refused(capfd, path, tmp_path)


@pytest.mark.parametrize("extension", ["flo", "pfm", "npy", "npz", "png"])
def test_cut_off_anywhere(tmp_path, extension):
    """Every length short of the whole is refused."""
    path = tmp_path / f"a.{extension}"
    write_flow(path, torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_flow(path)


@pytest.mark.parametrize("data", [PNG, WEBP], ids=["png", "webp"])
def test_picture_cut_off_anywhere(tmp_path, data):
    path = tmp_path / "a"
    for length in range(0, len(data) - 1, 7):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            read_image(path)


def test_existing_output_survives_a_bad_input(tmp_path, capfd):
    source = save(tmp_path, "a.flo", b"PIEH")
    target = save(tmp_path, "out.npz", b"precious")
    code, _, lines = run(capfd, "convert", source, "-o", target, "--overwrite")
    assert (code, len(lines)) == (3, 1)
    assert target.read_bytes() == b"precious"


RESIDENT = """
import json, os, resource, sys
from flowwarp.errors import InputError
from flowwarp.io.flow_files import read_flow
from flowwarp.io.images import read_image
from flowwarp.io.video_reader import read_video
readers = {"flow": read_flow, "image": read_image, "video": lambda path: list(read_video(path))}

def sweep(kind, wanted):
    for name in sorted(os.listdir(kind)):
        if name.startswith("good") == wanted:
            try:
                readers[kind](os.path.join(kind, name))
            except InputError:
                assert not wanted, name

peaks = []
for wanted in (True, False):
    for kind in readers:
        sweep(kind, wanted)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(json.dumps(peaks))
"""


@pytest.mark.posix
def test_resident_memory(tmp_path):
    """Refusing all of the corpus takes no more memory than reading the good files did."""
    good = {
        "flow": {"a.flo": flo(), "a.pfm": pfm(), "a.png": FLOW_PNG, "a.npy": npy(), "a.npz": NPZ},
        "image": {"a.jpg": JPEG, "a.png": PNG, "a.webp": WEBP, "a.tif": TIFF, "a.bmp": BMP},
        "video": {"a.mp4": MP4, "a.gif": GIF},
    }
    for kind, corpus in (("flow", FLOWS), ("image", IMAGES), ("video", VIDEOS)):
        (tmp_path / kind).mkdir()
        for name, data in good[kind].items():
            save(tmp_path / kind, f"good_{name}", data)
        for name, data in corpus.items():
            save(tmp_path / kind, name, data)
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    base, peak = json.loads(done.stdout)
    assert peak - base < MAX_BYTES
