"""Sampling from the transformer: temperature, top-p, classifier-free guidance; and likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.models.gpt import GPT, DigitHead, Segment
from flowwarp.models.gpt_decoder import Decoder
from flowwarp.tensors import check_number

_COLDEST = 1e-4  # logits divided by less may overflow


@dataclass(frozen=True)
class SamplingConfig:
    """How digits are drawn.

    Args:
        temperature: logits are divided by it; below 1, likely digits become likelier. 0 takes the
            likeliest.
        top_p: draw from the likeliest digits that have this probability together; 1 for all.
        guidance: logits are ``u + guidance * (c - u)``, with and without the words (Ho and
            Salimans, "Classifier-Free Diffusion Guidance", 2022); 1 for none.
    """

    temperature: float = 0.6
    top_p: float = 1.0
    guidance: float = 2.0

    def __post_init__(self) -> None:
        check_number(self.temperature, "temperature", 0, 100)
        check_number(self.top_p, "top_p", 1e-6, 1)
        check_number(self.guidance, "guidance", 0, 100)


@torch.no_grad()
def sample(
    net: GPT,
    given: Sequence[Segment],
    name: str,
    config: SamplingConfig,
    generator: torch.Generator,
    begin: Tensor | None = None,
) -> Tensor:
    """Draw a segment that follows given ones.

    Args:
        net: the network.
        given: the segments before it, at least one; guidance strengthens the words among them.
        name: medium to write.
        config: how digits are drawn.
        generator: of random numbers, on the CPU.
        begin: (B, n, digits), the first patches of the segment, to continue from.

    Returns:
        (B, patches, digits) of int64.
    """
    medium = net.medium(name)
    batch, device = len(given[0][1]), given[0][1].device
    guided = config.guidance != 1 and any(part == net.text for part, _ in given)
    copies = 2 if guided else 1  # rows with the words, then the same rows without
    decoder = Decoder(net, copies * batch, medium.patches + sum(d.shape[1] for _, d in given))
    for part, digits in given:
        rows = [digits, torch.zeros_like(digits) if part == net.text else digits]
        decoder.append((part, torch.cat(rows[:copies])))
    drawn = torch.zeros(batch, medium.patches, len(medium.digits), dtype=torch.int64, device=device)
    known = 0 if begin is None else begin.shape[1]
    if begin is not None:
        drawn[:, :known] = begin
    head = net.heads[name]
    assert isinstance(head, DigitHead)
    for index in range(medium.patches):
        output = decoder.step(name, index, drawn.repeat(copies, 1, 1))
        if index < known:
            continue
        state = head.enter(output)
        for slot in range(len(medium.digits)):
            logits = head.predict(state, slot)
            if guided:
                with_words, without = logits.chunk(2)
                logits = without + config.guidance * (with_words - without)
            digit = draw(logits, config, generator)
            drawn[:, index, slot] = digit
            state = state + head.written(digit, slot).repeat(copies, 1)
    return drawn


def draw(logits: Tensor, config: SamplingConfig, generator: torch.Generator) -> Tensor:
    """Draw a value of each row of logits, (B, values) to (B,)."""
    if config.temperature < _COLDEST:
        return logits.argmax(-1)
    chances = (logits / config.temperature).softmax(-1)
    if config.top_p < 1:
        ordered, order = chances.sort(-1, descending=True)
        # A value stays if those before it do not reach top_p: the likeliest always does.
        dropped = ordered.cumsum(-1) - ordered >= config.top_p
        chances = chances.masked_fill(dropped.gather(-1, order.argsort(-1)), 0)
    # On the CPU, so that a seed gives the same draws on every device.
    drawn = torch.multinomial(chances.float().cpu(), 1, generator=generator)[:, 0]
    return drawn.to(logits.device)


@torch.no_grad()
def resample(
    net: GPT, segments: Sequence[Segment], config: SamplingConfig, generator: torch.Generator
) -> Tensor:
    """Draw each digit of the last segment given the true digits before it, in one pass.

    The result has the errors that are typical of the network, each by itself, in the place of the
    original. Guidance is not used.

    Returns:
        (B, n, digits) of int64.
    """
    name, digits = segments[-1]
    head = net.heads[name]
    assert isinstance(head, DigitHead)
    logits = head.logits(net.outputs(segments)[-1], digits)
    drawn = [draw(part.flatten(0, 1), config, generator) for part in logits]
    return torch.stack(drawn, -1).view(digits.shape)


@torch.no_grad()
def log_likelihood(net: GPT, segments: Sequence[Segment]) -> Tensor:
    """Return log p of the last segment given those before it, (B,), in nats.

    Of a text, the words and the end count, not the padding behind.
    """
    name, digits = segments[-1]
    nats = net(segments)[-1]
    if name == net.text:
        nats = nats * text_mask(digits)
    total: Tensor = nats.flatten(1).sum(1)
    return -total


def text_mask(words: Tensor) -> Tensor:
    """Return 1.0 at words and at the first 0, which ends them, 0.0 behind; words (B, n, 1)."""
    end = words == 0
    return (end.cumsum(1) - end.long() == 0).float()  # no 0 before
