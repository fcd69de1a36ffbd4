"""The package as users get it: what is in it, and that it works outside the checkout.

No test compiles anything: a stand-in for the compiler hands over the libraries that were built
when the checkout was installed. An installed copy is a folder on PYTHONPATH, over the torch of
this environment.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

import flowwarp
from flowwarp.ops import native

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("flowwarp", "cuda", "datasets", ".github", ".ci")
TEXTS = sorted(path.name for path in ROOT.glob("*.md"))
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", *TEXTS)
BUILT = sorted(Path(native.__file__).parent.glob("_cpu_*.so"))
SPRITES = sorted(path for path in (ROOT / "datasets/sprites").rglob("*") if path.is_file())
SAMPLE = ("README.md", "clip.mp4", "flow.flo", "frame1.png", "frame2.png")

COMPILER = """\
#!/bin/sh
# Whatever is compiled becomes an empty file, whatever is linked the library of that name.
while [ $# -gt 0 ]; do
    if [ "$1" = -o ]; then out=$2; fi
    shift
done
case $out in
    *.so) cp "{libraries}/${{out##*/}}" "$out" ;;
    *) : > "$out" ;;
esac
"""

compiled = pytest.mark.skipif(not BUILT, reason="the CPU library was not built here")


def run(*command, cwd, **environment):
    """Run a command; a variable set to None is removed from its environment."""
    merged = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={name: str(value) for name, value in merged.items() if value is not None},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, source, target, **environment):
    """Build a wheel or an sdist with the environment's own setuptools; return its path."""
    script = f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])"
    target.mkdir()
    run(sys.executable, "-c", script, target, cwd=source, **environment)
    (archive,) = target.iterdir()
    return archive


def install(wheel, target):
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile")
    run(sys.executable, "-m", "pip", "install", *options, "--target", target, wheel, cwd="/")
    return target


def python(code, site, cwd, **environment):
    """Run Python code with an installed copy in front of the checkout."""
    return run(sys.executable, "-c", textwrap.dedent(code), cwd=cwd, PYTHONPATH=site, **environment)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    hidden = shutil.ignore_patterns("__pycache__", "*.so", ".*")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=hidden)
    for name in FILES:
        shutil.copyfile(ROOT / name, source / name)
    return build("sdist", source, folder / "dist")


def unpack(sdist, folder):
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Build the wheel from the sdist, as pip does on a machine with a compiler."""
    folder = tmp_path_factory.mktemp("wheel")
    compiler = folder / "c++"
    compiler.write_text(COMPILER.format(libraries=BUILT[0].parent))
    compiler.chmod(0o755)
    tools = {"CC": compiler, "CXX": compiler}
    tools |= {"LDSHARED": f"{compiler} -shared", "LDCXXSHARED": f"{compiler} -shared"}
    return build("wheel", unpack(sdist, folder / "source"), folder / "dist", **tools)


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    return install(wheel, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def bare_site(sdist, tmp_path_factory):
    """Install on a machine without a compiler: nothing at all is on its PATH."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "bin").mkdir()
    nothing = {"PATH": folder / "bin", "CC": "cc", "CXX": "c++"}
    nothing |= {"LDSHARED": None, "LDCXXSHARED": None}
    wheel = build("wheel", unpack(sdist, folder / "source"), folder / "dist", **nothing)
    return install(wheel, folder / "site")


# ------------------------------------------------------------------ what is in it


