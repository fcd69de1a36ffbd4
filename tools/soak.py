"""Long runs: memory of a process, jobs that are killed, trainings that are killed.

    python tools/soak.py video --frames 10000    flow of a long video: memory must stay flat
    python tools/soak.py words --frames 480      a long video from words: likewise
    python tools/soak.py broken --frames 2000    one with a broken frame, killed half-way
    python tools/soak.py kill --kills 200        kill -9 in trainings: no state may be lost

``video`` runs ``flowwarp flow`` on a made-up video and looks at the memory of the process: after a
tenth of the pairs and at the end, which may differ by 20 MB. ``words`` does so with
``flowwarp generate-video`` and the weights in the package, whose copies count, too. ``broken``
kills a ``flow`` half-way, and starts another: it must do what is left, name the broken frame and
end with exit code 5. ``kill`` kills small trainings of each kind at random moments. After each kill
every state in the run's folder must load; and each run, however often it was killed, must end with
the files, bit for bit, of one that was not. The last line printed is JSON; the exit code is 1 if
something did not hold.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import av
import torch
from torch import Tensor

from flowwarp.errors import FlowwarpError, InputError
from flowwarp.io.checkpoints import Card, load_tensors, save_weights
from flowwarp.io.flow_files import read_flow
from flowwarp.io.video_writer import write_video
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.selftest.fault_injection import run_differences
from flowwarp.selftest.small_tasks import TRAINERS, small_config, small_task
from flowwarp.train.loop import train

ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
GROWTH = 20e6  # bytes
HEIGHT, WIDTH = 24, 32


# ------------------------------------------------------------------ a long video


def soak_video(frames: int, folder: Path) -> dict[str, object]:
    """Estimate the flow of a long video in a process of its own, and watch its memory."""
    clip, results = folder / "clip.mp4", folder / "flows"
    write_video(clip, picture(frames))
    run = estimation(clip, results, folder)
    run.watch()
    count = len(list(results.glob("*.flo")))
    last = results / f"{frames - 2:06d}.flo"
    right = count == frames - 1 and bool(read_flow(last)[1].all())
    return {"frames": frames, "flow_files": count, **run.report(frames, right)}


def soak_words(frames: int, folder: Path) -> dict[str, object]:
    """Make a long video of a prompt in a process of its own, and watch its memory."""
    results = folder / "frames"
    prompt = "a woman in a red dress walks right on grass"
    command = ["generate-video", prompt, "--frames", str(frames), "-o", f"{results}/"]
    run = Watched(command, folder, pictures=True)
    run.watch()
    count = len(list(results.glob("*.png")))
    return {"frames": frames, "pictures": count, **run.report(frames, count == frames)}


def soak_broken(frames: int, folder: Path) -> dict[str, object]:
    """Kill the flow of a video with a broken frame half-way, and let a second process go on."""
    clip, results, broken = folder / "clip.avi", folder / "flows", frames // 3
    break_frame(clip, frames, broken)
    started = time.monotonic()
    first = estimation(clip, results, folder)
    first.watch(until=frames // 2)
    first.process.kill()
    first.process.wait()
    # A file that was being written has another name; the second process deletes it.
    before = {path.name: path.stat().st_mtime_ns for path in results.glob("[0-9]*.flo")}
    second = estimation(clip, results, folder)
    second.watch()
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("*.flo")}
    wanted = {f"{n:06d}.flo" for n in range(frames - 1) if n not in (broken - 1, broken)}
    again = sum(after[name] != made for name, made in before.items())
    _, growth = second.memory(frames, len(before))
    named = second.output.read_text().count(f"frame {broken:06d} is damaged")
    faults = [second.process.returncode != 5, set(after) != wanted, again > 1, growth > GROWTH]
    return {
        "frames": frames,
        "broken_frame": broken,
        "flow_files_when_killed": len(before),
        "exit": second.process.returncode,
        "flow_files": len(after),
        "made_again": again,
        "lines_that_name_the_frame": named,
        "growth_mb": round(growth / 1e6, 2),
        "seconds": round(time.monotonic() - started, 1),
        "faults": sum(faults) + int(named != 2),
    }


def estimation(clip: Path, results: Path, folder: Path) -> Watched:
    """Start ``flowwarp flow`` of a video, with a small network."""
    weights = folder / "net.safetensors"
    torch.manual_seed(0)
    save_weights(weights, FlowNet(TINY), Card("flownet", asdict(TINY)))
    options = ["--quality", "fast", "--weights", str(weights)]
    return Watched(["flow", str(clip), "-o", str(results), *options], folder)


class Watched:
    """A flowwarp command in a process of its own, whose memory is sampled.

    Args:
        command: its arguments.
        folder: for its output.
        pictures: count the pictures in that folder as results (a picture that is being written has
            another name), not the lines of its output.
    """

    def __init__(self, command: Sequence[str], folder: Path, *, pictures: bool = False) -> None:
        self.folder, self.output, self.pictures = folder, folder / "output.txt", pictures
        self.started = time.monotonic()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flowwarp", *command], stdout=output, stderr=output
            )
        self.samples: list[tuple[int, int]] = []  # results so far, bytes of memory

    def watch(self, until: float = float("inf")) -> None:
        """Sample results and memory until the process ends or has ``until`` results."""
        while self.process.poll() is None:
            time.sleep(0.03)  # reading smaps_rollup takes milliseconds
            self.samples.append((self._done(), memory_of(self.process.pid)))
            if self.samples[-1][0] >= until:
                break

    def _done(self) -> int:
        if self.pictures:
            names = (name for _, _, names in os.walk(self.folder) for name in names)
            return sum(name.endswith(".png") for name in names)
        return self.output.read_bytes().count(b"\n")

    def memory(self, results: int, before: int = 0) -> tuple[float, float]:
        """Return the memory after a tenth of the results, and its growth until the end, in bytes.

        Args:
            results: how many it has in the end.
            before: how many it found.
        """
        parts = [((done - before) / (results - before), memory) for done, memory in self.samples]
        early = [memory for part, memory in parts if 0.1 < part < 0.2]
        late = [memory for part, memory in parts if part > 0.9 and memory]
        if not early or not late:
            return 0.0, float("inf")
        return statistics.median(early), statistics.median(late) - statistics.median(early)

    def report(self, results: int, right: bool) -> dict[str, object]:
        """Return exit code, memory and time; ``right`` says whether the results are correct."""
        early, growth = self.memory(results)
        return {
            "exit": self.process.returncode,
            "memory_mb": round(early / 1e6, 1),
            "peak_mb": round(max(memory for _, memory in self.samples) / 1e6, 1),
            "growth_mb": round(growth / 1e6, 2),
            "seconds": round(time.monotonic() - self.started, 1),
            "faults": int(self.process.returncode != 0) + int(not right) + int(growth > GROWTH),
        }


def break_frame(clip: Path, frames: int, broken: int) -> None:
    """Write a video of JPEG frames, one of them with its data zeroed."""
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for image in picture(frames):
            pixels = (255 * image.permute(1, 2, 0)).byte().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    data = bytearray(clip.read_bytes())
    start = -1
    for _ in range(broken + 1):
        start = data.index(b"\xff\xd8\xff", start + 1)
    end = data.index(b"\xff\xd9", start)
    data[start + 2 : end] = bytes(end - start - 2)
    clip.write_bytes(data)


def picture(frames: int) -> Iterator[Tensor]:
    """Yield frames of a texture that moves to the right and wraps around."""
    texture = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    for number in range(frames):
        yield texture.roll(number, 2)


def memory_of(process: int) -> int:
    """Return the bytes of memory of a process and its children, 0 if it is gone.

    Memory that they share counts once.
    """
    own = Path(f"/proc/{process}")
    try:
        lines = (own / "smaps_rollup").read_text().splitlines()
        children = (own / f"task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    size = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 1024 * size + sum(memory_of(int(child)) for child in children)


# ------------------------------------------------------------------ trainings that are killed


def soak_kills(kills: int, networks: Sequence[str], folder: Path) -> dict[str, object]:
    """Kill trainings, the same number of times for each network."""
    # AdamW imports it, which takes a child longer than the steps of its training.
    importlib.import_module("torch._dynamo")
    started = time.monotonic()
    total: Counter[str] = Counter()
    for place, name in enumerate(networks):
        share = kills * (place + 1) // len(networks) - kills * place // len(networks)
        counts = kill(name, share, folder / name)
        print(json.dumps({"network": name, **counts}), flush=True)
        total.update(counts)
    return {**total, "seconds": round(time.monotonic() - started, 1)}


def kill(name: str, kills: int, folder: Path) -> Counter[str]:
    """Kill a training ``kills`` times at random moments; count lost states and different files."""
    config = small_config(steps=12, batch_size=2, save_every=1, validate_every=6, samples_every=6)
    folder.mkdir()
    counts = Counter(kills=0, states=0, lost=0, runs=0, different=0, faults=0)

    def run(to: Path) -> int:
        return fork(
            lambda stream: train(
                small_task(name, config, folder), config, to, resume="auto", stream=stream
            )
        )

    whole, cut = folder / "whole", folder / "cut"
    if wait(run(whole)) != 0:
        raise RuntimeError(f"the training of {name} does not run")
    began = time.monotonic()
    wait(run(folder / "again"))
    step = (time.monotonic() - began) / config.steps
    counts["different"] += len(run_differences(whole, folder / "again"))
    chance = random.Random(name)
    while counts["kills"] < kills or cut.exists():
        child = run(cut)
        if counts["kills"] < kills:
            # Some are killed while they start or resume, most in the steps after that.
            if chance.random() < 0.75:
                await_state(cut, child)
            time.sleep(chance.uniform(0, 2 * step))
            os.kill(child, signal.SIGKILL)
        code = wait(child)
        if code == -signal.SIGKILL:
            counts["kills"] += 1
            for state in cut.glob("[!.]*.safetensors"):  # no file that was not yet renamed
                counts["states"] += 1
                counts["lost"] += not loads(state)
        elif code == 0:  # it finished
            counts["runs"] += 1
            counts["different"] += len(run_differences(whole, cut))
            shutil.rmtree(cut)
        else:
            counts["faults"] += 1
            break
    counts["faults"] += counts["lost"] + counts["different"]
    return counts


def await_state(run: Path, child: int) -> None:
    """Wait until a run has saved another state or has ended."""
    before = newest(run)
    while newest(run) == before and os.waitid(os.P_PID, child, ENDED) is None:
        time.sleep(0.001)


def newest(run: Path) -> str:
    """Return the name of a run's newest state, or an empty text."""
    return max((path.name for path in run.glob("state-*.safetensors")), default="")


def loads(path: Path) -> bool:
    """Return whether a file of tensors is whole."""
    try:
        load_tensors(path)
    except InputError:
        return False
    return True


def fork(work: Callable[[TextIO], object]) -> int:
    """Run a function in a forked child, which inherits all imports; return its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with Path(os.devnull).open("w") as stream:
            work(stream)
        code = 0
    except FlowwarpError as fault:
        print(fault, flush=True)
        code = fault.exit_code
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Wait for a child; return its exit code, or the signal that ended it, negated."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Run one of the tests and print its report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["video", "words", "broken", "kill"])
    parser.add_argument("--frames", type=int, help="10000 of video, 480 of words, 2000 of broken")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--network", choices=TRAINERS, nargs="+", default=TRAINERS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "video":
            report = soak_video(options.frames or 10_000, folder)
        elif options.what == "words":
            report = soak_words(options.frames or 480, folder)
        elif options.what == "broken":
            report = soak_broken(options.frames or 2000, folder)
        else:
            report = soak_kills(options.kills, options.network, folder)
    print(json.dumps({"what": options.what, **report}))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
