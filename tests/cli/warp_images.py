"""Images, flow files and comparisons that the tests of ``flowwarp warp`` share."""

from pathlib import Path

import numpy as np
import torch

from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import ImageFormat, read_image, read_image_with_format, write_image
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video

HEIGHT, WIDTH = 6, 8


def picture(channels=3, bits=8, seed=0):
    """Return an image of the values that a file of that depth holds."""
    top = 2**bits - 1
    random = np.random.default_rng(seed).integers(0, top, (channels, HEIGHT, WIDTH), endpoint=True)
    return torch.from_numpy(random.astype(np.float32)) / top


def save(name, channels=3, bits=8, seed=0):
    image = picture(channels, bits, seed)
    write_image(name, image, ImageFormat(bits, gray=channels == 1))
    return image


def save_flow(name, u=0.0, v=0.0, valid=None, size=(HEIGHT, WIDTH)):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write_flow(
        name, torch.tensor([u, v], dtype=torch.float32).view(2, 1, 1).repeat(1, *size), valid
    )


def pictures(folder):
    return sorted(path.name for path in Path(folder).glob("*.png"))


def shifted(image, columns):
    """Return what a flow of so many whole pixels to the right reads, under border padding."""
    return image[..., (torch.arange(WIDTH) + columns).clamp(0, WIDTH - 1)]


def assert_picture(name, expected):
    torch.testing.assert_close(read_image(name), expected, atol=0.51 / 255, rtol=0)


def assert_same_file_content(first, second):
    (image1, format1), (image2, format2) = map(read_image_with_format, (first, second))
    assert format1 == format2
    assert torch.equal(image1, image2)


def save_frames(folder, count):
    Path(folder).mkdir()
    # Natural order: frame9 comes before frame10.
    return [save(f"{folder}/frame{index}.png", seed=index) for index in range(8, 8 + count)]


def save_clip(name, count=4):
    """Write columns of a few colours that a GIF holds exactly."""
    frames = []
    for index in range(count):
        level = ((torch.arange(WIDTH) + 2 * index) % 4) / 3
        frames.append(level.expand(3, HEIGHT, WIDTH))
    write_video(name, frames, 10)
    return frames


def assert_clip(name, expected, atol=0.51 / 255):
    for got, wanted in zip(read_video(name), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=atol, rtol=0)
