import pytest
import torch

from flowwarp.errors import InputError, OutputError
from flowwarp.io.flow_files import read_flow
from flowwarp.io.images import read_image, write_image
from flowwarp.pipelines.flow import pair_fields
from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet


def test_files_and_decoded_frames_are_read_alike(tmp_path):
    steps = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)
    write_image(tmp_path / "a.png", steps / 255)
    image1, image2 = pair_fields.read_pair((tmp_path / "a.png", steps.numpy()), ("a", "b"))
    assert torch.equal(image1, steps / 255)
    assert torch.equal(image1, image2)


def test_a_picture_that_changes_is_read_again(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, torch.zeros(3, 4, 5))
    assert pair_fields.read_pair((path, path), ("a", "a"))[0].max() == 0
    write_image(path, torch.rand(3, 4, 5))
    assert torch.equal(pair_fields.read_pair((path, path), ("a", "a"))[0], read_image(path))


def test_frames_of_two_sizes_are_refused():
    frames = [torch.zeros(3, 4, width, dtype=torch.uint8).numpy() for width in (5, 6)]
    with pytest.raises(InputError, match=r"two: is 6x4, but one is 5x4; a pair needs"):
        pair_fields.read_pair(frames, ("one", "two"))


def test_only_the_requested_fields_are_returned():
    net = load_flownet("small")
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 40)
    flow_12, flow_21 = estimate_both(net, images[:1], images[1:], "fast")
    alone = pair_fields.estimate_fields(net, *images, "fast")
    assert torch.equal(alone.flow_12, flow_12[0])
    assert alone.flow_21 is None
    assert alone.visible is None
    fields = pair_fields.estimate_fields(net, *images, "fast", backward=True, visible=True)
    assert torch.equal(fields.flow_12, flow_12[0])
    assert torch.equal(fields.flow_21, flow_21[0])
    assert fields.visible.shape == (1, 32, 40)


def test_fields_are_written(tmp_path):
    target = pair_fields.Target(tmp_path / "f.flo", tmp_path / "b.npy", tmp_path / "o.png")
    flow_12, flow_21 = torch.rand(2, 2, 4, 5)
    visible = torch.rand(1, 4, 5) < 0.5
    pair_fields.write_fields(pair_fields.Fields(flow_12, flow_21, visible), target)
    assert torch.equal(read_flow(target.flow)[0], flow_12)
    assert torch.equal(read_flow(target.backward)[0], flow_21)
    assert torch.equal(read_image(target.occlusion)[:1] > 0.5, visible)


def test_flow_is_written_last(tmp_path):
    """A pair whose forward flow exists has its other results, too."""
    field = torch.zeros(2, 4, 5)
    target = pair_fields.Target(tmp_path / "none/f.flo", tmp_path / "b.flo", tmp_path / "o.png")
    with pytest.raises(OutputError):
        pair_fields.write_fields(pair_fields.Fields(field, field, field[:1] == 0), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.flo", "o.png"]
