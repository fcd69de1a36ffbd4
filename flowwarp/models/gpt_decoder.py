"""The transformer with a KV cache: a sequence is read and written patch by patch, each once."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.models.gpt import GPT, Attention, Block, PatchEmbedding, Segment


@final
class Decoder:
    """Keys and values of a growing sequence.

    Args:
        net: the network; its parameters are read, never changed.
        batch: number of sequences that are written side by side.
        length: patches of the longest sequence.
    """

    def __init__(self, net: GPT, batch: int, length: int) -> None:
        weight = net.pool.weight
        head = net.config.width // net.config.heads
        shape = (net.config.depth, 2, batch, net.config.heads, length, head)
        self.net = net
        self.cache = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.length = 0  # patches in the cache
        self.words: Tensor | None = None  # (B, 1, width), the pooled words before
        self.last: Tensor | None = None  # (B, 1, width), the patch before the segment

    def append(self, segment: Segment) -> Tensor:
        """Read a whole segment; return the output of the blocks at its places, (B, n, width)."""
        name, digits = segment
        x = self._embedding(name)(digits)
        if self.last is not None:
            x = torch.cat([x[:, :1] + self.last, x[:, 1:]], 1)
        output = self._blocks(x, self.net.angles(name)[: digits.shape[1]])
        self.close(segment)
        return output

    def step(self, name: str, index: int, digits: Tensor) -> Tensor:
        """Return the output of the blocks at one place of the segment being written, (B, width).

        Args:
            name: medium of the segment.
            index: the place; all places before it must have been steps.
            digits: (B, n, digits), the segment so far; only patches before ``index`` are read.
        """
        x = self._embedding(name).at(digits, index)
        if self.last is not None and index == 0:
            x = x + self.last
        return self._blocks(x, self.net.angles(name)[index : index + 1])[:, 0]

    def close(self, segment: Segment) -> None:
        """End a segment: its last patch is before the next one, words condition all behind."""
        name, digits = segment
        self.last = self._embedding(name).embed(digits[:, -1:])
        if name == self.net.text:
            self.words = self.net.pooled_words(digits)

    def _embedding(self, name: str) -> PatchEmbedding:
        embedding = self.net.embeddings[name]
        assert isinstance(embedding, PatchEmbedding)
        return embedding

    def _blocks(self, x: Tensor, angles: Tensor) -> Tensor:
        """Return the output of all blocks for x (B, n, width), the next n places."""
        if self.words is not None:
            x = x + self.words
        before, self.length = self.length, self.length + x.shape[1]
        for block, cache in zip(self.net.blocks, self.cache, strict=True):
            assert isinstance(block, Block)
            x = x + self._attend(block.attention, block.norm(x), angles, cache, before)
            x = x + block.feed_forward(block.norm(x))
        return self.net.norm(x)  # type: ignore[no-any-return]

    def _attend(
        self, attention: Attention, x: Tensor, angles: Tensor, cache: Tensor, before: int
    ) -> Tensor:
        q, k, v = attention.project(x, angles)
        cache[0][:, :, before : self.length] = k
        cache[1][:, :, before : self.length] = v
        keys, values = cache[:, :, :, : self.length].to(q.dtype)
        count = x.shape[1]
        mask = None
        if count > 1:  # place i sees what is cached and the first i + 1 places of its own segment
            seen = torch.ones(count, self.length, dtype=torch.bool, device=x.device)
            mask = seen.tril(before)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return attention.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
