"""The networks that make video: where they come from, and whether they fit each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flowwarp.data.media import FRAME, SKETCH, TEXT, VIDEO
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import build
from flowwarp.io.shipped import SHIPPED, find_weights
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.models.gpt import PATCH
from flowwarp.legacy.models.reviser import Reviser, reviser_from_card
from flowwarp.legacy.models.upsampler import SCALE, Upsampler, UpsamplerConfig
from flowwarp.legacy.pipelines.captions import MediaCaptioner, load_captioner
from flowwarp.legacy.pipelines.sequences import MediaGPT, load_gpt
from flowwarp.legacy.pipelines.sketches import check_sketches, eye_print
from flowwarp.legacy.pipelines.tokens import fingerprint, load_dvae
from flowwarp.models.flownet import FlowNet
from flowwarp.pipelines.flow.estimate import load_flownet

NOTHING = "none"  # the name of no network, where None is for one that is found
_OWN_VAE = "give the VAE that it was trained with"

# How well videos, (T, 3, H, W) in [0, 1] each, fit a caption: (B,), the more, the better.
Judge = Callable[[Sequence[Tensor], str], Tensor]


@dataclass(frozen=True)
class VideoModels:
    """The networks that make video, all on one device.

    Args:
        gpt: writes codes, and words.
        dvae: whose codes they are.
        upsampler: doubles the size of frames; None to leave them as they are.
        flownet: the motion between them; None to draw each by itself.
        captioner: tells which of several videos is as prompted; without one the transformer does.
        sketcher: a captioner that sorts places into kinds, for a transformer that makes videos
            after its sketches; it tells which of several sketches is as prompted.
        reviser: makes of what is decoded what was asked for; None to leave it as it is.
        judge: from outside, such as a pretrained CLIP: tells in the captioner's place which of
            several videos is as prompted.
    """

    gpt: MediaGPT
    dvae: DVAE
    upsampler: Upsampler | None = None
    flownet: FlowNet | None = None
    captioner: MediaCaptioner | None = None
    sketcher: MediaCaptioner | None = None
    reviser: Reviser | None = None
    judge: Judge | None = None

    @property
    def uses_sketches(self) -> bool:
        """Whether videos are made after sketches."""
        return self.sketcher is not None and self.gpt.vocabulary.knows(SKETCH)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Codes that are written at a time: token frames, rows, columns."""
        grid = self.gpt.vocabulary[VIDEO].grid
        assert grid is not None
        return grid

    @property
    def window(self) -> int:
        """Frames that are written at a time."""
        return self.grid[0] * self.dvae.config.stride_time

    @property
    def overlap(self) -> int:
        """Token frames with which a window begins that goes on with another."""
        return max(1, self.grid[0] // 2)

    @property
    def goes_on(self) -> bool:
        """Whether a window can begin with the end of another."""
        return self.can_begin(self.overlap)

    def can_begin(self, count: int) -> bool:
        """Return whether a window can begin with so many token frames that are given."""
        times, rows, columns = self.grid
        tokens = count * rows * columns * self.gpt.vocabulary[VIDEO].digits
        # They must be whole patches, which frames of an odd number of codes are not.
        return count < times and tokens % PATCH == 0

    @property
    def small(self) -> int:
        """Side of the VAE's square frames, in pixels."""
        return self.grid[1] * self.dvae.config.stride

    @property
    def size(self) -> int:
        """Side of the frames that come out, in pixels."""
        return self.small * (1 if self.upsampler is None else SCALE)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.gpt.net.head.weight.device


def load_models(
    gpt: str | Path = SHIPPED,
    dvae: str | Path = SHIPPED,
    upsampler: str | Path | None = SHIPPED,
    flow: str | Path | None = SHIPPED,
    device: str | torch.device = "cpu",
    captioner: str | Path | None = None,
    sketcher: str | Path | None = None,
    reviser: str | Path | None = None,
) -> VideoModels:
    """Load the networks that make video.

    Args:
        gpt: weights of ``train-gpt``, or ``"base"`` for those in the package.
        dvae: of ``train-dvae``, likewise: those that the transformer was trained with.
        upsampler: of ``train-upsampler``, likewise; None for none.
        flow: of ``train-flow``, likewise; None for none.
        device: where they shall be.
        captioner: of ``train-captioner``, likewise; None for that in the package if the sketcher
            is, else for the sketcher.
        sketcher: of ``train-captioner --kinds``, likewise: that whose sketches the transformer
            learned; None for that in the package if it is, else none.
        reviser: of ``train-reviser``, likewise; ``"none"`` for none; None for that in the package
            if the transformer is, else none.

    Raises:
        InputError: a file is missing, broken, of another network, or does not fit the others; or
            the package comes without weights.
    """
    transformer = load_gpt(gpt, device)
    vae = load_dvae(dvae, device)
    if sketcher is None and (gpt == SHIPPED or _learned_shipped_sketches(transformer)):
        sketcher = SHIPPED
    if sketcher == SHIPPED:
        captioner = captioner or SHIPPED
    eye = None if sketcher is None else load_captioner(sketcher, device, "sketcher")
    if reviser is None:
        reviser = SHIPPED if gpt == SHIPPED else NOTHING
    models = VideoModels(
        transformer,
        vae,
        None if upsampler is None else load_upsampler(upsampler, device),
        None if flow is None else load_flownet(flow, device),
        captioner=eye if captioner is None else load_captioner(captioner, device),
        sketcher=eye,
        reviser=None if reviser == NOTHING else load_reviser(reviser, device),
    )
    check_codes(models, gpt)
    if models.reviser is not None:
        _check_reviser(models, models.reviser, reviser)
    if eye is not None and transformer.vocabulary.knows(SKETCH):
        check_sketches(transformer, eye, sketcher)
    for looking, source in ((models.sketcher, sketcher), (models.captioner, captioner)):
        if looking is not None:
            _check_captioner(models, looking, source)
    return models


def _learned_shipped_sketches(gpt: MediaGPT) -> bool:
    """Return whether a transformer learned sketches of the sketcher in the package."""
    if gpt.sketches is None:
        return False
    try:
        eye = load_captioner(SHIPPED, network="sketcher")
    except InputError:  # a package without one
        return False
    return gpt.sketches == eye_print(eye)


def check_codes(models: VideoModels, source: str | Path) -> None:
    """Check that a transformer writes the codes of the VAE.

    Raises:
        InputError: it does not; it names where the transformer is from.
    """
    gpt, codes = models.gpt, models.dvae.config.codes
    media = {medium.name: medium for medium in gpt.vocabulary.media}
    for name in (TEXT, VIDEO, FRAME):
        if name not in media:
            raise InputError(source, f"its vocabulary has no {name}")
    grid = media[VIDEO].grid
    if grid is None or grid[1] != grid[2] or media[FRAME].grid != (1, *grid[1:]):
        raise InputError(source, "its vocabulary is not of square videos and their first frames")
    if media[FRAME].codes != media[VIDEO].codes:
        raise InputError(source, "its vocabulary has other codes for first frames than for videos")
    if media[VIDEO].codes != codes:
        problem = f"writes {media[VIDEO].codes} codes, the VAE has {codes}"
        raise InputError(source, problem, _OWN_VAE)
    if gpt.codes is not None and gpt.codes != fingerprint(models.dvae):
        raise InputError(source, "learned the codes of another VAE", _OWN_VAE)


def _check_captioner(models: VideoModels, eye: MediaCaptioner, source: str | Path | None) -> None:
    size, apart = eye.net.config.size, eye.net.config.apart
    if size != models.small:
        problem = f"sees frames of {size} px, the networks make {models.small}"
        raise InputError(source or "captioner", problem)
    if apart >= models.window:
        problem = f"compares frames {apart} apart, the networks make {models.window}"
        raise InputError(source or "captioner", problem)


def _check_reviser(models: VideoModels, net: Reviser, source: str | Path) -> None:
    config, frames = net.config, models.dvae.config.stride_time
    if config.frames != frames:
        problem = f"revises {config.frames} frames at a time, the VAE decodes {frames}"
        raise InputError(source, problem)
    if models.small % config.stride:
        problem = f"takes frames of a multiple of {config.stride} px, the VAE has {models.small}"
        raise InputError(source, problem)


def load_reviser(weights: str | Path = SHIPPED, device: str | torch.device = "cpu") -> Reviser:
    """Make a reviser from weights.

    Args:
        weights: a ``.safetensors`` file with its card, such as ``train-reviser`` writes, or
            ``"base"`` for those in the package.
        device: where it shall be.

    Raises:
        InputError: the file is missing, broken, or of another network.
    """
    net, _ = build(find_weights(weights, "reviser"), "reviser", reviser_from_card)
    return net.to(device).eval()


def load_upsampler(weights: str | Path = SHIPPED, device: str | torch.device = "cpu") -> Upsampler:
    """Make an upsampler from weights.

    Args:
        weights: a ``.safetensors`` file with its card, such as ``train-upsampler`` writes, or
            ``"base"`` for those in the package.
        device: where it shall be.

    Raises:
        InputError: the file is missing, broken, or of another network.
    """
    net, _ = build(
        find_weights(weights, "upsampler"),
        "upsampler",
        lambda settings: Upsampler(UpsamplerConfig(**settings)),
    )
    return net.to(device).eval()
