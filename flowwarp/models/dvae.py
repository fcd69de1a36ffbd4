"""The discrete VAE: video to a grid of codes, and back.

16 frames of 64 x 64 pixels become 4 x 16 x 16 codes: a code stands for a block of 4 frames of 4 x 4
pixels, and has one digit per channel of the quantiser.

*The encoder sees the pixels of its own block alone.* An object then has the same codes whatever is
beside it and behind it, so a transformer that learned to write it in one scene can write it in
others. With a wider view, nine codes in ten within a figure changed with the background.

*The decoder sees the codes around as well*, so that blocks join without seams. It may also see the
words of the caption: an edge that the codes left open is then drawn as the words say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.models.quantizers import FSQ, MOST_LEVELS
from flowwarp.tensors import check_frames, check_whole, check_wholes

TIME, SIDE = 4, 4  # frames, height and width of a block


@dataclass(frozen=True)
class DVAEConfig:
    """Sizes of the network.

    Args:
        levels: number of values of each digit of a code, 2 to 1000.
        encoder: width of the encoder.
        encoder_blocks: residual blocks of the encoder.
        widths: channels of the decoder at the resolution of the codes, at twice and at four times
            that.
        blocks: residual blocks at each of these.
        vocabulary: number of words that the decoder may see, of which 0 is padding; 0 for none.
    """

    levels: tuple[int, ...] = (8, 8, 8, 8)
    encoder: int = 192
    encoder_blocks: int = 3
    widths: tuple[int, int, int] = (160, 64, 32)
    blocks: tuple[int, int, int] = (3, 1, 1)
    vocabulary: int = 0

    def __post_init__(self) -> None:
        check_wholes(self.levels, "levels", 2, MOST_LEVELS)
        check_whole(self.encoder, "encoder", 1)
        check_whole(self.encoder_blocks, "encoder_blocks", 0)
        check_whole(self.vocabulary, "vocabulary", 0)
        check_wholes(self.widths, "widths", 1)
        check_wholes(self.blocks, "blocks", 0)
        for name in ("widths", "blocks"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} must have 3 entries, got {getattr(self, name)}")


class BlockwiseLayer(nn.Module):
    """x + linear(silu(linear(x))) over the last axis: each block of pixels by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width) for (..., width)."""
        change: Tensor = self.second(F.silu(self.first(x)))
        return x + change


class ConvBlock(nn.Module):
    """A residual block of two 3 x 3 convolutions, (N, C, H, W); it begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for (N, C, H, W)."""
        change: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + change


class DVAE(nn.Module):
    """Encoder, quantiser and decoder.

    >>> net = DVAE()
    >>> codes = net.encode(torch.rand(1, 16, 3, 64, 64))
    >>> codes.shape, net.decode(codes).shape
    (torch.Size([1, 4, 16, 16, 4]), torch.Size([1, 16, 3, 64, 64]))
    """

    def __init__(self, config: DVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DVAEConfig()
        self.quantizer = FSQ(config.levels)
        self.encoder = nn.Sequential(
            nn.Linear(3 * TIME * SIDE**2, config.encoder),
            *(BlockwiseLayer(config.encoder) for _ in range(config.encoder_blocks)),
            nn.Linear(config.encoder, len(config.levels)),
        )
        low, middle, high = config.widths
        at_low, at_middle, at_high = (
            [ConvBlock(width) for _ in range(count)]
            for width, count in zip(config.widths, config.blocks, strict=True)
        )
        self.enter = nn.Conv2d(len(config.levels), low, 3, padding=1)
        self.words = nn.Embedding(config.vocabulary, low) if config.vocabulary else None
        # The frames of a block are decoded together, at the resolution of the codes …
        self.decode_codes = nn.Sequential(
            *at_low,
            nn.SiLU(),
            nn.Conv2d(low, TIME * middle, 1),
        )
        # … and then each by itself, up to that of the pixels.
        self.decode_frames = nn.Sequential(
            *at_middle,
            nn.Conv2d(middle, 4 * high, 1),
            nn.PixelShuffle(2),
            *at_high,
            nn.SiLU(),
            nn.Conv2d(high, 4 * 3, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, video: Tensor) -> Tensor:
        """Return the codes of video.

        Args:
            video: (B, T, 3, H, W) in [0, 1], T a multiple of ``TIME``, H and W of ``SIDE``.

        Returns:
            (B, T / TIME, H / SIDE, W / SIDE, digits) of int64.

        Raises:
            ValueError: the shape is not such.
        """
        return self.quantizer.digits(self._latents(video))

    def decode(self, codes: Tensor, words: Tensor | None = None) -> Tensor:
        """Return the video of codes.

        Args:
            codes: (B, t, h, w, digits) of int64.
            words: (B, n) of int64, of the captions; 0 is padding. None for no words.

        Returns:
            (B, T, 3, H, W), not clamped.
        """
        return self._decode(self.quantizer.values(codes), words)

    def forward(self, video: Tensor, words: Tensor | None = None) -> Tensor:
        """Return the reconstruction of video (B, T, 3, H, W) in [0, 1]; differentiable."""
        return self._decode(self.quantizer(self._latents(video)), words)

    def _latents(self, video: Tensor) -> Tensor:
        """Return what is quantised, (B, t, h, w, channels)."""
        return self.encoder(cut_blocks(video) * 2 - 1)  # type: ignore[no-any-return]

    def _decode(self, values: Tensor, words: Tensor | None) -> Tensor:
        batch, t, h, w, _ = values.shape
        x = values.flatten(0, 1).permute(0, 3, 1, 2)  # (B t, channels, h, w)
        x = self.enter(x.contiguous(memory_format=torch.channels_last))
        if self.words is not None and words is not None:
            known = (words > 0)[..., None]
            mean = (self.words(words) * known).sum(1) / known.sum(1).clamp_min(1)  # (B, low)
            x = x + mean.to(x.dtype).repeat_interleave(t, 0)[..., None, None]
        x = self.decode_codes(x)
        frames: Tensor = self.decode_frames(x.reshape(batch * t * TIME, -1, h, w))  # (B T, 3, H, W)
        return (frames.reshape(batch, t * TIME, 3, *frames.shape[-2:]) + 1) / 2


def cut_blocks(video: Tensor) -> Tensor:
    """Cut video (B, T, 3, H, W) into blocks, (B, T / TIME, H / SIDE, W / SIDE, values).

    Raises:
        ValueError: the shape is another, or has no whole number of blocks.
    """
    check_frames(video, SIDE)
    batch, frames, channels, height, width = video.shape
    if frames % TIME:
        raise ValueError(f"video must have a multiple of {TIME} frames, got {frames}")
    t, h, w = frames // TIME, height // SIDE, width // SIDE
    x = video.reshape(batch, t, TIME, channels, h, SIDE, w, SIDE)
    return x.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(batch, t, h, w, -1)
