"""Overfits a few clips in two minutes, to see a wrong format or caption before the long training.

Small networks see nothing but these clips, so that what they make must look like them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from flowwarp.data.clip import Clip, Source
from flowwarp.data.crops import middle_crop
from flowwarp.data.media import PICTURE, TEXT, VIDEO
from flowwarp.data.tokens import from_patches
from flowwarp.metrics.video import psnr
from flowwarp.models.dvae import DVAE, DVAEConfig
from flowwarp.models.gpt import GPT, GPTConfig, Segment
from flowwarp.models.sampling import SamplingConfig, sample
from flowwarp.pipelines.video.encode import encode_pictures, encode_video
from flowwarp.pipelines.video.load import VideoConfig, video_media
from flowwarp.pipelines.video.nearest import find_nearest
from flowwarp.precision import fast_dtype
from flowwarp.train.dvae import DVAEDataConfig, DVAELossConfig, dvae_task
from flowwarp.train.gpt import SEEN, Examples, GPTDataConfig, GPTLossConfig, gpt_task
from flowwarp.train.html_page import figure, heading, row, text, write_page
from flowwarp.train.memory import freed_memory_kept
from flowwarp.train.task import Batch, LoopConfig, Task
from flowwarp.train.video_run import VideoData

CHECK = "check.html"
SECONDS = 105.0  # of training; the rest of two minutes goes into reading and drawing
_CLIPS = 8
_FRAMES = 8  # of each; half as many take the transformer half the time
_LOOKED_AT = 64  # clips among which those with different captions are chosen
_DVAE_SHARE = 0.2  # of the time
_WARMUP = 20  # steps
# Many steps matter more than size: after 20 s of one core, 28 dB instead of 20 dB with half again
# the width.
_DVAE = DVAEConfig((8, 8, 8), encoder=96, encoder_blocks=1, widths=(64, 32, 16), blocks=(1, 0, 0))
_DVAE_BATCH, _DVAE_FRAMES, _GPT_BATCH = 8, 4, 2
_GPT = GPTConfig(width=128, depth=3, heads=2, digit_width=64)


@dataclass(frozen=True)
class Checked:
    """What came of some clips.

    Args:
        page: where they can be seen.
        steps: of the discrete VAE and of the transformer.
        psnr: of what the discrete VAE makes of them, in dB.
        right: how many samples are most like the clip whose caption they show.
        clips: number of clips.
    """

    page: Path
    steps: tuple[int, int]
    psnr: float
    right: int
    clips: int


def check_clips(
    data: VideoData,
    folder: Path,
    survey: str,
    device: torch.device,
    seconds: float = SECONDS,
    say: Callable[[str], None] = lambda _: None,
) -> Checked:
    """Overfit eight clips, and write check.html to a folder: what is made beside what should be.

    Args:
        data: the clips.
        folder: where the page is written.
        survey: the table of what the clips are.
        device: where to train.
        seconds: of training.
        say: called with lines of progress.

    Raises:
        OutputError: the page cannot be written.
    """
    data = replace(data, frames=min(_FRAMES, data.frames))
    clips = _choose_clips(data.source)
    source = Source(lambda _, index: clips[index % len(clips)], len(clips))
    originals = torch.stack([middle_crop(clip.video[: data.frames], data.base) for clip in clips])
    say(f"overfitting {len(clips)} clips: discrete VAE, {_DVAE_SHARE * seconds:.0f} s")
    dvae, first = _overfit_dvae(data, source, device, _DVAE_SHARE * seconds)
    say(f"overfitting {len(clips)} clips: transformer, {(1 - _DVAE_SHARE) * seconds:.0f} s")
    patches = encode_video(dvae, originals)
    examples = {
        TEXT: torch.tensor([data.words.encode(clip.caption) for clip in clips])[..., None],
        VIDEO: patches,
        SEEN: patches,
        PICTURE: encode_pictures(dvae, originals[:, 0]),
        "dropped": torch.zeros(len(clips), dtype=torch.bool),
    }
    net, second = _overfit_gpt(data, source, dvae, examples, device, (1 - _DVAE_SHARE) * seconds)
    decoded = _decode(dvae, examples[VIDEO], net)
    given: list[Segment] = [(name, examples[name].to(device)) for name in _order(data)[:-1]]
    likely, generator = SamplingConfig(temperature=0.3, guidance=1), torch.Generator()
    samples = _decode(dvae, sample(net, given, VIDEO, likely, generator.manual_seed(0)), net)
    shown = [
        replace(clip, video=(original * 255).byte())
        for clip, original in zip(clips, originals, strict=True)
    ]
    nearest = [found.clip for found in find_nearest(list(samples), shown)]
    checked = Checked(
        folder / CHECK,
        (first, second),
        float(psnr(decoded, originals).clamp(max=100).mean()),
        sum(found is clip for found, clip in zip(nearest, shown, strict=True)),
        len(clips),
    )
    rows = [
        row(
            figure(video, data.fps, caption)
            for video, caption in (
                (originals[number], f"clip: {clip.caption}".rstrip(": ")),
                (decoded[number], "by the discrete VAE"),
                (samples[number], f"sample of: {clip.caption or 'its first picture'}"),
            )
        )
        for number, clip in enumerate(clips)
    ]
    _write(checked, rows, survey)
    return checked


def _write(checked: Checked, rows: list[str], survey: str) -> None:
    first, second = checked.steps
    explanation = (
        f"Small networks saw only these {checked.clips} clips, for {first} and {second} steps. The "
        "columns: the beginning of the clip as it is trained on; what the discrete VAE makes of it "
        f"(blurred is fine, {checked.psnr:.1f} dB); what the transformer writes for its caption. "
        f"{checked.right} of {checked.clips} samples are most like the clip that they should be; "
        "it is fewer on a slow machine. Look whether sizes, colours and speed are right, and "
        "whether each caption says what its clip shows."
    )
    parts = [heading("Clips", explanation), *rows]
    parts += [heading("Survey"), f"<pre>{text(survey)}</pre>"]
    write_page(checked.page, "Check of some clips", parts)


def _choose_clips(source: Source) -> list[Clip]:
    """Return eight clips, of different captions if there are as many."""
    looked_at = [source(0, index) for index in range(min(_LOOKED_AT, source.count or _LOOKED_AT))]
    first = {clip.caption: clip for clip in reversed(looked_at)}
    different = [clip for clip in looked_at if first[clip.caption] is clip]
    others = [clip for clip in looked_at if first[clip.caption] is not clip]
    return (different + others)[:_CLIPS]


def _order(data: VideoData) -> list[str]:
    return [TEXT, VIDEO] if data.words.words else [TEXT, PICTURE, VIDEO]


def _overfit_dvae(
    data: VideoData, source: Source, device: torch.device, seconds: float
) -> tuple[DVAE, int]:
    configs = {
        "loop": LoopConfig(steps=1),
        "model": _DVAE,
        "data": DVAEDataConfig(size=data.base, frames=_DVAE_FRAMES, validation=1),
        "losses": DVAELossConfig(),
    }
    task = dvae_task(source, source, data.words, configs)

    def batch(step: int) -> Batch:
        return task.batch(range(step * _DVAE_BATCH, (step + 1) * _DVAE_BATCH))

    net, steps = overfit(task, batch, 2e-3, device, seconds)
    assert isinstance(net, DVAE)
    return net, steps


def _overfit_gpt(
    data: VideoData,
    source: Source,
    dvae: DVAE,
    examples: Batch,
    device: torch.device,
    seconds: float,
) -> tuple[GPT, int]:
    configs = {
        "loop": LoopConfig(steps=1),
        "model": _GPT,
        "losses": GPTLossConfig(),
    }
    sizes = data.words.words, data.words.length, dvae.config, _GPT
    media = video_media(VideoConfig(data.base, data.size, data.frames, data.fps, *sizes))
    shown = GPTDataConfig(data.base, data.frames, (f"{' '.join(_order(data))} 1",))
    few = Examples(source, dvae, data.words, 0, shown)
    task = gpt_task(few, examples, media, configs)

    def batch(step: int) -> Batch:
        chosen = torch.arange(step * _GPT_BATCH, (step + 1) * _GPT_BATCH) % len(examples[TEXT])
        return {name: part[chosen.to(part.device)] for name, part in examples.items()}

    net, steps = overfit(task, batch, 2e-3, device, seconds)
    assert isinstance(net, GPT)
    return net, steps


@torch.no_grad()
def _decode(dvae: DVAE, patches: Tensor, net: GPT) -> Tensor:
    """Return the videos of patches, (B, T, 3, H, W) in [0, 1]."""
    video = dvae.decode(from_patches(patches, net.medium(VIDEO).grid))
    return video.float().clamp(0, 1).cpu()


def overfit(
    task: Task,
    batch: Callable[[int], Batch],
    rate: float,
    device: torch.device,
    seconds: float,
) -> tuple[nn.Module, int]:
    """Train the network of a task for a time, with a learning rate that falls to 0 by its end.

    Args:
        task: the network and its loss.
        batch: the examples of a step.
        rate: greatest learning rate.
        device: where to train.
        seconds: how long.

    Returns:
        The network, and the number of steps.
    """
    net = task.model.to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0)
    start, step = time.monotonic(), 0
    with freed_memory_kept():
        while (done := (time.monotonic() - start) / seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / _WARMUP) * (1 - done)
            examples = {name: part.to(device) for name, part in batch(step).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=_uses_bf16(device)):
                loss = task.loss(net, examples, step)["loss"].mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            step += 1
    return net.eval().requires_grad_(False), step


def _uses_bf16(device: torch.device) -> bool:
    return fast_dtype(device) == torch.bfloat16
