"""``flowwarp flow --show`` of many pairs."""

from pathlib import Path

import pytest
from flow_frames import files, flows, frame, save_frames

from flowwarp.cli import show
from flowwarp.io.images import read_image, write_image
from flowwarp.io.video_reader import read_video

pytestmark = pytest.mark.usefixtures("inside")


def test_show_draws_all_frames_at_one_scale(flow):
    save_frames("in", 4)
    code, out, _ = flow("in", "--show", "colours")
    assert (code, out[-1]) == (0, "colours")
    assert sorted(files("colours")) == ["frame10.png", "frame8.png", "frame9.png"]
    code, out, _ = flow("in", "--show", "s.gif")
    video = list(read_video("s.gif"))
    for number, picture in zip((8, 9, 10), video, strict=True):
        drawn = read_image(f"colours/frame{number}.png")
        assert (drawn - picture).abs().mean() < 0.02
    # A command may replace its own earlier output, but no other file.
    assert flow("in", "--show", "s.gif")[0] == 0
    Path("t.gif").write_text("mine")
    assert flow("in", "--show", "t.gif")[::2] == (
        4, ["flowwarp: t.gif: exists; use --overwrite to replace it"],
    )  # fmt: skip


def test_show_replaces_only_its_own_earlier_output(flow):
    save_frames("in", 3)
    refused = (4, [], ["flowwarp: s.gif: exists; use --overwrite to replace it"])
    assert flow("in", "--show", "s.gif")[0] == 0
    for _ in range(2):
        assert flow("in", "--show", "s.gif")[0] == 0  # what it has made itself, each time anew
    Path("s.gif").write_text("mine")
    assert flow("in", "--show", "s.gif") == refused
    assert flow("in", "--show", "s.gif", "--dry-run") == refused
    assert Path("s.gif").read_text() == "mine"
    Path("s.gif").unlink()
    assert flow("in", "--show", "s.gif")[0] == 0
    Path("s.gif").unlink()
    save_frames("s.gif", 1)  # a folder
    assert flow("in", "--show", "s.gif")[::2] == (
        4, ["flowwarp: s.gif: is not empty; use --overwrite to write into it"],
    )  # fmt: skip
    assert flow("in", "--show", "s.gif", "--overwrite")[0] == 0


def test_show_file_created_during_estimation_is_not_replaced(flow, create_during_estimation):
    """Nor on resuming: the manifest does not list the file."""
    save_frames("in", 3)
    create_during_estimation("s.gif")
    for _ in range(2):
        code, _, err = flow("in", "--show", "s.gif")
        assert (code, err) == (4, ["flowwarp: s.gif: exists; use --overwrite to replace it"])
        assert Path("s.gif").read_text() == "mine"
    assert sorted(files("in_flow")) == ["frame8.flo", "frame9.flo"]


def test_show_folder_resumes_after_interrupt(flow, monkeypatch):
    save_frames("in", 3)
    draw = show.write_picture

    def once(*arguments):
        monkeypatch.setattr(show, "write_picture", stopped)
        return draw(*arguments)

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "write_picture", once)
    assert flow("in", "--show", "colours")[0] == 130
    assert list(files("colours")) == ["frame8.png"]
    monkeypatch.setattr(show, "write_picture", draw)
    assert flow("in", "--show", "colours")[0] == 0
    assert list(files("colours")) == ["frame8.png", "frame9.png"]


def test_show_video_needs_one_frame_size(flow):
    save_frames("in", 3)
    for number in (11, 12):
        write_image(f"in/frame{number}.png", frame(number)[:, :40])
    code, out, err = flow("in", "--show", "s.gif")
    assert (code, out[:-1]) == (5, flows("in_flow", 8, 9, 11))
    assert "in_flow/frame10.flo: in/frame11.png: is 64x40, but in/frame10.png is 64x48" in err[0]
    assert "s.gif: in_flow/frame11.flo: is 64x40, the flows before it 64x48" in err[1]
