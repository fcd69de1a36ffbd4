"""The cache: locks on entries, and the removal of the least recently used ones."""

import os
import re
import subprocess
import sys

import pytest

from flowwarp.errors import InputError, Locked
from flowwarp.io.cache import lock_entry, make_room, mark_used


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Put a folder of 1000 bytes into the cache, last used so many seconds after 1970.

    Of its digest, all letters are the one that is given.
    """
    monkeypatch.setenv("FLOWWARP_CACHE_LIMIT", "2500")

    def added(name, time):
        folder = tmp_path / (name + 19 * name[-1])
        folder.mkdir()
        (folder / "data").write_bytes(bytes(1000))
        (folder / ".used").touch()
        os.utime(folder / ".used", (time, time))
        return folder

    return added


def names(folder):
    return sorted(re.sub(r"(.)\1{19}$", r"\1", path.name) for path in folder.iterdir())


def test_the_least_recently_used_entry_is_removed(add, tmp_path, caplog):
    for time, name in enumerate(["fitted-b", "pairs-a", "tokens-d", "captioned-c", "mine-e"]):
        add(name, time)
    make_room(tmp_path)
    assert names(tmp_path) == ["captioned-c", "mine-e", "tokens-d"]
    assert ["fitted-b" in caplog.messages[0], "pairs-a" in caplog.messages[1]] == [True, True]
    make_room(tmp_path)
    assert len(names(tmp_path)) == 3


def test_entries_being_made_or_in_use_stay(add, tmp_path):
    used, made = add("pairs-a", 1), add("fitted-b", 2)
    add("tokens-c", 3)
    add("tokens-d", 4)
    mark_used(used)
    with lock_entry(made, "another process makes it"):
        for folder in (used, made):  # the first to go, if they may
            os.utime(folder / ".used", (1, 1))
        make_room(tmp_path)
    assert names(tmp_path) == ["fitted-b", "pairs-a"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps what is open by itself")
def test_an_entry_used_by_another_process_stays(add, tmp_path):
    used = add("pairs-a", 1)
    add("pairs-b", 2)
    add("pairs-c", 3)
    code = f"import fcntl; file = open({str(used / '.used')!r}, 'w'); fcntl.flock(file, 1)"
    code += "; print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as other:
        other.stdout.readline()
        os.utime(used / ".used", (1, 1))
        make_room(tmp_path)
        assert names(tmp_path) == ["pairs-a", "pairs-c"]
        other.communicate(b"\n")


def test_using_an_entry_makes_it_recent(add, tmp_path):
    for time, name in enumerate(["pairs-a", "pairs-b", "pairs-c"]):
        os.utime(add(name, time) / ".used", (5 - time, 5 - time))
    make_room(tmp_path)
    assert names(tmp_path) == ["pairs-a", "pairs-b"]


def test_folders_of_the_user_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_LIMIT", "0")
    others = ["pairs-of-shoes/.used", f"pairs-{20 * 'a'}/shoes", f"mine-{20 * 'a'}/.used"]
    half = f"tokens-{20 * 'b'}/.lock"  # of a process that was killed
    for name in (*others, half):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"1")
    make_room(tmp_path)
    assert [(tmp_path / name).exists() for name in (*others, half)] == [True, True, True, False]


def test_each_use_is_recorded(tmp_path):
    for _ in range(2):
        mark_used(tmp_path)
        assert (tmp_path / ".used").stat().st_mtime > 1
        os.utime(tmp_path / ".used", (1, 1))


@pytest.mark.parametrize(("limit", "left"), [("", 1), ("inf", 1), ("1e3", 1), ("0", 0)])
def test_limits(add, tmp_path, monkeypatch, limit, left):
    add("pairs-a", 1)
    monkeypatch.setenv("FLOWWARP_CACHE_LIMIT", limit)
    make_room(tmp_path)
    assert len(names(tmp_path)) == left


@pytest.mark.parametrize("limit", ["20 GB", "nan"])
def test_a_limit_must_be_a_number(tmp_path, monkeypatch, limit):
    monkeypatch.setenv("FLOWWARP_CACHE_LIMIT", limit)
    with pytest.raises(InputError, match="FLOWWARP_CACHE_LIMIT: must be a number of bytes"):
        make_room(tmp_path)


def test_a_process_by_itself_does_not_wait(tmp_path):
    problem = "another process makes it"
    with lock_entry(tmp_path, problem), pytest.raises(Locked, match=f"{problem}; wait for it"):
        lock_entry(tmp_path, problem).__enter__()
