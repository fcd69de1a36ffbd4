"""Recipes: each on a small tree with the real data set's layout."""

import lzma

import pytest
import torch

from flowwarp.data import recipes
from flowwarp.data.pairs import prepare_pairs
from flowwarp.data.recipes import (
    find_pairs,
    footage_of,
    load_recipe,
    pairs_of,
    read_pair,
    recipe_names,
)
from flowwarp.errors import InputError
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image

HEIGHT, WIDTH = 4, 6
SINTEL = [
    *(f"training/clean/alley_1/frame_{n:04}.png" for n in (1, 2, 3)),
    *(f"training/final/alley_1/frame_{n:04}.png" for n in (1, 2, 3)),
    *(f"training/flow/alley_1/frame_{n:04}.flo" for n in (1, 2)),
    *(f"training/occlusions/alley_1/frame_{n:04}.png" for n in (1, 2)),
    *(f"training/invalid/alley_1/frame_{n:04}.png" for n in (1, 2, 3)),
    *(f"test/clean/cave_1/frame_{n:04}.png" for n in (1, 2)),
]
KITTI15 = [
    "training/image_2/000000_10.png",
    "training/image_2/000000_11.png",
    "training/image_2/000000_09.png",  # multi-view extension
    "training/flow_occ/000000_10.png",
    "training/flow_noc/000000_10.png",
]
TREES = {
    "sintel": (SINTEL, 4),
    "kitti2015": (KITTI15, 1),
    "kitti2012": ([name.replace("image_2", "colored_0") for name in KITTI15], 1),
    "flyingchairs": (
        [f"data/{n:05}_{tail}" for n in (1, 2) for tail in ("img1.ppm", "img2.ppm", "flow.flo")],
        2,
    ),
    "flyingthings3d": (
        [
            *(f"frames_cleanpass/TEST/A/0000/left/{n:04}.png" for n in (6, 7, 8)),
            *(f"frames_cleanpass/TRAIN/A/0000/left/{n:04}.png" for n in (6, 7)),
            *(
                f"optical_flow/TEST/A/0000/into_future/left/OpticalFlowIntoFuture_{n:04}_L.pfm"
                for n in (6, 7, 8)
            ),
        ],
        2,
    ),
    "middlebury": (
        [
            "other-data/Grove2/frame10.png",
            "other-data/Grove2/frame11.png",
            "other-data/Walking/frame10.png",
            "other-data/Walking/frame11.png",
            "other-gt-flow/Grove2/flow10.flo",
        ],
        1,
    ),
    "spring": (
        [
            *(f"train/0001/frame_left/frame_left_{n:04}.png" for n in (1, 2)),
            "train/0001/flow_FW_left/flow_FW_left_0001.flo",
        ],
        1,
    ),
    "hd1k": (
        [
            *(f"hd1k_input/image_2/000000_{n:04}.png" for n in (9, 10)),
            *(f"hd1k_flow_gt/flow_occ/000000_{n:04}.png" for n in (9, 10)),
        ],
        1,
    ),
    "made": (
        [*(f"000000/00000{n}.png" for n in range(3)), *(f"000000/00000{n}.flo" for n in range(2))],
        2,
    ),
    "pairs": (
        [
            "a/x/frame1.png",
            "a/x/frame2.ppm",
            "a/x/flow.flo",
            "a/x/occ.png",
            "a/x/invalid.png",
            "b/c/y/frame1.jpg",
            "b/c/y/frame2.jpg",
            "b/c/y/flow.png",
        ],
        2,
    ),
}
FOOTAGE = {
    "davis": ["JPEGImages/480p/bear/00000.jpg", "JPEGImages/480p/bear/00001.jpg"],
    "ucf101": ["Archery/v_Archery_g01_c01.avi"],
}
# Pictures of all scenes in one folder; what it holds besides, and how they belong together.
SCENES = {
    "kitti2012": ("training/colored_0/000000_1{}.png", "training/colored_0/000001_1{}.png"),
    "kitti2015": ("training/image_2/000000_1{}.png", "training/image_2/000001_1{}.png"),
    "hd1k": ("hd1k_input/image_2/000000_000{}.png", "hd1k_input/image_2/000001_000{}.png"),
    "flyingchairs": ("data/00001_img{}.ppm", "data/00002_img{}.ppm"),
}


def is_flow(name):
    return name.endswith(".flo") or "flow" in name.split("/")[-1].lower() or "/flow" in name


def plant(root, names):
    """Write small files with these names: pictures, or flow of 1 px to the right."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_flow(name):
            write_flow(path, torch.tensor([1.0, 0]).view(2, 1, 1).repeat(1, HEIGHT, WIDTH))
        else:
            write_image(path, torch.zeros(3, HEIGHT, WIDTH))
    return root


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
    """The second scene goes on where the first one ends, so that no cut is seen."""
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


# ------------------------------------------------------------------ what is missing


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


# ------------------------------------------------------------------ recipes of one's own


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
