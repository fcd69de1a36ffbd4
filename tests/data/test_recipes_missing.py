"""Data sets that are incomplete: which files are missing, which pairs remain."""

import pytest
import torch

from flowwarp.data.recipes import (
    find_pairs,
    footage_of,
    load_recipe,
    pairs_of,
    read_pair,
)
from flowwarp.errors import InputError
from flowwarp.io.images import write_image
from recipe_trees import HEIGHT, KITTI15, SCENES, SINTEL, TREES, WIDTH, is_flow, plant


def test_another_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"no file is like training/clean/.*read as MPI Sintel"):
        pairs_of(load_recipe("sintel"), tmp_path)
    with pytest.raises(InputError, match="no such file or directory"):
        pairs_of(load_recipe("sintel"), tmp_path / "gone")
    with pytest.raises(InputError, match="holds no footage of DAVIS"):
        footage_of(load_recipe("davis"), tmp_path)


def test_one_missing_file_is_named(tmp_path):
    root = plant(tmp_path, SINTEL)
    (root / "training/flow/alley_1/frame_0002.flo").unlink()
    with pytest.raises(InputError, match=r"training/flow/alley_1/frame_0002\.flo missing"):
        pairs_of(load_recipe("sintel"), root)


def test_a_hole_in_a_clip_is_named(tmp_path):
    root = plant(tmp_path, SINTEL)
    (root / "training/final/alley_1/frame_0002.png").unlink()
    with pytest.raises(InputError, match=r"training/final/alley_1/frame_0002\.png missing"):
        pairs_of(load_recipe("sintel"), root)


def test_no_flow_at_all(tmp_path):
    root = plant(tmp_path, [name for name in SINTEL if not is_flow(name)])
    with pytest.raises(InputError, match=r"frame_0001\.flo and 1 more missing"):
        pairs_of(load_recipe("sintel"), root)


@pytest.mark.parametrize("number", [1, 3])
def test_a_frame_at_either_end_of_a_clip_is_named(tmp_path, number):
    root = plant(tmp_path, SINTEL)
    name = f"training/final/alley_1/frame_000{number}.png"
    (root / name).unlink()
    with pytest.raises(InputError, match=f"{name} missing"):
        pairs_of(load_recipe("sintel"), root)


def test_a_whole_scene_that_is_missing_is_named(tmp_path):
    root = plant(tmp_path, [*SINTEL, *(name.replace("alley_1", "cave_4") for name in SINTEL)])
    for path in (root / "training/clean/cave_4").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"cave_4/frame_0001\.png and 1 more missing"):
        pairs_of(load_recipe("sintel"), root)


@pytest.mark.parametrize("name", ["frame10.png", "frame11.png"])
def test_where_some_pairs_have_no_flow_no_frame_may_be_missing(tmp_path, name):
    files = TREES["middlebury"][0]
    root = plant(tmp_path, [*files, *(file.replace("Grove2", "Urban2") for file in files)])
    (root / "other-data/Grove2" / name).unlink()
    with pytest.raises(InputError, match=f"other-data/Grove2/{name} missing"):
        pairs_of(load_recipe("middlebury"), root)


def test_the_last_frame_that_has_flow_is_named_if_it_is_missing(tmp_path):
    """Whose frame 2 is not there anyhow."""
    root = plant(tmp_path, TREES["flyingthings3d"][0])
    (root / "frames_cleanpass/TEST/A/0000/left/0008.png").unlink()
    with pytest.raises(InputError, match=r"left/0008\.png missing"):
        pairs_of(load_recipe("flyingthings3d"), root)


def test_a_set_without_a_first_frame_is_not_taken_for_one_left_out(tmp_path):
    recipe = tmp_path / "mine.toml"
    files = 'frame1 = "X/1.png"\nframe2 = "X/2.png"\nflow = "X/{x}.flo"\n'
    sets = "".join(f"[sets.{name}]\n{files.replace('X', name)}" for name in "ab")
    recipe.write_text(f'title = "Mine"\n{sets}')
    root = plant(tmp_path / "root", ["a/1.png", "a/2.png", "a/f.flo", "b/2.png", "b/f.flo"])
    with pytest.raises(InputError, match=r"b/1\.png missing"):
        pairs_of(load_recipe(recipe), root)
    (root / "b/2.png").unlink()
    assert len(pairs_of(load_recipe(recipe), root)) == 1


def test_flow_that_is_named_after_frame_2(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'title = "M"\n[sets.a]\nframe1 = "f{n}.png"\nframe2 = "f{n+1}.png"\nflow = "{n+1}.flo"\n'
    )
    root = plant(tmp_path / "root", ["f08.png", "f09.png", "f10.png", "09.flo", "10.flo"])
    assert [pair.flow.name for pair in pairs_of(load_recipe(recipe), root)] == ["09.flo", "10.flo"]
    (root / "f08.png").unlink()
    with pytest.raises(InputError, match=r"f08\.png missing"):
        pairs_of(load_recipe(recipe), root)


@pytest.mark.parametrize("part", ["occlusions", "invalid"])
def test_a_mask_is_there_for_all_pairs_of_a_set_or_for_none(tmp_path, part):
    root = plant(tmp_path, SINTEL)
    masks = sorted((root / "training" / part / "alley_1").iterdir())
    masks[1].unlink()
    with pytest.raises(InputError, match=rf"training/{part}/alley_1/frame_0002\.png missing"):
        pairs_of(load_recipe("sintel"), root)
    for mask in (masks[0], *masks[2:]):
        mask.unlink()
    assert len(pairs_of(load_recipe("sintel"), root)) == 4


