import errno
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from flowwarp.errors import OutputError
from flowwarp.io import atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_output_appears_at_the_end(tmp_path):
    target = tmp_path / "a.MP4"
    target.write_bytes(b"old")
    with atomic.atomic_output(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"  # a muxer chooses by it
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.MP4"]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_atomic_output_leaves_nothing_behind(tmp_path, fault):
    target = tmp_path / "a.flo"
    target.write_bytes(b"old")

    def half():
        with atomic.atomic_output(target) as temporary:
            temporary.write_bytes(b"half")
            raise fault

    with pytest.raises(fault):
        half()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.flo"]


@pytest.mark.posix
def test_atomic_output_flushes_file_then_renames_then_flushes_folder(tmp_path, monkeypatch):
    calls = []

    def fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append(("folder" if is_folder else "file", (tmp_path / "a.flo").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic.atomic_output(tmp_path / "a.flo") as temporary:
        temporary.write_bytes(b"new")
    assert calls == [("file", False), ("folder", True)]


def without_links(*_, **__):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["links", "no links", "no such call"])
def _links(request, monkeypatch):
    if request.param == "no links":
        monkeypatch.setattr(os, "link", without_links)
    elif request.param == "no such call":
        monkeypatch.delattr(os, "link")


@pytest.mark.usefixtures("_links")
def test_atomic_output_does_not_replace_a_file_created_meanwhile(tmp_path):
    target = tmp_path / "a.mp4"

    def write():
        with atomic.atomic_output(target) as temporary:
            temporary.write_bytes(b"new")
            target.write_bytes(b"another's")

    with pytest.raises(OutputError, match=r"a.mp4: was created meanwhile; the result is") as fault:
        write()
    assert target.read_bytes() == b"another's"
    (temporary,) = tmp_path.glob(".flowwarp-*.mp4")
    assert temporary.read_bytes() == b"new"
    assert str(fault.value).endswith(str(temporary))
    with atomic.atomic_output(target) as temporary:  # now it is known to be there
        temporary.write_bytes(b"newer")
    assert target.read_bytes() == b"newer"


@pytest.mark.usefixtures("_links")
@pytest.mark.parametrize("there", [False, True])
def test_atomic_output_writes_new_and_removed_files(tmp_path, there):
    target = tmp_path / "a.mp4"
    if there:
        target.write_bytes(b"old")
    with atomic.atomic_output(target) as temporary:
        temporary.write_bytes(b"new")
        target.unlink(missing_ok=True)
    assert target.read_bytes() == b"new"
    assert target.stat().st_nlink == 1
    assert names(tmp_path) == ["a.mp4"]


@pytest.fixture
def in_use(monkeypatch):
    """Return a function that makes renames fail n times, as on Windows for an open file."""
    refused = []

    def refuse(count):
        replace = os.replace

        def refusing(source, target):
            if len(refused) < count:
                refused.append(source)
                raise PermissionError(errno.EACCES, "Access is denied")
            replace(source, target)

        monkeypatch.setattr(os, "replace", refusing)
        return refused

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "link", without_links)
    monkeypatch.setattr(atomic, "POLL", 0.001)
    monkeypatch.setattr(atomic, "_RENAME_SECONDS", 0.01)
    return refuse


@pytest.mark.parametrize("there", [False, True])
def test_renaming_on_windows_waits_for_a_file_in_use(tmp_path, in_use, monkeypatch, there):
    monkeypatch.setattr(atomic, "_RENAME_SECONDS", 60)
    refused = in_use(3)
    if there:
        (tmp_path / "a.mp4").write_bytes(b"old")
    with atomic.atomic_output(tmp_path / "a.mp4") as temporary:
        temporary.write_bytes(b"new")
    assert len(refused) == 3
    assert (tmp_path / "a.mp4").read_bytes() == b"new"
    with atomic.atomic_folder(tmp_path / "frames") as work:
        (work / "0.png").write_bytes(b"new")
    assert names(tmp_path) == ["a.mp4", "frames"]


@pytest.mark.parametrize("there", [False, True])
def test_a_result_that_windows_cannot_rename_stays(tmp_path, in_use, there):
    if there:
        (tmp_path / "a.mp4").write_bytes(b"old")
    in_use(10**9)
    with (
        pytest.raises(OutputError, match=r"a.mp4: access is denied; the result is") as fault,
        atomic.atomic_output(tmp_path / "a.mp4") as temporary,
    ):
        temporary.write_bytes(b"new")
    assert str(fault.value).endswith(str(temporary))
    assert temporary.read_bytes() == b"new"
    with (
        pytest.raises(OutputError, match=r"frames: access is denied; the result is") as fault,
        atomic.atomic_folder(tmp_path / "frames") as work,
    ):
        (work / "0.png").write_bytes(b"new")
    assert str(fault.value).endswith(str(work))
    assert names(work) == ["0.png"]


def test_of_nested_outputs_only_the_refused_one_stays(tmp_path):
    outer, inner = tmp_path / "outer.mp4", tmp_path / "inner.mp4"

    def write():
        with atomic.atomic_output(outer), atomic.atomic_output(inner):
            inner.write_bytes(b"another's")

    with pytest.raises(OutputError, match=r"inner.mp4: was created meanwhile"):
        write()
    assert len(names(tmp_path)) == 2
    assert not outer.exists()


@pytest.mark.posix
def test_a_refused_rename_is_not_retried_outside_windows(tmp_path, in_use, monkeypatch):
    refused = in_use(1)
    monkeypatch.setattr(sys, "platform", "linux")
    with (
        pytest.raises(OutputError, match=r"a.mp4: access is denied$"),
        atomic.atomic_output(tmp_path / "a.mp4") as temporary,
    ):
        temporary.write_bytes(b"new")
    assert len(refused) == 1
    assert names(tmp_path) == []


def test_full_disk_is_an_output_error(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        pytest.raises(OutputError, match="no space left"),
        atomic.atomic_output(tmp_path / "a.flo") as temporary,
    ):
        temporary.write_bytes(b"new")
    assert names(tmp_path) == []


def test_atomic_output_follows_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic.atomic_output(tmp_path / "link") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.posix
def test_atomic_output_never_replaces_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(OutputError, match="not a regular file"),
        atomic.atomic_output(tmp_path / "pipe"),
    ):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.posix
