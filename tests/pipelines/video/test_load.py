"""Models in files: what is saved is loaded, and what does not fit is refused."""

import dataclasses

import pytest
import torch

import flowwarp
from flowwarp.errors import InputError
from flowwarp.pipelines.video.load import MODEL, load_video_model, save_video_model, video_media
from tiny_model import CONFIG, tiny_model


@pytest.mark.parametrize("changes", [{}, {"upsampler": None}, {"base": (24, 40), "fps": 8.5}])
def test_a_saved_model_is_loaded(tmp_path, changes):
    model = tiny_model(**changes)
    save_video_model(tmp_path / MODEL, model, {"licence": "CC0"})
    for path in (tmp_path, tmp_path / MODEL):
        loaded = load_video_model(path)
        assert loaded.config == model.config
        assert loaded.notes == {"licence": "CC0"}
        assert not loaded.training
        for name, tensor in model.state_dict().items():
            stored = tensor.bfloat16().float() if tensor.is_floating_point() else tensor
            assert torch.equal(loaded.state_dict()[name], stored), name


def test_it_generates(tmp_path):
    save_video_model(tmp_path / MODEL, tiny_model(), {})
    model = flowwarp.load_video_model(tmp_path)
    video = model.generate("a red ball", seed=3, frames=5)
    assert video.shape == (5, 3, 48, 48)
    assert torch.equal(video, model.generate("a red ball", seed=3, frames=5))
    assert len(model.generate("a ball")) == CONFIG.frames


def test_a_run_without_a_model_says_so(tmp_path):
    with pytest.raises(InputError, match="no model yet"):
        load_video_model(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load_video_model(tmp_path / "other.safetensors")


def test_other_weights_are_refused(tmp_path):
    model = tiny_model()
    file = tmp_path / MODEL
    model.config = dataclasses.replace(CONFIG, upsampler=None)
    save_video_model(file, model, {})
    with pytest.raises(InputError, match="lacks"):
        load_video_model(file)


def test_media_follow_from_sizes():
    text, video, picture = video_media(dataclasses.replace(CONFIG, base=(24, 40)))
    assert (text.grid, text.digits) == ((4, 1, 1), (5,))
    assert (video.grid, video.digits) == ((2, 3, 5), (4, 4) * 4)
    assert (picture.grid, picture.digits) == ((1, 3, 5), (4, 4) * 4)


@pytest.mark.parametrize("changes", [{"frames": 6}, {"frames": 0}, {"base": (32, 36)}])
def test_sizes_are_checked(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(CONFIG, **changes)
