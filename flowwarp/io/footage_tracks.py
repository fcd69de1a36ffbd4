"""What accompanies the pictures of a recording: sound, subtitles, chapters and metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, final

import av
import av.filter

from flowwarp.io.footage import Recording
from flowwarp.io.video_container import open_video

# Sound that players expect in a file type, by ffmpeg's names; None is any. Other sound is encoded.
_SOUND: dict[str, tuple[str, ...] | None] = {
    ".mp4": ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"),
    ".m4v": ("aac", "mp3", "ac3", "eac3", "alac"),
    ".mov": (
        "aac",
        "mp3",
        "ac3",
        "eac3",
        "alac",
        "pcm_s16le",
        "pcm_s16be",
        "pcm_s24le",
        "pcm_f32le",
    ),
    ".mkv": None,
    ".webm": ("opus", "vorbis"),
}
_ENCODERS = {".webm": ("libopus", 48_000)}  # encoder and sample rate; else AAC at the source's
_BIT_RATE = 96_000  # a channel
_SUBTITLES: dict[str, tuple[str, ...]] = {
    ".mp4": ("mov_text",),
    ".m4v": ("mov_text",),
    ".mov": ("mov_text",),
    ".mkv": ("subrip", "ass", "ssa", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"),
    ".webm": ("webvtt",),
}
_TECHNICAL = ("encoder", "duration", "major_brand", "minor_version", "compatible_brands", "rotate")
_TECHNICAL_PREFIXES = ("bps", "number_of_", "_statistics_")
_LAYOUTS = {1: "mono", 2: "stereo"}  # PCM often names none
_SLOWEST = Fraction(1, 2)  # of one atempo filter; several in a row go below


@dataclass
class Tracks:
    """Adds the sound, subtitles, chapters and metadata of a recording to an output file.

    Use it as a context: it keeps the source open. ``lost`` says what is not kept.

    Attributes:
        recording: the source.
        suffix: type of the output.
        stretch: by how much the output plays longer.
    """

    recording: Recording
    suffix: str
    stretch: Fraction = Fraction(1)
    lost: list[str] = field(default_factory=list)
    _exit: ExitStack = field(default_factory=ExitStack)
    _source: Any = None

    def __enter__(self) -> Tracks:
        if self.recording.kind == "video":
            self._source, self._video = self._exit.enter_context(open_video(self.recording.path))
            self._plan()
        return self

    def __exit__(self, *_fault: object) -> None:
        self._exit.close()

    def _plan(self) -> None:
        """Decide what to keep; fills ``lost``."""
        known = self.suffix in _SOUND
        self._sounds = [s for s in self._source.streams.audio if s.codec_context is not None]
        self._subtitles = [
            s
            for s in self._source.streams.subtitles
            if s.codec_context is not None
            and s.codec_context.codec.canonical_name in _SUBTITLES.get(self.suffix, ())
        ]
        if not known and self._source.streams.audio:
            self._sounds = []
            self.lost.append("has no sound, which this file type cannot hold")
        missing = len(self._source.streams.subtitles) - len(self._subtitles)
        if missing:
            self.lost.append(f"has no subtitles, which {self._kind} cannot hold as they are")
        pictures = len(self._source.streams.video) - 1
        if pictures > 0:
            self.lost.append(f"has one video stream, the source has {pictures + 1}")
        if other := len(self._source.streams.data) + len(self._source.streams.attachments):
            self.lost.append(f"lacks {other} streams of data or attachments")

    @property
    def _kind(self) -> str:
        return f"a {self.suffix} file" if self.suffix else "a folder"

    def add_to(self, container: Any) -> Callable[[Fraction | None], None]:
        """Add the tracks to a container of PyAV.

        Returns:
            A function that writes them up to a time in seconds, or to their end (None).
        """
        if self._source is None or self.suffix not in _SOUND:
            return lambda _until: None
        kept = {k: v for k, v in self._source.metadata.items() if not _is_technical(k)}
        container.metadata.update(kept)
        for name in ("language", "title"):
            if value := self._video.metadata.get(name):
                container.streams.video[0].metadata[name] = value
        chapters = [self._chapter(chapter) for chapter in self._source.chapters()]
        if chapters:
            container.set_chapters(chapters)
        return _Muxer(self, container).until

    def _chapter(self, chapter: Any) -> Any:
        tick = Fraction(chapter["time_base"])
        unit = Fraction(1, 1000)
        start, end = (
            max(0, round((chapter[key] * tick - self.recording.zero) * self.stretch / unit))
            for key in ("start", "end")
        )
        return {**chapter, "start": start, "end": end, "time_base": unit}

    def handlers(self, container: Any) -> dict[int, Callable[[Any], Iterator[Any]]]:
        """Add a stream for each track; return what converts packets, by index of the source."""
        made: dict[int, Callable[[Any], Iterator[Any]]] = {}
        for stream in self._sounds:
            made[stream.index] = self._sound_handler(container, stream)
        for stream in self._subtitles:
            made[stream.index] = self._copier(container, stream)
        return made

    def _sound_handler(self, container: Any, stream: Any) -> Callable[[Any], Iterator[Any]]:
        fitting = _SOUND[self.suffix]
        name = stream.codec_context.codec.canonical_name
        if self.stretch == 1 and (fitting is None or name in fitting):
            with suppress(ValueError):  # the container has no name for the codec
                return self._copier(container, stream)
        return _Sound(self, container, stream).packets

    def _copier(self, container: Any, stream: Any) -> Callable[[Any], Iterator[Any]]:
        made = container.add_stream_from_template(stream)
        _copy_description(stream, made)

        def copy(packet: Any) -> Iterator[Any]:
            if not packet.size:
                return
            tick = packet.time_base
            shift = round(self.recording.zero / tick)
            packet.pts = None if packet.pts is None else round((packet.pts - shift) * self.stretch)
            packet.dts = None if packet.dts is None else round((packet.dts - shift) * self.stretch)
            packet.duration = round((packet.duration or 0) * self.stretch)
            packet.stream = made
            yield packet

        return copy


def _is_technical(name: str) -> bool:
    name = name.lower()
    return name in _TECHNICAL or name.startswith(_TECHNICAL_PREFIXES)


def _copy_description(stream: Any, made: Any) -> None:
    kept = {key: value for key, value in stream.metadata.items() if not _is_technical(key)}
    made.metadata.update(kept)
    made.disposition = stream.disposition


@final
class _Muxer:
    """Writes packets of the tracks up to a time, so that sound lies beside its pictures."""

    def __init__(self, tracks: Tracks, container: Any) -> None:
        self._container, self._tracks = container, tracks
        self._handlers = tracks.handlers(container)
        source: Any = tracks._source
        streams = [s for s in source.streams if s.index in self._handlers]
        self._packets = iter(source.demux(streams)) if streams else iter(())
        self._waiting: Any = None

    def until(self, seconds: Fraction | None) -> None:
        """Write what begins up to a time; None: all that is left."""
        zero, stretch = self._tracks.recording.zero, self._tracks.stretch
        while packet := self._next():
            time = packet.pts if packet.dts is None else packet.dts
            timed = seconds is not None and time is not None
            if timed and (time * packet.time_base - zero) * stretch > seconds:
                self._waiting = packet
                return
            for made in self._handlers[packet.stream.index](packet):
                self._container.mux(made)

    def _next(self) -> Any:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            return waiting
        try:
            return next(self._packets, None)
        except av.FFmpegError:
            self._tracks.lost.append("lacks the end of the sound, which is broken")
            self._packets = iter(())
            return None


@final
class _Sound:
    """Decodes a sound, stretches it, and encodes it for the type of the output."""

    def __init__(self, tracks: Tracks, container: Any, stream: Any) -> None:
        self._tracks, self._stream = tracks, stream
        encoder, rate = _ENCODERS.get(tracks.suffix, ("aac", stream.codec_context.sample_rate))
        channels = stream.codec_context.channels
        layout = _LAYOUTS.get(channels, stream.codec_context.layout.name)
        self._made = container.add_stream(encoder, rate=rate)
        self._made.codec_context.layout = layout
        self._made.codec_context.bit_rate = _BIT_RATE * channels
        _copy_description(stream, self._made)
        self._graph: Any = None
        self._shift = 0

    def packets(self, packet: Any) -> Iterator[Any]:
        """Yield encoded packets for a packet of the source; for its end mark, the rest."""
        try:
            frames = self._stream.codec_context.decode(packet if packet.size else None)
        except av.FFmpegError:  # a damaged packet is silent
            frames = []
        for frame in frames:
            if self._graph is None:
                self._graph = self._make_graph(frame)
            self._graph.push(frame)
            yield from self._pull()
        if not packet.size:
            if self._graph is not None:
                self._graph.push(None)
                yield from self._pull()
            yield from self._made.encode(None)

    def _pull(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            frame.pts += self._shift
            yield from self._made.encode(frame)

    def _make_graph(self, frame: Any) -> Any:
        """Return a filter graph that stretches sound without a change of pitch."""
        graph = av.filter.Graph()
        tick = frame.time_base
        made = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=_LAYOUTS.get(len(frame.layout.channels), frame.layout.name),
            time_base=tick,
        )
        tempo = 1 / self._tracks.stretch
        while tempo != 1:
            part = max(tempo, _SLOWEST)
            step = graph.add("atempo", f"{float(part):.9f}")
            made.link_to(step)
            made, tempo = step, tempo / part
        context = self._made.codec_context
        form = graph.add(
            "aformat",
            f"sample_fmts={context.format.name}:sample_rates={context.sample_rate}"
            f":channel_layouts={context.layout.name}",
        )
        sink = graph.add("abuffersink")
        made.link_to(form)
        form.link_to(sink)
        graph.configure()
        # atempo keeps the time of the first sample, in seconds; it must be stretched, too.
        first = Fraction((frame.pts or 0) * tick)
        wanted = (first - self._tracks.recording.zero) * self._tracks.stretch
        self._shift = round((wanted - first) * context.sample_rate)
        return graph
