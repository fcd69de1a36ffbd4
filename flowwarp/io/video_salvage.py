"""Damaged videos: every frame that can still be decoded, in its place."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any, final

import av
import av.filter
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
    """Read what can be read of a video; a frame that is damaged is None in its place.

    Damaged is a frame that the decoder refuses, flags as corrupt, or leaves out because of damage
    before it. One that merely builds on a damaged frame comes as the decoder makes it, which is
    what a player shows until the next key frame. Decoders of HEVC and VP9 notice little.

    Args:
        path: a file, as for :func:`read_video`.

    Yields:
        (3, H, W) float32 RGB in [0, 1], of any size, or None.

    Raises:
        InputError: missing, unreadable or not a video; or, after all frames, where the file breaks
            off or none of them could be decoded.
    """
    yield from decode_webp(path) if is_webp(path) else _decode_around_damage(path)


def _decode_around_damage(path: str | Path) -> Iterator[Tensor | None]:
    with open_video(path) as (container, stream):
        stream.thread_type = "NONE"  # with threads an error is told some packets later
        warn_of_alpha(path, stream)
        orientation = read_orientation(path)
        schedule = _Schedule()
        packets = _expected(_packets(container, stream), schedule, _places(container, stream))
        count = good = 0
        length = 1 / stated_rate(stream)
        breaks_off = False
        packet: Any = ...
        while packet is not None:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet, breaks_off = None, True
            try:
                frames = stream.codec_context.decode(packet)  # None: what it still holds
            except av.FFmpegError:
                frames = []
                schedule.spoil(packet_time(packet))
            for frame in frames:
                missing, whole = schedule.arrive(frame)
                yield from repeat(None, missing)
                yield frame_to_tensor(path, frame, orientation) if whole else None
                count, good = count + missing + 1, good + whole
                length = frame_seconds(frame, stream)
        missing = schedule.rest()
        yield from repeat(None, missing)
        count += missing
        if breaks_off and good:
            raise InputError(path, f"breaks off after {count} frames")
        end = Fraction(0) if schedule.last is None else schedule.last * stream.time_base
        check_complete(path, container, stream, good and count, end + length)


@final
class _Schedule:
    """Which frames are to come, by the times of their packets, and which are damaged.

    Frames come in the order of time, so one that is passed over will not come. That alone is no
    damage, as a packet may hold nothing to show; it is from an error on, until a key frame comes
    whole.
    """

    def __init__(self) -> None:
        self.last: int | None = None  # the time of the latest frame
        self._due: list[int] = []  # a heap
        self._doubted: set[int] = set()  # damaged if they do not come
        self._spoilt: set[int] = set()  # damaged even if they come
        self._error: int | None = None  # the latest time of an error not yet overcome

    def expect(self, time: int | None) -> None:
        """Note a packet's time."""
        if time is None:
            return
        heapq.heappush(self._due, time)
        if self._error is not None:
            self._doubted.add(time)

    def spoil(self, time: int | None) -> None:
        """Note that the packet of that time is damaged."""
        if time is None:
            time = max(self._due, default=self.last or 0)
        self._doubted.add(time)
        self._spoilt.add(time)
        self._error = time if self._error is None else max(time, self._error)

    def arrive(self, frame: Any) -> tuple[int, bool]:
        """Note a frame; return how many damaged ones it passed over, and whether it is whole."""
        time = frame.pts
        if time is None:  # some AVI files state none
            time = self._due[0] if self._due else 0
        missing = self._pass(time)
        if self._due and self._due[0] == time:
            heapq.heappop(self._due)
        self.last = time
        if frame.is_corrupt:
            self.spoil(time)
        whole = time not in self._spoilt
        if whole and frame.key_frame and (self._error is None or time > self._error):
            self._error = None
        return missing, whole

    def rest(self) -> int:
        """Return how many damaged frames were to come still."""
        return self._pass(None)

    def _pass(self, until: int | None) -> int:
        missing = 0
        while self._due and (until is None or self._due[0] < until):
            time = heapq.heappop(self._due)
            if time in self._doubted:
                missing, self.last = missing + 1, time
        return missing


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield all packets that hold something.

    Raises:
        av.FFmpegError: the last one is cut off.
    """
    half = None
    for packet in container.demux(stream):
        if not packet.size:  # the mark at the end
            continue
        if half is not None:  # more follows, so it is damaged, not cut off
            yield half
        half = packet if packet.is_corrupt else None
        if half is None:
            yield packet
    if half is not None:
        raise av.InvalidDataError(0, "packet cut off")


def _expected(
    packets: Iterator[Any], schedule: _Schedule, places: Mapping[int, int]
) -> Iterator[Any]:
    """Pass packets on, put into the schedule; ``places`` says the times of AVI's."""
    indexed = deque(sorted(places.values()))
    for packet in packets:
        place = places.get(packet.pos)
        if place is not None and packet.pts is not None and packet.dts is not None:
            # The demuxer counts what it finds, and finds no packet whose header is overwritten.
            while indexed and indexed[0] < place:
                lost = indexed.popleft()
                schedule.expect(lost)
                schedule.spoil(lost)
            if indexed and indexed[0] == place:  # a broken file may lead to a packet twice
                indexed.popleft()
            late = place - packet.dts
            packet.pts, packet.dts = packet.pts + late, place
        schedule.expect(packet_time(packet))
        if packet.is_corrupt:
            schedule.spoil(packet_time(packet))
        yield packet


def _places(container: Any, stream: Any) -> dict[int, int]:
    """Return the time of the packet at each position of an AVI file, if that has an index."""
    if container.format.name != "avi":
        return {}
    # A position is that after the chunk's header.
    return {entry.pos + 8: entry.timestamp for entry in stream.index_entries}
