"""Anyone's captioned videos: the layouts, and files that are not what they say."""

import errno
import io
import json
import os
import pickle
import tarfile
import unicodedata
from pathlib import Path

import pytest
import torch

from flowwarp.data import captioned
from flowwarp.data.captioned import load_captioned
from flowwarp.errors import InputError, OutputError
from flowwarp.io.files import open_input
from flowwarp.io.video_writer import write_video


def video(path, frames=6, size=(24, 40), seed=0):
    """Write a video in which a bright bar moves right by 4 px a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = torch.zeros(frames, 3, *size)
    for number in range(frames):
        pictures[number, seed % 3, :, 4 + 4 * number : 12 + 4 * number] = 1
    write_video(path, pictures)
    return path


@pytest.fixture
def load(tmp_path):
    def call(source, size=16, frames=4, **options):
        return load_captioned(source, size, frames, cache=tmp_path / "cache", **options)

    return call


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


# ------------------------------------------------------------------ the layouts


def test_a_table(load, data):
    video(data / "a.mp4")
    video(data / "below/b.mp4", seed=1)
    (data / "captions.csv").write_text('file,caption\na.mp4,"a bar, red"\nbelow/b.mp4,  Grün \n')
    store = load(data)
    assert len(store) == 6  # windows of 4 in 6 frames, twice
    clip = store[0]
    assert clip.video.shape == (4, 3, 16, 16)
    assert clip.video.dtype == torch.uint8
    assert torch.equal(store[1].video[:3], clip.video[1:])
    assert clip.caption == "a bar, red"
    assert store[5].caption == "Grün"
    assert store.name(5) == str(data / "below/b.mp4")
    assert store.skipped == ()


def test_an_animated_picture_is_a_video(load, data):
    video(data / "a.webp")
    (data / "a.txt").write_text("a bar")
    assert load(data)[0].caption == "a bar"


def test_the_middle_square_is_kept(load, data):
    """Of 24x40 the columns 8 to 31 remain, 1.5 px of them a pixel of 16."""
    video(data / "a.mp4")
    (data / "a.txt").write_text("a bar\nthat moves")
    clip = load(data)[0]
    assert clip.caption == "a bar that moves"
    red = clip.video[:, 0].float().mean(1) / 255  # (T, 16)
    centre = (red * torch.arange(16)).sum(1) / red.sum(1)
    # Frame 1 has the bar at columns 8 to 15: pixels 0 to 5.33 here, whose middle is 2.17.
    assert centre[1].item() == pytest.approx(2.17, abs=0.15)
    assert (centre[2:] - centre[1:-1]).tolist() == pytest.approx([8 / 3] * 2, abs=0.15)


def pack(path, members):
    """Write a tar file; a member is bytes, or a TarInfo with bytes."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def film(tmp_path):
    return video(tmp_path / "film.mp4").read_bytes()


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


def test_suffixes_may_be_capitals(load, data, film):
    (data / "DOG.MP4").write_bytes(film)
    (data / "DOG.TXT").write_text("a dog")
    pack(data / "cat.tar", [("CAT.MP4", film), ("CAT.TXT", b"a cat")])
    store = load(data, frames=6)
    assert [store[k].caption for k in range(len(store))] == ["a dog", "a cat"]


def test_two_videos_of_one_stem_share_their_caption(load, data, film):
    (data / "d.mp4").write_bytes(film)
    (data / "d.mkv").write_bytes(film)
    (data / "d.txt").write_text("beside")
    members = [("d.mkv", film), ("d.mp4", film), ("d.txt", b"packed")]
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
    members = [("a.mp4", film), ("a.txt", b"old"), ("b.mp4", film), ("b.json", old)]
    members += [("a.mp4", other), ("a.txt", b"new"), ("b.mp4", other), ("./b.json", new)]
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


def test_all_layouts_together(load, data, film):
    video(data / "a.mp4")
    video(data / "b.mp4")
    (data / "captions.csv").write_text("caption,file,more\nfrom the table,a.mp4,x\n")
    (data / "a.txt").write_text("not asked")
    (data / "b.txt").write_text("beside")
    pack(data / "c.tar", [("c.mp4", film), ("c.txt", b"packed")])
    store = load(data, frames=6)
    assert [store[k].caption for k in range(len(store))] == ["from the table", "beside", "packed"]


def test_two_captions_of_one_video(load, data):
    video(data / "a.mp4")
    (data / "captions.csv").write_text("file,caption\na.mp4,one\na.mp4,two\n")
    store = load(data, frames=6)
    assert [store[k].caption for k in range(2)] == ["one", "two"]


def test_a_second_call_reads_no_video(load, data, monkeypatch):
    video(data / "a.mp4")
    (data / "a.txt").write_text("a bar")
    first = load(data)
    monkeypatch.setattr("flowwarp.data.captioned.read_video", None)
    second = load(data)
    assert torch.equal(first[1].video, second[1].video)
    copy = pickle.loads(pickle.dumps(second))
    assert torch.equal(copy[1].video, second[1].video)
    assert copy[1].caption == "a bar"
    (data / "a.txt").write_text("another caption")
    with pytest.raises(TypeError):  # it must be made anew, which cannot be done now
        load(data)


