"""Training runs that are broken, or that exist already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from flowwarp.io.checkpoints import save_tensors
from hostile_cases.case import DVAE, WRITER, Case, Prepare, train
from hostile_cases.harm import both, pickled, pipe, put


def cases() -> Iterator[Case]:
    """Yield runs that cannot be resumed, and runs that a new one would overwrite."""
    state = "runs/x/state-00000001.safetensors"
    begun = put("runs/x/metrics.jsonl", "")

    def saves(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Prepare:
        return both(begun, lambda folder: save_tensors(folder / state, tensors, metadata))

    form = {"format": "flowwarp-state-1"}
    changed = {
        "of broken states": put(state, "broken"),
        "of a pickle": both(begun, pickled(state)),
        "of another format": saves({}, {"format": "x"}),
        "without facts": saves({}, form),
        "of broken facts": saves({}, form | {"step": "1", "facts": "{"}),
        "of foreign weights": saves(
            {"model.a": torch.ones(2)}, form | {"step": "1", "facts": "{}"}
        ),
    }
    writes = ["runs/x/.lock", "runs/x/config.toml"]
    for fault, prepare in changed.items():
        call = train("train-dvae", "digits", "--resume changed")
        yield Case(f"run {fault}: train-dvae", call, prepare, writes=writes)
    for command, data in (
        ("train-gpt", f"digits {DVAE}"), ("train-captioner", "digits"),
        ("train-upsampler", f"digits {DVAE}"), ("train-reviser", f"sprites {WRITER}"),
    ):  # fmt: skip
        for fault in ("of broken states", "of a pickle", "of foreign weights"):
            call = train(command, f"{data} --resume changed")
            yield Case(
                f"run {fault}: {command}", call, changed[fault], writes=writes, message="state"
            )
        call = train(command, data)
        yield Case(f"run that is there: {command}", call, put(state, "old"), 4, writes=writes,
                   message="holds a run")  # fmt: skip
    call = train("train-dvae", "digits", "--resume auto")
    whole = saves({}, form | {"step": "1", "facts": "{}"})
    yield Case("run without its config: train-dvae", call, whole, writes=writes)
    for name in ("metrics.jsonl", "config.toml"):
        yield Case(f"run with a pipe for {name}: train-dvae", call, pipe(f"runs/x/{name}"), 4,
                   writes=writes, message="is not a regular file")  # fmt: skip
    config = both(whole, put("runs/x/config.toml", "[loop"))
    yield Case("run with a broken config: train-dvae", call, config, writes=writes)
    there = put(state, "old")
    yield Case("run that is there: train-dvae", train("train-dvae", "digits"), there, 4,
               writes=writes)  # fmt: skip
