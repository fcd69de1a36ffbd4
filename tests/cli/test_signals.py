"""Signals that end a command, and what happens at exit."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from programs import flowwarp

from flowwarp.cli import main


def test_signal_handler_is_restored_and_threads_set_none(outcome):
    before = signal.getsignal(signal.SIGTERM)
    outcome(None)
    assert signal.getsignal(signal.SIGTERM) is before
    codes = []

    def call():
        try:
            main(["--version"])
        except SystemExit as stop:
            codes.append(stop.code)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert codes == [0]


# A command that is writing a file when the signal arrives.
WRITING = """
import sys, time
import click
from flowwarp.cli.errors import run
from flowwarp.io.atomic import atomic_output

@click.command()
def command():
    with atomic_output("out.png") as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        time.sleep(60)

run(command, [])
"""


@pytest.mark.posix
@pytest.mark.parametrize(
    ("name", "code", "word"),
    [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted"), ("SIGHUP", 129, "hung up")],
)
def test_signal_leaves_no_half_written_file(tmp_path, name, code, word):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.05)  # now it sleeps
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, f"flowwarp: {word}\n")
    assert list(tmp_path.iterdir()) == []


# A command that gets two signals it was started to ignore, and one more.
STARTED = """
import signal
import click
from flowwarp.cli.errors import run

@click.command()
def command():
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.raise_signal(number)
        print("goes on")

for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
run(command, [])
"""


@pytest.mark.posix
def test_signals_ignored_at_start_stay_ignored():
    """As under nohup or in the background of a shell."""
    done = flowwarp(script=STARTED, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (
        143, "goes on\ngoes on\n", "flowwarp: terminated\n",
    )  # fmt: skip


# The terminal closes while a progress bar is shown; the shell then sends SIGHUP as well.
HUNG_UP = """
import os, signal, time
import click
from flowwarp.cli.errors import run
from flowwarp.cli._report import progress_bar
from flowwarp.io.atomic import atomic_output

@click.command()
def command():
    try:
        with atomic_output("out.png"), progress_bar(range(9), "work") as bar:
            for _ in bar:
                open("writing", "w").close()
                time.sleep(60)
    finally:
        signal.raise_signal(signal.SIGHUP)
        open("cleaned", "w").close()

run(command, [])
"""


@pytest.mark.posix
def test_closed_terminal_leaves_no_half_written_file(tmp_path):
    import pty

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, [sys.executable, "-c", HUNG_UP], environment)
    limit = time.monotonic() + 30
    while not (tmp_path / "writing").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    time.sleep(0.05)  # now it sleeps
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cleaned", "writing"]


# A command that is interrupted again while it cleans up and at exit.
CLEANING = """
import atexit, os, signal, sys, time
import click
from flowwarp.cli.errors import run

atexit.register(lambda: (print("ending", flush=True), time.sleep(0.5)))

@click.command()
def command():
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)

sys.argv = ["flowwarp"]
run(command)
"""


@pytest.mark.posix
def test_interrupted_three_times():
    process = subprocess.Popen(
        [sys.executable, "-c", CLEANING],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for word in ("working", "cleaning", "ending"):
        assert process.stdout.readline() == f"{word}\n"
        time.sleep(0.05)  # now it sleeps
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "flowwarp: interrupted\n")


# A command that is interrupted again after Python, with its handlers, has exited.
GONE = """
import ctypes, signal, sys
import click
from flowwarp.cli.errors import run

library = ctypes.CDLL(None)  # libc: it calls this after Python has finished
library["__cxa_atexit"](library["raise"], ctypes.c_void_p(signal.SIGINT), None)

@click.command()
def command():
    signal.raise_signal(signal.SIGINT)

sys.argv = ["flowwarp"]
run(command)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="by the names of glibc")
def test_interrupted_after_python_has_exited():
    done = flowwarp(script=GONE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (130, "flowwarp: interrupted\n")


GARBAGE = """
import atexit, gc, os, sys
import click
from flowwarp.cli.errors import run

atexit.register(lambda: print("frozen", gc.get_freeze_count() > 0, flush=True))
command = click.command(lambda: print("threshold", gc.get_threshold()[0]))
sys.argv = ["flowwarp"]
run(command)
"""


def test_garbage_collection_is_rare_and_off_at_exit():
    """With torch, collecting garbage costs half a second."""
    done = flowwarp(script=GARBAGE, stdout=subprocess.PIPE)
    assert done.stdout.split("\n") == ["threshold 50000", "frozen True", ""]
