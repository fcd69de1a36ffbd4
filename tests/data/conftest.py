"""Fixtures for tests of footage and of captioned videos."""

import pytest

from captioned_videos import video
from flowwarp.data.captioned import load_captioned
from flowwarp.data.pairs import prepare_pairs


@pytest.fixture
def prepare(tmp_path):
    """Return `prepare_pairs` with a cache of this test's own."""

    def run(*sources, **options):
        return prepare_pairs(sources, cache=tmp_path / "cache", **options)

    return run


@pytest.fixture
def load(tmp_path):
    """Return `load_captioned` with a cache of this test's own, for small clips."""

    def run(source, size=16, frames=4, **options):
        return load_captioned(source, size, frames, cache=tmp_path / "cache", **options)

    return run


@pytest.fixture
def data(tmp_path):
    """Return an empty folder for captioned videos."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def film(tmp_path):
    """Return the bytes of a video of six frames."""
    return video(tmp_path / "film.mp4").read_bytes()
