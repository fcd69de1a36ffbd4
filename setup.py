"""Build the CPU library, once for each instruction set; everything else is in pyproject.toml.

The library is plain C++ with a C interface, loaded by ctypes. It is optional: without a compiler
the package installs all the same and runs on its torch reference (``flowwarp doctor`` says so).
"""

import copy
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# Names follow the x86-64 psABI levels; `flowwarp.ops.native` picks one at run time.
X86_LEVELS = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
# -ffp-contract=off: every level then computes the same bits. No -ffast-math: it breaks NaN
# handling. -g0: Python's own flags ask for debug information, three times as much as the code.
COMPILE = [
    "-O3",
    "-g0",
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
]


def levels():
    if sys.platform == "win32":  # MSVC has no vector extensions: the torch reference serves there
        return {}
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return X86_LEVELS if is_x86 else {"baseline": []}


class BuildNative(build_ext):
    def get_ext_filename(self, fullname):
        # No Python ABI in the name: the library does not link to Python.
        return str(Path(*fullname.split("."))) + ".so"

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or True  # a level takes half a minute

    def build_extension(self, ext):
        # All levels have the same sources: each needs object files, hence a folder, of its own.
        # A copy, because several are built at once.
        level = copy.copy(self)
        level.build_temp = str(Path(self.build_temp) / ext.name)
        super(BuildNative, level).build_extension(ext)


class PlatformWheel(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            f"flowwarp.ops._cpu_{level}",
            sources=sorted(str(path) for path in Path("cuda").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("cuda").glob("*.h")),
            extra_compile_args=[*COMPILE, *flags],
            extra_link_args=["-Wl,--as-needed"] if sys.platform == "linux" else [],
            language="c++",
            optional=True,
        )
        for level, flags in levels().items()
    ],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
