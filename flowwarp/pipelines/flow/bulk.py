"""Flow of whole clips: each pair of neighbouring frames, resumable, on one machine or many."""

from __future__ import annotations

import copy
import functools
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.data.clips import Footage, find_clips
from flowwarp.errors import InputError, OutputError
from flowwarp.io.atomic import atomic_output
from flowwarp.io.file_types import IMAGE_EXTENSIONS, kind_of
from flowwarp.io.files import folded
from flowwarp.io.flow_files import encode_flow
from flowwarp.io.images import read_image, write_image
from flowwarp.io.manifests import Manifest, Shard, find_done, sizes, stamp
from flowwarp.io.video_info import video_info
from flowwarp.io.video_salvage import salvage_video
from flowwarp.models.flownet import FlowNet
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.flow.estimate import (
    Quality,
    estimate_both,
    estimate_flow,
    load_flownet,
)
from flowwarp.pipelines.flow.refine import Progress
from flowwarp.pipelines.workers import run_here, run_processes, run_ray

Frame = Path | NDArray[np.uint8]  # a picture's file, or the frame (3, H, W) of a video


@dataclass(frozen=True)
class Target:
    """Where the results of a pair go."""

    flow: Path
    backward: Path | None = None
    occlusion: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Those that are wanted."""
        return [path for path in (self.flow, self.backward, self.occlusion) if path is not None]


@dataclass(frozen=True)
class Fields:
    """What is known of a pair.

    Args:
        flow_12: (2, H, W), pixels.
        flow_21: likewise, back.
        visible: (1, H, W) bool, whether frame 2 shows the pixel of frame 1.
    """

    flow_12: Tensor
    flow_21: Tensor | None = None
    visible: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """Two frames to work on.

    Args:
        key: names the pair in its job: where its flow file lies, without an extension.
        place: the numbers of its clip and of its first frame, from 0.
        frames: both.
        names: what to call them.
        stamp: changes when a file that they come from does.
        target: where the results go.
    """

    key: str
    place: tuple[int, int]
    frames: tuple[Frame, Frame]
    names: tuple[str, str]
    stamp: Sequence[Any]
    target: Target


@dataclass(frozen=True)
class Outcome:
    """What became of a pair, or of a place where a clip is damaged.

    Args:
        key: as in :class:`Pair`, and so on.
        place: of the pair.
        state: done now, done by an earlier call and kept, or failed.
        names: of the frames.
        target: where the results are, or should be.
        error: one line, if it failed.
        size: (height, width) of the flow.
        seconds: how long it took.
    """

    key: str
    place: tuple[int, int]
    state: Literal["done", "kept", "failed"]
    names: tuple[str, ...]
    target: Target
    error: str | None = None
    size: tuple[int, int] | None = None
    seconds: float = 0.0


# ------------------------------------------------------------------ one pair


def read_pair(frames: Sequence[Frame], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Read two frames as (3, H, W) in [0, 1].

    Raises:
        InputError: one cannot be read, or they differ in size.
    """
    image1, image2 = (_read(frame) for frame in frames)
    if image1.shape != image2.shape:
        size1, size2 = (f"{image.shape[2]}x{image.shape[1]}" for image in (image1, image2))
        raise InputError(
            names[1], f"is {size2}, but {names[0]} is {size1}", "a pair needs frames of one size"
        )
    return image1, image2


def estimate_fields(
    net: FlowNet,
    image1: Tensor,
    image2: Tensor,
    quality: Quality,
    *,
    backward: bool = False,
    visible: bool = False,
    progress: Progress | None = None,
) -> Fields:
    """Estimate what is wanted of a pair (3, H, W), on the network's device; results on the CPU."""
    device = next(net.parameters()).device
    images = image1[None].to(device), image2[None].to(device)
    if not (backward or visible):
        return Fields(estimate_flow(net, *images, quality, progress=progress)[0].cpu())
    flow_12, flow_21 = estimate_both(net, *images, quality, progress=progress)
    mask = visible_by_consistency(flow_12, flow_21)[0].cpu() if visible else None
    return Fields(flow_12[0].cpu(), flow_21[0].cpu() if backward else None, mask)


