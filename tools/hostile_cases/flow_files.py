"""Broken flow files, and flow that is unknown everywhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import read_image
from hostile_cases.case import HEIGHT, HUGE, NOTHING, PAIR, WIDTH, Case, Prepare
from hostile_cases.harm import Evil, at, both, changed, copied, cut, flo, npy, pipe, put, zipped


def cases() -> Iterator[Case]:
    """Yield broken flow files, flow of another size, and flow that is unknown everywhere."""
    harm: dict[str, tuple[str, Prepare]] = {
        "empty": ("x.flo", put("x.flo", b"")),
        "cut off": ("x.flo", changed("x.flo", cut(0.5), "flow.flo")),
        "too long": ("x.flo", changed("x.flo", lambda data: data + b"0", "flow.flo")),
        "wrong magic": ("x.flo", changed("x.flo", at(0, b"HEIP"), "flow.flo")),
        "huge size": ("x.flo", put("x.flo", flo(HUGE, HUGE))),
        "negative size": ("x.flo", put("x.flo", flo(-3, 5, bytes(120)))),
        "lying size": ("x.flo", put("x.flo", flo(4000, 4000, bytes(80)))),
        "wrong extension": ("x.npy", copied("flow.flo", "x.npy")),
        "a picture": ("a.png", NOTHING),
        "pickle with code": ("x.npy", put("x.npy", npy(np.array([Evil()]), allow_pickle=True))),
        "zip out of its folder": ("x.npz", zipped("x.npz", {"../flow.npy": b"x" * 99})),
        "missing": ("x.flo", NOTHING),
        "pipe for a file": ("x.flo", pipe("x.flo")),
        "folder for a file": ("x.flo", put("x.flo/deep", "")),
    }
    for fault, (name, prepare) in harm.items():
        yield Case(f"flow {fault}: warp", f"warp a.png {name} -o out.png", prepare)
        yield Case(f"flow {fault}: show", f"show {name} -o out.png", prepare)
        if fault != "folder for a file":  # which is a list of files, of which there are none
            yield Case(f"flow {fault}: convert", f"convert {name} -o out.pfm", prepare)
    for fault in ("cut off", "huge size"):
        prepare = both(harm[fault][1], copied("x.flo", f"{PAIR}/flow.flo"))
        yield Case(f"flow {fault}: eval-flow", "eval-flow pairs --method zero", prepare)
    small: Prepare = lambda folder: write_flow(folder / "x.flo", torch.zeros(2, 3, 5))  # noqa: E731
    yield Case("flow of another size: warp", "warp a.png x.flo -o out.png", small)
    yield Case("flow of another size: show", "show x.flo --image a.png -o out.png", small)
    yield Case("flow of another size: show --error", "show flow.flo --error x.flo -o o.png", small)
    far: Prepare = lambda folder: write_flow(folder / "x.flo", torch.full((2, 4, 4), 600.0))  # noqa: E731
    yield Case("flow beyond KITTI's range: convert", "convert x.flo -o out.png", far)

    # Flow that is unknown everywhere is valid.
    nan = put("x.flo", flo(WIDTH, HEIGHT, struct.pack("<f", float("nan")) * (2 * HEIGHT * WIDTH)))

    def black(folder: Path, out: str) -> bool:
        return not bool(read_image(folder / "out.png").any())

    def unknown(folder: Path, out: str) -> bool:
        return not bool(read_flow(folder / "out.npz")[1].any())

    def nothing_measured(folder: Path, out: str) -> bool:
        return json.loads(out)["sets"][0]["epe"] is None

    yield Case("flow of NaN: warp", "warp a.png x.flo -o out.png", nan, 0, black)
    yield Case("flow of NaN: convert", "convert x.flo -o out.npz", nan, 0, unknown)
    yield Case("flow of NaN: show", "show x.flo -o out.png --legend", nan, 0)
    truth = both(nan, copied("x.flo", f"{PAIR}/flow.flo"))
    call = "eval-flow pairs --method zero --json"
    yield Case("flow of NaN: eval-flow", call, truth, 0, nothing_measured)
