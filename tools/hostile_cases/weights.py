"""Broken weights, and weights that do not fit the command that reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowwarp.io.checkpoints import save_tensors
from flowwarp.legacy.models import reviser
from hostile_cases.case import DVAE, EVAL_VIDEO, NOTHING, VIDEO_NETS, WRITER, Case, Prepare, train
from hostile_cases.harm import at, changed, cut, instead, pickled, pipe, put, weights
from hostile_cases.valid_files import save_network

FILE = "x.safetensors"  # the broken file
ANSWER_OF_ANOTHER = "contains the weights of flownet, not of"

# Commands that read weights, and a valid file that each of them takes.
CALLS = {
    "interpolate": "interpolate a.png b.png --weights {} -o out.png",
    "steady": "steady clip.mp4 --weights {} -o out.mp4",
    "eval-flow": "eval-flow pairs --method fast --weights {}",
    "train-dvae": train("train-dvae", "captioned", "--flow {}"),
    "train-gpt": train("train-gpt", "digits", "--dvae {}"),
    "train-gpt --sketcher": train("train-gpt", "digits", f"{DVAE} --sketcher {{}}"),
    "generate-video captioner": f"generate-video dog {VIDEO_NETS} --captioner {{}} -o x.mp4",
    "generate-video sketcher": f"generate-video dog {VIDEO_NETS} --sketcher {{}} -o x.mp4",
    "train-upsampler": train("train-upsampler", "digits", "--dvae {}"),
    "train-upsampler --flow": train("train-upsampler", "captioned", f"{DVAE} --flow {{}}"),
    "train-upsampler --start": train("train-upsampler", "digits", f"{DVAE} --start {{}}"),
    "generate-video gpt": "generate-video dog --gpt {} --dvae dvae.safetensors -o x.mp4",
    "generate-video dvae": "generate-video dog --gpt gpt.safetensors --dvae {} -o x.mp4",
    "generate-video upsampler": "generate-video dog --gpt gpt.safetensors"
    " --dvae dvae.safetensors --upsampler {} -o x.mp4",
    "describe-video": "describe-video clip.mp4 --gpt {} --dvae dvae.safetensors",
    "describe-video captioner": "describe-video clip.mp4 --captioner {}",
    "train-captioner": train("train-captioner", "digits", "--start {}"),
    "train-reviser --dvae": train("train-reviser", "sprites", "--gpt gpt.safetensors --dvae {}"),
    "train-reviser --gpt": train("train-reviser", "sprites", f"{DVAE} --gpt {{}}"),
    "train-reviser --start": train("train-reviser", "sprites", f"{WRITER} --start {{}}"),
    "generate-video reviser": f"generate-video dog {VIDEO_NETS} --reviser {{}} -o x.mp4",
    "eval-video classifier": "eval-video --part classifier --classifier {}",
    "eval-video dvae": f"{EVAL_VIDEO} --upsampler up.safetensors --dvae {{}}",
    "eval-video upsampler": f"{EVAL_VIDEO} --dvae dvae.safetensors --upsampler {{}}",
}
VALID = {
    "interpolate": "net", "steady": "net",
    "eval-flow": "net", "train-dvae": "net", "train-gpt": "dvae",
    "train-gpt --sketcher": "say", "generate-video captioner": "say",
    "generate-video sketcher": "say", "train-upsampler": "dvae",
    "train-upsampler --flow": "net", "train-upsampler --start": "up",
    "generate-video gpt": "gpt", "generate-video dvae": "dvae",
    "generate-video upsampler": "up", "describe-video": "gpt",
    "describe-video captioner": "say", "train-captioner": "say",
    "train-reviser --dvae": "dvae", "train-reviser --gpt": "gpt",
    "train-reviser --start": "mend", "generate-video reviser": "mend",
    "eval-video classifier": "judge", "eval-video dvae": "dvae", "eval-video upsampler": "up",
}  # fmt: skip


def case_of(fault: str, command: str, prepare: Prepare = NOTHING, message: str = "") -> Case:
    """Return the case of a command that reads ``FILE``."""
    return Case(
        f"weights {fault}: {command}", CALLS[command].format(FILE), prepare, message=message
    )


def of_command(command: str, **changes: Any) -> Prepare:
    """Write ``FILE``: valid weights of the command, with changes (see ``harm.weights``)."""
    return weights(FILE, f"{VALID[command]}.safetensors", **changes)


def cases() -> Iterator[Case]:
    """Yield all cases of weights."""
    yield from broken_files()
    yield from not_finite()
    yield from of_another_network()
    yield from huge_cards()
    yield from odd_cards()
    yield from odd_vocabularies()
    yield from of_another_network_by_command()
    yield from odd_attributes()
    yield from other_sizes()
    swapped = "generate-video dog --gpt dvae.safetensors --dvae gpt.safetensors -o x.mp4"
    yield Case("weights swapped: generate-video", swapped)


def not_a_number(tensor: Tensor) -> Tensor:
    """Return NaN of the same shape."""
    return torch.full_like(tensor, torch.nan)


def broken_files() -> Iterator[Case]:
    """Yield every fault for ``flow``, and three of them for every other command."""
    faults = file_faults() | card_faults() | tensor_faults()
    for fault, (name, prepare) in faults.items():
        call = f"flow a.png b.png --weights {name} -o x.flo"
        yield Case(f"weights {fault}: flow", call, prepare)
    messages = {
        "cut off": "is not a complete safetensors file",
        "pickle of torch.save": "is a pickle",
        "no card": "does not state its network",
    }
    for fault, message in messages.items():
        name, prepare = faults[fault]
        for command, call in CALLS.items():
            yield Case(f"weights {fault}: {command}", call.format(name), prepare, message=message)


def file_faults() -> dict[str, tuple[str, Prepare]]:
    """Return file names and makers of files that are not whole, or no safetensors."""
    source = "net.safetensors"
    flip: Callable[[bytes], bytes] = lambda data: data[:-9] + b"\x55" + data[-8:]  # noqa: E731
    return {
        "missing": (FILE, NOTHING),
        "empty": (FILE, put(FILE, b"")),
        "text": (FILE, put(FILE, "hello\n" * 99)),
        "folder for a file": (FILE, instead(FILE)),
        "pipe for a file": (FILE, pipe(FILE)),
        "cut off": (FILE, changed(FILE, cut(0.7), source)),
        "cut in header": (FILE, changed(FILE, lambda data: data[:200], source)),
        "bit flipped": (FILE, changed(FILE, flip, source)),
        "header of 8 EB": (FILE, changed(FILE, at(0, b"\xff" * 7 + b"\x7f{"), source)),
        "pickle of torch.save": ("x.pt", pickled("x.pt")),
        "pickle called safetensors": (FILE, pickled(FILE)),
        "bare pickle": (FILE, pickled(FILE, 4)),
        "old pickle": ("x.pth", pickled("x.pth", 0)),
    }


def card_faults() -> dict[str, tuple[str, Prepare]]:
    """Return file names and makers of weights whose card does not fit the tensors."""
    bare: Prepare = lambda folder: save_tensors(folder / FILE, {"a": torch.ones(2)}, {})  # noqa: E731
    return {
        "no card": (FILE, bare),
        "of another network": ("dvae.safetensors", NOTHING),
        "broken card": (FILE, weights(FILE, text={"config": "{"})),
        "card is a list": (FILE, weights(FILE, text={"config": "[1]"})),
        "deep card": (FILE, weights(FILE, text={"config": "[" * 100_000})),
        "card of text": (FILE, weights(FILE, card={"radius": "four"})),
        "card with unknown key": (FILE, weights(FILE, card={"colour": 3})),
        "card says 0": (FILE, weights(FILE, card={"projected": 0})),
        "card says -1": (FILE, weights(FILE, card={"context": -1})),
        "card is huge": (FILE, weights(FILE, card={"decoder": [10**5, 10**5, 10**5]})),
        "card is long": (FILE, weights(FILE, card={"widths": [8] * 10**5})),
        "card of huge radius": (FILE, weights(FILE, card={"radius": 10**5})),
        "card says true": (FILE, weights(FILE, card={"radius": True})),
        "card says 3.0": (FILE, weights(FILE, card={"radius": 3.0})),
        "card of infinity": (FILE, weights(FILE, text={"config": '{"radius": Infinity}'})),
    }


def tensor_faults() -> dict[str, tuple[str, Prepare]]:
    """Return file names and makers of weights whose tensors do not fit their card."""
    return {
        "lacks a tensor": (FILE, weights(FILE, drop=True)),
        "a tensor too many": (FILE, weights(FILE, add=True)),
        "other shapes": (FILE, weights(FILE, every=lambda tensor: tensor[None])),
        "NaN": (FILE, weights(FILE, every=not_a_number)),
        "of complex numbers": (FILE, weights(FILE, every=lambda t: t.to(torch.complex64))),
    }


def not_finite() -> Iterator[Case]:
    """Yield weights of NaN for every command."""
    for command in CALLS:
        yield case_of("NaN", command, of_command(command, every=not_a_number),
                      "is not finite everywhere")  # fmt: skip


def of_another_network() -> Iterator[Case]:
    """Yield the weights of the flow network for commands that read another network's."""
    for command in (
        "train-gpt", "train-upsampler", "train-captioner", "train-reviser --dvae",
        "train-reviser --gpt", "train-reviser --start", "generate-video reviser",
    ):  # fmt: skip
        call = CALLS[command].format("net.safetensors")
        yield Case(f"weights of another network: {command}", call, message=ANSWER_OF_ANOTHER)


