"""What commands have in common that train on clips as codes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import click

from flowwarp.cli._training import tell_clips

if TYPE_CHECKING:
    import torch

    from flowwarp.data.sources import Source
    from flowwarp.models.dvae import DVAE
    from flowwarp.train.gpt import GPTMaterial
    from flowwarp.train.tokenized import TokenStore


class Wanted(Protocol):
    """How many clips there shall be, and of what shape."""

    @property
    def clips(self) -> int: ...
    @property
    def checked(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def frames(self) -> int: ...


def prepare_material(
    data: str,
    vae: DVAE,
    wanted: Wanted,
    seed: int,
    *,
    layers: str | None,
    photos: str | None,
    flow: str | None,
    half: bool,
    device: torch.device,
) -> GPTMaterial:
    """Turn clips into codes, once; the same clips are the same for all commands.

    Args:
        data: sprites, digits, or a folder of captioned videos.
        vae: makes the codes.
        wanted: how many clips.
        seed: the series of those to train on.
        layers: of sprites.
        photos: that sprites stand before.
        flow: weights that find the motion of a folder's videos.
        half: whether bf16 is good enough.
        device: where flow is found.
    """
    from flowwarp.data.sources import SPRITES, open_source, open_split
    from flowwarp.pipelines.clip_motion import estimate_motion
    from flowwarp.pipelines.flow_estimation import load_flownet
    from flowwarp.train.gpt import GPTMaterial
    from flowwarp.train.tokenized import grid_media, tokenize_clips

    media = grid_media(vae, wanted.size, wanted.frames)
    motion = partial(estimate_motion, load_flownet(flow, device)) if flow else None

    def prepare(name: str, source: Source, series: int, count: int) -> TokenStore:
        key = repr((name, data, layers, photos, flow, series, *source.state))
        count = min(count, source.count or count)
        return tokenize_clips(
            lambda number: source(series, number),
            vae,
            media,
            key,
            count,
            half=half,
            progress=_tell_tokens,
        )

    size, frames = wanted.size, wanted.frames
    source, other = open_split(
        data, size, frames, layers=layers, photos=photos, motion=motion, progress=tell_clips
    )
    training = prepare("training", source, seed, wanted.clips)
    checks = {"val": prepare("val", other, seed + 1, wanted.checked)}
    if data == SPRITES:
        aside = open_source(data, size, frames, layers=layers, photos=photos, held_out=True)
        checks["held_out"] = prepare("held_out", aside, seed + 1, wanted.checked)
    return GPTMaterial(training, checks, media)


def _tell_tokens(done: int, total: int) -> None:
    if done == total or done % 512 == 0:
        click.echo(f"turning clips into tokens, once: {done} of {total}", err=True)
