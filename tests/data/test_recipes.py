"""Recipes: each on a small tree with the real data set's layout."""

import lzma

import pytest
import torch

from flowwarp.data import recipes
from flowwarp.data.pairs import prepare_pairs
from flowwarp.data.recipes import (
    footage_of,
    load_recipe,
    pairs_of,
    read_pair,
    recipe_names,
)
from flowwarp.errors import InputError
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image
from recipe_trees import FOOTAGE, HEIGHT, KITTI15, SCENES, SINTEL, TREES, WIDTH, plant


@pytest.mark.parametrize("name", TREES)
def test_the_real_layout(tmp_path, name):
    files, count = TREES[name]
    pairs = pairs_of(load_recipe(name), plant(tmp_path, files))
    assert len(pairs) == count
    for pair in pairs:
        assert pair.frame1 != pair.frame2
        truth = read_pair(pair)
        assert truth.image1.shape == truth.image2.shape == (1, 3, HEIGHT, WIDTH)
        assert truth.flow_12[0, :, 0, 0].tolist() == [1, 0]
        assert truth.valid.all()


def test_every_recipe_is_tested():
    assert set(recipe_names()) == set(TREES) | set(FOOTAGE)


@pytest.mark.parametrize("name", FOOTAGE)
def test_footage_without_flow(tmp_path, name):
    paths = [tmp_path / file for file in FOOTAGE[name]]
    paths[0].parent.mkdir(parents=True)
    for path in [*paths, paths[0].parent.parent / ".DS_Store"]:
        path.write_bytes(b"")
    recipe = load_recipe(name)
    (clip,) = footage_of(recipe, tmp_path)
    assert clip.files == tuple(paths)
    with pytest.raises(InputError, match="has no flow"):
        pairs_of(recipe, tmp_path)


@pytest.mark.parametrize("name", SCENES)
def test_no_pair_crosses_scenes_of_one_folder(tmp_path, name):
    """The second scene continues the motion of the first one, so that no cut is detected."""
    generator = torch.Generator().manual_seed(0)
    photo = torch.nn.functional.interpolate(
        torch.rand(1, 3, 4, 8, generator=generator), (64, 120), mode="bilinear"
    )[0]
    files = [tmp_path / scene.format(n) for scene in SCENES[name] for n in (1, 2)]
    for shift, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, photo[..., 6 * shift : 6 * shift + 96])
    clips = footage_of(load_recipe(name), tmp_path)
    assert [clip.files for clip in clips] == [tuple(files[:2]), tuple(files[2:])]
    whole = prepare_pairs([files[0].parent], cache=tmp_path / "cache")
    assert len(whole) == 3  # as a folder of anyone's, it is one clip
    store = prepare_pairs(clips, cache=tmp_path / "cache")
    assert len(store) == 2
    assert len(store.windows(3)) == 0


def test_sintel_in_detail(tmp_path):
    root = plant(tmp_path, SINTEL)
    white = torch.zeros(3, HEIGHT, WIDTH)
    white[:, 0, 0] = 1
    write_image(root / "training/occlusions/alley_1/frame_0001.png", white)
    write_image(root / "training/invalid/alley_1/frame_0001.png", white.roll(1, 2))
    recipe = load_recipe("sintel")
    pairs = pairs_of(recipe, root)
    assert [pair.group for pair in pairs] == ["sintel/clean"] * 2 + ["sintel/final"] * 2
    first = pairs[0]
    assert first.name == "training/clean/alley_1/frame_0001"
    assert first.frame2 == root / "training/clean/alley_1/frame_0002.png"
    truth = read_pair(first)
    assert (~truth.visible).nonzero().tolist() == [[0, 0, 0, 0]]
    assert (~truth.valid).nonzero().tolist() == [[0, 0, 0, 1]]
    assert [clip.name for clip in footage_of(recipe, root)] == [
        str(root / part / scene)
        for part, scene in (
            ("test/clean", "cave_1"),
            ("training/clean", "alley_1"),
            ("training/final", "alley_1"),
        )
    ]


def test_a_mask_may_be_as_dark_as_one_step(tmp_path):
    root = plant(tmp_path, TREES["pairs"][0])
    occluded, invalid = torch.zeros(2, 3, HEIGHT, WIDTH)
    occluded[:, 0, 0] = 1 / 255
    invalid[2, 0, 1] = 1 / 255  # blue alone
    write_image(root / "a/x/occ.png", occluded)
    write_image(root / "a/x/invalid.png", invalid)
    truth = read_pair(pairs_of(load_recipe("pairs"), root)[0])
    assert (~truth.visible).nonzero().tolist() == [[0, 0, 0, 0]]
    assert (~truth.valid).nonzero().tolist() == [[0, 0, 0, 1]]


def test_kitti_marks_visible_by_its_second_flow(tmp_path):
    root = plant(tmp_path, KITTI15)
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, 0, :2] = False
    write_flow(root / "training/flow_noc/000000_10.png", torch.ones(2, HEIGHT, WIDTH), valid)
    (pair,) = pairs_of(load_recipe("kitti2015"), root)
    assert torch.equal(read_pair(pair).visible[0], valid)


