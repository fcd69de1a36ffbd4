"""Any footage as pairs of neighbouring frames, prepared once and memory-mapped from then on.

Decoding costs more than a training step, so every frame is decoded once, made smaller, and put
into a cache as plain bytes; a pair is then two slices of a file. What no network could learn from
is left out on the way: a frame in which nothing moved, and pairs across a cut.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, final
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.bundled import cache_folder
from flowwarp.data._resizing import shrink, shrunk_size
from flowwarp.errors import InputError, OutputError
from flowwarp.io.atomic import rename, sync_file, sync_folder
from flowwarp.io.cache import make_room, making, use
from flowwarp.io.file_types import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, kind_of, list_folder
from flowwarp.io.files import check_room, open_input, reason
from flowwarp.io.images import read_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.tensors import check_whole

_LOG = logging.getLogger(__name__)
_VERSION = 2  # of the cache; part of its key
_LISTS = frozenset({".txt", ".lst"})
_LARGEST_LIST = 2**28  # bytes
_ABANDONED = 24 * 3600  # s; what a killed run left behind is removed after that

_LEAST_FRAME = 16  # bytes of a frame in a video that repeats the one before it
_SMALLER = "lower longest or raise max_bytes (train-flow: --set longest=..., --set max_bytes=...)"

_BLOCK = 8  # px; noise averages out over a block, the edge of a moving thing does not
_STEP = 2 / 255  # a block that changed less may have been compressed anew
_CUT_GRID = 32  # px of the longer side when looking for cuts
_CUT_REACH = 2  # px of that grid, 6 % of the picture: how far things may move in a frame
# On 15 clips every third frame stays below 25 (a fade in), 99 % of pairs across clips exceed 36.
_CUT = 30 / 255


@final
class PairStore:
    """Runs of neighbouring frames in a cache folder, seen as pairs (or longer windows).

    ``store[i]`` is a tuple of uint8 RGB tensors (3, H, W), 0 to 255, in the order of time. The
    frames of one window have one size, different clips may have different ones. Only the pages
    asked for are read. It can be sent to the workers of a ``DataLoader``.

    Args:
        folder: a folder made by :func:`prepare_pairs`.
        frames: frames in a window.

    Raises:
        InputError: the folder is not whole.
    """

    def __init__(self, folder: Path, frames: int = 2) -> None:
        check_whole(frames, "frames", 1)
        self.folder, self.frames = folder, frames
        use(folder)
        self._places, runs, about = _read_index(folder)
        self._pixels = np.memmap(folder / "frames.bin", np.uint8, "r")
        self.skipped: tuple[str, ...] = tuple(about["skipped"])
        self._clips: tuple[str, ...] = tuple(about["clips"])
        # A run (start, stop, clip) of n frames holds n - (frames - 1) windows.
        counts = np.maximum(runs[:, 1] - runs[:, 0] - (frames - 1), 0)
        self._firsts = np.concatenate(
            [np.arange(n) + start for start, n in zip(runs[:, 0], counts, strict=True)]
        ).astype(np.int64)
        self._sources = np.repeat(runs[:, 2], counts)

    def windows(self, frames: int) -> PairStore:
        """Return the same footage as windows of ``frames`` frames: 3 gives triplets."""
        return PairStore(self.folder, frames)

    def clip(self, index: int) -> str:
        """Return which clip a pair comes from: the name of a folder, a video or a first frame."""
        return self._clips[self.source(index)]

    def source(self, index: int) -> int:
        """Return the number of the clip that a pair comes from."""
        return int(self._sources[index])

    def __len__(self) -> int:
        return len(self._firsts)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        first = self._firsts[index]
        return tuple(self._frame(first + k) for k in range(self.frames))

    def __reduce__(self) -> tuple[type[PairStore], tuple[Path, int]]:
        # Pickled by name: a memory map would be copied whole.
        return PairStore, (self.folder, self.frames)

    def _frame(self, number: int) -> Tensor:
        offset, height, width = self._places[number]
        pixels = np.array(self._pixels[offset : offset + 3 * height * width])
        return torch.from_numpy(pixels).view(3, int(height), int(width))


def _read_index(folder: Path) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    """Return where frames lie, which are in a row, and what else is known of a store.

    Raises:
        InputError: it is not whole: a power cut, or a disk that was full.
    """
    try:
        with (folder / "index.npz").open("rb") as file, np.load(file) as index:
            places, runs = index["places"], index["runs"]
        about = json.loads((folder / "about.json").read_text("utf-8"))
        offset, height, width = places[-1]
        if (folder / "frames.bin").stat().st_size != offset + 3 * height * width:
            raise ValueError("its frames are not all there")
        return places, runs, {"clips": about["clips"], "skipped": about["skipped"], **about}
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, BadZipFile) as fault:
        raise InputError(folder, f"is broken ({fault})", "remove it: it is made again") from fault


def prepare_pairs(
    sources: Sequence[str | Path | Footage],
    *,
    longest: int = 640,
    still: float = 0.01,
    cache: str | Path | None = None,
    max_bytes: int = 32 * 2**30,
    progress: Callable[[int, int], None] | None = None,
) -> PairStore:
    """Turn footage into pairs of neighbouring frames; a second call with the same files is free.

    A source is

    * a folder: the pictures in it are the frames of one clip, ``frame2`` before ``frame10``; each
      video in it is a clip; and so on in the folders below;
    * a video file;
    * pictures given one after the other: the frames of one clip;
    * a text file (.txt, .lst) with two pictures a line, relative to it and quoted if their names
      hold spaces: each line is a pair as it is, whatever moved in it;
    * a clip that somebody else found (:func:`flowwarp.data.recipes.footage_of`).

    A frame that hardly differs from the one kept before it is dropped, so that slow motion adds
    up. No pair crosses a cut, a change of size, or a frame that cannot be read.

    Args:
        sources: what to read.
        longest: longer pictures are made smaller until no side is longer, antialiased.
        still: which share of the picture must change for a frame to count.
        cache: where to keep the frames. Default: ``FLOWWARP_CACHE_DIR``, else ``flowwarp`` in
            ``XDG_CACHE_HOME`` or ``~/.cache``.
        max_bytes: how large this data may become on disk. What the files say of their length and
            size is added up before anything is decoded.
        progress: called with (clips done, clips in all).

    Returns:
        The pairs. ``skipped`` says what could not be read; each was also logged as a warning.

    Raises:
        InputError: a source is missing, nothing can be read, or no pair is left.
        OutputError: the cache cannot be written, has no room, or would grow beyond ``max_bytes``.
        Locked: another process prepares this footage. Of those that train together one does, and
            the others wait.
    """
    if longest < 1:
        raise ValueError(f"longest must be at least 1, got {longest}")
    clips = list_clips(sources)
    folder = store_folder(cache) / f"pairs-{_key(clips, longest, still)}"
    if not is_whole(folder):
        _prepare(clips, folder, longest, still, max_bytes, progress)
        return PairStore(folder)
    store = PairStore(folder)
    for fault in store.skipped:  # it was told when the folder was filled
        _LOG.warning("skipped %s", fault)
    return store


# ------------------------------------------------------------------ what there is


@dataclass(frozen=True)
class Footage:
    """Files that belong together: the frames of a clip, one video, or a pair taken as it is."""

    kind: Literal["frames", "video", "pair"]
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The folder of the frames, the video, or the first frame of the pair."""
        return str(self.files[0].parent if self.kind == "frames" else self.files[0])


