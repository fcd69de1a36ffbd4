"""Each kind of error: its exit code, and its line on stderr."""

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest

from flowwarp.cli._paths import name_folder_beside
from flowwarp.cli.errors import run
from flowwarp.errors import InputError, OutputError, SomeFailed

TORCH_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


TORCH_WINDOWS = RuntimeError("not enough memory: you tried to allocate 4000 bytes.")


TORCH_CUDA = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ...")


OPENCV = Exception("OpenCV(5.0.0) (-4:Insufficient memory) Failed to allocate 99 bytes in function")


REMEDY = "use smaller images, or close other programs"


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is in use stays")
def test_deleted_current_folder(tmp_path):
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
def test_empty_file_name_is_refused(call, inside, arguments):
    """A script with an unset variable passes one."""
    assert call(*arguments) == (3, [], ["flowwarp: '': is an empty file name"])


@pytest.mark.posix
def test_no_result_is_named_beside_the_root(tmp_path):
    """For example if a container has its images in ``/``."""
    with pytest.raises(click.UsageError, match="give -o FOLDER"):
        name_folder_beside(Path("/"), "flow")
    assert name_folder_beside(tmp_path, "flow") == tmp_path.with_name(f"{tmp_path.name}_flow")


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
def test_error_is_one_line_and_an_exit_code(outcome, fault, code, line):
    assert outcome(fault) == (code, "", [f"flowwarp: {line}"])


def test_out_of_memory_in_training_names_its_settings(capfd):
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
def test_out_of_memory_names_the_option_to_lower(capfd, name, remedy):
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


def test_success(outcome):
    assert outcome(None) == (0, "", [])
    assert outcome(7) == (7, "", [])


def test_failed_inputs_are_listed(outcome):
    assert outcome(SomeFailed(["a: x", "b: y"], 5)) == (
        5,
        "",
        ["flowwarp: a: x", "flowwarp: b: y", "flowwarp: 2 of 5 failed"],
    )


@pytest.mark.parametrize("fault", [ZeroDivisionError("zero"), OSError(errno.ENOENT, "x", "y")])
def test_internal_error_prints_a_traceback(outcome, fault):
    code, out, err = outcome(fault)
    assert (code, out) == (1, "")
    assert err[0] == "Traceback (most recent call last):"
    assert err[-2].startswith(type(fault).__name__)
    assert err[-1].startswith("flowwarp: internal error; please report it")


def test_usage_error_names_the_help(outcome):
    code, out, err = outcome(None, ["--nonsense"])
    assert (code, out, len(err)) == (2, "", 1)
    assert "--nonsense" in err[0]
    assert err[0].endswith("; see 'flowwarp --help'")
