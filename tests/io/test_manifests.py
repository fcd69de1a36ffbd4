"""Manifests with several processes in one folder; tests of the commands cover resuming."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from flowwarp.errors import Locked, OutputError
from flowwarp.io.atomic import atomic_output
from flowwarp.io.manifests import find_done, open_manifest, read_manifests, sizes

ONE, OTHER = {"job": "test", "quality": "fast"}, {"job": "test", "quality": "best"}


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock"))


def test_files_that_another_command_writes_stay(tmp_path):
    """Files of a killed process are removed at any depth, but later if other shards work."""
    (tmp_path / "below").mkdir()
    with atomic_output(tmp_path / "below" / "clip.mp4") as temporary:
        os.utime(temporary, (0, 0))
        fresh, old = (tmp_path / "below" / f".flowwarp-{name}.png" for name in ("fresh", "old"))
        fresh.touch()
        old.touch()
        os.utime(old, (0, 0))
        with open_manifest(tmp_path, ONE, shard=(1, 2), overwrite=True):
            assert (temporary.exists(), fresh.exists(), old.exists()) == (True, True, False)
        with open_manifest(tmp_path, ONE, overwrite=True):
            assert (temporary.exists(), fresh.exists()) == (True, False)
        temporary.write_bytes(b"whole")
    assert names(tmp_path / "below") == ["clip.mp4"]


@pytest.mark.parametrize(
    ("running", "shard"),
    [((1, 2), None), ((1, 2), (1, 3)), (None, (1, 2))],
    ids=["all against a shard", "a shard against one of others", "a shard against all"],
)
def test_the_manifest_of_a_job_at_work_is_not_discarded(tmp_path, running, shard):
    with open_manifest(tmp_path, ONE, shard=running) as manifest:
        with (
            pytest.raises(Locked, match="another process works on this; wait for it"),
            open_manifest(tmp_path, OTHER, shard=shard, overwrite=True),
        ):
            pass
        manifest.append({"part": "a", "status": "done"})
    with open_manifest(tmp_path, ONE, shard=running) as manifest:
        assert list(manifest.done) == ["a"]
    with open_manifest(tmp_path, OTHER, shard=shard, overwrite=True) as manifest:
        assert not manifest.done
        assert names(tmp_path) == [manifest.path.name]


def test_a_locked_job_is_not_discarded_in_part(tmp_path):
    with open_manifest(tmp_path, ONE, shard=(1, 2)) as manifest:
        manifest.append({"part": "a", "status": "done"})
    with (
        open_manifest(tmp_path, ONE, shard=(2, 2)) as manifest,
        pytest.raises(Locked),
        open_manifest(tmp_path, OTHER, overwrite=True),
    ):
        pass
    with open_manifest(tmp_path, ONE) as manifest:
        assert list(manifest.done) == ["a"]


@pytest.mark.parametrize(
    ("job", "same"),
    [
        ({"source": "a", "files": "1"}, True),
        ({"source": "b", "files": "1"}, True),  # moved
        ({"source": "a", "files": "2"}, True),  # repaired
        ({"source": "b", "files": "2"}, False),
        ({"source": "a"}, True),
        ({"source": "b"}, False),
    ],
)
def test_sources_are_recognised_by_path_or_by_content(tmp_path, job, same):
    with open_manifest(tmp_path, ONE | {"source": "a", "files": "1"}):
        pass
    with nullcontext() if same else pytest.raises(OutputError, match="source is 'a', not 'b'"):
        read_manifests(tmp_path, ONE | job)
    with pytest.raises(OutputError, match="whose quality is"):
        read_manifests(tmp_path, OTHER | job)


def test_a_part_is_done_while_the_sizes_of_its_results_are_unchanged(tmp_path):
    path, other = tmp_path / "a.flo", tmp_path / "b.flo"
    path.write_bytes(b"whole")
    other.write_bytes(b"too")
    assert sizes([path, tmp_path / "none", other]) == [5, None, 3]
    line = {"part": "a", "stamp": [1]}
    for about, there in (({"bytes": [5, 3]}, [True, False]), ({}, [True, True])):
        done = {"a": line | about}
        for data, whole in zip((b"whole", b"half"), there, strict=True):
            path.write_bytes(data)
            assert find_done(done, line, [path, other]) == (done["a"] if whole else None)
        path.write_bytes(b"")
        assert find_done(done, line, [path, other]) is None
        path.unlink()
        assert find_done(done, line, [path, other]) is None


def test_shards_that_start_over_at_the_same_time(tmp_path):
    """None of them finds the manifest of another locked."""
    barrier = threading.Barrier(4, timeout=10)

    def begin(number):
        barrier.wait()
        with open_manifest(tmp_path, OTHER, shard=(number, 4), overwrite=True) as manifest:
            barrier.wait()
            return manifest.done

    for number in range(1, 5):
        with open_manifest(tmp_path, ONE, shard=(number, 4)) as manifest:
            manifest.append({"part": "a", "status": "done"})
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(begin, range(1, 5))) == [{}] * 4
