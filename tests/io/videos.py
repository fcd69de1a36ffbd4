"""Videos that tests of several modules encode, and the errors that they expect."""

import errno
import os

import av
import pytest
import torch
from PIL import Image, ImageSequence

from flowwarp.errors import InputError
from flowwarp.io.video_reader import read_video


def clip(frames=6, height=32, width=48):
    """Smooth frames, each brighter than the one before."""
    x = torch.linspace(0, 0.5, width).expand(height, width)
    y = torch.linspace(0, 0.5, height)[:, None].expand(height, width)
    return [torch.stack([x + i / 20, y + i / 20, 0.5 - x / 2]) for i in range(frames)]


def encode(path, arrays, *, container=None, codec="libx264", rate=10, hold=1, **stream_options):
    """Write frames of any sizes, which write_video refuses; the last is shown ``hold`` times."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate, options=stream_options)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = arrays[0].shape[:2]
        packets = []
        for array in arrays:
            packets += stream.encode(av.VideoFrame.from_ndarray(array, "rgb24"))
        packets += stream.encode(None)
        packets[-1].duration = hold
        for packet in packets:
            output.mux(packet)


def save_animation(path, arrays, durations):
    """Write a GIF or a WebP of frames that are shown for so many ms."""
    first, *rest = map(Image.fromarray, arrays)
    first.save(path, save_all=True, append_images=rest, duration=durations)


def until_it_breaks(path):
    frames = []
    with pytest.raises(InputError) as fault:
        frames.extend(read_video(path))  # keeps what came before the error
    return frames, str(fault.value)


def loaded(picture):
    picture.load()  # WebP tells a frame's time only then
    return picture


NO_THREAD = "^thread: no other can be started .resource temporarily unavailable.; allow more"


def without_threads(*arguments):
    raise av.BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def encode_kind(path, arrays):
    codecs = {"avi": "mjpeg", "mp4": "libx264", "mkv": "libx264", "mpg": "mpeg2video"}
    kind = path.suffix[1:]
    with av.open(str(path), "w") as output:
        options = {"g": "10", "sc_threshold": "0"} if kind == "mp4" else {}
        stream = output.add_stream(codecs[kind], 25, options=options)
        stream.pix_fmt = "yuvj420p" if kind == "avi" else "yuv420p"
        # As many slices on any machine: how damage shows depends on them.
        stream.codec_context.thread_count = 2
        stream.height, stream.width = arrays[0].shape[:2]
        for array in arrays:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(array, "rgb24")))
        output.mux(stream.encode(None))


def play_time(path):
    """Return how long an animated picture plays, in ms, as Pillow reads it."""
    with Image.open(path) as picture:
        return sum(frame.info["duration"] for frame in map(loaded, ImageSequence.Iterator(picture)))
