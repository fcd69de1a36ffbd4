"""Broken pictures, and valid ones that are not 8-bit RGB."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import torch

from flowwarp.io.flow_files import read_flow
from flowwarp.io.images import read_image_with_format
from hostile_cases.case import HUGE, NET, NOTHING, PAIR, VIDEO_NETS, Case, Prepare
from hostile_cases.harm import at, both, changed, copied, cut, flo, instead, pillow, png, put, saved


def broken() -> Iterator[Case]:
    """Yield broken pictures."""
    jpeg, webp = saved(pillow("RGB"), "JPEG"), saved(pillow("RGB"), "WEBP", lossless=True)
    tiff = saved(pillow("RGB"), "TIFF", compression="tiff_deflate")
    flip = lambda data: at(60, bytes([data[60] ^ 1]))(data)  # noqa: E731
    harm: dict[str, tuple[str, Prepare]] = {
        "empty": ("x.png", put("x.png", b"")),
        "text": ("x.png", put("x.png", "not a picture\n" * 9)),
        "cut off png": ("x.png", changed("x.png", cut(0.6), "a.png")),
        "cut off jpg": ("x.jpg", put("x.jpg", cut(0.6)(jpeg))),
        "cut off webp": ("x.webp", put("x.webp", cut(0.6)(webp))),
        "cut off tif": ("x.tif", put("x.tif", cut(0.6)(tiff))),
        "bit flipped": ("x.png", changed("x.png", flip, "a.png")),
        "huge size": ("x.png", put("x.png", png(HUGE, HUGE, zlib.compress(b"0")))),
        "lying size": ("x.png", put("x.png", png(9000, 9000, zlib.compress(bytes(999))))),
        "bomb": ("x.png", put("x.png", png(11000, 11000, zlib.compress(bytes(2**20)) * 400))),
        "no number": ("x.tif", put("x.tif", saved(pillow("F"), "TIFF"))),
        "missing": ("x.png", NOTHING),
    }
    for fault, (name, prepare) in harm.items():
        yield Case(f"picture {fault}: warp", f"warp {name} flow.flo -o out.png", prepare)
        yield Case(f"picture {fault}: flow", f"flow a.png {name} {NET} -o out.flo", prepare)
        call = f"interpolate a.png {name} {NET} -o out.png"
        yield Case(f"picture {fault}: interpolate", call, prepare)
        call = f"generate-video dog --image {name} {VIDEO_NETS} -o out.mp4"
        yield Case(f"picture {fault}: generate-video", call, prepare)
    folder = instead("x.png")
    yield Case("picture is a folder: warp", "warp x.png flow.flo -o new/", folder)
    yield Case("picture is a folder: flow", f"flow a.png x.png {NET} -o new/", folder)
    for fault in ("cut off png", "huge size"):
        prepare = both(harm[fault][1], copied("x.png", f"{PAIR}/frame2.png"))
        yield Case(f"picture {fault}: eval-flow", "eval-flow pairs --method zero", prepare)
        call = "show flow.flo --image x.png -o out.png"
        yield Case(f"picture {fault}: show", call, harm[fault][1])


def unusual() -> Iterator[Case]:
    """Yield valid pictures that are not 8-bit RGB: zero flow must return them unchanged."""
    odd = {
        "grey": saved(pillow("L"), "PNG"),
        "RGBA": saved(pillow("RGBA"), "PNG"),
        "palette": saved(pillow("P"), "PNG"),
        "one bit": saved(pillow("1"), "PNG"),
        "16-bit": saved(pillow("I;16"), "PNG"),
        "CMYK": saved(pillow("CMYK"), "JPEG", quality=95),
        "jpg called png": saved(pillow("RGB"), "JPEG"),
    }

    def unchanged(folder: Path, out: str) -> bool:
        one, form = read_image_with_format(folder / "x.png")
        two, other = read_image_with_format(folder / "out.png")
        return torch.equal(one, two) and form == other

    def all_known(folder: Path, out: str) -> bool:
        return bool(read_flow(folder / "out.flo")[1].all())

    for kind, data in odd.items():
        prepare = put("x.png", data)
        name = f"odd picture {kind}"
        yield Case(f"{name}: warp", "warp x.png zero.flo -o out.png", prepare, 0, unchanged)
        yield Case(f"{name}: flow", f"flow x.png x.png {NET} -o out.flo", prepare, 0, all_known)

    dot = both(put("x.png", png(1, 1, zlib.compress(b"\0abc"))), copied("x.png", "y.png"))
    still = both(dot, put("x.flo", flo(1, 1, bytes(8))))
    name = "odd picture of 1 pixel"
    for quality in ("fast", "balanced", "best"):
        call = f"flow x.png y.png --weights net.safetensors --quality {quality} -o out.flo"
        yield Case(f"{name}: flow {quality}", call, dot, 0, all_known)
    call = f"interpolate x.png y.png {NET} -o out.png"
    yield Case(f"{name}: interpolate", call, dot, 0, unchanged)
    yield Case(f"{name}: warp", "warp x.png x.flo -o out.png", still, 0, unchanged)
    yield Case(f"{name}: show", "show x.flo -o out.png", still, 0)
    pair = both(still, *(copied("x.png", f"{PAIR}/frame{number}.png") for number in (1, 2)),
                copied("x.flo", f"{PAIR}/flow.flo"))  # fmt: skip
    for method, code in (("zero", 0), ("dis", 3), ("farneback", 0)):
        call = f"eval-flow pairs --method {method}"
        yield Case(f"{name}: eval-flow {method}", call, pair, code)
    name = "odd picture of another size"
    yield Case(f"{name}: flow", f"flow a.png x.png {NET} -o out.flo", dot)
    yield Case(f"{name}: interpolate", f"interpolate a.png x.png {NET} -o out.png", dot)
    half = both(dot, copied("x.png", f"{PAIR}/frame2.png"))
    yield Case(f"{name}: eval-flow", "eval-flow pairs --method zero", half)
