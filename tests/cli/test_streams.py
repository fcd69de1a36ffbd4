"""Standard streams that are closed, full, or in another encoding."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import flowwarp

from flowwarp.cli._report import print_text
from flowwarp.io.video_reader import read_video

# Unlike click.echo, print is flushed at exit.
PRINTING = """
import click
from flowwarp.cli.errors import run
run(click.command(lambda: print("late")), [])
"""


def test_closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = flowwarp("--help", stdout=writer, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (141, "")
        done = flowwarp(script=PRINTING, stdout=writer, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (141, "")
        done = flowwarp("nonsense", stdout=subprocess.PIPE, stderr=writer)
        assert (done.returncode, done.stdout) == (2, "")
    finally:
        os.close(writer)


@pytest.mark.posix
@pytest.mark.parametrize(("closed", "shown"), [("<&-", True), (">&-", False), ("2>&-", True)])
def test_closed_standard_streams(closed, shown):
    call = f"{sys.executable} -m flowwarp datasets info digits {closed}"
    done = subprocess.run(["sh", "-c", call], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("digits: ") if shown else done.stdout == ""


@pytest.mark.posix
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    call = f"{sys.executable} -m flowwarp datasets make digits -o out --count 1 --size 16"
    closed = f"{call} <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", closed], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(read_video(tmp_path / "out/000000.mp4"))) == 16
    assert (tmp_path / "out/captions.csv").read_text().splitlines()[0] == "file,caption"


@pytest.mark.posix
def test_prompts_from_closed_stdin(tmp_path):
    call = f"{sys.executable} -m flowwarp generate-video --prompts - -o x <&-"
    done = subprocess.run(["sh", "-c", call], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "flowwarp: -: holds no prompt; write one a line\n"


# Characters that some locales lack, printed in two ways.
LETTERS = """
import sys
import click
from flowwarp.cli.errors import run
from flowwarp.cli._report import print_text

@click.command()
def command():
    print_text("1\\u00b0 \\ufffd \\u0416")
    click.echo("1\\u00b0 \\ufffd \\u0416")

sys.argv = ["flowwarp"]
run(command)
"""


@pytest.mark.parametrize("coding", ["utf-8", "ascii", "iso8859-5"])
def test_characters_missing_in_the_locale(coding):
    environment = {**os.environ, "PYTHONIOENCODING": coding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", LETTERS], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_terminal_gets_no_control_characters(capfdbinary, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_text("a\x1b]0;b\udcff.png\nc")
    wanted = "a\N{REPLACEMENT CHARACTER}]0;b\N{REPLACEMENT CHARACTER}.png\nc\n".encode()
    assert capfdbinary.readouterr().out == (wanted if terminal else b"a\x1b]0;b\xff.png\nc\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_stdout_on_a_full_disk():
    with Path("/dev/full").open("w") as full:
        done = flowwarp("--help", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (4, "flowwarp: output: no space left on device\n")


def test_closed_pipe_on_windows(outcome, monkeypatch):
    """Windows reports EINVAL; elsewhere, and for a file, that is an internal error."""
    fault = OSError(errno.EINVAL, "Invalid argument")
    assert outcome(fault)[0] == 1
    monkeypatch.setattr(sys, "platform", "win32")
    assert outcome(fault) == (141, "", [])
    assert outcome(OSError(errno.EINVAL, "Invalid argument", "a.flo"))[0] == 1


def test_closed_pipe_at_the_last_flush_on_windows(outcome, monkeypatch):
    class Closed(io.StringIO):
        def flush(self):
            raise OSError(errno.EINVAL, "Invalid argument")

        def fileno(self):
            return descriptor

    descriptor = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "stdout", Closed())
    assert outcome(None) == (4, "", ["flowwarp: output: invalid argument"])
    monkeypatch.setattr(sys, "platform", "win32")
    assert outcome(None) == (141, "", [])
    os.close(descriptor)
