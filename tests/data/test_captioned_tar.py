"""Captioned videos in tar files, hostile ones included."""

import errno
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from captioned_videos import pack, video
from flowwarp.data import captioned, captioned_tar
from flowwarp.errors import InputError, OutputError
from flowwarp.io.files import open_input


def test_a_tar_file(load, data, film):
    members = [
        ("x/000.mp4", film),
        ("x/000.txt", b"one"),
        ("001.json", json.dumps({"id": 7, "caption": "two"}).encode()),
        ("001.mp4", film),
        ("002.mp4", film),
    ]
    path = pack(data / "shard-000.tar", members)
    for source in (path, data):
        store = load(source)
        assert [store[k].caption for k in (0, 3)] == ["one", "two"]
        assert store.name(0) == f"{path}:x/000.mp4"
        (skipped,) = store.skipped
        assert "'002.mp4' has no caption" in skipped


def test_an_animated_picture_in_a_tar_file(load, data, tmp_path):
    picture = video(tmp_path / "film.webp").read_bytes()
    store = load(pack(data / "a.tar", [("a.webp", picture), ("a.txt", b"a bar")]))
    assert store[0].caption == "a bar"


def test_two_videos_of_one_stem_share_their_caption(load, data, film):
    (data / "d.mp4").write_bytes(film)
    other = video(data / "d.mkv", seed=1).read_bytes()
    (data / "d.txt").write_text("beside")
    members = [("d.mkv", other), ("d.mp4", film), ("d.txt", b"packed")]
    pack(data / "d.tar", members)
    store = load(data, frames=6)
    captions = [store[k].caption for k in range(len(store))]
    assert captions == ["beside", "beside", "packed", "packed"]


def test_hidden_members_are_left_out_as_hidden_files_are(load, data, film):
    members = [("._a.mp4", b"of a Mac"), ("b/.a.txt", b"no"), ("a.mp4", film), ("a.txt", b"yes")]
    store = load(pack(data / "z.tar", members), frames=6)
    assert [store[k].caption for k in range(len(store))] == ["yes"]
    assert store.skipped == ()


def test_what_is_appended_to_a_tar_file_replaces(load, data, film, tmp_path):
    other = video(tmp_path / "other.mp4", frames=5).read_bytes()
    old, new = json.dumps({"caption": "old"}).encode(), json.dumps({"caption": "new"}).encode()
    third = video(tmp_path / "third.mp4", frames=5, seed=1).read_bytes()
    members = [("a.mp4", film), ("a.txt", b"old"), ("b.mp4", film), ("b.json", old)]
    members += [("a.mp4", other), ("a.txt", b"new"), ("b.mp4", third), ("./b.json", new)]
    store = load(pack(data / "a.tar", members), frames=5)
    assert [store[k].caption for k in range(len(store))] == ["new", "new"]  # 5 frames each
    assert store.skipped == ()


def test_a_text_is_preferred_to_json_in_a_tar_file(load, data, film):
    table = json.dumps({"caption": "json"}).encode()
    members = [("a.mp4", film), ("a.json", table), ("a.txt", b"text")]
    members += [("b.mp4", film), ("b.json", table), ("b.txt", b" ")]
    store = load(pack(data / "a.tar", members), frames=6)
    assert [store[k].caption for k in range(len(store))] == ["text", "json"]


@pytest.mark.parametrize("first", ["", " \n", None, 7])
def test_the_first_caption_that_is_text_is_taken(load, data, film, first):
    table = json.dumps({"caption": first, "text": "real"}).encode()
    store = load(pack(data / "a.tar", [("a.mp4", film), ("a.json", table)]))
    assert store[0].caption == "real"


@pytest.mark.parametrize("name", ["../out.mp4", "/out.mp4", "a/../../out.mp4", "a\\..\\out.mp4"])
def test_members_cannot_leave_their_folder(load, data, film, tmp_path, name):
    before = {path.name for path in tmp_path.iterdir()}
    stem = name.removesuffix(".mp4")
    members = [(name, film), (f"{stem}.txt", b"bad"), ("ok.mp4", film), ("ok.txt", b"ok")]
    store = load(pack(data / "a.tar", members))
    assert {store[k].caption for k in range(len(store))} == {"ok"}
    assert "leads out of its folder" in store.skipped[0]
    assert {path.name for path in tmp_path.iterdir()} <= before | {"cache"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_are_no_members(load, data, film, kind):
    odd = tarfile.TarInfo("odd.mp4")
    odd.type, odd.linkname = kind, "/etc/passwd"
    members = [(odd, b""), ("odd.txt", b"bad"), ("ok.mp4", film), ("ok.txt", b"ok")]
    store = load(pack(data / "a.tar", members))
    assert {store[k].caption for k in range(len(store))} == {"ok"}
    link = kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)
    said = f"{data / 'a.tar'}: 'odd.mp4' is a link; put in the file itself"
    assert store.skipped == ((said,) if link else ())  # it was not even looked at


def lying(size):
    """Return a tar file whose member says it has so many bytes."""
    info = tarfile.TarInfo("a.mp4")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


