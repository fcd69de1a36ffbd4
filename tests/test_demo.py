"""What tools/demo.py is called with: all else is run by ``make demo``."""

import sys

import pytest

import demo


@pytest.mark.parametrize(
    ("argument", "code", "said"),
    [("--help", 0, "What was in demo/ is deleted."), ("elsewhere", 2, "elsewhere")],
)
def test_nothing_is_deleted_before_arguments_are_read(
    monkeypatch, capsys, tmp_path, argument, code, said
):
    monkeypatch.setattr(demo, "OUTPUT", tmp_path)
    (tmp_path / "index.html").write_text("made before")
    monkeypatch.setattr(sys, "argv", ["demo.py", argument])
    monkeypatch.setattr(demo.shutil, "copyfile", lambda *paths: pytest.fail("it runs"))
    with pytest.raises(SystemExit) as stop:
        demo.main()
    assert stop.value.code == code
    assert said in " ".join("".join(capsys.readouterr()).split())
    assert (demo.OUTPUT / "index.html").read_text() == "made before"
