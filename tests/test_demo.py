"""What tools/demo.py is called with and calls: to run that is left to ``make demo``."""

import json
import shlex
import shutil
import sys

import pytest

import demo
from flowwarp.bundled import bundled
from flowwarp.cli import cli


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [("--help", 0, "What was in demo/ is deleted."), ("elsewhere", 2, "elsewhere")],
)
def test_nothing_is_deleted_before_arguments_are_read(
    monkeypatch, capsys, tmp_path, argument, code, message
):
    monkeypatch.setattr(demo, "OUTPUT", tmp_path)
    (tmp_path / "index.html").write_text("made before")
    monkeypatch.setattr(sys, "argv", ["demo.py", argument])
    monkeypatch.setattr(demo.shutil, "copyfile", lambda *paths: pytest.fail("it runs"))
    with pytest.raises(SystemExit) as stop:
        demo.main()
    assert stop.value.code == code
    assert message in " ".join("".join(capsys.readouterr()).split())
    assert (demo.OUTPUT / "index.html").read_text() == "made before"


def test_its_commands_exist(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "demo")
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    called = []

    def run(self, command, allowed=(0,)):
        name, *arguments = shlex.split(command)
        own = cli.get_command(None, name)
        given = own.make_context(name, arguments).params  # refuses what it does not know
        called.append(name)
        for option in ("output", "show", "occlusion"):
            if given.get(option):
                picture = bundled("datasets") / "sample" / "frame1.png"
                shutil.copyfile(picture, demo.OUTPUT / given[option])
        if name != "doctor":
            return "a skeleton"
        return json.dumps({"checks": [{"part": "self-test", **CHECK}, {"part": "torch", **CHECK}]})

    monkeypatch.setattr(demo.Demo, "run", run)
    demo.main()
    page = (demo.OUTPUT / "index.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 8
    assert "a skeleton</em>" in page
    assert "$" not in page  # a place of the page that nothing was put in
    assert {"warp", "flow", "show", "interpolate", "generate-video", "doctor"} <= {*called}


CHECK = {"state": "ok", "name": "sum", "text": "is right"}
