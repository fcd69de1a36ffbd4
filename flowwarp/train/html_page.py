"""Pages that are one file each: pictures and videos stand in them, and nothing is loaded."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from torch import Tensor

from flowwarp.errors import printable
from flowwarp.io.atomic import atomic_output
from flowwarp.io.video_writer import write_video

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72em;
       margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em }
pre { background: #f5f5f5; padding: 1em; overflow-x: auto; font-size: 13px }
table { border-collapse: collapse } td, th { padding: .2em 1em .2em 0; text-align: left }
img { image-rendering: pixelated; max-width: 100% }
.row { display: flex; flex-wrap: wrap; gap: 1em }
figure { margin: 0; width: 200px } figure img { width: 100% }
figcaption { font-size: 13px; overflow-wrap: anywhere }
.chart text { font: 11px system-ui, sans-serif; fill: #444 }
"""


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page.

    Args:
        path: the file, which is replaced.
        title: of the page; it is escaped.
        parts: HTML, as the functions below return it.

    Raises:
        OutputError: it cannot be written.
    """
    # The policy forbids scripts and anything from elsewhere, should a caption ever get around
    # `text`.
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{text(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    with atomic_output(path) as temporary:
        temporary.write_text(page, "utf-8")


def text(content: str) -> str:
    """Return text of a user as HTML; control characters and lone surrogates are replaced."""
    return escape("\n".join(printable(line) for line in content.split("\n")))


def heading(title: str, explanation: str = "") -> str:
    """Return the heading of a section, and a paragraph below it."""
    return f"<h2>{text(title)}</h2>" + (f"<p>{text(explanation)}</p>" if explanation else "")


def table(rows: Iterable[Sequence[object]]) -> str:
    """Return a table whose first row is its head."""
    first, *rest = ([text(str(cell)) for cell in row] for row in rows)
    lines = ["".join(f"<th>{cell}</th>" for cell in first)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rest]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def row(figures: Iterable[str]) -> str:
    """Return figures side by side."""
    return f'<div class="row">{"".join(figures)}</div>'


def figure(video: Tensor, fps: float, caption: str) -> str:
    """Return a video (T, 3, H, W) in [0, 1] that plays without end, with a caption below."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.webp")
        write_video(path, video, fps)
        picture = embedded(path.read_bytes(), "webp")
    return f"<figure>{picture}<figcaption>{text(caption)}</figcaption></figure>"


def embedded(data: bytes, kind: str) -> str:
    """Return a picture whose bytes are in the page; ``kind`` is such as png."""
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