# ------------------------------------------------------------------ what is of no use


def test_what_cannot_be_used_is_left_out(load, data, tmp_path):
    video(data / "good.mp4")
    video(data / "short.mp4", frames=3)
    (data / "broken.mp4").write_bytes(b"no video at all")
    rows = ["good.mp4,good", "short.mp4,short", "broken.mp4,broken", "missing.mp4,missing"]
    rows += ["good.mp4,", "good.mp4", "good.mp4,a\0b"]
    (data / "captions.csv").write_text("file,caption\n" + "\n".join(rows))
    store = load(data)
    assert {store[k].caption for k in range(len(store))} == {"good"}
    text = "\n".join(store.skipped)
    assert len(store.skipped) == 6
    for part in ("has 3 frames, not 4", "broken.mp4", "missing.mp4': no such file", "is empty"):
        assert part in text
    assert store[0].video.amax() > 200
    (frames,) = (tmp_path / "cache").rglob("frames.bin")
    assert frames.stat().st_size == 6 * 3 * 16 * 16


def test_a_row_with_a_comma_too_many_is_left_out(load, data):
    video(data / "a.mp4")
    video(data / "b.mp4")
    rows = ["a.mp4,a man, tall, walks left", 'b.mp4,"a man, tall"', "b.mp4,nothing is lost,,"]
    (data / "captions.csv").write_text("file,caption\n" + "\n".join(rows))
    store = load(data, frames=6)
    captions = [store[k].caption for k in range(len(store))]
    assert captions == ["a man, tall", "nothing is lost"]
    assert "line 2: a comma too many; quote captions" in store.skipped[0]


def test_a_quote_that_is_not_closed_takes_no_rows_with_it(load, data):
    for name in ("a", "b", "c"):
        video(data / f"{name}.mp4")
    begin = 'file,caption\n\na.mp4,"two\nlines"\nb.mp4,"a red'
    for end in ('\nc.mp4,"a blue block"\n', "\nc.mp4,a blue block\n"):
        (data / "captions.csv").write_text(begin + end)
        with pytest.raises(InputError, match=r"line 5 begins no row .*; close each quote"):
            load(data)
    (data / "captions.csv").write_text(begin + '"" block"\r\rc.mp4,a "blue" block\r\rd.mp4,x')
    store = load(data)
    captions = {store[k].caption for k in range(len(store))}
    assert captions == {"two lines", 'a red" block', 'a "blue" block'}
    assert "captions.csv: line 9: 'd.mp4': no such file" in store.skipped[0]


@pytest.mark.parametrize("name", ["more.tar.gz", "more.TGZ", "more.tbz2", "more.tar.lz4"])
def test_what_is_compressed_is_said(load, data, film, name):
    pack(data / "z.tar", [("a.mp4", film), ("a.txt", b"packed")])
    (data / name).write_bytes(b"\x1f\x8b")
    (data / "notes.gz").write_bytes(b"\x1f\x8b")
    assert list(load(data).skipped) == [f"{data / name}: is compressed; unpack it to a .tar"]
    with pytest.raises(InputError, match=r"is compressed; unpack it to a \.tar"):
        load(data / name)


def test_letters_may_be_composed_or_not(load, data, film):
    (data / unicodedata.normalize("NFC", "café.mp4")).write_bytes(film)
    (data / unicodedata.normalize("NFD", "café.txt")).write_text("a cup")
    assert load(data)[0].caption == "a cup"
    (data / unicodedata.normalize("NFC", "café.txt")).write_text("another cup")
    assert load(data)[0].caption == "another cup"  # whose name is the video's to the letter


NOT_UTF8 = {
    "UTF-16": "a dog".encode("utf-16"),
    "UTF-16 without a mark": "a dog".encode("utf-16-le"),
    "Latin-1": "un café noir".encode("latin-1"),
    "Latin-1 at its end": "café".encode("latin-1"),
}


@pytest.mark.parametrize("text", NOT_UTF8.values(), ids=NOT_UTF8)
def test_a_caption_that_is_not_utf8_is_left_out(load, data, film, text):
    (data / "a.mp4").write_bytes(film)
    (data / "a.txt").write_bytes(text)
    table = b'{"caption": "' + text + b'"}'
    members = [("b.mp4", film), ("b.txt", text), ("c.mp4", film), ("c.json", table)]
    pack(data / "z.tar", [*members, ("d.mp4", film), ("d.txt", "\ufeffcafé".encode())])
    store = load(data, frames=6)
    assert [store[k].caption for k in range(len(store))] == ["café"]
    names = [str(data / "a.mp4"), f"{data / 'z.tar'}:b.mp4", f"{data / 'z.tar'}:c.mp4"]
    assert list(store.skipped) == [
        f"{name}: its caption is not UTF-8; save it as UTF-8" for name in names
    ]