def test_pairs_are_named_by_their_folders(tmp_path):
    root = plant(tmp_path, TREES["pairs"][0])
    recipe = load_recipe("pairs")
    assert [(p.group, p.name) for p in pairs_of(recipe, root)] == [("a", "x"), ("c", "y")]
    assert [(p.group, p.name) for p in pairs_of(recipe, root / "a")] == [("a", "x")]
    assert [(p.group, p.name) for p in pairs_of(recipe, root / "a/x")] == [("a", "x")]


def test_a_packed_flow_file(tmp_path):
    root = plant(tmp_path, ["s/a/frame1.png", "s/a/frame2.png", "s/a/flow.flo"])
    plain = root / "s/a/flow.flo"
    (root / "s/a/flow.flo.xz").write_bytes(lzma.compress(plain.read_bytes()))
    plain.unlink()
    (pair,) = pairs_of(load_recipe("pairs"), root)
    assert pair.flow.name == "flow.flo.xz"
    assert read_pair(pair).flow_12[0, :, 0, 0].tolist() == [1, 0]
    pair.flow.write_bytes(pair.flow.read_bytes()[:-20])
    with pytest.raises(InputError, match="broken xz"):
        read_pair(pair)
    pair.flow.write_bytes(lzma.compress(b"no flow at all"))
    with pytest.raises(InputError, match=r"flow\.flo\.xz: is not a \.flo file"):
        read_pair(pair)


def test_a_recipe_of_ones_own(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'title = "Mine"\n[sets.a]\nframe1 = "{n}.png"\nframe2 = "{n+1}.png"\nflow = "{n}.flo"\n'
    )
    root = plant(tmp_path / "root", ["9.png", "10.png"])
    write_flow(root / "9.flo", torch.zeros(2, HEIGHT, WIDTH))
    (pair,) = pairs_of(load_recipe(recipe), root)
    assert (pair.group, pair.name) == ("mine/a", "9")


def test_the_last_frame_is_that_of_the_largest_number(tmp_path):
    """It may have flow though no frame follows, if so the recipe says; by name it were frame_9."""
    recipe = tmp_path / "mine.toml"
    sets = '[sets.a]\nframe1 = "f_{n}.png"\nframe2 = "f_{n+1}.png"\nflow = "{n}.flo"\n'
    recipe.write_text(f'title = "Mine"\nlast_flow = true\n{sets}')
    root = plant(tmp_path / "root", [f"f_{number}.png" for number in range(1, 11)])
    for number in range(1, 11):
        write_flow(root / f"{number}.flo", torch.zeros(2, HEIGHT, WIDTH))
    assert len(pairs_of(load_recipe(recipe), root)) == 9
    recipe.write_text(f'title = "Mine"\n{sets}')
    with pytest.raises(InputError, match=r"f_11\.png missing"):
        pairs_of(load_recipe(recipe), root)


def test_a_number_that_no_file_has_is_free(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'title = "Mine"\n[sets.a]\nframe1 = "{x}.png"\nframe2 = "b{n+1}.png"\nflow = "{x}.flo"\n'
    )
    root = plant(tmp_path / "root", ["9.png"])
    write_flow(root / "9.flo", torch.zeros(2, HEIGHT, WIDTH))
    with pytest.raises(InputError, match="png"):
        pairs_of(load_recipe(recipe), root)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title =", "is not valid TOML"),
        ("home = 'a'", "lacks 'title'"),
        ("title = 3", "title must be str, got 3"),
        ('title = "a"\nlast_flow = "yes"', "last_flow must be bool, got 'yes'"),
        ('title = "a"\nsize = 1', "unknown key 'size'"),
        ('title = "a\\u001b]0;b"', "the text .* holds characters that cannot be shown"),
        ('title = "a"\nnote = "b\\rc"', "the text 'b.rc' holds characters"),
        ('title = "a"\nfootage = "b"', "footage must be a list"),
        ('title = "a"\nsets = 3', "sets must be tables"),
        ('title = "a"\n[sets.b]\nframe1 = "c"', "lacks 'frame2' and 'flow'"),
        ('title = "a"\n[sets.b]\nframe1 = 1\nframe2 = "c"\nflow = "d"', "frame1 must be str"),
    ],
)
def test_a_broken_recipe_is_explained(tmp_path, text, problem):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        load_recipe(path)


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(InputError, match=r"sintl: is not a recipe; known are davis, .*sintel"):
        load_recipe("sintl")


@pytest.mark.parametrize("name", TREES)
def test_a_part_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch, name):
    """As ``glob`` leaves it out: figures would be of other pairs."""
    recipe = load_recipe(name)
    root = plant(tmp_path, TREES[name][0])
    monkeypatch.setattr(recipes.os, "access", lambda path, how: path == root)
    if any("/" in part.frame1 for part in recipe.sets):
        with pytest.raises(InputError, match="permission denied"):
            pairs_of(recipe, root)
