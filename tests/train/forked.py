"""Trainings in processes of their own; importing torch takes longer than most of them.

The process reads scenarios from stdin, runs each in a fork of itself and prints its exit code. A
scenario forks again for each training.
"""

import importlib
import json
import math
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # as the first step of AdamW does

import tiny
from flowwarp.cli import main
from flowwarp.errors import FlowwarpError, Stopped
from flowwarp.io.images import write_image
from flowwarp.train.loop import train
from flowwarp.train.optimizers import Optimizer
from flowwarp.train.runs import Run, open_run

QUIET = open(os.devnull, "w")  # noqa: PTH123, SIM115


def tell(text):
    """Print a line in one piece, whatever another process prints meanwhile."""
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


def fork(function):
    """Run a function in a child, which exits with the code of its fault."""
    sys.stdout.flush()  # or the child would print once more what waits in the buffer
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        function()
        code = 0
    except FlowwarpError as fault:
        tell(fault)
        code = fault.exit_code
    except SystemExit as stop:
        code = stop.code
    finally:
        os._exit(code)


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(folder):
    """Kill a training as it begins, and at four random moments, then let it end."""
    config = tiny.config(steps=100, save_every=3, validate_every=6, precision="bf16", accumulate=2)
    chance = random.Random(1)

    def begin(name):
        """Return a child that trains, and a pipe with a byte for each step that it begins."""
        steps, step = os.pipe()
        task = tiny.make(lambda _: os.write(step, b"."), dropout=0.2)
        child = fork(lambda: train(task, config, folder / name, resume="auto", stream=QUIET))
        os.close(step)
        return child, steps

    started = time.monotonic()
    child, steps = begin("whole")
    assert wait(child) == 0
    long = (time.monotonic() - started) / len(os.read(steps, 1000))
    for begun in (0, *(chance.randint(4, 18) for _ in range(4))):  # of 100: it does not end before
        child, steps = begin("killed")
        for _ in range(begun):
            os.read(steps, 1)
        time.sleep(chance.uniform(0, long))
        os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL
    child, _ = begin("killed")
    assert wait(child) == 0
    print("killed 5 times")


def signals(folder):
    """Send each signal to a training, and print how it exits."""
    slow = tiny.config(steps=100_000)
    for number in (signal.SIGTERM, signal.SIGINT):
        reader, writer = os.pipe()
        before = lambda step, w=writer: step == 3 and os.write(w, b".")  # noqa: E731
        child = fork(lambda b=before, n=number: train(tiny.make(b), slow, folder / str(int(n))))
        os.read(reader, 1)
        os.kill(child, number)
        print(f"exit {wait(child)}")


def lock(folder):
    """Start a training on a run that another process trains."""
    reader, writer = os.pipe()
    before = lambda step: step == 1 and os.write(writer, b".")  # noqa: E731
    first = fork(lambda: train(tiny.make(before), tiny.config(steps=10**6), folder, stream=QUIET))
    os.read(reader, 1)
    second = fork(lambda: train(tiny.make(), tiny.config(), folder, resume="auto", stream=QUIET))
    print(f"exit {wait(second)}")
    os.kill(first, signal.SIGKILL)
    wait(first)
    short = tiny.config(steps=2)
    third = fork(lambda: train(tiny.make(), short, folder, resume="changed", stream=QUIET))
    print(f"exit {wait(third)}")


def pair(member):
    """Call member(rank) in two processes that gloo joins; return how they exit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def join(rank):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        member(rank)

    return list(map(wait, [fork(lambda r=r: join(r)) for r in range(2)]))


def interrupt(step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGTERM)


def write_slowly():
    """Have this process take long to write a state, as it does of a large network."""
    write = Run.save_state

    def save_state(run, state):
        time.sleep(0.3)
        write(run, state)

    Run.save_state = save_state


def processes(folder):
    """Train on two gloo processes, and again with a signal to the second one on the way.

    In the end also with fewer micro-batches than processes.
    """

    def member(rank, run, before, accumulate=3):
        task = tiny.make(before if rank == 1 else None, seed=0)

        def move():
            with torch.no_grad():
                task.model.first.weight += rank  # the first one's weights must win

        move()
        task = replace(task, prepare=move)
        config = tiny.config(accumulate=accumulate)
        if before and rank == 0:
            write_slowly()
        try:
            train(task, config, run, resume="auto", stream=QUIET)
        except Stopped:
            newest = max(run.glob("state-*.safetensors"))
            tell(f"{rank} stopped after {newest.name}")
            raise

    for run, before in (("whole", None), ("cut", interrupt), ("cut", None)):
        print("exits", *pair(lambda rank, r=run, b=before: member(rank, folder / r, b)))
    print("exits", *pair(lambda rank: member(rank, folder / "idle", None, accumulate=1)))


def spoil_third_step():
    """Leave no numbers in this process's part of a parameter after the third step."""
    step = Optimizer.step
    done = []

    def spoil(optimizer, rate):
        step(optimizer, rate)
        done.append(rate)
        if len(done) == 3:
            with torch.no_grad():
                optimizer.named["head.weight"].to_local().fill_(math.nan)

    Optimizer.step = spoil


