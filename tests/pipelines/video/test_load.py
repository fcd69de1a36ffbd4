"""Models in files: what is saved is loaded, and what does not fit is refused."""

import dataclasses
import json

import pytest
import torch

import flowwarp
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import save_tensors
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


# ------------------------------------------------------------------ hostile cards


def nested(name, **changes):
    return {name: dataclasses.asdict(getattr(CONFIG, name)) | changes}


@pytest.fixture(scope="module")
def weights():
    return tiny_model().state_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"base": [32]},
        {"base": [32, 32, 32]},
        {"base": "32"},
        {"base": [32.0, 32.0]},
        {"base": [2**20, 2**20]},
        {"base": []},
        {"size": [0, 48]},
        {"size": [10**6, 10**6]},
        {"size": None},
        {"size": {"x": 1}},
        {"frames": "8"},
        {"frames": 8.0},
        {"frames": None},
        {"frames": 4 * 10**6},
        {"fps": 0},
        {"fps": "fast"},
        {"words": "abcd"},
        {"words": [1, 2, 3, 4]},
        {"words": [["a"], "b", "c", "d"]},
        {"words": None},
        {"words": ["x"] * 10**5},
        {"text_length": 0},
        {"text_length": 4.0},
        {"text_length": 2**20},
        {"dvae": None},
        {"dvae": []},
        {"dvae": "DVAEConfig"},
        {"dvae": 7},
        nested("dvae", levels=None),
        nested("dvae", levels=[[4], 4]),
        nested("dvae", levels=[2**20, 4]),
        nested("dvae", levels=[4] * 10**5),
        nested("dvae", encoder_blocks=10**7),
        nested("dvae", encoder=10**7),
        nested("dvae", widths={}),
        nested("dvae", more=1),
        {"gpt": None},
        {"gpt": [16, 1]},
        nested("gpt", depth=10**7),
        nested("gpt", width=2**24),
        nested("gpt", width="16"),
        nested("gpt", heads=3),
        {"upsampler": []},
        {"upsampler": "none"},
        nested("upsampler", vocabulary=10**7),
        nested("upsampler", widths=[1] * 1000, blocks=[1] * 1000),
        nested("upsampler", blocks=[10**7, 1]),
        {"more": 1},
    ],
    ids=lambda change: str(change)[:50],
)
def test_hostile_cards(tmp_path, weights, change):
    values = dataclasses.asdict(CONFIG) | change
    check_refused(tmp_path, weights, values)


@pytest.mark.parametrize(
    "name", ["base", "size", "frames", "fps", "words", "text_length", "dvae", "gpt", "upsampler"]
)
def test_cards_that_lack_an_entry(tmp_path, weights, name):
    values = dataclasses.asdict(CONFIG)
    del values[name]
    check_refused(tmp_path, weights, values)


@pytest.mark.parametrize("name", ["dvae.", "gpt.", "upsampler.", "gpt.pool.weight"])
def test_files_that_lack_tensors(tmp_path, weights, name):
    left = {key: tensor for key, tensor in weights.items() if not key.startswith(name)}
    check_refused(tmp_path, left, dataclasses.asdict(CONFIG))


def test_values_that_are_not_finite(tmp_path, weights):
    broken = weights | {"gpt.pool.weight": torch.full_like(weights["gpt.pool.weight"], torch.nan)}
    check_refused(tmp_path, broken, dataclasses.asdict(CONFIG))


def check_refused(folder, tensors, values):
    file = folder / MODEL
    card = {"model": "text-to-video", "config": json.dumps(values)}
    save_tensors(file, tensors, card)
    with pytest.raises(InputError) as caught:
        load_video_model(file)
    assert str(caught.value).startswith(str(file))
    assert len(str(caught.value)) < 1000
