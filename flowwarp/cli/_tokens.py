"""What commands have in common that train on clips as codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from flowwarp.cli._splits import keep_splits, tell_every

if TYPE_CHECKING:
    import torch

    from flowwarp.data.world import Clip
    from flowwarp.models.dvae import DVAE
    from flowwarp.pipelines.captions import Words
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
    captioner: Words | None = None,
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
        captioner: makes sketches of clips; without it there are none.
    """
    from flowwarp.pipelines.clip_motion import estimate_motion
    from flowwarp.pipelines.flow_estimation import load_flownet
    from flowwarp.pipelines.sketches import eye_print
    from flowwarp.train.gpt import GPTMaterial
    from flowwarp.train.tokenized import grid_media, tokenize_clips

    media = grid_media(vae, wanted.size, wanted.frames, captioner)
    motion = partial(estimate_motion, load_flownet(flow, device)) if flow else None

    def prepare(draw: Callable[[int], Clip], key: str, count: int) -> TokenStore:
        tell = tell_every("turning clips into tokens")
        return tokenize_clips(
            draw, vae, media, key, count, captioner=captioner, half=half, progress=tell
        )

    training, checks = keep_splits(
        data,
        wanted.size,
        wanted.frames,
        seed,
        (wanted.clips, wanted.checked),
        prepare,
        layers=layers,
        photos=photos,
        flow=flow,
        motion=motion,
    )
    return GPTMaterial(training, checks, media, None if captioner is None else eye_print(captioner))
