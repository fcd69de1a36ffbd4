"""Reading of damaged videos: every frame that can be decoded, and None for each damaged one."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any, final

import av
from torch import Tensor

from flowwarp.errors import InputError
from flowwarp.io.video_container import (
    check_complete,
    decode_webp,
    frame_seconds,
    frame_to_tensor,
    is_webp,
    open_video,
    packet_time,
    read_orientation,
    stated_rate,
    warn_of_alpha,
)


def salvage_video(path: str | Path) -> Iterator[Tensor | None]:
    """Read all frames of a video that can be decoded, with None for each damaged one.

    A frame is damaged if the decoder rejects it, flags it as corrupt, or omits it because of damage
    before it. A frame that is only predicted from a damaged one is returned as it is decoded, which
    is what players show until the next key frame. Decoders of HEVC and VP9 detect little damage.

    Args:
        path: a file, as for :func:`flowwarp.io.video_reader.read_video`.

    Yields:
        (3, H, W) float32 RGB in [0, 1], of any size, or None.

    Raises:
        InputError: missing, unreadable or not a video; or, after all frames, the file breaks off or
            no frame could be decoded.
    """
    if is_webp(path):
        yield from (image for image, _, _ in decode_webp(path))
    else:
        yield from _decode_around_damage(path)


def _decode_around_damage(path: str | Path) -> Iterator[Tensor | None]:
    with open_video(path) as (container, stream):
        stream.thread_type = "NONE"  # with threads, errors are raised some packets late
        warn_of_alpha(path, stream)
        orientation = read_orientation(path)
        schedule = _Schedule()
        packets = _scheduled(
            _packets(container, stream), schedule, _index_of_avi(container, stream)
        )
        count = good = 0  # frames yielded, and those of them that are not None
        length = 1 / stated_rate(stream)  # of the last frame, in s
        breaks_off = False
        packet: Any = ...
        while packet is not None:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet, breaks_off = None, True
            try:
                frames = stream.codec_context.decode(packet)  # of None: the frames it still buffers
            except av.FFmpegError:
                frames = []
                schedule.mark_damaged(packet_time(packet))
            for frame in frames:
                missing, intact = schedule.arrive(frame)
                yield from repeat(None, missing)
                yield frame_to_tensor(path, frame, orientation) if intact else None
                count, good = count + missing + 1, good + intact
                length = frame_seconds(frame, stream)
        missing = schedule.finish()
        yield from repeat(None, missing)
        count += missing
        if breaks_off and good:
            raise InputError(path, f"breaks off after {count} frames")
        end = Fraction(0) if schedule.last is None else schedule.last * stream.time_base
        check_complete(path, container, stream, good and count, end + length)


@final
class _Schedule:
    """The frames that are expected, by the times of their packets, and which of them are damaged.

    Decoders return frames in the order of time, so a frame that is skipped will not come later. A
    skipped frame is not damaged by itself, since a packet may contain nothing to show. It counts
    as damaged between an error and the next intact key frame.
    """

    def __init__(self) -> None:
        self.last: int | None = None  # time of the latest frame
        self._due: list[int] = []  # a heap of the times of frames still expected
        self._damaged_if_skipped: set[int] = set()
        self._damaged: set[int] = set()  # even if the decoder returns a frame
        self._error: int | None = None  # latest time of an error since the last intact key frame

    def expect(self, time: int | None) -> None:
        """Add a packet's time."""
        if time is None:
            return
        heapq.heappush(self._due, time)
        if self._error is not None:
            self._damaged_if_skipped.add(time)

    def mark_damaged(self, time: int | None) -> None:
        """Mark the packet of that time as damaged."""
        if time is None:
            time = max(self._due, default=self.last or 0)
        self._damaged_if_skipped.add(time)
        self._damaged.add(time)
        self._error = time if self._error is None else max(time, self._error)

    def arrive(self, frame: Any) -> tuple[int, bool]:
        """Take a decoded frame; return the number of damaged ones before it, and whether intact."""
        time = frame.pts
        if time is None:  # some AVI files state none
            time = self._due[0] if self._due else 0
        missing = self._skip(time)
        if self._due and self._due[0] == time:
            heapq.heappop(self._due)
        self.last = time
        if frame.is_corrupt:
            self.mark_damaged(time)
        intact = time not in self._damaged
        if intact and frame.key_frame and (self._error is None or time > self._error):
            self._error = None
        return missing, intact

    def finish(self) -> int:
        """Return the number of damaged frames after the last decoded one."""
        return self._skip(None)

    def _skip(self, until: int | None) -> int:
        missing = 0
        while self._due and (until is None or self._due[0] < until):
            time = heapq.heappop(self._due)
            if time in self._damaged_if_skipped:
                missing, self.last = missing + 1, time
        return missing


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield all packets that are not empty.

    Raises:
        av.FFmpegError: the last one is cut off.
    """
    corrupt = None
    for packet in container.demux(stream):
        if not packet.size:  # PyAV's end mark
            continue
        if corrupt is not None:  # another packet follows, so this one is damaged, not cut off
            yield corrupt
        corrupt = packet if packet.is_corrupt else None
        if corrupt is None:
            yield packet
    if corrupt is not None:
        raise av.InvalidDataError(0, "packet cut off")


def _scheduled(
    packets: Iterator[Any], schedule: _Schedule, index: Mapping[int, int]
) -> Iterator[Any]:
    """Yield packets after adding them to the schedule; correct the times of AVI by its index.

    The demuxer of AVI numbers the packets that it finds. A packet whose header is overwritten is
    not found, so that all later packets would come too early.
    """
    indexed = deque(sorted(index.values()))
    for packet in packets:
        time = index.get(packet.pos)
        if time is not None and packet.pts is not None and packet.dts is not None:
            while indexed and indexed[0] < time:
                lost = indexed.popleft()
                schedule.expect(lost)
                schedule.mark_damaged(lost)
            if indexed and indexed[0] == time:  # a broken index may list a packet twice
                indexed.popleft()
            late = time - packet.dts
            packet.pts, packet.dts = packet.pts + late, time
        schedule.expect(packet_time(packet))
        if packet.is_corrupt:
            schedule.mark_damaged(packet_time(packet))
        yield packet


def _index_of_avi(container: Any, stream: Any) -> dict[int, int]:
    """Return the time of the packet at each byte position of an AVI file; {} without an index."""
    if container.format.name != "avi":
        return {}
    # The demuxer's position is that of the chunk's data, after a header of 8 bytes.
    return {entry.pos + 8: entry.timestamp for entry in stream.index_entries}
