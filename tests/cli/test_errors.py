"""How every kind of fault ends: its exit code, and one line on stderr."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import pytest

from flowwarp.cli import main
from flowwarp.cli._errors import run
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text
from flowwarp.errors import InputError, OutputError, SomeFailed
from flowwarp.io.video_reader import read_video

TORCH_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
TORCH_WINDOWS = RuntimeError("not enough memory: you tried to allocate 4000 bytes.")
TORCH_CUDA = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ...")
OPENCV = Exception("OpenCV(5.0.0) (-4:Insufficient memory) Failed to allocate 99 bytes in function")
REMEDY = "use smaller images, or close other programs"


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is in use stays")
def test_a_folder_that_was_deleted_is_said(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})"
    code += "; from flowwarp.cli import main; main(['show', 'a.flo'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    wanted = "flowwarp: the current folder has been deleted; change to another\n"
    assert done.stderr == wanted


@pytest.mark.parametrize(
    "arguments",
    [
        *(["warp", "", "a.flo"], ["warp", "a.png", ""], ["show", ""]),
        ["convert", "", "-o", "a.flo"],
        *(["flow", ""], ["flow", "a.png", ""], ["interpolate", ""], ["describe-video", ""]),
        *(["eval-flow", ""], ["train-flow", ""], ["train-dvae", ""], ["train-captioner", ""]),
        *(["train-gpt", "", "--dvae", "base"], ["train-upsampler", "", "--dvae", "base"]),
        ["train-reviser", "", "--dvae", "base", "--gpt", "base"],
    ],
)  # fmt: skip
def test_an_empty_name_is_not_the_folder_one_is_in(call, inside, arguments):
    """It is what a script gives whose variable is not set."""
    assert call(*arguments) == (3, [], ["flowwarp: '': is an empty file name"])


@pytest.mark.posix
def test_nothing_is_named_beside_the_root(tmp_path):
    """As of pictures in a container that has its data there."""
    with pytest.raises(click.UsageError, match="give -o FOLDER"):
        name_folder_beside(Path("/"), "flow")
    assert name_folder_beside(tmp_path, "flow") == tmp_path.with_name(f"{tmp_path.name}_flow")


@pytest.fixture
def outcome(capfd):
    """Run a command that raises; return exit code, stdout and stderr lines."""

    def run_it(fault, arguments=()):
        @click.command()
        def command():
            if isinstance(fault, BaseException):
                raise fault
            return fault

        with pytest.raises(SystemExit) as stop:
            run(command, arguments)
        captured = capfd.readouterr()
        return stop.value.code, captured.out, captured.err.splitlines()

    return run_it


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (click.UsageError("no\nsuch"), 2, "no such; see 'flowwarp --help'"),
        (InputError("a.flo", "is empty"), 3, "a.flo: is empty"),
        (OutputError("a.flo", "exists"), 4, "a.flo: exists"),
        (OSError(errno.ENOSPC, "x", "a.flo"), 4, "a.flo: no space left on device"),
        (OSError(errno.EROFS, "x"), 4, "output: read-only file system"),
        (PermissionError(errno.EACCES, "x", "a/b.png"), 3, "a/b.png: permission denied"),
        (MemoryError(), 6, f"out of memory; {REMEDY}"),
        (TORCH_CPU, 6, f"out of memory: cannot allocate 4000000000000000 bytes; {REMEDY}"),
        (TORCH_WINDOWS, 6, f"out of memory: cannot allocate 4000 bytes; {REMEDY}"),
        (TORCH_CUDA, 6, f"out of memory: cannot allocate 2.00 GiB; {REMEDY}"),
        (OPENCV, 6, f"out of memory: cannot allocate 99 bytes; {REMEDY}"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
    ],
)
def test_a_fault_is_one_line_and_a_code(outcome, fault, code, line):
    assert outcome(fault) == (code, "", [f"flowwarp: {line}"])


def test_out_of_memory_in_a_training_names_its_settings(capfd):
    @click.group()
    def group():
        pass

    @group.command("train-flow")
    def command():
        raise MemoryError

    with pytest.raises(SystemExit) as stop:
        run(group, ["train-flow"])
    assert stop.value.code == 6
    assert capfd.readouterr().err == (
        "flowwarp: out of memory; lower batch_size, or raise accumulate, or close other programs\n"
    )


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("generate-video", "lower --best-of or --candidates"),
        ("describe-video", "lower --best-of"),
        ("datasets", "lower --size"),
        ("flow", "use smaller images"),
    ],
)
def test_out_of_memory_names_what_takes_it(capfd, name, remedy):
    @click.group()
    def group():
        pass

    @group.command(name)
    def command():
        raise MemoryError

    with pytest.raises(SystemExit):
        run(group, [name])
    assert capfd.readouterr().err == (
        f"flowwarp: out of memory; {remedy}, or close other programs\n"
    )


def test_no_fault(outcome):
    assert outcome(None) == (0, "", [])
    assert outcome(7) == (7, "", [])


def test_some_failed_lists_them(outcome):
    assert outcome(SomeFailed(["a: x", "b: y"], 5)) == (
        5,
        "",
        ["flowwarp: a: x", "flowwarp: b: y", "flowwarp: 2 of 5 failed"],
    )


@pytest.mark.parametrize("fault", [ZeroDivisionError("zero"), OSError(errno.ENOENT, "x", "y")])
def test_our_bug_shows_where_and_asks_for_a_report(outcome, fault):
    code, out, err = outcome(fault)
    assert (code, out) == (1, "")
    assert err[0] == "Traceback (most recent call last):"
    assert err[-2].startswith(type(fault).__name__)
    assert err[-1].startswith("flowwarp: internal error; please report it")


def test_a_pipe_that_nobody_reads_on_windows(outcome, monkeypatch):
    """Which has no number of its own for that; elsewhere, and of a file, it is a bug."""
    fault = OSError(errno.EINVAL, "Invalid argument")
    assert outcome(fault)[0] == 1
    monkeypatch.setattr(sys, "platform", "win32")
    assert outcome(fault) == (141, "", [])
    assert outcome(OSError(errno.EINVAL, "Invalid argument", "a.flo"))[0] == 1


def test_a_flush_that_nobody_reads_on_windows(outcome, monkeypatch):
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


def test_usage_points_to_the_right_help(outcome):
    code, out, err = outcome(None, ["--nonsense"])
    assert (code, out, len(err)) == (2, "", 1)
    assert "--nonsense" in err[0]
    assert err[0].endswith("; see 'flowwarp --help'")


def test_the_signal_handler_is_put_back_and_threads_need_none(outcome):
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


# A command that has begun to write a file when a signal comes.
WRITING = """
import sys, time
import click
from flowwarp.cli._errors import run
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text
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
def test_a_signal_leaves_no_half_written_file(tmp_path, name, code, word):
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


