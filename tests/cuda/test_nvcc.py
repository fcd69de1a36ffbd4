"""The kernels compile for every kind of GPU, by the full CUDA toolkit; nothing is run.

nvcc builds all of them in one go where NVRTC would build one at a time, and its front end is
another: what passes both is plain CUDA C++.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flowwarp.bundled import bundled
from flowwarp.ops import nvrtc

# Turing, Ampere (data centre, consumer), Ada, Hopper, Blackwell (data centre, consumer)
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


@pytest.fixture(scope="module")
def nvcc() -> str:
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc is not installed")
    return found


def test_no_source_asks_which_gpu_it_is_compiled_for(kernels: list[str]) -> None:
    """The front end then gives the same for each GPU, so that one pass of it is enough."""
    texts = [path.read_text() for path in bundled("cuda").iterdir() if path.suffix in (".cu", ".h")]
    assert len(texts) > 3
    assert not [text for text in (*texts, *kernels) if "__CUDA_ARCH" in text]


def test_kernels_compile_for_every_gpu(nvcc: str, kernels: list[str], tmp_path: Path) -> None:
    *older, newest = ARCHITECTURES
    codes = ",".join(f"sm_{sm}" for sm in older)
    targets = ["-gencode", f"arch=compute_{older[0]},code=[{codes}]"]
    targets += ["-gencode", f"arch=compute_{newest},code=sm_{newest}"]
    source = tmp_path / "all.cu"
    source.write_text(together(kernels))
    warnings = ["-Werror", "all-warnings", "-Wno-deprecated-gpu-targets"]
    command = [
        nvcc,
        "--threads=2",
        *nvrtc.OPTIONS,
        *targets,
        *warnings,
        f"-I{bundled('cuda')}",
        "-Xptxas=-O0",  # every instruction is checked; optimising them takes a third of the time
        "--fatbin",
    ]
    built = subprocess.run(
        [*command, "-o", tmp_path / "all.fatbin", source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "all.fatbin").stat().st_size > 0


def together(kernels: list[str]) -> str:
    """One file of all sources: each header once, each kernel under a name of its own."""
    includes: dict[str, None] = {}
    bodies = []
    for number, kernel in enumerate(kernels):
        include, rest = kernel.split("\n", 1)
        includes[include] = None
        bodies.append(re.sub(rf"^{nvrtc.ENTRY}\(", f"kernel_{number}(", rest, flags=re.M))
    return "\n".join([*includes, *bodies])
