"""Broken recipes, configurations, settings and numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from hostile_cases.case import DVAE, EVAL_VIDEO, NET, VIDEO_NETS, WRITER, Case, train
from hostile_cases.harm import put


def recipes() -> Iterator[Case]:
    """Yield broken recipes of data sets."""

    def of(frame1: str, frame2: str = "b", flow: str = "c") -> str:
        parts = {"frame1": frame1, "frame2": frame2, "flow": flow}
        lines = [f"{key} = {json.dumps(value)}" for key, value in parts.items()]
        return "\n".join(['title = "x"', "[sets.x]", *lines])

    harm: dict[str, bytes | str] = {
        "empty": b"",
        "broken": "[sets",
        "binary": bytes(range(256)),
        "not UTF-8": b'title = "\xff\xfe"\n',
        "deep": "a = " + "[" * 100_000,
        "of 2 MB": "# " + "x" * 2**21,
        "without title": of("{*pair}/a").replace("title", "home"),
        "unknown key": "colour = 3\n" + of("{*pair}/a"),
        "sets is text": 'title = "x"\nsets = "none"\n',
        "set is text": 'title = "x"\n[sets]\nx = 3\n',
        "set lacks flow": 'title = "x"\n[sets.x]\nframe1 = "a"\nframe2 = "b"\n',
        "pattern is a number": 'title = "x"\n[sets.x]\nframe1 = 1\nframe2 = 2\nflow = 3\n',
        "pattern twice": of("{a}/{a}"),
        "pattern absolute": of("/{a}"),
        "pattern empty": of("", "", ""),
        "pattern leads out": of("../{a}.png", "../b.png", "../flow.flo"),
        "pattern of stars": of("**x/{a}"),
        "pattern of a deep part": of("{*a}x/b"),
        "pattern of unknown parts": of("{a}", "{b}{c}.png"),
        "field of a digit": of("{1}", "{1}"),
        "field counts far": of("{n}.png", "{n+99999999999999999999}.png"),
        "field counts words": of("{a}.png", "{a+1}.png", "flow.flo"),
        "null in a pattern": of("{a}\0"),
    }
    for fault, text in harm.items():
        prepare = put("x.toml", text)
        call = "eval-flow . --method zero --recipe x.toml"
        yield Case(f"recipe {fault}: eval-flow", call, prepare)
        if fault.startswith(("broken", "binary", "deep", "without", "pattern t")):
            yield Case(f"recipe {fault}: datasets", "datasets info x.toml", prepare)
    yield Case("recipe unknown: datasets", "datasets info nothing")
    yield Case("recipe unknown: eval-flow", "eval-flow pairs --recipe nothing")


def configurations() -> Iterator[Case]:
    """Yield broken configuration files and settings of trainings."""
    harm: dict[str, bytes | str] = {
        "broken": "[loop",
        "binary": bytes(range(256)),
        "deep": "a = " + "[" * 100_000,
        "of 2 MB": "# " + "x" * 2**21,
        "unknown section": "[nothing]\nx = 1\n",
        "unknown key": "[loop]\nspeed = 1\n",
        "text for a number": '[loop]\nsteps = "many"\n',
        "NaN": "[loop]\nlearning_rate = nan\n",
        "negative": "[loop]\nsteps = -5\n",
        "number of 400 digits": f"[loop]\nlearning_rate = {'9' * 400}\n",
        "huge batch": f"[loop]\nbatch_size = {10**15}\n",
    }
    call = "train-dvae digits --preset tiny --steps 1 --run runs/x --config x.toml"
    for fault, text in harm.items():
        yield Case(f"config {fault}: train-dvae", call, put("x.toml", text))
    huge = put("x.toml", "[model]\nwidths = [1000000, 2000000, 4000000]\n")
    yield Case("config huge network: train-dvae", call, huge, 6)
    values = ("steps=1e400", "steps=", "=3", "steps=1=2", "steps=[1", f"seed={10**30}",
              "learning_rate=inf", "precision=fp8")  # fmt: skip
    for value in values:
        call = train("train-dvae", "digits", f"--set {value}")
        yield Case(f"setting {value}: train-dvae", call, code=2 if value == "=3" else 3)
    codec = {"train-gpt": DVAE, "train-upsampler": DVAE, "train-reviser": WRITER}
    wrong = {
        "train-gpt": ("clips=0", "data.frames=3", "data.size=15", "text_limit=-1", "merges=many",
                      "depth=0", "width=33", "heads=0", "kinds=-1"),
        "train-captioner": ("clips=0", "length=0", "data.frames=0", "text_limit=0", "merges=-1",
                            "model.size=15", "blind=2", "widths=[]", "hidden=0", "norm=batch"),
        "train-upsampler": ("frames=9", "frames=0", "data.size=33", "spoilt=-1", "errors=2",
                            "widths=[]", "forget=nan", "own_steps=0", "norm=batch"),
        "train-reviser": ("clips=0", "checked=0", "data.size=32", "length=4", "groups=3",
                          "mixed=2", "redrawn=nan", "most=-1", "told=2", "mirrored=inf",
                          "gradient=-1", "actor=nan", "smooth=inf", "model.frames=2",
                          "widths=12,16", "widths=[]", "blocks=1", "embedding=0", "norm=batch"),
    }  # fmt: skip
    for command, own in wrong.items():
        for value in ("unheard=1", "learning_rate=nan", "batch_size=0", *own):
            data = "sprites" if command == "train-reviser" else "digits"
            call = train(command, data, f"{codec.get(command, '')} --set {value}")
            message = value.split("=")[0].split(".")[-1]
            code = 2 if message == "unheard" else 3
            yield Case(f"setting {value}: {command}", call, code=code, message=message)
    huge = put("x.toml", f"[model]\nembedding = {2**16}\n")
    call = train("train-reviser", "sprites", f"{WRITER} --config x.toml")
    yield Case("config huge network: train-reviser", call, huge, 6)
    call = train("train-reviser", "digits", WRITER)
    yield Case(
        "setting of other clips: train-reviser", call, code=2, message="DATA must be sprites"
    )


def numbers() -> Iterator[Case]:
    """Yield NaN and infinity for each option that takes a fraction."""
    sampled = ("temperature", "top-p", "guidance", "detail", "plausible")
    calls: dict[str, tuple[str, Sequence[str]]] = {
        "warp": ("warp a.png flow.flo -o out.png", ("scale",)),
        "show": ("show flow.flo -o out.png", ("max",)),
        "interpolate": (f"interpolate clip.mp4 {NET} -o out.mp4", ("fps",)),
        "steady": (f"steady clip.mp4 {NET} -o out.mp4", ("strength",)),
        "generate-video": (f"generate-video dog {VIDEO_NETS} -o out.mp4", ("fps", *sampled)),
        "generate-video of a gif": (f"generate-video dog {VIDEO_NETS} -o out.gif", ("fps",)),
        "generate-video of frames": (f"generate-video dog {VIDEO_NETS} -o out/", ("fps",)),
        "eval-video": (f"{EVAL_VIDEO} --upsampler up.safetensors {DVAE}", sampled),
    }
    for command, (call, options) in calls.items():
        for option in options:
            for value in ("nan", "inf", "-inf", "1e999999999"):
                yield Case(f"number {value}: {command} --{option}", f"{call} --{option}={value}",
                           code=2, message=option.replace("-p", ""))  # fmt: skip