def write_fields(fields: Fields, target: Target) -> None:
    """Write flow files and mask, or none if a format is not fit; the folders must exist.

    Raises:
        InputError: a format cannot hold the values (KITTI's PNG ends at 512 px).
        OutputError: a file cannot be written.
    """
    flows = [(target.flow, encode_flow(target.flow, fields.flow_12))]
    if target.backward is not None and fields.flow_21 is not None:
        flows.insert(0, (target.backward, encode_flow(target.backward, fields.flow_21)))
    if target.occlusion is not None and fields.visible is not None:
        write_image(target.occlusion, fields.visible.float())
    for path, data in flows:
        with atomic_output(path) as temporary:
            temporary.write_bytes(data)


def _read(frame: Frame) -> Tensor:
    if isinstance(frame, Path):
        return _read_picture(frame, *(stamp(frame) or ()))
    return torch.tensor(frame).float() / 255


@functools.lru_cache(2)
def _read_picture(path: Path, *stamp: int) -> Tensor:  # each frame belongs to two pairs
    return read_image(path)


# ------------------------------------------------------------------ which pairs there are


@dataclass(frozen=True)
class Job:
    """What the results of many pairs depend on.

    Args:
        sources: what was given, absolute.
        clips: found in it, each with the folder its results lie in, relative to that of the job.
        folder: for flow files.
        quality: of the flow.
        weights: as for :func:`load_flownet`.
        format: extension of the flow files.
        backward: folder for backward flow, if that is wanted.
        occlusion: folder for masks, if those are wanted.
    """

    sources: tuple[str, ...]
    clips: Sequence[tuple[Footage, str]]
    folder: Path
    quality: Quality
    weights: str
    format: str
    backward: Path | None = None
    occlusion: Path | None = None

    @property
    def others(self) -> list[Path]:
        """Folders of results besides the main one."""
        return [root for root in (self.backward, self.occlusion) if root is not None]

    @property
    def folders(self) -> list[Path]:
        """Every folder that files are written to."""
        names = dict.fromkeys(name for _, name in self.clips)
        return [root / name for root in (self.folder, *self.others) for name in names]

    def target(self, key: str) -> Target:
        """Return where the results of a pair lie."""
        return Target(
            self.folder / f"{key}{self.format}",
            self.backward / f"{key}{self.format}" if self.backward else None,
            self.occlusion / f"{key}.png" if self.occlusion else None,
        )

    def describe(self, net: FlowNet) -> dict[str, Any]:
        """Return what must be the same for the job to be gone on with, as JSON."""
        return {
            "job": "flow",
            "source": list(self.sources),
            "files": self._identify(),
            "quality": self.quality,
            "weights": _digest(net),
            "format": self.format[1:],
            "backward": str(self.backward.absolute()) if self.backward else None,
            "occlusion": str(self.occlusion.absolute()) if self.occlusion else None,
        }

    def _identify(self) -> str:
        """Return what its files have in common with copies that keep their times, and none else."""
        files = [(name, file.name, stamp(file)) for clip, name in self.clips for file in clip.files]
        return hashlib.sha256(repr(files).encode()).hexdigest()


