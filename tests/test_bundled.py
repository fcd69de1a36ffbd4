from pathlib import Path

import pytest

from flowwarp import bundled as module
from flowwarp.bundled import bundled, cache_folder


def test_folders_of_the_checkout_are_found():
    assert (bundled("cuda") / "warping.h").is_file()
    assert (bundled("datasets") / "sample").is_dir()
    assert any(bundled("weights").glob("*.safetensors"))


def test_an_installed_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "flowwarp")
    with pytest.raises(FileNotFoundError, match="installed without its cuda folder"):
        bundled("cuda")
    (tmp_path / "cuda").mkdir()
    assert bundled("cuda") == tmp_path / "cuda"
    (tmp_path / "flowwarp" / "_cuda").mkdir(parents=True)
    assert bundled("cuda") == tmp_path / "flowwarp" / "_cuda"


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("FLOWWARP_CACHE_DIR")
    assert cache_folder() == Path("/b/flowwarp")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/c/.cache/flowwarp")
