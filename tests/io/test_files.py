import os

import pytest

from flowwarp.errors import InputError
from flowwarp.io import files


@pytest.mark.posix
def test_pipe_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "a.flo")
    with (
        pytest.raises(InputError, match="not a regular file"),
        files.open_input(tmp_path / "a.flo"),
    ):
        pass


def test_read_error_becomes_an_input_error(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(InputError, match="input/output error"), files.open_input(tmp_path / "a"):
        raise OSError(5, os.strerror(5))


def test_a_bug_while_reading_stays_a_bug(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ValueError, match="ours") as fault, files.open_input(tmp_path / "a"):
        raise ValueError("ours")
    assert not isinstance(fault.value, InputError)
