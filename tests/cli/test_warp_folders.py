"""``flowwarp warp`` on folders of frames."""

import json
from pathlib import Path

import pytest
from warp_images import (
    HEIGHT,
    WIDTH,
    assert_picture,
    picture,
    pictures,
    save,
    save_flow,
    save_frames,
    shifted,
)

from flowwarp.io.images import read_image, write_image
from flowwarp.io.locks import lock
from flowwarp.io.video_writer import write_video

pytestmark = pytest.mark.usefixtures("inside")


def test_one_flow_per_frame(warp):
    frames = save_frames("in", 3)
    for index in range(3):
        save_flow(f"flows/{index + 9}.flo", index)
    write_image("flows/9_flow.png", picture())  # as `show` writes it
    code, out, err = warp("in/", "flows", "--mask", "masks")
    assert (code, err) == (0, [])
    assert out == [f"in_warped/frame{index}.png" for index in (8, 9, 10)]
    for index, frame in enumerate(frames):
        assert_picture(out[index], shifted(frame, index))
        assert read_image(f"masks/frame{index + 8}.png")[0, 0].sum() == WIDTH - index


@pytest.mark.parametrize(("way", "first"), [([], 1), (["--forward"], 0)])
def test_one_flow_fewer_than_frames(warp, way, first):
    frames = save_frames("in", 3)
    for index in range(2):
        save_flow(f"flows/{index}.flo")
    code, out, err = warp("in", "flows/*.flo", "-o", "new/out", *way)
    assert (code, err) == (0, [])
    assert out == [f"new/out/frame{8 + first + index}.png" for index in range(2)]
    for index in range(2):
        assert_picture(out[index], frames[first + index])


def test_flow_names_of_other_frames_give_a_warning(warp):
    """For example flow left from before a frame was deleted."""
    save_frames("in", 3)
    for index in (7, 8, 9):
        save_flow(f"flows/frame{index}.flo")
    code, out, err = warp("in", "flows")
    assert (code, len(out)) == (0, 3)
    line = "flows/frame8.flo: is used for frame9.png, but is named after another frame"
    assert err == [f"flowwarp: {line}"]
    Path("flows/frame7.flo").unlink()
    assert warp("in", "flows", "-o", "between")[::2] == (0, [])


def test_one_flow_for_all_frames(warp):
    frames = save_frames("in", 2)
    save_flow("f.flo", 1)
    code, out, _ = warp("in/*.png", "f.flo", "-o", "out")
    assert (code, out) == (0, ["out/frame8.png", "out/frame9.png"])
    for name, frame in zip(out, frames, strict=True):
        assert_picture(name, shifted(frame, 1))


@pytest.mark.parametrize("count", [1, 4])
def test_wrong_number_of_flows_is_refused(warp, count):
    save_frames("in", 3)
    for index in range(count):
        save_flow(f"flows/{index}.flo")
    assert warp("in", "flows") == (
        3,
        [],
        [
            f"flowwarp: flows: holds {count} flow files for 3 frames; "
            "give one per frame, one fewer, or a single file for all frames"
        ],
    )
    assert not Path("in_warped").exists()


def test_broken_files_do_not_stop_the_others(warp):
    frames = save_frames("in", 4)
    for index in range(4):
        save_flow(f"flows/{index}.flo", 1)
    Path("flows/1.flo").write_bytes(b"PIEH")
    save_flow("flows/2.flo", size=(3, 3))
    Path("in/frame8.png").write_text("no picture")
    code, out, err = warp("in", "flows", "-o", "out")
    assert (code, out) == (5, ["out/frame11.png"])
    assert err == [
        "flowwarp: in/frame8.png: is not a picture of a known type",
        "flowwarp: flows/1.flo: is cut off in its header",
        "flowwarp: flows/2.flo: is 3x3, but in/frame10.png is 8x6; --resize fits the flow to the"
        " image",
        "flowwarp: 3 of 4 failed",
    ]
    assert_picture(out[0], shifted(frames[3], 1))
    assert pictures("out") == ["frame11.png"]
    code, out, _ = warp("in", "flows", "-o", "out", "--overwrite", "--json")
    assert code == 5
    assert [fault["input"] for fault in json.loads("".join(out))["failed"]] == [
        "in/frame8.png",
        "in/frame9.png",
        "in/frame10.png",
    ]


def test_same_command_resumes(warp):
    save_frames("in", 3)
    save_flow("f.flo", 1)
    whole = Path("in/frame9.png").read_bytes()
    Path("in/frame9.png").write_text("no picture")
    call = ("in", "f.flo", "-o", "out", "--mask", "masks")
    assert warp(*call)[0] == 5
    done = [Path(f"{folder}/frame8.png") for folder in ("out", "masks")]
    times = [path.stat().st_mtime_ns for path in done]
    Path("in/frame9.png").write_bytes(whole)
    code, out, _ = warp(*call, "--dry-run", "--json")
    assert code == 0
    assert [result["kept"] for result in json.loads("".join(out))["results"]] == [True, False, True]
    assert pictures("out") == ["frame10.png", "frame8.png"]
    code, out, err = warp(*call, "--json")
    assert (code, err) == (0, [])
    results = json.loads("".join(out))["results"]
    assert [result.pop("kept") for result in results] == [True, False, True]
    assert results[0] == {
        "input": "in/frame8.png",
        "flow": ["f.flo"],
        "output": "out/frame8.png",
        "mask": "masks/frame8.png",
        "height": HEIGHT,
        "width": WIDTH,
        "known": results[1]["known"],
    }
    assert [path.stat().st_mtime_ns for path in done] == times
    assert len(pictures("out")) == len(pictures("masks")) == 3

    # Missing results, and results of files that changed, are made again.
    done[0].unlink()
    save("in/frame10.png", seed=9)
    code, out, _ = warp(*call, "--json")
    results = json.loads("".join(out))["results"]
    assert [result["kept"] for result in results] == [False, True, False]
    assert_picture("out/frame10.png", shifted(picture(seed=9), 1))


