"""Which parts of a video are looked at."""

import pytest
import torch

from flowwarp.legacy.pipelines.windows import MOST_WINDOWS, some_windows


def numbered(count, size=16):
    """Return frames whose grey level is their number, of 255."""
    return [torch.full((3, size, size), number / 255) for number in range(count)]


def levels(window):
    return (window.float().mean((1, 2, 3)).round()).int().tolist()


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (1, [[0, 0, 0, 0]]),
        (3, [[0, 1, 2, 2]]),
        (4, [[0, 1, 2, 3]]),
        (6, [[0, 1, 2, 3], [2, 3, 4, 5]]),
        (8, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ],
)
def test_windows_of_a_video(count, wanted):
    assert [levels(w) for w in some_windows(numbered(count), 4, 16)] == wanted


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, [[0, 0]]), (3, [[0, 1, 2]]), (6, [[0, 1, 2, 3], [2, 3, 4, 5]])]
)
def test_a_short_video_need_not_be_filled_up(count, wanted):
    assert [levels(w) for w in some_windows(numbered(count), 4, 16, 2)] == wanted


@pytest.mark.parametrize("count", range(1, 32))
def test_a_long_video_is_looked_at_evenly(count):
    numbers = [levels(part)[0] // 8 for part in some_windows(iter(numbered(8 * count, 2)), 8, 2)]
    assert min(count, MOST_WINDOWS // 2) <= len(numbers) <= MOST_WINDOWS
    every = numbers[1] if len(numbers) > 1 else 1
    assert numbers == list(range(0, count, every))


def test_there_must_be_frames():
    with pytest.raises(ValueError, match="frames must not be empty"):
        some_windows([], 4, 16)


@pytest.mark.parametrize("size", [16, 8])
def test_frames_must_be_what_they_should(size):
    frame = torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(0))
    for wrong in (255 * frame, frame / 0 * 0):
        with pytest.raises(ValueError, match=r"frame must be in \[0, 1\], its largest value is"):
            some_windows([frame, wrong], 4, size)
    for wrong in (frame[:1], frame[None]):
        with pytest.raises(ValueError, match=r"frame must be \(3, H, W\)"):
            some_windows([wrong], 4, size)
    for wrong, got in (((255 * frame).byte(), r"torch\.uint8"), (frame.numpy(), "ndarray")):
        with pytest.raises(TypeError, match=f"frame must be .* got {got}"):
            some_windows([wrong], 4, size)
