"""Weights to tokenizer: whose weights are taken, and that both ways are those of the network."""

import dataclasses

import pytest
import torch

from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.legacy.models.dvae import DVAE, TINY
from flowwarp.legacy.pipelines.tokens import detokenize, load_dvae, tokenize

CONFIG = dataclasses.replace(TINY, widths=(8, 16, 32))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "dvae.safetensors"
    save_weights(path, DVAE(CONFIG), Card("dvae", dataclasses.asdict(CONFIG)))
    return path


def test_there_and_back(weights):
    net = load_dvae(weights)
    assert net.config == CONFIG
    assert not net.training
    video = torch.randint(256, (8, 3, 16, 24), generator=torch.Generator().manual_seed(0)).byte()
    codes = tokenize(net, video)
    assert codes.shape == (2, 4, 6)
    assert torch.equal(codes, net.encode(video[None].float() / 255)[0])
    assert torch.equal(codes, tokenize(net, video.float() / 255))
    frames = list(detokenize(net, codes))
    assert torch.equal(torch.stack(frames), net.decode(codes[None])[0])
    assert tokenize(net, video[:1]).shape == (1, 4, 6)


def test_a_clip_must_be_what_it_should(weights):
    net, video = load_dvae(weights), torch.rand(4, 3, 16, 16)
    for wrong in (255 * video, video / 0 * 0):
        with pytest.raises(ValueError, match=r"video must be in \[0, 1\], its largest value is"):
            tokenize(net, wrong)
    for wrong, got in ((video.int(), r"torch\.int32"), (video.numpy(), "ndarray")):
        with pytest.raises(TypeError, match=f"video must be .* got {got}"):
            tokenize(net, wrong)


def test_streams(weights):
    net = load_dvae(weights)
    asked = []

    def sampled():
        for t in range(3):
            asked.append(t)
            yield torch.full((4, 4), t)

    stream = detokenize(net, sampled())
    for _ in range(4):
        next(stream)
    assert asked == [0]


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (Card("flownet"), "contains the weights of flownet, not of dvae"),
        (Card("dvae", {"widths": [8, 16]}), "does not describe a dvae"),
        (Card("dvae", {"colour": 1}), "does not describe a dvae"),
        (Card("dvae", {"widths": "wide"}), "does not describe a dvae"),
        (Card("dvae"), "lacks"),
        (Card("dvae", {**dataclasses.asdict(CONFIG), "groups": 1}), "the network needs"),
    ],
)
def test_weights_that_are_refused(tmp_path, card, words):
    path = tmp_path / "other.safetensors"
    save_weights(path, DVAE(CONFIG), card)
    with pytest.raises(InputError, match=words):
        load_dvae(path)
