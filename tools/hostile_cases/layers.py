"""Broken sprite layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hostile_cases.case import DVAE, EVAL_VIDEO, WRITER, Case, train
from hostile_cases.harm import both, copied, put


def cases() -> Iterator[Case]:
    """Yield broken folders of sprite layers."""
    layer = {"id": "a", "file": "layers/a.png", "category": "body", "name": "a", "color": "b",
             "gender": "male", "z": 1}  # fmt: skip

    def of(**changes: Any) -> str:
        return json.dumps({"layers": [layer | changes]})

    harm = {
        "empty": "",
        "broken": "{",
        "deep": "[" * 100_000,
        "a list": "[]",
        "without layers": '{"layers": []}',
        "of text": '{"layers": ["a"]}',
        "leads out": of(file="../a.png"),
        "leads out below": of(file="layers/../../a.png"),
        "of another size": of(),
        "z is text": of(z="front"),
        "of huge names": of(id="x" * 10**6),
    }
    call = "datasets make sprites --count 1 --size 16 -o made --layers lpc"
    judge = f"{EVAL_VIDEO} --upsampler up.safetensors --dvae dvae.safetensors"
    for fault, text in harm.items():
        prepare = both(put("lpc/attributes.json", text), copied("a.png", "lpc/layers/a.png"))
        yield Case(f"layers {fault}: datasets", call, prepare)
        if fault in ("empty", "leads out", "of another size"):
            yield Case(f"layers {fault}: eval-video", f"{judge} --layers lpc", prepare)
    yield Case("layers missing: datasets", call)
    yield Case("layers missing: eval-video", f"{judge} --layers lpc")
    yield Case("output is a file: eval-video", f"{judge} --gpt gpt.safetensors -o a.png", code=4)
    for command in ("train-dvae", "train-gpt", "train-captioner", "train-upsampler"):
        codec = DVAE if command in ("train-gpt", "train-upsampler") else ""
        call = train(command, "sprites", f"{codec} --layers lpc")
        yield Case(f"layers missing: {command}", call, message="lpc")
    call = train("train-reviser", "sprites", f"{WRITER} --layers lpc")
    yield Case("layers missing: train-reviser", call, message="lpc")
    for fault in ("empty", "leads out", "of another size"):
        prepare = both(put("lpc/attributes.json", harm[fault]), copied("a.png", "lpc/layers/a.png"))
        yield Case(f"layers {fault}: train-reviser", call, prepare)