def place_clips(sources: Sequence[Path]) -> list[tuple[Footage, str]]:
    """Find clips, and name a folder for the results of each; ``""`` is the job's own.

    The results of a folder mirror what is in it. Where there are several sources, each has a
    folder of its name; pictures given one by one are a clip together.

    Raises:
        InputError: a source is missing or unreadable, or there is nothing to read.
        OutputError: two pairs would have one name.
    """
    found = [
        (source, clip)
        for source in dict.fromkeys(sources)
        if not is_picture(source)
        for clip in find_clips([source])
    ]
    pictures = tuple(filter(is_picture, sources))
    several = len({source for source, _ in found}) + bool(pictures) > 1
    placed = [(clip, _name(source, clip, several)) for source, clip in found]
    if pictures:
        placed.append((Footage("frames", pictures), ""))
    if not placed:
        raise InputError(", ".join(map(str, sources)), "holds neither frames nor videos")
    # clip.mp4 beside clip.avi, or beside a folder clip
    twice = Counter(folded(name) for _, name in placed)
    placed = [
        (clip, name + clip.files[0].suffix)
        if twice[folded(name)] > 1 and clip.kind == "video"
        else (clip, name)
        for clip, name in placed
    ]
    _check_names(placed)
    return placed


def is_picture(path: Path) -> bool:
    """Return whether a path names a picture rather than a clip."""
    return kind_of(path) in IMAGE_EXTENSIONS and not path.is_dir()


def check_clip(clip: Footage) -> None:
    """Refuse a clip of which nothing can come.

    Raises:
        InputError: it is a single frame, or cannot be read at all.
    """
    frames = salvage_video(clip.files[0]) if clip.kind == "video" else clip.files
    if sum(1 for _ in islice(frames, 2)) < 2:
        raise InputError(clip.files[0], "is a single frame", "flow needs two")


def count_pairs(clips: Sequence[tuple[Footage, str]]) -> int | None:
    """Return how many pairs there are, as far as headers say; None if one does not."""
    total = 0
    for clip, _ in clips:
        frames: int | None = len(clip.files)
        if clip.kind == "video":
            try:
                frames = video_info(clip.files[0]).frames
            except InputError:
                return None
        if frames is None:
            return None
        total += frames - 1
    return total


def find_pairs(job: Job, shard: Shard | None = None) -> Iterator[Pair | Outcome]:
    """Yield every pair of a job or of a shard of it; a failed outcome where a clip is damaged."""
    for number, (clip, name) in enumerate(job.clips):
        find = _video_pairs if clip.kind == "video" else _picture_pairs
        for found in find(job, number, clip, name):
            # Whatever the number of clips and their lengths, shards get as many pairs each.
            if shard is None or sum(found.place) % shard[1] == shard[0] - 1:
                yield found


def _picture_pairs(job: Job, number: int, clip: Footage, name: str) -> Iterator[Pair]:
    for index, frames in enumerate(pairwise(clip.files)):
        key = _join(name, frames[0].stem)
        yield Pair(
            key,
            (number, index),
            frames,
            (str(frames[0]), str(frames[1])),
            [stamp(frame) for frame in frames],
            job.target(key),
        )


def _video_pairs(job: Job, number: int, clip: Footage, name: str) -> Iterator[Pair | Outcome]:
    path = clip.files[0]
    stamps = [stamp(path)]

    def named(index: int) -> tuple[str, str]:
        return f"{path} frame {index:06d}", f"{path} frame {index + 1:06d}"

    def failed(index: int, fault: InputError) -> Outcome:
        key = _join(name, f"{index:06d}")
        return Outcome(
            key, (number, index), "failed", named(index), job.target(key), error=str(fault)
        )

    before: NDArray[np.uint8] | None = None
    count = 0
    try:
        for frame in salvage_video(path):
            after = None if frame is None else frame.mul(255).round().byte().numpy()
            index, count = count - 1, count + 1
            if index >= 0 and before is not None and after is not None:
                key = _join(name, f"{index:06d}")
                yield Pair(
                    key, (number, index), (before, after), named(index), stamps, job.target(key)
                )
            elif index >= 0:
                damaged = index if before is None else index + 1
                yield failed(index, InputError(path, f"frame {damaged:06d} is damaged"))
            before = after
        if count == 1:
            raise InputError(path, "is a single frame", "flow needs two")
    except InputError as fault:
        yield failed(max(count - 1, 0), fault)