def of_another_network_by_command() -> Iterator[Case]:
    """Yield the weights of the transformer for commands that read another network's."""
    for command in (
        "describe-video captioner", "eval-video classifier", "eval-video dvae",
        "eval-video upsampler",
    ):  # fmt: skip
        call = CALLS[command].format("gpt.safetensors")
        yield Case(f"weights of another network: {command}", call)


def huge_cards() -> Iterator[Case]:
    """Yield cards of networks that no memory holds."""
    values = [str(number) for number in range(10**6)]
    for command, card in (
        ("generate-video gpt", {"width": 2**20, "heads": 1, "kv_heads": 1}),
        ("generate-video gpt", {"depth": 2**20}),
        ("generate-video dvae", {"widths": [2**20, 2**21, 2**22]}),
        ("describe-video captioner", {"vocabulary": 2**20}),
        ("describe-video captioner", {"hidden": 2**20}),
        ("generate-video captioner", {"kinds": 10**9}),
        ("generate-video upsampler", {"widths": [2**20, 2**20]}),
        ("generate-video reviser", {"widths": [2**20, 2**20]}),
        ("generate-video reviser", {"blocks": [2**20, 2**20]}),
        ("generate-video reviser", {"embedding": 2**16}),
        ("generate-video reviser", {"attributes": [["hair_color", values]]}),
    ):
        call = CALLS[command].format(FILE)
        name = f"weights card of {min(card)} is huge: {command.split()[1]}"
        yield Case(name, call, of_command(command, card=card))


