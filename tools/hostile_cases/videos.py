"""Broken videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from hostile_cases.case import NET, NOTHING, Case, Prepare, train
from hostile_cases.harm import at, changed, film, instead, pillow, put, saved, sound


def cases() -> Iterator[Case]:
    """Yield broken videos, and videos whose frame size changes."""
    gif = saved(pillow("P"), "GIF")
    cut_index: Callable[[bytes], bytes] = lambda data: data[: data.index(b"moov") + 20]  # noqa: E731
    harm: dict[str, tuple[str, Prepare]] = {
        "empty": ("x.mp4", put("x.mp4", b"")),
        "text": ("x.mp4", put("x.mp4", "no video\n" * 30)),
        "header only": ("x.mp4", changed("x.mp4", lambda data: data[:60], "clip.mp4")),
        "cut in its index": ("x.mp4", changed("x.mp4", cut_index, "clip.mp4")),
        "nothing to see": ("x.mp4", lambda folder: sound(folder / "x.mp4")),
        "playlist": ("x.mp4", put("x.mp4", "#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n")),
        "list of files": ("x.mp4", put("x.mp4", "ffconcat version 1.0\nfile clip.mp4\n")),
        "huge gif": ("x.gif", put("x.gif", at(6, b"\xff\xff\xff\xff")(gif))),
        "missing": ("x.mp4", NOTHING),
        "folder for a file": ("x.mp4", instead("x.mp4")),
    }  # fmt: skip
    for fault, (name, prepare) in harm.items():
        yield Case(f"video {fault}: warp", f"warp {name} flow.flo -o out.mp4", prepare)
        yield Case(f"video {fault}: flow", f"flow {name} {NET} -o flows", prepare)
        yield Case(f"video {fault}: interpolate", f"interpolate {name} {NET} -o out.mp4", prepare)
        yield Case(f"video {fault}: steady", f"steady {name} {NET} -o out.mp4", prepare)
        call = f"steady clip.mp4 --guide {name} {NET} -o out.mp4"
        yield Case(f"video {fault}: steady --guide", call, prepare)
        yield Case(f"video {fault}: train-flow", train("train-flow", name), prepare)
        call = f"describe-video {name} --gpt gpt.safetensors --dvae dvae.safetensors"
        yield Case(f"video {fault}: describe-video", call, prepare)
    breaks = changed("x.mp4", lambda data: data[: data.index(b"mdat") + 400], "clip.mp4")
    yield Case("video breaks off: warp", "warp x.mp4 flow.flo -o out.mp4", breaks)
    yield Case("video breaks off: interpolate", f"interpolate x.mp4 {NET} -o out.mp4", breaks)
    yield Case("video breaks off: steady", f"steady x.mp4 {NET} -o out.mp4", breaks)
    grows: Prepare = lambda folder: film(folder / "x.mpg", [(24, 32), (48, 64)])  # noqa: E731
    yield Case("video changes size: warp", "warp x.mpg flow.flo -o out.mp4", grows)
    yield Case("video changes size: interpolate", f"interpolate x.mpg {NET} -o out.mp4", grows)
    yield Case("video changes size: steady", f"steady x.mpg {NET} -o out.mp4", grows)
    call = f"flow x.mpg {NET} -o flows"
    yield Case("video changes size: flow", call, grows, 5, writes=["flows/*"])
    single: Prepare = lambda folder: write_video(folder / "x.mp4", [torch.zeros(3, 24, 32)])  # noqa: E731
    yield Case("video of one frame: flow", f"flow x.mp4 {NET} -o flows", single)
    yield Case("video of one frame: interpolate", f"interpolate x.mp4 {NET} -o out.mp4", single)
    yield Case("video of one frame: train-flow", train("train-flow", "x.mp4"), single)
    two = {"save_all": True, "append_images": [pillow("P").rotate(180)]}
    yield Case("video odd gif: warp", "warp x.gif zero.flo -o out.gif",
               put("x.gif", saved(pillow("P"), "GIF", **two)), 0,
               lambda folder, out: len(list(read_video(folder / "out.gif"))) == 2)  # fmt: skip
