"""Generates video from a prompt: words to codes, codes to frames, frames to their full size.

The transformer writes a window of codes at a time, as many as the training clips have. A longer
video goes on window by window, and its frames are yielded as they come, so that the memory needed
does not grow with its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

import torch
from torch import Tensor

from flowwarp.data.media import PICTURE, TEXT, VIDEO
from flowwarp.data.tokens import from_patches, to_patches
from flowwarp.models.dvae import TIME
from flowwarp.models.flownet import FlowNet
from flowwarp.models.gpt import Segment
from flowwarp.models.sampling import SamplingConfig, log_likelihood, sample
from flowwarp.models.upsampler import enlarge
from flowwarp.pipelines.flow.estimate import load_flownet
from flowwarp.pipelines.video.encode import encode_end, encode_picture, encode_prompts
from flowwarp.pipelines.video.load import VideoModel
from flowwarp.pipelines.video.motion import clip_flow, resize_motion
from flowwarp.pipelines.video.upsample import Frame, upsample_frames
from flowwarp.precision import fast_autocast
from flowwarp.tensors import check_whole


@dataclass(frozen=True)
class Request:
    """What to generate.

    Args:
        prompt: in words.
        frames: number of frames; None for as many as the training clips have.
        image: (3, H, W) in [0, 1], a picture of any size: the video begins with it.
        before: (T, 3, H, W) in [0, 1], a clip of any size: the video goes on where it ends.
        candidates: how many videos to write, of which the one is kept that the transformer
            describes most likely by the prompt; of a long video, how many beginnings.
        sampling: how codes are drawn.
        steps: of the upsampler for each frame.
        upsample: False enlarges frames bicubically, also where the model has an upsampler.
        temporal: False upsamples each frame by itself.
    """

    prompt: str
    frames: int | None = None
    image: Tensor | None = None
    before: Tensor | None = None
    candidates: int = 1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    steps: int = 4
    upsample: bool = True
    temporal: bool = True

    def __post_init__(self) -> None:
        if self.frames is not None:
            check_whole(self.frames, "frames", 1)
        check_whole(self.candidates, "candidates", 1)
        check_whole(self.steps, "steps", 1)


def generate(model: VideoModel, request: Request, seed: int = 0) -> Tensor:
    """Return the frames of :func:`generate_frames` as one video, (T, 3, H, W) in [0, 1]."""
    return torch.stack(list(generate_frames(model, request, seed)))


@torch.no_grad()
def generate_frames(model: VideoModel, request: Request, seed: int = 0) -> Iterator[Tensor]:
    """Generate a video frame by frame.

    Args:
        model: the networks.
        request: what to generate.
        seed: the same seed gives the same video.

    Yields:
        (3, H, W) float32 in [0, 1], of the size ``VideoConfig.size``, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    # Of the upsampler; one of its own, as it draws between the windows.
    noise = torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator)))
    parts = write_codes(model, request, generator)
    decodes = (decode(model, codes, request.prompt) for codes in parts)
    for frame in islice(enlarge_frames(model, decodes, request, noise), _count(model, request)):
        yield frame[0].cpu()


def _count(model: VideoModel, request: Request) -> int:
    return model.config.frames if request.frames is None else request.frames


@torch.no_grad()
def decode(model: VideoModel, codes: Tensor, caption: str) -> Tensor:
    """Return the video of codes (1, t, h, w, digits), (T, 3, h, w) float32 in [0, 1]."""
    words = encode_prompts(model, [caption])[..., 0]
    with fast_autocast(model.device):
        video = model.dvae.decode(codes, words)[0]
    return video.float().clamp(0, 1)


# ------------------------------------------------------------------ words to codes


