import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from flowwarp.errors import InputError, OutputError
from flowwarp.io.images import write_image
from flowwarp.io.video_writer import write_video
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.pipelines.flow import job_pairs
from flowwarp.pipelines.flow.pair_fields import Pair


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save_frames(folder, count):
    Path(folder).mkdir(exist_ok=True)
    for index in range(count):
        write_image(Path(folder, f"frame{8 + index}.png"), torch.rand(3, 4, 5))


def save_video(path, count):
    write_video(path, [torch.full((3, 16, 16), index / 10) for index in range(count)], 10)


def make_job(*sources, **changes):
    clips = job_pairs.place_clips([Path(source) for source in sources])
    settings = {"quality": "fast", "weights": "small", "format": ".flo"} | changes
    return job_pairs.Job(tuple(sources), clips, Path("out"), **settings)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_names_that_differ_in_case_only(monkeypatch, platform):
    """Where a disk ignores case, the results of one clip would replace another's."""
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("Clip.mov", "clip.gif"):
        Path(name).write_bytes(b"a clip")
    placed = job_pairs.place_clips([Path("Clip.mov"), Path("clip.gif")])
    apart = platform == "linux"
    assert [name for _, name in placed] == (["Clip", "clip"] if apart else ["Clip.mov", "clip.gif"])
    save_frames("in", 2)
    shutil.copy("in/frame8.png", "in/Frame8.bmp")
    with nullcontext() if apart else pytest.raises(OutputError, match="would be the result of"):
        job_pairs.place_clips([Path("in")])


def test_a_source_without_frames_is_refused():
    Path("empty").mkdir()
    with pytest.raises(InputError, match="empty: contains neither frames nor videos"):
        job_pairs.place_clips([Path("empty")])


def test_pairs_are_counted_by_headers():
    save_frames("in", 4)
    save_video("a.mp4", 3)
    clips = job_pairs.place_clips([Path("in"), Path("a.mp4")])
    assert job_pairs.count_pairs(clips) == 3 + 2
    save_video("b.mkv", 3)  # does not state its number of frames
    assert job_pairs.count_pairs(job_pairs.place_clips([Path("b.mkv")])) is None


def test_pairs_of_pictures_and_videos():
    save_frames("in", 3)
    save_video("a.mp4", 3)
    job = make_job("in", "a.mp4", backward=Path("back"), occlusion=Path("masks"))
    found = list(job_pairs.find_pairs(job))
    assert all(isinstance(pair, Pair) for pair in found)
    assert [(pair.key, pair.place) for pair in found] == [
        ("in/frame8", (0, 0)),
        ("in/frame9", (0, 1)),
        ("a/000000", (1, 0)),
        ("a/000001", (1, 1)),
    ]
    assert found[0].frames == (Path("in/frame8.png"), Path("in/frame9.png"))
    assert found[2].frames[0].shape == (3, 16, 16)
    assert found[3].names == ("a.mp4 frame 000001", "a.mp4 frame 000002")
    paths = [Path("out/in/frame8.flo"), Path("back/in/frame8.flo"), Path("masks/in/frame8.png")]
    assert found[0].target.paths == paths


def test_every_pair_is_in_one_shard():
    save_frames("in", 6)
    save_video("a.mp4", 4)
    job = make_job("in", "a.mp4")
    keys = [pair.key for pair in job_pairs.find_pairs(job)]
    shards = [[pair.key for pair in job_pairs.find_pairs(job, (k, 3))] for k in (1, 2, 3)]
    assert sorted(key for shard in shards for key in shard) == sorted(keys)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_single_frame_has_no_pair():
    save_video("a.mp4", 1)
    (outcome,) = job_pairs.find_pairs(make_job("a.mp4"))
    assert (outcome.state, outcome.error) == ("failed", "a.mp4: is a single frame; flow needs two")
    with pytest.raises(InputError, match="single frame; flow needs two"):
        job_pairs.check_clip(make_job("a.mp4").clips[0][0])


def test_the_description_changes_with_weights_and_files():
    save_frames("in", 2)
    torch.manual_seed(0)
    net, other = FlowNet(TINY), FlowNet(TINY)
    first = make_job("in").describe(net)
    assert first == make_job("in").describe(net)
    assert first["weights"] != make_job("in").describe(other)["weights"]
    write_image("in/frame9.png", torch.rand(3, 8, 8))
    assert first["files"] != make_job("in").describe(net)["files"]
