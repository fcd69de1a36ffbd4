"""Tables of captions: fields, faults by line, and lines that are no JSON."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowwarp.data.captioned_table import Row, read_table
from flowwarp.errors import InputError


def rows_of(path, text):
    """Return the rows of a table with some text, and the messages about those left out."""
    path.write_text(text, "utf-8", newline="")
    skipped = []
    return list(read_table(path, skipped)), [fault.removeprefix(f"{path}: ") for fault in skipped]


@pytest.mark.parametrize("file", ["file", "file_name"])
@pytest.mark.parametrize("caption", ["caption", "text", "prompt"])
def test_names_of_fields(tmp_path, file, caption):
    line = json.dumps({"id": 3, file: "a.mp4", caption: " a\ndog"})
    assert rows_of(tmp_path / "a.jsonl", line) == ([Row(1, "a.mp4", "a dog")], [])
    table = f"id,{caption},{file}\n3,a dog,a.mp4\n"
    assert rows_of(tmp_path / "a.csv", table) == ([Row(2, "a.mp4", "a dog")], [])


def test_the_first_field_counts(tmp_path):
    line = json.dumps({"prompt": "p", "text": "t", "file_name": "b.mp4", "file": "a.mp4"})
    assert rows_of(tmp_path / "a.JSONL", line)[0] == [Row(1, "a.mp4", "t")]
    table = "text,caption,file\nt,c,a.mp4\n"
    assert rows_of(tmp_path / "a.CSV", table)[0] == [Row(2, "a.mp4", "c")]


BROKEN_LINES = {
    "{": "is no JSON object with a file's name",
    "[" * 100_000: "is no JSON object with a file's name",
    "[1]": "is no JSON object with a file's name",
    '{"caption": "a"}': "is no JSON object with a file's name",
    '{"file": 3, "caption": "a"}': "is no JSON object with a file's name",
    '{"file": "a", "caption": 3}': "the caption of 'a' is empty or no text",
    '{"file": "a", "caption": " "}': "the caption of 'a' is empty or no text",
    '{"file": "a", "caption": "\\u0000"}': "the caption of 'a' is empty or no text",
    '{"file": "a", "caption": "\\ud83d"}': "the caption of 'a' is empty or no text",
    '{"file": "a"}': "the caption of 'a' is empty or no text",
}


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: line[:30])
def test_a_broken_line_is_left_out_alone(tmp_path, line):
    good = '{"file": "b", "caption": "c"}'
    rows, skipped = rows_of(tmp_path / "a.jsonl", f"{good}\r\n\r\n{line}\r\n{good}")
    assert rows == [Row(1, "b", "c"), Row(4, "b", "c")]
    assert skipped == [f"line 3: {BROKEN_LINES[line]}"]


@pytest.mark.parametrize("text", ["{", "[]\n3", '{"name": "a", "caption": "b"}', "\n"])
def test_json_lines_about_something_else(tmp_path, text):
    with pytest.raises(InputError, match=r'no line with any of file, file_name; .*"dog\.mp4"'):
        rows_of(tmp_path / "a.jsonl", text)


@pytest.mark.parametrize("header", ["file,", ",caption", "file,file,caption", "file"])
def test_a_csv_needs_both_columns_once(tmp_path, header):
    with pytest.raises(InputError, match="its first line must be file,caption"):
        rows_of(tmp_path / "a.csv", f"{header}\na,b,c\n")


def test_a_table_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("flowwarp.data.captioned_table._MAX_BYTES", 10)
    with pytest.raises(InputError, match="has 12 bytes; split it"):
        rows_of(tmp_path / "a.jsonl", "x" * 12)


WORDS = st.text(string.ascii_letters + "é猫", min_size=1)


@given(pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1), ascii_only=st.booleans())
def test_json_lines_are_read_as_written(tmp_path_factory, pairs, ascii_only):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    lines = [
        json.dumps({"file_name": file, "text": caption}, ensure_ascii=ascii_only)
        for file, caption in pairs
    ]
    rows, skipped = rows_of(path, "\n".join(lines))
    assert [(row.file, row.caption) for row in rows] == pairs
    assert [row.line for row in rows] == list(range(1, len(pairs) + 1))
    assert skipped == []