@torch.no_grad()
def write_codes(
    model: VideoModel, request: Request, generator: torch.Generator
) -> Iterator[Tensor]:
    """Write the codes of a video window by window.

    Codes stand for blocks of 4 frames, so they can be moved along in time: each window begins with
    the later half of the one before. If there is no half, it begins with the last frame.

    Yields:
        The new codes of a window, (1, t, h, w, digits); together, of at least all frames.
    """
    words = encode_prompts(model, [request.prompt] * request.candidates)
    kept = model.grid[0] // 2  # time steps that a window has of the one before
    before, picture = None, None
    if request.before is not None and kept:
        before = encode_end(model, request.before, kept)
    elif request.before is not None:
        picture = encode_picture(model, request.before[-1])
    elif request.image is not None:
        picture = encode_picture(model, request.image)
    written = 0
    while written < _count(model, request):
        with fast_autocast(model.device):
            patches = _write_window(model, words, picture, before, request.sampling, generator)
            best = rank(model, patches, words)[0] if len(words) > 1 else 0
            codes = from_patches(patches[best : best + 1], model.grid)
        words, picture = words[:1], None
        new = codes if before is None else codes[:, before.shape[1] :]
        yield new
        written += new.shape[1] * TIME
        before = codes[:, -kept:] if kept else None
        if not kept:
            picture = encode_picture(model, decode(model, codes, request.prompt)[-1])


def _write_window(
    model: VideoModel,
    words: Tensor,
    picture: Tensor | None,
    before: Tensor | None,
    sampling: SamplingConfig,
    generator: torch.Generator,
) -> Tensor:
    """Return the patches of windows, (B, n, digits), that show words (B, n, 1)."""
    given: list[Segment] = [(TEXT, words)]
    if picture is not None:
        given.append((PICTURE, picture.expand(len(words), -1, -1)))
    begin = None if before is None else to_patches(before).expand(len(words), -1, -1)
    return sample(model.gpt, given, VIDEO, sampling, generator, begin)


@torch.no_grad()
def rank(model: VideoModel, patches: Tensor, words: Tensor) -> list[int]:
    """Return the order of videos by how likely the transformer describes them by the words.

    Args:
        model: the networks.
        patches: (B, n, digits), of videos.
        words: (B, n, 1).
    """
    segments: list[Segment] = [(VIDEO, patches), (TEXT, words)]
    order: list[int] = log_likelihood(model.gpt, segments).argsort(descending=True).tolist()
    return order


# ------------------------------------------------------------------ frames to their full size


@torch.no_grad()
def enlarge_frames(
    model: VideoModel, decodes: Iterator[Tensor], request: Request, generator: torch.Generator
) -> Iterator[Tensor]:
    """Bring decoded video to its full size, by the upsampler if the model has one.

    Args:
        model: the networks.
        decodes: parts of a video, (T, 3, h, w) in [0, 1] each.
        request: what to generate.
        generator: of the upsampler's noise.

    Yields:
        (1, 3, H, W) float32 in [0, 1].
    """
    size = model.config.size
    if model.upsampler is None or not request.upsample:
        for part in decodes:
            yield from torch.split(enlarge(part, size).clamp(0, 1), 1)
        return
    words = encode_prompts(model, [request.prompt])[..., 0] if model.upsampler.words else None
    yield from upsample_frames(
        model.upsampler,
        _with_motion(decodes, size) if request.temporal else _without_motion(decodes),
        size,
        generator,
        steps=request.steps,
        words=words,
    )


def _without_motion(decodes: Iterator[Tensor]) -> Iterator[Frame]:
    for part in decodes:
        for frame in torch.split(part, 1):
            yield frame, None, None


def _with_motion(decodes: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Frame]:
    """Yield frames with their flow to the one before, estimated between the decodes."""
    end: Tensor | None = None  # the last frames of the part before: flow is estimated over a group
    for part in decodes:
        joined = part if end is None else torch.cat([end, part])
        flow, visible = clip_flow(_flownet(part.device), joined, TIME)
        flow, visible = resize_motion(flow, visible, size)
        for index in range(len(joined) - len(part), len(joined)):
            frame, pair = joined[index : index + 1], slice(index - 1, index)
            yield (frame, flow[pair], visible[pair]) if index else (frame, None, None)
        end = joined[-TIME:]


@lru_cache(maxsize=1)
def _flownet(device: torch.device) -> FlowNet:
    return load_flownet("small", device)