def list_clips(sources: Sequence[str | Path | Footage]) -> list[Footage]:
    """Return what :func:`find_clips` finds.

    Raises:
        InputError: likewise, or there is nothing.
    """
    clips = list(find_clips(sources))
    if not clips:
        named = ", ".join(map(str, sources)) or "no source"
        raise InputError(named, "holds neither pictures nor videos")
    return clips


def find_clips(sources: Sequence[str | Path | Footage]) -> Iterator[Footage]:
    """Find what :func:`prepare_pairs` would read; nothing is decoded.

    Raises:
        InputError: a folder, list or video is missing or unreadable.
    """
    pictures: list[Path] = []  # given one by one, a clip together
    seen: set[Path] = set()
    for given in sources:
        if isinstance(given, Footage):
            yield given
            continue
        source = Path(given)
        kind = kind_of(source)
        if source.is_dir():
            yield from _walk(source, seen)
        elif kind in _LISTS:
            yield from _read_list(source)
        else:
            with open_input(source):  # a name mistyped is said at once, not skipped
                pass
            if kind in IMAGE_EXTENSIONS:
                pictures.append(source)
            else:
                yield Footage("video", (source,))
    if pictures:
        yield Footage("frames", tuple(pictures))


def _walk(top: Path, seen: set[Path]) -> Iterator[Footage]:
    for folder in walk_folders(top, seen):
        frames = list_folder(folder, IMAGE_EXTENSIONS)
        if len(frames) > 1:
            yield Footage("frames", tuple(frames))
        yield from (Footage("video", (video,)) for video in list_folder(folder, VIDEO_EXTENSIONS))


