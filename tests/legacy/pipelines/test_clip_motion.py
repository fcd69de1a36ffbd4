"""The motion of a clip as the world tells it, by a flow network."""

import weakref

import pytest
import torch
import torch.nn.functional as F

from flowwarp.legacy.pipelines import clip_motion
from flowwarp.legacy.pipelines.clip_motion import estimate_motion, steady_clip_motion, steady_motion
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet


def test_flow_of_each_pair_both_ways():
    torch.manual_seed(0)
    net = FlowNet(TINY).eval()
    video = torch.randint(256, (3, 3, 32, 32)).byte()
    flow_12, flow_21, visible_12, visible_21 = estimate_motion(net, video)
    assert flow_12.shape == flow_21.shape == (2, 2, 32, 32)
    assert visible_12.shape == visible_21.shape == (2, 1, 32, 32)
    assert visible_12.dtype == torch.bool
    frames = video.float() / 255
    there, back = estimate_both(net, frames[1:2], frames[2:3], "fast")
    assert torch.equal(flow_12[1:], there)
    assert torch.equal(flow_21[1:], back)


def test_each_way_has_a_visibility_of_its_own(monkeypatch):
    there, back = torch.randn(2, 1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(clip_motion, "estimate_both", lambda *given: (there, back))
    *_, visible_12, visible_21 = estimate_motion(FlowNet(TINY), torch.zeros(2, 3, 8, 8))
    assert torch.equal(visible_12, visible_by_consistency(there, back))
    assert torch.equal(visible_21, visible_by_consistency(back, there))
    assert not torch.equal(visible_12, visible_21)


def test_a_still_picture_has_no_motion():
    net = FlowNet(TINY).eval()
    assert [len(part) for part in estimate_motion(net, torch.zeros(1, 3, 32, 32))] == [0] * 4


# Motion of frames that share codes


def places(monkeypatch):
    """Let frames be places, and flow lead from one to the other; keep what is compared."""
    compared = []

    def both(net, frame1, frame2, quality):
        assert quality == "fast"
        compared.append((int(frame1), int(frame2)))
        moved = (frame2 - frame1).expand(1, 2, 1, 1)
        return moved, -moved

    monkeypatch.setattr(clip_motion, "estimate_both", both)
    return compared


def numbered(*places):
    return [torch.full((1, 1, 1, 1), float(place)) for place in places]


def test_motion_is_the_mean_of_what_frames_far_before_and_after_tell(monkeypatch):
    compared = places(monkeypatch)
    where = (0, 1, 10, 11, 50, 51)
    moves = list(steady_motion(None, numbered(*where), 2))
    assert moves[0] is None
    # By t + 2 and t - 2 where there are both, halved; at either end by the one there is.
    velocities = [
        (10 - 0) / 2,
        (11 - 1) / 2,
        ((50 - 10) / 2 + (10 - 0) / 2) / 2,
        ((51 - 11) / 2 + (11 - 1) / 2) / 2,
        (50 - 10) / 2,
        (51 - 11) / 2,
    ]
    assert [float(moved[0][0, 0]) for moved in moves[1:]] == [-v for v in velocities[1:]]
    assert compared == [(0, 10), (1, 11), (10, 50), (11, 51)]


@pytest.mark.parametrize("length", range(10))
def test_every_clip_s_motion_is_known_however_short_it_is(monkeypatch, length):
    compared = places(monkeypatch)
    moves = list(steady_motion(None, numbered(*range(0, 3 * length, 3)), 4))
    assert moves[:1] == [None] * min(length, 1)
    assert [float(moved[0][0, 1]) for moved in moves[1:]] == [-3.0] * max(0, length - 1)
    apart = 4 if length > 4 else length // 2  # four frames may share codes, and hardly move
    assert all(last - first == 3 * apart for first, last in compared)


def test_a_picture_stands_still_and_what_follows_leaps_from_it(monkeypatch):
    compared = places(monkeypatch)
    where = (0, 0, 0, 0, 8, 10, 12, 14)
    first, *steady = steady_motion(None, numbered(*where), 4)
    compared.clear()
    begun, *moves = steady_motion(None, numbered(*where), 4, still=4)
    assert compared.count((0, 8)) == 2  # as all are over four frames, and as it leaps
    assert begun is first is None
    assert [float(flow[0, 0]) for flow, _ in moves[:4]] == [0, 0, 0, -8]
    assert all(bool(visible.all()) for _, visible in moves[:3])
    assert [float(flow[0, 0]) for flow, _ in steady[:4]] == [-2.5, -3, -3.5, -2]
    for mine, theirs in zip(moves[4:], steady[4:], strict=True):
        assert torch.equal(mine[0], theirs[0])


def test_in_the_middle_of_a_short_clip_frames_move_as_those_before_them(monkeypatch):
    places(monkeypatch)
    moves = list(steady_motion(None, numbered(0, 10, 20, 30, 80, 90), 4))
    # Of 0 and 80, 10 and 90; nothing is four before or after the third and the fourth.
    assert [float(moved[0][0, 0]) for moved in moves[1:]] == [-20.0] * 5


@pytest.mark.parametrize("apart", [1, 4])
def test_frames_are_taken_as_they_are_needed_and_not_kept(monkeypatch, apart):
    places(monkeypatch)
    taken = []

    def endless():
        for frame in range(1_000_000):
            picture = numbered(frame)[0]
            taken.append(weakref.ref(picture))
            yield picture
            del picture

    moves = steady_motion(None, endless(), apart)
    for number in range(30):
        next(moves)
        assert len(taken) == number + apart + 1
        assert sum(frame() is not None for frame in taken) <= apart + 1


def test_what_is_hidden_is_not_the_same(monkeypatch):
    """A square that moves over a ground that stands still uncovers what the frame before hid."""
    size, speed, side = 24, 2, 8

    def flows(frame1, frame2):
        first, last = (int(frame[0, 0, 0, 0]) for frame in (frame1, frame2))
        flow = torch.zeros(1, 2, size, size)
        flow[:, 0, 8 : 8 + side, speed * first : speed * first + side] = speed * (last - first)
        return flow

    monkeypatch.setattr(
        clip_motion, "estimate_both", lambda net, a, b, quality: (flows(a, b), flows(b, a))
    )
    frames = (torch.full((1, 3, size, size), float(number)) for number in range(8))
    moves = list(steady_motion(None, frames, 2))
    flow, visible = moves[3]
    rows, now, before = slice(8, 8 + side), speed * 3, speed * 2
    assert (flow[0, 0, rows, now : now + side] == -speed).all()
    assert (flow[0, 0, :8] == 0).all()
    assert not visible[0, 0, rows, before:now].any()
    assert visible[0, 0, rows, now : now + side].all()
    assert visible[0, 0, :8].all()


@pytest.mark.parametrize(("last", "same"), [(0.4, True), (1.0, False)])
def test_steady_motion_differs_little_from_frame_to_frame(monkeypatch, last, same):
    """By a fifth of a pixel along each axis here, or by a half."""

    def both(net, frame1, frame2, quality):
        moved = (frame2 - frame1).expand(1, 2, 9, 9)
        return moved, -moved

    monkeypatch.setattr(clip_motion, "estimate_both", both)
    _, *moves = steady_motion(None, numbered(0, 0, last), 1)
    assert [bool(visible[0, 0, 4, 4]) for _, visible in moves] == [same, same]


def test_motion_that_leaps_is_found_steady():
    """Frames of which four show the same each, as if by one code, of a scene that moves evenly."""
    generator = torch.Generator().manual_seed(3)
    scene = F.avg_pool2d(torch.rand(1, 3, 100, 150, generator=generator), 5, 1)
    video = torch.cat([scene[..., :96, 4 * (t // 4) : 4 * (t // 4) + 96] for t in range(16)])
    net = load_flownet("small")
    steady, _ = steady_clip_motion(net, video, 4)
    leaping = estimate_motion(net, video)[1]
    off = [
        (flow[3:12, 0] - 1).abs().median(-1).values.median(-1).values for flow in (steady, leaping)
    ]
    assert float(off[0].max()) < 0.35
    assert float(off[1].max()) > 2


def test_a_whole_clip_s_motion_is_what_comes_frame_by_frame():
    torch.manual_seed(0)
    net = FlowNet(TINY).eval()
    video = torch.rand(5, 3, 32, 32)
    flow, visible = steady_clip_motion(net, video, 1)
    assert flow.shape == (4, 2, 32, 32)
    assert visible.shape == (4, 1, 32, 32)
    there, back = estimate_both(net, video[:1], video[1:2], "fast")
    next_there, _ = estimate_both(net, video[1:2], video[2:3], "fast")
    torch.testing.assert_close(flow[:1], (back - next_there) / 2)
    seen = visible_by_consistency(flow[:1], there, beta=clip_motion.TOLERANCE)
    assert torch.equal(visible[:1], seen)
    assert [len(part) for part in steady_clip_motion(net, video[:1], 4)] == [0, 0]
