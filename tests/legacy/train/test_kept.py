"""Clips that are composed once."""

from types import SimpleNamespace

import torch

from flowwarp.io import cache
from flowwarp.legacy.train.kept import keep_clips
from flowwarp.train import arrays
from flowwarp.train.arrays import CAPTION, pack_caption, unpack_caption


def draw(number):
    video = torch.randint(256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(number))
    return SimpleNamespace(
        video=video.to(torch.uint8),
        caption=f"clip {number}",
        rewordings=(f"number {number}",),
        labels={"number": str(number)},
    )


def test_clips_are_composed_once(tmp_path):
    asked = []

    def counted(number):
        asked.append(number)
        return draw(number)

    for _ in range(2):
        kept = keep_clips(counted, "a", 20, cache=tmp_path)
        assert (len(kept), kept.frames) == (20, 4)
        for number in (0, 7, 19):
            assert kept.captions(number) == [f"clip {number}", f"number {number}"]
            assert kept.labels(number) == {"number": str(number)}
            assert torch.equal(kept.video(number, 1, 2), draw(number).video[1:3])
    assert asked.count(19) == 1


def test_other_clips_are_kept_apart(tmp_path):
    def other(number):
        return SimpleNamespace(**vars(draw(number)) | {"caption": f"clip {number}!"})

    def unlabelled(number):
        return SimpleNamespace(**vars(draw(number)) | {"labels": {}})

    keep_clips(draw, "a", 3, cache=tmp_path)
    assert keep_clips(other, "a", 3, cache=tmp_path).captions(2)[0] == "clip 2!"
    assert keep_clips(unlabelled, "a", 3, cache=tmp_path).labels(2) == {}
    keep_clips(draw, "b", 3, cache=tmp_path)
    assert len(list(tmp_path.glob("clips-*"))) == 4


def test_clips_make_room_when_nobody_needs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "mark_used", lambda folder: None)  # as after the process has ended
    keep_clips(draw, "a", 3, cache=tmp_path)
    monkeypatch.setattr(cache, "LIMIT", 1)
    cache.make_room(tmp_path)
    assert list(tmp_path.glob("clips-*")) == []


def test_captions_survive_packing():
    for caption in ("", "a dog", "é" * 20):
        assert unpack_caption(pack_caption(caption)) == caption
    assert unpack_caption(pack_caption("é" * 1000)) == "é" * 1000  # what is read of a file
    assert unpack_caption(pack_caption("x" * 3000)) == "x" * CAPTION
    cut = unpack_caption(pack_caption("x" + "é" * CAPTION))
    assert cut == "x" + "é" * (CAPTION // 2 - 1)  # none is cut in two
