"""The world of sprites as a source."""

import torch

from flowwarp.data.sprite_world.source import digest_photos


def test_digest_of_photos_changes_with_content_shape_and_order():
    black, white = (torch.full((3, 4, 6), value, dtype=torch.uint8) for value in (0, 255))
    digests = [
        digest_photos(photos)
        for photos in ([], [black], [white], [black.view(3, 6, 4)], [black, white], [white, black])
    ]
    assert len(set(digests)) == len(digests)
    strided = torch.stack([black, white], -1)[..., 0]
    assert digest_photos([strided]) == digests[1]
