"""Tables of captions, CSV or JSON lines: the name of a video and its caption in each row.

* ``.csv``: the first line names the columns;
* ``.jsonl``: a JSON object in each line, as ``metadata.jsonl`` of Hugging Face's VideoFolder.

The video is ``file`` or ``file_name``, the caption ``caption``, ``text`` or ``prompt``, and the
first of these that is there counts. Tables are in UTF-8.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowwarp.data.captioned_tar import skip, to_line
from flowwarp.errors import InputError
from flowwarp.io.files import open_input

FILE_FIELDS = ("file", "file_name")
CAPTION_FIELDS = ("caption", "text", "prompt")
TABLE_EXTENSIONS = frozenset({".csv", ".jsonl"})
_MAX_BYTES = 2**28  # of a table


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        line: its first line in the file, from 1.
        file: the video as the table names it, not checked.
        caption: in one line; never empty.
    """

    line: int
    file: str
    caption: str


def read_table(path: Path, skipped: list[str]) -> Iterator[Row]:
    """Yield the rows of a table that have a file and a caption.

    Args:
        path: a .csv or .jsonl file.
        skipped: messages about the other rows are appended to it; they are logged as well.

    Raises:
        InputError: it cannot be read, is not in UTF-8, or is no table of captions.
    """
    text = _read_text(path)
    is_csv = path.suffix.lower() == ".csv"
    rows = _read_csv(path, text, skipped) if is_csv else _read_jsonl(path, text, skipped)
    for line, name, caption in rows:
        if caption:
            yield Row(line, name, caption)
        else:
            skip(f"{path}: line {line}: the caption of {name!r} is empty or no text", skipped)


def _read_text(path: Path) -> str:
    with open_input(path) as (file, size):
        if size > _MAX_BYTES:
            raise InputError(path, f"has {size} bytes", "split it over several folders")
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise InputError(path, f"is not in UTF-8 ({fault})", "save it as UTF-8") from fault


# ------------------------------------------------------------------ CSV


def _read_csv(path: Path, text: str, skipped: list[str]) -> Iterator[tuple[int, str, str]]:
    (_, header), *rows = _csv_rows(path, text) or [(1, [])]
    file_field, caption_field = _field(header, FILE_FIELDS), _field(header, CAPTION_FIELDS)
    is_known = file_field and caption_field
    if not is_known or header.count(file_field) != 1 or header.count(caption_field) != 1:
        begin = ",".join(header)[:60]
        advice = "its first line must be file,caption, or have both among others, parted by commas"
        raise InputError(path, f"begins with {begin!r}", advice)
    if not rows:
        skip(f"{path}: has no row below its first line", skipped)
    for line, row in rows:
        if any(row[len(header) :]):  # the caption would be cut there
            skip(f"{path}: line {line}: a comma too many; quote captions that hold any", skipped)
        else:
            known = dict(zip(header, row, strict=False))
            yield line, known.get(file_field, ""), to_line(known.get(caption_field, ""))


def _field(names: Collection[str], choices: tuple[str, ...]) -> str:
    """Return the first choice that is among the names; if none is, an empty string."""
    return next((choice for choice in choices if choice in names), "")


def _csv_rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return (number of its first line, fields) of each row of a table, the header included.

    Raises:
        InputError: a quote is not closed, or text follows a closing quote: all up to the next quote
            would be read as one caption.
    """
    reader = csv.reader(io.StringIO(text, newline=None), strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as fault:
        advice = "close each quote, and write those within a caption twice"
        raise InputError(path, f"line {line} begins no row of a table ({fault})", advice) from fault
    return rows


# ------------------------------------------------------------------ JSON lines


def _read_jsonl(path: Path, text: str, skipped: list[str]) -> Iterator[tuple[int, str, str]]:
    rows = [(line, _object(text)) for line, text in enumerate(text.split("\n"), 1) if text.strip()]
    if not any(_field(row, FILE_FIELDS) for _, row in rows if row):
        advice = f"each line must be as {json.dumps({'file': 'dog.mp4', 'caption': 'a dog'})}"
        raise InputError(path, f"has no line with any of {', '.join(FILE_FIELDS)}", advice)
    for line, row in rows:
        name = row and row.get(_field(row, FILE_FIELDS))
        if not row or not isinstance(name, str):
            skip(f"{path}: line {line}: is no JSON object with a file's name", skipped)
        else:
            yield line, name, to_line(row.get(_field(row, CAPTION_FIELDS)))


def _object(text: str) -> dict[str, Any] | None:
    """Return the object in a line of JSON; None if it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
