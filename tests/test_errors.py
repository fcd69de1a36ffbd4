import pickle
import re
from pathlib import Path

import pytest

import flowwarp
from flowwarp.errors import (
    Diverged,
    InputError,
    Locked,
    OutputError,
    SomeFailed,
    Stopped,
    install_extra,
    missing_extra,
)


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
def test_errors_can_be_pickled(fault):
    copy = pickle.loads(pickle.dumps(fault))
    assert type(copy) is type(fault)
    assert str(copy) == str(fault)
    assert vars(copy) == vars(fault)
    assert copy.exit_code == fault.exit_code


def test_no_remedy_installs_by_name():
    """The name flowwarp on a package index may belong to another project."""
    assert install_extra("ray") == "install the extra 'ray' as README.md says"
    message = "onnx: cannot be imported; install the extra 'onnx' as README.md says"
    assert str(missing_extra("onnx", "onnx")) == message
    package = Path(flowwarp.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    assert not any(re.search(r"pip install \W?flowwarp", source) for source in sources)
