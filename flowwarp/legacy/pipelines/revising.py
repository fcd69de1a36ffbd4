"""What was decoded, made to show what a prompt states, where there is a network for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from flowwarp.legacy.pipelines.captions import thing_of
from flowwarp.legacy.pipelines.hearing import hear
from flowwarp.legacy.pipelines.load import VideoModels


def what_to_revise(models: VideoModels, caption: str | None) -> Tensor | None:
    """Return what the reviser is told of a caption, (1, attributes).

    Returns:
        None if nothing is to be revised: there is no network for it, or the caption states nothing
        that it knows of. Of two actors it is not known which of them is meant.
    """
    stated = None if caption is None else hear(models.gpt, caption).stated
    if models.reviser is None or stated is None:
        return None
    things = {name: stated.get(thing_of(name), "") for name, _ in models.reviser.config.attributes}
    told = models.reviser.tell([things])
    return told if bool(told.any()) else None


def revise(models: VideoModels, frames: Iterable[Tensor], told: Tensor | None) -> Iterator[Tensor]:
    """Yield frames (3, H, W) in [0, 1] as they are told to be, group by group.

    Args:
        models: from :func:`flowwarp.legacy.pipelines.load.load_models`.
        frames: as they are decoded, in whole groups.
        told: from :func:`what_to_revise`; None to leave them as they are.
    """
    if models.reviser is None or told is None:
        yield from frames
        return
    groups = _groups(frames, models.reviser.config.frames, models.device)
    for group in models.reviser.revise(groups, told):
        yield from group[0].cpu()


def revise_videos(models: VideoModels, videos: Tensor, captions: Sequence[str]) -> Tensor:
    """Return whole videos (B, T, 3, H, W) in [0, 1] as their captions say, on the CPU."""
    if models.reviser is None:
        return videos
    known = {caption: what_to_revise(models, caption) for caption in set(captions)}
    told = [known[caption] for caption in captions]
    rows = [row for row, one in enumerate(told) if one is not None]
    if not rows:
        return videos
    groups = torch.split(videos[rows].to(models.device), models.reviser.config.frames, 1)
    revised = models.reviser.revise(groups, torch.cat([one for one in told if one is not None]))
    result = videos.clone()
    result[rows] = torch.cat(list(revised), 1).cpu()
    return result


def _groups(frames: Iterable[Tensor], size: int, device: torch.device) -> Iterator[Tensor]:
    group: list[Tensor] = []
    for frame in frames:
        group.append(frame)
        if len(group) == size:
            yield torch.stack(group)[None].to(device)
            group = []
