"""What a user gives: cut to the aspect of the model, encoded as in training."""

import pytest
import torch

from flowwarp.data.tokens import to_patches
from flowwarp.io.video_writer import write_video
from flowwarp.pipelines.video.encode import (
    encode_end,
    encode_picture,
    encode_prompts,
    fit_frames,
    read_end,
    read_start,
)
from tiny_model import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_frames_cover_the_size_and_are_cut_in_the_middle():
    wide = torch.zeros(2, 3, 20, 60)
    wide[..., 20:40] = 1
    fitted = fit_frames(wide, (10, 10))
    assert fitted.dtype == torch.uint8
    assert fitted.shape == (2, 3, 10, 10)
    assert fitted.min() == 255
    tall = fit_frames(wide.mT, (12, 6))  # of 60 x 20, the 40 x 20 in the middle
    assert tall.shape == (2, 3, 12, 6)
    assert [int(value) for value in tall[0, 0, :, 3]] == pytest.approx(
        [0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0, 0], abs=60
    )
    with pytest.raises(ValueError, match="at least 1 frame"):
        fit_frames(wide[:0], (10, 10))


def test_a_picture_is_a_still_clip(model):
    picture = torch.rand(3, 48, 48).mul(255).round() / 255
    patches = encode_picture(model, picture)
    assert patches.shape == (1, 16, 8)
    assert torch.equal(patches, to_patches(encode_end(model, picture.expand(4, -1, -1, -1), 1)))


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (3, 1), (7, 1), (8, 2), (40, 2)])
def test_the_end_of_a_clip(model, frames, steps):
    video = torch.rand(frames, 3, 30, 50)
    codes = encode_end(model, video, 2)
    assert codes.shape == (1, steps, 8, 8, 2)
    whole = torch.cat([video[:1].expand(max(0, 4 - frames), -1, -1, -1), video])
    assert torch.equal(codes, encode_end(model, whole[-4 * steps :], 2))


def test_prompts_are_word_numbers(model):
    assert encode_prompts(model, ["red ball", "a zebra"])[..., 0].tolist() == [
        [4, 2, 0, 0],
        [1, 0, 0, 0],
    ]


def test_a_video_is_read_at_the_rate_of_the_model(model, tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, torch.linspace(0, 1, 31).view(31, 1, 1, 1).expand(31, 3, 40, 60), 20)
    start = read_start(model, path, 5)
    assert start.shape == (5, 3, 48, 48)
    assert start.mean((1, 2, 3)).tolist() == pytest.approx(
        [n / 30 for n in range(0, 10, 2)], abs=0.02
    )
    end = read_end(model, path, 20)
    assert end.mean((1, 2, 3)).tolist() == pytest.approx([n / 30 for n in range(23, 31)], abs=0.02)
    assert len(read_start(model, path, 100)) == 16
