"""Changes of a valid file: of bytes, of numbers in headers, and of values in JSON."""

from __future__ import annotations

import io
import json
import lzma
import math
import random
import re
import struct
import zipfile
import zlib
from typing import Any

from flowwarp.data.media import VOCABULARY

# Values of header fields: sign bits, overflows, and products that overflow.
NUMBERS = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1)

WORDS = (b"-1", b"0", b"99999999999999999999", b"1e999", b"nan", b"|O", b"<c8", b"<f8", b"True")

# Values of fields of a card.
ODD: tuple[object, ...] = (
    0, 1, 2, 7, 100, -1, 2**15, 2**31 - 1, 2**31, 2**63, 10**9, 10**30, 0.0, 0.5, 1e-308, 1e308,
    -1e308, math.inf, -math.inf, math.nan, "", "x", "4", "none", "group", "video", None, True,
    False, [], {}, [1], [[2, 2]], [2, 2, 2], {"name": 1},
)  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a file in one to four places, mostly where its headers are."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        # Headers are at the beginning; a zip and some mp4 files have one at the end.
        where = rng.choice((16, 64, 64, len(out), len(out)))
        at = rng.randrange(min(where, len(out)))
        if rng.random() < 0.15:
            at = len(out) - 1 - at
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind in (2, 3):
            width, order = rng.choice((2, 4)), rng.choice("<>")
            value = rng.choice(NUMBERS) % 2 ** (8 * width)
            out[at : at + width] = struct.pack(order + {2: "H", 4: "I"}[width], value)
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 6:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?|<f4|False", out[:128]))
            if numbers:
                found = rng.choice(numbers)
                out[found.start() : found.end()] = rng.choice(WORDS)
    return bytes(out)


def fix_png(data: bytes) -> bytes:
    """Correct the checksums, so that mutated data is decoded, too."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        out += data[at : end - 4] + struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        at = end
    return out + data[at:]


def mutate_npz(data: bytes, rng: random.Random) -> bytes:
    """Mutate an array inside a valid archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), mutate(old.read(name), rng))
    return buffer.getvalue()


def fix_tar(data: bytes) -> bytes:
    """Correct the checksum of the first header."""
    if len(data) < 512:
        return data
    total = sum(data[:148]) + sum(data[156:512]) + 8 * ord(" ")
    return data[:148] + b"%06o\0 " % total + data[156:]


def fix_weights(data: bytes) -> bytes:
    """Remove the checksum of the tensors, so that changed tensors are read."""
    return data.replace(b'"sha256"', b'"sha255"', 1)


def mutate_card(data: bytes, rng: random.Random) -> bytes:
    """Put odd values into the card of weights, and leave the tensors unchanged."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    card = header["__metadata__"]
    part = rng.choice([name for name in ("config", VOCABULARY) if name in card])
    tree = json.loads(card[part])
    for _ in range(rng.randint(1, 3)):
        tree = change_json(tree, rng)
    card[part] = json.dumps(tree)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[start:]


def change_json(tree: Any, rng: random.Random) -> Any:
    """Return a JSON value with one change in it."""
    if isinstance(tree, dict | list) and tree and rng.random() < 0.95:
        new: Any = tree.copy()
        key: Any = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        kind = rng.randrange(10)
        if kind == 0:
            del new[key]
        elif kind == 1 and isinstance(tree, dict):
            new["more"] = rng.choice(ODD)
        elif kind == 1:
            new.insert(key, rng.choice((tree[key], *ODD)))
        elif kind == 2:  # readers of objects ignore the order
            new = dict(reversed(tree.items())) if isinstance(tree, dict) else tree[::-1]
        else:
            new[key] = change_json(tree[key], rng)
        return new
    if isinstance(tree, int | float) and rng.random() < 0.4:
        return rng.choice((tree + 1, tree - 1, 2 * tree, -tree, float(tree), str(tree)))
    return rng.choice(ODD)


def case(name: str, data: bytes, rng: random.Random) -> bytes:
    """Make one mutated file."""
    if name.startswith("card_"):
        return mutate_card(data, rng)
    if name == "tar" and rng.random() < 0.5:
        return fix_tar(mutate(data, rng))
    if name in ("weights", "state") and rng.random() < 0.5:
        return mutate(fix_weights(data), rng)
    if name == "xz" and rng.random() < 0.5:
        return lzma.compress(mutate(lzma.decompress(data), rng), preset=0)
    if name == "npz" and rng.random() < 0.5:
        return mutate_npz(data, rng)
    mutated = mutate(data, rng)
    fix = name in ("kitti", "png", "png16") and rng.random() < 0.7
    return fix_png(mutated) if fix else mutated