def test_folder_of_another_job_is_refused(warp):
    save_frames("in", 2)
    save_flow("f.flo", 1)
    assert warp("in", "f.flo", "-o", "out")[0] == 0
    code, _, err = warp("in", "f.flo", "-o", "out", "--scale", "0.5")
    assert (code, err) == (
        4,
        [
            "flowwarp: out: contains another job, whose scale is 1.0, not 0.5;"
            " name another folder, or begin again with --overwrite"
        ],
    )
    assert warp("in", "f.flo", "-o", "out", "--scale", "0.5", "--overwrite")[0] == 0
    assert warp("in", "f.flo", "-o", "out", "--scale", "0.5", "--device", "auto")[0] == 0


def test_second_process_on_one_folder_is_refused(warp):
    save_frames("in", 2)
    save_flow("f.flo")
    Path("out").mkdir()
    with lock("out", "held"):
        code, out, err = warp("in", "f.flo", "-o", "out")
    assert (code, out, err) == (
        8,
        [],
        ["flowwarp: out: another process works on this; wait for it"],
    )
    assert pictures("out") == []


def test_mask_folder_of_a_video_is_checked_first(warp):
    write_video("clip.gif", [picture()] * 2)
    save_flow("f.flo")
    Path("masks").mkdir()
    Path("masks/mine.png").write_text("mine")
    before = sorted(Path().rglob("*"))
    for call in (("--mask", "masks"), ("-o", "masks")):
        for more in ((), ("--dry-run",)):
            code, out, err = warp("clip.gif", "f.flo", *call, *more)
            assert (code, out) == (4, [])
            assert err == ["flowwarp: masks: exists and is not an empty folder; name a new one"]
            assert sorted(Path().rglob("*")) == before


def test_output_folder_with_input_frames_is_refused(warp):
    save_frames("in", 2)
    save_flow("f.flo")
    before = Path("in/frame8.png").read_bytes()
    for call in (("-o", "in"), ("-o", "out", "--mask", "in")):
        code, _, err = warp("in", "f.flo", *call, "--overwrite")
        assert (code, err) == (
            4, ["flowwarp: in: contains input frames; name another folder"],
        )  # fmt: skip
    assert Path("in/frame8.png").read_bytes() == before


@pytest.mark.parametrize("given", ["flows", "flows/*.png"])
def test_output_folder_with_input_flows_is_refused(warp, given):
    save_frames("in", 2)
    for index in (8, 9):
        save_flow(f"flows/frame{index}.png", 1)  # the results have the same names
    before = Path("flows/frame8.png").read_bytes()
    for call in (("-o", "flows"), ("-o", "out", "--mask", "flows")):
        code, out, err = warp("in", given, *call, "--overwrite")
        assert (code, out, err) == (
            4, [], ["flowwarp: flows: contains input flows; name another folder"],
        )  # fmt: skip
    assert Path("flows/frame8.png").read_bytes() == before
    assert pictures("flows") == ["frame8.png", "frame9.png"]


def test_input_is_not_replaced_through_a_link(warp):
    """Writing to a link writes to the frame it points to."""
    save_frames("in", 2)
    save_flow("f.flo", 1)
    Path("links").mkdir()
    for frame in Path("in").iterdir():
        Path("links", frame.name).symlink_to(frame.absolute())
    before = [frame.read_bytes() for frame in sorted(Path("in").iterdir())]
    for folder in ("links", "in"):
        assert warp("links", "f.flo", "-o", folder, "--overwrite") == (
            4, [], [f"flowwarp: {folder}: contains input frames; name another folder"],
        )  # fmt: skip
    assert [frame.read_bytes() for frame in sorted(Path("in").iterdir())] == before


@pytest.mark.parametrize("folder", ["out.png", "v1.5", "clip.mp4"])
def test_folder_of_frames_may_have_a_file_extension(warp, folder):
    frames = save_frames("in", 2)
    save_flow("f.flo", 1)
    code, out, err = warp("in", "f.flo", "-o", f"{folder}/")
    assert (code, out, err) == (0, [f"{folder}/frame{index}.png" for index in (8, 9)], [])
    assert_picture(out[0], shifted(frames[0], 1))


def test_nothing_is_written_if_one_result_exists(warp):
    save_frames("in", 2)
    save_flow("f.flo")
    Path("out").mkdir()
    Path("out/frame9.png").write_text("mine")
    code, _, err = warp("in", "f.flo", "-o", "out")
    assert (code, err) == (
        4,
        [
            "flowwarp: out: is not empty, and contains no job to resume;"
            " name another folder, or use --overwrite"
        ],
    )
    assert pictures("out") == ["frame9.png"]


def test_folder_named_dot(warp, tmp_path, monkeypatch):
    save_frames("in", 1)
    save_flow("f.flo")
    monkeypatch.chdir("in")
    assert warp(".", "../f.flo")[:2] == (0, [f"{tmp_path}/in_warped/frame8.png"])
