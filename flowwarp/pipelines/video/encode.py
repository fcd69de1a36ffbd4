"""What a user gives a model: prompts, pictures and clips of any size and rate, and their tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from flowwarp.data.crops import resize_video
from flowwarp.data.resizing import middle_part
from flowwarp.data.tokens import to_patches
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.models.dvae import DVAE, TIME
from flowwarp.pipelines.video.load import VideoModel


def encode_prompts(model: VideoModel, prompts: Sequence[str]) -> Tensor:
    """Return the word numbers of prompts, (B, n, 1)."""
    numbers = [model.words.encode(prompt) for prompt in prompts]
    return torch.tensor(numbers, device=model.device)[..., None]


def fit_frames(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale frames until they cover a size, and cut the middle out.

    Args:
        video: (T, 3, H, W) in [0, 1].
        size: (height, width) of the result.

    Returns:
        (T, 3, height, width) uint8, as training clips are.

    Raises:
        TypeError, ValueError: ``video`` is not such.
    """
    if not len(video):
        raise ValueError("video must have at least 1 frame, got 0")
    return torch.stack([middle_part(frame, size, "video") for frame in video])


def read_start(model: VideoModel, path: str | Path, most: int) -> Tensor:
    """Read the first frames of a video at the model's rate, as nearly as whole frames allow.

    Args:
        model: the networks.
        path: of a video of any size.
        most: number of frames, at most.

    Returns:
        (T, 3, H, W) in [0, 1], of the size that the model makes.

    Raises:
        InputError: the video cannot be read.
    """
    step = _frame_step(path, model.config.fps)
    frames = islice(read_video(path), 0, most * step, step)
    return _stack([fit_frames(frame[None], model.config.size)[0] for frame in frames])


def read_end(model: VideoModel, path: str | Path, fps: float) -> Tensor:
    """Read the last frames of a video, as many as the training clips have.

    Args:
        model: the networks.
        path: of a video of any size.
        fps: frames per second of the result, as nearly as whole frames allow.

    Returns:
        (T, 3, H, W) in [0, 1], of the size that the model makes.

    Raises:
        InputError: the video cannot be read.
    """
    step = _frame_step(path, fps)
    frames = (fit_frames(frame[None], model.config.size)[0] for frame in read_video(path))
    last = deque(frames, maxlen=(model.config.frames - 1) * step + 1)
    return _stack(list(last)[::-step][::-1])


def _frame_step(path: str | Path, fps: float) -> int:
    return max(1, round(float(video_info(path).fps) / fps))


def _stack(frames: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(frames)).float() / 255


@torch.no_grad()
def encode_video(dvae: DVAE, video: Tensor) -> Tensor:
    """Return the patches of videos.

    Args:
        dvae: makes the codes.
        video: (B, T, 3, H, W) in [0, 1], on any device; the patches are on the same.
    """
    codes = dvae.encode(video.to(next(dvae.parameters()).device))
    return to_patches(codes).to(video.device)


def encode_pictures(dvae: DVAE, pictures: Tensor) -> Tensor:
    """Return the patches of pictures (B, 3, H, W) in [0, 1]: each is shown for one time step."""
    return encode_video(dvae, pictures[:, None].expand(-1, TIME, -1, -1, -1))


def encode_picture(model: VideoModel, picture: Tensor) -> Tensor:
    """Return the patches of a first picture, (1, n, digits), of (3, H, W) in [0, 1]."""
    return encode_pictures(model.dvae, _at_base(model, picture[None]))


def encode_end(model: VideoModel, video: Tensor, most: int) -> Tensor:
    """Return the codes of the last frames of a video.

    Args:
        model: the networks.
        video: (T, 3, H, W) in [0, 1]; the first frame is repeated before it if there are too few.
        most: time steps of codes.

    Returns:
        (1, n, h, w, digits) for 1 to ``most`` time steps.
    """
    steps = min(most, max(1, len(video) // TIME))
    end = _at_base(model, video[-steps * TIME :])
    missing = end[:1].expand(steps * TIME - len(end), -1, -1, -1)
    return model.dvae.encode(torch.cat([missing, end])[None])


def _at_base(model: VideoModel, video: Tensor) -> Tensor:
    """Return frames as the discrete VAE sees them, (T, 3, h, w) in [0, 1]."""
    frames = fit_frames(video, model.config.size).float() / 255
    return resize_video(frames, model.config.base).to(model.device)