@pytest.mark.parametrize("start", ["", "x"])
def test_a_long_caption_may_be_cut_within_a_character(load, data, start):
    video(data / "a.mp4")
    (data / "a.txt").write_text(start + "ж" * 50_000, "utf-8")  # 2 bytes each
    assert load(data)[0].caption == (start + "ж" * 1000)[:1000]


def test_what_has_no_caption_or_no_video_is_said(load, data):
    video(data / "a.mp4")
    video(data / "b.mp4")
    video(data / "c.mp4")
    (data / "a.txt").write_text("a bar")
    (data / "captions.csv").write_text("file,caption\nc.mp4,in the table\n")
    (data / "c.txt").write_text("not asked")
    (data / "fox.film").touch()
    (data / "fox.TXT").write_text("a fox")
    (data / "README.txt").write_text("read me")
    (data / "captions.txt").write_text("about the table")
    (data / "notes").mkdir()
    (data / "notes.txt").write_text("about the notes")
    store = load(data, frames=6)
    assert [store[k].caption for k in range(len(store))] == ["in the table", "a bar"]
    alone, strange = store.skipped
    assert alone == f"{data / 'b.mp4'}: has no caption"
    assert strange.startswith(f"{data / 'fox.TXT'}: has no video; fox.film ends in none of ")


@pytest.mark.parametrize("text", [b"", b" \n", b"caf\xe9"])
def test_a_video_is_left_out_once(load, data, text):
    video(data / "a.mp4")
    video(data / "good.mp4")
    (data / "a.txt").write_bytes(text)
    (data / "good.txt").write_text("good")
    assert len(load(data).skipped) == 1


def test_frames_before_the_damage_are_used(load, data):
    path = video(data / "a.mkv", frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    (data / "a.txt").write_text("a bar")
    store = load(data)
    assert 3 < len(store) < 37
    assert "breaks off" in store.skipped[0]


@pytest.mark.parametrize(
    "name", ["../film.mp4", "/etc/passwd", "x/../../film.mp4", "a\0b.mp4", "x" * 5000]
)
def test_a_table_cannot_lead_out_of_its_folder(load, data, film, name):
    video(data / "good.mp4")
    (data / "captions.csv").write_text(f"file,caption\n{name},stolen\ngood.mp4,good\n")
    store = load(data)
    assert {store[k].caption for k in range(len(store))} == {"good"}
    assert "does not lie in this folder" in store.skipped[0]


def test_a_link_cannot_lead_out_of_its_folder(load, data, film, tmp_path):
    video(data / "good.mp4")
    (data / "link.mp4").symlink_to(tmp_path / "film.mp4")
    (data / "captions.csv").write_text("file,caption\nlink.mp4,stolen\ngood.mp4,good\n")
    assert "does not lie in this folder" in load(data).skipped[0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("\n\nname,text\na,b\n", "begins with 'name,text'; its first line must be file,caption"),
        ("file;caption\na;b\n", "begins with 'file;caption'"),
        ("File,Caption\na,b\n", "begins with 'File,Caption'"),
        ("file,caption,caption\na,b,c\n", "begins with 'file,caption,caption'"),
        (b"\xff\xfe\xfa,\n\xff", "is not in UTF-8"),
        ('file,caption\na,"' + "x" * 200_000 + '"\n', "line 2 begins no row of a table"),
        ("file,caption\n", "has no row below its first line"),
        ("", "is empty"),
    ],
)
def test_tables_that_are_none(load, data, table, message):
    (data / "captions.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(InputError, match=message):
        load(data)


def test_nothing_there(load, data, tmp_path):
    with pytest.raises(InputError, match=r"holds no captioned video; it needs captions\.csv"):
        load(data)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "missing")
    video(data / "a.mp4", frames=2)
    (data / "a.txt").write_text("short")
    with pytest.raises(InputError, match=r"no video is of use.*has 2 frames"):
        load(data)
    assert not list((tmp_path / "cache").iterdir())


def test_a_long_caption_is_cut(load, data):
    video(data / "a.mp4")
    (data / "a.txt").write_text("ж " * 50_000)
    assert len(load(data)[0].caption) == 1000


def test_arguments(load, data):
    for name in ("size", "frames"):
        with pytest.raises(ValueError, match=f"^{name} must be a whole number"):
            load(data, **{name: 2.5})


def test_the_cache_is_bounded(load, data):
    video(data / "a.mp4")
    (data / "a.txt").write_text("a bar")
    with pytest.raises(OutputError, match="lower the size or raise max_bytes"):
        load(data, max_bytes=1000)


# ------------------------------------------------------------------ hostile tar files


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
        kept = [member.pax_headers for member in captioned._members(data / "a.tar", file, size)]
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
            patch.setattr(captioned, "middle_square", full)  # called between two writes
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
