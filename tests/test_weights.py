"""The weights in the package: where they come from, how good they are, and how large."""

import json

import pytest

from flowwarp.bundled import bundled
from flowwarp.io.checkpoints import load_weights

WEIGHTS = sorted(bundled("weights").glob("*.safetensors"))


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_weights_state_their_origin_and_accuracy(path):
    _, card = load_weights(path)
    page = path.with_suffix(".md").read_text()
    for key in ("command", "data", "licence", "seed", "hours"):
        assert card.notes[key]
        assert f"- **{key}**: " in page
        assert card.notes[key] in page
    assert card.step
    assert json.loads(card.notes["curve"])
    for measured, row in json.loads(card.notes["figures"]).items():
        assert f"| {measured} | " in page
        assert row
    for set_name in ("sintel", "kitti", "chairs", "middlebury"):  # measured, never learned from
        assert set_name not in card.notes["data"].lower()


def test_weights_are_small():
    """As is promised: those of flow in 5 MB, those of video in 25, all together in 30."""
    sizes = {path.stem: path.stat().st_size for path in WEIGHTS}
    flow = sum(size for name, size in sizes.items() if name.startswith("flownet"))
    assert 0 < flow <= 5e6
    assert sum(sizes.values()) - flow <= 25e6
    assert sum(sizes.values()) <= 30e6