def walk_folders(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield a folder and those below it that may hold footage, links to folders followed.

    Hidden folders and those of training runs, whose sample pictures change, are left out.

    Args:
        folder: where to begin.
        seen: the real folders that were yielded, which are not again; more are added.

    Raises:
        InputError: a folder cannot be read.
    """
    real = folder.resolve()
    if real in seen:  # a link to a folder above, or the same one given twice
        return
    seen.add(real)
    if _is_run(folder):
        return
    yield folder
    try:
        below = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError as fault:
        raise InputError(folder, reason(fault)) from fault
    for path in sorted(below):
        yield from walk_folders(path, seen)


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.toml", "metrics.jsonl"))


def _read_list(path: Path) -> Iterator[Footage]:
    with open_input(path) as (file, size):
        if size > _LARGEST_LIST:
            raise InputError(path, f"has {size} bytes", "split it into several lists")
        data = file.read()
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as fault:
        raise InputError(path, "is not a text file in UTF-8") from fault
    for number, line in enumerate(lines, start=1):
        if "\0" in line:  # no file has such a name
            raise InputError(path, f"line {number} holds a null byte")
        try:
            names = _split(line)
        except ValueError as fault:
            raise InputError(path, f"line {number}: {fault}") from fault
        if names and len(names) != 2:
            raise InputError(
                path, f"line {number} holds {len(names)} names, not 2", "quote those with spaces"
            )
        if names:
            yield Footage("pair", tuple(path.parent / name for name in names))


def _split(line: str) -> list[str]:
    """Split a line into names as a shell does; on Windows a backslash is a letter of a path.

    Raises:
        ValueError: a quote is not closed.
    """
    words = shlex.shlex(line, posix=True)
    words.whitespace_split = True
    if sys.platform == "win32":
        words.escape = ""
    return list(words)


def _key(clips: Sequence[Footage], longest: int, still: float) -> str:
    """Hash what the cache depends on: names, times and sizes of all files, and the options."""
    digest = hashlib.sha256(repr((_VERSION, longest, still)).encode())
    for clip in clips:
        digest.update(repr(len(clip.files)).encode())  # files of one folder may be several clips
        for file in clip.files:
            try:
                status = file.stat()
                state: tuple[object, ...] = (status.st_mtime_ns, status.st_size)
            except OSError as fault:
                state = (fault.errno,)
            digest.update(repr((clip.kind, os.fsencode(file.absolute()), *state)).encode())
    return digest.hexdigest()[:20]


def store_folder(cache: str | Path | None) -> Path:
    """Return the folder in which prepared footage is kept.

    Raises:
        OutputError: none was given, and this machine has no place for it.
    """
    folder = Path(cache) if cache is not None else cache_folder()
    if folder is None:
        raise OutputError("cache", "there is no folder for it", "set FLOWWARP_CACHE_DIR")
    return folder


# ------------------------------------------------------------------ reading it once


def _prepare(
    clips: Sequence[Footage],
    target: Path,
    longest: int,
    still: float,
    max_bytes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    skipped: list[str] = []

    def fill(file: BinaryIO) -> Index:
        _check_size(clips, target.parent, longest, max_bytes)
        places: list[tuple[int, int, int]] = []
        runs: list[tuple[int, int, int]] = []
        for number, clip in enumerate(clips):
            frames = _select(_read(clip, longest, skipped), still, clip.kind == "pair")
            written = _write_runs(frames, file, places, max_bytes)
            runs += [(*run, number) for run in written]
            if progress:
                progress(number + 1, len(clips))
        _check_found(clips, skipped, len(runs))
        return places, runs, {"clips": [clip.name for clip in clips], "skipped": skipped}

    write_store(target, fill)


# Of each frame where it begins, height and width; of each run the first frame, the one after the
# last, and the number of its clip; and what about.json holds: clips and skipped, at least.
Index = tuple[list[tuple[int, int, int]], list[tuple[int, int, int]], dict[str, list[str]]]


def write_store(target: Path, fill: Callable[[BinaryIO], Index]) -> None:
    """Write a folder for :class:`PairStore`; it appears whole or not at all.

    Args:
        target: the folder; if another process makes it meanwhile, its one stays.
        fill: writes the frames, uint8 (3, H, W) each, and says what they are.

    Raises:
        OutputError: it cannot be written.
        Locked: another process is at it, one that was not started together with this one.
    """
    root, name = target.parent, f".{target.name}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
    except OSError as fault:
        raise OutputError(root, reason(fault)) from fault
    with making(root, "another process prepares this footage", name=name):
        try:
            if not is_whole(target):
                if target.is_dir():  # under a name by which it is abandoned
                    target.rename(target.with_name(f".pairs-{secrets.token_hex(6)}"))
                _write_store(target, fill)
                use(target)
                make_room(root)
        finally:
            with suppress(OSError):  # Windows keeps what is open; those who wait have it open
                (root / name).unlink()


def is_whole(target: Path) -> bool:
    """Return whether a folder is there, with all that :func:`write_store` wrote."""
    if not target.is_dir():
        return False
    try:
        _read_index(target)
    except InputError as fault:
        _LOG.warning("%s", fault)
        return False
    return True


def _write_store(target: Path, fill: Callable[[BinaryIO], Index]) -> None:
    try:
        work = Path(tempfile.mkdtemp(prefix=".pairs-", dir=target.parent))
    except OSError as fault:
        raise OutputError(target.parent, reason(fault)) from fault
    try:
        with (work / "frames.bin").open("wb") as file:
            places, runs, about = fill(file)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        np.savez(work / "index.npz", places=np.array(places), runs=np.array(runs))
        (work / "about.json").write_text(json.dumps(about), "utf-8")
        for name in ("index.npz", "about.json"):
            sync_file(work / name)
        sync_folder(work)
        try:
            rename(work, target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise
        sync_folder(target.parent)
    except OutputError:
        raise
    except OSError as fault:
        raise OutputError(target, reason(fault)) from fault
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _LOG.info("%d frames, %.0f MB, in %s", len(places), size / 1e6, target)


def _check_size(clips: Sequence[Footage], root: Path, longest: int, max_bytes: int) -> None:
    """Refuse what would not fit before it is decoded, so far as files say how large they are.

    Raises:
        OutputError: if nothing stood still, it would exceed ``max_bytes`` or the disk.
    """
    size = sum(_expected_size(clip, longest) for clip in clips)
    if size > max_bytes:
        problem = f"the frames take up to {size / 1e9:.3g} GB, more than {max_bytes / 1e9:.3g} GB"
        raise OutputError(root, problem, _SMALLER)
    check_room(root, size, "lower longest (train-flow: --set longest=...)")


def _expected_size(clip: Footage, longest: int) -> int:
    """Return how many bytes a clip's frames take; 0 where that is not known cheaply."""
    first = clip.files[0]
    try:
        if clip.kind == "pair":  # a list has too many of them
            return 0
        if clip.kind == "video":
            info = video_info(first)
            height, width = info.height, info.width
            # A broken header may claim any number.
            frames = min(info.frames or 0, first.stat().st_size // _LEAST_FRAME)
        else:
            _, height, width = read_image(first).shape
            frames = len(clip.files)
    except (InputError, OSError):  # it will be skipped, or said then
        return 0
    return frames * 3 * math.prod(shrunk_size(height, width, longest))


def _read(clip: Footage, longest: int, skipped: list[str]) -> Iterator[Tensor | None]:
    """Yield a clip's frames as uint8, None where one cannot be read."""
    if clip.kind == "video":
        try:
            for frame in read_video(clip.files[0]):
                yield shrink(frame, longest)
        except InputError as fault:
            _skip(fault, skipped)
        return
    for file in clip.files:
        try:
            yield shrink(read_image(file), longest)
        except InputError as fault:
            _skip(fault, skipped)
            yield None


def _skip(fault: InputError, skipped: list[str]) -> None:
    _LOG.warning("skipped %s", fault)
    skipped.append(str(fault))


def _select(
    frames: Iterable[Tensor | None], still: float, as_it_is: bool
) -> Iterator[tuple[Tensor, bool]]:
    """Yield the frames worth keeping, each with whether a new run begins there."""
    last, last_blocks = None, None
    for frame in frames:
        if frame is None:
            last = None
            continue
        blocks = _blocks(frame)
        if last is None or last_blocks is None or frame.shape != last.shape:
            begins = True
        elif as_it_is:
            begins = False
        elif _changed(last_blocks, blocks) <= still:
            continue
        else:
            begins = _is_cut(last_blocks, blocks)
        last, last_blocks = frame, blocks
        yield frame, begins


def _write_runs(
    frames: Iterable[tuple[Tensor, bool]],
    file: BinaryIO,
    places: list[tuple[int, int, int]],
    max_bytes: int,
) -> Iterator[tuple[int, int]]:
    """Write runs of two frames or more; yield the first number of each and the one after it."""
    start, waiting = len(places), None
    for frame, begins in frames:
        if begins:
            if len(places) > start:
                yield start, len(places)
            start, waiting = len(places), frame  # alone so far: not written yet
            continue
        for wanted in (waiting, frame):
            if wanted is not None:
                places.append((file.tell(), *wanted.shape[1:]))
                file.write(wanted.numpy().tobytes())
        waiting = None
        if file.tell() > max_bytes:
            raise OutputError(
                file.name, f"the frames need more than {max_bytes / 1e9:.3g} GB", _SMALLER
            )
    if len(places) > start:
        yield start, len(places)


def _check_found(clips: Sequence[Footage], skipped: Sequence[str], runs: int) -> None:
    if runs:
        return
    where = clips[0].name if len(clips) == 1 else f"{clips[0].name} and {len(clips) - 1} more"
    if skipped:
        raise InputError(where, f"nothing could be read; the first fault was: {skipped[0]}")
    raise InputError(where, "no two frames in a row show motion in one scene")


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(".pairs-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


# ------------------------------------------------------------------ stills and cuts


def is_cut(frame1: Tensor, frame2: Tensor) -> bool:
    """Return whether another scene begins with ``frame2``.

    Args:
        frame1: (3, H, W), uint8, or floating point in [0, 1].
        frame2: likewise, of the same size.

    Raises:
        ValueError: a wrong shape, or two sizes.
    """
    if frame1.shape != frame2.shape or frame1.ndim != 3 or frame1.shape[0] != 3:
        raise ValueError(
            f"frames must be (3, H, W) of one size, got {tuple(frame1.shape)} and "
            f"{tuple(frame2.shape)}"
        )
    return _is_cut(_blocks(frame1), _blocks(frame2))


def _blocks(frame: Tensor) -> Tensor:
    """Average (3, H, W) over blocks of pixels: (3, h, w) in [0, 1]."""
    height, width = (max(1, side // _BLOCK) for side in frame.shape[1:])
    scaled = frame.float() if frame.is_floating_point() else frame.float() / 255
    return F.adaptive_avg_pool2d(scaled, (height, width))


def _changed(a: Tensor, b: Tensor) -> float:
    """Return the share of blocks that differ visibly."""
    return ((a - b).abs().amax(0) > _STEP).float().mean().item()


def _is_cut(a: Tensor, b: Tensor) -> bool:
    """Return whether ``b`` holds too much that ``a`` does not show anywhere near.

    Each pixel of a thumbnail is compared with the most similar one around its place in the other
    thumbnail, so that motion, however fast, is not taken for a cut.
    """
    thumbnails = []
    for blocks in (a, b):
        scale = min(1.0, _CUT_GRID / max(blocks.shape[1:]))
        height, width = (max(1, round(side * scale)) for side in blocks.shape[1:])
        thumbnails.append(F.adaptive_avg_pool2d(blocks, (height, width)))
    return max(_news(*thumbnails), _news(*reversed(thumbnails))) > _CUT


def _news(a: Tensor, b: Tensor) -> float:
    reach = 2 * _CUT_REACH + 1
    around = F.pad(a[None], [_CUT_REACH] * 4, mode="replicate")
    candidates = F.unfold(around, reach).view(3, reach * reach, *a.shape[1:])
    return (candidates - b[:, None]).abs().amax(0).amin(0).mean().item()