def test_sdist_holds_what_a_wheel_is_built_from(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kernels = {f"cuda/{path.name}" for path in (ROOT / "cuda").glob("*.*")}
    assert kernels | set(FILES) | {f"datasets/sample/{name}" for name in SAMPLE} <= names
    assert {path.relative_to(ROOT).as_posix() for path in SPRITES} <= names
    # The tests in it read these.
    assert {".github/workflows/tests.yml", ".github/workflows/wheels.yml", ".ci/run"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@pytest.mark.posix
@compiled
def test_wheel_holds_all_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"flowwarp-{flowwarp.__version__}.dist-info/"
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flowwarp").rglob("*.py")}
    expected |= {f"flowwarp/_cuda/{path.name}" for path in (ROOT / "cuda").glob("*.*")}
    expected |= {f"flowwarp/_datasets/sample/{name}" for name in SAMPLE}
    expected |= {f"flowwarp/_{path.relative_to(ROOT).as_posix()}" for path in SPRITES}
    expected |= {f"flowwarp/_datasets/{path.name}" for path in (ROOT / "datasets").glob("*.toml")}
    expected |= {
        f"flowwarp/_weights/{path.name}" for path in (ROOT / "flowwarp/_weights").iterdir()
    }
    expected |= {f"flowwarp/ops/{path.name}" for path in BUILT} | {"flowwarp/py.typed"}
    assert {name for name in names if not name.startswith(info)} == expected
    assert f"{info}licenses/LICENSE" in names


@pytest.mark.posix
@compiled
def test_wheel_serves_every_python_of_one_platform(wheel):
    assert re.fullmatch(
        rf"flowwarp-{re.escape(flowwarp.__version__)}-py3-none-(linux|macosx)_\w+\.whl", wheel.name
    )
    assert wheel.stat().st_size < 40e6  # weights are 30 MB at most
    if "linux_x86_64" in wheel.name:
        assert [path.name for path in BUILT] == [
            "_cpu_avx2.so",
            "_cpu_avx512.so",
            "_cpu_baseline.so",
        ]


@pytest.mark.posix
@compiled
def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"flowwarp-{flowwarp.__version__}.dist-info/METADATA").decode()
    fields = email.message_from_string(text)
    assert fields["Name"] == "flowwarp"
    assert fields["Version"] == flowwarp.__version__
    assert fields["License-Expression"] == "MIT AND CC-BY-4.0 AND (CC-BY-SA-3.0 OR GPL-3.0-only)"
    assert fields["Requires-Python"] == ">=3.11"
    assert fields.get_payload().startswith("# flowwarp\n")


# ------------------------------------------------------------------ what it does elsewhere


@pytest.mark.posix
@compiled
def test_installed_copy_computes_with_its_own_library(site, tmp_path):
    code = """
        import torch, flowwarp
        from flowwarp.bundled import bundled
        from flowwarp.ops.native import native
        print(flowwarp.__file__, bundled("cuda"), bundled("datasets"), sep="\\n")
        assert native().library is not None, native().reason
        print(native().library._name)
        image = torch.rand(1, 3, 5, 7)
        assert torch.equal(flowwarp.warp(image, torch.zeros(1, 2, 5, 7)), image)
    """
    lines = python(code, site, tmp_path).splitlines()
    package = site / "flowwarp"
    assert lines[:3] == [
        str(package / "__init__.py"),
        str(package / "_cuda"),
        str(package / "_datasets"),
    ]
    assert Path(lines[3]).parent == package / "ops"


@pytest.mark.posix
@compiled
def test_installed_command_warps_the_sample(site, tmp_path):
    sample = site / "flowwarp/_datasets/sample"
    command = (site / "bin/flowwarp", "warp", sample / "frame2.png", sample / "flow.flo")
    printed = run(*command, "-o", "warped.png", cwd=tmp_path, PYTHONPATH=site)
    assert printed == "warped.png\n"
    frame1, frame2, warped = (
        flowwarp.read_image(path)
        for path in (sample / "frame1.png", sample / "frame2.png", tmp_path / "warped.png")
    )
    before, after = (frame2 - frame1).abs().mean(), (warped - frame1).abs().mean()
    assert after < 0.25 * before


@pytest.fixture(scope="module")
def bare_words(bare_site, tmp_path_factory):
    """Return why that copy has no library, which it warps without, and what its doctor says."""
    code = """
        import torch, flowwarp
        from flowwarp.cli import main
        from flowwarp.ops.native import native
        assert native().library is None
        print(native().reason)
        image = torch.rand(1, 3, 5, 7, requires_grad=True)
        warped = flowwarp.warp(image, torch.zeros(1, 2, 5, 7))
        assert torch.equal(warped, image)
        warped.sum().backward()
        assert torch.equal(image.grad, torch.ones_like(image))
        main(["doctor"])
    """
    printed = python(code, bare_site, tmp_path_factory.mktemp("words"))
    reason, _, text = printed.partition("\n")
    return reason, text


@pytest.mark.posix
def test_without_a_compiler_all_runs_on_the_reference(bare_site, bare_words):
    assert not list(bare_site.rglob("*.so"))
    why = "no C++ compiler at install time, or one older than GCC 12"
    assert re.fullmatch(rf"_cpu_\w+\.so was not built \({re.escape(why)}\)", bare_words[0])


@pytest.mark.posix
def test_doctor_reports_a_missing_compiler(bare_words):
    assert "torch reference, slower: _cpu_" in bare_words[1]
    assert bare_words[1].endswith("all checks passed\n")


# ------------------------------------------------------------------ what importing it costs


def test_import_loads_nothing_heavy(tmp_path):
    code = """
        import sys, flowwarp
        heavy = ("torch", "numpy", "cv2", "kornia", "imageio", "av", "PIL", "click", "rich")
        print([name for name in heavy if name in sys.modules])
    """
    assert python(code, ROOT, tmp_path) == "[]\n"


@pytest.mark.parametrize("name", flowwarp.__all__)
def test_every_public_name_is_there(name):
    assert callable(getattr(flowwarp, name))
    assert name in dir(flowwarp)


@pytest.mark.parametrize("name", flowwarp.__all__)
def test_every_public_function_has_an_example(name):
    assert ">>> " in getattr(flowwarp, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'wrap'"):
        _ = flowwarp.wrap


def test_pyproject_names_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    named = set(project["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "flowwarp").rglob("__init__.py")
    }
    assert {name for name in named if not name.startswith("flowwarp._")} == found
