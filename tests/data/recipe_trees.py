"""File trees of known data sets, for tests of recipes."""

import torch

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
