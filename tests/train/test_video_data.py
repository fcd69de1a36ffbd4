"""The clips of train-video: layouts of surveys, words of folders and worlds."""

import pytest
import torch

from flowwarp.data.captioned_survey import survey
from flowwarp.errors import InputError
from flowwarp.train import video_data
from flowwarp.train.video_data import open_video_data, words_of_world


@pytest.fixture
def folder(tmp_path, captioned_squares):
    return captioned_squares(tmp_path / "clips", 10)


def test_a_folder_is_opened_in_the_layout_of_its_survey(folder):
    found = survey(folder)
    data = open_video_data(found)
    clip = data.source(0, 0)
    assert clip.video.shape == (8, 3, 64, 64)
    assert (data.base, data.size, data.frames, data.fps) == ((64, 64), (64, 64), 8, 12)
    assert {"a", "square", "moves", "red"} <= set(data.words.words)
    assert data.notes == {"data": "clips"}  # no path
    # Other videos validate.
    trained = {data.source(0, index).caption for index in range(data.source.count)}
    assert data.source.count + data.validation.count == 10
    assert set(data.source.captions) == trained


def test_without_captions_there_are_no_words(folder):
    for text in folder.glob("*.txt"):
        text.unlink()
    with pytest.raises(InputError, match="has no caption"):
        survey(folder)
    data = open_video_data(survey(folder, captions="none"), captions="none")
    assert data.words.words == ()
    assert data.words.encode("a red square") == [0]
    assert data.source(0, 0).caption == ""


def test_a_world_has_the_words_of_its_captions(monkeypatch):
    monkeypatch.setattr(video_data, "_CLIPS", 20)
    words = words_of_world("digits")
    assert {"red", "seven", "7", "left", "background"} <= set(words.words)
    assert words.encode("a red seven") != [0] * words.length
    data = open_video_data(survey("digits"))
    assert data.words.words == words.words
    assert data.source(0, 0).video.shape == (16, 3, 128, 128)
    assert data.source(0, 0).video.dtype == torch.uint8
