"""Small videos and tar files of them, for tests of captioned videos."""

import io
import tarfile

import torch

from flowwarp.io.video_writer import write_video


def video(path, frames=6, size=(24, 40), seed=0):
    """Write a video in which a bright bar moves right by 4 px a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = torch.zeros(frames, 3, *size)
    for number in range(frames):
        pictures[number, seed % 3, :, 4 + 4 * number : 12 + 4 * number] = 1
    write_video(path, pictures)
    return path


def pack(path, members):
    """Write a tar file; a member is bytes, or a TarInfo with bytes."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
