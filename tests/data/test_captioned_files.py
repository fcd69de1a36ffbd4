"""Lists captioned videos of a folder: tables, texts beside videos, skipped files."""

import json
import unicodedata

import pytest
import torch

from captioned_videos import pack, video
from flowwarp.errors import InputError
from flowwarp.io.images import write_image


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


def test_suffixes_may_be_capitals(load, data, film):
    (data / "DOG.MP4").write_bytes(film)
    (data / "DOG.TXT").write_text("a dog")
    pack(data / "cat.tar", [("CAT.MP4", film), ("CAT.TXT", b"a cat")])
    store = load(data, frames=6)
    assert [store[k].caption for k in range(len(store))] == ["a dog", "a cat"]


def captions_of(store):
    """Return the caption of each window."""
    return [store[k].caption for k in range(len(store))]


def frames(folder, count=4, value=0.5):
    """Write a folder of pictures."""
    folder.mkdir(parents=True)
    for number in range(count):
        write_image(folder / f"{number}.png", torch.full((3, 8, 8), value + 0.1 * number))


def test_a_folder_of_frames_is_a_video(load, data):
    frames(data / "dog")
    (data / "dog.txt").write_text("beside")
    (data / "dog/caption.txt").write_text("not used")
    frames(data / "cat.v2", value=0.2)
    (data / "cat.v2/caption.txt").write_text("inside")
    frames(data / "fox", value=0.1)
    frames(data / ".hidden")
    store = load(data)
    assert captions_of(store) == ["inside", "beside"]
    values = store[1].video[:, 0, 0, 0].tolist()  # 0.5, 0.6, 0.7 and 0.8 of 255, in order
    assert values == pytest.approx([128, 153, 178, 204], abs=1)
    assert store.skipped == (f"{data / 'fox'}: has no caption",)


def test_frames_that_change_their_size(load, data):
    """Those before the change are used."""
    frames(data / "dog", count=5)
    (data / "dog.txt").write_text("a dog")
    write_image(data / "dog/4.png", torch.zeros(3, 9, 8))
    store = load(data)
    assert len(store) == 1
    assert store.skipped == (f"{data / 'dog'}: frame 5 is 8x9, the first is 8x8",)


def test_the_table_of_a_video_folder(load, data):
    """A `metadata.jsonl` of Hugging Face, besides which a log is no table."""
    video(data / "a.mp4")
    frames(data / "train/b")
    lines = [{"file_name": "a.mp4", "text": "one"}, {"file_name": "train/b", "text": "two"}]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (data / "log.jsonl").write_text('{"loss": 3}\n')
    store = load(data, frames=4)
    assert captions_of(store) == ["one"] * 3 + ["two"]
    (skipped,) = store.skipped
    assert skipped.startswith(f"{data / 'log.jsonl'}: has no line with any of file, file_name")
    (data / "metadata.jsonl").unlink()
    (data / "metadata.csv").write_text("file_name,text\ntrain/b,csv\n")
    assert captions_of(load(data)) == ["csv"]
    (data / "captions.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"captions\.jsonl: has no line with"):
        load(data)


def test_folders_of_videos_are_reported(load, data):
    video(data / "a.mp4")
    video(data / "dogs/b.mp4", seed=1)
    video(data / "cats/c.mp4", seed=2)
    (data / "captions.csv").write_text("file,caption\na.mp4,a\ncats/c.mp4,c\n")
    (skipped,) = load(data).skipped
    assert skipped.startswith(f"{data / 'dogs'}: holds videos, and folders are not searched; name")


def test_without_captions(load, data, film):
    """Tables and texts are not read, however broken."""
    video(data / "a.mp4", seed=1)
    (data / "a.txt").write_text("a bar")
    frames(data / "b")
    (data / "captions.csv").write_text("broken")
    pack(data / "c.tar", [("c.mp4", film), ("c.txt", b"packed"), ("d.mp4", film)])
    store = load(data, captions="none")
    names = {store.name(index).removeprefix(f"{data}/") for index in range(len(store))}
    assert names == {"a.mp4", "b", "c.tar:c.mp4"}
    assert set(captions_of(store)) == {""}
    assert [fault for fault in store.skipped if "used once" not in fault] == []


@pytest.mark.parametrize("name", ["names.csv", "names.jsonl"])
def test_a_table_elsewhere(load, data, tmp_path, name):
    video(data / "a.mp4")
    video(data / "b.mp4", seed=1)
    (data / "a.txt").write_text("not used")
    video(tmp_path / "out.mp4")
    rows = [("a.mp4", "one"), ("a.mp4", "two"), ("../out.mp4", "three"), (".", "four")]
    if name.endswith("csv"):
        text = "\n".join(map(",".join, [("file", "caption"), *rows]))
    else:
        text = "\n".join(json.dumps({"file": file, "prompt": words}) for file, words in rows)
    (tmp_path / name).write_text(text)
    store = load(data, frames=6, captions=tmp_path / name)
    assert captions_of(store) == ["one", "two"]
    out, root, other = store.skipped
    assert out.endswith(f"'../out.mp4' does not lie in {data}")
    assert root.endswith("'.': no such file")
    assert other == f"{data / 'b.mp4'}: has no caption in {tmp_path / name}"


def test_a_table_elsewhere_that_is_none(load, data, tmp_path, film):
    video(data / "a.mp4")
    (tmp_path / "a.txt").write_text("file,caption")
    with pytest.raises(InputError, match=r"must end in \.csv or \.jsonl"):
        load(data, captions=tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"b\.csv: no such file"):
        load(data, captions=tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("file,caption\na.mp4,x\n")
    with pytest.raises(InputError, match="needs a folder of videos"):
        load(pack(data / "z.tar", [("a.mp4", film)]), captions=tmp_path / "c.csv")


def test_all_layouts_together(load, data, film):
    video(data / "a.mp4")
    video(data / "b.mp4")
    (data / "captions.csv").write_text("caption,file,more\nfrom the table,a.mp4,x\n")
    (data / "a.txt").write_text("unused")
    (data / "b.txt").write_text("beside")
    pack(data / "c.tar", [("c.mp4", film), ("c.txt", b"packed")])
    store = load(data, frames=6)
    assert [store[k].caption for k in range(len(store))] == ["from the table", "beside", "packed"]


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
    (data / "c.txt").write_text("unused")
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


@pytest.mark.parametrize(
    "name", ["../film.mp4", "/etc/passwd", "x/../../film.mp4", "a\0b.mp4", "x" * 5000]
)
def test_a_table_cannot_lead_out_of_its_folder(load, data, film, name):
    video(data / "good.mp4")
    (data / "captions.csv").write_text(f"file,caption\n{name},stolen\ngood.mp4,good\n")
    store = load(data)
    assert {store[k].caption for k in range(len(store))} == {"good"}
    assert f"does not lie in {data}" in store.skipped[0]


def test_a_link_cannot_lead_out_of_its_folder(load, data, film, tmp_path):
    video(data / "good.mp4")
    (data / "link.mp4").symlink_to(tmp_path / "film.mp4")
    (data / "captions.csv").write_text("file,caption\nlink.mp4,stolen\ngood.mp4,good\n")
    assert f"does not lie in {data}" in load(data).skipped[0]


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
