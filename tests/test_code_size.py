import pytest

import code_size

SOURCE = '''"""A module.

Two paragraphs.
"""
# a comment
import os


def call(
    first,  # trailing
    second="""text
over lines""",
):
    """Do it."""
    return os.getcwd()


class Empty:
    """Holds nothing."""
'''

C_SOURCE = """// a comment
#include <x>

/* two
   lines */ int a = 1;  // "b"
const char* text = "// not a comment";
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(code_size, "ROOT", tmp_path)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return write


def test_docstrings_comments_and_blank_lines_are_no_code(tree):
    assert code_size.code_lines(tree("a.py", SOURCE)) == {6, 9, 10, 11, 12, 13, 15, 18}


def test_comments_of_c_are_no_code(tree):
    assert code_size.code_lines(tree("a.h", C_SOURCE)) == {2, 5, 6}


def test_each_tracked_file_has_one_area():
    for path in code_size.source_files():
        assert code_size.area_of(path)
    with pytest.raises(ValueError, match="belongs to no area"):
        code_size.area_of("elsewhere/file.py")


def test_what_is_over_a_limit_is_found(tree):
    body = "".join(f"    x = {number}\n" for number in range(70))
    name = tree("flowwarp/cli/a.py", f"def long(a, b, c, d, e, f, g, h, i):\n{body}")
    found = list(code_size.over_limits({name: 401}))
    assert [fault.split(": ")[1].split(",")[0] for fault in found] == [
        "401 lines of code",
        "71 lines of code",
        "9 parameters",
    ]


def test_methods_do_not_count_self_and_entry_points_have_no_limit(tree):
    signature = "a, b, c, d, e, f, g, h"
    method = f"class A:\n    def call(self, {signature}):\n        pass\n"
    command = f"def command({signature}, i):\n    pass\n"
    name = tree("flowwarp/cli/a.py", method + command)
    assert list(code_size.over_limits({name: 1})) == []