def test_atomic_output_keeps_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic.atomic_output(tmp_path / "a") as temporary:
            temporary.write_bytes(b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.posix
@pytest.mark.parametrize("mode", [0o600, 0o444, 0o664])
def test_atomic_output_keeps_the_permissions_of_what_it_replaces(tmp_path, mode):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(mode)
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with atomic.atomic_output(tmp_path / name) as temporary:
            temporary.write_bytes(b"new")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_an_error_in_an_atomic_folder_names_the_folder(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError) as caught, atomic.atomic_folder(tmp_path / "new") as work:
        raise OutputError(work / "0.png", "no space left on device") from full
    assert str(caught.value) == f"{tmp_path / 'new'}: no space left on device"
    with (
        pytest.raises(OutputError, match="elsewhere: broken"),
        atomic.atomic_folder(tmp_path / "new"),
    ):
        raise OutputError("elsewhere", "broken") from full
    assert names(tmp_path) == []


@pytest.mark.posix
def test_an_atomic_folder_is_renamed_then_flushes_the_one_above(tmp_path, monkeypatch):
    calls = []

    def fsync(descriptor):
        above = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        calls.append(("above" if above else "other", (tmp_path / "new").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic.atomic_folder(tmp_path / "new"):
        pass
    assert calls == [("above", True)]


def test_an_atomic_folder_follows_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic.atomic_folder(tmp_path / "link") as work:
        (work / "0.png").write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["0.png"]
    assert names(tmp_path) == ["link", "real"]


@pytest.mark.parametrize("there", [False, True])
def test_an_atomic_folder_on_windows(tmp_path, monkeypatch, there):
    """Windows does not replace folders, not even empty ones."""
    replace = os.replace

    def refusing(source, target):
        if Path(target).is_dir():
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    if there:
        (tmp_path / "new").mkdir()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "replace", refusing)
    with atomic.atomic_folder(tmp_path / "new") as work:
        (work / "0.png").write_bytes(b"new")
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["0.png"]


def test_the_current_folder_is_filled_and_stays(tmp_path, monkeypatch):
    """A shell in it would be in a removed folder if it were replaced."""
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    with suppress(KeyError), atomic.atomic_folder(".") as work:
        (work / "0.png").write_bytes(b"half")
        raise KeyError
    assert names(tmp_path) == []
    with atomic.atomic_folder(".") as work:
        for name in ("0.png", "1.png"):
            (work / name).write_bytes(b"new")
        assert not list(tmp_path.glob("*.png"))
    assert names(tmp_path) == ["0.png", "1.png"]
    assert tmp_path.stat().st_ino == before


def test_a_mount_point_is_filled(small_disk, tmp_path):
    """Its parent is on another disk."""
    with atomic.atomic_folder(small_disk) as work:
        assert work.stat().st_dev == small_disk.stat().st_dev
        (work / "0.png").write_bytes(b"new")
    assert names(small_disk) == ["0.png"]
    assert names(tmp_path) == ["disk"]


def test_the_root_is_refused():
    with pytest.raises(OutputError, match="not an empty folder"), atomic.atomic_folder("/"):
        pass


def test_a_file_that_is_being_written_is_not_removed(tmp_path):
    """Also where a library opens and writes the file itself."""
    with atomic.atomic_output(tmp_path / "a.mp4") as temporary:
        for data in (b"some", b"all"):
            atomic.remove_abandoned(temporary)
            Path(temporary).write_bytes(data)
        atomic.remove_abandoned(temporary)
    assert (tmp_path / "a.mp4").read_bytes() == b"all"
    (tmp_path / ".flowwarp-folder").mkdir()
    atomic.remove_abandoned(tmp_path / ".flowwarp-folder")
    assert names(tmp_path) == [".flowwarp-folder", "a.mp4"]


KILLED = """
import signal, sys
from flowwarp.io.atomic import atomic_output
with atomic_output(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    signal.raise_signal(signal.SIGKILL)
"""


@pytest.mark.posix
def test_files_of_a_killed_process_are_removed(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.mp4"], check=False)
    (left,) = tmp_path.iterdir()
    atomic.remove_abandoned(left)
    assert names(tmp_path) == []


def test_a_file_that_was_removed_before_it_was_locked(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    flock, removed = fcntl.flock, []

    def late(file, how):
        if not removed:
            removed.append(Path(file.name))
            removed[0].unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with atomic.atomic_output(tmp_path / "a.flo") as temporary:
        assert temporary.exists()
        assert temporary not in removed
        temporary.write_bytes(b"new")
    assert names(tmp_path) == ["a.flo"]


def test_output_name_too_long(tmp_path):
    with (
        pytest.raises(OutputError, match="name too long"),
        atomic.atomic_output(tmp_path / ("n" * 300 + ".flo")) as temporary,
    ):
        temporary.write_bytes(b"")
    assert names(tmp_path) == []
