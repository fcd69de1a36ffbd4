"""What commands have in common that train on clips as codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from flowwarp.cli._splits import keep_splits, tell_every

if TYPE_CHECKING:
    from flowwarp.data.sources import Motion
    from flowwarp.data.world import Clip
    from flowwarp.models.dvae import DVAE
    from flowwarp.pipelines.captions import MediaCaptioner
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
    motion: Motion | None,
    half: bool,
    captioner: MediaCaptioner | None = None,
) -> GPTMaterial:
    """Turn clips into codes, once; the same clips are the same for all commands.

    Args:
        data: sprites, digits, or a folder of captioned videos.
        vae: makes the codes.
        wanted: how many clips.
        seed: the series of those to train on.
        layers: of sprites.
        photos: that sprites stand before.
        flow: names what ``motion`` hangs on.
        motion: finds the motion of a folder's videos.
        half: whether bf16 is good enough.
        captioner: makes sketches of clips; without it there are none.
    """
    from flowwarp.pipelines.sketches import eye_print
    from flowwarp.train.gpt import GPTMaterial
    from flowwarp.train.tokenized import grid_media, tokenize_clips

    media = grid_media(vae, wanted.size, wanted.frames, captioner)

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
