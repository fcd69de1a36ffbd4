"""The KV cache: a sequence written patch by patch has the outputs of the whole network."""

import pytest
import torch

from flowwarp.models.gpt import GPT, GPTConfig, MediumConfig
from flowwarp.models.gpt_decoder import Decoder

MEDIA = (
    MediumConfig("text", (3, 1, 1), (7,)),
    MediumConfig("video", (3, 2, 1), (4, 3)),
    MediumConfig("picture", (1, 2, 1), (4, 3)),
)
ORDERS = [
    ("text", "video"),
    ("video", "text"),
    ("text", "picture", "video"),
    ("picture", "text", "video", "text"),
    ("video",),
]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = GPT(GPTConfig(width=24, depth=2, heads=2, digit_width=16), MEDIA).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def segments(order, batch=2):
    generator = torch.Generator().manual_seed(1)
    made = []
    for name in order:
        medium = next(medium for medium in MEDIA if medium.name == name)
        shape = (batch, medium.patches)
        digits = [torch.randint(size, shape, generator=generator) for size in medium.digits]
        made.append((name, torch.stack(digits, -1)))
    return made


def nats(net, outputs, given):
    """Return -log p of each digit, by the network's heads, from outputs of the blocks."""
    pairs = zip(outputs, given, strict=True)
    return [net.heads[name](output, digits) for output, (name, digits) in pairs]


def write(net, decoder, segment, begin=0):
    """Step through a segment, of which only what is before each place is known."""
    name, digits = segment
    outputs = []
    for index in range(digits.shape[1]):
        known = digits.clone()
        known[:, index:] = 0
        outputs.append(decoder.step(name, index, known))
    decoder.close(segment)
    return torch.stack(outputs, 1)


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("written", [0, 1, 2])
def test_reading_and_writing_have_the_probabilities_of_the_network(net, order, written):
    """The last segments are written step by step, those before read at once."""
    given = segments(order)
    decoder = Decoder(net, 2, sum(digits.shape[1] for _, digits in given))
    read = max(0, len(given) - written)
    outputs = [decoder.append(segment) for segment in given[:read]]
    outputs += [write(net, decoder, segment) for segment in given[read:]]
    for found, expected in zip(nats(net, outputs, given), net(given), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert decoder.length == sum(digits.shape[1] for _, digits in given)


@torch.no_grad()
def test_a_segment_that_ends_early(net):
    text, (name, digits) = segments(("text", "video"))
    decoder = Decoder(net, 2, 7)
    decoder.append(text)
    output = decoder.append((name, digits[:, :4]))
    expected = net([text, (name, digits[:, :4])])[1]
    found = net.heads[name](output, digits[:, :4])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_words_condition_what_follows_them_alone(net):
    text, video = segments(("text", "video"))
    decoder = Decoder(net, 2, 9)
    assert decoder.words is None
    decoder.append(video)
    assert decoder.words is None
    decoder.append(text)
    torch.testing.assert_close(decoder.words, net.pooled_words(text[1]))