def shared(folder):
    """Train one network shared out over two processes: whole, cut, gone on with; and its faults."""
    import torch.distributed.fsdp  # here, not in each child
    import torch.distributed.tensor  # noqa: F401

    def member(rank, run, before=None, **changes):
        task = tiny.make_gpt(before if rank == 1 else None)
        train(task, tiny.gpt_config(shard=True, **changes), run, resume="auto", stream=QUIET)
        own = sum(p.to_local().numel() for p in task.model.parameters())
        tell(f"has {own / sum(p.numel() for p in task.model.parameters()):.2f}")

    for run, before in (("whole", None), ("cut", interrupt)):
        print("exits", *pair(lambda rank, r=run, b=before: member(rank, folder / r, b)))
    shutil.copytree(folder / "cut", folder / "alone")
    print("exits", *pair(lambda rank: member(rank, folder / "cut")))
    # Saved whenever one of them thinks that it is time, which both must know.
    times = 1e9, 0.0
    print("exits", *pair(lambda rank: member(rank, folder / "late", save_seconds=times[rank])))
    # The second one's data is at fault, which the first one cannot know.
    print("exits", *pair(lambda rank: member(rank, folder / "fault", tiny.fail)))

    # A step leaves no numbers in the part of a parameter that the second one has.
    def spoilt(rank):
        if rank == 1:
            spoil_third_step()
        member(rank, folder / "spoilt", save_every=3)

    print("exits", *pair(spoilt))


def commands(folder):
    """Train each network by its command, on two processes."""
    preload()
    os.environ["FLOWWARP_CACHE_DIR"] = str(folder / "cache")
    generator = torch.Generator().manual_seed(0)
    (folder / "frames").mkdir()
    for number in range(4):
        frame = torch.rand(3, 72, 72, generator=generator)
        write_image(folder / "frames" / f"{number}.png", frame)
    small = "batch_size=2 accumulate=2 threads=1 validate_every=0"
    clips = "data.size=32 data.frames=4"
    codec = ["--dvae", str(folder / "dvae" / "best.safetensors")]
    writer = [*codec, "--gpt", str(folder / "gpt" / "best.safetensors")]
    for name, (given, settings) in {
        "dvae": (["digits"], f"{clips} validation=2"),
        "gpt": (["digits", *codec], f"{clips} shard=true clips=24 checked=2"),
        "upsampler": (["digits", *codec], "size=32 length=4 frames=2"),
        "captioner": (["digits"], "clips=24 checked=2"),
        "reviser": (["sprites", *writer], "size=32 length=4 groups=1 clips=4 checked=2"),
        "flow": (
            [str(folder / "frames")],
            "data.height=64 data.width=64 margin=8 student_margin=8 fitted_pairs=2",
        ),
    }.items():
        arguments = [f"train-{name}", *given, "--preset", "tiny", "--steps", "2"]
        for setting in f"{small} {settings}".split():
            arguments += ["--set", setting]
        arguments += ["--run", str(folder / name)]
        print("exits", *pair(lambda rank, a=arguments: main(a)), flush=True)


def video(folder):
    """Train a text-to-video model in one process, and in two that measure other speeds."""
    from flowwarp.train import video_plan, video_run
    from squares import LARGER, run_in

    # As bfloat16 rounds, and digits are cut off, codes would differ between the two.
    video_run.fast_dtype = lambda _: torch.float32

    def member(rank, name):
        video_plan.choose_size = lambda *_: ((32, 1), (48, 2))[rank]
        video_plan.steps_within = lambda *_: 2 + rank
        video_run.train_video(LARGER, run_in(folder / name))

    for name in ("one", "two"):
        run_in(folder / name, gpt=None, steps={})
    member(0, "one")
    print("exits", *pair(lambda rank: member(rank, "two")))


def preload():
    """Import and read here what each command would load in each of its processes."""

    import flowwarp.legacy.pipelines.captions  # noqa: F401
    from flowwarp.cli import COMMANDS
    from flowwarp.data import sources  # noqa: F401
    from flowwarp.data.sprite_world.layers import bundled_layers

    for name in COMMANDS:
        if name.startswith("train-"):
            importlib.import_module(f"flowwarp.cli.{name.replace('-', '_')}")
    importlib.import_module("flowwarp.train.flow")
    importlib.import_module("flowwarp.train.video_run")
    for name in ("kornia", "torch.distributed.fsdp", "torch.distributed.tensor"):
        importlib.import_module(name)
    bundled_layers()


def refused(folder):
    """Have the first of two processes refuse a run for each of several reasons."""

    def exits(run, resume="auto", **changes):
        config = tiny.config(steps=2, accumulate=2, **changes)
        member = lambda rank: train(tiny.make(), config, run, resume=resume, stream=QUIET)  # noqa: E731
        tell(f"exits {pair(member)}")

    with open_run(folder / "locked", {}):
        exits(folder / "locked")
    exits(folder / "run")
    exits(folder / "run", resume="never")
    exits(folder / "run", batch_size=4)
    exits(folder / "run")
    for state in (folder / "run").glob("state-*"):
        state.write_bytes(b"broken")
    exits(folder / "run")


def serve():
    """Run the scenario of each line on stdin: JSON of its name, folder and output files."""
    for line in sys.stdin:
        scenario, folder, out, err = json.loads(line)
        child = os.fork()
        if child:
            os.write(sys.stdout.fileno(), f"{wait(child)}\n".encode())
            continue
        code = 1
        try:
            for number, path in enumerate((os.devnull, out, err)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
            globals()[scenario](Path(folder))
            code = 0
        except BaseException:  # noqa: BLE001 - the test prints it
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve()
