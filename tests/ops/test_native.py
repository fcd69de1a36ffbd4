"""Which CPU library is loaded, and the reason that is given if there is none."""

import pytest

from flowwarp.ops import native


@pytest.fixture
def native_anew(monkeypatch):
    """Let the library be looked for again, here and in the tests after."""
    native.native.cache_clear()
    yield
    monkeypatch.undo()
    native.native.cache_clear()


@pytest.mark.usefixtures("native_anew")
def test_instructions_that_this_cpu_lacks_are_refused(monkeypatch):
    monkeypatch.setenv("FLOWWARP_NATIVE", "avx512")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    found = native.native()
    assert found.library is None
    assert found.reason == "FLOWWARP_NATIVE=avx512: this CPU has no avx512"
