"""Generation: lengths, seeds, what the video begins with, and frames that stream."""

import weakref
from itertools import islice, pairwise

import pytest
import torch

from flowwarp.models.sampling import SamplingConfig
from flowwarp.pipelines.video import generate as module
from flowwarp.pipelines.video.encode import encode_end, encode_picture
from flowwarp.pipelines.video.generate import Request, generate, generate_frames, write_codes
from tiny_model import CONFIG, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def codes_of(model, request, seed=0):
    return list(write_codes(model, request, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("frames", [1, 8, 9, 21])
@pytest.mark.parametrize("changes", [{}, {"upsampler": None}, {"frames": 4}])
def test_any_length(frames, changes):
    video = generate(tiny_model(**changes), Request("a red ball", frames, steps=1))
    assert video.shape == (frames, 3, *CONFIG.size)
    assert video.dtype == torch.float32
    assert video.amin() >= 0
    assert video.amax() <= 1


def test_what_changes_a_video(model):
    clip = torch.rand(9, 3, 20, 30)
    requests = [
        (Request(*choices, **named), seed)
        for choices, named, seed in (
            (("a red ball", 4), {}, 0),
            (("a red ball", 4), {}, 1),
            (("a ball", 4), {}, 0),
            (("a red ball", 4), {"upsample": False}, 0),
            (("a red ball", 4), {"temporal": False}, 0),
            (("a red ball", 4), {"steps": 1}, 0),
            (("a red ball", 4), {"sampling": SamplingConfig(temperature=0)}, 0),
            (("a red ball", 4), {"image": clip[0]}, 0),
            (("a red ball", 4), {"before": clip}, 0),
        )
    ]
    videos = [generate(model, *each) for each in requests]
    assert torch.equal(videos[0], generate(model, *requests[0]))
    for one in range(len(videos)):
        for two in range(one):
            assert not torch.equal(videos[one], videos[two]), (one, two)


def test_a_window_begins_with_the_later_half_of_the_one_before(model, monkeypatch):
    begun = []
    sample = module.sample

    def spy(net, given, name, config, generator, begin):
        begun.append((given, begin))
        return sample(net, given, name, config, generator, begin)

    monkeypatch.setattr(module, "sample", spy)
    request = Request("a ball", 16, image=torch.rand(3, 9, 9))
    first, *others = codes_of(model, request)
    assert first.shape == (1, 2, 8, 8, 2)
    assert [part.shape[1] for part in others] == [1, 1]
    assert torch.equal(begun[0][0][1][1], encode_picture(model, request.image))
    assert begun[0][1] is None
    for (given, begin), before in zip(begun[1:], [first, *others], strict=False):
        assert [name for name, _ in given] == ["text"]
        assert torch.equal(begin, module.to_patches(before[:, -1:]))


def test_a_clip_goes_on_where_it_ends(model, monkeypatch):
    begun = []
    sample = module.sample
    monkeypatch.setattr(module, "sample", lambda *a: begun.append(a[-1]) or sample(*a))
    clip = torch.rand(13, 3, 20, 30)
    (codes,) = codes_of(model, Request("a ball", 4, before=clip, candidates=2))
    assert codes.shape[1] == 1  # the new ones alone
    expected = module.to_patches(encode_end(model, clip, 1))
    assert torch.equal(begun[0], expected.expand(2, -1, -1))


def test_the_likeliest_description_decides(model, monkeypatch):
    ranked = []

    def rank(model, patches, words):
        ranked.append((patches, words))
        return [2, 0, 1]

    monkeypatch.setattr(module, "rank", rank)
    first, second = codes_of(model, Request("a ball", 12, candidates=3))
    ((patches, words),) = ranked  # of the beginning alone
    assert words.shape == (3, 4, 1)
    assert torch.equal(first, module.from_patches(patches[2:], model.grid))
    assert second.shape[0] == 1


def test_rank_orders_by_likelihood(model):
    patches = torch.randint(4, (3, 32, 8), generator=torch.Generator().manual_seed(0))
    words = module.encode_prompts(model, ["red ball"] * 3)
    order = module.rank(model, patches, words)
    likelihoods = [
        float(
            module.log_likelihood(model.gpt, [("video", patches[i : i + 1]), ("text", words[:1])])
        )
        for i in order
    ]
    assert all(one >= two for one, two in pairwise(likelihoods))


def test_frames_stream(model):
    """However long a video is, few frames are in memory, and the first comes early."""
    alive, held = weakref.WeakSet(), []
    for frame in islice(generate_frames(model, Request("a ball", 10_000, steps=1)), 40):
        alive.add(frame)
        held.append(len(alive))
    assert len(held) == 40
    assert max(held) <= 8


def test_parts_join_without_a_seam(model):
    """Flow reaches over the ends of windows: only the first frame has none before."""
    parts = [torch.rand(8, 3, 32, 32), torch.rand(4, 3, 32, 32)]
    frames = list(module._with_motion(iter(parts), (48, 48)))
    assert torch.equal(torch.cat([frame for frame, _, _ in frames]), torch.cat(parts))
    assert [flow is None for _, flow, _ in frames] == [True] + [False] * 11
    assert all(flow.shape == (1, 2, 48, 48) for _, flow, _ in frames[1:])
    assert all(visible.shape == (1, 1, 48, 48) for _, _, visible in frames[1:])


@pytest.mark.parametrize(
    "change", [{"frames": 0}, {"frames": -3}, {"candidates": 0}, {"steps": 0}, {"frames": 2.5}]
)
def test_requests_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Request("a ball", **change)
