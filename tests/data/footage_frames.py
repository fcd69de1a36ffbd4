"""Moving test pictures, for tests of footage."""

import torch

from flowwarp.io.images import write_image

HEIGHT, WIDTH = 72, 96


def scene(seed, size=(HEIGHT, WIDTH + 40)):
    """A coarse random pattern, wide enough to move a window over."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size[0] // 18, size[1] // 17, generator=generator)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]


def frame(shift=0, seed=0):
    return scene(seed)[:, :, shift : shift + WIDTH]


def save(folder, shifts, seed=0, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, shift in enumerate(shifts, start=first):
        write_image(folder / f"f{number}.png", frame(shift, seed))


def steps(image):
    return image.mul(255).round().byte()