def _name(source: Path, clip: Footage, several: bool) -> str:
    """Name the folder of a clip that was found in a source."""
    first = clip.files[0]
    if clip.kind == "pair" or first == source:
        inner = Path()
    elif clip.kind == "frames":
        inner = first.parent.relative_to(source)
    else:
        inner = first.relative_to(source).with_suffix("")
    whole = source.resolve()
    outer = whole.name if source.is_dir() else whole.stem
    return _join(*inner.parts) if not several else _join(outer, *inner.parts)


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _check_names(placed: Sequence[tuple[Footage, str]]) -> None:
    named: dict[str, Path] = {}
    for clip, name in placed:
        video = clip.kind == "video"
        for file in clip.files if video else clip.files[:-1]:
            key = _join(name, "" if video else file.stem)
            if folded(key) in named:
                raise OutputError(
                    key,
                    f"would be the name of what comes of both {named[folded(key)]} and {file}",
                    "give each a run of its own",
                )
            named[folded(key)] = file


def _digest(net: FlowNet) -> str:
    digest = hashlib.sha256(repr(net.config).encode())
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------ work


def check_pairs(job: Job, done: Mapping[str, Any], shard: Shard | None) -> Iterator[Outcome]:
    """Read everything a job would read, and write nothing."""
    for found in find_pairs(job, shard):
        if isinstance(found, Outcome):
            yield found
            continue
        for pair, result in run_here(_look, [found]):
            yield _keep(pair, done) or _conclude(pair, result)


def run_pairs(
    job: Job,
    net: FlowNet,
    manifest: Manifest,
    report: Callable[[Outcome], None],
    *,
    shard: Shard | None = None,
    workers: int | None = None,
    ray: str | None = None,
    ray_device: str = "auto",
) -> None:
    """Work on every pair of a job that is not done, and note each in the manifest.

    One that cannot be done does not stop the others.

    Args:
        job: what to do.
        net: of the job's weights, on the device to use; with ray, on any.
        manifest: open.
        report: called with each outcome, in the order in which they come.
        shard: which part of the job to do.
        workers: processes, by default this one alone; with ray, tasks at a time.
        ray: address of a ray cluster to work on instead. Files are read and written here, so that
            it needs none of them.
        ray_device: what the cluster computes on: cpu, cuda, or auto, GPUs if it has any.

    Raises:
        OutputError: something cannot be written.
    """

    def settle(outcome: Outcome, stamp: Sequence[Any] = ()) -> None:
        if outcome.state != "kept":
            manifest.append(_record(outcome, stamp))
        report(outcome)

    def waiting() -> Iterator[Pair]:
        for found in find_pairs(job, shard):
            if isinstance(found, Outcome):
                settle(found)
            elif kept := _keep(found, manifest.done):
                settle(kept)
            else:
                yield found

    wanted = (job.quality, job.backward is not None, job.occlusion is not None)
    results: Iterator[tuple[Pair, Done | InputError]]
    if ray:
        cpu = copy.deepcopy(net).cpu()
        constants = (cpu, ray_device, *wanted)
        answers = run_ray(
            ray, _work_afar, constants, _read_all(waiting()), device=ray_device, count=workers
        )
        results = ((pair, _write_answer(pair, answer)) for pair, answer in answers)
    elif workers is None or workers == 1:
        results = run_here(functools.partial(_work, net, *wanted), waiting())
    else:
        device = next(net.parameters()).device.type
        prepare = functools.partial(_prepare, job.weights, device, workers, wanted)
        results = run_processes(prepare, waiting(), workers)
    for pair, result in results:
        settle(_conclude(pair, result), pair.stamp)
    _read_picture.cache_clear()


@dataclass(frozen=True)
class Done:
    """A pair that is done: (height, width) and seconds."""

    size: tuple[int, int]
    seconds: float


def _work(net: FlowNet, quality: Quality, backward: bool, visible: bool, pair: Pair) -> Done:
    start = time.perf_counter()
    images = read_pair(pair.frames, pair.names)
    fields = estimate_fields(net, *images, quality, backward=backward, visible=visible)
    write_fields(fields, pair.target)
    return Done(_size(images[0]), time.perf_counter() - start)