def test_whole_pairs_are_found_beside_what_others_lack(tmp_path):
    root = plant(tmp_path, SINTEL)
    recipe = load_recipe("sintel")
    whole, lacking = find_pairs(recipe, root)
    assert (whole, lacking) == (pairs_of(recipe, root), [])
    flow, mask = (root / "training" / name for name in ("flow", "invalid"))
    (mask / "alley_1/frame_0001.png").unlink()
    found, lacking = find_pairs(recipe, root)
    assert (found, lacking) == (whole[1::2], ["training/invalid/alley_1/frame_0001.png"])
    (flow / "alley_1/frame_0001.flo").unlink()
    found, lacking = find_pairs(recipe, root)
    assert (found, lacking) == (whole[1::2], ["training/flow/alley_1/frame_0001.flo"])
    (flow / "alley_1/frame_0002.flo").unlink()
    names = ["training/flow/alley_1/frame_0001.flo", "training/flow/alley_1/frame_0002.flo"]
    assert find_pairs(recipe, root) == ([], names)


def test_a_folder_for_each_pair_has_the_masks_it_has(tmp_path):
    files = [f"s/{pair}/{name}" for pair in "ab" for name in ("frame1.png", "frame2.png")]
    root = plant(tmp_path, [*files, "s/a/flow.flo", "s/b/flow.flo", "s/b/occ.png"])
    pairs = pairs_of(load_recipe("pairs"), root)
    assert [pair.occluded for pair in pairs] == [None, root / "s/b/occ.png"]


def test_two_pictures_for_one_frame(tmp_path):
    root = plant(tmp_path, [*TREES["pairs"][0], "a/x/frame1.jpg"])
    with pytest.raises(InputError, match=r"a/x/frame1\.png: frame1\.jpg is there, too, for one"):
        pairs_of(load_recipe("pairs"), root)


def test_what_macos_leaves_is_no_picture(tmp_path):
    """On a disk of another kind it puts ``._name`` beside each file that has attributes."""
    files = ["training/flow_occ/000000_10.png", *SCENES["kitti2015"][:1]]
    root = plant(tmp_path, [*KITTI15, *(file.format(9) for file in files)])
    for path in list(root.rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"attributes")
    recipe = load_recipe("kitti2015")
    (pair,) = pairs_of(recipe, root)
    assert pair.frame1.name == "000000_10.png"
    assert [clip.files[0].name for clip in footage_of(recipe, root)] == ["000000_09.png"]
    root = plant(tmp_path / "pairs", ["s/a/frame1.png", "s/a/frame2.png", "s/a/flow.flo"])
    for name in ("frame1.png", "frame2.png", "flow.flo"):
        (root / "s/a" / f"._{name}").write_bytes(b"attributes")
    plant(root, [f".Trashes/a/{name}" for name in ("frame1.png", "frame2.png", "flow.flo")])
    assert [pair.name for pair in pairs_of(load_recipe("pairs"), root)] == ["a"]


def test_links_to_folders_are_followed_and_each_folder_counts_once(tmp_path):
    files = [f"a/{name}" for name in ("frame1.png", "frame2.png", "flow.flo")]
    plant(tmp_path / "elsewhere", files)
    root = plant(tmp_path / "root", [f"s/{file}" for file in files])
    (root / "t").symlink_to(tmp_path / "elsewhere")
    (root / "t/up").symlink_to(root)
    (root / "u").symlink_to(root / "s")
    pairs = pairs_of(load_recipe("pairs"), root)
    assert [(pair.group, pair.name) for pair in pairs] == [("s", "a"), ("t", "a")]


def test_a_gap_in_the_numbers_begins_another_clip(tmp_path):
    names = [f"training/image_2/000000_{n:02}.png" for n in (8, 9, 10, 12, 13, 15)]
    root = plant(tmp_path, names)
    clips = footage_of(load_recipe("kitti2015"), root)
    assert [[path.stem[-2:] for path in clip.files] for clip in clips] == [
        ["08", "09", "10"],
        ["12", "13"],
    ]


def test_numbers_may_count_by_more_than_one(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('title = "Mine"\nfootage = ["{scene}/{n}.png"]\n')
    root = plant(tmp_path, [f"a/{n:03}.png" for n in (0, 10, 20, 40, 50)])
    clips = footage_of(load_recipe(str(recipe)), root)
    assert [[path.stem for path in clip.files] for clip in clips] == [
        ["000", "010", "020"],
        ["040", "050"],
    ]


def test_a_set_may_be_left_out(tmp_path):
    root = plant(tmp_path, [name for name in SINTEL if "final" not in name])
    assert len(pairs_of(load_recipe("sintel"), root)) == 2


def test_sizes_must_agree(tmp_path):
    root = plant(tmp_path, KITTI15)
    write_image(root / "training/image_2/000000_11.png", torch.zeros(3, HEIGHT, WIDTH + 1))
    (pair,) = pairs_of(load_recipe("kitti2015"), root)
    with pytest.raises(InputError, match=r"000000_11\.png: is 7x4, the flow is 6x4"):
        read_pair(pair)
