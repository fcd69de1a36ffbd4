from pathlib import Path

import pytest

from flowwarp.ops import native


@pytest.fixture
def each_level(monkeypatch):
    """Call something with every instruction set that is built and that this CPU has."""
    folder = Path(native.__file__).parent
    levels = [k for k in native.supported_levels() if (folder / f"_cpu_{k}.so").exists()]
    if len(levels) < 2:
        pytest.skip("fewer than two levels of the CPU library are built")

    def results(call, *arguments):
        found = []
        for level in levels:
            monkeypatch.setenv("FLOWWARP_NATIVE", level)
            native.native.cache_clear()
            assert native.native().level == level
            found.append(call(*arguments))
        return found

    yield results
    monkeypatch.undo()
    native.native.cache_clear()
