"""``flowwarp doctor``: passes here, and fails where something is made wrong."""

import errno
import json
import os
import sys
import tempfile
import types

import pytest
import torch

import flowwarp.ops.correlation
from flowwarp import bundled
from flowwarp.cli import doctor, main
from flowwarp.ops import native, nvrtc
from flowwarp.selftest import guarantees
from flowwarp.selftest.guarantees import Guarantee


@pytest.fixture
def examine(capsys):
    """Run the command; return exit code and lines by name as (state, text)."""

    def run():
        with pytest.raises(SystemExit) as stop:
            main(["doctor", "--json"])
        captured = capsys.readouterr()
        assert captured.err == ""
        report = json.loads(captured.out)
        assert report["ok"] == (stop.value.code == 0)
        return stop.value.code, {
            line["name"]: (line["state"], line["text"]) for line in report["checks"]
        }

    return run


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(doctor, "_self_tests", lambda: iter(()))


@pytest.fixture
def reload_native():
    """Search for the library again, in this test and in those after it."""
    native.native.cache_clear()
    yield
    native.native.cache_clear()


@pytest.fixture
def libraries(tmp_path, monkeypatch, reload_native):
    """Make an empty folder the place of the CPU libraries."""
    monkeypatch.delenv("FLOWWARP_NATIVE", raising=False)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    return tmp_path