def _look(pair: Pair) -> Done:
    return Done(_size(read_pair(pair.frames, pair.names)[0]), 0)


def _prepare(
    weights: str, device: str, workers: int, wanted: tuple[Quality, bool, bool], number: int
) -> Callable[[Pair], Done]:
    """Make a worker process ready."""
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    if device == "cuda":
        device = f"cuda:{number % torch.cuda.device_count()}"
    return functools.partial(_work, load_flownet(weights, device), *wanted)


def _keep(pair: Pair, done: Mapping[str, Any]) -> Outcome | None:
    """Return the outcome of a pair that is done, from the same files, if that is still whole."""
    about = {"part": pair.key, "frames": _short(pair.names), "stamp": pair.stamp}
    record = find_done(done, about, pair.target.paths)
    if record is None:
        return None
    width, height = record["size"]
    return Outcome(
        pair.key,
        pair.place,
        "kept",
        pair.names,
        pair.target,
        None,
        (height, width),
        record["seconds"],
    )


def _conclude(pair: Pair, result: Done | InputError) -> Outcome:
    common = pair.key, pair.place
    if isinstance(result, InputError):
        return Outcome(*common, "failed", pair.names, pair.target, error=str(result))
    return Outcome(*common, "done", pair.names, pair.target, None, result.size, result.seconds)


def _record(outcome: Outcome, stamp: Sequence[Any]) -> dict[str, Any]:
    record = {"part": outcome.key, "status": outcome.state, "frames": _short(outcome.names)}
    if outcome.size is None:
        return record | {"error": outcome.error}
    height, width = outcome.size
    made = {"size": [width, height], "seconds": round(outcome.seconds, 3)}
    return record | {"stamp": list(stamp), **made, "bytes": sizes(outcome.target.paths)}


def _short(names: Sequence[str]) -> list[str]:
    return [Path(name).name for name in names]


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


# On a cluster the pictures travel, since its machines need not see our files.


def _read_all(
    pairs: Iterator[Pair],
) -> Iterator[tuple[Pair, tuple[NDArray[Any], NDArray[Any]] | InputError]]:
    for pair in pairs:
        try:
            image1, image2 = read_pair(pair.frames, pair.names)
            yield pair, (_pack(image1), _pack(image2))
        except InputError as fault:
            yield pair, fault


def _pack(image: Tensor) -> NDArray[Any]:
    """Return 8 bits a value if the image has no more, else all 32."""
    steps = image.mul(255).round().byte()
    return (steps if torch.equal(steps.float() / 255, image) else image).numpy()


def _unpack(array: NDArray[Any]) -> Tensor:
    image = torch.tensor(array)  # a copy: ray's arrays are read-only
    return image if image.is_floating_point() else image.float() / 255


def _work_afar(
    net: FlowNet,
    device: str,
    quality: Quality,
    backward: bool,
    visible: bool,
    image1: NDArray[Any],
    image2: NDArray[Any],
) -> tuple[float, list[NDArray[Any] | None]]:
    start = time.perf_counter()
    net = net.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    fields = estimate_fields(
        net, _unpack(image1), _unpack(image2), quality, backward=backward, visible=visible
    )
    tensors = (fields.flow_12, fields.flow_21, fields.visible)
    arrays = [None if tensor is None else tensor.numpy() for tensor in tensors]
    return time.perf_counter() - start, arrays


def _write_answer(
    pair: Pair, answer: tuple[float, list[NDArray[Any] | None]] | InputError
) -> Done | InputError:
    if isinstance(answer, InputError):
        return answer
    seconds, arrays = answer
    tensors = [None if array is None else torch.tensor(array) for array in arrays]
    assert tensors[0] is not None
    try:
        write_fields(Fields(tensors[0], *tensors[1:]), pair.target)
    except InputError as fault:
        return fault
    return Done(_size(tensors[0]), seconds)
