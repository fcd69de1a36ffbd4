"""Which codec and layout keep most of a recording in a file of a given type, and what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import av

from flowwarp.io.footage import ColorTags, PixelLayout, Recording
from flowwarp.io.video_encoder import BT709, FULL, LIMITED, Encoding


@dataclass(frozen=True)
class Codec:
    """An encoder and how to make it visually lossless.

    Attributes:
        encoder: ffmpeg's name.
        crf: the default constant rate factor; None if the codec has none.
        options: of the encoder.
        rgb: whether players accept its RGB layouts.
        alpha: whether players accept its layouts with transparency.
    """

    encoder: str
    crf: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    rgb: bool = False
    alpha: bool = False


# The rate factors give at least 40 dB on grainy footage: see docs/footage.md.
CODECS = {
    "h264": Codec("libx264", 14),
    "h265": Codec("libx265", 14, {"x265-params": "log-level=error", "preset": "fast"}),
    "vp9": Codec("libvpx-vp9", 12, {"row-mt": "1", "cpu-used": "4"}, alpha=True),
    "av1": Codec("libsvtav1", 16, {"preset": "8"}),
    "prores": Codec("prores_ks", None, {"vendor": "apl0"}, alpha=True),
    "ffv1": Codec("ffv1", None, {"level": "3", "slices": "4"}, rgb=True, alpha=True),
}
# Codecs of each file type. The first is the default; the first with alpha is that of transparency.
CONTAINERS = {
    ".mp4": ("h264", "h265", "av1", "vp9"),
    ".m4v": ("h264", "h265"),
    ".mov": ("h264", "h265", "prores"),
    ".mkv": ("h264", "h265", "ffv1", "prores", "vp9", "av1"),
    ".webm": ("vp9", "av1"),
}
ANIMATIONS = (".gif", ".webp", ".apng")
_NAMES = {"hevc": "h265"}  # ffmpeg's names of codecs, where ours differ
_FAST_START = {".mp4": "+faststart", ".m4v": "+faststart", ".mov": "+faststart"}
_PICTURES = PixelLayout()  # 4:2:0 of 8 bits, which every player opens


def choose_codec(suffix: str, recording: Recording, codec: str | None = None) -> str:
    """Return the codec that a recording gets in a file type.

    It is the recording's own, if the file type allows it and we can write it; else the default.
    Footage with transparency gets a codec that stores it, if there is one.

    Args:
        suffix: one of ``CONTAINERS``.
        recording: what is to be kept.
        codec: one of ``CODECS``, to demand it.

    Raises:
        ValueError: the file type does not allow ``codec``.
    """
    known = CONTAINERS[suffix]
    if codec is not None:
        if codec not in known:
            raise ValueError(f"a {suffix} file holds {', '.join(known)}, not {codec}")
        return codec
    own = _NAMES.get(recording.codec, recording.codec)
    if own.startswith("prores"):
        own = "prores"
    chosen = own if own in known else known[0]
    # VP9 in MP4 and ProRes in Matroska carry no transparency that others read.
    clear = [name for name in known if suffix != ".mp4" and CODECS[name].alpha]
    if recording.layout.alpha and chosen not in clear and clear:
        return clear[0]
    return chosen


def choose_encoding(
    suffix: str, recording: Recording, codec: str | None = None, crf: int | None = None
) -> tuple[Encoding, list[str]]:
    """Return the encoding that keeps most of a recording, and what it does not keep.

    Args:
        suffix: one of ``CONTAINERS`` or ``ANIMATIONS``.
        recording: what is to be kept.
        codec: one of ``CODECS``; None for that of :func:`choose_codec`.
        crf: the rate factor; None for a visually lossless one.

    Returns:
        The encoding, and a phrase for each loss, such as "is written with 8 of 10 bits".

    Raises:
        ValueError: ``codec`` or ``crf`` does not fit.
    """
    if suffix in ANIMATIONS:
        if codec is not None or crf is not None:
            raise ValueError(f"a {suffix} file has neither --codec nor --crf")
        return _animation(suffix, recording.layout)
    name = choose_codec(suffix, recording, codec)
    chosen = CODECS[name]
    if crf is not None and chosen.crf is None:
        raise ValueError(f"{name} has no --crf")
    largest = 51 if name in ("h264", "h265") else 63
    if crf is not None and not 0 <= crf <= largest:
        raise ValueError(f"--crf of {name} is from 0 to {largest}, got {crf}")
    wanted = _wanted(recording)
    alpha = wanted.alpha and chosen.alpha and not (name == "vp9" and suffix == ".mp4")
    pix_fmt = _nearest(chosen, wanted, alpha)
    tags = _tags(recording, pix_fmt)
    options = dict(chosen.options) | _options(name, pix_fmt, chosen.crf if crf is None else crf)
    muxer = {"movflags": _FAST_START[suffix]} if suffix in _FAST_START else {}
    encoding = Encoding(
        chosen.encoder,
        pix_fmt,
        options,
        muxer,
        tags.matrix,
        tags.primaries,
        tags.transfer,
        tags.range,
        "hvc1" if name == "h265" and suffix != ".mkv" else None,  # what Apple's players look for
    )
    return encoding, _losses(wanted, layout_of(pix_fmt), recording)


def layout_of(pix_fmt: str) -> PixelLayout:
    """Return what one of ffmpeg's pixel formats keeps."""
    form = av.VideoFormat(pix_fmt, 64, 64)
    alpha = any(part.is_alpha for part in form.components)
    chroma = (64 // form.chroma_width(64), 64 // form.chroma_height(64))
    return PixelLayout(max(part.bits for part in form.components), alpha, bool(form.is_rgb), chroma)


def _wanted(recording: Recording) -> PixelLayout:
    """Return the layout to aim at; pictures become 4:2:0, which every player opens."""
    layout = recording.layout
    if recording.kind == "video":
        return layout
    return PixelLayout(min(layout.bits, 10), layout.alpha)


def _nearest(codec: Codec, wanted: PixelLayout, alpha: bool) -> str:
    """Return the layout of an encoder that loses least of the wanted one and adds least to it."""

    def loss(name: str) -> tuple[int, ...]:
        got = layout_of(name)
        across, down = (max(0, g - w) for g, w in zip(got.chroma, wanted.chroma, strict=True))
        finer = sum(w - g for g, w in zip(got.chroma, wanted.chroma, strict=True))
        return (
            got.alpha != alpha,
            across + down,
            max(0, wanted.bits - got.bits),
            wanted.rgb and not got.rgb,
            got.rgb and not wanted.rgb,
            finer,
            got.bits - wanted.bits,
        )

    formats = [form.name for form in av.Codec(codec.encoder, "w").video_formats or []]
    usable = [
        name
        for name in formats
        if name.startswith(("yuv4", "yuva4")) or (codec.rgb and name.startswith(("gbr", "bgr")))
        if not name.endswith("f16le") and not name.endswith("f32le")
    ]
    return min(usable, key=loss)


def _tags(recording: Recording, pix_fmt: str) -> ColorTags:
    tags = recording.tags
    if layout_of(pix_fmt).rgb:
        return ColorTags(0, tags.primaries, tags.transfer, FULL)
    if recording.layout.rgb:  # has no matrix, or none that was used
        stated = recording.kind == "video" and tags.transfer != 2
        primaries, transfer = (tags.primaries, tags.transfer) if stated else (BT709, BT709)
        return ColorTags(BT709, primaries, transfer, LIMITED)
    return tags


def _options(name: str, pix_fmt: str, crf: int | None) -> dict[str, str]:
    layout = layout_of(pix_fmt)
    if name == "prores":
        return {"profile": "4444" if layout.alpha or layout.chroma == (1, 1) else "hq"}
    options = {} if crf is None else {"crf": str(crf)}
    if name == "vp9" and layout.alpha:
        options["auto-alt-ref"] = "0"  # libvpx cannot combine them
    return options


def _animation(suffix: str, layout: PixelLayout) -> tuple[Encoding, list[str]]:
    deep = layout.bits > 8
    losses = [f"is written with 8 of {layout.bits} bits"] if deep and suffix != ".apng" else []
    if suffix == ".gif":
        options = {"transparent": "1"} if layout.alpha else {}
        return Encoding("gif", "pal8", options, range=FULL), losses
    if suffix == ".apng":
        form = (
            ("rgba64be" if layout.alpha else "rgb48be")
            if deep
            else "rgba"
            if layout.alpha
            else "rgb24"
        )
        return Encoding("apng", form, {}, {"plays": "0"}, range=FULL), losses
    options = {"lossless": "1"}
    return Encoding("libwebp_anim", "bgra", options, {"loop": "0"}, range=FULL), losses


def _losses(wanted: PixelLayout, got: PixelLayout, recording: Recording) -> list[str]:
    losses = []
    if recording.layout.bits > got.bits:
        losses.append(f"is written with {got.bits} of {recording.layout.bits} bits")
    if wanted.rgb and not got.rgb:
        losses.append("is written as luma and chroma, the video is RGB")
    elif any(g > w for g, w in zip(got.chroma, wanted.chroma, strict=True)):
        names = [_chroma_name(layout.chroma) for layout in (got, wanted)]
        losses.append(f"is written in {names[0]}, the video is {names[1]}")
    return losses


def _chroma_name(chroma: tuple[int, int]) -> str:
    names = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0"}
    return names.get(chroma, "4:1:0")


def is_known(path: str | Path) -> bool:
    """Return whether a file of this name can be written as footage."""
    suffix = Path(path).suffix.lower()
    return suffix in CONTAINERS or suffix in ANIMATIONS
