"""A call of each command that must succeed."""

from __future__ import annotations

from collections.abc import Iterator

from hostile_cases.case import DVAE, EVAL_VIDEO, NET, VIDEO_NETS, WRITER, Case, train


def cases() -> Iterator[Case]:
    """Yield a valid call of each command, so that other cases fail only for their own fault."""
    calls = {
        "warp": "warp a.png flow.flo -o out.png",
        "flow": f"flow a.png b.png {NET} -o out.flo",
        "show": "show flow.flo -o out.png",
        "convert": "convert flow.flo -o out.npy",
        "interpolate": f"interpolate a.png b.png {NET} -o out.png",
        "steady": f"steady clip.mp4 --guide clip.mp4 {NET} -o out.mp4",
        "train-flow": train("train-flow", "frames"),
        "eval-flow": "eval-flow pairs --method zero",
        "datasets": "datasets make digits --count 1 --size 16 -o made",
        "train-dvae": train("train-dvae", "digits"),
        "train-gpt": train("train-gpt", "digits", DVAE),
        "train-captioner": train("train-captioner", "digits"),
        "train-upsampler": train("train-upsampler", "digits", DVAE),
        "train-reviser": train("train-reviser", "sprites", WRITER),
        "generate-video": f"generate-video dog {VIDEO_NETS} -o out.mp4",
        "describe-video": f"describe-video clip.mp4 --gpt gpt.safetensors {DVAE}",
        "eval-video": f"{EVAL_VIDEO} --upsampler up.safetensors {DVAE}",
    }
    for command, call in calls.items():
        yield Case(f"right: {command}", call, code=0)
    prompt = ["generate-video", "a man with red hair", *VIDEO_NETS.split(), "-o", "out.mp4"]
    prompt += ["--reviser", "mend.safetensors"]
    yield Case("right: generate-video --reviser", prompt, code=0)
