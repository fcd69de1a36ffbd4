"""Flow of whole clips: work on every pair of a job, resumable, on one machine or a cluster."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.defaults import Quality
from flowwarp.errors import InputError
from flowwarp.io.manifests import Manifest, Shard, find_done, sizes
from flowwarp.models.flownet import FlowNet
from flowwarp.pipelines.flow.estimate import load_flownet
from flowwarp.pipelines.flow.job_pairs import Job, Outcome, find_pairs
from flowwarp.pipelines.flow.pair_fields import (
    Fields,
    Pair,
    clear_frame_cache,
    estimate_fields,
    read_pair,
    write_fields,
)
from flowwarp.pipelines.workers import run_here, run_processes, run_ray

Arrays = tuple[NDArray[Any], NDArray[Any]]  # both images of a pair, (3, H, W) each


@dataclass(frozen=True)
class Done:
    """A pair that is done.

    Args:
        size: (height, width) of its flow.
        seconds: time that it took.
    """

    size: tuple[int, int]
    seconds: float


def check_pairs(job: Job, done: Mapping[str, Any], shard: Shard | None) -> Iterator[Outcome]:
    """Read every pair of a job, and write nothing.

    Args:
        job: the job.
        done: lines of the manifest, as :func:`flowwarp.io.manifests.read_manifests` returns them.
        shard: the part of the job to check; None for all.

    Yields:
        The outcome that each pair would have.
    """
    for found in find_pairs(job, shard):
        if isinstance(found, Outcome):
            yield found
            continue
        for pair, result in run_here(_check, [found]):
            yield _done_before(pair, done) or _to_outcome(pair, result)


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
    """Work on every pair of a job that is not done, and add each to the manifest.

    A pair that fails does not stop the others.

    Args:
        job: the job.
        net: a network with the job's weights, on the device to use; with ray, on any device.
        manifest: open for writing.
        report: called with each outcome, in the order in which they are ready.
        shard: the part of the job to do; None for all.
        workers: number of processes, by default this one alone; with ray, of tasks at a time.
        ray: address of a ray cluster to use instead. Files are read and written here, so that the
            cluster needs no access to them.
        ray_device: device of the cluster's tasks: cpu, cuda, or auto for GPUs where it has any.

    Raises:
        OutputError: a result cannot be written.
    """

    def settle(outcome: Outcome, stamp: Sequence[Any] = ()) -> None:
        if outcome.state != "kept":
            manifest.append(_record(outcome, stamp))
        report(outcome)

    def unfinished() -> Iterator[Pair]:
        for found in find_pairs(job, shard):
            if isinstance(found, Outcome):
                settle(found)
            elif outcome := _done_before(found, manifest.done):
                settle(outcome)
            else:
                yield found

    options = (job.quality, job.backward is not None, job.occlusion is not None)
    results: Iterator[tuple[Pair, Done | InputError]]
    if ray:
        constants = (copy.deepcopy(net).cpu(), ray_device, *options)
        calls = _read_all(unfinished())
        answers = run_ray(ray, _run_task, constants, calls, device=ray_device, count=workers)
        results = ((pair, _write_answer(pair, answer)) for pair, answer in answers)
    elif workers is None or workers == 1:
        results = run_here(functools.partial(_work, net, *options), unfinished())
    else:
        device = next(net.parameters()).device.type
        prepare = functools.partial(_prepare, job.weights, device, workers, options)
        results = run_processes(prepare, unfinished(), workers)
    for pair, result in results:
        settle(_to_outcome(pair, result), pair.stamp)
    clear_frame_cache()


def _work(net: FlowNet, quality: Quality, backward: bool, visible: bool, pair: Pair) -> Done:
    start = time.perf_counter()
    images = read_pair(pair.frames, pair.names)
    fields = estimate_fields(net, *images, quality, backward=backward, visible=visible)
    write_fields(fields, pair.target)
    return Done(_size(images[0]), time.perf_counter() - start)


def _check(pair: Pair) -> Done:
    return Done(_size(read_pair(pair.frames, pair.names)[0]), 0)


def _prepare(
    weights: str, device: str, workers: int, options: tuple[Quality, bool, bool], number: int
) -> Callable[[Pair], Done]:
    """Load the network in a worker process; processes share the cores and the GPUs."""
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    if device == "cuda":
        device = f"cuda:{number % torch.cuda.device_count()}"
    return functools.partial(_work, load_flownet(weights, device), *options)


# ------------------------------------------------------------------ outcomes and the manifest


def _done_before(pair: Pair, done: Mapping[str, Any]) -> Outcome | None:
    """Return the outcome of a pair whose results of an earlier call are complete, else None."""
    about = {"part": pair.key, "frames": _file_names(pair.names), "stamp": pair.stamp}
    record = find_done(done, about, pair.target.paths)
    if record is None:
        return None
    width, height = record["size"]
    common = pair.key, pair.place
    size, seconds = (height, width), record["seconds"]
    return Outcome(*common, "kept", pair.names, pair.target, None, size, seconds)


def _to_outcome(pair: Pair, result: Done | InputError) -> Outcome:
    common = pair.key, pair.place
    if isinstance(result, InputError):
        return Outcome(*common, "failed", pair.names, pair.target, error=str(result))
    return Outcome(*common, "done", pair.names, pair.target, None, result.size, result.seconds)


def _record(outcome: Outcome, stamp: Sequence[Any]) -> dict[str, Any]:
    """Return the line of an outcome in the manifest."""
    record = {"part": outcome.key, "status": outcome.state, "frames": _file_names(outcome.names)}
    if outcome.size is None:
        return record | {"error": outcome.error}
    height, width = outcome.size
    made = {"size": [width, height], "seconds": round(outcome.seconds, 3)}
    return record | {"stamp": list(stamp), **made, "bytes": sizes(outcome.target.paths)}


def _file_names(names: Sequence[str]) -> list[str]:
    return [Path(name).name for name in names]


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


# ------------------------------------------------------------------ ray
# The images are sent to the cluster and the fields back, since its machines need not see the files.


def _read_all(pairs: Iterator[Pair]) -> Iterator[tuple[Pair, Arrays | InputError]]:
    for pair in pairs:
        try:
            image1, image2 = read_pair(pair.frames, pair.names)
            yield pair, (_pack(image1), _pack(image2))
        except InputError as fault:
            yield pair, fault


def _pack(image: Tensor) -> NDArray[Any]:
    """Return an image as uint8 if it has no more than 8 bits a value, else as float32."""
    steps = image.mul(255).round().byte()
    return (steps if torch.equal(steps.float() / 255, image) else image).numpy()


def _unpack(array: NDArray[Any]) -> Tensor:
    image = torch.tensor(array)  # a copy: ray's arrays are read-only
    return image if image.is_floating_point() else image.float() / 255


def _run_task(
    net: FlowNet,
    device: str,
    quality: Quality,
    backward: bool,
    visible: bool,
    image1: NDArray[Any],
    image2: NDArray[Any],
) -> tuple[float, list[NDArray[Any] | None]]:
    """Estimate the fields of a pair on the cluster; return seconds and arrays."""
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
