import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_torch_thread):
    """Run every test here with one thread."""