def test_all_checks_pass_here(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (stop.value.code, err, lines[-1]) == (0, "", "all checks passed")
    assert not [line for line in lines if line.startswith("FAIL")]
    assert {line[:5].strip() for line in lines[:-1]} <= {"ok", "note"}
    for name in ("torch", "cv2", "warp bicubic zeros gradient", "splat", "correlation", "census"):
        assert sum(line[16:49].strip() == name for line in lines) == 1
    assert "grid_sample" in lines[-2]


@pytest.mark.parametrize("level", ["off", "avx512", "avx2", "baseline"])
def test_every_level_of_the_library(examine, quick, reload_native, monkeypatch, level):
    monkeypatch.setenv("FLOWWARP_NATIVE", level)
    code, lines = examine()
    assert code == 0
    state, text = lines["operators"]
    if level == "off":
        assert (state, text) == ("note", "torch reference, slower: FLOWWARP_NATIVE=off")
    else:
        missing = "not built" in text or f"this CPU has no {level}" in text
        assert (state, text) == ("ok", f"native, {level}") or missing


def test_a_level_that_does_not_exist(examine, quick, reload_native, monkeypatch):
    monkeypatch.setenv("FLOWWARP_NATIVE", "sse9")
    code, lines = examine()
    assert (code, lines["operators"][0]) == (1, "FAIL")
    assert "sse9 is none of" in lines["operators"][1]


def test_a_library_that_was_not_built_is_a_note(examine, libraries):
    code, lines = examine()  # with the self-test, which the reference passes
    assert code == 0
    assert lines["operators"][0] == "note"
    assert "no C++ compiler" in lines["operators"][1]


def test_a_library_that_does_not_load_is_wrong(examine, quick, libraries):
    # The best level only: the loader goes on to the next without a message.
    best = native.supported_levels()[0]
    (libraries / f"_cpu_{best}.so").write_text("no library")
    code, lines = examine()
    assert code == 1
    state, text = lines[f"library {best}"]
    assert state == "FAIL"
    assert "does not load" in text
    assert "reinstall flowwarp" in text


def test_a_library_of_another_version_is_wrong(examine, quick, reload_native, monkeypatch):
    if native.native().library is None:
        pytest.skip("no library was built")
    level = native.native().level
    native.native.cache_clear()
    monkeypatch.setattr(native, "ABI_VERSION", native.ABI_VERSION + 1)
    code, lines = examine()
    assert (code, lines[f"library {level}"][0]) == (1, "FAIL")
    assert "another version" in lines[f"library {level}"][1]


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_an_operator_that_is_wrong(examine, monkeypatch, error):
    right = flowwarp.ops.correlation.correlation
    monkeypatch.setattr(flowwarp.ops.correlation, "correlation", lambda *args: right(*args) + error)
    code, lines = examine()
    assert code == 1
    assert [name for name, (state, _) in lines.items() if state == "FAIL"] == ["correlation"]
    assert f"largest error {error:.2g}" in lines["correlation"][1]


def test_an_operator_that_raises(examine, monkeypatch):
    monkeypatch.setattr(flowwarp.ops.correlation, "correlation", lambda *args: 1 / 0)
    code, lines = examine()
    assert (code, lines["correlation"]) == (1, ("FAIL", "ZeroDivisionError: division by zero"))


def test_full_measures_guarantees(quick, monkeypatch, capsys):
    def broken():
        raise RuntimeError("no process\nstarts")

    measured = [
        Guarantee("fulfilled", 1e-6, "differs by {}", lambda: 2.5e-7),
        Guarantee("broken", 0, "changes {} files", lambda: 3),
        Guarantee("NaN", 1, "differs by {}", lambda: float("nan")),
        Guarantee("not measured", 0, "differs by {}", broken),
    ]
    folders = []
    monkeypatch.setattr(
        guarantees, "guarantees", lambda folder: folders.append(folder) or iter(measured)
    )
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--full", "--json"])
    lines = json.loads(capsys.readouterr().out)["checks"]
    found = {line["name"]: line for line in lines if line["part"] == "guarantee"}
    assert stop.value.code == 1
    assert [line["state"] for line in found.values()] == ["ok", "FAIL", "FAIL", "FAIL"]
    assert found["fulfilled"]["text"] == "differs by 2.5e-07, allowed 1e-06"
    assert found["broken"]["text"] == "changes 3 files, allowed 0"
    assert found["not measured"]["text"] == "RuntimeError: no process starts"
    assert not folders[0].exists()


def test_full_accepts_a_folder_that_cannot_be_removed(quick, monkeypatch, capsys, tmp_path):
    """Windows removes no open files, and prepared data are open until the process ends."""

    def refuse(path, **options):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def made(folder):
        patch.setattr(os, "rmdir", refuse)
        yield Guarantee("fulfilled", 0, "changes {} files", lambda: 0)

    monkeypatch.setattr(guarantees, "guarantees", made)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        main(["doctor", "--full", "--json"])
    lines = json.loads(capsys.readouterr().out)["checks"]
    assert [line["state"] for line in lines if line["part"] == "guarantee"] == ["ok"]


def test_a_package_that_is_missing_broken_or_too_old(examine, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setitem(sys.modules, "rich", types.SimpleNamespace(__version__="1.2.3.dev4+x5"))
    monkeypatch.setattr(doctor, "_requirements", lambda: {"rich": "1.10", "torch": "2.6"})

    def broken(name):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return importlib_import(name)

    importlib_import = doctor.importlib.import_module
    monkeypatch.setattr(doctor, "importlib", types.SimpleNamespace(import_module=broken))
    code, lines = examine()
    assert code == 1
    wrong = {name: text for name, (state, text) in lines.items() if state == "FAIL"}
    assert wrong.keys() == {"cv2", "kornia", "rich"}
    assert "libGL.so.1" in wrong["cv2"]
    assert "pip install --force-reinstall opencv-python" in wrong["cv2"]
    assert wrong["rich"] == "1.2.3.dev4+x5 is too old; at least 1.10 is needed"


def test_without_torch_every_section_fails(examine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, lines = examine()
    assert code == 1
    for name in ("torch", "cpu", "cuda", "self-test"):
        assert lines[name][0] == "FAIL"
        assert "torch" in lines[name][1]


def test_requirements_are_those_of_the_package():
    found = doctor._requirements()
    assert found["torch"] >= "2.6"
    assert "imageio" in found
    assert "ruff" not in found  # an extra


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write everywhere")
def test_an_unwritable_cache(examine, quick, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "locked" / "cache"))
    code, lines = examine()
    assert (code, lines["folder"][0]) == (0, "note")
    assert "not writable" in lines["folder"][1]


def test_the_cache(examine, quick, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    assert examine()[1]["folder"] == ("ok", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "file"))
    assert examine()[1]["folder"][0] == "note"
    monkeypatch.setattr(bundled, "cache_folder", lambda: None)
    assert examine()[1]["folder"] == ("note", "none; set FLOWWARP_CACHE_DIR")


def test_a_gpu(examine, quick, monkeypatch):
    def no_gpu():
        import warnings

        warnings.warn("the driver is\ntoo old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", no_gpu)
    code, lines = examine()
    assert code == 0
    assert lines["GPU"] == ("note", "none found by torch for CUDA 13.0. the driver is too old")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    missing = nvrtc.Nvrtc(None, "", (0, 0), (), "libnvrtc was not found")
    monkeypatch.setattr(nvrtc, "nvrtc", lambda: missing)
    code, lines = examine()
    assert (code, lines["GPU 0"]) == (0, ("ok", "H1, 9.0"))
    assert lines["NVRTC"] == (
        "note",
        "torch reference on the GPU, slower: libnvrtc was not found",
    )