def odd_cards() -> Iterator[Case]:
    """Yield cards in which one value is of a wrong type or outside its range."""
    odd: dict[tuple[str, str], Sequence[object]] = {
        ("describe-video", "norm"): ("x", None, [], 3),
        ("describe-video captioner", "apart"): (1e999, 10**30, 2**31, 4.0),
        ("eval-video classifier", "apart"): (1e999, math.nan, 10**30, 2**31),
        ("generate-video dvae", "groups"): (2**31, 10**30, True),
        ("generate-video upsampler", "residual"): (1e999, 10**30, 1e-300, "x"),
        ("generate-video upsampler", "sharpness"): (1e999, 10**30),
        ("generate-video reviser", "frames"): (0, 1e999, 10**30, 4.0, True),
        ("generate-video reviser", "embedding"): (math.nan, 2**31, [8]),
        ("generate-video reviser", "norm"): ("batch", None),
    }
    for (command, name), values in odd.items():
        for value in values:
            prepare = of_command(command, card={name: value})
            yield case_of(f"odd {name} {value}", command, prepare, f"({name} must be ")


def odd_vocabularies() -> Iterator[Case]:
    """Yield vocabularies in which one value is outside its range."""
    words: dict[str, tuple[Callable[[Any], object], str]] = {
        "text of 10**9": (lambda w: w.update(text_limit=10**9), "text_limit"),
        "text without end": (lambda w: w.update(text_limit=1e999), "text_limit"),
        "size without end": (lambda w: w["media"][0].update(size=1e999), "size of text"),
        "text on a grid": (lambda w: w["media"][0].update(grid=[1, 1, 1]), "text"),
        "grid of 10**9": (lambda w: w["media"][1].update(grid=[10**3] * 3), "grid of video"),
        "first 10**30": (lambda w: w["media"][1].update(first=10**30), "first of video"),
        "first 2": (lambda w: w["media"][1].update(first=2), "video"),
    }
    for fault, (change, name) in words.items():
        for command in ("describe-video", "describe-video captioner", "generate-video gpt"):
            prepare = of_command(command, words=change)
            message = f"its vocabulary is broken ({name} must "
            yield case_of(f"odd {fault}", command, prepare, message)


def odd_attributes() -> Iterator[Case]:
    """Yield cards of a reviser whose attributes are not names with values."""
    pairs = "(attributes must be names, each with its values)"
    attributes: dict[str, tuple[object, str]] = {
        "none at all": ([], "(attributes must be one or more)"),
        "a number": (3, pairs),
        "text": ("hair", pairs),
        "of a number": ([["hair_color", 3]], pairs),
        "of numbers": ([["hair_color", [1, 2]]], "(values of hair_color must be different texts)"),
        "without values": ([["hair_color"]], pairs),
        "a mapping": ({"hair_color": ["red", "blue"]}, pairs),
        "the same twice": ([["hair", []]] * 2, "(attributes must have different names)"),
    }
    command = "generate-video reviser"
    for fault, (value, message) in attributes.items():
        prepare = of_command(command, card={"attributes": value})
        yield case_of(f"odd attributes, {fault}", command, prepare, message)


def other_sizes() -> Iterator[Case]:
    """Yield whole weights of a reviser whose sizes do not fit the other networks."""
    for command, sizes, message in (
        ("generate-video reviser", {"frames": 2}, "revises 2 frames at a time"),
        ("train-reviser --start", {"frames": 2}, "frames must be 4"),
        ("generate-video reviser", {"widths": (8,) * 5, "blocks": (0,) * 5}, "multiple of 32"),
    ):

        def prepare(folder: Path, sizes: Mapping[str, Any] = sizes) -> None:
            settings = {"widths": (8, 16), "blocks": (1, 1), **sizes}
            net = reviser.Reviser(reviser.ReviserConfig((("hair_color", ("red",)),), **settings))
            save_network(folder / FILE, "reviser", net)

        yield case_of(f"of other {min(sizes)}", command, prepare, message)
