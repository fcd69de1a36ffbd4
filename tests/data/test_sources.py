"""Sources of clips: worlds by name, and the held-out part of a folder."""

import pickle
import shutil

import pytest
import torch

from flowwarp.bundled import bundled
from flowwarp.data.clip import WorldFiles
from flowwarp.data.digits import compose_digits
from flowwarp.data.sources import ClipReading, check_source, hold_out, open_source, open_split
from flowwarp.data.sprite_world import source as sprite_source
from flowwarp.data.sprite_world.cast import is_held_out
from flowwarp.data.sprite_world.layers import Layers, bundled_layers
from flowwarp.data.sprite_world.world import compose_clip
from flowwarp.errors import InputError
from flowwarp.io.images import read_image, write_image
from flowwarp.io.video_writer import write_video


def assert_same(one, two):
    assert one.caption == two.caption
    for name in ("video", "flow_12", "flow_21", "valid_12", "visible_21"):
        assert torch.equal(getattr(one, name), getattr(two, name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven videos of one colour each, with captions that name it."""
    path = tmp_path_factory.mktemp("clips")
    for number in range(11):
        frame = torch.full((3, 32, 32), 0.05 + 0.08 * number)
        write_video(path / f"v{number:02}.mp4", [frame] * 6, 25)
        (path / f"v{number:02}.txt").write_text(f"grey {number}")
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def test_digits():
    source, other = open_split("digits", 32, 4)
    assert source is other
    assert_same(source(3, 5), compose_digits(3, 5, 32, 4))
    assert len(open_source("digits", 32, 4, rewordings=2)(3, 5).rewordings) == 2


def test_sprites():
    training, validation = open_split("sprites", 32, 3)
    assert training is validation  # what is held out is for tests, not for choices
    clip = training(3, 5)
    assert_same(clip, compose_clip(bundled_layers(), 3, 5, 32, 3))
    assert not is_held_out(clip.attributes)
    aside = open_source("sprites", 32, 3, held_out=True, rewordings=2)(3, 5)
    assert is_held_out(aside.attributes)
    assert len(aside.rewordings) == 2


@pytest.mark.parametrize("name", ["digits", "sprites", "folder"])
def test_a_source_can_be_sent_to_a_worker(name, request):
    source = open_source(request.getfixturevalue(name) if name == "folder" else name, 16, 2)
    sent = pickle.loads(pickle.dumps(source))
    assert_same(sent(3, 5), source(3, 5))
    assert (sent.count, sent.fingerprint) == (source.count, source.fingerprint)


@pytest.mark.parametrize("name", ["digits", "sprites"])
@pytest.mark.parametrize(
    ("size", "frames", "problem"),
    [
        (77, 4, "size must be 128, 64, 32, 16 or 8, got 77"),
        (32, 0, "frames must be a whole number"),
        (32, 2.5, "frames must be a whole number"),
    ],
)
def test_a_world_without_such_clips_is_not_opened(name, size, frames, problem):
    with pytest.raises(ValueError, match=problem):
        open_source(name, size, frames)


def test_layers_that_hold_nothing_that_is_held_out(monkeypatch):
    names = ("body_light_light_female", "torso_tunic_white_female")
    few = Layers(tuple(layer for layer in bundled_layers().layers if layer.id in names))
    monkeypatch.setattr(sprite_source, "load_layers", lambda folder: few)
    assert open_source("sprites", 16, 1, world_files=WorldFiles("few"))(0, 0).caption
    with pytest.raises(InputError, match=r"^few: hold no combination that is held out"):
        open_source("sprites", 16, 1, world_files=WorldFiles("few"), held_out=True)


def captions(source, seed):
    return {source(seed, index).caption for index in range(150)}


def test_a_folder_keeps_one_video_in_tenhold_out(folder):
    everything = {f"grey {number}" for number in range(11)}
    training, validation = open_split(folder, 16, 4)
    aside = {"grey 0", "grey 5"}
    assert captions(training, 0) == everything - aside
    assert captions(validation, 1) == aside
    assert captions(open_source(folder, 16, 4, held_out=None), 0) == everything
    clip = training(0, 7)
    assert_same(clip, training(0, 7))
    assert clip.video.shape == (4, 3, 16, 16)
    assert clip.flow_12.shape == (3, 2, 16, 16)
    assert not clip.valid_12.any()
    assert clip.attributes == {}


def test_what_is_aside_stays_there_when_others_come_or_go():
    videos = {f"clips/{number:03}.mp4" for number in range(300)}
    aside = hold_out(videos)
    assert 15 <= len(aside) <= 45
    assert hold_out({f"elsewhere{video[5:]}" for video in videos}) == {
        f"elsewhere{video[5:]}" for video in aside
    }
    for video in sorted(videos)[:40]:
        assert hold_out(videos - {video}) == aside - {video}
    trained = videos - aside
    assert len(hold_out(trained)) == 1  # there must be one
    assert len(hold_out(aside)) == len(aside) - 1  # and one to learn from


def test_each_window_comes_once_before_any_comes_again(folder):
    source = open_source(folder, 16, 4, held_out=None)
    assert source.count == 33  # of 4 frames in 6, eleven times
    for start in (0, 33, 990):
        shown = [source(5, index).caption for index in range(start, start + 33)]
        assert sorted(shown) == sorted(f"grey {number}" for number in range(11) for _ in range(3))
    first, second, other = (
        [source(seed, start + index).caption for index in range(33)]
        for seed, start in ((5, 0), (5, 33), (6, 0))
    )
    assert first not in (second, other)
    assert open_source("digits", 32, 4).count is None


def test_a_source_tells_when_its_files_change(folder, tmp_path):
    (tmp_path / "a.mp4").write_bytes((folder / "v03.mp4").read_bytes())
    fingerprints = []
    for caption in ("a gray square", "a grey square"):
        (tmp_path / "a.txt").write_text(caption)
        fingerprints.append(open_source(tmp_path, 16, 4).fingerprint)
    assert fingerprints[0] != fingerprints[1]
    assert open_source(tmp_path, 16, 4).fingerprint == fingerprints[1]
    assert open_source("digits", 32, 3).fingerprint == ()


def test_sprites_tell_when_a_layer_or_a_photo_changes(tmp_path):
    layers, photos = tmp_path / "layers", tmp_path / "photos"
    shutil.copytree(bundled("datasets") / "sprites", layers)
    photos.mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        check_source("sprites", WorldFiles(photos=photos))

    def opened():
        return open_source("sprites", 32, 3, world_files=WorldFiles(layers, photos))

    write_image(photos / "a.png", torch.zeros(3, 40, 40))
    fingerprints = [opened().fingerprint]
    assert fingerprints[0][0] == open_source("sprites", 32, 3).fingerprint[0]  # wherever they lie
    sheet = next((layers / "layers").glob("*.png"))
    write_image(sheet, read_image(sheet, alpha=True).flip(0))
    fingerprints.append(opened().fingerprint)
    write_image(photos / "a.png", torch.ones(3, 40, 40))
    fingerprints.append(opened().fingerprint)
    assert len(set(fingerprints)) == 3
    source = opened()
    assert source.fingerprint == fingerprints[2]
    assert any(source(0, number).attributes["ground"] == "photo" for number in range(20))


def test_of_one_video_the_end_is_kepthold_out(tmp_path):
    """Of 27 windows in 30 frames two are held out; no window for training shares their frames."""
    write_video(tmp_path / "a.mkv", [torch.full((3, 32, 32), n / 30) for n in range(30)], 25)
    (tmp_path / "a.txt").write_text("it gets light")
    training, validation = open_split(tmp_path, 16, 4)
    assert (training.count, validation.count) == (22, 2)
    seen = max(int(training(0, index).video.max()) for index in range(22))
    judged = min(int(validation(0, index).video.min()) for index in range(2))
    assert seen < judged - 4


def test_one_video_of_two_captions_is_divided_once(tmp_path):
    """Each of its captions goes with both parts, and neither part has frames of the other."""
    write_video(tmp_path / "a.mkv", [torch.full((3, 32, 32), n / 30) for n in range(30)], 25)
    rows = ("file,caption", "a.mkv,it gets light", "a.mkv,the sun rises")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    training, validation = open_split(tmp_path, 16, 4)
    assert (training.count, validation.count) == (44, 4)
    assert captions(training, 0) == captions(validation, 0) == {"it gets light", "the sun rises"}
    seen = max(int(training(0, index).video.max()) for index in range(44))
    judged = min(int(validation(0, index).video.min()) for index in range(4))
    assert seen < judged - 4


def test_a_video_too_short_to_be_divided_is_all_there_is(folder, tmp_path, caplog):
    (tmp_path / "a.mp4").write_bytes((folder / "v03.mp4").read_bytes())
    (tmp_path / "a.txt").write_text("only one")
    for source in open_split(tmp_path, 16, 4):
        assert source(0, 0).caption == "only one"
    assert "a.mp4 is too short to keep a part aside" in caplog.text


def test_motion_of_a_folder_is_asked_for(folder):
    def motion(video):
        assert video.dtype == torch.uint8
        flow = torch.full((3, 2, 16, 16), 2.0)
        visible = torch.ones(3, 1, 16, 16, dtype=torch.bool)
        return flow, -flow, visible, ~visible

    clip = open_source(folder, 16, 4, reading=ClipReading(motion=motion))(0, 0)
    assert (clip.flow_12 == 2).all()
    assert (clip.flow_21 == -2).all()
    assert clip.valid_12.all()
    assert not clip.visible_21.any()


def test_clips_of_a_folder_may_be_wide_and_without_captions(folder):
    reading = ClipReading(step=2, captions="none")
    for source in open_split(folder, (8, 16), 3, reading=reading):
        clip = source(0, 0)
        assert clip.video.shape == (3, 3, 8, 16)
        assert clip.caption == ""
    assert check_source(folder, captions="none") == 11
    with pytest.raises(InputError, match="no such file"):
        check_source(folder, captions=folder / "missing.csv")


def test_clips_of_a_world_are_square():
    assert open_source("digits", (16, 16), 2)(0, 0).video.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="size of digits must be square, got 16 x 32"):
        open_source("digits", (16, 32), 2)


def test_identical_files_are_not_parted(folder, tmp_path):
    """One file under two names and captions: either both names are held out or none is."""
    for number in range(11):
        content = (folder / f"v{number:02}.mp4").read_bytes()
        for name in "ab":
            (tmp_path / f"{name}{number}.mp4").write_bytes(content)
            (tmp_path / f"{name}{number}.txt").write_text(f"{name} {number}")
    numbers = [
        {caption.split()[1] for caption in captions(source, 0)}
        for source in open_split(tmp_path, 16, 4)
    ]
    assert numbers[0].isdisjoint(numbers[1])
    assert len(numbers[0]) + len(numbers[1]) == 11


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        open_source(tmp_path / "nothing", 16, 4)


@pytest.mark.parametrize("option", ["layers", "photos"])
def test_what_only_sprites_use_is_refused_elsewhere(tmp_path, option):
    with pytest.raises(InputError, match="sprites could use it, digits cannot"):
        open_source("digits", 32, 4, world_files=WorldFiles(**{option: tmp_path}))
