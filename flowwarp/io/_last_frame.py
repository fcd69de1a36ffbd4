"""For how long the last frame of an animated picture is shown, which ffmpeg does not write."""

from __future__ import annotations

import zlib
from fractions import Fraction
from pathlib import Path

_LARGEST = 2**24 - 1  # ms, of a WebP
_FCTL_DELAY = 20  # offset of the delay in the frame control chunk, which has 26 bytes


def hold_last_frame(path: str | Path, seconds: Fraction) -> None:
    """Set for how long the last frame of a WebP or APNG is shown; other files stay as they are.

    ffmpeg repeats the time of the frame before. Sources: developers.google.com/speed/webp/docs/
    riff_container, "Animation"; the PNG specification, 3rd edition, 11.3.6.2.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".webp":
        _patch_webp(path, seconds)
    elif suffix == ".apng":
        _patch_apng(path, seconds)


def _patch_webp(path: Path, seconds: Fraction) -> None:
    last = None
    with path.open("r+b") as file:
        file.seek(12)  # after "RIFF", the size and "WEBP"
        while len(head := file.read(8)) == 8:
            start, size = file.tell(), int.from_bytes(head[4:], "little")
            if head[:4] == b"ANMF":
                last = start
            file.seek(start + size + size % 2)  # chunks are padded to an even size
        if last is not None:
            file.seek(last + 12)
            file.write(min(round(1000 * seconds), _LARGEST).to_bytes(3, "little"))


def _patch_apng(path: Path, seconds: Fraction) -> None:
    last = None
    with path.open("r+b") as file:
        file.seek(8)  # after the signature
        while len(head := file.read(8)) == 8:
            start, size = file.tell(), int.from_bytes(head[:4], "big")
            if head[4:] == b"fcTL":
                last = start
            file.seek(start + size + 4)  # the checksum
        if last is not None:
            delay = seconds.limit_denominator(1000)
            delay = min(delay, Fraction(65535))
            if delay.numerator > 65535:
                delay = Fraction(round(delay))
            file.seek(last)
            data = bytearray(file.read(26))
            data[_FCTL_DELAY : _FCTL_DELAY + 2] = delay.numerator.to_bytes(2, "big")
            data[_FCTL_DELAY + 2 : _FCTL_DELAY + 4] = delay.denominator.to_bytes(2, "big")
            file.seek(last)
            file.write(data)
            file.write(zlib.crc32(b"fcTL" + data).to_bytes(4, "big"))
