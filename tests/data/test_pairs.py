"""Footage to pairs: which frames are stored, which pairs are formed, and that the cache holds."""

import logging
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flowwarp.data import pairs
from flowwarp.data.pairs import prepare_pairs
from flowwarp.errors import InputError, OutputError
from flowwarp.io.images import write_image
from flowwarp.io.video_writer import write_video
from footage_frames import HEIGHT, WIDTH, frame, save, steps


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
    monkeypatch.setattr(pairs, "_read", None)
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
    found = pairs.video_info(tmp_path / "a/film.mp4")
    monkeypatch.setattr(pairs, "video_info", lambda path: replace(found, frames=10**9))
    assert len(prepare(tmp_path / "a")) == 4


def test_a_cache_that_cannot_be_written(tmp_path):
    save(tmp_path / "a", [0, 4])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        prepare_pairs([tmp_path / "a"], cache=tmp_path / "file" / "cache")


def test_a_second_call_decodes_nothing(tmp_path, prepare, monkeypatch):
    save(tmp_path / "a", [0, 4])
    first = prepare(tmp_path / "a")
    monkeypatch.setattr(pairs, "_prepare", None)
    assert prepare(tmp_path / "a").folder == first.folder


def test_a_changed_file_or_option_prepares_anew(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    folders = {prepare(tmp_path / "a").folder, prepare(tmp_path / "a", longest=32).folder}
    os.utime(tmp_path / "a/f1.png", (1, 1))
    folders.add(prepare(tmp_path / "a").folder)
    assert len(folders) == 3


def test_a_training_run_is_not_footage(tmp_path, prepare):
    """Otherwise its sample pictures would become training data that changes all the time."""
    save(tmp_path / "a", [0, 2, 4])
    save(tmp_path / "a/run/samples", [1, 5, 9], seed=3)
    assert len(prepare(tmp_path / "a")) == 4
    for name in ("config.toml", "metrics.jsonl"):
        (tmp_path / "a/run" / name).touch()
    assert len(prepare(tmp_path / "a")) == 2


def test_progress_counts_clips(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    save(tmp_path / "a/b", [0, 4])
    seen = []
    prepare(tmp_path / "a", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
