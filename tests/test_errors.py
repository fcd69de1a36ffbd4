import pickle

import pytest

from flowwarp.errors import Diverged, InputError, Locked, OutputError, SomeFailed, Stopped


@pytest.mark.parametrize(
    "fault",
    [
        InputError("a.png", "is empty", "give another"),
        OutputError("a.flo", "exists"),
        SomeFailed(["one", "two"], 3),
        Diverged("run", "loss is nan"),
        Locked("run", "in use"),
        Stopped("run", 15),
    ],
)
def test_a_worker_can_hand_a_fault_over(fault):
    copy = pickle.loads(pickle.dumps(fault))
    assert type(copy) is type(fault)
    assert str(copy) == str(fault)
    assert vars(copy) == vars(fault)
    assert copy.exit_code == fault.exit_code
