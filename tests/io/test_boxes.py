import struct

import av
import numpy as np
import pytest

from flowwarp.errors import InputError
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video


def box(kind, *parts):
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.parametrize(
    ("boxes", "claimed"),
    [
        (box(b"moov", box(b"trak", box(b"stsz", struct.pack(">III", 0, 1, 10**8)))), 10**8),
        (box(b"moof", box(b"traf", 2 * box(b"trun", struct.pack(">II", 0, 900)))), 1800),
        (
            struct.pack(">I4sQ", 1, b"moov", 36) + box(b"stsz", struct.pack(">III", 0, 1, 2000)),
            2000,
        ),
        (box(b"moov", box(b"stsz", struct.pack(">III", 0, 0, 2000))), None),  # each is listed
        (struct.pack(">I4sQ", 1, b"mdat", 2**33) + box(b"moov"), None),
        (struct.pack(">I4s", 3, b"moov") + box(b"stsz", struct.pack(">III", 0, 1, 2000)), None),
    ],
)
def test_more_samples_than_bytes_are_refused(tmp_path, boxes, claimed):
    """FFmpeg would allocate an index of all of them."""
    (tmp_path / "a.mp4").write_bytes(boxes.ljust(1000, b"\0"))
    problem = (
        f"claims {claimed} samples in 1000 bytes" if claimed else "is not a video|contains no video"
    )
    with pytest.raises(InputError, match=problem):
        video_info(tmp_path / "a.mp4")


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov", "frag_every_frame"])
def test_fragments_are_read(tmp_path, movflags):
    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": movflags}) as output:
        stream = output.add_stream("libx264", 10)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 16, 16
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        output.mux(stream.encode(None))
    assert len(list(read_video(tmp_path / "a.mp4"))) == 5
