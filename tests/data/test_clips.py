"""Footage to pairs: what is found, what is kept, and that the cache can be trusted."""

import logging
import os
import pickle
import shutil
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flowwarp.data import clips
from flowwarp.data.clips import PairStore, find_clips, is_cut, prepare_pairs
from flowwarp.errors import InputError, Locked, OutputError
from flowwarp.io.images import write_image
from flowwarp.io.video_writer import write_video

HEIGHT, WIDTH = 72, 96


@pytest.fixture
def prepare(tmp_path):
    def run(*sources, **options):
        return prepare_pairs(sources, cache=tmp_path / "cache", **options)

    return run


def scene(seed, size=(HEIGHT, WIDTH + 40)):
    """A coarse random pattern, wide enough to move a window over."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size[0] // 18, size[1] // 17, generator=generator)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]


def frame(shift=0, seed=0):
    return scene(seed)[:, :, shift : shift + WIDTH]


def save(folder, shifts, seed=0, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, shift in enumerate(shifts, start=first):
        write_image(folder / f"f{number}.png", frame(shift, seed))


def steps(image):
    return image.mul(255).round().byte()


# ------------------------------------------------------------------ what is found


def test_a_folder_is_a_clip_in_natural_order(tmp_path, prepare):
    save(tmp_path / "a", [2 * k for k in range(11)])
    store = prepare(tmp_path / "a")
    assert len(store) == 10
    for number, (frame1, frame2) in enumerate(store):
        assert torch.equal(frame1, steps(frame(2 * number)))
        assert torch.equal(frame2, steps(frame(2 * number + 2)))
    assert store.clip(0) == str(tmp_path / "a")
    assert store.skipped == ()


def test_nested_folders_and_videos_are_clips_of_their_own(tmp_path, prepare):
    save(tmp_path / "data/b/deep", [0, 3, 6])
    save(tmp_path / "data/.hidden", [0, 3, 6])
    write_video(tmp_path / "data/film.mp4", [frame(3 * k, seed=1) for k in range(4)])
    store = prepare(tmp_path / "data")
    assert [store.clip(index) for index in range(len(store))] == [
        *[str(tmp_path / "data/film.mp4")] * 3,
        *[str(tmp_path / "data/b/deep")] * 2,
    ]


def test_pictures_given_one_by_one_are_a_clip(tmp_path, prepare):
    save(tmp_path, [0, 4, 8])
    assert len(prepare(*(tmp_path / f"f{k}.png" for k in range(3)))) == 2


def test_an_animated_webp_is_a_video_and_a_still_one_a_picture(tmp_path):
    (tmp_path / "still").mkdir()
    for name in ("a.webp", "b.webp"):
        write_video(tmp_path / name, [frame(0), frame(3)])
        write_image(tmp_path / f"still/{name}", frame(0))
    for sources in ([tmp_path / "a.webp", tmp_path / "b.webp"], [tmp_path]):
        found = [(clip.kind, [file.name for file in clip.files]) for clip in find_clips(sources)]
        assert found[:2] == [("video", ["a.webp"]), ("video", ["b.webp"])]
        assert found[2:] == [("frames", ["a.webp", "b.webp"])] * (sources == [tmp_path])
    (alone,) = find_clips([tmp_path / "still/a.webp"])
    assert alone.kind == "frames"


def test_a_picture_mistyped_is_said_at_once(tmp_path):
    (tmp_path / "a.png").write_bytes(b"?")
    with pytest.raises(InputError, match=r"b\.png"):
        list(find_clips([tmp_path / "a.png", tmp_path / "b.png"]))


def test_a_list_of_pairs_is_taken_as_it_is(tmp_path, prepare):
    save(tmp_path, [0, 0])
    write_image(tmp_path / "other one.png", frame(seed=7))
    (tmp_path / "pairs.txt").write_text("# still, cut\nf0.png f1.png\n\nf0.png 'other one.png'\n")
    store = prepare(tmp_path / "pairs.txt")
    assert len(store) == 2
    assert torch.equal(store[1][1], steps(frame(seed=7)))
    assert len(store.windows(3)) == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a b c", "line 1 holds 3 names"),
        ("\n'a b", "line 2: No closing"),
        ("\xff", "UTF-8"),
        ("a b\nc\0 d", "line 2 holds a null byte"),
    ],
)
def test_a_broken_list_names_its_line(tmp_path, prepare, text, problem):
    (tmp_path / "pairs.txt").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=problem):
        prepare(tmp_path / "pairs.txt")


def test_a_link_to_a_folder_above_is_no_endless_way(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert len(prepare(tmp_path / "a")) == 1


# ------------------------------------------------------------------ what is kept


def test_still_frames_are_dropped_and_slow_motion_adds_up(tmp_path, prepare):
    save(tmp_path / "a", [0, 0, 0, 5, 5, 10])
    store = prepare(tmp_path / "a")
    assert [torch.equal(pair[1], steps(frame(s))) for pair, s in zip(store, (5, 10), strict=True)]
    assert len(prepare(tmp_path / "a", still=-1)) == 5


def test_motion_too_slow_to_be_seen_at_once_adds_up(tmp_path, prepare):
    (tmp_path / "a").mkdir()
    for number in range(7):
        write_image(tmp_path / f"a/f{number}.png", torch.full((3, 16, 16), (100 + number) / 255))
    store = prepare(tmp_path / "a")
    assert len(store) >= 2
    assert all(int(two[0, 0, 0]) - int(one[0, 0, 0]) in (2, 3) for one, two in store)


def test_as_much_of_the_picture_must_change_as_is_asked_for(tmp_path, prepare):
    image = torch.zeros(3, 64, 64)
    for number in range(3):  # by one of 64 blocks, however much that changes, and by two
        image[:, :8, : 8 * number] = 1
        (tmp_path / "a").mkdir(exist_ok=True)
        write_image(tmp_path / f"a/f{number}.png", image)
    ((one, two),) = prepare(tmp_path / "a", still=0.02)
    assert not one.any()
    assert torch.equal(two, steps(image))
    assert len(prepare(tmp_path / "a", still=0.01)) == 2


def test_from_black_and_to_black_is_a_cut():
    """A board shows black near any place, but black does not show the board."""
    squares = torch.arange(256) // 16 % 2
    board = (squares[:, None] == squares).float().expand(3, -1, -1)
    black = torch.zeros(3, 256, 256)
    assert is_cut(board, black)
    assert is_cut(black, board)
    assert not is_cut(board, board.roll(16, 2))


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("linux", ["c:ab.png", r"other one\c.png"]),
        ("win32", [r"c:\a\b.png", r"other one\c.png"]),
    ],
)
def test_backslashes_in_a_list_of_pairs(tmp_path, monkeypatch, platform, names):
    """On Windows they part folders, elsewhere they quote as in a shell."""
    monkeypatch.setattr(sys, "platform", platform)
    (tmp_path / "pairs.txt").write_text('# two\nc:\\a\\b.png "other one\\c.png"  # one\n')
    (pair,) = find_clips([tmp_path / "pairs.txt"])
    assert pair.files == tuple(tmp_path / name for name in names)


def test_no_pair_crosses_a_cut(tmp_path, prepare):
    save(tmp_path / "a", [0, 4, 8])
    save(tmp_path / "a", [0, 4, 8], seed=1, first=3)
    store = prepare(tmp_path / "a")
    assert len(store) == 4
    assert len(store.windows(3)) == 2
    assert torch.equal(store[2][0], steps(frame(0, seed=1)))


def test_what_lies_beyond_a_cut_is_the_same_clip(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    save(tmp_path / "a", [0, 4], seed=1, first=2)
    save(tmp_path / "b", [0, 4])
    store = prepare(tmp_path / "a", tmp_path / "b")
    assert [store.source(index) for index in range(len(store))] == [0, 0, 1]
    assert store.clip(1) == str(tmp_path / "a")


def test_fast_motion_is_no_cut(tmp_path, prepare):
    save(tmp_path / "a", [0, 5, 10])
    assert len(prepare(tmp_path / "a")) == 2


def test_no_pair_crosses_a_change_of_size(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    for number, shift in enumerate((0, 4), start=2):
        write_image(tmp_path / f"a/f{number}.png", frame(shift)[:, :40])
    store = prepare(tmp_path / "a")
    assert [pair[0].shape[1] for pair in store] == [HEIGHT, 40]


def test_large_frames_are_made_smaller(tmp_path, prepare):
    save(tmp_path / "a", [0, 8])
    store = prepare(tmp_path / "a", longest=48)
    assert store[0][0].shape == (3, 36, 48)
    averaged = torch.nn.functional.avg_pool2d(frame(), 2)
    assert (store[0][0] / 255 - averaged).abs().mean() < 0.01


def test_windows(tmp_path, prepare):
    save(tmp_path / "a", [3 * k for k in range(5)])
    store = prepare(tmp_path / "a")
    triplets = store.windows(3)
    assert len(triplets) == 3
    for image, shift in zip(triplets[1], (3, 6, 9), strict=True):
        assert torch.equal(image, steps(frame(shift)))


# ------------------------------------------------------------------ what is broken


def test_an_unreadable_frame_is_said_and_parts_the_clip(tmp_path, prepare, caplog):
    save(tmp_path / "a", [3 * k for k in range(5)])
    (tmp_path / "a/f2.png").write_bytes(b"not a picture")
    for _ in range(2):  # the second finds what the first has prepared
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            store = prepare(tmp_path / "a")
        assert len(store) == 2
        assert len(store.skipped) == 1
        assert "f2.png" in store.skipped[0]
        assert caplog.text.count("f2.png") == 1


def test_what_came_before_a_broken_end_is_kept(tmp_path, prepare):
    write_video(tmp_path / "a.gif", [frame(3 * k) for k in range(12)])
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data[: len(data) * 2 // 3])
    store = prepare(tmp_path / "a.gif")
    assert 2 <= len(store) < 11
    assert "a.gif: breaks off" in store.skipped[0]


def test_nothing_usable_is_an_error(tmp_path, prepare):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither pictures nor videos"):
        prepare(tmp_path / "empty")
    with pytest.raises(InputError, match=r"gone\.mp4: no such file"):
        prepare(tmp_path / "gone.mp4")
    save(tmp_path / "still", [0, 0])
    with pytest.raises(InputError, match="no two frames in a row"):
        prepare(tmp_path / "still")
    (tmp_path / "bad.mp4").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"nothing could be read.*bad\.mp4"):
        prepare(tmp_path / "bad.mp4")
    assert not list((tmp_path / "cache").iterdir())


def test_the_limit_of_size(tmp_path, prepare):
    save(tmp_path / "a", [0, 4, 8])
    write_image(tmp_path / "other.png", frame(seed=7))
    (tmp_path / "pairs.txt").write_text("a/f0.png other.png\n")
    with pytest.raises(OutputError, match=r"more than 2e-05 GB; lower longest .*--set max_bytes="):
        prepare(tmp_path / "pairs.txt", max_bytes=20_000)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("name", ["a", "film.mp4"])
def test_what_will_not_fit_is_said_before_it_is_decoded(tmp_path, prepare, monkeypatch, name):
    shifts = [4 * k for k in range(10)]
    save(tmp_path / "a", shifts)
    write_video(tmp_path / "film.mp4", [frame(shift) for shift in shifts])
    size = 10 * 3 * HEIGHT * WIDTH
    assert len(prepare(tmp_path / name, max_bytes=size)) == 9
    monkeypatch.setattr(clips, "_read", None)
    with pytest.raises(OutputError, match=r"take up to 0\.000207 GB, more than 0\.0001 GB; lower"):
        prepare(tmp_path / name, max_bytes=100_000, still=0.02)
    prepare_smaller = {"max_bytes": 100_000, "longest": WIDTH // 2, "still": 0.02}
    with pytest.raises(TypeError):  # now it would be decoded
        prepare(tmp_path / name, **prepare_smaller)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"takes up to 0\.000207 GB, and 1e-06 GB are free"):
        prepare(tmp_path / name, still=0.03)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_header_that_lies_does_not_stop_the_rest(tmp_path, prepare, monkeypatch):
    save(tmp_path / "a", [0, 4, 8])
    write_video(tmp_path / "a/film.mp4", [frame(4 * k) for k in range(3)])
    found = clips.video_info(tmp_path / "a/film.mp4")
    monkeypatch.setattr(clips, "video_info", lambda path: replace(found, frames=10**9))
    assert len(prepare(tmp_path / "a")) == 4


def test_a_cache_that_cannot_be_written(tmp_path):
    save(tmp_path / "a", [0, 4])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        prepare_pairs([tmp_path / "a"], cache=tmp_path / "file" / "cache")


# ------------------------------------------------------------------ the cache


def test_a_second_call_decodes_nothing(tmp_path, prepare, monkeypatch):
    save(tmp_path / "a", [0, 4])
    first = prepare(tmp_path / "a")
    monkeypatch.setattr(clips, "_prepare", None)
    assert prepare(tmp_path / "a").folder == first.folder


def test_a_changed_file_or_option_prepares_anew(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    folders = {prepare(tmp_path / "a").folder, prepare(tmp_path / "a", longest=32).folder}
    os.utime(tmp_path / "a/f1.png", (1, 1))
    folders.add(prepare(tmp_path / "a").folder)
    assert len(folders) == 3


@pytest.mark.parametrize("name", ["index.npz", "about.json", "frames.bin"])
@pytest.mark.parametrize("left", [0.0, 0.5, None])
def test_what_is_broken_is_prepared_anew(tmp_path, prepare, caplog, name, left):
    """As after a power cut."""
    save(tmp_path / "a", [0, 2, 4])
    whole = [tuple(map(torch.clone, pair)) for pair in prepare(tmp_path / "a")]
    (folder,) = (tmp_path / "cache").glob("pairs-*")
    path = folder / name
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(InputError, match=f"{folder.name}: is broken"):
        PairStore(folder)
    again = prepare(tmp_path / "a")
    assert "is broken" in caplog.text
    for one, two in zip(whole, again, strict=True):
        assert all(map(torch.equal, one, two))


def test_a_run_is_no_footage(tmp_path, prepare):
    """Else its sample pictures would be learned from, and change what is."""
    save(tmp_path / "a", [0, 2, 4])
    save(tmp_path / "a/run/samples", [1, 5, 9], seed=3)
    assert len(prepare(tmp_path / "a")) == 4
    for name in ("config.toml", "metrics.jsonl"):
        (tmp_path / "a/run" / name).touch()
    assert len(prepare(tmp_path / "a")) == 2


def test_the_default_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWWARP_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    save(tmp_path / "a", [0, 4])
    assert prepare_pairs([tmp_path / "a"]).folder.parent == tmp_path / "xdg" / "flowwarp"


def test_tests_leave_the_cache_of_the_user_alone(tmp_path_factory):
    folder = clips.store_folder(None)
    assert folder.is_relative_to(tmp_path_factory.getbasetemp())


def test_abandoned_work_is_removed(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    old, new = tmp_path / "cache/.pairs-old", tmp_path / "cache/.pairs-new"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (1, 1))
    prepare(tmp_path / "a")
    assert (old.exists(), new.exists()) == (False, True)


def test_one_process_prepares_and_those_started_with_it_wait(tmp_path, prepare, monkeypatch):
    """The other one is a thread here, which holds what a process would hold."""
    save(tmp_path / "a", [0, 4, 8])
    asked, seen = [], []

    def other():
        asked.append(prepare(tmp_path / "a", progress=lambda *n: seen.append("again")))

    def progress(done, total):
        seen.append(done)
        with pytest.raises(Locked, match="another process prepares this footage"):
            prepare(tmp_path / "a")
        monkeypatch.setenv("WORLD_SIZE", "2")
        thread.start()
        time.sleep(0.3)
        assert asked == []

    thread = threading.Thread(target=other)
    store = prepare(tmp_path / "a", progress=progress)
    thread.join()
    assert seen == [1]
    assert asked[0].folder == store.folder
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [store.folder.name]


def test_new_footage_makes_old_footage_go(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_LIMIT", "1")
    cache = tmp_path / "cache"
    old = cache / f"pairs-{20 * '0'}"
    old.mkdir(parents=True)
    (old / ".used").write_bytes(b"123")
    save(tmp_path / "a", [0, 4])
    store = prepare_pairs([tmp_path / "a"], cache=cache)
    assert [path.name for path in cache.iterdir()] == [store.folder.name]
    assert len(store) == 1


def test_pickled_by_name(tmp_path, prepare):
    save(tmp_path / "a", [0, 4, 8, 12, 16])
    store = prepare(tmp_path / "a").windows(3)
    data = pickle.dumps(store)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert isinstance(copy, PairStore)
    assert all(torch.equal(*pair) for pair in zip(copy[0], store[0], strict=True))


def test_progress_counts_clips(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    save(tmp_path / "a/b", [0, 4])
    seen = []
    prepare(tmp_path / "a", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
