"""Strange file names, and names that are too long."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hostile_cases.case import DVAE, NET, NOTHING, VIDEO_NETS, Case, Prepare, train
from hostile_cases.harm import copied


def strange() -> Iterator[Case]:
    """Yield valid calls with strange names of files."""
    stems = {
        "not UTF-8": os.fsdecode(b"\xff\xfe"),
        "of control characters": "\x1b[31m\n\t",
        "like an option": "./-o",
        "like a pattern": "[ab]*?",
        "like a command": "$(mkdir executed);`mkdir executed`|mkdir executed&",
        "like a protocol": "concat:a",
        "of 200 characters": "x" * 200,
        "in another script": "一只狗 🐕",
    }
    net = NET.split()
    for kind, stem in stems.items():
        picture, video, network = (f"{stem}{end}" for end in (".png", ".mp4", ".safetensors"))
        calls: dict[str, tuple[list[str], Prepare]] = {
            "warp": (["warp", picture, "zero.flo", "-o", "out.png"], copied("a.png", picture)),
            "warp, to": (["warp", "a.png", "zero.flo", "-o", picture], NOTHING),
            "flow": (["flow", picture, "b.png", *net, "-o", "x.flo", "--json"],
                     copied("a.png", picture)),
            "flow of a video": (["flow", video, *net, "-o", "flows"], copied("clip.mp4", video)),
            "interpolate, to": (["interpolate", "clip.mp4", *net, "-o", video], NOTHING),
            "steady, to": (["steady", "clip.mp4", *net, "-o", video], NOTHING),
            "eval-flow": (["eval-flow", "sets", "--method", "zero"],
                          copied("pairs/set", f"sets/{stem}")),
            "flow, weights": (["flow", "a.png", "b.png", "--weights", network, "-o", "x.flo"],
                              copied("net.safetensors", network)),
            "describe-video": (["describe-video", video, "--gpt", "gpt.safetensors", "--dvae",
                                "dvae.safetensors"], copied("clip.mp4", video)),
        }  # fmt: skip
        for what, (words, prepare) in calls.items():
            yield Case(f"name {kind}: {what}", words, prepare, 0)


def too_long() -> Iterator[Case]:
    """Yield names that are too long, and files where the path needs a folder."""
    long = "x" * 300
    inputs = {
        "warp": f"warp {long}.png flow.flo -o out.png",
        "interpolate": f"interpolate {long} -o out.mp4",
        "steady": f"steady {long} -o out.mp4",
        "train-flow": train("train-flow", long),
        "train-dvae": train("train-dvae", long),
        "eval-flow": f"eval-flow {long}",
        "describe-video": f"describe-video {long}.mp4 {VIDEO_NETS.replace('--no-upsampler', '')}",
        "train-gpt": train("train-gpt", long, DVAE),
        "train-captioner": train("train-captioner", long),
        "train-upsampler": train("train-upsampler", long, DVAE),
        "train-reviser": train("train-reviser", "sprites", f"{DVAE} --gpt {long}"),
    }
    outputs = {
        "warp": f"warp a.png flow.flo -o {long}.png",
        "show": f"show flow.flo -o {long}.png",
        "flow": f"flow clip.mp4 {NET} -o {long}",
        "interpolate": f"interpolate clip.mp4 {NET} -o {long}",
        "steady": f"steady clip.mp4 {NET} -o {long}",
        "datasets": f"datasets make digits --count 1 -o {long}",
        "train-dvae": train("train-dvae", "digits", f"--run {long}"),
        "generate-video": f"generate-video dog {VIDEO_NETS} -o {long}.mp4",
    }
    blocked = {  # a file is in place of a folder
        "warp": "warp a.png flow.flo -o b.png/out.png",
        "flow": f"flow clip.mp4 {NET} -o b.png/x",
        "datasets": "datasets make digits --count 1 -o b.png",
        "train-dvae": train("train-dvae", "digits", "--run b.png"),
        "train-dvae below": train("train-dvae", "digits", "--run b.png/x"),
        "generate-video": f"generate-video dog {VIDEO_NETS} -o b.png/x.mp4",
    }
    for command, call in inputs.items():
        yield Case(f"name too long: {command}", call)
    for command, call in outputs.items():
        yield Case(f"name of the result too long: {command}", call, code=4)
    for command, call in blocked.items():
        yield Case(f"name of a file for a folder: {command}", call, code=4)
