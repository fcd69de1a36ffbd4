"""A text-to-video model: its networks, and the words and sizes that they learned, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.data.media import PICTURE, TEXT, VIDEO
from flowwarp.data.tokens import MOST_WORDS, PATCH, Words
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, build, save_weights
from flowwarp.models.dvae import DVAE, SIDE, TIME, DVAEConfig
from flowwarp.models.gpt import GPT, GPTConfig, MediumConfig
from flowwarp.models.upsampler import Upsampler, UpsamplerConfig
from flowwarp.tensors import check_number, check_whole, check_wholes

MODEL = "model.safetensors"  # of a run's folder
_NAME = "text-to-video"  # on the card
# A broken card must not ask for all memory.
_MOST_PIXELS, _MOST_FRAMES = 4096, 4096  # along a side; of a window


@dataclass(frozen=True)
class VideoConfig:
    """What a model learned to make.

    Args:
        base: (height, width) of the frames that the discrete VAE sees, multiples of 8.
        size: (height, width) of the frames that come out.
        frames: number of frames that are written at a time, a multiple of 4.
        fps: frames per second.
        words: of the training captions.
        text_length: words of a caption that are read.
        dvae: sizes of the discrete VAE.
        gpt: sizes of the transformer.
        upsampler: sizes of the upsampler; None for a model without, whose frames are enlarged
            from ``base`` to ``size``.
    """

    base: tuple[int, int]
    size: tuple[int, int]
    frames: int
    fps: float
    words: tuple[str, ...]
    text_length: int
    dvae: DVAEConfig
    gpt: GPTConfig
    upsampler: UpsamplerConfig | None = None

    def __post_init__(self) -> None:
        for name, step in (("base", SIDE * PATCH), ("size", 1)):
            sides = getattr(self, name)
            check_wholes(sides, name, 1, _MOST_PIXELS)
            if len(sides) != 2 or any(side % step for side in sides):
                raise ValueError(f"{name} must be two multiples of {step}, got {sides}")
        check_whole(self.frames, "frames", TIME, _MOST_FRAMES)
        if self.frames % TIME:
            raise ValueError(f"frames must be a multiple of {TIME}, got {self.frames}")
        check_number(self.fps, "fps", 1e-3, 1e4)
        check_whole(self.text_length, "text_length", 1, MOST_WORDS)
        if not isinstance(self.words, tuple) or not all(isinstance(w, str) for w in self.words):
            raise ValueError("words must be texts")


def video_media(config: VideoConfig) -> tuple[MediumConfig, ...]:
    """Return the media that the transformer reads and writes: text, video, first picture."""
    y, x = (side // (SIDE * PATCH) for side in config.base)
    digits = config.dvae.levels * PATCH**2
    return (
        MediumConfig(TEXT, (config.text_length, 1, 1), (max(2, len(config.words) + 1),)),
        MediumConfig(VIDEO, (config.frames // TIME, y, x), digits),
        MediumConfig(PICTURE, (1, y, x), digits),
    )


class VideoModel(nn.Module):
    """The networks of a text-to-video model.

    Args:
        config: what it makes, and the sizes of its networks.
        notes: of its file: licence, and figures that are typical of the training clips.
    """

    def __init__(self, config: VideoConfig, notes: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.notes = dict(notes or {})
        self.words = Words(config.words, config.text_length)
        self.dvae = DVAE(config.dvae)
        self.gpt = GPT(config.gpt, video_media(config))
        self.upsampler = None if config.upsampler is None else Upsampler(config.upsampler)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.gpt.pool.weight.device

    def generate(self, prompt: str, *, seed: int = 0, frames: int | None = None) -> Tensor:
        """Return a video of a prompt, (T, 3, H, W) in [0, 1].

        Args:
            prompt: in words of the training captions.
            seed: the same seed gives the same video.
            frames: None for as many as the training clips have.
        """
        # Here, as that module imports this one.
        from flowwarp.pipelines.video.generate import Request, generate

        return generate(self, Request(prompt, frames), seed)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Number of patches of a video along t, y and x."""
        return self.gpt.medium(VIDEO).grid


def save_video_model(path: str | Path, model: VideoModel, notes: Mapping[str, str]) -> None:
    """Write a model in bfloat16, with its configuration and notes.

    Raises:
        OutputError: the file cannot be written.
    """
    card = Card(_NAME, asdict(model.config), notes=notes)
    save_weights(path, model, card, dtype=torch.bfloat16)


def load_video_model(path: str | Path, device: str | torch.device = "cpu") -> VideoModel:
    """Load a model, in evaluation mode.

    Args:
        path: the folder of a run of ``train-video``, or a file that it exported.
        device: of the networks.

    Raises:
        InputError: no such file, broken, of another kind, or the run has no model yet.

    >>> model = load_video_model("runs/video")  # doctest: +SKIP
    >>> model.generate("a red square moves left", seed=3).shape  # doctest: +SKIP
    torch.Size([16, 3, 128, 128])
    """
    file = Path(path)
    if file.is_dir():
        file = file / MODEL
        if not file.exists():
            raise InputError(path, "has no model yet", "train-video writes it after its stage gpt")
    model, card = build(file, _NAME, _from_card)
    model.notes = dict(card.notes)
    return model.to(device).eval()


def _from_card(settings: Mapping[str, Any]) -> VideoModel:
    values = dict(settings)
    kinds = {"dvae": DVAEConfig, "gpt": GPTConfig, "upsampler": UpsamplerConfig}
    for name, kind in kinds.items():
        if values.get(name) is not None or name != "upsampler":
            if not isinstance(values.get(name), dict):
                raise ValueError(f"{name} must be the sizes of a network")
            values[name] = kind(**_with_tuples(values[name]))
    return VideoModel(VideoConfig(**values))


def _with_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
