"""Recordings with sound, transparency, depth and times of all kinds, made with PyAV itself."""

from fractions import Fraction

import av
import numpy as np

from flowwarp.io.footage import open_footage
from flowwarp.io.footage_writer import write_footage

SIZE = (32, 48)  # height and width
UNEVEN = (0, 40, 200, 233, 700, 1000)  # ms


def picture(index, *, alpha=False, deep=False):
    """Return a smooth picture (H, W, 3|4), brighter with its index, of 8 or 16 bits."""
    height, width = SIZE
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 3 + 8 * index, y * 5 + 8 * index, 200 - x * 2]
    if alpha:
        planes.append(np.where(x < width // 2, 255, 64 + 8 * index))
    pixels = np.stack(planes, -1).clip(0, 255)
    return (pixels * 257).astype(np.uint16) if deep else pixels.astype(np.uint8)


def tone(seconds, rate=48000, hertz=440):
    """Return a sine of one channel, (1, N) float32."""
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * hertz * time)[None].astype(np.float32) / 2


def record(
    path,
    *,
    codec="libx264",
    pix_fmt="yuv420p",
    times=(0, 100, 200, 300, 400, 500),
    sound=None,
    tags=None,
    aspect=1,
    metadata=None,
    subtitles=None,
    chapters=None,
    options=None,
):
    """Write a recording; times are in ms. Sound is the name of an encoder."""
    form = av.VideoFormat(pix_fmt, 64, 64)
    alpha = any(part.is_alpha for part in form.components)
    deep = max(part.bits for part in form.components) > 8
    source = ("rgba" if alpha else "rgb") + (
        ("64le" if alpha else "48le") if deep else ("" if alpha else "24")
    )
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, 10, options=options or {"crf": "1"})
        stream.pix_fmt, (stream.height, stream.width) = pix_fmt, SIZE
        context = stream.codec_context
        context.time_base = Fraction(1, 1000)
        context.sample_aspect_ratio = Fraction(aspect)
        for name, value in (tags or {}).items():
            setattr(context, name, value)
        output.metadata.update(metadata or {})
        if chapters:
            output.set_chapters(chapters)
        audio = output.add_stream(sound, rate=48000) if sound else None
        if audio:
            audio.codec_context.layout = "mono"
            audio.metadata["language"] = "deu"
        packets = []
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, alpha=alpha, deep=deep), source)
            frame = frame.reformat(format=pix_fmt, dst_colorspace=(tags or {}).get("colorspace"))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        max(packets, key=lambda packet: packet.pts).duration = 100
        for packet in packets:
            output.mux(packet)
        if audio:
            wave = tone((times[-1] + 100) / 1000)
            frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            resampler = av.AudioResampler(audio.codec_context.format.name, "mono", 48000)
            for part in resampler.resample(frame):
                output.mux(audio.encode(part))
            output.mux(audio.encode(None))


def stated(path):
    """Return what ffmpeg reads of a file: times and layout of its frames, and its sound."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = [
            (frame.pts * frame.time_base, frame.format.name) for frame in container.decode(video)
        ]
        context = video.codec_context
        facts = {
            "codec": context.name,
            "pix_fmt": context.pix_fmt,
            "times": [time for time, _ in frames],
            "tags": (
                context.colorspace,
                context.color_primaries,
                context.color_trc,
                context.color_range,
            ),
            "aspect": video.sample_aspect_ratio,
            "metadata": dict(container.metadata),
            "sound": [
                stream.codec_context.codec.canonical_name for stream in container.streams.audio
            ],
            "subtitles": [
                stream.codec_context.codec.canonical_name for stream in container.streams.subtitles
            ],
            "chapters": [
                (float(c["start"] * c["time_base"]), c["metadata"].get("title"))
                for c in container.chapters()
            ],
        }
    facts["seconds"] = [sound_seconds(path)] if facts["sound"] else []
    return facts


def sound(path):
    """Return the decoded sound of a file, (N,) of its first channel, at its own rate."""
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    joined = np.concatenate([part.reshape(part.shape[0], -1) for part in parts], 1)[0]
    return joined / 32768 if joined.dtype == np.int16 else joined


def sound_seconds(path):
    """Return for how long the sound of a file plays, in seconds, by the number of its samples."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    return sum(frame.samples for frame in frames) / frames[0].sample_rate


def copy(source, target, **options):
    """Write a recording again and return what ffmpeg reads of the result."""
    clip = open_footage(source)
    write_footage(target, clip.frames(), clip, **options)
    return stated(target)


def psnr(one, other):
    """Return the PSNR of the worst frame, in dB."""
    pairs = zip(open_footage(one).frames(), open_footage(other).frames(), strict=True)
    errors = [(a - b).square().mean().item() for a, b in pairs]
    return -10 * np.log10(max(errors) + 1e-12)
