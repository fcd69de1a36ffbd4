"""Long runs of what tests can only begin.

    python tools/soak.py video --frames 10000    flow of a long video: memory must stay flat
    python tools/soak.py kill --kills 200        kill -9 in trainings: no state may be lost

``video`` runs ``flowwarp flow`` on a made-up video and looks at the memory of the process: after a
tenth of the pairs and at the end, which may differ by 20 MB. ``kill`` kills small trainings of all
four networks at random moments. After each kill every state in the run's folder must load; and each
run, however often it was killed, must end with the files, bit for bit, of one that was not. The
last line printed is JSON; the exit code is 1 if something did not hold.
"""

from __future__ import annotations

import argparse
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

import torch
from torch import Tensor

from flowwarp.errors import FlowwarpError, InputError
from flowwarp.io.checkpoints import Card, load_tensors, save_weights
from flowwarp.io.flow_files import read_flow
from flowwarp.io.video import write_video
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.train.exactness import TRAINERS, run_differences, small_config, small_task
from flowwarp.train.loop import train

ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
GROWTH = 20e6  # bytes
HEIGHT, WIDTH = 24, 32


# ------------------------------------------------------------------ a long video


def soak_video(frames: int, folder: Path) -> dict[str, object]:
    """Estimate the flow of a long video in a process of its own, and watch its memory."""
    clip, results, weights = folder / "clip.mp4", folder / "flows", folder / "net.safetensors"
    write_video(clip, picture(frames))
    torch.manual_seed(0)
    save_weights(weights, FlowNet(TINY), Card("flownet", asdict(TINY)))
    command: list[str | Path] = [sys.executable, "-m", "flowwarp", "flow", clip, "-o", results]
    command += ["--quality", "fast", "--weights", weights]
    started = time.monotonic()
    samples: list[tuple[int, int]] = []  # results so far, bytes of memory
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            time.sleep(0.05)
            samples.append((said_so_far(folder / "said"), resident(process.pid)))
    count = len(list(results.glob("*.flo")))
    last = results / f"{frames - 2:06d}.flo"
    early = [memory for done, memory in samples if 0.1 * frames < done < 0.2 * frames]
    late = [memory for done, memory in samples if done > 0.9 * frames and memory]
    growth = statistics.median(late) - statistics.median(early) if early and late else float("inf")
    right = count == frames - 1 and bool(read_flow(last)[1].all())
    return {
        "frames": frames,
        "exit": process.returncode,
        "flow_files": count,
        "memory_mb": round(statistics.median(early or [0]) / 1e6, 1),
        "peak_mb": round(max(memory for _, memory in samples) / 1e6, 1),
        "growth_mb": round(growth / 1e6, 2),
        "seconds": round(time.monotonic() - started, 1),
        "faults": int(process.returncode != 0) + int(not right) + int(growth > GROWTH),
    }


def picture(frames: int) -> Iterator[Tensor]:
    """Yield a texture that goes round."""
    texture = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    for number in range(frames):
        yield texture.roll(number, 2)


def said_so_far(path: Path) -> int:
    """Count the lines of a file."""
    return path.read_bytes().count(b"\n")


def resident(process: int) -> int:
    """Return the bytes of memory that a process has, 0 if it is gone."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------ trainings that are killed


def soak_kills(kills: int, networks: Sequence[str], folder: Path) -> dict[str, object]:
    """Kill trainings, the same number of times for each network."""
    started = time.monotonic()
    total: Counter[str] = Counter()
    for place, name in enumerate(networks):
        share = kills * (place + 1) // len(networks) - kills * place // len(networks)
        counts = kill(name, share, folder / name)
        print(json.dumps({"network": name, **counts}), flush=True)
        total.update(counts)
    return {**total, "seconds": round(time.monotonic() - started, 1)}


def kill(name: str, kills: int, folder: Path) -> Counter[str]:
    """Kill a training ``kills`` times at random moments, and count what became of it."""
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
            # Some die while they begin or take up a state, most in the steps after that.
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
        elif code == 0:  # it came to its end in spite of all
            counts["runs"] += 1
            counts["different"] += len(run_differences(whole, cut))
            shutil.rmtree(cut)
        else:
            counts["faults"] += 1
            break
    counts["faults"] += counts["lost"] + counts["different"]
    return counts


def await_state(run: Path, child: int) -> None:
    """Wait until a run has a state more, or has ended."""
    before = newest(run)
    while newest(run) == before and os.waitid(os.P_PID, child, ENDED) is None:
        time.sleep(0.001)


def newest(run: Path) -> str:
    """Return the name of a run's newest state, or nothing."""
    return max((path.name for path in run.glob("state-*.safetensors")), default="")


def loads(path: Path) -> bool:
    """Say whether a file of tensors is whole."""
    try:
        load_tensors(path)
    except InputError:
        return False
    return True


def fork(work: Callable[[TextIO], object]) -> int:
    """Run something in a child, which need not import anew what takes long; return its number."""
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
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["video", "kill"])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--network", choices=TRAINERS, nargs="*", default=TRAINERS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "video":
            report = soak_video(options.frames, folder)
        else:
            report = soak_kills(options.kills, options.network, folder)
    print(json.dumps({"what": options.what, **report}))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