# One that gets the signals that it was started to ignore, and one more.
STARTED = """
import signal
import click
from flowwarp.cli._errors import run
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text

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
def test_what_it_was_started_to_ignore_it_ignores():
    """As by nohup, or in the background of a shell."""
    done = flowwarp(script=STARTED, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (
        143, "goes on\ngoes on\n", "flowwarp: terminated\n",
    )  # fmt: skip


# One whose terminal is closed while it shows how far it is; a shell then sends it the signal too.
HUNG_UP = """
import os, signal, time
import click
from flowwarp.cli._errors import run
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text
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
def test_a_closed_terminal_leaves_no_half_written_file(tmp_path):
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


# One that is interrupted a second time while it cleans up, and a third time as it ends.
CLEANING = """
import atexit, os, signal, sys, time
import click
from flowwarp.cli._errors import run
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text

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
def test_interrupted_again_and_again():
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


# One that is interrupted again when Python has gone, and its handlers with it.
GONE = """
import ctypes, signal, sys
import click
from flowwarp.cli._errors import run
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text

library = ctypes.CDLL(None)  # of C: what is registered here is called after all of Python
library["__cxa_atexit"](library["raise"], ctypes.c_void_p(signal.SIGINT), None)

@click.command()
def command():
    signal.raise_signal(signal.SIGINT)

sys.argv = ["flowwarp"]
run(command)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="by the names of glibc")
def test_interrupted_at_the_very_end():
    done = flowwarp(script=GONE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (130, "flowwarp: interrupted\n")


GARBAGE = """
import atexit, gc, os, sys
import click
from flowwarp.cli._errors import run

atexit.register(lambda: print("frozen", gc.get_freeze_count() > 0, flush=True))
command = click.command(lambda: print("threshold", gc.get_threshold()[0]))
sys.argv = ["flowwarp"]
run(command)
"""


def test_no_garbage_is_looked_for_among_what_stays():
    """Torch alone would make its import, and its end, take half a second more."""
    done = flowwarp(script=GARBAGE, stdout=subprocess.PIPE)
    assert done.stdout.split("\n") == ["threshold 50000", "frozen True", ""]


# What is printed, unlike what is echoed, waits for the end.
PRINTING = """
import click
from flowwarp.cli._errors import run
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text
run(click.command(lambda: print("late")), [])
"""


def flowwarp(*arguments, script=None, **streams):
    program = ["-c", script] if script else ["-m", "flowwarp", *arguments]
    return subprocess.run([sys.executable, *program], text=True, **streams)


def test_a_pipe_that_nobody_reads():
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
def test_streams_that_are_closed(closed, shown):
    call = f"{sys.executable} -m flowwarp datasets info digits {closed}"
    done = subprocess.run(["sh", "-c", call], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("digits: ") if shown else done.stdout == ""


@pytest.mark.posix
def test_no_file_is_taken_for_a_stream_that_is_closed(tmp_path):
    call = f"{sys.executable} -m flowwarp datasets make digits -o out --count 1 --size 16"
    closed = f"{call} <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", closed], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(read_video(tmp_path / "out/000000.mp4"))) == 16
    assert (tmp_path / "out/captions.csv").read_text().splitlines()[0] == "file,caption"


@pytest.mark.posix
def test_prompts_from_a_stream_that_is_closed(tmp_path):
    call = f"{sys.executable} -m flowwarp generate-video --prompts - -o x <&-"
    done = subprocess.run(["sh", "-c", call], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "flowwarp: -: holds no prompt; write one a line\n"


# Letters that not every locale has, printed in two ways.
LETTERS = """
import sys
import click
from flowwarp.cli._errors import run
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text
from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli._report import print_text

@click.command()
def command():
    print_text("1\\u00b0 \\ufffd \\u0416")
    click.echo("1\\u00b0 \\ufffd \\u0416")

sys.argv = ["flowwarp"]
run(command)
"""


@pytest.mark.parametrize("coding", ["utf-8", "ascii", "iso8859-5"])
def test_letters_that_the_locale_has_not(coding):
    environment = {**os.environ, "PYTHONIOENCODING": coding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", LETTERS], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_obeys_no_name(capfdbinary, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_text("a\x1b]0;b\udcff.png\nc")
    wanted = "a\N{REPLACEMENT CHARACTER}]0;b\N{REPLACEMENT CHARACTER}.png\nc\n".encode()
    assert capfdbinary.readouterr().out == (wanted if terminal else b"a\x1b]0;b\xff.png\nc\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_behind_stdout():
    with Path("/dev/full").open("w") as full:
        done = flowwarp("--help", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (4, "flowwarp: output: no space left on device\n")
