from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from flowwarp.errors import InputError
from flowwarp.io import video_salvage
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_salvage import salvage_video
from flowwarp.io.video_writer import write_video
from videos import clip, encode_kind, until_it_breaks


def overwrite(path, number, start=0.5, length=0.4):
    """Overwrite a part of a packet, given as shares of its size; return the index of its frame."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        shown = sorted(packet.pts for packet in packets).index(packets[number].pts)
        at, size = packets[number].pos, packets[number].size
    junk = np.random.default_rng(number).integers(0, 256, int(length * size), dtype=np.uint8)
    data = bytearray(path.read_bytes())
    first = at + int(start * size)
    data[first : first + len(junk)] = junk.tobytes()
    path.write_bytes(data)
    return shown


@pytest.mark.parametrize("kind", ["avi", "mp4", "mkv", "mpg", "gif", "webp"])
def test_an_intact_video_is_read_completely(tmp_path, noisy, kind):
    path = tmp_path / f"a.{kind}"
    if kind in ("gif", "webp"):
        write_video(path, clip())
    else:
        encode_kind(path, noisy)
    for mine, theirs in zip(salvage_video(path), read_video(path), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("length", "lost"),
    [(0.4, 1), (0.6, 2)],  # within a frame; over the next frame's header, which hides that frame
)
def test_salvages_motion_jpeg(tmp_path, noisy, length, lost):
    path = tmp_path / "a.avi"
    encode_kind(path, noisy)
    whole = list(read_video(path))
    assert overwrite(path, 20, 0.5, length) == 20
    with pytest.raises(InputError, match="breaks off after"):
        list(read_video(path))  # as ever
    frames = list(salvage_video(path))
    assert len(frames) == 40
    for number, (got, wanted) in enumerate(zip(frames, whole, strict=True)):
        if 20 <= number < 20 + lost:
            assert got is None
        else:
            assert torch.equal(got, wanted)


@pytest.mark.parametrize(("one", "other"), [(10, 20), (3, 30), (38, 39)])
def test_exchanged_index_entries_are_no_damage(tmp_path, noisy, one, other):
    """One packet then has a time that is too early, and one that is too late."""
    path = tmp_path / "a.avi"
    encode_kind(path, noisy)
    data = bytearray(path.read_bytes())
    first = data.rindex(b"idx1") + 8
    offsets = [first + 16 * number + 8 for number in (one, other)]
    places = [data[at : at + 4] for at in offsets]
    for at, place in zip(offsets, reversed(places), strict=True):
        data[at : at + 4] = place
    path.write_bytes(data)
    frames = list(salvage_video(path))
    assert 40 <= len(frames) <= 80
    assert any(frame is not None for frame in frames)


@pytest.fixture(scope="module")
def moving():
    texture = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.interpolate(texture, (128, 192), mode="bicubic").clamp(0, 1)
    pixels = texture[0].mul(255).byte().permute(1, 2, 0).numpy()
    return [np.ascontiguousarray(pixels[i : i + 64, 2 * i : 2 * i + 96]) for i in range(40)]


@pytest.mark.parametrize("length", [0.4, 3])  # of a packet: within it, or into those after it
def test_salvages_h264(tmp_path, moving, length):
    path = tmp_path / "a.mp4"
    encode_kind(path, moving)
    whole = list(read_video(path))
    damaged = overwrite(path, 12, 0, length)
    frames = list(salvage_video(path))
    assert len(frames) == 40
    lost = [number for number, frame in enumerate(frames) if frame is None]
    assert damaged in lost
    assert len(lost) == 1 or length > 1
    for number in [*range(10), *range(20, 40)]:  # in other groups of pictures than the damage
        assert torch.equal(frames[number], whole[number])


def test_frames_after_a_lost_key_frame_are_none(tmp_path, moving):
    path = tmp_path / "a.mp4"
    encode_kind(path, moving)
    whole = list(read_video(path))
    assert overwrite(path, 20, 0, 1) == 20
    frames = list(salvage_video(path))
    assert len(frames) == 40
    assert frames[20] is None
    for number in [*range(18), *range(30, 40)]:
        assert torch.equal(frames[number], whole[number])


@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_salvages_up_to_where_a_video_breaks_off(tmp_path, noisy, kind):
    path = tmp_path / f"a.{kind}"
    encode_kind(path, noisy)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    before, problem = until_it_breaks(path)
    frames = salvage_video(path)
    for frame in before:
        assert torch.equal(next(frames), frame)
    with pytest.raises(InputError) as fault:
        next(frames)
    assert str(fault.value) == problem


def frame(time, *, key=False):
    return SimpleNamespace(pts=time, key_frame=key, is_corrupt=False)


def test_a_frame_of_a_damaged_packet_is_not_intact():
    schedule = video_salvage._Schedule()
    schedule.expect(0)
    schedule.mark_damaged(0)
    assert schedule.arrive(frame(0, key=True)) == (0, False)


def test_damage_ends_at_the_next_key_frame():
    schedule = video_salvage._Schedule()
    for time in (3, 5):
        schedule.expect(time)
    schedule.mark_damaged(5)
    assert schedule.arrive(frame(3, key=True)) == (0, True)
    schedule.expect(7)
    assert schedule.arrive(frame(8)) == (2, True)  # 5 and 7 are missing
    schedule.expect(9)
    assert schedule.arrive(frame(10)) == (1, True)
    assert schedule.arrive(frame(11, key=True)) == (0, True)
    schedule.expect(12)
    assert schedule.arrive(frame(13)) == (0, True)


def test_nothing_to_salvage(tmp_path, noisy):
    path = tmp_path / "a.avi"
    encode_kind(path, noisy[:3])
    for number in range(3):
        overwrite(path, number, 0, 1)
    frames = salvage_video(path)
    assert [next(frames) for _ in range(3)] == [None] * 3
    with pytest.raises(InputError, match="contains no frame that can be decoded"):
        next(frames)
    with pytest.raises(InputError, match="no such file"):
        next(salvage_video(tmp_path / "none.avi"))
