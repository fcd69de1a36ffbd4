"""Clips without flow, and sources of clips."""

import torch

from flowwarp.data.clip import Source, clip_without_flow, fingerprint_of
from flowwarp.data.digits import compose_digits


def test_clip_without_flow_has_zero_flow_that_is_nowhere_valid():
    video = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    clip = clip_without_flow(video, "a square")
    assert clip.video is video
    assert clip.caption == "a square"
    for flow in (clip.flow_12, clip.flow_21):
        assert flow.shape == (4, 2, 8, 8)
        assert flow.dtype == torch.float32
        assert not flow.any()
    for mask in (clip.valid_12, clip.valid_21, clip.visible_12, clip.visible_21):
        assert mask.shape == (4, 1, 8, 8)
        assert mask.dtype == torch.bool
        assert not mask.any()
    assert (clip.attributes, dict(clip.labels), dict(clip.media)) == ({}, {}, {})


def test_fingerprint_of_a_source_is_one_line():
    assert fingerprint_of(Source(compose_digits, fingerprint=("a", "b"))) == "a b"
    assert fingerprint_of(Source(compose_digits)) == fingerprint_of(compose_digits) == ""
