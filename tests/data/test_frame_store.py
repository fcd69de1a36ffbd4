"""The store of frames: windows, damage, and several processes at once."""

import os
import pickle
import threading
import time

import pytest
import torch

from flowwarp.data.frame_store import FrameStore, store_folder
from flowwarp.data.pairs import prepare_pairs
from flowwarp.errors import InputError, Locked
from footage_frames import frame, save, steps


@pytest.mark.parametrize("name", ["index.npz", "about.json", "frames.bin"])
@pytest.mark.parametrize("left", [0.0, 0.5, None])
def test_what_is_broken_is_prepared_anew(tmp_path, prepare, caplog, name, left):
    """As after a power cut."""
    save(tmp_path / "a", [0, 2, 4])
    whole = [tuple(map(torch.clone, pair)) for pair in prepare(tmp_path / "a")]
    (folder,) = (tmp_path / "cache").glob("pairs-*")
    path = folder / name
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(InputError, match=f"{folder.name}: is broken"):
        FrameStore(folder)
    again = prepare(tmp_path / "a")
    assert "is broken" in caplog.text
    for one, two in zip(whole, again, strict=True):
        assert all(map(torch.equal, one, two))


def test_the_default_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWWARP_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    save(tmp_path / "a", [0, 4])
    assert prepare_pairs([tmp_path / "a"]).folder.parent == tmp_path / "xdg" / "flowwarp"


def test_tests_leave_the_cache_of_the_user_alone(tmp_path_factory):
    folder = store_folder(None)
    assert folder.is_relative_to(tmp_path_factory.getbasetemp())


def test_abandoned_work_is_removed(tmp_path, prepare):
    save(tmp_path / "a", [0, 4])
    old, new = tmp_path / "cache/.pairs-old", tmp_path / "cache/.pairs-new"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (1, 1))
    prepare(tmp_path / "a")
    assert (old.exists(), new.exists()) == (False, True)


def test_one_process_prepares_and_those_started_with_it_wait(tmp_path, prepare, monkeypatch):
    """The other one is a thread here, which holds what a process would hold."""
    save(tmp_path / "a", [0, 4, 8])
    stores, seen = [], []

    def other():
        stores.append(prepare(tmp_path / "a", progress=lambda *n: seen.append("again")))

    def progress(done, total):
        seen.append(done)
        with pytest.raises(Locked, match="another process prepares this footage"):
            prepare(tmp_path / "a")
        monkeypatch.setenv("WORLD_SIZE", "2")
        thread.start()
        time.sleep(0.3)
        assert stores == []

    thread = threading.Thread(target=other)
    store = prepare(tmp_path / "a", progress=progress)
    thread.join()
    assert seen == [1]
    assert stores[0].folder == store.folder
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [store.folder.name]


def test_new_footage_makes_old_footage_go(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_LIMIT", "1")
    cache = tmp_path / "cache"
    old = cache / f"pairs-{20 * '0'}"
    old.mkdir(parents=True)
    (old / ".used").write_bytes(b"123")
    save(tmp_path / "a", [0, 4])
    store = prepare_pairs([tmp_path / "a"], cache=cache)
    assert [path.name for path in cache.iterdir()] == [store.folder.name]
    assert len(store) == 1


def test_pickled_by_name(tmp_path, prepare):
    save(tmp_path / "a", [0, 4, 8, 12, 16])
    store = prepare(tmp_path / "a").windows(3)
    data = pickle.dumps(store)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert isinstance(copy, FrameStore)
    assert all(torch.equal(*pair) for pair in zip(copy[0], store[0], strict=True))


def test_windows(tmp_path, prepare):
    save(tmp_path / "a", [3 * k for k in range(5)])
    store = prepare(tmp_path / "a")
    triplets = store.windows(3)
    assert len(triplets) == 3
    for image, shift in zip(triplets[1], (3, 6, 9), strict=True):
        assert torch.equal(image, steps(frame(shift)))
