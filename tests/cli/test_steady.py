"""``flowwarp steady`` with an untrained network."""

import json
from pathlib import Path

import pytest
import torch

from flowwarp.io.images import write_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video

HEIGHT, WIDTH = 32, 48

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def steady(call, untrained):
    def run(*arguments):
        return call("steady", *arguments, "--weights", untrained)

    return run


def frames(count=5):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 12, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")[0].clamp(0, 1)
    return [image * (0.7 + 0.3 * (k % 2)) for k in range(count)]


def save_folder(name="in", count=5):
    Path(name).mkdir()
    for k, frame in enumerate(frames(count)):
        write_image(f"{name}/{k}.png", frame)


def brightness(name):
    return [float(frame.mean()) for frame in read_video(name)]


def test_a_video_loses_its_flicker(steady):
    write_video("clip.mp4", frames(14), 10)
    assert steady("clip.mp4") == (0, ["clip_steady.mp4"], [])
    before, after = brightness("clip.mp4")[4:-4], brightness("clip_steady.mp4")[4:-4]
    assert len(brightness("clip_steady.mp4")) == 14
    assert max(after) - min(after) < 0.2 * (max(before) - min(before))
    assert video_info("clip_steady.mp4").fps == 10


def test_a_folder_stays_a_folder(steady):
    save_folder()
    code, out, err = steady("in", "--strength", "0", "--json")
    assert (code, err) == (0, [])
    assert json.loads(out[0]) == {
        "dry_run": False,
        "results": [
            {
                "input": "in",
                "guide": None,
                "output": "in_steady",
                "strength": 0.0,
                "quality": "fast",
                "height": HEIGHT,
                "width": WIDTH,
                "frames": 5,
                "fps": None,
                "cuts": 0,
            }
        ],
        "failed": [],
    }
    for one, other in zip(read_video("in"), read_video("in_steady"), strict=True):
        assert torch.equal(one, other)


def test_a_guide_of_another_size(steady):
    write_video("clip.mp4", frames(4), 10)
    write_video("guide.mp4", [frame[:, ::2, ::2] for frame in frames(4)], 10)
    assert steady("clip.mp4", "--guide", "guide.mp4", "-o", "out/") == (0, ["out"], [])
    assert len(list(Path("out").iterdir())) == 4


@pytest.mark.parametrize(("count", "match"), [(3, "has 3 frames"), (5, "more than 4 frames")])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_a_guide_of_another_length(steady, count, match, dry):
    write_video("clip.mp4", frames(4), 10)
    write_video("guide.mp4", frames(count), 10)
    code, out, (line,) = steady("clip.mp4", "--guide", "guide.mp4", *dry)
    assert (code, out) == (3, [])
    assert line.startswith("flowwarp: guide.mp4:")
    assert match in line
    assert not Path("clip_steady.mp4").exists()


def test_dry_run_writes_nothing(steady):
    write_video("clip.mp4", frames(4), 10)
    code, out, err = steady("clip.mp4", "--dry-run", "--json")
    assert (code, err) == (0, [])
    (result,) = json.loads(out[0])["results"]
    assert (result["frames"], result["cuts"]) == (4, None)
    assert [path.name for path in Path().iterdir()] == ["clip.mp4"]


def test_existing_output(steady):
    write_video("clip.mp4", frames(3), 10)
    Path("out.mp4").write_text("mine")
    assert steady("clip.mp4", "-o", "out.mp4")[0] == 4
    assert Path("out.mp4").read_text() == "mine"
    assert steady("clip.mp4", "-o", "out.mp4", "--overwrite")[0] == 0
    assert len(list(read_video("out.mp4"))) == 3


def test_the_guide_is_never_replaced(steady):
    write_video("clip.mp4", frames(3), 10)
    write_video("guide.mp4", frames(3), 10)
    code, _, (line,) = steady("clip.mp4", "--guide", "guide.mp4", "-o", "guide.mp4", "--overwrite")
    assert code == 4
    assert "is the input" in line


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("missing.mp4",), 3),
        (("clip.mp4", "--guide", "missing.mp4"), 3),
        (("clip.mp4", "--guide", "text.mp4"), 3),
        (("picture.png",), 2),
        (("clip.mp4", "-o", "out.png"), 2),
        (("clip.mp4", "--strength", "nan"), 2),
        (("clip.mp4", "--strength", "-1"), 2),
    ],
)
def test_wrong_calls(steady, arguments, code):
    write_video("clip.mp4", frames(2), 10)
    write_image("picture.png", frames(1)[0])
    Path("text.mp4").write_text("no video")
    got, out, err = steady(*arguments)
    assert (got, out) == (code, [])
    assert err
    assert not Path("clip_steady.mp4").exists()
