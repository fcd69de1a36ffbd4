"""The tests have the tree of the package, and packages keep their private modules to themselves."""

import ast
from pathlib import Path

import pytest

import code_size
import flowwarp

ROOT = Path(flowwarp.__file__).parent
TESTS = Path(__file__).parent
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))

# Modules without a test file of their own, and the file that tests them.
ELSEWHERE = {
    # The program: a subprocess runs it.
    "__main__.py": "test_package.py",
    # Constants, which the commands show and use.
    "defaults.py": "cli/test_help.py",
    # Options and outputs that commands share; each command is called with them.
    "cli/_flow_job.py": "cli/test_flow.py",
    "cli/_options.py": "cli/test_help.py",
    "cli/_paths.py": "cli/test_errors.py",
    "cli/_training_sources.py": "cli/test_training.py",
    "cli/_video_jobs.py": "cli/test_generate_video.py",
    "cli/_video_options.py": "cli/test_generate_video.py",
    "cli/_video_output.py": "cli/test_interpolate.py",
    # Parts of the operators; each operator is tested with and without its kernel.
    "ops/_dispatch.py": "ops/test_correlation.py",
    "ops/nvrtc.py": "cuda/test_nvrtc.py",
    # The reader of PNG files behind read_image and read_flow.
    "io/png.py": "io/test_images.py",
    # What the measures measure, and the table that prints them.
    "selftest/guarantees.py": "cli/test_doctor.py",
    "selftest/small_tasks.py": "selftest/test_exactness.py",
    # Blocks and cards that networks share.
    "models/_attributes.py": "legacy/models/test_reviser.py",
    "models/_layers.py": "legacy/models/test_dvae.py",
    "models/_seeing.py": "legacy/models/test_captioner.py",
    # Names of media, which the vocabulary of tokens uses.
    "data/media.py": "legacy/data/test_tokens.py",
}
# Private modules that another package may use, until legacy is gone.
SHARED = {
    ("legacy/pipelines/evaluate.py", "flowwarp.models._attributes"),
    ("legacy/models/captioner.py", "flowwarp.models._seeing"),
    ("legacy/models/dvae.py", "flowwarp.models._layers"),
    ("legacy/models/reviser.py", "flowwarp.models._attributes"),
    ("legacy/models/reviser.py", "flowwarp.models._layers"),
    ("legacy/models/upsampler.py", "flowwarp.models._layers"),
}


def is_exempt(module):
    return code_size.area_of(f"flowwarp/{module.as_posix()}") == code_size.EXEMPT


@pytest.mark.parametrize(
    "module",
    [path for path in MODULES if path.name != "__init__.py" and not is_exempt(path)],
    ids=str,
)
def test_a_module_has_a_test_file(module):
    file = ELSEWHERE.get(module.as_posix(), own_test_file(module))
    assert (TESTS / file).is_file(), f"tests/{file} is missing"


def own_test_file(module):
    return module.parent / f"test_{module.stem.lstrip('_')}.py"


def test_exceptions_are_modules_without_a_test_file_of_their_own():
    for module in map(Path, ELSEWHERE):
        assert (ROOT / module).is_file(), f"{module} is gone"
        assert not (TESTS / own_test_file(module)).exists(), f"{module} has a test file now"


def imported(path):
    """Yield the full name of each module or name that a module imports from flowwarp."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_private_modules_stay_in_their_package(module):
    package = ".".join(("flowwarp", *module.parts[:-1]))
    for name in imported(module):
        parts = name.split(".")
        private = next((n for n, part in enumerate(parts) if part.startswith("_")), None)
        if parts[0] != "flowwarp" or private is None or parts[private].startswith("__"):
            continue
        owner, full = ".".join(parts[:private]), ".".join(parts[: private + 1])
        inside = package == owner or package.startswith(f"{owner}.")
        assert inside or (module.as_posix(), full) in SHARED, f"{module} imports {name}"
