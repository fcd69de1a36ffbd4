import threading

import pytest

from flowwarp.errors import Locked, OutputError
from flowwarp.io import locks


def test_lock(tmp_path):
    def locked(**options):
        return locks.lock(tmp_path, "is in use", "wait", **options)

    with (
        locked(),
        locked(name=".other"),
        pytest.raises(Locked, match=r"is in use; wait$"),
        locked(),
    ):
        pass
    with locked():  # free again
        pass
    with pytest.raises(OutputError, match="no such file"), locks.lock(tmp_path / "none", "in use"):
        pass


def test_waiting_for_a_lock(tmp_path):
    """It is acquired after its holder has released it, not before."""
    order = []

    def second():
        with locks.lock(tmp_path, "is in use", wait=True):
            order.append("second")

    with locks.lock(tmp_path, "is in use"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
