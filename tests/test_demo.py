"""What tools/demo.py is called with: all else is run by ``make demo``."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def demo(load_tool, monkeypatch, tmp_path):
    """Return the tool, whose folder is one that was made before."""
    module = load_tool("demo")
    monkeypatch.setattr(module, "OUTPUT", tmp_path)
    (tmp_path / "index.html").write_text("made before")
    return module


@pytest.mark.parametrize(
    ("argument", "code", "said"),
    [("--help", 0, "What was in demo/ is deleted."), ("elsewhere", 2, "elsewhere")],
)
def test_nothing_is_deleted_before_arguments_are_read(
    demo, monkeypatch, capsys, argument, code, said
):
    monkeypatch.setattr(sys, "argv", ["demo.py", argument])
    monkeypatch.setattr(demo.shutil, "copyfile", lambda *paths: pytest.fail("it runs"))
    with pytest.raises(SystemExit) as stop:
        demo.main()
    assert stop.value.code == code
    assert said in " ".join("".join(capsys.readouterr()).split())
    assert (demo.OUTPUT / "index.html").read_text() == "made before"