@pytest.mark.parametrize("size", [2000, 2**33, 2**62])
def test_members_that_lie_about_their_size(load, data, size):
    (data / "a.tar").write_bytes(lying(size))
    with pytest.raises(InputError, match=r"breaks off|not a tar file"):
        load(data / "a.tar")


@pytest.mark.posix
def test_a_header_that_wants_much_memory(load, data):
    """A long name's length is taken before it is read: it must be bounded by the file."""
    import resource

    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    (data / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        load(data / "a.tar")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # kB


def extended(kind, body):
    """Return a header that extends that of the next member, or of all."""
    info = tarfile.TarInfo("more")
    info.type, info.size = kind, len(body)
    return info.tobuf() + body + bytes(-len(body) % 512)


def test_a_header_that_is_long_is_not_read(load, data):
    """Its digits take Python the square of their number."""
    (data / "a.tar").write_bytes(extended(tarfile.XHDTYPE, b"9" * 3_000_000 + b" path=x\n"))
    with pytest.raises(InputError, match=r"one of its headers has 3000320 bytes"):
        load(data / "a.tar")


def test_what_a_header_says_of_all_is_not_kept_for_each(data):
    about = b"".join(b"13 k%07d=\n" % number for number in range(1000))
    one = tarfile.TarInfo("a.txt").tobuf()
    (data / "a.tar").write_bytes(extended(tarfile.XGLTYPE, about) + one * 100 + bytes(1024))
    with open_input(data / "a.tar") as (file, size):
        kept = [
            member.pax_headers for member in captioned_tar.list_members(data / "a.tar", file, size)
        ]
    assert len(kept) == 100
    assert not any(kept[1:])


@pytest.mark.parametrize(
    "data_",
    [b"not a tar file" * 100, bytes(10_000), b"\x1f\x8b" + bytes(600), b"x"],
    ids=["text", "zeros", "gzip", "byte"],
)
def test_files_that_are_no_tar(load, data, data_):
    (data / "a.tar").write_bytes(data_)
    with pytest.raises(InputError):
        load(data / "a.tar")


def test_a_sparse_member_is_left_out(load, data, film):
    info = tarfile.TarInfo("a.mp4")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1"}
    info.pax_headers |= {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**50)}
    with tarfile.open(data / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
        for name, content in (("ok.mp4", film), ("ok.txt", b"ok"), ("a.txt", b"a")):
            plain = tarfile.TarInfo(name)
            plain.size = len(content)
            archive.addfile(plain, io.BytesIO(content))
    store = load(data / "a.tar")
    assert {store[k].caption for k in range(len(store))} == {"ok"}


@pytest.mark.parametrize("name", ["", ".", "./."])
def test_a_member_without_a_name_is_left_out(load, data, film, name):
    pack(data / "a.tar", [("a.mp4", film), ("a.txt", b"one"), (name, b"two")])
    assert len(load(data)) == 3


@pytest.mark.parametrize("place", ["cache", "copy"])
def test_a_full_disk_is_no_fault_of_the_tar_file(load, data, film, monkeypatch, place):
    """Else the video would be left out, and the cache kept without it."""
    pack(data / "a.tar", [("a.mp4", film), ("a.txt", b"one")])

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if place == "cache":
            patch.setattr(captioned, "middle_part", full)  # called between two writes
        else:
            opened = Path.open
            patch.setattr(
                Path, "open", lambda path, mode: full() if "w" in mode else opened(path, mode)
            )
        with pytest.raises(OutputError, match="no space left"):
            load(data)
    assert len(load(data)) == 3


def test_broken_captions_and_videos_in_a_tar(load, data, film, caplog):
    members = [
        ("a.mp4", film),
        ("a.json", b"{"),
        ("b.mp4", film),
        ("b.json", b'{"caption": 7}'),
        ("c.mp4", film),
        ("c.json", b"[1]"),
        ("d.mp4", b"no video"),
        ("d.txt", b"broken"),
        ("e.mp4", film),
        ("e.txt", b"x" * 100_000),
        ("f.mp4", film),
        ("f.txt", b"good"),
    ]
    pack(data / "a.tar", members)
    for _ in range(2):  # the second finds what the first has prepared
        caplog.clear()
        store = load(data / "a.tar")
        assert {store[k].caption for k in range(len(store))} == {"good"}
        assert len(store.skipped) == 5
        assert any("a.tar:d.mp4" in fault for fault in store.skipped)
        assert sorted(caplog.messages) == sorted(f"skipped {fault}" for fault in store.skipped)


def test_mutated_tar_files(load, data, film):
    """Flip bytes of the headers: a store or an InputError, nothing else."""
    import random

    whole = pack(data / "a.tar", [("a.mp4", film), ("a.txt", b"a bar")]).read_bytes()
    draw = random.Random(0)
    second = (512 + len(film) + 511) // 512 * 512
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            broken[draw.choice((0, second)) + draw.randrange(512)] = draw.randrange(256)
        (data / "a.tar").write_bytes(broken)
        try:
            store = load(data / "a.tar")
        except InputError:
            continue
        assert len(store) == 3
